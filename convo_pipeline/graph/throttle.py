"""How long an account may wait in a run, for blocks and after faults, and how many of its calls are in flight."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_SLEEP_SECONDS = 120.0
CALLS_IN_FLIGHT = 4


class WaitBudget:
    """How long an account may be silent in all; safe for its threads, whose waits at the same time count once.

    A client has two: for the blocks of the whole run, and for the pauses after faults, which a good answer renews.

    >>> patience = WaitBudget(120)
    >>> patience.bears(1000, 60), patience.bears(1010, 50), patience.bears(2000, 60), patience.bears(3000, 1)
    (True, True, True, False)
    """

    def __init__(self, seconds: float = LONGEST_SLEEP_SECONDS) -> None:
        self._whole_seconds = self._left_seconds = seconds
        self._silent_until = float("-inf")
        self._lock = threading.Lock()

    def bears(self, start: float, seconds: float) -> bool:
        """Count a wait from the monotonic time `start` on; False, and it is not counted, if it would be too much."""
        end = start + seconds
        with self._lock:
            added_seconds = max(0.0, end - max(start, self._silent_until))
            if added_seconds > self._left_seconds:
                return False
            self._left_seconds -= added_seconds
            self._silent_until = max(self._silent_until, end)
            return True

    def renew(self) -> None:
        """Begin anew: it was not in vain."""
        with self._lock:
            self._left_seconds = self._whole_seconds


class ConcurrencyLimit:
    """How many calls of an account are in flight at a time: four, and one after a throttle answer."""

    def __init__(self) -> None:
        self._limit = CALLS_IN_FLIGHT
        self._in_flight = 0
        self._changed = threading.Condition()

    @contextmanager
    def lane(self) -> Iterator[None]:
        """Delay for a free lane and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < self._limit)
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def narrow(self) -> None:
        """Let one call at a time through for the rest of the run."""
        self._limit = 1
