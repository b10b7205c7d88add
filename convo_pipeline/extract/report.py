"""What a run was asked and what it did for one account: the fields of the run ledger. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Literal

from convo_pipeline.base.times import day_of
from convo_pipeline.errors import ConvoError, GraphError, GraphFault
from convo_pipeline.graph.listing import ListingSummary
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.state.records import ObjectRefusal

Mode = Literal["window", "nightly", "full", "capture", "find"]
Outcome = Literal["complete", "incomplete", "failed", "busy"]
MOST_NAMED = 100
"""How many conversation ids a ledger line names ..."""
MOST_SHOWN = 20
"""... and how many a line for a person."""
GUIDE_PAGE = 25
"""Conversations on a page if no limit is given."""


@dataclass(frozen=True)
class Progress:
    """One step of an account: `step` is conversations, messages or partitions.

    Derivation reports two steps first: days, and days done (those that need no work).
    """

    account: str
    step: str
    count: int


STEPS = {
    "conversations": "conversations",
    "messages": "messages",
    "days": "days",
    "partitions": "partitions stored",
}
"""What the steps count, in the order in which they are shown."""


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return the counts of one account as text.

    >>> describe_counts({"messages": 1200, "conversations": 40})
    '40 conversations, 1,200 messages'
    """
    return ", ".join(f"{counts[step]:,} {words}" for step, words in STEPS.items() if step in counts)


@dataclass(frozen=True)
class CallFigures:
    """How many API calls a run made; `guide` is how many the calls of Meta's guide would be."""

    used: int = 0
    guide: int = 0
    refused: int = 0
    retried: int = 0

    @property
    def saved(self) -> int:
        """How many calls fewer than the guide's; negative after many errors and retries."""
        return self.guide - self.used

    def to_json(self) -> dict[str, int]:
        return asdict(self) | {"saved": self.saved}


@dataclass(frozen=True)
class AccountReport:
    """What a run did for one account.

    `commits` are the partitions that the run wrote or checked, whatever the outcome. `started_at`
    is the server's time of the first response (T0), UTC.
    """

    account: str
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    error: str | None = None
    commits: tuple[Commit, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    started_at: datetime | None = None
    figures: CallFigures = CallFigures()
    report: Mapping[str, object] = field(default_factory=dict)

    @property
    def missed(self) -> int | None:
        """Messages that earlier runs had to store and did not; None if the run was no sweep."""
        return self.counts.get("missed")


def figures_in(reports: Sequence[AccountReport]) -> CallFigures:
    """Add up the calls of several accounts."""
    names = [each.name for each in fields(CallFigures)]
    return CallFigures(
        **{name: sum(getattr(report.figures, name) for report in reports) for name in names}
    )


def missed_in(reports: Sequence[AccountReport]) -> int | None:
    """Add up the missed messages of several accounts; None if none of them was swept."""
    counts = [report.missed for report in reports if report.missed is not None]
    return sum(counts) if counts else None


def guide_calls(counts: Mapping[str, int]) -> int:
    """Return how many calls Meta's conversations guide needs for the same content.

    The guide fetches pages of conversations, then the message ids of each conversation, then each
    message. The script is assumed to remember `updated_time`: unchanged conversations cost nothing,
    and neither do messages without content.

    >>> listed = {"conversations_listed": 60, "conversations_unchanged": 59}
    >>> guide_calls(listed | {"messages_unchanged": 900, "detailed": 920})
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
        "page_size_steps": summary.page_size_steps,
        "mode": summary.mode,
        "dropped_fields": sorted(summary.dropped_fields),
        "moving": len(summary.moving),
        "moving_ids": sorted(summary.moving)[:MOST_NAMED],
        "refused_nested": refusals(summary.unreadable),
    }


def refusals(errors: Mapping[str, ConvoError]) -> dict[str, object]:
    """Return how many conversations were refused, and the first ones with code and subcode.

    >>> from convo_pipeline.errors import MissingError
    >>> refusals({"t_1": MissingError(GraphFault(10, 2018336))})["first"]
    [{'conversation_id': 't_1', 'error': 'MissingError', 'code': 10, 'subcode': 2018336}]
    """
    first: list[dict[str, object]] = []
    for conversation_id in sorted(errors)[:MOST_NAMED]:
        error = errors[conversation_id]
        fault = error.fault if isinstance(error, GraphError) else GraphFault()
        first.append(
            {
                "conversation_id": conversation_id,
                "error": type(error).__name__,
                "code": fault.code,
                "subcode": fault.subcode,
            }
        )
    return {"count": len(errors), "first": first}


def list_refused(refused: Mapping[str, ObjectRefusal]) -> dict[str, object]:
    """Return how many conversations the API refuses, and the first ones with their next request.

    From `complete_from` on, no day lacks messages because of them.
    """
    first = [
        {
            "conversation_id": conversation_id,
            "code": refusal.code,
            "subcode": refusal.subcode,
            "refused_count": refusal.count,
            "retry_on": refusal.retry_on.isoformat(),
        }
        for conversation_id, refusal in sorted(refused.items())[:MOST_NAMED]
    ]
    gaps = [refusal.gap_us for refusal in refused.values() if refusal.gap_us is not None]
    complete_from = day_of(max(gaps)) + timedelta(days=1) if gaps else None
    return {
        "count": len(refused),
        "first": first,
        "complete_from": complete_from.isoformat() if complete_from else None,
    }


def describe_refused(refused: Mapping[str, ObjectRefusal]) -> str:
    """Return the number of refused conversations, and their ids by the API's answer.

    >>> missing = ObjectRefusal(code=100, subcode=33)
    >>> describe_refused({"t_1": ObjectRefusal(code=10), "t_2": missing})
    '2 conversations: code 10: t_1; deleted or not visible: t_2'
    """
    ids: dict[str, list[str]] = {}
    for conversation_id, refusal in sorted(refused.items())[:MOST_SHOWN]:
        ids.setdefault(refusal.describe(), []).append(conversation_id)
    groups = [f"{answer}: {', '.join(names)}" for answer, names in sorted(ids.items())]
    if len(refused) > MOST_SHOWN:
        groups.append(f"and {len(refused) - MOST_SHOWN} more")
    noun = "conversation" if len(refused) == 1 else "conversations"
    return f"{len(refused)} {noun}: {'; '.join(groups)}"
