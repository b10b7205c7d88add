"""Show a query's result: a table for people, CSV, JSON or Parquet for programs.

What customers wrote is data from strangers: control characters do not reach the terminal, and no cell of a CSV
file starts a formula in a spreadsheet.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convo_pipeline.base.csv_text import cell_json, iterate_rows, write_csv_batches

MOST_ROWS_SHOWN = 200
MOST_BLOCKS_SHOWN = 20
"""Rows shown one below the other, where the terminal is too narrow for their columns."""
MOST_CHARACTERS_SHOWN = 200
NARROWEST_TEXT = 12
"""Characters that a text column keeps at least; numbers, times and names are never folded."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def show(result: pa.Table, console: Console) -> None:
    """Print the first rows: a table where the terminal is wide enough for it, else one row below the other."""
    if needed_width(result.slice(0, MOST_ROWS_SHOWN)) > console.width:
        _show_blocks(result, console)
        return
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for field in result.schema:
        table.add_column(
            Text(field.name), justify="right" if _is_number(field.type) else "left", overflow="fold"
        )
    for row in iterate_rows(result.slice(0, MOST_ROWS_SHOWN)):
        table.add_row(*(Text(readable(cell)) for cell in row))
    console.print(table)
    _say_how_many(MOST_ROWS_SHOWN, result, console)


def needed_width(result: pa.Table) -> int:
    """Return how many characters a table of these rows needs, with the space between its columns."""
    width = 1
    for field, column in zip(result.schema, result.columns, strict=True):
        longest = max((len(readable(cell)) for cell in column.to_pylist()), default=0)
        is_text = pa.types.is_string(field.type) or pa.types.is_list(field.type)
        width += 3 + max(len(field.name), min(longest, NARROWEST_TEXT) if is_text else longest)
    return width


def _show_blocks(result: pa.Table, console: Console) -> None:
    for number, row in enumerate(iterate_rows(result.slice(0, MOST_BLOCKS_SHOWN)), 1):
        block = Table(box=None, show_header=False, pad_edge=False)
        block.add_column(no_wrap=True, style="bold")
        block.add_column(overflow="fold")
        for name, cell in zip(result.column_names, row, strict=True):
            block.add_row(Text(name), Text(readable(cell)))
        console.rule(f"row {number:,}", align="left")
        console.print(block)
    if not result.num_rows:
        console.print(f"no rows of {', '.join(result.column_names)}", markup=False, highlight=False)
    _say_how_many(MOST_BLOCKS_SHOWN, result, console)


def _say_how_many(shown_count: int, result: pa.Table, console: Console) -> None:
    if result.num_rows > shown_count:
        console.print(
            f"{shown_count:,} of {result.num_rows:,} rows; --format csv gives all of them",
            style="dim",
        )


def readable(value: object) -> str:
    """Write one cell for a terminal.

    >>> readable("a\\x1b[31mb\\nc"), readable(None), readable(0.5)
    ('a[31mb c', '', '0.5')
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = (
        value
        if isinstance(value, str)
        else cell_json(value)
        if isinstance(value, list | dict)
        else str(value)
    )
    text = _CONTROLS.sub(lambda match: " " if match[0] in "\n\t\r" else "", text)
    return text if len(text) <= MOST_CHARACTERS_SHOWN else text[: MOST_CHARACTERS_SHOWN - 1] + "…"


def counted(count: int, noun: str) -> str:
    """Write a number of things.

    >>> counted(1, "message"), counted(2_000, "message")
    ('1 message', '2,000 messages')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def write_csv(result: pa.Table, out: BinaryIO) -> None:
    """Write UTF-8 CSV, times in ISO 8601; a text that a spreadsheet would run gets a leading apostrophe."""
    write_csv_batches(result.column_names, [result], out)


def write_json(result: pa.Table, out: BinaryIO) -> None:
    """Write one JSON array of objects."""
    out.write(b"[")
    for index, row in enumerate(iterate_rows(result)):
        record = dict(zip(result.column_names, row, strict=True))
        out.write(
            (",\n " if index else "\n ").encode() + cell_json(record).encode("utf-8", "replace")
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
