"""Faults of parts B and C, by their code, from the API response to the derived row."""

import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind, message_rows
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.value_faults import HOSTILE
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.run import extract
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.graph.listing import EMPTY_PAGES
from convo_pipeline.graph.rate_limit import slow_factor
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import TABLES
from tests.support.fault_runs import PASSING
from tests.support.inboxes import NOW, START, Inboxes, serve, small_world
from tests.support.simulation import Ticking

HOUR = timedelta(hours=1)


def insta_world(*counts: int) -> World:
    """One Instagram account; each conversation has as many messages as given, all yesterday."""
    world = small_world()
    for number, count in enumerate(counts):
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(
            count, NOW - (25 + number) * HOUR, 1.0
        )
    return world


def busy_world(count: int) -> World:
    """One Instagram account with many conversations of one message, a minute apart, yesterday."""
    world = small_world()
    for number in range(count):
        start = NOW - 25 * HOUR - timedelta(minutes=number)
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(1, start, 1.0)
    return world


def run(inboxes: Inboxes, *faults: Fault | str, mode: str = "window") -> str:
    """Extract with faults and derive; return the outcome."""
    inboxes.server.set_faults(*faults)
    [report] = inboxes.extract(accounts=["insta"], mode=mode)
    inboxes.derive()
    return report.outcome


def rows(inboxes: Inboxes) -> list[dict[str, object]]:
    return inboxes.rows("messages", "insta")


def statuses(inboxes: Inboxes) -> Counter[object]:
    return Counter(row["detail_status"] for row in rows(inboxes))


def test_a4_to_a15_a_lasting_fault_changes_no_table(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(3)) as inboxes:
        assert run(inboxes) == "complete"
        [conversation] = inboxes.world.accounts["insta"].conversations.values()
        before = inboxes.files()
        for name in dict(PASSING).values():
            inboxes.clock.advance(600)
            conversation.add_message(name)
            fault = make_fault(name, times=10_000)
            inboxes.server.set_faults(fault)
            [report] = inboxes.extract(accounts=["insta"])
            assert (name, report.outcome, fault.fired > 0) == (name, "failed", True)
            assert set(report.reasons) <= {"unreachable", "answer"}
            assert inboxes.files() == before
        assert run(inboxes) == "complete"
        assert statuses(inboxes) == {"detailed": 3 + len(dict(PASSING))}


def test_a19_all_processes_share_a_high_usage(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(3)) as inboxes:
        assert run(inboxes, "high_usage:95") == "complete"
        with closing(sqlite3.connect(inboxes.store.state.path)) as state:
            [(factor,)] = state.execute(
                "SELECT slow_factor FROM rate_limits WHERE platform = 'instagram'"
            )
        assert factor == slow_factor(95) > 1


@pytest.mark.parametrize(("code", "is_ended"), [(2, True), (-1, True), (-2, True), (1, False)])
def test_a15_a_failing_server_ends_the_account_and_bad_conversations_do_not(
    tmp_path: Path, code: int, is_ended: bool
) -> None:
    world = small_world()
    for number in range(30):
        conversation = world.accounts["insta"].add_conversation(f"C {number}")
        conversation.add_messages(21, NOW - 30 * HOUR - number * HOUR / 60, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(
            Fault(
                FaultKind(
                    "edges_fail",
                    "",
                    "",
                    refuse=lambda context: Refusal(code, "no"),
                    kinds=("edge",),
                )
            )
        )
        [report] = inboxes.extract(accounts=["insta"])
        failed = report.counts["conversations_failed"]
        assert (report.outcome, "unreachable" in report.reasons) == ("incomplete", is_ended)
        assert 10 <= failed <= 13 if is_ended else failed == 30
        assert run(inboxes) == "complete"


@pytest.mark.parametrize("kinds", [("other",), ("listing",), ("edge",)])
def test_a18_a_long_block_ends_the_account_as_incomplete(
    tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    with serve(tmp_path, insta_world(2, 30)) as inboxes:
        limited = make_fault("business_80002", "19")
        inboxes.server.set_faults(replace(limited, kind=replace(limited.kind, kinds=kinds)))
        [report] = inboxes.extract(accounts=["insta"])
        [line] = inboxes.store.state.runs("insta")
        assert (report.outcome, report.reasons, line.outcome, line.error) == (
            "incomplete", ("throttled",), "incomplete", report.error,
        )  # fmt: skip
        assert str(report.error).startswith("throttled until 2026-03-10T12:19:00Z: ")
        assert (line.report or {})["throttled_until"] == "2026-03-10T12:19:00+00:00"
        assert run(inboxes) == "incomplete"  # the next run makes no call before that
        assert [call.code for call in inboxes.server.log].count(80002) == 1
        inboxes.clock.advance(1200)
        assert run(inboxes) == "complete"


@pytest.mark.parametrize(
    ("name", "reason", "count"),
    [
        ("cursor_loop", "cursor_loop", 120),
        ("empty_page", "empty_pages", 60),
        ("dead_cursor", "dead_cursor", 60),
    ],
)
def test_b1_b2_b7_the_next_run_completes_a_cut_listing(
    tmp_path: Path, name: str, reason: str, count: int
) -> None:
    cutting = make_fault("cursor_loop", "1", after_calls=1)
    if name != "cursor_loop":
        cutting = make_fault(name, times=10_000, after_calls=2)
    with serve(tmp_path, busy_world(count)) as inboxes:
        inboxes.server.set_faults(cutting)
        [report] = inboxes.extract(accounts=["insta"])
        assert (report.outcome, report.reasons) == ("incomplete", (reason,))
        assert 50 <= len(inboxes.rows("raw_message_ids")) < count
        assert report.calls["listing"] <= 2 * EMPTY_PAGES + 1
        inboxes.clock.advance(60)
        assert run(inboxes) == "complete"
        assert statuses(inboxes) == {"detailed": count}


def test_b4_b6_a_row_that_is_listed_twice_is_stored_once(
    tmp_path: Path,
) -> None:
    with serve(tmp_path, busy_world(60)) as inboxes:
        assert run(inboxes, "duplicates", "bump") == "complete"
        inboxes.clock.advance(60)
        assert run(inboxes, "duplicates") == "complete"
        stored = Counter(row["message_id"] for row in rows(inboxes))
        assert stored == Counter(message.message_id for message in inboxes.world.truth())
        assert len(stored) > 60
        days = Counter(
            (row["conversation_id"], row["date"]) for row in inboxes.rows("raw_conversations")
        )
        assert set(days.values()) == {1}


def in_pages_of_four(context: FaultContext) -> None:
    context.call.params["limit"] = "4"


def test_b6_messages_during_a_slow_listing_are_stored_by_the_next_run(tmp_path: Path) -> None:
    """Each page takes half an hour, and six conversations move to the head meanwhile."""
    world = busy_world(30)

    def slow_down(context: FaultContext) -> None:
        in_pages_of_four(context)
        world.clock.advance(1800)
        for _, conversation in world.accounts["insta"].listing("*", world.refresh())[-6:]:
            conversation.add_message("one more")

    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(
            Fault(FaultKind("slow", "", "", prepare=slow_down, kinds=("listing",)))
        )
        [report] = inboxes.extract(accounts=["insta"])
        listing: Any = report.report["listing"]
        assert (report.outcome, listing["passes"], listing["moving"] > 0) == ("complete", 4, True)
        assert len(inboxes.rows("raw_message_ids")) < len(list(world.truth()))
        inboxes.clock.advance(60)
        assert (
            run(
                inboxes,
                Fault(FaultKind("quick", "", "", prepare=in_pages_of_four, kinds=("listing",))),
            )
            == "complete"
        )
        stored = Counter(row["message_id"] for row in rows(inboxes))
        assert stored == Counter(message.message_id for message in world.truth())


def test_b9_a_message_during_the_read_is_stored_now_or_next_time(
    tmp_path: Path,
) -> None:
    midread = make_fault("message_midread", times=1)
    with serve(tmp_path, insta_world(45)) as inboxes:
        inboxes.server.set_faults(midread)
        [report] = inboxes.extract(accounts=["insta"])
        assert (report.outcome, midread.fired) == ("complete", 1)
        inboxes.clock.advance(600)
        assert run(inboxes) == "complete"
        stored = Counter(row["message_id"] for row in rows(inboxes))
        assert stored == Counter(message.message_id for message in inboxes.world.truth())
        assert statuses(inboxes) == {"detailed": 21, "beyond_20": 25}


def test_b10_messages_that_left_the_newest_20_are_counted(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(5)) as inboxes:
        assert run(inboxes) == "complete"
        inboxes.clock.advance(600)
        assert run(inboxes, "flood:45") == "complete"
        assert statuses(inboxes) == {"detailed": 25, "beyond_20": 25}
        assert sum(int(str(row["beyond_20"])) for row in inboxes.rows("coverage", "insta")) == 25


@pytest.mark.parametrize("refused_as", ["9000001", "100/33"])
def test_b11_an_error_beyond_20_is_no_deletion(tmp_path: Path, refused_as: str) -> None:
    world = insta_world(20)
    with serve(tmp_path, world, Switches(refused_as=refused_as)) as inboxes:  # type: ignore[arg-type]
        run(inboxes)
        next(iter(world.accounts["insta"].conversations.values())).add_messages(25, NOW - HOUR)
        inboxes.clock.advance(600)
        assert run(inboxes, "old_page_refused", mode="full") == "complete"
        assert statuses(inboxes) == {"detailed": 40, "beyond_20": 5}
        details = inboxes.rows("raw_message_details")
        assert {row["gone_at"] for row in details} == {None}
        assert "gone" not in {row["detail_status"] for row in details}


def test_b12_an_unsent_message_is_marked_and_kept(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(30)) as inboxes:
        run(inboxes)
        inboxes.clock.advance(600)
        run(inboxes, "unsend", mode="full")
        inboxes.clock.advance(600)
        run(inboxes, mode="full")
        missing = [
            row["message_id"]
            for row in inboxes.rows("raw_message_ids", "insta")
            if row["missing_at"]
        ]
        assert len(missing) == 1
        assert len(rows(inboxes)) == 30


@pytest.mark.parametrize(
    "faults", [("unreadable:10/2018336",), ("unreadable:10/2018336", "nested_refused")]
)
def test_b14_a_withheld_conversation_stops_no_other_and_stays_named(
    tmp_path: Path, faults: tuple[str, ...]
) -> None:
    with serve(tmp_path, insta_world(*[2] * 12)) as inboxes:
        assert run(inboxes, *faults) == "incomplete"
        assert statuses(inboxes) == {"detailed": 22}
        assert [line.reasons for line in inboxes.store.state.runs("insta")] == [
            ("conversation_failed",)
        ]
        inboxes.clock.advance(86_400)
        assert run(inboxes, *faults, mode="capture") == "incomplete"
        (line,) = inboxes.store.state.runs("insta", limit=1)
        assert line.reasons == ("conversation_refused",)


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ((1, None), 8),
        ((2, None), 10),  # a page that is refused with code 2 is fetched three times
        ((10, 2018336), 8),
    ],
)
def test_b14_an_unreadable_conversation_is_searched_once(
    tmp_path: Path, code: tuple[int, int | None], count: int
) -> None:
    world = insta_world(*[2] * 60)
    conversations = list(world.accounts["insta"].conversations.values())
    unreadable = [conversations[index] for index in (5, 33)]
    for conversation in unreadable:
        conversation.make_unreadable(*code)
    with serve(tmp_path, world) as inboxes:
        calls = []
        for number in range(4):
            if number == 3:
                for conversation in unreadable:
                    conversation.make_unreadable(None)
            [report] = inboxes.extract(accounts=["insta"], mode="full")
            inboxes.derive()
            assert len(rows(inboxes)) == (120 if number == 3 else 116)
            calls.append(report.calls["listing"])
            inboxes.clock.advance(3600)
        assert (calls[0] > 15, calls[1:]) == (True, [count, count, 3])
        page_size: Any = inboxes.store.state.memory("insta")["page_size"]
        assert page_size["unreadable"] == []


@pytest.mark.parametrize("code", [(10, 2018336), (100, None), (2500, None)])
def test_b14_a_withheld_message_is_failed_not_gone(
    tmp_path: Path, code: tuple[int, int | None]
) -> None:
    with serve(tmp_path, insta_world(3)) as inboxes:
        [conversation] = inboxes.world.accounts["insta"].conversations.values()
        message_id = conversation.messages[1].message_id

        def remove_content(context: FaultContext, body: Any) -> Any:
            for row in message_rows(context, body):
                if row["id"] == message_id:
                    row.pop("from"), row.pop("to"), row.pop("message")
            return body

        def withhold(context: FaultContext) -> Refusal | None:
            return (
                Refusal(code[0], "no", code[1])
                if message_id in unquote(context.call.path)
                else None
            )

        bare = Fault(FaultKind("bare", "", "", body=remove_content, kinds=("listing",)))
        inboxes.server.set_faults(
            bare, Fault(FaultKind("withheld", "", "", refuse=withhold, kinds=("node",)))
        )
        for reasons in (("message_failed",), ("conversation_refused",)):
            [report] = inboxes.extract(accounts=["insta"])
            inboxes.derive()
            assert (report.reasons, statuses(inboxes)) == (reasons, {"detailed": 2, "failed": 1})
            inboxes.clock.advance(600)


def test_b15_the_next_listing_includes_what_a_lagging_server_left_out(
    tmp_path: Path,
) -> None:
    world = small_world()
    for number in range(13):
        start = NOW - timedelta(seconds=30 + 40 * number)
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(1, start, 1.0)
    hidden = list(world.accounts["insta"].conversations)[-1]

    def hide(context: FaultContext, body: Any) -> Any:
        return body | {"data": [row for row in body["data"] if row["id"] != hidden]}

    with serve(tmp_path, world) as inboxes:
        assert (
            run(inboxes, Fault(FaultKind("lag", "", "", body=hide, kinds=("listing",))))
            == "complete"
        )
        assert len(rows(inboxes)) == 12
        assert (
            run(
                inboxes,
                Fault(FaultKind("quick", "", "", prepare=in_pages_of_four, kinds=("listing",))),
            )
            == "complete"
        )
        assert len(rows(inboxes)) == 13


def test_b16_every_time_format_gives_the_same_utc_time(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(9)) as inboxes:
        assert run(inboxes, "mixed_times") == "complete"
        truth = {message.message_id: message.created_at for message in inboxes.world.truth()}
        assert {row["message_id"]: row["created_at"] for row in rows(inboxes)} == truth
        assert {row["created_at_source"] for row in inboxes.rows("raw_message_ids")} == {"message"}


def test_b17_messages_with_impossible_times_are_marked_and_never_move(
    tmp_path: Path,
) -> None:
    with serve(tmp_path, insta_world(9, 9)) as inboxes:
        run(inboxes, "impossible_times")
        first = {row["message_id"]: row["date"] for row in rows(inboxes)}
        assert len(first) == 18
        assert {row["problem"] for row in rows(inboxes)} == {None, "time_unreadable"}
        assert {row["created_at_source"] for row in inboxes.rows("raw_message_ids")} == {
            "message",
            "message_id",
        }
        inboxes.clock.advance(86_400)
        run(inboxes, mode="full")
        assert {row["message_id"]: row["date"] for row in rows(inboxes)} == first


def test_b18_unknown_keys_are_kept(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(3)) as inboxes:
        assert run(inboxes, "unknown_fields") == "complete"
        assert {row["extra"] for row in rows(inboxes)} == {
            '{"new_in_2027":{"nested":[1,"two",null]}}'
        }
        assert {tuple(row) for row in rows(inboxes)} == {
            ("account", "date", *TABLES["messages"].schema.names)
        }


def test_b19_a_value_of_another_type_is_kept(
    tmp_path: Path,
) -> None:
    with serve(tmp_path, insta_world(9, 9)) as inboxes:
        assert run(inboxes, "type_changes") == "complete"
        assert {row["message_id"] for row in rows(inboxes)} == {
            each.message_id for each in inboxes.world.truth()
        }
        assert {type(row["sender_id"]) for row in rows(inboxes)} <= {str, type(None)}
        unread = [row["extra"] for row in rows(inboxes) if row["problem"] == "field_unreadable"]
        assert (len(unread) > 0, None in unread) == (True, False)


def test_b20_a_message_without_a_key_is_a_row_and_one_without_an_id_a_reject(
    tmp_path: Path,
) -> None:
    with serve(tmp_path / "keys", insta_world(9, 9)) as inboxes:
        assert run(inboxes, "missing_keys") == "complete"
        assert {row["message_id"] for row in rows(inboxes)} == {
            each.message_id for each in inboxes.world.truth()
        }
        lacking = {
            name for row in rows(inboxes) for name in ("sender_id", "text") if row[name] is None
        }
        assert lacking == {"text"}, "a missing sender follows from the recipients"
    with serve(tmp_path / "ids", insta_world(9, 9)) as inboxes:
        inboxes.server.set_faults("missing_id")
        [report] = inboxes.extract(accounts=["insta"])
        rejects = inboxes.rows("raw_rejects")
        assert len(rejects) == report.counts["rejected"] == 18 - report.counts["ids_listed"] > 0
        assert all('"message":"message ' in str(row["payload"]) for row in rejects)


@pytest.mark.parametrize("fault", ["huge_message:3000000", "many_attachments:10000"])
def test_b21_a_huge_message_is_stored_whole(tmp_path: Path, fault: str) -> None:
    with serve(tmp_path, insta_world(2)) as inboxes:
        assert run(inboxes, fault) == "complete"
        largest = max(
            rows(inboxes), key=lambda row: len(str(row["text"])) + int(str(row["attachment_count"]))
        )
        if fault.startswith("huge"):
            assert largest["text"] == "ä🥐x" * (3_000_000 // 7)
        else:
            assert (largest["attachment_count"], len(inboxes.rows("attachments", "insta"))) == (
                10_000,
                10_000,
            )


def test_b22_control_characters_and_joiners_round_trip(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(1)) as inboxes:
        run(inboxes, "control_characters")
        assert [row["text"] for row in rows(inboxes)] == [
            "\x00\x01\x1b[31m\u202e\u200f👩‍👩‍👧‍👦\ufeff\r\nmessage 1\u2028\x7f"
        ]


def test_b23_half_a_character_is_replaced_and_marked(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(3)) as inboxes:
        assert run(inboxes, "lone_surrogate") == "complete"
        assert {(str(row["text"])[-1], row["problem"]) for row in rows(inboxes)} == {
            ("\ufffd", "surrogate_replaced")
        }


def test_b24_hostile_ids_are_kept_in_their_account(tmp_path: Path) -> None:
    world = insta_world(3, 30)
    with serve(tmp_path, world) as inboxes:
        assert run(inboxes, "hostile_ids") == "complete"
        stored = {(row["account"], row["message_id"]) for row in inboxes.rows("messages")}
        assert stored == {("insta", message.message_id + HOSTILE) for message in world.truth()}
        assert statuses(inboxes) == {"detailed": 23, "beyond_20": 10}
        assert {path.name for path in tmp_path.glob("messages/account=insta/*/*")} == {
            "data.parquet"
        }


def test_b25_leading_zeros_and_twenty_digits_stay(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(3)) as inboxes:
        run(inboxes, "long_numbers")
        people = {str(row["participant_id"]) for row in inboxes.rows("participant_days", "insta")}
        senders = {str(row["sender_id"]) for row in rows(inboxes)}
        assert {len(person) for person in people | senders} == {20}
        assert all(person.startswith("0") for person in people)


def test_b28_one_message_id_in_two_conversations_is_two_messages(tmp_path: Path) -> None:
    with serve(tmp_path, insta_world(2, 2)) as inboxes:
        assert run(inboxes, "twin_ids") == "complete"
        counts = Counter(row["message_id"] for row in rows(inboxes))
        assert sorted(counts.values()) == [1, 1, 1, 1, 2]


def test_b29_the_newest_text_and_reactions_are_stored(tmp_path: Path) -> None:
    edit = make_fault("edit")
    with serve(tmp_path, insta_world(2)) as inboxes:
        for count in (1, 2, 3):
            assert run(inboxes, edit, mode="full") == "complete"
            inboxes.clock.advance(60)
            [message] = [row for row in rows(inboxes) if str(row["text"]).startswith("edited")]
            assert (message["text"], message["reaction_count"]) == (f"edited {count}", count % 2)


def test_c2_a_run_killed_at_any_call_is_continued(tmp_path: Path) -> None:
    """SIGKILL to a child process when a call begins; the next run repeats one call at most."""
    clean_calls = 0
    for moment in range(1, 30, 4):
        with serve(tmp_path / str(moment), insta_world(70, 45, 2)) as inboxes:
            died = _die_at(inboxes, moment)
            seen = len(inboxes.server.log)
            [report] = inboxes.extract(accounts=["insta"])
            assert report.outcome == "complete"
            assert left_spools(inboxes.store.state_path, "insta") == []
            inboxes.derive()
            assert statuses(inboxes) == {"detailed": 42, "beyond_20": 75}
            if moment == 1:
                clean_calls = sum(report.calls.values())
            assert len(inboxes.server.log) <= seen + clean_calls + 1
            if not died:
                break


def _die_at(inboxes: Inboxes, moment: int) -> bool:
    """Extract in a child process that kills itself at the nth reading of its clock."""
    reading_count = 0

    def read_clock() -> float:
        nonlocal reading_count
        reading_count += 1
        if reading_count >= moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1_000_000.0 + reading_count * 0.01

    clock = Clock(inboxes.clock.now, read_clock, lambda seconds: None)
    inboxes.store.close()
    child = os.fork()
    if child == 0:
        store = Store(inboxes.settings.store, clock)
        until = NOW.date() + timedelta(days=1)
        extract(
            inboxes.settings, store, ["insta"], START, until, environ=inboxes.environ, clock=clock
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_c15_a_spool_waits_until_its_account_runs_again(
    tmp_path: Path,
) -> None:
    """A week later another account runs first, then this one, whose token is no longer set."""
    with serve(tmp_path / "lake", insta_world(3)) as inboxes:
        store = inboxes.store
        in_the_way = store.root / "raw_message_ids"
        in_the_way.parent.mkdir()
        in_the_way.write_text("no folder")
        [report] = inboxes.extract(accounts=["insta"])
        in_the_way.unlink()
        [spool] = left_spools(store.state_path, "insta")
        os.utime(spool.folder, (NOW.timestamp(),) * 2)
        inboxes.clock.advance(8 * 24 * 3600)
        outcomes = [
            report.outcome,
            *(report.outcome for report in inboxes.extract(accounts=["mess"])),
        ]
        outcomes += [
            report.outcome for report in replace(inboxes, environ={}).extract(accounts=["insta"])
        ]
        assert outcomes == ["failed", "complete", "failed"]
        assert len(inboxes.rows("raw_message_details", "insta")) == 3


def test_c15_one_run_catches_up_a_week(tmp_path: Path) -> None:
    world = insta_world(3, 3)
    with serve(tmp_path, world) as inboxes:
        run(inboxes)
        conversations = list(world.accounts["insta"].conversations.values())
        conversations[0].add_messages(14, NOW + HOUR, 43_200)
        conversations[1].add_messages(40, NOW + HOUR, 14_400)
        inboxes.clock.advance(7.5 * 86_400)
        assert run(inboxes, mode="nightly") == "complete"
        assert statuses(inboxes) == {"detailed": 3 + 3 + 14 + 20, "beyond_20": 20}


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_c17_a_token_that_expires_keeps_the_received_messages(tmp_path: Path, calls: int) -> None:
    with serve(tmp_path, insta_world(70, 45, 2)) as inboxes:
        inboxes.server.set_faults(f"token_dies:{calls}")
        [report] = inboxes.extract(accounts=["insta"])
        assert ("token" in report.reasons, report.outcome) == (
            True,
            "incomplete" if calls > 1 else "failed",
        )
        refused = sum(seen.code == 190 for seen in inboxes.server.log)
        assert 1 <= refused <= 2
        stored = len(inboxes.rows("raw_message_ids", "insta"))
        assert (stored > 0) == (calls > 1)
        assert run(inboxes) == "complete"
        assert statuses(inboxes) == {"detailed": 42, "beyond_20": 75}


@pytest.mark.parametrize("fault", ["token_revoked", "permission_200"])
def test_c18_a_revoked_token_fails_at_once(tmp_path: Path, fault: str) -> None:
    with serve(tmp_path, insta_world(2)) as inboxes:
        inboxes.server.set_faults(fault)
        [report] = inboxes.extract(accounts=["insta"])
        assert report.outcome == "failed"
        most = 2 if fault == "token_revoked" else 3  # a refused permission is asked for a control
        assert sum(report.calls.values()) <= most
        assert inboxes.rows("raw_message_ids") == []


@pytest.mark.parametrize("variable", ["WRONG_SECRET", None])
def test_c18_a_wrong_or_missing_app_secret_fails_at_the_first_call(
    tmp_path: Path, variable: str | None
) -> None:
    world = insta_world(2)
    world.accounts["insta"].app_secret = "the right one"
    with serve(tmp_path, world) as inboxes:
        wrong = inboxes.settings.accounts[0].model_copy(update={"app_secret_env": variable})
        inboxes.settings = inboxes.settings.model_copy(
            update={"accounts": (wrong, *inboxes.settings.accounts[1:])}
        )
        inboxes.environ["WRONG_SECRET"] = "thewrongone"
        [report] = inboxes.extract(accounts=["insta"])
        assert (report.outcome, report.reasons, dict(report.calls)) == (
            "failed",
            ("app_secret",),
            {"identity": 1},
        )
        assert "app_secret_env" in str(report.error)
        assert "thewrongone" not in repr(report)


def test_c19_one_bad_account_of_fifty_fails_alone(tmp_path: Path) -> None:
    world = World(insta_world().clock)
    for number in range(50):
        account = world.add_account(f"shop{number}", str(1_000_000 + number), "messenger")
        account.add_conversation().add_messages(1, NOW - HOUR)
    world.accounts["shop17"].tokens = {"another"}
    with serve(tmp_path, world) as inboxes:
        reports = {report.account: report.outcome for report in inboxes.extract()}
        assert [name for name, outcome in reports.items() if outcome != "complete"] == ["shop17"]
        assert len(inboxes.rows("raw_message_ids")) == 49


@pytest.mark.parametrize("hours", [1, 30])
def test_c21_a_clock_set_back_between_runs_loses_nothing(tmp_path: Path, hours: int) -> None:
    world = insta_world(2)
    with serve(tmp_path, world) as inboxes:
        run(inboxes)
        for step in (600, 600):
            inboxes.clock.advance(step)
            next(iter(world.accounts["insta"].conversations.values())).add_message("one more")
            back = Ticking(inboxes.clock, 0.0)
            slow = Clock(
                lambda: inboxes.clock.now() - hours * HOUR, back.monotonic_seconds, back.sleep
            )
            until = NOW.date() + timedelta(days=1)
            [report] = extract(
                inboxes.settings,
                inboxes.store,
                ["insta"],
                START,
                until,
                environ=inboxes.environ,
                clock=slow,
            )
            assert report.outcome == "complete"
        inboxes.derive()
        assert statuses(inboxes) == {"detailed": 4}
