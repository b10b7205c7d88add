"""Where a table's Parquet files lie, as SQL that reads them with the types of the schema.

It knows paths and types; it opens no file and runs no query.
"""

import os
import re
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from convo_pipeline.errors import StoreError
from convo_pipeline.schema import LEDGER, TABLES, Table

VIEWED_TABLES = (*TABLES.values(), *LEDGER)
ACCOUNT_FOLDER = "account=[a-z]*"
DATE_FOLDER = "date=[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
DATA_FILE = "data.parquet"
_DATE_SQL = f"left(right(filename, {len('YYYY-MM-DD/') + len(DATA_FILE)}), {len('YYYY-MM-DD')})::DATE"

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


class LocalSource:
    """A lake in a local folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        if not os.path.isdir(self.root):
            raise StoreError(f"no lake at {root}: the folder does not exist; name the folder that holds the tables")
        self.folders: tuple[str, ...] = (f"{self.root}/", _literal_glob(f"{self.root}/"))

    def files(self, table: Table) -> list[str]:
        """Return the path of every partition, sorted."""
        return sorted(str(path) for path in Path(self.root, table.name).glob(_pattern(table)))

    def has_files(self, table: Table) -> bool:
        """Say whether the table has at least one partition; stops at the first."""
        return next(iter(Path(self.root, table.name).glob(_pattern(table))), None) is not None

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files.

        The schema is given, so no file is opened to plan a query, a column that an older file lacks is null,
        and a filter on `account` or `date` is answered from the paths alone.
        """
        folder = f"{self.root}/{table.name}/"
        pattern = quote(_literal_glob(folder) + _pattern(table))
        columns = [*_path_columns(table, folder), *map(quote_name, _own_types(table))]
        return (
            f"SELECT {', '.join(columns)} FROM read_parquet({pattern}, schema = {_schema_map(table)}, filename = true)"  # noqa: S608 - names and literals are quoted
        )


def select_nothing(table: Table) -> str:
    """Return a SELECT of no rows with the table's columns and types, for a table without files."""
    columns = [f"NULL::{kind} AS {quote_name(name)}" for name, kind in column_types(table).items()]
    return f"SELECT {', '.join(columns)} WHERE false"


def column_types(table: Table) -> dict[str, str]:
    """Return the view's columns in order with their SQL types: the path's first, then the schema's."""
    return _path_types(table) | _own_types(table)


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


def _own_types(table: Table) -> dict[str, str]:
    """The columns inside the files; the path's win over a column of the same name."""
    return {field.name: SQL_TYPES[field.type] for field in table.schema if field.name not in _path_types(table)}


def _path_columns(table: Table, folder: str) -> list[str]:
    start = len(folder) + len("account=") + 1
    values = {"account": f"split_part(substr(filename, {start}), '/', 1)", "date": _DATE_SQL}
    return [f"{values[name]} AS {name}" for name in _path_types(table)]


def _schema_map(table: Table) -> str:
    entries = [
        f"{quote(name)}: {{name: {quote(name)}, type: {quote(kind)}, default_value: NULL}}"
        for name, kind in _own_types(table).items()
    ]
    return "MAP{" + ", ".join(entries) + "}"


def _literal_glob(path: str) -> str:
    """Write a path so that a glob takes it literally.

    >>> _literal_glob("/data/a*b")
    '/data/a[*]b'
    """
    return re.sub(r"([*?\[])", r"[\1]", path)
