"""Report each partition to Dagster: materialised if its day was read, failed with its account.

A partition with messages of a day that no complete run has read is observed, not materialised. It
stays "missing", so that a backfill of the missing days reaches it.
Dagster marks the partitions of a failed step as failed, except those that the step logged itself.
So if an account failed, every stored partition is logged by itself before the step fails.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import date
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import DagsterEvent, DagsterEventBatchMetadata
from dagster._core.execution.context.metadata_logging import (
    AssetMetadataHandle,
    OutputMetadataAccumulator,
)

from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.extract.report import figures_in
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.metadata import (
    ROW_COUNT,
    Metadata,
    TablePartition,
    add_totals,
    changed_metadata,
    read_metadata,
    read_totals,
    run_metadata,
)
from convo_pipeline.orchestration.names import Names
from convo_pipeline.orchestration.partitions import key_of
from convo_pipeline.orchestration.pictures import PICTURES, draw_pictures, find_pictures
from convo_pipeline.orchestration.steps import StepResult, list_some
from convo_pipeline.reasons import REASONS
from convo_pipeline.schema import COVERAGE

AssetEvent = dg.MaterializeResult[None] | dg.AssetCheckResult
ACCOUNTS_METADATA = "accounts"
"""Metadata of a failed step: the accounts that failed."""


@contextmanager
def open_store(deployment: Deployment) -> Iterator[Store]:
    """Open the store for a step; raise Failure if it cannot be used or nothing is to be done."""
    try:
        with closing(Store(deployment.settings.store, deployment.clock)) as store:
            yield store
    except (StoreError, SettingsError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None


@contextmanager
def tell_if_stopped(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Iterator[None]:
    """Log what a terminated run keeps."""
    try:
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        context.log.warning(f"stopped: {REASONS['stopped'].remedy_for(None, 'page')}")
        raise


def problem_failure(problem: str) -> dg.Failure:
    """Build the failure of a step that needs a valid configuration."""
    return dg.Failure(f"{problem}; then reload the code location", allow_retries=False)


def step_failure(result: StepResult) -> dg.Failure:
    """Build the failure of the step: what is stored, then cause and remedy of each failed account.

    A retry would call the API for all accounts again.
    """
    names = sorted(result.failures)
    count = len({report.account for report in result.reports})
    complete = f"; {count - len(names):,} of {count:,} accounts are complete" if count > 1 else ""
    head = f"not complete: {list_some(names)}; {result.changed_count:,} partitions were stored"
    lines = [f"{head}{complete}", *(result.failures[name] for name in names)]
    rows = [
        dg.TableRecord(
            {"account": name, "what to do": result.failures[name].removeprefix(f"{name}: ")}
        )
        for name in names
    ]
    metadata: dict[str, Any] = {
        "remedies": dg.MetadataValue.table(rows),
        ACCOUNTS_METADATA: names,
    }
    if result.reports:
        cost = figures_in(result.reports)
        metadata |= {"calls": cost.used, "calls_refused": cost.refused}
    return dg.Failure("\n".join(lines), metadata=metadata, allow_retries=False)


def report_to_dagster(
    context: dg.AssetExecutionContext,
    deployment: Deployment,
    store: Store,
    result: StepResult,
    run_keys: Collection[str],
    evaluate_checks: Callable[[], Iterable[dg.AssetCheckResult]],
) -> Iterator[AssetEvent]:
    """Report the selected tables, then the checks; raise Failure if an account failed.

    Dagster materialises every partition of the run if the step returns its tables. So the step
    returns them only if all of its days were read. Else, and for other partitions, it logs them.
    Those with pictures come last, so that the asset's page shows them.
    """
    names = deployment.names
    selected = set(map(names.table_of, context.op_execution_context.selected_asset_keys))
    totals = read_totals(deployment.settings, store, result)
    requested = add_totals(totals, read_metadata(store, result))
    pictured: dict[TablePartition, Metadata] = {}
    for account, days in result.drawable.items():
        pages = {}
        if account not in result.changed_accounts:
            pages = find_pictures(context.instance, names, account, days)
        if not pages and _has_news(result, requested, account, days):
            pages = draw_pictures(deployment, store, account, days, result)
        for partition, page in pages.items():
            if partition in requested:
                pictured[partition] = {PICTURES: page, **requested[partition]}
    read, unread = changed_metadata(deployment.settings, store, result, totals)
    _log(context, names, unread, is_observation=True)
    _log(context, names, read)
    keys = frozenset(run_keys)
    unread_keys = keys.difference(key for _, key in requested) if selected else frozenset()
    if result.failures or unread_keys:
        others = {key: each for key, each in requested.items() if key not in pictured}
        _log(context, names, others)
    else:
        of_run = {
            (table, key): metadata
            for (table, key), metadata in requested.items()
            if table in selected and key in keys
        }
        others = {key: each for key, each in requested.items() if key not in of_run}
        _log(context, names, others)
        _add_metadata(context, names, of_run)
        summary = run_metadata(result.reports) if result.reports else {}
        for table in dict.fromkeys(table for table, _ in of_run):
            yield dg.MaterializeResult(asset_key=names.asset_key(table), metadata=summary)
    _log(context, names, pictured)
    if unread_keys and not result.failures:
        context.log.warning(
            f"not read yet, so not green: {list_some(sorted(unread_keys))}."
            " Materialize the raw tables of these days"
        )
    yield from evaluate_checks()
    if result.failures:
        raise step_failure(result)


def _has_news(
    result: StepResult,
    requested: Mapping[TablePartition, Metadata],
    account: str,
    days: Sequence[date],
) -> bool:
    """Whether an account's files changed, or its newest day has messages and no picture yet."""
    if account in result.changed_accounts or not days:
        return account in result.changed_accounts
    metadata = requested.get((COVERAGE.name, key_of(account, max(days))), {})
    return bool(metadata.get(ROW_COUNT))


def error_chain(event: dg.DagsterEvent) -> list[Any]:
    """Return the error of a failed step and its causes, the first cause last."""
    chain = []
    error = event.step_failure_data.error
    while error is not None:
        chain.append(error)
        error = error.cause
    return chain


def _add_metadata(
    context: dg.AssetExecutionContext,
    names: Names,
    partitions: Mapping[TablePartition, Metadata],
) -> None:
    """Pass the metadata of all partitions to Dagster at once.

    `context.add_asset_metadata` lists the run's partitions and copies all earlier metadata in every
    call. Its cost grows with the square of the partitions, so this uses the private attribute.
    """
    step = context.op_execution_context.get_step_execution_context()
    step._metadata_accumulator = OutputMetadataAccumulator(
        per_output_metadata={
            **step._metadata_accumulator.per_output_metadata,
            **{
                AssetMetadataHandle(asset_key=names.asset_key(table), partition_key=key): metadata
                for (table, key), metadata in partitions.items()
            },
        }
    )


def _log(
    context: dg.AssetExecutionContext,
    names: Names,
    partitions: Mapping[TablePartition, Metadata],
    *,
    is_observation: bool = False,
) -> None:
    """Log a materialisation or an observation for each partition of a shown table, as one batch.

    `context.log_event` writes each event in a transaction of its own.
    """
    step = context.op_execution_context.get_step_execution_context()

    def version_tags(key: dg.AssetKey) -> dict[str, str]:
        """Without the version that the step gave its tables, Dagster warns of a mismatch."""
        known = step.has_data_version(key)
        return {DATA_VERSION_TAG: step.get_data_version(key).value} if known else {}

    shown = [(key, each) for key, each in partitions.items() if key[0] in names.shown]
    batch_id = uuid4().hex
    for index, ((table, key), metadata) in enumerate(shown, 1):
        batch = DagsterEventBatchMetadata(batch_id, is_end=index == len(shown))
        asset, entries = names.asset_key(table), dict(metadata)
        if is_observation:
            seen = dg.AssetObservation(asset, partition=key, metadata=entries)
            DagsterEvent.asset_observation(step, seen, batch)
        else:
            stored = dg.AssetMaterialization(
                asset, partition=key, metadata=entries, tags=version_tags(asset)
            )
            DagsterEvent.asset_materialization(step, stored, batch)
