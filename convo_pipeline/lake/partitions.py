"""One partition's file: how it is read, and how it becomes the next one. The old one or the new one, never a mix.

A commit: lock, read, check against `state.db`, make the rows, stage, sync, read back, note the intent, replace, sync
the folder, record. A file that is not what was written is set aside and named. It knows no merging and no API.
"""

import hashlib
import random
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeVar

import pyarrow as pa

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import ConflictError, CorruptError, SchemaError, StoreError
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
    set_aside_name,
    table_of,
)
from convo_pipeline.storage.locks import Locks

CONFLICT_TRIES = 20
"""How often a commit is made anew because another machine was first; of those who collide, one always gets through."""
MOST_CONFLICT_SECONDS = 2.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Commit:
    """What a partition is after a commit; `is_changed` says whether its file was touched."""

    table: str
    account: str
    date: date
    row_count: int
    byte_count: int
    sha256: str
    is_changed: bool


@dataclass(frozen=True)
class StoredPartition:
    """A partition's file as it was read, and what it hashed to."""

    content: parquet.FileContent
    record: Partition
    mark: FileVersion


class Partitions:
    """The files of the tables' days, each read and written under its lock and with its line in the state."""

    def __init__(self, place: StorageBackend, state: State, locks: Locks, clock: Clock) -> None:
        self.conflict_count = 0
        """How often another writer was first and a commit was made anew."""
        self._backend = place
        self._state = state
        self._locks = locks
        self._clock = clock
        self._seen: dict[tuple[str, str, date], str | None] = {}
        """Which version of a partition a shared place held when last looked at, None where it held nothing."""
        self._seen_folders: set[tuple[str, str]] = set()

    # reading

    def read(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Read a partition; look again under the lock if the file is not what the state says."""
        try:
            held, record = (
                self.read_file(table, account, day),
                self._state.partition(table.name, account, day),
            )
            if (held.record if held else None) == record:
                return held
        except CorruptError:
            pass
        return self._read_locked(table, account, day)

    def read_file(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Read a partition as it is on disk, whatever the state says of it; a CorruptError names the file."""
        found = self._backend.read(file_parts(table, account, day))
        if found is None:
            return None
        content, mark = found
        location = self._backend.location(file_parts(table, account, day))
        decoded = parquet.decode(table, content, location)
        if self.is_other_place(decoded.place, account, day):
            raise CorruptError(f"{location} is the file of another account or day")
        record = _describe(table, account, day, content, decoded.row_count, decoded.source)
        if mark.sha256 not in (None, record.sha256):
            raise CorruptError(f"{location} is damaged: its bytes are not those that were written")
        return StoredPartition(decoded, record, mark)

    def record(self, table: Table, account: str, day: date) -> Partition | None:
        """Return what a partition is; a commit that was cut off is settled first."""
        record = self._state.partition(table.name, account, day)
        if record is None and not self._exists(table, account, day):
            return None
        if record is not None and record.next_sha256 is None and not self._is_outdated(record):
            return record
        held = self._read_locked(table, account, day)
        return held.record if held else None

    def inspect(
        self, table: Table, account: str, day: date
    ) -> tuple[bytes | None, Partition | None]:
        """Return a partition's bytes and its record as they are, with no commit under way; changes nothing."""
        parts = file_parts(table, account, day)
        with self._locks.partition(parts):
            content, mark = self._backend.read(parts) or (None, None)
            record = self._state.partition(table.name, account, day)
        if content is not None and mark and mark.sha256 == hashlib.sha256(content).hexdigest():
            record = _as_written(record or Partition(table.name, account, day, "", 0, 0), mark)
        return content, record

    def measure(self, table: Table, account: str, day: date) -> tuple[int | None, Partition | None]:
        """Return the size of a partition's file without reading it, and its record as `inspect` does."""
        mark = self._backend.version(file_parts(table, account, day))
        record = self._state.partition(table.name, account, day)
        if mark and mark.sha256:
            record = _as_written(record or Partition(table.name, account, day, "", 0, 0), mark)
        return (mark.byte_count if mark else None), record

    def days(self, table: Table, account: str) -> list[date]:
        """Return the dates that have a file; of a shared place, those that are recorded and those that are listed."""
        holders = self._backend.folders_with(folder_parts(table, account), DATA_FILE)
        marks = {day: mark for name, mark in holders.items() if (day := read_date(name))}
        if not self._backend.is_shared:
            return sorted(marks)
        records = [each for each in self._state.partitions(account) if each.table == table.name]
        known = {each.date for each in records if each.next_sha256 != ""}
        self._seen_folders.add((table.name, account))
        for day in known | marks.keys():
            self._seen[table.name, account, day] = marks[day].etag if day in marks else None
        return sorted(known | marks.keys())

    def refresh_versions(self, account: str, day: date) -> None:
        """Learn what other machines made of the day's raw files since they were read."""
        for table in RAW if self._backend.is_shared else ():
            mark = self._backend.version(file_parts(table, account, day))
            self._seen[table.name, account, day] = mark.etag if mark else None

    # writing

    def commit(
        self,
        table: Table,
        account: str,
        day: date,
        make: Callable[[StoredPartition | None], pa.Table],
        source: str = "",
    ) -> Commit:
        """Put what `make` returns of the held rows in their place; nothing is touched where nothing changed."""
        parts = file_parts(table, account, day)

        def commit() -> Commit:
            held = (
                None
                if self._is_absent(table, account, day)
                else self._read_checked(table, account, day)
            )
            if held and held.content.version > SCHEMA_VERSION:
                raise SchemaError(_newer(self._backend.location(parts), held.content.version))
            rows = make(held)
            if held and rows is held.content.rows and held.content.version == SCHEMA_VERSION:
                return committed(held.record, is_changed=False)
            if rows.num_rows == 0:
                return self._remove(table, account, day, held)
            place = (held.content.place if held else "") or self._place_of(account, day)
            content = parquet.encode(table, rows, source, place)
            record = _describe(table, account, day, content, rows.num_rows, source)
            if held and held.record.sha256 == record.sha256:
                return committed(held.record, is_changed=False)
            self._publish(table, parts, content, rows, held, record)
            return committed(record, is_changed=True)

        with self._locks.partition(parts):
            return self._agree(commit)

    def drop(self, table: Table, account: str, day: date) -> None:
        """Remove a partition for good, whatever its file holds."""
        parts = file_parts(table, account, day)
        with self._locks.partition(parts):
            record = self._state.partition(table.name, account, day)
            if record:
                self._state.save_intent(record, "")
            self._agree(lambda: remove_file(self._backend, parts))
            self._state.remove_partition(table.name, account, day)
            self._seen.pop((table.name, account, day), None)

    def register_file(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Take a partition's file for the truth, whatever the state says; None if there is none or it is damaged.

        Its pages carry checksums, its footer none: a file that is not what its rows give is written anew from them.
        """
        parts = file_parts(table, account, day)
        with self._locks.partition(parts):
            try:
                held = self.read_file(table, account, day)
            except CorruptError:
                return None
            if held is None or (
                held.content.version == SCHEMA_VERSION and not held.content.is_exact
            ):
                return None
            self._doubt_other(table, held, self._state.partition(table.name, account, day))
            if held.content.version != SCHEMA_VERSION:
                self._note(held.record, held.mark)
                return held
            self._note(held.record, held.mark)
            rows, source = held.content.rows, held.content.source
            content = parquet.encode(table, rows, source, held.content.place)
            record = _describe(table, account, day, content, rows.num_rows, source)
            if record.sha256 != held.record.sha256:
                self._publish(table, parts, content, rows, held, record)
            return held

    def forget_missing(self, record: Partition) -> bool:
        """Forget a file that is gone, and note its day if it was lost; say whether nothing can make it again from others.

        The next run asks a raw table's day again, the next derivation makes the others'.
        """
        if record.next_sha256 == "":
            self._state.remove_partition(record.table, record.account, record.date)
            return False
        table = table_of(record.table)
        self._doubt(table, record.account, record.date)
        return table.layer in ("raw", "ledger")

    def check_files(
        self, tables: Iterable[Table], account: str, hashed_days: Container[date] = ()
    ) -> list[str]:
        """Read every file again that is not there, or not as long as it was written; return what is in doubt since.

        As cheap as a listing, for whoever is about to rely on what the state says. In a shared place both may be
        the work of another machine: there a file is looked at when it is read. Of `hashed_days` the bytes are compared
        as well, in any place.
        """
        if self._backend.is_shared and not hashed_days:
            return []
        before = set(self._state.suspect_files(account))
        for table in tables:
            marks = self._backend.folders_with(folder_parts(table, account), DATA_FILE)
            for record in self._state.partitions(account, table=table.name):
                is_hashed = record.date in hashed_days
                if self._backend.is_shared and not is_hashed:
                    continue
                mark = marks.get(f"date={record.date}")
                is_other = mark is None or mark.byte_count != record.byte_count
                if is_other or (
                    is_hashed and self._hash(table, account, record.date) != record.sha256
                ):
                    with suppress(CorruptError):  # noted
                        self._read_locked(table, account, record.date)
        found = [each for each in self._state.suspect_files(account) if each not in before]
        return [f"{path} was lost, damaged or put back from a backup" for *_, path in found]

    def is_up_to_date(self, table: Table, account: str, day: date) -> bool:
        """Say whether a partition's file is the one that is recorded, and of today's schema; or there is neither."""
        found = self._backend.read(file_parts(table, account, day))
        record = self._state.partition(table.name, account, day)
        if found is None or record is None:
            return found is None and record is None
        is_same = hashlib.sha256(found[0]).hexdigest() == record.sha256
        return is_same and parquet.read_version(found[0]) == SCHEMA_VERSION

    def is_other_place(self, place: str, account: str, day: date) -> bool:
        """Say whether a file says of itself that it was written of another day, or of another account's inbox.

        An account is told by its page, for its name may change; where either does not say whose it is, nothing is known.
        """
        own, own_inbox = self._place_of(account, day).split(" ", 1)
        found, _, found_inbox = place.partition(" ")
        return bool(place) and (
            found != own or bool(found_inbox and own_inbox and found_inbox != own_inbox)
        )

    def _place_of(self, account: str, day: date) -> str:
        """Return what a partition's file says of where it belongs."""
        identity = self._state.identity(account) if account else None
        return f"{day} {identity.platform} {identity.page_id}" if identity else f"{day} "

    def is_unlisted(self, table: Table, account: str, day: date) -> bool:
        """Say whether a shared place did not list a partition when its days were last asked for."""
        return self._backend.is_shared and self._seen.get((table.name, account, day)) is None

    # the parts of a commit; whoever calls them holds the partition's lock

    def _agree(self, action: Callable[[], Result]) -> Result:
        """Do it; where another machine was first, do it again on top of what that one left."""
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
        parts: tuple[str, ...],
        content: bytes,
        rows: pa.Table,
        held: StoredPartition | None,
        record: Partition,
    ) -> None:
        def check(read_back: bytes, name: str) -> None:
            if read_back != content:
                raise CorruptError(f"{name} read back differs from what was written")
            parquet.check_written(table, rows, read_back, name)
            if held:
                self._state.save_intent(held.record, record.sha256)

        try:
            mark = self._backend.replace(parts, content, held.mark if held else None, check)
        except ConflictError:
            self._seen[record.table, record.account, record.date] = ""
            raise
        self._note(record, mark)

    def _remove(
        self, table: Table, account: str, day: date, held: StoredPartition | None
    ) -> Commit:
        empty = Partition(table.name, account, day, "", 0, 0)
        if held is None:
            return committed(empty, is_changed=False)
        self._state.save_intent(held.record, "")
        self._backend.remove(file_parts(table, account, day), held.mark)
        self._state.remove_partition(table.name, account, day)
        self._seen.pop((table.name, account, day), None)
        return committed(empty, is_changed=True)

    def _read_locked(self, table: Table, account: str, day: date) -> StoredPartition | None:
        with self._locks.partition(file_parts(table, account, day)):
            return self._agree(lambda: self._read_checked(table, account, day))

    def _read_checked(self, table: Table, account: str, day: date) -> StoredPartition | None:
        """Read a partition and make the state agree; a damaged file is set aside and named."""
        record = self._state.partition(table.name, account, day)
        try:
            held = self.read_file(table, account, day)
        except CorruptError as error:
            raise self._quarantine(table, account, day, str(error)) from None
        if held is None:
            self._seen.pop((table.name, account, day), None)
            self._settle_missing(table, account, day, record)
            return None
        if record is not None and held.record.sha256 not in (record.sha256, record.next_sha256):
            if held.mark.sha256 is None and not self._is_as_written(table, account, day):
                raise self._quarantine(table, account, day, "")
            self._doubt_other(table, held, record)
        if record != held.record or self._is_outdated(record):
            self._note(held.record, held.mark)
        return held

    def _note(self, record: Partition, mark: FileVersion) -> None:
        """Keep what a partition is; of a shared place also which version that was."""
        self._state.save_partition(record)
        if self._backend.is_shared:
            self._state.save_etag(record, mark.etag)
            self._seen[record.table, record.account, record.date] = mark.etag

    def _is_outdated(self, record: Partition) -> bool:
        """Say whether another machine changed the partition since it was recorded, as far as was seen."""
        key = (record.table, record.account, record.date)
        return key in self._seen and self._seen[key] != self._state.etag(record)

    def _settle_missing(
        self, table: Table, account: str, day: date, record: Partition | None
    ) -> None:
        if record is not None and self.forget_missing(record):
            location = self._backend.location(file_parts(table, account, day))
            raise CorruptError(
                f"{location} is missing although it held {record.row_count} rows: restore it, or run again"
            )

    def _is_as_written(self, table: Table, account: str, day: date) -> bool:
        found = self._backend.read(file_parts(table, account, day))
        return found is not None and parquet.is_as_written(table, found[0])

    def _doubt_other(self, table: Table, held: StoredPartition, record: Partition | None) -> None:
        """Doubt a raw file that is another than it was: a backup was put back, or the state is older than the file.

        In a shared place it is another machine's work, and in doubt only where rows are gone.
        """
        if (
            record is None
            or table.layer != "raw"
            or held.record.sha256 in (record.sha256, record.next_sha256)
        ):
            return
        if not self._backend.is_shared or held.record.row_count < record.row_count:
            self._doubt(table, record.account, record.date)

    def _doubt(self, table: Table, account: str, day: date) -> None:
        """Note that rows of a day may be gone that were held."""
        self._state.mark_suspect(
            table.name, account, day, "/".join(file_parts(table, account, day))
        )

    def _quarantine(self, table: Table, account: str, day: date, why: str) -> StoreError:
        """Set a damaged file aside, note it, and return the error that names it.

        One whose bytes are those that were written is not damaged, whatever kept us from reading it: it stays.
        """
        parts, record = (
            file_parts(table, account, day),
            self._state.partition(table.name, account, day),
        )
        content, mark = self._backend.read(parts) or (b"", FileVersion(0))
        digest = hashlib.sha256(content).hexdigest()
        if record is not None and digest == record.sha256:
            return StoreError(
                f"{why}, and yet its bytes are those that were written: it stays; try again"
            )
        name = set_aside_name(digest)
        self._state.mark_suspect(table.name, account, day, "/".join((*parts[:-1], name)))
        self._backend.set_aside(parts, name, mark)
        self._seen.pop((table.name, account, day), None)
        remedy = (
            "it is asked again by the next run"
            if table.layer == "raw"
            else "it is made again from the raw tables"
        )
        return CorruptError(
            f"{self._backend.location(parts)} is damaged and was set aside as {name}; {remedy}"
        )

    def _hash(self, table: Table, account: str, day: date) -> str | None:
        found = self._backend.read(file_parts(table, account, day))
        return hashlib.sha256(found[0]).hexdigest() if found else None

    def _exists(self, table: Table, account: str, day: date) -> bool:
        if self._backend.is_shared:
            return not self._is_absent(table, account, day)
        return self._backend.version(file_parts(table, account, day)) is not None

    def _is_absent(self, table: Table, account: str, day: date) -> bool:
        """Say whether a shared place has no such file, by state and listing: saves a request for each new file.

        A listing that is out of date does no harm: a write that expects nothing is refused where there is something.
        """
        if (
            not self._backend.is_shared
            or self._state.partition(table.name, account, day) is not None
        ):
            return False
        if (table.name, account) not in self._seen_folders:
            self.days(table, account)
        return self._seen.get((table.name, account, day)) is None


def committed(record: Partition, is_changed: bool) -> Commit:
    """Return what to say of a partition that is now this."""
    return Commit(
        record.table,
        record.account,
        record.date,
        record.row_count,
        record.byte_count,
        record.sha256,
        is_changed,
    )


def _describe(
    table: Table, account: str, day: date, content: bytes, row_count: int, source: str
) -> Partition:
    return Partition(
        table.name,
        account,
        day,
        hashlib.sha256(content).hexdigest(),
        row_count,
        len(content),
        source,
    )


def _as_written(record: Partition, mark: FileVersion) -> Partition:
    """Another machine's commit is to us one that is under way: the file may be what it wrote."""
    return record if record.sha256 == mark.sha256 else replace(record, next_sha256=mark.sha256)


def _newer(path: str, version: int) -> str:
    return (
        f"{path} was written by a newer convo-pipeline (schema version {version}, this one writes {SCHEMA_VERSION}):"
        " update before writing"
    )
