"""Cursor paging over a sorted list that can change between pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convo_pipeline.emulator import ids
from convo_pipeline.emulator.refusals import bad_parameter


@dataclass(frozen=True)
class Paging:
    """Checked `limit`, `after` and `before` of an edge."""

    limit: int
    after: str | None = None
    before: str | None = None


def read_paging(arguments: Mapping[str, str], default: int, most: int) -> Paging:
    """Check the paging arguments of an edge; a larger limit becomes `most`."""
    text = arguments.get("limit", "")
    if text and not text.isdigit():
        raise bad_parameter("param limit must be a non-negative integer")
    limit = min(int(text), most) if text else default
    return Paging(max(limit, 1), arguments.get("after") or None, arguments.get("before") or None)


SortKey = tuple[int, str]


def cut_page(keys: Sequence[SortKey], paging: Paging, kind: str) -> tuple[slice, dict[str, object]]:
    """Return the requested part of a list (newest first), and its cursors.

    A `keyset` cursor is a sort key, an `item` cursor a row id, an `offset` cursor a count.
    """
    start = 0
    if paging.after is not None:
        start = _start_after(keys, paging.after, kind)
    elif paging.before is not None:
        start = max(_place(keys, paging.before, kind) - paging.limit, 0)
    stop = min(start + paging.limit, len(keys))
    if start >= stop:
        return slice(start, start), {"has_next": False, "has_previous": start > 0}
    return slice(start, stop), {
        "before": _cursor(keys, start, kind),
        "after": _cursor(keys, stop if kind == "offset" else stop - 1, kind),
        "has_next": stop < len(keys),
        "has_previous": start > 0,
    }


def _cursor(keys: Sequence[SortKey], index: int, kind: str) -> str:
    if kind == "offset":
        return ids.write_cursor(["o", index])
    moment, row_id = keys[index]
    return ids.write_cursor(["k", moment, row_id] if kind == "keyset" else ["i", row_id])


def _start_after(keys: Sequence[SortKey], cursor: str, kind: str) -> int:
    if (ids.read_cursor(cursor) or [None])[0] == "s":
        return 0
    place = _place(keys, cursor, kind)
    if kind == "offset":
        return place
    return (
        place + 1
        if kind == "item" or (place < len(keys) and keys[place] == _key(cursor))
        else place
    )


def _place(keys: Sequence[SortKey], cursor: str, kind: str) -> int:
    """Return the index of a cursor's row, or (keyset) of the first row after it."""
    state = ids.read_cursor(cursor)
    if not state or state[0] != kind[0]:
        raise bad_parameter("Invalid cursors values")
    if kind == "offset":
        return int(str(state[1]))
    if kind == "keyset":
        return _bisect(keys, _key(cursor))
    for index, (_, row_id) in enumerate(keys):
        if row_id == state[1]:
            return index
    raise bad_parameter("Invalid cursors values")


def _key(cursor: str) -> SortKey:
    state = ids.read_cursor(cursor) or []
    return (int(str(state[1])), str(state[2]))


def _bisect(keys: Sequence[SortKey], place: SortKey) -> int:
    """Return the index of the first key that is not newer than `place` (newest first)."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if keys[middle] > place else (low, middle)
    return low
