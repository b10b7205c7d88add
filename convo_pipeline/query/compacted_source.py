"""A local lake read from segments where a month in one is current, by day where not: the same rows either way.

What is current, `state.db` says; that no day came or went since, the folders' names say. Both are asked again before
every query, as cheaply as can be: a counter of the database and the time of change of each account's folder. Without
a `state.db` this is a plain local lake.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from convo_pipeline.query.sources import LocalSource, column_types, quote, quote_name
from convo_pipeline.schema import Table
from convo_pipeline.state.database import CompactionReader
from convo_pipeline.state.records import Compaction
from convo_pipeline.storage.layout import DATA_FILE
from convo_pipeline.storage.local import LocalFolder

SETTLED_SECONDS = 2.0
"""A folder that changed so lately may change again without its time of change showing it: it is looked at again."""
_DAY = re.compile(r"date=(\d{4}-\d{2})-\d{2}")
Current = Mapping[Key, Compaction]
Stamp = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Plan:
    """Which files make up a table: segments, the months in them that do not count, and the days that no month covers."""

    segments: Sequence[Segment]
    outdated: Sequence[Piece]
    days: Sequence[str]
    current: Current
    stamp: Stamp | None
    """What it was made from; None where that may change unseen."""


class CompactedSource(LocalSource):
    """A lake in a local folder, with the compactions of its months."""

    def __init__(self, root: str | os.PathLike[str], state_file: Path) -> None:
        super().__init__(root)
        self._watch = CompactionReader(state_file)
        self._version: object = None
        self._current: dict[str, Current] = {}
        self._plans: dict[str, _Plan] = {}
        self._is_distrusted = False

    def is_changed(self, table: Table) -> bool:
        """Say whether the SELECT over a table's files may be another one than it was."""
        plan = self._plans.get(table.name)
        current = self._current.get(table.name, {})
        if plan is None:
            return bool(current)
        return plan.current is not current or plan.stamp is None or plan.stamp != self._stamp(table)

    def distrust(self, message: str) -> None:
        """Read no compaction any more, if this error is about one: it may be damaged, and the daily files are not.

        Of some damage DuckDB does not say in which file it is: then the segments that are read are looked at.
        """
        self._is_distrusted |= f"/{COMPACT}/" in message or self._is_damaged()
        if self._is_distrusted:
            self._version, self._current = None, {}

    def _is_damaged(self) -> bool:
        place = LocalFolder(Path(self.root))
        read = ((name, each) for name, plan in self._plans.items() for each in plan.segments)
        return any(not is_whole(place, name, each) for name, each in read)

    def look(self) -> None:
        """Learn what is current by now."""
        if self._is_distrusted:
            return
        version = self._watch.version()
        if version != self._version or version is None:
            self._version = version
            found = self._watch.current() if version is not None else {}
            self._current = {
                name: _same(self._current.get(name), current) for name, current in found.items()
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
        """Return what changes when a day or an account comes or goes, or a segment."""
        folder = f"{self.root}/{table.name}"
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
        held = {piece: segment for segment in self._segments(table) for piece in segment.pieces}
        covered: set[Piece] = set()
        days: list[str] = []
        for key, names in self._listed(table):
            line = current.get(key)
            piece = Piece(*key, line.source, len(names)) if line else None
            if piece in held:
                covered.add(piece)
            else:
                days += [
                    f"{self.root}/{table.name}/account={key[0]}/{name}/{DATA_FILE}"
                    for name in names
                ]
        segments = list(
            dict.fromkeys(segment for piece, segment in held.items() if piece in covered)
        )
        outdated = [
            piece for segment in segments for piece in segment.pieces if piece not in covered
        ]
        found = [path for path in days if os.path.isfile(path)]
        is_certain = len(found) == len(days) and _is_settled(stamp)
        return _Plan(segments, outdated, found, current, stamp if is_certain else None)

    def _segments(self, table: Table) -> list[Segment]:
        """Return the segments that are there and whole."""
        try:
            named = read_segments(Path(self._segment_path(table, INDEX_FILE)).read_bytes())
        except OSError:
            return []
        return [
            each for each in named if _size(self._segment_path(table, each.name)) == each.byte_count
        ]

    def _segment_path(self, table: Table, name: str) -> str:
        return "/".join((self.root, *segment_parts(table.name, name)))

    def _listed(self, table: Table) -> Iterator[tuple[Key, list[str]]]:
        """Yield every account's months with the names of the days' folders."""
        folder = f"{self.root}/{table.name}"
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
        """Return the SELECT over segments; they have exactly the table's columns and types, so none is cast."""
        columns = ", ".join(map(quote_name, column_types(table)))
        files = _literal([self._segment_path(table, each.name) for each in plan.segments])
        wheres = " AND ".join(map(_outside, plan.outdated)) or "true"
        return f"SELECT {columns} FROM read_parquet({files}) WHERE {wheres}"  # noqa: S608 - names and literals are quoted


def _outside(piece: Piece) -> str:
    first, last = month_bounds(piece.month)
    return (
        f"NOT (account = {quote(piece.account)} AND date BETWEEN DATE '{first}' AND DATE '{last}')"
    )


def _same(held: Current | None, found: Current) -> Current:
    """Return what was known where it is no other: it is compared at every query, and by identity alone then."""
    return held if held == found and held is not None else found


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


def _is_settled(stamp: Stamp | None) -> bool:
    if stamp is None:
        return False
    newest = max((when for _, when in stamp), default=0)
    return time.time() - newest / 1e9 > SETTLED_SECONDS
