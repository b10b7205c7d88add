"""Report each stored partition to Dagster as materialised and each failed account as failed.

Dagster marks the partitions of a failed step as failed, except those that the step logged itself.
So if an account failed, every stored partition is logged by itself before the step fails.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import dagster as dg

from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.metadata import (
    Metadata,
    TablePartition,
    commit_metadata,
    read_metadata,
    run_metadata,
)
from convo_pipeline.orchestration.pictures import PICTURES, draw_pictures, find_pictures
from convo_pipeline.orchestration.steps import StepResult

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


def step_failure(result: StepResult) -> dg.Failure:
    """Build the failure of the step. A retry would call the API for all accounts again."""
    names = sorted(result.failures)
    changed = f"{result.changed_count:,} partitions were stored"
    lines = [f"not complete: {', '.join(names)}; {changed}", *map(result.failures.get, names)]
    rows = [
        dg.TableRecord({"account": name, "what to do": result.failures[name]}) for name in names
    ]
    remedies: dict[str, Any] = {
        ACCOUNTS_METADATA: names,
        "remedies": dg.MetadataValue.table(rows),
    }
    summary = run_metadata(result.reports) if result.reports else {}
    return dg.Failure(
        "\n".join(map(str, lines)), metadata={**summary, **remedies}, allow_retries=False
    )


def report_to_dagster(
    context: dg.AssetExecutionContext,
    deployment: Deployment,
    store: Store,
    result: StepResult,
    run_keys: Collection[str],
    evaluate_checks: Callable[[], Iterable[dg.AssetCheckResult]],
) -> Iterator[AssetEvent]:
    """Report the selected tables, then the checks; raise Failure if an account failed.

    Dagster materialises every partition of the run when the step succeeds. Other partitions are
    logged. Those with pictures come last, so that the asset's page shows them.
    """
    selected = {key.to_user_string() for key in context.op_execution_context.selected_asset_keys}
    requested = read_metadata(store, result)
    pictured = {
        partition: {PICTURES: page, **requested[partition]}
        for account, days in result.drawable.items()
        for partition, page in (
            draw_pictures(deployment, store, account, days, result)
            if account in result.changed_accounts
            else find_pictures(context.instance, account, days)
        ).items()
        if partition in requested
    }
    _log(context, commit_metadata(result))
    if result.failures:
        _log(context, {key: each for key, each in requested.items() if key not in pictured})
    else:
        is_of_run = {
            (table, key): table in selected and key in run_keys for table, key in requested
        }
        _log(context, {key: each for key, each in requested.items() if not is_of_run[key]})
        summary = run_metadata(result.reports) if result.reports else {}
        tables: dict[str, None] = {}
        for (table, key), metadata in requested.items():
            if is_of_run[table, key]:
                context.add_asset_metadata(dict(metadata), asset_key=table, partition_key=key)
                tables[table] = None
        for table in tables:
            yield dg.MaterializeResult(asset_key=table, metadata=summary)
    _log(context, pictured)
    yield from evaluate_checks()
    if result.failures:
        raise step_failure(result)


def error_chain(event: dg.DagsterEvent) -> list[Any]:
    """Return the error of a failed step and its causes, the first cause last."""
    chain = []
    error = event.step_failure_data.error
    while error is not None:
        chain.append(error)
        error = error.cause
    return chain


def _log(context: dg.AssetExecutionContext, partitions: Mapping[TablePartition, Metadata]) -> None:
    for (table, key), metadata in partitions.items():
        context.log_event(dg.AssetMaterialization(table, partition=key, metadata=dict(metadata)))
