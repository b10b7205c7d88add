"""The DuckDB connection over real Parquet files, also while they are replaced."""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import convo_pipeline
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.query.connection import Connection
from convo_pipeline.query.sources import VIEWED_TABLES, column_types
from convo_pipeline.schema import MESSAGES, PARTICIPANT_DAYS, RUNS, TABLES

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def message(message_id: str, **values: object) -> dict[str, object]:
    row: dict[str, object] = {
        "conversation_id": "t_1",
        "message_id": message_id,
        "created_at": NOON,
        "order_in_second": 0,
        "content_type": "text",
        "detail_status": "detailed",
        "first_seen_at": NOON,
        "changed_at": NOON,
    }
    return row | values


def conversation(**values: object) -> dict[str, object]:
    counts = {"message_count": 1, "inbound_count": 1, "outbound_count": 0, "detailed_count": 1}
    return {"conversation_id": "t_1", "participant_count": 2, **counts, **values}


def write(root: Path, name: str, account: str, day: date, rows: list[dict[str, object]]) -> Path:
    return write_table(
        root, name, account, day, pa.Table.from_pylist(rows, schema=TABLES[name].schema)
    )


def write_table(root: Path, name: str, account: str, day: date, content: pa.Table) -> Path:
    """Put a partition in place as the store does: staged beside it, then renamed."""
    folder = root / name / f"account={account}" / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f"data.{threading.get_ident()}.tmp"
    pq.write_table(content, staged, compression="zstd", write_page_checksum=True)
    return staged.replace(folder / "data.parquet")


def write_run(root: Path, account: str) -> None:
    row = {
        "run_id": "r1",
        "account": account,
        "kind": "nightly",
        "started_at": NOON,
        "outcome": "complete",
    }
    folder = root / "runs" / f"date={DAY}"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], schema=RUNS.schema), folder / "data.parquet")


@pytest.fixture
def con(tmp_path: Path) -> Iterator[Connection]:
    (tmp_path / "runs").mkdir()
    with convo_pipeline.connect(tmp_path) as connection:
        yield connection


LOCAL_TYPES = {"created_at_local": "TIMESTAMP", "local_date": "DATE"}
"""Columns that the view `messages` has besides those of the table."""


def test_every_table_is_a_view_with_its_columns_also_without_any_file(con: Connection) -> None:
    for table in VIEWED_TABLES:
        relation = con.table(table.name)
        shown = {
            name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)
        }
        names = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
        local = LOCAL_TYPES if table is MESSAGES else {}
        types = {name: names.get(kind, kind) for name, kind in column_types(table).items()}
        assert shown == types | local
        assert relation.fetchall() == []


def test_account_and_date_come_first(con: Connection) -> None:
    names = ["account", "date", *MESSAGES.column_names, *LOCAL_TYPES]
    assert con.table("messages").columns == names


def test_a_folder_without_tables_is_no_lake_and_the_error_names_lakes_nearby(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with pytest.raises(StoreError, match="no lake at data: the folder contains no tables; run"):
        convo_pipeline.connect()
    write(Path("data/demo"), "messages", "bakery", DAY, [message("m1")])
    with pytest.raises(StoreError, match=re.escape("did you mean data/demo?")):
        convo_pipeline.connect()
    write(Path("other"), "messages", "bakery", DAY, [message("m1")])
    with pytest.raises(StoreError, match=re.escape("did you mean data/demo or other?")):
        convo_pipeline.connect("data")


def test_names_are_completed_and_an_unknown_frame_is_explained(con: Connection) -> None:
    frame = pa.table({"a": [1]})
    assert {"sql", "df", "fetchall", "register", "cursor"} <= set(dir(con))
    assert {"df", "fetchall", "filter", "columns", "to_arrow_table"} <= set(
        dir(con.sql("select 1"))
    )
    assert "append" not in dir(con)
    with pytest.raises(duckdb.CatalogException, match=r'con.register\("frame", frame\)'):
        con.sql("FROM frame")
    with pytest.raises(duckdb.CatalogException) as unknown:
        con.sql("FROM no_variable")
    assert "con.register" not in str(unknown.value)
    con.register("frame", frame)
    assert con.sql("FROM frame").fetchall() == [(1,)]


def test_local_times_come_from_the_lake(tmp_path: Path) -> None:
    """Without settings, and for the accounts that it knows."""
    for account in ("bakery", "florist"):
        write(tmp_path, "messages", account, DAY, [message("m1")])
    query = "SELECT account, created_at_local, local_date FROM messages ORDER BY 1"
    stored = {"bakery": {"timezone": "Asia/Kolkata", "business_hours": "Mon-Fri 09:00-18:00"}}
    with convo_pipeline.connect(tmp_path) as con:
        assert con.execute(query).fetchall()[0] == ("bakery", None, None)
        (tmp_path / ".accounts.json").write_text(json.dumps(stored))
        at = NOON.replace(tzinfo=None) + timedelta(hours=5, minutes=30)
        assert con.execute(query).fetchall() == [
            ("bakery", at, at.date()), ("florist", None, None),
        ]  # fmt: skip
        (tmp_path / ".accounts.json").write_text("{")
        assert con.execute(query).fetchall()[0] == ("bakery", None, None)
        (tmp_path / ".accounts.json").write_text(
            '{"bakery": {"timezone": "Mars/Base", "metrics": 3}}'
        )
        assert con.execute(query).fetchall()[0] == ("bakery", None, None)


@pytest.mark.parametrize("view", ["conversations", "participants", "inbox"])
def test_a_joining_view_is_empty_over_an_empty_lake(con: Connection, view: str) -> None:
    assert con.execute(f"SELECT count(*) FROM {view}").fetchone() == (0,)


def test_a_file_that_appears_later_is_read_on_the_same_connection(
    tmp_path: Path, con: Connection
) -> None:
    assert con.sql("FROM messages").fetchall() == []
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    assert con.sql("SELECT account, date, message_id, created_at FROM messages").fetchall() == [
        ("bakery", DAY, "m1", NOON)
    ]


def test_the_last_file_may_go_again(tmp_path: Path, con: Connection) -> None:
    path = write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    assert con.sql("SELECT count(*) FROM messages").fetchall() == [(1,)]
    path.unlink()
    assert con.sql("SELECT count(*) FROM messages").fetchall() == [(0,)]


def test_an_account_name_of_digits_and_dashes_stays_a_text(tmp_path: Path, con: Connection) -> None:
    for account in ("a0123", "a-1_e5", "nan", "true"):
        write(tmp_path, "messages", account, DAY, [message("m1")])
    rows = con.sql("SELECT account FROM messages ORDER BY 1").fetchall()
    assert rows == [("a-1_e5",), ("a0123",), ("nan",), ("true",)]


def test_d5_an_older_file_without_a_column_reads_as_null(tmp_path: Path, con: Connection) -> None:
    whole = pa.Table.from_pylist(
        [message("m1", text="hello", tags=["inbox"])], schema=MESSAGES.schema
    )
    write_table(tmp_path, "messages", "bakery", date(2026, 3, 2), whole)
    write_table(tmp_path, "messages", "bakery", DAY, whole.drop_columns(["text", "tags"]))
    rows = con.sql("SELECT date, text, tags FROM messages ORDER BY date").fetchall()
    assert rows == [(DAY, None, None), (date(2026, 3, 2), "hello", ["inbox"])]


def test_d5_a_column_typed_null_in_one_file_keeps_its_type(tmp_path: Path, con: Connection) -> None:
    whole = pa.Table.from_pylist([message("m1")], schema=MESSAGES.schema)
    index = whole.schema.get_field_index("tags")
    write_table(tmp_path, "messages", "bakery", DAY, whole.set_column(index, "tags", pa.nulls(1)))
    assert con.sql("SELECT tags, typeof(tags) FROM messages").fetchall() == [(None, "VARCHAR[]")]


def test_a_newer_file_with_more_columns_is_read(tmp_path: Path, con: Connection) -> None:
    whole = pa.Table.from_pylist([message("m1", text="hello")], schema=MESSAGES.schema)
    write_table(
        tmp_path, "messages", "bakery", DAY, whole.append_column("mood", pa.array(["good"]))
    )
    assert con.sql("SELECT text FROM messages").fetchall() == [("hello",)]


def test_the_ledger_is_kept_by_date_alone(tmp_path: Path, con: Connection) -> None:
    write_run(tmp_path, "bakery")
    query = "SELECT date, account, run_id, outcome, since FROM runs"
    assert con.sql(query).fetchall() == [(DAY, "bakery", "r1", "complete", None)]


def test_d3_foreign_files_are_not_read(tmp_path: Path, con: Connection) -> None:
    path = write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    for name in ("copy of data.parquet", "_SUCCESS", ".DS_Store", "data.parquet.tmp"):
        (path.parent / name).write_bytes(b"not parquet")
    (tmp_path / "messages" / "account=bakery" / "date=today").mkdir()
    (tmp_path / "messages" / "account=bakery" / "date=today" / "data.parquet").write_bytes(b"x")
    assert con.sql("SELECT message_id FROM messages").fetchall() == [("m1",)]


def test_a_filter_on_account_and_date_opens_only_that_file(tmp_path: Path, con: Connection) -> None:
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    for account, day in (("bakery", date(2026, 3, 2)), ("florist", DAY)):
        write(tmp_path, "messages", account, day, [message("m1")]).write_bytes(b"damaged")
    query = "SELECT message_id FROM messages WHERE account = $account AND date = $date"
    assert con.execute(query, {"account": "bakery", "date": DAY}).fetchall() == [("m1",)]


def test_a_damaged_file_is_named(tmp_path: Path, con: Connection) -> None:
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    damaged = write(tmp_path, "messages", "florist", DAY, [message("m1")])
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(
        CorruptError, match=r"account=florist/date=2026-03-01/data.parquet is damaged"
    ):
        con.sql("FROM inbox").fetchall()


def test_d1_a_damaged_file_is_named_where_duckdb_does_not_name_it(
    tmp_path: Path, con: Connection
) -> None:
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    damaged = write(tmp_path, "messages", "florist", DAY, [message("m1")])
    content = damaged.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    damaged.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])
    with pytest.raises(duckdb.Error) as bare:
        duckdb.sql(f"FROM '{damaged}'").fetchall()
    assert "florist" not in str(bare.value)
    with pytest.raises(
        CorruptError, match=r"account=florist/date=2026-03-01/data.parquet is damaged"
    ):
        con.sql("FROM messages").fetchall()


@pytest.mark.parametrize("name", ["it's", "a*b", "[x]", "q?", "dir with space", "ü"])
def test_the_root_may_have_any_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    write(root, "messages", "bakery", DAY, [message("m1")])
    write(tmp_path / "aXb", "messages", "other", DAY, [message("m2")])
    with convo_pipeline.connect(root) as con:
        assert con.sql("SELECT account, message_id FROM messages").fetchall() == [("bakery", "m1")]


def test_a_root_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no lake at .*nowhere"):
        convo_pipeline.connect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_text('{root}/../secret.txt')",
        "SELECT * FROM read_parquet('/tmp/*/*.parquet')",
        "ATTACH '/tmp/convo-other.db'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "INSTALL httpfs",
    ],
)
def test_s7_sql_reaches_nothing_outside_the_lake(
    tmp_path: Path, con: Connection, query: str
) -> None:
    (tmp_path.parent / "secret.txt").write_text("secret")
    with pytest.raises((duckdb.Error, StoreError)):
        con.execute(query.format(root=tmp_path)).fetchall()


@pytest.mark.parametrize(
    "query", ["COPY (SELECT 1) TO '{root}/messages/x.csv'", "SELECT 1; EXPORT DATABASE '{root}'"]
)
def test_sql_writes_no_file_between_the_tables(tmp_path: Path, con: Connection, query: str) -> None:
    for run in (con.execute, con.sql):
        with pytest.raises(StoreError, match="SQL writes no file"):
            run(query.format(root=tmp_path))
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_s7_hostile_id_finds_only_itself(tmp_path: Path, con: Connection) -> None:
    hostile = [
        "a' OR '1'='1",
        "*",
        "%",
        "../..",
        'x"; DROP VIEW messages; --',
        "a=b/c",
        "?",
        "[a-z]*",
    ]
    write(tmp_path, "messages", "bakery", DAY, [message(text) for text in hostile])
    for text in hostile:
        query = "SELECT message_id FROM messages WHERE message_id = ?"
        assert con.execute(query, [text]).fetchall() == [(text,)]
        assert con.execute(
            "SELECT count(*) FROM messages WHERE account = ?", [text]
        ).fetchall() == [(0,)]


def test_times_are_shown_in_utc_whatever_the_machine_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        write(tmp_path, "messages", "bakery", DAY, [message("m1")])
        with convo_pipeline.connect(tmp_path) as con:
            assert con.sql("SELECT created_at::VARCHAR FROM messages").fetchall() == [
                ("2026-03-01 12:00:00+00",)
            ]
            assert con.cursor().execute("SELECT created_at::DATE FROM messages").fetchone() == (
                DAY,
            )
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_duckdb_knows_time_zones_without_a_network(con: Connection) -> None:
    query = "SELECT timezone('Europe/Berlin', TIMESTAMPTZ '2026-03-29 01:30:00+00')"
    assert con.execute(query).fetchone() == (datetime(2026, 3, 29, 3, 30),)  # noqa: DTZ001 - a wall clock


def test_conversations_keeps_the_newest_known_value_of_each_field(
    tmp_path: Path, con: Connection
) -> None:
    first = conversation(
        platform="instagram", customer_id="9", customer_username="anna", first_message_at=NOON
    )
    second = conversation(
        platform="instagram",
        customer_id="9",
        customer_username=None,
        folder="inbox",
        last_message_at=NOON,
    )
    write(tmp_path, "conversation_days", "bakery", DAY, [first])
    write(tmp_path, "conversation_days", "bakery", date(2026, 3, 2), [second])
    write(tmp_path, "conversation_days", "florist", DAY, [conversation(platform="messenger")])
    query = """SELECT account, conversation_id, platform, customer_username, folder,
    message_count, first_message_at,
                      last_message_at, first_date, last_date FROM conversations ORDER BY
                    account"""
    assert con.sql(query).fetchall() == [
        ("bakery", "t_1", "instagram", "anna", "inbox", 2, NOON, NOON, DAY, date(2026, 3, 2)),
        ("florist", "t_1", "messenger", None, None, 1, None, None, DAY, DAY),
    ]


def test_participants_has_one_row_a_participant(tmp_path: Path, con: Connection) -> None:
    person = {"conversation_id": "t_1", "participant_id": "9"}
    write(
        tmp_path,
        "participant_days",
        "bakery",
        DAY,
        [person | {"name": "Anna", "email": "9@facebook.com"}],
    )
    write(tmp_path, "participant_days", "bakery", date(2026, 3, 2), [person | {"name": "Anna B."}])
    query = f"SELECT {', '.join(PARTICIPANT_DAYS.column_names)} FROM participants"
    assert con.sql(query).fetchall() == [("t_1", "9", "Anna B.", None, "9@facebook.com", None)]


def test_inbox_shows_a_message_with_its_customer(tmp_path: Path, con: Connection) -> None:
    write(
        tmp_path,
        "messages",
        "bakery",
        DAY,
        [message("m1", text="hi"), message("m2", conversation_id="t_2")],
    )
    write(
        tmp_path,
        "conversation_days",
        "bakery",
        DAY,
        [conversation(customer_id="9", page_id="1", folder="other")],
    )
    person = {
        "conversation_id": "t_1",
        "participant_id": "9",
        "name": "Anna",
        "email": "9@facebook.com",
    }
    write(tmp_path, "participant_days", "bakery", DAY, [person])
    query = """SELECT account, message_id, text, customer_id, customer_name, customer_email,
    page_id, folder
               FROM inbox ORDER BY message_id"""
    assert con.sql(query).fetchall() == [
        ("bakery", "m1", "hi", "9", "Anna", "9@facebook.com", "1", "other"),
        ("bakery", "m2", None, None, None, None, None, None),
    ]


def test_inbox_has_every_message_column(con: Connection) -> None:
    assert set(MESSAGES.column_names) | {"account", "date"} < set(con.table("inbox").columns)


def test_the_connection_works_as_duckdbs_own(tmp_path: Path, con: Connection) -> None:
    write(tmp_path, "messages", "bakery", DAY, [message(f"m{index}") for index in range(3)])
    assert con.execute("SELECT message_id FROM messages ORDER BY 1").fetchmany(2) == [
        ("m0",),
        ("m1",),
    ]
    assert con.fetchall() == [("m2",)]
    assert con.query("FROM messages").df().shape[0] == 3
    assert con.execute("SELECT message_id FROM messages").df().shape == (3, 1)
    assert con.sql("FROM messages").filter("message_id > 'm0'").count("*").fetchall() == [(2,)]
    assert con.sql("SELECT 1 AS one").to_arrow_table().to_pylist() == [{"one": 1}]
    assert "one" in str(con.sql("SELECT 1 AS one"))
    assert con.table("messages").columns[0] == "account"
    frame = con.sql("SELECT message_id FROM messages").df()
    con.register("mine", frame)
    assert con.sql("SELECT count(*) FROM mine JOIN messages USING (message_id)").fetchall() == [
        (3,)
    ]
    one, two = con.sql("SELECT 1 AS a"), con.sql("SELECT 2 AS a")
    assert sorted(one.union(two).fetchall()) == [(1,), (2,)]


def test_duckdbs_own_settings_are_given_once_and_then_locked(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with convo_pipeline.connect(tmp_path, config={"threads": 1, "memory_limit": "1GB"}) as con:
        assert con.sql("SELECT current_setting('threads')").fetchall() == [(1,)]
        with pytest.raises(duckdb.InvalidInputException, match="locked"):
            con.execute("SET threads = 4")


def test_a_relation_made_before_a_commit_reads_what_is_there_now(
    tmp_path: Path, con: Connection
) -> None:
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    relation = con.sql("SELECT message_id FROM messages").order("message_id")
    write(tmp_path, "messages", "bakery", DAY, [message("m1"), message("m2")])
    write(tmp_path, "messages", "bakery", date(2026, 3, 2), [message("m3")])
    assert relation.fetchall() == [("m1",), ("m2",), ("m3",)]


def test_threads_read_through_their_own_cursors(tmp_path: Path, con: Connection) -> None:
    write(tmp_path, "messages", "bakery", DAY, [message("m1")])
    with ThreadPoolExecutor(4) as pool:
        query = "SELECT count(*) FROM inbox"
        found = list(pool.map(lambda _: con.cursor().execute(query).fetchone(), range(20)))
    assert found == [(1,)] * 20


def test_a_wrong_query_is_duckdbs_error_at_once(con: Connection) -> None:
    with pytest.raises(duckdb.CatalogException, match="mesages"):
        con.sql("FROM mesages")


def test_what_was_spilled_goes_with_the_connection(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    con = convo_pipeline.connect(tmp_path)
    folder = con.sql("SELECT current_setting('temp_directory')").fetchall()[0][0]
    assert os.stat(folder).st_mode & 0o077 == 0
    con.close()
    del con
    assert not os.path.exists(folder)


READS = {
    "sql": lambda con, query: con.sql(query).fetchall(),
    "execute": lambda con, query: con.execute(query).fetchall(),
    "frame": lambda con, query: list(con.execute(query).df().itertuples(index=False, name=None)),
    "relation": lambda con, query: con.sql(query).filter("true").fetchall(),
}


SIZES = (20, 200, 2000)


def one_version(version: int) -> pa.Table:
    count = SIZES[version % 3]
    rows = [
        message(f"m{index}", order_in_second=version, text=f"{index * version:0100d}")
        for index in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=MESSAGES.schema)


@pytest.mark.hunt
def test_a_reader_in_a_loop_never_sees_a_commit(tmp_path: Path, long_run: bool) -> None:
    """Three partitions are replaced all the time; every read is whole and none fails."""
    versions = [one_version(version) for version in range(5)]
    days = [date(2026, 3, day) for day in range(1, 4)]
    for day in days:
        write_table(tmp_path, "messages", "bakery", day, versions[0])
    done = threading.Event()
    commits = 0

    def commit_until_done() -> None:
        nonlocal commits
        while not done.wait(0.02):
            write_table(tmp_path, "messages", "bakery", days[commits % 3], versions[commits % 5])
            commits += 1

    writer = threading.Thread(target=commit_until_done)
    writer.start()
    query = """SELECT date, count(*), count(DISTINCT message_id), count(DISTINCT order_in_second),
    min(length(text))
               FROM messages GROUP BY date ORDER BY date"""
    try:
        with convo_pipeline.connect(tmp_path) as con:
            for index in range(100_000 if long_run else 300):
                read = list(READS.values())[index % len(READS)]
                rows = read(con, query)
                assert len(rows) == 3
                assert all(
                    row[1] in SIZES and row[1] == row[2] and row[3:] == (1, 100) for row in rows
                )
    finally:
        done.set()
        writer.join()
    assert commits > 20
