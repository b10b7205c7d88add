"""Fifteen questions of a service desk, answered by the product and by pandas over the raw JSON.

The second answer reads only `raw_message_ids` and `raw_message_details`. It shares no code with the
package and none with the oracle of `tests/support/metric_worlds.py`.
"""

import json
import random
from collections import defaultdict
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from convo_pipeline.derive.account_days import derive_account_days, read_rules
from convo_pipeline.derive.day import derive_day
from convo_pipeline.lake.accounts import save_accounts
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.query.connection import connect
from convo_pipeline.settings import Settings, parse_settings
from convo_pipeline.state.records import Run
from tests.support.raw_days import OWN_IDS, conversation_row, detail_row, id_row, raw_day

OWN = OWN_IDS["instagram"]
CLOCKS = {"bakery": ("Europe/Berlin", 9, 18), "surf": ("America/New_York", 9, 18)}
SAVED_REPLY = "Thank you for your question, we have it in three colours."
CHANGES_OF_CLOCKS = (datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 3, 6, tzinfo=UTC))
LATER = datetime(2027, 1, 1, tzinfo=UTC)


def settings_of(root: Path) -> Settings:
    text = f'[store]\nroot = "{root}"\n'
    for number, (name, (zone, opens, closes)) in enumerate(CLOCKS.items(), 1):
        text += (
            f'[[accounts]]\nname = "{name}"\npage_id = "{number}"\nplatform = "instagram"\n'
            f'token_env = "T"\nstart_date = "2026-01-01"\ntimezone = "{zone}"\n'
            f'business_hours = "Mon-Fri {opens:02}:00-{closes:02}:00"\n'
        )
    return parse_settings(text.encode())


def make_lake(root: Path, seed: int) -> Settings:
    """Write the raw tables of a random world and derive all others."""
    draw, settings = random.Random(seed), settings_of(root)
    with closing(Store(settings.store)) as store:
        for name in CLOCKS:
            since = CHANGES_OF_CLOCKS[seed % 2]
            days: dict[date, list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
            add(days, "old", "m", since - timedelta(days=40), "customer", "long ago")
            for number in range(14):
                moment = since + timedelta(seconds=draw.randrange(3 * 86_400))
                for index in range(draw.randint(1, 7)):
                    pauses = (2, 4, 30, 300, 900, 5_000, 40_000, 90_000)
                    moment += timedelta(seconds=draw.choice(pauses))
                    add(
                        days, f"c{number}", f"m{number}-{index}", moment,
                        draw.choice(("customer", "customer", OWN)),
                        draw.choice((SAVED_REPLY, "ok", f"text {index}")),
                        has_heart=draw.random() < 0.15, is_unsent=draw.random() < 0.08,
                        is_unread=draw.random() < 0.04,
                    )  # fmt: skip
            for day, rows in days.items():
                ids, details = [each[0] for each in rows], [each[1] for each in rows]
                names = sorted({str(row["conversation_id"]) for row in ids})
                people = [conversation_row("instagram", {}, each) for each in names]
                raw = raw_day("instagram", ids, details, people)
                store.merge("raw_conversations", name, day, raw.conversations)
                store.merge("raw_message_ids", name, day, raw.message_ids)
                store.merge("raw_message_details", name, day, raw.message_details)
                derive_day(store, name, day)
            first = min(days) - timedelta(days=2)
            store.state.save_run(
                Run("r", name, "nightly", LATER, first, LATER.date(), LATER, "complete")
            )
            derive_account_days(store, name, rules=read_rules(store, settings, name))
        export_runs(store, "r")
        save_accounts(store, {each.name: settings.describe(each) for each in settings.accounts})
    return settings


def add(
    days: dict[date, list[tuple[dict[str, Any], dict[str, Any]]]], conversation: str, name: str,
    moment: datetime, sender: str, text: str, *, has_heart: bool = False,
    is_unsent: bool = False, is_unread: bool = False,
) -> None:  # fmt: skip
    payload = {"id": name, "from": {"id": sender}, "message": text}
    payload["created_time"] = f"{moment:%Y-%m-%dT%H:%M:%S+0000}"
    if has_heart:
        other = OWN if sender != OWN else "customer"
        payload["reactions"] = {"data": [{"reaction": "love", "users": [{"id": other}]}]}
    unsent_at = moment + timedelta(days=1) if is_unsent else None
    row = id_row(name, conversation, created_at=moment, deleted_at=unsent_at)
    status = {"detail_status": "beyond_20"} if is_unread else {}
    content = None if is_unread else payload
    days[moment.date()].append(
        (row, detail_row(name, content, conversation, created_at=moment, **status))
    )


# the product's answers

MESSAGES = """
SELECT
    count(*) FILTER (direction = 'inbound') AS inbound,
    count(*) FILTER (direction = 'outbound') AS outbound,
    count(*) FILTER (direction IS NULL) AS unread,
    mode(hour(created_at_local)) FILTER (hour(created_at_local) IS NOT NULL) IS NOT NULL AS is_local
FROM messages WHERE account = $account
"""
LOCAL = """
SELECT local_date, inbound_count, outbound_count, active_conversation_count
FROM local_days WHERE account = $account ORDER BY 1
"""
DAYS = """
SELECT
    sum(automated_count)::BIGINT AS automated, sum(unsure_automated_count)::BIGINT AS undecided,
    sum(session_count)::BIGINT AS questions, sum(measured_session_count)::BIGINT AS measured,
    sum(answered_session_count)::BIGINT AS answered,
    sum(acknowledged_session_count)::BIGINT AS acknowledged,
    sum(in_hours_session_count)::BIGINT AS in_hours,
    sum(out_of_hours_session_count)::BIGINT AS out_of_hours,
    arg_max(backlog_count, date) AS backlog
FROM account_days WHERE account = $account
"""
RESPONSES = """
SELECT
    list_sort(coalesce(list(first_response_seconds) FILTER (is_answered_in_time), [])) AS waits,
    median(first_response_seconds) FILTER (is_answered_in_time) AS median_seconds,
    median(first_response_business_seconds) FILTER (is_answered_in_time AND is_in_business_hours)
        AS median_business_seconds,
    list_sort(coalesce(list(conversation_id) FILTER (is_unanswered), [])) AS waiting
FROM sessions WHERE account = $account
"""
HOURS = """
SELECT isodow(created_at_local) AS weekday, hour(created_at_local) AS hour, count(*) AS messages
FROM messages WHERE direction = 'inbound' AND account = $account GROUP BY ALL ORDER BY ALL
"""
TURNS = """
SELECT count(*) FILTER (is_answered) AS answered, count(*) FILTER (is_answered = false) AS not_yet,
    count(*) FILTER (is_answered IS NULL) AS unknown
FROM response_turns WHERE account = $account
"""


def ask_product(root: Path, account: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    with connect(root) as con:
        for query in (MESSAGES, DAYS, RESPONSES, TURNS):
            (row,) = con.sql(query, params={"account": account}).to_arrow_table().to_pylist()
            names = {"answered": "answered_turns"} if query == TURNS else {}
            answers |= {names.get(name, name): value for name, value in row.items()}
        for name, query in (("local days", LOCAL), ("hours", HOURS)):
            answers[name] = con.sql(query, params={"account": account}).fetchall()
    return answers


# the second answers


def read_raw(root: Path, account: str) -> pd.DataFrame:
    """Return one row per message id from the raw files alone, in order."""
    frames = []
    for path in sorted(root.glob(f"raw_message_ids/account={account}/*/data.parquet")):
        ids = pd.read_parquet(path, partitioning=None)
        details = Path(str(path).replace("raw_message_ids", "raw_message_details"))
        contents = pd.read_parquet(details, partitioning=None)
        frames.append(ids.merge(contents[["conversation_id", "message_id", "payload"]]))
    rows = pd.concat(frames).sort_values(["conversation_id", "created_at", "message_id"])
    payloads = [json.loads(text) if isinstance(text, str) else None for text in rows["payload"]]
    senders = [each["from"]["id"] if each else None for each in payloads]
    rows["who"] = [
        "unread" if each is None else "us" if each == OWN else "customer" for each in senders
    ]
    rows["has_heart"] = [
        bool(each) and OWN in json.dumps(each.get("reactions", {})) and each["from"]["id"] != OWN
        for each in payloads
    ]
    return rows.reset_index(drop=True)


def judge_ours(thread: list[dict[str, Any]]) -> None:
    """Set `kind` of each message of a conversation: customer, unread, person, robot or unsure."""
    for index, row in enumerate(thread):
        row["kind"], before = row["who"], thread[:index]
        if row["who"] != "us":
            continue

        def age(other: dict[str, Any], row: dict[str, Any] = row) -> float:
            return float((row["created_at"] - other["created_at"]).total_seconds())

        others = [each for each in before if each["who"] != "us"]
        row["is_calm"] = not any(age(each) <= 5 for each in others)
        row["kind"] = "person"
        if row["is_calm"]:
            continue
        if any(each["who"] == "us" and each["is_calm"] and age(each) <= 3600 for each in before):
            continue
        row["kind"] = "unsure"
        if any(each["who"] == "unread" and age(each) <= 3605 for each in before):
            continue
        turn: list[dict[str, Any]] = []
        for each in before:
            is_apart = (
                turn and (each["created_at"] - turn[-1]["created_at"]).total_seconds() >= 86_400
            )
            turn = [] if each["who"] == "us" else [each] if is_apart else [*turn, each]
        last = max(index for index, each in enumerate(before) if each["who"] != "us")
        tail = [each for each in before[last + 1 :] if each["who"] == "us"]
        if tail:  # the second part of an instant reply
            earlier = before[: last + 1]
            turn = [earlier[-1]]
            while len(earlier) > len(turn) and earlier[-len(turn) - 1]["who"] != "us":
                turn.insert(0, earlier[-len(turn) - 1])
        if turn and age(turn[0]) <= 5:
            row["kind"] = "robot"


def open_seconds(since: datetime, until: datetime, account: str) -> float:
    """Count the open seconds, minute by minute edges, as they elapse."""
    zone, opens, closes = CLOCKS[account]
    day, total = since.astimezone(ZoneInfo(zone)).date(), 0.0
    while day <= until.astimezone(ZoneInfo(zone)).date():
        edges = [datetime.combine(day, time(hour), ZoneInfo(zone)) for hour in (opens, closes)]
        if day.isoweekday() <= 5:
            start, end = max(edges[0], since), min(edges[1], until)
            total += max(0.0, (end.astimezone(UTC) - start.astimezone(UTC)).total_seconds())
        day += timedelta(days=1)
    return total


def ask_pandas(root: Path, account: str) -> dict[str, Any]:
    rows = read_raw(root, account)
    zone = ZoneInfo(CLOCKS[account][0])
    local = rows["created_at"].dt.tz_convert(zone)
    counts = rows["who"].value_counts()
    answers: dict[str, Any] = {
        "inbound": counts.get("customer", 0), "outbound": counts.get("us", 0),
        "unread": counts.get("unread", 0), "is_local": True,
    }  # fmt: skip
    by_day = rows.assign(day=local.dt.date).groupby("day")
    answers["local days"] = [
        (day, (each["who"] == "customer").sum(), (each["who"] == "us").sum(),
         each["conversation_id"].nunique())
        for day, each in by_day
    ]  # fmt: skip
    asked = local[rows["who"] == "customer"]
    hours = asked.groupby([asked.dt.day_of_week + 1, asked.dt.hour]).size()
    answers["hours"] = [(*key, count) for key, count in hours.items()]
    totals: dict[str, int] = defaultdict(int)
    waits: list[float] = []
    business: list[float] = []
    waiting: list[str] = []
    kept = rows[rows["deleted_at"].isna()]
    for conversation, found in kept.groupby("conversation_id"):
        thread = found.to_dict("records")
        judge_ours(thread)
        totals["automated"] += sum(each["kind"] == "robot" for each in thread)
        totals["undecided"] += sum(each["kind"] == "unsure" for each in thread)
        ask_conversation(thread, account, totals, waits, business)
        words = [each for each in thread if each["kind"] != "robot"]
        if words and is_waiting(words[-1]):
            waiting.append(str(conversation))
    names = ("automated", "undecided", "questions", "measured", "answered", "acknowledged",
             "in_hours", "out_of_hours", "answered_turns", "not_yet", "unknown")  # fmt: skip
    answers |= {name: totals[name] for name in names}
    answers |= {"waits": sorted(waits), "median_seconds": median(waits) if waits else None}
    answers["median_business_seconds"] = median(business) if business else None
    return answers | {"waiting": waiting}


def is_waiting(word: dict[str, Any]) -> bool:
    return word["kind"] == "customer" and not word["has_heart"]


def ask_conversation(
    thread: list[dict[str, Any]], account: str, totals: dict[str, int], waits: list[float],
    business: list[float],
) -> None:  # fmt: skip
    session: list[dict[str, Any]] = []
    for index, row in enumerate(thread):
        gap = (row["created_at"] - thread[index - 1]["created_at"]).total_seconds() if index else 0
        is_new_session = index == 0 or gap >= 86_400
        session = [] if is_new_session else session
        before, after = thread[:index], thread[index + 1 :]
        is_turn = row["kind"] == "customer" and (
            is_new_session or thread[index - 1]["kind"] != "customer"
        )
        if is_turn:
            rest = next(
                (each["kind"] for each in after if each["kind"] not in ("customer", "robot")), ""
            )
            name = {"person": "answered_turns", "": "not_yet"}.get(rest, "unknown")
            totals[name] += 1
        is_first = row["kind"] == "customer" and not any(
            each["kind"] == "customer" for each in session
        )
        session = [*session, row]
        words = [each for each in before if each["kind"] != "robot"]
        if words and row["created_at"].normalize() - words[-1]["created_at"] > timedelta(days=28):
            words = []
        if not is_first or (words and is_waiting(words[-1])):
            continue
        totals["questions"] += 1
        if any(each["kind"] == "unread" for each in session) or (
            words and words[-1]["kind"] in ("unread", "unsure")
        ):
            continue
        limit = row["created_at"].normalize() + timedelta(days=8)
        in_time = [each for each in after if each["created_at"] < limit]
        reply = next(
            (each for each in in_time if each["kind"] in ("person", "unread", "unsure")), None
        )
        if reply is not None and reply["kind"] != "person":
            continue
        asked = [row, *in_time]
        if reply is None and any(each["has_heart"] for each in asked if each["kind"] == "customer"):
            totals["acknowledged"] += 1
            continue
        totals["measured"] += 1
        wall = row["created_at"].tz_convert(ZoneInfo(CLOCKS[account][0]))
        is_in_hours = (
            wall.isoweekday() <= 5 and CLOCKS[account][1] <= wall.hour < CLOCKS[account][2]
        )
        totals["in_hours" if is_in_hours else "out_of_hours"] += 1
        if reply is not None:
            totals["answered"] += 1
            waits.append((reply["created_at"] - row["created_at"]).total_seconds())
            if is_in_hours:
                business.append(open_seconds(row["created_at"], reply["created_at"], account))


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_product_and_pandas_give_the_same_answers(tmp_path: Path, long_run: bool) -> None:
    seen: dict[str, int] = defaultdict(int)
    for seed in range(10 if long_run else 2):
        root = tmp_path / str(seed)
        make_lake(root, seed)
        for account in CLOCKS:
            product, pandas = ask_product(root, account), ask_pandas(root, account)
            backlog = product.pop("backlog")
            assert product == pandas, (seed, account)
            assert backlog == len(set(pandas["waiting"]) - {"old"})  # it waited for 28 days
            for name in ("automated", "undecided", "acknowledged", "answered", "unread"):
                seen[name] += pandas[name]
    assert all(seen[name] for name in ("automated", "answered", "acknowledged", "unread")), seen
