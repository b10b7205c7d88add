"""The state's database in SQLite: file `state.db` in WAL mode, and a reader of its compactions.

`state/postgres.py` is the same in PostgreSQL. Both run the same SQL, with `?` for values.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from convo_pipeline.errors import StoreError
from convo_pipeline.schema import FORMER_TABLES
from convo_pipeline.state.records import Compaction
from convo_pipeline.state.state_schema import STATE_VERSION, sqlite_schema
from convo_pipeline.storage.local import (
    PRIVATE_FILE,
    SAFE_OPEN,
    check_is_file,
    make_private_folders,
    storage_error,
)

STATE_FILE = "state.db"
WAIT_SECONDS = 60.0
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
REMEDY = (
    "; move it away with its -wal and -shm, and run `convo-pipeline verify --rebuild-state`: it is"
    " made anew from the files"
)
COMPACTIONS_SQL = """
SELECT table_name, account, month, source, day_count, byte_count FROM compactions
"""


class Rows(Protocol):
    """Result of a statement."""

    @property
    def rowcount(self) -> int:
        """Number of rows that the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""


class Transaction(Protocol):
    """An open write transaction."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each row of values."""


class Database(Protocol):
    """The state's tables in SQLite or PostgreSQL. Many threads can use it.

    `lock` is held while the connection is used. `location` holds no password.
    """

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Lock of this process for the connection."""

    @property
    def location(self) -> str:
        """Path or address, for errors."""

    def close(self) -> None:
        """Close the database; the next use opens it again."""

    def select(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""

    def transaction(self, is_durable: bool = True) -> AbstractContextManager[Transaction]:
        """Run one write transaction. A durable one survives a power loss after it ends."""

    def defects(self) -> list[str]:
        """Return what the database finds wrong with itself."""

    def wipe_free_pages(self) -> None:
        """Rewrite the database, so that its files contain nothing that was deleted."""


class SqliteDatabase:
    """Connection to the SQLite file; the first use opens it.

    `lock` is held while the connection is used. Other connections of this process to the file take
    it too: waiting for it is faster than SQLite's sleeping retries.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.location = str(self.path)
        self.lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner_pid = 0
        self._inherited: list[sqlite3.Connection] = []
        """Connections of a parent process. Closing one here would break the parent's locks."""

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        with self.lock:
            if self._connection is not None and self._owner_pid == os.getpid():
                self._connection.close()
            self._connection = None

    def select(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.lock, _store_errors(self.path):
            return self._open().execute(sql, values).fetchall()

    @contextmanager
    def transaction(self, is_durable: bool = True) -> Iterator[Transaction]:
        """Run one write transaction. A durable one survives a power loss after it ends."""
        with self.lock, _store_errors(self.path):
            connection = self._open()
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def defects(self) -> list[str]:
        """Return what SQLite finds wrong with the file. It has no checksums of values."""
        rows = self.select("PRAGMA integrity_check(10)")
        return [text for (text,) in rows if isinstance(text, str) and text != "ok"]

    def wipe_free_pages(self) -> None:
        """Rewrite the database, so that its files contain nothing that was deleted."""
        with self.lock, _store_errors(self.path):
            connection = self._open()
            connection.execute("VACUUM")
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise StoreError(
                f"{self.path} is read by another process, so its log cannot be emptied: run this"
                " again"
            )

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner_pid == os.getpid():
            return self._connection
        if self._connection is not None:
            self._inherited.append(self._connection)
        self._connection, self._owner_pid = _connect(self.path), os.getpid()
        return self._connection


class CompactionReader:
    """Reads the current compactions for queries. It never writes; an unreadable file has none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._open_count = 0

    def version(self) -> object:
        """Return a value that changes with the database; None if it cannot be read.

        StoreError if there is a pipe or a link in its place.
        """
        try:
            status = os.lstat(self._path)
            check_is_file(self._path, status)
            inode = status.st_ino
            if self._connection is None or inode != self._inode:
                self.close()
                uri = f"{self._path.absolute().as_uri()}?mode=ro"
                self._connection = sqlite3.connect(
                    uri, uri=True, timeout=1, check_same_thread=False, isolation_level=None
                )
                self._inode = inode
                self._open_count += 1
            return self._open_count, self._connection.execute("PRAGMA data_version").fetchone()[0]
        except (OSError, sqlite3.Error):
            self.close()
            return None

    def current(self) -> dict[str, dict[tuple[str, str], Compaction]]:
        """Return the current compactions: by table, then by account and month."""
        compactions: dict[str, dict[tuple[str, str], Compaction]] = {}
        try:
            rows = self._connection.execute(COMPACTIONS_SQL).fetchall() if self._connection else []
        except sqlite3.Error:
            return {}
        for row in rows:
            compactions.setdefault(row[0], {})[row[1], row[2]] = Compaction(*row)
        return compactions

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    try:
        make_private_folders(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | SAFE_OPEN, PRIVATE_FILE)
        try:
            check_is_file(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, "open", error) from None
    connection = sqlite3.connect(
        path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _create_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create_tables(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    version = None
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'lake_version'").fetchone():
        (version,) = connection.execute("SELECT max(version) FROM lake_version").fetchone()
    if version is not None:
        check_version(version, str(path))
        for number, upgrade in enumerate((_upgrade_to_version_2, _upgrade_to_version_3), start=2):
            if version < number:
                upgrade(connection)
    for statement in sqlite_schema():
        connection.execute(statement)
    if version is None:
        connection.execute("INSERT INTO lake_version VALUES (?)", (STATE_VERSION,))
    elif version < STATE_VERSION:
        connection.execute("UPDATE lake_version SET version = ?", (STATE_VERSION,))
    connection.execute("COMMIT")


def check_version(version: int, place: str) -> None:
    """Raise StoreError if a newer version of this package wrote the state."""
    if version > STATE_VERSION:
        raise StoreError(
            f"{place} was written by a newer convo-pipeline (state version {version}): update this"
            " one"
        )


def _upgrade_to_version_2(connection: sqlite3.Connection) -> None:
    """Rename the tables of the lake, and add the settings of each run."""
    connection.execute("ALTER TABLE runs ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'")
    connection.execute("DELETE FROM compactions")
    for former_name, name in FORMER_TABLES.items():
        for table in ("partitions", "tags", "quarantines"):
            connection.execute(
                f"UPDATE {table} SET table_name = ? WHERE table_name = ?",  # noqa: S608 - literals
                (name, former_name),
            )
        connection.execute(
            "UPDATE quarantines SET path = ? || substr(path, ?) WHERE path GLOB ?",
            (name, len(former_name) + 1, f"{former_name}/*"),
        )


def _upgrade_to_version_3(connection: sqlite3.Connection) -> None:
    """Add columns for what queries compare: both databases read them alike, but not JSON."""
    connection.execute("DROP INDEX IF EXISTS runs_by_kind")
    for column in (
        "started_on TEXT", "missed_count INTEGER", "is_incremental INTEGER", "complete_from TEXT"
    ):  # fmt: skip
        connection.execute(f"ALTER TABLE runs ADD COLUMN {column}")
    connection.execute(
        "UPDATE runs SET started_on = date(started_us / 1000000, 'unixepoch'),"
        " missed_count = json_extract(counts, '$.missed'),"
        " is_incremental = coalesce(json_extract(report, '$.is_incremental'), 0),"
        " complete_from = json_extract(report, '$.refused.complete_from')"
    )


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Raise a StoreError with a remedy in place of an error of SQLite."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = REMEDY if getattr(error, "sqlite_errorcode", None) in DAMAGED else ""
        raise StoreError(f"{path}: {error}{remedy}") from None
