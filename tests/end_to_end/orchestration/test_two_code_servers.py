"""C22: two code servers that capture the same accounts share pace, lock and rows."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from convo_pipeline.derive.day import stale_days
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.partitions import ACCOUNTS_TAG
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import read_settings
from convo_pipeline.upkeep.verify import verify
from tests.support.inbox_worlds import TOKENS, is_at_work, small_world, three_days, write_config
from tests.support.web_server import LAUNCH, Web, serve_page, wait_for

pytestmark = [pytest.mark.hunt, pytest.mark.timeout(400)]

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
LOCATIONS = ("one", "two")
GAP_SECONDS = 10.0
"""Longer than a run takes to start, so the second run must wait."""
WORKSPACE = "load_from:\n" + "".join(
    f"  - python_module: {{module_name: convo_pipeline.definitions, location_name: {name}}}\n"
    for name in LOCATIONS
)
HOME = """
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""


@contextmanager
def webserver(home: Path, environ: Mapping[str, str]) -> Iterator[Web]:
    """Serve the page with a code server for each location; runs start at once, without a daemon."""
    home.mkdir()
    (home / "dagster.yaml").write_text(HOME)
    (home / "workspace.yaml").write_text(WORKSPACE)
    with serve_page(home, environ, "dagster_webserver", "-w", str(home / "workspace.yaml")) as web:
        yield web


def launch_capture(web: Web, location: str, accounts: str = "") -> str:
    selector = {
        "repositoryLocationName": location,
        "repositoryName": "__repository__",
        "jobName": "capture_job",
    }
    tags = [{"key": ACCOUNTS_TAG, "value": accounts}] if accounts else []
    result = web.ask(LAUNCH, params={"selector": selector, "executionMetadata": {"tags": tags}})
    assert result["__typename"] == "LaunchRunSuccess", result
    return str(result["run"]["runId"])


def test_c22_two_code_servers_share_pace_and_lock(tmp_path: Path) -> None:
    """A capture skips an account that another one reads; then two captures share the pace."""
    days = three_days()
    world = small_world(days)
    with EmulatorServer(world) as server:
        config = write_config(tmp_path, server, days.start)
        settings = read_settings(config)
        with webserver(
            tmp_path / "home", {**os.environ, **TOKENS, "CONVO_CONFIG": str(config)}
        ) as web:
            with world.lock:  # no response is sent
                holder = launch_capture(web, LOCATIONS[0], BAKERY)
                wait_for(lambda: is_at_work(settings.store, BAKERY))
                assert web.end_of(launch_capture(web, LOCATIONS[1], BAKERY)) == "SUCCESS"
                assert is_at_work(settings.store, BAKERY)
            assert web.end_of(holder) == "SUCCESS"
            server.log.clear()
            slow = f"calls_per_second = {1 / GAP_SECONDS}"
            config.write_text(config.read_text().replace("calls_per_second = 1000", slow))
            for account in world.accounts.values():
                next(iter(account.conversations.values())).add_messages(
                    2, world.clock.now() - timedelta(minutes=1)
                )
            both = [launch_capture(web, LOCATIONS[0])]
            wait_for(lambda: {BAKERY, BIKES} <= {seen.account for seen in server.log})
            both.append(launch_capture(web, LOCATIONS[1]))
            assert [web.end_of(run_id) for run_id in both] == ["SUCCESS"] * 2
        assert min(closest_calls(server, BAKERY), closest_calls(server, BIKES)) > GAP_SECONDS * 0.9
        conversations = [
            each for account in world.accounts.values() for each in account.conversations.values()
        ]
        held = {message.message_id for each in conversations for message in each.messages}
    with closing(Store(settings.store)) as store:
        stored = [row for name in (BAKERY, BIKES) for row in ids_of(store, name)]
        assert (len(stored), set(stored)) == (len(held), held)
        assert {run.outcome for run in store.state.runs()} == {"complete"}
        assert len(store.state.runs(BAKERY)) >= 2
        assert verify(store, stale_days=stale_days).findings == ()


def ids_of(store: Store, account: str) -> list[str]:
    """Return every message id of the account's raw table, repeated ones too."""
    days = store.days(RAW_MESSAGE_IDS.name, account)
    return [
        name
        for day in days
        for name in store.read(RAW_MESSAGE_IDS.name, account, day)["message_id"].to_pylist()
    ]


def closest_calls(server: EmulatorServer, account: str) -> float:
    """Return the shortest time between two calls about an account, in seconds."""
    stamps = sorted(seen.at for seen in server.log if seen.account == account)
    return min((later - earlier for earlier, later in pairwise(stamps)), default=math.inf)
