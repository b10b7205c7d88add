"""The notebooks run from top to bottom over a lake and are committed without output."""

import ast
import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

from convo_pipeline.errors import StoreError
from convo_pipeline.query.account_days import compute_account_days
from convo_pipeline.schema import CONVERSATION_DAYS, COVERAGE, RUNS
from convo_pipeline.tables.complete_range import CompleteRange
from tests.support.metric_worlds import as_table, random_world, write_world
from tests.support.paths import NOTEBOOKS as NOTEBOOKS_FOLDER
from tests.support.shown import blocks, page

NOTEBOOKS = sorted(NOTEBOOKS_FOLDER.glob("*.ipynb"))
COMPLETE_RANGE = CompleteRange(date(2026, 3, 3), datetime(2026, 3, 14, 12, tzinfo=UTC))
ALLOWED_IMPORTS = {"convo_pipeline", "duckdb", "pandas", "matplotlib"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two weeks of two accounts: the tables that the notebooks read."""
    root = tmp_path_factory.mktemp("lake")
    since = datetime(2026, 3, 1, tzinfo=UTC)
    world = random_world(1, 60, since, timedelta(days=14))
    write_world(root, world)
    for account in ("account-0", "account-1"):
        own = [message for message in world if message.account == account]
        days = sorted({message.created_at.date() for message in own})
        for day, content in compute_account_days(
            as_table(own), days, complete_range=COMPLETE_RANGE
        ).items():
            put(root, "account_days", f"account={account}/date={day}", content)
        for day in days:
            put_counts(
                root, account, day, [message for message in own if message.created_at.date() == day]
            )
    run = {
        "run_id": "r",
        "account": "account-0",
        "kind": "nightly",
        "started_at": since,
        "outcome": "incomplete",
    }
    put(root, "runs", f"date={since.date()}", pa.Table.from_pylist([run], schema=RUNS.schema))
    return root


def put_counts(root: Path, account: str, day: Any, messages: list[Any]) -> None:
    unknown = sum(message.direction is None for message in messages)
    zeros = dict.fromkeys((column.name for column in COVERAGE.columns if column.required), 0)
    coverage = zeros | {
        "ids_listed": len(messages),
        "detailed": len(messages) - unknown,
        "beyond_20": unknown,
    }
    put(
        root,
        "coverage",
        f"account={account}/date={day}",
        pa.Table.from_pylist([coverage], schema=COVERAGE.schema),
    )
    rows = [
        {
            "conversation_id": conversation_id,
            "participant_count": 2,
            "customer_username": "somebody",
            "last_message_at": messages[0].created_at,
            "message_count": 2,
            "inbound_count": 1,
            "outbound_count": 0,
            "detailed_count": 1,
        }
        for conversation_id in sorted({message.conversation_id for message in messages})
    ]
    content = pa.Table.from_pylist(rows, schema=CONVERSATION_DAYS.schema)
    put(root, "conversation_days", f"account={account}/date={day}", content)


def put(root: Path, table: str, partition: str, content: pa.Table) -> None:
    folder = root / table / partition
    folder.mkdir(parents=True)
    pq.write_table(content, folder / "data.parquet")


def source(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


@pytest.fixture(scope="module")
def kernel(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start one kernel for all notebooks: its start takes longer than they do."""
    starter = NotebookClient(nbformat.v4.new_notebook())
    with starter.setup_kernel(
        cwd=str(tmp_path_factory.mktemp("work")), env={**os.environ, "CONVO_ROOT": str(lake)}
    ):
        yield starter.km


def run(path: Path, kernel: Any) -> list[Any]:
    """Execute a notebook as Jupyter does, in an empty namespace; return every output."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=None).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_draws(path: Path, kernel: Any) -> None:
    outputs = run(path, kernel)
    assert [output for output in outputs if output.output_type in ("error", "stream")] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_says_that_there_are_no_tables(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    with pytest.raises(StoreError, match="no lake at data: the folder contains no tables"):
        exec(compile(source(path), path.name, "exec"), {})


def test_waits_come_from_complete_days_only(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVO_ROOT", str(lake))
    matplotlib.use("Agg")
    path, names = (
        next(path for path in NOTEBOOKS if path.stem.startswith("how_fast")),
        dict[str, Any](),
    )
    exec(compile(source(path), path.name, "exec"), names)
    plt.close("all")
    (first,) = names["con"].execute("SELECT min(date) FROM turns").fetchone()
    (first_stored,) = names["con"].execute("SELECT min(date) FROM response_turns").fetchone()
    assert first_stored < COMPLETE_RANGE.since <= first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_output(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_imports_only_declared_libraries(path: Path) -> None:
    tree = ast.parse(source(path))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= ALLOWED_IMPORTS | set(sys.stdlib_module_names)


def test_figures_that_the_recipes_have_are_the_recipes() -> None:
    """One statement means one value."""
    cells = source(NOTEBOOKS_FOLDER / "how_fast_do_we_answer.ipynb")
    for heading in ("How fast do we answer?", "How long do sessions last, and how many need one"
                    " reply?", "Who is waiting for us now?"):  # fmt: skip
        (query,) = blocks("sql", page("analyse.md").split(f"## {heading}\n")[1].split("\n## ")[0])
        assert query.strip() in cells, heading


def test_there_are_three_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "first_look",
        "how_fast_do_we_answer",
        "what_did_we_miss",
    ]
