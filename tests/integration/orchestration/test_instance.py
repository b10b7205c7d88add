"""Dagster's telemetry stays off, also where DAGSTER_HOME has no `dagster.yaml`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convo_pipeline.orchestration.instance import open_home
from tests.support.paths import ROOT

RUN = """
import os
import dagster as dg
from convo_pipeline.orchestration.instance import open_instance

@dg.op
def nothing() -> None: ...

@dg.job
def empty() -> None:
    nothing()

with open_instance(os.environ) as instance:
    assert not instance.telemetry_enabled
    assert empty.execute_in_process(instance=instance).success
"""


def run(code: str, folder: Path, home: Path) -> None:
    environ = {**os.environ, "DAGSTER_HOME": str(home), "HOME": str(folder)}
    environ |= {"PYTHONPATH": str(ROOT), "CONVO_CONFIG": str(folder / "none.toml")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, cwd=folder)


def traces_of_telemetry(folder: Path) -> list[Path]:
    names = (".telemetry", "logs", ".logs_queue", ".dagster")
    return [path for path in folder.rglob("*") if path.name in names]


def test_a_command_writes_no_telemetry_into_an_empty_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run(RUN, tmp_path, home)
    assert traces_of_telemetry(tmp_path) == []
    assert (home / "dagster.yaml").read_text() == (ROOT / "dagster.yaml").read_text()


@pytest.mark.parametrize("name", ["dagster.yaml", "dagster.yml"])
def test_a_command_writes_no_telemetry_where_the_file_does_not_mention_it(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("concurrency: {runs: {max_concurrent_runs: 2}}\n")
    with open_home(tmp_path) as instance:
        assert not instance.telemetry_enabled
    assert {path.name for path in tmp_path.iterdir()} & {"dagster.yaml", "dagster.yml"} == {name}


def test_the_code_location_switches_telemetry_off_for_dagsters_own_processes(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run("import convo_pipeline.definitions", tmp_path, home)
    assert "enabled: false" in (home / "dagster.yaml").read_text()
