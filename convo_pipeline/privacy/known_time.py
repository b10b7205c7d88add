"""How far the machine's clock is believed where a wrong one would destroy: retention expires by it.

Meta's servers tell the time, and each complete listing keeps it. Up to two days past the newest time told the clock is
believed. Where nothing was told since the last upkeep (an account was switched off, a token died) its own steps are, from one
upkeep to the next, of two days at most: nights that were lived through count, so that rows leave in time although nobody
answers, and a clock that jumps ahead is not followed. What is not believed is said: a person who knows better says so once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from convo_pipeline.base.times import from_us, to_us
from convo_pipeline.state.state import State

MOST_AHEAD = timedelta(days=2)
NOBODY = ""
"""Under this name, which no account can have, the state remembers the upkeep's last look at the clock."""
_MEMORY = "clock"


@dataclass(frozen=True)
class Look:
    """A look at the clock: what it said, what was believed, and the newest time a server had told by then."""

    clock_at: datetime
    believed_at: datetime
    told_at: datetime | None = None


@dataclass(frozen=True)
class KnownTime:
    """What is believed, and what is wrong with the clock; None if nothing is."""

    at: datetime
    doubt: str | None = None


def believe(now: datetime, told_at: datetime | None, last: Look | None) -> datetime:
    """Return the time that is believed when the clock says `now`; never later than that.

    >>> from datetime import UTC
    >>> day = lambda number: datetime(2026, 3, number, tzinfo=UTC)
    >>> believe(day(4), day(3), None).day, believe(day(9), day(3), None).day
    (4, 3)
    >>> believe(day(9), day(3), Look(day(8), day(8), day(3))).day, believe(day(20), day(3), Look(day(8), day(8), day(3))).day
    (9, 8)
    """
    if told_at is not None:
        if now <= told_at + MOST_AHEAD:
            return now
        if last is None or last.told_at is None or told_at > last.told_at:
            return told_at
    if last is None:
        return now
    step = now - last.clock_at
    return min(
        now, last.believed_at + step if timedelta(0) <= step <= MOST_AHEAD else last.believed_at
    )


def look_at_clock(state: State, now: datetime) -> KnownTime:
    """Return what is believed of a clock that says `now`."""
    told_at, last = state.last_server_time(), _read(state.memory(NOBODY).get(_MEMORY))
    at = believe(now, told_at, last)
    if at == now:
        return KnownTime(now)
    known = (
        f"the newest time a server told is {told_at:%Y-%m-%d %H:%M}"
        if told_at
        else "no server told a time"
    )
    return KnownTime(
        at,
        f"the machine's clock says {now:%Y-%m-%d %H:%M} UTC, but {known} and no upkeep ran in the last two days by it:"
        f" rows leave as if it were {at:%Y-%m-%d}. Correct the clock; if it is right, the next complete run shows it, or say so by"
        " `convo-pipeline expire --trust-clock`",
    )


def remember_look(state: State, now: datetime, believed_at: datetime) -> None:
    """Keep what was believed, for the next look to go on from."""
    told_at = state.last_server_time()
    look = {
        "clock_us": to_us(now),
        "believed_us": to_us(believed_at),
        "told_us": to_us(told_at) if told_at else None,
    }
    state.save_memory(NOBODY, state.memory(NOBODY) | {_MEMORY: look})


def _read(value: object) -> Look | None:
    if not isinstance(value, Mapping):
        return None
    told_us = value["told_us"]
    return Look(
        from_us(value["clock_us"]),
        from_us(value["believed_us"]),
        from_us(told_us) if told_us else None,
    )
