"""Write a DuckDB file that has only views over the files of the tables, for any tool that opens it.

A view reads the files when it is queried, so it shows what is stored then. The file itself holds
only the settings of the accounts, such as their time zones.
"""

import os
from pathlib import Path

import duckdb

from convo_pipeline.errors import StoreError
from convo_pipeline.query.accounts import accounts_table
from convo_pipeline.query.reply_rules import RULES
from convo_pipeline.query.sources import VIEWED_TABLES, LocalSource
from convo_pipeline.query.views import joining_statements, table_select
from convo_pipeline.settings import Settings, is_bucket

OLDEST_DUCKDB = "v1.3.0"
"""The oldest version of DuckDB that can open the file."""


def write_database(
    root: str, file: Path, settings: Settings | None = None, *, is_replaced: bool = False
) -> list[str]:
    """Write the views over the tables at `root` to `file`; return the names of the empty tables.

    A table without files has an empty view, until the file is written again. Time zones and
    business hours of the lake, and of `settings`, are in the file. StoreError for a bucket, for a
    file that exists (unless `is_replaced`) and for a folder that cannot be written.
    """
    if is_bucket(root):
        raise StoreError(f"{root}: a database file reads a local folder; for a bucket see s3.md")
    source = LocalSource(root)
    if file.exists() and not is_replaced:
        raise StoreError(f"{file} exists: add --force to replace it")
    new = file.with_name(f".{file.name}.new")
    try:
        new.unlink(missing_ok=True)
        with duckdb.connect(
            str(new), config={"storage_compatibility_version": OLDEST_DUCKDB}
        ) as con:
            empty = _create_views(con, source, settings or Settings())
        new.replace(file)
    except (OSError, duckdb.IOException) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise StoreError(f"cannot write {file}: {reason}") from None
    finally:
        new.unlink(missing_ok=True)
    return empty


def _create_views(
    con: duckdb.DuckDBPyConnection, source: LocalSource, settings: Settings
) -> list[str]:
    con.execute("SET TimeZone = 'UTC'")
    for statement in RULES:
        con.execute(statement)
    con.register("stored_accounts", accounts_table(source.read_accounts(), settings))
    con.execute("CREATE TABLE internal.accounts AS SELECT * FROM stored_accounts")
    con.unregister("stored_accounts")
    empty = []
    for table in VIEWED_TABLES:
        has_files = source.has_files(table)
        sql = table_select(source, table, has_files=has_files)
        con.execute(f"CREATE VIEW {table.name} AS {sql}")
        if not has_files:
            empty.append(table.name)
    for statement in joining_statements(settings.metrics):
        con.execute(statement)
    return empty
