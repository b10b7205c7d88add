"""How far a conversation must be walked, decided from what was shown and what is held. Pure.

Times are parse_time_us since 1970, UTC.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import EARLIEST_US, parse_time_us
from convo_pipeline.extract.observations import lacks_content
from convo_pipeline.schema import READABLE_COUNT

UNBOUNDED_US = 0
"""`complete_since_us` of a conversation that was walked to its first message."""


@dataclass(frozen=True)
class Held:
    """What the store holds of a conversation without a gap: from its newest message down to a time."""

    newest_message_id: str | None
    complete_since_us: int
    until_us: int | None = None
    """Up to which last activity that was so, where it is known."""


@dataclass(frozen=True)
class Walk:
    """A walk from the newest message down; each page extends it."""

    since_us: int
    held: Held | None
    count: int = 0
    newest_message_id: str | None = None
    low_us: int | None = None
    met_held: bool = False

    def extend(self, entries: Sequence[object]) -> "Walk":
        """Return the walk with one more page, newest first.

        Only the first and the last time of a page are looked at: where the order in between is broken, that
        claims less than was seen, never more.
        """
        lows = [self.low_us, _first_time(entries), _first_time(reversed(entries))]
        return Walk(
            self.since_us,
            self.held,
            self.count + len(entries),
            self.newest_message_id or next(filter(None, map(readable_id, entries)), None),
            min((low for low in lows if low is not None), default=None),
            self.met_held
            or (self.held is not None and self.held.newest_message_id in map(readable_id, entries)),
        )

    def stored_clue(self, entries: Sequence[object]) -> tuple[str, int] | None:
        """Return id and time of a shown message that lies within what is held, if its newest was not met: it may be unsent.

        If that message is stored, nothing is missing between it and the held past.
        """
        if self.met_held or self.held is None or self.held.until_us is None:
            return None
        last = next((entry for entry in reversed(entries) if isinstance(entry, dict)), {})
        message_id, created_us = readable_id(last), parse_time_us(last.get("created_time"))
        if message_id is None or created_us is None:
            return None
        is_within = self.held.complete_since_us <= created_us < self.held.until_us
        return (message_id, created_us) if is_within else None

    def meet(self) -> "Walk":
        """Return the walk as having come to what is held."""
        return replace(self, met_held=True)

    @property
    def is_contiguous_with_held(self) -> bool:
        """What is held below reaches the window's start: nothing is missing between."""
        return (
            self.met_held and self.held is not None and self.held.complete_since_us <= self.since_us
        )

    @property
    def is_deep_enough(self) -> bool:
        """The last page ended before the window, or on what is held."""
        return self.is_contiguous_with_held or (
            self.low_us is not None and self.low_us < self.since_us
        )

    def complete_since_us(self, at_end: bool) -> int | None:
        """Return down to where the conversation is held without a gap once this walk is stored.

        >>> Walk(since_us=5, held=None, low_us=3).complete_since_us(at_end=False)
        3
        """
        if at_end:
            return UNBOUNDED_US
        lows = [low for low in (self.low_us,) if low is not None]
        if self.met_held and self.held is not None:
            lows.append(self.held.complete_since_us)
        return min(lows) if lows else None


def _first_time(entries: Iterable[object]) -> int | None:
    """Return the first time that can be true: one from before the platforms existed would end any walk."""
    times = (
        parse_time_us(entry.get("created_time")) for entry in entries if isinstance(entry, dict)
    )
    return next((time for time in times if time is not None and time >= EARLIEST_US), None)


def bare_readable(
    entries: Sequence[object], first_rank: int
) -> list[tuple[int, str, dict[str, object]]]:
    """Return rank, id and row of the bare rows inside the newest 20: each is asked singly."""
    inside = entries[: max(0, READABLE_COUNT - first_rank + 1)]
    return _bare(inside, first_rank)


def bare_beyond(
    entries: Sequence[object], first_rank: int
) -> list[tuple[int, str, dict[str, object]]]:
    """Return rank, id and row of the bare rows beyond the newest 20: the rule takes their details."""
    skipped = max(0, READABLE_COUNT - first_rank + 1)
    return _bare(entries[skipped:], first_rank + skipped)


def _bare(entries: Sequence[object], first_rank: int) -> list[tuple[int, str, dict[str, object]]]:
    return [
        (rank, message_id, entry)
        for rank, entry in enumerate(entries, first_rank)
        if isinstance(entry, dict) and lacks_content(entry) and (message_id := readable_id(entry))
    ]
