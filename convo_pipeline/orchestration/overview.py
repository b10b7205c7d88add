"""The asset `overview`: one picture and one table of all accounts and the last 28 days.

Every normalise run updates it for all accounts, whichever accounts and days the run had. It shows
which days were read, gaps, lost messages, conversations at risk and the calls of the last night.
It holds account names, dates and counts only.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
from dagster._core.events import DagsterEvent

from convo_pipeline.errors import StoreError
from convo_pipeline.extract.risk import find_risks
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import open_store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import OVERVIEW
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.pictures import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    YELLOW,
    add_legend,
    embed_picture,
    explain_no_picture,
    markdown_table,
    new_chart,
    scale_counts,
    to_png,
)
from convo_pipeline.reasons import describe_error
from convo_pipeline.schema import ACCOUNT_DAYS, COVERAGE, DETAIL_STATUSES
from convo_pipeline.state.records import WHOLE_DAYS, Run

NO_PARTITION = dg.SpecificPartitionsPartitionMapping([])
"""The overview follows the tables, but Dagster must not call it out of date for a missing day."""
DAY_COUNT = 28
MOST_READ_ACCOUNTS = 200
"""With more accounts the overview reads no files: it shows days and calls, but no messages."""
MOST_SHOWN = 50
"""Accounts in the table, those with gaps first."""
PAGE, FINGERPRINT = "overview", "fingerprint"
"""Metadata of a materialisation: the page, and what it was made from."""
RENEWED_AFTER = timedelta(hours=1)
"""How often many runs of many accounts renew the overview."""
MARGINS = {"left": 0.085, "right": 0.8, "bottom": 0.16, "top": 0.92, "hspace": 0.22}
CONTENT_COLOURS = {
    "with content": BLUE,
    "lost": ORANGE,
    "gone": GREY,
    "not read yet": YELLOW,
}
DESCRIPTION = (
    "All accounts, last 28 days: days read, gaps, lost messages, conversations about to lose"
    " messages, calls of the last night. Every normalise run updates it."
)


@dataclass(frozen=True)
class AccountSummary:
    """What is known of one account and the days of the overview that are not before its start."""

    account: str
    days: Sequence[date]
    missing_days: Sequence[date]
    """Days that no complete run has read to their end."""
    last_run: Run | None
    """The newest run that read whole days."""
    messages: Mapping[date, Mapping[str, int]] = field(default_factory=dict)
    """Counts of each day's messages, by the labels of CONTENT_COLOURS."""
    at_risk_count: int | None = None

    def count(self, label: str) -> int:
        return sum(counts[label] for counts in self.messages.values())

    @property
    def call_count(self) -> int:
        return sum(((self.last_run and self.last_run.calls) or {}).values())

    @property
    def is_complete(self) -> bool:
        return bool(self.last_run and self.last_run.outcome == "complete")


def build_overview(deployment: Deployment, group_name: str | None) -> dg.AssetsDefinition:
    """Build the asset, so that a person can renew it; it makes no API calls."""
    names = deployment.names
    spec = dg.AssetSpec(
        names.asset_key(OVERVIEW),
        deps=[
            dg.AssetDep(names.asset_key(table.name), partition_mapping=NO_PARTITION)
            for table in (COVERAGE, ACCOUNT_DAYS)
        ],
        description=DESCRIPTION,
        group_name=group_name or COVERAGE.layer,
        kinds={"markdown"},
        owners=list(deployment.settings.dagster.owners),
    )

    @dg.multi_asset(name=names.of(OVERVIEW), specs=[spec])
    def overview() -> dg.MaterializeResult[None]:
        """Read the state and the coverage of all accounts, and draw them."""
        with open_store(deployment) as store:
            summaries = summarise_accounts(deployment, store)
            return dg.MaterializeResult(
                asset_key=spec.key, metadata=overview_metadata(deployment, store, summaries)
            )

    return overview


def report_overview(
    context: dg.AssetExecutionContext,
    deployment: Deployment,
    store: Store,
    changed_accounts: Collection[str],
) -> None:
    """Materialise the overview if something that it shows has changed. An error is only logged."""
    names = deployment.names
    if not names.has_overview:
        return
    try:
        summaries = summarise_accounts(deployment, store)
        newest = context.instance.get_latest_materialization_event(names.asset_key(OVERVIEW))
        if newest is not None and newest.asset_materialization is not None:
            known = newest.asset_materialization.metadata.get(FINGERPRINT)
            is_same = known is not None and known.value == _fingerprint(summaries)
            age = deployment.clock.now() - datetime.fromtimestamp(newest.timestamp, UTC)
            is_early = _is_large(summaries) and age < RENEWED_AFTER
            if (is_same and not changed_accounts) or is_early:
                return
        metadata = overview_metadata(deployment, store, summaries)
    except Exception as error:
        context.log.warning(f"no overview: {describe_error(error, deployment.interface)}")
        return
    step = context.op_execution_context.get_step_execution_context()
    event = dg.AssetMaterialization(names.asset_key(OVERVIEW), metadata=metadata)
    DagsterEvent.asset_materialization(step, event)


def summarise_accounts(deployment: Deployment, store: Store) -> list[AccountSummary]:
    """Return every account's days and last night, from the state alone."""
    window = _window(deployment)
    summaries = []
    for account in deployment.settings.accounts:
        days = [day for day in window.days if day >= account.start_date]
        spans = store.state.complete_spans(account.name, window.since)
        missing = [day for day in days if not any(since <= day < until for since, until in spans)]
        last_run = store.state.last_ended(account.name, *WHOLE_DAYS)
        summaries.append(AccountSummary(account.name, days, missing, last_run))
    return summaries


def _window(deployment: Deployment) -> Window:
    """Return the days of the overview: the last ones that are over."""
    today = deployment.clock.now().astimezone(UTC).date()
    return Window(today - timedelta(days=DAY_COUNT), today)


def _is_large(summaries: Sequence[AccountSummary]) -> bool:
    return len(summaries) > MOST_READ_ACCOUNTS


def _fingerprint(summaries: Sequence[AccountSummary]) -> str:
    """Return a text that differs if the days, gaps or outcomes differ; calls do not count."""
    shown = [
        (each.account, each.days, each.missing_days, each.last_run and each.last_run.outcome)
        for each in summaries
    ]
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def overview_metadata(
    deployment: Deployment, store: Store, summaries: Sequence[AccountSummary]
) -> dict[str, Any]:
    """Read the messages of all accounts, draw the picture, and return page and figures."""
    fingerprint = _fingerprint(summaries)
    is_large = _is_large(summaries)
    if not is_large:
        summaries = [_with_messages(deployment, store, summary) for summary in summaries]
    days = _window(deployment).days
    counts = {
        "accounts": len(summaries),
        "accounts_without_gap": sum(not each.missing_days for each in summaries),
        "gap_days": sum(len(each.missing_days) for each in summaries),
        "calls_of_last_night": sum(each.call_count for each in summaries),
    }
    if not is_large:
        counts |= {
            "messages": sum(sum(map(each.count, CONTENT_COLOURS)) for each in summaries),
            "messages_lost": sum(each.count("lost") for each in summaries),
            "messages_not_read_yet": sum(each.count("not read yet") for each in summaries),
            "conversations_at_risk": sum(each.at_risk_count or 0 for each in summaries),
        }
    title = f"All accounts · {days[0]} to {days[-1]}"
    picture = _try_to_draw(lambda: draw_overview(summaries, days, title, has_messages=not is_large))
    page = "\n\n".join([f"### {title} (UTC days)", picture, *_table(summaries, is_large)])
    return {PAGE: dg.MetadataValue.md(page), **counts, FINGERPRINT: fingerprint}


def _with_messages(deployment: Deployment, store: Store, summary: AccountSummary) -> AccountSummary:
    """Read what became of the account's messages; a damaged day is left out."""
    messages: dict[date, Mapping[str, int]] = {}
    at_risk_count: int | None = None
    for day in sorted(set(summary.days).intersection(store.days(COVERAGE.name, summary.account))):
        with suppress(StoreError):
            for row in store.read(COVERAGE.name, summary.account, day).to_pylist():
                status = {name: int(row[name] or 0) for name in DETAIL_STATUSES}
                messages[day] = {
                    "with content": status["detailed"],
                    "lost": status["beyond_20"],
                    "gone": status["gone"],
                    "not read yet": status["pending"] + status["failed"],
                }
    with suppress(StoreError):
        risks = find_risks(deployment.settings, store, summary.account)
        at_risk_count = len(risks.risks)
    return replace(summary, messages=messages, at_risk_count=at_risk_count)


def _table(summaries: Sequence[AccountSummary], is_large: bool) -> list[str]:
    """Return a Markdown table of the accounts, those with gaps and losses first."""
    heads = ["account", "days read", "gaps", "last night", "calls"]
    if not is_large:
        heads += ["messages", "with content", "lost", "not read yet", "about to be lost"]
    worst_first = sorted(
        summaries,
        key=lambda each: (
            each.is_complete,
            -len(each.missing_days),
            -(each.at_risk_count or 0),
            -(each.count("lost") if each.messages else 0),
        ),
    )
    lines = []
    for each in worst_first[:MOST_SHOWN]:
        gaps, run = len(each.missing_days), each.last_run
        cells: list[object] = [
            each.account,
            f"{len(each.days) - gaps} of {len(each.days)}",
            f"{gaps}, since {each.missing_days[0]}" if gaps else 0,
            f"{run.started_at:%Y-%m-%d %H:%M} {run.outcome}" if run else "never read",
            f"{each.call_count:,}",
        ]
        if not is_large:
            total = sum(map(each.count, CONTENT_COLOURS))
            cells += [
                f"{total:,}",
                f"{each.count('with content') / total:.0%}" if total else None,
                f"{each.count('lost'):,}",
                f"{each.count('not read yet'):,}",
                None if each.at_risk_count is None else f"{each.at_risk_count:,} conversations",
            ]
        lines.append(cells)
    parts = [markdown_table(heads, lines)]
    if len(summaries) > MOST_SHOWN:
        parts.append(f"And {len(summaries) - MOST_SHOWN:,} more accounts: `convo-pipeline status`.")
    parts.append(
        "*Gaps*: days that no complete run has read to their end. *Lost*: the messages left the"
        " newest 20 unread. *About to be lost*: conversations that may exceed 20 new messages"
        " before the next capture. Times are UTC."
    )
    return parts


def _try_to_draw(draw: Callable[[], bytes]) -> str:
    """Return the picture as Markdown, or why there is none: the table is complete without it."""
    try:
        return embed_picture("Accounts and messages by day", draw())
    except Exception as error:
        return f"No picture: {explain_no_picture(error, 'page')}."


def draw_overview(
    summaries: Sequence[AccountSummary], days: Sequence[date], title: str, *, has_messages: bool
) -> bytes:
    """Draw the accounts by day, read or not, and below them their messages by what became of them.

    An account has no bar before its start date.
    """
    figure, panels = new_chart(title, 2 if has_messages else 1, MARGINS)
    positions = np.arange(len(days))
    read = [
        sum(day in each.days and day not in each.missing_days for each in summaries) for day in days
    ]
    missing = [sum(day in each.missing_days for each in summaries) for day in days]
    panels[0].bar(positions, read, 0.8, color=BLUE, label="read")
    gaps = np.flatnonzero(missing)  # a bar of no height would have an edge
    style = {"color": "white", "edgecolor": VERMILION, "hatch": "////", "label": "gap: not read"}
    panels[0].bar(gaps, np.take(missing, gaps), 0.8, bottom=np.take(read, gaps), **style)
    scale_counts(panels[0], "accounts")
    add_legend(panels[0])
    if has_messages:
        bottom = np.zeros(len(days))
        for label, colour in CONTENT_COLOURS.items():
            counts = np.array(
                [
                    sum(each.messages[day][label] for each in summaries if day in each.messages)
                    for day in days
                ]
            )
            panels[1].bar(positions, counts, 0.8, bottom=bottom, color=colour, label=label)
            bottom = bottom + counts
        scale_counts(panels[1], "messages")
        add_legend(panels[1])
    ticks = range((len(days) - 1) % 3, len(days), 3)
    for panel in panels:
        panel.set_xticks(list(ticks), [f"{days[index]:%d %b}" for index in ticks], fontsize=8)
        panel.set_xlim(-0.7, len(days) - 0.3)
    panels[-1].set_xlabel("day (UTC)")
    return to_png(figure)
