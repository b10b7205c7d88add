"""The lake's tables by account and day: raw ones are merged, derived ones replaced; there is no third way to write.

Where the files lie is `layout`, how one becomes the next `partitions`, who waits for whom `locks`. It knows no API.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import StoreError
from convo_pipeline.lake import parquet
from convo_pipeline.lake.partitions import Commit, Partitions, StoredPartition, committed
from convo_pipeline.schema import RAW, RUNS, TABLES, Table
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.database import STATE_FILE
from convo_pipeline.state.records import Partition
from convo_pipeline.state.state import State
from convo_pipeline.storage.backend import StorageBackend
from convo_pipeline.storage.layout import (
    file_parts,
    folder_parts,
    is_lake_file,
    is_set_aside,
    read_account,
    read_date,
    table_of,
)
from convo_pipeline.storage.local import NEEDED_BYTES, STAGING, LocalFolder, staged_name
from convo_pipeline.storage.locks import Locks
from convo_pipeline.tables.merge import merge

RENAMES = "rename"
"""A note in the state's folder, `old.new`, while a rename is under way: until its end neither name is whole."""
ABANDONED_AFTER = timedelta(hours=1)
"""A staged file this old has no writer any more."""


class Store:
    """The tables below one root and the state beside them."""

    def __init__(self, settings: StoreSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.backend = open_backend(settings)
        self.state_path = settings.state_path.absolute()
        self.state = State(self.state_path / STATE_FILE)
        self.locks = Locks(self.state_path / "locks")
        self.partitions = Partitions(self.backend, self.state, self.locks, clock)
        self._clock = clock

    @property
    def folder(self) -> LocalFolder:
        """The local folder of the tables; a StoreError says that they are in a bucket."""
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
        """Close the state's database."""
        self.state.close()
        self.backend.close()

    def preflight(self, needed_bytes: int = NEEDED_BYTES) -> None:
        """Raise a StoreError, before any work is done, if root or state cannot be written or lack room."""
        for place in (self.backend, LocalFolder(self.state_path)):
            place.check_writable(needed_bytes)
            place.remove_stale_files(self._clock.now() - ABANDONED_AFTER)
        self.state.partition("", "", date.min)

    def read(self, table: str, account: str, day: date) -> pa.Table:
        """Return a partition's rows, sorted by key; an empty table of the schema if there is no file."""
        declared = table_of(table)
        held = self.partitions.read(declared, account, day)
        return held.content.fitting_rows() if held else declared.schema.empty_table()

    def merge(self, table: str, account: str, day: date, incoming: pa.Table) -> Commit:
        """Merge rows into a raw partition; a rerun that learns nothing leaves the file untouched."""
        declared = table_of(table)
        if declared.layer != "raw":
            raise StoreError(f"{table} is no raw table: replace it, do not merge into it")
        rows = parquet.conform(declared, incoming)

        def grow(held: StoredPartition | None) -> pa.Table:
            before = held.content.fitting_rows() if held else declared.schema.empty_table()
            after = merge(declared, before, rows)
            if after.num_rows < before.num_rows:
                raise StoreError(f"{table} of {account} on {day} would lose rows by a merge")
            return after

        return self.partitions.commit(declared, account, day, grow)

    def upgrade_raw(self, account: str, day: date) -> None:
        """Write a day's raw files of an earlier schema in today's; a CorruptError names one that is damaged or gone."""
        for table in RAW:
            if not self.partitions.is_up_to_date(table, account, day):
                self.merge(table.name, account, day, table.schema.empty_table())

    def replace(
        self, table: str, account: str, day: date, content: pa.Table, source: str
    ) -> Commit:
        """Replace a derived partition by its new content; empty content removes the file."""
        declared = table_of(table)
        if declared.layer in ("raw", "ledger"):
            raise StoreError(f"{table} is {declared.layer}: it is only ever merged")
        rows = parquet.sort(declared, parquet.conform(declared, content))
        return self.partitions.commit(declared, account, day, lambda held: rows, source)

    def shrink(
        self, table: str, account: str, day: date, keep: Callable[[pa.Table], pa.Table]
    ) -> Commit:
        """Leave in a partition what `keep` returns: how a person's rows go for good.

        Where `keep` returns the very rows it was given, the file stays as it is, whatever version wrote it.
        """
        declared = table_of(table)
        held = self.partitions.read(declared, account, day)
        if held is None:
            return committed(Partition(table, account, day, "", 0, 0), is_changed=False)
        rows = held.content.fitting_rows()
        if keep(rows) is rows:
            return committed(held.record, is_changed=False)
        empty = declared.schema.empty_table()
        return self.partitions.commit(
            declared,
            account,
            day,
            lambda held: keep(held.content.fitting_rows()) if held else empty,
        )

    def drop(self, table: str, account: str, day: date) -> None:
        """Remove a partition for good, whatever its file holds: how rows go that are older than they may be."""
        self.partitions.drop(table_of(table), account, day)

    def days(self, table: str, account: str) -> list[date]:
        """Return the dates that have a file, sorted."""
        return self.partitions.days(table_of(table), account)

    def accounts(self, table: str) -> list[str]:
        """Return the accounts that have a folder in a table, sorted; removed ones too."""
        found = self.listed_accounts(table)
        if self.backend.is_shared:  # a listing may be from before
            found |= {record.account for record in self.state.partitions(table=table)}
        return sorted(found)

    def listed_accounts(self, table: str) -> set[str]:
        """Return the accounts of which the table lists a folder."""
        return {
            account for name in self.backend.list_names((table,)) if (account := read_account(name))
        }

    def raw_digest(self, account: str, day: date) -> str:
        """Return the digest of the day's raw files: derived partitions made from it are up to date."""
        digest = hashlib.sha256()
        for table in RAW:
            record = self.partitions.record(table, account, day)
            digest.update(f"{table.name}:{record.sha256 if record else ''}\n".encode())
        return digest.hexdigest()

    def source(self, table: str, account: str, day: date) -> str | None:
        """Return the digest a derived partition was made from, None if there is no file."""
        record = self.partitions.record(table_of(table), account, day)
        return record.source if record else None

    def path(self, table: str, account: str, day: date) -> Path:
        """Return where a partition's file is or would be."""
        return self.root.joinpath(*file_parts(table_of(table), account, day))

    @contextmanager
    def lock_account(self, account: str, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the account's extract lock; a BusyError says that another process has it."""
        with self.locks.account(account, wait_seconds):
            self.check_name(account)
            yield

    @contextmanager
    def lock_derivation(self, account: str) -> Iterator[None]:
        """Hold what stands between whoever copies an account's rows into other files and whoever erases them."""
        with self.locks.derivation(account):
            self.check_name(account)
            yield

    def check_name(self, account: str, besides: str = "") -> None:
        """Raise a StoreError if the account is half under another name, by another rename than the one `besides`."""
        for note in LocalFolder(self.state_path).list_names((RENAMES,)):
            names = note.split(".")
            if account in names and note != besides:
                raise StoreError(
                    f"a rename of {names[0]} was cut off: run `convo-pipeline rename {' '.join(names)}` again first"
                )

    def discard_staged(self, partitions: Iterable[Sequence[str]]) -> None:
        """Remove what killed writers of these partitions left staged."""
        if not isinstance(self.backend, LocalFolder):
            return
        staged = set(self.folder.list_names((STAGING,)))
        for parts in partitions if staged else ():
            if staged_name(parts) in staged:
                with self.locks.partition(parts):
                    self.folder.discard_staged(parts)

    def foreign_files(self) -> list[tuple[str, ...]]:
        """Return what lies in the tables' folders and is not ours, as parts: never read, never deleted."""
        tables = [name for name in (*TABLES, RUNS.name) if name in self.backend.list_names()]
        found = (parts for table in tables for parts in self.backend.list_files((table,)))
        return [parts for parts in found if not is_lake_file(parts)]

    def set_aside_files(
        self, account: str | None = None
    ) -> Iterator[tuple[Table, str, date, tuple[str, ...]]]:
        """Yield (table, account, date, parts) of every damaged file that was set aside, of one account or of all."""
        noted: set[tuple[str, ...]] = set()
        if self.backend.is_shared:  # a listing may be from before
            noted = {tuple(path.split("/")) for *_, path in self.state.suspect_files(account)}
        for table in (*TABLES.values(), RUNS):
            for name in [""] if table is RUNS else self.accounts(table.name):
                if account in (None, name):
                    folder = folder_parts(table, name)
                    known = {parts for parts in noted if parts[: len(folder)] == folder}
                    for parts in sorted(known.union(self.backend.list_files(folder))):
                        if is_set_aside(parts[-1]) and (day := read_date(parts[-2])):
                            yield table, name, day, parts

    def data_files(self) -> Iterator[tuple[Table, str, date]]:
        """Yield (table, account, date) of every file of the lake; the ledger's account is empty."""
        for table in (*TABLES.values(), RUNS):
            for account in [""] if table is RUNS else self.accounts(table.name):
                yield from ((table, account, day) for day in self.partitions.days(table, account))


def open_backend(settings: StoreSettings) -> StorageBackend:
    """Return the place of the tables; nothing is asked of it yet."""
    if not settings.is_remote:
        return LocalFolder(Path(settings.root))
    from convo_pipeline.storage.s3 import S3Bucket

    return S3Bucket(settings.root, settings.endpoint_url)
