"""Report each stored partition to Dagster as materialised and each failed account as failed.

Dagster marks the partitions of a failed step as failed, except those that the step logged itself.
So if an account failed, every stored partition is logged by itself before the step fails.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dagster as dg

from convo_pipeline.reasons import Interface, describe_error

AssetEvent = dg.MaterializeResult[None] | dg.AssetCheckResult
TablePartition = tuple[str, str]
"""A table and a partition key."""
Metadata = Mapping[str, Any]
ACCOUNTS_METADATA = "accounts"
"""Metadata of a failed step: the accounts that failed."""
T = TypeVar("T")


@dataclass
class StepResult:
    """What a step stored, with metadata, and which accounts failed, with a reason and a remedy."""

    interface: Interface = "page"
    requested: dict[TablePartition, Metadata] = field(default_factory=dict)
    """Complete partitions among those that the run must store."""
    unrequested: dict[TablePartition, Metadata] = field(default_factory=dict)
    """Other partitions whose files changed."""
    pictured: dict[TablePartition, Metadata] = field(default_factory=dict)
    """Partitions of `requested` with pictures: reported last, so that the page shows them."""
    failures: dict[str, str] = field(default_factory=dict)
    summary: Metadata = field(default_factory=dict)
    changed_count: int = 0
    """Partitions whose files changed, those of failed accounts included."""

    def attempt(self, account: str, work: Callable[[], T]) -> T | None:
        """Return what `work` returns; an error fails this account alone, and None is returned."""
        try:
            return work()
        except Exception as error:
            self.failures[account] = f"{account}: {describe_error(error, self.interface)}"
        return None

    def failure(self) -> dg.Failure:
        """Build the failure of the step. A retry would call the API for all accounts again."""
        names = sorted(self.failures)
        changed = f"{self.changed_count:,} partitions were stored"
        lines = [f"not complete: {', '.join(names)}; {changed}", *map(self.failures.get, names)]
        rows = [
            dg.TableRecord({"account": name, "what to do": self.failures[name]}) for name in names
        ]
        remedies: dict[str, Any] = {
            ACCOUNTS_METADATA: names,
            "remedies": dg.MetadataValue.table(rows),
        }
        return dg.Failure(
            "\n".join(map(str, lines)), metadata={**self.summary, **remedies}, allow_retries=False
        )


def report_to_dagster(
    context: dg.AssetExecutionContext,
    result: StepResult,
    evaluate_checks: Callable[[], Iterable[dg.AssetCheckResult]],
) -> Iterator[AssetEvent]:
    """Report the selected tables, then the checks; raise Failure if an account failed."""
    selected = {key.to_user_string() for key in context.op_execution_context.selected_asset_keys}
    _log(context, result.unrequested)
    if result.failures:
        pictured = result.pictured
        _log(
            context,
            {key: metadata for key, metadata in result.requested.items() if key not in pictured},
        )
    else:
        _log(
            context,
            {key: metadata for key, metadata in result.requested.items() if key[0] not in selected},
        )
        tables: dict[str, None] = {}
        for (table, key), metadata in result.requested.items():
            if table in selected:
                context.add_asset_metadata(dict(metadata), asset_key=table, partition_key=key)
                tables[table] = None
        for table in tables:
            yield dg.MaterializeResult(asset_key=table, metadata=dict(result.summary))
    _log(context, result.pictured)
    yield from evaluate_checks()
    if result.failures:
        raise result.failure()


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
