"""The rate limit in PostgreSQL, for all machines, with the clock of the database.

It takes slots on the connection that holds the account's lock. So a process that lost the lock gets
no slot and sends no call.
"""

from collections.abc import Callable
from typing import TypeVar

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.graph.rate_limit import (
    MAX_AHEAD_SECONDS,
    SELECT_LIMIT,
    LimiterState,
    LimitKey,
    LimitRows,
    LimitTimes,
    StoredLimiter,
)
from convo_pipeline.state.database import Database

T = TypeVar("T")


class PostgresLimiter(StoredLimiter):
    """The rate limit that all machines share through PostgreSQL."""

    def __init__(
        self,
        database: Database,
        key: LimitKey,
        calls_per_second: float = 1.8,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`clock` measures waits in this process. It decides no slot."""
        super().__init__(key, calls_per_second, clock)
        self._database = database

    def close(self) -> None:
        """Do nothing: the connection belongs to the state."""

    def _transact(self, step: Callable[[LimitRows], T], is_durable: bool = False) -> T:
        with self._database.transaction(is_durable) as rows:
            return step(rows)

    def _read_times(self, rows: LimitRows, state: LimiterState | None = None) -> LimitTimes:
        """Return the database's time; if it was set back a little, the time of the last call.

        Then the next call waits until the clock has passed that time again.
        """
        asked_at = self._clock.monotonic_seconds()
        (unix,) = rows.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        known_at = self._clock.monotonic_seconds()
        last_sent = state.last_sent if state else unix
        is_set_back = 0 < last_sent - unix < MAX_AHEAD_SECONDS
        slot_time = last_sent if is_set_back else unix
        return LimitTimes(slot_time, unix, known_at, known_at - asked_at)

    def _read_state(self, rows: LimitRows) -> LimiterState | None:
        row = rows.execute(f"{SELECT_LIMIT} FOR UPDATE", self._key).fetchone()
        return LimiterState(*row) if row else None
