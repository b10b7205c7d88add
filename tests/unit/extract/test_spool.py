"""`extract.spool`: the write-ahead log of a run."""

import hashlib
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import PayloadError, StoreError
from convo_pipeline.extract.spool import (
    ListingRecord,
    MessageRecord,
    MessagesRecord,
    OwnIdentity,
    Record,
    SharedSpools,
    Spool,
    StateRecord,
    delete_old_spools,
    find_damaged_records,
    left_spools,
)
from convo_pipeline.graph.responses import read_conversation_row
from convo_pipeline.state.records import ConversationState
from convo_pipeline.storage.local import LocalFolder
from convo_pipeline.tables.complete_range import CompleteRange

AT = datetime(2026, 3, 3, 9, tzinfo=UTC)


def page(*rows: object) -> MessagesRecord:
    return MessagesRecord(1, "c", None, 1, ("id", "message"), rows)


def state(conversation_id: str) -> StateRecord:
    return StateRecord(1, ConversationState(conversation_id, 5, "m", 0, "answer"), -1)


def listing(*rows: object) -> ListingRecord:
    conversations = tuple(read_conversation_row(row, AT) for row in rows)
    return ListingRecord(int(AT.timestamp()) * 1_000_000, "", ("id",), ("id",), conversations)


def content(spool: Spool) -> list[object]:
    return [load_json(path.read_bytes()) for path in sorted(spool.folder.iterdir())]


RECORDS: list[Record] = [
    OwnIdentity("1", "ada", "asked"),
    CompleteRange(date(2026, 1, 1), AT),
    listing({"id": "c", "messages": {"data": [{"id": "m"}]}}, {"id": "d", "messages": 7}, "odd"),
    page({"text": "\ud83d lone", "number": 2**100}, {"text": "مرحبا 👩‍🍳"}),
    MessageRecord("c", "m", 2, "message", 3, 1, "failed", 100, 33, ("id",), None),
    state("c"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(tmp_path: Path, record: Record) -> None:
    Spool.create(tmp_path, "bakery", "run").append(record)
    assert list(left_spools(tmp_path, "bakery")[0]) == [record]


def test_records_are_read_in_order_each_with_its_states(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append(page(1), [state("a"), state("b")])
    spool.append(page(2))
    assert list(spool) == [page(1), state("a"), state("b"), page(2)]


def test_only_the_owner_can_read_a_spool(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "state", "bakery", "run")
    spool.append(page())
    paths = (tmp_path / "state" / "spool").rglob("*")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    [record] = spool.folder.iterdir()
    assert modes == {"bakery": 0o700, "run": 0o700, record.name: 0o600}


@pytest.mark.parametrize(
    "paging",
    [
        {"cursors": {"before": "b", "after": "a"}, "next": "https://x/?access_token=T"},
        {"next": 'https://x/?access_token=T&q="}'},
        {"cursors": {"before": "b", "after": 'quote"d'}, "previous": "https://x/?access_token=T"},
        {"unknown": {"deep": {"next": "access_token=T"}}},
        [],
    ],
)
def test_paging_and_its_token_are_never_written(tmp_path: Path, paging: object) -> None:
    row = {"data": [{"id": "1", "shares": {"data": [], "paging": paging}}], "paging": paging}
    conversation = {"id": "c", "messages": {"data": [row], "paging": paging}, "paging": paging}
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append(page(row))
    spool.append(listing(conversation))
    messages, conversations = spool
    clean = {"data": [{"id": "1", "shares": {"data": []}}]}
    assert messages == page(clean)
    assert isinstance(conversations, ListingRecord)
    [found] = conversations.conversations
    assert (found.payload, found.messages.rows) == ({"id": "c"}, (clean,))
    assert "paging" not in str(content(spool))


def test_message_text_about_paging_is_kept(tmp_path: Path) -> None:
    text = 'see ,"paging":{"cursors":{"after":"x"},"next":"y"} and \\"paging":{}'
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append(page({"message": text, "paging": {}}))
    assert list(spool) == [page({"message": text})]


def test_a_record_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    row: object = "deep"
    for _ in range(5000):
        row = [row]
    with pytest.raises(PayloadError, match="nested too deeply"):
        Spool.create(tmp_path, "bakery", "run").append(page(row))


def test_a_half_written_record_is_ignored(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append(page())
    (spool.folder / "00000002.tmp").write_bytes(b'{"kind": "ed')
    assert list(spool) == [page()]


def test_a_damaged_record_is_skipped_and_named(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    for text in ("hello", "world", "!"):
        spool.append(page(text))
    names = sorted(path.name for path in spool.folder.iterdir())
    flipped = spool.folder / names[0]
    flipped.write_bytes(flipped.read_bytes().replace(b"hello", b"hallo"))
    (spool.folder / names[2]).write_bytes(b"")
    assert (list(spool), spool.damaged) == ([page("world")], [names[0], names[2]])
    folder = Path("spool/bakery/run")
    assert find_damaged_records(tmp_path) == [folder / names[0], folder / names[2]]


def test_a_record_of_an_early_version_needs_no_hash(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append(page())
    [record] = spool.folder.iterdir()
    record.rename(spool.folder / "00000001.json")
    assert (list(spool), spool.damaged) == ([page()], [])


@pytest.mark.parametrize("linked", ["spool", "spool/bakery", "spool/bakery/run"])
def test_a_spool_that_is_a_symbolic_link_is_refused(tmp_path: Path, linked: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "bakery" / "run").mkdir(parents=True)
    link = tmp_path / "state" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="is a symbolic link"):
        Spool.create(tmp_path / "state", "bakery", "run")
    with pytest.raises(StoreError, match="is a symbolic link"):
        left_spools(tmp_path / "state", "bakery")
    assert delete_old_spools(tmp_path / "state", datetime.now(UTC) + timedelta(days=8)) == 0
    assert list(elsewhere.iterdir()) == [elsewhere / "bakery"]


def test_the_error_names_a_spool_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*/spool/bakery/run: Not a directory"):
        Spool.create(tmp_path, "bakery", "run")


def test_spools_of_unknown_accounts_are_deleted_after_seven_days(tmp_path: Path) -> None:
    Spool.create(tmp_path, "bakery", "run").append(page())
    now = datetime.now(UTC)
    assert delete_old_spools(tmp_path, now + timedelta(days=6)) == 0
    assert delete_old_spools(tmp_path, now + timedelta(days=8), ["bakery", "bikes"]) == 0
    assert delete_old_spools(tmp_path, now + timedelta(days=8)) == 1
    assert left_spools(tmp_path, "bakery") == []


def test_spool_that_cannot_be_removed_is_an_error_of_the_store(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "run"
    folder.symlink_to(elsewhere)
    with pytest.raises(StoreError, match=f"{folder} is a symbolic link"):
        Spool(folder).delete()


def test_a_record_that_cannot_be_read_is_kept_apart(tmp_path: Path) -> None:
    """Its bytes are as they were written, but this version does not know what it is."""
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append(page({"id": "m"}))
    spool.append(listing({"id": "c"}))
    (first, _) = sorted(spool.folder.iterdir())
    strange = dump_json({"kind": "unknown", "at_us": 1})
    digest = hashlib.sha256(strange).hexdigest()[:16]
    (spool.folder / f"00000001-{digest}.json").write_bytes(strange)
    first.unlink()
    assert list(spool) == [listing({"id": "c"})]
    assert (spool.damaged, spool.unreadable) == ([], [{"kind": "unknown", "at_us": 1}])


def test_another_machine_reads_the_copies_of_a_spool(tmp_path: Path) -> None:
    shared = SharedSpools(LocalFolder(tmp_path / "bucket"))
    one, two = tmp_path / "one", tmp_path / "two"
    spool = Spool.create(one, "bakery", "20260310T000000-dead", shared)
    for record in RECORDS:
        spool.append(record)
    assert left_spools(two, "bakery") == []
    (copy,) = left_spools(two, "bakery", shared)
    assert list(copy) == list(spool) == RECORDS
    copy.delete()
    assert shared.run_ids("bakery") == left_spools(two, "bakery", shared) == []
    assert left_spools(one, "bakery", shared) == []
    assert not spool.folder.exists()


def test_a_spool_without_copies_stays_when_the_spools_are_shared_later(tmp_path: Path) -> None:
    shared = SharedSpools(LocalFolder(tmp_path / "bucket"))
    Spool.create(tmp_path / "one", "bakery", "20260310T000000-dead").append(RECORDS[0])
    (left,) = left_spools(tmp_path / "one", "bakery", shared)
    assert list(left) == [RECORDS[0]]


def test_a_damaged_copy_counts_as_a_damaged_record(tmp_path: Path) -> None:
    shared = SharedSpools(LocalFolder(tmp_path / "bucket"))
    spool = Spool.create(tmp_path / "one", "bakery", "20260310T000000-dead", shared)
    spool.append(RECORDS[0])
    spool.append(RECORDS[1])
    first = min((tmp_path / "bucket").rglob("*.json"))
    first.write_bytes(b"{}")
    (copy,) = left_spools(tmp_path / "two", "bakery", shared)
    assert (list(copy), copy.damaged) == ([RECORDS[1]], [first.name])


def test_old_copies_of_accounts_without_configuration_are_removed(tmp_path: Path) -> None:
    shared = SharedSpools(LocalFolder(tmp_path / "bucket"))
    for run_id in ("20260301T000000-old", "20260310T000000-new"):
        for account in ("bakery", "gone"):
            Spool.create(tmp_path / "one", account, run_id, shared).append(RECORDS[0])
    now = datetime(2026, 3, 12, tzinfo=UTC)
    assert delete_old_spools(tmp_path / "two", now, ["bakery"], shared) == 1
    assert shared.run_ids("gone") == ["20260310T000000-new"]
    assert len(shared.run_ids("bakery")) == 2
    shared.rename("gone", "back")
    assert shared.run_ids("back") == ["20260310T000000-new"]
