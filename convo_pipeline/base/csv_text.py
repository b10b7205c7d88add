"""Write Arrow tables as CSV that a spreadsheet opens without running formulas."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any, BinaryIO

import pyarrow as pa

_NEEDS_QUOTES = re.compile(r'[,"\r\n]')
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "\uff1d", "\uff0b", "\uff0d", "\uff20")

_BLANKS = " \u00a0\u200b\u2060\ufeff"
"""Characters that a spreadsheet may ignore before a formula."""


def write_csv_batches(names: Sequence[str], batches: Iterable[pa.Table], out: BinaryIO) -> int:
    """Write tables with the same columns as one UTF-8 CSV; return the number of rows.

    Times are ISO 8601. A text that a spreadsheet would run gets a leading apostrophe. An empty text
    is `""`, a null is nothing.
    """
    out.write(_csv_line([disarm_formula(name) for name in names]).encode("utf-8", "replace"))
    row_count = 0
    for batch in batches:
        row_count += batch.num_rows
        for row in iterate_rows(batch):
            out.write(_csv_line([_csv_cell(cell) for cell in row]).encode("utf-8", "replace"))
    return row_count


def _csv_line(cells: Sequence[object]) -> str:
    """Return one line of CSV. A line of one null is quoted, because readers skip an empty line.

    >>> print(_csv_line([1, None, "", "x,y"]), end="")
    1,,"","x,y"
    """
    texts = []
    for cell in cells:
        text = "" if cell is None else str(cell)
        is_quoted = cell == "" or _NEEDS_QUOTES.search(text) or (len(cells) == 1 and not text)
        texts.append('"' + text.replace('"', '""') + '"' if is_quoted else text)
    return ",".join(texts) + "\n"


def disarm_formula(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would run as a formula.

    A lone carriage return splits the row in some programs, so each line break becomes a line feed.

    >>> disarm_formula("=1+1"), disarm_formula("hello"), disarm_formula("-5")
    ("'=1+1", 'hello', "'-5")
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "'" + text if text.lstrip(_BLANKS).startswith(FORMULA_STARTS) else text


def iterate_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table as tuples of Python values, 10,000 rows in memory at a time."""
    for batch in table.to_batches(max_chunksize=10_000):
        columns = [column.to_pylist() for column in batch.columns]
        yield from zip(*columns, strict=True) if columns else iter(())


def cell_json(value: object) -> str:
    """Return a cell's value as JSON; times become ISO 8601 texts."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _csv_cell(value: object) -> object:
    if isinstance(value, str):
        return disarm_formula(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return disarm_formula(cell_json(value)) if isinstance(value, list | dict) else value


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime | date) else str(value)
