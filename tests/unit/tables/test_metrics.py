"""`account_days`: a worked example, the laws it keeps, and the same figures by SQL over random worlds."""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import convo_pipeline
from convo_pipeline.schema import ACCOUNT_DAYS
from convo_pipeline.tables.complete_range import CompleteRange
from convo_pipeline.tables.metrics import account_days, changed_days, needed_days
from tests.support.metric_worlds import (
    LONG_TEXT,
    Message,
    as_table,
    random_world,
    truncated,
    write_world,
)
from tests.support.paths import ROOT

SQL = (ROOT / "benchmarks" / "account_days.sql").read_text()
DAY = date(2026, 3, 10)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
LONG_RANGE = CompleteRange(date(2026, 1, 1), LATER)


def at(clock: str, day: int = 10) -> datetime:
    return datetime.fromisoformat(f"2026-03-{day:02}T{clock}:00+00:00")


def say(conversation: str, moment: datetime, direction: str | None, **values: Any) -> Message:
    message_id = f"{conversation}-{moment.isoformat()}-{direction}"
    return Message(
        "bakery", conversation, message_id, moment, direction, values.pop("text", "hello"), **values
    )


def one_day(
    messages: list[Message], day: date = DAY, complete_range: CompleteRange | None = LONG_RANGE
) -> dict[str, Any]:
    (row,) = account_days(as_table(messages), [day], complete_range=complete_range)[day].to_pylist()
    return dict(row)


EXAMPLE = [
    say("anna", at("09:00", 1), "inbound"),
    say("anna", at("09:10", 1), "outbound"),
    say("anna", at("10:00"), "inbound", reaction_count=1),
    say("anna", at("10:10"), "outbound"),
    say("ben", at("11:00"), "inbound", content_type="image"),
    say("ben", at("11:00") + timedelta(seconds=2), "outbound", text=LONG_TEXT),
    say("ben", at("13:00"), "outbound"),
    say("cleo", at("23:00"), "inbound", content_type="story_reply"),
    say("cleo", at("07:00", 12), "outbound"),
    say("dora", at("15:00"), "inbound"),
    say("dora", at("15:30"), None, content_type="unavailable", reaction_count=None),
]


def test_the_worked_example_of_a_day() -> None:
    """docs/metrics.md, account_days."""
    assert one_day(EXAMPLE, complete_range=CompleteRange(date(2026, 3, 1), LATER)) == {
        "inbound_count": 4,
        "outbound_count": 3,
        "automated_count": 1,
        "unknown_count": 1,
        "active_conversation_count": 4,
        "active_customer_count": 4,
        "new_customer_count": 3,
        "returning_customer_count": 1,
        "history_days": 9,
        "session_count": 4,
        "judged_session_count": 3,
        "answered_session_count": 3,
        "median_first_response_seconds": 7200.0,
        "p90_first_response_seconds": 7200 + 0.8 * (32 * 3600 - 7200),
        "share_answered_1h": 1 / 3,
        "share_answered_24h": 2 / 3,
        "backlog_count": 1,
        "text_count": 5,
        "media_count": 1,
        "share_count": 0,
        "story_count": 1,
        "other_count": 1,
        "reaction_count": 1,
        "responsiveness_judged_count": 3,
        "responsiveness_unsure_count": 1,
        "responsiveness_rate": 2 / 3,
        "responsiveness_seconds": 3900.0,
        "is_very_responsive": False,
        "responsiveness_version": "meta-badge-2016.1",
        "is_lower_bound": True,
        "is_backlog_lower_bound": True,
        "is_promised": True,
        "is_over": True,
        "is_final": True,
    }


def test_a_late_answer_changes_the_day_it_answers() -> None:
    before = one_day([message for message in EXAMPLE if message.created_at < at("00:00", 12)])
    assert before["answered_session_count"] == 2
    assert one_day(EXAMPLE)["answered_session_count"] == 3
    first, last = changed_days(date(2026, 3, 12))
    assert first <= DAY < last


def test_an_answer_after_the_seventh_day_is_no_answer() -> None:
    asked = say("anna", at("10:00"), "inbound")
    for clock, day, count in (("23:59", 17, 1), ("00:00", 18, 0)):
        assert (
            one_day([asked, say("anna", at(clock, day), "outbound")])["answered_session_count"]
            == count
        )


def test_a_conversation_waits_in_the_backlog_for_28_days() -> None:
    waiting = say("anna", datetime(2026, 2, 10, 12, tzinfo=UTC), "inbound")
    other = [say("ben", at("10:00"), "outbound"), say("ben", at("10:00", 11), "outbound")]
    assert one_day([waiting, *other])["backlog_count"] == 1
    assert one_day([waiting, *other], date(2026, 3, 11))["backlog_count"] == 0


def test_an_automated_reply_does_not_empty_the_backlog() -> None:
    asked = say("anna", at("10:00"), "inbound")
    assert (
        one_day([asked, say("anna", at("10:00") + timedelta(seconds=3), "outbound")])[
            "backlog_count"
        ]
        == 1
    )
    assert (
        one_day([asked, say("anna", at("10:00") + timedelta(seconds=9), "outbound")])[
            "backlog_count"
        ]
        == 0
    )


def test_nine_of_ten_answered_within_a_quarter_of_an_hour_is_very_responsive() -> None:
    asked = [say(f"t_{index}", at("10:00"), "inbound") for index in range(10)]
    answers = [say(f"t_{index}", at("10:15"), "outbound", text=f"{index}") for index in range(9)]
    row = one_day(asked + answers)
    assert (
        row["responsiveness_rate"],
        row["responsiveness_seconds"],
        row["is_very_responsive"],
    ) == (0.9, 900, True)
    slower = [replace(message, created_at=at("10:16")) for message in answers]
    assert one_day(asked + slower)["is_very_responsive"] is False
    assert one_day(asked + answers[1:])["is_very_responsive"] is False


def test_a_day_without_a_message_has_no_row() -> None:
    days = [date(2026, 3, 11), date(2027, 1, 1)]
    assert account_days(as_table(EXAMPLE), days, complete_range=LONG_RANGE) == {}
    assert account_days(as_table([]), [DAY], complete_range=LONG_RANGE) == {}


def test_the_row_has_the_schema_of_the_table() -> None:
    assert account_days(as_table(EXAMPLE), [DAY], complete_range=None)[DAY].schema.equals(
        ACCOUNT_DAYS.schema, check_metadata=True
    )


def test_messages_of_one_second_are_ordered_by_rank_then_id() -> None:
    first = Message("bakery", "anna", "m_b", at("10:00"), "outbound", tie_rank=0)
    second = Message("bakery", "anna", "m_a", at("10:00"), "inbound", tie_rank=1)
    assert one_day([second, first])["automated_count"] == 0
    assert one_day([replace(first, tie_rank=1), second])["automated_count"] == 1


@pytest.mark.hunt
def test_a_day_is_the_same_made_alone_or_with_all_others(long_run: bool) -> None:
    for seed in range(30 if long_run else 3):
        span = timedelta(days=70)
        since = datetime(2026, 1, 1, tzinfo=UTC)
        world = random_world(seed, 80, since, span, accounts=1)
        days = [since.date() + timedelta(days=index) for index in range(span.days)]
        complete_range = CompleteRange(days[9], since + timedelta(days=60, minutes=15))
        together = account_days(as_table(world), days, complete_range=complete_range)
        for day in days:
            first, last = needed_days(day)
            near = [message for message in world if first <= message.created_at.date() < last]
            alone = account_days(as_table(near), [day], complete_range=complete_range)
            assert alone.get(day) == together.get(day), (seed, day)


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_the_figures_agree_with_sql(tmp_path: Path, long_run: bool) -> None:
    for seed in range(200 if long_run else 4):
        span = timedelta(days=(26, 9)[seed % 2])
        since = datetime(2026, 1, 1, tzinfo=UTC)
        messages = random_world(seed, 120, since, span)
        complete_range = CompleteRange(
            (since + timedelta(days=seed % 4)).date(), since + span - timedelta(hours=seed % 48)
        )
        options = {
            "since": complete_range.since,
            "until": complete_range.until,
            "edge": timedelta(hours=24),
        }
        with convo_pipeline.connect(write_world(tmp_path / str(seed), messages)) as con:
            found_rows = con.sql(SQL, params=options).to_arrow_table().to_pylist()
        wanted = {(row["account"], row["date"]): row for row in found_rows}
        days = sorted({day for _, day in wanted})
        found = {
            (account, day): table.to_pylist()[0]
            for account in sorted({message.account for message in messages})
            for day, table in account_days(
                as_table(message for message in messages if message.account == account),
                days,
                complete_range=complete_range,
            ).items()
        }
        assert found.keys() == wanted.keys()
        for key, row in found.items():
            assert_same(row, wanted[key], (seed, key))


def test_a_day_that_no_run_promised_says_so_and_has_no_median() -> None:
    row = one_day(EXAMPLE, complete_range=CompleteRange(date(2026, 3, 11), LATER))
    marks = (
        "is_lower_bound",
        "is_backlog_lower_bound",
        "is_promised",
        "is_final",
        "history_days",
        "inbound_count",
    )
    assert [row[name] for name in marks] == [True, True, False, False, 0, 4]
    unknown = ("median_first_response_seconds", "p90_first_response_seconds", "share_answered_1h", "share_answered_24h",
               "responsiveness_rate", "responsiveness_seconds", "is_very_responsive")  # fmt: skip
    assert [row[name] for name in unknown] == [None] * 7
    assert one_day(EXAMPLE, complete_range=None) == row | {"is_over": False}


def test_the_first_promised_day_and_a_short_history_are_marked() -> None:
    answered = [say("anna", at("10:00"), "inbound"), say("anna", at("10:05"), "outbound")]
    marks = ("is_lower_bound", "is_backlog_lower_bound", "history_days")
    for since, expected in ((10, [True, True, 0]), (9, [False, True, 1])):
        row = one_day(answered, complete_range=CompleteRange(date(2026, 3, since), LATER))
        assert [row[name] for name in marks] == expected
    assert one_day(answered)["is_backlog_lower_bound"] is False


def test_a_session_that_may_have_begun_before_the_promised_days_is_not_judged_on_a_later_one() -> (
    None
):
    """The customer may have written first on the 8th, which nobody promised."""
    world = [
        say("anna", at("12:00", 9), "outbound"), say("anna", at("10:00"), "inbound"), say("anna", at("11:00"), "outbound")
    ]  # fmt: skip
    names = ("session_count", "judged_session_count", "median_first_response_seconds")
    for since, expected in ((9, [1, 0, None]), (8, [1, 1, 3600])):
        row = one_day(world, complete_range=CompleteRange(date(2026, 3, since), LATER))
        assert [row[name] for name in names] == expected


def test_a_week_that_was_not_promised_whole_gives_no_responsiveness() -> None:
    answered = [say("anna", at("10:00"), "inbound"), say("anna", at("10:05"), "outbound")]
    assert (
        one_day(answered, complete_range=CompleteRange(date(2026, 3, 5), LATER))[
            "responsiveness_rate"
        ]
        is None
    )
    assert (
        one_day(answered, complete_range=CompleteRange(date(2026, 3, 4), LATER))[
            "responsiveness_rate"
        ]
        == 1
    )


def test_unread_messages_of_the_week_leave_the_badge_open() -> None:
    answered = [say("anna", at("10:00"), "inbound"), say("anna", at("10:01"), "outbound")]
    unread = [say(f"t_{index}", at("10:00", 9), None) for index in range(50)]
    replies = [
        say(f"t_{index}", at("09:00"), "outbound", text=f"hello number {index}")
        for index in range(50)
    ]
    row = one_day(answered + unread + replies)
    assert (row["responsiveness_judged_count"], row["responsiveness_unsure_count"]) == (1, 50)
    assert row["is_very_responsive"] is None
    ignored = [say(f"i_{index}", at("12:00"), "inbound") for index in range(20)]
    assert one_day([*answered, *unread[:1], *replies[:1], *ignored])["is_very_responsive"] is False


def test_a_day_that_is_not_over_is_not_judged_by_the_answers_it_may_still_get() -> None:
    asked = [say("anna", at("23:50"), "inbound")]
    names = (
        "share_answered_1h",
        "share_answered_24h",
        "responsiveness_rate",
        "is_lower_bound",
        "is_final",
    )
    for until, expected in (
        (at("23:59"), [None, None, None, True, False]),
        (at("00:15", 11), [None, None, 0, False, False]),
        (at("01:00", 11), [0, None, 0, False, False]),
        (at("00:00", 12), [0, 0, 0, False, False]),
        (at("00:00", 18), [0, 0, 0, False, True]),
    ):
        row = one_day(asked, complete_range=CompleteRange(date(2026, 1, 1), until))
        assert [row[name] for name in names] == expected, until


def test_an_instant_reply_in_two_bubbles_is_automated_twice() -> None:
    moment = at("10:00")
    bubbles = [
        say("anna", moment + timedelta(seconds=wait), "outbound", text=f"{wait}") for wait in (2, 3)
    ]
    row = one_day(
        [say("anna", moment, "inbound"), *bubbles, say("anna", at("15:00"), "outbound", text="yes")]
    )
    assert (row["automated_count"], row["median_first_response_seconds"]) == (2, 5 * 3600)


def test_a_reply_at_once_after_an_unread_message_may_be_automated() -> None:
    moment = at("23:59") + timedelta(seconds=58)
    world = [say("anna", moment, None), say("anna", moment + timedelta(seconds=3), "outbound")]
    row = one_day(world, date(2026, 3, 11))
    names = (
        "outbound_count",
        "automated_count",
        "unknown_count",
        "backlog_count",
        "is_lower_bound",
    )
    assert [row[name] for name in names] == [1, 0, 0, 0, True]


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_what_is_not_marked_is_what_the_whole_inbox_says(long_run: bool) -> None:
    """The same worlds whole and truncated: a figure that is neither null nor marked is the true one."""
    counts = ("inbound_count", "outbound_count", "automated_count", "text_count")
    seen: set[str] = set()
    for seed in range(100 if long_run else 6):
        since, span = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=60)
        whole = random_world(seed, 60, since, span, accounts=1, is_known=True)
        complete_range = CompleteRange((since + timedelta(days=10)).date(), LATER)
        days = [since.date() + timedelta(days=index) for index in range(span.days)]
        truth = account_days(as_table(whole), days, complete_range=LONG_RANGE)
        for day, table in account_days(
            as_table(truncated(whole, complete_range.since, seed, 0.1)),
            days,
            complete_range=complete_range,
        ).items():
            (found,), (wanted,) = table.to_pylist(), truth[day].to_pylist()
            sure = [] if found["is_lower_bound"] else [*counts]
            sure += [] if found["is_backlog_lower_bound"] else ["backlog_count"]
            sure += [] if found["is_very_responsive"] is None else ["is_very_responsive"]
            if (
                found["responsiveness_unsure_count"] == 0
                and found["responsiveness_rate"] is not None
            ):
                sure += ["responsiveness_rate", "responsiveness_seconds"]
            if (
                not found["is_lower_bound"]
                and found["judged_session_count"] == found["session_count"]
            ):
                sure += [
                    "session_count",
                    "answered_session_count",
                    "median_first_response_seconds",
                    "share_answered_24h",
                ]
            assert {name: found[name] for name in sure} == {name: wanted[name] for name in sure}, (
                seed,
                day,
            )
            seen.update(sure)
    assert len(seen) == len(counts) + 8


def assert_same(found: dict[str, Any], wanted: dict[str, Any], where: object) -> None:
    """Whole values; ratios to the last digits."""
    for name, value in found.items():
        other = wanted[name]
        is_same = (
            math.isclose(value, other)
            if isinstance(value, float) and other is not None
            else value == other
        )
        assert is_same, (where, name, value, other)
