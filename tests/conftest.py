"""Shared by all tests: the `--long` option, a clean environment, and the order of the files."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresServer

MEMORY = Path("/dev/shm")
SLOW_FILES = (
    "simulation", "assets", "faults_chain", "forget", "conversation", "cli", "s3", "checks",
    "retention", "merge", "compact", "notebooks", "unsent", "extract", "verify", "hostile_chain",
    "metrics", "canary",
)  # fmt: skip
"""Files that take longest. They start first, so that no worker runs one alone at the end."""
COMMON_UMASK = 0o022
FOREIGN_VARIABLES = ("CONVO_CONFIG", "DAGSTER_HOME", "CONVO_EMULATOR_TOKEN")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="give the hunts all their rounds instead of a bounded few",
    )


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Return whether hunts run all their rounds."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    """Yield a PostgreSQL server that the tests of a process share."""
    from tests.support.postgres_server import serve_postgres

    with serve_postgres() as server:
        yield server


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory if the machine has one, for tests that write much."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="convo-pipeline-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the developer's variables, and set a umask that lets others read new files."""
    for variable in FOREIGN_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    mask = os.umask(COMMON_UMASK)
    yield
    os.umask(mask)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow files first; needs xdist's --no-loadscope-reorder."""
    order = {f"test_{name}": index for index, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection: they stay, and scanning them is slow."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Collect imported objects at the end: DuckDB reports objects that outlive it."""
    gc.unfreeze()
