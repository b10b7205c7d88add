"""A bucket's tables as Arrow datasets: what a query needs is fetched, one GET a file, and nothing else.

A query lists a table's files, and reads exactly the versions that were listed: `If-Match` refuses any other, the
query then fails and is run again. So a reader never sees half a commit. Where the new listing names the same dead
version, the store's listings lag: then a file's newest version is read, which is whole as well. A filter on `account` or `date` is answered
from the names alone. Where many days are needed, months come from compacted files, if those were made from the very
versions that are listed. It knows names, versions and schemas; boto3 is `s3`'s business, DuckDB is `sql`'s.
"""

import hashlib
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from functools import reduce
from itertools import islice
from operator import and_
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from convo_pipeline.errors import ConflictError, CorruptError, StoreError
from convo_pipeline.lake.parquet import decode
from convo_pipeline.lake.segments import (
    Key,
    Piece,
    Segment,
    days_digest,
    month_bounds,
    month_of,
    read_index,
    segment_parts,
)
from convo_pipeline.query.sources import column_types, quote_name
from convo_pipeline.schema import LEDGER, TABLES, Table
from convo_pipeline.storage.backend import FileVersion
from convo_pipeline.storage.layout import DATA_FILE
from convo_pipeline.storage.s3 import S3Bucket

LISTING_SECONDS = 15.0
"""A connection that stays open sees new files after this long; a changed one it sees at once."""
FETCHERS = 8
FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_ACCOUNT = r"account=[a-z][^/]*"
_DATE = r"date=\d{4}-\d\d-\d\d"
REQUEST_BYTES = 256 * 1024
"""What could be fetched in the time that a request takes: so much more may a compacted file have than its days."""
Parts = tuple[str, ...]
PATH_TYPES = {"account": pa.string(), "date": pa.date32()}
TABLES_BY_NAME = TABLES | {table.name: table for table in LEDGER}


class BucketSource:
    """A lake in a bucket."""

    def __init__(
        self,
        url: str,
        endpoint_url: str = "",
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bucket = S3Bucket(url, endpoint_url)
        self.folders: Parts = (f"{self.bucket.location()}/",)
        self._listings = {
            table.name: _Listing(self.bucket, table, monotonic_seconds) for table in _viewed()
        }
        self.bucket.check_readable()
        if not self.bucket.list_names():
            raise StoreError(
                f"no lake at {url}: nothing is stored there; name the prefix that holds the tables"
            )

    def relations(self) -> Mapping[str, object]:
        """Return what every connection must register, by name: the SELECTs read from it."""
        return {_relation(table): _TableDataset(self._listings[table.name]) for table in _viewed()}

    def has_files(self, table: Table) -> bool:
        """Say yes: a dataset may be empty."""
        return True

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's dataset: the path's columns first, then the schema's."""
        columns = ", ".join(map(quote_name, column_types(table)))
        return f"SELECT {columns} FROM {quote_name(_relation(table))}"  # noqa: S608 - names are quoted

    def look(self) -> None:
        """There is nothing to learn: a dataset lists its files."""

    def is_changed(self, table: Table) -> bool:
        """Say no: a dataset finds what is there at each query."""
        return False

    def distrust(self, message: str) -> None:
        """There is nothing else to read than the objects themselves."""

    def files(self, table: Table) -> list[str]:
        """Return the address of every partition, sorted."""
        return [self.bucket.location(parts) for parts in sorted(self._listings[table.name].marks())]

    def is_readable(self, path: str) -> bool:
        """Say whether a file is whole, or gone."""
        parts = tuple(path.removeprefix(self.folders[0]).split("/"))
        found = self.bucket.read(parts)
        if found is None:
            return True
        try:
            _check(path, *found)
            decode(TABLES_BY_NAME[parts[0]], found[0], path)
        except CorruptError:
            return False
        return True

    def close(self) -> None:
        """Close the connections to the store."""
        self.bucket.close()


def _viewed() -> tuple[Table, ...]:
    return (*TABLES.values(), *LEDGER)


def _relation(table: Table) -> str:
    return f"bucket_{table.name}"


def _path_columns(table: Table) -> pa.Schema:
    names = ["date"] if table.layer == "ledger" else ["account", "date"]
    return pa.schema([(name, PATH_TYPES[name]) for name in names])


class _Listing:
    """Which files a table has and in which versions, as of a moment ago."""

    def __init__(
        self, bucket: S3Bucket, table: Table, monotonic_seconds: Callable[[], float]
    ) -> None:
        self.bucket = bucket
        self.table = table
        self._monotonic_seconds = monotonic_seconds
        self._pattern = re.compile(_DATE if table.layer == "ledger" else f"{_ACCOUNT}/{_DATE}")
        self._marks: dict[Parts, FileVersion] = {}
        self._pieces: dict[Piece, Segment] = {}
        self._listed_at: float | None = None
        self._refused: dict[Parts, str] = {}
        self.is_late = False
        """Whether the store listed a version that it had refused before: its listings lag behind its objects."""

    def marks(self) -> dict[Parts, FileVersion]:
        """Return every file of the table with its mark; foreign files are none."""
        now = self._monotonic_seconds()
        if self._listed_at is None or now - self._listed_at > LISTING_SECONDS:
            found = self.bucket.list_versions((self.table.name,))
            self._marks = {parts: mark for parts, mark in found if self._is_data(parts)}
            self._pieces = self._current()
            self.is_late |= any(
                self._marks[each].etag == tag
                for each, tag in self._refused.items()
                if each in self._marks
            )
            self._listed_at = now
        return self._marks

    def pieces(self) -> dict[Piece, Segment]:
        """Return the months in compacted files that were made from the very versions that were listed."""
        self.marks()
        return self._pieces

    def expire(self, parts: Parts, tag: str) -> None:
        """Believe the listing no longer: this version was refused."""
        self._refused[parts] = tag
        self._listed_at = None

    def _current(self) -> dict[Piece, Segment]:
        segments = read_index(self.bucket, self.table.name)[0] if self.table.name in TABLES else []
        months: dict[Key, dict[date, str]] = defaultdict(dict)
        for parts, mark in self._marks.items() if segments else ():
            key, day = _place_of(parts)
            months[key][day] = mark.etag
        current = {
            Piece(*key, days_digest(versions), len(versions)) for key, versions in months.items()
        }
        return {piece: each for each in segments for piece in each.pieces if piece in current}

    def _is_data(self, parts: Parts) -> bool:
        return parts[-1] == DATA_FILE and self._pattern.fullmatch("/".join(parts[1:-1])) is not None


class _TableDataset(ds.Dataset):  # type: ignore[misc]
    """A dataset whose files are listed anew for every query; DuckDB asks it for a `scanner`, once a scan.

    Arrow never calls back into Python here: its threads and DuckDB's could then wait for each other for good.
    """

    def __init__(self, listing: _Listing) -> None:
        self._listing = listing

    @property
    def schema(self) -> pa.Schema:
        path = _path_columns(self._listing.table)
        own = [
            field.with_nullable(True)
            for field in self._listing.table.schema
            if field.name not in path.names
        ]
        return pa.schema([*path, *own])

    def scanner(
        self, columns: Sequence[str] | None = None, filter: ds.Expression | None = None, **_: object
    ) -> "_Scan":
        return _Scan(
            self._listing,
            self.schema,
            list(self.schema.names if columns is None else columns),
            filter,
        )


class _Scan:
    """One read of the files that a filter leaves, each as it was listed, or of the compacted files that hold them."""

    def __init__(
        self,
        listing: _Listing,
        schema: pa.Schema,
        columns: list[str],
        row_filter: ds.Expression | None,
    ) -> None:
        self._listing = listing
        self._schema = schema
        self._columns = columns
        self._filter = row_filter

    @property
    def projected_schema(self) -> pa.Schema:
        return pa.schema([self._schema.field(name) for name in self._columns])

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the rows as a stream; an OSError in it says that a file is not what was listed."""
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        marks, pieces = dict(self._listing.marks()), self._listing.pieces()
        by_segment = _worthwhile(self._needed(sorted(marks)), marks, pieces)

        def fetch(job: tuple[Segment | None, list[Parts]]) -> pa.Table:
            segment, files = job
            rows = self._read_segment(segment, pieces) if segment else None
            return (
                pa.concat_tables([self._read(each, marks[each]) for each in files])
                if rows is None
                else rows
            )

        jobs: list[tuple[Segment | None, list[Parts]]] = [
            each for each in by_segment.items() if each[0]
        ]
        jobs += [(None, [each]) for each in by_segment.get(None, ())]
        with _fetching(fetch, jobs) as tables:
            for table in tables:
                yield from table.to_batches()

    def _needed(self, files: Sequence[Parts]) -> list[Parts]:
        """Return the files whose account and date may pass the filter."""
        names = ["/".join(parts) for parts in files]
        known = ds.FileSystemDataset.from_paths(
            names,
            schema=self._schema,
            format=FORMAT,
            filesystem=fs.LocalFileSystem(),  # never touched: the names alone decide
            partitions=[self._partition(parts) for parts in files],
        )
        return [tuple(fragment.path.split("/")) for fragment in known.get_fragments(self._filter)]

    def _read(self, parts: Parts, mark: FileVersion) -> pa.Table:
        try:
            found = self._fetch(parts, mark)
        except ConflictError as error:
            self._listing.expire(parts, mark.etag)
            raise OSError(str(error)) from None
        except StoreError as error:
            raise OSError(str(error)) from None
        if found is None:
            return self.projected_schema.empty_table()
        content, _ = found
        fragment = FORMAT.make_fragment(
            pa.BufferReader(content), partition_expression=self._partition(parts)
        )
        return fragment.to_table(
            schema=self._schema, columns=self._columns, filter=self._filter, use_threads=False
        )

    def _fetch(self, parts: Parts, mark: FileVersion) -> tuple[bytes, FileVersion] | None:
        """Return the version that was listed, or the newest, if any, where listings lag."""
        bucket = self._listing.bucket
        found = (
            bucket.read(parts) if self._listing.is_late else bucket.read_version(parts, mark.etag)
        )
        if found:
            _check(bucket.location(parts), *found)
        return found

    def _read_segment(self, segment: Segment, pieces: Mapping[Piece, Segment]) -> pa.Table | None:
        """Return what is current in a compacted file; None if that is gone or damaged."""
        found = self._listing.bucket.read(segment_parts(self._listing.table.name, segment.name))
        if found is None or hashlib.sha256(found[0]).hexdigest() != segment.sha256:
            return None
        fragment = FORMAT.make_fragment(pa.BufferReader(found[0]))
        wheres = [_outside(piece) for piece in segment.pieces if pieces.get(piece) is not segment]
        where = reduce(and_, wheres, ds.scalar(True) if self._filter is None else self._filter)
        return fragment.to_table(
            schema=self._schema, columns=self._columns, filter=where, use_threads=False
        )

    def _partition(self, parts: Parts) -> ds.Expression:
        columns = _path_columns(self._listing.table)
        return ds.partitioning(columns, flavor="hive").parse("/".join(parts[1:]))


def _worthwhile(
    files: Sequence[Parts], marks: Mapping[Parts, FileVersion], pieces: Mapping[Piece, Segment]
) -> dict[Segment | None, list[Parts]]:
    """Sort files by the compacted file to read in place of them, None where that would cost more than they do."""
    segments = {piece.key: segment for piece, segment in pieces.items()}
    found: dict[Segment | None, list[Parts]] = defaultdict(list)
    for each in files:
        found[segments.get(_place_of(each)[0]) if segments else None].append(each)
    for segment in [each for each in found if each]:
        if segment.byte_count > sum(
            marks[each].byte_count + REQUEST_BYTES for each in found[segment]
        ):
            found[None] += found.pop(segment)
    return found


def _place_of(parts: Parts) -> tuple[Key, date]:
    """Return a file's account and month, and its day."""
    day = date.fromisoformat(parts[-2].removeprefix("date="))
    return (parts[1].removeprefix("account="), month_of(day)), day


def _outside(piece: Piece) -> ds.Expression:
    first, last = month_bounds(piece.month)
    return ~(
        (ds.field("account") == piece.account)
        & (ds.field("date") >= first)
        & (ds.field("date") <= last)
    )


@contextmanager
def _fetching(
    fetch: Callable[[Any], pa.Table], parts: Sequence[Any]
) -> Iterator[Iterator[pa.Table]]:
    """Fetch several files at a time, a few ahead of the reader; whoever stops reading stops the fetching."""
    pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
    try:
        yield _in_order(pool, fetch, iter(parts))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, fetch: Callable[[Any], pa.Table], parts: Iterator[Any]
) -> Iterator[pa.Table]:
    ahead = deque(pool.submit(fetch, each) for each in islice(parts, 2 * FETCHERS))
    while ahead:
        yield ahead.popleft().result()
        ahead.extend(pool.submit(fetch, each) for each in islice(parts, 1))


def _check(location: str, content: bytes, mark: FileVersion) -> None:
    if mark.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise CorruptError(f"{location} is damaged: its bytes are not those that were written")
