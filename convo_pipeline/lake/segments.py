"""Which compacted files a table has and what lies in each: an account's month after the other, in that order.

`<root>/.compact/<table>/index.json` names the files (segments) and, for every month in one (a piece), the digest of the
daily files it was made from. A segment never changes: its name holds the hash of its bytes. It opens no Parquet.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.schema import SCHEMA_VERSION
from convo_pipeline.storage.backend import FileVersion, StorageBackend

COMPACT = ".compact"
INDEX_FILE = "index.json"
MOST_BYTES = 512 * 2**20
"""Daily files of more bytes than these do not share one segment: it is written as a whole, and held in memory then."""
Key = tuple[str, str]
"""An account and a month, `2026-01`."""


@dataclass(frozen=True)
class Piece:
    """An account's month inside a segment."""

    account: str
    month: str
    source: str
    """The digest of the daily files it was made from."""
    day_count: int

    @property
    def key(self) -> Key:
        return self.account, self.month


@dataclass(frozen=True)
class Segment:
    """A compacted file; its rows are sorted by account, date and the table's key."""

    name: str
    byte_count: int
    sha256: str
    pieces: tuple[Piece, ...]

    def is_of(self, content: bytes) -> bool:
        """Say whether these are the bytes that were written."""
        return hashlib.sha256(content).hexdigest() == self.sha256


def source_of(versions: Mapping[date, str]) -> str:
    """Return the digest of the daily files a piece was made from, given the version of each."""
    return hashlib.sha256(
        "".join(f"{day}:{versions[day]}\n" for day in sorted(versions)).encode()
    ).hexdigest()


def month_of(day: date) -> str:
    """Return a day's month.

    >>> month_of(date(2026, 1, 5))
    '2026-01'
    """
    return f"{day:%Y-%m}"


def bounds_of(month: str) -> tuple[date, date]:
    """Return a month's first and last day.

    >>> [str(day) for day in bounds_of("2024-02")]
    ['2024-02-01', '2024-02-29']
    """
    first = date.fromisoformat(f"{month}-01")
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def arrange(sizes: Mapping[Key, int], most: int = MOST_BYTES) -> list[tuple[str, list[Key]]]:
    """Say which months share a segment, given the bytes of each: all of a year, else of a month, else one alone.

    >>> arrange({("b", "2025-01"): 1, ("a", "2025-02"): 1, ("a", "2026-01"): 3, ("b", "2026-02"): 1}, most=3)
    [('2025', [('a', '2025-02'), ('b', '2025-01')]), ('2026-01', [('a', '2026-01')]), ('2026-02', [('b', '2026-02')])]
    """
    found: list[tuple[str, list[Key]]] = []
    for year, keys in _grouped(sizes, len("2026")).items():
        if _total(sizes, keys) <= most:
            found.append((year, keys))
            continue
        for month, some in _grouped(keys, len("2026-01")).items():
            if _total(sizes, some) <= most:
                found.append((month, some))
            else:
                found += [(f"{month}-{account}", [(account, month)]) for account, _ in some]
    return found


def segment_parts(table: str, name: str) -> tuple[str, ...]:
    """Return where a segment lies, or the index."""
    return COMPACT, table, name


def read_index(place: StorageBackend, table: str) -> tuple[list[Segment], FileVersion | None]:
    """Return a table's segments and the mark of the file that names them; none where it cannot be read or is outdated."""
    found = place.read(segment_parts(table, INDEX_FILE))
    return (read_segments(found[0]), found[1]) if found else ([], None)


def is_whole(place: StorageBackend, table: str, segment: Segment) -> bool:
    """Say whether a segment has the bytes that were written; in a bucket, which checks them itself, whether it is there."""
    parts = segment_parts(table, segment.name)
    if place.is_shared:
        mark = place.version(parts)
        return mark is not None and mark.byte_count == segment.byte_count
    found = place.read(parts)
    return found is not None and segment.is_of(found[0])


def read_segments(content: bytes) -> list[Segment]:
    """Return what an index names; nothing if it is of another schema version or damaged."""
    try:
        value = load_json(content)
        if not isinstance(value, dict) or value["version"] != SCHEMA_VERSION:
            return []
        return [_read_segment(each) for each in value["segments"]]
    except (ValueError, KeyError, TypeError):
        return []


def _read_segment(value: Any) -> Segment:
    """Return a segment; a name that is not of its hash, or leads elsewhere, was damaged."""
    segment = Segment(
        value["name"],
        value["byte_count"],
        value["sha256"],
        tuple(Piece(*each) for each in value["pieces"]),
    )
    if "/" in segment.name or not segment.name.endswith(f"-{segment.sha256[:16]}.parquet"):
        raise ValueError("this is no segment's name")
    return segment


def write_segments(segments: Iterable[Segment]) -> bytes:
    """Return the bytes of an index."""
    listed = [
        {"name": each.name, "byte_count": each.byte_count, "sha256": each.sha256,
         "pieces": [[piece.account, piece.month, piece.source, piece.day_count] for piece in each.pieces]}
        for each in segments
    ]  # fmt: skip
    return dump_json({"version": SCHEMA_VERSION, "segments": listed})


def _grouped(keys: Iterable[Key], length: int) -> dict[str, list[Key]]:
    groups: dict[str, list[Key]] = defaultdict(list)
    for account, month in sorted(keys):
        groups[month[:length]].append((account, month))
    return dict(sorted(groups.items()))


def _total(sizes: Mapping[Key, int], keys: Iterable[Key]) -> int:
    return sum(sizes[key] for key in keys)
