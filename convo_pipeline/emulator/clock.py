"""The emulator's clock: the machine's clock, or one that a test moves."""

import time
from datetime import UTC, datetime

MICROSECONDS = 1_000_000


class VirtualClock:
    """A clock that stands still at `start`; without `start` it follows the machine's clock.

    >>> clock = VirtualClock(datetime(2026, 2, 19, tzinfo=UTC))
    >>> clock.advance(90)
    >>> clock.now().isoformat()
    '2026-02-19T00:01:30+00:00'
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._start_us = None if start is None else to_us(start)
        self._offset_us = 0

    def now_us(self) -> int:
        base = time.time_ns() // 1000 if self._start_us is None else self._start_us
        return base + self._offset_us

    def now(self) -> datetime:
        return from_us(self.now_us())

    def advance(self, seconds: float) -> None:
        """Move the clock; a negative number sets it back."""
        self._offset_us += round(seconds * MICROSECONDS)

    def set(self, moment: datetime) -> None:
        """Set the clock to `moment`."""
        self._offset_us += to_us(moment) - self.now_us()


def to_us(moment: datetime) -> int:
    """Return the microseconds since 1970 of an aware time."""
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS + delta.microseconds


def from_us(microseconds: int) -> datetime:
    seconds, rest = divmod(microseconds, MICROSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
