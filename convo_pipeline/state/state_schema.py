"""Tables of the state, declared once for SQLite and PostgreSQL. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

STATE_VERSION = 3
"""Version 2 renamed tables of the lake. Version 3 added four columns to `runs`."""


@dataclass(frozen=True)
class StateTable:
    """A table: the definitions of its columns by name, and the columns of its primary key."""

    name: str
    columns: dict[str, str]
    key: tuple[str, ...]

    @property
    def create(self) -> str:
        """SQL that creates the table."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
        key = ", ".join(self.key)
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({columns}, PRIMARY KEY ({key}))"

    @property
    def select(self) -> str:
        """SQL that reads all columns, without a condition."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608 - literals

    def insert(self, *, replaces: bool = True) -> str:
        """Return the SQL that inserts a row, and replaces or keeps a row with the same key.

        >>> StateTable("t", {"a": "TEXT", "b": "TEXT"}, ("a",)).insert()
        'INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a) DO UPDATE SET b = excluded.b'
        """
        others = [name for name in self.columns if name not in self.key] if replaces else []
        changes = ", ".join(f"{name} = excluded.{name}" for name in others)
        names, marks = ", ".join(self.columns), ", ".join("?" * len(self.columns))
        return (
            f"INSERT INTO {self.name} ({names}) VALUES ({marks})"  # noqa: S608 - literals
            f" ON CONFLICT ({', '.join(self.key)}) DO"
            f" {f'UPDATE SET {changes}' if changes else 'NOTHING'}"
        )


def _table(name: str, key: str, columns: str) -> StateTable:
    pairs = (column.split(maxsplit=1) for column in columns.split(","))
    return StateTable(name, {first: kind for first, kind in pairs}, tuple(key.split()))  # noqa: C416


_ALL = (
    _table(
        "partitions",
        "account date table_name",
        "table_name TEXT, account TEXT, date TEXT, sha256 TEXT NOT NULL,"
        " row_count INTEGER NOT NULL, byte_count INTEGER NOT NULL, source TEXT NOT NULL,"
        " next_sha256 TEXT",
    ),
    _table(
        "identities",
        "account",
        "account TEXT, page_id TEXT NOT NULL, platform TEXT NOT NULL, own_id TEXT,"
        " own_username TEXT, own_id_source TEXT",
    ),
    _table(
        "conversations",
        "account conversation_id",
        "account TEXT, conversation_id TEXT, updated_us INTEGER, newest_message_id TEXT,"
        " complete_since_us INTEGER, due_reason TEXT",
    ),
    _table("memories", "account", "account TEXT, memory TEXT NOT NULL"),
    _table("censuses", "account", "account TEXT, census TEXT NOT NULL"),
    _table(
        "placements",
        "account conversation_id message_id",
        "account TEXT, conversation_id TEXT, message_id TEXT, date TEXT NOT NULL",
    ),
    _table(
        "runs",
        "run_id account",
        "run_id TEXT, account TEXT, kind TEXT NOT NULL, since TEXT, until TEXT,"
        " started_us INTEGER NOT NULL, ended_us INTEGER, outcome TEXT NOT NULL,"
        " reasons TEXT NOT NULL, error TEXT, calls TEXT NOT NULL, counts TEXT NOT NULL,"
        " report TEXT NOT NULL, settings TEXT NOT NULL DEFAULT '{}', started_on TEXT,"
        " missed_count INTEGER, is_incremental INTEGER, complete_from TEXT",
    ),
    _table(
        "tags",
        "account date table_name",
        "table_name TEXT, account TEXT, date TEXT, sha256 TEXT NOT NULL, tag TEXT NOT NULL",
    ),
    _table(
        "quarantines",
        "path",
        "path TEXT, table_name TEXT NOT NULL, account TEXT NOT NULL, date TEXT NOT NULL",
    ),
    _table(
        "compactions",
        "table_name account month",
        "table_name TEXT, account TEXT, month TEXT, source TEXT NOT NULL,"
        " day_count INTEGER NOT NULL, byte_count INTEGER NOT NULL",
    ),
    _table("receipts", "account name", "account TEXT, name TEXT"),
    _table(
        "days_done",
        "account task date",
        "task TEXT, account TEXT, date TEXT, digest TEXT NOT NULL",
    ),
)
STATE_TABLES = {table.name: table for table in _ALL}
ACCOUNT_TABLES = tuple(
    table for table in _ALL if table.name not in ("compactions", "days_done", "quarantines")
)
"""Tables with the account in their key, whose rows a renamed account keeps."""
_VERSION = "CREATE TABLE IF NOT EXISTS lake_version (version INTEGER NOT NULL)"
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS runs_by_account ON runs (account, started_us)",
    "CREATE INDEX IF NOT EXISTS runs_by_kind ON runs"
    " (account, kind, started_us, outcome, reasons, since, until, started_on)",
)
_SQLITE_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS compaction_ends_on_{event} AFTER {event} ON partitions BEGIN
    DELETE FROM compactions WHERE table_name = {row}.table_name AND account = {row}.account
        AND month = substr({row}.date, 1, 7);
END
"""
_POSTGRES_TRIGGER = """
CREATE OR REPLACE FUNCTION end_compaction() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE changed partitions := CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END;
BEGIN
    DELETE FROM compactions WHERE table_name = changed.table_name AND account = changed.account
        AND month = substr(changed.date, 1, 7);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER compaction_ends AFTER INSERT OR UPDATE OR DELETE ON partitions
    FOR EACH ROW EXECUTE FUNCTION end_compaction()
"""
"""A compaction is current while its row is there: a change to a partition of the month deletes it.
"""


_POSTGRES_TABLES = (
    """
CREATE TABLE IF NOT EXISTS live_runs (
    run_id TEXT PRIMARY KEY, seen_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    suspected_at TIMESTAMPTZ)
""",
    """
CREATE TABLE IF NOT EXISTS notes (
    folder TEXT, name TEXT, content BYTEA NOT NULL, PRIMARY KEY (folder, name))
""",
)
"""What one machine keeps in lock files and in the files of `state/notes.py`."""


def sqlite_schema() -> Iterator[str]:
    """Yield the statements that create what is missing in SQLite."""
    yield _VERSION
    yield from (f"{table.create} WITHOUT ROWID" for table in _ALL)
    yield from _INDEXES
    for event, row in [("INSERT", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")]:
        yield _SQLITE_TRIGGER.format(event=event, row=row)


def postgres_schema() -> Iterator[str]:
    """Yield the statements that create what is missing in PostgreSQL.

    Texts are compared by their bytes, as SQLite does. Integers have 64 bits.
    """
    from convo_pipeline.graph.rate_limit import CREATE_LIMITS  # readers of SQLite need no limiter

    tables = (*(table.create for table in _ALL), CREATE_LIMITS, *_POSTGRES_TABLES)
    for statement in (_VERSION, *tables):
        yield statement.replace("INTEGER", "BIGINT").replace(" TEXT", ' TEXT COLLATE "C"')
    yield from _INDEXES
    yield _POSTGRES_TRIGGER
