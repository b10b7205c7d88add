"""Missed messages that a sweep counts, and estimated and saved calls."""

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.estimate import Estimate, fetch_estimate
from convo_pipeline.extract.report import AccountReport, Progress
from tests.support.inboxes import NOW, Inboxes, serve, small_world, stopped_clock
from tests.support.simulation import KilledError


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=NOW.tzinfo)


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """An inbox of three conversations, one of them with 50 messages."""
    world = small_world()
    account = world.accounts["insta"]
    for count in (50, 3, 1):
        account.add_conversation(f"C {count}").add_messages(count, at(3), 60)
    with serve(tmp_path, world) as inboxes:
        yield inboxes


def run(inboxes: Inboxes, mode: str = "window") -> AccountReport:
    inboxes.clock.advance(3600)
    [report] = inboxes.extract(accounts=["insta"], mode=mode)
    return report


def test_a_sweep_of_an_active_inbox_finds_nothing_missed(inboxes: Inboxes) -> None:
    deep = next(iter(inboxes.world.accounts["insta"].conversations.values()))
    assert run(inboxes).missed is None
    deep.add_messages(30, inboxes.clock.now(), 60)
    assert run(inboxes, "capture").missed is None
    deep.add_messages(45, inboxes.clock.now(), 60)
    inboxes.world.accounts["insta"].add_conversation("new").add_messages(
        25, inboxes.clock.now(), 60
    )
    assert (run(inboxes, "full").missed, run(inboxes, "full").missed) == (0, 0)
    assert len(inboxes.rows("raw_message_ids")) == 54 + 30 + 45 + 25


def show_old_conversation(inboxes: Inboxes) -> int:
    """Add a conversation whose last activity is before the complete range ends."""
    run(inboxes)
    inboxes.world.accounts["insta"].add_conversation("late").add_messages(7, at(5), 60)
    return 7


def lose_rows(inboxes: Inboxes) -> int:
    """Remove four stored rows."""
    run(inboxes)
    for table in ("raw_message_ids", "raw_message_details"):
        inboxes.store.shrink(table, "insta", date(2026, 3, 3), lambda rows: rows.slice(4))
    return 4


@pytest.mark.parametrize("miss", [show_old_conversation, lose_rows])
def test_b8_a_sweep_counts_missed_messages_exactly(
    inboxes: Inboxes, miss: Callable[[Inboxes], int]
) -> None:
    missed_count = miss(inboxes)
    report = run(inboxes, "full")
    assert (report.outcome, report.missed) == ("complete", missed_count)
    assert inboxes.store.state.runs("insta", limit=1)[0].counts["missed"] == missed_count  # type: ignore[index]
    assert run(inboxes, "full").missed == 0


def test_a_message_during_the_sweep_is_not_missed(inboxes: Inboxes) -> None:
    """The conversation is listed before the new message and read after it."""
    inboxes.server.set_faults("nested_refused")
    run(inboxes)
    midread = make_fault("message_midread", times=1)
    inboxes.server.set_faults("nested_refused", midread)
    report = run(inboxes, "full")
    assert (report.outcome, report.missed, midread.fired) == ("complete", 0, 1)
    assert len(inboxes.rows("raw_message_ids")) == 55


@pytest.mark.parametrize("fault", ["edge_missing", "edge_empty"])
def test_b14_messages_of_a_failed_conversation_are_not_missed(inboxes: Inboxes, fault: str) -> None:
    deep = next(iter(inboxes.world.accounts["insta"].conversations.values()))
    inboxes.server.set_faults(fault)
    assert run(inboxes).outcome == "incomplete"
    inboxes.server.set_faults()
    report = run(inboxes, "full")
    assert (report.outcome, report.missed) == ("complete", 0)
    assert (
        len(
            [
                row
                for row in inboxes.rows("raw_message_ids")
                if row["conversation_id"] == deep.conversation_id
            ]
        )
        == 50
    )


def test_the_run_that_stores_a_killed_sweep_counts_it(
    inboxes: Inboxes,
) -> None:
    missed_count = show_old_conversation(inboxes)
    kill = killing("messages")
    with pytest.raises(KilledError):
        inboxes.extract(accounts=["insta"], mode="full", on_progress=kill)
    assert run(inboxes, "capture").missed == missed_count


def killing(step: str, after: int = 0) -> Callable[[Progress], None]:
    """Raise at the first progress of this kind, or after some more."""
    left = [after]

    def on_progress(progress: Progress) -> None:
        left[0] -= progress.step == step
        if left[0] < 0:
            raise KilledError

    return on_progress


def edge_calls(inboxes: Inboxes) -> int:
    return sum(seen.kind == "edge" for seen in inboxes.server.log)


@pytest.mark.parametrize("end", ["kill", "budget"])
def test_a_whole_history_is_resumed(tmp_path: Path, end: str) -> None:
    world = small_world()
    for number in range(12):
        world.accounts["mess"].add_conversation(f"C {number}").add_messages(
            320, at(2) + timedelta(minutes=number), 60
        )
    budget = {"calls_per_run": 20} if end == "budget" else {}
    with serve(tmp_path, world, **budget) as inboxes:
        if end == "kill":
            with pytest.raises(KilledError):
                inboxes.extract(accounts=["mess"], on_progress=killing("messages", after=18))
        outcomes = []
        while not outcomes or outcomes[-1] != "complete":
            outcomes += [inboxes.extract(accounts=["mess"])[0].outcome]
        assert len(inboxes.rows("raw_message_ids")) == 12 * 320
        assert len(outcomes) <= 4
        broken_off = 4 * (len(outcomes) - (end == "budget"))
        assert edge_calls(inboxes) <= 12 * 3 + broken_off * 3


def estimate_of(inboxes: Inboxes, name: str) -> Estimate:
    return fetch_estimate(
        inboxes.settings,
        inboxes.store,
        inboxes.settings.account(name),
        inboxes.environ,
        stopped_clock(inboxes.clock),
    )


def test_the_estimate_for_one_page_is_exact(inboxes: Inboxes) -> None:
    estimate = estimate_of(inboxes, "insta")
    assert estimate == Estimate(3, 4, is_whole=True)
    assert run(inboxes).figures.used <= estimate.call_count


def steady_world(conversation_count: int) -> World:
    """One conversation every half hour; each tenth has more than 20 messages."""
    world = small_world()
    for number in range(conversation_count):
        conversation = world.accounts["mess"].add_conversation(f"C {number}")
        conversation.add_messages(
            22 if number % 10 == 0 else 2, NOW - timedelta(minutes=30 * number + 30), 1
        )
    return world


def test_a_steady_inbox_is_estimated_from_one_page(tmp_path: Path) -> None:
    with serve(tmp_path, steady_world(400)) as inboxes:
        estimate = estimate_of(inboxes, "mess")
        assert len(inboxes.server.log) == 1
        [report] = inboxes.extract(accounts=["mess"])
        assert (report.counts["conversations_listed"], report.figures.used) == (400, 49)
        assert estimate == Estimate(456, 58, is_whole=False)


def test_without_nesting_the_estimate_counts_conversations(
    tmp_path: Path,
) -> None:
    with serve(tmp_path, steady_world(30)) as inboxes:
        inboxes.server.set_faults("reduce_above:100")
        assert estimate_of(inboxes, "mess") == Estimate(30, 3, is_whole=True)


def test_saved_calls_are_measured_against_metas_guide(inboxes: Inboxes) -> None:
    first = run(inboxes)
    assert first.report["calls"] == {
        "used": 4,
        "guide": 1 + 3 + 24,
        "refused": 1,
        "retried": 0,
        "saved": 24,
    }
    idle = run(inboxes, "capture")
    assert (idle.figures.used, idle.figures.guide, idle.figures.saved) == (1, 1, 0)
    assert inboxes.store.state.runs("insta", limit=1)[0].report["calls"] == idle.report["calls"]  # type: ignore[index]
