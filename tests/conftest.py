"""What every test shares: the `--long` option, and an environment without the developer's own settings."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
SLOW_FILES = (
    "simulation", "assets", "faults_chain", "forget", "conversation", "cli", "s3", "checks", "retention", "merge", "compact",
    "notebooks", "deleted", "extract", "verify", "hostile_chain", "metrics", "canary",
)  # fmt: skip
"""They take longest: started first, they are not what everybody waits for at the end."""
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
    """Whether hunts may take as long as they like."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the machine has one: for tests that write much and prove nothing about a disk."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="convo-pipeline-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test depends on what the developer's shell exports, or on which files it lets others read: all it can."""
    for variable in FOREIGN_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    mask = os.umask(COMMON_UMASK)
    yield
    os.umask(mask)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, each kept together (needs xdist's --no-loadscope-reorder)."""
    places = {f"test_{name}": place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported, which stays: it would look at a million objects again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let what was imported be collected at the end: DuckDB complains of whatever outlives it."""
    gc.unfreeze()
