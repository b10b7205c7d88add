"""Calls for single conversations when the server refuses, fails or contradicts itself."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from convo_pipeline.emulator.calls import EmulatedResponse
from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.extract.newest20_probe import MOST_REFUSALS
from convo_pipeline.extract.run import find
from tests.support.inboxes import NOW, Inboxes, serve, small_world, stopped_clock

HOUR = timedelta(hours=1)


def refusing(
    refuse: Callable[[FaultContext], Refusal | EmulatedResponse | None],
    *kinds: str,
    times: int | None = None,
) -> Fault:
    """Return a fault that is made for one test."""
    return Fault(FaultKind("own", "B0", "refuses", kinds=kinds, refuse=refuse), times=times)


def only(name: str, *kinds: str, times: int | None = None) -> Fault:
    """Return a fault of the catalogue that affects only these kinds of calls."""
    fault = make_fault(name, times=times)
    return replace(fault, kind=replace(fault.kind, kinds=kinds))


def statuses(inboxes: Inboxes, account: str = "insta") -> Counter[object]:
    inboxes.derive()
    return Counter(row["detail_status"] for row in inboxes.rows("messages", account))


def test_only_the_refused_field_is_dropped_without_nesting(tmp_path: Path) -> None:
    world = small_world()
    for number in range(5):
        world.accounts["insta"].add_conversation(f"C{number}").add_messages(
            5, NOW - HOUR * (number + 1), 1.0
        )
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults("nested_refused", "nonexisting:reactions")
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, statuses(inboxes)) == ("complete", {"detailed": 25})
        assert "reactions" in str(inboxes.store.state.memory("insta")["page_size"])


def test_a_field_refused_without_its_name_is_found_by_calls(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["mess"].add_conversation().add_messages(60, NOW - HOUR, 1.0)
    with serve(tmp_path, world, Switches(localised=True, old_rows_messenger="full")) as inboxes:
        inboxes.server.set_faults("nested_refused", "nonexisting:reactions")
        [mess] = inboxes.extract(accounts=["mess"])
        assert (mess.outcome, statuses(inboxes, "mess")) == ("complete", {"detailed": 60})


def test_one_unreadable_message_stops_no_other(tmp_path: Path) -> None:
    world = small_world()
    messages = world.accounts["insta"].add_conversation().add_messages(12, NOW - HOUR, 1.0)

    def refuse(context: FaultContext) -> Refusal | None:
        fields = context.call.params.get("fields", "")
        is_bad = messages[9].message_id in unquote(context.call.path)
        return (
            Refusal(1, "x")
            if is_bad or ("message" in fields.replace("messages", "") and context.kind != "node")
            else None
        )

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(refusing(refuse, "listing", "edge", "node"))
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, insta.reasons) == ("incomplete", ("message_failed",))
        assert statuses(inboxes) == {"detailed": 11, "failed": 1}


def test_single_messages_stop_after_five_failures_in_a_row(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(20, NOW - HOUR, 1.0)
    with serve(tmp_path, world, Switches(old_rows_instagram="omit_fields")) as inboxes:

        def refuse(context: FaultContext) -> Refusal | None:
            return Refusal(1, "x") if "from" in context.call.params["fields"] else None

        inboxes.server.set_faults(refusing(refuse, "listing", "edge", "node"))
        [insta] = inboxes.extract(accounts=["insta"])
        assert insta.outcome == "incomplete"
        assert insta.calls["message"] <= 15


def test_a_due_conversation_is_read_without_nesting(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(30, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(
            "nested_refused", refusing(lambda _: Refusal(2, "x"), "edge", times=5)
        )
        assert inboxes.extract(accounts=["insta"])[0].reasons == ("conversation_failed",)
        inboxes.clock.advance(86_400)
        inboxes.server.set_faults("nested_refused")
        assert inboxes.extract(accounts=["insta"], mode="capture")[0].outcome == "complete"
        assert statuses(inboxes) == {"detailed": 20, "beyond_20": 10}


@pytest.mark.parametrize(
    "code", [None, (2500, None), (100, 33), (100, None), (10, 2018336), (0, None)]
)
def test_b24_a_permanent_error_defers_a_conversation_until_its_day_activity_or_a_sweep(
    tmp_path: Path, code: tuple[int, int | None] | None
) -> None:
    world = small_world()
    bad, good = (
        world.accounts["insta"].add_conversation(name, conversation_id=name)
        for name in (".." if code is None else "t_1", "t_2")
    )
    for conversation in (bad, good):
        conversation.add_messages(30, NOW - 2 * HOUR, 1.0)

    def refuse(context: FaultContext) -> Refusal | EmulatedResponse | None:
        """Refuse with the code, or without one as a gateway does."""
        if not code or "/t_1/" not in context.call.path:
            return None
        return (
            Refusal(code[0], "x", code[1])
            if code[0]
            else EmulatedResponse(414, None, {}, b"<html>")
        )

    def run(mode: str = "capture") -> tuple[str, int, int, int]:
        inboxes.clock.advance(3600)
        [insta] = inboxes.extract(accounts=["insta"], mode=mode)
        results = [insta.counts.get(f"conversations_{each}", 0) for each in ("failed", "refused")]
        return (
            insta.outcome,
            *results,
            sum(count for kind, count in insta.calls.items() if kind in ("edge", "conversation")),
        )

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(refusing(refuse, "edge"))
        assert run("full")[:3] == ("incomplete", 1, 0)
        assert run() == ("incomplete", 0, 1, 0)
        assert [run()[0], run("nightly")[3]] == ["incomplete", 0]
        assert statuses(inboxes) == {"detailed": 40, "beyond_20": 10}
        bad.add_message("new", inboxes.clock.now())
        assert run()[:3] == ("incomplete", 0, 1)
        assert run("full")[:3] == ("incomplete", 0, 1)
        [line] = inboxes.store.state.runs("insta", limit=1)
        assert line.report["failed"]["count"] == 1  # type: ignore[index]
        assert statuses(inboxes) == {"detailed": 41, "beyond_20": 10}
        inboxes.server.set_faults()
        if code:
            assert (run("full")[0], statuses(inboxes)) == (
                "complete",
                {"detailed": 41, "beyond_20": 20},
            )


def test_b24_a_conversation_refused_unshown_is_read_when_a_message_is_listed(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(22, NOW - 2 * HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        outcomes = []
        for code in (10, 10, 10, None):
            conversation.make_unreadable(code, 2018336)
            [insta] = inboxes.extract(accounts=["insta"])
            outcomes.append((insta.outcome, insta.counts.get("conversations_refused", 0)))
            inboxes.clock.advance(60)
        incomplete = [("incomplete", count) for count in (0, 1, 1)]
        assert outcomes == [*incomplete, ("complete", 0)]
        assert statuses(inboxes) == {"detailed": 20, "beyond_20": 2}


@pytest.mark.parametrize(
    "answer",
    [Refusal(2, "x"), EmulatedResponse(200, None, {}, b"<html>")],
    ids=["code_2", "no_json"],
)
def test_conversations_that_always_fail_stop_no_other(
    tmp_path: Path, answer: Refusal | EmulatedResponse
) -> None:
    world = small_world()
    for number in range(22):
        conversation_id = f"t_{'bad' if number < 10 else 'good'}_{number}"
        conversation = world.accounts["insta"].add_conversation(conversation_id=conversation_id)
        conversation.add_messages(21, NOW - HOUR * (2 + number), 1.0)

    def refuse(context: FaultContext) -> Refusal | EmulatedResponse | None:
        return answer if "t_bad" in context.call.path else None

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(refusing(refuse, "edge"))
        for _ in range(8):  # each run finds some bad ones; how many depends on its threads
            inboxes.clock.advance(3600)
            [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.reasons, insta.error) == (("conversation_failed",), None)
        assert [insta.counts.get(f"conversations_{each}") for each in ("failed", "unchanged")] == [
            10,
            12,
        ]
        assert statuses(inboxes) == {"detailed": 440, "beyond_20": 12}
        complete: Any = inboxes.store.state.memory("insta")["coverage"]
        assert complete["t0_us"] == inboxes.clock.now_us() // 1_000_000 * 1_000_000


def test_many_bad_conversations_differ_from_a_failing_server(tmp_path: Path) -> None:
    world = small_world()
    for number in range(22):
        conversation = world.accounts["insta"].add_conversation(conversation_id=f"t_{number:02}")
        conversation.add_messages(21, NOW - HOUR * (2 + number), 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        inboxes.clock.advance(3600)
        for conversation in list(world.accounts["insta"].conversations.values())[:16]:
            conversation.add_messages(30, inboxes.clock.now() - timedelta(minutes=9), 1.0)
        bad = refusing(
            lambda context: Refusal(2, "x") if context.call.path < "/v26.0/t_14" else None, "edge"
        )
        inboxes.server.set_faults(bad)
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.reasons, insta.error) == (("conversation_failed",), None)
        assert [insta.counts.get(f"conversations_{each}") for each in ("failed", "fetched")] == [
            14,
            2,
        ]


@pytest.mark.parametrize(("code", "index"), [(2, 0), (1, 59)], ids=["listed", "fetched_by_its_id"])
def test_a_failing_conversation_costs_one_call_per_run(
    tmp_path: Path, code: int, index: int
) -> None:
    world = small_world()
    conversations = [world.accounts["insta"].add_conversation(f"C{number}") for number in range(60)]
    for number, conversation in enumerate(conversations):
        conversation.add_messages(22 if number == index else 1, NOW - HOUR * (number + 1), 1.0)
    bad = conversations[index]
    bad.make_unreadable(code)
    with serve(tmp_path, world) as inboxes:
        for call_count in (None, 1, 1):
            seen = len(inboxes.server.log)
            [insta] = inboxes.extract(
                accounts=["insta"], mode="capture" if call_count else "window"
            )
            assert (insta.outcome, insta.reasons) == ("incomplete", ("conversation_failed",))
            asked = [call for call in inboxes.server.log[seen:] if bad.conversation_id in call.path]
            assert len(asked) == call_count or (call_count is None and len(asked) >= 3)
            inboxes.clock.advance(3600)
        bad.make_unreadable(None)
        assert inboxes.extract(accounts=["insta"], mode="capture")[0].outcome == "complete"
        assert statuses(inboxes) == {"detailed": 79, "beyond_20": 2}


@pytest.mark.parametrize(
    ("name", "stored_count"),
    [("cursor_loop", 222), ("cursor_repeated", 122), ("empty_page", 22), ("dead_cursor", 102)],
)
def test_b1_b2_b7_a_conversation_with_endless_pages_is_incomplete_until_they_end(
    tmp_path: Path, name: str, stored_count: int
) -> None:
    world = small_world()
    for count in (450, 2):
        world.accounts["insta"].add_conversation(f"C {count}").add_messages(
            count, NOW - 25 * HOUR, 1.0
        )
    endless = only(name, "edge", times=10_000)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(
            replace(endless, argument="1") if name == "cursor_loop" else endless
        )
        for _ in range(3):
            [insta] = inboxes.extract(accounts=["insta"])
            assert (insta.outcome, insta.reasons) == ("incomplete", ("conversation_failed",))
            assert insta.calls["edge"] <= 6
            inboxes.clock.advance(600)
        assert len(inboxes.rows("raw_message_ids")) == stored_count
        inboxes.server.set_faults()
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert len(inboxes.rows("raw_message_ids")) == 452


@pytest.mark.parametrize("missing", [False, True], ids=["bad_parameter", "missing"])
def test_b7_a_dead_message_cursor_restarts_the_conversation(tmp_path: Path, missing: bool) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(250, NOW - 25 * HOUR, 1.0)
    dead = only("dead_cursor", "edge", times=1)
    if missing:
        dead = refusing(lambda _: Refusal(100, "x", subcode=33), "edge", times=2)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(dead)
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, insta.calls["edge"], dead.fired) == (
            "complete",
            3 + dead.fired,
            1 + missing,
        )
        assert statuses(inboxes) == {"detailed": 20, "beyond_20": 230}


def test_find_works_without_nesting_and_without_refused_fields(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation("Ada")
    conversation.add_messages(3, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults("nested_refused", "nonexisting:story")
        person = str(conversation.people[0]["id"])
        report, found = find(
            inboxes.settings,
            inboxes.store,
            "insta",
            person,
            environ=inboxes.environ,
            clock=stopped_clock(world.clock),
        )
        assert (report.outcome, found) == ("complete", [conversation.conversation_id])
        assert statuses(inboxes) == {"detailed": 3}


@pytest.mark.parametrize(
    ("fault", "is_known_at_once"),
    [
        (only("reset", "node", times=30), False),
        (refusing(lambda _: Refusal(2, "x"), "node", times=30), False),
        (refusing(lambda _: Refusal(100, "x", subcode=33), "node", times=1), True),
        (refusing(lambda _: Refusal(1, "x"), "node", times=3), True),
    ],
    ids=["no_answer", "outage", "that_message_is_gone", "that_message_is_unreadable"],
)
def test_one_failure_beyond_20_proves_no_limit(
    tmp_path: Path, fault: Fault, is_known_at_once: bool
) -> None:
    world = small_world()
    world.accounts["mess"].add_conversation().add_messages(30, NOW - HOUR, 1.0)
    with serve(
        tmp_path, world, Switches(old_rows_messenger="omit_fields", old_nodes_messenger="readable")
    ) as inboxes:
        inboxes.server.set_faults(fault)
        [mess] = inboxes.extract(accounts=["mess"])
        assert (mess.outcome == "complete") == is_known_at_once
        inboxes.server.set_faults()
        inboxes.clock.advance(60)
        assert inboxes.extract(accounts=["mess"])[0].outcome == "complete"
        assert statuses(inboxes, "mess") == {"detailed": 30}


@pytest.mark.parametrize(("refused_as", "calls"), [("9000001", 1), ("100/33", MOST_REFUSALS)])
def test_the_limit_of_20_is_probed_once(tmp_path: Path, refused_as: str, calls: int) -> None:
    """With 100/33 each error may be about one message alone, so three of them are needed."""
    world = small_world()
    for number in range(5):
        world.accounts["insta"].add_conversation(f"C{number}").add_messages(
            21, NOW - HOUR * (number + 1), 1.0
        )
    with serve(tmp_path, world, Switches(refused_as=refused_as)) as inboxes:  # type: ignore[arg-type]
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, insta.calls["message"]) == ("complete", calls)
        assert statuses(inboxes) == {"detailed": 100, "beyond_20": 5}


@pytest.mark.parametrize(
    "nested", ["", "nested_refused"], ids=["after_a_nested_page", "from_the_head"]
)
def test_b14_a_message_list_that_is_empty_once_loses_nothing(tmp_path: Path, nested: str) -> None:
    world = small_world()
    for number in range(3):
        world.accounts["insta"].add_conversation(f"C{number}").add_messages(
            60, NOW - HOUR * (number + 1), 1.0
        )
    with serve(tmp_path, world) as inboxes:
        faults = [nested] if nested else []
        inboxes.server.set_faults(*faults, "edge_empty")
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, insta.reasons) == ("incomplete", ("empty_edge",))
        inboxes.clock.advance(60)
        inboxes.server.set_faults(*faults)
        assert inboxes.extract(accounts=["insta"])[0].outcome == "complete"
        assert statuses(inboxes) == {"detailed": 60, "beyond_20": 120}


def test_b14_an_empty_message_list_marks_nothing_missing_until_it_repeats(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(20, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        inboxes.server.set_faults("nested_refused")
        for message in list(conversation.messages):
            message.unsend()
        for outcome, missing in (("incomplete", 0), ("complete", 20)):
            inboxes.clock.advance(60)
            [insta] = inboxes.extract(accounts=["insta"], mode="full")
            found = [row for row in inboxes.rows("raw_message_ids", "insta") if row["missing_at"]]
            assert (insta.outcome, len(found)) == (outcome, missing)


def test_b14_messages_are_read_from_the_head_after_a_full_nested_page(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(30, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(make_fault("edge_empty", times=1))
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, insta.calls["edge"]) == ("complete", 2)
        assert statuses(inboxes) == {"detailed": 20, "beyond_20": 10}


def test_an_unsent_newest_message_causes_no_second_walk(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    messages = conversation.add_messages(300, NOW - timedelta(days=8), 400)
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        messages[-1].unsend()
        conversation.add_message("new", NOW)
        inboxes.clock.advance(3600)
        [insta] = inboxes.extract(accounts=["insta"])
        assert (insta.outcome, insta.calls["listing"], "edge" in insta.calls) == (
            "complete",
            1,
            False,
        )
        assert sum(statuses(inboxes).values()) == 301
