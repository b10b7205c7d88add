"""Lists inside conversations and messages that a response holds in part (`paging.next`).

Such a list is marked with `is_cut` in the stored payload until its later pages are read. A merge
replaces a cut list by a whole one, never the reverse.

The list of shares can name a next page that is empty (seen with v24.0). So after some empty next
pages in a row, a short page of that list counts as its last page for a week. A page is short if it
has one item, or if this run has seen a longer page of that list. Nobody documents the page size.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, NamedTuple

from convo_pipeline.base.json_text import dump_json, readable_id
from convo_pipeline.errors import GraphError, PayloadError
from convo_pipeline.graph.responses import Page, read_next
from convo_pipeline.schema import CUT_KEY

MESSAGE_LISTS = ("attachments", "shares", "reactions", "to", "tags")
CONVERSATION_LISTS = ("participants",)
PHANTOM_AFTER = 3
PHANTOM_FOR = timedelta(days=7)
MOST_PAGES = 100
MOST_EMPTY_PAGES = 3


class CutList(NamedTuple):
    """A list of which more pages exist; `after` is the cursor of the next one, "" if unknown."""

    name: str
    rows: tuple[object, ...]
    after: str


def find_next(row: object, names: Sequence[str]) -> list[CutList]:
    """Return the lists of a row that name a next page."""
    if not isinstance(row, dict):
        return []
    pages = ((name, read_next(row[name])) for name in names if name in row)
    return [CutList(name, *page) for name, page in pages if page]


def mark_cut(row: Mapping[str, object], cuts: Sequence[CutList]) -> dict[str, object]:
    """Return the row with these lists marked as cut."""
    return {**row, **{cut.name: {"data": list(cut.rows), CUT_KEY: True} for cut in cuts}}


@dataclass
class NestedLists:
    """Finds and reads the cut lists of one account; safe for threads."""

    today: date
    _empty_counts: dict[str, int] = field(default_factory=dict)
    _phantoms: dict[str, date] = field(default_factory=dict)
    """Lists whose short pages name a next page that is empty, with the day of this finding."""
    _longest: dict[str, int] = field(default_factory=dict)
    """Number of items on the longest page of each list that named a next page."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def from_json(cls, today: date, memory: Any) -> "NestedLists":
        """Read what `to_json` returned in an earlier run; anything else is ignored."""
        lists = cls(today)
        with suppress(ValueError, TypeError, AttributeError):
            days = {str(name): date.fromisoformat(day) for name, day in memory.items()}
            lists._phantoms = {
                name: day for name, day in days.items() if abs(today - day) < PHANTOM_FOR
            }
        return lists

    def to_json(self) -> dict[str, str]:
        """Return what the next run of the account needs."""
        return {name: day.isoformat() for name, day in self._phantoms.items()}

    def find(self, row: object, names: Sequence[str]) -> list[CutList]:
        """Return the lists of a row that are cut."""
        cuts = find_next(row, names)
        with self._lock:
            for cut in cuts:
                self._longest[cut.name] = max(len(cut.rows), self._longest.get(cut.name, 0))
        return [cut for cut in cuts if not self._is_phantom(cut)]

    def _is_phantom(self, cut: CutList) -> bool:
        is_short = len(cut.rows) == 1 or len(cut.rows) < self._longest.get(cut.name, 0)
        return cut.name in self._phantoms and is_short

    def mark(self, row: object, names: Sequence[str] = MESSAGE_LISTS) -> object:
        """Return the row with its cut lists marked, those of a reaction's users too."""
        if not isinstance(row, dict):
            return row
        cuts = self.find(row, names)
        reactions = row.get("reactions")
        items = reactions.get("data") if isinstance(reactions, dict) else None
        if isinstance(reactions, dict) and isinstance(items, list):
            marked = [self.mark(item, ("users",)) for item in items]
            if marked != items:
                row = {**row, "reactions": {**reactions, "data": marked}}
        return mark_cut(row, cuts) if cuts else row

    def read(
        self, cut: CutList, fetch: Callable[[str], Page]
    ) -> tuple[CutList, bool, GraphError | PayloadError | None]:
        """Read a list on; return all its items, whether it is whole, and the error that ended it.

        `fetch` returns the page at a cursor. An item that an earlier page held is left out.
        """
        if self._is_phantom(cut):
            return cut, True, None
        rows, cursors, empty_count = list(cut.rows), set[str](), 0
        known = set(map(_key, rows))
        error: GraphError | PayloadError | None = None
        after: str | None = cut.after
        while after and after not in cursors and len(cursors) < MOST_PAGES:
            cursors.add(after)
            try:
                page = fetch(after)
            except (GraphError, PayloadError) as failure:
                error = failure
                break
            fresh = [row for row in page.rows if _key(row) not in known]
            known.update(map(_key, fresh))
            rows, after = rows + fresh, page.after
            empty_count = 0 if fresh else empty_count + 1
            if empty_count >= MOST_EMPTY_PAGES:
                break
        if error is None:
            self._count_page(cut.name, is_empty=len(rows) == len(cut.rows))
        return cut._replace(rows=tuple(rows)), after is None, error

    def _count_page(self, name: str, *, is_empty: bool) -> None:
        with self._lock:
            self._empty_counts[name] = self._empty_counts.get(name, 0) + 1 if is_empty else 0
            if self._empty_counts[name] >= PHANTOM_AFTER:
                self._phantoms[name] = self.today


def _key(row: object) -> str | bytes:
    return readable_id(row) or dump_json(row)
