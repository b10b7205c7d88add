"""Where a table's Parquet files lie, as SQL that reads them with the types of the schema.

It knows paths and types; it opens no file and runs no query.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.errors import StoreError
from convo_pipeline.schema import LEDGER, TABLES, Table
from convo_pipeline.storage.layout import DATA_FILE

VIEWED_TABLES = (*TABLES.values(), *LEDGER)
ACCOUNT_FOLDER = "account=[a-z]*"
DATE_FOLDER = "date=[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_DATE_SQL = (
    f"left(right(filename, {len('YYYY-MM-DD/') + len(DATA_FILE)}), {len('YYYY-MM-DD')})::DATE"
)

SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.date32(): "DATE",
}


class Source(Protocol):
    """A lake as the views see it."""

    folders: tuple[str, ...]
    """What DuckDB must be allowed to open."""

    def has_files(self, table: Table) -> bool:
        """Say whether the table has at least one partition."""

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files: the path's columns first, then the schema's."""

    def files(self, table: Table) -> list[str]:
        """Return the path of every partition, sorted."""

    def look(self) -> None:
        """Learn what changed since the last query."""

    def is_changed(self, table: Table) -> bool:
        """Say whether the SELECT may be another one than it was, as far as `look` has seen."""

    def distrust(self, message: str) -> None:
        """Read no copy any more that this error is about."""

    def relations(self) -> Mapping[str, object]:
        """Return what every connection must register before it runs a SELECT, by name."""

    def is_readable(self, path: str) -> bool:
        """Say whether a file is whole, or gone."""


class LocalSource:
    """A lake in a local folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        if not os.path.isdir(self.root):
            raise StoreError(
                f"no lake at {root}: the folder does not exist; name the folder that holds the tables"
            )
        self.folders: tuple[str, ...] = (f"{self.root}/", literal_glob(f"{self.root}/"))

    def files(self, table: Table) -> list[str]:
        """Return the path of every partition, sorted."""
        return sorted(str(path) for path in Path(self.root, table.name).glob(_pattern(table)))

    def relations(self) -> Mapping[str, object]:
        """Return nothing: the files are read in place."""
        return {}

    def is_readable(self, path: str) -> bool:
        """Say whether a file is whole, or gone."""
        try:
            pq.ParquetFile(path, page_checksum_verification=True).read()
        except FileNotFoundError:
            return True
        except Exception:
            return False
        return True

    def has_files(self, table: Table) -> bool:
        """Say whether the table has at least one partition; stops at the first."""
        return next(iter(Path(self.root, table.name).glob(_pattern(table))), None) is not None

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files.

        The schema is given, so no file is opened to plan a query, a column that an older file lacks is null,
        and a filter on `account` or `date` is answered from the paths alone.
        """
        return self.select_files(
            table, quote(literal_glob(f"{self.root}/{table.name}/") + _pattern(table))
        )

    def select_files(self, table: Table, files: str) -> str:
        """Return the SELECT over daily files of a table, written as an SQL literal."""
        columns = [
            *path_columns(table, f"{self.root}/{table.name}/"),
            *map(quote_name, own_types(table)),
        ]
        kinds = schema_map(own_types(table))
        return f"SELECT {', '.join(columns)} FROM read_parquet({files}, schema = {kinds}, filename = true)"  # noqa: S608 - names and literals are quoted

    def look(self) -> None:
        """There is nothing to learn."""

    def is_changed(self, table: Table) -> bool:
        """Say no: a pattern finds what is there at each query."""
        return False

    def distrust(self, message: str) -> None:
        """There is nothing else to read than the files themselves."""


def select_nothing(table: Table) -> str:
    """Return a SELECT of no rows with the table's columns and types, for a table without files."""
    columns = [f"NULL::{kind} AS {quote_name(name)}" for name, kind in column_types(table).items()]
    return f"SELECT {', '.join(columns)} WHERE false"


def column_types(table: Table) -> dict[str, str]:
    """Return the view's columns in order with their SQL types: the path's first, then the schema's."""
    return _path_types(table) | own_types(table)


def quote(text: str) -> str:
    """Write a text as an SQL literal.

    >>> print(quote("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Write a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _pattern(table: Table) -> str:
    """The ledger is kept by date alone; every other table by account and date."""
    folders = [DATE_FOLDER] if table.layer == "ledger" else [ACCOUNT_FOLDER, DATE_FOLDER]
    return "/".join([*folders, DATA_FILE])


def _path_types(table: Table) -> dict[str, str]:
    return {"date": "DATE"} if table.layer == "ledger" else {"account": "VARCHAR", "date": "DATE"}


def own_types(table: Table) -> dict[str, str]:
    """Return the columns inside the files; the path's win over a column of the same name."""
    return {
        field.name: SQL_TYPES[field.type]
        for field in table.schema
        if field.name not in _path_types(table)
    }


def path_columns(table: Table, folder: str) -> list[str]:
    """Return what SQL makes of the files' paths: the account, the date."""
    start = len(folder) + len("account=") + 1
    values = {"account": f"split_part(substr(filename, {start}), '/', 1)", "date": _DATE_SQL}
    return [f"{values[name]} AS {name}" for name in _path_types(table)]


def schema_map(types: Mapping[str, str]) -> str:
    """Return the `schema` of read_parquet: a column that a file lacks is null."""
    entries = [
        f"{quote(name)}: {{name: {quote(name)}, type: {quote(kind)}, default_value: NULL}}"
        for name, kind in types.items()
    ]
    return "MAP{" + ", ".join(entries) + "}"


def literal_glob(path: str) -> str:
    """Write a path so that a glob takes it literally.

    >>> literal_glob("/data/a*b")
    '/data/a[*]b'
    """
    return re.sub(r"([*?\[])", r"[\1]", path)
