"""Run SQL over Arrow tables in an in-memory DuckDB database. It reads and writes no files."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

_SETTINGS = (
    "TimeZone = 'UTC'",
    "enable_progress_bar = false",
    "temp_directory = ''",
    "enable_external_access = false",
)


def run_query(
    query: str,
    tables: Mapping[str, pa.Table],
    *,
    setup: Iterable[str] = (),
    parameters: Mapping[str, object] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a query over these tables, after the `setup` statements.

    It uses one thread: rows keep their order, and several accounts can run in parallel.
    """
    import duckdb

    with duckdb.connect(config={"threads": 1}) as con:
        for setting in _SETTINGS:
            con.execute(f"SET {setting}")
        for statement in setup:
            con.execute(statement)
        for name, table in tables.items():
            con.register(name, table)
        result = con.execute(query, parameters)
        names = [column[0] for column in result.description]
        return [dict(zip(names, values, strict=True)) for values in result.fetchall()]
