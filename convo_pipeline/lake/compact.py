"""Copy closed months into few large files, so that queries do not read many small ones.

A table's months of all accounts share one file a year (`segments.py`). A month in it counts only
while its daily files are those that it was made from: in a folder `state.db` tells, in a bucket the
listed versions. Readers that know neither read the daily files. A changed month is copied from its
daily files again, all other months from the segment that has them.
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
from convo_pipeline.lake.segments import (
    COMPACT,
    INDEX_FILE,
    Key,
    Piece,
    Segment,
    days_digest,
    group_months,
    is_whole,
    month_bounds,
    month_of,
    read_index,
    segment_parts,
    write_segments,
)
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import SCHEMA_VERSION, TABLES, VERSION_KEY, Table
from convo_pipeline.state.records import Compaction
from convo_pipeline.storage.backend import FileVersion, remove_file, write_file, write_version
from convo_pipeline.storage.layout import DATA_FILE, file_parts, folder_parts, read_date
from convo_pipeline.storage.local import LocalFolder

ROWS_PER_GROUP = 65_536
"""A query for one account or id can skip most groups, and a group is read at full speed."""
FETCH_THREADS = 8
"""Parallel reads from a bucket."""
STAGED = "segment.parquet"
"""A table's segments are all staged under this name, so that an erasure finds them."""


@dataclass(frozen=True)
class _Month:
    """The daily files of an account's month."""

    versions: Mapping[date, str]
    """SHA-256 of each file; in a bucket its ETag."""
    byte_count: int

    def piece(self, key: Key) -> Piece:
        return Piece(*key, days_digest(self.versions), len(self.versions))


ReadMonth = Callable[[Piece], pa.Table | None]
"""Returns a month's rows; None if they cannot be read."""


def compact(
    store: Store, today: date, on_progress: Callable[[str, int], None] = lambda table, count: None
) -> list[Piece]:
    """Compact every closed month that changed; return the months that were copied.

    A month waits for the next time if a file is damaged, of an older schema or being written.
    """
    copied: list[Piece] = []
    with store.locks.compaction():
        for table in TABLES.values():
            with suppress(ConflictError):  # another machine compacts this table
                copied += _compact_table(store, table, _closed_months(store, table, today))
            on_progress(table.name, len(copied))
    return copied


def find_changed_months(store: Store, today: date) -> list[Piece]:
    """Return the closed months that `compact` would copy."""
    found: list[Piece] = []
    for table in TABLES.values():
        segments, _ = read_index(store.backend, table.name)
        whole = [it for it in segments if is_whole(store.backend, table.name, it)]
        compacted = {piece for segment in whole for piece in segment.pieces}
        months = _closed_months(store, table, today)
        pieces = (month.piece(key) for key, month in months.items())
        found += [it for it in pieces if it not in compacted]
    return found


def drop_outdated(store: Store, changed: Collection[str] = ()) -> None:
    """Rewrite segments without the months that are out of date, so that no erased row stays.

    Of `changed` accounts the bucket's listing may be older than the change, so it is checked.
    """
    with store.locks.compaction():
        store.discard_staged([segment_parts(name, STAGED) for name in TABLES])
        names = TABLES if store.backend.is_shared else store.backend.list_names((COMPACT,))
        for table in [TABLES[name] for name in TABLES if name in names]:
            old_segments, version = read_index(store.backend, table.name)
            current = _current_sources(store, table, changed) if old_segments else {}
            segments = []
            for segment in old_segments:
                pieces = [it for it in segment.pieces if current.get(it.key) == it.source]
                if len(pieces) < len(segment.pieces):
                    label, read = segment.name.rpartition("-")[0], _Reader(store, table, [segment])
                    rewritten = _build(store, table, label, pieces, read.rows)
                    segments += [rewritten] if rewritten else []
                else:
                    segments.append(segment)
            if segments != old_segments:
                index = segment_parts(table.name, INDEX_FILE)
                write_version(store.backend, index, write_segments(segments), version)
            _remove_leftovers(store, table, segments, old_segments)
        store.backend.delete_old_versions((COMPACT,))


def read_compacted_day(store: Store, table: Table, account: str, day: date) -> pa.Table:
    """Return the rows of a day when its month was last compacted; none if it was not.

    They can be older than the day's file, but not older than an erasure.
    """
    segments, _ = read_index(store.backend, table.name)
    reader = _Reader(store, table, segments)
    tables = [table.schema.empty_table()]
    for segment in segments:
        for piece in segment.pieces:
            rows = reader.rows(piece) if piece.key == (account, month_of(day)) else None
            if rows is not None:
                tables.append(rows.filter(pc.equal(rows["date"], day)).select(table.column_names))
    return pa.concat_tables(tables)


def _compact_table(store: Store, table: Table, months: Mapping[Key, _Month]) -> list[Piece]:
    old_segments, version = read_index(store.backend, table.name)
    whole = [it for it in old_segments if is_whole(store.backend, table.name, it)]
    wanted = {key: month.piece(key) for key, month in months.items()}
    reader = _Reader(store, table, whole)
    segments: list[Segment] = []

    def read(piece: Piece) -> pa.Table | None:
        rows = reader.rows(piece)
        if rows is not None:
            return rows
        return _read_days(store, table, piece.account, months[piece.key].versions)

    for label, keys in group_months({key: month.byte_count for key, month in months.items()}):
        pieces = tuple(wanted[key] for key in keys)
        unchanged = next((segment for segment in whole if segment.pieces == pieces), None)
        segment = unchanged or _build(store, table, label, pieces, read)
        segments += [segment] if segment else []
    if segments != old_segments:
        index = segment_parts(table.name, INDEX_FILE)
        write_version(store.backend, index, write_segments(segments), version)
    if not store.backend.is_shared:
        _save_compactions(store, table, segments, months)
    _remove_leftovers(store, table, segments, old_segments)
    old_pieces = {piece for segment in whole for piece in segment.pieces}
    return [it for segment in segments for it in segment.pieces if it not in old_pieces]


def _closed_months(store: Store, table: Table, today: date) -> dict[Key, _Month]:
    """Return the months before the one of today."""
    months = _months(store, table)
    return {key: months[key] for key in months if key[1] < month_of(today)}


def _months(store: Store, table: Table, changed: Collection[str] = ()) -> dict[Key, _Month]:
    """Return every account's months, without those in which a file is being written."""
    days: dict[Key, dict[date, str | None]] = defaultdict(dict)
    sizes: dict[Key, int] = defaultdict(int)
    files = _listed(store, table, changed) if store.backend.is_shared else _recorded(store, table)
    for account, day, version, byte_count in files:
        key = account, month_of(day)
        days[key][day] = version
        sizes[key] += byte_count
    months = {}
    for key, versions in days.items():
        committed = {day: version for day, version in versions.items() if version}
        if len(committed) == len(versions):
            months[key] = _Month(committed, sizes[key])
    return months


def _recorded(store: Store, table: Table) -> Iterator[tuple[str, date, str | None, int]]:
    """Yield (account, date, SHA-256, bytes) of a table's files, by the state."""
    for record in store.state.partitions(table=table.name):
        sha256 = record.sha256 if record.next_sha256 is None else None
        yield record.account, record.date, sha256, record.byte_count


def _listed(
    store: Store, table: Table, changed: Collection[str]
) -> Iterator[tuple[str, date, str | None, int]]:
    """Yield (account, date, ETag, bytes) of a table's files in the bucket.

    Of `changed` accounts, look up each file whose record does not agree with the listing.
    """
    for account in store.accounts(table.name):
        folders = store.backend.folders_with(folder_parts(table, account), DATA_FILE)
        versions: dict[date, FileVersion | None] = {
            day: version for name, version in folders.items() if (day := read_date(name))
        }
        if account in changed:
            records = {
                record.date: record for record in store.state.partitions(account, None, table.name)
            }
            for day in records.keys() | versions.keys():
                version, record = versions.get(day), records.get(day)
                if not version or not record or store.state.etag(record) != version.etag:
                    versions[day] = store.backend.version(file_parts(table, account, day))
        for day, version in sorted(versions.items()):
            if version:
                yield account, day, version.etag, version.byte_count


def _current_sources(store: Store, table: Table, changed: Collection[str] = ()) -> dict[Key, str]:
    """Return the source of every month that readers can take from a segment."""
    if store.backend.is_shared:
        months = _months(store, table, changed)
        return {key: days_digest(month.versions) for key, month in months.items()}
    return {
        (compaction.account, compaction.month): compaction.source
        for compaction in store.state.compactions()
        if compaction.table == table.name
    }


def _save_compactions(
    store: Store, table: Table, segments: Sequence[Segment], months: Mapping[Key, _Month]
) -> None:
    current = _current_sources(store, table)
    for segment in segments:
        for piece in segment.pieces:
            if current.get(piece.key) != piece.source:
                sizes = piece.day_count, segment.byte_count
                compaction = Compaction(table.name, *piece.key, piece.source, *sizes)
                store.state.save_compaction(compaction, months[piece.key].versions)


def _build(
    store: Store, table: Table, label: str, wanted: Sequence[Piece], read: ReadMonth
) -> Segment | None:
    """Write a segment of the months that can be read; None if none can."""
    writer = _Writer(table)
    pieces = []
    for piece in wanted:
        rows = read(piece)
        if rows is not None:
            writer.add(rows)
            pieces.append(piece)
    if not pieces:
        return None
    content = writer.close()
    sha256 = hashlib.sha256(content).hexdigest()
    segment = Segment(f"{label}-{sha256[:16]}.parquet", len(content), sha256, tuple(pieces))
    parts = segment_parts(table.name, segment.name)
    if not isinstance(store.backend, LocalFolder):
        write_file(store.backend, parts, content)
        return segment
    staged, read_back = store.backend.stage(segment_parts(table.name, STAGED), content)
    if read_back != content:
        store.backend.discard(staged)
        raise CorruptError(f"{staged} read back differs from what was written")
    store.backend.publish(staged, parts)
    return segment


def _remove_leftovers(
    store: Store, table: Table, segments: Sequence[Segment], old_segments: Sequence[Segment]
) -> None:
    """Remove the files that the index does not name. A bucket may not list old segments."""
    names = (INDEX_FILE, *(segment.name for segment in segments))
    kept = {segment_parts(table.name, name) for name in names}
    old = {segment_parts(table.name, segment.name) for segment in old_segments}
    for parts in sorted(old.union(store.backend.list_files((COMPACT, table.name))) - kept):
        remove_file(store.backend, parts)


def _read_days(
    store: Store, table: Table, account: str, versions: Mapping[date, str]
) -> pa.Table | None:
    """Return a month's rows with account and date; None if a file is not the expected version."""

    def read(day: date) -> pa.Table | None:
        with suppress(CorruptError):
            stored = store.partitions.read_file(table, account, day)
            if stored is None or stored.content.schema_version != SCHEMA_VERSION:
                return None
            sha256, etag = stored.record.sha256, stored.version.etag
            is_expected = versions[day] == (etag if store.backend.is_shared else sha256)
            if is_expected and stored.content.has_current_schema:
                count = stored.content.rows.num_rows
                path = pa.repeat(account, count), pa.repeat(pa.scalar(day, pa.date32()), count)
                columns = [*path, *stored.content.rows.columns]
                return pa.Table.from_arrays(columns, schema=_segment_schema(table))
        return None

    with ThreadPoolExecutor(FETCH_THREADS if store.backend.is_shared else 1) as pool:
        tables = list(pool.map(read, sorted(versions)))
    return None if any(rows is None for rows in tables) else pa.concat_tables(tables)


def _segment_schema(table: Table) -> pa.Schema:
    """Return a segment's columns: account and date, then the table's."""
    path = pa.field("account", pa.string()), pa.field("date", pa.date32())
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.schema([*path, *table.schema], metadata)


class _Writer:
    """Writes sorted rows as Parquet into memory; keeps only one row group uncompressed."""

    def __init__(self, table: Table) -> None:
        self._sink = pa.BufferOutputStream()
        schema = _segment_schema(table)
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
        """Write the last rows and return the bytes of the file."""
        if self._row_count:
            self._write(self._row_count)
        self._writer.close()
        content: bytes = self._sink.getvalue().to_pybytes()
        return content

    def _write(self, count: int) -> None:
        rows = pa.concat_tables(self._waiting)
        self._writer.write_table(rows.slice(0, count), row_group_size=ROWS_PER_GROUP)
        self._waiting, self._row_count = [rows.slice(count)], rows.num_rows - count


class _Reader:
    """Reads months from segments; keeps one segment and one account's rows in memory."""

    def __init__(self, store: Store, table: Table, segments: Sequence[Segment]) -> None:
        self._store = store
        self._table = table
        self._segments = {piece: segment for segment in segments for piece in segment.pieces}
        self._opened: tuple[Segment, pq.ParquetFile | None] | None = None
        self._read: tuple[Segment, str, pa.Table] | None = None

    def rows(self, piece: Piece) -> pa.Table | None:
        """Return a month's rows; None if no segment has it or the segment is damaged."""
        segment = self._segments.get(piece)
        rows = self._account_rows(segment, piece.account) if segment else None
        if rows is None:
            return None
        first, last = month_bounds(piece.month)
        days = rows["date"]
        return rows.filter(pc.and_(pc.greater_equal(days, first), pc.less_equal(days, last)))

    def _account_rows(self, segment: Segment, account: str) -> pa.Table | None:
        if self._read is None or self._read[:2] != (segment, account):
            file = self._open(segment)
            if file is None:
                return None
            groups = []
            for index in range(file.num_row_groups):
                accounts = file.metadata.row_group(index).column(0).statistics
                if accounts.min <= account <= accounts.max:
                    groups.append(index)
            rows = file.read_row_groups(groups, use_threads=False)
            self._read = segment, account, rows.filter(pc.equal(rows["account"], account))
        return self._read[2]

    def _open(self, segment: Segment) -> pq.ParquetFile | None:
        if self._opened is None or self._opened[0] is not segment:
            file = self._store.backend.read(segment_parts(self._table.name, segment.name))
            is_valid = file is not None and segment.matches(file.content)
            parquet = pq.ParquetFile(pa.BufferReader(file.content)) if file and is_valid else None
            self._opened = segment, parquet
        return self._opened[1]
