"""Readers of files that a writer replaces see one version or another, never a mix.

A writer commits five times a second, far more often than any run. `connect()` never fails. A
library that opens a path more than once can fail, and reads again.
"""

import multiprocessing
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import convo_pipeline
from convo_pipeline.lake.compact import compact, drop_outdated
from convo_pipeline.lake.store import Store
from convo_pipeline.query.connection import Connection
from convo_pipeline.schema import MESSAGES
from convo_pipeline.settings import StoreSettings

ACCOUNT = "bakery"
DAYS = tuple(date(2026, 3, day) for day in (1, 2, 3))
SIZES = (10, 40, 160)
"""Row counts of the versions. A mix of two has another count, or two texts."""
VERSIONS = 6
COMMITS_PER_SECOND = 5
TRIES = 5
COLUMNS = ["date", "message_id", "order_in_second", "text"]
Rows = list[tuple[str, str, int, str]]


def rows_of(day: date, version: int) -> Rows:
    return [
        (str(day), f"m{n:03}", version, f"{version} {n} " * 9) for n in range(SIZES[version % 3])
    ]


RIGHT = {(day, version): rows_of(day, version) for day in DAYS for version in range(VERSIONS)}


def as_table(day: date, version: int) -> pa.Table:
    known = {"conversation_id": "c", "created_at": datetime(2026, 3, 1, tzinfo=UTC)}
    neutral = {field.name: _neutral(field.type) for field in MESSAGES.schema if not field.nullable}
    rows = [
        neutral | known | dict(zip(COLUMNS[1:], row[1:], strict=True))
        for row in rows_of(day, version)
    ]
    return pa.Table.from_pylist(rows, schema=MESSAGES.schema)


def _neutral(kind: pa.DataType) -> object:
    return [] if pa.types.is_list(kind) else "" if pa.types.is_string(kind) else 0


def write_until_stopped(
    root: Path, stop: Event, commits: "multiprocessing.sharedctypes.Synchronized[int]"
) -> None:
    store = Store(StoreSettings(root=str(root)))
    while not stop.wait(1 / COMMITS_PER_SECOND):
        turn = commits.value
        day = DAYS[turn % len(DAYS)]
        store.replace("messages", ACCOUNT, day, as_table(day, turn % VERSIONS), f"version {turn}")
        commits.value = turn + 1
    store.close()


@contextmanager
def writing(root: Path) -> Iterator["multiprocessing.sharedctypes.Synchronized[int]"]:
    """Run a writer in another process; yield the number of its commits."""
    store = Store(StoreSettings(root=str(root)))
    for day in DAYS:
        store.replace("messages", ACCOUNT, day, as_table(day, 0), "version 0")
    store.close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convo_pipeline.lake.store"])
    stop, commits = context.Event(), context.Value("i", 0)
    writer = context.Process(target=write_until_stopped, args=(root, stop, commits))
    writer.start()
    try:
        yield commits
    finally:
        stop.set()
        writer.join()
    assert writer.exitcode == 0


SELECT = "SELECT date::VARCHAR, message_id, order_in_second, text FROM"
ORDER = "ORDER BY date, message_id"
PLAIN = duckdb.connect(config={"threads": 1})


def read_by_connect(root: Path, con: Connection) -> Rows:
    return con.sql(f"{SELECT} messages {ORDER}").fetchall()


def read_by_duckdb(root: Path, con: Connection) -> Rows:
    source = f"read_parquet('{root}/messages/*/*/data.parquet', hive_partitioning = true)"
    return PLAIN.sql(f"{SELECT} {source} {ORDER}").fetchall()


def read_by_pandas(root: Path, con: Connection) -> Rows:
    paths = [
        root / "messages" / f"account={ACCOUNT}" / f"date={day}" / "data.parquet" for day in DAYS
    ]
    frames = [pd.read_parquet(path, columns=COLUMNS[1:]) for path in paths]
    return [
        (str(day), *row)
        for day, frame in zip(DAYS, frames, strict=True)
        for row in frame.itertuples(index=False, name=None)
    ]


def read_by_pyarrow(root: Path, con: Connection) -> Rows:
    found = ds.dataset(root / "messages", partitioning="hive").to_table(columns=COLUMNS)
    return sorted(zip(*(column.to_pylist() for column in found.columns), strict=True))


def read_by_polars(root: Path, con: Connection) -> Rows:
    found = pl.scan_parquet(
        f"{root}/messages/**/data.parquet", hive_partitioning=True, try_parse_hive_dates=False
    )
    return found.select(COLUMNS).sort("date", "message_id").collect().rows()


READERS: dict[str, Callable[[Path, Connection], Rows]] = {
    "connect": read_by_connect,
    "duckdb": read_by_duckdb,
    "pandas": read_by_pandas,
    "pyarrow": read_by_pyarrow,
    "polars": read_by_polars,
}
SHARES = (1, 2, 1, 2, 2)
"""Reads per reader; fast readers read more often."""


def is_right(rows: Rows) -> bool:
    """Return whether every day is exactly one version."""
    versions = {date.fromisoformat(row[0]): row[2] for row in rows}
    return versions.keys() == set(DAYS) and rows == [
        row for day in DAYS for row in RIGHT[day, versions[day]]
    ]


def read_again(
    read: Callable[[Path, Connection], Rows], root: Path, con: Connection
) -> tuple[Rows, int]:
    """Read, and try again after an error; return the rows and the number of errors."""
    for failed in range(TRIES):
        try:
            return read(root, con), failed
        except (
            OSError,
            pa.ArrowException,
            duckdb.Error,
            pl.exceptions.PolarsError,
            pl.exceptions.PanicException,
        ):
            continue
    return read(root, con), TRIES


@pytest.mark.parametrize("name", READERS)
def test_every_reader_returns_the_same_rows(tmp_path: Path, name: str) -> None:
    store = Store(StoreSettings(root=str(tmp_path)))
    for version, day in enumerate(DAYS):
        store.replace("messages", ACCOUNT, day, as_table(day, version), "digest")
    store.close()
    with convo_pipeline.connect(tmp_path) as con:
        assert READERS[name](tmp_path, con) == [
            row for version, day in enumerate(DAYS) for row in rows_of(day, version)
        ]


@pytest.mark.hunt
@pytest.mark.timeout(7200)
def test_d7_readers_see_only_whole_commits(tmp_path: Path, long_run: bool) -> None:
    total, draw = 100_000 if long_run else 5_000, random.Random(20260301)
    reads, failures = Counter[str](), Counter[str]()
    with writing(tmp_path) as commits, convo_pipeline.connect(tmp_path) as con:
        for _ in range(total):
            (name,) = draw.choices(list(READERS), SHARES)
            if name == "connect":
                rows, failed = READERS[name](tmp_path, con), 0
            else:
                rows, failed = read_again(READERS[name], tmp_path, con)
            assert is_right(rows), f"{name} saw a mix"
            reads[name] += 1
            failures[name] += failed
        made = commits.value
    print(
        f"{total} reads during {made} commits, 0 wrong: {dict(reads)};"
        f" failed and read again: {dict(failures)}"
    )
    assert made > total / 1000


@pytest.mark.parametrize("removal", ["replaced", "dropped", "compaction dropped"])
def test_d8_an_open_file_can_be_read_after_it_is_removed(tmp_path: Path, removal: str) -> None:
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    store.replace("messages", ACCOUNT, DAYS[0], as_table(DAYS[0], 2), "2")
    path = store.path("messages", ACCOUNT, DAYS[0])
    if removal == "compaction dropped":
        compact(store, date(2026, 5, 2))
        [path] = (tmp_path / "lake" / ".compact" / "messages").glob("*.parquet")
    with (
        pq.ParquetFile(path, pre_buffer=False) as open_file,
        convo_pipeline.connect(tmp_path / "lake") as con,
    ):
        query = con.execute("SELECT message_id, text FROM messages ORDER BY message_id")
        first = query.fetchmany(3)
        if removal == "replaced":
            store.replace("messages", ACCOUNT, DAYS[0], as_table(DAYS[0], 0), "0")
        else:
            store.drop("messages", ACCOUNT, DAYS[0])
            drop_outdated(store)
            assert not path.exists()
        wanted = [(row[1], row[3]) for row in RIGHT[DAYS[0], 2]]
        assert (
            sorted(
                zip(
                    *(open_file.read()[name].to_pylist() for name in ("message_id", "text")),
                    strict=True,
                )
            )
            == wanted
        )
        assert first + query.fetchall() == wanted
        left = RIGHT[DAYS[0], 0] if removal == "replaced" else []
        assert con.execute("SELECT count(*) FROM messages").fetchone() == (len(left),)
    store.close()
