"""What the UI shows beside an asset: column schemas, row counts, previews.

Previews hold shortened ids, times, direction, types and counts; never text, names, e-mail addresses or URLs.
A column is shown only if it is known to be harmless, so that a new column stays hidden until someone decides.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from convo_pipeline.extract.report import AccountReport, figures_in, missed_in
from convo_pipeline.schema import COUNT, DETAIL_STATUSES, FLAG, RATIO, TIME, Table

PREVIEW_ROWS = 5
SHORT_ID_LENGTH = 6
LONG_ID_LENGTH = 24
HARMLESS_WORDS = frozenset(
    {
        "platform",
        "direction",
        "content_type",
        "detail_status",
        "created_at_source",
        "kind",
        "problem",
        "folder",
    }
    | {"story_kind", "share_type", "mime_type"}
)
_TYPE_NAMES: dict[pa.DataType, str] = {
    TIME: "timestamp (UTC)",
    COUNT: "int",
    RATIO: "float",
    FLAG: "bool",
}

FIGURES: Mapping[str, tuple[str, ...]] = {
    "coverage": ("ids_listed", *DETAIL_STATUSES, "share_detailed", "incomplete_conversation_count", "at_risk_conversation_count"),
    "account_days": (
        "inbound_count", "outbound_count", "new_customer_count", "backlog_count",
        "median_first_response_seconds", "share_answered_24h",
    ),
}  # fmt: skip
"""Columns of one-row tables that become numbers of their own: the UI draws each of them over the partitions."""

Metadata = Mapping[str, Any]


def column_schema(table: Table) -> dg.TableSchema:
    """Describe a table's columns, the two of its partition first."""
    place = [
        dg.TableColumn(
            "account", "string", "The account's name: part of the path.", _constraints(True)
        ),
        dg.TableColumn(
            "date", "date", "UTC day of `created_at`: part of the path.", _constraints(True)
        ),
    ]
    columns = [
        dg.TableColumn(
            column.name,
            _TYPE_NAMES.get(column.type, str(column.type)),
            column.description,
            _constraints(column.required),
        )
        for column in table.columns
    ]
    return dg.TableSchema(columns=[*place, *columns])


def _constraints(required: bool) -> dg.TableColumnConstraints:
    return dg.TableColumnConstraints(nullable=not required)


def table_metadata(table: Table) -> dict[str, Any]:
    """Metadata of the asset itself: its columns and where its rows live."""
    return {
        "dagster/column_schema": column_schema(table),
        "dagster/table_name": table.name,
        "key": ", ".join(("account", "date", *table.key)),
    }


def run_metadata(reports: Sequence[AccountReport]) -> dict[str, Any]:
    """Metadata of a run: what it cost, in all and by account, and what a sweep found that had been missed."""
    rows = [
        dg.TableRecord(
            {
                "account": report.account,
                "outcome": report.outcome,
                "calls": report.figures.used,
                "saved": report.figures.saved,
                "refused": report.figures.refused,
                "missed before": report.missed,
            }
        )
        for report in reports
    ]
    cost = figures_in(reports)
    totals = {"calls": cost.used, "calls_saved": cost.saved, "calls_refused": cost.refused}
    missed = missed_in(reports)
    if missed is not None:
        totals["missed_before"] = missed
    return {**totals, "by_account": dg.MetadataValue.table(rows)} if rows else dict(totals)


def partition_metadata(table: Table, content: pa.Table, *, with_preview: bool) -> dict[str, Any]:
    """Metadata of one partition: its row count and, if wanted, its first rows."""
    metadata: dict[str, Any] = {"dagster/row_count": content.num_rows}
    if with_preview and content.num_rows:
        metadata["preview"] = preview(table, content)
    return metadata | _figures(table, content)


def _figures(table: Table, content: pa.Table) -> dict[str, Any]:
    values = content.slice(0, 1).to_pylist() if table.name in FIGURES else []
    return {
        name: row[name] for row in values for name in FIGURES[table.name] if row[name] is not None
    }


def preview(table: Table, content: pa.Table) -> dg.TableMetadataValue:
    """Show the first rows without anything a customer wrote or is called by."""
    names = [column.name for column in table.columns if _is_harmless(column.name, column.type)]
    head = content.slice(0, PREVIEW_ROWS).select(names).to_pylist()
    records = [dg.TableRecord({name: _cell(name, row[name]) for name in names}) for row in head]
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in names])
    return dg.MetadataValue.table(records, schema=schema)


def _is_harmless(name: str, kind: pa.DataType) -> bool:
    is_id = name.endswith("_id") and kind == pa.string()
    return is_id or name in HARMLESS_WORDS or kind in (TIME, COUNT, RATIO, FLAG)


def _cell(name: str, value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name.endswith("_id"):
        return shorten_id(str(value))
    return str(value)


def shorten_id(value: str) -> str:
    """Shorten an id: enough to report_to_dagster rows apart, not enough to look anybody up.

    A number keeps its end. Long ids may all end alike, as Instagram's do: they become the beginning of their SHA-256,
    which `WHERE sha256(message_id) LIKE '22496f%'` finds.

    >>> shorten_id("17841400000000123"), shorten_id("aWdfZAG1faXRlbToxOk1AZDZD")
    ('…000123', '#22496f')
    """
    if len(value) > LONG_ID_LENGTH:
        return "#" + hashlib.sha256(value.encode()).hexdigest()[:SHORT_ID_LENGTH]
    return value if len(value) <= SHORT_ID_LENGTH else "…" + value[-SHORT_ID_LENGTH:]
