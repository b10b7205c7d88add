"""Build the SQL that reads a table's Parquet files with the types of the schema.

`LocalSource` reads a local folder. This module runs no query.
"""

import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.accounts import ACCOUNTS_FILE
from convo_pipeline.lake.segments import COMPACT
from convo_pipeline.schema import FORMER_TABLES, LEDGER, TABLES, Table
from convo_pipeline.storage.layout import DATA_FILE, read_date
from convo_pipeline.storage.local import LocalFolder, check_is_file, storage_error

EXTRACT_FIRST = "run `convo-pipeline extract` first, or name the folder of the tables"
"""What to do where there are no tables."""
VIEWED_TABLES = (*TABLES.values(), *LEDGER)
_TABLE_NAMES = [table.name for table in VIEWED_TABLES]
ACCOUNT_FOLDER = "account=[a-z]*"
DATE_FOLDER = "date=[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_DATE_SQL = (
    f"left(right(filename, {len('YYYY-MM-DD/') + len(DATA_FILE)}), {len('YYYY-MM-DD')})::DATE"
)

MOST_SUGGESTIONS = 3
"""Number of lakes that the error about a folder without tables names."""
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
    """The files of a lake, as the views read them."""

    prefix: str
    """Path or address of the lake, with a slash at the end."""
    folders: tuple[str, ...]
    """The folders that SQL may open: those with rows, and not those with keys or the state."""

    def has_files(self, table: Table) -> bool:
        """Return whether the table has at least one partition."""

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files.

        The columns of the path come first, then those of the schema.
        """

    def files(self, table: Table) -> list[str]:
        """Return the path of every partition, sorted."""

    def read_accounts(self) -> bytes | None:
        """Return the bytes of the file with the accounts' settings; None if there is no file."""

    def look(self) -> None:
        """Detect changes since the last query."""

    def is_changed(self, table: Table) -> bool:
        """Return whether the SELECT may have changed, as of the last `look`."""

    def distrust(self, message: str) -> None:
        """Stop reading the compacted files if this error concerns one of them."""

    def relations(self) -> Mapping[str, object]:
        """Return the objects that a connection must register before a SELECT, by name."""

    def is_readable(self, path: str) -> bool:
        """Return False if a file is damaged; a missing file is not. StoreError if unreadable."""

    def check_folders(self, table: Table) -> None:
        """Raise StoreError for a name that a query of the table would skip or follow unseen."""


class LocalSource:
    """A lake in a local folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        if not os.path.isdir(self.root):
            raise StoreError(f"no lake at {root}: the folder does not exist; {EXTRACT_FIRST}")
        if not _is_lake(Path(self.root)):
            raise StoreError(
                f"no lake at {root}: the folder contains no tables; {_suggest_lakes(root)}"
            )
        self.prefix = f"{self.root}/"
        paths = [f"{self.root}/{name}/" for name in (*_TABLE_NAMES, *FORMER_TABLES, COMPACT)]
        self.folders: tuple[str, ...] = tuple(dict.fromkeys([*paths, *map(literal_glob, paths)]))

    def files(self, table: Table) -> list[str]:
        """Return the path of every partition, sorted."""
        return sorted(str(path) for path in Path(self.folder(table)).glob(_pattern(table)))

    def folder(self, table: Table) -> str:
        """Return the folder of a table's files; in a lake of an earlier schema its former name."""
        folder = f"{self.root}/{table.name}"
        if table.former_name is None or os.path.isdir(folder):
            return folder
        former_folder = f"{self.root}/{table.former_name}"
        return former_folder if os.path.isdir(former_folder) else folder

    def relations(self) -> Mapping[str, object]:
        """Return an empty mapping: DuckDB reads the files itself."""
        return {}

    def read_accounts(self) -> bytes | None:
        """Return the bytes of the file with the accounts' settings; None if there is no file."""
        return LocalFolder(Path(self.root)).read_bytes(ACCOUNTS_FILE)

    def is_readable(self, path: str) -> bool:
        """Return False if a file is damaged; a missing file is not. StoreError if unreadable."""
        parts = path.removeprefix(self.prefix).split("/")
        content = LocalFolder(Path(self.root)).read_bytes(parts)
        try:
            if content is not None:
                file = pa.BufferReader(content)
                pq.ParquetFile(file, page_checksum_verification=True).read()
        except Exception:
            return False
        return True

    def check_folders(self, table: Table) -> None:
        """Raise StoreError for a link, pipe or folder in the place of a partition's file.

        DuckDB skips a pipe and a folder that it may not list, and it follows a link.
        """
        depth = 0 if table.layer == "ledger" else 1
        if os.path.lexists(folder := self.folder(table)):
            check_is_folder(folder)
            _check_days(folder, depth)

    def has_files(self, table: Table) -> bool:
        """Return whether the table has at least one partition. Stop at the first."""
        return next(iter(Path(self.folder(table)).glob(_pattern(table))), None) is not None

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files.

        The SELECT gives the schema, so DuckDB opens no file to plan a query. A column that is
        missing in an older file is null. Filters on `account` and `date` use only the paths.
        """
        return self.select_files(
            table, quote(literal_glob(f"{self.folder(table)}/") + _pattern(table))
        )

    def select_files(self, table: Table, files: str) -> str:
        """Return the SELECT over daily files of a table. `files` is an SQL literal."""
        types, former_names = own_types(table), _former_names(table)
        columns = [
            *path_columns(table, f"{self.folder(table)}/"),
            *(_select_column(name, former_names.get(name)) for name in types),
        ]
        former_types = {former: types[name] for name, former in former_names.items()}
        reader = (
            f"read_parquet({files}, schema = {schema_map(types | former_types)}, filename = true)"
        )
        return f"SELECT {', '.join(columns)} FROM {reader}"  # noqa: S608 - names are quoted

    def look(self) -> None:
        """Do nothing: the glob pattern finds new files at each query."""

    def is_changed(self, table: Table) -> bool:
        """Return False: the glob pattern finds new files at each query."""
        return False

    def distrust(self, message: str) -> None:
        """Do nothing: this source has no compacted files."""


def _check_days(folder: str, depth: int) -> None:
    """Check the days below a folder; `depth` is the number of folders in between."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise storage_error(Path(folder), "list", error) from None
    for name in names:
        if depth and re.match("account=[a-z]", name):
            check_is_folder(f"{folder}/{name}")
            _check_days(f"{folder}/{name}", depth - 1)
        elif not depth and read_date(name):
            check_day(f"{folder}/{name}")


def check_day(folder: str) -> None:
    """Raise StoreError unless a day's folder and its data file are what they should be."""
    check_is_folder(folder)
    with suppress(FileNotFoundError):
        path = f"{folder}/{DATA_FILE}"
        check_is_file(path, os.lstat(path))


def check_is_folder(path: str) -> None:
    """Raise StoreError for a link, pipe or file in the place of a folder."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            check_is_file(path, status)
            raise StoreError(f"{path} is a file in the place of a folder: move it away")


def _is_lake(folder: Path) -> bool:
    """Return whether a folder has a table's folder, or the state of a lake without rows."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return False
    return not names.isdisjoint((*_TABLE_NAMES, *FORMER_TABLES, ".state"))


def _suggest_lakes(root: str | os.PathLike[str]) -> str:
    """Return what to do: name the lakes inside and beside a folder, as paths like `root`."""
    folder = Path(root)
    near = [*_folders_in(folder), *_folders_in(folder.parent)]
    found = [str(path) for path in near if _is_lake(path)]
    if not found:
        return EXTRACT_FIRST
    return f"did you mean {' or '.join(found[:MOST_SUGGESTIONS])}?"


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def select_nothing(table: Table) -> str:
    """Return a SELECT of no rows with the table's columns and types, for a table without files."""
    columns = [f"NULL::{kind} AS {quote_name(name)}" for name, kind in column_types(table).items()]
    return f"SELECT {', '.join(columns)} WHERE false"


def column_types(table: Table) -> dict[str, str]:
    """Return the SQL types of the view's columns, in order.

    The columns of the path come first, then those of the schema.
    """
    return _path_types(table) | own_types(table)


def quote(text: str) -> str:
    """Return a text as an SQL literal.

    >>> print(quote("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _pattern(table: Table) -> str:
    """Return the glob pattern of a table's files, relative to the table's folder.

    The ledger is partitioned by date, every other table by account and date.
    """
    folders = [DATE_FOLDER] if table.layer == "ledger" else [ACCOUNT_FOLDER, DATE_FOLDER]
    return "/".join([*folders, DATA_FILE])


def _path_types(table: Table) -> dict[str, str]:
    return {"date": "DATE"} if table.layer == "ledger" else {"account": "VARCHAR", "date": "DATE"}


def own_types(table: Table) -> dict[str, str]:
    """Return the SQL types of the columns that are read from the files, not from their paths."""
    return {
        field.name: SQL_TYPES[field.type]
        for field in table.schema
        if field.name not in _path_types(table)
    }


def _former_names(table: Table) -> dict[str, str]:
    """Return the names that columns have in files of an earlier schema, by their current names."""
    return {column.name: column.former_name for column in table.columns if column.former_name}


def _select_column(name: str, former_name: str | None) -> str:
    if former_name is None:
        return quote_name(name)
    return f"coalesce({quote_name(name)}, {quote_name(former_name)}) AS {quote_name(name)}"


def path_columns(table: Table, folder: str) -> list[str]:
    """Return SQL expressions that take the account and the date from a file's path."""
    start = len(folder) + len("account=") + 1
    values = {"account": f"split_part(substr(filename, {start}), '/', 1)", "date": _DATE_SQL}
    return [f"{values[name]} AS {name}" for name in _path_types(table)]


def schema_map(types: Mapping[str, str]) -> str:
    """Return the `schema` argument of read_parquet. A column missing in a file is null."""
    entries = [
        f"{quote(name)}: {{name: {quote(name)}, type: {quote(kind)}, default_value: NULL}}"
        for name, kind in types.items()
    ]
    return "MAP{" + ", ".join(entries) + "}"


def literal_glob(path: str) -> str:
    """Escape a path for use in a glob pattern.

    >>> literal_glob("/data/a*b")
    '/data/a[*]b'
    """
    return re.sub(r"([*?\[])", r"[\1]", path)
