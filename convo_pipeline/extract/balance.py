"""What a run's counts must add up to. Pure: counts in, differences out."""

from collections.abc import Mapping

PARTS: Mapping[str, tuple[str, ...]] = {
    "conversations_listed": (
        "conversations_unchanged",
        "conversations_fetched",
        "conversations_failed",
        "conversations_vanished",
        "conversations_pending",
    ),
    "ids_listed": ("detailed", "beyond_20", "gone", "failed", "pending"),
}
"""Each whole and what became of it: every listed conversation has one fate, every listed id one status."""


def balance(counts: Mapping[str, int]) -> dict[str, int]:
    """Return for each whole what its parts do not account for; all zero if nothing was lost sight of.

    >>> balance({"conversations_listed": 3, "conversations_fetched": 2, "ids_listed": 4, "detailed": 4})
    {'conversations_listed': 1, 'ids_listed': 0}
    """
    return {whole: counts.get(whole, 0) - sum(counts.get(part, 0) for part in parts) for whole, parts in PARTS.items()}
