"""`verify`: findings of each kind, and none for a sound lake."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.parquet import encode
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Receipt, read_suppression, save_receipt
from convo_pipeline.privacy.retention import expire
from convo_pipeline.schema import SCHEMA_VERSION, TABLES, VERSION_KEY
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import AccountIdentity, Partition, Run
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.verify import (
    FINDING_KINDS,
    NOTICES,
    Verification,
    check_side_files,
    verify,
)

ACCOUNT, DAY = "bakery", date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
MESSAGE = {
    "message": "hello",
    "from": {"id": "7", "username": "guest"},
    "attachments": {"data": [{"id": "1"}]},
}
SHARED = {
    "platform": "instagram",
    "page_id": "1001",
    "own_id": "17841",
    "created_at": NOON,
    "created_at_source": "message",
    "order_in_second": 0,
    "detail_status": "detailed",
    "fields": dump_json(dict.fromkeys(MESSAGE, 5)).decode(),
    "payload": dump_json(MESSAGE).decode(),
    "first_seen_at": NOON,
    "changed_at": NOON,
}


def rows(table: str, *ids: str, **changes: object) -> pa.Table:
    names = TABLES[table].column_names
    values = [
        SHARED | {"conversation_id": "c", "message_id": message_id} | changes for message_id in ids
    ]
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in names} for row in values], schema=TABLES[table].schema
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A lake of one account and two days, raw and derived."""
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    identity = AccountIdentity(ACCOUNT, "1001", "instagram", "17841", None, "inferred")
    store.state.set_identity(identity)  # as `rebuild_state` infers it
    for day, prefix in ((DAY, "a"), (date(2026, 1, 6), "b")):
        noon = datetime.combine(day, NOON.time(), UTC)
        store.merge("raw_conversations", ACCOUNT, day, rows("raw_conversations", "", payload="{}"))
        for table in ("raw_message_ids", "raw_message_details"):
            store.merge(
                table, ACCOUNT, day, rows(table, f"{prefix}1", f"{prefix}2", created_at=noon)
            )
        derive_day(store, ACCOUNT, day)
    counts = {"ids_listed": 4, "detailed": 4}
    store.state.save_run(Run("r1", ACCOUNT, "extract", NOON, outcome="complete", counts=counts))
    export_runs(store, "r1")
    yield store
    store.close()


def check(store: Store, is_quick: bool = False) -> Verification:
    return verify(store, is_quick=is_quick, stale_days=stale_days)


def kinds(store: Store, is_quick: bool = False) -> list[str]:
    return sorted({finding.kind for finding in check(store, is_quick).findings})


def write_over(store: Store, table: str, content: pa.Table, source: str = "") -> None:
    """Write a file and its record without checks, as a bug could do."""
    record = store.state.partition(table, ACCOUNT, DAY)
    path = store.path(table, ACCOUNT, DAY)
    path.write_bytes(encode(TABLES[table], content, source or (record.source if record else "")))
    store.state.remove_partition(table, ACCOUNT, DAY)
    rebuild_state(store)


def test_sound_lake_has_no_findings(store: Store) -> None:
    result = check(store)
    files = list(store.root.rglob("*.parquet"))
    assert (result.findings, result.is_sound) == ((), True)
    assert (result.file_count, result.byte_count) == (
        len(files),
        sum(path.stat().st_size for path in files),
    )
    assert result.row_count == sum(pq.read_metadata(path).num_rows for path in files)


def test_quick_verification_compares_names_and_sizes(store: Store) -> None:
    result = check(store, is_quick=True)
    assert (result.findings, result.row_count) == ((), 0)
    store.path("messages", ACCOUNT, DAY).unlink()
    with store.path("attachments", ACCOUNT, DAY).open("ab") as file:
        file.write(b"!")
    assert kinds(store, is_quick=True) == ["damaged", "missing"]


def test_verify_changes_nothing(store: Store) -> None:
    path = store.path("messages", ACCOUNT, DAY)
    path.write_bytes(path.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in store.root.rglob("*.parquet")}
    check(store)
    assert {path: path.read_bytes() for path in store.root.rglob("*.parquet")} == before


@pytest.mark.hunt
@pytest.mark.timeout(3600)
def test_d2_flipped_bit_is_found_in_any_file(store: Store, long_run: bool) -> None:
    """After one flipped bit in some files, exactly these files are named."""
    draw = random.Random(20260105)
    contents = {path: path.read_bytes() for path in sorted(store.root.rglob("*.parquet"))}
    flips = 0
    while flips < (10_000 if long_run else 400):
        chosen = draw.sample(sorted(contents), draw.randint(1, len(contents)))
        for path in chosen:
            place = draw.randrange(len(contents[path]) * 8)
            flipped = bytearray(contents[path])
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
        named = {finding.where for finding in verify(store).findings if finding.kind == "damaged"}
        assert named == {str(path.parent.relative_to(store.root)) for path in chosen}
        for path in chosen:
            path.write_bytes(contents[path])
        flips += len(chosen)
    print(f"{flips} flipped bits, all found")


def damage(store: Store) -> None:
    store.path("messages", ACCOUNT, DAY).write_bytes(b"")


def put_back_another(store: Store) -> None:
    path = store.path("messages", ACCOUNT, DAY)
    path.write_bytes(
        encode(TABLES["messages"], store.read("messages", ACCOUNT, DAY).slice(1), "another time")
    )


def put_another_days_in_its_place(store: Store) -> None:
    content = store.path("messages", ACCOUNT, date(2026, 1, 6)).read_bytes()
    store.path("messages", ACCOUNT, DAY).write_bytes(content)


def lose_file(store: Store) -> None:
    store.path("messages", ACCOUNT, DAY).unlink()


def lose_record(store: Store) -> None:
    store.state.remove_partition("messages", ACCOUNT, DAY)


def change_schema(store: Store) -> None:
    path = store.path("raw_rejects", ACCOUNT, DAY)
    path.parent.mkdir(parents=True)
    pq.write_table(
        pa.table({"digest": [1]}, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()}), path
    )


def write_newer(store: Store) -> None:
    content = pq.ParquetFile(store.path("messages", ACCOUNT, DAY)).read()
    metadata = {**(content.schema.metadata or {}), VERSION_KEY: str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(content.replace_schema_metadata(metadata), store.path("messages", ACCOUNT, DAY))
    rebuild_state(store)


def repeat_key(store: Store) -> None:
    write_over(store, "raw_message_ids", rows("raw_message_ids", "a1", "a1", "a2"))


def disorder(store: Store) -> None:
    write_over(store, "raw_message_ids", rows("raw_message_ids", "a2", "a1"))


def file_elsewhere(store: Store) -> None:
    other = datetime(2026, 1, 9, tzinfo=UTC)
    store.merge("raw_message_ids", ACCOUNT, DAY, rows("raw_message_ids", "a3", created_at=other))
    derive_day(store, ACCOUNT, DAY)


def file_twice(store: Store) -> None:
    store.merge("raw_message_ids", ACCOUNT, DAY, rows("raw_message_ids", "b1"))
    derive_day(store, ACCOUNT, DAY)


def lose_a_message(store: Store) -> None:
    write_over(store, "messages", store.read("messages", ACCOUNT, DAY).slice(1))


def miscount(store: Store) -> None:
    coverage = store.read("coverage", ACCOUNT, DAY).to_pylist()
    wrong = pa.Table.from_pylist([coverage[0] | {"detailed": 1}], schema=TABLES["coverage"].schema)
    write_over(store, "coverage", wrong)


def learn_more(store: Store) -> None:
    store.merge("raw_message_ids", ACCOUNT, DAY, rows("raw_message_ids", "a3"))


def lose_ids_in_a_run(store: Store) -> None:
    store.state.save_run(
        Run("r2", ACCOUNT, "extract", NOON, counts={"ids_listed": 4, "detailed": 3})
    )
    export_runs(store, "r2")


def lose_conversations_in_a_run(store: Store) -> None:
    counts = {
        "conversations_listed": 3,
        "conversations_fetched": 1,
        "rows_before": 5,
        "rows_after": 4,
    }
    store.state.save_run(Run("r2", ACCOUNT, "extract", NOON, counts=counts))
    export_runs(store, "r2")


def set_aside(store: Store) -> None:
    store.path("raw_conversations", ACCOUNT, DAY).with_name(
        "data.parquet.corrupt-12345678"
    ).write_bytes(b"x")
    path = f"raw_conversations/account={ACCOUNT}/date={DAY}/data.parquet.corrupt-12345678"
    record = store.state.partition("raw_conversations", ACCOUNT, DAY)
    store.state.mark_suspect("raw_conversations", ACCOUNT, DAY, path)
    assert isinstance(record, Partition)
    store.state.save_partition(record)


def leave_a_note(store: Store) -> None:
    (store.root / "messages" / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (damage, ["damaged"]),
        (put_back_another, ["restored"]),
        (put_another_days_in_its_place, ["damaged"]),
        (lose_file, ["missing"]),
        (lose_record, ["unrecorded"]),
        (change_schema, ["schema", "unrecorded"]),
        (write_newer, ["newer"]),
        (repeat_key, ["date", "key", "stale"]),
        (disorder, ["key", "stale"]),
        (file_elsewhere, ["date"]),
        (file_twice, ["date"]),
        (lose_a_message, ["balance"]),
        (miscount, ["balance"]),
        (learn_more, ["stale"]),
        (lose_ids_in_a_run, ["ledger"]),
        (lose_conversations_in_a_run, ["ledger"]),
        (set_aside, ["quarantine"]),
        (leave_a_note, ["foreign"]),
    ],
)
def test_each_problem_has_its_kind(
    store: Store, harm: Callable[[Store], None], expected: list[str]
) -> None:
    harm(store)
    result = check(store)
    assert sorted({finding.kind for finding in result.findings}) == expected
    assert result.is_sound == (set(expected) <= NOTICES)
    assert all(finding.kind in FINDING_KINDS for finding in result.findings)


def test_estimated_date_is_no_wrong_date(store: Store) -> None:
    guessed = rows("raw_message_ids", "a9", created_at_source="listing")
    store.merge("raw_message_ids", ACCOUNT, DAY, guessed)
    store.state.save_placements(ACCOUNT, {("c", "a9"): DAY})
    better = rows("raw_message_ids", "a9", created_at=datetime(2026, 1, 2, tzinfo=UTC))
    store.merge("raw_message_ids", ACCOUNT, DAY, better)
    derive_day(store, ACCOUNT, DAY)
    assert check(store).findings == ()
    rebuild_state(store)
    assert check(store).findings == ()


def test_result_is_plain_values(store: Store) -> None:
    leave_a_note(store)
    values = check(store).as_dict()
    assert values["findings"] == [
        {"kind": "foreign", "where": "messages/notes.txt", "text": "not a file of the lake"}
    ]
    assert dump_json(values)


def make_side_files(store: Store) -> dict[str, list[Path]]:
    """Create all files beside the partitions; return them by the kind of their findings."""
    compact(store, date(2026, 3, 1))
    save_receipt(store, Receipt(ACCOUNT, "a" * 64, ("b" * 64,), NOON, NOON, {"messages": 2}))
    expire(store, {"messages": 400}, DAY)
    compactions = [path for path in (store.root / ".compact").rglob("*") if path.is_file()]
    receipts = [*store.root.glob(".forgotten/*/*.json"), store.state_path / "forget.key"]
    return {
        "compaction": compactions,
        "erasure": receipts,
        "retention": [store.root / ".retention.json"],
    }


def test_flipped_bit_is_found_in_side_files(store: Store, long_run: bool) -> None:
    files = make_side_files(store)
    assert check(store).findings == ()
    generator = random.Random(7)
    for kind, paths in files.items():
        for path in paths:
            content = path.read_bytes()
            for _ in range(40 if long_run else 1):
                flipped = bytearray(content)
                flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
                path.write_bytes(flipped)
                assert kind in {
                    finding.kind for finding in check_side_files(store, is_quick=False)
                }, path
            path.write_bytes(content)
    assert check(store).findings == ()


def test_lost_or_resized_side_file_is_found(store: Store) -> None:
    files = make_side_files(store)
    (segment, *_) = [path for path in files["compaction"] if path.suffix == ".parquet"]
    content = segment.read_bytes()
    segment.write_bytes(content + b"x")
    assert [finding.kind for finding in check(store, is_quick=True).findings] == ["compaction"]
    segment.unlink()
    assert [finding.text for finding in check(store).findings] == ["there is no file"]
    segment.write_bytes(content)
    (store.state_path / "forget.key").unlink()
    assert [finding.kind for finding in check(store).findings] == ["erasure"]


def test_damaged_receipt_or_key_stops_reading_receipts(
    store: Store,
) -> None:
    for path in make_side_files(store)["erasure"]:
        content = path.read_bytes()
        path.write_bytes(
            content.replace(b"bb", b"bc", 1) if path.suffix == ".json" else content[::-1]
        )
        with pytest.raises(StoreError, match="put both back from your backup"):
            read_suppression(store, ACCOUNT)
        path.write_bytes(content)
    assert read_suppression(store, ACCOUNT).contains("x") is False


def test_receipt_of_an_earlier_version_needs_no_seal(store: Store) -> None:
    receipt, _ = make_side_files(store)["erasure"]
    receipt.write_bytes(dump_json(Receipt(ACCOUNT, "a" * 64, (), NOON).to_json()))
    assert read_suppression(store, ACCOUNT).hashes == {"a" * 64}
    assert check(store).findings == ()


def test_damaged_state_is_named_with_its_remedy(store: Store) -> None:
    store.close()
    path = store.state_path / "state.db"
    content = bytearray(path.read_bytes())
    page = 4096
    content[5 * page : 6 * page] = bytes(page)
    path.write_bytes(content)
    try:
        kinds = {finding.kind for finding in check(store).findings}
    except StoreError as error:
        kinds = {"state"} if "verify --rebuild-state" in str(error) else set()
    assert "state" in kinds
    store.close()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"state\.db: .*; move it away .*verify --rebuild-state"):
        check(store)
