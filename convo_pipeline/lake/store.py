"""The lake's tables by account and day. Raw tables are merged, derived ones replaced."""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import ConflictError, StoreError
from convo_pipeline.lake import parquet
from convo_pipeline.lake.partitions import Commit, Partitions, StoredPartition, rows_of
from convo_pipeline.lake.segments import COMPACT
from convo_pipeline.schema import FORMER_TABLES, RAW, RUNS, TABLES, Table
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.access import open_database, open_locks, open_notes
from convo_pipeline.state.records import Partition
from convo_pipeline.state.state import State
from convo_pipeline.storage.backend import StorageBackend, remove_file, write_file, write_version
from convo_pipeline.storage.buckets import open_bucket
from convo_pipeline.storage.layout import (
    QUARANTINE,
    file_parts,
    folder_parts,
    is_lake_file,
    is_set_aside,
    read_account,
    read_date,
    table_of,
)
from convo_pipeline.storage.local import NEEDED_BYTES, STAGING, LocalFolder, staged_name
from convo_pipeline.tables.merge import merge

SHARED_STATE = ".shared-state"
"""Object in a bucket that tells where the state is: in PostgreSQL, or on which machine."""
IN_POSTGRESQL = b"postgresql\n"
STATE_ID = "state-id"
"""File in the state's folder with a random id."""
MACHINE_SEEN_FOR = timedelta(hours=1)
"""A machine that began a run so recently still uses the bucket."""
RENAMES = "rename"
"""Folder in the state's folder. It has a file `old.new` until a rename is finished."""
STALE_AFTER = timedelta(hours=1)
"""A staged file of this age has no writer any more."""


class Store:
    """The tables below one root, with their state."""

    def __init__(self, settings: StoreSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.backend = open_backend(settings)
        self.state_path = settings.state_path.absolute()
        self.state = State(open_database(settings))
        self.locks = open_locks(settings, self.state.database)
        self.notes = open_notes(settings, self.state.database)
        self.partitions = Partitions(self.backend, self.state, self.locks, clock)
        self._clock = clock
        if not self.backend.is_shared:
            self.rename_former_tables()

    @property
    def folder(self) -> LocalFolder:
        """The local folder of the tables; StoreError if they are in a bucket."""
        if not isinstance(self.backend, LocalFolder):
            raise StoreError(
                f"{self.backend.location()}: this works in a local folder only, not yet in a bucket"
            )
        return self.backend

    @property
    def root(self) -> Path:
        """The local folder's path."""
        return self.folder.root

    def close(self) -> None:
        """Close the state and the connections."""
        self.state.close()
        self.backend.close()

    def preflight(self, needed_bytes: int = NEEDED_BYTES) -> None:
        """Raise StoreError if the root or the state cannot be written or lacks space."""
        for backend in (self.backend, LocalFolder(self.state_path)):
            backend.check_writable(needed_bytes)
            backend.remove_stale_files(self._clock.now() - STALE_AFTER)
        self._check_state_is_shared()
        self.state.partition("", "", date.min)
        self.rename_former_tables()

    def _check_state_is_shared(self) -> None:
        """Refuse a local state where other machines use the bucket: its locks would not hold.

        An object in the bucket shows where the state is, and when a machine with a local state was
        last seen.
        """
        if not self.backend.is_shared:
            return
        mark = self.backend.read((SHARED_STATE,))
        content, version = (mark.content, mark.version) if mark else (b"", None)
        if self.locks.are_shared:
            new_content = IN_POSTGRESQL
        elif content == IN_POSTGRESQL:
            raise StoreError(
                f"{self.backend.location()} is used with a state in PostgreSQL: set state_url_env"
                " in [store] as on the other machines, or bring the state back by `convo-pipeline"
                " state move sqlite`"
            )
        else:
            new_content = self._mark_machine(content)
        if new_content != content:
            with suppress(ConflictError):  # another machine wrote it: the next run reads it
                write_version(self.backend, (SHARED_STATE,), new_content, version)

    def _mark_machine(self, content: bytes) -> bytes:
        """Return the mark of this machine; StoreError if another one was seen recently."""
        folder, now = LocalFolder(self.state_path), self._clock.now()
        own_id = folder.read_bytes([STATE_ID])
        if own_id is None:
            own_id = uuid.uuid4().hex.encode()
            write_file(folder, (STATE_ID,), own_id)
        other_id, _, seen_at = content.partition(b" ")
        with suppress(ValueError):
            age = now - datetime.fromisoformat(seen_at.decode("ascii", "replace"))
            if other_id != own_id and abs(age) < MACHINE_SEEN_FOR:
                raise StoreError(
                    f"{self.backend.location()} is used by another machine with a state of its own,"
                    f" last seen at {seen_at.decode()}: their locks and rate limits do not know"
                    " each other. Share one state (docs/scale.md), or give each machine its own"
                    " prefix. If that machine is gone, or its state_dir was lost, run"
                    " `convo-pipeline verify --rebuild-state`, or wait an hour"
                )
            if other_id == own_id and timedelta() <= age < MACHINE_SEEN_FOR / 6:
                return content
        return own_id + f" {now.astimezone(UTC).isoformat(timespec='seconds')}".encode()

    def release_bucket(self) -> None:
        """Forget the machine that used the bucket with a local state."""
        mark = self.backend.read((SHARED_STATE,)) if self.backend.is_shared else None
        if mark and mark.content != IN_POSTGRESQL:
            remove_file(self.backend, (SHARED_STATE,))

    def rename_former_tables(self) -> None:
        """Move the folders of tables that had another name in an earlier schema.

        In a bucket each object is copied, then deleted. An interrupted move is finished by the next
        call. The state renames its records itself.
        """
        for former_name, name in FORMER_TABLES.items():
            for folder in ((), (COMPACT,)):
                if former_name in self.backend.list_names(folder):
                    with self.locks.layout():
                        self._move_folder((*folder, former_name), (*folder, name))

    def _move_folder(self, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        """Rename a folder. Files that the new folder already has are not replaced."""
        if not self.backend.list_names(old):
            return
        with suppress(StoreError):  # both folders have files, for example after a partial restore
            self.backend.rename_folder(old, new[-1])
        for parts in list(self.backend.list_files(old)):
            target = (*new, *parts[len(old) :])
            file = self.backend.read(parts)
            if file and not self.backend.version(target):
                write_file(self.backend, target, file.content)
            remove_file(self.backend, parts)

    def read(self, table: str, account: str, day: date) -> pa.Table:
        """Return a partition's rows, sorted by key; an empty table if there is no file."""
        declared = table_of(table)
        return rows_of(declared, self.partitions.read(declared, account, day))

    def merge(self, table: str, account: str, day: date, incoming: pa.Table) -> Commit:
        """Merge rows into a raw partition. The file stays as it is if they add nothing."""
        declared = table_of(table)
        if declared.layer != "raw":
            raise StoreError(f"{table} is no raw table: replace it, do not merge into it")
        rows = parquet.conform(declared, incoming)

        def add(stored: StoredPartition | None) -> pa.Table:
            before = rows_of(declared, stored)
            after = merge(declared, before, rows)
            if after.num_rows < before.num_rows:
                raise StoreError(f"{table} of {account} on {day} would lose rows by a merge")
            return after

        return self.partitions.commit(declared, account, day, add)

    def upgrade_raw(self, account: str, day: date) -> None:
        """Write a day's raw files of an earlier schema in the current one.

        Raise CorruptError for a damaged or missing file.
        """
        for table in RAW:
            if not self.partitions.is_up_to_date(table, account, day):
                self.merge(table.name, account, day, table.schema.empty_table())

    def replace(
        self, table: str, account: str, day: date, content: pa.Table, source: str
    ) -> Commit:
        """Replace a derived partition's rows; no rows remove the file."""
        declared = table_of(table)
        if declared.layer in ("raw", "ledger"):
            raise StoreError(f"{table} is {declared.layer}: it is only ever merged")
        rows = parquet.sort(declared, parquet.conform(declared, content))
        return self.partitions.commit(declared, account, day, lambda stored: rows, source)

    def shrink(
        self, table: str, account: str, day: date, keep: Callable[[pa.Table], pa.Table]
    ) -> Commit:
        """Replace a partition's rows by those that `keep` returns.

        If that is the very table it was given, the file stays, even of an earlier schema.
        """
        declared = table_of(table)
        stored = self.partitions.read(declared, account, day)
        if stored is None:
            return Commit.of(Partition(table, account, day, "", 0, 0), is_changed=False)
        rows = rows_of(declared, stored)
        if keep(rows) is rows:
            return Commit.of(stored.record, is_changed=False)
        return self.partitions.commit(
            declared, account, day, lambda stored: keep(rows_of(declared, stored))
        )

    def drop(self, table: str, account: str, day: date) -> None:
        """Remove a partition, whatever its file contains."""
        self.partitions.drop(table_of(table), account, day)

    def days(self, table: str, account: str) -> list[date]:
        """Return the dates that have a file, sorted."""
        return self.partitions.days(table_of(table), account)

    def accounts(self, table: str) -> list[str]:
        """Return the accounts that have a folder in a table, sorted; removed ones too."""
        accounts = self.listed_accounts(table)
        if self.backend.is_shared:  # a listing can be out of date
            accounts |= {record.account for record in self.state.partitions(table=table)}
        return sorted(accounts)

    def listed_accounts(self, table: str) -> set[str]:
        """Return the accounts whose folder in a table is listed."""
        names = self.backend.list_names((table,))
        return {account for name in names if (account := read_account(name))}

    def raw_digest(self, account: str, day: date) -> str:
        """Return a digest of the day's raw files, to compare with the `source` of derived ones."""
        return digest_raw({t.name: self.partitions.record(t, account, day) for t in RAW})

    def source(self, table: str, account: str, day: date) -> str | None:
        """Return the digest that a derived partition was made from; None without a file."""
        record = self.partitions.record(table_of(table), account, day)
        return record.source if record else None

    def sources(self, table: str, account: str) -> dict[date, str]:
        """Return the `source` of each day that has a file."""
        listed = {table: self.days(table, account)}
        records = self.partitions.records(listed, account)
        return {day: records[table, day].source for day in listed[table] if (table, day) in records}

    def path(self, table: str, account: str, day: date) -> Path:
        """Return the path of a partition's file, whether it exists or not."""
        return self.root.joinpath(*file_parts(table_of(table), account, day))

    @contextmanager
    def lock_account(self, account: str, wait_seconds: float = 0) -> Iterator[None]:
        """Lock an account for an extraction; raise BusyError if another process holds the lock."""
        with self.locks.account(account, wait_seconds):
            self.check_name(account)
            yield

    @contextmanager
    def lock_derivation(self, account: str) -> Iterator[None]:
        """Lock shared by the derivation and the erasure of one account's rows."""
        with self.locks.derivation(account):
            self.check_name(account)
            yield

    def check_name(self, account: str, besides: str = "") -> None:
        """Raise StoreError if an unfinished rename, other than `besides`, involves the account."""
        for note in self.notes.names(RENAMES):
            names = note.split(".")
            if account in names and note != besides:
                raise StoreError(
                    f"a rename of {names[0]} was cut off: run"
                    f" `convo-pipeline rename {' '.join(names)}` again first"
                )

    def discard_staged(self, partitions: Iterable[Sequence[str]]) -> None:
        """Remove the staged files that killed writers of these files left."""
        if not isinstance(self.backend, LocalFolder):
            return
        staged = set(self.backend.list_names((STAGING,)))
        for parts in partitions if staged else ():
            if staged_name(parts) in staged:
                with self.locks.partition(parts):
                    self.backend.discard_staged(parts)

    def foreign_files(
        self, tables: Iterable[Table] = (*TABLES.values(), RUNS)
    ) -> list[tuple[str, ...]]:
        """Return the files in the tables' folders that are not of the lake."""
        files = (parts for table in tables for parts in self.backend.list_files((table.name,)))
        return [parts for parts in files if not is_lake_file(parts)]

    def set_aside_files(
        self, account: str | None = None, tables: Iterable[Table] = (*TABLES.values(), RUNS)
    ) -> Iterator[tuple[Table, str, date, tuple[str, ...]]]:
        """Yield (table, account, date, name) of damaged files that were set aside."""
        recorded: set[tuple[str, ...]] = set()
        if self.backend.is_shared:  # a listing can be out of date
            suspects = self.state.suspect_files(account)
            recorded = {tuple(suspect.path.split("/")) for suspect in suspects}
        for table in tables:
            for name in [""] if table is RUNS else self._accounts_with_folders(table.name):
                if account not in (None, name):
                    continue
                folder = folder_parts(table, name)
                # earlier versions left such a file in its table's folder
                for place in ((QUARANTINE, *folder), folder):
                    files = {parts for parts in recorded if parts[: len(place)] == place}
                    for parts in sorted(files.union(self.backend.list_files(place))):
                        if is_set_aside(parts[-1]) and (day := read_date(parts[-2])):
                            yield table, name, day, parts

    def remove_set_aside(self, parts: Sequence[str]) -> None:
        """Remove a damaged file that was set aside, and the folder of its day if it is empty."""
        remove_file(self.backend, tuple(parts))
        if isinstance(self.backend, LocalFolder) and parts[0] == QUARANTINE:
            self.backend.remove_empty_folders(tuple(parts[1:-1]))

    def _accounts_with_folders(self, table: str) -> list[str]:
        """Return the accounts that have data files or damaged files of a table, sorted."""
        names = map(read_account, self.backend.list_names((QUARANTINE, table)))
        return sorted({*self.accounts(table), *filter(None, names)})

    def data_files(
        self, on_error: Callable[[str, StoreError], None] | None = None
    ) -> Iterator[tuple[Table, str, date]]:
        """Yield (table, account, date) of every data file; the ledger's account is empty.

        `on_error` gets the name of a folder that cannot be listed, and the error; without it the
        error is raised.
        """
        for table in (*TABLES.values(), RUNS):
            try:
                accounts = [""] if table is RUNS else self.accounts(table.name)
            except StoreError as error:
                if on_error is None:
                    raise
                on_error(table.name, error)
                continue
            for account in accounts:
                try:
                    days = self.partitions.days(table, account)
                except StoreError as error:
                    if on_error is None:
                        raise
                    on_error("/".join(folder_parts(table, account)), error)
                    continue
                yield from ((table, account, day) for day in days)


def open_backend(settings: StoreSettings) -> StorageBackend:
    """Return the backend of the tables, without a request to it."""
    if not settings.is_remote:
        return LocalFolder(Path(settings.root))
    return open_bucket(settings.root, settings.endpoint_url)


def digest_raw(records: Mapping[str, Partition | None]) -> str:
    """Return the digest of a day's raw files from their records by table."""
    digest = hashlib.sha256()
    for table in RAW:
        record = records.get(table.name)
        digest.update(f"{table.name}:{record.sha256 if record else ''}\n".encode())
    return digest.hexdigest()
