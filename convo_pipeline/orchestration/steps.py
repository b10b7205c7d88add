"""The work of the steps: extract and derive partitions, and collect what Dagster shows of them.

An error of one account fails that account and no other. This module knows partition keys, reports
and commits; it knows neither the API nor pandas.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import date
from functools import partial
from typing import Any

import dagster as dg

from convo_pipeline import schema
from convo_pipeline.derive.account_days import derive_account_days, stale_account_days
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.derive.rederive import (
    Scope,
    finish_rederivation,
    plan_rederivation,
    rederive_day,
)
from convo_pipeline.errors import ConvoError, StoreError
from convo_pipeline.extract.run import AccountReport, Mode, Progress, extract
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import Metadata, StepResult, TablePartition
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.metadata import partition_metadata, run_metadata
from convo_pipeline.orchestration.partitions import (
    Window,
    accounts_by_window,
    by_account,
    key_of,
    since_start,
)
from convo_pipeline.orchestration.pictures import PICTURED, picture_account
from convo_pipeline.reasons import describe_error, describe_outcome
from convo_pipeline.sandbox import emulator_if_needed
from convo_pipeline.storage.locks import Locks

RAW = tuple(table.name for table in schema.RAW)
DERIVED = tuple(table.name for table in schema.DERIVED)
MOST_PREVIEWS = 31
"""Runs of more partitions (a month of one account) get no previews: they only add weight."""
LOCKS_FOLDER = "locks"
UNREQUESTED = "not requested: stored with other days, may be incomplete"
BEFORE_START = "not requested: before the account's start_date"
Days = Mapping[str, list[date]]
Log = Callable[[str], None]


@contextmanager
def open_store(deployment: Deployment) -> Iterator[Store]:
    """Open the store; raise Failure if it cannot be used."""
    try:
        with closing(Store(deployment.settings.store, deployment.clock)) as store:
            yield store
    except StoreError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


@contextmanager
def hold_run(deployment: Deployment, run_id: str) -> Iterator[None]:
    """Hold the lock that shows that a run lives.

    A state that cannot be written is reported by the store, for each account.
    """
    with ExitStack() as stack:
        with suppress(StoreError):
            locks = Locks(deployment.settings.store.state_path / LOCKS_FOLDER)
            stack.enter_context(locks.run(run_id))
        yield


# extract


def run_extract(
    deployment: Deployment, keys: Iterable[str], log: Log, mode: Mode = "window"
) -> StepResult:
    """Extract the windows of the partition keys; the accounts of one window run in parallel."""
    requested = by_account(keys)
    days = since_start(deployment.settings.accounts, requested)
    for account in sorted(requested.keys() - days.keys()):
        log(f"{account}: skipped, all its days are before its start_date")
    if not days:
        raise dg.Failure(
            "nothing to extract: every day is before its account's start_date", allow_retries=False
        )
    with open_store(deployment) as store:
        reports = extract_windows(deployment, store, accounts_by_window(days), mode)
        for report in reports:
            log(_summarize(report))
        return _collect_extracted(deployment, store, requested, days, reports)


def extract_windows(
    deployment: Deployment, store: Store, windows: Mapping[Window, Sequence[str]], mode: Mode
) -> list[AccountReport]:
    """Extract each window's accounts and return a report per account and window."""
    reports: list[AccountReport] = []
    with emulator_if_needed(deployment.settings, deployment.environ) as (settings, environ):
        for window, accounts in windows.items():
            reports += extract(
                settings,
                store,
                accounts,
                window.since,
                window.until,
                mode=mode,
                on_progress=deployment.on_progress,
                environ=environ,
                clock=deployment.clock,
            )
    if deployment.on_reports:
        deployment.on_reports(reports)
    return reports


def _summarize(report: AccountReport) -> str:
    cost, missed = report.figures, ""
    if report.missed:
        missed = f"; {report.missed:,} messages had been MISSED by earlier runs"
    return (
        f"{report.account}: {report.outcome}, {cost.used:,} calls ({cost.saved:,} saved,"
        f" {cost.refused:,} refused){missed}"
    )


def describe_failure(deployment: Deployment, report: AccountReport) -> str:
    """Say in one line why an account's run is not complete and what to do about it."""
    why = describe_outcome(report.outcome, report.reasons, report.error, deployment.interface)
    return f"{report.account}: {why}"


def _collect_extracted(
    deployment: Deployment,
    store: Store,
    requested: Days,
    days: Days,
    reports: Iterable[AccountReport],
) -> StepResult:
    """Collect the partitions of complete accounts, and all others whose files changed."""
    reports = list(reports)
    result = StepResult(deployment.interface, summary=run_metadata(reports))
    for report in reports:
        if report.outcome != "complete":
            result.failures[report.account] = describe_failure(deployment, report)
    complete = requested.keys() - result.failures.keys()
    has_previews = sum(map(len, days.values())) <= MOST_PREVIEWS
    for account in sorted(complete):
        for day in requested[account]:
            is_requested = day in days.get(account, ())
            note = {} if is_requested else {"note": BEFORE_START}
            read_requested(result, store, RAW, account, day, has_previews, note)
    for report in reports:
        add_unrequested(result, report.commits, days.get(report.account, ()))
    return result


def add_unrequested(
    result: StepResult, commits: Iterable[Commit], requested_days: Iterable[date] = ()
) -> None:
    """Count the changed partitions, and show those of other days than the requested ones."""
    requested = set(requested_days)
    for commit in commits:
        result.changed_count += commit.is_changed
        if commit.is_changed and commit.date not in requested:
            partition = commit.table, key_of(commit.account, commit.date)
            row_count = {"dagster/row_count": commit.row_count}
            result.unrequested[partition] = {**row_count, "note": UNREQUESTED}


def read_requested(
    result: StepResult,
    store: Store,
    tables: Sequence[str],
    account: str,
    day: date,
    has_previews: bool,
    note: dict[str, Any],
) -> None:
    """Read the metadata of a day's stored tables, up to the first table that cannot be read."""

    def read(table: str) -> Metadata:
        rows = store.read(table, account, day)
        return partition_metadata(schema.TABLES[table], rows, with_preview=has_previews) | note

    for table in tables:
        metadata = result.attempt(account, partial(read, table))
        if metadata is None:
            return
        result.requested[table, key_of(account, day)] = metadata


# normalise


def run_normalise(
    deployment: Deployment, keys: Iterable[str], scope: Scope = "asked"
) -> StepResult:
    """Derive the partition keys as the scope says, then all other stale days of their accounts."""
    requested, result = by_account(keys), StepResult(deployment.interface)
    has_previews = sum(map(len, requested.values())) <= MOST_PREVIEWS
    with open_store(deployment) as store:
        for account, days in requested.items():
            _normalise_account(deployment, store, account, days, scope, has_previews, result)
    return result


def _normalise_account(
    deployment: Deployment,
    store: Store,
    account: str,
    days: Sequence[date],
    scope: Scope,
    has_previews: bool,
    result: StepResult,
) -> None:
    def report_progress(step: str, count: int) -> None:
        if deployment.on_progress:
            progress = Progress(account, step, count)
            result.attempt(account, partial(deployment.on_progress, progress))

    plan = result.attempt(account, lambda: plan_rederivation(store, account, scope, days))
    if plan is None:
        return
    report_progress("days", len(plan.days))
    report_progress("days done", plan.done_count)
    derived_days = set()
    for day in plan.remaining_days:
        commits = result.attempt(account, partial(rederive_day, store, plan, day))
        if commits is not None:
            derived_days.add(day)
            add_unrequested(result, commits, days)
        report_progress("partitions", len(commits or ()))
    complete_days = [day for day in days if day in derived_days or day not in plan.remaining_days]
    for day in result.attempt(account, lambda: stale_days(store, account)) or ():
        if day not in days:
            add_unrequested(result, derive(store, account, day, result))
    figures = derive_figures(
        deployment, store, account, result, derived_days if scope == "stale" else complete_days
    )
    tables = [name for name in DERIVED if name != schema.ACCOUNT_DAYS.name or figures is not None]
    add_unrequested(result, figures or (), days)
    for day in complete_days:
        read_requested(result, store, tables, account, day, has_previews, {})
    for partition, page in draw_pictures(deployment, store, account, complete_days, result).items():
        result.pictured[partition] = {"pictures": page, **result.requested[partition]}
    if figures is not None:
        result.attempt(account, lambda: finish_rederivation(store, plan, derived_days))


def derive(store: Store, account: str, day: date, result: StepResult) -> list[Commit]:
    """Derive one day; a damaged file fails its account and no other day."""
    return result.attempt(account, lambda: derive_day(store, account, day)) or []


def derive_figures(
    deployment: Deployment,
    store: Store,
    account: str,
    result: StepResult,
    days: Iterable[date] = (),
) -> list[Commit] | None:
    """Derive `account_days` of these days and of all stale days; return None if that failed.

    Return only commits that changed a figure: most days near a new message change only their
    source.
    """
    gap, table = deployment.settings.metrics.session_gap_hours, schema.ACCOUNT_DAYS.name

    def derive_stale() -> list[Commit]:
        wanted = {*stale_account_days(store, account, session_gap_hours=gap), *days}
        before = {day: store.read(table, account, day) for day in wanted}
        commits = derive_account_days(store, account, wanted, session_gap_hours=gap)
        return [
            commit
            for commit in commits
            if store.read(table, account, commit.date) != before[commit.date]
        ]

    return result.attempt(account, derive_stale)


def draw_pictures(
    deployment: Deployment, store: Store, account: str, days: Sequence[date], result: StepResult
) -> dict[TablePartition, dg.MarkdownMetadataValue]:
    """Draw an account's pictures of some days, for the newest of them; none if the account failed.

    Tables are complete without pictures, so a text replaces a picture that cannot be drawn.
    """
    if not days or account in result.failures:
        return {}
    settings = deployment.settings

    def draw() -> dict[str, dg.MarkdownMetadataValue]:
        try:
            return picture_account(
                store,
                account,
                days,
                timezone=settings.account(account).timezone,
                session_gap_hours=settings.metrics.session_gap_hours,
            )
        except ConvoError:
            raise
        except Exception as error:
            text = dg.MetadataValue.md(
                f"No pictures: {describe_error(error, deployment.interface)}."
            )
            return dict.fromkeys(PICTURED, text)

    pages: dict[str, Any] = result.attempt(account, draw) or {}
    return {(table, key_of(account, max(days))): page for table, page in pages.items()}
