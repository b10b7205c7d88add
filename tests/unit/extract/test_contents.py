"""`extract.contents`: what the calls bring is sorted at once, and the same again from the spool after a kill."""

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from convo_pipeline.extract.contents import Contents, Journal
from convo_pipeline.extract.conversation import failed_state_record
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import Spool
from convo_pipeline.state.records import balance
from tests.support.inboxes import Inboxes, serve, small_world

DAY = date(2026, 3, 3)
BALANCED = {"conversations_listed": 0, "ids_listed": 0, "rows_lost": 0}
PAGING = {"cursors": {"before": "b", "after": "a"}, "next": "https://x/?access_token=T"}
ENTRIES = [
    {"id": "m5", "created_time": "2026-03-03T09:00:04+0000", "message": "\ud83d lone", "n": 2**100},
    {
        "id": "m4",
        "created_time": "2026-03-03T09:00:03+0000",
        "shares": {"data": [{"link": "x"}], "paging": PAGING},
    },
    {"id": "m3", "created_time": "2026-03-03T09:00:03+0000"},
    {"id": "m2", "message": "without a time"},
    {"message": "without an id", "paging": PAGING},
]
RECORD = {
    "kind": "listing",
    "at_us": 1_772_600_000_000_000,
    "folder": "",
    "fields": ["id", "created_time", "message", "shares"],
    "conversation_fields": ["id", "updated_time", "participants"],
    "conversations": [
        {
            "id": "c",
            "updated_time": "2026-03-03T09:00:04+0000",
            "participants": {"data": [{"id": "1"}], "paging": PAGING},
            "messages": {"data": ENTRIES, "paging": PAGING},
        }
    ],
    "states": [],
}


def sorted_contents(contents: Contents) -> tuple[object, ...]:
    placed = contents.place_untimed({})
    days = {day: contents.buckets.read(day) for day in contents.buckets.days()}
    return days, placed, contents.conversations, contents.rejects, contents.states


def open_journal(inboxes: Inboxes) -> Journal:
    account = inboxes.settings.accounts[0]
    spool = Spool.create(inboxes.store.state_path, account.name, "run")
    return Journal(spool, Contents.create(inboxes.store, account, spool))


def test_what_is_sorted_at_once_is_what_the_spool_gives_after_a_kill(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        journal = open_journal(inboxes)
        journal.append(RECORD)
        at_once = sorted_contents(journal.contents)
        again = Contents.create(inboxes.store, inboxes.settings.accounts[0], journal.spool)
        for record in journal.spool:
            again.read(record)
        assert sorted_contents(again) == at_once
        tables = at_once[0]
        assert isinstance(tables, dict)
        assert sorted(tables[DAY]["message_id"].to_pylist()) == ["m2", "m3", "m4", "m5"]
        assert "paging" not in str(at_once)


def test_the_next_record_carries_the_states_that_were_noted(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        journal = open_journal(inboxes)
        for name in ("c1", "c2"):
            journal.note(failed_state_record(name, 1, name))
        assert (list(journal.spool), journal.contents.states) == ([], {})
        journal.append(RECORD)
        journal.note(failed_state_record("c3", 1, "c3"))
        journal.note(failed_state_record("c1", 1, "met again"))
        journal.flush()
        journal.flush()
        at_once = sorted_contents(journal.contents)
        assert len(list(journal.spool)) == 2
        again = Contents.create(inboxes.store, inboxes.settings.accounts[0], journal.spool)
        for record in journal.spool:
            again.read(record)
        assert sorted_contents(again) == at_once
        assert {key: state.due_reason for key, state in again.states.items()} == {
            "c1": "met again",
            "c2": "c2",
            "c3": "c3",
        }


def test_a_record_that_could_not_be_sorted_is_in_the_spool(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        journal = open_journal(inboxes)
        with pytest.raises(KeyError):
            journal.append({"kind": "edge"})
        assert not journal.is_whole
        assert list(journal.spool) == [{"kind": "edge"}]


def test_a_spool_loads_to_counts_that_balance(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        journal = open_journal(inboxes)
        journal.append(RECORD)
        loaded = load_spool(inboxes.store, inboxes.settings.accounts[0], journal.spool)
        rows = {"rows_before": 0, "rows_inserted": 4, "rows_after": 4}
        assert loaded.counts == {
            "ids_listed": 4,
            "detailed": 3,
            "pending": 1,
            "rejected": 1,
            **rows,
        }
        assert balance(loaded.counts) == BALANCED
        assert isinstance(
            inboxes.store.read("raw_rejects", inboxes.settings.accounts[0].name, DAY), pa.Table
        )


def test_every_runs_report_says_that_its_counts_balance(tmp_path: Path) -> None:
    world = small_world()
    for account in world.accounts.values():
        account.add_conversation().add_messages(30, world.clock.now().replace(hour=1), 60)
    with serve(tmp_path, world) as inboxes:
        for report in [
            *inboxes.extract_whole(),
            *inboxes.extract_whole(),
            *inboxes.extract(mode="full"),
        ]:
            assert report.report["balance"] == BALANCED
            assert report.counts["ids_listed"] > 0
