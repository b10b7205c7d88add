"""The wheel in an environment that holds only what its metadata names, once for each extra.

The environments are built without a network: the files of the required packages are linked from
the environment of the tests.
"""

import os
import subprocess
import sys
import venv
import zipfile
from email.parser import BytesParser
from importlib.metadata import distribution
from importlib.util import cache_from_source
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from convo_pipeline.emulator.serve import EmulatorServer
from tests.support.inbox_worlds import TOKENS, small_world, three_days, write_config
from tests.support.paths import ROOT
from tests.support.web_server import serve_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LAKE = ROOT / "tests" / "lakes" / "version_4"
LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries { name
  locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    pip("wheel", *options, "--wheel-dir", str(folder), str(ROOT))
    (file,) = folder.glob("*.whl")
    return file


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True
    )


def required_names(wheel: Path, extras: frozenset[str]) -> set[str]:
    """Return the packages that the wheel needs with these extras, with all that they need."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        metadata = BytesParser().parsebytes(archive.read(name))
    requirements = {"convo-pipeline": metadata.get_all("Requires-Dist") or []}
    needed: set[str] = set()
    waiting, seen = [("convo-pipeline", extras)], set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        needed.add(name)
        lines = requirements.get(name)
        for line in (distribution(name).requires or []) if lines is None else lines:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": each}) for each in {"", *wanted}):
                waiting.append((requirement.name.lower(), frozenset(requirement.extras)))
    return needed - {"convo-pipeline"}


def link_package(name: str, packages: Path) -> None:
    """Link the files of an installed package, byte code included, into another environment."""
    installed = distribution(name)
    for file in installed.files or ():
        if ".." in file.parts:
            continue
        source = Path(str(installed.locate_file(file)))
        byte_code = Path(cache_from_source(str(source))) if source.suffix == ".py" else source
        for path in {source, byte_code}:
            target = packages / file.parent / path.relative_to(source.parent)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)


EXTRAS = ("azure", "delta", "demo", "gcs", "iceberg", "plots", "s3", "scale", "web")


@pytest.fixture(params=["", *EXTRAS, "all"])
def extra(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path, wheel: Path, extra: str) -> Path:
    """Return a folder with an environment of the wheel and one extra."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in required_names(wheel, frozenset({extra} - {""})):
        link_package(name, packages)
    pip("--python", str(folder), "install", "--no-deps", "--no-index", "--quiet", str(wheel))
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """Return the environment variables without those that would show other packages."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "DAGSTER_HOME", "CONVO_CONFIG")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    path = f"{home / 'environment' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONNOUSERSITE": "1", "HOME": str(home)}


def run(home: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [str(home / "environment" / "bin" / words[0]), *words[1:]],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in codes, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_a_wheel_with_each_extra_works_in_an_empty_environment(home: Path, extra: str) -> None:
    assert "schema version" in run(home, "convo-pipeline", "--version")
    run(home, "convo-pipeline", "init", "inbox")
    assert (home / "inbox" / "docs" / "settings.md").is_file()
    run(home, "convo-pipeline", "--config", "inbox/convo.toml", "status", codes=(0, 1))
    sql = "select count(*) > 0 as has_rows from messages"
    assert "true" in run(home, "convo-pipeline", "query", "--root", str(LAKE), sql).lower()
    run(home, "python", "-c", "from convo_pipeline.dagster import build_defs; build_defs()")
    code = f"import convo_pipeline; convo_pipeline.connect({str(LAKE)!r}).close()"
    run(home, "python", "-c", code)
    for name, module in {
        "azure": "convo_pipeline.storage.azure",
        "gcs": "convo_pipeline.storage.gcs",
        "delta": "deltalake",
        "iceberg": "pyiceberg.catalog.sql",
        "demo": "convo_pipeline.emulator.serve",
        "plots": "matplotlib.figure",
        "s3": "convo_pipeline.storage.s3",
        "scale": "convo_pipeline.state.postgres",
        "web": "dagster_webserver",
    }.items():
        has_extra = extra in (name, "all")
        run(home, "python", "-c", f"import {module}") if has_extra else None
    if extra in ("demo", "all"):
        assert "account" in run(home, "convo-pipeline", "demo", "--root", "demo")


@pytest.mark.parametrize("extra", ["web"], indirect=False)
def test_dagster_serves_the_code_location_of_the_wheel(home: Path, extra: str) -> None:
    """`dagster dev -m convo_pipeline.definitions` runs, and so does the folder of `init`."""
    run(home, "convo-pipeline", "init", "inbox")
    days = three_days()
    with EmulatorServer(small_world(days)) as server:
        config = write_config(home, server, days.start)
        environ = {**environment(home), **TOKENS, "CONVO_CONFIG": str(config)}
        python = str(home / "environment" / "bin" / "python")
        for arguments in (("-m", "convo_pipeline.definitions"), ()):
            (home / "dagster").mkdir(exist_ok=True)
            with serve_page(
                home / "dagster",
                environ,
                "dagster",
                "dev",
                *arguments,
                python=python,
                folder=home / "inbox",
            ) as web:
                (entry,) = web.ask(LOCATIONS)["locationEntries"]
                assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation"
                key = f"bakery-instagram|{days[1]}"
                run_id = web.launch(["raw_conversations", "messages"], key, entry["name"])
                assert web.end_of(run_id) == "SUCCESS"
                assert web.row_counts("messages")[key] == 4
    settings = yaml.safe_load((home / "dagster" / "dagster.yaml").read_text())
    assert settings["telemetry"] == {"enabled": False}
