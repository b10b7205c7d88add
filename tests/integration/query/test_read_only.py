"""SQL on a lake reads rows only: it writes no file, and it reaches no key and no state."""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import duckdb
import pytest

import convo_pipeline
from convo_pipeline.errors import StoreError
from convo_pipeline.query.connection import Connection
from convo_pipeline.query.read_only import WRITING_METHODS
from tests.integration.query.test_connection import message, write

DAY = date(2026, 3, 1)


@pytest.fixture
def con(tmp_path: Path) -> Iterator[Connection]:
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "forget.key").write_bytes(b"k" * 32)
    (tmp_path / ".forgotten" / "account=bakery").mkdir(parents=True)
    (tmp_path / ".forgotten" / "account=bakery" / "1.json").write_bytes(b"{}")
    with convo_pipeline.connect(tmp_path) as con:
        yield con


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


TARGET = "{root}/messages/account=bakery/date=2026-03-01/data.parquet"
WRITERS = [
    f"COPY (SELECT 1) TO '{TARGET}' (FORMAT parquet)",
    f"copy messages to '{TARGET}'",
    f"/* a comment */ COPY (SELECT 1) TO '{TARGET}'",
    f"PREPARE p AS COPY (SELECT 1) TO '{TARGET}'; EXECUTE p",
    f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{TARGET}'",
    f"EXPLAIN /* a */ ANALYZE /* b */ COPY (SELECT 1) TO '{TARGET}'",
    f"EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{TARGET}'",
    f"BEGIN; COPY (SELECT 1) TO '{TARGET}'; COMMIT",
    f"WITH w AS (COPY (SELECT 1) TO '{TARGET}') FROM w",
    f"WITH v AS (SELECT 1), w AS (COPY (FROM v) TO '{TARGET}') FROM w",
    f"WITH w AS (COPY (SELECT 1) TO '{TARGET}') SELECT 1 UNION ALL SELECT 2",
    f"FROM (WITH w AS (COPY (SELECT 1) TO '{TARGET}') FROM w)",
    f"EXPLAIN ANALYZE WITH w AS (COPY (SELECT 1) TO '{TARGET}') FROM w",
    f"CREATE TABLE t AS WITH w AS (COPY (SELECT 1) TO '{TARGET}') FROM w",
    f"CREATE VIEW t AS WITH w AS (COPY (SELECT 1) TO '{TARGET}') FROM w; FROM t",
    f"CREATE MACRO t() AS TABLE WITH w AS (COPY (SELECT 1) TO '{TARGET}') FROM w; FROM t()",
    f"COPY (PIVOT messages ON text USING count(*)) TO '{TARGET}'",
    f"EXPLAIN ANALYZE COPY (PIVOT messages ON text USING count(*)) TO '{TARGET}'",
    f"WITH w AS (COPY (PIVOT messages ON text USING count(*)) TO '{TARGET}') FROM w",
    f"FROM query('WITH w AS (COPY (SELECT 1) TO ''{TARGET}'') FROM w')",
    "ATTACH '{root}/messages/x.db' AS x; CREATE TABLE x.t AS SELECT 1",
    "ATTACH ':memory:' AS x",
    "EXPORT DATABASE '{root}/messages/x'",
    "IMPORT DATABASE '{root}/messages/x'",
    "CALL enable_logging(storage = 'file', storage_path = '{root}/messages/log')",
    "FROM enable_logging(storage := 'file', storage_path := '{root}/messages/log')",
    "CALL enable_profiling(format = 'json', save_location = '{root}/messages/profile')",
    "PRAGMA profile_output = '{root}/messages/profile'",
    "SET temp_directory = '{root}/messages/'",
    "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')",
    "INSTALL httpfs",
    "LOAD httpfs",
]


@pytest.mark.parametrize("query", WRITERS)
def test_no_statement_writes_a_file(tmp_path: Path, con: Connection, query: str) -> None:
    before, text = contents(tmp_path), query.format(root=tmp_path)
    runs: list[Callable[[], object]] = [
        lambda: con.execute(text).fetchall(),
        lambda: con.cursor().execute(text).fetchall(),
        lambda: con.duplicate().execute(text).fetchall(),
        lambda: con.sql(text).fetchall(),
        lambda: con.query(text).fetchall(),
        lambda: con.from_query(text).fetchall(),
        lambda: con.executemany(text, [[]]),
        lambda: con.table("messages").query("m", text).fetchall(),
        lambda: con.execute(con.extract_statements(text)[-1]).fetchall(),
    ]
    for run in runs:
        with pytest.raises((StoreError, duckdb.Error)):
            run()
    assert contents(tmp_path) == before


def test_a_refused_statement_says_what_to_do(con: Connection) -> None:
    with pytest.raises(StoreError, match=r"COPY is refused.*--output FILE.*duckdb\.connect"):
        con.sql("COPY (SELECT 1) TO 'x.csv'")


@pytest.mark.parametrize("name", sorted(WRITING_METHODS))
def test_no_method_writes_rows(tmp_path: Path, con: Connection, name: str) -> None:
    for each in (con, con.sql("SELECT 1")):
        with pytest.raises(StoreError, match=rf"\.{name}\(\) is refused"):
            getattr(each, name)(str(tmp_path / "messages" / "x"))


def test_each_method_of_duckdb_whose_name_says_that_it_writes_is_refused() -> None:
    """A new version of DuckDB can bring new writers: their names make this test fail."""
    reading = {
        "to_arrow_table", "to_arrow_reader", "to_df", "to_dicts", "to_view", "create_view",
        "create_function",
    }  # fmt: skip
    words = ("to_", "write", "create", "insert", "append", "export", "save", "copy", "update",
             "delete", "merge", "upload", "install", "load", "register_filesystem")  # fmt: skip
    names = {*dir(duckdb.DuckDBPyConnection), *dir(duckdb.DuckDBPyRelation)}
    assert {name for name in names if name.startswith(words)} - reading == WRITING_METHODS - {
        "checkpoint",
        "query_appender",
    }


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_blob('{root}/.state/forget.key')",
        "FROM read_text('{root}/messages/../.state/forget.key')",
        "FROM glob('{root}/.state/*')",
        "FROM glob('{root}/**')",
        "FROM glob('{root}/*/*')",
        "FROM read_text('{root}/.forgotten/account=bakery/1.json')",
        "FROM sniff_csv('{root}/.state/forget.key')",
        "FROM '{root}/.state/state.db'",
        "FROM read_text('/etc/hostname')",
        "SELECT getenv('HOME')",
    ],
)
def test_keys_state_and_receipts_are_out_of_reach(
    tmp_path: Path, con: Connection, query: str
) -> None:
    with pytest.raises((duckdb.Error, StoreError)):
        con.execute(query.format(root=tmp_path)).fetchall()


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT message_id FROM messages", [("m1",)]),
        ("FROM messages SELECT message_id -- a comment", [("m1",)]),
        ("WITH RECURSIVE w AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM w WHERE n < 2) FROM w",
         [(1,), (2,)]),
        ("VALUES (1)", [(1,)]),
        ("SELECT * FROM (PIVOT messages ON message_id USING count(*) GROUP BY account)",
         [("bakery", 1)]),
        ("PIVOT messages ON message_id USING count(*) GROUP BY account;", [("bakery", 1)]),
        ("PIVOT messages ON message_id IN ('m1') USING count(*) GROUP BY account",
         [("bakery", 1)]),
        ("CREATE TEMP TABLE t AS SELECT message_id FROM messages; FROM t", [("m1",)]),
        ("CREATE OR REPLACE VIEW v AS FROM messages SELECT message_id; FROM v", [("m1",)]),
        ("CREATE MACRO twice(x) AS 2 * x; SELECT twice(2)", [(4,)]),
        ("SET VARIABLE v = 3; SELECT getvariable('v')", [(3,)]),
    ],
)  # fmt: skip
def test_reading_statements_run(con: Connection, query: str, rows: list[object]) -> None:
    assert con.execute(query).fetchall() == rows


@pytest.mark.parametrize(
    "query",
    ["DESCRIBE messages", "SUMMARIZE messages", "SHOW TABLES", "EXPLAIN FROM messages",
     "EXPLAIN ANALYZE SELECT 1", "EXPLAIN (ANALYZE, FORMAT json) SELECT 1"],
)  # fmt: skip
def test_statements_about_tables_run(con: Connection, query: str) -> None:
    assert con.execute(query).fetchall()
    assert con.sql(query).fetchall()


def test_parameters_and_both_results_of_a_connection_stay(con: Connection) -> None:
    con.execute("SELECT message_id FROM messages WHERE message_id = $id", {"id": "m1"})
    con.sql("SELECT 1")
    assert con.fetchall() == [("m1",)]
