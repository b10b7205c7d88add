"""One listing's way down and up the ladder: what its refusals and successes so far say about the next page.

The ladder knows single steps; this remembers, within one listing, why a step was taken: a page that is too heavy, a
poisoned conversation somewhere in the next rows, a climb that was too early, or a server that does not nest at all.
No I/O.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from convo_pipeline.errors import GraphError
from convo_pipeline.graph.ladder import (
    TOP,
    Rung,
    be_patient,
    is_nesting_hopeless,
    step_down,
    step_up,
    with_probes,
    without,
)


@dataclass(frozen=True)
class _Search:
    """A page was refused: somewhere in the next `suspect_count` rows may be the reason."""

    resume: Rung
    suspect_count: int
    is_found: bool = False
    """Whether the reason is known and left behind, so that the next page may be as large as before."""


class Descent:
    """The rung to ask with next; `steps` counts the ways down taken."""

    def __init__(self, rung: Rung, platform: str, today: date) -> None:
        self.rung = with_probes(rung, today)
        self.steps = 0
        self.platform = platform
        self.today = today
        self._search: _Search | None = None
        self._route: tuple[Rung, ...] = ()
        """The rungs of the next pages, around rows that are known to be refused; the last one goes on as before."""
        self._climbed_from: Rung | None = None
        self._refused_count = self._unanswered_count = self._isolated_count = (
            self._nested_row_count
        ) = 0

    @property
    def settled(self) -> Rung:
        """The last rung that was given a page: the one to remember."""
        return self._route[-1] if self._route else self._climbed_from or self.rung

    @property
    def may_go_around(self) -> bool:
        """Whether a refused page is the first of its search, and more than one row."""
        is_searching = self._search is not None or self._route or self._climbed_from is not None
        return (
            self.rung.mode == "nested" and self.rung.conversations_per_page > 1 and not is_searching
        )

    def go_around(self, places: Sequence[int]) -> None:
        """List the rows at these places of the next page without their messages, and those between them with theirs.

        >>> from convo_pipeline.graph.ladder import TOP
        >>> descent = Descent(TOP, "instagram", date(2026, 1, 1)); descent.go_around([0, 20])
        >>> for _ in range(4):
        ...     print(descent.rung.mode, descent.rung.conversations_per_page); descent.accept(descent.rung, 1)
        light 1
        nested 19
        light 1
        nested 50
        """
        self.steps += 1
        route, begin = [], 0
        for place in places:
            if place > begin:
                route.append(replace(self.rung, conversations_per_page=place - begin))
            route.append(replace(self.rung, mode="light", conversations_per_page=1))
            begin = place + 1
        self.rung, *rest = *route, self.rung
        self._route = tuple(rest)

    def drop_field(self, error: GraphError) -> bool:
        """Ask without the field the error names; False if it cannot be dropped."""
        lower = step_down(self.rung, error, self.platform, self.today)
        if lower is None:
            return False
        self.steps += 1
        self.rung = lower
        return True

    def drop(self, names: Iterable[str]) -> None:
        """Ask without these fields from now on."""
        self.steps += 1
        self.rung = without(self.rung, names, self.today)

    def refuse(self, error: GraphError) -> bool:
        """Take the next way down after a refused page; False if the refused row is alone already."""
        self.steps += 1
        self._refused_count += 1
        self._unanswered_count += error.fault.code is None
        if self._route:
            self._search, self._route = (
                _Search(self._route[-1], self.rung.conversations_per_page),
                (),
            )
        lower = step_down(self.rung, error, self.platform, self.today)
        if self._climbed_from is not None:
            self.rung, self._climbed_from = be_patient(self._climbed_from), None
        elif self.rung.mode == "nested" and self._is_hopeless:
            self.go_light()
        elif lower is None or lower.mode != self.rung.mode:
            return False
        else:
            size = self.rung.conversations_per_page
            is_first_silence = self._refused_count == self._unanswered_count == 1
            search = self._search or _Search(self.rung, size, is_found=is_first_silence)
            self._search = replace(
                search,
                suspect_count=min(search.suspect_count, size),
                is_found=search.is_found and is_first_silence,
            )
            self.rung = lower
        return True

    def accept(self, rung: Rung, row_count: int) -> None:
        """Note a page that was given: narrow the search, or climb."""
        self._nested_row_count += row_count if rung.nested_messages else 0
        self._climbed_from = None
        search = self._search
        if self._route:
            self.rung, self._route = replace(self._route[0], dropped=rung.dropped), self._route[1:]
        elif search is None:
            self._climb(rung)
        elif search.suspect_count > rung.conversations_per_page:
            self._search = replace(
                search, suspect_count=search.suspect_count - rung.conversations_per_page
            )
        else:
            self._search = None
            self.rung = (
                replace(search.resume, dropped=rung.dropped)
                if search.is_found
                else be_patient(rung)
            )

    def _climb(self, rung: Rung) -> None:
        self.rung = step_up(rung)
        has_climbed = (self.rung.mode, _size(self.rung)) != (rung.mode, _size(rung))
        self._climbed_from = rung if has_climbed else None

    def isolated(self) -> None:
        """Go on above an isolated row as before, but carefully as long as no nested page was ever given."""
        self._isolated_count += 1
        resume = self._search.resume if self._search else self.rung
        if self.rung.mode == "nested" and self._is_hopeless:
            self.go_light()
        elif self.rung.mode == "nested" and self._nested_row_count == 0:
            self._search = _Search(resume, 1, is_found=True)
            self.rung = replace(self.rung, conversations_per_page=1, messages_per_conversation=20)
        else:
            self._search, self.rung = None, replace(resume, dropped=self.rung.dropped)

    def go_light(self) -> Rung:
        """List without messages from now on; return the rung to come back to."""
        before = self.settled
        self._search, self._climbed_from, self._route = None, None, ()
        self.rung = replace(
            TOP, mode="light", dropped=self.rung.dropped, climb_after=self.rung.climb_after
        )
        return before

    def come_back(self, rung: Rung) -> None:
        """Go on with this rung after a light pass."""
        self._search, self._climbed_from, self._route = None, None, ()
        self.rung = replace(rung, dropped=self.rung.dropped)

    @property
    def _is_hopeless(self) -> bool:
        return is_nesting_hopeless(
            self._isolated_count, self._refused_count, self._nested_row_count
        )


def _size(rung: Rung) -> tuple[int, int]:
    return rung.conversations_per_page, rung.messages_per_conversation
