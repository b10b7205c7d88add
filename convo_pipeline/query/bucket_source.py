"""Read the tables of a bucket as Arrow datasets, with one GET per file that a query needs.

A query lists a table's files and reads exactly the listed versions (`If-Match`). If a version was
replaced, the query fails and `connection` retries it, so a reader never sees half a commit. If the
new listing contains the same replaced version, the store's listings lag behind its objects. Then
the newest version of each file is read, which is complete too.

Filters on `account` and `date` use only the file names. Whole months can come from compacted files,
if these were made from the listed versions. `storage` sends the requests.
"""

import hashlib
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from functools import reduce
from itertools import chain, islice, pairwise
from operator import and_
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from convo_pipeline.errors import ConflictError, CorruptError, StoreError
from convo_pipeline.lake.accounts import ACCOUNTS_FILE
from convo_pipeline.lake.parquet import decode, rename_former_columns
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
from convo_pipeline.schema import LEDGER, TABLES, Table, current_name
from convo_pipeline.storage.backend import FileVersion, StoredFile
from convo_pipeline.storage.buckets import open_bucket
from convo_pipeline.storage.layout import DATA_FILE
from convo_pipeline.storage.objects import ObjectStore

LISTING_SECONDS = 15.0
"""An open connection sees new files after this time. It sees changed files at once."""
FETCHERS = 8
PAGE_FILES = 1_000
"""Files on one page of a listing."""
MOST_NARROWED = 64
"""Listings of filters that a connection keeps."""
FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
_ACCOUNT = r"account=[a-z][^/]*"
_DATE = r"date=\d{4}-\d\d-\d\d"
REQUEST_BYTES = 256 * 1024
"""The bytes that can be downloaded in the time of one request.

A compacted file is read if its bytes do not exceed those of the daily files plus this per file.
"""
Parts = tuple[str, ...]
Listed = Iterable[tuple[Parts, FileVersion]]
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
        self.bucket = open_bucket(url, endpoint_url)
        self.prefix = f"{self.bucket.location()}/"
        self.folders: Parts = ()
        self._listings = {
            table.name: _Listing(self.bucket, table, monotonic_seconds) for table in _viewed()
        }
        self._monotonic_seconds = monotonic_seconds
        self._accounts: bytes | None = None
        self._accounts_read_at: float | None = None
        self.bucket.check_readable()
        if not self.bucket.list_names():
            raise StoreError(
                f"no lake at {url}: it contains no files; name the prefix of the tables"
            )

    def relations(self) -> Mapping[str, object]:
        """Return the datasets that a connection must register before a SELECT, by name."""
        return {_relation(table): _TableDataset(self._listings[table.name]) for table in _viewed()}

    def has_files(self, table: Table) -> bool:
        """Return True: a dataset can be empty."""
        return True

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's dataset.

        The columns of the path come first, then those of the schema.
        """
        columns = ", ".join(map(quote_name, column_types(table)))
        return f"SELECT {columns} FROM {quote_name(_relation(table))}"  # noqa: S608 - quoted

    def read_accounts(self) -> bytes | None:
        """Return the bytes of the file with the accounts' settings; None if there is no file.

        It is read again after `LISTING_SECONDS`.
        """
        now = self._monotonic_seconds()
        if self._accounts_read_at is None or now - self._accounts_read_at > LISTING_SECONDS:
            file = self.bucket.read(ACCOUNTS_FILE)
            self._accounts = file.content if file else None
            self._accounts_read_at = now
        return self._accounts

    def look(self) -> None:
        """Do nothing: a dataset lists its files at each query."""

    def is_changed(self, table: Table) -> bool:
        """Return False: a dataset lists its files at each query."""
        return False

    def distrust(self, message: str) -> None:
        """Do nothing: `_Scan` itself ignores a damaged compacted file."""

    def files(self, table: Table) -> list[str]:
        """Return the address of every partition, sorted."""
        return [
            self.bucket.location(parts) for parts in sorted(self._listings[table.name].versions())
        ]

    def is_readable(self, path: str) -> bool:
        """Return False if a file is damaged. A missing file is not damaged."""
        parts = tuple(path.removeprefix(self.prefix).split("/"))
        file = self.bucket.read(parts)
        if file is None:
            return True
        try:
            _check(path, *file)
            decode(TABLES_BY_NAME[current_name(parts[0])], file.content, path)
        except CorruptError:
            return False
        return True

    def check_folders(self, table: Table) -> None:
        """Do nothing: a bucket has no links and no pipes."""

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


class _Place(NamedTuple):
    """Folders below a table's folder, and the first and last month of the days in them."""

    folders: Parts = ()
    first: str = ""
    last: str = ""


class _Listing:
    """The files of a table and their versions. It is renewed after `LISTING_SECONDS`."""

    def __init__(
        self,
        bucket: ObjectStore,
        table: Table,
        monotonic_seconds: Callable[[], float],
        places: Sequence[_Place] = (_Place(),),
        names: Sequence[str] = (),
    ) -> None:
        self.bucket = bucket
        self.table = table
        self._places = places
        self._account_folders: list[str] = []
        self._names = names or [name for name in (table.former_name, table.name) if name]
        """The table's folders, the former one first."""
        self._used_names: tuple[str, ...] = ()
        """Those with files when the accounts were listed."""
        self._folders_listed_at: float | None = None
        self._narrowed: dict[tuple[object, ...], _Listing] = {}
        self._monotonic_seconds = monotonic_seconds
        self._pattern = re.compile(_DATE if table.layer == "ledger" else f"{_ACCOUNT}/{_DATE}")
        self._versions: dict[Parts, FileVersion] = {}
        self._pieces: dict[Piece, Segment] = {}
        self._listed_at: float | None = None
        self._refused: dict[Parts, str] = {}
        self.is_late = False
        """Whether the store listed a version that it had refused before.

        Then its listings lag behind its objects.
        """

    def versions(self, begun: Listed = ()) -> dict[Parts, FileVersion]:
        """Return the version of every data file of the table. Skip other files.

        `begun` is a listing of the table's folder that was begun already.
        """
        if self._is_outdated(self._listed_at):
            self._versions = self._list_versions(begun)
            self._pieces = self._current_pieces()
            self.is_late |= any(
                self._versions[parts].etag == etag
                for parts, etag in self._refused.items()
                if parts in self._versions
            )
            self._listed_at = self._monotonic_seconds()
        return self._versions

    def narrow(self, row_filter: ds.Expression | None) -> "_Listing":
        """Return the listing of the accounts and days that can pass the filter, if it is faster.

        A page of a listing has 1,000 files, and a page names where the next one begins. So the
        pages of all files take turns, while the accounts are listed at the same time. The accounts
        themselves are listed with one request. The first page of all files shows how many pages
        follow.
        """
        if row_filter is None or self.table.layer == "ledger":
            return self
        if not self._is_outdated(self._listed_at):
            return self
        folders = self._list_accounts()
        paths = [(self.table.name, folder, DATA_FILE) for folder in folders]
        wanted = [folder for _, folder, _ in _filter_paths(self.table, paths, row_filter)]
        months = _find_months(self.table, row_filter)
        if len(wanted) > 1:
            if len(wanted) == len(folders) and months == ("", ""):
                return self
            listed = self.bucket.list_versions((self.table.name,))
            page = list(islice(listed, PAGE_FILES))
            page_count = len(folders) / len({parts[1] for parts, _ in page} or {""})
            if len(page) < PAGE_FILES or len(wanted) / FETCHERS >= page_count:
                self.versions(chain(page, listed))
                return self
        places = tuple(_Place((folder,), *months) for folder in wanted)
        key = places, self._used_names
        if key not in self._narrowed:
            if len(self._narrowed) >= MOST_NARROWED:
                self._narrowed.clear()
            arguments = self.bucket, self.table, self._monotonic_seconds
            self._narrowed[key] = _Listing(*arguments, *key)
        return self._narrowed[key]

    def _list_accounts(self) -> list[str]:
        if self._is_outdated(self._folders_listed_at):
            found = {name: self.bucket.list_names((name,)) for name in self._names}
            self._used_names = tuple(name for name, listed in found.items() if listed)
            folders = {folder for listed in found.values() for folder in listed}
            self._account_folders = sorted(each for each in folders if re.fullmatch(_ACCOUNT, each))
            self._folders_listed_at = self._monotonic_seconds()
        return self._account_folders

    def _is_outdated(self, listed_at: float | None) -> bool:
        return listed_at is None or self._monotonic_seconds() - listed_at > LISTING_SECONDS

    def _list_versions(self, begun: Listed) -> dict[Parts, FileVersion]:
        """List the data files. A file under the table's former name counts if it was not moved."""
        versions: dict[Parts, FileVersion] = {}
        for name in self._names:
            found = begun if begun and name == self.table.name else self._list_places(name)
            listed = {parts: version for parts, version in found if self._is_data(parts)}
            moved = {(self.table.former_name, *parts[1:]) for parts in listed}
            versions = {
                parts: version for parts, version in versions.items() if parts not in moved
            } | listed
        return versions

    def _list_places(self, name: str) -> Listed:
        def list_place(place: _Place) -> list[tuple[Parts, FileVersion]]:
            folder = (name, *place.folders)
            return list(self.bucket.list_versions(folder, place.first, place.last))

        with _fetching(list_place, self._places) as lists:
            return list(chain.from_iterable(lists))

    def pieces(self) -> dict[Piece, Segment]:
        """Return the compacted months that were made from the listed versions."""
        self.versions()
        return self._pieces

    def expire(self, parts: Parts, etag: str) -> None:
        """Discard the listing, because the store refused this version."""
        self._refused[parts] = etag
        self._listed_at = None

    def _current_pieces(self) -> dict[Piece, Segment]:
        segments = read_index(self.bucket, self.table.name)[0] if self.table.name in TABLES else []
        months: dict[Key, dict[date, str]] = defaultdict(dict)
        for parts, version in self._versions.items() if segments else ():
            key, day = _month_and_day(parts)
            months[key][day] = version.etag
        current = {
            Piece(*key, days_digest(versions), len(versions)) for key, versions in months.items()
        }
        return {
            piece: segment for segment in segments for piece in segment.pieces if piece in current
        }

    def _is_data(self, parts: Parts) -> bool:
        return parts[-1] == DATA_FILE and self._pattern.fullmatch("/".join(parts[1:-1])) is not None


class _TableDataset(ds.Dataset):  # type: ignore[misc]
    """A dataset that lists its files for every query. DuckDB calls `scanner` once per scan.

    Arrow never calls Python code here. Otherwise its threads and DuckDB's could deadlock.
    """

    def __init__(self, listing: _Listing) -> None:
        self._listing = listing

    @property
    def schema(self) -> pa.Schema:
        return _dataset_schema(self._listing.table)

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
    """One read of the files that pass a filter, in their listed versions.

    It reads a compacted file instead where this costs less.
    """

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
        """Return the rows as a stream.

        The stream raises OSError if a file is no longer the listed version or cannot be read.
        """
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        self._listing = self._listing.narrow(self._filter)
        versions, pieces = dict(self._listing.versions()), self._listing.pieces()
        files = _filter_paths(self._listing.table, sorted(versions), self._filter)
        files_by_segment = _group_by_segment(files, versions, pieces)

        def fetch(job: tuple[Segment | None, list[Parts]]) -> pa.Table:
            segment, files = job
            rows = self._read_segment(segment, pieces) if segment else None
            return (
                pa.concat_tables([self._read(parts, versions[parts]) for parts in files])
                if rows is None
                else rows
            )

        jobs: list[tuple[Segment | None, list[Parts]]] = [
            job for job in files_by_segment.items() if job[0]
        ]
        jobs += [(None, [parts]) for parts in files_by_segment.get(None, ())]
        with _fetching(fetch, jobs) as tables:
            for table in tables:
                yield from table.to_batches()

    def _read(self, parts: Parts, version: FileVersion) -> pa.Table:
        try:
            file = self._fetch(parts, version)
        except ConflictError as error:
            self._listing.expire(parts, version.etag)
            raise OSError(str(error)) from None
        except StoreError as error:
            raise OSError(str(error)) from None
        if file is None:
            return self.projected_schema.empty_table()
        fragment = FORMAT.make_fragment(
            _with_current_names(self._listing.table, pa.BufferReader(file.content)),
            partition_expression=_partition(self._listing.table, parts),
        )
        return fragment.to_table(
            schema=self._schema, columns=self._columns, filter=self._filter, use_threads=False
        )

    def _fetch(self, parts: Parts, version: FileVersion) -> StoredFile | None:
        """Return the listed version of a file, or the newest if listings lag."""
        bucket = self._listing.bucket
        file = (
            bucket.read(parts)
            if self._listing.is_late
            else bucket.read_version(parts, version.etag)
        )
        if file:
            _check(bucket.location(parts), *file)
        return file

    def _read_segment(self, segment: Segment, pieces: Mapping[Piece, Segment]) -> pa.Table | None:
        """Return the rows of the current months in a compacted file.

        Return None if the file is missing or damaged.
        """
        file = self._listing.bucket.read(segment_parts(self._listing.table.name, segment.name))
        if file is None or hashlib.sha256(file.content).hexdigest() != segment.sha256:
            return None
        fragment = FORMAT.make_fragment(pa.BufferReader(file.content))
        conditions = [
            _outside_month(piece) for piece in segment.pieces if pieces.get(piece) is not segment
        ]
        row_filter = reduce(
            and_, conditions, ds.scalar(True) if self._filter is None else self._filter
        )
        return fragment.to_table(
            schema=self._schema, columns=self._columns, filter=row_filter, use_threads=False
        )


def _dataset_schema(table: Table) -> pa.Schema:
    path = _path_columns(table)
    own = [field.with_nullable(True) for field in table.schema if field.name not in path.names]
    return pa.schema([*path, *own])


def _filter_paths(
    table: Table, paths: Sequence[Parts], row_filter: ds.Expression | None
) -> list[Parts]:
    """Return the paths whose account and date can pass the filter."""
    dataset = ds.FileSystemDataset.from_paths(
        ["/".join(parts) for parts in paths],
        schema=_dataset_schema(table),
        format=FORMAT,
        filesystem=fs.LocalFileSystem(),  # not used: only the names are compared
        partitions=[_partition(table, parts) for parts in paths],
    )
    return [tuple(fragment.path.split("/")) for fragment in dataset.get_fragments(row_filter)]


def _find_months(table: Table, row_filter: ds.Expression) -> tuple[str, str]:
    """Return the names of the first and the last month whose days can pass the filter.

    A name is "" if there is no such month, or if the filter is not understood. A filter changes its
    result only at the dates in its text. So it is tested on these dates, and once between them.

    >>> filter_ = (ds.field("date") >= date(2025, 3, 30)) & (ds.field("date") < date(2025, 4, 2))
    >>> _find_months(TABLES["messages"], filter_)
    ('date=2025-03', 'date=2025-04')
    """
    text, dates = str(row_filter), set[date]()
    for each in re.findall(r"\d{4}-\d\d-\d\d", text):
        with suppress(ValueError):
            dates.add(date.fromisoformat(each))
    if not dates or "..." in text or not date.min < min(dates) <= max(dates) < date.max:
        return "", ""
    named = sorted(dates)
    day = timedelta(days=1)
    spans = [(each, each) for each in named]
    spans += [(one + day, other - day) for one, other in pairwise(named) if other - one > day]
    spans += [(date.min, named[0] - day), (named[-1] + day, date.max)]
    span_of: dict[Parts, tuple[date, date]] = {
        (table.name, f"date={first}", DATA_FILE): (first, last) for first, last in spans
    }
    passing = [span_of[path] for path in _filter_paths(table, list(span_of), row_filter)]
    first = min((first for first, _ in passing), default=date.max)
    last = max((last for _, last in passing), default=date.min)
    return (
        "" if first == date.min else f"date={first.isoformat()[:7]}",
        "" if last == date.max else f"date={last.isoformat()[:7]}",
    )


def _partition(table: Table, parts: Parts) -> ds.Expression:
    """Return the account and date that the folders of a path name."""
    return ds.partitioning(_path_columns(table), flavor="hive").parse("/".join(parts[1:]))


def _with_current_names(table: Table, file: pa.BufferReader) -> pa.BufferReader:
    """Return the file; if it has former names of columns, a copy with the current ones."""
    former_names = {column.former_name for column in table.columns if column.former_name}
    if not former_names.intersection(pq.read_schema(file).names if former_names else ()):
        return file
    sink = pa.BufferOutputStream()
    pq.write_table(rename_former_columns(table, pq.read_table(file)), sink)
    return pa.BufferReader(sink.getvalue())


def _group_by_segment(
    files: Sequence[Parts],
    versions: Mapping[Parts, FileVersion],
    pieces: Mapping[Piece, Segment],
) -> dict[Segment | None, list[Parts]]:
    """Group files by the compacted file to read instead of them.

    The key is None for files to read themselves, because that costs less.
    """
    segments = {piece.key: segment for piece, segment in pieces.items()}
    groups: dict[Segment | None, list[Parts]] = defaultdict(list)
    for parts in files:
        groups[segments.get(_month_and_day(parts)[0]) if segments else None].append(parts)
    for segment in [key for key in groups if key]:
        cost = sum(versions[parts].byte_count + REQUEST_BYTES for parts in groups[segment])
        if segment.byte_count > cost:
            groups[None] += groups.pop(segment)
    return groups


def _month_and_day(parts: Parts) -> tuple[Key, date]:
    """Return the account and month of a daily file, and its day."""
    day = date.fromisoformat(parts[-2].removeprefix("date="))
    return (parts[1].removeprefix("account="), month_of(day)), day


def _outside_month(piece: Piece) -> ds.Expression:
    """Return the filter that excludes the rows of an account's month."""
    first, last = month_bounds(piece.month)
    return ~(
        (ds.field("account") == piece.account)
        & (ds.field("date") >= first)
        & (ds.field("date") <= last)
    )


@contextmanager
def _fetching(
    fetch: Callable[[Any], pa.Table], jobs: Sequence[Any]
) -> Iterator[Iterator[pa.Table]]:
    """Fetch several files in parallel, a few ahead of the reader.

    The fetches that have not started are cancelled when the reader stops.
    """
    pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
    try:
        yield _in_order(pool, fetch, iter(jobs))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, fetch: Callable[[Any], pa.Table], jobs: Iterator[Any]
) -> Iterator[pa.Table]:
    """Yield the results in the order of the jobs."""
    futures = deque(pool.submit(fetch, job) for job in islice(jobs, 2 * FETCHERS))
    while futures:
        yield futures.popleft().result()
        futures.extend(pool.submit(fetch, job) for job in islice(jobs, 1))


def _check(location: str, content: bytes, version: FileVersion) -> None:
    """Raise CorruptError if the bytes do not have the hash that was stored with them."""
    if version.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise CorruptError(f"{location} is damaged: its bytes differ from those that were written")
