"""The generated world: stable, of realistic size, and growing with the clock."""

import ast
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline import emulator
from convo_pipeline.emulator.clock import VirtualClock, to_us
from convo_pipeline.emulator.content import default_world
from convo_pipeline.emulator.world import World

START = datetime(2026, 2, 19, 12, tzinfo=UTC)


def texts(
    world: World, since: datetime, until: datetime
) -> dict[str, tuple[str, datetime, object]]:
    return {
        message.message_id: (conversation.conversation_id, message.created_at, message.payload)
        for account in world.accounts.values()
        for conversation in account.conversations.values()
        for message in conversation.messages
        if since <= message.created_at < until
    }


def test_same_time_has_the_same_messages() -> None:
    early = default_world(VirtualClock(START), history_days=30)
    late = default_world(VirtualClock(START + timedelta(days=3)), history_days=30)
    window = (START - timedelta(days=7), START - timedelta(days=1))
    assert texts(early, *window) == texts(late, *window)


def test_advanced_world_equals_one_started_later() -> None:
    grown = default_world(VirtualClock(START), history_days=10)
    grown.clock.advance(3 * 86_400)
    grown.refresh()
    late = default_world(VirtualClock(START + timedelta(days=3)), history_days=13)
    window = (START - timedelta(days=9), START + timedelta(days=3))
    assert texts(grown, *window) == texts(late, *window)
    assert set(grown.truth()) == set(late.truth())


def test_other_seed_gives_another_world() -> None:
    window = (START - timedelta(days=2), START)
    one, two = (default_world(VirtualClock(START), seed, history_days=5) for seed in (1, 2))
    assert not texts(one, *window).keys() & texts(two, *window).keys()


@pytest.mark.parametrize("week", range(4))
def test_week_has_about_50_conversations_and_500_messages_per_account(
    week: int,
) -> None:
    now = START - timedelta(weeks=week)
    world = default_world(VirtualClock(now), history_days=60)
    recent = [true for true in world.truth() if true.created_at >= now - timedelta(days=7)]
    for account in world.accounts:
        conversations = Counter(true.conversation_id for true in recent if true.account == account)
        assert 35 <= len(conversations) <= 70
        assert 330 <= conversations.total() <= 750


def test_some_conversations_have_more_than_60_messages() -> None:
    world = default_world(VirtualClock(START))
    for account in world.accounts:
        depths = Counter(
            true.conversation_id for true in world.truth() if true.account == account
        ).values()
        assert sum(depth > 20 for depth in depths) > 20
        assert sum(depth > 60 for depth in depths) > 3
        assert sum(depth <= 7 for depth in depths) > 100


def test_default_world_makes_no_payload_in_advance() -> None:
    """Texts, names and media take most of the time, so they are made when they are read."""
    world = default_world(VirtualClock(START))
    messages = [
        message
        for account in world.accounts.values()
        for conversation in account.conversations.values()
        for message in conversation.messages
    ]
    assert messages
    assert all(message.made_payload is None for message in messages)


def test_truth_ranks_messages_and_marks_readable_ones() -> None:
    world = World(VirtualClock(START))
    conversation = world.add_account("shop", "1", "instagram").add_conversation()
    conversation.add_messages(22, START - timedelta(hours=1))
    conversation.add_message("from tomorrow", START + timedelta(days=1))
    conversation.messages[20].unsend()
    truth = list(world.truth(keep_unsent=True))
    assert [true.rank for true in world.truth() if not true.is_readable] == [21]
    assert [true.rank for true in truth] == list(range(1, 23))
    assert [true.rank for true in truth if not true.is_readable] == [2, 21, 22]
    world.clock.advance(86_400)
    assert [true.rank for true in world.truth(keep_unsent=True)] == list(range(1, 24))


def test_messages_of_one_microsecond_have_different_ids() -> None:
    world = World(VirtualClock(START))
    for platform in ("instagram", "messenger"):
        conversation = world.add_account(platform, "1", platform).add_conversation()
        assert len({conversation.add_message("twin").message_id for _ in range(3)}) == 3


def test_emulator_shares_no_code_with_the_client() -> None:
    for file in Path(emulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "convo_pipeline"
            ):
                assert (node.module or "").startswith("convo_pipeline.emulator")
            elif isinstance(node, ast.Import):
                assert not [
                    each.name for each in node.names if each.name.startswith("convo_pipeline")
                ]


def test_running_clock_follows_the_machine_and_can_be_moved() -> None:
    clock = VirtualClock()
    assert abs(clock.now_us() - time.time_ns() // 1000) < 1_000_000
    clock.set(START)
    assert 0 <= clock.now_us() - to_us(START) < 1_000_000
    clock.advance(-60)
    assert clock.now() < START
