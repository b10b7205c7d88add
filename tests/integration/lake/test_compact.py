"""Queries give the same rows with and without compacted months, whatever happens to the days."""

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import convo_pipeline
from convo_pipeline.lake.compact import compact, drop_outdated
from convo_pipeline.lake.segments import Segment, days_digest, group_months, read_index
from convo_pipeline.lake.store import Store
from convo_pipeline.query.connection import Connection
from convo_pipeline.schema import MESSAGES, RAW_MESSAGE_IDS
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.database import STATE_FILE
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify

FIRST = date(2026, 1, 28)
TODAY = date(2026, 3, 5)
INDEXES = (0, 1, 2, 3, 4, 6, 13, 20, 28, 31, 32, 36)
"""Offsets in days: four in January, six in February, two in March."""
TABLES = ("raw_message_ids", "messages")


def moment(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def ids(day: date, *names: str) -> pa.Table:
    row = {"conversation_id": "c", "created_at": moment(day), "created_at_source": "message"}
    row |= {"order_in_second": 0, "first_seen_at": moment(day), "missing_at": None}
    return pa.Table.from_pylist(
        [row | {"message_id": name} for name in names], schema=RAW_MESSAGE_IDS.schema
    )


def messages(day: date, *names: str) -> pa.Table:
    row = {
        "conversation_id": "c",
        "created_at": moment(day),
        "order_in_second": 0,
        "tags": ["inbox"],
    }
    row |= {"content_type": "text", "detail_status": "detailed"}
    row |= {"first_seen_at": moment(day), "changed_at": moment(day)}
    return pa.Table.from_pylist(
        [row | {"message_id": name, "text": name} for name in names], schema=MESSAGES.schema
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with two accounts and three months, to be copied by each test."""
    root = tmp_path_factory.mktemp("made") / "lake"
    with closing(Store(StoreSettings(root=str(root)))) as store:
        for account in ("bakery", "florist"):
            for index in INDEXES:
                day = FIRST + timedelta(days=index)
                store.merge("raw_message_ids", account, day, ids(day, f"m{index}"))
                store.replace("messages", account, day, messages(day, f"m{index}"), "digest")
    return root


@pytest.fixture
def store(lake: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(lake, tmp_path / "lake")
    with closing(Store(StoreSettings(root=str(tmp_path / "lake")))) as store:
        yield store


WHERES = (
    "true",
    "date = '2026-02-10'",
    "date BETWEEN '2026-01-30' AND '2026-02-02'",
    "account = 'bakery'",
    "account = 'florist' AND date >= '2026-02-25'",
    "message_id = 'm3'",
)


def answers(con: Connection, wheres: tuple[str, ...] = WHERES) -> list[object]:
    """Return the rows of queries over everything, and over one day, month and account."""
    rows: list[object] = [
        sorted(map(repr, con.execute(f"SELECT * FROM {table} WHERE {where}").fetchall()))
        for table in TABLES
        for where in wheres
    ]
    return [
        *rows,
        con.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
        ).fetchall(),
    ]


def expected(store: Store, folder: Path, wheres: tuple[str, ...] = WHERES) -> list[object]:
    """Copy the lake without compacted files and without its state."""
    bare = folder / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    hidden = shutil.ignore_patterns(".compact", ".state", ".staging")
    shutil.copytree(store.root, bare, ignore=hidden, copy_function=os.link)
    with convo_pipeline.connect(bare) as con:
        return answers(con, wheres)


def segments(store: Store, table: str = "messages") -> list[Segment]:
    return read_index(store.backend, table)[0]


def months_read(con: Connection, store: Store) -> int:
    """Return how many accounts' months the view `messages` reads from segments."""
    (sql,) = con.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'messages'").fetchone()
    named = [each for each in segments(store) if f"/.compact/messages/{each.name}" in str(sql)]
    return sum(len(each.pieces) for each in named) - str(sql).count("(account = '")


def test_closed_months_of_all_accounts_share_one_segment(
    store: Store,
) -> None:
    made = compact(store, TODAY)
    assert [(each.account, each.month, each.day_count) for each in made] == 2 * [
        (account, month, count)
        for account in ("bakery", "florist")
        for month, count in (("2026-01", 4), ("2026-02", 6))
    ]
    (segment,) = segments(store)
    days = [FIRST + timedelta(days=index) for index in INDEXES[:10]]
    rows = pq.ParquetFile(store.root / ".compact/messages" / segment.name).read()
    assert rows.schema.names == ["account", "date", *MESSAGES.column_names]
    assert rows["account"].to_pylist() == ["bakery"] * 10 + ["florist"] * 10
    assert rows["date"].to_pylist() == days * 2
    records = store.state.partitions("bakery", table="messages")[:4]
    hashes = {record.date: record.sha256 for record in records}
    assert segment.pieces[0].source == days_digest(hashes)
    assert compact(store, TODAY) == []


def test_only_a_changed_month_is_read_from_its_daily_files(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    day = date(2026, 2, 3)
    store.replace("messages", "bakery", day, messages(day, "late"), "another")
    for path in store.root.glob("messages/account=*/date=2026-01-*/data.parquet"):
        path.write_bytes(b"x" * path.stat().st_size)
    assert [(each.account, each.month) for each in compact(store, TODAY)] == [("bakery", "2026-02")]
    with convo_pipeline.connect(store.root) as con:
        assert con.execute(
            "SELECT count(*) FROM messages WHERE date < '2026-03-01'"
        ).fetchone() == (20,)


def test_months_are_grouped_by_size() -> None:
    sizes = {(account, f"2025-{month:02d}"): 4 for account in "ab" for month in (1, 2)}
    assert [label for label, _ in group_months(sizes, most=16)] == ["2025"]
    assert [label for label, _ in group_months(sizes, most=8)] == ["2025-01", "2025-02"]
    assert [label for label, _ in group_months(sizes, most=7)] == [
        "2025-01-a",
        "2025-01-b",
        "2025-02-a",
        "2025-02-b",
    ]


def test_drop_outdated_removes_changed_months_from_segments(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    store.shrink("messages", "bakery", FIRST, lambda rows: rows.slice(1))
    drop_outdated(store)
    (segment,) = segments(store)
    assert [(each.account, each.month) for each in segment.pieces] == [
        ("bakery", "2026-02"), ("florist", "2026-01"), ("florist", "2026-02")
    ]  # fmt: skip
    assert [path.name for path in store.root.glob(".compact/messages/*.parquet")] == [segment.name]
    rows = pq.ParquetFile(store.root / ".compact/messages" / segment.name).read()
    assert rows.num_rows == 16
    with convo_pipeline.connect(store.root) as con:
        assert answers(con) == expected(store, tmp_path)
        assert months_read(con, store) == 3


def test_queries_give_the_same_rows_from_segments(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    with convo_pipeline.connect(store.root) as con:
        assert answers(con) == expected(store, tmp_path)
        assert months_read(con, store) == 4


def test_an_open_connection_sees_a_late_merge(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    with convo_pipeline.connect(store.root) as con:
        assert months_read(con, store) == 4
        day = date(2026, 2, 3)
        store.replace("messages", "bakery", day, messages(day, "late", "m6"), "another")
        assert con.execute(
            "SELECT count(*) FROM messages WHERE message_id = 'late'"
        ).fetchone() == (1,)
        assert months_read(con, store) == 3
        assert answers(con) == expected(store, tmp_path)
        compact(store, TODAY)
        assert answers(con) == expected(store, tmp_path)
        assert months_read(con, store) == 4


def test_a_relation_sees_a_change_made_after_it(store: Store) -> None:
    compact(store, TODAY)
    with convo_pipeline.connect(store.root) as con:
        relation = con.sql("SELECT count(*) FROM messages WHERE account = 'bakery'")
        store.drop("messages", "bakery", FIRST)
        assert relation.fetchall() == [(11,)]


def test_an_outdated_segment_that_was_restored_is_not_read(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    shutil.copytree(store.root / ".compact", tmp_path / "old")
    day = date(2026, 2, 3)
    store.replace("messages", "bakery", day, messages(day, "late"), "another")
    shutil.copytree(tmp_path / "old", store.root / ".compact", dirs_exist_ok=True)
    with convo_pipeline.connect(store.root) as con:
        assert answers(con) == expected(store, tmp_path)


def test_the_daily_files_are_read_without_a_state(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    store.close()
    with convo_pipeline.connect(store.root) as con:
        for path in (store.root / ".state").glob(f"{STATE_FILE}*"):
            path.unlink()
        assert answers(con) == expected(store, tmp_path)
        assert months_read(con, store) == 0


def test_the_daily_files_are_read_if_the_state_is_no_database(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    store.close()
    for path in (store.root / ".state").glob(f"{STATE_FILE}*"):
        path.unlink()
    (store.root / ".state" / STATE_FILE).write_bytes(b"not a database" * 100)
    with convo_pipeline.connect(store.root) as con:
        assert answers(con) == expected(store, tmp_path)
        assert months_read(con, store) == 0


def test_the_daily_files_are_read_after_the_state_is_rebuilt(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    store.close()
    for path in (store.root / ".state").glob(f"{STATE_FILE}*"):
        path.unlink()
    rebuild_state(store)
    with convo_pipeline.connect(store.root) as con:
        assert months_read(con, store) == 0
        compact(store, TODAY)
        assert answers(con) == expected(store, tmp_path)
        assert months_read(con, store) == 4


def test_the_settings_locate_a_state_outside_the_lake(
    tmp_path: Path,
) -> None:
    config = f'[store]\nroot = "{tmp_path / "lake"}"\nstate_dir = "{tmp_path / "state"}"\n'
    settings = convo_pipeline.settings.parse_settings(config.encode())
    store = Store(settings.store)
    store.replace("messages", "bakery", FIRST, messages(FIRST, "m"), "digest")
    compact(store, TODAY)
    with convo_pipeline.connect(store.root, settings=settings) as con:
        assert months_read(con, store) == 1
    with convo_pipeline.connect(store.root) as con:
        assert months_read(con, store) == 0
    store.close()


def test_a_query_takes_no_lock_and_writes_nothing(store: Store) -> None:
    compact(store, TODAY)
    writer = sqlite3.connect(store.root / ".state" / STATE_FILE, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with convo_pipeline.connect(store.root) as con:
        assert con.execute("SELECT count(*) FROM messages").fetchone() == (24,)
        assert months_read(con, store) == 4
    writer.execute("ROLLBACK")
    writer.close()


def test_queries_read_the_daily_files_if_a_segment_is_damaged(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    path = store.root / ".compact/messages" / segments(store)[0].name
    path.write_bytes(b"x" * path.stat().st_size)
    with convo_pipeline.connect(store.root) as con:
        assert answers(con) == expected(store, tmp_path)


def test_segments_are_not_read_if_duckdb_does_not_name_the_damaged_file(
    store: Store, tmp_path: Path
) -> None:
    compact(store, TODAY)
    path = store.root / ".compact/messages" / segments(store)[0].name
    path.write_bytes(garble_footer(path.read_bytes()))
    with convo_pipeline.connect(store.root) as con:
        assert answers(con) == expected(store, tmp_path)


def garble_footer(content: bytes) -> bytes:
    """Damage the list of columns; keep the size of the file."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return content[:start] + b"\xff" * 8 + content[start + 8 :]


def test_d2_verify_finds_a_flipped_bit_in_a_segment_and_compact_repairs_it(
    store: Store,
) -> None:
    compact(store, TODAY)
    [segment] = segments(store)
    path = store.root / ".compact/messages" / segment.name
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    found = [
        (finding.kind, finding.where)
        for finding in verify(store).findings
        if finding.kind == "compaction"
    ]
    assert found == [("compaction", f".compact/messages/{segment.name}")]
    compact(store, TODAY)
    assert (
        path.read_bytes(),
        [each.kind for each in verify(store).findings if each.kind == "compaction"],
    ) == (
        whole,
        [],
    )


def test_a_month_with_a_damaged_or_older_day_is_not_compacted(store: Store) -> None:
    path = store.path("messages", "bakery", FIRST)
    path.write_bytes(b"damaged")
    older = store.path("messages", "florist", FIRST)
    pq.write_table(pq.ParquetFile(older).read().drop_columns(["tags"]), older)
    compact(store, TODAY)
    (segment,) = segments(store)
    assert [(each.account, each.month) for each in segment.pieces] == [
        ("bakery", "2026-02"),
        ("florist", "2026-02"),
    ]


def test_a_month_that_changes_during_compaction_is_not_current(
    store: Store,
) -> None:
    partition = store.state.partition("messages", "bakery", FIRST)
    assert partition is not None
    store.state.save_intent(partition, "another")
    compact(store, TODAY)
    (segment,) = segments(store)
    assert [each.month for each in segment.pieces if each.account == "bakery"] == ["2026-02"]


def test_segments_without_daily_files_are_removed(store: Store) -> None:
    compact(store, TODAY)
    for index in range(4):
        store.drop("messages", "bakery", FIRST + timedelta(days=index))
    compact(store, TODAY)
    (segment,) = segments(store)
    assert [each.month for each in segment.pieces if each.account == "bakery"] == ["2026-02"]


def test_a_renamed_account_is_compacted_under_its_new_name(store: Store, tmp_path: Path) -> None:
    compact(store, TODAY)
    rename_account(store, "bakery", "cafe")
    assert {each.account for each in segments(store)[0].pieces} == {"florist"}
    with convo_pipeline.connect(store.root) as con:
        assert months_read(con, store) == 2
        compact(store, TODAY)
        assert months_read(con, store) == 4
        assert answers(con) == expected(store, tmp_path)


@pytest.mark.parametrize("seed", [3, 5])
def test_queries_give_the_same_rows_after_random_changes(
    store: Store, tmp_path: Path, seed: int, long_run: bool
) -> None:
    choose = random.Random(seed)
    backup: Path | None = None
    with convo_pipeline.connect(store.root) as con:
        for step in range(200 if long_run else 8):
            account, day = (
                choose.choice(["bakery", "florist"]),
                FIRST + timedelta(days=choose.randrange(-3, 40)),
            )
            kinds = (
                "merge replace replace forget drop compact compact keep restore remove damage clean"
            )
            kind = choose.choice(kinds.split())
            if kind == "merge":
                store.merge("raw_message_ids", account, day, ids(day, f"late{step}"))
            elif kind == "replace":
                store.replace(
                    "messages", account, day, messages(day, f"late{step}", "m3"), f"source{step}"
                )
            elif kind == "forget":
                store.shrink(
                    "messages", account, day, lambda rows: rows.slice(1) if rows.num_rows else rows
                )
            elif kind == "drop":
                store.drop(choose.choice(TABLES), account, day)
            elif kind == "clean":
                drop_outdated(store)
            elif kind == "compact":
                compact(store, choose.choice([TODAY, date(2026, 2, 14)]))
            elif kind == "keep" and (store.root / ".compact").exists():
                backup = tmp_path / f"kept{step}"
                shutil.copytree(store.root / ".compact", backup)
            elif kind == "restore" and backup:
                shutil.rmtree(store.root / ".compact", ignore_errors=True)
                shutil.copytree(backup, store.root / ".compact", dirs_exist_ok=True)
            elif kind == "remove":
                shutil.rmtree(store.path("messages", account, day).parent, ignore_errors=True)
            elif kind == "damage":
                for path in store.root.glob(".compact/*/*.parquet"):
                    path.unlink()
            assert answers(con, WHERES[:2]) == expected(store, tmp_path, WHERES[:2]), (
                seed,
                step,
                kind,
            )
