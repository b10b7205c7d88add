"""Seeded scenarios of an account, and the bugs that they found.

A failing seed is printed. To run it alone, as a scenario of each kind:
`SIMULATION_SEED=1234 pytest tests/scenarios/test_simulation.py -k one_seed`.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.emulator.fault import (
    Fault,
    FaultContext,
    FaultKind,
    conversation_rows,
    message_rows,
)
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.extract.spool import Spool
from tests.support.inboxes import NOW, START, Inboxes, serve, small_world
from tests.support.random_scenarios import simulate_random
from tests.support.simulation import RESULTS, simulate
from tests.support.spools import append_json

FAST_SEEDS, FAST_PARTS = 30, 2
HUNT_SEEDS, LONG_SEEDS, HUNT_PARTS = 1_000, 20_000, 20
FAST_RANDOM_SEEDS, HUNT_RANDOM_SEEDS, LONG_RANDOM_SEEDS, RANDOM_PARTS = 1, 80, 4_000, 4
"""A random scenario costs six of the others."""
Simulate = Callable[[int, Path], list[str]]
OWN_SEED = os.environ.get("SIMULATION_SEED", "")


def errors_by_seed(
    seeds: Iterable[int], folder: Path, run: Simulate = simulate
) -> dict[int, list[str]]:
    """Return the errors by seed."""
    return {seed: errors for seed in seeds if (errors := run_alone(run, seed, folder / str(seed)))}


def run_alone(run: Simulate, seed: int, folder: Path) -> list[str]:
    try:
        return run(seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def at(day: int, hour: int = 9, second: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, 0, second, tzinfo=UTC)


def changing(
    change: Callable[[FaultContext, Any], Any], *kinds: str, times: int | None = None
) -> Fault:
    """A fault of this test alone."""
    return Fault(FaultKind("own", "B0", "changes a body", kinds=kinds, body=change), times=times)


def stored_ids(inboxes: Inboxes) -> set[object]:
    return {row["message_id"] for row in inboxes.rows("raw_message_ids", "insta")}


@pytest.mark.parametrize("part", range(FAST_PARTS))
def test_no_scenario_loses_doubles_or_misreports_a_message(memory_path: Path, part: int) -> None:
    assert errors_by_seed(range(part, FAST_SEEDS, FAST_PARTS), memory_path) == {}


@pytest.mark.hunt
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(HUNT_PARTS))
def test_no_scenario_of_many_loses_doubles_or_misreports_a_message(
    memory_path: Path, long_run: bool, part: int
) -> None:
    count = LONG_SEEDS if long_run else HUNT_SEEDS
    assert (
        errors_by_seed(range(FAST_SEEDS + part, FAST_SEEDS + count, HUNT_PARTS), memory_path) == {}
    )


def test_no_random_scenario_loses_doubles_or_misreports_a_message(memory_path: Path) -> None:
    assert errors_by_seed(range(FAST_RANDOM_SEEDS), memory_path, simulate_random) == {}


@pytest.mark.hunt
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(RANDOM_PARTS))
def test_no_random_scenario_of_many_loses_doubles_or_misreports_a_message(
    memory_path: Path, long_run: bool, part: int
) -> None:
    count = LONG_RANDOM_SEEDS if long_run else HUNT_RANDOM_SEEDS
    assert (
        errors_by_seed(
            range(FAST_RANDOM_SEEDS + part, count, RANDOM_PARTS), memory_path, simulate_random
        )
        == {}
    )


@pytest.mark.skipif(not OWN_SEED, reason="SIMULATION_SEED names a seed to run alone")
@pytest.mark.parametrize("run", [simulate, simulate_random])
def test_one_seed(tmp_path: Path, run: Simulate) -> None:
    assert run(int(OWN_SEED), tmp_path) == []


def test_an_impossible_message_time_does_not_end_the_walk(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(150, at(3), 60)

    def spoil(context: FaultContext, body: Any) -> Any:
        message_rows(context, body)[-1]["created_time"] = "1970-01-02T00:00:00+0000"
        return body

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(changing(spoil, "listing", times=1))
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 150


def test_an_impossible_conversation_time_does_not_end_the_listing(tmp_path: Path) -> None:
    world = small_world()
    for number in range(8):
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(
            1, at(9) - timedelta(hours=number)
        )

    def spoil(context: FaultContext, body: Any) -> Any:
        for row in conversation_rows(context, body)[:1]:
            row["updated_time"] = "1970-01-01T00:00:00+0000"
        return body

    def one_a_page(context: FaultContext) -> None:
        context.call.params["limit"] = "1"

    small_pages = Fault(
        FaultKind("own", "B3", "one row a page", kinds=("listing",), prepare=one_a_page)
    )
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(small_pages, changing(spoil, "listing", times=1))
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 8


def test_a_failed_conversation_is_read_later_down_to_the_first_window(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(150, at(2), 60)
    conversation.add_messages(30, at(9), 60)
    conversation.make_unreadable()
    with serve(tmp_path, world) as inboxes:
        assert inboxes.extract(accounts=["insta"])[0].outcome == "incomplete"
        conversation.make_unreadable(None)
        world.clock.advance(3600)
        assert (
            inboxes.extract(date(2026, 3, 9), accounts=["insta"], mode="nightly")[0].outcome
            == "complete"
        )
        assert len(stored_ids(inboxes)) == 180


def test_an_earlier_window_is_read_without_nesting(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(200, at(2), 3_000)
    with serve(tmp_path, world) as inboxes:
        for since in (date(2026, 3, 8), START):
            inboxes.server.set_faults("reduce_above:100", changing(_without_messages, "listing"))
            assert inboxes.extract(since, accounts=["insta"])[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 200


def _without_messages(context: FaultContext, body: Any) -> Any:
    for row in conversation_rows(context, body):
        row.pop("messages", None)
    return body


def test_two_messages_of_one_second_are_found_without_nesting(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_message("first", NOW)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(changing(_without_messages, "listing"))
        inboxes.extract(accounts=["insta"])
        world.clock.advance(0.5)
        conversation.add_message("second")
        world.clock.advance(60)
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 2


@pytest.mark.parametrize("mode", ["nightly", "full"])
def test_b29_a_night_finds_an_edit_without_nesting(tmp_path: Path, mode: str) -> None:
    world = small_world()
    message = world.accounts["insta"].add_conversation().add_message("first", at(9))
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(changing(_without_messages, "listing"))
        inboxes.extract(accounts=["insta"])
        world.clock.advance(60)
        message.edit("second")
        inboxes.extract(accounts=["insta"], mode=mode)
        inboxes.derive()
        assert [row["text"] for row in inboxes.rows("messages")] == ["second"]


def test_b20_a_message_without_content_is_not_gone_and_is_fetched_again(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(2, at(3))

    def strip(context: FaultContext, body: Any) -> Any:
        row = message_rows(context, body)[-1]
        for key in set(row) - {"id", "created_time"}:
            row.pop(key)
        return body

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(changing(strip, "listing", "node"))
        [stripped] = inboxes.extract(accounts=["insta"])
        statuses = [row["detail_status"] for row in inboxes.rows("raw_message_details")]
        inboxes.server.set_faults()
        [healed] = inboxes.extract(accounts=["insta"])
        assert (stripped.reasons, sorted(map(str, statuses))) == (
            ("message_failed",),
            ["detailed", "failed"],
        )
        assert (healed.outcome, healed.counts["detailed"]) == ("complete", 2)


def test_b3_an_unsent_message_below_a_short_page_is_gone(tmp_path: Path) -> None:
    world = small_world()
    messages = world.accounts["insta"].add_conversation().add_messages(8, at(3))
    messages[1].unsend()
    world.clock.advance(60)
    with serve(tmp_path, world, Switches(unsent_rows="kept", messages_limit=3)) as inboxes:
        [report] = inboxes.extract(accounts=["insta"])
        assert (report.outcome, report.counts["gone"], report.counts["detailed"]) == (
            "complete",
            1,
            7,
        )


def test_b18_a_row_with_an_unknown_key_and_no_content_erases_nothing(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(5, at(3))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        world.clock.advance(60)
        conversation.add_messages(30, at(9))
        inboxes.server.set_faults("unknown_fields")
        inboxes.extract(date(2026, 3, 1), accounts=["insta"], mode="full")
        inboxes.derive()
        texts = [
            row["text"] for row in inboxes.rows("messages") if str(row["date"]) == "2026-03-03"
        ]
        assert sorted(map(str, texts)) == [f"message {number + 1}" for number in range(5)]


def test_a14_a_response_with_a_duplicate_list_is_not_empty(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(21, at(3))
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(make_fault("duplicate_keys", times=1, after_calls=2))
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 21


def test_b14_a_sweep_finds_messages_that_an_empty_list_hid(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(50, at(3), 60)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults("edge_empty")
        inboxes.extract(accounts=["insta"])
        inboxes.server.set_faults()
        assert inboxes.extract(accounts=["insta"], mode="full")[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 50


def test_b14_messages_left_out_of_a_listing_are_fetched_from_their_conversation(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(3, at(3))
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults("nested_missing")
        [first] = inboxes.extract(accounts=["insta"])
        [second] = inboxes.extract(accounts=["insta"])
        assert (first.outcome, len(stored_ids(inboxes))) == ("complete", 3)
        assert (first.calls["edge"], second.calls.get("edge", 0)) == (1, 0)


def test_b13_a_vanished_conversation_does_not_fail_its_account_for_ever(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(3, at(3))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        world.clock.advance(3600)
        conversation.add_messages(30, world.clock.now() - timedelta(minutes=30), 10)
        inboxes.server.set_faults("vanish")
        outcomes = [inboxes.extract(accounts=["insta"])[0] for _ in range(2)]
        for _ in range(2):
            world.clock.advance(86_400)
            outcomes.append(inboxes.extract(accounts=["insta"])[0])
        assert [(each.outcome, each.reasons) for each in outcomes] == [
            ("incomplete", ("conversation_failed",)),
            ("incomplete", ("conversation_refused",)),
            ("complete", ()),
            ("complete", ()),
        ]
        assert [each.counts.get("conversations_vanished", 0) for each in outcomes] == [0, 0, 1, 0]
        inboxes.derive()
        assert (
            len([row for row in inboxes.rows("messages") if row["detail_status"] == "detailed"])
            == 23
        )


def test_b17_a_message_with_and_without_a_time_is_stored_on_one_day(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["mess"].add_conversation().add_messages(30, at(3), 4)
    spool_rows = [
        {"id": "m_1", "created_time": created_time, "message": "x"}
        for created_time in (None, "2026-03-02T10:00:00+0000")
    ]
    with serve(tmp_path, world) as inboxes:
        for entries in (spool_rows, list(reversed(spool_rows))):
            spool = Spool.create(
                inboxes.store.state_path, "insta", f"20260310T00000{len(entries)}-dead"
            )
            for row in entries:
                append_json(spool, _edge_record([row]))
            inboxes.extract(accounts=["insta"])
        assert [str(row["date"]) for row in inboxes.rows("raw_message_ids", "insta")] == [
            "2026-03-02"
        ]


def _edge_record(entries: list[object]) -> dict[str, object]:
    return {
        "kind": "edge",
        "at_us": int(NOW.timestamp()) * 1_000_000,
        "conversation_id": "c",
        "updated_us": int(at(5).timestamp()) * 1_000_000,
        "first_rank": 1,
        "fields": ["id", "created_time", "message"],
        "rows": entries,
    }


def test_an_old_spool_of_a_configured_account_is_stored(
    tmp_path: Path,
) -> None:
    world = small_world()
    with serve(tmp_path, world) as inboxes:
        spool = Spool.create(inboxes.store.state_path, "insta", "20260110T000000-dead")
        append_json(
            spool,
            _edge_record([{"id": "m", "created_time": "2026-03-02T10:00:00+0000", "message": "x"}]),
        )
        os.utime(spool.folder, (at(1).timestamp() - 9 * 86_400,) * 2)
        inboxes.extract(accounts=["insta"])
        assert stored_ids(inboxes) == {"m"}
        assert not spool.folder.exists()


@pytest.mark.parametrize(
    ("change", "rejects"),
    [
        ({"id": "m_\ud800"}, 1),
        (
            {
                "error": {"code": 10**30, "error_subcode": 1 << 63},
                "created_time": "2026-03-03T09:00:00+0000",
            },
            0,
        ),
        ({"id": 10**40}, 0),
    ],
)
def test_b19_b23_a_value_that_fits_no_column_stops_nothing(
    tmp_path: Path, change: dict[str, object], rejects: int
) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(3, at(3))

    def spoil(context: FaultContext, body: Any) -> Any:
        row = message_rows(context, body)[0]
        if "error" in change:
            for key in set(row) - {"id", "created_time"}:
                row.pop(key)
        row.update(change)
        return body

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(changing(spoil, "listing"))
        inboxes.extract(accounts=["insta"])
        inboxes.derive()
        assert len(inboxes.rows("raw_rejects")) == rejects
        assert len(inboxes.rows("messages")) == 3 - rejects


def test_b23_a_conversation_with_an_unusable_id_is_a_reject(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(3, at(3))

    def spoil(context: FaultContext, body: Any) -> Any:
        conversation_rows(context, body)[0]["id"] = "t_\udfff"
        return body

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(changing(spoil, "listing"))
        [report] = inboxes.extract(accounts=["insta"])
        assert (report.outcome, report.counts["rejected"]) == ("complete", 1)


@pytest.mark.parametrize("depth", [200, 600, 900])
def test_a14_deeply_nested_values_crash_nothing(tmp_path: Path, depth: int) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(3, at(3))
    nest = b'"deep":' + b"[" * depth + b"]" * depth + b',"from"'
    deep = FaultKind(
        "own",
        "A14",
        "nests",
        kinds=("listing",),
        content=lambda _, content, __: content.replace(b'"from"', nest, 1),
    )
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(Fault(deep))
        [report] = inboxes.extract(accounts=["insta"])
        inboxes.derive()
        assert report.outcome == "complete" or set(report.reasons) <= {
            "answer",
            "conversation_failed",
            "unreachable",
        }
        inboxes.server.set_faults()
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert len(stored_ids(inboxes)) == 3


def test_every_listed_conversation_has_one_result(tmp_path: Path) -> None:
    world = small_world()
    conversations = [world.accounts["insta"].add_conversation(f"C {n}") for n in range(6)]
    for conversation in conversations:
        conversation.add_messages(30, at(3), 60)
    conversations[0].make_unreadable()
    with serve(tmp_path, world, calls_per_run=12) as inboxes:
        for faults in ((), ("token_dies:6",), (), ()):
            inboxes.server.set_faults(*faults)
            world.clock.advance(60)
            [report] = inboxes.extract(accounts=["insta"])
            counts = report.counts
            assert counts["conversations_listed"] == sum(
                counts.get(f"conversations_{result}", 0) for result in RESULTS
            )
