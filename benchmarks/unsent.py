"""Count the files that the nightly search for unsent messages reads, with and without its memory.

    python -m benchmarks.unsent [--days 300] [--rows 60] [--rounds 3]

One account; one day changes between two nights. Both searches run in turns; the figures are
medians. In a bucket each file is one GET request.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import pyarrow as pa

from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.unsent import TASK, find_unsent
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import StoreSettings

ACCOUNT, FIRST = "insta", date(2026, 1, 1)
opened: list[str] = []


def ids(day: date, names: list[str]) -> pa.Table:
    at = datetime.combine(day, clock_time(9), tzinfo=UTC)
    row = {
        "conversation_id": "c",
        "created_at": at,
        "created_at_source": "message",
        "order_in_second": 0,
        "first_seen_at": at,
    }
    return pa.Table.from_pylist(
        [row | {"message_id": name} for name in names], schema=RAW_MESSAGE_IDS.schema
    )


def measure(work: Callable[[], object]) -> tuple[int, float]:
    """Return the number of opened data files, and the CPU seconds."""
    opened.clear()
    started = time.process_time()
    work()
    return len(opened), time.process_time() - started


def listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith("data.parquet"):
        opened.append(str(arguments[0]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=300)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    days = [FIRST + timedelta(days=index) for index in range(arguments.days)]
    sys.addaudithook(listen)
    whole, later = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Store(StoreSettings(root=str(Path(folder) / "lake")))) as store,
    ):
        for day in days:
            store.merge(
                RAW_MESSAGE_IDS.name,
                ACCOUNT,
                day,
                ids(day, [f"{day}-{number:05}" for number in range(arguments.rows)]),
            )
        for number in range(arguments.rounds):
            store.state.remove_days_done(f"{TASK} redact", ACCOUNT, days)
            whole.append(measure(lambda: find_unsent(store, ACCOUNT, "redact")))
            store.merge(RAW_MESSAGE_IDS.name, ACCOUNT, days[-1], ids(days[-1], [f"late-{number}"]))
            later.append(measure(lambda: find_unsent(store, ACCOUNT, "redact")))
    (files, cpu), (later_files, later_cpu) = (
        map(statistics.median, zip(*figures, strict=True)) for figures in (whole, later)
    )
    print(
        f"{arguments.days} days of {arguments.rows} rows: without memory {files:.0f} files,"
        f" {cpu:.3f} s CPU"
    )
    print(
        f"with memory, one day changed: {later_files:.0f} files, {later_cpu:.3f} s CPU:"
        f" {later_cpu / cpu:.2f} x"
    )


if __name__ == "__main__":
    main()
