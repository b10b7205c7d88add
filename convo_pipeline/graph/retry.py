"""Decide whether a failed call is sent again, and after how many seconds.

The number of attempts, the total time and every single wait are limited. An error that a smaller
request may avoid (TooMuchDataError) is not retried here: `page_size` requests less.
"""

import threading
from dataclasses import dataclass

from convo_pipeline.errors import GraphError, RetryableError, ThrottledError
from convo_pipeline.graph.codes import REFUSING_STATUSES, attempts_of

HEAVY_ATTEMPTS = 3
"""Attempts of a request with nested messages or a long page: then a smaller page is tried."""
TOTAL_SECONDS = 180.0
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0
MAX_WAIT_SECONDS = 120.0
"""The longest single wait, and the longest waiting time of an account in a run."""
MAX_BLOCK_SECONDS = 24 * 3600.0
"""The longest block of an account, whatever time Meta names."""
THROTTLE_SECONDS = (4.0, 16.0, 64.0, 256.0)
"""Waits after throttle errors if Meta names no time. They grow because calls during a block extend
it. The last one is longer than the longest wait, so that the next run continues."""


@dataclass(frozen=True)
class Retry:
    """Send the call again after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class GiveUp:
    """Raise the error; the account must not send calls for `seconds`."""

    seconds: float = 0.0


def decide(
    error: GraphError,
    attempt: int,
    elapsed_seconds: float,
    *,
    draw: float = 0.5,
    is_heavy: bool = False,
    is_probe: bool = False,
) -> Retry | GiveUp:
    """Decide after `attempt` failed attempts (from 1); `draw` in [0, 1) is the random jitter.

    A probe only tests whether a call still fails: its first error with a code, or with a status
    that rejects the request, is the result.

    >>> from convo_pipeline.errors import GraphFault
    >>> decide(RetryableError(GraphFault(code=2)), 1, 0.3)
    Retry(seconds=0.75)
    >>> decide(ThrottledError(GraphFault(code=613), 1140), 1, 0.3)
    GiveUp(seconds=1140)
    """
    if isinstance(error, ThrottledError):
        return _decide_throttled(error, attempt, draw)
    if not isinstance(error, RetryableError):
        return GiveUp()
    attempts = HEAVY_ATTEMPTS if is_heavy else attempts_of(error)
    if is_probe and (error.fault.code is not None or error.fault.status in REFUSING_STATUSES):
        attempts = 1
    if attempt >= attempts or elapsed_seconds >= TOTAL_SECONDS:
        return GiveUp()
    backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** (attempt - 1), MAX_BACKOFF_SECONDS)
    return Retry(backoff * (0.5 + draw / 2))


def _decide_throttled(error: ThrottledError, attempt: int, draw: float) -> Retry | GiveUp:
    """Wait for Meta's time, at least a second, or for a growing time with jitter added."""
    if error.wait_seconds is None:
        seconds = THROTTLE_SECONDS[min(attempt, len(THROTTLE_SECONDS)) - 1] * (1 + draw / 4)
    else:
        seconds = max(error.wait_seconds, 1.0)
    if seconds > MAX_WAIT_SECONDS or attempt >= len(THROTTLE_SECONDS):
        return GiveUp(seconds)
    return Retry(seconds)


class WaitBudget:
    """How long an account may wait in all; safe for its threads, whose parallel waits count once.

    A client has two: one for the rate limit, for the whole run, and one for the backoff after
    errors, which a successful response renews.

    >>> budget = WaitBudget(120)
    >>> [budget.take(start, seconds) for start, seconds in ((1000, 60), (1010, 50), (2000, 60))]
    [True, True, True]
    >>> budget.take(3000, 1)
    False
    """

    def __init__(self, seconds: float = MAX_WAIT_SECONDS) -> None:
        self._total_seconds = self._remaining_seconds = seconds
        self._waiting_until = float("-inf")
        self._lock = threading.Lock()

    def take(self, start: float, seconds: float) -> bool:
        """Take a wait that starts at a monotonic time; return False if the budget is too small."""
        end = start + seconds
        with self._lock:
            added_seconds = max(0.0, end - max(start, self._waiting_until))
            if added_seconds > self._remaining_seconds:
                return False
            self._remaining_seconds -= added_seconds
            self._waiting_until = max(self._waiting_until, end)
            return True

    def renew(self) -> None:
        """Allow the whole time again."""
        with self._lock:
            self._remaining_seconds = self._total_seconds
