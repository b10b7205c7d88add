"""Three days of `dagster dev`: every message that a capture could read is stored.

The processes use a shared clock (`tests/support/shifted/sitecustomize.py`). It jumps from tick to
tick and is fast while the test waits for a run. The emulator uses the same clock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorType

import convo_pipeline
from convo_pipeline.console.status import read_status
from convo_pipeline.emulator.api import GraphApi
from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.risk import LOOKBACK
from convo_pipeline.orchestration.names import CAPTURE_JOB, EXTRACT_JOB
from convo_pipeline.orchestration.partitions import ACCOUNTS_TAG
from convo_pipeline.reasons import REASONS
from convo_pipeline.settings import Settings, read_settings
from tests.support.shifted_clock import SharedClock
from tests.support.web_server import LOCATION, Web, dagster_dev, wait_for
from tests.support.webhook import Webhook, serve_webhook

CAPTURE_MINUTES, LONG_CAPTURE_MINUTES = 720, 120
HOP = timedelta(hours=2)
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
START_SCHEDULE = """
mutation($selector: ScheduleSelector!) {
  startSchedule(scheduleSelector: $selector) { __typename } }"""
START_SENSOR = """
mutation($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename } }"""
FRESHNESS = """{ assetNodeOrError(assetKey: {path: ["messages"]}) {
  ... on AssetNode { freshnessStatusInfo { freshnessStatus } } } }"""
TICK = ".dagster/scheduled_execution_time"
NAMES = ("instagram", "messenger")
CONFIG = """
[graph]
base_url = "{url}"
calls_per_second = 1000
[store]
root = "{root}"
[schedule]
capture_minutes = {minutes}
[alerts]
webhook_env = "HOOK"
"""
ACCOUNT = """
[[accounts]]
name = "{name}"
page_id = "{page_id}"
platform = "{name}"
token_env = "TOKEN"
start_date = "{start}"
"""
pytestmark = [pytest.mark.hunt, pytest.mark.timeout(3600)]


class Watched:
    """The API, with a record of all messages that were readable when an account was listed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.api = GraphApi(
            world, Switches(old_rows_messenger="omit_fields", old_nodes_messenger="refused")
        )
        self.offered: dict[str, set[str]] = {name: set() for name in NAMES}

    def answer(self, call: Call) -> EmulatedResponse:
        answer = self.api.answer(call)
        if call.kind == "listing" and answer.status == 200 and call.account:
            readable = (
                each
                for each in self.world.truth()
                if each.account == call.account and each.is_readable
            )
            self.offered[call.account] |= {each.message_id for each in readable}
        return answer


@dataclass
class Life:
    """The days, their world, clock and Dagster instance."""

    first_day: date
    clock: SharedClock
    world: World
    api: Watched
    home: Path
    environ: dict[str, str]

    def at(self, day: int, hour: int, minute: int = 0) -> datetime:
        """Return a moment of a day, counted from 1; hours may be negative."""
        days = timedelta(days=day - 1, hours=hour, minutes=minute)
        return datetime.combine(self.first_day, datetime.min.time(), UTC) + days

    @property
    def settings(self) -> Settings:
        return read_settings(environ=self.environ)

    @contextmanager
    def dagster(self) -> Iterator[tuple[Web, dg.DagsterInstance]]:
        with (
            dagster_dev(self.home, self.environ) as web,
            dg.DagsterInstance.from_config(str(self.home)) as instance,
        ):
            yield web, instance

    def live(self, instance: dg.DagsterInstance, until: datetime, ticks: list[datetime]) -> None:
        """Move the clock to each tick, at most two hours at once, and wait for the runs."""
        start = self.clock.now()
        hops = {start + HOP * index for index in range(1, (until - start) // HOP + 1)}
        for moment in sorted(each for each in {until, *hops, *ticks} if start < each <= until):
            self.clock.set(max(self.clock.now(), moment + timedelta(seconds=1)))
            self.wait_for_work(instance, moment, [moment] if moment in ticks else [])

    def wait_for_work(
        self, instance: dg.DagsterInstance, moment: datetime, ticks: list[datetime]
    ) -> None:
        """Wait until the sensor has ticked, the scheduled runs exist and all runs have ended."""
        with self.clock.fast():
            wait_for(lambda: last_early_tick(instance) > moment)
            wait_for(lambda: {*ticks} <= {*scheduled_times(instance)})
            wait_for(lambda: is_quiet(instance))


def last_early_tick(instance: dg.DagsterInstance) -> datetime:
    """Return when `capture_sooner` last ticked."""
    found = {
        state.instigator_name: state.instigator_data for state in instance.all_instigator_state()
    }
    return datetime.fromtimestamp(
        getattr(found.get("capture_sooner"), "last_tick_timestamp", None) or 0, UTC
    )


def scheduled_times(instance: dg.DagsterInstance, job: str | None = None) -> list[datetime]:
    """Return the times for which schedules requested runs."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job))
    return sorted(datetime.fromisoformat(run.tags[TICK]) for run in runs if TICK in run.tags)


def is_quiet(instance: dg.DagsterInstance) -> bool:
    """Return whether every run has ended and a normalise run followed every extract."""
    runs = instance.get_runs()
    followed = {run.tags.get("dagster/run_key") for run in runs}
    return all(
        run.status in ENDED and (run.job_name != EXTRACT_JOB or run.run_id in followed)
        for run in runs
    )


def early_captures(instance: dg.DagsterInstance, account: str) -> list[datetime]:
    """Return when the sensor's captures of an account began."""
    records = instance.get_run_records(
        dg.RunsFilter(tags={"dagster/sensor_name": "capture_sooner"})
    )
    return sorted(
        datetime.fromtimestamp(record.start_time or 0, UTC)
        for record in records
        if account in record.dagster_run.tags[ACCOUNTS_TAG].split(",")
    )


def fill(life: Life) -> None:
    """Add all messages of these days; the clock makes them visible."""
    for name, page_id in zip(NAMES, ("1111111111", "2222222222"), strict=True):
        account = life.world.add_account(name, page_id, name)
        account.add_conversation("Old Acquaintance").add_messages(35, life.at(-2, 9), 60)
        account.add_conversation("Slow Talker").add_messages(24, life.at(1, 1, 33), 3 * 3600)
        midnight = account.add_conversation("Night Owl")
        for day in (1, 2, 3, 4):
            midnight.add_messages(10, life.at(day, -1, 50), 120)
    busy = life.world.accounts["instagram"].add_conversation("Busy Person")
    busy.add_messages(11, life.at(1, 2, 5), 500)
    busy.add_messages(14, life.at(1, 12, 35), 900)
    busy.add_messages(12, life.at(1, 18, 5), 1000)
    life.world.accounts["messenger"].add_conversation("Flood").add_messages(
        27, life.at(3, 1, 3), 200
    )


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with serve_webhook() as hook:
        yield hook


@pytest.fixture
def life(tmp_path: Path, hook: Webhook, long_run: bool) -> Iterator[Life]:
    first_day = datetime.now(UTC).date() + timedelta(days=1)
    start = datetime.combine(first_day, datetime.min.time(), UTC) - timedelta(minutes=70)
    clock = SharedClock(tmp_path / "ahead")
    clock.set(start)
    world = World(clock.world)
    life = Life(first_day, clock, world, Watched(world), tmp_path / "home", {})
    fill(life)
    with EmulatorServer(world, api=life.api) as server:
        minutes = LONG_CAPTURE_MINUTES if long_run else CAPTURE_MINUTES
        text = CONFIG.format(url=server.base_url, root=tmp_path / "lake", minutes=minutes)
        for account in world.accounts.values():
            text += ACCOUNT.format(
                name=account.name, page_id=account.page_id, start=first_day - timedelta(days=4)
            )
        config = tmp_path / "convo.toml"
        config.write_text(text)
        life.environ |= {
            "CONVO_CONFIG": str(config),
            "TOKEN": EMULATOR_TOKEN,
            "HOOK": hook.url,
            **clock.environ,
        }
        yield life


def turn_on(web: Web) -> None:
    """Turn on the schedules and the sensor, as a person does on the page."""
    place = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
    for name in ("nightly", "capture"):
        assert (
            web.ask(START_SCHEDULE, selector={**place, "scheduleName": name})["__typename"]
            == "ScheduleStateResult"
        )
    assert (
        web.ask(START_SENSOR, selector={**place, "sensorName": "capture_sooner"})["__typename"]
        == "Sensor"
    )


def turn_off(instance: dg.DagsterInstance) -> None:
    for state in instance.all_instigator_state():
        stop = (
            instance.stop_schedule
            if state.instigator_type == InstigatorType.SCHEDULE
            else instance.stop_sensor
        )
        stop(state.instigator_origin_id, state.selector_id, None)


def test_every_message_shown_to_a_capture_is_stored(life: Life, hook: Webhook) -> None:
    """On day 2 the token is refused at noon, and the daemon is off from 23:00 to 8:00."""
    step = timedelta(minutes=life.settings.schedule.capture_minutes)
    nights = [life.at(day, 0, 15) for day in (1, 2, 3, 4)]
    captures = [life.at(1, 0) + step * index for index in range(timedelta(days=3) // step + 1)]
    ticks, tokens = sorted([*nights, *captures]), set(life.world.accounts["messenger"].tokens)
    with life.dagster() as (web, instance):
        turn_on(web)
        life.live(instance, life.at(2, 11), ticks)
        life.world.accounts["messenger"].tokens.clear()
        life.live(instance, life.at(2, 12, 30), ticks)
        life.world.accounts["messenger"].tokens |= tokens
        life.live(instance, life.at(2, 23), ticks)
    life.clock.set(life.at(3, 8, 1))
    with life.dagster() as (web, instance):
        missed = [tick for tick in captures if life.at(2, 23) < tick <= life.at(3, 8)]
        life.wait_for_work(instance, life.at(3, 8), [nights[2], missed[-1]])
        life.live(instance, life.at(4, 0, 20), ticks)
        check_runs(
            life, instance, nights, [tick for tick in captures if tick not in missed[:-1]], hook
        )
        check_tables(life)
        turn_off(instance)
        assert freshness(web) == "HEALTHY"
        for hours, status in ((26, "WARNING"), (24, "DEGRADED")):
            life.clock.advance(hours * 3600)
            with life.clock.fast():
                wait_for(lambda status=status: freshness(web) == status)


def check_runs(
    life: Life,
    instance: dg.DagsterInstance,
    nights: list[datetime],
    captures: list[datetime],
    hook: Webhook,
) -> None:
    """Check that all nightly runs and captures ran, and early captures only at risk."""
    assert scheduled_times(instance, EXTRACT_JOB) == nights
    assert scheduled_times(instance, CAPTURE_JOB) == captures
    failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert {run.job_name for run in failed} == {CAPTURE_JOB}
    assert [document["accounts"] for document in hook.documents] == [["messenger"]]
    assert any(
        life.at(1, 0) < moment < life.at(2, 0) for moment in early_captures(instance, "instagram")
    )
    calm = life.at(1, 22) + LOOKBACK + HOP
    assert [moment for moment in early_captures(instance, "instagram") if moment > calm] == []
    assert [
        moment for moment in early_captures(instance, "messenger") if moment < life.at(3, 8)
    ] == []


def check_tables(life: Life) -> None:
    """Check that each readable message has its content and each other one its reason."""
    with convo_pipeline.connect(life.settings.store.root) as con:
        held = {
            row[:2]: row[2]
            for row in con.sql("SELECT account, message_id, detail_status FROM messages").fetchall()
        }
        counted = dict(
            con.sql("SELECT account, sum(beyond_20)::INT FROM coverage GROUP BY account").fetchall()
        )
        figures = con.sql(
            "SELECT sum(inbound_count + outbound_count + unknown_count) FROM account_days"
        ).fetchall()
    truth = {(each.account, each.message_id) for each in life.world.truth()}
    offered = {
        (account, message_id) for account, some in life.api.offered.items() for message_id in some
    }
    assert held == {key: "detailed" if key in offered else "beyond_20" for key in truth}
    assert counted == {"instagram": 15, "messenger": 15 + 7}
    assert figures == [(len(truth),)]
    status = read_status(life.settings, NAMES, life.clock.now())
    lost = {
        each.account: [line for line in each.attention if line.startswith("content lost")]
        for each in status.accounts
    }
    what = "7 messages in 1 conversation since yesterday (7 no longer among the newest 20)"
    assert lost["instagram"] == []
    (line,) = lost["messenger"]
    assert line.startswith(f"{REASONS['lost'].describe({'what': what})}. To do: ")
    assert "schedule.capture_minutes" in line


def freshness(web: Web) -> str:
    return str(web.ask(FRESHNESS)["freshnessStatusInfo"]["freshnessStatus"])
