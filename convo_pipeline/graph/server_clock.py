"""Decide when a response was sent: the server's Date compared with other witnesses. Pure.

Neither clock is trusted alone. The witnesses are the machine's clock, the end of what earlier runs
read, the responses of this run, and the times of the messages in the response. While server and
machine differ by less than five minutes, the server's time counts. `graph/listing.py` reads ten
minutes again before a saved position, so such a difference loses nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from convo_pipeline.base.times import EARLIEST, from_us

TOLERANCE = timedelta(minutes=5)
"""Clocks that differ by less agree; it is less than the margin of a listing."""
ONE_DAY = timedelta(days=1)
"""Clocks that differ by more disagree on which days are over."""


@dataclass(frozen=True)
class ResponseTime:
    """When a response was sent, UTC.

    `at` is the most probable time. At `bound` the response was certainly sent already or later: a
    saved position may not be after it. None: nothing shows such a time. `dispute` tells what the
    witnesses say if the clocks differ. `clocks` are then the server's and the machine's time.
    `is_doubtful`: no clock agrees with the messages and the earlier runs, or they differ by a day.
    """

    at: datetime
    bound: datetime | None
    dispute: str = ""
    is_doubtful: bool = False
    clocks: tuple[datetime, ...] = ()

    def may_precede(self, end: datetime) -> bool:
        """Return whether it is uncertain which came first, this response or the end of a day.

        >>> night, hour = datetime(2026, 3, 10), timedelta(hours=1)
        >>> ResponseTime(night, None, clocks=(night - hour, night + hour)).may_precede(night)
        True
        """
        return bool(self.clocks) and min(self.clocks) < end <= max(self.clocks)


class ServerClock:
    """Reads the times of the responses of one run."""

    def __init__(self, known_until: datetime | None = None) -> None:
        """`known_until`: until when earlier runs read; no response of this run is older."""
        self.known_until = known_until
        self.outlier_count = 0
        """Responses whose Date contradicts the other responses of the run."""
        self._anchor: tuple[datetime, float] | None = None
        """The last time on which server and machine agreed, and its monotonic seconds."""

    def read(
        self,
        date: datetime | None,
        now: datetime,
        monotonic_seconds: float,
        activity_us: Iterable[int] = (),
    ) -> ResponseTime:
        """Return the time of a response.

        `date` is its Date header, `now` the machine's time, `activity_us` the times of the
        conversations and messages in it. `activity_us` is read only if the clocks do not agree.
        """
        if date is not None and abs(date - now) <= TOLERANCE:
            self._anchor = date, monotonic_seconds
            return ResponseTime(date, date)
        clocks = [now] if date is None else [date, now]
        if self._anchor:
            at, anchor_seconds = self._anchor
            expected = at + timedelta(seconds=monotonic_seconds - anchor_seconds)
            near = (clock for clock in clocks if abs(clock - expected) <= TOLERANCE)
            at = next(near, expected)
            self.outlier_count += date is not None and at != date
            return ResponseTime(at, at)
        return self._weigh(clocks, activity_us)

    def _weigh(self, clocks: list[datetime], activity_us: Iterable[int]) -> ResponseTime:
        """Return the time that no witness contradicts; if there are two, the earlier one."""
        latest = max(clocks) + TOLERANCE
        activity = sorted(map(from_us, activity_us), reverse=True)
        if len(clocks) == 1:
            # one wrong time of a message must not contradict the only clock
            newest = activity[min(2, len(activity) // 2)] if activity else EARLIEST
        else:
            newest = next((time for time in activity if time <= latest), EARLIEST)
        earliest = max(newest, self.known_until or EARLIEST)
        possible = [clock for clock in clocks if clock + TOLERANCE >= earliest]
        at = min(possible) if possible else max(*clocks, earliest)
        last_known = next((time for time in activity if time <= latest), self.known_until)
        bound = min(at, *(() if possible else clocks), last_known) if last_known else None
        if len(clocks) == 1 and possible:
            return ResponseTime(at, bound)
        witnesses = [
            f"the server's clock is {_text(clocks[0]) if len(clocks) > 1 else 'unknown'}",
            f"this machine's clock is {_text(clocks[-1])}",
            *([f"messages were sent until {_text(newest)}"] if newest > EARLIEST else []),
            *([f"earlier runs read until {_text(self.known_until)}"] if self.known_until else []),
        ]
        is_machine_wrong = len(clocks) > 1 and possible == clocks[:1]
        is_far = max(clocks) - min(clocks) >= ONE_DAY and not is_machine_wrong
        is_doubtful = not possible or is_far
        return ResponseTime(at, bound, "; ".join(witnesses), is_doubtful, tuple(clocks))


def _text(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
