"""What a run's counts must add up to. Pure: counts in, differences out."""

from collections.abc import Mapping

PARTS: Mapping[str, tuple[str, ...]] = {
    "conversations_listed": (
        "conversations_unchanged",
        "conversations_fetched",
        "conversations_failed",
        "conversations_vanished",
        "conversations_given_up",
        "conversations_pending",
    ),
    "ids_listed": ("detailed", "beyond_20", "gone", "failed", "pending"),
}
"""Each whole and what became of it: every listed conversation has one fate, every listed id one status."""


def balance(counts: Mapping[str, int]) -> dict[str, int]:
    """Return for each whole what its parts do not account for, and the rows lost; all zero if nothing was lost sight of.

    Rows are those of `raw_message_ids` on the days that were written. There may be more than were inserted, by another
    machine that writes to the same store.

    >>> balance({"conversations_listed": 3, "conversations_fetched": 2, "ids_listed": 4, "detailed": 4})
    {'conversations_listed': 1, 'ids_listed': 0, 'rows_lost': 0}
    >>> balance({"rows_before": 7, "rows_inserted": 2, "rows_after": 8})
    {'conversations_listed': 0, 'ids_listed': 0, 'rows_lost': 1}
    """
    wholes = {
        whole: counts.get(whole, 0) - sum(counts.get(part, 0) for part in parts)
        for whole, parts in PARTS.items()
    }
    rows_due = counts.get("rows_before", 0) + counts.get("rows_inserted", 0)
    return wholes | {"rows_lost": max(0, rows_due - counts.get("rows_after", 0))}
