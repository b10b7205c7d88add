"""Time of a durable commit, compared with a plain `pq.write_table` of the same rows.

Prints medians and ratios, in wall-clock time (which waits for the disk) and in CPU seconds.
Run: python -m benchmarks.commit [--rows N,N,…] [--long] [FOLDER]; --long also merges a million rows
in memory.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.words import text_of
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_DETAILS, TIME
from convo_pipeline.settings import StoreSettings
from convo_pipeline.tables.merge import merge

TABLE = RAW_MESSAGE_DETAILS.name
DAY = date(2026, 1, 5)
START_US = 1_767_600_000_000_000
ROUNDS = 5


def details(
    row_count: int, first: int = 0, looked_us: int = START_US, signature: str = "1"
) -> pa.Table:
    """Return realistic rows: texts of some words, every tenth with a picture with a signed URL."""
    fields = dump_json(
        dict.fromkeys(("message", "from", "to", "attachments", "created_time"), looked_us)
    ).decode()
    numbers = range(first, first + row_count)
    count = len(numbers)
    columns = {
        "conversation_id": [f"t_{10_000_000_000 + n // 20}" for n in numbers],
        "message_id": [
            f"aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlEOjE3ODQ{n * 7919:014d}ZD" for n in numbers
        ],
        "created_at": pa.array([START_US + n * 1_000_000 for n in numbers]).cast(TIME),
        "detail_status": ["detailed"] * count,
        "rank_when_asked": [n % 20 + 1 for n in numbers],
        "error_code": pa.nulls(count, pa.int64()),
        "error_subcode": pa.nulls(count, pa.int64()),
        "fields": [fields] * count,
        "payload": [_payload(n, signature) for n in numbers],
        "first_seen_at": pa.array([looked_us] * count).cast(TIME),
        "changed_at": pa.array([looked_us] * count).cast(TIME),
        "gone_at": pa.nulls(count, TIME),
        "redacted_at": pa.nulls(count, TIME),
    }
    return pa.table(columns).cast(RAW_MESSAGE_DETAILS.schema)


def _payload(n: int, signature: str) -> str:
    payload: dict[str, object] = {
        "message": text_of(n),
        "from": {"id": str(900_000 + n // 20), "username": f"guest.{n // 20}"},
    }
    if n % 10 == 0:
        payload["attachments"] = {
            "data": [{"image_data": {"url": f"https://cdn.example/{n}.jpg?signature={signature}"}}]
        }
    return dump_json(payload).decode()


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of an action."""
    started, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - started, time.process_time() - used


def compare(store: Store, folder: Path, row_count: int) -> None:
    """Print the medians of a plain write, a first commit, reruns, and ten added rows."""
    rows = details(row_count)
    again = details(row_count, looked_us=START_US + 900_000_000, signature="2")
    added = details(10, first=row_count)
    timings: dict[str, list[tuple[float, float]]] = {}
    for turn in range(ROUNDS):
        account = f"a{row_count}-{turn}"
        steps: dict[str, Callable[[], object]] = {
            "plain write_table": lambda: pq.write_table(
                rows, folder / "plain.parquet", compression="zstd"
            ),
            "first commit": lambda: store.merge(TABLE, account, DAY, rows),  # noqa: B023
            "rerun, same rows": lambda: store.merge(TABLE, account, DAY, rows),  # noqa: B023
            "rerun, signed again": lambda: store.merge(TABLE, account, DAY, again),  # noqa: B023
            "ten rows added": lambda: store.merge(TABLE, account, DAY, added),  # noqa: B023
        }
        for name, step in steps.items():
            timings.setdefault(name, []).append(seconds(step))
    plain = medians(timings["plain write_table"])
    for name, values in timings.items():
        wall, cpu = medians(values)
        clock = f"{wall * 1000:>9.1f} ms {wall / plain[0]:>6.2f} x"
        print(
            f"{row_count:>8} rows  {name:<20} {clock}"
            f"  {cpu * 1000:>9.1f} ms CPU {cpu / plain[1]:>6.2f} x",
            flush=True,
        )


def medians(timings: list[tuple[float, float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*timings, strict=True)]


def small_commits(store: Store, count: int = 200) -> None:
    """Print merges per second: into one small partition, and into new days."""
    row = details(1)
    steps: dict[str, Callable[[int], object]] = {
        "into one partition": lambda n: store.merge(TABLE, "small", DAY, details(1, first=n)),
        "into new days": lambda n: store.merge(TABLE, "many", DAY + timedelta(days=n), row),
        "idle": lambda n: store.merge(TABLE, "many", DAY + timedelta(days=n), row),
    }
    for name, step in steps.items():
        wall, cpu = seconds(lambda: [step(n) for n in range(count)])  # noqa: B023 - called here
        print(
            f"merges a second {name:<20} {count / wall:>6.0f}, {count / cpu:>6.0f} a CPU second",
            flush=True,
        )


def million() -> None:
    """Print the CPU seconds of merging a million rows in memory."""
    rows, again = (
        details(1_000_000),
        details(1_000_000, looked_us=START_US + 900_000_000, signature="2"),
    )
    empty = RAW_MESSAGE_DETAILS.schema.empty_table()
    _, cpu = seconds(lambda: merge(RAW_MESSAGE_DETAILS, empty, rows))
    print(f"merge of 1,000,000 new rows: {cpu:.1f} s CPU")
    stored = merge(RAW_MESSAGE_DETAILS, empty, rows)
    _, cpu = seconds(lambda: merge(RAW_MESSAGE_DETAILS, stored, again))
    print(f"merge of 1,000,000 rows signed again: {cpu:.1f} s CPU")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1,1000,100000")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("folder", nargs="?")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    store = Store(StoreSettings(root=str(folder / "lake")))
    try:
        for row_count in map(int, arguments.rows.split(",")):
            compare(store, folder, row_count)
        small_commits(store)
        if arguments.long:
            million()
    finally:
        store.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
