"""Limits for calls: calls a second of all processes, parallel calls of one account, calls of a run.

Meta allows 2 calls a second per Page and per Instagram account (Messenger rate limits, March 2026).
The rate limit is a row in the state database and uses the generic cell rate algorithm (GCRA) with a
gap of 1 / calls_per_second. The time of a call is written inside the transaction.

pyrate-limiter 4.5 with its SQLite bucket was tried with 4 processes. Spaced by 556 ms it sent 1.64
calls a second, because it polls. With 2 calls per window it sent pairs 0.3 ms apart. Its clock is
the wall clock, so a clock step lets calls through, and it has no block for all processes.

Gaps use the monotonic clock, which all processes of a machine share; a value from before a reboot
is ignored. Blocks use the wall clock, because Meta's block outlives a reboot. In PostgreSQL both
are the clock of the database (`state/postgres_limiter.py`): machines have different clocks.
"""

import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import BudgetError, GraphFault, StoreError, ThrottledError
from convo_pipeline.graph.retry import MAX_BLOCK_SECONDS, MAX_WAIT_SECONDS, WaitBudget

MAX_AHEAD_SECONDS = 60.0
"""A next slot more than this and ten gaps ahead is from before a reboot."""
PAIR_SHARE = 1.95
"""A call and the second call after it are at least so many gaps apart. At 1.8 calls a second that
is 1.083 s, so that three calls never fall into one second."""
RESTAMP_SECONDS = 0.02
"""A caller that was delayed by more than this since its stamp corrects it before it sends."""
TRIP_SECONDS = 0.05
"""Reading a clock of another machine may take so long; with the time above it is less than the
reserve of a pair. What it takes longer is added to the stamp."""
CATCH_UP_SECONDS = 0.2
"""A caller that is late by no more than this does not delay the slots after its own."""
SLOW_DOWN = ((95.0, 8.0), (90.0, 4.0), (80.0, 2.0))
"""From this percentage in a usage header on, the gap is multiplied by this factor ..."""
SLOW_DOWN_SECONDS = 120.0
"""... for so long after the last such header."""
PLATFORMS = ("instagram", "messenger")

CREATE_LIMITS = """
CREATE TABLE IF NOT EXISTS rate_limits (
    host TEXT NOT NULL, page_id TEXT NOT NULL, platform TEXT NOT NULL,
    next_slot DOUBLE PRECISION NOT NULL DEFAULT 0,
    last_sent DOUBLE PRECISION NOT NULL DEFAULT -1e9,
    sent_before DOUBLE PRECISION NOT NULL DEFAULT -1e9,
    blocked_until DOUBLE PRECISION NOT NULL DEFAULT 0,
    slow_until DOUBLE PRECISION NOT NULL DEFAULT 0,
    slow_factor DOUBLE PRECISION NOT NULL DEFAULT 1,
    PRIMARY KEY (host, page_id, platform)
)
"""
"""The table in SQLite and PostgreSQL: both store these numbers with 64 bits."""
_INSERT = """
INSERT INTO rate_limits (host, page_id, platform) VALUES (?, ?, ?) ON CONFLICT DO NOTHING
"""
_WHERE = "WHERE host = ? AND page_id = ? AND platform = ?"
_COLUMNS = "next_slot, last_sent, sent_before, blocked_until, slow_until, slow_factor"
SELECT_LIMIT = f"SELECT {_COLUMNS} FROM rate_limits {_WHERE}"  # noqa: S608
_STAMP = f"UPDATE rate_limits SET next_slot = ?, last_sent = ?, sent_before = ? {_WHERE}"  # noqa: S608
_RESTAMP = f"""
UPDATE rate_limits SET last_sent = CASE WHEN last_sent = ? THEN ? ELSE last_sent END,
    sent_before = CASE WHEN sent_before = ? THEN ? ELSE sent_before END
{_WHERE}
"""  # noqa: S608
_BLOCK = """
UPDATE rate_limits SET blocked_until = ? WHERE host = ? AND page_id = ? AND blocked_until < ?
"""
_SLOW = f"UPDATE rate_limits SET slow_until = ?, slow_factor = ? {_WHERE}"  # noqa: S608

T = TypeVar("T")


class LimitRows(Protocol):
    """An open transaction on the table `rate_limits`."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Any:
        """Run one statement; return a cursor."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each row of values."""


class LimitKey(NamedTuple):
    """What Meta counts separately."""

    host: str
    page_id: str
    platform: str


class RateLimiter(Protocol):
    """Called before every call of the API."""

    def acquire(self, budget: WaitBudget | None = None) -> float:
        """Wait until one call may be sent; return the seconds waited because of a block.

        Raises ThrottledError if a block is longer than `budget` allows (without one: 120 s).
        """

    def correct(self) -> None:
        """Tell that this thread has sent its call now: it may have left long after `acquire`."""

    def block(self, seconds: float) -> None:
        """Let no process call this Page, on either platform, for so long."""

    def slow_down(self, percent: float) -> None:
        """Space calls out according to the percentage of a usage header."""


class NoRateLimit:
    """Lets every call pass at once: for tests and for servers without a limit."""

    def acquire(self, budget: WaitBudget | None = None) -> float:
        return 0.0

    def correct(self) -> None:
        pass

    def block(self, seconds: float) -> None:
        pass

    def slow_down(self, percent: float) -> None:
        pass


NO_LIMIT = NoRateLimit()


@dataclass(frozen=True)
class LimiterState:
    """The row of one key: slots and send times in monotonic seconds, the rest in unix seconds.

    In PostgreSQL all of them are seconds of the database's clock since 1970.
    """

    next_slot: float = 0.0
    last_sent: float = -1e9
    sent_before: float = -1e9
    blocked_until: float = 0.0
    slow_until: float = 0.0
    slow_factor: float = 1.0

    def blocked_seconds(self, unix: float) -> float:
        """Return how long the block still lasts; 0 for no block or an impossible one."""
        seconds = self.blocked_until - unix
        return seconds if 0 < seconds <= MAX_BLOCK_SECONDS else 0.0

    def block_end(self, now: datetime) -> datetime | None:
        """Return until when the block lasts; None for no block or an impossible one."""
        seconds = self.blocked_seconds(now.timestamp())
        return now + timedelta(seconds=seconds) if seconds else None


@dataclass(frozen=True)
class Delay:
    """No call may be sent for so many seconds, because of a block or of the gap between calls."""

    seconds: float
    is_block: bool


class LimitTimes(NamedTuple):
    """The time of a step in the row's two clocks, and in this process when it knew them.

    `trip_seconds` is how long reading the clocks took.
    """

    monotonic: float
    unix: float
    known_at: float
    trip_seconds: float = 0.0

    def of_call(self) -> "LimitTimes":
        """Return the times for a call's stamp: late enough, however long reading them took."""
        extra_seconds = max(0.0, self.trip_seconds - TRIP_SECONDS)
        return self._replace(monotonic=self.monotonic + extra_seconds)


def next_step(
    state: LimiterState, monotonic: float, unix: float, gap_seconds: float
) -> Delay | LimiterState:
    """Return the state after a call that is sent now, or how long to wait for it. Pure.

    >>> next_step(LimiterState(next_slot=10.5, last_sent=10.0), 10.25, 0, 0.5)
    Delay(seconds=0.25, is_block=False)
    """
    if blocked_seconds := state.blocked_seconds(unix):
        return Delay(blocked_seconds, is_block=True)
    latest_slot = monotonic + MAX_AHEAD_SECONDS + 10 * gap_seconds
    if state.last_sent > monotonic or state.next_slot > latest_slot:  # from before a reboot
        state = replace(state, next_slot=0.0, last_sent=-1e9, sent_before=-1e9)
    is_slow = 0 < state.slow_until - unix <= SLOW_DOWN_SECONDS
    gap = gap_seconds * (state.slow_factor if is_slow else 1.0)
    seconds = max(state.next_slot, state.sent_before + PAIR_SHARE * gap_seconds) - monotonic
    if seconds > 0:
        return Delay(seconds, is_block=False)
    is_just_late = monotonic - state.next_slot <= min(CATCH_UP_SECONDS, gap_seconds / 2)
    slot = state.next_slot if is_just_late else monotonic
    return replace(state, next_slot=slot + gap, last_sent=monotonic, sent_before=state.last_sent)


def slow_factor(percent: float) -> float:
    """Return the factor for the gap between calls at this usage.

    >>> [slow_factor(percent) for percent in (50, 80, 93, 100)]
    [1.0, 2.0, 4.0, 8.0]
    """
    return next((factor for least, factor in SLOW_DOWN if percent >= least), 1.0)


class StoredLimiter(ABC):
    """The rate limit in one row of a table; safe for threads and forks."""

    def __init__(self, key: LimitKey, calls_per_second: float, clock: Clock) -> None:
        self._key = LimitKey(*key)
        self._gap_seconds = 1.0 / calls_per_second
        self._clock = clock
        self._factor = 1.0
        self._factor_until = 0.0
        self._last = threading.local()
        """The stamp of each thread's last call."""

    def acquire(self, budget: WaitBudget | None = None) -> float:
        """Wait until one call may be sent; return the seconds waited because of a block."""
        blocked_seconds = 0.0
        budget = budget or WaitBudget()
        while isinstance(stamp := self._transact(self._take_slot), Delay):
            if stamp.is_block:
                blocked_seconds += stamp.seconds
                now = self._clock.monotonic_seconds()
                is_too_long = blocked_seconds > MAX_WAIT_SECONDS
                if is_too_long or not budget.take(now, stamp.seconds):
                    raise self._throttled(stamp.seconds)
            self._clock.sleep(stamp.seconds)
        while (moved := self._restamp(stamp)) is not stamp:
            stamp = moved
        self._last.stamp = stamp
        return blocked_seconds

    def correct(self) -> None:
        """Move the stamp of this thread's call if it left late.

        A new connection takes two round trips with TLS, and a busy machine stops a process.
        """
        stamp: LimitTimes | None = getattr(self._last, "stamp", None)
        if stamp is not None:
            self._last.stamp = self._restamp(stamp)

    def block(self, seconds: float) -> None:
        """Let no process call this Page, on either platform, for so long; never shorten a block."""
        seconds = min(max(seconds, 0.0), MAX_BLOCK_SECONDS)
        platforms = {*PLATFORMS, self._key.platform}

        def write(rows: LimitRows) -> None:
            until = self._read_times(rows).unix + seconds
            keys = [self._key._replace(platform=platform) for platform in sorted(platforms)]
            rows.executemany(_INSERT, keys)
            rows.execute(_BLOCK, (until, self._key.host, self._key.page_id, until))

        self._transact(write, is_durable=True)

    def slow_down(self, percent: float) -> None:
        """Space calls out if a usage header is near the limit; a lower one ends that."""
        factor, now = slow_factor(percent), self._clock.now().timestamp()
        is_recent = now < self._factor_until - SLOW_DOWN_SECONDS / 2
        if factor == self._factor and (factor == 1.0 or is_recent):
            return
        self._factor, self._factor_until = factor, now + SLOW_DOWN_SECONDS

        def write(rows: LimitRows) -> None:
            until = self._read_times(rows).unix + SLOW_DOWN_SECONDS
            rows.execute(_SLOW, (until, factor, *self._key))

        self._transact(write)

    @abstractmethod
    def close(self) -> None:
        """Close what the limiter opened itself."""

    @abstractmethod
    def _transact(self, step: Callable[[LimitRows], T], is_durable: bool = False) -> T:
        """Run a step in a write transaction; raise StoreError if the database cannot be used."""

    @abstractmethod
    def _read_times(self, rows: LimitRows, state: LimiterState | None = None) -> LimitTimes:
        """Return the current time for a step from this state."""

    @abstractmethod
    def _read_state(self, rows: LimitRows) -> LimiterState | None:
        """Return the row, locked for this transaction; None if there is none."""

    def _take_slot(self, rows: LimitRows) -> Delay | LimitTimes:
        """Return when the call is sent, or how long to wait."""
        state = self._read_state(rows)
        if state is None:
            rows.execute(_INSERT, self._key)
            state = self._read_state(rows) or LimiterState()
        times = self._read_times(rows, state)
        step = next_step(state, times.monotonic, times.unix, self._gap_seconds)
        if isinstance(step, Delay):
            return step
        stamp = times.of_call()
        rows.execute(_STAMP, (step.next_slot, stamp.monotonic, step.sent_before, *self._key))
        return stamp

    def _restamp(self, stamp: LimitTimes) -> LimitTimes:
        """Move a stamp that has become old to now; return the valid stamp."""
        age_seconds = self._clock.monotonic_seconds() - stamp.known_at
        if age_seconds <= RESTAMP_SECONDS + stamp.trip_seconds:
            return stamp

        def move(rows: LimitRows) -> LimitTimes:
            moved = self._read_times(rows).of_call()
            rows.execute(_RESTAMP, (*(stamp.monotonic, moved.monotonic) * 2, *self._key))
            return moved

        return self._transact(move)

    def _throttled(self, seconds: float) -> ThrottledError:
        resume_at = datetime.fromtimestamp(self._clock.now().timestamp() + seconds, UTC)
        reason = "the account is blocked after a throttle error"
        return ThrottledError(GraphFault(reason=reason), seconds, resume_at)


class SqliteLimiter(StoredLimiter):
    """The rate limit that all processes of a machine share through one file."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: LimitKey,
        calls_per_second: float = 1.8,
        clock: Clock = SYSTEM_CLOCK,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """`lock` is shared with this process's other writers of the file, so that none polls."""
        super().__init__(key, calls_per_second, clock)
        self._path = Path(path)
        self._lock = lock or threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process_id = 0

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _read_times(self, rows: LimitRows, state: LimiterState | None = None) -> LimitTimes:
        monotonic = self._clock.monotonic_seconds()
        return LimitTimes(monotonic, self._clock.now().timestamp(), monotonic)

    def _read_state(self, rows: LimitRows) -> LimiterState | None:
        row = rows.execute(SELECT_LIMIT, self._key).fetchone()
        return LimiterState(*row) if row else None

    def _transact(self, step: Callable[[LimitRows], T], is_durable: bool = False) -> T:
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
                reason = f"the rate limiter's file {self._path} cannot be used: {error}"
                raise StoreError(reason) from None

    def _connect(self) -> sqlite3.Connection:
        """Open the file once per process: a connection does not survive a fork."""
        if self._connection is None or self._process_id != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(
                self._path, timeout=30, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"{CREATE_LIMITS} WITHOUT ROWID")
            self._connection, self._process_id = connection, os.getpid()
        return self._connection


def read_block(path: str | os.PathLike[str], key: LimitKey, now: datetime) -> datetime | None:
    """Return until when an account is blocked, or None; creates no file."""
    if not Path(path).is_file():
        return None
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            row = connection.execute(SELECT_LIMIT, key).fetchone()
    except sqlite3.OperationalError:  # no call was made yet: the table does not exist
        return None
    return LimiterState(*row).block_end(now) if row else None


class CallBudget:
    """How many calls an account may still send in this run."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def remaining(self) -> int:
        return self._limit - self._used

    def spend(self) -> None:
        """Count one call; raise BudgetError if none is left."""
        with self._lock:
            if self._used >= self._limit:
                raise BudgetError(
                    f"the account used all of its {self._limit} calls of this run"
                    " (graph.calls_per_run)"
                )
            self._used += 1


class ConcurrencyLimit:
    """How many calls of an account run in parallel: `limit`, and one after a throttle error."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running_count = 0
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a free slot and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self._running_count < self._limit)
            self._running_count += 1
        try:
            yield
        finally:
            with self._changed:
                self._running_count -= 1
                self._changed.notify_all()

    def reduce_to_one(self) -> None:
        """Send one call at a time for the rest of the run."""
        self._limit = 1
