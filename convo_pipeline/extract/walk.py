"""Decide at which message paging through a conversation may stop. Pure.

Times are microseconds since 1970, UTC.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import EARLIEST_US, parse_time_us
from convo_pipeline.extract.observations import lacks_content
from convo_pipeline.schema import READABLE_COUNT
from convo_pipeline.state.records import ConversationState

FIRST_MESSAGE_US = 0
"""`complete_since_us` of a conversation that was read down to its first message."""


@dataclass(frozen=True)
class Walk:
    """A walk through a conversation from its newest message down; each page extends it.

    `stored` is the state of a conversation that earlier runs read without a gap. `met_stored`: the
    walk came to a stored message, so no message is missing in between.
    """

    since_us: int
    stored: ConversationState | None = None
    count: int = 0
    newest_message_id: str | None = None
    low_us: int | None = None
    met_stored: bool = False

    def extend(self, rows: Sequence[object]) -> "Walk":
        """Return the walk with one more page, newest message first.

        Only the first and the last time of a page count. If the order in between is broken, the
        walk claims less than was listed, never more.
        """
        lows = (self.low_us, _first_time(rows), _first_time(reversed(rows)))
        stored_id = self.stored.newest_message_id if self.stored else None
        return replace(
            self,
            count=self.count + sum(not isinstance(row, str) for row in rows),
            newest_message_id=self.newest_message_id
            or next(filter(None, map(readable_id, rows)), None),
            low_us=min((low for low in lows if low is not None), default=None),
            met_stored=self.met_stored or (bool(stored_id) and stored_id in map(readable_id, rows)),
        )

    def find_stored_candidate(self, rows: Sequence[object]) -> tuple[str, int] | None:
        """Return id and time of a listed message that must be stored if there is no gap.

        It is needed if the walk did not meet the newest stored message, which may be unsent.
        """
        stored = self.stored
        if self.met_stored or stored is None or stored.updated_us is None:
            return None
        last = next(
            (row for row in reversed(rows) if isinstance(row, dict) and readable_id(row)), {}
        )
        message_id, created_us = readable_id(last), parse_time_us(last.get("created_time"))
        if message_id is None or created_us is None or stored.complete_since_us is None:
            return None
        is_within = stored.complete_since_us <= created_us < stored.updated_us
        return (message_id, created_us) if is_within else None

    @property
    def is_deep_enough(self) -> bool:
        """Whether the walk came below `since_us`, or to stored messages that reach that far."""
        if self.low_us is not None and self.low_us < self.since_us:
            return True
        stored_since_us = self.stored.complete_since_us if self.stored else None
        return self.met_stored and stored_since_us is not None and stored_since_us <= self.since_us

    def complete_since_us(self, at_end: bool) -> int | None:
        """Return down to which time the conversation has no gap once this walk is stored.

        >>> Walk(since_us=5, low_us=3).complete_since_us(at_end=False)
        3
        """
        if at_end:
            return FIRST_MESSAGE_US
        stored_since_us = self.stored.complete_since_us if self.stored and self.met_stored else None
        lows = [low for low in (self.low_us, stored_since_us) if low is not None]
        return min(lows, default=None)


class BareMessage(NamedTuple):
    """A message row without content; ranks count from 1, the newest."""

    rank: int
    message_id: str
    row: dict[str, object]


def bare_messages(
    rows: Sequence[object], first_rank: int
) -> tuple[list[BareMessage], list[BareMessage]]:
    """Return the bare messages among the newest 20, and those beyond."""
    bare = [
        BareMessage(rank, message_id, row)
        for rank, row in enumerate(rows, first_rank)
        if isinstance(row, dict) and lacks_content(row) and (message_id := readable_id(row))
    ]
    readable = [message for message in bare if message.rank <= READABLE_COUNT]
    return readable, bare[len(readable) :]


def _first_time(rows: Iterable[object]) -> int | None:
    """Return the first possible time; a wrong one from before 2004 would end every walk."""
    times = (parse_time_us(row.get("created_time")) for row in rows if isinstance(row, dict))
    return next((time for time in times if time is not None and time >= EARLIEST_US), None)
