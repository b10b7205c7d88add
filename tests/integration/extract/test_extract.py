"""Extract accounts from the emulator over HTTP into a store."""

import re
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.emulator.serve import EMULATOR_TOKEN
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.run import Progress
from convo_pipeline.extract.spool import Spool
from tests.support.inboxes import NOW, START, TOKEN_VARIABLE, Inboxes, reopened, serve, small_world
from tests.support.spools import append_json

SEEN_TIMES = ("first_seen_at", "changed_at", "fields", "rank_when_asked")


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=NOW.tzinfo)


def statuses(inboxes: Inboxes, account: str) -> Counter[object]:
    return Counter(row["detail_status"] for row in inboxes.rows("messages", account))


def true_ids(world: World, since: date = START) -> set[tuple[str, str, str]]:
    return {
        (message.account, message.conversation_id, message.message_id)
        for message in world.truth()
        if message.created_at.date() >= since
    }


def stored_ids(inboxes: Inboxes, table: str = "messages") -> list[tuple[object, ...]]:
    return [
        (row["account"], row["conversation_id"], row["message_id"]) for row in inboxes.rows(table)
    ]


def test_every_message_is_one_row_on_its_day(tmp_path: Path) -> None:
    world = small_world()
    for account in world.accounts.values():
        for number in range(60):
            account.add_conversation(f"Customer {number}").add_messages(
                3, at(2 + number % 8), 40_000
            )
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        assert sorted(stored_ids(inboxes)) == sorted(true_ids(world))
        assert all(row["date"] == row["created_at"].date() for row in inboxes.rows("messages"))  # type: ignore[attr-defined]
        assert statuses(inboxes, "insta") == {"detailed": 180}
        assert {row["direction"] for row in inboxes.rows("messages")} == {"inbound", "outbound"}


def test_a_rerun_without_news_rewrites_no_file(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(5, at(3))
    conversation.add_message("", at(4), attachments=[{"id": "9", "image_data": {"url": "media:9"}}])
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        before = inboxes.files()
        world.clock.advance(1)
        assert [
            commit
            for report in inboxes.extract_whole()
            for commit in report.commits
            if commit.is_changed
        ] == []
        assert inboxes.files() == before


def test_an_idle_rerun_costs_one_call(
    tmp_path: Path,
) -> None:
    world = small_world()
    for number in range(120):
        world.accounts["mess"].add_conversation().add_messages(
            1, NOW - timedelta(minutes=number + 1)
        )
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        world.clock.advance(60)
        assert inboxes.extract(accounts=["mess"])[0].calls == {"listing": 1}
        world.accounts["mess"].add_conversation().add_message("new")
        assert inboxes.extract(accounts=["mess"])[0].counts["conversations_fetched"] == 1


def test_a_night_without_nesting_reads_only_recent_conversations(
    tmp_path: Path,
) -> None:
    world = small_world()
    for number in range(20):
        world.accounts["mess"].add_conversation().add_messages(1, NOW - timedelta(hours=6 * number))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        inboxes.server.set_faults("nested_refused")
        [report] = inboxes.extract(accounts=["mess"], mode="nightly")
        assert report.calls["edge"] == 9


def test_a_long_instagram_conversation_has_20_details_and_every_id(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(75, at(3), 600)
    with serve(tmp_path, world) as inboxes:
        [insta, mess] = inboxes.extract_whole()
        assert statuses(inboxes, "insta") == {"detailed": 20, "beyond_20": 55}
        assert insta.calls == {"identity": 1, "listing": 1, "edge": 1, "message": 1}
        assert mess.calls == {"listing": 1}


def test_messenger_details_beyond_20_are_stored_if_returned(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["mess"].add_conversation().add_messages(75, at(3), 600)
    with serve(tmp_path, world, Switches(old_rows_messenger="full")) as inboxes:
        inboxes.extract_whole()
        assert statuses(inboxes, "mess") == {"detailed": 75}


def test_bare_messenger_rows_are_fetched_once_the_probe_reads_one(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["mess"].add_conversation().add_messages(30, at(3), 600)
    switches = Switches(old_rows_messenger="omit_fields", old_nodes_messenger="readable")
    with serve(tmp_path, world, switches) as inboxes:
        inboxes.extract_whole()
        assert statuses(inboxes, "mess") == {"detailed": 30}


def test_a_later_capture_keeps_details_that_left_the_newest_20(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(20, at(3), 60)
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        world.clock.advance(600)
        conversation.add_messages(15, world.clock.now() - timedelta(minutes=9), 30)
        inboxes.extract_whole()
        assert statuses(inboxes, "insta") == {"detailed": 35}
        world.clock.advance(600)
        conversation.add_messages(45, world.clock.now() - timedelta(minutes=9), 10)
        inboxes.extract_whole()
        assert statuses(inboxes, "insta") == {"detailed": 55, "beyond_20": 25}


def test_an_edit_and_a_reaction_change_nothing_else(tmp_path: Path) -> None:
    world = small_world()
    messages = world.accounts["insta"].add_conversation().add_messages(4, at(3))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        world.clock.advance(60)
        messages[1].edit("corrected")
        messages[2].react("❤️")
        inboxes.extract(mode="full")
        inboxes.derive()
        texts = {
            row["message_id"]: (row["text"], row["reaction_count"])
            for row in inboxes.rows("messages")
        }
        assert [texts[message.message_id] for message in messages] == [
            ("message 1", 0),
            ("corrected", 0),
            ("message 3", 1),
            ("message 4", 0),
        ]
        [reaction] = inboxes.rows("reactions")
        messages[2].unreact()
        world.clock.advance(60)
        inboxes.extract(mode="full")
        inboxes.derive()
        assert reaction["reaction"] == "❤️"
        assert inboxes.rows("reactions") == []


@pytest.mark.parametrize("refused_as", ["9000001", "100/33"])
@pytest.mark.parametrize("unsent_rows", ["removed", "kept"])
def test_an_unsent_message_keeps_its_content(
    tmp_path: Path, refused_as: str, unsent_rows: str
) -> None:
    world = small_world()
    messages = world.accounts["insta"].add_conversation().add_messages(4, at(3))
    switches = Switches(refused_as=refused_as, unsent_rows=unsent_rows)  # type: ignore[arg-type]
    with serve(tmp_path, world, switches) as inboxes:
        inboxes.extract_whole()
        world.clock.advance(60)
        messages[1].unsend()
        inboxes.extract(mode="full")
        inboxes.derive()
        assert statuses(inboxes, "insta") == {"detailed": 4}
        [missing] = [row for row in inboxes.rows("raw_message_ids") if row["missing_at"]] or [None]
        assert (missing is not None) == (unsent_rows == "removed")


def test_a_message_unsent_before_the_first_read_is_gone(tmp_path: Path) -> None:
    world = small_world()
    messages = world.accounts["insta"].add_conversation().add_messages(4, at(3))
    messages[1].unsend()
    with serve(tmp_path, world, Switches(unsent_rows="kept")) as inboxes:
        inboxes.extract_whole()
        assert statuses(inboxes, "insta") == {"detailed": 3, "gone": 1}
        [again, _] = inboxes.extract(mode="full")
        assert "message" not in again.calls


def test_messages_outside_the_window_are_stored_from_the_start_date_on(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(3, datetime(2026, 2, 27, 9, tzinfo=NOW.tzinfo), 86_400)
    conversation.add_message("today", NOW - timedelta(hours=1))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract(since=date(2026, 3, 10))
        inboxes.derive()
        assert [str(row["date"]) for row in inboxes.rows("messages")] == [
            "2026-03-01",
            "2026-03-10",
        ]


@pytest.mark.slow
def test_single_days_and_a_backfill_write_identical_bytes(tmp_path: Path) -> None:
    world = small_world()
    for account in world.accounts.values():
        for number in range(12):
            account.add_conversation(f"Customer {number}").add_messages(
                5 + 3 * number, at(2 + number % 5), 20_000
            )
    with serve(tmp_path / "one", world) as inboxes:
        other = reopened(inboxes, tmp_path / "many")
        inboxes.extract_whole()
        for day in range(1, 11):
            reports = other.extract(date(2026, 3, day), date(2026, 3, day + 1))
            assert {report.outcome for report in reports} == {"complete"}
        other.derive()
        contents = [
            {name: content for name, (content, _) in each.files().items()}
            for each in (inboxes, other)
        ]
        assert contents[0].keys() == contents[1].keys()
        assert [name for name in contents[0] if contents[0][name] != contents[1][name]] == []
        other.store.close()


def test_nights_and_a_backfill_differ_only_in_times_of_observation(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversations = [
        account.add_conversation(f"C {n}") for account in world.accounts.values() for n in range(4)
    ]
    world.clock.set(at(1, 0))
    with serve(tmp_path / "nights", world) as nights:
        for day in range(1, 6):
            for number, conversation in enumerate(conversations):
                if (number + day) % 3:
                    conversation.add_messages(2, at(day, 8 + number), 500)
            world.clock.set(at(day + 1, 0) + timedelta(minutes=15))
            assert {
                report.outcome for report in nights.extract(date(2026, 3, day), mode="nightly")
            } == {"complete"}
        nights.derive()
        backfill = reopened(nights, tmp_path / "backfill")
        backfill.extract(START)
        backfill.derive()
        for table in (
            "messages",
            "conversation_days",
            "participant_days",
            "raw_message_ids",
            "raw_message_details",
        ):
            rows = [
                [
                    {key: value for key, value in row.items() if key not in SEEN_TIMES}
                    for row in each.rows(table)
                ]
                for each in (nights, backfill)
            ]
            assert rows[0] == rows[1], table
        backfill.store.close()


def test_a_bad_token_fails_one_account(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["mess"].add_conversation().add_messages(2, at(3))
    with serve(tmp_path, world) as inboxes:
        bad = inboxes.settings.accounts[0].model_copy(update={"token_env": "BAD_TOKEN"})
        inboxes.settings = inboxes.settings.model_copy(
            update={"accounts": (bad, inboxes.settings.accounts[1])}
        )
        inboxes.environ["BAD_TOKEN"] = "EAAexpiredexpiredexpired"
        [insta, mess] = inboxes.extract()
        assert (insta.outcome, insta.reasons) == ("failed", ("token",))
        assert (mess.outcome, mess.reasons) == ("complete", ())
        assert sum(insta.calls.values()) <= 2
        assert "EAAexpired" not in repr(insta)


def test_a_missing_token_names_the_variable(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        inboxes.environ.clear()
        [insta, _] = inboxes.extract()
        assert (insta.outcome, insta.reasons) == ("failed", ("settings",))
        assert TOKEN_VARIABLE in str(insta.error)


def test_a_failing_conversation_stops_no_other(tmp_path: Path) -> None:
    world = small_world()
    conversations = [world.accounts["insta"].add_conversation(f"C {n}") for n in range(6)]
    for number, conversation in enumerate(conversations):
        conversation.add_messages(3, at(3 + number))
    conversations[2].make_unreadable()
    with serve(tmp_path, world) as inboxes:
        [insta, _] = inboxes.extract()
        assert (insta.outcome, insta.reasons) == ("incomplete", ("conversation_failed",))
        assert insta.counts["conversations_failed"] == 1
        stored = {row["conversation_id"] for row in inboxes.rows("raw_message_details")}
        assert stored == {each.conversation_id for each in conversations} - {
            conversations[2].conversation_id
        }
        conversations[2].make_unreadable(None)
        world.clock.advance(60)
        [insta, _] = inboxes.extract()
        assert insta.outcome == "complete"
        inboxes.derive()
        assert statuses(inboxes, "insta") == {"detailed": 18}


def test_a_message_of_the_same_second_is_found_without_nesting(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_message("first", NOW - timedelta(minutes=8))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        conversation.add_message("late", NOW - timedelta(minutes=8) + timedelta(milliseconds=500))
        inboxes.server.set_faults("nested_refused")
        inboxes.extract_whole()
        assert statuses(inboxes, "insta") == {"detailed": 2}


def test_an_empty_conversation_is_stored_on_its_last_activity(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_message("unsent", at(4)).unsend()
    conversation.touch(at(5))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        [conversation] = inboxes.rows("conversation_days")
        assert (conversation["date"], conversation["message_count"]) == (date(2026, 3, 5), 0)


def test_an_account_name_of_another_page_is_refused(
    tmp_path: Path,
) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(2, at(3))
    with serve(tmp_path, world) as inboxes:
        inboxes.extract_whole()
        other = world.add_account("other", "3333333333", "instagram")
        renamed = inboxes.settings.accounts[0].model_copy(update={"page_id": other.page_id})
        inboxes.settings = inboxes.settings.model_copy(update={"accounts": (renamed,)})
        before = inboxes.files()
        [report] = inboxes.extract()
        assert (report.outcome, report.reasons, dict(report.calls)) == ("failed", ("store",), {})
        assert "1111111111" in str(report.error)
        assert "3333333333" in str(report.error)
        assert inboxes.files() == before


def test_the_next_run_stores_the_spool_of_a_killed_run(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(3, at(3))
    with serve(tmp_path, world) as inboxes:
        account = inboxes.settings.accounts[0]
        spool = Spool.create(inboxes.store.state_path, account.name, "20260310T000000-dead")
        append_json(
            spool,
            {
                "kind": "edge",
                "at_us": 1_773_100_000_000_000,
                "conversation_id": "c",
                "updated_us": None,
                "first_rank": 1,
                "fields": ["id", "created_time", "message"],
                "rows": [
                    {
                        "id": "lost",
                        "created_time": "2026-03-02T10:00:00+0000",
                        "message": "already paid for",
                    }
                ],
            },
        )
        inboxes.extract_whole()
        assert not spool.folder.exists()
        assert [
            row["message_id"] for row in inboxes.rows("messages") if row["conversation_id"] == "c"
        ] == ["lost"]


def test_a_damaged_spool_record_proves_nothing(
    tmp_path: Path,
) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(30, at(3), 60)
    with serve(tmp_path, world) as inboxes:
        spool = Spool.create(inboxes.store.state_path, "insta", "20260310T000000-dead")
        newest = conversation.messages[-1]
        state = {
            "kind": "state",
            "at_us": 1_773_100_000_000_000,
            "conversation_id": conversation.conversation_id,
            "updated_us": newest.created_us,
            "newest_message_id": newest.message_id,
            "complete_since_us": 0,
            "due_reason": None,
            "walked_down_to_us": 0,
        }
        append_json(
            spool, {"kind": "edge", "conversation_id": conversation.conversation_id, "rows": []}
        )
        [edge] = spool.folder.iterdir()
        edge.write_bytes(b"x" + edge.read_bytes())
        append_json(spool, state)
        [report] = inboxes.extract(accounts=["insta"])
        assert (report.outcome, report.reasons, spool.folder.exists()) == (
            "incomplete",
            ("quarantined",),
            False,
        )
        assert str(edge) in str(report.report["quarantined"])
        assert [report.outcome for report in inboxes.extract(accounts=["insta"])] == ["complete"]
        assert len(inboxes.rows("raw_message_ids", "insta")) == 30


@pytest.mark.parametrize(
    ("step", "least"), [("conversations", 20), ("messages", 30), ("partitions", 30)]
)
def test_a_defect_stops_one_account_and_loses_no_response(
    tmp_path: Path, step: str, least: int
) -> None:
    world = small_world()
    for account in world.accounts.values():
        account.add_conversation().add_messages(30, at(3), 60)

    def stumble(progress: Progress) -> None:
        if (progress.account, progress.step) == ("insta", step):
            raise KeyError(f"{EMULATOR_TOKEN} said: message 7")

    with serve(tmp_path, world, Switches(old_rows_messenger="omit_fields")) as inboxes:
        bad, good = inboxes.extract(on_progress=stumble)
        assert (bad.outcome, bad.reasons, good.outcome) == ("failed", ("defect",), "complete")
        place = r"KeyError in convo_pipeline/extract/\w+\.py line \d+ \(\w+\)"
        assert re.fullmatch(place, str(bad.error))
        assert [run.reasons for run in inboxes.store.state.runs("insta")] == [("defect",)]
        world.accounts["insta"].conversations.clear()
        inboxes.extract(accounts=["insta"])
        assert len(inboxes.rows("raw_message_ids", "insta")) >= least
