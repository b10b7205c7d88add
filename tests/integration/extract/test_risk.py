"""What may be lost before the next look: the rule by hand, and on a real lake."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.extract.risk import (
    AccountRisks,
    Risk,
    assess,
    expect_count,
    find_risks,
    gap_between_looks,
    looks_of,
)
from convo_pipeline.settings import parse_settings
from convo_pipeline.state.records import Run
from tests.support.inboxes import serve, small_world

LOOK = datetime(2026, 3, 9, 12, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


def ago(*minutes: float) -> list[datetime]:
    return sorted(LOOK - timedelta(minutes=each) for each in minutes)


def test_the_worked_example_of_the_documentation() -> None:
    times = {
        "anna": ago(*range(1, 13)),
        "ben": ago(*range(1, 11)),
        "cleo": ago(*(600 + each / 4 for each in range(25))),
        "dora": ago(*(49 * 60 + each / 4 for each in range(25))),
    }
    assert assess(times, LOOK, QUARTER) == (
        Risk("cleo", 25, timedelta(minutes=6)),
        Risk("anna", 24, timedelta(minutes=6, seconds=15)),
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
def test_a_gap_holds_its_end_and_not_its_start(times: list[datetime], expected: int) -> None:
    assert expect_count(times, LOOK, QUARTER) == expected


def test_the_gap_is_what_really_lay_between_two_looks_and_never_less_than_planned() -> None:
    settings = parse_settings(b"")
    off = parse_settings(b"[schedule]\ncapture_minutes = 0\n")
    hour = timedelta(hours=1)
    assert gap_between_looks(settings, []) == QUARTER
    assert gap_between_looks(settings, [LOOK, LOOK - timedelta(minutes=4)]) == QUARTER
    assert gap_between_looks(settings, [LOOK, LOOK - hour]) == hour
    assert gap_between_looks(settings, [LOOK, LOOK - 100 * hour]) == 24 * hour
    assert gap_between_looks(off, [LOOK, LOOK - hour]) == 24 * hour


@pytest.mark.parametrize(
    ("kind", "outcome", "reasons", "is_look"),
    [
        ("capture", "complete", (), True),
        ("find", "complete", (), False),
        ("nightly", "incomplete", ("conversation_failed",), True),
        ("nightly", "incomplete", ("conversation_failed", "throttled"), False),
        ("nightly", "failed", ("token",), False),
    ],
)
def test_a_look_is_a_run_that_listed_the_inbox_to_its_end(
    kind: str, outcome: str, reasons: tuple[str, ...], is_look: bool
) -> None:
    run = Run("1", "insta", kind, LOOK, outcome=outcome, reasons=reasons)
    assert looks_of([run]) == [LOOK] * is_look


def test_risks_are_found_in_the_lake_and_calm_down(tmp_path: Path) -> None:
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
            (risk.expected_count, risk.look_within.total_seconds()) for risk in found.risks
        ] == [(24, 375)]
        assert found.last_look is not None
        assert found.due_at == found.last_look + timedelta(seconds=375)
        assert find_risks(inboxes.settings, inboxes.store, "mess").risks == ()
        inboxes.clock.advance(15 * 60)
        inboxes.extract_whole()
        calm = find_risks(inboxes.settings, inboxes.store, "insta")
        assert (calm.risks, calm.due_at) == ((), None)
