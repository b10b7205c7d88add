"""Read and commit one partition's file: a reader sees the old file or the new one, never a mix.

A commit takes the partition's lock, reads the file, compares it with `state.db`, makes the new
rows, stages and syncs them, reads them back, saves the intent, replaces the file, syncs the folder
and saves the record. A damaged file is set aside, and the error names it. This module does not
merge.
"""

import hashlib
import random
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeVar

import pyarrow as pa

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import (
    ConflictError,
    CorruptError,
    SchemaError,
    StoreError,
    UnreadableError,
)
from convo_pipeline.lake import parquet
from convo_pipeline.schema import RAW, SCHEMA_VERSION, Table
from convo_pipeline.state.records import Partition
from convo_pipeline.state.state import State
from convo_pipeline.storage.backend import FileVersion, StorageBackend, remove_file
from convo_pipeline.storage.layout import (
    DATA_FILE,
    file_parts,
    folder_parts,
    read_date,
    set_aside_parts,
    table_of,
)
from convo_pipeline.storage.locks import Locks

CONFLICT_TRIES = 20
"""How often a commit is repeated because another machine changed the file first."""
MOST_CONFLICT_SECONDS = 2.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Commit:
    """A partition after a commit; `is_changed` tells whether its file was written or removed."""

    table: str
    account: str
    date: date
    row_count: int
    byte_count: int
    sha256: str
    is_changed: bool

    @classmethod
    def of(cls, record: Partition, is_changed: bool) -> "Commit":
        """Return the commit that made a partition what its record says."""
        key = record.table, record.account, record.date
        return cls(*key, record.row_count, record.byte_count, record.sha256, is_changed)


@dataclass(frozen=True)
class StoredPartition:
    """A partition's file as it was read."""

    content: parquet.FileContent
    record: Partition
    version: FileVersion


Make = Callable[[StoredPartition | None], pa.Table]
"""Returns the new rows of a partition, given its file."""


def rows_of(table: Table, stored: StoredPartition | None) -> pa.Table:
    """Return the rows of a file in the current schema, none without a file; raise SchemaError."""
    return stored.content.checked_rows() if stored else table.schema.empty_table()


class Partitions:
    """The files of all partitions, with their locks and their records in the state."""

    def __init__(self, backend: StorageBackend, state: State, locks: Locks, clock: Clock) -> None:
        self.conflict_count = 0
        """How often a commit was repeated because another machine changed the file first."""
        self._backend = backend
        self._state = state
        self._locks = locks
        self._clock = clock
        self._listed_etags: dict[tuple[str, str, date], str | None] = {}
        """ETags of partitions in a bucket when they were last looked at; None: not listed."""
        self._listed_folders: set[tuple[str, str]] = set()

    # reading

    def read(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Read a partition; read it under its lock if it does not agree with the state.

        Raise CorruptError, and set the file aside, if it is damaged.
        """
        with suppress(CorruptError):
            stored = self.read_file(table, account, day)
            record = self._state.partition(table.name, account, day)
            if (stored.record if stored else None) == record:
                return stored
        return self._read_locked(table, account, day)

    def read_file(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Read a partition without comparing it with the state; raise CorruptError for damage."""
        parts = file_parts(table, account, day)
        file = self._backend.read(parts)
        if file is None:
            return None
        content, version = file
        name = self._backend.location(parts)
        decoded = parquet.decode(table, content, name)
        if self.belongs_elsewhere(decoded.label, account, day):
            raise CorruptError(f"{name} is the file of another account or day")
        record = _describe(table, account, day, content, decoded.row_count, decoded.source)
        if version.sha256 not in (None, record.sha256):
            raise CorruptError(f"{name} is damaged: its bytes are not those that were written")
        return StoredPartition(decoded, record, version)

    def record(self, table: Table, account: str, day: date) -> Partition | None:
        """Return a partition's record; read its file if a commit was interrupted or is newer."""
        record = self._state.partition(table.name, account, day)
        if record is None and self._is_absent(table, account, day):
            return None
        if record is not None and record.next_sha256 is None and not self._is_outdated(record):
            return record
        stored = self._read_locked(table, account, day)
        return stored.record if stored else None

    def records(
        self, listed: Mapping[str, Iterable[date]], account: str
    ) -> dict[tuple[str, date], Partition]:
        """Return the records of an account's partitions by table and day, each as `record` does.

        `listed` holds the days that have a file, by table. All records come from one query.
        """
        records = {
            (each.table, each.date): each
            for each in self._state.partitions(account)
            if each.table in listed
        }
        unclear = {(table, day) for table, days in listed.items() for day in days} - records.keys()
        unclear |= {
            key
            for key, each in records.items()
            if each.next_sha256 is not None or self._is_outdated(each)
        }
        for table, day in unclear:
            record = self.record(table_of(table), account, day)
            if record:
                records[table, day] = record
            else:
                records.pop((table, day), None)
        return records

    def inspect(
        self, table: Table, account: str, day: date
    ) -> tuple[bytes | None, Partition | None]:
        """Return a partition's bytes and its record under the lock; change nothing."""
        parts = file_parts(table, account, day)
        with self._locks.partition(parts):
            content, version = self._backend.read(parts) or (None, None)
            record = self._state.partition(table.name, account, day)
        if content is not None and version and version.sha256 == _sha256(content):
            record = _with_next(table, account, day, record, version.sha256)
        return content, record

    def measure(self, table: Table, account: str, day: date) -> tuple[int | None, Partition | None]:
        """Return the size of a partition's file without reading it, and the record as `inspect`."""
        version = self._backend.version(file_parts(table, account, day))
        record = self._state.partition(table.name, account, day)
        if version and version.sha256:
            record = _with_next(table, account, day, record, version.sha256)
        return (version.byte_count if version else None), record

    def days(self, table: Table, account: str) -> list[date]:
        """Return the dates that have a file; in a bucket also recorded ones that are not listed."""
        folders = self._backend.folders_with(folder_parts(table, account), DATA_FILE)
        listed = {day: version for name, version in folders.items() if (day := read_date(name))}
        if not self._backend.is_shared:
            return sorted(listed)
        records = self._state.partitions(account, table=table.name)
        days = listed.keys() | {record.date for record in records if record.next_sha256 != ""}
        self._listed_folders.add((table.name, account))
        for day in days:
            self._listed_etags[table.name, account, day] = (
                listed[day].etag if day in listed else None
            )
        return sorted(days)

    def refresh_versions(self, account: str, day: date) -> None:
        """Look up in the bucket which versions the day's raw files have now."""
        for table in RAW if self._backend.is_shared else ():
            version = self._backend.version(file_parts(table, account, day))
            self._listed_etags[table.name, account, day] = version.etag if version else None

    def is_up_to_date(self, table: Table, account: str, day: date) -> bool:
        """Return whether a file is the recorded one and of the current schema, or none exists."""
        file = self._backend.read(file_parts(table, account, day))
        record = self._state.partition(table.name, account, day)
        if file is None or record is None:
            return file is None and record is None
        is_recorded = _sha256(file.content) == record.sha256
        return is_recorded and parquet.read_schema_version(file.content) == SCHEMA_VERSION

    def belongs_elsewhere(self, label: str, account: str, day: date) -> bool:
        """Return whether a file's label names another day or another inbox.

        The label names an account by its page, because its name can change. An unknown page or an
        empty label matches.
        """
        own_day, _, own_inbox = self._label(account, day).partition(" ")
        label_day, _, label_inbox = label.partition(" ")
        is_other_inbox = bool(label_inbox and own_inbox) and label_inbox != own_inbox
        return bool(label) and (label_day != own_day or is_other_inbox)

    def is_unlisted(self, table: Table, account: str, day: date) -> bool:
        """Return whether the bucket's last listing lacked a partition."""
        return (
            self._backend.is_shared and self._listed_etags.get((table.name, account, day)) is None
        )

    # writing

    def commit(self, table: Table, account: str, day: date, make: Make, source: str = "") -> Commit:
        """Replace a partition's rows by those that `make` returns; write nothing if they are equal.

        No rows remove the file.
        """
        parts = file_parts(table, account, day)

        def commit() -> Commit:
            stored = None
            if not self._is_unlisted_and_unknown(table, account, day):
                try:
                    stored = self._read_checked(table, account, day)
                except UnreadableError as error:
                    if not source:
                        raise
                    self._set_aside(table, account, day, str(error), is_replaced=True)
            version = stored.content.schema_version if stored else SCHEMA_VERSION
            if version > SCHEMA_VERSION:
                raise SchemaError(
                    f"{self._backend.location(parts)} was written by a newer convo-pipeline (schema"
                    f" version {version}, this one writes {SCHEMA_VERSION}): update before writing"
                )
            rows = make(stored)
            if stored and rows is stored.content.rows and version == SCHEMA_VERSION:
                return Commit.of(stored.record, is_changed=False)
            if rows.num_rows == 0:
                return self._remove(table, account, day, stored)
            label = (stored.content.label if stored else "") or self._label(account, day)
            content = parquet.encode(table, rows, source, label)
            record = _describe(table, account, day, content, rows.num_rows, source)
            if stored and stored.record.sha256 == record.sha256:
                return Commit.of(stored.record, is_changed=False)
            self._publish(table, content, rows, stored, record)
            return Commit.of(record, is_changed=True)

        with self._locks.partition(parts):
            return self._repeat_on_conflict(commit)

    def drop(self, table: Table, account: str, day: date) -> None:
        """Remove a partition, whatever its file contains."""
        parts = file_parts(table, account, day)
        with self._locks.partition(parts):
            record = self._state.partition(table.name, account, day)
            if record:
                self._state.save_intent(record, "")
            self._repeat_on_conflict(lambda: remove_file(self._backend, parts))
            self._state.remove_partition(table.name, account, day)

    def register_file(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Record a partition's file as it is, whatever the state says; None if it is damaged.

        A footer has no checksum. So the file is written again if its rows encode to other bytes.
        """
        with self._locks.partition(file_parts(table, account, day)):
            try:
                stored = self.read_file(table, account, day)
            except CorruptError:
                return None
            if stored is None:
                return None
            is_current = stored.content.schema_version == SCHEMA_VERSION
            if is_current and not stored.content.has_current_schema:
                return None
            self._check_replaced(table, stored, self._state.partition(table.name, account, day))
            self._save(stored.record, stored.version)
            if is_current:
                rows, source = stored.content.rows, stored.content.source
                content = parquet.encode(table, rows, source, stored.content.label)
                record = _describe(table, account, day, content, rows.num_rows, source)
                if record.sha256 != stored.record.sha256:
                    self._publish(table, content, rows, stored, record)
            return stored

    def forget_missing(self, record: Partition) -> bool:
        """Remove the record of a missing file, and mark it as suspect unless it was to be removed.

        Return whether its rows are lost: they cannot be derived from other tables.
        """
        if record.next_sha256 == "":
            self._state.remove_partition(record.table, record.account, record.date)
            return False
        table = table_of(record.table)
        self._mark_suspect(table, record.account, record.date)
        return table.layer in ("raw", "ledger")

    def check_files(
        self, tables: Iterable[Table], account: str, hashed_days: Container[date] = ()
    ) -> list[str]:
        """Compare the files' sizes with their records, and the hashes on some days.

        Set damaged files aside, mark lost and replaced ones as suspect, and return a sentence about
        each. In a bucket only hashes are compared, because another machine may have written.
        """
        if self._backend.is_shared and not hashed_days:
            return []
        old_suspects = set(self._state.suspect_files(account))
        for table in tables:
            versions = self._backend.folders_with(folder_parts(table, account), DATA_FILE)
            for record in self._state.partitions(account, table=table.name):
                is_hashed = record.date in hashed_days
                if self._backend.is_shared and not is_hashed:
                    continue
                version = versions.get(f"date={record.date}")
                is_same = version is not None and version.byte_count == record.byte_count
                if is_same and is_hashed:
                    file = self._backend.read(file_parts(table, account, record.date))
                    is_same = file is not None and _sha256(file.content) == record.sha256
                if not is_same:
                    with suppress(CorruptError):  # the file is in the list of suspect files now
                        self._read_locked(table, account, record.date)
        return [
            f"{suspect.path} was lost, damaged or put back from a backup"
            for suspect in self._state.suspect_files(account)
            if suspect not in old_suspects
        ]

    # parts of a commit; the caller holds the partition's lock

    def _repeat_on_conflict(self, action: Callable[[], Result]) -> Result:
        """Run an action; repeat it, with random pauses, while other machines change the file."""
        for attempt in range(1, CONFLICT_TRIES + 1):
            try:
                return action()
            except ConflictError:
                self.conflict_count += 1
                if attempt == CONFLICT_TRIES:
                    raise
                self._clock.sleep(random.uniform(0, min(MOST_CONFLICT_SECONDS, 0.05 * 2**attempt)))
        raise AssertionError("unreachable")

    def _publish(
        self,
        table: Table,
        content: bytes,
        rows: pa.Table,
        stored: StoredPartition | None,
        record: Partition,
    ) -> None:
        def check(read_back: bytes, name: str) -> None:
            if read_back != content:
                raise CorruptError(f"{name} read back differs from what was written")
            parquet.check_written(table, rows, read_back, name)
            if stored:
                self._state.save_intent(stored.record, record.sha256)

        parts = file_parts(table, record.account, record.date)
        try:
            version = self._backend.replace(
                parts, content, stored.version if stored else None, check
            )
        except ConflictError:
            self._listed_etags[record.table, record.account, record.date] = ""
            raise
        self._save(record, version)

    def _remove(
        self, table: Table, account: str, day: date, stored: StoredPartition | None
    ) -> Commit:
        if stored:
            self._state.save_intent(stored.record, "")
            self._backend.remove(file_parts(table, account, day), stored.version)
            self._state.remove_partition(table.name, account, day)
        empty = Partition(table.name, account, day, "", 0, 0)
        return Commit.of(empty, is_changed=stored is not None)

    def _save(self, record: Partition, version: FileVersion) -> None:
        """Save the record of a partition; of one in a bucket also its ETag."""
        self._state.save_partition(record)
        if self._backend.is_shared:
            self._state.save_etag(record, version.etag)
            self._listed_etags[record.table, record.account, record.date] = version.etag

    def _read_locked(self, table: Table, account: str, day: date) -> StoredPartition | None:
        with self._locks.partition(file_parts(table, account, day)):
            return self._repeat_on_conflict(lambda: self._read_checked(table, account, day))

    def _read_checked(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Read a partition and bring its record up to date; set a damaged file aside and raise."""
        record = self._state.partition(table.name, account, day)
        try:
            stored = self.read_file(table, account, day)
        except CorruptError as error:
            raise self._set_aside(table, account, day, str(error)) from None
        if stored is None:
            if record is not None and self.forget_missing(record):
                location = self._backend.location(file_parts(table, account, day))
                raise CorruptError(
                    f"{location} is missing although it held {record.row_count} rows: restore it,"
                    " or run again"
                )
            return None
        if record and stored.record.sha256 not in (record.sha256, record.next_sha256):
            if stored.version.sha256 is None:
                content, _ = self._backend.read(file_parts(table, account, day)) or (b"", None)
                if not parquet.is_as_written(table, content):
                    raise self._set_aside(table, account, day, "")
            self._check_replaced(table, stored, record)
        if record != stored.record or self._is_outdated(record):
            self._save(stored.record, stored.version)
        return stored

    def _check_replaced(
        self, table: Table, stored: StoredPartition, record: Partition | None
    ) -> None:
        """Mark a raw file as suspect if it is not the recorded one: it can be an older backup.

        In a bucket another machine may have written it; there it is suspect only with fewer rows.
        """
        if record is None or table.layer != "raw":
            return
        is_other = stored.record.sha256 not in (record.sha256, record.next_sha256)
        has_lost_rows = stored.record.row_count < record.row_count
        if is_other and (has_lost_rows or not self._backend.is_shared):
            self._mark_suspect(table, record.account, record.date)

    def _mark_suspect(self, table: Table, account: str, day: date) -> None:
        path = "/".join(file_parts(table, account, day))
        self._state.mark_suspect(table.name, account, day, path)

    def _set_aside(
        self, table: Table, account: str, day: date, reason: str, *, is_replaced: bool = False
    ) -> StoreError:
        """Set a damaged file aside, mark it as suspect, and return the error that names it.

        A file with the recorded hash is whole, even if it could not be read. It stays, unless it is
        replaced by new rows.
        """
        parts = file_parts(table, account, day)
        record = self._state.partition(table.name, account, day)
        content, version = self._backend.read(parts) or (b"", FileVersion(0))
        sha256 = _sha256(content)
        if record is not None and sha256 == record.sha256 and not is_replaced:
            remedy = (
                "restore the file from a backup, or move it away and run `convo-pipeline extract`"
                if table.layer in ("raw", "ledger")
                else "run `convo-pipeline normalize --force`"
            )
            return UnreadableError(
                f"{reason}, but its bytes are as written, so it stays: try again with more memory;"
                f" if it remains, {remedy}"
            )
        target = set_aside_parts(parts, sha256)
        name = "/".join(target)
        self._state.mark_suspect(table.name, account, day, name)
        self._backend.set_aside(parts, target, version)
        remedy = (
            "the next run reads its day again"
            if table.layer == "raw"
            else "it is made again from the raw tables"
        )
        location = self._backend.location(parts)
        return CorruptError(f"{location} is damaged and was set aside as {name}; {remedy}")

    def _label(self, account: str, day: date) -> str:
        """Return the label of a partition's file: date, platform and page."""
        identity = self._state.identity(account) if account else None
        return f"{day} {identity.platform} {identity.page_id}" if identity else f"{day} "

    def _is_outdated(self, record: Partition) -> bool:
        """Return whether the bucket has another version than the recorded one."""
        key = (record.table, record.account, record.date)
        return key in self._listed_etags and self._listed_etags[key] != self._state.etag(record)

    def _is_absent(self, table: Table, account: str, day: date) -> bool:
        if self._backend.is_shared:
            return self._is_unlisted_and_unknown(table, account, day)
        return self._backend.version(file_parts(table, account, day)) is None

    def _is_unlisted_and_unknown(self, table: Table, account: str, day: date) -> bool:
        """Return whether a bucket has no file of the partition, by its listing and the state.

        This saves a request for each new file. An outdated listing does no harm: a write that
        expects no file fails if there is one.
        """
        if not self._backend.is_shared or self._state.partition(table.name, account, day):
            return False
        if (table.name, account) not in self._listed_folders:
            self.days(table, account)
        return self._listed_etags.get((table.name, account, day)) is None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _describe(
    table: Table, account: str, day: date, content: bytes, row_count: int, source: str
) -> Partition:
    sha256 = _sha256(content)
    return Partition(table.name, account, day, sha256, row_count, len(content), source)


def _with_next(
    table: Table, account: str, day: date, record: Partition | None, sha256: str
) -> Partition:
    """Return the record; another machine's file counts as a commit that is under way."""
    record = record or Partition(table.name, account, day, "", 0, 0)
    return record if record.sha256 == sha256 else replace(record, next_sha256=sha256)
