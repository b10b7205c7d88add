"""Captures through Dagster: their calls, events and changes, and early captures."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.recorded_runs import QUIET
from tests.support.inboxes import Inboxes, serve, small_world, stopped_clock

pytestmark = pytest.mark.slow

MOST_IDLE_EVENTS = 20


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    world = small_world()
    for name, account in world.accounts.items():
        for number in range(3):
            person = account.add_conversation(f"{name} {number}")
            person.add_messages(2, world.clock.now() - timedelta(minutes=10))
    with serve(tmp_path, world) as inboxes:
        yield inboxes


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def definitions(inboxes: Inboxes) -> dg.Definitions:
    deployment = Deployment(
        inboxes.settings, environ=inboxes.environ, clock=stopped_clock(inboxes.clock)
    )
    return build_definitions(deployment)


def capture(
    inboxes: Inboxes, instance: dg.DagsterInstance, **tags: str
) -> dg.ExecuteInProcessResult:
    job = definitions(inboxes).resolve_job_def("capture_job")
    result = job.execute_in_process(instance=instance, run_config=QUIET, tags=tags)
    assert result.success
    return result


def fail(inboxes: Inboxes, instance: dg.DagsterInstance, **tags: str) -> None:
    """Run a capture whose token is refused."""
    settings, environ = inboxes.settings, dict.fromkeys(inboxes.environ, "EAAwrongwrongwrong")
    broken = build_definitions(
        Deployment(settings, environ=environ, clock=stopped_clock(inboxes.clock))
    )
    job = broken.resolve_job_def("capture_job")
    assert not job.execute_in_process(
        instance=instance, run_config=QUIET, tags=tags, raise_on_error=False
    ).success


def event_count(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> int:
    return len(instance.all_logs(result.run_id))


def kinds(inboxes: Inboxes) -> dict[str, list[str]]:
    return {name: [run.kind for run in inboxes.store.state.runs(name)] for name in inboxes.names}


def test_an_idle_capture_makes_one_call_per_account_and_few_events(
    inboxes: Inboxes, instance: dg.DagsterInstance
) -> None:
    capture(inboxes, instance)
    assert kinds(inboxes) == {"insta": ["capture"], "mess": ["capture"]}
    inboxes.clock.advance(900)
    result = capture(inboxes, instance)
    assert event_count(instance, result) <= MOST_IDLE_EVENTS
    (last,) = inboxes.store.state.runs("insta", limit=1)
    assert dict(last.calls or {}) == {"listing": 1}


def test_a_capture_reports_changed_partitions_and_figures(
    inboxes: Inboxes, instance: dg.DagsterInstance
) -> None:
    capture(inboxes, instance)
    inboxes.clock.advance(900)
    for conversation in inboxes.world.accounts["mess"].conversations.values():
        conversation.add_message("still there?")
    result = capture(inboxes, instance)
    seen = [
        event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.is_asset_observation
    ]
    today = inboxes.clock.now().date()
    assert {str(each.partition) for each in seen} == {f"mess|{today}"}
    tables = [each.asset_key.to_user_string() for each in seen]
    assert len(tables) == len(set(tables))
    assert {name for name in tables if name.startswith("raw")} == {
        "raw_message_details",
        "raw_message_ids",
    }
    assert {"messages", "conversation_days", "account_days", "coverage"} <= set(tables)
    assert event_count(instance, result) <= MOST_IDLE_EVENTS + len(seen)
    (figures,) = inboxes.rows("account_days", "mess")
    assert figures["inbound_count"] == 6


def test_only_the_last_missed_capture_runs(inboxes: Inboxes) -> None:
    schedule = definitions(inboxes).get_repository_def().get_schedule_def("capture")
    context = dg.build_schedule_context(scheduled_execution_time=inboxes.clock.now())
    asked = []
    for _ in range(3):
        asked.append(bool(schedule.evaluate_tick(context).run_requests))
        inboxes.clock.advance(7 * 60 + 30)
    assert asked == [True, True, False]


def test_a_capture_reads_only_its_tagged_and_unlocked_accounts(
    inboxes: Inboxes, instance: dg.DagsterInstance
) -> None:
    capture(inboxes, instance, **{"convo/accounts": "mess"})
    assert kinds(inboxes) == {"insta": [], "mess": ["capture"]}
    with closing(Store(inboxes.settings.store)) as other, other.lock_account("mess"):
        capture(inboxes, instance)
    assert kinds(inboxes) == {"insta": ["capture"], "mess": ["capture"]}


def test_an_account_at_risk_gets_one_early_capture(
    inboxes: Inboxes, instance: dg.DagsterInstance
) -> None:
    assert tick(inboxes, instance) == "nothing was extracted yet"
    capture(inboxes, instance)
    assert tick(inboxes, instance) == "no conversation is at risk"
    conversation = next(iter(inboxes.world.accounts["insta"].conversations.values()))
    inboxes.clock.advance(900)
    conversation.add_messages(15, inboxes.clock.now() - timedelta(minutes=14), step_seconds=50)
    capture(inboxes, instance)
    inboxes.clock.advance(299)
    assert tick(inboxes, instance) == "insta: 1 at risk, due 12:20:00 UTC"
    inboxes.clock.advance(2)
    request = tick(inboxes, instance)
    assert isinstance(request, dg.RunRequest)
    assert (request.run_key, request.tags["convo/accounts"]) == ("insta@20260310T121500", "insta")
    fail(inboxes, instance, **request.tags, **{"dagster/run_key": str(request.run_key)})
    again = tick(inboxes, instance)
    assert isinstance(again, dg.RunRequest)
    assert (again.run_key, again.tags["convo/accounts"]) == ("insta@20260310T121500/again", "insta")
    capture(inboxes, instance, **{"convo/accounts": "insta"})
    inboxes.clock.advance(900)
    capture(inboxes, instance)
    assert tick(inboxes, instance) == "no conversation is at risk"


def tick(inboxes: Inboxes, instance: dg.DagsterInstance) -> str | dg.RunRequest:
    """Return the sensor's request, or why it skipped."""
    found = definitions(inboxes)
    sensor = found.get_repository_def().get_sensor_def("capture_sooner")
    calls = len(inboxes.server.log)
    context = dg.build_sensor_context(instance=instance, repository_def=found.get_repository_def())
    data = sensor.evaluate_tick(context)
    assert len(inboxes.server.log) == calls
    return data.run_requests[0] if data.run_requests else str(data.skip_message)
