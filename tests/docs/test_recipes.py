"""Each recipe of docs/analyse.md beside the same figure in pandas, from the raw JSON alone."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from convo_pipeline.console.demo import answer
from convo_pipeline.derive.account_days import read_complete_range, read_rules
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.query import account_days
from convo_pipeline.query.connection import Connection, connect
from convo_pipeline.schema import MESSAGES
from tests.support.desk_oracle import (
    Message,
    read_raw,
    sessions_of,
    split_sessions,
    threads,
    turns_of,
    unanswered_of,
    waiting_of,
)
from tests.support.desk_worlds import CLOCKS, LATER, make_lake, settings_of
from tests.support.shown import blocks, page

SEEDS = (0, 1)
MEASURED = ("answered", "open")
Rows = list[tuple[Any, ...]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=SEEDS)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    make_lake(root, request.param)
    return root


@pytest.fixture(scope="module")
def con(root: Path) -> Iterator[Connection]:
    with connect(root) as con:
        yield con


@pytest.fixture(scope="module")
def inboxes(root: Path) -> dict[str, pd.DataFrame]:
    return {account: read_raw(root, account) for account in CLOCKS}


@pytest.fixture(scope="module")
def sessions(inboxes: dict[str, pd.DataFrame]) -> dict[str, list[dict[str, Any]]]:
    return {account: sessions_of(rows) for account, rows in inboxes.items()}


def recipes() -> dict[str, str]:
    """Return the queries of the page by their headings; a second one of a heading has a 2."""
    found = {}
    for part in page("analyse.md").split("\n## ")[1:]:
        for number, query in enumerate(blocks("sql", part), 1):
            found[part.splitlines()[0] + (f" {number}" if number > 1 else "")] = query
    return found


ORACLES: dict[str, Callable[..., Rows]] = {}


def oracle(heading: str) -> Callable[[Callable[..., Rows]], Callable[..., Rows]]:
    """Declare the function that computes the rows of a recipe."""

    def register(compute: Callable[..., Rows]) -> Callable[..., Rows]:
        ORACLES[heading] = compute
        return compute

    return register


def test_each_recipe_has_a_second_implementation() -> None:
    assert sorted(recipes()) == sorted(ORACLES)


@pytest.mark.parametrize("heading", recipes())
def test_recipe_and_pandas_give_the_same_rows(
    heading: str, root: Path, con: Connection, inboxes: dict[str, pd.DataFrame],
    sessions: dict[str, list[dict[str, Any]]],
) -> None:  # fmt: skip
    expected = ORACLES[heading](root=root, inboxes=inboxes, sessions=sessions)
    query = recipes()[heading].replace("bakery-instagram", "bakery")
    limit = re.search(r"limit (\d+)\s*$", query)
    shown = con.sql(query).fetchall()
    whole = con.sql(query[: limit.start()] if limit else query).fetchall()
    assert shown == whole[: int(limit[1])] if limit else shown == whole
    assert_equal(whole, expected)
    assert any(value for row in whole for value in row)


def assert_equal(found: Rows, expected: Rows) -> None:
    """Compare rows whose order may differ where the sort key is equal; numbers within 1e-9."""
    assert len(found) == len(expected), (found, expected)
    plain = [
        tuple(value.to_pydatetime() if isinstance(value, pd.Timestamp) else value for value in row)
        for row in expected
    ]
    for row, other in zip(sorted(found, key=repr_key), sorted(plain, key=repr_key), strict=True):
        for value, wanted in zip(row, other, strict=True):
            if isinstance(wanted, float) and value is not None:
                assert value == pytest.approx(wanted), (row, other)
            else:
                assert value == wanted, (row, other)


def repr_key(row: tuple[Any, ...]) -> str:
    return str([round(each, 6) if isinstance(each, float) else str(each) for each in row])


def median_or_none(values: list[float], unit: float = 1) -> float | None:
    return median(values) / unit if values else None


def customer_name(message: Message) -> str:
    return f"user-{message['conversation_id']}"


@oracle("How fast do we answer?")
def compute_first_responses(sessions: dict[str, Any], **_: Any) -> Rows:
    rows: Rows = []
    for account, found in sorted(sessions.items()):
        questions = [each for each in found if each["state"] != "nudge"]
        measured = [each for each in questions if each["state"] in MEASURED]
        waits = [each["wait"] for each in measured if each["wait"] is not None]
        unknown = sum(each["state"] == "unknown" for each in questions)
        quick = sum(wait <= 3600 for wait in waits)
        rows.append(
            (account, len(measured), len(waits), median_or_none(waits, 60),
             float(np.quantile(waits, 0.9)) / 60, quick, unknown, quick / len(measured),
             quick / (len(measured) + unknown), (quick + unknown) / (len(measured) + unknown))
        )  # fmt: skip
    return rows


@oracle("Who is waiting for us now?")
def compute_waiting(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    return [
        (account, customer_name(unanswered[0]), unanswered[0]["created_at"])
        for account, rows in inboxes.items()
        for unanswered in waiting_of(rows)
    ]


@oracle("Short closings")
def compute_short_closings(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    rows: Rows = []
    for account, inbox in inboxes.items():
        count = 0
        for thread in threads(inbox):
            for first, end in split_sessions(thread):
                unanswered = unanswered_of(thread)
                if not unanswered or unanswered[0] not in thread[first:end]:
                    continue
                texts = [each["text"] for each in unanswered]
                is_short = all(0 < len(text) <= 25 and "?" not in text for text in texts)
                kinds = {each["kind"] for each in thread[first:end]}
                count += is_short and not kinds.isdisjoint({"person", "unsure"})
        rows.append((account, len(waiting_of(inbox)), count))
    return rows


@oracle("When do customers write?")
def compute_busy_hours(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    counts = Counter(
        (account, moment.isoweekday(), moment.hour)
        for account, rows in inboxes.items()
        for moment in rows["local"][rows["who"] == "customer"]
    )
    return [(*key, count) for key, count in counts.items()]


@oracle("Are we slower outside business hours?")
def compute_slower(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    rows: Rows = []
    for account, inbox in inboxes.items():
        known_from = min(inbox["created_at"]).normalize() + timedelta(days=1)
        for is_inside in (False, True):
            turns = [turn for turn in turns_of(inbox) if turn["is_in_hours"] == is_inside]
            sure = [
                turn
                for turn in turns
                if turn["asked_at"] >= known_from
                and not turn["touches_unread"]
                and turn["answer"] in ("person", "none")
            ]
            waits = [turn["wait"] for turn in sure if turn["wait"] is not None]
            left_out = len(turns) - len(sure)
            if turns:
                rows.append((account, is_inside, len(waits), left_out, median_or_none(waits, 60)))
    return rows


@oracle("Are we slower outside business hours? 2")
def compute_business_time(sessions: dict[str, Any], **_: Any) -> Rows:
    rows: Rows = []
    for account, found in sessions.items():
        measured = [each for each in found if each["state"] in MEASURED]
        inside = [each for each in measured if each["is_in_hours"]]
        waits = [each["business"] for each in inside if each["wait"] is not None]
        rows.append(
            (account, len(inside), len(waits), len(measured) - len(inside),
             median_or_none(waits, 60))
        )  # fmt: skip
    return rows


@oracle("How does each week compare with the one before?")
def compute_weeks(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    """The run of 1 January 2027 covers all days from the first message on."""
    rows: Rows = []
    for account, inbox in inboxes.items():
        days = inbox["created_at"].dt.date
        first = min(days)
        week = first + timedelta(days=-first.weekday() % 7)
        last: int | None = None
        while week + timedelta(days=7) <= LATER.date():
            is_inside = (days >= week) & (days < week + timedelta(days=7))
            inbound = int((is_inside & (inbox["who"] == "customer")).sum())
            unknown = int((is_inside & (inbox["who"] == "unread")).sum())
            is_known = week >= first + timedelta(days=28)
            new = count_new(inbox, week) if is_known else None
            rows.append((account, week, inbound, unknown, new, last and inbound - last))
            if last == 0:
                rows[-1] = (*rows[-1][:5], inbound)
            last = inbound
            week += timedelta(days=7)
    return rows


def count_new(inbox: pd.DataFrame, week: date) -> int:
    """Count per day the customers whose conversation had no message for 28 days before."""
    kept = inbox[inbox["deleted_at"].isna()]
    count = 0
    for day in (week + timedelta(days=index) for index in range(7)):
        for _, thread in kept.groupby("conversation_id"):
            dates = thread["created_at"].dt.date
            wrote = ((dates == day) & (thread["who"] == "customer")).any()
            is_known = ((dates < day) & (dates >= day - timedelta(days=28))).any()
            count += bool(wrote and not is_known)
    return count


@oracle("One conversation, message by message")
def compute_conversation(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    inbox = inboxes["bakery"]
    sizes = inbox[inbox["who"] != "unread"].groupby("conversation_id").size()
    name = sorted(sizes.index, key=lambda each: (-sizes[each], each))[0]
    names = {"customer": "inbound", "us": "outbound", "unread": None}
    return [
        (row["local"].replace(tzinfo=None), names[row["who"]], row["text"] or f"[{row['content']}]")
        for row in inbox[inbox["conversation_id"] == name].to_dict("records")
    ]  # fmt: skip


@oracle("Who wrote a word?")
def compute_word(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    return [
        (account, row["created_at"], customer_name(row), row["text"])
        for account, rows in inboxes.items()
        for row in rows[rows["who"] == "customer"].to_dict("records")
        if "BÏKE" in row["text"]
    ]


@oracle("What do people send?")
def compute_contents(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    rows: Rows = []
    for account, inbox in inboxes.items():
        counts = Counter(inbox[inbox["who"] == "customer"]["content"])
        total = sum(counts.values())
        rows += [
            (account, name, count, round(100 * count / total, 1)) for name, count in counts.items()
        ]
    return rows


@oracle("Which customers write most?")
def compute_writers(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    return [
        (account, f"user-{name}", int((thread["who"] == "customer").sum()),
         max(thread["created_at"]))
        for account, rows in inboxes.items()
        for name, thread in rows.groupby("conversation_id")
    ]  # fmt: skip


@oracle("How many responses are automated?")
def compute_automated(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    waits: dict[tuple[str, str], list[float]] = defaultdict(list)
    names = {"robot": "automated", "person": "a person", "unsure": "not decided"}
    for account, inbox in inboxes.items():
        for turn in turns_of(inbox):
            if turn["response_kind"]:
                waits[account, names[turn["response_kind"]]].append(turn["response_wait"])
    return [(*key, len(found), median_or_none(found)) for key, found in waits.items()]


@oracle("Which messages got reactions?")
def compute_reactions(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    names = {"customer": "inbound", "us": "outbound"}
    counts = Counter(
        (reaction, names[row["who"]])
        for rows in inboxes.values()
        for row in rows.to_dict("records")
        for reaction in row["reactions"]
    )
    return [(*key, count) for key, count in counts.items()]


@oracle("Which pictures can still be opened?")
def compute_pictures(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    rows: Rows = []
    for account, inbox in inboxes.items():
        expiries = inbox["picture_expires_at"].dropna()
        if len(expiries):
            now = pd.Timestamp.now("UTC").timestamp()
            rows.append((account, "image", len(expiries), int((expiries > now).sum())))
    return rows


@oracle("What is missing?")
def compute_missing_days(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    return [
        (account, day, len(found), int((found["who"] != "unread").sum()),
         int((found["who"] == "unread").sum()), 0, 0,
         round(float((found["who"] != "unread").mean()), 3))
        for account, rows in inboxes.items()
        for day, found in rows.groupby(rows["created_at"].dt.date)
        if (found["who"] == "unread").any()
    ]  # fmt: skip


@oracle("What is missing? 2")
def compute_missing_conversations(inboxes: dict[str, pd.DataFrame], **_: Any) -> Rows:
    return [
        (account, name, len(thread), int((thread["who"] == "unread").sum()))
        for account, rows in inboxes.items()
        for name, thread in rows.groupby("conversation_id")
        if (thread["who"] == "unread").any()
    ]


@oracle("How long do sessions last, and how many need one reply?")
def compute_sessions(sessions: dict[str, Any], **_: Any) -> Rows:
    rows: Rows = []
    for account, found in sessions.items():
        first = min(each["asked_at"] for each in found).normalize()
        own = [
            each
            for each in found
            if each["opener"] == "customer"
            and each["state"] != "nudge"
            and not each["has_unread"]
            and each["asked_at"] >= first + timedelta(days=1)
        ]
        hours = [each["hours_to_last_reply"] for each in own]
        rows.append(
            (account, len(own), float(np.mean([each["turns"] for each in own])),
             float(np.mean([each["is_one_touch"] for each in own])),
             median_or_none([value for value in hours if value is not None]))
        )  # fmt: skip
    return rows


@oracle("How many calls did the runs make?")
def compute_calls(root: Path, **_: Any) -> Rows:
    (path,) = root.glob("runs/*/data.parquet")
    return [
        (row["account"], LATER.date(), row["kind"], row["outcome"],
         sum(json.loads(row["calls"]).values()),
         float((row["ended_at"] - row["started_at"]).total_seconds()))
        for row in pd.read_parquet(path, partitioning=None).to_dict("records")
    ]  # fmt: skip


def test_first_response_has_one_value(
    root: Path, con: Connection, sessions: dict[str, list[dict[str, Any]]]
) -> None:
    """In the recipe, in `account_days`, in the pictures and in the demo's text."""
    settings, all_waits = settings_of(root), list[float]()
    for account, measured, answered, *_, unknown, _, _, _ in con.sql(
        recipes()["How fast do we answer?"]
    ).fetchall():
        query = """SELECT list(date), sum(measured_session_count), sum(answered_session_count),
            sum(session_count - measured_session_count - acknowledged_session_count)
            FROM account_days WHERE account = $account"""
        [(days, *counts)] = con.sql(query, params={"account": account}).fetchall()
        assert counts == [measured, answered, unknown]
        own_waits = [each["wait"] for each in sessions[account] if each["wait"] is not None]
        with closing(Store(settings.store)) as store:
            parts = [
                read_columns(store, MESSAGES, account, day, account_days.COLUMNS)
                for day in sorted(store.days("messages", account))
            ]
            found = account_days.compute_first_responses(
                pa.concat_tables(parts),
                sorted(days),
                complete_range=read_complete_range(store, account),
                rules=read_rules(store, settings, account),
            )
        assert sorted(found.seconds) == sorted(own_waits)
        assert (found.unanswered_count, found.unknown_count) == (measured - answered, unknown)
        all_waits += own_waits
    text = re.sub(r"\[/?bold\]", "", answer(con, date(2026, 1, 1)))
    minutes = median(all_waits) / 60
    assert f"Half of {len(all_waits)} first responses came within {minutes:.0f} minutes" in text
