"""The lake on a real disk: commits, kills, races and damage."""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from convo_pipeline.errors import BusyError, CorruptError, SchemaError, StoreError
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS, REACTIONS, SCHEMA_VERSION, VERSION_KEY
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import AccountIdentity, ConversationState, Partition, Run
from convo_pipeline.storage.local import LocalFolder
from convo_pipeline.upkeep.rebuild import rebuild_state
from tests.support.paths import ROOT

ACCOUNT, DAY = "bakery", date(2026, 1, 5)
TABLE = RAW_MESSAGE_IDS.name
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def ids(*message_ids: str, **changes: object) -> pa.Table:
    row = {
        "conversation_id": "c",
        "created_at": NOON,
        "created_at_source": "message",
        "order_in_second": 0,
        "first_seen_at": NOON,
        "missing_at": None,
    }
    rows = [row | {"message_id": message_id} | changes for message_id in message_ids]
    return pa.Table.from_pylist(rows, schema=RAW_MESSAGE_IDS.schema)


def reactions(*reactor_ids: str) -> pa.Table:
    row = {"conversation_id": "c", "message_id": "m", "reaction": "love", "created_at": NOON}
    rows = [row | {"reactor_id": reactor_id} for reactor_id in reactor_ids]
    return pa.Table.from_pylist(rows, schema=REACTIONS.schema)


def open_store(root: Path) -> Store:
    return Store(StoreSettings(root=str(root)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "lake")
    yield store
    store.close()


def stored_ids(store: Store) -> list[str]:
    return store.read(TABLE, ACCOUNT, DAY)["message_id"].to_pylist()


def file_of(store: Store, table: str = TABLE) -> Path:
    return store.path(table, ACCOUNT, DAY)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.parquet")
    }


def test_merge_writes_one_sorted_file_at_the_path_of_the_partition(store: Store) -> None:
    commit = store.merge(TABLE, ACCOUNT, DAY, ids("m2", "m1"))
    path = store.root / "raw_message_ids" / "account=bakery" / "date=2026-01-05" / "data.parquet"
    assert commit == Commit(TABLE, ACCOUNT, DAY, 2, path.stat().st_size, commit.sha256, True)
    assert pq.ParquetFile(path).read().schema.equals(RAW_MESSAGE_IDS.schema)
    assert stored_ids(store) == ["m1", "m2"]


def test_merge_of_nothing_new_leaves_the_file_untouched(store: Store) -> None:
    first = store.merge(TABLE, ACCOUNT, DAY, ids("m1", "m2"))
    before = snapshot(store.root)
    again = store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    assert (again.sha256, again.row_count, again.is_changed) == (first.sha256, 2, False)
    assert snapshot(store.root) == before


def test_the_same_rows_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = open_store(tmp_path / "one"), open_store(tmp_path / "other")
    for batch in (ids("m1"), ids("m3", "m2"), ids("m1", "m4")):
        one.merge(TABLE, ACCOUNT, DAY, batch)
    other.merge(TABLE, ACCOUNT, DAY, ids("m4", "m3", "m2", "m1"))
    assert file_of(one).read_bytes() == file_of(other).read_bytes()


def test_reading_a_day_without_a_file_gives_an_empty_table_of_the_schema(store: Store) -> None:
    assert store.read(TABLE, ACCOUNT, DAY).equals(RAW_MESSAGE_IDS.schema.empty_table())
    assert store.days(TABLE, ACCOUNT) == []


def test_merging_no_rows_creates_no_file(store: Store) -> None:
    commit = store.merge(TABLE, ACCOUNT, DAY, ids())
    assert (commit.row_count, commit.is_changed, file_of(store).exists()) == (0, False, False)


def test_replace_replaces_all_rows_and_stores_the_source(store: Store) -> None:
    store.replace("reactions", ACCOUNT, DAY, reactions("1", "2"), "digest-1")
    store.replace("reactions", ACCOUNT, DAY, reactions("2"), "digest-2")
    assert store.read("reactions", ACCOUNT, DAY)["reactor_id"].to_pylist() == ["2"]
    assert store.source("reactions", ACCOUNT, DAY) == "digest-2"
    metadata = pq.read_schema(file_of(store, "reactions")).metadata
    assert (metadata[b"convo_pipeline.source"], metadata[VERSION_KEY]) == (
        b"digest-2",
        str(SCHEMA_VERSION).encode(),
    )


def test_replace_by_nothing_removes_the_file_and_its_folders(store: Store) -> None:
    store.replace("reactions", ACCOUNT, DAY, reactions("1"), "digest")
    gone = store.replace("reactions", ACCOUNT, DAY, reactions(), "digest")
    assert (gone.row_count, gone.byte_count, gone.sha256, gone.is_changed) == (0, 0, "", True)
    assert not (store.root / "reactions").exists()
    assert store.state.partition("reactions", ACCOUNT, DAY) is None


def test_raw_tables_are_only_merged_and_derived_ones_only_replaced(store: Store) -> None:
    with pytest.raises(StoreError, match="reactions is no raw table"):
        store.merge("reactions", ACCOUNT, DAY, reactions("1"))
    with pytest.raises(StoreError, match="raw_message_ids is raw"):
        store.replace(TABLE, ACCOUNT, DAY, ids("m"), "digest")


def test_raw_digest_depends_on_the_raw_files_only(store: Store) -> None:
    nothing = store.raw_digest(ACCOUNT, DAY)
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    one = store.raw_digest(ACCOUNT, DAY)
    store.replace("reactions", ACCOUNT, DAY, reactions("1"), one)
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    assert one == store.raw_digest(ACCOUNT, DAY) != nothing
    store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    assert store.raw_digest(ACCOUNT, DAY) != one


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ids("m").set_column(4, "order_in_second", [["0"]]),
            r"raw_message_ids\.order_in_second: string is no int64",
        ),
        (
            ids("m").drop_columns(["order_in_second"]),
            r"raw_message_ids\.order_in_second: the column is missing",
        ),
        (
            ids("m").append_column("mood", [["good"]]),
            r"raw_message_ids\.mood: there is no such column",
        ),
        (
            ids("m").set_column(1, "message_id", [[12]]),
            r"raw_message_ids\.message_id: int64 is no string",
        ),
        (
            ids("m").set_column(4, "order_in_second", pa.nulls(1, pa.int64())),
            r"raw_message_ids\.order_in_second: null, but a int64",
        ),
    ],
)
def test_rows_of_another_schema_are_refused(store: Store, rows: object, message: str) -> None:
    table = pa.table(rows) if not isinstance(rows, pa.Table) else rows
    with pytest.raises(SchemaError, match=message):
        store.merge(TABLE, ACCOUNT, DAY, table)


def test_a_repeated_key_in_derived_content_is_refused(store: Store) -> None:
    with pytest.raises(SchemaError, match="occurs twice"):
        store.replace("reactions", ACCOUNT, DAY, reactions("1", "1"), "digest")


def test_pandas_frames_are_stored_without_loss(store: Store) -> None:
    frame = ids("m1", "m2").to_pandas()
    store.merge(TABLE, ACCOUNT, DAY, pa.Table.from_pandas(frame, preserve_index=False))
    assert store.read(TABLE, ACCOUNT, DAY).equals(ids("m1", "m2"))


@pytest.mark.parametrize(
    "account", ["", "Bakery", "0123", "a=b", "../x", "a*", "a/b", "x" * 64, "é"]
)
def test_ambiguous_account_names_are_refused(store: Store, account: str) -> None:
    with pytest.raises(StoreError, match="is no account name"):
        store.merge(TABLE, account, DAY, ids("m"))
    with pytest.raises(StoreError, match="is no account name"):
        store.read(TABLE, account, DAY)


def test_d16_names_fit_every_file_system(store: Store) -> None:
    account, other = "a" * 63, "a" * 62 + "b"
    for name in (account, other):
        store.merge(TABLE, name, DAY, ids("M" * 300, "m" * 300))
        with store.lock_account(name):
            pass
    store.path(TABLE, account, DAY).write_bytes(b"damaged")
    with pytest.raises(CorruptError):
        store.read(TABLE, account, DAY)
    names = [path.name for path in store.root.rglob("*")]
    assert max(len(name.encode()) for name in names) <= 255
    assert [name for name in names if name != name.lower()] == []
    assert store.read(TABLE, other, DAY).num_rows == 2


def test_s10_all_files_are_private_to_their_owner(store: Store) -> None:
    store.preflight()
    store.merge(TABLE, ACCOUNT, DAY, ids("m"))
    with store.lock_account(ACCOUNT):
        pass
    modes = {
        path: stat.S_IMODE(path.stat().st_mode) for path in [store.root, *store.root.rglob("*")]
    }
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_d14_symbolic_links_are_refused(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / TABLE).mkdir(parents=True)
    (store.root / TABLE / "account=bakery").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        store.merge(TABLE, ACCOUNT, DAY, ids("m"))
    store.merge(TABLE, "other", DAY, ids("m"))
    path = store.path(TABLE, "other", DAY)
    path.rename(outside / "stolen")
    path.symlink_to(outside / "stolen")
    with pytest.raises(StoreError, match="symbolic link"):
        store.read(TABLE, "other", DAY)
    assert [path.name for path in outside.iterdir()] == ["stolen"]


def test_d3_foreign_files_are_reported_and_never_read_or_deleted(store: Store) -> None:
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    folder = file_of(store).parent
    foreign = [
        folder / "copy of data.parquet",
        folder / ".DS_Store",
        store.root / TABLE / "notes.txt",
    ]
    for path in foreign:
        path.write_bytes(b"x")
    store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    assert stored_ids(store) == ["m1", "m2"]
    assert store.foreign_files() == sorted(path.relative_to(store.root).parts for path in foreign)


def damage(path: Path, how: str) -> bytes:
    content = path.read_bytes()
    flipped = bytes([content[len(content) // 2] ^ 1])
    damaged = {
        "empty": b"",
        "truncated": content[:-20],
        "flipped": content[: len(content) // 2] + flipped + content[len(content) // 2 + 1 :],
        "other": b"PAR1 but not really PAR1",
    }[how]
    path.write_bytes(damaged)
    return damaged


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped", "other"])
def test_d1_a_damaged_file_is_set_aside_and_named(store: Store, how: str) -> None:
    store.state.save_conversations(ACCOUNT, [])
    store.merge(TABLE, ACCOUNT, DAY, ids("m1", "m2"))
    damaged = damage(file_of(store), how)
    with pytest.raises(
        CorruptError,
        match=r"data\.parquet is damaged and was set aside as \.quarantine/",
    ):
        store.merge(TABLE, ACCOUNT, DAY, ids("m3"))
    (kept,) = store.root.rglob("*.corrupt-*")
    assert list(file_of(store).parent.iterdir()) == []
    assert kept.read_bytes() == damaged
    assert [entry[:3] for entry in store.state.suspect_files()] == [(TABLE, ACCOUNT, DAY)]
    assert store.foreign_files() == []
    store.merge(TABLE, ACCOUNT, DAY, ids("m3"))
    assert stored_ids(store) == ["m3"]


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: pq.read_table(folder).num_rows,
        lambda folder: ds.dataset(folder, partitioning="hive").count_rows(),
        lambda folder: len(pd.read_parquet(folder)),
        lambda folder: pl.read_parquet(folder).height,
    ],
    ids=["pyarrow", "pyarrow.dataset", "pandas", "polars"],
)
def test_d1_readers_of_a_whole_folder_do_not_find_a_damaged_file(
    store: Store, read: Callable[[str], int]
) -> None:
    for day in (DAY, DAY + timedelta(days=1)):
        store.merge(TABLE, ACCOUNT, day, ids("m1", "m2"))
    damage(file_of(store), "flipped")
    with pytest.raises(CorruptError):
        store.read(TABLE, ACCOUNT, DAY)
    assert read(str(store.root / TABLE)) == 2


def test_reading_a_damaged_file_names_it_and_leaves_other_days_readable(store: Store) -> None:
    other = date(2026, 1, 6)
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    store.merge(TABLE, ACCOUNT, other, ids("m2"))
    damage(file_of(store), "flipped")
    with pytest.raises(CorruptError, match="date=2026-01-05"):
        store.read(TABLE, ACCOUNT, DAY)
    assert store.read(TABLE, ACCOUNT, other)["message_id"].to_pylist() == ["m2"]


def test_a_missing_raw_file_is_an_error_once(store: Store) -> None:
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    file_of(store).unlink()
    with pytest.raises(StoreError, match="is missing although it held 1 rows"):
        store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    assert stored_ids(store) == ["m2"]


def test_d6_a_file_of_a_newer_version_is_read_but_not_written(store: Store) -> None:
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    newer = store.read(TABLE, ACCOUNT, DAY).append_column("mood", [["good"]])
    newer = newer.replace_schema_metadata({VERSION_KEY: str(SCHEMA_VERSION + 1).encode()})
    pq.write_table(newer, file_of(store))
    rebuild_state(store)
    assert stored_ids(store) == ["m1"]
    with pytest.raises(SchemaError, match="written by a newer convo-pipeline"):
        store.merge(TABLE, ACCOUNT, DAY, ids("m2"))


def test_state_is_rebuilt_from_the_files(store: Store) -> None:
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    store.merge(TABLE, ACCOUNT, DAY, ids("guess", created_at_source="listing"))
    store.replace("reactions", ACCOUNT, DAY, reactions("1"), "digest")
    run = Run(
        "r1",
        ACCOUNT,
        "extract",
        NOON,
        DAY,
        date(2026, 1, 6),
        NOON,
        "complete",
        (),
        None,
        {"listing": 1},
        {},
        {},
        {"timezone": "Europe/Berlin"},
    )
    store.state.save_run(run)
    export_runs(store, "r1")
    partitions = store.state.partitions()
    store.close()
    for path in store.state_path.glob("state.db*"):
        path.unlink()
    again = open_store(store.root)
    rebuild_state(again)
    assert again.state.partitions() == partitions
    assert again.state.placements(ACCOUNT) == {("c", "guess"): DAY}
    assert again.state.runs() == [run]
    again.close()


def test_a_restored_lake_is_accepted_after_the_state_is_rebuilt(store: Store) -> None:
    store.state.set_identity(AccountIdentity(ACCOUNT, "1001", "instagram"))
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    backup = file_of(store).read_bytes()
    store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    store.merge(TABLE, ACCOUNT, date(2026, 1, 6), ids("m3"))
    store.state.save_conversations(ACCOUNT, [ConversationState("c", 9, "m3", 1)])
    file_of(store).write_bytes(backup)
    store.path(TABLE, ACCOUNT, date(2026, 1, 6)).unlink()
    rebuild_state(store)
    assert stored_ids(store) == ["m1"]
    assert [record.date for record in store.state.partitions()] == [DAY]
    assert store.state.conversations(ACCOUNT)["c"].complete_since_us is None


def test_d4_stale_staged_files_are_removed_after_an_hour(store: Store) -> None:
    store.preflight()
    abandoned, fresh = (
        store.root / ".staging" / name for name in ("0" * 32 + ".tmp", "1" * 32 + ".tmp")
    )
    for path in (abandoned, fresh):
        path.write_bytes(b"x")
    os.utime(abandoned, (time.time() - 3700,) * 2)
    store.preflight()
    assert (abandoned.exists(), fresh.exists()) == (False, True)


def test_exported_runs_are_added_to_the_ledger(store: Store) -> None:
    for run_id in ("r2", "r1"):
        store.state.save_run(
            Run(run_id, ACCOUNT, "extract", NOON, outcome="failed", reasons=("throttled",))
        )
        export_runs(store, run_id)
    store.state.prune_runs(datetime(2027, 1, 1, tzinfo=UTC))
    store.state.save_run(Run("r3", ACCOUNT, "capture", NOON, outcome="complete"))
    (commit,) = export_runs(store, "r3")
    rows = pq.ParquetFile(store.root / "runs" / "date=2026-01-05" / "data.parquet").read()
    assert commit.row_count == 3
    assert rows["run_id"].to_pylist() == ["r1", "r2", "r3"]
    assert rows["reasons"].to_pylist() == [["throttled"], ["throttled"], []]


def test_an_account_has_one_extraction_at_a_time(store: Store) -> None:
    other = open_store(store.root)
    with store.lock_account(ACCOUNT):
        with pytest.raises(BusyError, match="account bakery is busy"), other.lock_account(ACCOUNT):
            pass
        with other.lock_account("florist"):
            pass
    with other.lock_account(ACCOUNT):
        pass


def test_an_unwritable_root_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot write .*file"):
        open_store(tmp_path / "file" / "lake").preflight()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_c8_a_read_only_root_is_refused_before_any_work(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    root.mkdir(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        open_store(root).preflight()


def test_a_full_disk_is_refused_with_the_missing_space(store: Store) -> None:
    with pytest.raises(StoreError, match=r"is full: .* MiB free, .* MiB needed, .* MiB missing"):
        store.preflight(needed_bytes=1 << 60)


def test_a_commit_interrupted_before_the_replace_leaves_the_old_file(store: Store) -> None:
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    record = store.state.partition(TABLE, ACCOUNT, DAY)
    assert record is not None
    store.state.save_intent(record, "0" * 64)
    assert stored_ids(store) == ["m1"]
    assert store.raw_digest(ACCOUNT, DAY) != ""
    assert store.state.partition(TABLE, ACCOUNT, DAY) == record


def test_a_commit_interrupted_after_the_replace_leaves_the_new_file(store: Store) -> None:
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    before = store.state.partition(TABLE, ACCOUNT, DAY)
    store.merge(TABLE, ACCOUNT, DAY, ids("m2"))
    after = store.state.partition(TABLE, ACCOUNT, DAY)
    assert before is not None
    assert after is not None
    store.state.save_intent(before, after.sha256)
    assert store.merge(TABLE, ACCOUNT, DAY, ids("m2")).is_changed is False
    assert store.state.partition(TABLE, ACCOUNT, DAY) == after


def test_a_removal_interrupted_before_it_is_recorded_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = store.folder.remove

    def remove_and_fail(*arguments: Any) -> None:
        remove(*arguments)
        raise StoreError("interrupted")

    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    monkeypatch.setattr(store.folder, "remove", remove_and_fail)
    with pytest.raises(StoreError, match="interrupted"):
        store.shrink(TABLE, ACCOUNT, DAY, lambda rows: rows.slice(0, 0))
    assert stored_ids(store) == []
    assert (store.state.suspect_files(), store.state.partition(TABLE, ACCOUNT, DAY)) == ([], None)


def test_a_rebuild_writes_a_file_with_a_damaged_footer_again(store: Store) -> None:
    """The damage is in a text of the footer, so all rows can be read."""
    store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    path = file_of(store)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"parquet-cpp-arrow", b"parquet-cpp-brrow"))
    assert path.read_bytes() != content
    rebuild_state(store)
    assert path.read_bytes() == content


WRITER = """
import sys
from pathlib import Path
from typing import Any
sys.path.insert(0, {tests!r})
from tests.integration.lake.test_store import ACCOUNT, DAY, TABLE, ids, open_store
store = open_store(Path({root!r}))
print("ready", flush=True)
for turn in range(10_000):
    store.merge(TABLE, ACCOUNT, DAY, ids(*(f"m{{turn}}-{{i}}" for i in range(50))))
    print(turn, flush=True)
"""


def start_writer(root: Path) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(ROOT), root=str(root))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.hunt
@pytest.mark.timeout(3600)
def test_a_killed_writer_leaves_whole_commits(tmp_path: Path, long_run: bool) -> None:
    for turn in range(100 if long_run else 4):
        root = tmp_path / str(turn)
        writer = start_writer(root)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.05 + 0.037 * (turn % 7))
        writer.send_signal(signal.SIGKILL)
        committed = [int(line) for line in writer.stdout.read().split()]
        writer.stdout.close()
        writer.wait()
        store = open_store(root)
        stored = set(stored_ids(store))
        assert {f"m{n}-{i}" for n in committed for i in range(50)} <= stored
        assert len(stored) % 50 == 0
        store.merge(TABLE, ACCOUNT, DAY, ids("healed"))
        assert set(stored_ids(store)) == stored | {"healed"}
        store.close()


def merge_many(root: Path, writer: int, turns: int) -> None:
    store = open_store(root)
    for turn in range(turns):
        store.merge(TABLE, ACCOUNT, DAY, ids(f"m{writer}-{turn}", "shared"))
    store.close()


@pytest.mark.hunt
@pytest.mark.timeout(3600)
def test_c9_writers_of_one_partition_make_a_union(tmp_path: Path, long_run: bool) -> None:
    writers, turns = (16, 200) if long_run else (8, 10)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convo_pipeline.lake.store"])
    processes = [
        context.Process(target=merge_many, args=(tmp_path / "lake", n, turns))
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * writers
    store = open_store(tmp_path / "lake")
    assert set(stored_ids(store)) == {
        f"m{n}-{turn}" for n in range(writers) for turn in range(turns)
    } | {"shared"}
    store.close()


def test_two_threads_share_one_store(store: Store) -> None:
    days = [date(2026, 1, day) for day in (5, 6)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.merge(TABLE, ACCOUNT, days[n % 2], ids(f"m{n}")), range(20)))
    assert sum(store.read(TABLE, ACCOUNT, day).num_rows for day in days) == 20
    assert store.days(TABLE, ACCOUNT) == days


def test_s6_paths_outside_the_root_are_refused(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    for parts in (("..",), ("a/b",), ("",), ("a\0b",), (".",)):
        with pytest.raises(StoreError, match="is no name of a file or folder"):
            folder.read(parts)


def test_partition_records_match_the_files(store: Store) -> None:
    commit = store.merge(TABLE, ACCOUNT, DAY, ids("m1"))
    expected = Partition(TABLE, ACCOUNT, DAY, commit.sha256, 1, commit.byte_count)
    assert store.state.partitions(ACCOUNT) == [expected]
