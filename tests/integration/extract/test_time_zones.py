"""C16: days are UTC days in every time zone, on leap days and when clocks change."""

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from tests.support.inboxes import Inboxes, reopened, serve

ZONES = (
    "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe",
        "Pacific/Kiritimati", "Pacific/Pago_Pago",
)  # fmt: skip
NOW = datetime(2024, 4, 9, 12, tzinfo=UTC)
BOUNDARIES = (
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2024, 3, 1, tzinfo=UTC),
    datetime(2024, 3, 10, 7, tzinfo=UTC),  # New York's clocks go forward
    datetime(2024, 3, 31, 1, tzinfo=UTC),  # Berlin's
    datetime(2024, 4, 6, 15, tzinfo=UTC),  # Lord Howe's go back, by half an hour
    *(datetime(2024, 4, 7, hour, tzinfo=UTC) for hour in (0, 10)),  # midnight here or there
)
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def inboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inboxes]:
    """One message in the second before each boundary and one at it, from different people."""
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    for boundary in BOUNDARIES:
        for moment in (boundary - SECOND, boundary):
            account.add_conversation().add_messages(1, moment)
    with serve(
        tmp_path_factory.mktemp("zones") / "unused", world, start=date(2023, 12, 1)
    ) as inboxes:
        yield inboxes


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set the time zone of this process for one test."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def make_lake(inboxes: Inboxes, root: Path) -> dict[str, str]:
    """Extract and derive everything into a new lake; return the hash of every file by its path."""
    made = reopened(inboxes, root)
    made.extract_whole(date(2023, 12, 1))
    derive_account_days(made.store, "insta")
    made.store.close()
    files = root.glob("*/account=*/date=*/data.parquet")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def in_utc(inboxes: Inboxes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_lake(inboxes, tmp_path_factory.mktemp("utc"))


@pytest.mark.parametrize("zone", ZONES, indirect=True)
def test_c16_every_message_is_in_the_partition_of_its_utc_day(
    memory_path: Path, inboxes: Inboxes, in_utc: dict[str, str], zone: str
) -> None:
    assert time.tzname != ("UTC", "UTC"), zone
    assert make_lake(inboxes, memory_path / "lake") == in_utc
    rows = reopened(inboxes, memory_path / "lake").rows("messages", "insta")
    found = sorted((row["message_id"], row["date"]) for row in rows)
    assert found == sorted(
        (message.message_id, message.created_at.astimezone(UTC).date())
        for conversation in inboxes.world.accounts["insta"].conversations.values()
        for message in conversation.messages
    )
    assert len(found) == 2 * len(BOUNDARIES)


def test_c16_every_schedule_runs_in_utc(inboxes: Inboxes) -> None:
    schedules = build_definitions(Deployment(inboxes.settings)).schedules or ()
    assert {(schedule.name, schedule.execution_timezone) for schedule in schedules} == {
        (name, "UTC") for name in ("nightly", "sweep", "capture", "upkeep")
    }
