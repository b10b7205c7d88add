"""What a run did for one account: the words of the ledger, and the figures that people ask for. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

from convo_pipeline.errors import ConvoError, GraphError, GraphFault
from convo_pipeline.graph.listing import ListingSummary
from convo_pipeline.lake.partitions import Commit

Outcome = Literal["complete", "incomplete", "failed", "busy"]
NAMED = 100
"""Of how many conversations a ledger line names the ids."""
GUIDE_PAGE = 25
"""Conversations on a page where no limit is named."""


@dataclass(frozen=True)
class Progress:
    """One step forward of an account: `step` is conversations, messages or partitions.

    Before days are derived: how many days there are, and how many of them (days done) need no work.
    """

    account: str
    step: str
    count: int


@dataclass(frozen=True)
class CallFigures:
    """What an account's run cost; `guide` is what the calls of Meta's guide would have cost for the same."""

    used: int = 0
    guide: int = 0
    refused: int = 0
    retried: int = 0

    @property
    def saved(self) -> int:
        """Below zero where there was nothing to save, and refusals and retries on top."""
        return self.guide - self.used


@dataclass(frozen=True)
class AccountReport:
    """What a run did for one account."""

    account: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    error: str | None = None
    commits: tuple[Commit, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    started_at: datetime | None = None
    """T0: the server's time of the run's first answer, UTC."""
    figures: CallFigures = CallFigures()
    report: Mapping[str, object] = field(default_factory=dict)

    @property
    def missed(self) -> int | None:
        """Messages that a sweep found although earlier runs had claimed to hold everything; None: it was no sweep."""
        return self.counts.get("missed")


def figures_in(reports: Sequence[AccountReport]) -> CallFigures:
    """Add up what accounts' runs cost."""
    names = [each.name for each in fields(CallFigures)]
    return CallFigures(
        **{name: sum(getattr(report.figures, name) for report in reports) for name in names}
    )


def missed_in(reports: Sequence[AccountReport]) -> int | None:
    """Add up what sweeps found that had been missed; None if none of these was a sweep."""
    figures = [report.missed for report in reports if report.missed is not None]
    return sum(figures) if figures else None


def guide_calls(counts: Mapping[str, int]) -> int:
    """Return what the calls of Meta's conversations guide would have cost for what a run brought.

    The guide asks for pages of conversations, then for each conversation's message ids, then for each message. Taken
    for a script that remembers `updated_time`: unchanged conversations cost it nothing, and neither do messages whose
    content did not come.

    >>> guide_calls({"conversations_listed": 60, "conversations_unchanged": 59, "messages_unchanged": 900, "detailed": 920})
    24
    """
    listed = counts.get("conversations_listed", 0)
    pages = max(1, -(-listed // GUIDE_PAGE))
    messages = counts.get("detailed", 0) - counts.get("messages_unchanged", 0)
    return pages + listed - counts.get("conversations_unchanged", 0) + max(0, messages)


def listing_details(summary: ListingSummary) -> dict[str, object]:
    """Return the listing's figures for the ledger."""
    return {
        "listed": summary.listed_count,
        "pages": summary.page_count,
        "passes": summary.passes,
        "restarts": summary.restarts,
        "inversions": summary.inversions,
        "ladder_steps": summary.ladder_steps,
        "mode": summary.rung.mode,
        "dropped_fields": sorted(summary.rung.dropped_names),
        "moving": len(summary.moving),
        "moving_ids": sorted(summary.moving)[:NAMED],
        "refused_nested": refusals(summary.poisoned),
    }


def refusals(errors: Mapping[str, ConvoError]) -> dict[str, object]:
    """Return how many conversations were refused, and the first of them with code and subcode.

    >>> from convo_pipeline.errors import GraphFault, MissingError
    >>> refusals({"t_1": MissingError(GraphFault(10, 2018336))})
    {'count': 1, 'first': [{'conversation_id': 't_1', 'error': 'MissingError', 'code': 10, 'subcode': 2018336}]}
    """
    return {
        "count": len(errors),
        "first": [_refusal(key, errors[key]) for key in sorted(errors)[:NAMED]],
    }


def _refusal(conversation_id: str, error: ConvoError) -> dict[str, object]:
    fault = error.fault if isinstance(error, GraphError) else GraphFault()
    return {
        "conversation_id": conversation_id,
        "error": type(error).__name__,
        "code": fault.code,
        "subcode": fault.subcode,
    }
