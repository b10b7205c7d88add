"""`state.db`: what is known about the lake and its accounts besides the rows. A cache of truth in SQLite (WAL).

Everything here can be rebuilt from the lake, at the price of listing more once. Times are whole microseconds
since 1970 inside; it knows no Parquet and no API. One `State` may be used by many threads, one file by many processes.
"""

# ruff: noqa: S608 - table and column names are literals here, values are bound
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from convo_pipeline.errors import StoreError
from convo_pipeline.json_text import dump_json, load_json
from convo_pipeline.lake.folder import PRIVATE_FILE, make_private_folders, refusal

STATE_FILE = "state.db"
STATE_VERSION = 1
WAIT_SECONDS = 60.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lake_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS partitions (
    table_name TEXT, account TEXT, date TEXT, sha256 TEXT NOT NULL, row_count INTEGER NOT NULL,
    byte_count INTEGER NOT NULL, source TEXT NOT NULL, next_sha256 TEXT,
    PRIMARY KEY (account, date, table_name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identities (
    account TEXT PRIMARY KEY, page_id TEXT NOT NULL, platform TEXT NOT NULL, own_id TEXT, own_username TEXT,
    own_id_source TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conversations (
    account TEXT, conversation_id TEXT, updated_us INTEGER, newest_message_id TEXT, complete_since_us INTEGER,
    due_reason TEXT, PRIMARY KEY (account, conversation_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memories (account TEXT PRIMARY KEY, memory TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS placements (
    account TEXT, conversation_id TEXT, message_id TEXT, date TEXT NOT NULL,
    PRIMARY KEY (account, conversation_id, message_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT, account TEXT, kind TEXT NOT NULL, since TEXT, until TEXT, started_us INTEGER NOT NULL,
    ended_us INTEGER, outcome TEXT NOT NULL, reasons TEXT NOT NULL, error TEXT, calls TEXT NOT NULL,
    counts TEXT NOT NULL, report TEXT NOT NULL, PRIMARY KEY (run_id, account)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_account ON runs (account, started_us);
CREATE TABLE IF NOT EXISTS tags (
    table_name TEXT, account TEXT, date TEXT, sha256 TEXT NOT NULL, tag TEXT NOT NULL,
    PRIMARY KEY (account, date, table_name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantines (
    path TEXT PRIMARY KEY, table_name TEXT NOT NULL, account TEXT NOT NULL, date TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS compactions (
    table_name TEXT, account TEXT, month TEXT, source TEXT NOT NULL, day_count INTEGER NOT NULL,
    byte_count INTEGER NOT NULL, PRIMARY KEY (table_name, account, month)) WITHOUT ROWID;
"""
_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS compaction_ends_on_{event} AFTER {event} ON partitions BEGIN
    DELETE FROM compactions WHERE table_name = {row}.table_name AND account = {row}.account
        AND month = substr({row}.date, 1, 7);
END
"""
_TRIGGERS = [
    _TRIGGER.format(event=event, row=row) for event, row in [("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")]
]
"""A compaction is current as long as its line is there: whatever touches a partition removes it, in one transaction."""
ACCOUNT_TABLES = ("partitions", "identities", "conversations", "memories", "placements", "runs", "tags", "quarantines")
"""Everything that knows an account: `rename` and `forget` walk these."""


@dataclass(frozen=True)
class Partition:
    """What a partition's file must be; `next_sha256` is set while a commit is under way ("" = to be removed)."""

    table: str
    account: str
    date: date
    sha256: str
    row_count: int
    byte_count: int
    source: str = ""
    next_sha256: str | None = None


@dataclass(frozen=True)
class AccountIdentity:
    """Whose inbox an account name stands for."""

    account: str
    page_id: str
    platform: str
    own_id: str | None = None
    own_username: str | None = None
    own_id_source: str | None = None
    """`asked` (the API said so), `inferred` (from the messages) or None (not known)."""


@dataclass(frozen=True)
class ConversationState:
    """How far a conversation is held: ids and details without a hole from the newest down to `complete_since_us`."""

    conversation_id: str
    updated_us: int | None = None
    newest_message_id: str | None = None
    complete_since_us: int | None = None
    due_reason: str | None = None


@dataclass(frozen=True)
class Run:
    """One account's part of one run."""

    run_id: str
    account: str
    kind: str
    started_at: datetime
    """T0: the server's time of the first answer."""
    since: date | None = None
    until: date | None = None
    ended_at: datetime | None = None
    outcome: str = "running"
    reasons: tuple[str, ...] = ()
    error: str | None = None
    calls: Mapping[str, int] | None = None
    counts: Mapping[str, int] | None = None
    report: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Compaction:
    """A month's compacted file, while it agrees with the days it was made from."""

    table: str
    account: str
    month: str
    source: str
    day_count: int
    byte_count: int


class State:
    """The database; opened at first use."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner_pid = 0
        self._foreign: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._owner_pid == os.getpid():
                self._connection.close()
            self._connection = None

    # partitions

    def partition(self, table: str, account: str, day: date) -> Partition | None:
        """Return what is recorded of a partition."""
        rows = self._select(
            _PARTITIONS + " WHERE account = ? AND date = ? AND table_name = ?", account, str(day), table
        )
        return next(map(_read_partition, rows), None)

    def partitions(self, account: str | None = None, day: date | None = None) -> list[Partition]:
        """Return what is recorded, sorted by account, date and table."""
        wanted = {"account": account, "date": None if day is None else str(day)}
        where, values = _where(wanted)
        return [_read_partition(row) for row in self._select(f"{_PARTITIONS}{where} ORDER BY 2, 3, 1", *values)]

    def intend(self, held: Partition, next_sha256: str) -> None:
        """Note durably what a partition is about to become, so that a killed commit is no damage."""
        with self._transaction() as connection:
            connection.execute(_SAVE_PARTITION, (*_partition_key(held), *astuple(held)[3:7], next_sha256))

    def record(self, partition: Partition) -> None:
        """Note what a partition is. Losing this in a power loss is harmless: the intent is still there."""
        with self._transaction(is_durable=False) as connection:
            connection.execute(_SAVE_PARTITION, (*_partition_key(partition), *astuple(partition)[3:]))

    def remove_partition(self, table: str, account: str, day: date, is_lost: bool = False) -> None:
        """Forget a partition whose file is gone; where it was lost, everything the account holds is asked again."""
        with self._transaction(is_durable=is_lost) as connection:
            connection.execute(_REMOVE_PARTITION, (account, str(day), table))
            for statement in _REOPEN if is_lost else ():
                connection.execute(statement, (account,))

    def tag(self, partition: Partition) -> str | None:
        """Return which version in a shared place the partition is, None if that is not known."""
        key = (partition.account, str(partition.date), partition.table, partition.sha256)
        rows = self._select(
            "SELECT tag FROM tags WHERE account = ? AND date = ? AND table_name = ? AND sha256 = ?", *key
        )
        return str(rows[0][0]) if rows else None

    def save_tag(self, partition: Partition, tag: str) -> None:
        """Note which version in a shared place the partition is."""
        with self._transaction(is_durable=False) as connection:
            row = (*_partition_key(partition), partition.sha256, tag)
            connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", row)

    def add_quarantine(self, table: str, account: str, day: date, path: str) -> None:
        """Note a damaged file that was set aside; everything the account holds is asked again."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO quarantines VALUES (?, ?, ?, ?)", (path, table, account, str(day))
            )
            connection.execute(_REMOVE_PARTITION, (account, str(day), table))
            for statement in _REOPEN if table.startswith("raw_") else ():
                connection.execute(statement, (account,))

    def reopen(self, account: str) -> None:
        """Believe no longer that anything of the account is held to its end: the next run lists and walks it all."""
        with self._transaction() as connection:
            for statement in _REOPEN:
                connection.execute(statement, (account,))

    def quarantines(self, account: str | None = None) -> list[tuple[str, str, date, str]]:
        """Return (table, account, date, path) of every damaged file that was set aside."""
        where, values = _where({"account": account})
        rows = self._select(f"SELECT table_name, account, date, path FROM quarantines{where} ORDER BY path", *values)
        return [(str(row[0]), str(row[1]), date.fromisoformat(str(row[2])), str(row[3])) for row in rows]

    def remove_quarantine(self, path: str) -> None:
        """Forget a damaged file, once its day is whole again."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM quarantines WHERE path = ?", (path,))

    # identities

    def identity(self, account: str) -> AccountIdentity | None:
        """Return whose inbox the account is, None if it was never seen."""
        return next(iter(self.identities(account)), None)

    def identities(self, account: str | None = None) -> list[AccountIdentity]:
        """Return every account that was ever seen, sorted by name; removed ones too."""
        where, values = _where({"account": account})
        rows = self._select(f"{_IDENTITIES}{where} ORDER BY account", *values)
        return [AccountIdentity(*row) for row in rows]  # type: ignore[arg-type]

    def set_identity(self, identity: AccountIdentity) -> AccountIdentity:
        """Check and keep whose inbox an account is; return what is known now. A StoreError names both on a mismatch."""
        with self._transaction() as connection:
            held = [AccountIdentity(*row) for row in connection.execute(_IDENTITIES).fetchall()]
            known = check_identity(identity, held)
            connection.execute("INSERT OR REPLACE INTO identities VALUES (?, ?, ?, ?, ?, ?)", astuple(known))
        return known

    # conversations, memory, placements

    def conversations(self, account: str) -> dict[str, ConversationState]:
        """Return what is known of every conversation of the account, by id."""
        rows = self._select(
            "SELECT conversation_id, updated_us, newest_message_id, complete_since_us, due_reason"
            " FROM conversations WHERE account = ?",
            account,
        )
        return {str(row[0]): ConversationState(*row) for row in rows}  # type: ignore[arg-type]

    def save_conversations(self, account: str, conversations: Iterable[ConversationState]) -> None:
        """Insert or replace what is known of these conversations, all or none."""
        rows = [(account, *vars(conversation).values()) for conversation in conversations]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?, ?, ?)", rows)

    def memory(self, account: str) -> dict[str, object]:
        """Return what the account's ladder remembered."""
        rows = self._select("SELECT memory FROM memories WHERE account = ?", account)
        return _read_object(rows[0][0]) if rows else {}

    def save_memory(self, account: str, memory: Mapping[str, object]) -> None:
        """Replace what the account's ladder remembers."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO memories VALUES (?, ?)", (account, _json(memory)))

    def placements(self, account: str) -> dict[tuple[str, str], date]:
        """Return the date of every row whose date is a guess, by (conversation_id, message_id): a row never moves."""
        rows = self._select("SELECT conversation_id, message_id, date FROM placements WHERE account = ?", account)
        return {(str(row[0]), str(row[1])): date.fromisoformat(str(row[2])) for row in rows}

    def save_placements(self, account: str, placements: Mapping[tuple[str, str], date]) -> None:
        """Add placements; one that is known stays as it is."""
        rows = [(account, *key, str(day)) for key, day in placements.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO placements VALUES (?, ?, ?, ?)", rows)

    # runs

    def save_run(self, run: Run) -> None:
        """Insert or replace one account's part of a run."""
        with self._transaction() as connection:
            connection.execute(f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * 13)})", _run_values(run))

    def runs(self, account: str | None = None, run_id: str | None = None, limit: int | None = None) -> list[Run]:
        """Return runs, newest first."""
        where, values = _where({"account": account, "run_id": run_id})
        rows = self._select(f"SELECT * FROM runs{where} ORDER BY started_us DESC, run_id LIMIT ?", *values, limit or -1)
        return [_read_run(row) for row in rows]

    def last_complete(self, account: str, kind: str | None = None) -> Run | None:
        """Return the account's newest complete run, of one kind or of any."""
        where, values = _where({"account": account, "kind": kind, "outcome": "complete"})
        rows = self._select(f"SELECT * FROM runs{where} ORDER BY started_us DESC LIMIT 1", *values)
        return _read_run(rows[0]) if rows else None

    def first_run_at(self, account: str) -> datetime | None:
        """Return when the account's oldest run that is still noted began."""
        ((first_us,),) = self._select("SELECT min(started_us) FROM runs WHERE account = ?", account)
        return None if first_us is None else _time(first_us)

    def prune_runs(self, before: datetime) -> int:
        """Remove runs that started earlier and say how many; the exported ledger keeps them."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM runs WHERE started_us < ?", (_us(before),)).rowcount

    def rename_account(self, old: str, new: str) -> None:
        """Give everything of an account another name, all or nothing."""
        with self._transaction() as connection:
            for table in ACCOUNT_TABLES:
                connection.execute(f"UPDATE {table} SET account = ? WHERE account = ?", (new, old))
            connection.execute(_RENAME_PATHS, (f"/account={old}/", f"/account={new}/", new))

    # compactions

    def compactions(self, account: str | None = None) -> list[Compaction]:
        """Return the compactions that are current, sorted."""
        where, values = _where({"account": account})
        rows = self._select(f"{_COMPACTIONS}{where} ORDER BY table_name, account, month", *values)
        return [Compaction(*row) for row in rows]  # type: ignore[arg-type]

    def save_compaction(self, compaction: Compaction, sha256s: Mapping[date, str]) -> bool:
        """Call a compaction current if the month's partitions still are these; say whether they are."""
        key = (compaction.table, compaction.account, compaction.month)
        with self._transaction() as connection:
            held = connection.execute(_MONTH, key).fetchall()
            is_current = sorted(held) == sorted((str(day), sha256, None) for day, sha256 in sha256s.items())
            if is_current:
                connection.execute("INSERT OR REPLACE INTO compactions VALUES (?, ?, ?, ?, ?, ?)", astuple(compaction))
        return is_current

    def remove_compactions(self, account: str, table: str | None = None, month: str | None = None) -> None:
        """Call compactions current no longer."""
        where, values = _where({"account": account, "table_name": table, "month": month})
        with self._transaction() as connection:
            connection.execute(f"DELETE FROM compactions{where}", values)

    # erasure, retention

    def forget(self, account: str, conversation_ids: Iterable[str], redact: Callable[[str], str]) -> None:
        """Remove all that is known of these conversations, and what `redact` cuts out of the runs' texts."""
        keys = [(account, conversation_id) for conversation_id in conversation_ids]
        with self._transaction() as connection:
            for table in ("conversations", "placements"):
                connection.executemany(f"DELETE FROM {table} WHERE account = ? AND conversation_id = ?", keys)
            for run_id, *texts in connection.execute(_RUN_TEXTS, (account,)).fetchall():
                left = [text and redact(text) for text in texts]
                if left != texts:
                    connection.execute(_SAVE_RUN_TEXTS, (*left, run_id, account))
            for (memory,) in connection.execute("SELECT memory FROM memories WHERE account = ?", (account,)).fetchall():
                connection.execute("UPDATE memories SET memory = ? WHERE account = ?", (redact(memory), account))

    def forget_before(self, day: date) -> None:
        """Remove what is known of messages and conversations that were last active before a day."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM placements WHERE date < ?", (str(day),))
            before_us = _us(datetime(day.year, day.month, day.day, tzinfo=UTC))
            connection.execute("DELETE FROM conversations WHERE updated_us < ?", (before_us,))

    def wipe_free_pages(self) -> None:
        """Write the database anew, so that nothing removed from it can be found in its files."""
        with self._lock, _explained(self.path):
            connection = self._open()
            connection.execute("VACUUM")
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise StoreError(f"{self.path} is read by another process, so its log cannot be emptied: run this again")

    # the database itself

    def _select(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock, _explained(self.path):
            rows: list[tuple[object, ...]] = self._open().execute(sql, values).fetchall()
        return rows

    @contextmanager
    def _transaction(self, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One write transaction; durable ones are on disk when it ends."""
        with self._lock, _explained(self.path):
            connection = self._open()
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner_pid == os.getpid():
            return self._connection
        if self._connection is not None:
            self._foreign.append(self._connection)  # a fork's parent owns it: never close it here
        self._connection, self._owner_pid = _connect(self.path), os.getpid()
        return self._connection


def check_identity(identity: AccountIdentity, held: Iterable[AccountIdentity]) -> AccountIdentity:
    """Return what is known of an account after this; raise a StoreError naming both if it is another one."""
    for other in held:
        if other.account == identity.account:
            return _agree(other, identity)
        if _is_same_inbox(other, identity):
            raise StoreError(
                f'{_describe(identity)} is already stored as "{other.account}"; if it was renamed, run:'
                f" convo-pipeline rename {other.account} {identity.account}"
            )
    return identity


def _agree(held: AccountIdentity, asked: AccountIdentity) -> AccountIdentity:
    is_both_asked = held.own_id_source == asked.own_id_source == "asked"
    is_other = is_both_asked and held.own_id is not None and asked.own_id is not None and held.own_id != asked.own_id
    if (held.page_id, held.platform) != (asked.page_id, asked.platform) or is_other:
        raise StoreError(
            f'the account name "{held.account}" already stands for {_describe(held)}, not for {_describe(asked)};'
            " give the new one another name"
        )
    if asked.own_id is None or (held.own_id_source == "asked" and asked.own_id_source != "asked"):
        return held
    return asked


def _is_same_inbox(left: AccountIdentity, right: AccountIdentity) -> bool:
    if (left.page_id, left.platform) != (right.page_id, right.platform):
        return False
    return left.page_id != "me" or (left.own_id is not None and left.own_id == right.own_id)


def _describe(identity: AccountIdentity) -> str:
    own = f" (own id {identity.own_id})" if identity.own_id is not None else ""
    return f"{identity.platform} page {identity.page_id}{own}"


def _connect(path: Path) -> sqlite3.Connection:
    try:
        make_private_folders(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE))
    except OSError as error:
        raise refusal(path, "open", error) from None
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _create(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in [*_SCHEMA.split(";"), *_TRIGGERS]:
        connection.execute(statement)
    row = connection.execute("SELECT max(version) FROM lake_version").fetchone()
    if row[0] is None:
        connection.execute("INSERT INTO lake_version VALUES (?)", (STATE_VERSION,))
    connection.execute("COMMIT")
    if row[0] is not None and row[0] > STATE_VERSION:
        raise StoreError(f"{path} was written by a newer convo-pipeline (state version {row[0]}): update this one")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from None


def _where(wanted: Mapping[str, object]) -> tuple[str, list[object]]:
    asked = {name: value for name, value in wanted.items() if value is not None}
    clause = " AND ".join(f"{name} = ?" for name in asked)
    return (f" WHERE {clause}" if clause else ""), list(asked.values())


_COMPACTIONS = "SELECT table_name, account, month, source, day_count, byte_count FROM compactions"
_MONTH = (
    "SELECT date, sha256, next_sha256 FROM partitions WHERE table_name = ? AND account = ? AND substr(date, 1, 7) = ?"
)
_PARTITIONS = "SELECT table_name, account, date, sha256, row_count, byte_count, source, next_sha256 FROM partitions"
_SAVE_PARTITION = "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE_PARTITION = "DELETE FROM partitions WHERE account = ? AND date = ? AND table_name = ?"
_REOPEN = (
    "UPDATE conversations SET complete_since_us = NULL WHERE account = ?",
    "UPDATE memories SET memory = json_remove(memory, '$.coverage') WHERE account = ?",
)
"""What the account is believed to hold, down to which time, is no longer true."""
_RUN_TEXTS = "SELECT run_id, error, report FROM runs WHERE account = ?"
_SAVE_RUN_TEXTS = "UPDATE runs SET error = ?, report = ? WHERE run_id = ? AND account = ?"
_RENAME_PATHS = "UPDATE quarantines SET path = replace(path, ?, ?) WHERE account = ?"
_IDENTITIES = "SELECT account, page_id, platform, own_id, own_username, own_id_source FROM identities"


def _partition_key(partition: Partition) -> tuple[str, str, str]:
    return partition.table, partition.account, str(partition.date)


def _read_partition(row: tuple[object, ...]) -> Partition:
    return Partition(str(row[0]), str(row[1]), date.fromisoformat(str(row[2])), *row[3:])  # type: ignore[arg-type]


def _run_values(run: Run) -> tuple[object, ...]:
    dates = (None if day is None else str(day) for day in (run.since, run.until))
    times = (_us(run.started_at), None if run.ended_at is None else _us(run.ended_at))
    parts = (_json(part or {}) for part in (run.calls, run.counts, run.report))
    return (run.run_id, run.account, run.kind, *dates, *times, run.outcome, _json(list(run.reasons)), run.error, *parts)


def _read_run(row: tuple[object, ...]) -> Run:
    run_id, account, kind, since, until, started_us, ended_us, outcome, reasons, error, calls, counts, report = row
    return Run(
        str(run_id),
        str(account),
        str(kind),
        started_at=_time(started_us),
        since=None if since is None else date.fromisoformat(str(since)),
        until=None if until is None else date.fromisoformat(str(until)),
        ended_at=None if ended_us is None else _time(ended_us),
        outcome=str(outcome),
        reasons=tuple(load_json(str(reasons))),  # type: ignore[arg-type]
        error=None if error is None else str(error),
        calls=_read_object(calls),  # type: ignore[arg-type]
        counts=_read_object(counts),  # type: ignore[arg-type]
        report=_read_object(report),
    )


def _json(value: object) -> str:
    return dump_json(value).decode()


def _read_object(text: object) -> dict[str, object]:
    value = load_json(str(text))
    return value if isinstance(value, dict) else {}


def _us(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def _time(us: object) -> datetime:
    return EPOCH + timedelta(microseconds=int(str(us)))


class CompactionWatch:
    """Which compactions are current, for readers: it writes nothing, and where it cannot read it knows of none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._openings = 0

    def version(self) -> object:
        """Return what changes whenever the database may say something else."""
        try:
            inode = os.stat(self._path).st_ino
            if self._connection is None or inode != self._inode:
                self._open(inode)
            assert self._connection is not None
            return self._openings, self._connection.execute("PRAGMA data_version").fetchone()[0]
        except (OSError, sqlite3.Error):
            self.close()
            return None

    def current(self) -> dict[str, dict[tuple[str, str], Compaction]]:
        """Return the current compactions: by table, then by account and month."""
        found: dict[str, dict[tuple[str, str], Compaction]] = {}
        try:
            rows = self._connection.execute(_COMPACTIONS).fetchall() if self._connection else []
        except sqlite3.Error:
            return {}
        for row in rows:
            found.setdefault(row[0], {})[row[1], row[2]] = Compaction(*row)
        return found

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _open(self, inode: int) -> None:
        self.close()
        place = f"{self._path.absolute().as_uri()}?mode=ro"
        self._connection = sqlite3.connect(place, uri=True, timeout=1, check_same_thread=False, isolation_level=None)
        self._inode = inode
        self._openings += 1
