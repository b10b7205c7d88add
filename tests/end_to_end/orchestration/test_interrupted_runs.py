"""Runs that are cancelled on the page or whose machine stops: their status and the run after."""

import os
import signal
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW
from convo_pipeline.settings import StoreSettings, read_settings
from tests.support.inbox_worlds import (
    TOKENS,
    is_at_work,
    message_counts,
    small_world,
    three_days,
    write_config,
)
from tests.support.shifted_clock import SharedClock
from tests.support.web_server import Web, dagster_dev, wait_for

BAKERY = "bakery-instagram"
TABLES = [table.name for table in RAW]
TERMINATE = """
mutation($id: String!) {
  terminateRun(runId: $id) { __typename ... on PythonError { message } } }"""
ONE_AT_A_TIME = ("max_concurrent_runs: 4", "max_concurrent_runs: 1")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def descendants(process_id: int) -> list[int]:
    """Return the ids of all processes below a process; a run has its own session."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(stat.split()[0]): int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    found = [process_id]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def launch_hanging(web: Web, server: EmulatorServer, settings: StoreSettings, key: str) -> str:
    """Start a run whose first response does not arrive in this test."""
    server.latency_seconds = 3600
    run_id = web.launch(TABLES, key)
    wait_for(lambda: is_at_work(settings, BAKERY))
    return run_id


def reasons(settings: StoreSettings) -> list[tuple[str, ...]]:
    with closing(Store(settings)) as store:
        return [run.reasons for run in store.state.runs(BAKERY)]


def test_c3_c13_cancelled_and_killed_runs_end(tmp_path: Path) -> None:
    """A cancelled run ends before its response arrives. A killed run fails within minutes.

    Only one run is allowed at a time, so the next run starts when the killed one has failed.
    """
    days = three_days()
    key = f"{BAKERY}|{days[1]}"
    clock = SharedClock(tmp_path / "ahead")
    with EmulatorServer(small_world(days)) as server:
        config = write_config(tmp_path, server, days.start)
        environ = {"CONVO_CONFIG": str(config), **TOKENS, **clock.environ}
        settings = read_settings(config).store
        with dagster_dev(tmp_path / "home", environ, ONE_AT_A_TIME) as web:
            cancelled = launch_hanging(web, server, settings, key)
            assert web.ask(TERMINATE, id=cancelled)["__typename"] == "TerminateRunSuccess"
            assert web.end_of(cancelled) == "CANCELED"
            assert wait_for(lambda: reasons(settings)) == [("stopped",)]
            with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
                logs = [entry.user_message for entry in instance.all_logs(cancelled)]
            assert "stopped: what was read is kept; the next run stores it and continues" in logs
            assert not is_at_work(settings, BAKERY)
            killed = launch_hanging(web, server, settings, key)
            for process_id in [web.pid, *descendants(web.pid)]:
                os.kill(process_id, signal.SIGKILL)
        server.latency_seconds = 0
        with dagster_dev(tmp_path / "home", environ, ONE_AT_A_TIME) as web, clock.fast():
            following = web.launch(TABLES, key)
            assert web.end_of(killed) == "FAILURE"
            assert clock.ahead_seconds < timedelta(minutes=30).total_seconds()
            assert web.end_of(following) == "SUCCESS"
            assert web.row_counts("raw_message_ids")[key] == message_counts(days)[key]
