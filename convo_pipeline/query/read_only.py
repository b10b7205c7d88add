"""Decide which SQL a reading connection runs: statements that cannot write a file.

DuckDB can restrict the folders that SQL opens, but it cannot make them read-only. A statement type
is no proof either: a SELECT can hold a `COPY` in its WITH clause. So the parsed query decides. Each
query node must be of a kind that only reads, and unknown kinds are refused.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

from convo_pipeline.errors import StoreError

READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""Kinds of query nodes in DuckDB's parsed SQL that only read."""
HARMLESS_TYPES = {"DROP", "TRANSACTION", "SET", "VARIABLE_SET"}
"""Types of statements that change only this connection. Its settings are locked."""
WRITING_METHODS = frozenset({
    "append", "appender", "checkpoint", "create", "install_extension", "insert", "insert_into",
    "load_extension", "query_appender", "register_filesystem", "to_csv", "to_parquet", "to_table",
    "update", "write_csv", "write_parquet",
})  # fmt: skip
"""Methods of DuckDB's connections and relations that write rows, or that could lead to files."""
REFUSAL = (
    "SQL writes no files in this connection, so {} is refused. Save the rows with"
    " .df().to_csv(path), or with the command's --output FILE. To write with DuckDB, open a"
    " connection of your own with duckdb.connect(): nothing protects the tables from it"
)
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?(\((\s*\w+(\s+\w+)?\s*,?)+\)\s*)?", re.I)
_CREATE = re.compile(
    r"""\s*CREATE\s+(OR\s+REPLACE\s+)?(TEMP(ORARY)?\s+)?
    ((VIEW|MACRO|FUNCTION)\b
    |TABLE\s+(IF\s+NOT\s+EXISTS\s+)?(\w+|"([^"]|"")+")\s+AS\b(?P<rows>.*))""",
    re.I | re.S | re.X,
)
"""Views, macros, and tables made by a query. DuckDB refuses a `COPY` inside a view or macro."""


def reading_sql(con: duckdb.DuckDBPyConnection, query: Any) -> Any:
    """Return the query in a form that cannot write; raise StoreError for one that could.

    `con` parses the SQL and loses its pending result. A `Statement` of DuckDB becomes its text.
    """
    if isinstance(query, duckdb.Statement):
        query = query.query
    if not isinstance(query, str):
        return query
    texts = [
        _reading_statement(con, statement.type.name, statement.query)
        for statement in con.extract_statements(query)
    ]
    has_changed = any(new != old for new, old in texts)
    return ";\n".join(new for new, _ in texts) if has_changed else query


def is_complete(sql: str) -> bool:
    """Return whether the SQL ends with a semicolon, apart from comments.

    >>> is_complete("select 1; -- one"), is_complete("select 'a;"), is_complete("select 1")
    (True, False, False)
    """
    tokens = duckdb.tokenize(sql)
    words = [start for start, kind in tokens if kind != duckdb.token_type.comment]
    return bool(words) and sql[words[-1]] == ";"


def refuse_method(name: str) -> None:
    """Raise StoreError for a method that writes."""
    if name in WRITING_METHODS:
        raise StoreError(REFUSAL.format(f".{name}()"))


def _reading_statement(con: duckdb.DuckDBPyConnection, kind: str, text: str) -> tuple[str, str]:
    """Return the statement to run and the given one; raise StoreError if it could write."""
    if kind == "MULTI":
        # PIVOT without a list of values has no parsed form. As a subquery it cannot write: DuckDB
        # accepts a COPY only at the top level.
        wrapped = f"FROM (\n{text.rstrip().rstrip(';')}\n)"
        if [each.type.name for each in _statements(con, wrapped)] == ["MULTI"]:
            return wrapped, text
    is_reading = kind in HARMLESS_TYPES or (kind == "SELECT" and _only_reads(con, text))
    if kind == "EXPLAIN" and (match := _EXPLAIN.match(text)):
        is_reading = _only_reads(con, text[match.end() :])
    elif kind == "CREATE" and (match := _CREATE.match(text)):
        is_reading = match["rows"] is None or _only_reads(con, match["rows"])
    if not is_reading:
        raise StoreError(REFUSAL.format(kind if kind != "SELECT" else "a COPY or INSERT in WITH"))
    return text, text


def _only_reads(con: duckdb.DuckDBPyConnection, text: str) -> bool:
    """Return whether the text is one query of which each part only reads."""
    if [each.type.name for each in _statements(con, text)] != ["SELECT"]:
        return False
    row = con.execute("SELECT json_serialize_sql($1)", [text]).fetchone()
    parsed: Any = json.loads(row[0]) if row else {"error": True}
    if parsed["error"]:
        return False
    return all(kind in READING_NODES for kind in _node_kinds(parsed["statements"]))


def _statements(con: duckdb.DuckDBPyConnection, text: str) -> list[Any]:
    try:
        return con.extract_statements(text)
    except duckdb.Error:
        return []


def _node_kinds(value: object) -> Iterator[str]:
    """Yield the kind of each query node in DuckDB's parsed SQL."""
    if isinstance(value, dict):
        kind = value.get("type")
        if "node" in value and isinstance(value["node"], dict):
            yield str(value["node"].get("type"))
        if "query_node" in value and isinstance(value["query_node"], dict):
            yield str(value["query_node"].get("type"))
        if isinstance(kind, str) and kind.endswith("_NODE"):
            yield kind
        for item in value.values():
            yield from _node_kinds(item)
    elif isinstance(value, list):
        for item in value:
            yield from _node_kinds(item)
