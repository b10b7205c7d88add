"""A damaged file from end to end: set aside, named, made again by whoever can, and told apart from one that waits."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from convo_pipeline.derive import stale_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.rebuild import rebuild_state
from convo_pipeline.lake.verify import verify
from convo_pipeline.schema import RUNS
from tests.inboxes import NOW, Inboxes, serve

OLD, TODAY = NOW.date() - timedelta(days=6), NOW.date()
NIGHT = TODAY - timedelta(days=1)
RAW_FILES = ("raw_conversations", "raw_message_ids", "raw_message_details")


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """One conversation of two days, within the 20 messages whose content the API still gives."""
    world = World(VirtualClock(NOW))
    guest = world.add_account("insta", "1111111111", "instagram").add_conversation("Ada")
    for at in (NOW - timedelta(days=6), NOW - timedelta(hours=2)):
        guest.add_messages(3, at)
    with serve(tmp_path / "lake", world) as inboxes:
        inboxes.extract_whole()
        yield inboxes


def flip(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return bytes(content)


def kinds(inboxes: Inboxes) -> list[str]:
    return sorted({finding.kind for finding in verify(inboxes.store, stale_days=stale_days).findings})


@pytest.mark.parametrize("table", RAW_FILES)
def test_a_damaged_raw_day_is_asked_again_by_the_next_night_however_old_it_is(inboxes: Inboxes, table: str) -> None:
    store, before = inboxes.store, {name: inboxes.rows(name, "insta") for name in ("messages", "participants")}
    damaged = flip(store.path(table, "insta", OLD))
    assert kinds(inboxes) == ["damaged"]
    with pytest.raises(
        CorruptError, match=f"{table}/account=insta/date={OLD}.*set aside as.*asked again by the next run"
    ):
        store.read(table, "insta", OLD)
    assert "quarantine" in kinds(inboxes)
    reports = inboxes.extract(NIGHT, mode="nightly")
    inboxes.derive()
    assert [report.outcome for report in reports] == ["complete"]
    assert store.state.quarantines() == []
    assert {name: inboxes.rows(name, "insta") for name in before} == before
    assert kinds(inboxes) == ["set aside"]
    (kept,) = store.path(table, "insta", OLD).parent.glob("*.corrupt-*")
    assert kept.read_bytes() == damaged


def test_a_file_found_damaged_while_a_run_stores_waits_for_the_next_one(inboxes: Inboxes) -> None:
    before = inboxes.rows("messages", "insta")
    (conversation,) = inboxes.world.accounts["insta"].conversations.values()
    conversation.add_message("late", NOW - timedelta(minutes=1))
    flip(inboxes.store.path("raw_message_details", "insta", TODAY))
    [report] = inboxes.extract(NIGHT, accounts=["insta"], mode="nightly")
    assert (report.outcome, report.reasons) == ("incomplete", ("quarantined",))
    assert [entry[:3] for entry in inboxes.store.state.quarantines()] == [("raw_message_details", "insta", TODAY)]
    [report] = inboxes.extract(NIGHT, accounts=["insta"], mode="nightly")
    inboxes.derive()
    assert (report.outcome, inboxes.store.state.quarantines()) == ("complete", [])
    assert [row for row in inboxes.rows("messages", "insta") if row["text"] != "late"] == before
    assert kinds(inboxes) == ["set aside"]


def test_a_damaged_derived_day_is_made_again_from_the_raw_one(inboxes: Inboxes) -> None:
    path = inboxes.store.path("messages", "insta", OLD)
    whole = path.read_bytes()
    flip(path)
    with pytest.raises(CorruptError, match="it is made again from the raw tables"):
        inboxes.store.read("messages", "insta", OLD)
    assert kinds(inboxes) == ["quarantine", "stale"]
    inboxes.derive()
    assert path.read_bytes() == whole
    assert kinds(inboxes) == ["set aside"]


def test_a_damaged_day_of_the_ledger_is_written_again_from_the_state(inboxes: Inboxes) -> None:
    store = inboxes.store
    before = store.read(RUNS.name, "", TODAY)
    flip(store.path(RUNS.name, "", TODAY))
    export_runs(store, str(before["run_id"][0]))
    assert store.read(RUNS.name, "", TODAY).equals(before)
    assert (store.state.quarantines(), kinds(inboxes)) == ([], ["set aside"])


def test_a_file_with_the_bytes_that_were_written_is_never_set_aside(inboxes: Inboxes) -> None:
    """Too little memory, no more threads: much can keep a whole file from being read."""
    store = inboxes.store
    path, held = store.path("messages", "insta", OLD), store.state.partition("messages", "insta", OLD)
    assert held is not None
    path.write_bytes(b"unreadable")
    store.state.record(replace(held, sha256=hashlib.sha256(b"unreadable").hexdigest()))
    with pytest.raises(StoreError, match="its bytes are those that were written: it stays"):
        store.read("messages", "insta", OLD)
    assert (path.read_bytes(), store.state.quarantines()) == (b"unreadable", [])


def test_a_backup_without_state_remembers_what_lies_set_aside(inboxes: Inboxes) -> None:
    store = inboxes.store
    flip(store.path("raw_message_ids", "insta", OLD))
    with pytest.raises(CorruptError):
        store.read("raw_message_ids", "insta", OLD)
    noted = store.state.quarantines()
    for _, _, _, path in noted:
        store.state.remove_quarantine(path)
    rebuild_state(store)
    assert store.state.quarantines() == noted
    inboxes.extract(NIGHT, mode="nightly")
    assert store.state.quarantines() == []


def test_a_rebuilt_state_vouches_for_no_byte_that_its_rows_do_not_give(inboxes: Inboxes) -> None:
    """A footer has no checksum: where one was changed and can still be read, the file is written anew from its rows."""
    store = inboxes.store
    known = store.state.partitions()
    path = store.path("raw_message_ids", "insta", OLD)
    whole = path.read_bytes()
    start = whole.index(b"parquet-cpp-arrow")
    path.write_bytes(whole[:start] + b"q" + whole[start + 1 :])
    rebuild_state(store)
    assert (path.read_bytes(), store.state.partitions()) == (whole, known)
