"""The tables as Dagster assets: `extract` makes the raw tables, `normalise` all others.

There are two steps. An account passes all raw tables without waiting for other accounts, and all
derived tables of a partition are derived together. Each step has its own job, because a
failed step skips all later steps, for the complete accounts too.
(No `from __future__ import annotations` here: Dagster reads the annotations.)
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from convo_pipeline import schema
from convo_pipeline.derive.rederive import Scope
from convo_pipeline.errors import SettingsError
from convo_pipeline.extract.run import Mode
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import (
    AssetEvent,
    open_store,
    problem_failure,
    report_to_dagster,
    tell_if_stopped,
)
from convo_pipeline.orchestration.checks import checks_of, evaluate_checks
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.lineage import INBOXES, lineage_metadata
from convo_pipeline.orchestration.metadata import table_metadata
from convo_pipeline.orchestration.names import (
    CONFIGURATION,
    CONFIGURATION_JOB,
    CONFIGURATION_SENSOR,
    EXTRACT_JOB,
    EXTRACT_STEP,
    NORMALISE_JOB,
    NORMALISE_STEP,
    Names,
)
from convo_pipeline.orchestration.overview import report_overview
from convo_pipeline.orchestration.partitions import (
    DAYS_TAG,
    ONE_DAY,
    Window,
    by_account,
    describing_tags,
)
from convo_pipeline.orchestration.progress import ProgressLog
from convo_pipeline.orchestration.steps import (
    DERIVED,
    RAW,
    Days,
    StepResult,
    hold_run,
    run_extract,
    run_normalise,
)
from convo_pipeline.settings import Settings

CHAIN: Mapping[str, Sequence[str]] = {
    "raw_message_ids": ["raw_conversations"],
    "raw_message_details": ["raw_message_ids"],
    "coverage": ["messages", "raw_rejects"],
    "account_days": ["messages"],
}
"""The tables that a table follows in the drawn graph."""
WITHOUT_PEOPLE = frozenset({"coverage", "account_days"})
"""Tables that count messages only; the catalogue tags all others as personal data."""
KINDS = {"raw": {"facebook", "instagram"}, "account_days": {"duckdb"}}
"""What makes a layer or a table, as icons in the graph."""
LAST_RAW = "raw_message_details"
"""What every normalised table follows: a line to each raw table would hide the graph."""
MODES: Mapping[str, Mode] = {
    "selected": "window",
    "all": "window",
    "nightly": "nightly",
    "full": "full",
}
SCOPES: Mapping[str, Scope] = {
    "selected": "asked",
    "changed": "changed",
    "stale": "stale",
    "all": "all",
}


class ModeChoice(Enum):
    """Which days an extract run reads."""

    selected = "selected"
    all = "all"
    nightly = "nightly"
    full = "full"


class ScopeChoice(Enum):
    """Which days a normalise run derives."""

    selected = "selected"
    changed = "changed"
    stale = "stale"
    all = "all"


for choice in (ModeChoice, ScopeChoice):  # Dagster's error for a wrong value shows only this name
    choice.__name__ = "_".join([choice.__name__, *choice.__members__])


class ExtractConfig(dg.Config):
    """What a person can choose in the launchpad for `extract`."""

    mode: ModeChoice = Field(
        default=ModeChoice.selected,
        description="selected: the days of the run. all: every day from each account's start_date"
        " to the last day of the run. nightly: also earlier days that an account lacks. full: read"
        " everything again and count what earlier runs missed.",
    )
    calls_per_second: float | None = Field(
        default=None,
        ge=0.001,
        le=10_000,
        description="Calls per second and account in this run. Default: that of convo.toml.",
    )

    def apply(self, deployment: Deployment) -> Deployment:
        """Return the deployment with this run's rate."""
        if self.calls_per_second is None:
            return deployment
        graph = deployment.settings.graph.model_copy(
            update={"calls_per_second": self.calls_per_second}
        )
        settings = deployment.settings.model_copy(update={"graph": graph})
        return replace(deployment, settings=settings)

    def days_of(self, settings: Settings, requested: Days) -> Days:
        """Return the days to read; in the mode `all` they begin at each account's start date."""
        if self.mode is not ModeChoice.all:
            return requested
        starts = {account.name: account.start_date for account in settings.accounts}
        return {
            name: Window(min(starts[name], *days), max(days) + ONE_DAY).days
            for name, days in requested.items()
        }


class NormaliseConfig(dg.Config):
    """What a person can choose in the launchpad for `normalise`."""

    days: ScopeChoice = Field(
        default=ScopeChoice.selected,
        description="selected: the days of the run, also unchanged ones. changed: those whose raw"
        " tables changed. stale: all changed days of the accounts. all: all days of the accounts.",
    )


def extract_run_config(names: Names, mode: Mode) -> dict[str, object]:
    """Return the run configuration of the extract job.

    >>> extract_run_config(Names(), "window")
    {'ops': {'extract': {'config': {'mode': 'selected'}}}}
    """
    name = next(name for name, known in MODES.items() if known == mode)
    return {"ops": {names.of(EXTRACT_STEP): {"config": {"mode": name}}}}


def normalise_run_config(names: Names, scope: Scope) -> dict[str, object]:
    """Return the run configuration of the normalise job."""
    name = next(name for name, known in SCOPES.items() if known == scope)
    return {"ops": {names.of(NORMALISE_STEP): {"config": {"days": name}}}}


FRESHNESS = dg.FreshnessPolicy.time_window(
    warn_window=timedelta(hours=26), fail_window=timedelta(hours=50)
)
"""The age of a table's newest partition of any account: one night late, two nights missed.

A window and not a deadline: while a schedule is off, nothing is due at a certain hour.
"""
BACKFILL_TAG = "dagster/backfill"
BACKFILL_WAIT_SECONDS = 6 * 3600.0
"""A backfill of fewer days than accounts has a run for each day. They wait for one another."""

Translation = Callable[[dg.AssetSpec, schema.Table], dg.AssetSpec]
"""Changes the asset of a table: gets its specification and the table, returns the new one."""
AssetJob = UnresolvedAssetJobDefinition
Specs = Mapping[str, dg.AssetSpec]
"""The specification of each shown table."""


def partitions_of(settings: Settings) -> dg.MultiPartitionsDefinition:
    """Return every account and UTC day from the earliest start date to today, today included."""
    names = [account.name for account in settings.accounts]
    first = min(
        (account.start_date for account in settings.accounts), default=datetime.now(UTC).date()
    )
    dates = dg.DailyPartitionsDefinition(start_date=first.isoformat(), end_offset=1)
    return dg.MultiPartitionsDefinition(
        {"account": dg.StaticPartitionsDefinition(names), "date": dates}
    )


def backfill_policy(settings: Settings) -> dg.BackfillPolicy:
    """Return how Dagster divides a backfill: at most `accounts_per_run` partitions in a run.

    Dagster makes a range of days for each account, or a range of accounts for each day if the
    accounts are more. It cuts each range into runs.
    """
    size = settings.schedule.accounts_per_run
    return dg.BackfillPolicy.multi_run(size) if size else dg.BackfillPolicy.single_run()


def _sources(table: schema.Table) -> Sequence[str]:
    return CHAIN.get(table.name, [] if table.layer == "raw" else [LAST_RAW])


def shown_tables(include: Collection[str]) -> frozenset[str]:
    """Return these tables and all that they follow.

    Raise SettingsError if a name is no table, or if none is a derived table.
    """
    unknown = sorted(set(include) - schema.TABLES.keys())
    if unknown:
        known = ", ".join(schema.TABLES)
        raise SettingsError(f"include: there is no table {unknown[0]!r}; the tables are: {known}")
    if not set(DERIVED).intersection(include):
        raise SettingsError("include must name at least one derived table, such as messages")
    shown, following = set[str](), list(include)
    while following:
        name = following.pop()
        shown.add(name)
        following += set(_sources(schema.TABLES[name])) - shown
    return frozenset(shown)


def table_specs(
    deployment: Deployment, group_name: str | None, translation: Translation | None
) -> Specs:
    """Describe the shown tables; a dependency on a table follows the table's translated key."""
    names = deployment.names
    specs = {
        table.name: _table_spec(table, deployment, group_name)
        for table in schema.TABLES.values()
        if table.name in names.shown
    }
    changed = {
        name: translation(spec, schema.TABLES[name]) if translation else spec
        for name, spec in specs.items()
    }
    keys = {spec.key: changed[name].key for name, spec in specs.items()}
    if len(set(keys.values())) < len(keys):
        raise SettingsError("translation gives two tables the same asset key")
    by_table = {name: spec.key for name, spec in changed.items()}
    return {
        name: spec.replace_attributes(
            deps=[
                dep._replace(asset_key=keys.get(dep.asset_key, dep.asset_key)) for dep in spec.deps
            ],
            metadata={**lineage_metadata(schema.TABLES[name], by_table), **spec.metadata},
        )
        for name, spec in changed.items()
    }


def _table_spec(
    table: schema.Table, deployment: Deployment, group_name: str | None
) -> dg.AssetSpec:
    """Describe one table to Dagster: its meaning, columns and place in the graph."""
    names, problem, settings = deployment.names, deployment.problem, deployment.settings.dagster
    warning = f"**Not usable now: {problem}**\n\n" if problem else ""
    return dg.AssetSpec(
        names.asset_key(table.name),
        deps=[names.asset_key(source) for source in _sources(table) or [INBOXES]],
        description=warning + table.description,
        group_name=group_name or table.layer,
        kinds={"parquet", *KINDS.get(table.name, KINDS.get(table.layer, {"python"}))},
        owners=list(settings.owners),
        tags={} if table.name in WITHOUT_PEOPLE else {settings.pii_tag: "true"},
        metadata=table_metadata(table, deployment.settings.store),
        freshness_policy=FRESHNESS,
        skippable=True,
    )


def build_extract(
    deployment: Deployment, partitions: dg.PartitionsDefinition[Any], specs: Specs
) -> dg.AssetsDefinition:
    """Build the step that calls the API."""
    names = deployment.names

    @dg.multi_asset(
        name=names.of(EXTRACT_STEP),
        specs=[specs[name] for name in RAW if name in specs],
        check_specs=[check.spec(names) for check in checks_of(names.shown.intersection(RAW))],
        partitions_def=partitions,
        backfill_policy=backfill_policy(deployment.settings),
        can_subset=True,
    )
    def extract_tables(
        context: dg.AssetExecutionContext, config: ExtractConfig
    ) -> Iterator[AssetEvent]:
        """List the conversations down to the first day and merge all their messages."""
        result, keys = StepResult(), partition_keys(context)
        describe_run(context, keys)
        with (
            tell_if_stopped(context),
            hold_run(deployment, context.run.run_id),
            open_store(deployment) as store,
        ):
            if context.op_execution_context.selected_asset_keys:
                here, mode = config.apply(deployment), MODES[config.mode.name]
                here = replace(here, on_progress=here.on_progress or ProgressLog(context.log.info))
                if BACKFILL_TAG in context.run.tags:
                    here = replace(here, wait_seconds=BACKFILL_WAIT_SECONDS)
                days = config.days_of(here.settings, by_account(keys))
                result = run_extract(here, store, days, context.log.info, mode)
            checks = partial(_evaluate_checks, deployment, store, context, keys)
            yield from report_to_dagster(context, deployment, store, result, keys, checks)

    return extract_tables


def build_normalise(
    deployment: Deployment, partitions: dg.PartitionsDefinition[Any], specs: Specs
) -> dg.AssetsDefinition:
    """Build the step that derives every other table; it makes no API calls."""
    names = deployment.names

    @dg.multi_asset(
        name=names.of(NORMALISE_STEP),
        specs=[specs[name] for name in DERIVED if name in specs],
        check_specs=[check.spec(names) for check in checks_of(names.shown.intersection(DERIVED))],
        partitions_def=partitions,
        backfill_policy=backfill_policy(deployment.settings),
        can_subset=True,
    )
    def normalise_tables(
        context: dg.AssetExecutionContext, config: NormaliseConfig
    ) -> Iterator[AssetEvent]:
        """Derive the tables of the run's partitions, and of all stale days of the same accounts."""
        result, keys = StepResult(), partition_keys(context)
        describe_run(context, keys)
        with (
            tell_if_stopped(context),
            hold_run(deployment, context.run.run_id),
            open_store(deployment) as store,
        ):
            if context.op_execution_context.selected_asset_keys:
                scope = SCOPES[config.days.name]
                told = deployment.on_progress or ProgressLog(context.log.info)
                here = replace(deployment, on_progress=told)
                result = run_normalise(here, store, by_account(keys), scope)

            def finish() -> Iterator[dg.AssetCheckResult]:
                """Report the overview after its tables: else Dagster calls it out of date."""
                if context.op_execution_context.selected_asset_keys:
                    report_overview(context, deployment, store, result.changed_accounts)
                yield from _evaluate_checks(deployment, store, context, keys)

            yield from report_to_dagster(context, deployment, store, result, keys, finish)

    return normalise_tables


def build_extract_job(names: Names) -> AssetJob:
    """Build the job of the raw tables."""
    return dg.define_asset_job(
        names.of(EXTRACT_JOB),
        selection=_select(names, RAW),
        description="Call the API and store the raw tables of a range of accounts and days.",
        executor_def=dg.in_process_executor,
    )


def build_normalise_job(names: Names) -> AssetJob:
    """Build the job of all other tables."""
    return dg.define_asset_job(
        names.of(NORMALISE_JOB),
        selection=_select(names, DERIVED),
        description="Derive all other tables from the raw ones. Starts after every extract run.",
        executor_def=dg.in_process_executor,
    )


def _select(names: Names, tables: Sequence[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(
        *(names.asset_key(table) for table in tables if table in names.shown)
    )


def build_problem(names: Names, problem: str, group_name: str | None) -> dg.AssetsDefinition:
    """Build the only asset of a deployment without accounts: its description states the problem."""

    spec = dg.AssetSpec(
        names.asset_key(CONFIGURATION),
        description=f"**{problem}**",
        group_name=group_name or CONFIGURATION,
        kinds={"toml"},
    )

    @dg.multi_asset(name=names.of(CONFIGURATION), specs=[spec])
    def configuration() -> None:
        """Fail with the problem. Correct the file, then reload the code location."""
        raise problem_failure(problem)

    return configuration


def build_problem_job(names: Names) -> AssetJob:
    """Build the job that the schedules start while the configuration is wrong: its run fails."""
    return dg.define_asset_job(
        names.of(CONFIGURATION_JOB),
        selection=dg.AssetSelection.assets(names.asset_key(CONFIGURATION)),
        description="Fails with the problem of the configuration.",
        executor_def=dg.in_process_executor,
    )


def build_problem_sensor(names: Names, problem: str, job: AssetJob) -> dg.SensorDefinition:
    """Build the sensor that starts the failing run once for each problem.

    So the page is red and the receivers of `[alerts]` are told, also while all schedules are off.
    """
    run_key = hashlib.sha256(problem.encode()).hexdigest()

    @dg.sensor(
        name=names.of(CONFIGURATION_SENSOR),
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Starts one run that fails with the problem of the configuration.",
    )
    def wrong_configuration() -> dg.RunRequest:
        return dg.RunRequest(run_key=run_key)

    return wrong_configuration


def partition_keys(context: dg.AssetExecutionContext) -> Sequence[str]:
    """Return the run's partitions; none if a person started only a check."""
    is_partitioned = context.has_partition_key or context.has_partition_key_range
    return context.partition_keys if is_partitioned else []


def describe_run(context: dg.AssetExecutionContext, keys: Sequence[str]) -> None:
    """Give a run that a person or a backfill started the tags that tell its accounts and days."""
    days = by_account(keys)
    if days and DAYS_TAG not in context.run.tags:
        first, last = min(map(min, days.values())), max(map(max, days.values()))
        tags = describing_tags(list(days), first, last)
        context.instance.add_run_tags(context.run.run_id, tags)


def _evaluate_checks(
    deployment: Deployment, store: Store, context: dg.AssetExecutionContext, keys: Sequence[str]
) -> Iterator[dg.AssetCheckResult]:
    selected = context.op_execution_context.selected_asset_check_keys
    if selected:
        yield from evaluate_checks(deployment, store, context.instance, keys, selected)
