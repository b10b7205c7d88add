"""The picture in docs/design.md stays true: imports go one way, and each library has one owner."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.paths import PACKAGE, ROOT

MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"errors"},
    {"reasons"},
    {"schema"},
    {"settings"},
    {"base"},
    {"emulator"},
    {"storage"},
    {"graph", "tables"},
    {"state"},
    {"lake"},
    {"query"},
    {"derive"},
    {"extract"},
    {"privacy"},
    {"upkeep"},
    {"orchestration"},
    {"console"},
    {"dagster"},
    {"cli", "definitions", "__init__"},
    {"__main__"},
)
"""Each folder and root module may import only the floors above it in this list."""
SANDBOX = Path("orchestration", "sandbox.py")
"""The only module that imports the emulator."""
OWNERS = {
    "requests": ["graph/transport.py", "orchestration/alerts.py"],
    "urllib3": ["graph/transport.py", "storage/s3.py"],
    "urllib.request": [],
    "deltalake": ["privacy/export_update.py"],
    "pyiceberg": ["privacy/export_update.py"],
    "duckdb": [
        "privacy/export_update.py",
        "query/connection.py",
        "query/database_file.py",
        "query/engine.py",
        "query/read_only.py",
    ],
    "azure": ["storage/azure.py"],
    "google": ["storage/gcs.py"],
    "boto3": ["storage/s3.py"],
    "botocore": ["storage/s3.py"],
    "sqlite3": ["graph/rate_limit.py", "state/database.py"],
    "dagster": ["dagster/", "definitions.py", "orchestration/"],
    "psycopg": ["state/postgres.py"],
    "prometheus_client": ["console/metrics.py"],
    "matplotlib": ["orchestration/pictures.py"],
    "croniter": ["settings.py"],
    "faker": ["emulator/"],
    "starlette": ["emulator/"],
    "uvicorn": ["emulator/"],
    "pickle": [],
    "yaml": [],
}


INSTALLED = ("azure", "delta", "iceberg", "demo", "gcs", "plots", "s3", "scale", "web")
"""The extras that `all` installs."""
NAMESPACES = {"azure-storage-blob": "azure", "google-cloud-storage": "google"}
"""Packages that share their top-level name with packages of others."""


@cache
def imported(path: Path) -> frozenset[str]:
    """Every absolute module name a file imports, wherever it does so."""
    return frozenset(read_imports(path))


def read_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own_places(path: Path) -> set[str]:
    names = [name.split(".") for name in imported(path) if name.startswith("convo_pipeline.")]
    return {parts[1] for parts in names} - {place(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    floor = next(index for index, names in enumerate(FLOORS) if place(path) in names)
    below = set().union(*FLOORS[:floor])
    if place(path) == "emulator":
        below = set()
    if path.relative_to(PACKAGE) != SANDBOX:
        below -= {"emulator"}
    assert own_places(path) <= below


def test_the_package_root_has_at_most_eight_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("library", OWNERS)
def test_s12_each_library_has_one_owner(library: str) -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imported(path))
    }
    assert {
        user for user in users if not any(user.startswith(owner) for owner in OWNERS[library])
    } == set()


def test_no_module_with_assets_postpones_its_annotations() -> None:
    postponing = [path for path in MODULES if "__future__.annotations" in imported(path)]
    assert postponing == []


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("convo_pipeline", INSTALLED),
        ("benchmarks", (*INSTALLED, "dev")),
        ("scripts", (*INSTALLED, "dev")),
        ("tests", (*INSTALLED, "dev")),
    ],
)
def test_s11_every_imported_package_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = [
        *project["dependencies"],
        *(entry for extra in extras for entry in project["optional-dependencies"][extra]),
    ]
    declared = {_name(entry) for entry in entries}
    distributions = packages_distributions()
    top_level = {
        name.split(".")[0] for path in (ROOT / folder).rglob("*.py") for name in imported(path)
    }
    foreign = (
        top_level
        - {"convo_pipeline", "tests", "benchmarks", "scripts", "run"}
        - sys.stdlib_module_names
    )
    needed = {
        name: {_name(each) for each in distributions.get(name, (name,))}
        | {distribution for distribution, space in NAMESPACES.items() if space == name}
        for name in foreign
    }
    assert {
        name: candidates for name, candidates in needed.items() if not candidates & declared
    } == {}


def _name(requirement: str) -> str:
    for mark in "<>=![;~ ":
        requirement = requirement.split(mark)[0]
    return requirement.lower().replace("_", "-")
