"""Time the erasure of one person from all tables, compacted files and the state.

    python -m benchmarks.forget [--messages 1000000] [--days 90]

Goal: 60 s for a million rows. Conversations have 20 messages; the person wrote one of them. Prints
wall and CPU seconds and the erased rows. Afterwards no file may contain the person's id.
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
"""Id of the bulk inbox's first customer."""


def contains(path: Path, trace: str) -> bool:
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
    arguments = parser.parse_args()
    conversations = arguments.messages // 20
    person = str(PERSON + conversations // 2)
    with (
        tempfile.TemporaryDirectory() as folder,
        inbox_server(conversations, 20, arguments.days) as server,
    ):
        with bulk_lake(server.base_url, Path(folder), arguments.days) as (settings, store):
            count = read_inbox(settings, store)
            derive_all(store)
            derive_account_days(store, ACCOUNT)
            compact(store, datetime.now(UTC).date() + timedelta(days=62))
            started, used = time.perf_counter(), cpu_seconds()
            receipt = forget(settings, store, ACCOUNT, person, datetime.now(UTC))
            wall, cpu = time.perf_counter() - started, cpu_seconds() - used
        assert receipt is not None
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        assert not any(contains(path, person) for path in files)
    print(
        f"{count:,} messages, {arguments.days} days: {wall:.1f} s wall, {cpu:.1f} s CPU;"
        f" erased rows: {receipt.row_counts}"
    )
    print(
        f"per million messages: {wall / count * 1e6:.1f} s wall,"
        f" {cpu / count * 1e6:.1f} s CPU (goal <= 60 s)"
    )


if __name__ == "__main__":
    main()
