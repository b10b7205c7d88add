"""Index of a table's compacted files: which accounts' months each file contains.

`<root>/.compact/<table>/index.json` names the files (segments). For each month in one (a piece) it
has the digest of the daily files that the month was made from. A segment never changes: its name
has the hash of its bytes.
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
"""Limit for the daily files of one segment, because a segment is written from memory."""
Key = tuple[str, str]
"""An account and a month, `2026-01`."""


@dataclass(frozen=True)
class Piece:
    """An account's month in a segment."""

    account: str
    month: str
    source: str
    """The digest of the daily files that it was made from."""
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

    def matches(self, content: bytes) -> bool:
        """Return whether these are the bytes that were written."""
        return hashlib.sha256(content).hexdigest() == self.sha256


def days_digest(versions: Mapping[date, str]) -> str:
    """Return a digest of daily files, given the version of each."""
    lines = (f"{day}:{versions[day]}\n" for day in sorted(versions))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def month_of(day: date) -> str:
    """Return the month of a day.

    >>> month_of(date(2026, 1, 5))
    '2026-01'
    """
    return f"{day:%Y-%m}"


def month_bounds(month: str) -> tuple[date, date]:
    """Return the first and the last day of a month.

    >>> [str(day) for day in month_bounds("2024-02")]
    ['2024-02-01', '2024-02-29']
    """
    first = date.fromisoformat(f"{month}-01")
    return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)


def group_months(sizes: Mapping[Key, int], most: int = MOST_BYTES) -> list[tuple[str, list[Key]]]:
    """Group months into segments by the bytes of their daily files: a year, a month, or one alone.

    >>> sizes = {("b", "2025-01"): 1, ("a", "2025-02"): 1, ("a", "2026-01"): 3, ("b", "2026-02"): 1}
    >>> [(label, len(keys)) for label, keys in group_months(sizes, most=3)]
    [('2025', 2), ('2026-01', 1), ('2026-02', 1)]
    """

    def by_prefix(keys: Iterable[Key], length: int) -> list[tuple[str, list[Key]]]:
        by_date: dict[str, list[Key]] = defaultdict(list)
        for account, month in sorted(keys):
            by_date[month[:length]].append((account, month))
        return sorted(by_date.items())

    def fits(keys: Iterable[Key]) -> bool:
        return sum(sizes[key] for key in keys) <= most

    groups: list[tuple[str, list[Key]]] = []
    for year, in_year in by_prefix(sizes, len("2026")):
        if fits(in_year):
            groups.append((year, in_year))
            continue
        for month, in_month in by_prefix(in_year, len("2026-01")):
            if fits(in_month):
                groups.append((month, in_month))
            else:
                groups += [(f"{month}-{account}", [(account, month)]) for account, _ in in_month]
    return groups


def segment_parts(table: str, name: str) -> tuple[str, ...]:
    """Return the name of a segment's file, or of the index."""
    return COMPACT, table, name


def read_index(backend: StorageBackend, table: str) -> tuple[list[Segment], FileVersion | None]:
    """Return a table's segments and the version of the index file.

    An index that is damaged, or of another schema version, has no segments.
    """
    file = backend.read(segment_parts(table, INDEX_FILE))
    return (read_segments(file.content), file.version) if file else ([], None)


def is_whole(backend: StorageBackend, table: str, segment: Segment) -> bool:
    """Return whether a segment has the bytes that were written.

    A bucket checks bytes itself, so there only the size is compared.
    """
    parts = segment_parts(table, segment.name)
    if backend.is_shared:
        version = backend.version(parts)
        return version is not None and version.byte_count == segment.byte_count
    file = backend.read(parts)
    return file is not None and segment.matches(file.content)


def read_segments(content: bytes) -> list[Segment]:
    """Return the segments in the bytes of an index; none if it is damaged or of another schema."""
    try:
        value = load_json(content)
        if not isinstance(value, dict) or value["version"] != SCHEMA_VERSION:
            return []
        return [_read_segment(segment) for segment in value["segments"]]
    except (ValueError, KeyError, TypeError):
        return []


def _read_segment(value: Any) -> Segment:
    """Return a segment; raise ValueError for a name without its hash, or with a folder."""
    pieces = tuple(Piece(*piece) for piece in value["pieces"])
    segment = Segment(value["name"], value["byte_count"], value["sha256"], pieces)
    if "/" in segment.name or not segment.name.endswith(f"-{segment.sha256[:16]}.parquet"):
        raise ValueError("this is no segment's name")
    return segment


def write_segments(segments: Iterable[Segment]) -> bytes:
    """Return the bytes of an index."""
    listed = [
        {
            "name": segment.name,
            "byte_count": segment.byte_count,
            "sha256": segment.sha256,
            "pieces": [[it.account, it.month, it.source, it.day_count] for it in segment.pieces],
        }
        for segment in segments
    ]
    return dump_json({"version": SCHEMA_VERSION, "segments": listed})
