"""The tables as assets: `extract` asks the API for the raw ones, `normalise` makes all others from them.

Two steps and no more: an account flows through the raw chain without waiting for the others, and what is
derived from a partition is derived in one go. This module knows keys, reports and commits; it knows neither
the API nor pandas. (No `from __future__ import annotations` here: Dagster reads the annotations.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any, TypeVar

import dagster as dg

from convo_pipeline import schema
from convo_pipeline.base.defect import describe_defect
from convo_pipeline.derive.account_days import derive_account_days, stale_account_days
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.derive.rederive import (
    Rederivation,
    Scope,
    finish_rederivation,
    plan_rederivation,
    rederive_day,
)
from convo_pipeline.errors import ConvoError, StoreError
from convo_pipeline.extract.run import AccountReport, Mode, Progress, extract
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import (
    AssetEvent,
    StepResult,
    TablePartition,
    report_to_dagster,
)
from convo_pipeline.orchestration.checks import checks_of, judge
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.metadata import partition_metadata, run_metadata, table_metadata
from convo_pipeline.orchestration.partitions import (
    Window,
    accounts_by_window,
    by_account,
    key_of,
    since_start,
)
from convo_pipeline.orchestration.pictures import PICTURED, picture_account
from convo_pipeline.sandbox import emulator_if_needed

RAW = tuple(table.name for table in schema.RAW)
DERIVED = tuple(table.name for table in schema.DERIVED)
CHAIN: Mapping[str, Sequence[str]] = {
    "raw_message_ids": ["raw_conversations"],
    "raw_message_details": ["raw_message_ids"],
    "coverage": ["messages", "raw_rejects"],
    "account_days": ["messages"],
}
MODE_TAG = "convo/mode"
"""On a run: how far behind what is held already its listing goes; the nightly run says `nightly`, a sweep `full`."""
MODES: Mapping[str, Mode] = {"nightly": "nightly", "full": "full"}
SCOPE_TAG = "convo/normalise"
"""On a run: which of its days are derived; without it, all of them. The command line says `stale` or `all`."""
SCOPES: Mapping[str, Scope] = {"stale": "stale", "all": "all"}
END_OF_CHAIN = "raw_message_details"
"""What every normalised table follows: the rest of the chain is before it, and a line to each would hide the graph."""
MOST_PREVIEWS = 31
"""Partitions of one run that get a preview: a month of one account; beyond that it is only weight."""

CAME_ALONG = "came along with other days: kept and shown, not promised to be whole"
Days = Mapping[str, list[date]]
T = TypeVar("T")
Log = Callable[[str], None]
SINGLE_RUN = dg.BackfillPolicy.single_run()
FRESHNESS = dg.FreshnessPolicy.time_window(
    warn_window=timedelta(hours=26), fail_window=timedelta(hours=50)
)
"""A night late, two nights missed. It judges the age of a table's newest partition of any account and nothing else:
whether the pipeline lives. A window, not a deadline: a schedule that is off owes nothing at a certain hour."""


def table_spec(table: schema.Table, problem: str | None = None) -> dg.AssetSpec:
    """Describe one table to Dagster: its meaning, columns, place in the graph."""
    deps = CHAIN.get(table.name, [] if table.layer == "raw" else [END_OF_CHAIN])
    warning = f"**Not usable now: {problem}**\n\n" if problem else ""
    return dg.AssetSpec(
        table.name,
        deps=deps,
        description=warning + table.description,
        group_name=table.layer,
        kinds={"parquet", "facebook" if table.layer == "raw" else "pandas"},
        metadata=table_metadata(table),
        freshness_policy=FRESHNESS,
        skippable=True,
    )


def build_extract(
    deployment: Deployment, partitions: dg.PartitionsDefinition[Any]
) -> dg.AssetsDefinition:
    """Build the step that calls the API."""

    @dg.multi_asset(
        name="extract",
        specs=[table_spec(table, deployment.problem) for table in schema.RAW],
        check_specs=[check.spec for check in checks_of(RAW)],
        partitions_def=partitions,
        backfill_policy=SINGLE_RUN,
        can_subset=True,
    )
    def extract_tables(context: dg.AssetExecutionContext) -> Iterator[AssetEvent]:
        """List the accounts' conversations down to the range's start and merge everything that came."""
        outcome, keys, mode = StepResult(), keys_of(context), mode_of(context.run.tags)
        if context.op_execution_context.selected_asset_keys:
            outcome = run_extract(deployment, keys, context.log.info, mode)
        yield from report_to_dagster(
            context, outcome, lambda: run_checks(deployment, context, keys)
        )

    return extract_tables


def build_normalise(
    deployment: Deployment, partitions: dg.PartitionsDefinition[Any]
) -> dg.AssetsDefinition:
    """Build the step that derives every other table; it calls nobody."""

    @dg.multi_asset(
        name="normalise",
        specs=[table_spec(table, deployment.problem) for table in schema.DERIVED],
        check_specs=[check.spec for check in checks_of(DERIVED)],
        partitions_def=partitions,
        backfill_policy=SINGLE_RUN,
        can_subset=True,
    )
    def normalise_tables(context: dg.AssetExecutionContext) -> Iterator[AssetEvent]:
        """Make the derived tables agree with the raw ones: the run's partitions and all that are stale."""
        outcome, keys = StepResult(), keys_of(context)
        if context.op_execution_context.selected_asset_keys:
            outcome = run_normalise(deployment, keys, scope_of(context.run.tags))
        yield from report_to_dagster(
            context, outcome, lambda: run_checks(deployment, context, keys)
        )

    return normalise_tables


def keys_of(context: dg.AssetExecutionContext) -> Sequence[str]:
    """Return the run's partitions; a check that somebody starts by itself has none and looks at what was red."""
    is_partitioned = context.has_partition_key or context.has_partition_key_range
    return context.partition_keys if is_partitioned else []


def run_checks(
    deployment: Deployment, context: dg.AssetExecutionContext, keys: Sequence[str]
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the checks that belong to the run."""
    selected = context.op_execution_context.selected_asset_check_keys
    if selected:
        with open_store(deployment) as store:
            yield from judge(deployment, store, context.instance, keys, selected)


def build_problem(problem: str) -> dg.AssetsDefinition:
    """Build the one asset of a deployment without accounts: it says what is wrong."""

    @dg.asset(
        name="configuration",
        description=f"**{problem}**",
        group_name="configuration",
        kinds={"toml"},
    )
    def configuration() -> None:
        """Fail with what is wrong; correct the file, then reload the code location."""
        raise dg.Failure(f"{problem}; then reload the code location", allow_retries=False)

    return configuration


def mode_of(tags: Mapping[str, str]) -> Mode:
    """Read the mode off a run's tags.

    >>> mode_of({MODE_TAG: "nightly"}), mode_of({MODE_TAG: "full"}), mode_of({})
    ('nightly', 'full', 'window')
    """
    return MODES.get(tags.get(MODE_TAG, ""), "window")


def scope_of(tags: Mapping[str, str]) -> Scope:
    """Read off a run's tags which of its days are derived.

    >>> scope_of({SCOPE_TAG: "stale"}), scope_of({SCOPE_TAG: "all"}), scope_of({})
    ('stale', 'all', 'asked')
    """
    return SCOPES.get(tags.get(SCOPE_TAG, ""), "asked")


def run_extract(
    deployment: Deployment, keys: Iterable[str], log: Log, mode: Mode = "window"
) -> StepResult:
    """Extract the keys' windows, all accounts of one window side by side."""
    asked = by_account(keys)
    days = since_start(deployment.settings.accounts, asked)
    for account in sorted(asked.keys() - days.keys()):
        log(f"{account}: skipped, all its days are before its start_date")
    if not days:
        raise dg.Failure(
            "nothing was asked: every day is before its account's start_date", allow_retries=False
        )
    with open_store(deployment) as store:
        reports = extract_windows(deployment, store, accounts_by_window(days), mode)
        for report in reports:
            log(describe(report))
        return judge_extract(store, asked, days, reports)


def describe(report: AccountReport) -> str:
    """Say in one line how an account's run ended and what it cost."""
    cost = report.figures
    missed = (
        f"; {report.missed:,} messages had been MISSED by earlier runs" if report.missed else ""
    )
    return f"{report.account}: {report.outcome}, {cost.used:,} calls ({cost.saved:,} saved, {cost.refused:,} refused){missed}"


def extract_windows(
    deployment: Deployment,
    store: Store,
    windows: Mapping[Window, Sequence[str]],
    mode: Mode = "window",
) -> list[AccountReport]:
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


def alone(outcome: StepResult, account: str, work: Callable[[], T]) -> T | None:
    """Do some of an account's work; what goes wrong, foreseen or not, fails that account and no other: None."""
    try:
        return work()
    except ConvoError as error:
        outcome.failures[account] = f"{account}: {error}"
    except Exception as error:
        outcome.failures[account] = f"{account}: {describe_defect(error)}"
    return None


@contextmanager
def open_store(deployment: Deployment) -> Iterator[Store]:
    """Open the store; Failure where it cannot be used."""
    try:
        with closing(Store(deployment.settings.store, deployment.clock)) as store:
            yield store
    except StoreError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def judge_extract(
    store: Store, asked: Days, days: Days, reports: Sequence[AccountReport]
) -> StepResult:
    """Turn reports into the truth per partition."""
    outcome = StepResult(failures=_failures(reports), summary=run_metadata(reports))
    promised = {(name, day) for name, some in days.items() for day in some}
    reader = _Reader(store, with_preview=len(promised) <= MOST_PREVIEWS)
    for name in sorted(asked.keys() - outcome.failures.keys()):
        for day in asked[name]:
            note = None if (name, day) in promised else "before the account's start_date: not asked"
            reader.read_into(outcome, RAW, name, day, note)
    commits = [commit for report in reports for commit in report.commits]
    outcome.extra.update(
        changed(commit for commit in commits if (commit.account, commit.date) not in promised)
    )
    return outcome


def _failures(reports: Iterable[AccountReport]) -> dict[str, str]:
    return {report.account: remedy(report) for report in reports if report.outcome != "complete"}


def remedy(report: AccountReport) -> str:
    """Say in one line what went wrong with an account and what a person should do."""
    why = report.error or "; ".join(report.reasons) or report.outcome
    if report.outcome == "incomplete":
        return f"{report.account}: incomplete: {why}. What came is kept; materialise it again to go on from there."
    return f"{report.account}: {why}. When that is put right, materialise its failed and missing partitions."


def changed(commits: Iterable[Commit]) -> dict[tuple[str, str], dict[str, Any]]:
    """Pick the partitions whose file changed: what came along with the days that were asked for."""
    return {
        (commit.table, key_of(commit.account, commit.date)): {
            "dagster/row_count": commit.row_count,
            "note": CAME_ALONG,
        }
        for commit in commits
        if commit.is_changed
    }


def run_normalise(
    deployment: Deployment, keys: Iterable[str], scope: Scope = "asked"
) -> StepResult:
    """Derive the keys' partitions, as many as the scope says, then every other stale day of the same accounts."""
    asked, outcome = by_account(keys), StepResult()
    with open_store(deployment) as store:
        reader = _Reader(store, with_preview=sum(map(len, asked.values())) <= MOST_PREVIEWS)
        for account, days in asked.items():
            rederivation = alone(
                outcome, account, partial(plan_rederivation, store, account, scope, days)
            )
            if rederivation is None:
                continue
            made = renew(deployment, store, rederivation, outcome)
            whole = [day for day in days if day in made or day not in rederivation.remaining_days]
            for day in alone(outcome, account, partial(stale_days, store, account)) or ():
                if day not in days:
                    outcome.extra.update(changed(derive(store, account, day, outcome) or ()))
            figures = derive_figures(
                deployment, store, account, outcome, made if scope == "stale" else whole
            )
            outcome.extra.update(
                changed(commit for commit in figures or () if commit.date not in days)
            )
            told = (
                DERIVED
                if figures is not None
                else [name for name in DERIVED if name != schema.ACCOUNT_DAYS.name]
            )
            for day in whole:
                reader.read_into(outcome, told, account, day)
            add_pictures(deployment, store, account, whole, outcome)
            if figures is not None:
                alone(outcome, account, partial(finish_rederivation, store, rederivation, made))
    return outcome


def renew(
    deployment: Deployment, store: Store, rederivation: Rederivation, outcome: StepResult
) -> set[date]:
    """Derive what is due of an account's days and report_to_dagster how far it is; return the days that are whole now."""
    tell_progress(
        deployment, outcome, Progress(rederivation.account, "days", len(rederivation.days))
    )
    tell_progress(
        deployment, outcome, Progress(rederivation.account, "days done", rederivation.done_count)
    )
    made = set()
    for day in rederivation.remaining_days:
        commits = alone(
            outcome, rederivation.account, partial(rederive_day, store, rederivation, day)
        )
        made |= set() if commits is None else {day}
        tell_progress(
            deployment, outcome, Progress(rederivation.account, "partitions", len(commits or ()))
        )
    return made


def tell_progress(deployment: Deployment, outcome: StepResult, step: Progress) -> None:
    """Tell whoever waits; that this fails is the account's own defect."""
    if deployment.on_progress:
        alone(outcome, step.account, partial(deployment.on_progress, step))


def add_pictures(
    deployment: Deployment, store: Store, account: str, days: Sequence[date], outcome: StepResult
) -> None:
    """Put an account's pictures of the run beside its newest day."""
    for cell, page in draw_pictures(deployment, store, account, days, outcome).items():
        outcome.newest[cell] = {"pictures": page, **outcome.stored[cell]}


def draw_pictures(
    deployment: Deployment, store: Store, account: str, days: Sequence[date], outcome: StepResult
) -> dict[TablePartition, dg.MarkdownMetadataValue]:
    """Draw an account's pictures of some days, for the newest of them; none if the account failed or holds nothing.

    Tables are as right without pictures: what keeps these from being drawn stands in their place, and the day is green.
    """
    if not days or account in outcome.failures:
        return {}
    settings = deployment.settings
    timezone, gap = settings.account(account).timezone, settings.metrics.session_gap_hours

    def draw() -> dict[str, dg.MarkdownMetadataValue]:
        try:
            return picture_account(store, account, days, timezone=timezone, session_gap_hours=gap)
        except ConvoError:
            raise
        except Exception as error:
            why = dg.MetadataValue.md(f"No pictures: {describe_defect(error)}.")
            return dict.fromkeys(PICTURED, why)

    pages = alone(outcome, account, draw) or {}
    return {(table, key_of(account, max(days))): page for table, page in pages.items()}


def derive(store: Store, account: str, day: date, outcome: StepResult) -> list[Commit] | None:
    """Derive one partition; a damaged one fails its account and no other day."""
    return alone(outcome, account, partial(derive_day, store, account, day))


def derive_figures(
    deployment: Deployment,
    store: Store,
    account: str,
    outcome: StepResult,
    days: Iterable[date] = (),
) -> list[Commit] | None:
    """Make `account_days` of these days and of all that a changed message around them made stale; None if that failed.

    Return the commits that brought other figures: most days around a new message only learn what they were made from.
    """
    gap, table = deployment.settings.metrics.session_gap_hours, schema.ACCOUNT_DAYS.name

    def derive_wanted() -> list[Commit]:
        wanted = {*stale_account_days(store, account, session_gap_hours=gap), *days}
        before = {day: store.read(table, account, day) for day in wanted}
        commits = derive_account_days(store, account, wanted, session_gap_hours=gap)
        return [
            commit
            for commit in commits
            if store.read(table, account, commit.date) != before[commit.date]
        ]

    return alone(outcome, account, derive_wanted)


@dataclass(frozen=True)
class _Reader:
    """Reads stored partitions for their numbers."""

    store: Store
    with_preview: bool

    def read_into(
        self,
        outcome: StepResult,
        tables: Sequence[str],
        account: str,
        day: date,
        note: str | None = None,
    ) -> None:
        for table in tables:
            metadata = alone(outcome, account, partial(self._metadata, table, account, day, note))
            if metadata is None:
                return
            outcome.stored[table, key_of(account, day)] = metadata

    def _metadata(self, table: str, account: str, day: date, note: str | None) -> dict[str, Any]:
        content = self.store.read(table, account, day)
        metadata = partition_metadata(schema.TABLES[table], content, with_preview=self.with_preview)
        return {**metadata, "note": note} if note else metadata
