"""Disk space of a million messages, compared with the API responses compressed with zstd.

    python -m benchmarks.size [--messages 100000] [--days 30]

The inbox is the bulk world over real HTTP. Its few texts repeat, so both sides compress better than
real ones. The responses are fetched once more, page by page with the pipeline's own fields, and
written as one zstd stream.
"""

import argparse
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import requests

from benchmarks.bulk import PAGE_ID, bulk_lake, derive_all, read_inbox
from benchmarks.inbox_server import inbox_server
from convo_pipeline.graph.fields import conversation_fields
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.segments import COMPACT
from convo_pipeline.schema import TABLES

MESSAGES_EACH = 20


def responses_size(base_url: str) -> tuple[int, int]:
    """Return the bytes of all responses of a listing, plain and compressed."""
    sink, plain = pa.BufferOutputStream(), 0
    asked = {
        "platform": "messenger",
        "limit": "50",
        "fields": conversation_fields("messenger", MESSAGES_EACH),
    }
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        while True:
            response = requests.get(f"{base_url}/v26.0/{PAGE_ID}/conversations", asked, timeout=60)
            response.raise_for_status()
            stream.write(response.content)
            plain += len(response.content)
            paging = orjson.loads(response.content)["paging"]
            if "next" not in paging:
                break
            asked["after"] = paging["cursors"]["after"]
    return plain, sink.getvalue().size


def size_of(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=30)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        inbox_server(arguments.messages // 20, 20, arguments.days) as server,
    ):
        root = Path(folder)
        with bulk_lake(server.base_url, root, arguments.days) as (settings, store):
            count = read_inbox(settings, store)
            derive_all(store)
            compact(store, datetime.now(UTC).date() + timedelta(days=62))
        plain, packed = responses_size(server.base_url)
        raw = [name for name, table in TABLES.items() if table.layer == "raw"]
        layers = {"responses, JSON": plain, "responses, zstd": packed}
        layers["raw tables"] = sum(size_of((root / name).rglob("*")) for name in raw)
        layers["derived tables"] = sum(
            size_of((root / name).rglob("*")) for name in TABLES if name not in raw
        )
        layers["compacted, raw"] = sum(size_of((root / COMPACT / name).rglob("*")) for name in raw)
        layers["compacted, derived"] = (
            size_of((root / COMPACT).rglob("*")) - layers["compacted, raw"]
        )
        layers["state"] = size_of((root / ".state").rglob("*"))
    print(f"{count:,} messages in {arguments.days} days")
    for name, byte_count in layers.items():
        million = byte_count / count * 1_000_000 / 2**20
        print(
            f"{name:20} {million:>8.1f} MiB a million messages"
            f" {byte_count / packed:>7.2f} x the responses' zstd"
        )


if __name__ == "__main__":
    main()
