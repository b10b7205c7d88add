"""`extract.inbox` and `extract.account`: decisions from the stored state."""

from datetime import UTC, date, datetime, timedelta

import pytest

from convo_pipeline.extract.account import Plan, plan_run
from convo_pipeline.extract.inbox import StoredConversations
from convo_pipeline.extract.report import Mode
from convo_pipeline.state.records import REFUSED, REFUSED_PART, ConversationState
from convo_pipeline.tables.complete_range import CompleteRange


def stored(
    *,
    updated_us: int | None = 50,
    complete_since_us: int | None = 10,
    due_reason: str | None = None,
    reread_since_us: int | None = None,
    is_sweep: bool = False,
) -> StoredConversations:
    state = ConversationState("c", updated_us, "m", complete_since_us, due_reason)
    return StoredConversations(
        {"c": state},
        reread_since_us=reread_since_us,
        trusted_before_us=40,
        is_sweep=is_sweep,
    )


def test_a_conversation_is_current_if_nothing_can_be_new() -> None:
    assert stored().is_current("c", 50, since_us=10)


@pytest.mark.parametrize(
    ("conversations", "updated_us", "since_us"),
    [
        (stored(), 51, 10),
        (stored(), None, 10),
        (stored(updated_us=None), None, 10),
        (stored(), 50, 9),
        (stored(complete_since_us=None), 50, 10),
        (stored(due_reason="answer"), 50, 10),
        (stored(reread_since_us=50), 50, 10),
    ],
    ids=["active", "no_time", "no_times", "deeper", "incomplete", "due", "reread"],
)
def test_a_conversation_is_not_current(
    conversations: StoredConversations, updated_us: int | None, since_us: int
) -> None:
    assert not conversations.is_current("c", updated_us, since_us)


def test_an_older_conversation_is_not_reread() -> None:
    assert stored(reread_since_us=51).is_current("c", 50, since_us=10)


def test_an_unknown_conversation_is_not_current() -> None:
    assert not stored().is_current("other", 50, 10)
    assert not stored().is_due("other")


def test_only_times_before_the_complete_range_ends_are_trusted() -> None:
    assert [stored().is_trusted(us) for us in (39, 40, None)] == [True, False, False]
    assert not StoredConversations().is_trusted(1)


@pytest.mark.parametrize(
    ("due_reason", "is_due", "is_due_in_sweep"),
    [
        (None, False, False),
        ("answer", True, True),
        (REFUSED, False, True),
        (REFUSED_PART, False, True),
    ],
)
def test_a_sweep_reads_conversations_that_were_refused(
    due_reason: str | None, is_due: bool, is_due_in_sweep: bool
) -> None:
    usual, sweep = stored(due_reason=due_reason), stored(due_reason=due_reason, is_sweep=True)
    assert (usual.is_due("c"), sweep.is_due("c")) == (is_due, is_due_in_sweep)


NOW = datetime(2026, 3, 9, tzinfo=UTC)
COMPLETE = CompleteRange(date(2026, 1, 1), datetime(2026, 3, 8, 12, tzinfo=UTC))


def midnight(month: int, day: int) -> datetime:
    return datetime(2026, month, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("mode", "since", "complete", "plan"),
    [
        ("window", date(2026, 3, 8), None, Plan(date(2026, 3, 8), midnight(3, 8), False)),
        ("window", date(2026, 3, 8), COMPLETE, Plan(date(2026, 3, 8), COMPLETE.until, True)),
        ("window", date(2025, 12, 31), COMPLETE, Plan(date(2025, 12, 31), datetime(2025, 12, 31,
            tzinfo=UTC), False)),
        ("window", COMPLETE.since, COMPLETE, Plan(COMPLETE.since, COMPLETE.until, True)),
        ("nightly", date(2026, 3, 8), COMPLETE, Plan(date(2026, 3, 8), NOW - timedelta(days=2),
            True)),
        ("full", date(2026, 3, 1), COMPLETE, Plan(date(2026, 3, 1), midnight(3, 1), False)),
        ("full", date(2026, 3, 9), COMPLETE, Plan(date(2026, 3, 9), COMPLETE.until, False)),
        ("capture", date(2026, 3, 9), COMPLETE, Plan(COMPLETE.since, COMPLETE.until, True)),
        ("capture", date(2026, 3, 9), None, Plan(date(2026, 3, 8), midnight(3, 8), False)),
    ],
)  # fmt: skip
def test_a_plan_lists_as_far_as_nothing_is_proved(
    mode: Mode, since: date, complete: CompleteRange | None, plan: Plan
) -> None:
    assert plan_run(mode, since, NOW, complete, recheck_days=2) == plan
