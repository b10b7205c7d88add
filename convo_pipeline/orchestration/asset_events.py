"""Tell Dagster the truth per partition: what is stored is green, what failed is red, and nothing else.

A step speaks for all keys of its run at once. So when an account failed, every stored partition is logged
by itself and the step fails; when all is well, the step returns and only the numbers differ by partition.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

AssetEvent = dg.MaterializeResult[None] | dg.AssetCheckResult
TablePartition = tuple[str, str]
"""A table and a partition key."""
ACCOUNTS_METADATA = "accounts"
"""Metadata of a failed step: the accounts that failed."""


@dataclass
class StepResult:
    """What a step did. `stored`: promised and whole. `extra`: changed beyond the promise. `failures`: per account.

    `newest`: those of `stored` that are told again after all others, with more to show: an asset's page shows its
    newest event, and a step that returns has no say in the order of its partitions.
    """

    stored: dict[TablePartition, Mapping[str, Any]] = field(default_factory=dict)
    extra: dict[TablePartition, Mapping[str, Any]] = field(default_factory=dict)
    newest: dict[TablePartition, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)


def report_to_dagster(
    context: dg.AssetExecutionContext,
    outcome: StepResult,
    judge: Callable[[], Iterable[dg.AssetCheckResult]],
) -> Iterator[AssetEvent]:
    """Report an outcome for the selected tables, in the order of the graph; raise Failure if an account failed.

    What is stored is judged in either case, when it is already shown.
    """
    selected = [key.to_user_string() for key in context.op_execution_context.selected_asset_keys]
    _log(context, outcome.extra)
    if outcome.failures:
        _log(
            context,
            {cell: told for cell, told in outcome.stored.items() if cell not in outcome.newest},
        )
        _log(context, outcome.newest)
        yield from judge()
        raise failure(outcome)
    _log(
        context,
        {cell: metadata for cell, metadata in outcome.stored.items() if cell[0] not in selected},
    )
    for (table, key), metadata in outcome.stored.items():
        if table in selected:
            context.add_asset_metadata(dict(metadata), asset_key=table, partition_key=key)
    for table in dict.fromkeys(table for table, _ in outcome.stored):
        if table in selected:
            yield dg.MaterializeResult(asset_key=table, metadata=dict(outcome.summary))
    _log(context, outcome.newest)
    yield from judge()


def _log(
    context: dg.AssetExecutionContext, cells: Mapping[TablePartition, Mapping[str, Any]]
) -> None:
    for (table, key), metadata in cells.items():
        context.log_event(dg.AssetMaterialization(table, partition=key, metadata=dict(metadata)))


def failure(outcome: StepResult) -> dg.Failure:
    """Name the failed accounts and, for each, what to do; no retry: it would ask for all accounts again."""
    names = sorted(outcome.failures)
    rest = "; the other accounts are stored" if outcome.stored else ""
    rows = [
        dg.TableRecord({"account": name, "what to do": outcome.failures[name]}) for name in names
    ]
    description = "\n".join(
        [f"failed: {', '.join(names)}{rest}", *(outcome.failures[name] for name in names)]
    )
    metadata = {
        **outcome.summary,
        ACCOUNTS_METADATA: names,
        "remedies": dg.MetadataValue.table(rows),
    }
    return dg.Failure(description, metadata=metadata, allow_retries=False)
