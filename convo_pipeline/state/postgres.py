"""The state's database in PostgreSQL, and the session whose locks end with its connection.

One connection of a process holds all its locks, takes its rate slots and writes its state. If the
connection is lost while a lock is held, everything raises StoreError until the locks are released.
So a process that lost its locks sends no call and commits no file (fencing).

A pooler is refused: locks belong to a server process, and a pooler changes it between transactions.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from convo_pipeline.base.extras import needs_extra
from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.state.database import Rows, Transaction, check_version
from convo_pipeline.state.state_schema import STATE_VERSION, postgres_schema

with needs_extra("scale"):
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

CONNECTION = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "target_session_attrs": "read-write",
    "client_encoding": "utf8",
    "application_name": "convo-pipeline",
}
"""Parameters of a connection that the address can change. A dead connection fails in 15 s."""
SESSION = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
    " SET tcp_user_timeout = 15000; SET idle_in_transaction_session_timeout = '60s';"
    " SET lock_timeout = '300s'; SET default_transaction_isolation = 'read committed'"
)
"""The server drops a dead client, and with it its locks, in 20 s."""
POLL_SECONDS, MOST_POLL_SECONDS = 0.01, 0.32
"""A waiter asks for a lock at first and at last so often."""
PERSONAL_TABLES = ("conversations", "placements", "runs", "memories", "notes")
MARK = "\uf8e3"
"""Escapes the character NUL, which PostgreSQL refuses in texts."""


class PostgresDatabase:
    """Connection to PostgreSQL; the first use opens it."""

    def __init__(self, url: str) -> None:
        """`url` is as in `settings.StoreSettings.state_url`; it can hold a password."""
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self.lock = threading.RLock()
        try:
            given = conninfo_to_dict(self._url)
        except psycopg.Error:
            raise StoreError("state_url is no valid address of PostgreSQL") from None
        self._parameters = {key: str(value) for key, value in given.items() if value is not None}
        shown = {key: self._parameters.get(key, "") for key in ("host", "port", "dbname")}
        self.location = "postgresql://{host}:{port}/{dbname}".format(**shown)
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._owner_pid = 0
        self._inherited: list[object] = []
        """Connections of a parent process. Closing one here would end the parent's session."""
        self._held: set[str] = set()
        self._schema = ""

    def close(self) -> None:
        """Close the database and release its locks; the next use opens it again."""
        with self.lock:
            if self._connection is not None and self._owner_pid == os.getpid():
                self._connection.close()
            self._connection = None

    def select(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.lock, self._store_errors():
            connection = self._open()
            try:
                return _Statements(connection).execute(sql, values).fetchall()
            except psycopg.OperationalError:
                if not connection.closed:
                    raise
            return _Statements(self._open()).execute(sql, values).fetchall()

    @contextmanager
    def transaction(self, is_durable: bool = True) -> Iterator[Transaction]:
        """Run one write transaction. A durable one survives a power loss after it ends."""
        with self.lock, self._store_errors():
            connection = self._begin("" if is_durable else "; SET LOCAL synchronous_commit = off")
            try:
                yield _Statements(connection)
            except BaseException:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _begin(self, also: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Begin a transaction, on a new connection if the server closed an idle one."""
        connection, begin = self._open(), f"BEGIN{also}".encode()
        try:
            connection.execute(begin)
        except psycopg.OperationalError:
            if not connection.closed:
                raise
            connection = self._open()
            connection.execute(begin)
        return connection

    def defects(self) -> list[str]:
        """Return nothing: PostgreSQL checks its pages itself, if it was set up with checksums."""
        self.select("SELECT 1")
        return []

    def wipe_free_pages(self) -> None:
        """Rewrite the tables with ids of people, so that their files hold nothing that was deleted.

        A table cannot be used while it is rewritten. The server's write-ahead log and backups keep
        it: see `docs/scale.md`.
        """
        with self.lock, self._store_errors():
            connection = self._open()
            for name in PERSONAL_TABLES:
                connection.execute(f"VACUUM FULL {name}".encode())

    @contextmanager
    def advisory_lock(self, name: str, wait_seconds: float) -> Iterator[None]:
        """Hold a lock of all machines; it ends with the connection.

        Raise BusyError if another holder has it for so long; a negative time waits without an end.
        """
        waiting_since, pause_seconds = time.monotonic(), POLL_SECONDS
        while not self._try_lock(name):
            if 0 <= wait_seconds <= time.monotonic() - waiting_since:
                raise BusyError(f"{name} is busy: another process holds its lock in PostgreSQL")
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MOST_POLL_SECONDS)
        try:
            yield
        finally:
            self._unlock(name)

    def _try_lock(self, name: str) -> bool:
        """Take a lock if it is free. A session could take its own lock twice, so ask `_held`."""
        with self.lock, self._store_errors():
            self._open()
            if name in self._held:
                return False
            sql = "SELECT pg_try_advisory_lock(?)"
            ((is_free,),) = self.select(sql, self._lock_key(name))
            if is_free:
                self._held.add(name)
            return bool(is_free)

    def _unlock(self, name: str) -> None:
        with self.lock:
            self._held.discard(name)
            connection = self._connection
            if connection is not None and self._owner_pid == os.getpid():
                with suppress(psycopg.Error):  # the lock ended with the connection
                    sql = "SELECT pg_advisory_unlock(%s)"
                    connection.execute(sql, (self._lock_key(name),))

    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Return the open connection; StoreError if the one of the held locks is lost."""
        if self._owner_pid != os.getpid():
            if self._connection is not None:
                self._inherited.append(self._connection)
            self._connection, self._held = None, set()
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self._held:
            raise StoreError(
                f"the connection to {self.location} was lost, and with it the locks of this run: it"
                " sends no more calls; run it again"
            )
        self._connection, self._owner_pid = self._connect(), os.getpid()
        return self._connection

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(
            make_conninfo(**(CONNECTION | self._parameters)), autocommit=True
        )
        try:
            connection.execute(SESSION)
            backend_pid, encoding, schema = connection.execute(
                "SELECT pg_backend_pid(), current_setting('server_encoding'), current_schema()"
            ).fetchone() or (0, "", "")
            if backend_pid != connection.info.backend_pid:
                raise StoreError(
                    f"{self.location} is a pooler such as PgBouncer: locks do not work through it;"
                    " name the address of PostgreSQL itself in state_url"
                )
            if encoding != "UTF8" or not schema:
                raise StoreError(
                    f"{self.location} must have the encoding UTF8 and a schema in its search_path"
                )
            self._schema = schema
            self._create_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_tables(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        exists = "SELECT to_regclass('lake_version') IS NOT NULL"
        if connection.execute(exists).fetchone() == (True,):
            version = "SELECT max(version) FROM lake_version"
            ((number,),) = connection.execute(version).fetchall()
            check_version(number, self.location)
            if number == STATE_VERSION:
                return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (self._lock_key("schema"),))
            for statement in postgres_schema():
                connection.execute(statement.encode())
            connection.execute(
                "INSERT INTO lake_version SELECT %s WHERE NOT EXISTS (SELECT 1 FROM lake_version)",
                (STATE_VERSION,),
            )

    def _lock_key(self, name: str) -> int:
        """Return the number of an advisory lock. Lakes in other schemas have other locks."""
        digest = hashlib.sha256(f"convo-pipeline {self._schema} {name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Raise a StoreError without a password in place of an error of PostgreSQL."""
        try:
            yield
        except psycopg.Error as error:
            text = " ".join(str(error).split())
            for secret in (self._url, self._parameters.get("password", "")):
                text = text.replace(secret, "***") if secret else text
            raise StoreError(f"{self.location}: {text}") from None


class _Statements:
    """Runs the SQL of `State` on a connection of PostgreSQL."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        cursor = self._connection.execute(_translate(sql), _escape(values))
        return _Cursor(cursor)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each row of values."""
        cursor = self._connection.cursor()
        cursor.executemany(_translate(sql), [_escape(row) for row in rows])
        return cursor


class _Cursor:
    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        return row and _unescape(row)

    def fetchall(self) -> list[Any]:
        return [_unescape(row) for row in self._cursor]


@cache
def _translate(sql: str) -> bytes:
    """Return SQL of the state for psycopg. PostgreSQL chooses indexes itself."""
    return sql.replace("INDEXED BY runs_by_kind", "").replace("?", "%s").encode()


def _escape(values: Sequence[Any]) -> Sequence[Any]:
    """Return values that PostgreSQL accepts."""
    return [
        value.replace(MARK, f"{MARK}1").replace("\0", f"{MARK}0")
        if isinstance(value, str) and (MARK in value or "\0" in value)
        else value
        for value in values
    ]


def _unescape(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values that `_escape` got.

    >>> _unescape(tuple(_escape(["a\\0b", 1, MARK + "0"]))) == ("a\\0b", 1, MARK + "0")
    True
    """
    if not any(isinstance(value, str) and MARK in value for value in row):
        return row
    return tuple(
        value.replace(f"{MARK}0", "\0").replace(f"{MARK}1", MARK)
        if isinstance(value, str)
        else value
        for value in row
    )
