"""Closed months in few large files, so that a year is not read as 365 small ones. Derived, rebuildable, never the truth.

A table's months of all accounts share a file a year (`segments.py`). Each counts for itself, and only while its daily
files are the ones it was made from: on a disk `state.db` says so, in a bucket the versions that are listed. Whoever
knows neither reads the daily files. A month that changed is copied anew from them; all others are copied from the
segment they are in, so that one late message costs one file's copy, not a year of small files.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convo_pipeline.errors import ConflictError, CorruptError
from convo_pipeline.lake.partitions import StoredPartition
from convo_pipeline.lake.segments import (
    COMPACT,
    INDEX_FILE,
    Key,
    Piece,
    Segment,
    arrange,
    bounds_of,
    is_whole,
    month_of,
    read_index,
    segment_parts,
    source_of,
    write_segments,
)
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import SCHEMA_VERSION, TABLES, VERSION_KEY, Table
from convo_pipeline.state.records import Compaction
from convo_pipeline.storage.backend import FileVersion, remove_file, write_file, write_version
from convo_pipeline.storage.layout import DATA_FILE, file_parts, folder_parts, read_date
from convo_pipeline.storage.local import LocalFolder

ROWS_PER_GROUP = 65_536
"""Small enough that a query for one account or id skips most of a year, large enough to be read at full speed."""
FETCHERS = 8
"""Files that are read at once from a bucket, where each is a request."""
STAGED = "segment.parquet"
"""The name under which every segment of a table is staged: whoever erases knows where to look."""


@dataclass(frozen=True)
class _Month:
    """The daily files of an account's month as they are now."""

    versions: Mapping[date, str]
    byte_count: int

    def piece(self, key: Key) -> Piece:
        return Piece(*key, source_of(self.versions), len(self.versions))


Read = Callable[[Piece], pa.Table | None]
"""How a month's rows are got; None where they cannot be."""


def compact(
    store: Store, today: date, on_progress: Callable[[str, int], None] = lambda table, count: None
) -> list[Piece]:
    """Compact every closed month that is not current and return what was read anew; what is left over is removed.

    A month in which a file is damaged, older than today's schema or just being written waits for the next time.
    """
    made: list[Piece] = []
    with store.locks.compaction():
        for table in TABLES.values():
            months = {
                key: month
                for key, month in _months(store, table).items()
                if key[1] < month_of(today)
            }
            with suppress(ConflictError):  # another machine compacts this table just now
                made += _compact_table(store, table, months)
            on_progress(table.name, len(made))
    return made


def drop_outdated(store: Store, changed: Collection[str] = ()) -> None:
    """Write anew, without it, every segment that holds a month that is not current: no erased row stays in one.

    Of `changed` accounts a listing is not believed: it may be from before the change.
    """
    with store.locks.compaction():
        store.discard_staged([segment_parts(name, STAGED) for name in TABLES])
        names = TABLES if store.backend.is_shared else store.backend.list_names((COMPACT,))
        for table in [TABLES[name] for name in TABLES if name in names]:
            held, mark = read_index(store.backend, table.name)
            current = _current(store, table, changed) if held else {}
            left = [
                _keep(
                    store,
                    table,
                    segment,
                    [piece for piece in segment.pieces if current.get(piece.key) == piece.source],
                )
                for segment in held
            ]
            segments = [segment for segment in left if segment]
            if segments != held:
                write_version(
                    store.backend,
                    segment_parts(table.name, INDEX_FILE),
                    write_segments(segments),
                    mark,
                )
            _remove_leftovers(store, table, segments, held)
        store.backend.delete_old_versions((COMPACT,))


def read_compacted_day(store: Store, table: Table, account: str, day: date) -> pa.Table:
    """Return the rows of a day as they were when its month was last compacted; none where it was not.

    They may be older than the day's file, never from before an erasure: what is erased leaves the segments too.
    """
    segments, _ = read_index(store.backend, table.name)
    copies = _Copies(store, table, segments)
    pieces = [
        piece for each in segments for piece in each.pieces if piece.key == (account, month_of(day))
    ]
    found = [
        rows.filter(pc.equal(rows["date"], day))
        for piece in pieces
        if (rows := copies.rows(piece)) is not None
    ]
    return pa.concat_tables(
        [table.schema.empty_table(), *(rows.select(table.column_names) for rows in found)]
    )


def _compact_table(store: Store, table: Table, months: Mapping[Key, _Month]) -> list[Piece]:
    held, mark = read_index(store.backend, table.name)
    whole = [each for each in held if is_whole(store.backend, table.name, each)]
    goals = {key: month.piece(key) for key, month in months.items()}
    copies = _Copies(store, table, whole)
    segments: list[Segment] = []

    def read(piece: Piece) -> pa.Table | None:
        rows = copies.rows(piece)
        return (
            _read_days(store, table, piece.account, months[piece.key].versions)
            if rows is None
            else rows
        )

    for label, keys in arrange({key: month.byte_count for key, month in months.items()}):
        goal = tuple(goals[key] for key in keys)
        same = next((each for each in whole if each.pieces == goal), None)
        made = same or _build(store, table, label, goal, read)
        segments += [made] if made else []
    if segments != held:
        write_version(
            store.backend, segment_parts(table.name, INDEX_FILE), write_segments(segments), mark
        )
    if not store.backend.is_shared:
        _save_lines(store, table, segments, months)
    _remove_leftovers(store, table, segments, held)
    before = {piece for each in whole for piece in each.pieces}
    return [piece for each in segments for piece in each.pieces if piece not in before]


def _months(store: Store, table: Table, changed: Collection[str] = ()) -> dict[Key, _Month]:
    """Return every account's months with the version of each daily file; one that is just being written is left out."""
    found: dict[Key, dict[date, tuple[str | None, int]]] = defaultdict(dict)
    for account, day, version, byte_count in (
        _listed(store, table, changed) if store.backend.is_shared else _recorded(store, table)
    ):
        found[account, month_of(day)][day] = (version, byte_count)
    return {
        key: _Month(
            {day: version for day, (version, _) in days.items() if version},
            sum(size for _, size in days.values()),
        )
        for key, days in found.items()
        if all(version for version, _ in days.values())
    }


def _recorded(store: Store, table: Table) -> Iterator[tuple[str, date, str | None, int]]:
    for each in store.state.partitions(table=table.name):
        yield (
            each.account,
            each.date,
            None if each.next_sha256 is not None else each.sha256,
            each.byte_count,
        )


def _listed(
    store: Store, table: Table, changed: Collection[str]
) -> Iterator[tuple[str, date, str | None, int]]:
    for account in store.accounts(table.name):
        holders = store.backend.folders_with(folder_parts(table, account), DATA_FILE)
        marks = {day: mark for name, mark in holders.items() if (day := read_date(name))}
        for day, mark in (
            _looked_up(store, table, account, marks) if account in changed else marks
        ).items():
            yield account, day, mark.etag, mark.byte_count


def _looked_up(
    store: Store, table: Table, account: str, listed: Mapping[date, FileVersion]
) -> dict[date, FileVersion]:
    """Return the marks of an account's days, each looked at of which the state says something else than the listing."""
    records = {record.date: record for record in store.state.partitions(account, table=table.name)}
    found: dict[date, FileVersion] = {}
    for day in sorted(records.keys() | listed.keys()):
        mark, record = listed.get(day), records.get(day)
        if mark is None or record is None or store.state.etag(record) != mark.etag:
            mark = store.backend.version(file_parts(table, account, day))
        if mark:
            found[day] = mark
    return found


def _current(store: Store, table: Table, changed: Collection[str] = ()) -> dict[Key, str]:
    """Return the source of every month that readers take from a segment, or may."""
    if store.backend.is_shared:
        return {
            key: source_of(month.versions) for key, month in _months(store, table, changed).items()
        }
    return {
        (line.account, line.month): line.source
        for line in store.state.compactions()
        if line.table == table.name
    }


def _save_lines(
    store: Store, table: Table, segments: Sequence[Segment], months: Mapping[Key, _Month]
) -> None:
    current = _current(store, table)
    for segment in segments:
        for piece in segment.pieces:
            if current.get(piece.key) != piece.source:
                line = Compaction(
                    table.name, *piece.key, piece.source, piece.day_count, segment.byte_count
                )
                store.state.save_compaction(line, months[piece.key].versions)


def _build(
    store: Store, table: Table, label: str, goal: Sequence[Piece], read: Read
) -> Segment | None:
    """Write a segment of these months, those that can be read; None if none can."""
    writer = _Writer(table)
    pieces = []
    for piece in goal:
        rows = read(piece)
        if rows is not None:
            writer.add(rows)
            pieces.append(piece)
    if not pieces:
        return None
    content = writer.close()
    sha256 = hashlib.sha256(content).hexdigest()
    segment = Segment(f"{label}-{sha256[:16]}.parquet", len(content), sha256, tuple(pieces))
    _write(store, table, segment.name, content)
    return segment


def _keep(store: Store, table: Table, segment: Segment, pieces: Sequence[Piece]) -> Segment | None:
    """Return a segment with these of its months alone."""
    if len(pieces) == len(segment.pieces):
        return segment
    return _build(
        store, table, segment.name.rpartition("-")[0], pieces, _Copies(store, table, [segment]).rows
    )


def _write(store: Store, table: Table, name: str, content: bytes) -> None:
    if not isinstance(store.backend, LocalFolder):
        write_file(store.backend, segment_parts(table.name, name), content)
        return
    staged, read_back = store.backend.stage(segment_parts(table.name, STAGED), content)
    if read_back != content:
        store.backend.discard(staged)
        raise CorruptError(f"{staged} read back differs from what was written")
    store.backend.publish(staged, segment_parts(table.name, name))


def _remove_leftovers(
    store: Store, table: Table, segments: Sequence[Segment], held: Sequence[Segment]
) -> None:
    """Remove files that the index does not name, those that it named until now in any case: nobody reads them."""
    named = {
        segment_parts(table.name, name) for name in (INDEX_FILE, *(each.name for each in segments))
    }
    known = {segment_parts(table.name, each.name) for each in held}
    for parts in sorted(known.union(store.backend.list_files((COMPACT, table.name))) - named):
        remove_file(store.backend, parts)


def _read_days(
    store: Store, table: Table, account: str, versions: Mapping[date, str]
) -> pa.Table | None:
    """Read a month's daily files with their account and date; None if one is not as it was recorded."""
    with ThreadPoolExecutor(FETCHERS if store.backend.is_shared else 1) as pool:
        tables = list(
            pool.map(
                lambda day: _read_day(store, table, account, day, versions[day]), sorted(versions)
            )
        )
    return None if any(rows is None for rows in tables) else pa.concat_tables(tables)


def _read_day(store: Store, table: Table, account: str, day: date, version: str) -> pa.Table | None:
    try:
        held = store.partitions.read_file(table, account, day)
    except CorruptError:
        return None
    if held is None or not held.content.is_exact or held.content.version != SCHEMA_VERSION:
        return None
    return (
        _with_path(table, held.content.rows, account, day)
        if _version(store, held) == version
        else None
    )


def _version(store: Store, held: StoredPartition) -> str:
    return held.mark.etag if store.backend.is_shared else held.record.sha256


def _with_path(table: Table, rows: pa.Table, account: str, day: date) -> pa.Table:
    paths = [
        pa.repeat(account, rows.num_rows),
        pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows),
    ]
    return pa.Table.from_arrays([*paths, *rows.columns], schema=_schema(table))


def _schema(table: Table) -> pa.Schema:
    """A segment's columns: the path's first, then the schema's."""
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.schema(
        [pa.field("account", pa.string()), pa.field("date", pa.date32()), *table.schema], metadata
    )


class _Writer:
    """Parquet bytes of sorted rows that come in parts; full row groups leave memory as they come."""

    def __init__(self, table: Table) -> None:
        self._sink = pa.BufferOutputStream()
        schema = _schema(table)
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=[name for name in schema.names if name not in ("payload", "message_id")],
        )
        self._waiting: list[pa.Table] = []
        self._row_count = 0

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._row_count += rows.num_rows
        if self._row_count >= ROWS_PER_GROUP:
            self._write(self._row_count - self._row_count % ROWS_PER_GROUP)

    def close(self) -> bytes:
        if self._row_count:
            self._write(self._row_count)
        self._writer.close()
        content: bytes = self._sink.getvalue().to_pybytes()
        return content

    def _write(self, count: int) -> None:
        rows = pa.concat_tables(self._waiting)
        self._writer.write_table(rows.slice(0, count), row_group_size=ROWS_PER_GROUP)
        self._waiting, self._row_count = [rows.slice(count)], rows.num_rows - count


class _Copies:
    """The months that segments hold, for whoever writes them into another; one account's rows in memory at a time."""

    def __init__(self, store: Store, table: Table, segments: Sequence[Segment]) -> None:
        self._store = store
        self._table = table
        self._segments = {piece: segment for segment in segments for piece in segment.pieces}
        self._opened: tuple[Segment, pq.ParquetFile | None] | None = None
        self._read: tuple[Segment, str, pa.Table] | None = None

    def rows(self, piece: Piece) -> pa.Table | None:
        """Return a month's rows; None where no segment holds it, or the one that does is damaged."""
        segment = self._segments.get(piece)
        rows = self._account_rows(segment, piece.account) if segment else None
        if rows is None:
            return None
        first, last = bounds_of(piece.month)
        return rows.filter(
            pc.and_(pc.greater_equal(rows["date"], first), pc.less_equal(rows["date"], last))
        )

    def _account_rows(self, segment: Segment, account: str) -> pa.Table | None:
        if self._read is None or self._read[:2] != (segment, account):
            file = self._open(segment)
            if file is None:
                return None
            groups = [
                index for index in range(file.num_row_groups) if _may_hold(file, index, account)
            ]
            rows = file.read_row_groups(groups, use_threads=False)
            self._read = segment, account, rows.filter(pc.equal(rows["account"], account))
        return self._read[2]

    def _open(self, segment: Segment) -> pq.ParquetFile | None:
        if self._opened is None or self._opened[0] is not segment:
            found = self._store.backend.read(segment_parts(self._table.name, segment.name))
            is_right = found is not None and hashlib.sha256(found[0]).hexdigest() == segment.sha256
            self._opened = (
                segment,
                pq.ParquetFile(pa.BufferReader(found[0])) if found and is_right else None,
            )
        return self._opened[1]


def _may_hold(file: pq.ParquetFile, group: int, account: str) -> bool:
    accounts = file.metadata.row_group(group).column(0).statistics
    return bool(accounts.min <= account <= accounts.max)
