"""How long one person's erasure takes, every table, compaction and the state included (goal: 60 s a million rows).

    python -m benchmarks.forget [--messages 1000000] [--days 90]

The inbox is the bulk world: conversations of 20 messages; the person wrote one of them. Prints seconds by the clock
and of CPU, the rows that were there to search and those that left, and looks for the person in every file afterwards.
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.bulk import ACCOUNT, bulk_lake, cpu_seconds, derive_all, read_inbox
from benchmarks.inbox_server import inbox_server
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.lake.compact import compact
from convo_pipeline.privacy.forget import forget

PERSON = 9_990_000_000_000_000
"""The bulk world's customers are numbered from here."""


def holds(path: Path, trace: str) -> bool:
    content = path.read_bytes()
    if path.suffix == ".parquet":
        content += str(pq.ParquetFile(path).read().to_pylist()).encode()
    return trace.encode() in content


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    given = parser.parse_args()
    conversations = given.messages // 20
    person = str(PERSON + conversations // 2)
    with (
        tempfile.TemporaryDirectory() as folder,
        inbox_server(conversations, 20, given.days) as server,
    ):
        with bulk_lake(server.base_url, Path(folder), given.days) as (settings, store):
            count = read_inbox(settings, store)
            derive_all(store)
            derive_account_days(store, ACCOUNT)
            compact(store, datetime.now(UTC).date() + timedelta(days=62))
            started, used = time.perf_counter(), cpu_seconds()
            receipt = forget(settings, store, ACCOUNT, person, datetime.now(UTC))
            wall, cpu = time.perf_counter() - started, cpu_seconds() - used
        assert receipt is not None
        assert not any(holds(path, person) for path in Path(folder).rglob("*") if path.is_file()), (
            "still there"
        )
    print(
        f"{count:,} messages, {given.days} days: {wall:.1f} s wall, {cpu:.1f} s CPU; left: {receipt.row_counts}"
    )
    print(
        f"per million messages: {wall / count * 1e6:.1f} s wall, {cpu / count * 1e6:.1f} s CPU (goal <= 60 s)"
    )


if __name__ == "__main__":
    main()
