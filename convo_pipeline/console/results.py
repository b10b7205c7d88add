"""Print a query result as a table, or write it as CSV, JSON or Parquet.

Message texts come from strangers. So control characters never reach the terminal, and no cell of
a CSV file starts a formula in a spreadsheet.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convo_pipeline.base.csv_text import cell_json, iterate_rows, write_csv_batches
from convo_pipeline.base.terminal_text import escape_controls, printable

MAX_ROWS = 200
MAX_BLOCKS = 20
"""Rows that are printed as blocks, one line per column, when the terminal is too narrow."""
MAX_CHARACTERS = 200
NULL = "NULL"
MIN_TEXT_WIDTH = 12
"""Text columns may fold down to this width. Numbers, times and names never fold."""


def print_rows(result: pa.Table, console: Console) -> None:
    """Print the first rows as a table, or as blocks if the terminal is too narrow."""
    as_blocks = table_width(result.slice(0, MAX_ROWS)) > console.width
    shown = result.slice(0, MAX_BLOCKS if as_blocks else MAX_ROWS)
    if as_blocks:
        _print_blocks(shown, console)
    else:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for field in shown.schema:
            justify: Any = "right" if _is_number(field.type) else "left"
            table.add_column(Text(printable(field.name)), justify=justify, overflow="fold")
        for row in iterate_rows(shown):
            table.add_row(*map(_shown, row))
        console.print(table)
    if result.num_rows > shown.num_rows:
        text = f"{shown.num_rows:,} of {result.num_rows:,} rows; use --format csv for all rows"
        console.print(text, style="dim")


def table_width(result: pa.Table) -> int:
    """Return the characters that a table of these rows needs, with the space between columns."""
    width = 1
    for field, column in zip(result.schema, result.columns, strict=True):
        longest = max((len(_shown(cell)) for cell in column.to_pylist()), default=0)
        is_text = pa.types.is_string(field.type) or pa.types.is_list(field.type)
        width += 3 + max(
            len(printable(field.name)), min(longest, MIN_TEXT_WIDTH) if is_text else longest
        )
    return width


def _print_blocks(rows: pa.Table, console: Console) -> None:
    for number, row in enumerate(iterate_rows(rows), 1):
        block = Table(box=None, show_header=False, pad_edge=False)
        block.add_column(no_wrap=True, style="bold")
        block.add_column(overflow="fold")
        for name, cell in zip(rows.column_names, row, strict=True):
            block.add_row(Text(printable(name)), _shown(cell))
        console.rule(f"row {number:,}", align="left")
        console.print(block)
    if not rows.num_rows:
        names = printable(", ".join(rows.column_names))
        console.print(f"no rows of {names}", markup=False, highlight=False)


def _shown(value: object) -> Text:
    """Return one cell of a table. A null is `NULL`, so that it differs from an empty text."""
    return Text(NULL, style="dim") if value is None else Text(cell_text(value))


def cell_text(value: object) -> str:
    """Return one value's text for a terminal; empty for None.

    >>> cell_text("a\\x1b[31mb\\nc"), cell_text(None), cell_text(0.5)
    ('a[31mb c', '', '0.5')
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = cell_json(value) if isinstance(value, list | dict) else str(value)
    text = printable(text)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "message"), counted(2_000, "message")
    ('1 message', '2,000 messages')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def write_csv(result: pa.Table, out: BinaryIO) -> None:
    """Write UTF-8 CSV: times in ISO 8601, an apostrophe before text that starts a formula."""
    write_csv_batches(result.column_names, [result], out)


def write_json(result: pa.Table, out: BinaryIO) -> None:
    """Write one JSON array of objects."""
    out.write(b"[")
    for index, row in enumerate(iterate_rows(result)):
        record = dict(zip(result.column_names, row, strict=True))
        out.write(
            (",\n " if index else "\n ").encode()
            + escape_controls(cell_json(record)).encode("utf-8", "replace")
        )
    out.write(b"\n]\n" if result.num_rows else b"]\n")


def write_parquet(result: pa.Table, out: BinaryIO) -> None:
    """Write one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(result, sink, compression="zstd")
    out.write(sink.getvalue())


WRITERS: dict[str, Callable[[pa.Table, BinaryIO], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
