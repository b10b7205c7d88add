"""Read a local lake from compacted files (segments) where they are current, else from daily files.

Both return the same rows. `state.db` lists the compactions that are current. The names of the day
folders show whether a day was added or removed since. Each query checks both again, with a counter
of the database and the modification time of each account's folder. Without a `state.db` only daily
files are read.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.segments import (
    COMPACT,
    INDEX_FILE,
    Key,
    Piece,
    Segment,
    is_whole,
    month_bounds,
    read_segments,
    segment_parts,
)
from convo_pipeline.query.sources import (
    LocalSource,
    check_day,
    column_types,
    quote,
    quote_name,
)
from convo_pipeline.schema import Table
from convo_pipeline.state.database import CompactionReader
from convo_pipeline.state.records import Compaction
from convo_pipeline.storage.layout import DATA_FILE
from convo_pipeline.storage.local import LocalFolder

SETTLED_SECONDS = 2.0
"""A folder changed within this time is listed again at the next query.

A second change can leave the modification time as it is, because its resolution is limited.
"""
_DAY = re.compile(r"date=(\d{4}-\d{2})-\d{2}")
Current = Mapping[Key, Compaction]
Stamp = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Plan:
    """The files to read for a table.

    These are the segments, the outdated months in them (whose rows are filtered out), and the paths
    of the days that no current month covers.
    """

    segments: Sequence[Segment]
    outdated: Sequence[Piece]
    days: Sequence[str]
    current: Current
    stamp: Stamp | None
    """The folders when the plan was made; None if they may have changed without a new stamp."""


class CompactedSource(LocalSource):
    """A lake in a local folder, with compacted months."""

    def __init__(self, root: str | os.PathLike[str], state_file: Path) -> None:
        super().__init__(root)
        self._watch = CompactionReader(state_file)
        self._version: object = None
        self._current: dict[str, Current] = {}
        self._plans: dict[str, _Plan] = {}
        self._ignores_segments = False

    def is_changed(self, table: Table) -> bool:
        """Return whether the SELECT over a table's files may have changed."""
        plan = self._plans.get(table.name)
        current = self._current.get(table.name, {})
        if plan is None:
            return bool(current)
        return plan.current is not current or plan.stamp is None or plan.stamp != self._stamp(table)

    def check_folders(self, table: Table) -> None:
        """Raise StoreError as `LocalSource` does, for the daily files that the plan reads."""
        plan = self._plans.get(table.name)
        if plan is None or not plan.segments:
            super().check_folders(table)
            return
        for path in plan.days:
            check_day(os.path.dirname(path))

    def distrust(self, message: str) -> None:
        """Read only daily files from now on, if this error concerns a segment.

        The segment may be damaged. DuckDB does not always name the damaged file, so this method
        also checks the bytes of the segments in use.
        """
        self._ignores_segments |= f"/{COMPACT}/" in message or self._has_damaged_segment()
        if self._ignores_segments:
            self._version, self._current = None, {}

    def _has_damaged_segment(self) -> bool:
        backend = LocalFolder(Path(self.root))
        return any(
            not is_whole(backend, name, segment)
            for name, plan in self._plans.items()
            for segment in plan.segments
        )

    def look(self) -> None:
        """Read from `state.db` which compactions are current."""
        if self._ignores_segments:
            return
        version = self._watch.version()
        if version != self._version or version is None:
            self._version = version
            by_table = self._watch.current() if version is not None else {}
            self._current = {
                name: _keep_if_equal(self._current.get(name), current)
                for name, current in by_table.items()
            }

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files, segments first."""
        self._plans.pop(table.name, None)
        current = self._current.get(table.name)
        if not current:
            return super().select(table)
        self._plans[table.name] = plan = self._plan(table, current)
        if not plan.segments:
            return super().select(table)
        branches = [self._select_segments(table, plan)]
        if plan.days:
            branches.append(self.select_files(table, _literal(plan.days)))
        return " UNION ALL ".join(branches)

    def _stamp(self, table: Table) -> Stamp | None:
        """Return a value that changes if a day, an account or a segment is added or removed.

        It is the modification times of the account folders and of the segment index.
        """
        folder = self.folder(table)
        try:
            names = sorted(os.listdir(folder))
            times = [(name, os.stat(f"{folder}/{name}").st_mtime_ns) for name in names]
            return (
                *times,
                (INDEX_FILE, os.stat(self._segment_path(table, INDEX_FILE)).st_mtime_ns),
            )
        except OSError:
            return None

    def _plan(self, table: Table, current: Current) -> _Plan:
        stamp = self._stamp(table)
        segment_of = {piece: it for it in self._segments(table) for piece in it.pieces}
        covered: set[Piece] = set()
        days: list[str] = []
        for key, names in self._months(table):
            compaction = current.get(key)
            piece = Piece(*key, compaction.source, len(names)) if compaction else None
            if piece in segment_of:
                covered.add(piece)
            else:
                days += [
                    f"{self.folder(table)}/account={key[0]}/{name}/{DATA_FILE}" for name in names
                ]
        segments = list(
            dict.fromkeys(segment for piece, segment in segment_of.items() if piece in covered)
        )
        outdated = [
            piece for segment in segments for piece in segment.pieces if piece not in covered
        ]
        files = [path for path in days if os.path.lexists(path)]
        is_stable = len(files) == len(days) and _is_stable(stamp)
        return _Plan(segments, outdated, files, current, stamp if is_stable else None)

    def _segments(self, table: Table) -> list[Segment]:
        """Return the segments in the index whose file exists with the right size."""
        try:
            index = LocalFolder(Path(self.root)).read_bytes(segment_parts(table.name, INDEX_FILE))
        except StoreError:  # The daily files have the same rows.
            return []
        segments = read_segments(index) if index else []
        return [
            segment
            for segment in segments
            if _size(self._segment_path(table, segment.name)) == segment.byte_count
        ]

    def _segment_path(self, table: Table, name: str) -> str:
        return "/".join((self.root, *segment_parts(table.name, name)))

    def _months(self, table: Table) -> Iterator[tuple[Key, list[str]]]:
        """Yield each month of each account, with the names of its day folders."""
        folder = self.folder(table)
        for name in sorted(_names(folder)):
            if not re.fullmatch("account=[a-z].*", name):
                continue
            by_month: dict[str, list[str]] = defaultdict(list)
            for day in sorted(_names(f"{folder}/{name}")):
                if match := _DAY.fullmatch(day):
                    by_month[match[1]].append(day)
            for month, names in by_month.items():
                yield (name.removeprefix("account="), month), names

    def _select_segments(self, table: Table, plan: _Plan) -> str:
        """Return the SELECT over segments. Their columns and types are those of the table."""
        columns = ", ".join(map(quote_name, column_types(table)))
        files = _literal([self._segment_path(table, segment.name) for segment in plan.segments])
        condition = " AND ".join(map(_outside_month, plan.outdated)) or "true"
        return f"SELECT {columns} FROM read_parquet({files}) WHERE {condition}"  # noqa: S608


def _outside_month(piece: Piece) -> str:
    """Return the SQL condition that excludes the rows of an account's month."""
    first, last = month_bounds(piece.month)
    return (
        f"NOT (account = {quote(piece.account)} AND date BETWEEN DATE '{first}' AND DATE '{last}')"
    )


def _keep_if_equal(old: Current | None, new: Current) -> Current:
    """Return the old object if both are equal. Each query compares them by identity only."""
    return old if old == new and old is not None else new


def _literal(files: Sequence[str]) -> str:
    return f"[{', '.join(map(quote, files))}]"


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _is_stable(stamp: Stamp | None) -> bool:
    """Return whether the last change is older than `SETTLED_SECONDS`."""
    if stamp is None:
        return False
    newest = max((nanoseconds for _, nanoseconds in stamp), default=0)
    return time.time() - newest / 1e9 > SETTLED_SECONDS
