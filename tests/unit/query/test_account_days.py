"""`account_days`: a worked example, single rules, and an oracle over random worlds."""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from convo_pipeline.query.account_days import (
    compute_account_days,
    compute_first_responses,
    needed_days,
)
from convo_pipeline.query.reply_rules import ReplyRules
from convo_pipeline.schema import ACCOUNT_DAYS
from convo_pipeline.tables.complete_range import CompleteRange
from tests.support import metric_worlds
from tests.support.metric_worlds import LONG_TEXT, Message, as_table, random_world, truncated

DAY = date(2026, 3, 10)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
LONG_RANGE = CompleteRange(date(2026, 1, 1), LATER)


def at(clock: str, day: int = 10) -> datetime:
    return datetime.fromisoformat(f"2026-03-{day:02}T{clock}:00+00:00")


def say(conversation: str, moment: datetime, direction: str | None, **values: Any) -> Message:
    message_id = f"{conversation}-{moment.isoformat()}-{direction}"
    text = values.pop("text", "hello")
    return Message("bakery", conversation, message_id, moment, direction, text, **values)


def one_day(
    messages: list[Message],
    day: date = DAY,
    complete_range: CompleteRange | None = LONG_RANGE,
) -> dict[str, Any]:
    rows = compute_account_days(as_table(messages), [day], complete_range=complete_range)
    (row,) = rows[day].to_pylist()
    return dict(row)


def pick(row: dict[str, Any], *names: str) -> list[Any]:
    return [row[name] for name in names]


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


def test_worked_example() -> None:
    """docs/metrics.md, account_days."""
    assert one_day(EXAMPLE, complete_range=CompleteRange(date(2026, 3, 1), LATER)) == {
        "inbound_count": 4,
        "outbound_count": 3,
        "automated_count": 1,
        "unsure_automated_count": 0,
        "unknown_count": 1,
        "active_conversation_count": 4,
        "active_customer_count": 4,
        "new_customer_count": 3,
        "returning_customer_count": 1,
        "history_days": 9,
        "session_count": 4,
        "measured_session_count": 3,
        "acknowledged_session_count": 0,
        "answered_session_count": 3,
        "median_first_response_seconds": 7200.0,
        "median_first_response_seconds_min": 3900.0,
        "median_first_response_seconds_max": 61200.0,
        "p90_first_response_seconds": 7200 + 0.8 * (32 * 3600 - 7200),
        "share_answered_1h": 1 / 3,
        "share_answered_1h_min": 1 / 4,
        "share_answered_1h_max": 2 / 4,
        "share_answered_24h": 2 / 3,
        "share_answered_24h_min": 2 / 4,
        "share_answered_24h_max": 3 / 4,
        "in_hours_session_count": None,
        "out_of_hours_session_count": None,
        "median_first_response_business_seconds": None,
        "backlog_count": 1,
        "backlog_count_max": 2,
        "text_count": 5,
        "media_count": 1,
        "share_count": 0,
        "story_count": 1,
        "other_count": 1,
        "reaction_count": 1,
        "responsiveness_measured_count": 3,
        "responsiveness_unsure_count": 1,
        "responsiveness_rate": 2 / 3,
        "responsiveness_seconds": 3900.0,
        "is_very_responsive": False,
        "responsiveness_version": "meta-badge-2016.1",
        "is_lower_bound": True,
        "is_backlog_lower_bound": True,
        "is_complete": True,
        "has_ended": True,
        "is_final": True,
    }


def test_first_responses_of_the_worked_example() -> None:
    complete_range = CompleteRange(date(2026, 3, 1), LATER)
    found = compute_first_responses(as_table(EXAMPLE), [DAY], complete_range=complete_range)
    assert sorted(found.seconds) == [600, 7200, 32 * 3600]
    assert (found.unanswered_count, found.unknown_count) == (0, 1)
    ignored = [message for message in EXAMPLE if message.conversation_id != "cleo"]
    ignored.append(say("cleo", at("23:00"), "inbound"))
    found = compute_first_responses(as_table(ignored), [DAY], complete_range=complete_range)
    assert (sorted(found.seconds), found.unanswered_count) == ([600, 7200], 1)
    ignored[-1] = replace(ignored[-1], has_own_reaction=True)
    found = compute_first_responses(as_table(ignored), [DAY], complete_range=complete_range)
    assert (found.unanswered_count, found.acknowledged_count) == (0, 1)


def test_late_response_counts_on_the_day_of_the_question() -> None:
    before = one_day([message for message in EXAMPLE if message.created_at < at("00:00", 12)])
    assert before["answered_session_count"] == 2
    assert one_day(EXAMPLE)["answered_session_count"] == 3


def test_response_after_the_seventh_day_does_not_count() -> None:
    question = say("anna", at("10:00"), "inbound")
    for clock, day, count in (("23:59", 17, 1), ("00:00", 18, 0)):
        row = one_day([question, say("anna", at(clock, day), "outbound")])
        assert row["answered_session_count"] == count


def test_conversation_stays_in_the_backlog_for_28_days() -> None:
    waiting = say("anna", datetime(2026, 2, 10, 12, tzinfo=UTC), "inbound")
    other = [say("ben", at("10:00"), "outbound"), say("ben", at("10:00", 11), "outbound")]
    assert one_day([waiting, *other])["backlog_count"] == 1
    assert one_day([waiting, *other], date(2026, 3, 11))["backlog_count"] == 0


def test_automated_reply_does_not_empty_the_backlog() -> None:
    question = say("anna", at("10:00"), "inbound")
    for seconds, count in ((3, 1), (9, 0)):
        reply = say("anna", at("10:00") + timedelta(seconds=seconds), "outbound")
        assert one_day([question, reply])["backlog_count"] == count


def test_very_responsive_needs_nine_of_ten_within_15_minutes() -> None:
    questions = [say(f"t_{index}", at("10:00"), "inbound") for index in range(10)]
    replies = [say(f"t_{index}", at("10:15"), "outbound", text=f"{index}") for index in range(9)]
    names = ("responsiveness_rate", "responsiveness_seconds", "is_very_responsive")
    assert pick(one_day(questions + replies), *names) == [0.9, 900, True]
    slower = [replace(message, created_at=at("10:16")) for message in replies]
    assert one_day(questions + slower)["is_very_responsive"] is False
    assert one_day(questions + replies[1:])["is_very_responsive"] is False


def test_day_without_a_message_has_no_row() -> None:
    days = [date(2026, 3, 11), date(2027, 1, 1)]
    assert compute_account_days(as_table(EXAMPLE), days, complete_range=LONG_RANGE) == {}
    assert compute_account_days(as_table([]), [DAY], complete_range=LONG_RANGE) == {}


def test_row_has_the_schema_of_the_table() -> None:
    rows = compute_account_days(as_table(EXAMPLE), [DAY], complete_range=None)
    assert rows[DAY].schema.equals(ACCOUNT_DAYS.schema, check_metadata=True)


def test_messages_of_one_second_are_ordered_by_rank_then_id() -> None:
    first = Message("bakery", "anna", "m_b", at("10:00"), "outbound", order_in_second=0)
    second = Message("bakery", "anna", "m_a", at("10:00"), "inbound", order_in_second=1)
    assert one_day([second, first])["automated_count"] == 0
    assert one_day([replace(first, order_in_second=1), second])["automated_count"] == 1


@pytest.mark.hunt
def test_row_does_not_depend_on_the_other_days(long_run: bool) -> None:
    for seed in range(30 if long_run else 4):
        span = timedelta(days=70)
        since = datetime(2026, 1, 1, tzinfo=UTC)
        world = random_world(seed, 80, since, span, accounts=1)
        days = [since.date() + timedelta(days=index) for index in range(span.days)]
        complete_range = CompleteRange(days[9], since + timedelta(days=60, minutes=15))
        together = compute_account_days(as_table(world), days, complete_range=complete_range)
        for day in days if long_run else days[seed::7]:
            first, last = needed_days(day)
            near = [message for message in world if first <= message.created_at.date() < last]
            alone = compute_account_days(as_table(near), [day], complete_range=complete_range)
            assert alone.get(day) == together.get(day), (seed, day)


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_rows_agree_with_loops_over_random_worlds(long_run: bool) -> None:
    for seed in range(300 if long_run else 12):
        span = timedelta(days=(26, 9, 70, 45)[seed % 4])
        since = datetime(2026, 1, 1, tzinfo=UTC)
        gap_hours = (24, 24, 1, 6.5, 48)[seed % 5]
        messages = random_world(seed, 60, since, span, accounts=1)
        if seed % 3 == 0:
            messages = truncated(messages, (since + timedelta(days=4)).date(), seed)
        complete_range = CompleteRange(
            (since + timedelta(days=seed % 14)).date(),
            since + span - timedelta(hours=seed * 7 % 190),
        )
        known_range = None if seed % 11 == 10 else complete_range
        hours = metric_worlds.Hours("America/New_York", 8, 20) if seed % 2 else None
        texts = ("America/New_York", "Mon-Fri 08:00-20:00") if hours else ()
        rules = ReplyRules(gap_hours, 5, 60, *texts)
        days = [since.date() + timedelta(days=index) for index in range(span.days)]
        found = compute_account_days(
            as_table(messages), days, complete_range=known_range, rules=rules
        )
        wanted = metric_worlds.account_days(messages, days, known_range, rules.session_gap, hours)
        assert found.keys() == wanted.keys()
        for day, row in found.items():
            assert_same(row.to_pylist()[0], wanted[day], (seed, day))


def test_incomplete_day_has_no_median() -> None:
    row = one_day(EXAMPLE, complete_range=CompleteRange(date(2026, 3, 11), LATER))
    flags = ("is_lower_bound", "is_backlog_lower_bound", "is_complete", "is_final")
    assert pick(row, *flags) == [True, True, False, False]
    assert pick(row, "history_days", "inbound_count") == [0, 4]
    times = ("median_first_response_seconds", "p90_first_response_seconds")
    shares = ("share_answered_1h", "share_answered_24h")
    responsive = ("responsiveness_rate", "responsiveness_seconds", "is_very_responsive")
    assert pick(row, *times, *shares, *responsive) == [None] * 7
    assert one_day(EXAMPLE, complete_range=None) == row | {"has_ended": False}


def test_first_complete_day_and_short_history_are_lower_bounds() -> None:
    messages = [say("anna", at("10:00"), "inbound"), say("anna", at("10:05"), "outbound")]
    names = ("is_lower_bound", "is_backlog_lower_bound", "history_days")
    for since, expected in ((10, [True, True, 0]), (9, [False, True, 1])):
        row = one_day(messages, complete_range=CompleteRange(date(2026, 3, since), LATER))
        assert pick(row, *names) == expected
    assert one_day(messages)["is_backlog_lower_bound"] is False


def test_session_that_may_begin_before_the_complete_range_is_not_measured() -> None:
    """The customer may have written first on the 8th, which is not complete."""
    world = [
        say("anna", at("12:00", 9), "outbound"),
        say("anna", at("10:00"), "inbound"),
        say("anna", at("11:00"), "outbound"),
    ]
    names = ("session_count", "measured_session_count", "median_first_response_seconds")
    for since, expected in ((9, [1, 0, None]), (8, [1, 1, 3600])):
        row = one_day(world, complete_range=CompleteRange(date(2026, 3, since), LATER))
        assert pick(row, *names) == expected


def test_week_with_an_incomplete_day_has_no_responsiveness() -> None:
    messages = [say("anna", at("10:00"), "inbound"), say("anna", at("10:05"), "outbound")]
    for since, rate in ((5, None), (4, 1)):
        row = one_day(messages, complete_range=CompleteRange(date(2026, 3, since), LATER))
        assert row["responsiveness_rate"] == rate


def test_badge_is_null_where_unread_messages_decide() -> None:
    answered = [say("anna", at("10:00"), "inbound"), say("anna", at("10:01"), "outbound")]
    unread = [say(f"t_{index}", at("10:00", 9), None) for index in range(50)]
    replies = [
        say(f"t_{index}", at("09:00"), "outbound", text=f"hello number {index}")
        for index in range(50)
    ]
    row = one_day(answered + unread + replies)
    assert pick(row, "responsiveness_measured_count", "responsiveness_unsure_count") == [1, 50]
    assert row["is_very_responsive"] is None
    ignored = [say(f"i_{index}", at("12:00"), "inbound") for index in range(20)]
    assert one_day([*answered, *unread[:1], *replies[:1], *ignored])["is_very_responsive"] is False


def test_share_is_null_until_its_time_after_the_day_has_passed() -> None:
    question = [say("anna", at("23:50"), "inbound")]
    shares = ("share_answered_1h", "share_answered_24h", "responsiveness_rate")
    for until, expected in (
        (at("23:59"), [None, None, None, True, False]),
        (at("00:15", 11), [None, None, 0, False, False]),
        (at("01:00", 11), [0, None, 0, False, False]),
        (at("00:00", 12), [0, 0, 0, False, False]),
        (at("00:00", 18), [0, 0, 0, False, True]),
    ):
        row = one_day(question, complete_range=CompleteRange(date(2026, 1, 1), until))
        assert pick(row, *shares, "is_lower_bound", "is_final") == expected, until


def test_instant_reply_in_two_messages_is_automated_twice() -> None:
    moment = at("10:00")
    instant = [
        say("anna", moment + timedelta(seconds=wait), "outbound", text=f"{wait}") for wait in (2, 3)
    ]
    reply = say("anna", at("15:00"), "outbound", text="yes")
    row = one_day([say("anna", moment, "inbound"), *instant, reply])
    assert pick(row, "automated_count", "median_first_response_seconds") == [2, 5 * 3600]


def test_instant_reply_to_an_unread_message_may_be_automated() -> None:
    moment = at("23:59") + timedelta(seconds=58)
    world = [say("anna", moment, None), say("anna", moment + timedelta(seconds=3), "outbound")]
    row = one_day(world, date(2026, 3, 11))
    counts = ("outbound_count", "automated_count", "unknown_count", "backlog_count")
    assert pick(row, *counts, "is_lower_bound") == [1, 0, 0, 0, True]


@pytest.mark.hunt
@pytest.mark.timeout(1800)
def test_unmarked_figures_equal_those_of_the_whole_inbox(long_run: bool) -> None:
    """The same worlds whole and truncated: a figure that is neither null nor marked is the same."""
    counts = ("inbound_count", "outbound_count", "automated_count", "text_count")
    seen: set[str] = set()
    for seed in range(100 if long_run else 6):
        since, span = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=60)
        whole = random_world(seed, 60, since, span, accounts=1, is_known=True)
        complete_range = CompleteRange((since + timedelta(days=10)).date(), LATER)
        days = [since.date() + timedelta(days=index) for index in range(span.days)]
        truth = compute_account_days(as_table(whole), days, complete_range=LONG_RANGE)
        stored = as_table(truncated(whole, complete_range.since, seed, 0.1))
        rows = compute_account_days(stored, days, complete_range=complete_range)
        for day, table in rows.items():
            (row,), (wanted,) = table.to_pylist(), truth[day].to_pylist()
            sure = [] if row["is_lower_bound"] else [*counts]
            sure += [] if row["is_backlog_lower_bound"] else ["backlog_count"]
            sure += [] if row["is_very_responsive"] is None else ["is_very_responsive"]
            if row["responsiveness_unsure_count"] == 0 and row["responsiveness_rate"] is not None:
                sure += ["responsiveness_rate", "responsiveness_seconds"]
            is_measured = row["measured_session_count"] == row["session_count"]
            if not row["is_lower_bound"] and is_measured:
                sure += ["session_count", "answered_session_count"]
                sure += ["median_first_response_seconds", "share_answered_24h"]
            assert pick(row, *sure) == pick(wanted, *sure), (seed, day)
            seen.update(sure)
    assert len(seen) == len(counts) + 8


def assert_same(found: dict[str, Any], wanted: dict[str, Any], where: object) -> None:
    """Compare whole values; ratios may differ in the last digit."""
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        other = wanted[name]
        is_ratio = isinstance(value, float) and other is not None
        assert math.isclose(value, other) if is_ratio else value == other, (where, name)
