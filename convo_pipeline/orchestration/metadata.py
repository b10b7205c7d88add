"""Metadata that Dagster's page shows of assets and partitions: columns, rows, previews, calls.

Previews hold shortened ids, times, directions, types and counts; never texts, names, e-mail
addresses or URLs. A column is shown only if its name or type is listed here, so a new text column
stays hidden.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from convo_pipeline.extract.report import AccountReport, figures_in, missed_in
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.partitions import key_of
from convo_pipeline.orchestration.steps import UNREAD, StepResult, read_keys
from convo_pipeline.schema import COUNT, DETAIL_STATUSES, FLAG, RATIO, TABLES, TIME, Table
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.tables.known_words import known_word

Metadata = Mapping[str, Any]
TablePartition = tuple[str, str]
"""A table and a partition key."""
MOST_PREVIEWS = 31
"""Runs of more partitions (a month of one account) get no previews: they only add weight."""

ROW_COUNT, TOTAL_ROW_COUNT = "dagster/partition_row_count", "dagster/row_count"
"""Rows of the partition, and of the whole table."""
MOST_COUNTED_ACCOUNTS = 500
"""With more accounts no totals are shown: they would read the records of all partitions."""
PREVIEW_ROWS = 5
SHORT_ID_LENGTH = 6
LONG_ID_LENGTH = 24
SHOWN_TEXTS = frozenset(
    [
        "platform",
        "direction",
        "content_type",
        "detail_status",
        "created_at_source",
        "kind",
        "problem",
        "folder",
        "story_kind",
        "share_type",
        "mime_type",
    ]
)
"""Text columns of fixed words. A word that is not known becomes "other"."""
SHOWN_TYPES: Mapping[pa.DataType, str] = {
    TIME: "timestamp (UTC)",
    COUNT: "int",
    RATIO: "float",
    FLAG: "bool",
}
PLOTTED: Mapping[str, tuple[str, ...]] = {
    "coverage": (
        "ids_listed", *DETAIL_STATUSES, "share_detailed", "incomplete_conversation_count",
        "at_risk_conversation_count",
    ),
    "account_days": (
        "inbound_count", "outbound_count", "new_customer_count", "backlog_count",
        "median_first_response_seconds", "share_answered_24h",
    ),
}  # fmt: skip
"""Columns of one-row tables that Dagster plots over the partitions, in percent and minutes."""


def table_metadata(table: Table, settings: StoreSettings) -> dict[str, Any]:
    """Return the metadata of an asset: location, key and columns, those of the partition first."""
    root = settings.root if settings.is_remote else Path(settings.root).resolve().as_uri()
    columns = [
        ("account", "string", "The account's name: part of the path.", True),
        ("date", "date", "UTC day of `created_at`: part of the path.", True),
        *(
            (
                column.name,
                SHOWN_TYPES.get(column.type, str(column.type)),
                column.description,
                column.required,
            )
            for column in table.columns
        ),
    ]
    column_schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                name, kind, description, dg.TableColumnConstraints(nullable=not is_required)
            )
            for name, kind, description, is_required in columns
        ]
    )
    return {
        "dagster/column_schema": column_schema,
        "dagster/table_name": table.name,
        "dagster/uri": f"{root.rstrip('/')}/{table.name}",
        "key": ", ".join(("account", "date", *table.key)),
    }


def run_metadata(reports: Sequence[AccountReport]) -> dict[str, Any]:
    """Return a run's calls, in total and by account, and messages that a sweep found missing."""
    cost, missed = figures_in(reports), missed_in(reports)
    metadata: dict[str, Any] = {
        "calls": cost.used,
        "calls_saved": max(0, cost.saved),
        "calls_refused": cost.refused,
    }
    if missed is not None:
        metadata["missed_before"] = missed
    rows = [
        dg.TableRecord(
            {
                "account": report.account,
                "outcome": report.outcome,
                "calls": report.figures.used,
                "saved": max(0, report.figures.saved),
                "refused": report.figures.refused,
                "missed before": report.missed,
            }
        )
        for report in reports
    ]
    if rows:
        metadata["by_account"] = dg.MetadataValue.table(rows)
    return metadata


def read_metadata(store: Store, result: StepResult) -> dict[TablePartition, Metadata]:
    """Return the metadata of the requested partitions.

    Each day is read up to the first table that cannot be read; that error fails the account.
    """
    has_previews = len(result.requested) <= MOST_PREVIEWS
    metadata: dict[TablePartition, Metadata] = {}
    for stored in result.requested:
        note = {"note": stored.note} if stored.note else {}
        for name in stored.tables:
            read = partial(store.read, name, stored.account, stored.day)
            rows = result.attempt(stored.account, read)
            if rows is None:
                break
            values = partition_metadata(TABLES[name], rows, with_preview=has_previews)
            metadata[name, key_of(stored.account, stored.day)] = values | note
    return metadata


def read_totals(settings: Settings, store: Store, result: StepResult) -> dict[str, int]:
    """Return the row count of each whole table; nothing if the step has no partitions to show."""
    is_small = len(settings.accounts) <= MOST_COUNTED_ACCOUNTS
    has_partitions = result.requested or result.unrequested
    return store.state.row_counts() if has_partitions and is_small else {}


def add_totals(
    totals: Mapping[str, int], partitions: Mapping[TablePartition, Metadata]
) -> dict[TablePartition, Metadata]:
    """Add the row count of the whole table, which the page shows of the newest event."""
    return {
        (table, key): {TOTAL_ROW_COUNT: totals.get(table, 0), **metadata} if totals else metadata
        for (table, key), metadata in partitions.items()
    }


def commit_metadata(result: StepResult) -> dict[TablePartition, Metadata]:
    """Return the metadata of changed partitions that were not requested."""
    return {
        (commit.table, key_of(commit.account, commit.date)): {ROW_COUNT: commit.row_count}
        for commit in result.unrequested
    }


def changed_metadata(
    settings: Settings, store: Store, result: StepResult, totals: Mapping[str, int]
) -> tuple[dict[TablePartition, Metadata], dict[TablePartition, Metadata]]:
    """Return the changed partitions of days that a complete run has read, and those of others."""
    changed = add_totals(totals, commit_metadata(result))
    keys = read_keys(settings, store, {key for _, key in changed})
    read = {each: changed[each] for each in changed if each[1] in keys}
    unread: dict[TablePartition, Metadata] = {
        each: {**changed[each], "note": UNREAD} for each in changed if each not in read
    }
    return read, unread


def partition_metadata(table: Table, rows: pa.Table, *, with_preview: bool) -> dict[str, Any]:
    """Return a partition's row count, its plotted figures and, if wanted, its first rows."""
    metadata: dict[str, Any] = {ROW_COUNT: rows.num_rows}
    if with_preview and rows.num_rows:
        metadata["preview"] = preview(table, rows)
    for row in rows.slice(0, 1).to_pylist() if table.name in PLOTTED else ():
        figures = {name: row[name] for name in PLOTTED[table.name] if row[name] is not None}
        metadata |= dict(round_figure(name, value) for name, value in figures.items())
    return metadata


def round_figure(name: str, value: float) -> tuple[str, float]:
    """Return a figure rounded, with its unit in its name.

    >>> round_figure("share_detailed", 0.814815), round_figure("waiting_seconds", 613.4)
    (('share_detailed_percent', 81.5), ('waiting_minutes', 10.2))
    """
    if name.startswith("share_"):
        return f"{name}_percent", round(100 * value, 1)
    if name.endswith("_seconds"):
        return f"{name.removesuffix('_seconds')}_minutes", round(value / 60, 1)
    return name, value


def preview(table: Table, rows: pa.Table) -> dg.TableMetadataValue:
    """Return the first rows without anything that a customer wrote or that names a person."""
    names = [
        column.name
        for column in table.columns
        if column.type in SHOWN_TYPES
        or column.name in SHOWN_TEXTS
        or (column.name.endswith("_id") and column.type == pa.string())
    ]
    records = [
        dg.TableRecord({name: _show(name, row[name]) for name in names})
        for row in rows.slice(0, PREVIEW_ROWS).select(names).to_pylist()
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in names])
    return dg.MetadataValue.table(records, schema=schema)


def _show(name: str, value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return shorten_id(str(value)) if name.endswith("_id") else known_word(name, str(value))


def shorten_id(value: str) -> str:
    """Shorten an id: enough to tell rows apart, not enough to find a person.

    An id of usual length keeps its end; of a shorter one nothing is shown. Long ids of Instagram
    all end alike: they become the first characters of their SHA-256, which
    `WHERE sha256(message_id) LIKE '22496f%'` finds.

    >>> shorten_id("17841400000000123"), shorten_id("aWdfZAG1faXRlbToxOk1AZDZD")
    ('…000123', '#22496f')
    """
    if len(value) > LONG_ID_LENGTH:
        return "#" + hashlib.sha256(value.encode()).hexdigest()[:SHORT_ID_LENGTH]
    return "…" + value[-SHORT_ID_LENGTH:] if len(value) > 2 * SHORT_ID_LENGTH else "…"
