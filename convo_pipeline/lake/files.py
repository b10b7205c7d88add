"""The lake in a local folder: raw tables are merged, derived ones replaced; there is no third way to write.

`<root>/<table>/account=<name>/date=YYYY-MM-DD/data.parquet` is the old file or the new one, never a mix, whatever
happens to the process or the disk. A commit: lock, read, check against `state.db`, merge or take, sort, stage, sync,
read back, note the intent, replace, sync the folder, record. It knows no API.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, timedelta
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from filelock import FileLock, Timeout

from convo_pipeline.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import BusyError, ConflictError, CorruptError, SchemaError, StoreError
from convo_pipeline.lake import ledger, parquet
from convo_pipeline.lake.folder import NEEDED_BYTES, PRIVATE_FILE, Folder, make_private_folders, refusal, staged_name
from convo_pipeline.lake.place import Mark, Place, remove_file
from convo_pipeline.lake.state import STATE_FILE, Partition, Run, State
from convo_pipeline.schema import RAW, RUNS, SCHEMA_VERSION, TABLES, Table
from convo_pipeline.settings import StoreSettings
from convo_pipeline.tables.merge import merge

DATA_FILE = "data.parquet"
LOCK_COUNT = 256
"""Partitions share this many lock files; a commit holds one at a time, so there is no deadlock."""
ABANDONED_AFTER = timedelta(hours=1)
"""A staged file this old has no writer any more."""
POLL_SECONDS = 0.003
CONFLICT_TRIES = 20
"""How often a commit is made anew because another machine was first; of those who collide, one always gets through."""
MOST_CONFLICT_SECONDS = 2.0
_ACCOUNT = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DATE_FOLDER = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
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
class Held:
    """A partition's file as it was read, and what it hashed to."""

    content: parquet.FileContent
    record: Partition
    mark: Mark


class Store:
    """The tables below one root and the state beside them."""

    def __init__(self, settings: StoreSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.place = open_place(settings)
        self.state_path = settings.state_path.absolute()
        self.conflict_count = 0
        """How often another writer was first and a commit was made anew."""
        self._clock = clock
        self._listed: dict[tuple[str, str, date], str | None] = {}
        self._listed_folders: set[tuple[str, str]] = set()

    @property
    def folder(self) -> Folder:
        """The local folder of the tables; a StoreError says that they are in a bucket."""
        if not isinstance(self.place, Folder):
            raise StoreError(f"{self.place.location()}: this works in a local folder only, not yet in a bucket")
        return self.place

    @property
    def root(self) -> Path:
        """The local folder's path."""
        return self.folder.root

    @cached_property
    def state(self) -> State:
        """What is known besides the rows."""
        return State(self.state_path / STATE_FILE)

    def close(self) -> None:
        """Close the state's database."""
        self.state.close()
        self.place.close()

    def preflight(self, needed_bytes: int = NEEDED_BYTES) -> None:
        """Raise a StoreError, before any work is done, if root or state cannot be written or lack room."""
        self.place.check_writable(needed_bytes)
        self.place.sweep(self._clock.now() - ABANDONED_AFTER)
        Folder(self.state_path).check_writable(NEEDED_BYTES if self.place.is_shared else 0)
        self.state.partition("", "", date.min)

    def read(self, table: str, account: str, day: date) -> pa.Table:
        """Return a partition's rows, sorted by key; an empty table of the schema if there is no file."""
        declared = _declared(table)
        held = self._read_settled(declared, account, day)
        return held.content.fitting_rows() if held else declared.schema.empty_table()

    def merge(self, table: str, account: str, day: date, incoming: pa.Table) -> Commit:
        """Merge rows into a raw partition; a rerun that learns nothing leaves the file untouched."""
        declared = _declared(table)
        if declared.layer != "raw":
            raise StoreError(f"{table} is derived: replace it, do not merge into it")
        rows = parquet.conform(declared, incoming)

        def grow(held: Held | None) -> pa.Table:
            before = held.content.fitting_rows() if held else declared.schema.empty_table()
            after = merge(declared, before, rows)
            if after.num_rows < before.num_rows:
                raise StoreError(f"{table} of {account} on {day} would lose rows by a merge")
            return after

        return self._commit(declared, account, day, grow, "")

    def replace(self, table: str, account: str, day: date, content: pa.Table, source: str) -> Commit:
        """Replace a derived partition by its new content; empty content removes the file."""
        declared = _declared(table)
        if declared.layer in ("raw", "ledger"):
            raise StoreError(f"{table} is {declared.layer}: it is only ever merged")
        rows = parquet.sort(declared, parquet.conform(declared, content))
        return self._commit(declared, account, day, lambda held: rows, source)

    def shrink(self, table: str, account: str, day: date, keep: Callable[[pa.Table], pa.Table]) -> Commit:
        """Leave in a partition what `keep` returns: how a person's rows go for good.

        Where `keep` returns the very rows it was given, the file stays as it is, whatever version wrote it.
        """
        declared = _declared(table)
        held = self._read_settled(declared, account, day)
        if held is None:
            return _committed(Partition(table, account, day, "", 0, 0), is_changed=False)
        rows = held.content.fitting_rows()
        if keep(rows) is rows:
            return _committed(held.record, is_changed=False)
        empty = declared.schema.empty_table()
        return self._commit(
            declared, account, day, lambda held: keep(held.content.fitting_rows()) if held else empty, ""
        )

    def drop(self, table: str, account: str, day: date) -> None:
        """Remove a partition for good, whatever its file holds: how rows go that are older than they may be."""
        declared = RUNS if table == RUNS.name else _declared(table)
        parts = _parts(declared, account, day)
        with self._lock_partition(parts):
            record = self.state.partition(table, account, day)
            if record:
                self.state.intend(record, "")
            self._agree(lambda: remove_file(self.place, parts))
            self.state.remove_partition(table, account, day)
            self._listed.pop((table, account, day), None)

    def days(self, table: str, account: str) -> list[date]:
        """Return the dates that have a file, sorted."""
        return self._days(_declared(table), account)

    def accounts(self, table: str) -> list[str]:
        """Return the accounts that have a folder in a table, sorted; removed ones too."""
        names = (name.removeprefix("account=") for name in self.place.names((table,)) if name.startswith("account="))
        return sorted(name for name in names if _ACCOUNT.fullmatch(name))

    def raw_digest(self, account: str, day: date) -> str:
        """Return the digest of the day's raw files: derived partitions made from it are up to date."""
        digest = hashlib.sha256()
        for table in RAW:
            record = self._record(table, account, day)
            digest.update(f"{table.name}:{record.sha256 if record else ''}\n".encode())
        return digest.hexdigest()

    def source(self, table: str, account: str, day: date) -> str | None:
        """Return the digest a derived partition was made from, None if there is no file."""
        record = self._record(_declared(table), account, day)
        return record.source if record else None

    def path(self, table: str, account: str, day: date) -> Path:
        """Return where a partition's file is or would be."""
        return self.root.joinpath(*_parts(_declared(table), account, day))

    @contextmanager
    def lock_account(self, account: str, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the account's extract lock; a BusyError says that another process has it."""
        with self._lock(f"account-{check_account(account)}", wait_seconds):
            yield

    @contextmanager
    def lock_derivation(self, account: str) -> Iterator[None]:
        """Hold what stands between whoever copies an account's rows into other files and whoever erases them."""
        with self._lock(f"derive-{check_account(account)}", -1):
            yield

    def discard_staged(self, partitions: Iterable[Sequence[str]]) -> None:
        """Remove what killed writers of these partitions left staged."""
        if not isinstance(self.place, Folder):
            return
        staged = set(self.folder.staged_names())
        for parts in partitions:
            if staged_name(parts) in staged:
                with self._lock_partition(parts):
                    self.folder.discard_staged(parts)

    def foreign_files(self) -> list[tuple[str, ...]]:
        """Return what lies in the tables' folders and is not ours, as parts: never read, never deleted."""
        tables = [name for name in (*TABLES, RUNS.name) if name in self.place.names()]
        found = (parts for table in tables for parts in self.place.files((table,)))
        return [parts for parts in found if not _is_ours(parts)]

    def data_files(self) -> Iterator[tuple[Table, str, date]]:
        """Yield (table, account, date) of every file of the lake; the ledger's account is empty."""
        for table in (*TABLES.values(), RUNS):
            for account in [""] if table is RUNS else self.accounts(table.name):
                yield from ((table, account, day) for day in self._days(table, account))

    def export_runs(self, run_id: str) -> list[Commit]:
        """Write a run's lines into the ledger's Parquet files, beside those already there."""
        runs = self.state.runs(run_id=run_id)
        days = sorted({run.started_at.astimezone(UTC).date() for run in runs})
        return [self._export_day(day, [r for r in runs if r.started_at.astimezone(UTC).date() == day]) for day in days]

    def rebuild_state(self) -> None:
        """Derive partitions, identities, placements and runs again from the files, after a lost or restored state."""
        ledger.rebuild(self)

    def read_file(self, table: Table, account: str, day: date) -> Held | None:
        """Read a partition as it is on disk, whatever the state says of it; a CorruptError names the file."""
        found = self.place.read_marked(_parts(table, account, day))
        return self._open(table, account, day, *found) if found else None

    def _open(self, table: Table, account: str, day: date, content: bytes, mark: Mark) -> Held:
        location = self.place.location(_parts(table, account, day))
        decoded = parquet.decode(table, content, location)
        record = _describe(table, account, day, content, decoded.row_count, decoded.source)
        if mark.sha256 not in (None, record.sha256):
            raise CorruptError(f"{location} is damaged: its bytes are not those that were written")
        return Held(decoded, record, mark)

    def adopt(self, table: str, account: str, day: date) -> Held | None:
        """Take a partition's file as it is on disk for the truth; None if there is none or it cannot be read."""
        declared = RUNS if table == RUNS.name else _declared(table)
        with self._lock_partition(_parts(declared, account, day)):
            try:
                held = self.read_file(declared, account, day)
            except CorruptError:
                return None
            if held:
                self.state.record(held.record)
            return held

    def inspect(self, table: Table, account: str, day: date) -> tuple[bytes | None, Partition | None]:
        """Return a partition's bytes and its record as they are, with no commit under way; changes nothing."""
        parts = _parts(table, account, day)
        with self._lock_partition(parts):
            content, mark = self.place.read_marked(parts) or (None, None)
            record = self.state.partition(table.name, account, day)
        if content is not None and mark and mark.sha256 == hashlib.sha256(content).hexdigest():
            record = _as_written(record or Partition(table.name, account, day, "", 0, 0), mark)
        return content, record

    def measure(self, table: Table, account: str, day: date) -> tuple[int | None, Partition | None]:
        """Return the size of a partition's file without reading it, and its record as `inspect` does."""
        mark = self.place.mark(_parts(table, account, day))
        record = self.state.partition(table.name, account, day)
        if mark and mark.sha256:
            record = _as_written(record or Partition(table.name, account, day, "", 0, 0), mark)
        return (mark.byte_count if mark else None), record

    def look_again(self, account: str, day: date) -> None:
        """Learn what other machines made of the day's raw files since they were read."""
        for table in RAW if self.place.is_shared else ():
            mark = self.place.mark(_parts(table, account, day))
            self._listed[table.name, account, day] = mark.tag if mark else None

    def rename_in_ledger(self, old: str, new: str) -> None:
        """Give an account's lines in the ledger's files its new name."""
        self.change_runs(lambda rows: ledger.rename_account(rows, old, new))

    def change_runs(self, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change the lines of the ledger's files; a file of which nothing changes is left untouched."""
        for table, _, day in list(self.data_files()):
            if table is RUNS:
                self._change_ledger(day, change)

    def _export_day(self, day: date, runs: Sequence[Run]) -> Commit:
        return self._change_ledger(day, lambda rows: ledger.add_runs(rows, runs))

    def _change_ledger(self, day: date, change: Callable[[pa.Table], pa.Table]) -> Commit:
        def make(held: Held | None) -> pa.Table:
            return change(held.content.fitting_rows() if held else RUNS.schema.empty_table())

        return self._commit(RUNS, "", day, make, "")

    def _commit(
        self, table: Table, account: str, day: date, make: Callable[[Held | None], pa.Table], source: str
    ) -> Commit:
        parts = _parts(table, account, day)

        def commit() -> Commit:
            held = None if self._is_absent(table, account, day) else self._read_checked(table, account, day)
            if held and held.content.version > SCHEMA_VERSION:
                raise SchemaError(_newer(self.place.location(parts), held.content.version))
            rows = make(held)
            if held and rows is held.content.rows and held.content.version == SCHEMA_VERSION:
                return _committed(held.record, is_changed=False)
            if rows.num_rows == 0:
                return self._remove(table, account, day, held)
            content = parquet.encode(table, rows, source)
            record = _describe(table, account, day, content, rows.num_rows, source)
            if held and held.record.sha256 == record.sha256:
                return _committed(held.record, is_changed=False)
            self._publish(table, parts, content, rows, held, record)
            return _committed(record, is_changed=True)

        with self._lock_partition(parts):
            return self._agree(commit)

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
        self, table: Table, parts: tuple[str, ...], content: bytes, rows: pa.Table, held: Held | None, record: Partition
    ) -> None:
        def check(read_back: bytes, name: str) -> None:
            if read_back != content:
                raise CorruptError(f"{name} read back differs from what was written")
            parquet.check_written(table, rows, read_back, name)
            if held:
                self.state.intend(held.record, record.sha256)

        try:
            mark = self.place.replace(parts, content, held.mark if held else None, check)
        except ConflictError:
            self._listed[record.table, record.account, record.date] = ""
            raise
        self._note(record, mark)

    def _remove(self, table: Table, account: str, day: date, held: Held | None) -> Commit:
        empty = Partition(table.name, account, day, "", 0, 0)
        if held is None:
            return _committed(empty, is_changed=False)
        self.state.intend(held.record, "")
        self.place.remove(_parts(table, account, day), held.mark)
        self.state.remove_partition(table.name, account, day)
        self._listed.pop((table.name, account, day), None)
        return _committed(empty, is_changed=True)

    def _read_settled(self, table: Table, account: str, day: date) -> Held | None:
        """Read without a lock; look again under the lock if the file is not what the state says."""
        try:
            held, record = self.read_file(table, account, day), self.state.partition(table.name, account, day)
            if (held.record if held else None) == record:
                return held
        except CorruptError:
            pass
        return self._read_locked(table, account, day)

    def _read_locked(self, table: Table, account: str, day: date) -> Held | None:
        with self._lock_partition(_parts(table, account, day)):
            return self._agree(lambda: self._read_checked(table, account, day))

    def _record(self, table: Table, account: str, day: date) -> Partition | None:
        """Return what a partition is; a commit that was cut off is settled first."""
        record = self.state.partition(table.name, account, day)
        if record is None and not self._exists(table, account, day):
            return None
        if record is not None and record.next_sha256 is None and not self._is_outdated(record):
            return record
        held = self._read_locked(table, account, day)
        return held.record if held else None

    def _read_checked(self, table: Table, account: str, day: date) -> Held | None:
        """Read a partition under its lock and make the state agree; a damaged file is set aside and named."""
        record = self.state.partition(table.name, account, day)
        try:
            held = self.read_file(table, account, day)
        except CorruptError:
            raise self._quarantine(table, account, day) from None
        if held is None:
            self._listed.pop((table.name, account, day), None)
            self._settle_missing(table, account, day, record)
            return None
        if record is not None and held.record.sha256 not in (record.sha256, record.next_sha256):
            if held.mark.sha256 is None:
                raise self._quarantine(table, account, day)
            if table.layer == "raw" and held.record.row_count < record.row_count:
                self.state.reopen(account)
        if record != held.record or self._is_outdated(record):
            self._note(held.record, held.mark)
        return held

    def _note(self, record: Partition, mark: Mark) -> None:
        """Keep what a partition is; of a shared place also which version that was."""
        self.state.record(record)
        if self.place.is_shared:
            self.state.save_tag(record, mark.tag)
            self._listed[record.table, record.account, record.date] = mark.tag

    def _is_outdated(self, record: Partition) -> bool:
        """Say whether another machine changed the partition since it was recorded, as far as was seen."""
        key = (record.table, record.account, record.date)
        return key in self._listed and self._listed[key] != self.state.tag(record)

    def _settle_missing(self, table: Table, account: str, day: date, record: Partition | None) -> None:
        if record is None:
            return
        is_lost = record.next_sha256 != "" and table.layer == "raw"
        self.state.remove_partition(table.name, account, day, is_lost)
        if is_lost:
            location = self.place.location(_parts(table, account, day))
            raise StoreError(
                f"{location} is missing although it held {record.row_count} rows: restore it, or run again"
            )

    def _quarantine(self, table: Table, account: str, day: date) -> CorruptError:
        """Set a damaged file aside, note it, and return the error that names it."""
        parts = _parts(table, account, day)
        content, mark = self.place.read_marked(parts) or (b"", Mark(0))
        name = f"{DATA_FILE}.corrupt-{hashlib.sha256(content).hexdigest()[:8]}"
        self.state.add_quarantine(table.name, account, day, "/".join((*parts[:-1], name)))
        self.place.set_aside(parts, name, mark)
        self._listed.pop((table.name, account, day), None)
        remedy = "it is asked again by the next run" if table.layer == "raw" else "it is made again from the raw tables"
        return CorruptError(f"{self.place.location(parts)} is damaged and was set aside as {name}; {remedy}")

    def _days(self, table: Table, account: str) -> list[date]:
        """Return the dates that have a file; of a shared place, those that are recorded and those that are listed."""
        holders = self.place.holders(_folder_parts(table, account), DATA_FILE)
        marks = {day: mark for name, mark in holders.items() if (day := _read_date(name))}
        if not self.place.is_shared:
            return sorted(marks)
        records = [each for each in self.state.partitions(account) if each.table == table.name]
        known = {each.date for each in records if each.next_sha256 != ""}
        self._listed_folders.add((table.name, account))
        for day in known | marks.keys():
            self._listed[table.name, account, day] = marks[day].tag if day in marks else None
        return sorted(known | marks.keys())

    def _exists(self, table: Table, account: str, day: date) -> bool:
        if self.place.is_shared:
            return not self._is_absent(table, account, day)
        return self.place.mark(_parts(table, account, day)) is not None

    def _is_absent(self, table: Table, account: str, day: date) -> bool:
        """Say whether a shared place has no such file, by state and listing: saves a request for each new file.

        A listing that is out of date does no harm: a write that expects nothing is refused where there is something.
        """
        if not self.place.is_shared or self.state.partition(table.name, account, day) is not None:
            return False
        if (table.name, account) not in self._listed_folders:
            self._days(table, account)
        return self._listed.get((table.name, account, day)) is None

    @contextmanager
    def _lock_partition(self, parts: Sequence[str]) -> Iterator[None]:
        stripe = hashlib.sha256("/".join(parts).encode()).digest()[0] % LOCK_COUNT
        with self._lock(f"partition-{stripe:02x}", -1):
            yield

    @contextmanager
    def _lock(self, name: str, wait_seconds: float) -> Iterator[None]:
        path = self.state_path / "locks" / f"{name}.lock"
        lock = FileLock(path, mode=PRIVATE_FILE)
        try:
            make_private_folders(path.parent)
            lock.acquire(timeout=wait_seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            raise BusyError(f"{name.replace('-', ' ', 1)} is busy: another process holds {path}") from None
        except OSError as error:
            raise refusal(path, "lock", error) from None
        try:
            yield
        finally:
            lock.release()


def open_place(settings: StoreSettings) -> Place:
    """Return the place of the tables; nothing is asked of it yet."""
    if not settings.is_remote:
        return Folder(Path(settings.root))
    from convo_pipeline.lake.s3 import Bucket

    return Bucket(settings.root, settings.endpoint_url)


def _declared(table: str) -> Table:
    if table not in TABLES:
        raise StoreError(f"unknown table {table!r}; the tables are: {', '.join(TABLES)}")
    return TABLES[table]


def check_account(account: str) -> str:
    """Return the name if no reader can take it for a number or a path, else raise a StoreError."""
    if not _ACCOUNT.fullmatch(account):
        raise StoreError(f"{account!r} is no account name: lower-case letters, digits, _ and -, a letter first")
    return account


def _folder_parts(table: Table, account: str) -> tuple[str, ...]:
    return (table.name,) if table.layer == "ledger" else (table.name, f"account={check_account(account)}")


def _parts(table: Table, account: str, day: date) -> tuple[str, ...]:
    if type(day) is not date:
        raise StoreError(f"{day!r} is no date")
    return (*_folder_parts(table, account), f"date={day}", DATA_FILE)


def _read_date(name: str) -> date | None:
    match = _DATE_FOLDER.fullmatch(name)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def _is_ours(parts: tuple[str, ...]) -> bool:
    """Say whether this is the path of a data file, or of one that was set aside."""
    table = RUNS if parts[0] == RUNS.name else TABLES[parts[0]]
    *folders, name = parts[1:]
    if table is not RUNS:
        account = folders.pop(0) if folders else ""
        if not account.startswith("account=") or not _ACCOUNT.fullmatch(account.removeprefix("account=")):
            return False
    is_name_ours = name == DATA_FILE or re.fullmatch(rf"{DATA_FILE}\.corrupt-[0-9a-f]{{8}}", name) is not None
    return len(folders) == 1 and _read_date(folders[0]) is not None and is_name_ours


def _describe(table: Table, account: str, day: date, content: bytes, row_count: int, source: str) -> Partition:
    return Partition(table.name, account, day, hashlib.sha256(content).hexdigest(), row_count, len(content), source)


def _committed(record: Partition, is_changed: bool) -> Commit:
    return Commit(
        record.table, record.account, record.date, record.row_count, record.byte_count, record.sha256, is_changed
    )


def _as_written(record: Partition, mark: Mark) -> Partition:
    """Another machine's commit is to us one that is under way: the file may be what it wrote."""
    return record if record.sha256 == mark.sha256 else replace(record, next_sha256=mark.sha256)


def _newer(path: str, version: int) -> str:
    return (
        f"{path} was written by a newer convo-pipeline (schema version {version}, this one writes {SCHEMA_VERSION}):"
        " update before writing"
    )
