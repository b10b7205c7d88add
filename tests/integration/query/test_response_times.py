"""Sessions and response turns: worked examples, and a second formulation over random worlds."""

import json
import random
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

import convo_pipeline
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings, StoreSettings, parse_business_hours, parse_settings
from convo_pipeline.state.records import Run
from tests.support.metric_worlds import (
    LONG_TEXT,
    Hours,
    Message,
    World,
    broken_off,
    random_world,
    response_turns,
    sessions,
    truncated,
    write_runs,
    write_world,
)
from tests.support.paths import DOCS

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
BERLIN = Hours("Europe/Berlin", 9, 18)


def settings_with(hours: dict[str, Hours], session_gap_hours: float = 24) -> Settings:
    accounts = [
        account_text(name, page_id, clock)
        for page_id, (name, clock) in enumerate(hours.items(), start=1)
    ]
    return parse_settings(
        "\n".join([f"[metrics]\nsession_gap_hours = {session_gap_hours}", *accounts]).encode()
    )


def account_text(name: str, page_id: int, clock: Hours) -> str:
    return f"""[[accounts]]
name = "{name}"
page_id = "{page_id}"
platform = "instagram"
token_env = "TOKEN"
start_date = "2026-01-01"
timezone = "{clock.zone}"
business_hours = "{clock.days} {clock.opens:02}:00-{clock.closes:02}:00"
"""


def rows(root: Path, view: str, settings: Settings | None = None) -> list[dict[str, Any]]:
    with convo_pipeline.connect(root, settings=settings) as con:
        return (
            con.sql(f"FROM {view} ORDER BY account, conversation_id, started_at")
            .to_arrow_table()
            .to_pylist()
        )


def at(text: str, day: int = 2) -> datetime:
    return datetime.fromisoformat(f"2026-03-{day:02}T{text}+00:00")


def dialogue(
    *lines: tuple[datetime, str | None] | tuple[datetime, str | None, str],
) -> list[Message]:
    """One conversation of the bakery; an older one makes the lake begin days before."""
    old = Message("bakery", "t_0", "m_0", MONDAY - timedelta(days=30), "inbound")
    return [old] + [
        Message(
            "bakery", "t_1", f"m_{index}", line[0], line[1], line[2] if len(line) > 2 else "hello"
        )
        for index, line in enumerate(lines, 1)
    ]


def only(found: Iterable[dict[str, Any]], **wanted: object) -> list[dict[str, Any]]:
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def pick(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def test_the_worked_example_of_a_session(tmp_path: Path) -> None:
    """docs/metrics.md, sessions."""
    world = dialogue(
        (at("17:30:00"), "inbound"),
        (at("17:30:02"), "outbound", LONG_TEXT),
        (at("17:40:00"), "inbound"),
        (at("08:10:00", 3), "outbound", "Yes, at ten."),
        (at("08:12:00", 3), "inbound"),
        (at("08:15:00", 3), "outbound", "You are welcome."),
        (at("08:15:00", 4), "inbound"),
    )
    root = write_world(tmp_path, world)
    hours = settings_with({"bakery": BERLIN})
    first, second = only(rows(root, "sessions", hours), conversation_id="t_1")
    assert first == {
        "account": "bakery",
        "date": at("17:30:00").date(),
        "conversation_id": "t_1",
        "session_number": 1,
        "started_at": at("17:30:00"),
        "started_at_local": datetime(2026, 3, 2, 18, 30),  # noqa: DTZ001 - the wall clock in Berlin
        "ended_at": at("08:15:00", 3),
        "opener": "inbound",
        "message_count": 6,
        "inbound_count": 3,
        "outbound_count": 3,
        "automated_count": 1,
        "unknown_count": 0,
        "turn_count": 3,
        "local_date": at("17:30:00").date(),
        "is_in_business_hours": False,
        "is_nudge": False,
        "is_answered": True,
        "is_acknowledged": False,
        "is_measured": True,
        "is_answered_in_time": True,
        "first_inbound_at": at("17:30:00"),
        "first_response_at": at("08:10:00", 3),
        "first_response_seconds": 14 * 3600 + 40 * 60,
        "first_response_business_seconds": 10 * 60,
        "is_one_touch": False,
        "resolution_gap_seconds": 14 * 3600 + 45 * 60,
        "is_unanswered": False,
        "unanswered_since": None,
        "is_lower_bound": False,
    }
    assert pick(second, "session_number", "is_unanswered", "unanswered_since") == (
        2,
        True,
        at("08:15:00", 4),
    )


def test_the_worked_example_of_response_turns(tmp_path: Path) -> None:
    """docs/metrics.md, response turns."""
    world = dialogue(
        (at("17:30:00"), "inbound"),
        (at("17:30:02"), "outbound", LONG_TEXT),
        (at("17:40:00"), "inbound"),
        (at("17:41:00"), "inbound"),
        (at("08:10:00", 3), "outbound", "Yes, at ten."),
    )
    found = rows(write_world(tmp_path, world), "response_turns", settings_with({"bakery": BERLIN}))
    names = (
        "turn_number",
        "inbound_count",
        "response_seconds",
        "is_likely_automated",
        "automated_reason",
    )
    names += ("human_response_seconds", "human_response_business_seconds", "is_answered")
    assert [pick(row, *names) for row in only(found, conversation_id="t_1")] == [
        (1, 1, 2, True, "quick_reply", 14 * 3600 + 40 * 60, 600, True),
        (2, 2, 14 * 3600 + 30 * 60, False, None, 14 * 3600 + 30 * 60, 600, True),
    ]


def test_one_reply_that_ends_the_session_is_one_touch(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"), (at("10:05:00"), "inbound"), (at("10:10:00"), "outbound")
    )
    (session,) = only(rows(write_world(tmp_path, world), "sessions"), conversation_id="t_1")
    assert pick(session, "is_one_touch", "resolution_gap_seconds", "turn_count") == (True, 600, 1)


def test_a_late_answer_counts_for_the_session_it_answers(tmp_path: Path) -> None:
    world = dialogue((at("10:00:00"), "inbound"), (at("10:00:00", 5), "outbound"))
    first, second = only(rows(write_world(tmp_path, world), "sessions"), conversation_id="t_1")
    assert pick(first, "first_response_seconds", "is_unanswered") == (3 * 86400, False)
    assert pick(second, "opener", "first_inbound_at", "is_unanswered") == ("outbound", None, None)


def test_a_saved_reply_typed_by_hand_is_a_persons_answer(tmp_path: Path) -> None:
    """Six customers ask; a person sends each the same text ten minutes later."""
    world = [
        Message("bakery", f"t_{index}", f"{word}_{index}", at(f"{index + 10}:{clock}"), word, text)
        for index in range(6)
        for word, clock, text in (("inbound", "00:00", "?"), ("outbound", "10:00", LONG_TEXT))
    ]
    found = rows(write_world(tmp_path, world), "response_turns")
    assert [pick(row, "is_answered", "human_response_seconds") for row in found] == [
        (True, 600)
    ] * 6


def test_a_quick_reply_while_a_person_writes_is_a_persons_answer(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"),
        (at("10:05:00"), "outbound"),
        (at("10:06:00"), "inbound", "ok"),
        (at("10:06:04"), "outbound"),
    )
    root = write_world(tmp_path, world)
    for minutes, expected in ((60, (True, False)), (1, (False, True))):
        settings = parse_settings(f"[metrics]\npresence_minutes = {minutes}".encode())
        _, turn = only(rows(root, "response_turns", settings), conversation_id="t_1")
        assert pick(turn, "is_answered", "is_likely_automated") == expected


def test_a_quick_reply_to_a_later_message_of_the_turn_is_unsure(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"), (at("10:05:00"), "inbound"), (at("10:05:03"), "outbound")
    )
    root = write_world(tmp_path, world)
    (turn,) = only(rows(root, "response_turns"), conversation_id="t_1")
    names = ("is_answered", "is_likely_automated", "response_seconds", "human_response_seconds")
    assert pick(turn, *names) == (None, None, 303, None)
    off = parse_settings(b"[metrics]\nautomated_reply_seconds = 0")
    (turn,) = only(rows(root, "response_turns", off), conversation_id="t_1")
    assert pick(turn, *names) == (True, False, 303, 303)


def test_the_rules_of_an_account_replace_those_of_all(tmp_path: Path) -> None:
    world = dialogue((at("10:00:00"), "inbound"), (at("10:00:30"), "outbound"))
    root = write_world(tmp_path, world)
    for text, expected in (
        ("", False),
        ("\n[accounts.metrics]\nautomated_reply_seconds = 40", True),
    ):
        settings = parse_settings(account_text("bakery", 1, BERLIN).encode() + text.encode())
        (turn,) = only(rows(root, "response_turns", settings), conversation_id="t_1")
        assert turn["is_likely_automated"] is expected


def test_our_reaction_to_the_last_message_acknowledges_it(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"), (at("10:05:00"), "outbound"), (at("10:06:00"), "inbound")
    )
    for has_reaction in (False, True):
        world[-1] = replace(world[-1], has_own_reaction=has_reaction)
        root = write_world(tmp_path / str(has_reaction), world)
        (session,) = only(rows(root, "sessions"), conversation_id="t_1")
        names = ("is_unanswered", "unanswered_since", "is_acknowledged")
        waiting = (True, at("10:06:00"), False)
        assert pick(session, *names) == ((False, None, False) if has_reaction else waiting)
        (_, turn) = only(rows(root, "response_turns"), conversation_id="t_1")
        assert pick(turn, "is_answered", "is_acknowledged") == (False, has_reaction)


def test_an_unsent_answer_is_no_answer(tmp_path: Path) -> None:
    world = dialogue((at("10:00:00"), "inbound"), (at("10:05:00"), "outbound"))
    world[-1] = replace(world[-1], deleted_at=at("12:00:00"))
    (session,) = only(rows(write_world(tmp_path, world), "sessions"), conversation_id="t_1")
    assert pick(session, "is_answered", "is_unanswered", "message_count") == (False, True, 1)


def test_a_nudge_after_a_day_is_the_same_waiting_customer(tmp_path: Path) -> None:
    world = dialogue((at("10:00:00"), "inbound"), (at("12:00:00", 3), "inbound", "hello?"))
    names = ("is_nudge", "is_answered", "is_unanswered", "first_response_seconds")
    found = only(rows(write_world(tmp_path / "a", world), "sessions"), conversation_id="t_1")
    assert [pick(row, *names) for row in found] == [
        (False, False, True, None), (True, None, False, None),
    ]  # fmt: skip
    world.append(replace(world[-1], message_id="m_9", created_at=at("13:00:00", 3),
                         direction="outbound"))  # fmt: skip
    found = only(rows(write_world(tmp_path / "b", world), "sessions"), conversation_id="t_1")
    assert [pick(row, *names) for row in found] == [
        (False, True, False, 27 * 3600), (True, None, False, None),
    ]  # fmt: skip


def test_a_nudge_after_an_unread_message_waits_by_itself(tmp_path: Path) -> None:
    """The earlier session may be answered by the unread message, so it cannot say who waits."""
    world = dialogue(
        (at("10:00:00"), "inbound"), (at("12:00:00", 4), "inbound"), (at("12:00:09", 4), None),
        (at("12:01:00", 4), "inbound"),
    )  # fmt: skip
    found = only(rows(write_world(tmp_path, world), "sessions"), conversation_id="t_1")
    assert [pick(row, "is_nudge", "is_unanswered", "unanswered_since") for row in found] == [
        (False, None, None), (True, True, at("12:01:00", 4)),
    ]  # fmt: skip


def test_an_unread_message_makes_an_answer_unknown_instead_of_wrong(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"), (at("10:05:00"), None), (at("12:00:00"), "outbound")
    )
    root = write_world(tmp_path, world)
    (turn,) = only(rows(root, "response_turns"), conversation_id="t_1")
    assert pick(turn, "response_seconds", "human_response_seconds", "is_answered") == (
        None,
        None,
        None,
    )
    (session,) = only(rows(root, "sessions"), conversation_id="t_1")
    names = (
        "first_response_seconds",
        "is_one_touch",
        "resolution_gap_seconds",
        "is_lower_bound",
        "message_count",
    )
    assert pick(session, *names) == (None, None, None, True, 3)


def test_a_wait_after_an_unread_message_is_a_lower_bound(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), None), (at("10:05:00"), "inbound"), (at("10:15:00"), "outbound")
    )
    (turn,) = only(rows(write_world(tmp_path, world), "response_turns"), conversation_id="t_1")
    assert pick(turn, "response_seconds", "is_lower_bound") == (600, True)


def test_the_first_hours_of_the_lake_are_a_lower_bound(tmp_path: Path) -> None:
    world = [Message("bakery", "t_1", "m_1", at("10:00:00"), "inbound")]
    assert [row["is_lower_bound"] for row in rows(write_world(tmp_path, world), "sessions")] == [
        True
    ]


def test_what_no_run_promised_is_a_lower_bound(tmp_path: Path) -> None:
    world = dialogue((at("10:00:00"), "inbound"), (at("10:05:00"), "outbound"))
    for name, promised, expected in (
        ("since its day", {"bakery": MONDAY.date()}, True),
        ("nothing", {}, True),
    ):
        root = write_world(tmp_path / name, world, promised)
        for view in ("sessions", "response_turns"):
            (row,) = only(rows(root, view), conversation_id="t_1")
            assert row["is_lower_bound"] is expected, (name, view)


def test_what_a_run_that_was_broken_off_brought_may_lack_what_was_before(tmp_path: Path) -> None:
    """The last complete run began on Tuesday at noon; a broken run added the newest messages."""
    world = [
        *dialogue((at("10:00:00"), "inbound"), (at("10:05:00"), "outbound"), (at("11:00:00", 3),
        "inbound"),
                  (at("09:00:00", 5), "outbound")),
        Message("bakery", "t_2", "m_9", at("11:00:00", 3), "inbound"),
    ]  # fmt: skip
    for until, marked in ((at("12:00:00", 3), [False, True]), (at("10:00:00", 6), [False, False])):
        root = write_world(tmp_path / f"{until.day}", world, until=until)
        for view in ("response_turns", "sessions"):
            found = only(rows(root, view), inbound_count=1, conversation_id="t_1")
            assert [row["is_lower_bound"] for row in found] == marked, (view, until)
        (turn,) = only(rows(root, "response_turns"), conversation_id="t_2")
        assert turn["is_lower_bound"] is False


def test_a_session_that_may_still_go_on_is_a_lower_bound(tmp_path: Path) -> None:
    world = dialogue((at("10:00:00"), "inbound"), (at("10:05:00"), "outbound"))
    for until, expected in ((at("10:04:59", 3), True), (at("10:05:00", 3), False)):
        root = write_world(tmp_path / f"{expected}", world, until=until)
        (session,) = only(rows(root, "sessions"), conversation_id="t_1")
        assert pick(session, "is_one_touch", "is_lower_bound") == (True, expected)
        (turn,) = only(rows(root, "response_turns"), conversation_id="t_1")
        assert turn["is_lower_bound"] is False


def test_a_hole_between_two_promises_ends_the_older_one(tmp_path: Path) -> None:
    """A state that was lost: the run after it lists no further back than its own days."""
    root = write_world(tmp_path, dialogue((at("10:00:00"), "inbound")))
    line = {"account": "bakery", "kind": "window", "outcome": "complete"}
    for report, known in (
        ({"is_incremental": True}, MONDAY - timedelta(days=30)),
        ({}, MONDAY + timedelta(days=5)),
    ):
        runs = [
            {"run_id": "a", "since": (MONDAY - timedelta(days=30)).date(), "started_at": MONDAY,
            "report": "{}"},
            {"run_id": "b", "since": (MONDAY + timedelta(days=5)).date(),
            "started_at": MONDAY + timedelta(days=6),
             "report": json.dumps(report)},
        ]  # fmt: skip
        write_runs(root, {}, [line | run for run in runs])
        with convo_pipeline.connect(root) as con:
            found = con.sql("SELECT known_from FROM internal.known").fetchall()
        assert found == [(known + timedelta(days=1),)]


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_the_ledgers_files_and_the_state_promise_the_same(tmp_path: Path, long_run: bool) -> None:
    for seed in range(300 if long_run else 20):
        draw = random.Random(seed)
        runs = [random_run(draw, f"r{index}") for index in range(draw.randrange(6))]
        root = write_world(
            tmp_path / str(seed),
            [Message("bakery", "t", "m", MONDAY - timedelta(days=90), "inbound")],
            {},
        )
        with closing(Store(StoreSettings(root=str(root)))) as store:
            for run in runs:
                store.state.save_run(run)
                export_runs(store, run.run_id)
            complete_range = store.state.complete_range("bakery")
        with convo_pipeline.connect(root) as con:
            found = con.sql("SELECT known_from FROM internal.known").fetchall()
        since = (
            [datetime.combine(complete_range.since, time(), UTC) + timedelta(days=1)]
            if complete_range
            else []
        )
        assert [row[0] for row in found] == since, seed


def random_run(draw: random.Random, run_id: str) -> Run:
    started_at = MONDAY + timedelta(hours=draw.randrange(24 * 40))
    return Run(
        run_id,
        "bakery",
        draw.choice(("window", "nightly", "capture", "full", "find")),
        started_at,
        started_at.date() - timedelta(days=draw.choice((0, 0, 1, 3, 20))),
        started_at.date(),
        outcome=draw.choice(("complete", "complete", "complete", "incomplete", "failed")),
        report={"is_incremental": draw.random() < 0.5},
    )


def test_a_turn_with_an_unread_message_after_it_may_be_longer(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"),
        (at("10:01:00"), None),
        (at("10:02:00"), "inbound"),
        (at("10:05:00"), "outbound"),
    )
    found = only(rows(write_world(tmp_path, world), "response_turns"), conversation_id="t_1")
    assert [pick(row, "inbound_count", "is_lower_bound") for row in found] == [(1, True), (1, True)]


def test_an_instant_reply_in_two_bubbles_is_not_the_first_answer(tmp_path: Path) -> None:
    world = dialogue(
        (at("10:00:00"), "inbound"),
        (at("10:00:02"), "outbound", "Thank you!"),
        (at("10:00:03"), "outbound", "We will be back."),
        (at("15:00:00"), "outbound", "Yes."),
    )
    (session,) = only(rows(write_world(tmp_path, world), "sessions"), conversation_id="t_1")
    assert pick(session, "first_response_seconds", "automated_count") == (5 * 3600, 2)


def test_whether_a_reply_at_once_after_an_unread_message_is_automated_is_not_known(
    tmp_path: Path,
) -> None:
    for clock, expected in (("10:00:02", None), ("10:00:06", False)):
        world = dialogue((at("10:00:00"), None), (at(clock), "outbound"))
        with convo_pipeline.connect(write_world(tmp_path / clock[-1], world)) as con:
            found = con.sql(
                "SELECT is_likely_automated FROM message_order WHERE message_id = 'm_2'"
            ).fetchall()
        assert found == [(expected,)]


def test_the_session_gap_is_a_setting(tmp_path: Path) -> None:
    root = write_world(tmp_path, dialogue((at("10:00:00"), "inbound"), (at("11:00:00"), "inbound")))
    assert len(only(rows(root, "sessions", settings_with({}, 1)), conversation_id="t_1")) == 2
    assert len(only(rows(root, "sessions", settings_with({}, 1.001)), conversation_id="t_1")) == 1


def test_the_worked_example_of_business_time(tmp_path: Path) -> None:
    """A Sunday of 25 hours and one of 23, open around the clock."""
    days = [("2026-10-24T22:00", "2026-10-25T23:00"), ("2026-03-28T23:00", "2026-03-29T22:00")]
    world = []
    for number, day in enumerate(days):
        begin, end = (datetime.fromisoformat(f"{text}+00:00") for text in day)
        world += [
            Message("bakery", f"t_{number}", f"m_{number}", begin, "inbound"),
            Message("bakery", f"t_{number}", f"n_{number}", end, "outbound", "an answer"),
        ]
    clock = Hours("Europe/Berlin", 0, 24, (6,), "Sun")
    found = rows(
        write_world(tmp_path, world), "response_turns", settings_with({"bakery": clock}, 48)
    )
    assert [row["response_business_seconds"] for row in found] == [25 * 3600, 23 * 3600]


def test_the_worked_example_of_local_days(tmp_path: Path) -> None:
    world = dialogue((at("23:30:00"), "inbound"), (at("09:00:00", 3), "outbound", "an answer"))
    root = write_world(tmp_path, world)
    with convo_pipeline.connect(root, settings=settings_with({"bakery": BERLIN})) as con:
        found = con.sql(
            "SELECT local_date, inbound_count, session_count, median_first_response_seconds"
            " FROM local_days WHERE local_date >= '2026-03-01'"
        ).fetchall()
        assert found == [(date(2026, 3, 3), 1, 1, 9.5 * 3600)]
        assert con.sql("SELECT max(date) FROM sessions").fetchall() == [(date(2026, 3, 2),)]


def test_the_worked_example_of_who_waits(tmp_path: Path) -> None:
    anna = dialogue(
        (at("10:00:00"), "inbound"), (at("10:05:00"), "outbound", "an answer"),
        (at("10:06:00"), "inbound", "thanks"),
    )[1:]  # fmt: skip
    anna[-1] = replace(anna[-1], has_own_reaction=True)
    ben = dialogue((at("10:00:00"), "inbound"), (at("12:00:00", 3), "inbound", "hello?"))[1:]
    others = [
        replace(each, conversation_id="t_2", message_id=f"ben-{each.message_id}") for each in ben
    ]
    found = rows(write_world(tmp_path, [*dialogue(), *anna, *others]), "sessions")
    names = ("is_nudge", "first_response_seconds", "is_unanswered", "unanswered_since")
    assert [pick(row, *names) for row in only(found, conversation_id="t_1")] == [
        (False, 300, False, None)
    ]
    assert [pick(row, *names) for row in only(found, conversation_id="t_2")] == [
        (False, None, True, at("10:00:00")), (True, None, False, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("since", "until", "zone", "expected"),
    [
        ("2026-02-27T16:30:00", "2026-03-02T09:30:00", "Europe/Berlin", 7200),
        ("2026-03-27T16:30:00", "2026-03-30T08:30:00", "Europe/Berlin", 30 * 60 + 90 * 60),
        ("2026-10-23T15:30:00", "2026-10-26T09:30:00", "Europe/Berlin", 30 * 60 + 90 * 60),
        ("2026-02-28T10:00:00", "2026-03-01T10:00:00", "UTC", 0),
        ("2026-03-02T03:30:00", "2026-03-02T04:30:00", "Asia/Kolkata", 3600),
        ("2026-03-02T03:00:00", "2026-03-02T04:30:00", "Asia/Kolkata", 3600),
    ],
)
def test_business_time_is_counted_on_the_accounts_wall_clock(
    tmp_path: Path, since: str, until: str, zone: str, expected: int
) -> None:
    begin, end = (datetime.fromisoformat(f"{text}+00:00") for text in (since, until))
    world = [
        Message("bakery", "t_1", "m_1", begin, "inbound"),
        Message("bakery", "t_1", "m_2", end, "outbound", "an answer"),
    ]
    found = rows(
        write_world(tmp_path, world),
        "response_turns",
        settings_with({"bakery": Hours(zone, 9, 18)}),
    )
    assert [row["response_business_seconds"] for row in found] == [expected]


def test_business_hours_are_read_as_settings_write_them() -> None:
    assert parse_business_hours("Mon-Fri 09:00-18:00") == (32400, 64800, [0, 1, 2, 3, 4])
    assert parse_business_hours("Sun 00:00-24:00") == (0, 86400, [6])


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*pick(row, "account", "conversation_id", "session_number"), row.get("turn_number"))


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_sessions_and_turns_agree_with_a_second_formulation(tmp_path: Path, long_run: bool) -> None:
    hours = {"account-0": BERLIN, "account-2": Hours("America/New_York", 10, 20)}
    for seed in range(200 if long_run else 4):
        gap = (24, 24, 1, 6.5)[seed % 4]
        since = datetime(2026, (1, 3, 10)[seed % 3], 24, tzinfo=UTC)
        messages = random_world(seed, 150, since, timedelta(days=12), accounts=3)
        promised = {"account-0": (since + timedelta(days=3)).date(), "account-1": since.date()}
        until = since + timedelta(days=(9, 40)[seed % 2])
        root = write_world(tmp_path / str(seed), messages, promised, until)
        world = World(messages, timedelta(hours=gap), promised, until)
        for view, expected in (("response_turns", response_turns), ("sessions", sessions)):
            found = rows(root, view, settings_with(hours, gap))
            wanted = sorted(expected(world, hours), key=place)
            found.sort(key=place)
            assert found == wanted, f"{view}, seed {seed}"


NOT_FIRST = (
    "is_answered",
    "is_answered_in_time",
    "is_measured",
    "is_unanswered",
    "unanswered_since",
    "first_response_at",
    "first_response_seconds",
)
"""Columns of a session that another question before the complete days can change."""


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_what_is_not_marked_is_what_the_whole_inbox_says(tmp_path: Path, long_run: bool) -> None:
    """Whole and truncated worlds: a row that is not marked has the true value or null."""
    numbers = ("session_number", "turn_number")
    for seed in range(40 if long_run else 2):
        since = datetime(2026, 1, 1, tzinfo=UTC)
        whole = random_world(seed, 100, since, timedelta(days=12), is_known=True)
        first_day = (since + timedelta(days=3)).date()
        until = since + timedelta(days=10)
        brought, seen = broken_off(whole, until, seed)
        held = truncated(brought, first_day, seed)
        promised = {message.account: first_day for message in held}
        write_world(tmp_path / f"{seed}-whole", seen)
        write_world(tmp_path / f"{seed}-held", held, promised, until)
        for view in ("response_turns", "sessions"):
            truth = {
                pick(row, "account", "conversation_id", "started_at"): row
                for row in rows(tmp_path / f"{seed}-whole", view)
            }
            unmarked = only(rows(tmp_path / f"{seed}-held", view), is_lower_bound=False)
            assert len(unmarked) > 20
            for row in unmarked:
                wanted = truth[pick(row, "account", "conversation_id", "started_at")]
                unsure = NOT_FIRST if row.get("is_nudge", False) is None else ()
                known = [
                    name
                    for name in row
                    if row[name] is not None and name not in (*numbers, *unsure, "is_lower_bound")
                ]
                assert {name: row[name] for name in known} == {
                    name: wanted[name] for name in known
                }, (view, seed)


def test_the_documentation_names_only_what_exists(tmp_path: Path) -> None:
    text = (DOCS / "metrics.md").read_text()
    named = set(re.findall(r"`([a-z]+_[a-z0-9_]+|[a-z]+)`", text))
    (tmp_path / "runs").mkdir()
    with convo_pipeline.connect(tmp_path) as con:
        known = {
            name
            for row in con.sql("SELECT table_name, column_name FROM duckdb_columns()").fetchall()
            for name in row
        }
    known |= {
        "inbound",
        "outbound",
        "quick_reply",
        "automated_reply_seconds",
        "presence_minutes",
        "session_gap_hours",
        "business_hours",
        "timezone",
        "capture_sooner",
        "time_estimated",
    }
    assert named - known == set()
