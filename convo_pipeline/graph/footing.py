"""What one account's own calls taught in a run: how many messages a page it gives, and which fields it refuses.

The listing learns for itself (`descent`); this is for the calls of single conversations and messages, of which several
threads have some under way. What was learned is remembered per account, beside the rung.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import date
from typing import TypeVar

from convo_pipeline.errors import GraphError, TooMuchDataError, UnknownFieldError
from convo_pipeline.graph.codes import is_unspecific_100
from convo_pipeline.graph.fields import droppable
from convo_pipeline.graph.ladder import (
    CLIMB_AFTER,
    EDGES,
    LONGEST_CLIMB_AFTER,
    Edge,
    Rung,
    find_refused_fields,
)

T = TypeVar("T")

BARE_BEFORE_SMALLER = 2
"""Conversations in a row that gave their ids alone before the next is asked for less at once."""


class Footing:
    """How an account's conversations are asked for their messages; safe for its threads."""

    def __init__(self, platform: str, today: date, edge_place: int = 0) -> None:
        """`edge_place` is what was remembered: one step more is tried than that."""
        self.edge = EDGES[max(0, min(edge_place, len(EDGES) - 2) - 1)]
        self._platform = platform
        self._today = today
        self._dropped: tuple[tuple[str, date], ...] = ()
        self._has_searched = False
        self._given_in_a_row = self._bare_in_a_row = 0
        self._climb_after = CLIMB_AFTER
        self._lock = threading.Lock()

    @property
    def edge_place(self) -> int:
        """Where on the way down from `EDGES[0]` the account stands, to be remembered."""
        return EDGES.index(self.edge)

    @property
    def dropped_names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self._dropped)

    def remembered(self, rung: Rung) -> Rung:
        """Return a rung that asks for none of the fields that were refused here either."""
        new = tuple(each for each in self._dropped if each[0] not in rung.dropped_names)
        return replace(rung, dropped=rung.dropped + new)

    def note_given(self, edge: Edge) -> None:
        """Learn from a page of messages that came: ask the next conversation for as much, now and then for more.

        >>> footing = Footing("instagram", date(2026, 1, 1))
        >>> footing.note_given(EDGES[2]); footing.edge.limit
        10
        >>> for _ in range(2 * CLIMB_AFTER): footing.note_given(EDGES[2])
        >>> footing.edge.limit
        20
        """
        with self._lock:
            if edge.is_bare:
                self._bare_in_a_row += 1
                if self._bare_in_a_row >= BARE_BEFORE_SMALLER:
                    self._stand_on(EDGES[-2])
                return
            self._bare_in_a_row = 0
            if edge != self.edge:
                self._stand_on(edge)
                return
            self._given_in_a_row += 1
            if self._given_in_a_row >= self._climb_after and edge != EDGES[0]:
                self.edge, self._given_in_a_row = EDGES[EDGES.index(edge) - 1], 0

    def _stand_on(self, edge: Edge) -> None:
        """Ask for so much from now on; if that is less than was tried, wait twice as long before more is tried."""
        if EDGES.index(edge) > EDGES.index(self.edge):
            self._climb_after = min(2 * self._climb_after, LONGEST_CLIMB_AFTER)
        self.edge, self._given_in_a_row = edge, 0

    def ask(
        self,
        dropped: Collection[str],
        call: Callable[[frozenset[str]], T],
        *,
        is_plain_about_fields: bool = False,
    ) -> tuple[frozenset[str], T]:
        """Make a call without the fields that are refused; return which those were, and its answer.

        `call` takes the names not to ask for. Raises its error where that is about no field we can do without.
        `is_plain_about_fields`: a code 100 that names no field can mean one, as nothing else in the call can be wrong.
        """
        while True:
            names = frozenset(dropped) | self.dropped_names
            try:
                return names, call(names)
            except GraphError as error:
                is_about_fields = isinstance(error, UnknownFieldError) or (
                    is_plain_about_fields and is_unspecific_100(error)
                )
                if not is_about_fields or not self._learn(error, names, frozenset(dropped), call):
                    raise

    def _learn(
        self,
        error: GraphError,
        asked_without: frozenset[str],
        dropped: frozenset[str],
        call: Callable[[frozenset[str]], object],
    ) -> bool:
        """Find the refused field, by its name or by asking; False if it is none we can do without."""
        with self._lock:
            if dropped | self.dropped_names != asked_without:
                return True  # another thread has learned meanwhile
            named = isinstance(error, UnknownFieldError) and droppable(
                error.field, self._platform, asked_without
            )
            if named:
                found: tuple[str, ...] = (named,)
            elif self._has_searched:
                return False
            else:
                self._has_searched = True
                found = find_refused_fields(
                    self._platform, asked_without, lambda names: is_accepted(call, names)
                )
            self._dropped += tuple((name, self._today) for name in found)
            return bool(found)


def is_accepted(call: Callable[[frozenset[str]], object], names: frozenset[str]) -> bool:
    """Whether a call without these fields is answered; only a code 100 says no."""
    try:
        call(names)
    except TooMuchDataError:
        return True
    except GraphError as error:
        if not isinstance(error, UnknownFieldError) and not is_unspecific_100(error):
            raise
        return False
    return True
