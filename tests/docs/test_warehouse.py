"""Every statement of docs/warehouse.md that can run here gives the same rows as the program."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from convo_pipeline.cli import main as cli
from convo_pipeline.console.upkeep import open_lake
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.errors import StoreError
from convo_pipeline.privacy.export_update import update_export
from convo_pipeline.query.connection import connect
from convo_pipeline.query.database_file import write_database
from convo_pipeline.settings import ExportSettings, Settings, StoreSettings
from scripts import dbt_sources
from tests.support.inboxes import NOW, serve
from tests.support.paths import ROOT
from tests.support.shown import page

PAGE = page("warehouse.md")
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", PAGE, re.S))
START = NOW.date() - timedelta(days=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tables of two inboxes in `data/demo`."""
    folder = tmp_path_factory.mktemp("warehouse")
    world = default_world(VirtualClock(NOW), history_days=4)
    with serve(folder / "data" / "demo", world, start=START) as inboxes:
        inboxes.extract_whole(START)
    return folder


@pytest.fixture
def at_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[tuple[str, date], int]:
    """Return the number of messages of each account and day."""
    with connect(folder / "data" / "demo") as con:
        rows = con.sql("select account, date, count(*) from messages group by all").fetchall()
    counts = {(account, day): count for account, day, count in rows}
    assert len(counts) > 6
    return counts


def as_day(value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    return value if isinstance(value, date) else date.fromisoformat(str(value))


def counted(rows: Iterator[Any]) -> dict[tuple[str, date], int]:
    return {(str(account), as_day(day)): int(count) for account, day, count, *_ in rows}


def run_python(engine: str) -> Any:
    """Run a block; return its variable `days`."""
    names: dict[str, Any] = {}
    exec(BLOCKS[engine], names)
    return names["days"]


def test_duckdb(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    assert counted(iter(duckdb.sql(BLOCKS["duckdb"]).fetchall())) == expected


def test_load(
    at_folder: Path, expected: dict[tuple[str, date], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader brings a copy into a database, and again after a day of it was erased."""
    accounts = sorted({account for account, _ in expected})
    with open_lake(StoreSettings(root="data/demo")) as store:

        def export_again() -> None:
            settings = Settings(export=ExportSettings(secret_env="SECRET"))
            secret = {"SECRET": "0123456789abcdef" * 2}
            to = Path("inbox-export")
            update_export(settings, store, accounts, to, "parquet", secret, with_text=False)

        export_again()
        assert counted(run_python("load")) == expected
        accounts.pop()
        export_again()
        left = {day: count for day, count in expected.items() if day[0] in accounts}
        assert counted(run_python("load")) == left
        assert counted(run_python("load")) == left


def test_polars(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    days = run_python("polars")
    assert str(days.schema["date"]) == "Date"
    assert counted(days.iter_rows()) == expected


def test_pandas(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    days = run_python("pandas")
    assert counted(days.itertuples(index=False)) == {
        key: count for key, count in expected.items() if key[0] == "bakery-instagram"
    }


def test_pyarrow(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    days = run_python("pyarrow").select(["account", "date", "count_all"])
    assert counted(zip(*(column.to_pylist() for column in days.columns), strict=True)) == expected


def engine(name: str) -> None:
    """Skip if an engine of requirements-engines.lock is not installed; CI installs all."""
    if importlib.util.find_spec(name) is None:
        pytest.skip("pip install --no-deps --require-hashes -r requirements-engines.lock")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_ibis(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    engine("ibis")
    write_database("data/demo", Path("inbox.duckdb"))
    assert counted(run_python("ibis").itertuples(index=False)) == expected


@pytest.mark.slow
def test_clickhouse(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    engine("chdb")
    code = f"import chdb; print(chdb.query({BLOCKS['clickhouse']!r}, 'CSV'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = [line.replace('"', "").split(",") for line in done.stdout.split()]
    assert counted(iter(rows)) == expected


@pytest.mark.slow
def test_spark(at_folder: Path, expected: dict[tuple[str, date], int]) -> None:
    engine("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    loopback = "os.environ['SPARK_LOCAL_IP'] = '127.0.0.1'"
    show = "[print(*row, sep=',') for row in days.itertuples(index=False)]"
    code = f"import os; {loopback}\n{BLOCKS['spark']}\n{show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = [line.split(",") for line in done.stdout.split()]
    assert counted(iter(rows)) == expected


# The DuckDB file


def test_a_database_file_has_every_view_with_the_same_rows(folder: Path, tmp_path: Path) -> None:
    root, file = folder / "data" / "demo", tmp_path / "inbox.duckdb"
    empty = write_database(str(root), file)
    moved = tmp_path / "elsewhere" / "other.duckdb"
    moved.parent.mkdir()
    file.rename(moved)
    assert "messages" not in empty
    names = ("messages", "inbox", "conversations", "response_turns", "sessions", "coverage")
    with connect(root) as con, duckdb.connect(str(moved), read_only=True) as other:
        for name in names:
            order = f"select count(*), sum(hash(t)) from {name} t"
            assert con.sql(order).fetchall() == other.sql(order).fetchall(), name
    assert moved.stat().st_size < 2_000_000


def test_a_database_file_shows_rows_that_were_stored_later(tmp_path: Path) -> None:
    world = default_world(VirtualClock(NOW), history_days=2)
    with serve(tmp_path / "lake", world, start=START) as inboxes:
        inboxes.extract_whole(START)
        write_database(str(tmp_path / "lake"), tmp_path / "inbox.duckdb")
        account = world.accounts["bakery-instagram"]
        account.add_conversation("Late").add_messages(3, NOW - timedelta(minutes=5), 1.0)
        with duckdb.connect(str(tmp_path / "inbox.duckdb"), read_only=True) as con:
            before = con.sql("select count(*) from messages").fetchall()[0][0]
            inboxes.extract_whole(START)
            assert con.sql("select count(*) from messages").fetchall() == [(before + 3,)]


def test_a_database_file_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    root, file = str(folder / "data" / "demo"), tmp_path / "inbox.duckdb"
    file.write_text("precious")
    with pytest.raises(StoreError, match="add --force to replace it"):
        write_database(root, file)
    assert file.read_text() == "precious"
    write_database(root, file, is_replaced=True)
    with pytest.raises(StoreError, match="cannot write"):
        write_database(root, tmp_path / "missing" / "inbox.duckdb")
    with pytest.raises(StoreError, match="reads a local folder"):
        write_database("s3://bucket/prefix", tmp_path / "other.duckdb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inbox.duckdb"]


# The dbt example


def test_the_sources_of_dbt_are_those_of_the_schema() -> None:
    file = ROOT / "examples/dbt/models/sources.yml"
    assert file.read_text() == dbt_sources.render(), "python -m scripts.dbt_sources"
    (source,) = yaml.safe_load(file.read_text())["sources"]
    assert {"messages", "coverage", "account_days"} <= {each["name"] for each in source["tables"]}


def test_the_tests_of_dbt_hold_for_the_tables(folder: Path) -> None:
    """Run each `not_null` test and the model in DuckDB, as dbt-duckdb does."""
    (source,) = yaml.safe_load((ROOT / "examples/dbt/models/sources.yml").read_text())["sources"]
    root = str(folder / "data" / "demo")
    readers = {}
    for table in source["tables"]:
        reader = table["meta"]["external_location"].replace('{{ env_var("CONVO_ROOT") }}', root)
        if not (folder / "data" / "demo" / table["name"]).is_dir():
            continue
        readers[table["name"]] = reader
        required = [each["name"] for each in table["columns"] if "data_tests" in each]
        nulls = " or ".join(f"{name} is null" for name in required)
        assert duckdb.sql(f"select count(*) from {reader} where {nulls}").fetchall() == [(0,)]
    model = (ROOT / "examples/dbt/models/busy_days.sql").read_text()
    model = model.replace("{{ source('inbox', 'messages') }}", readers["messages"])
    assert len(duckdb.sql(model).fetchall()) > 6


def test_the_command_is_registered() -> None:
    assert "database" in cli.commands
