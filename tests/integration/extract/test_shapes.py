"""The main job with every variant of the undocumented parts of the API, and every pair of them."""

import random
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.emulator.ids import hostile
from convo_pipeline.emulator.switches import SHAPES, Switches, covering_switches
from convo_pipeline.emulator.world import TrueMessage
from tests.support.inboxes import Inboxes, serve

pytestmark = pytest.mark.slow

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
SINCE = date(2026, 3, 9)
ROUNDS = 40
LONG_ROUNDS = 3_000


def difference(switches: Switches) -> str:
    """Name a combination by its values that are not the default."""
    changed = {
        name: getattr(switches, name)
        for name in SHAPES
        if getattr(switches, name) != getattr(Switches(), name)
    }
    return ",".join(f"{name}={value}" for name, value in changed.items()) or "default"


def random_switches(rng: random.Random) -> Switches:
    return Switches(**{name: rng.choice(values) for name, values in SHAPES.items()})  # type: ignore[arg-type]


def readable_rank(switches: Switches, platform: str) -> float:
    """Return the rank down to which the API returns content with these switches."""
    gives_old = switches.old_rows(platform) == "full" or switches.old_nodes(platform) == "readable"
    return float("inf") if gives_old else switches.readable_count


def is_listed(inboxes: Inboxes, message: TrueMessage) -> bool:
    """Whether the conversation is in the folder that is listed by default."""
    account = inboxes.world.accounts[message.account]
    return account.conversations[message.conversation_id].folder == ""


def true_direction(inboxes: Inboxes, message: TrueMessage) -> str:
    account = inboxes.world.accounts[message.account]
    conversation = account.conversations[message.conversation_id]
    [payload] = [
        each.payload for each in conversation.messages if each.message_id == message.message_id
    ]
    return "outbound" if payload["from"] == account.person() else "inbound"


def check_whole(inboxes: Inboxes, switches: Switches) -> None:
    """Check that every message is one row, and every readable one has content and a direction."""
    reports = inboxes.extract_whole(SINCE)
    stored = {
        (row["account"], row["conversation_id"], row["message_id"]): row
        for row in inboxes.rows("messages")
    }
    assert len(stored) == len(inboxes.rows("messages"))
    platforms = {account.name: account.platform for account in inboxes.settings.accounts}
    truth = [
        message
        for message in inboxes.world.truth(keep_unsent=switches.unsent_rows == "kept")
        if message.created_at.date() >= SINCE and message.is_visible and is_listed(inboxes, message)
    ]
    assert truth
    for message in truth:
        to_id = hostile if switches.id_alphabet == "hostile" else str
        row = stored.pop(
            (message.account, to_id(message.conversation_id), to_id(message.message_id))
        )
        is_readable = not message.is_unsent and message.rank <= readable_rank(
            switches, platforms[message.account]
        )
        assert (row["detail_status"] == "detailed") == is_readable, (message, row["detail_status"])
        assert row["created_at"].replace(microsecond=0) == message.created_at.replace(microsecond=0)  # type: ignore[attr-defined]
        if is_readable and row["content_type"] != "empty":
            assert row["direction"] == true_direction(inboxes, message), row
    assert stored == {}
    assert [report.counts["rejected"] for report in reports] == [0, 0]


@pytest.mark.parametrize("switches", covering_switches(), ids=difference)
def test_the_main_job_passes_with_every_pair_of_shapes(tmp_path: Path, switches: Switches) -> None:
    with serve(tmp_path, default_world(VirtualClock(NOON)), switches, start=SINCE) as inboxes:
        check_whole(inboxes, switches)


@pytest.mark.hunt
@pytest.mark.timeout(3600 * 6)
def test_the_main_job_passes_with_random_shapes(tmp_path: Path, long_run: bool) -> None:
    for number in range(LONG_ROUNDS if long_run else ROUNDS):
        switches = random_switches(random.Random(number))
        with serve(
            tmp_path / str(number),
            default_world(VirtualClock(NOON), seed=number),
            switches,
            start=SINCE,
        ) as inboxes:
            try:
                check_whole(inboxes, switches)
            except AssertionError:
                print(f"round {number}: {difference(switches)}")
                raise
