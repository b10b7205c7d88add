"""Open the state, its locks and rate limits where the settings say: SQLite or PostgreSQL."""

import time
from datetime import datetime

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.extras import needs_extra
from convo_pipeline.base.secrets import read_state_url
from convo_pipeline.graph.rate_limit import (
    SELECT_LIMIT,
    LimiterState,
    LimitKey,
    SqliteLimiter,
    StoredLimiter,
    read_block,
)
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.database import STATE_FILE, Database, SqliteDatabase
from convo_pipeline.state.notes import DatabaseNotes, FileNotes, Notes
from convo_pipeline.storage.locks import Locks

LOCKS_FOLDER = "locks"


def open_database(settings: StoreSettings) -> Database:
    """Return the state's database, without a connection to it."""
    url = read_state_url(settings)
    if not url:
        return SqliteDatabase(settings.state_path.absolute() / STATE_FILE)
    with needs_extra("scale"):
        from convo_pipeline.state.postgres import PostgresDatabase

    return PostgresDatabase(url)


def has_state(settings: StoreSettings) -> bool:
    """Whether there can be a state: reading must create no file."""
    return bool(read_state_url(settings)) or (settings.state_path / STATE_FILE).is_file()


def open_locks(settings: StoreSettings, database: Database) -> Locks:
    """Return the locks of the lake: of this machine, or of all with a state in PostgreSQL."""
    folder = settings.state_path.absolute() / LOCKS_FOLDER
    if isinstance(database, SqliteDatabase):
        return Locks(folder)
    from convo_pipeline.state.postgres import PostgresDatabase
    from convo_pipeline.state.postgres_locks import PostgresLocks

    assert isinstance(database, PostgresDatabase)
    return PostgresLocks(folder, database)


def open_notes(settings: StoreSettings, database: Database) -> Notes:
    """Return the notes of the lake: files of this machine, or rows in PostgreSQL."""
    if isinstance(database, SqliteDatabase):
        return FileNotes(settings.state_path.absolute())
    return DatabaseNotes(database)


def open_limiter(
    database: Database, key: LimitKey, calls_per_second: float, clock: Clock = SYSTEM_CLOCK
) -> StoredLimiter:
    """Return the rate limit of an account."""
    if isinstance(database, SqliteDatabase):
        return SqliteLimiter(database.path, key, calls_per_second, clock, database.lock)
    from convo_pipeline.state.postgres_limiter import PostgresLimiter

    return PostgresLimiter(database, key, calls_per_second, clock)


def blocked_until(database: Database, key: LimitKey, now: datetime) -> datetime | None:
    """Return until when an account is blocked, or None; creates no SQLite file."""
    if isinstance(database, SqliteDatabase):
        return read_block(database.path, key, now)
    rows = database.select(SELECT_LIMIT, *key)
    return LimiterState(*rows[0]).block_end(now) if rows else None


def count_lock_waits(database: Database) -> int:
    """Return how many connections wait for a lock of a row or table; 0 in SQLite."""
    if isinstance(database, SqliteDatabase):
        return 0
    ((count,),) = database.select(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'convo-pipeline'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    return int(count)


def read_blocks(database: Database) -> list[tuple[object, ...]]:
    """Return (host, page_id, platform, unix seconds) of every block after a throttle error."""
    sql = "SELECT host, page_id, platform, blocked_until FROM rate_limits WHERE blocked_until > 0"
    if isinstance(database, SqliteDatabase):
        exists = "SELECT 1 FROM sqlite_master WHERE name = 'rate_limits'"
        return database.select(sql) if database.select(exists) else []
    return database.select(sql)


def save_blocks(database: Database, blocks: list[tuple[object, ...]]) -> None:
    """Add blocks to those of a database. Send times are not copied: clocks differ."""
    for host, page_id, platform, until in blocks:
        key = LimitKey(str(host), str(page_id), str(platform))
        open_limiter(database, key, 1.0).block(float(str(until)) - time.time())
