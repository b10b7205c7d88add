"""A run whose process is gone is failed; a run that lives is left alone."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.orchestration.dead_runs import DIED_TAG, GRPC_TAG, WITHOUT_LOCK, fail_dead_runs
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import open_home
from convo_pipeline.settings import parse_settings
from convo_pipeline.storage.locks import SETTLED_SECONDS, STALE_SECONDS
from tests.support.paths import ROOT
from tests.support.web_server import wait_for

CONFIG = """
[graph]
base_url = "http://127.0.0.1:{port}"
[store]
root = "{root}"
[[accounts]]
name = "bakery"
page_id = "1"
platform = "messenger"
token_env = "TOKEN"
start_date = "2026-01-01"
"""
CAPTURE = """
import os, sys
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import read_deployment
from convo_pipeline.orchestration.instance import open_instance

with open_instance(os.environ) as instance:
    job = build_definitions(read_deployment()).resolve_job_def("capture_job")
    job.execute_in_process(instance=instance, tags=eval(sys.argv[1]))
"""
WITHOUT_LOCK_OF_OURS = """
import os, sys, time
import dagster as dg
from convo_pipeline.orchestration.instance import open_instance

@dg.op
def capture() -> None:
    time.sleep(600)

@dg.job(name=sys.argv[2])
def job() -> None:
    capture()

with open_instance(os.environ) as instance:
    job.execute_in_process(instance=instance, tags=eval(sys.argv[1]))
"""
"""A run whose process has not come to a step of ours."""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen on a port and never answer: a run that calls it stays at work."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def deployment(tmp_path: Path, silent_port: int) -> Deployment:
    text = CONFIG.format(port=silent_port, root=tmp_path / "lake")
    (tmp_path / "convo.toml").write_text(text)
    return Deployment(parse_settings(text.encode()))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_home(tmp_path / "home") as instance:
        yield instance


@contextmanager
def process_of(
    instance: dg.DagsterInstance, code: str, tags: dict[str, str] | None = None, name: str = ""
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the code in a process until a run of it has recorded that its steps begin."""
    home = Path(instance.root_directory)
    environ = {**os.environ, "DAGSTER_HOME": str(home), "TOKEN": "t", "PYTHONPATH": str(ROOT)}
    environ["CONVO_CONFIG"] = str(home.parent / "convo.toml")
    words = [sys.executable, "-c", code, repr(tags or {}), name or "capture_job"]
    with subprocess.Popen(words, env=environ) as process:
        try:
            wait_for(lambda: _has_process(instance))
            yield process
        finally:
            process.kill()


def _has_process(instance: dg.DagsterInstance) -> bool:
    return any(
        instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)
        for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    )


def later(deployment: Deployment, by: timedelta = WITHOUT_LOCK) -> Deployment:
    moment = datetime.now(UTC) + by + timedelta(minutes=1)
    return replace(deployment, clock=Clock(now=lambda: moment))


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def lock_files(deployment: Deployment) -> list[Path]:
    """Return the locks of runs, made to look older than a lock that is being taken."""
    files = list((deployment.settings.store.state_path / "locks").glob("run-*"))
    moment = datetime.now(UTC).timestamp() - SETTLED_SECONDS - 1
    for file in files:
        os.utime(file, (moment, moment))
    return files


def test_a_killed_capture_is_failed_at_once(
    deployment: Deployment, instance: dg.DagsterInstance
) -> None:
    with process_of(instance, CAPTURE) as process:
        wait_for(lambda: lock_files(deployment))
        assert fail_dead_runs(later(deployment, timedelta(days=2)), instance) == []
        kill(process)
    assert len(lock_files(deployment)) == 1
    assert fail_dead_runs(deployment, instance) == ["capture_job"]
    (run,) = instance.get_runs()
    assert (run.status, run.tags[DIED_TAG]) == (dg.DagsterRunStatus.FAILURE, "true")
    assert lock_files(deployment) == []
    assert fail_dead_runs(deployment, instance) == []


def test_a_run_killed_before_its_first_step_is_failed_after_minutes(
    deployment: Deployment, instance: dg.DagsterInstance
) -> None:
    with process_of(instance, WITHOUT_LOCK_OF_OURS) as process:
        assert fail_dead_runs(later(deployment), instance) == []
        kill(process)
    assert fail_dead_runs(deployment, instance) == []
    assert fail_dead_runs(later(deployment), instance) == ["capture_job"]


@pytest.mark.parametrize(
    ("tags", "name"),
    [({GRPC_TAG: '{"host": "convo_code", "port": 4000}'}, ""), ({}, "job_of_another_project")],
)
def test_a_run_of_another_machine_or_project_is_left_alone(
    deployment: Deployment, instance: dg.DagsterInstance, tags: dict[str, str], name: str
) -> None:
    with process_of(instance, WITHOUT_LOCK_OF_OURS, tags, name) as process:
        kill(process)
    assert fail_dead_runs(later(deployment), instance) == []


def test_a_lock_is_removed_when_its_step_ends(
    deployment: Deployment, instance: dg.DagsterInstance
) -> None:
    with process_of(instance, CAPTURE) as process:
        wait_for(lambda: lock_files(deployment))
        process.send_signal(signal.SIGINT)
        process.wait()
    assert lock_files(deployment) == []


def test_a_lock_of_a_run_that_ended_otherwise_is_removed_after_days(
    deployment: Deployment, instance: dg.DagsterInstance
) -> None:
    folder = deployment.settings.store.state_path / "locks"
    folder.mkdir(parents=True)
    for name, age in (("old", STALE_SECONDS + 60), ("new", STALE_SECONDS - 60)):
        path = folder / f"run-{name}.lock"
        path.touch()
        moment = datetime.now(UTC).timestamp() - age
        os.utime(path, (moment, moment))
    assert fail_dead_runs(deployment, instance) == []
    assert [path.name for path in folder.iterdir()] == ["run-new.lock"]
