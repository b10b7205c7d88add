"""Conversations at risk: the rule on worked examples, and on a real lake."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.extract.risk import (
    AccountRisks,
    ConversationRisk,
    assess,
    expect_count,
    find_risks,
    listing_interval,
    listing_times,
)
from convo_pipeline.settings import parse_settings
from convo_pipeline.state.records import Run
from tests.support.inboxes import serve, small_world

LISTED_AT = datetime(2026, 3, 9, 12, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


def ago(*minutes: float) -> list[datetime]:
    return sorted(LISTED_AT - timedelta(minutes=each) for each in minutes)


def test_the_worked_example_of_the_documentation() -> None:
    times = {
        "anna": ago(*range(1, 13)),
        "ben": ago(*range(1, 11)),
        "cleo": ago(*(600 + each / 4 for each in range(25))),
        "dora": ago(*(49 * 60 + each / 4 for each in range(25))),
    }
    assert assess(times, LISTED_AT, QUARTER) == (
        ConversationRisk("cleo", 25, timedelta(minutes=6)),
        ConversationRisk("anna", 24, timedelta(minutes=6, seconds=15)),
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], 0),
        (ago(0), 2),
        (ago(15), 1),
        (ago(14.99), 2),
        (ago(20, 34.99), 2),
        (ago(20, 35), 1),
        (ago(*[20] * 21), 21),
        (ago(*[2880] * 21), 0),
    ],
)
def test_an_interval_includes_its_end_and_excludes_its_start(
    times: list[datetime], expected: int
) -> None:
    assert expect_count(times, LISTED_AT, QUARTER) == expected


def test_the_interval_is_the_last_one_or_the_planned_one_if_longer() -> None:
    settings = parse_settings(b"")
    off = parse_settings(b"[schedule]\ncapture_minutes = 0\n")
    hour = timedelta(hours=1)
    assert listing_interval(settings, []) == QUARTER
    assert listing_interval(settings, [LISTED_AT, LISTED_AT - timedelta(minutes=4)]) == QUARTER
    assert listing_interval(settings, [LISTED_AT, LISTED_AT - hour]) == hour
    assert listing_interval(settings, [LISTED_AT, LISTED_AT - 100 * hour]) == 24 * hour
    assert listing_interval(off, [LISTED_AT, LISTED_AT - hour]) == 24 * hour


@pytest.mark.parametrize(
    ("kind", "outcome", "reasons", "is_listing"),
    [
        ("capture", "complete", (), True),
        ("find", "complete", (), False),
        ("nightly", "incomplete", ("conversation_failed",), True),
        ("nightly", "incomplete", ("conversation_failed", "throttled"), False),
        ("nightly", "failed", ("token",), False),
    ],
)
def test_only_runs_that_listed_the_whole_inbox_count(
    kind: str, outcome: str, reasons: tuple[str, ...], is_listing: bool
) -> None:
    run = Run("1", "insta", kind, LISTED_AT, outcome=outcome, reasons=reasons)
    assert listing_times([run]) == [LISTED_AT] * is_listing


def test_risks_come_and_go_with_the_stored_messages(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation("Anna")
    with serve(tmp_path, world) as inboxes:
        assert find_risks(inboxes.settings, inboxes.store, "insta") == AccountRisks(
            "insta", None, QUARTER
        )
        conversation.add_messages(12, inboxes.clock.now() - timedelta(minutes=12), step_seconds=60)
        inboxes.extract_whole()
        found = find_risks(inboxes.settings, inboxes.store, "insta")
        assert [
            (risk.expected_count, risk.capture_within.total_seconds()) for risk in found.risks
        ] == [(24, 375)]
        assert found.last_listed_at is not None
        assert found.due_at == found.last_listed_at + timedelta(seconds=375)
        assert find_risks(inboxes.settings, inboxes.store, "mess").risks == ()
        inboxes.clock.advance(15 * 60)
        inboxes.extract_whole()
        later = find_risks(inboxes.settings, inboxes.store, "insta")
        assert (later.risks, later.due_at) == ((), None)
