"""The example project with the inbox tables mounted: run by Dagster's web server and daemon."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline import schema
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.orchestration.instance import open_home
from tests.support.inbox_worlds import (
    TOKENS,
    Days,
    message_counts,
    small_world,
    three_days,
    write_config,
)
from tests.support.paths import ROOT
from tests.support.shifted_clock import SharedClock
from tests.support.web_server import Web, dagster_dev, wait_for

PROJECT = ROOT / "examples" / "dagster" / "definitions.py"
LOCATION = PROJECT.name
RAW = [f"inbox/{table.name}" for table in schema.RAW]
BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
OWN = {"messages", "nightly", "daily_volume"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mounted") / "home"


@pytest.fixture(scope="module")
def web(home: Path, days: Days) -> Iterator[Web]:
    folder = home.parent
    clock = SharedClock(folder / "ahead")
    with EmulatorServer(small_world(days)) as server:
        config = write_config(folder, server, days.start)
        environ = {"CONVO_CONFIG": str(config), **TOKENS, **clock.environ}
        with dagster_dev(home, environ, arguments=["-f", str(PROJECT)]) as web, clock.fast():
            yield web


def test_a_mounted_inbox_is_stored_checked_and_read_downstream(
    web: Web, home: Path, days: Days
) -> None:
    keys = [f"{account}|{days[2]}" for account in (BAKERY, BIKES)]
    for key in keys:
        assert web.end_of(web.launch(RAW, key, LOCATION)) == "SUCCESS"
    wait_for(lambda: web.row_counts("inbox/coverage").keys() >= set(keys))
    assert "FAILURE" not in web.runs("inbox_normalise_job")
    expected = {key: message_counts(days)[key] for key in keys}
    assert {key: web.row_counts("inbox/messages")[key] for key in keys} == expected

    day = str(days[2])
    assert web.end_of(web.launch(["daily_volume"], day, LOCATION)) == "SUCCESS"
    assert web.row_counts("daily_volume") == {day: sum(expected.values())}
    assert web.end_of(web.launch(["messages", "nightly"], "", LOCATION)) == "SUCCESS"

    assert web.row_counts("messages") == {}, "the project's own table has no rows of ours"
    with open_home(home) as instance:
        known = {key.to_user_string() for key in instance.all_asset_keys()}
        passed = [
            record.status.value
            for name in ("messages", "coverage")
            for record in instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(dg.AssetKey(["inbox", name]), "keys_are_unique"), limit=1
            )
        ]
        jobs = {run.job_name for run in instance.get_runs()}
    assert known == OWN | {f"inbox/{name}" for name in (*schema.TABLES, "overview")}
    assert passed == ["SUCCEEDED", "SUCCEEDED"]
    assert jobs == {"__ASSET_JOB", "inbox_normalise_job"}
