"""A year of captures makes neither the nightly tick nor the reading of runs slow."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.automation_tick_evaluation_context import (
    build_run_requests_with_backfill_policies,
)
from dagster._core.definitions.events import AssetKeyPartitionKey

from convo_pipeline.orchestration.assets import partitions_of
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.nights import nightly_windows
from convo_pipeline.orchestration.partitions import (
    RANGE_END,
    RANGE_START,
    SHARD_TAG,
    key_of,
    tagged_accounts,
)
from convo_pipeline.orchestration.upkeep import SHARED_PART
from convo_pipeline.settings import Settings, parse_settings
from convo_pipeline.state import state as statements
from convo_pipeline.state.database import STATE_FILE
from convo_pipeline.state.records import Run, run_values
from convo_pipeline.state.state import State

ACCOUNTS, DAYS, CAPTURES_A_DAY = 50, 365, 8
NOW = datetime(2026, 11, 20, 0, 15, tzinfo=UTC)
MOST_SECONDS = 2.0
ACCOUNT = """
[[accounts]]
name = "shop{number}"
page_id = "{number}"
platform = "messenger"
token_env = "T"
start_date = "2025-01-01"
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """50 accounts whose runs of a year are in the state; the last account never had a night."""
    root = tmp_path_factory.mktemp("year") / "lake"
    accounts = "".join(ACCOUNT.format(number=number + 1) for number in range(ACCOUNTS))
    settings = parse_settings(f'[store]\nroot = "{root}"\n{accounts}'.encode())
    state = State(settings.store.state_path / STATE_FILE)
    first, *others = [account.name for account in settings.accounts]
    rows = [
        run_values(run)
        for day in range(DAYS)
        for run in runs_of_day(first, NOW - timedelta(days=day))
    ]
    names = [row[1] for row in state.database.select("PRAGMA table_info(runs)")]
    columns = ", ".join("?" if name == "account" else name for name in names)
    copy = f"INSERT INTO runs SELECT {columns} FROM runs WHERE account = ?"
    with state.database.transaction(is_durable=False) as connection:
        marks = ", ".join("?" * len(names))
        connection.executemany(f"INSERT INTO runs VALUES ({marks})", rows)
        for name in others:
            connection.execute(copy, (name, first))
        connection.execute("DELETE FROM runs WHERE account = ? AND kind = 'nightly'", others[-1:])
    state.close()
    return settings


def runs_of_day(account: str, night: datetime) -> list[Run]:
    today = night.date()
    until = today + timedelta(days=1)
    runs = [
        Run(f"{at:%Y%m%dT%H%M}", account, "capture", at, today, until, at, "complete")
        for at in (night - timedelta(hours=hour) for hour in range(1, CAPTURES_A_DAY))
    ]
    since = today - timedelta(days=2)
    name = f"{night:%Y%m%dT%H%M}"
    runs.append(Run(name, account, "nightly", night, since, today, night, "complete"))
    return runs


def test_nightly_tick_takes_less_than_two_seconds(settings: Settings) -> None:
    """Dagster gives a tick 60 s; it took 2.2 s of CPU for each account."""
    repository = build_definitions(Deployment(settings)).get_repository_def()
    schedule = repository.get_schedule_def("nightly")
    started = time.process_time()
    data = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=NOW))
    assert time.process_time() - started < MOST_SECONDS
    assert len(data.run_requests or ()) == 1


def test_scheduled_runs_are_divided_into_shards_of_accounts(settings: Settings) -> None:
    schedule = settings.schedule.model_copy(update={"accounts_per_run": 20})
    deployment = Deployment(settings.model_copy(update={"schedule": schedule}))
    repository = build_definitions(deployment).get_repository_def()

    def tags(name: str, at: datetime) -> list[dict[str, str]]:
        tick = repository.get_schedule_def(name)
        context = dg.build_schedule_context(scheduled_execution_time=at)
        requests = tick.evaluate_tick(context).run_requests or ()
        assert len({request.run_key for request in requests}) == len(requests)
        return [dict(request.tags) for request in requests]

    names = [account.name for account in settings.accounts]
    ends = [(names[0], names[19]), (names[20], names[39]), (names[40], names[49])]
    nights = tags("nightly", NOW)
    shown = [(each[RANGE_START].split("|")[0], each[RANGE_END].split("|")[0]) for each in nights]
    assert shown == ends
    assert [each[SHARD_TAG] for each in nights] == [f"nightly {n} of 3" for n in (1, 2, 3)]
    assert tags("sweep", NOW)[2][SHARD_TAG] == "sweep 3 of 3"
    captures = tags("capture", datetime.now(UTC))
    assert [tagged_accounts(each.items()) for each in captures] == [
        names[:20],
        names[20:40],
        names[40:],
    ]
    *shares, common = tags("upkeep", NOW)
    assert [tagged_accounts(each.items()) for each in shares] == [
        names[:20],
        names[20:40],
        names[40:],
    ]
    assert shares[1][SHARD_TAG] == "upkeep 2 of 3"
    assert (common[SHARD_TAG], tagged_accounts(common.items())) == (SHARED_PART, [])


@pytest.mark.parametrize(
    ("accounts_per_run", "day_count", "run_count", "most_accounts"),
    [(0, 2, 2, 50), (20, 2, 6, 20), (20, 60, 150, 1)],
)
def test_backfills_are_divided_by_accounts_per_run(
    settings: Settings,
    accounts_per_run: int,
    day_count: int,
    run_count: int,
    most_accounts: int,
) -> None:
    """Each run reads a whole range of accounts and days, and all runs together each key once."""
    schedule = settings.schedule.model_copy(update={"accounts_per_run": accounts_per_run})
    definitions = build_definitions(Deployment(settings.model_copy(update={"schedule": schedule})))
    graph = definitions.resolve_asset_graph()
    partitions = partitions_of(settings)
    days = [NOW.date() - timedelta(days=back) for back in range(1, day_count + 1)]
    keys = {key_of(account.name, day) for account in settings.accounts for day in days}
    table = dg.AssetKey("raw_conversations")
    with dg.DagsterInstance.ephemeral() as instance:
        requests = build_run_requests_with_backfill_policies(
            [AssetKeyPartitionKey(table, key) for key in keys], graph, instance
        )
    read = [
        partitions.get_partition_keys_in_range(
            dg.PartitionKeyRange(request.tags[RANGE_START], request.tags[RANGE_END])
        )
        for request in requests
    ]
    assert len(requests) == run_count
    assert max(len({key.split("|")[0] for key in run}) for run in read) == most_accounts
    assert sorted(key for run in read for key in run) == sorted(keys)


def test_windows_of_all_accounts_take_less_than_two_seconds(settings: Settings) -> None:
    state = State(settings.store.state_path / STATE_FILE)
    started = time.process_time()
    windows = nightly_windows(settings, settings.accounts, NOW.date(), state)
    assert time.process_time() - started < MOST_SECONDS
    *others, last = (windows[account.name].days for account in settings.accounts)
    assert ({len(days) for days in others}, len(last)) == ({2}, 30)
    state.close()


@pytest.mark.parametrize("name", ["_COMPLETE_SPANS", "_LAST_FULL_RUN"])
def test_runs_are_found_by_an_index_that_skips_captures(tmp_path: Path, name: str) -> None:
    state = State(tmp_path / STATE_FILE)
    sql = str(getattr(statements, name))
    plan = state.database.select(f"EXPLAIN QUERY PLAN {sql}", *([0] * sql.count("?")))
    assert "runs_by_kind (account=? AND kind=?" in plan[0][3]
    state.close()
