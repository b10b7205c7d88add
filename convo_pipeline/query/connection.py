"""Open a read-only DuckDB connection with one view per table.

DuckDB opens a file more than once in a query. A commit between two opens makes the query fail; it
never returns wrong rows. This module retries such a query, so readers can work while the pipeline
writes. SQL can read files of the tables only, and it can write no file.
"""

import os
import re
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import duckdb

from convo_pipeline.errors import CorruptError
from convo_pipeline.query.accounts import accounts_table
from convo_pipeline.query.compacted_source import CompactedSource
from convo_pipeline.query.read_only import WRITING_METHODS, reading_sql, refuse_method
from convo_pipeline.query.reply_rules import RULES
from convo_pipeline.query.sources import VIEWED_TABLES, Source, quote
from convo_pipeline.query.views import joining_statements, table_select
from convo_pipeline.settings import Settings, StoreSettings, is_bucket
from convo_pipeline.state.database import STATE_FILE
from convo_pipeline.storage.layout import DATA_FILE

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as DuckDBConnection
    from duckdb import DuckDBPyRelation as DuckDBRelation
else:
    DuckDBConnection = DuckDBRelation = object
"""DuckDB's classes for type checkers, so that each method has its exact types.

The wrappers do not inherit from them when the program runs.
"""

TRIES = 5
PAUSE_SECONDS = 0.02
BATCH_SIZE = 131_072
"""Rows of an Arrow batch, DuckDB's default."""
READ_ERRORS = (
    duckdb.Error,
    duckdb.IOException,
    duckdb.InvalidInputException,
    duckdb.SerializationException,
    duckdb.InternalException,
)
"""The exact classes that DuckDB raises for a replaced, removed or damaged file.

After an InternalException the connection runs no further query.
"""
QueryError = duckdb.Error
"""The error that a wrong statement raises, for modules that do not import DuckDB."""


def connect(
    root: str | os.PathLike[str] = "data",
    *,
    settings: Settings | None = None,
    config: Mapping[str, str | int | bool] | None = None,
) -> "Connection":
    """Return a DuckDB connection with one view per table, and views that join the tables.

    The views use the time zone, business hours and `[metrics]` of each account's last run.
    `settings` replaces them for its accounts. `config` contains DuckDB settings, such as
    `{"threads": 2}`; they are locked afterwards. SQL cannot read files outside the lake.
    `con.register(name, frame)` makes a DataFrame available to SQL. Times are UTC.

    Raises StoreError if there is no lake, and names lakes nearby. A query raises CorruptError with
    the path of a damaged file.
    """
    source = open_source(root, (settings or Settings()).store)
    con = duckdb.connect(config=dict(config or {}))
    spill = tempfile.mkdtemp(prefix="convo-sql-")
    _restrict(con, source, spill)
    lake = _Lake(con.cursor(), source, settings or Settings())
    weakref.finalize(lake, shutil.rmtree, spill, ignore_errors=True)
    return Connection(con, lake)


def open_source(root: str | os.PathLike[str], settings: StoreSettings) -> Source:
    """Return the lake at a local folder or a bucket such as `s3://bucket/prefix`.

    Raises StoreError if there is no lake.
    """
    if not is_bucket(str(root)):
        return CompactedSource(root, _state_file(root, settings))
    from convo_pipeline.query.bucket_source import BucketSource

    return BucketSource(str(root), settings.endpoint_url)


def _state_file(root: str | os.PathLike[str], settings: StoreSettings) -> Path:
    """Return the path of the lake's `state.db`.

    It is the configured path if the settings belong to this lake, else the default path.
    """
    is_configured = os.path.realpath(settings.root) == os.path.realpath(root)
    folder = settings.state_path if is_configured else Path(root) / ".state"
    return folder / STATE_FILE


def _restrict(con: duckdb.DuckDBPyConnection, source: Source, spill: str) -> None:
    """Set the time zone to UTC, allow only the lake's files, and lock the configuration."""
    con.execute("SET GLOBAL TimeZone = 'UTC'")
    con.execute(f"SET temp_directory = {quote(spill)}")
    con.execute("SET autoinstall_known_extensions = false")
    con.execute("SET autoload_known_extensions = false")
    con.execute("SET allow_persistent_secrets = false")
    folders = ", ".join(quote(folder) for folder in source.folders)
    con.execute(f"SET allowed_directories = [{folders}]")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


class _Lake:
    """The views of one lake. Before each query they are updated for new tables and files."""

    def __init__(self, con: duckdb.DuckDBPyConnection, source: Source, settings: Settings) -> None:
        self.source = source
        self._con = con
        self.lock = threading.Lock()
        self._has_files: dict[str, bool] = {}
        self._selects: dict[str, str] = {}
        self._relations = source.relations()
        self._settings = settings
        self._accounts: bytes | None = None
        self.prepare(con)
        for statement in RULES:
            con.execute(statement)
        self._replace_accounts(None)
        self.refresh(use_cache=False)
        for statement in joining_statements(settings.metrics):
            con.execute(statement)
        self._words = {name: _words_of(sql) for name, sql in con.execute(_DEFINITIONS).fetchall()}

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Register the relations that the views read. DuckDB keeps them per connection."""
        for name, relation in self._relations.items():
            con.register(name, relation)

    def refresh(self, use_cache: bool = True) -> None:
        """Create each table's view over its files, or over no rows if it has none.

        With `use_cache`, a table that had files keeps its view unless its source has changed.
        """
        with self.lock:
            for attempt in range(1, TRIES + 1):
                try:
                    self._create_views(use_cache and attempt == 1)
                except READ_ERRORS as error:
                    if attempt == TRIES:
                        raise
                    if attempt > 1:
                        self.source.distrust(str(error))
                else:
                    return

    def _create_views(self, use_cache: bool) -> None:
        self.source.look()
        accounts = self.source.read_accounts()
        if accounts != self._accounts:
            self._replace_accounts(accounts)
        for table in VIEWED_TABLES:
            had_files = self._has_files.get(table.name)
            if use_cache and had_files and not self.source.is_changed(table):
                continue
            self._has_files.pop(table.name, None)
            has_files = self.source.has_files(table)
            sql = table_select(self.source, table, has_files=has_files)
            if sql != self._selects.get(table.name):
                self._con.execute(f"CREATE OR REPLACE VIEW {table.name} AS {sql}")
                self._selects[table.name] = sql
            self._has_files[table.name] = has_files

    def _replace_accounts(self, content: bytes | None) -> None:
        with self._con.cursor() as con:
            con.register("stored_accounts", accounts_table(content, self._settings))
            con.execute(
                "CREATE OR REPLACE TABLE internal.accounts AS SELECT * FROM stored_accounts"
            )
        self._accounts = content

    def reading_sql(self, query: Any) -> Any:
        """Return the query in a form that cannot write; raise StoreError for one that could.

        Also raise StoreError for a link or a pipe in the place of a file that the query may read.
        """
        with self.lock:
            query = reading_sql(self._con, query)
        self.check_folders(query)
        return query

    def check_folders(self, *texts: object) -> None:
        """Check the folders of each table that SQL or a name mentions, also through a view."""
        words: set[str] = set()
        new_words = set().union(*(_words_of(text) for text in texts if isinstance(text, str)))
        while new_words:
            words |= new_words
            new_words = set().union(*(self._words.get(word, ()) for word in new_words)) - words
        for table in VIEWED_TABLES:
            if table.name in words:
                self.source.check_folders(table)

    def run(self, action: Callable[[], Any]) -> Any:
        """Return the result of `action`. Retry it if a file changed while it ran."""
        self.refresh()
        for attempt in range(1, TRIES + 1):
            try:
                return action()
            except duckdb.CatalogException as error:
                raise _with_hint(error) from None
            except duckdb.Error as error:
                if type(error) not in READ_ERRORS:
                    raise
                if attempt == TRIES or isinstance(error, duckdb.InternalException):
                    raise self._explain(error) or error from None
                if attempt > 1:
                    self.source.distrust(str(error))
                time.sleep(PAUSE_SECONDS * attempt)
                self.refresh(use_cache=False)
        raise AssertionError("unreachable")

    def _explain(self, error: duckdb.Error) -> Exception | None:
        """Return a CorruptError if a damaged file caused the error, else None."""
        for path in self._suspects(error):
            if not self.source.is_readable(path):
                return CorruptError(
                    f"{path} is damaged and cannot be read. Run `convo-pipeline verify`. "
                    "To read the other partitions, exclude this one: filter on account and date."
                )
        return None

    def _suspects(self, error: duckdb.Error) -> list[str]:
        """Return the files that may have caused an error.

        This is the file that the message names. An error about files that names none may concern
        all files. Errors of the Parquet reader have no class of their own.
        """
        message = str(error)
        start, end = message.find(self.source.prefix), message.find(DATA_FILE)
        if 0 <= start < end:
            return [message[start : end + len(DATA_FILE)]]
        is_reader_error = type(error) in (duckdb.Error, duckdb.InternalException)
        is_about_files = "No files found" not in message and (
            is_reader_error or re.search("file|parquet", message, re.I)
        )
        return (
            [path for table in VIEWED_TABLES for path in self.source.files(table)]
            if is_about_files
            else []
        )


def _with_hint(error: duckdb.CatalogException) -> duckdb.CatalogException:
    """Return the error about an unknown table; if it is a variable of a caller, name the remedy."""
    match = re.search(r"Table with name (\w+) does not exist", str(error))
    frame: FrameType | None = sys._getframe(1)
    while match and frame and match[1] not in {**frame.f_globals, **frame.f_locals}:
        frame = frame.f_back
    if not match or not frame:
        return error
    hint = f'To query a DataFrame of Python, call con.register("{match[1]}", frame) first.'
    return duckdb.CatalogException(f"{error}\n{hint}")


class Connection(DuckDBConnection):
    """A DuckDB connection that retries a read if a commit interrupts it.

    It has all methods of `duckdb.DuckDBPyConnection` but those that write.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, lake: _Lake) -> None:
        self._con = con
        self._lake = lake
        lake.prepare(con)
        self._rerun: Callable[[], Any] | None = None

    def execute(self, query: duckdb.Statement | str, parameters: object = None) -> Self:
        """Run a statement. Its rows are fetched from this connection."""
        query = self._lake.reading_sql(query)
        arguments = (query,) if parameters is None else (query, parameters)
        self._rerun = lambda: self._con.execute(*arguments)
        self._lake.run(self._rerun)
        return self

    def cursor(self) -> "Connection":
        """Return a second connection to the same views, for another thread or another result."""
        return Connection(self._con.cursor(), self._lake)

    duplicate = cursor

    def table(self, name: str) -> "Relation":
        """Return the view of a table as a relation."""
        self._lake.check_folders(name)
        return self._relation(lambda: self._con.view(name))

    def sql(
        self, query: duckdb.Statement | str, *, alias: str = "", params: object = None
    ) -> "Relation":
        """Return a query as a relation, which runs when its rows are fetched.

        A statement without rows runs at once.
        """
        query = self._lake.reading_sql(query)
        return self._relation(lambda: self._con.sql(query, alias=alias, params=params))

    query = from_query = sql

    def split(self, sql: str) -> list[str]:
        """Return the statements of an SQL text."""
        with self._lake.lock:
            return [statement.query for statement in self._con.extract_statements(sql)]

    def __dir__(self) -> list[str]:
        return _names_of(self, self._con)

    def executemany(self, query: duckdb.Statement | str, parameters: object = None) -> Self:
        """Run a statement once for each set of parameters."""
        query = self._lake.reading_sql(query)
        arguments = (query,) if parameters is None else (query, parameters)
        self._lake.run(lambda: self._con.executemany(*arguments))
        return self

    def close(self) -> None:
        """Close the connection.

        The temporary files are removed when no connection uses these views any more.
        """
        self._con.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            refuse_method(name)
            value = getattr(self._con, name)
            if not callable(value):
                return value
            return (
                self._fetching(value)
                if name.startswith("fetch") or name in _READERS
                else self._calling(value)
            )

    def _relation(self, make: Callable[[], Any]) -> "Relation":
        self._rerun = None
        relation: Relation = _wrap(self._lake.run(make), self._lake)
        return relation

    def _calling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._lake.check_folders(*args)
            result = self._lake.run(lambda: method(*args, **kwargs))
            return self if result is self._con else _wrap(result, self._lake)

        return call

    def _fetching(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a fetch method. Only the first fetch of a result can run the statement again.

        Later, the caller already has some of its rows.
        """

        def fetch(*args: Any, **kwargs: Any) -> Any:
            rerun, self._rerun = self._rerun, None
            if rerun is None:
                return method(*args, **kwargs)
            try:
                return method(*args, **kwargs)
            except duckdb.Error as error:
                if type(error) not in READ_ERRORS:
                    raise
                return self._lake.run(lambda: (rerun(), method(*args, **kwargs))[1])

        return fetch


_DEFINITIONS = """
SELECT view_name, sql FROM duckdb_views() WHERE NOT internal
UNION ALL
SELECT function_name, macro_definition FROM duckdb_functions()
WHERE macro_definition IS NOT NULL AND NOT internal
"""
"""Names and definitions of the views and macros."""


def _words_of(sql: str) -> set[str]:
    return set(re.findall(r"\w+", sql.lower()))


_READERS = ("df", "arrow", "pl", "torch", "tf", "to_arrow_table", "to_arrow_reader")


def _names_of(wrapper: object, wrapped: object) -> list[str]:
    """Return the names that completion shows: those of both objects, without what is refused."""
    names = {*object.__dir__(wrapper), *(name for name in dir(wrapped) if name[0] != "_")}
    return sorted(names - WRITING_METHODS)


def _wrap(value: Any, lake: _Lake) -> Any:
    return Relation(value, lake) if isinstance(value, duckdb.DuckDBPyRelation) else value


def _unwrap(value: Any) -> Any:
    return value._relation if isinstance(value, Relation) else value


class Relation(DuckDBRelation):
    """A DuckDB relation that retries a read if a commit interrupts it.

    It has all methods of `duckdb.DuckDBPyRelation` but those that write.
    """

    def __init__(self, relation: duckdb.DuckDBPyRelation, lake: _Lake) -> None:
        self._relation = relation
        self._lake = lake

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") and name not in _PROTOCOLS:
                raise AttributeError(name)
            refuse_method(name)
            if callable(getattr(duckdb.DuckDBPyRelation, name, None)):
                return self._calling(getattr(self._relation, name))
            value = self._lake.run(lambda: getattr(self._relation, name))
            return self._calling(value) if callable(value) else _wrap(value, self._lake)

    def _calling(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            positional = [_unwrap(value) for value in args]
            keywords = {name: _unwrap(value) for name, value in kwargs.items()}
            return _wrap(self._lake.run(lambda: method(*positional, **keywords)), self._lake)

        return call

    def query(self, virtual_table_name: str, sql_query: str) -> "Relation":
        """Return a query that names this relation `virtual_table_name`, as a relation."""
        sql_query = self._lake.reading_sql(sql_query)
        method: Any = self._relation.query
        relation: Relation = self._calling(method)(virtual_table_name, sql_query)
        return relation

    def df(self, *, date_as_object: bool = False) -> "pd.DataFrame":
        """Return the rows as a pandas frame."""
        frame: pd.DataFrame = self._calling(self._relation.df)(date_as_object=date_as_object)
        return frame

    def to_arrow_table(self, batch_size: int = BATCH_SIZE) -> "pa.Table":
        """Return the rows as an Arrow table."""
        table: pa.Table = self._calling(self._relation.to_arrow_table)(batch_size)
        return table

    def __dir__(self) -> list[str]:
        return _names_of(self, self._relation)

    def __repr__(self) -> str:
        return str(self._lake.run(lambda: repr(self._relation)))

    def __str__(self) -> str:
        return str(self._lake.run(lambda: str(self._relation)))

    def __len__(self) -> int:
        return int(self._lake.run(lambda: len(self._relation)))

    def __contains__(self, name: str) -> bool:
        return bool(self._lake.run(lambda: name in self._relation))

    def __getitem__(self, name: str) -> Any:
        return _wrap(self._lake.run(lambda: self._relation[name]), self._lake)


_PROTOCOLS = ("__arrow_c_stream__",)
