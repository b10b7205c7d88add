"""`extract.run_data`: calls and the spool of a killed run give the same data, grouped by date."""

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from convo_pipeline.errors import StoreError
from convo_pipeline.extract import run_data
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.run_data import RunData
from convo_pipeline.extract.spool import ListingRecord, MessagesRecord, Spool, StateRecord
from convo_pipeline.graph.responses import read_conversation_row
from convo_pipeline.state.records import ConversationState, balance
from tests.support.inboxes import Inboxes, serve, small_world

DAY = date(2026, 3, 3)
BALANCED = {"conversations_listed": 0, "ids_listed": 0, "rows_lost": 0}
PAGING = {"cursors": {"before": "b", "after": "a"}, "next": "https://x/?access_token=T"}
ROWS = [
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
CONVERSATION = {
    "id": "c",
    "updated_time": "2026-03-03T09:00:04+0000",
    "participants": {"data": [{"id": "1"}], "paging": PAGING},
    "messages": {"data": ROWS, "paging": PAGING},
}
RECORD = ListingRecord(
    1_772_600_000_000_000,
    "",
    ("id", "created_time", "message", "shares"),
    ("id", "updated_time", "participants"),
    (read_conversation_row(CONVERSATION, datetime(2026, 3, 4, tzinfo=UTC)),),
)


def content(data: RunData) -> tuple[object, ...]:
    placed = data.place_untimed({})
    days = {day: data.read_day(day) for day in data.days()}
    return days, placed, data.conversations, data.rejects, data.states


def create(inboxes: Inboxes, rows_per_file: int = run_data.ROWS_PER_FILE) -> RunData:
    account = inboxes.settings.accounts[0]
    spool = Spool.create(inboxes.store.state_path, account.name, "run")
    return RunData.create(inboxes.store, account, spool, rows_per_file)


def read(inboxes: Inboxes, data: RunData) -> RunData:
    return RunData.read(inboxes.store, inboxes.settings.accounts[0], data.spool)


def state(conversation_id: str, due_reason: str) -> StateRecord:
    return StateRecord(1, ConversationState(conversation_id, due_reason=due_reason))


def test_the_spool_gives_the_same_data_as_the_calls(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        data = create(inboxes)
        data.append(RECORD)
        at_once = content(data)
        assert content(read(inboxes, data)) == at_once
        tables = at_once[0]
        assert isinstance(tables, dict)
        assert sorted(tables[DAY]["message_id"].to_pylist()) == ["m2", "m3", "m4", "m5"]
        assert "paging" not in str(at_once)


def test_the_next_record_carries_the_states_that_wait(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        data = create(inboxes)
        for name in ("c1", "c2"):
            data.append_later(state(name, name))
        assert (list(data.spool), data.states) == ([], {})
        data.append(RECORD, [state("c4", "own")])
        written = list(data.spool)[1:]
        assert written == [state("c4", "own"), state("c1", "c1"), state("c2", "c2")]
        data.append_later(state("c3", "c3"))
        data.append_later(state("c1", "again"))
        data.flush()
        data.flush()
        at_once = content(data)
        assert len(list(data.spool.folder.glob("*.json"))) == 2
        again = read(inboxes, data)
        assert content(again) == at_once
        assert {key: each.due_reason for key, each in again.states.items()} == {
            "c1": "again",
            "c2": "c2",
            "c3": "c3",
            "c4": "own",
        }


def test_a_record_that_cannot_be_added_is_in_the_spool(tmp_path: Path) -> None:
    row = {"id": "m", "created_time": "2026-03-03T09:00:04+0000"}
    record = MessagesRecord(RECORD.at_us, "c", None, 1, (), (row,))
    with serve(tmp_path, small_world()) as inboxes:
        data = create(inboxes, rows_per_file=1)
        (data.spool.folder / "days").rmdir()
        with pytest.raises(StoreError, match="cannot write the spool"):
            data.append(record)
        assert not data.is_complete
        assert list(data.spool) == [record]


def test_each_date_is_read_once_however_many_files_it_is_in(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        data = create(inboxes, rows_per_file=3)
        for number in range(8):
            row = {"id": f"m{number}", "created_time": f"2026-01-0{1 + number % 2}T00:00:00Z"}
            data.append(MessagesRecord(RECORD.at_us, "c", None, 1, (), (row,)))
        assert data.days() == [date(2026, 1, 1), date(2026, 1, 2)]
        assert [data.read_day(day)["message_id"].to_pylist() for day in data.days()] == [
            ["m0", "m2", "m4", "m6"],
            ["m1", "m3", "m5", "m7"],
        ]
        assert len(list((data.spool.folder / "days").iterdir())) == 3
        assert create(inboxes).days() == [], "the files of an earlier try are scratch"


def test_the_counts_of_a_spool_balance(tmp_path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        data = create(inboxes)
        data.append(RECORD)
        result = load_spool(inboxes.store, inboxes.settings.accounts[0], data.spool)
        rows = {"rows_before": 0, "rows_inserted": 4, "rows_after": 4}
        assert result.counts == {
            "ids_listed": 4,
            "detailed": 3,
            "pending": 1,
            "rejected": 1,
            **rows,
        }
        assert balance(result.counts) == BALANCED
        rejects = inboxes.store.read("raw_rejects", inboxes.settings.accounts[0].name, DAY)
        assert isinstance(rejects, pa.Table)


def test_the_counts_of_every_run_balance(tmp_path: Path) -> None:
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
