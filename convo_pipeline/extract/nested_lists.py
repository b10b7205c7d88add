"""Lists inside conversations and messages that a response holds in part (`paging.next`).

Such a list is marked with `is_cut` in the stored payload until its later pages are read. A merge
replaces a cut list by a whole one, never the reverse.

The list of shares can name a next page that is empty (seen with v24.0). So after some empty next
pages in a row, a run reads only some more short pages of that list on. The others stay marked. A
page is short if it has one item, or if this run has seen a longer page of that list. Nobody
documents the page size.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from convo_pipeline.base.json_text import dump_json, readable_id
from convo_pipeline.errors import GraphError, PayloadError
from convo_pipeline.graph.responses import Page, read_next
from convo_pipeline.schema import CUT_KEY
from convo_pipeline.tables.payloads import read_object

MESSAGE_LISTS = ("attachments", "shares", "reactions", "to", "tags")
CONVERSATION_LISTS = ("participants",)
DOUBTFUL_AFTER = 3
"""After so many empty next pages in a row, the short pages of that list are doubtful."""
MOST_DOUBTFUL = 100
"""How many doubtful pages a run reads on."""
MOST_PAGES = 100
MOST_EMPTY_PAGES = 3


class CutList(NamedTuple):
    """A list of which more pages exist; `after` is the cursor of the next one.

    "" if there is no cursor: the list is read again from its first page.
    """

    name: str
    rows: tuple[object, ...]
    after: str


def find_next(row: object, names: Sequence[str]) -> list[CutList]:
    """Return the lists of a row that name a next page."""
    if not isinstance(row, dict):
        return []
    found = []
    for name in names:
        value = row.get(name)
        # nearly all lists have neither key, and every row of a run comes here twice
        if isinstance(value, dict) and ("paging" in value or "error" in value):
            page = read_next(value)
            if page:
                found.append(CutList(name, *page))
    return found


def holds_whole(payload: str | None, cut: CutList) -> bool:
    """Return whether a stored payload has the list, not cut, with all items of this page."""
    stored = (read_object(payload) or {}).get(cut.name)
    rows = stored.get("data") if isinstance(stored, dict) and CUT_KEY not in stored else stored
    return isinstance(rows, list) and set(map(_key, cut.rows)) <= set(map(_key, rows))


def mark_cut(row: Mapping[str, object], cuts: Sequence[CutList]) -> dict[str, object]:
    """Return the row with these lists marked as cut."""
    return {**row, **{cut.name: {"data": list(cut.rows), CUT_KEY: True} for cut in cuts}}


@dataclass
class NestedLists:
    """Finds and reads the cut lists of one account in one run; safe for threads."""

    doubtful_left: int = MOST_DOUBTFUL
    _empty_counts: dict[str, int] = field(default_factory=dict)
    _longest: dict[str, int] = field(default_factory=dict)
    """Number of items on the longest page of each list that named a next page."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, row: object, names: Sequence[str]) -> list[CutList]:
        """Return the lists of a row that are cut."""
        cuts = find_next(row, names)
        if cuts:
            with self._lock:
                for cut in cuts:
                    self._longest[cut.name] = max(len(cut.rows), self._longest.get(cut.name, 0))
        return cuts

    def is_doubtful(self, cut: CutList) -> bool:
        """Return whether the next page of a list is probably empty."""
        is_short = len(cut.rows) == 1 or len(cut.rows) < self._longest.get(cut.name, 0)
        return is_short and self._empty_counts.get(cut.name, 0) >= DOUBTFUL_AFTER

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

        `fetch` returns the page at a cursor, the first page at "". An item that an earlier page
        held is left out. Without an error, a list that is not whole was not requested.
        """
        if self.is_doubtful(cut):
            with self._lock:
                self.doubtful_left -= 1
                if self.doubtful_left < 0:
                    return cut, False, None
        rows, cursors, empty_count = list(cut.rows), set[str](), 0
        first = set(map(_key, rows))
        known, fetched = set(first), set[str | bytes]()
        after: str | None = cut.after
        while after is not None and after not in cursors and len(cursors) < MOST_PAGES:
            cursors.add(after)
            try:
                page = fetch(after)
            except (GraphError, PayloadError) as failure:
                return cut._replace(rows=tuple(rows)), False, failure
            fetched.update(map(_key, page.rows))
            fresh = [row for row in page.rows if _key(row) not in known]
            known.update(map(_key, fresh))
            rows, after = rows + fresh, page.after
            empty_count = 0 if fresh else empty_count + 1
            if empty_count >= MOST_EMPTY_PAGES:
                break
        self._count_page(cut.name, is_empty=len(rows) == len(cut.rows))
        is_whole = after is None and (cut.after != "" or first <= fetched)
        error = None if is_whole else PayloadError("the pages of a list do not come to an end")
        return cut._replace(rows=tuple(rows)), is_whole, error

    def _count_page(self, name: str, *, is_empty: bool) -> None:
        with self._lock:
            self._empty_counts[name] = self._empty_counts.get(name, 0) + 1 if is_empty else 0


def _key(row: object) -> str | bytes:
    return readable_id(row) or dump_json(row)
