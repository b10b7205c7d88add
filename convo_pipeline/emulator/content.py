"""Generate inboxes from a seed: the same seed and time always give the same history.

Each UTC day starts some conversations. The seed, the account and the day decide all their
messages. Texts, names and media are made when a message is first read.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType

from faker import Faker

from convo_pipeline.emulator import phrases
from convo_pipeline.emulator.clock import MICROSECONDS, VirtualClock
from convo_pipeline.emulator.media import INSTAGRAM_KINDS, MESSENGER_KINDS, dress
from convo_pipeline.emulator.world import (
    EMULATOR_TOKEN,
    Account,
    Conversation,
    Message,
    Payload,
    World,
    stable_number,
)

DAY_US = 86_400 * MICROSECONDS
HISTORY_DAYS = 90
SPAN_DAYS = 28
"""Longest time between the first and the last message of a conversation."""
LENGTHS: tuple[tuple[int, int, int], ...] = ((55, 1, 7), (28, 8, 15), (12, 21, 38), (5, 62, 84))
"""Number of messages of a conversation as (weight, least, most)."""
BIRTHS_PER_WEEKDAY = (6, 6, 5, 6, 7, 7, 4)
SCENES: Mapping[str, Mapping[str, phrases.Scenes]] = MappingProxyType(
    {"instagram": phrases.BAKERY, "messenger": phrases.BIKES}
)


@dataclass(frozen=True)
class PlannedMessage:
    """One planned message."""

    offset_us: int
    is_ours: bool
    kind: str


def default_world(
    clock: VirtualClock | None = None,
    seed: int = 7,
    history_days: int = HISTORY_DAYS,
    app_secret: str | None = None,
) -> World:
    """Return two invented businesses with `history_days` of messages; new ones come with time."""
    world = World(clock, seed)
    for name, page_id, platform, title, username in (
        (
            "bakery-instagram",
            "1234567890",
            "instagram",
            "Bäckerei Sauerteig",
            "baeckerei.sauerteig",
        ),
        ("bikes-messenger", "9876543210", "messenger", "Kettenwerk Fahrräder", "kettenwerk"),
    ):
        world.add_account(
            name,
            page_id,
            platform,
            title=title,
            username=username,
            app_secret=app_secret,
            tokens=(EMULATOR_TOKEN,),
        )
    fill(world, history_days)
    return world


def fill(world: World, history_days: int = HISTORY_DAYS) -> None:
    """Give every account of a world a generated inbox that grows with the clock."""
    today = world.clock.now_us() // DAY_US
    for account in world.accounts.values():
        account.grow = partial(grow, since_us=(today - history_days) * DAY_US)
        account.grown_until_day = today - history_days - SPAN_DAYS
    with world.lock:
        world.refresh()


def grow(account: Account, first_day: int, last_day: int, *, since_us: int = 0) -> None:
    """Add the conversations that start on the days `first_day` to `last_day` (since 1970)."""
    for day in range(first_day, last_day + 1):
        rng = random.Random(f"{account.world.seed}:{account.page_id}:{account.platform}:{day}")
        births = max(1, BIRTHS_PER_WEEKDAY[(day + 3) % 7] + rng.choice((-1, 0, 0, 1)))
        for number in range(births):
            _add_conversation(account, day, number, rng, since_us)


def _add_conversation(
    account: Account, day: int, number: int, rng: random.Random, since_us: int
) -> None:
    """Add one conversation with all its messages, also future ones."""
    thread = day * 100 + number
    key = f"{account.world.seed}:{account.page_id}:{account.platform}:{thread}"
    language = rng.choices(list(phrases.WEIGHTS), list(phrases.WEIGHTS.values()))[0]
    start_us = (
        day * DAY_US
        + round(rng.triangular(5.5, 22.5, 13) * 3600) * MICROSECONDS
        + rng.randrange(1000) * 1000
    )
    lines = _plan(rng, _rare_kinds(account.platform, day, number))
    conversation = Conversation(
        account,
        account.conversation_id(thread),
        thread,
        folder=_folder(account.platform, rng),
        make_people=partial(_people, account, key, language),
        is_request=rng.random() < 0.04,
        is_hidden=rng.random() < 0.02,
    )
    for position, line in enumerate(lines):
        created_us = start_us + line.offset_us
        if created_us < since_us:
            continue
        message_id = account.message_id(thread, created_us)
        message = Message(conversation, message_id, created_us)
        message.make = partial(_make_payload, message, key, language, position, line)
        if line.kind == "unsent":
            message.unsent_us = created_us + rng.randrange(5, 900) * MICROSECONDS
        conversation.append(message)
    if conversation.messages:
        account.conversations[conversation.conversation_id] = conversation


def _plan(rng: random.Random, rare: Sequence[str]) -> list[PlannedMessage]:
    """Plan the messages of a conversation: time, sender and kind."""
    _, fewest, most = rng.choices(LENGTHS, [weight for weight, _, _ in LENGTHS])[0]
    count = rng.randint(fewest, most)
    is_answered, is_automatic = rng.random() > 0.12, rng.random() < 0.2
    if not is_answered:
        count = min(count, 3)
    lines = [PlannedMessage(0, False, rare[0] if rare else "text")]
    offset_us, is_ours = 0, False
    if is_automatic:
        offset_us += rng.choice((0, 1)) * MICROSECONDS + rng.randrange(1, 990) * 1000
        lines.append(PlannedMessage(offset_us, True, "automatic"))
    while len(lines) < count:
        was_ours, is_ours = is_ours, is_answered and rng.random() < (0.75 if not is_ours else 0.3)
        offset_us += _gap_us(rng, was_ours, is_ours, count)
        kind = rare[len(lines)] if len(lines) < len(rare) else _kind(rng)
        lines.append(PlannedMessage(offset_us, is_ours, kind))
    return [line for line in lines if line.offset_us < SPAN_DAYS * DAY_US]


def _gap_us(rng: random.Random, was_ours: bool, is_ours: bool, count: int) -> int:
    """Draw the pause before the next message: seconds, minutes, hours, and sometimes days."""
    if was_ours == is_ours:
        seconds = rng.uniform(0.3, 60)
    elif is_ours:
        seconds = min(rng.lognormvariate(6.2, 1.3), 30_000)
    else:
        seconds = min(rng.lognormvariate(5.4, 1.6), 40_000)
    if rng.random() < (0.06 if count < 40 else 0.12):
        seconds += rng.uniform(0.6, 2.5) * 86_400
    return round(seconds * 1000) * 1000


def _kind(rng: random.Random) -> str:
    draw = rng.random()
    for limit, kind in (
        (0.035, "image"),
        (0.05, "reply_to"),
        (0.08, "reacted"),
        (0.09, "edited"),
        (0.105, "oddity"),
    ):
        if draw < limit:
            return kind
    return "text"


def _rare_kinds(platform: str, day: int, number: int) -> list[str]:
    """Return rare kinds of messages; each kind occurs in every week."""
    kinds = INSTAGRAM_KINDS if platform == "instagram" else MESSENGER_KINDS
    if number > 2:
        return []
    return [kinds[(day * 3 + number) % len(kinds)]]


def _folder(platform: str, rng: random.Random) -> str:
    draw = rng.random()
    if platform == "instagram" or draw > 0.06:
        return ""
    return "page_done" if draw > 0.03 else "other" if draw > 0.01 else "spam"


@cache
def _faker(language: str) -> Faker:
    return Faker(phrases.LOCALES[language])


def _people(account: Account, key: str, language: str) -> list[Payload]:
    fake = _faker(language)
    fake.seed_instance(key)
    customer_id = str(stable_number(key, 16 if account.platform == "instagram" else 17))
    if account.platform == "instagram":
        return [{"username": f"{fake.user_name()}{customer_id[-2:]}", "id": customer_id}]
    names = (
        (fake.last_name(), fake.first_name())
        if language == "ja"
        else (fake.first_name(), fake.last_name())
    )
    return [account.describe_customer(" ".join(names), customer_id)]


def _make_payload(
    message: Message, key: str, language: str, position: int, line: PlannedMessage
) -> Payload:
    """Return the payload of one planned message."""
    conversation = message.conversation
    rng = random.Random(f"{key}:{position}")
    us, customer = conversation.account.person(), conversation.people[0]
    sender, receiver = (us, customer) if line.is_ours else (customer, us)
    payload: Payload = {
        "from": dict(sender),
        "to": [dict(receiver)],
        "message": _say(rng, conversation, language, position, line),
    }
    if conversation.account.platform == "messenger":
        payload["tags"] = ["inbox", "read", "sent" if line.is_ours else "source:chat"]
        if line.is_ours:
            payload["tags"].append("source:web")
    return dress(payload, line.kind, message, rng, line.is_ours)


def _say(
    rng: random.Random,
    conversation: Conversation,
    language: str,
    position: int,
    line: PlannedMessage,
) -> str:
    scenes = SCENES[conversation.account.platform][language]
    if line.kind == "automatic":
        return phrases.AUTOMATIC[language]
    if line.kind == "oddity":
        return rng.choice(phrases.ODDITIES)
    if line.is_ours and position % 4 == 1:
        return _scene(scenes, conversation, position // 4)[1]
    if line.is_ours:
        return rng.choice(phrases.CHATTER_OF_OURS[language])
    if position % 4 == 0:
        return _scene(scenes, conversation, position // 4)[0]
    return rng.choice(
        (phrases.THANKS if position % 4 == 3 else phrases.CHATTER_OF_CUSTOMERS)[language]
    )


def _scene(scenes: phrases.Scenes, conversation: Conversation, number: int) -> tuple[str, str]:
    return scenes[(conversation.thread + number) % len(scenes)]
