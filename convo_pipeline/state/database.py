"""SQLite file `state.db` in WAL mode: its schema, transactions, and a reader of its compactions."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convo_pipeline.errors import StoreError
from convo_pipeline.schema import FORMER_TABLES
from convo_pipeline.state.records import Compaction
from convo_pipeline.storage.local import (
    PRIVATE_FILE,
    SAFE_OPEN,
    check_is_file,
    make_private_folders,
    storage_error,
)

STATE_FILE = "state.db"
STATE_VERSION = 2
WAIT_SECONDS = 60.0
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
REMEDY = (
    "; move it away with its -wal and -shm, and run `convo-pipeline verify --rebuild-state`: it is"
    " made anew from the files"
)
COMPACTIONS_SQL = """
SELECT table_name, account, month, source, day_count, byte_count FROM compactions
"""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lake_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS partitions (
    table_name TEXT, account TEXT, date TEXT, sha256 TEXT NOT NULL, row_count INTEGER NOT NULL,
    byte_count INTEGER NOT NULL, source TEXT NOT NULL, next_sha256 TEXT,
    PRIMARY KEY (account, date, table_name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identities (
    account TEXT PRIMARY KEY, page_id TEXT NOT NULL, platform TEXT NOT NULL, own_id TEXT,
    own_username TEXT, own_id_source TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conversations (
    account TEXT, conversation_id TEXT, updated_us INTEGER, newest_message_id TEXT,
    complete_since_us INTEGER, due_reason TEXT,
    PRIMARY KEY (account, conversation_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memories (account TEXT PRIMARY KEY, memory TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS censuses (account TEXT PRIMARY KEY, census TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS placements (
    account TEXT, conversation_id TEXT, message_id TEXT, date TEXT NOT NULL,
    PRIMARY KEY (account, conversation_id, message_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT, account TEXT, kind TEXT NOT NULL, since TEXT, until TEXT,
    started_us INTEGER NOT NULL, ended_us INTEGER, outcome TEXT NOT NULL, reasons TEXT NOT NULL,
    error TEXT, calls TEXT NOT NULL, counts TEXT NOT NULL, report TEXT NOT NULL,
    settings TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (run_id, account)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_account ON runs (account, started_us);
CREATE INDEX IF NOT EXISTS runs_by_kind
    ON runs (account, kind, started_us, outcome, reasons, since, until);
CREATE TABLE IF NOT EXISTS tags (
    table_name TEXT, account TEXT, date TEXT, sha256 TEXT NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY (account, date, table_name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantines (
    path TEXT PRIMARY KEY, table_name TEXT NOT NULL, account TEXT NOT NULL,
    date TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compactions (
    table_name TEXT, account TEXT, month TEXT, source TEXT NOT NULL, day_count INTEGER NOT NULL,
    byte_count INTEGER NOT NULL, PRIMARY KEY (table_name, account, month)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts (
    account TEXT, name TEXT, PRIMARY KEY (account, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days_done (
    task TEXT, account TEXT, date TEXT, digest TEXT NOT NULL,
    PRIMARY KEY (account, task, date)) WITHOUT ROWID;
"""
_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS compaction_ends_on_{event} AFTER {event} ON partitions BEGIN
    DELETE FROM compactions WHERE table_name = {row}.table_name AND account = {row}.account
        AND month = substr({row}.date, 1, 7);
END
"""
_TRIGGERS = [
    _TRIGGER.format(event=event, row=row)
    for event, row in [("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")]
]
"""A compaction is current while its row is there: a change to a partition of the month deletes it.
"""


class Database:
    """Connection to the SQLite file; the first use opens it.

    `lock` is held while the connection is used. Other connections of this process to the file take
    it too: waiting for it is faster than SQLite's sleeping retries.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
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
    def transaction(self, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
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
        """Return a value that changes with the database; None if it cannot be read."""
        try:
            inode = os.stat(self._path).st_ino
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
    if version is not None and version > STATE_VERSION:
        raise StoreError(
            f"{path} was written by a newer convo-pipeline (state version {version}): update this"
            " one"
        )
    for statement in [*_SCHEMA.split(";"), *_TRIGGERS]:
        connection.execute(statement)
    if version is None:
        connection.execute("INSERT INTO lake_version VALUES (?)", (STATE_VERSION,))
    elif version < STATE_VERSION:
        _upgrade_from_version_1(connection)
        connection.execute("UPDATE lake_version SET version = ?", (STATE_VERSION,))
    connection.execute("COMMIT")


def _upgrade_from_version_1(connection: sqlite3.Connection) -> None:
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


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Raise a StoreError with a remedy in place of an error of SQLite."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = REMEDY if getattr(error, "sqlite_errorcode", None) in DAMAGED else ""
        raise StoreError(f"{path}: {error}{remedy}") from None
