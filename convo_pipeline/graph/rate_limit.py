"""Never more than the allowed calls a second per Page or Instagram account, over all threads and processes.

Meta allows 2 calls a second per Page and per Instagram account (Messenger rate limits, March 2026). The limiter is a
row of a SQLite file: GCRA with a gap of 1 / calls_per_second, the send stamp taken inside the write transaction.

pyrate-limiter 4.5 with its file-locked SQLite bucket was tried with 4 processes: spaced by 556 ms it reached 1.64
calls a second (it polls), as 2 calls per window it sends pairs 0.3 ms apart with no slack at the server. Its lock is,
by its own words, for one thread per process; it stamps wall-clock milliseconds, so a clock step lets calls through;
and it has no block that Meta's throttle answers could set for every process. What is needed fits below.

LimiterState use the monotonic clock (on one machine the same for all processes; a value from before a reboot is clamped),
blocks use the wall clock (Meta's penalty outlives a reboot).
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import BudgetError, GraphFault, StoreError, ThrottledError
from convo_pipeline.graph.throttle import LONGEST_SLEEP_SECONDS, WaitBudget

LONGEST_BLOCK_SECONDS = 24 * 3600.0
FURTHEST_SLOT_SECONDS = 60.0
"""A slot further ahead than this and ten gaps is from before a reboot."""
PAIR_SHARE = 1.95
"""A call and the second one after it are at least this many gaps apart, whatever the scheduler does:
at 1.8 a second 1.083 s, so that a third call never falls into one closed second."""
RESTAMP_SECONDS = 0.02
"""A caller that the machine held up for longer than this since its stamp corrects the stamp before it sends."""
CATCH_UP_SECONDS = 0.2
"""A caller that woke up late by no more than this does not put off the slots behind its own."""
SLOW_DOWN = ((95.0, 8.0), (90.0, 4.0), (80.0, 2.0))
"""From this percentage of a usage header on, the gap is so many times as long ..."""
SLOW_DOWN_SECONDS = 120.0
"""... for so long after the last such header."""
PLATFORMS = ("instagram", "messenger")

_CREATE = """
CREATE TABLE IF NOT EXISTS rate_limits (
    host TEXT NOT NULL, page_id TEXT NOT NULL, platform TEXT NOT NULL,
    next_slot REAL NOT NULL DEFAULT 0, last_sent REAL NOT NULL DEFAULT -1e9, sent_before REAL NOT NULL DEFAULT -1e9,
    blocked_until REAL NOT NULL DEFAULT 0, slow_until REAL NOT NULL DEFAULT 0, slow_factor REAL NOT NULL DEFAULT 1,
    PRIMARY KEY (host, page_id, platform)
) WITHOUT ROWID
"""
_INSERT = "INSERT OR IGNORE INTO rate_limits (host, page_id, platform) VALUES (?, ?, ?)"
_WHERE = "WHERE host = ? AND page_id = ? AND platform = ?"
_SELECT = f"SELECT next_slot, last_sent, sent_before, blocked_until, slow_until, slow_factor FROM rate_limits {_WHERE}"  # noqa: S608
_STAMP = f"UPDATE rate_limits SET next_slot = ?, last_sent = ?, sent_before = ? {_WHERE}"  # noqa: S608
_RESTAMP = """
UPDATE rate_limits SET last_sent = CASE WHEN last_sent = ?1 THEN ?2 ELSE last_sent END,
    sent_before = CASE WHEN sent_before = ?1 THEN ?2 ELSE sent_before END
WHERE host = ?3 AND page_id = ?4 AND platform = ?5
"""
_BLOCK = (
    "UPDATE rate_limits SET blocked_until = max(blocked_until, ?) WHERE host = ? AND page_id = ?"
)
_SLOW = f"UPDATE rate_limits SET slow_until = ?, slow_factor = ? {_WHERE}"  # noqa: S608

T = TypeVar("T")


class LimitKey(NamedTuple):
    """What Meta counts separately."""

    host: str
    page_id: str
    platform: str


class RateLimiter(Protocol):
    """Who is asked before every call."""

    def acquire(self, patience: WaitBudget | None = None) -> float:
        """Delay for the right to send one call; return the seconds waited for a block.

        Raises ThrottledError instead of waiting longer for blocks than `patience` bears (without one: 120 s).
        """

    def block(self, seconds: float) -> None:
        """Let no process call this Page, on either platform, for so long."""

    def slow_down(self, percent: float) -> None:
        """Heed a usage header."""


class NoRateLimit:
    """Lets every call pass at once: for servers that have no limit, and accelerated tests."""

    def acquire(self, patience: WaitBudget | None = None) -> float:
        return 0.0

    def block(self, seconds: float) -> None:
        pass

    def slow_down(self, percent: float) -> None:
        pass


NO_LIMIT = NoRateLimit()


@dataclass(frozen=True)
class LimiterState:
    """The row of one key. LimiterState and stamps are monotonic seconds, the rest is unix time."""

    next_slot: float = 0.0
    last_sent: float = -1e9
    sent_before: float = -1e9
    blocked_until: float = 0.0
    slow_until: float = 0.0
    slow_factor: float = 1.0


@dataclass(frozen=True)
class Delay:
    """Not yet: so many seconds, because of a block or of the pace."""

    seconds: float
    is_block: bool


def next_step(
    slots: LimiterState, monotonic: float, unix: float, gap_seconds: float
) -> Delay | LimiterState:
    """Return the row after a call sent now, or how long to wait before asking again. Pure.

    >>> next_step(LimiterState(next_slot=10.5, last_sent=10.0), 10.25, 0, 0.5)
    Delay(seconds=0.25, is_block=False)
    """
    blocked_seconds = slots.blocked_until - unix
    if 0 < blocked_seconds <= LONGEST_BLOCK_SECONDS:
        return Delay(blocked_seconds, is_block=True)
    if max(slots.last_sent, slots.next_slot - FURTHEST_SLOT_SECONDS - 10 * gap_seconds) > monotonic:
        slots = LimiterState(
            blocked_until=slots.blocked_until,
            slow_until=slots.slow_until,
            slow_factor=slots.slow_factor,
        )
    is_slow = 0 < slots.slow_until - unix <= SLOW_DOWN_SECONDS
    gap = gap_seconds * (slots.slow_factor if is_slow else 1.0)
    seconds = max(slots.next_slot, slots.sent_before + PAIR_SHARE * gap_seconds) - monotonic
    if seconds > 0:
        return Delay(seconds, is_block=False)
    is_just_late = monotonic - slots.next_slot <= min(CATCH_UP_SECONDS, gap_seconds / 2)
    scheduled = slots.next_slot if is_just_late else monotonic
    return LimiterState(
        scheduled + gap,
        monotonic,
        slots.last_sent,
        slots.blocked_until,
        slots.slow_until,
        slots.slow_factor,
    )


def slow_factor(percent: float) -> float:
    """Return by how much calls are spaced out at this usage.

    >>> [slow_factor(percent) for percent in (50, 80, 93, 100)]
    [1.0, 2.0, 4.0, 8.0]
    """
    return next((factor for least, factor in SLOW_DOWN if percent >= least), 1.0)


class SqliteLimiter:
    """The limiter that all processes share through one file; safe for threads and across forks.

    `lock` is the one that this process's other writers to that file hold, so that its threads do not poll for the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: LimitKey,
        calls_per_second: float = 1.8,
        clock: Clock = SYSTEM_CLOCK,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._path = Path(path)
        self._key = LimitKey(*key)
        self._gap_seconds = 1.0 / calls_per_second
        self._clock = clock
        self._lock = lock or threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process_id = 0
        self._factor = 1.0
        self._factor_until = 0.0

    def acquire(self, patience: WaitBudget | None = None) -> float:
        """Delay for the right to send one call; return the seconds waited for a block."""
        blocked_seconds = 0.0
        patience = patience or WaitBudget()
        while isinstance(wait := self._transact(self._take), Delay):
            if wait.is_block:
                blocked_seconds += wait.seconds
                now = self._clock.monotonic_seconds()
                if blocked_seconds > LONGEST_SLEEP_SECONDS or not patience.bears(now, wait.seconds):
                    raise self._throttled(wait.seconds)
            self._clock.sleep(wait.seconds)
        stamp = wait
        while (moved := self._restamp(stamp)) != stamp:
            stamp = moved
        return blocked_seconds

    def _restamp(self, stamp: float) -> float:
        """Move a stamp that has become old to now; return the stamp that holds."""
        now = self._clock.monotonic_seconds()
        if now - stamp <= RESTAMP_SECONDS:
            return stamp
        self._transact(
            lambda connection: connection.execute(_RESTAMP, (stamp, now, *self._key)) and None
        )
        return now

    def block(self, seconds: float) -> None:
        """Let no process call this Page, on either platform, for so long; never shortens a block."""
        until = self._clock.now().timestamp() + min(max(seconds, 0.0), LONGEST_BLOCK_SECONDS)
        siblings = {
            LimitKey(self._key.host, self._key.page_id, platform)
            for platform in (*PLATFORMS, self._key.platform)
        }

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(_INSERT, sorted(siblings))
            connection.execute(_BLOCK, (until, self._key.host, self._key.page_id))

        self._transact(write)

    def slow_down(self, percent: float) -> None:
        """Space calls out when a usage header comes near the wall; a lower one lifts it again."""
        factor, now = slow_factor(percent), self._clock.now().timestamp()
        if factor == self._factor and (
            factor == 1.0 or now < self._factor_until - SLOW_DOWN_SECONDS / 2
        ):
            return
        self._factor, self._factor_until = factor, now + SLOW_DOWN_SECONDS
        until = self._factor_until
        self._transact(
            lambda connection: connection.execute(_SLOW, (until, factor, *self._key)) and None
        )

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _take(self, connection: sqlite3.Connection) -> Delay | float:
        row = connection.execute(_SELECT, self._key).fetchone()
        if row is None:
            connection.execute(_INSERT, self._key)
        slots = LimiterState(*row) if row else LimiterState()
        step = next_step(
            slots, self._clock.monotonic_seconds(), self._clock.now().timestamp(), self._gap_seconds
        )
        if isinstance(step, Delay):
            return step
        connection.execute(_STAMP, (step.next_slot, step.last_sent, step.sent_before, *self._key))
        return step.last_sent

    def _throttled(self, seconds: float) -> ThrottledError:
        resume_at = datetime.fromtimestamp(self._clock.now().timestamp() + seconds, UTC)
        return ThrottledError(
            GraphFault(reason="the account is blocked after a throttle answer"), seconds, resume_at
        )

    def _transact(self, step: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                connection = self._connect()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = step(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise
                return result
            except sqlite3.Error as error:
                raise StoreError(
                    f"the rate limiter's file {self._path} cannot be used: {error}"
                ) from None

    def _connect(self) -> sqlite3.Connection:
        """Open once per process: a connection does not survive a fork."""
        if self._connection is None or self._process_id != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(
                self._path, timeout=30, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_CREATE)
            self._connection, self._process_id = connection, os.getpid()
        return self._connection


def read_block(path: str | os.PathLike[str], key: LimitKey, now: datetime) -> datetime | None:
    """Return until when no call may be sent, None if calls may; reads only, and makes no file."""
    if not Path(path).is_file():
        return None
    place = f"{Path(path).absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(place, uri=True, timeout=5)) as connection:
            row = connection.execute(_SELECT, key).fetchone()
    except sqlite3.OperationalError:  # no call was ever made: there is no such table
        return None
    seconds = LimiterState(*row).blocked_until - now.timestamp() if row else 0.0
    return now + timedelta(seconds=seconds) if 0 < seconds <= LONGEST_BLOCK_SECONDS else None


class CallBudget:
    """How many calls an account may still make in this run: no loop eats a day's quota."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        return self._limit - self._used

    def spend(self) -> None:
        """Count one call; raise BudgetError if none is left."""
        with self._lock:
            if self._used >= self._limit:
                raise BudgetError(
                    f"the account used up its {self._limit} calls for this run (graph.calls_per_run)"
                )
            self._used += 1
