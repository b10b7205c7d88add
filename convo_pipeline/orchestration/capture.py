"""A capture: ask accounts what is new, often, so that nothing leaves the newest 20 unread.

It promises no range; it stores what the listing brings since the last look and derives the days that changed.
An account that another run works on is left to that run.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg

from convo_pipeline.extract.report import AccountReport, figures_in
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import StepResult, TablePartition
from convo_pipeline.orchestration.assets import (
    Log,
    changed,
    derive,
    derive_figures,
    draw_pictures,
    extract_windows,
    open_store,
    remedy,
)
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.partitions import (
    ONE_DAY,
    Window,
    accounts_by_window,
    by_account,
    since_start,
)
from convo_pipeline.orchestration.pictures import PICTURED

ACCOUNTS_TAG = "convo/accounts"
"""On a capture run that asks only some accounts: their names, separated by commas."""
Change = dg.AssetMaterialization | dg.AssetObservation


def run_capture(deployment: Deployment, log: Log, names: Sequence[str] = ()) -> StepResult:
    """Ask these accounts, or all, for what came since their last look and derive what changed."""
    outcome = StepResult()
    accounts = [
        account for account in deployment.settings.accounts if not names or account.name in names
    ]
    window = capture_window(deployment.clock.now(), deployment.settings.schedule.capture_minutes)
    with open_store(deployment) as store:
        days = since_start(accounts, {account.name: window.days for account in accounts})
        reports = extract_windows(deployment, store, accounts_by_window(days), "capture")
        for report in reports:
            _take(deployment, store, report, outcome)
    busy = [report.account for report in reports if report.outcome == "busy"]
    cost = figures_in(reports)
    log(
        f"{len(reports) - len(busy)} accounts asked by {cost.used:,} calls "
        f"({cost.saved:,} saved, {cost.refused:,} refused), {len(busy)} left to another run, "
        f"{len(outcome.extra)} partitions changed, {len(outcome.failures)} failed"
    )
    return outcome


def accounts_asked(tags: Iterable[tuple[str, str]]) -> list[str]:
    """Read the accounts off a run's tags; none means all.

    >>> accounts_asked({"convo/accounts": "bakery,bikes"}.items()), accounts_asked([])
    (['bakery', 'bikes'], [])
    """
    return [name for name in dict(tags).get(ACCOUNTS_TAG, "").split(",") if name]


def capture_window(now: datetime, capture_minutes: int) -> Window:
    """Cover today and, just after midnight, the end of yesterday that the last capture could not see."""
    margin = timedelta(minutes=2 * max(capture_minutes, 1))
    return Window((now - margin).date(), now.date() + ONE_DAY)


def _take(deployment: Deployment, store: Store, report: AccountReport, outcome: StepResult) -> None:
    """Derive the days that one account's report changed and report_to_dagster what is new."""
    if report.outcome == "failed":
        outcome.failures[report.account] = remedy(report)
    commits = [commit for commit in report.commits if commit.is_changed]
    for day in sorted({commit.date for commit in commits}):
        commits += derive(store, report.account, day, outcome) or ()
    if commits:
        commits += derive_figures(deployment, store, report.account, outcome) or ()
    outcome.extra.update(changed(commits))


def tell_changes(
    deployment: Deployment, instance: dg.DagsterInstance, outcome: StepResult
) -> Iterator[Change]:
    """Say which partitions changed, so that an asset's page, which shows its newest materialisation, keeps its pictures.

    A pictured table's partition is materialised once by captures, with pictures of its own. What changes in it later
    that day is observed: too often for another drawing, and the next night brings one.
    """
    pictured = [cell for cell in outcome.extra if cell[0] in PICTURED]
    new = [cell for cell in pictured if not _is_materialised(instance, cell)]
    pages = _draw(deployment, new, outcome)
    for cell, metadata in outcome.extra.items():
        if cell not in pages:
            is_known = cell[0] in PICTURED and cell not in new
            kind = dg.AssetObservation if is_known else dg.AssetMaterialization
            yield kind(cell[0], partition=cell[1], metadata=dict(metadata))
    for (table, key), page in pages.items():
        metadata = {"pictures": page, **outcome.extra[table, key]}
        yield dg.AssetMaterialization(table, partition=key, metadata=metadata)


def _draw(
    deployment: Deployment, cells: Iterable[TablePartition], outcome: StepResult
) -> Mapping[TablePartition, object]:
    """Draw the days of these cells, by account; told after all others, a page with pictures is what is shown."""
    days_of = by_account(key for _, key in cells)
    pages: dict[TablePartition, object] = {}
    if days_of:
        with open_store(deployment) as store:
            for account, days in days_of.items():
                pages |= draw_pictures(deployment, store, account, days, outcome)
    return {cell: page for cell, page in pages.items() if cell in outcome.extra}


def _is_materialised(instance: dg.DagsterInstance, cell: TablePartition) -> bool:
    records = dg.AssetRecordsFilter(asset_key=dg.AssetKey(cell[0]), asset_partitions=[cell[1]])
    return bool(instance.fetch_materializations(records, limit=1).records)
