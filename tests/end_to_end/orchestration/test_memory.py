"""Out of memory: a process with a limited address space, and a day that does not fit."""

import json
import os
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import read_settings
from tests.support.inbox_worlds import TOKENS, small_world, three_days, write_config

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
DERIVED = ["messages", "coverage", "account_days"]
ROOM_BYTES = 56_000_000
"""Enough for two accounts' responses and tables, and for the full stacks of their threads."""
LONG_MESSAGES, LONG_TEXT_BYTES = 20, 3_000_000
"""Together more than the room, and less than the largest accepted response."""
PLAIN_MEMORY = {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Allocators reserve no unused address space and return freed memory: the limit is exact."""
SIZE = """
import resource

def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
"""
CHILD = """
import json, sys
from datetime import date
import dagster as dg
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.recorded_runs import run_jobs
from convo_pipeline.settings import read_settings

config, good, bad, since, until, room, *tables = sys.argv[1:]
deployment = Deployment(read_settings(config))
window = Window(date.fromisoformat(since), date.fromisoformat(until))

def partitions(table):
    storage, key = instance.event_log_storage, dg.AssetKey(table)
    green = storage.get_materialized_partitions(key)
    name = "get_latest_asset_partition_materialization_attempts_without_materializations"
    failed = getattr(storage, name)(key)
    return sorted(green), sorted(failed)

with dg.DagsterInstance.ephemeral() as instance:
    assert run_jobs(deployment, {good: window}, instance).is_complete  # starts all libraries
with dg.DagsterInstance.ephemeral() as instance:
    limit = size() + int(room)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    result = run_jobs(deployment, {good: window, bad: window}, instance)
    print(json.dumps({
        "reports": [(report.account, report.outcome, report.reasons) for report in result.reports],
        "errors": [report.error for report in result.reports],
        "failures": result.failures,
        "partitions": {table: partitions(table) for table in tables},
    }))
"""
POOL = """
import threading
from convo_pipeline.base.threads import ThreadPool

stack = 8 << 20
threading.stack_size(stack)
_, most = resource.getrlimit(resource.RLIMIT_AS)
for room in (stack // 2, 3 * stack):
    resource.setrlimit(resource.RLIMIT_AS, (size() + room, most))
    with ThreadPool(8) as pool:
        try:
            print(list(pool.map(abs, range(-8, 0))), len(pool._threads) < 8)
        except RuntimeError as error:
            print(error)
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the limit is set from /proc"
)


class Scarce(dict[str, str]):
    """An environment that raises MemoryError for one variable, `times` times."""

    def __init__(self, variable: str, times: int) -> None:
        super().__init__(TOKENS)
        self.variable, self.times = variable, times

    def get(self, key: str, default: Any = None) -> Any:
        if key == self.variable and self.times:
            self.times -= 1
            raise MemoryError
        return super().get(key, default)


@pytest.mark.parametrize(
    ("times", "outcomes"),
    [
        (1, [(BAKERY, "complete", ()), (BIKES, "complete", ())]),
        (2, [(BAKERY, "failed", ("memory",)), (BIKES, "complete", ())]),
    ],
)
def test_an_account_without_memory_is_retried_alone(
    tmp_path: Path, times: int, outcomes: list[tuple[str, str, tuple[str, ...]]]
) -> None:
    days = three_days()
    with EmulatorServer(small_world(days)) as server:
        settings = read_settings(write_config(tmp_path, server, days.start))
        variable = settings.account(BAKERY).token_env
        with closing(Store(settings.store)) as store:
            reports = extract(
                settings,
                store,
                [BAKERY, BIKES],
                days[0],
                days.today,
                environ=Scarce(variable, times),
            )
            ledger = {
                run.account: (run.account, run.outcome, run.reasons) for run in store.state.runs()
            }
    assert [(report.account, report.outcome, report.reasons) for report in reports] == outcomes
    assert [ledger[BAKERY], ledger[BIKES]] == outcomes


@needs_proc
def test_a_pool_works_with_fewer_threads() -> None:
    child = subprocess.run(
        [sys.executable, "-c", SIZE + POOL],
        env={**os.environ, **PLAIN_MEMORY},
        capture_output=True,
        text=True,
    )
    assert child.stdout.splitlines() == [
        "can't start new thread",
        "[8, 7, 6, 5, 4, 3, 2, 1] True",
    ], child.stderr


@pytest.mark.slow
@needs_proc
def test_c12_an_account_too_large_for_memory_fails_alone(tmp_path: Path) -> None:
    """Neither its response nor its stored day fits into memory."""
    days = three_days()
    world = small_world(days)
    long = world.accounts[BIKES].add_conversation("Long")
    long.add_messages(LONG_MESSAGES, datetime.combine(days[1], time(13), UTC), 1)
    for message in long.messages:
        message.payload["message"] = "x" * LONG_TEXT_BYTES
    with EmulatorServer(world) as server:
        config = write_config(tmp_path, server, days.start)
        settings = read_settings(config)
        with closing(Store(settings.store)) as store:
            (report,) = extract(settings, store, [BIKES], days[0], days.today, environ=TOKENS)
            assert report.outcome == "complete"
        arguments = [
            config,
            BAKERY,
            BIKES,
            days[0],
            days.today,
            ROOM_BYTES,
            "raw_message_ids",
            *DERIVED,
        ]
        child = subprocess.run(
            [sys.executable, "-c", SIZE + CHILD, *map(str, arguments)],
            env={**os.environ, **TOKENS, **PLAIN_MEMORY},
            capture_output=True,
            text=True,
        )
    assert child.returncode == 0, child.stderr[-2000:]
    output = json.loads(child.stdout)
    assert output["reports"] == [[BAKERY, "complete", []], [BIKES, "failed", ["memory"]]]
    (reading,) = filter(None, output["errors"])
    (deriving,) = (line for line in output["failures"] if "the process ran out of memory (" in line)
    assert ("graph/transport.py" in reading, "lake/parquet.py" in deriving) == (True, True)
    assert "To do: add memory, or extract fewer accounts at a time" in deriving
    keys = {name: [f"{name}|{days[number]}" for number in range(3)] for name in (BAKERY, BIKES)}
    assert output["partitions"]["raw_message_ids"] == [keys[BAKERY], keys[BIKES]]
    short = [keys[BIKES][0], keys[BIKES][2]]
    for table in DERIVED:
        assert output["partitions"][table] == [[*keys[BAKERY], *short], [keys[BIKES][1]]]
    with closing(Store(settings.store)) as store:
        assert store.state.suspect_files() == []
        assert store.read("raw_message_details", BIKES, days[1]).num_rows == LONG_MESSAGES + 2 * 3
