"""Time queries of compacted tables, against one sorted Parquet file and against daily files.

    python -m benchmarks.query [--accounts 50] [--days 365] [--rows 60] [--check] [FOLDER]

The readers run in turns. Prints medians and ratios of wall and CPU seconds. `--check` exits with 1
if a query of compacted tables takes more than twice the CPU seconds of one sorted file.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import convo_pipeline
from benchmarks.processes import ROOM, end
from benchmarks.words import text_of
from convo_pipeline.lake import parquet
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import MESSAGES, TIME
from convo_pipeline.settings import StoreSettings
from convo_pipeline.upkeep.rebuild import rebuild_state

FIRST = date(2025, 1, 1)
TURNS = 9
COMPACTED = "connect(), compacted"
GOAL = 2.0
"""CPU seconds of a query of compacted tables, as a multiple of those of one sorted file."""


def messages(account: int, day: date, count: int) -> pa.Table:
    """Return realistic rows of one account and day, sorted by key."""
    numbers = [(account * 400 + (day - FIRST).days) * count + n for n in range(count)]
    at = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
    rows = {
        "conversation_id": [
            f"aWdfZAG06MTpJR01lc3NhZA2VUaHJlYWQ6{account * 1000 + n // 6:012d}" for n in numbers
        ],
        "message_id": [
            f"aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlEOjE3ODQ{n * 7919 % 10**14:014d}ZD" for n in numbers
        ],
        "platform": ["instagram"] * count,
        "created_at": pa.array([at + n % count * 1_000_000_000 for n in numbers]).cast(TIME),
        "order_in_second": [0] * count,
        "direction": [("inbound", "outbound")[n % 2] for n in numbers],
        "sender_id": [str(9_990_000_000_000_000 + n // 6 * (n % 2)) for n in numbers],
        "text": [text_of(n) for n in numbers],
        "content_type": ["text"] * count,
        "detail_status": ["detailed"] * count,
        "first_seen_at": pa.array([at] * count).cast(TIME),
        "changed_at": pa.array([at] * count).cast(TIME),
    }
    columns = [
        pa.array(rows[column.name], column.type)
        if isinstance(rows.get(column.name), list)
        else rows.get(column.name, pa.nulls(count, column.type))
        for column in MESSAGES.columns
    ]
    return parquet.sort(MESSAGES, pa.Table.from_arrays(columns, schema=MESSAGES.schema))


def fill(root: Path, accounts: int, days: int, rows: int) -> Path:
    """Write daily files, and one sorted file of the same rows; return its path."""
    one = root.parent / "one.parquet"
    schema = pa.schema(
        [pa.field("account", pa.string()), pa.field("date", pa.date32()), *MESSAGES.schema]
    )
    with pq.ParquetWriter(one, schema, compression="zstd") as writer:
        for number in range(accounts):
            account, waiting = f"a{number:03d}", []
            for index in range(days):
                day = FIRST + timedelta(days=index)
                table = messages(number, day, rows)
                path = root / "messages" / f"account={account}" / f"date={day}" / "data.parquet"
                path.parent.mkdir(parents=True)
                path.write_bytes(parquet.encode(MESSAGES, table, "benchmark"))
                paths = [
                    pa.array([value] * rows, kind)
                    for value, kind in ((account, pa.string()), (day, pa.date32()))
                ]
                waiting.append(pa.Table.from_arrays([*paths, *table.columns], schema=schema))
            writer.write_table(pa.concat_tables(waiting), row_group_size=122_880)
    return one


def queries(accounts: int, days: int, rows: int) -> dict[str, str]:
    day = FIRST + timedelta(days=days // 2)
    message_id = messages(accounts // 2, day, rows)["message_id"][rows // 2].as_py()
    columns = ", ".join(MESSAGES.column_names)  # the view has the local time too
    return {
        "full scan": "SELECT account, direction, count(*), sum(length(text)), max(created_at)"
        " FROM {} GROUP BY ALL",
        "one week": "SELECT account, count(*), sum(length(text)) FROM {}"
        f" WHERE date BETWEEN '{day}' AND '{day + timedelta(days=6)}' GROUP BY ALL",
        "one account-day": f"SELECT {columns} FROM {{}}"
        f" WHERE account = 'a{accounts // 2:03d}' AND date = '{day}'",
        "one message id": f"SELECT {columns} FROM {{}} WHERE message_id = '{message_id}'",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=20)
    parser.add_argument("--days", type=int, default=151)
    parser.add_argument("--rows", type=int, default=60, help="rows per account and day")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("folder", nargs="?")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        misses = compare(folder, arguments.accounts, arguments.days, arguments.rows)
    finally:
        shutil.rmtree(folder)
    end(misses, arguments.check)


def compare(folder: Path, accounts: int, days: int, rows: int) -> list[str]:
    """Print all figures; return the queries of compacted tables that exceed the goal."""
    root = folder / "lake"
    one = fill(root, accounts, days, rows)
    asked = queries(accounts, days, rows)
    store = Store(StoreSettings(root=str(root)))
    rebuild_state(store)
    started = time.process_time()
    made = compact(store, FIRST + timedelta(days=days))
    seconds = time.process_time() - started
    print(
        f"{accounts} accounts x {days} days x {rows} rows:"
        f" {len(made)} months compacted in {seconds:.0f} s CPU"
    )
    time.sleep(2.1)
    with convo_pipeline.connect(root) as compacted, duckdb.connect() as plain, Bare(root) as daily:
        plain.execute("SET TimeZone = 'UTC'")
        plain.execute(f"CREATE VIEW messages AS SELECT * FROM read_parquet('{one}')")
        readers = {
            "one sorted file": plain,
            COMPACTED: compacted,
            "connect(), daily files": daily,
        }
        misses = [
            name
            for name, sql in asked.items()
            if report(name, sql.format("messages"), readers)[COMPACTED] > GOAL * ROOM
        ]
    store.close()
    return misses


class Bare:
    """A copy of the lake without state: queries read its daily files."""

    def __init__(self, root: Path) -> None:
        self.root = root.parent / "bare"
        self.root.mkdir()
        shutil.copytree(
            root / "messages",
            self.root / "messages",
            copy_function=lambda a, b: Path(b).hardlink_to(a),
        )

    def __enter__(self) -> "convo_pipeline.query.connection.Connection":
        return convo_pipeline.connect(self.root)

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.root)


def report(name: str, sql: str, readers: dict[str, Any]) -> dict[str, float]:
    """Print the medians of each reader, without the first turn; return the ratios of CPU."""
    timings: dict[str, list[tuple[float, float]]] = {reader: [] for reader in readers}
    results = {}
    for _ in range(TURNS + 1):
        for reader, con in readers.items():
            started, used = time.perf_counter(), time.process_time()
            results[reader] = sorted(map(repr, con.execute(sql).fetchall()))
            timings[reader].append((time.perf_counter() - started, time.process_time() - used))
    assert len({tuple(rows) for rows in results.values()}) == 1, "the readers disagree"
    base = [
        statistics.median(column) for column in zip(*timings["one sorted file"][1:], strict=True)
    ]
    ratios = {}
    for reader, values in timings.items():
        wall, cpu = (statistics.median(column) for column in zip(*values[1:], strict=True))
        print(
            f"{name:<16} {reader:<24} {wall * 1000:>9.1f} ms {wall / base[0]:>7.2f} x"
            f"  {cpu * 1000:>9.1f} ms CPU {cpu / base[1]:>7.2f} x"
        )
        ratios[reader] = cpu / base[1]
    return ratios


if __name__ == "__main__":
    main()
