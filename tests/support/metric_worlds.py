"""Invented inboxes for tests of metrics, and the right metrics, computed message by message.

This oracle shares no code with the package: it loops over plain rows.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.schema import MESSAGES, RUNS
from convo_pipeline.tables.complete_range import CompleteRange

LONG_TEXT = "Thank you for your message, we will be back tomorrow."
TEXTS = ("", "ok", "short answer", LONG_TEXT, LONG_TEXT + "!", None)
STEPS_SECONDS = (0, 1, 3, 5, 6, 40, 600, 3599, 3600, 8000, 40_000, 86_399, 86_400, 90_000, 250_000)


@dataclass(frozen=True)
class Message:
    """One message of a world."""

    account: str
    conversation_id: str
    message_id: str
    created_at: datetime
    direction: str | None
    text: str | None = None
    order_in_second: int = 0
    content_type: str = "text"
    reaction_count: int | None = 0
    has_own_reaction: bool | None = False
    deleted_at: datetime | None = None

    @property
    def order(self) -> tuple[datetime, int, str]:
        return (self.created_at, self.order_in_second, self.message_id)


def row(message: Message) -> dict[str, object]:
    """The message as a row of `messages`."""
    return {
        "conversation_id": message.conversation_id,
        "message_id": message.message_id,
        "created_at": message.created_at,
        "order_in_second": message.order_in_second,
        "direction": message.direction,
        "text": message.text,
        "content_type": message.content_type,
        "reaction_count": message.reaction_count,
        "has_own_reaction": message.has_own_reaction,
        "deleted_at": message.deleted_at,
        "detail_status": "detailed" if message.direction else "beyond_20",
        "first_seen_at": message.created_at,
        "changed_at": message.created_at,
    }


def as_table(messages: Iterable[Message]) -> pa.Table:
    """Return the messages as one table, in the order of the files: by date, then by key."""
    in_order = sorted(
        messages, key=lambda each: (each.created_at.date(), each.conversation_id, each.message_id)
    )
    return pa.Table.from_pylist([row(message) for message in in_order], schema=MESSAGES.schema)


LONG_AFTER = datetime(2027, 1, 1, tzinfo=UTC)


def write_world(
    root: Path,
    messages: Iterable[Message],
    promised: Mapping[str, date] | None = None,
    until: datetime = LONG_AFTER,
) -> Path:
    """Write `messages` into a lake, and one complete run for each account; return the root.

    By default all days are promised, from the first with a message on. The run began at `until`.
    """
    partitions: dict[tuple[str, date], list[Message]] = defaultdict(list)
    for message in messages:
        partitions[message.account, message.created_at.date()].append(message)
    for (account, day), found in partitions.items():
        put(root, f"messages/account={account}/date={day}", as_table(found))
    root.mkdir(parents=True, exist_ok=True)
    write_runs(root, first_days(partitions) if promised is None else promised, until=until)
    return root


def first_days(partitions: Iterable[tuple[str, date]]) -> dict[str, date]:
    """Each account's first day."""
    return dict(sorted(partitions, reverse=True))


def write_runs(
    root: Path,
    promised: Mapping[str, date],
    lines: Iterable[Mapping[str, object]] = (),
    until: datetime = LONG_AFTER,
) -> None:
    """Write the ledger: one complete run per account, started at `until`, and these runs."""
    values = {"run_id": "r", "kind": "window", "started_at": until, "outcome": "complete"}
    rows = [{"account": account, "since": day, **values} for account, day in promised.items()]
    put(
        root,
        f"runs/date={until.date()}",
        pa.Table.from_pylist([*rows, *map(dict, lines)], schema=RUNS.schema),
    )


def put(root: Path, folder: str, content: pa.Table) -> None:
    """Write one partition."""
    path = root / folder / "data.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)


def truncated(
    messages: Iterable[Message], since: date, seed: int, share: float = 0.5
) -> list[Message]:
    """Return what a lake holds of a world that is complete from `since` on.

    Of older days it holds a part, and of older messages often only the id.
    """
    world = random.Random(seed)
    held: list[Message] = []
    for thread in threads(messages).values():
        own = list(thread)
        if own[-1].created_at.date() < since:
            continue
        came_along = world.randrange(3)
        older = [message for message in own if message.created_at.date() < since]
        held += older[len(older) - came_along :] if came_along else []
        newer = own[len(older) :]
        is_whole = world.random() >= share
        unread = 0 if is_whole else world.randrange(len(newer) + 1)
        stray = 0 if is_whole else world.choice((0, 0.2))
        for index, message in enumerate(newer):
            is_unread = index < unread or world.random() < stray
            held.append(
                replace(
                    message,
                    direction=None,
                    text=None,
                    reaction_count=None,
                    has_own_reaction=None,
                )
                if is_unread
                else message
            )
    return held


def broken_off(
    messages: Iterable[Message], until: datetime, seed: int
) -> tuple[list[Message], list[Message]]:
    """Return the rows after a complete run at `until` and several runs that ended early later.

    Those read nothing of some conversations, and of others the newest messages or two parts.
    """
    world = random.Random(seed)
    held: list[Message] = []
    seen: list[Message] = []
    for own in threads(messages).values():
        later = sum(message.created_at > until for message in own)
        known, new = own[: len(own) - later], own[len(own) - later :]
        brought = set(range(later)[later - world.randrange(later + 1) :])
        if world.random() < 0.3:
            brought = {index for index in brought if index > later - 3 or index % 3 == 0}
        held += [*known, *(message for index, message in enumerate(new) if index in brought)]
        seen += [*known, *(new if brought else [])]
    return held, seen


def random_world(
    seed: int,
    conversations: int,
    since: datetime,
    span: timedelta,
    accounts: int = 2,
    *,
    is_known: bool = False,
) -> list[Message]:
    """Bursts and long silences; unless `is_known`, also equal seconds and unknown senders."""
    world = random.Random(seed)
    messages: list[Message] = []
    for number in range(conversations):
        moment = since + timedelta(seconds=world.randrange(int(span.total_seconds())))
        share_unknown = 0 if is_known else world.choice((0, 0, 0.1, 0.5))
        for index in range(world.randint(1, 14)):
            moment += timedelta(
                seconds=world.choice(STEPS_SECONDS[1:] if is_known else STEPS_SECONDS)
            )
            if moment >= since + span:
                break
            direction = (
                None
                if world.random() < share_unknown
                else world.choice(("inbound", "inbound", "outbound"))
            )
            messages.append(
                Message(
                    f"account-{number % accounts}",
                    f"t_{number // accounts}",
                    f"m_{number}_{world.randrange(10**6)}_{index}",
                    moment,
                    direction,
                    f"{number} {index}" if is_known else world.choice(TEXTS) if direction else None,
                    order_in_second=index,
                    content_type=world.choice(
                        ("text", "image", "story_reply", "share", "unsupported")
                    ),
                    reaction_count=world.choice((0, 0, 1)) if direction else None,
                    has_own_reaction=world.random() < 0.1 if direction else None,
                    deleted_at=moment + timedelta(days=1) if world.random() < 0.05 else None,
                )
            )
    world.shuffle(messages)
    return messages


def threads(messages: Iterable[Message]) -> dict[tuple[str, str], list[Message]]:
    """Each conversation's messages, oldest first."""
    found: dict[tuple[str, str], list[Message]] = defaultdict(list)
    for message in sorted(messages, key=lambda message: message.order):
        found[message.account, message.conversation_id].append(message)
    return found


@dataclass(frozen=True)
class Detection:
    """Settings that decide which replies count as automated."""

    quick: timedelta = timedelta(seconds=5)
    presence: timedelta = timedelta(minutes=60)


@dataclass
class Step:
    """A message in its place."""

    message: Message
    session: int
    turn: int | None = None
    reason: str | None = None
    is_unsure: bool = False
    follows_unknown: bool = False
    precedes_unknown: bool = False

    @property
    def kind(self) -> str:
        if self.message.direction is None:
            return "unknown"
        if self.message.direction == "inbound":
            return "inbound"
        if self.is_unsure:
            return "unsure"
        return "automated" if self.reason else "human"


def steps(thread: list[Message], gap: timedelta, detection: Detection = Detection()) -> list[Step]:
    """Number the sessions and turns of a conversation and judge our messages.

    Unsent messages are left out.
    """
    found: list[Step] = []
    thread = [message for message in thread if message.deleted_at is None]
    session = turn = 0
    for index, message in enumerate(thread):
        before = thread[index - 1] if index else None
        after = thread[index + 1] if index + 1 < len(thread) else None
        is_new = before is None or message.created_at - before.created_at >= gap
        session += is_new
        step = Step(message, session)
        step.follows_unknown = not is_new and before is not None and before.direction is None
        step.precedes_unknown = (
            after is not None
            and after.direction is None
            and after.created_at - message.created_at < gap
        )
        if message.direction == "inbound":
            if is_new or before is None or before.direction != "inbound":
                turn += 1
            step.turn = turn
        if message.direction == "outbound":
            verdict = judge(found, message, detection)
            step.reason = "quick_reply" if verdict == "automated" else None
            step.is_unsure = verdict == "unsure"
        found.append(step)
    return found


def judge(before: list[Step], ours: Message, detection: Detection) -> str:
    """Return `human`, `automated` or `unsure` for a message of ours.

    `before` are the earlier messages of the conversation.
    """

    def is_near(step: Step, limit: timedelta) -> bool:
        return ours.created_at - step.message.created_at <= limit

    not_ours = [step for step in before if step.message.direction != "outbound"]
    if not detection.quick or not any(is_near(step, detection.quick) for step in not_ours):
        return "human"
    people = [
        step for step in before if step.kind != "inbound" and is_calm(before, step, detection)
    ]
    if any(is_near(step, detection.presence) for step in people):
        return "human"
    unread = [step for step in before if step.message.direction is None]
    if any(is_near(step, detection.presence + detection.quick) for step in unread):
        return "unsure"
    stretch: list[Step] = []
    for step in reversed(before):
        if step.message.direction == "inbound":
            stretch = stretch_of(before, step)
            break
    is_reply_to_turn = bool(stretch) and is_near(stretch[0], detection.quick)
    return "automated" if is_reply_to_turn else "unsure"


def is_calm(before: list[Step], step: Step, detection: Detection) -> bool:
    """Whether a message of ours did not come within seconds of another message."""
    if step.message.direction != "outbound":
        return False
    earlier = before[: before.index(step)]
    return not any(
        each.message.direction != "outbound"
        and step.message.created_at - each.message.created_at <= detection.quick
        for each in earlier
    )


def stretch_of(before: list[Step], last: Step) -> list[Step]:
    """Return the messages that are not ours, in one session, up to `last`."""
    stretch = [last]
    for step in reversed(before[: before.index(last)]):
        if step.message.direction == "outbound" or step.session != stretch[0].session:
            break
        stretch.insert(0, step)
    return stretch


def state_before(thread: list[Step], index: int) -> str:
    """Return who has the last word before a message: `waiting`, `settled`, `unsure` or `none`."""
    oldest = midnight(thread[index].message.created_at.date()) - timedelta(days=28)
    words = [step for step in thread[:index] if step.kind != "automated"]
    if not words or words[-1].message.created_at < oldest:
        return "none"
    last = words[-1]
    if last.kind == "inbound":
        return "settled" if last.message.has_own_reaction else "waiting"
    return "settled" if last.kind == "human" else "unsure"


def is_acknowledged(after: Iterable[Step], replies: tuple[str, ...]) -> bool:
    """Whether we reacted to a message of the customer before the first reply of these kinds."""
    for step in after:
        if step.kind in replies:
            return False
        if step.kind == "inbound" and step.message.has_own_reaction:
            return True
    return False


def next_answer(after: list[Step], kinds: tuple[str, ...]) -> tuple[str, Step | None]:
    """What follows first: a reply (`known`), an unknown direction (`unknown`) or `none`."""
    for step in after:
        if step.kind in kinds:
            return "known", step
        if step.kind in ("unknown", "unsure"):
            return "unknown", None
    return "none", None


def seconds_between(since: datetime, until: datetime | None) -> float | None:
    return None if until is None else (until - since).total_seconds()


@dataclass(frozen=True)
class Hours:
    """Time zone and business hours of an account: whole hours on some weekdays."""

    zone: str = "UTC"
    opens: int = 9
    closes: int = 18
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4)
    days: str = "Mon-Fri"


def business_seconds(since: datetime, until: datetime | None, hours: Hours) -> float | None:
    """Sum the open seconds of each local day, as they elapse."""
    if until is None:
        return None
    zone = ZoneInfo(hours.zone)
    total, day = 0.0, since.astimezone(zone).date()
    while day <= until.astimezone(zone).date():
        opening, closing = (instant(day, hour, zone) for hour in (hours.opens, hours.closes))
        if day.weekday() in hours.weekdays:
            total += max(0.0, (min(until, closing) - max(since, opening)).total_seconds())
        day += timedelta(days=1)
    return total


def instant(day: date, hour: int, zone: ZoneInfo) -> datetime:
    """Return the time at which the clock of a zone shows an hour of a day, the last if twice."""
    wall = datetime.combine(day, datetime.min.time()) + timedelta(hours=hour)
    return wall.replace(tzinfo=zone, fold=1).astimezone(UTC)


def is_open(moment: datetime, hours: Hours | None) -> bool | None:
    if hours is None:
        return None
    wall = moment.astimezone(ZoneInfo(hours.zone))
    return wall.weekday() in hours.weekdays and hours.opens <= wall.hour < hours.closes


def local(moment: datetime | None, hours: Hours | None) -> datetime | None:
    """Return the time on the account's clock."""
    if hours is None or moment is None:
        return None
    return moment.astimezone(ZoneInfo(hours.zone)).replace(tzinfo=None)


@dataclass
class World:
    """A world in order; `promised` is the first complete day of each account, `until` the start of
    the last complete run."""

    messages: list[Message]
    gap: timedelta = timedelta(hours=24)
    promised: Mapping[str, date] | None = None
    until: datetime = LONG_AFTER
    threads: dict[tuple[str, str], list[Step]] = field(init=False)
    known_from: dict[str, datetime] = field(init=False)

    def __post_init__(self) -> None:
        found = {key: steps(thread, self.gap) for key, thread in threads(self.messages).items()}
        self.threads = {key: thread for key, thread in found.items() if thread}
        held = first_days((message.account, message.created_at.date()) for message in self.messages)
        promised = held if self.promised is None else self.promised
        self.known_from = {
            account: datetime.combine(max(day, held[account]), datetime.min.time(), UTC) + self.gap
            for account, day in promised.items()
            if account in held
        }

    def is_known(self, account: str, moment: datetime) -> bool:
        """Whether what began then cannot have begun before the promised days."""
        return account in self.known_from and moment >= self.known_from[account]

    def is_begin_known(self, account: str, began: datetime, asked: datetime) -> bool:
        """Whether a session was asked on a complete day and cannot have begun before these."""
        if account not in self.known_from:
            return False
        known_from, day = self.known_from[account], midnight(asked.date())
        return day >= known_from - self.gap and not (began < known_from <= day)

    def may_lack(self, thread: list[Step], ended: datetime, answered: datetime | None) -> bool:
        """Whether messages may be missing before the reply, or before any later message."""
        latest = answered or thread[-1].message.created_at
        return max(ended, latest) > self.until


def response_turns(world: World, hours: dict[str, Hours]) -> list[dict[str, object]]:
    """Every inbound run and what answered it."""
    found = []
    for (account, conversation_id), thread in world.threads.items():
        for turn in range(1, max((step.turn or 0 for step in thread), default=0) + 1):
            run = [index for index, step in enumerate(thread) if step.turn == turn]
            first, after = thread[run[0]], thread[run[-1] + 1 :]
            began = first.message.created_at
            _, any_answer = next_answer(after, ("human", "automated", "unsure"))
            human_status, human = next_answer(
                [step for step in after if step.kind != "automated"], ("human",)
            )
            answered_at = any_answer.message.created_at if any_answer else None
            human_at = human.message.created_at if human else None
            clock = hours.get(account)
            began_local = local(began, clock)
            found.append(
                {
                    "account": account,
                    "date": began.date(),
                    "conversation_id": conversation_id,
                    "turn_number": turn,
                    "session_number": first.session,
                    "started_at": began,
                    "started_at_local": local(began, clock),
                    "local_date": began_local.date() if began_local else None,
                    "is_in_business_hours": is_open(began, clock),
                    "ended_at": thread[run[-1]].message.created_at,
                    "inbound_count": len(run),
                    "is_acknowledged": is_acknowledged(thread[run[-1] :], ("human",)),
                    "is_answered": {"known": True, "none": False, "unknown": None}[human_status],
                    "response_at": answered_at,
                    "response_message_id": any_answer.message.message_id if any_answer else None,
                    "response_seconds": seconds_between(began, answered_at),
                    "response_business_seconds": business_seconds(began, answered_at, clock)
                    if clock
                    else None,
                    "is_likely_automated": any_answer.kind == "automated"
                    if any_answer and not any_answer.is_unsure
                    else None,
                    "automated_reason": any_answer.reason if any_answer else None,
                    "human_response_at": human_at,
                    "human_response_seconds": seconds_between(began, human_at),
                    "human_response_business_seconds": business_seconds(began, human_at, clock)
                    if clock
                    else None,
                    "is_lower_bound": first.follows_unknown
                    or thread[run[-1]].precedes_unknown
                    or not world.is_known(account, began)
                    or world.may_lack(thread, thread[run[-1]].message.created_at, human_at),
                }
            )
    return found


def sessions(world: World, hours: dict[str, Hours]) -> list[dict[str, object]]:
    """Every stretch of a conversation without a long silence."""
    found = []
    for (account, conversation_id), thread in world.threads.items():
        for number in range(1, thread[-1].session + 1):
            inside = [index for index, step in enumerate(thread) if step.session == number]
            found.append(
                one_session(world, account, conversation_id, thread, inside, hours.get(account))
            )
    return found


def one_session(
    world: World,
    account: str,
    conversation_id: str,
    thread: list[Step],
    inside: list[int],
    clock: Hours | None,
) -> dict[str, object]:
    own = [thread[index] for index in inside]
    kinds = Counter(step.kind for step in own)
    inbound = [index for index in inside if thread[index].kind == "inbound"]
    spoken = [step for step in own if step.kind != "automated"]
    began, ended = own[0].message.created_at, own[-1].message.created_at
    first_inbound_at = response_at = unanswered_since = is_unanswered = one_touch = resolution = (
        None
    )
    is_nudge: bool | None = None
    is_answered: bool | None = None
    has_acknowledged: bool | None = None
    is_measured, response = False, Response(False, None)
    may_lack = ended + world.gap > world.until
    if inbound:
        first_inbound_at = thread[inbound[0]].message.created_at
        human_after = [step for step in thread[inbound[0] + 1 :] if step.kind != "automated"]
        first_status, answer = next_answer(human_after, ("human",))
        unsure = any(thread[index].kind == "unknown" for index in inside if index < inbound[0])
        before = state_before(thread, inbound[0])
        oldest = midnight(began.date()) - timedelta(days=28)
        is_long_known = account in world.known_from and (
            world.known_from[account] - world.gap <= oldest
        )
        if before == "waiting":
            is_nudge = True
        elif not unsure and (before == "settled" or (before == "none" and is_long_known)):
            is_nudge = False
        if not unsure and before in ("settled", "none"):
            is_answered = {"known": True, "none": False, "unknown": None}[first_status]
        if answer and not unsure and before != "waiting":
            response_at = answer.message.created_at
        has_acknowledged = is_acknowledged(thread[inbound[0] :], ("human",))
        limit = midnight(first_inbound_at.date()) + timedelta(days=8)
        in_time = [step for step in thread[inbound[0] :] if step.message.created_at < limit]
        response = respond(thread[inbound[0]], in_time[1:], limit, False)
        is_only_acknowledged = response.seconds is None and is_acknowledged(
            in_time, ("human", "unsure", "unknown")
        )
        is_measured = (
            before in ("settled", "none")
            and not unsure
            and response.is_measured
            and not is_only_acknowledged
            and world.is_begin_known(account, began, first_inbound_at)
        )
        last = [step for step in thread[inbound[-1] + 1 :] if step.kind != "automated"]
        status, last_answer = next_answer(last, ("human",))
        acknowledged = [index for index in inbound if thread[index].message.has_own_reaction]
        later = [step for step in thread[inbound[0] + 1 :] if step.kind != "automated"]
        first_status = next_answer(later, ("human",))[0]
        if status == "none":
            is_settled = is_acknowledged(thread[inbound[-1] :], ("human",))
            is_old = before == "waiting" and first_status == "none" and not acknowledged
            is_unanswered = not is_settled and not is_old
        elif status == "known":
            is_unanswered = False
        may_lack |= world.may_lack(thread, ended, last_answer and last_answer.message.created_at)
        if is_unanswered:
            for index in reversed(range(inbound[-1] + 1)):
                if index not in inside or thread[index].kind in ("human", "unknown", "unsure"):
                    break
                if thread[index].kind == "inbound":
                    if thread[index].message.has_own_reaction:
                        break
                    unanswered_since = thread[index].message.created_at
        if not kinds["unknown"]:
            replies = [
                index for index in inside if index > inbound[0] and thread[index].kind == "human"
            ]
            is_closed = spoken[-1].kind == "human"
            one_touch = is_closed and len(replies) == 1
            resolution = (
                seconds_between(first_inbound_at, thread[replies[-1]].message.created_at)
                if is_closed
                else None
            )
    asked = local(first_inbound_at, clock)
    return {
        "account": account,
        "date": began.date(),
        "conversation_id": conversation_id,
        "session_number": own[0].session,
        "started_at": began,
        "started_at_local": local(began, clock),
        "ended_at": ended,
        "opener": own[0].message.direction,
        "message_count": len(own),
        "inbound_count": len(inbound),
        "outbound_count": kinds["human"] + kinds["automated"] + kinds["unsure"],
        "automated_count": kinds["automated"],
        "unknown_count": kinds["unknown"],
        "turn_count": len({step.turn for step in own if step.turn}),
        "is_nudge": is_nudge,
        "is_answered": is_answered,
        "is_acknowledged": has_acknowledged,
        "is_measured": is_measured,
        "is_answered_in_time": response.seconds is not None if is_measured else None,
        "local_date": asked.date() if asked else None,
        "is_in_business_hours": is_open(first_inbound_at, clock) if first_inbound_at else None,
        "first_inbound_at": first_inbound_at,
        "first_response_at": response_at,
        "first_response_seconds": seconds_between(first_inbound_at, response_at)
        if first_inbound_at
        else None,
        "first_response_business_seconds": business_seconds(first_inbound_at, response_at, clock)
        if first_inbound_at and clock
        else None,
        "is_one_touch": one_touch,
        "resolution_gap_seconds": resolution,
        "is_unanswered": is_unanswered,
        "unanswered_since": unanswered_since,
        "is_lower_bound": kinds["unknown"] > 0 or not world.is_known(account, began) or may_lack,
    }


CONTENT_COUNTS = {
    "text_count": {"text"},
    "media_count": {"image", "video", "audio", "file", "sticker"},
    "share_count": {"share"},
    "story_count": {"story_reply", "story_mention"},
}


def account_days(
    messages: list[Message],
    days: Iterable[date],
    complete_range: CompleteRange | None,
    gap: timedelta = timedelta(hours=24),
    hours: Hours | None = None,
) -> dict[date, dict[str, object]]:
    """Return the rows of `account_days` of one account, for the days with a message."""
    found = [steps(thread, gap) for thread in threads(messages).values()]
    dates = {message.created_at.date() for message in messages}
    return {
        day: DayFigures(messages, found, day, complete_range, gap, hours).row()
        for day in days
        if day in dates
    }


@dataclass
class Response:
    """What is known about the response to one question."""

    is_measured: bool
    seconds: float | None
    is_acknowledged: bool = False
    is_in_hours: bool | None = None
    business_seconds: float | None = None


@dataclass
class DayFigures:
    """Counts the figures of one day of one account, one conversation at a time."""

    messages: list[Message]
    threads: list[list[Step]]
    day: date
    complete_range: CompleteRange | None
    gap: timedelta
    hours: Hours | None

    def row(self) -> dict[str, object]:
        complete, until = self.complete_range, datetime.min.replace(tzinfo=UTC)
        age = -1
        if complete is not None:
            age, until = min(28, (self.day - complete.since).days), complete.until
        ended = [
            midnight(self.day) + timedelta(days=1) + wait <= until
            for wait in (timedelta(0), timedelta(hours=1), timedelta(days=1), timedelta(days=7))
        ]
        unread_count = sum(each.direction is None for each in self.messages_of_day())
        unsure = unread_count + self.count("unsure") + self.last_words("unknown", "unsure")
        return {
            **self.volume(),
            "history_days": max(0, age),
            **self.first_responses(age >= 0, age >= 0 and ended[1], age >= 0 and ended[2]),
            "backlog_count": self.last_words("inbound"),
            "backlog_count_max": self.last_words("inbound", "unknown", "unsure"),
            **self.responsiveness(age >= 6 and ended[0]),
            "is_lower_bound": unsure > 0
            or age < 0
            or not ended[0]
            or timedelta(days=age) < self.gap,
            "is_backlog_lower_bound": self.last_words("unknown", "unsure") > 0 or age < 28,
            "is_complete": age >= 0,
            "has_ended": ended[0],
            "is_final": age >= 0 and ended[3],
        }

    def of_day(self, thread: list[Step], day: date | None = None) -> list[Step]:
        return [step for step in thread if step.message.created_at.date() == (day or self.day)]

    def messages_of_day(self) -> list[Message]:
        return [each for each in self.messages if each.created_at.date() == self.day]

    def count(self, kind: str) -> int:
        return sum(step.kind == kind for thread in self.threads for step in self.of_day(thread))

    def volume(self) -> dict[str, object]:
        own = self.messages_of_day()
        directions = Counter(message.direction for message in own)
        customers = [
            thread
            for thread in self.threads
            if any(step.kind == "inbound" for step in self.of_day(thread))
        ]
        new_count = sum(self.is_new(thread) for thread in customers)
        contents = {
            name: sum(message.content_type in types for message in own)
            for name, types in CONTENT_COUNTS.items()
        }
        return {
            "inbound_count": directions["inbound"],
            "outbound_count": directions["outbound"],
            "automated_count": self.count("automated"),
            "unsure_automated_count": self.count("unsure"),
            "unknown_count": directions[None],
            "active_conversation_count": sum(bool(self.of_day(each)) for each in self.threads),
            "active_customer_count": len(customers),
            "new_customer_count": new_count,
            "returning_customer_count": len(customers) - new_count,
            **contents,
            "other_count": len(own) - sum(contents.values()),
            "reaction_count": sum(message.reaction_count or 0 for message in own),
        }

    def is_new(self, thread: list[Step]) -> bool:
        earlier = [step for step in thread if step.message.created_at < midnight(self.day)]
        lookback = midnight(self.day) - timedelta(days=28)
        return not earlier or earlier[-1].message.created_at < lookback

    def last_words(self, *kinds: str) -> int:
        """Count the conversations whose last message that is not automated is of these kinds."""
        end = midnight(self.day) + timedelta(days=1)
        count = 0
        for thread in self.threads:
            spoken = [
                step
                for step in thread
                if step.kind != "automated"
                and end - timedelta(days=29) <= step.message.created_at < end
            ]
            is_waiting = bool(spoken) and not (
                spoken[-1].kind == "inbound" and spoken[-1].message.has_own_reaction
            )
            count += is_waiting and spoken[-1].kind in kinds
        return count

    def first_responses(
        self, has_median: bool, has_share_1h: bool, has_share_24h: bool
    ) -> dict[str, object]:
        responses = [
            response for thread in self.threads for response in self.session_responses(thread)
        ]
        seconds = [each.seconds for each in responses if each.seconds is not None]
        measured = [each for each in responses if each.is_measured]
        acknowledged_count = sum(each.is_acknowledged for each in responses)
        unsure_count = len(responses) - len(measured) - acknowledged_count
        business = [each.business_seconds for each in responses]
        figures: dict[str, object] = {}
        for name, limit, is_known in (
            ("share_answered_1h", 3600, has_share_1h),
            ("share_answered_24h", 86400, has_share_24h),
        ):
            count = sum(wait <= limit for wait in seconds)
            possible_count = len(measured) + unsure_count
            shares = [
                (name, count, len(measured)),
                (f"{name}_min", count, possible_count),
                (f"{name}_max", count + unsure_count, possible_count),
            ]
            figures |= {
                key: part / all_ if is_known and all_ else None for key, part, all_ in shares
            }
        medians = {"": [], "_min": [0.0] * unsure_count, "_max": [691_200.0] * unsure_count}
        name = "median_first_response_seconds"
        figures |= {
            f"{name}{end}": quantile(seconds + more, 0.5) if has_median else None
            for end, more in medians.items()
        }
        return figures | {
            "session_count": len(responses),
            "measured_session_count": len(measured),
            "acknowledged_session_count": acknowledged_count,
            "answered_session_count": len(seconds),
            "p90_first_response_seconds": quantile(seconds, 0.9) if has_median else None,
            "in_hours_session_count": sum(each.is_in_hours is True for each in measured)
            if self.hours
            else None,
            "out_of_hours_session_count": sum(each.is_in_hours is False for each in measured)
            if self.hours
            else None,
            "median_first_response_business_seconds": quantile(
                [each for each in business if each is not None], 0.5
            )
            if has_median
            else None,
        }

    def session_responses(self, thread: list[Step]) -> list[Response]:
        """Return the response to each session in which the customer first wrote on the day.

        Messages of more than 28 days before the day do not count as part of a session.
        """
        lookback = midnight(self.day) - timedelta(days=28)
        found = []
        for index, step in enumerate(thread):
            if step.kind != "inbound" or step.message.created_at.date() != self.day:
                continue
            session = [each for each in thread[:index] if each.session == step.session]
            inside = [each for each in session if each.message.created_at >= lookback]
            before = state_before(thread, index)
            if any(each.kind == "inbound" for each in inside) or before == "waiting":
                continue
            began_at = max(lookback, (session or [step])[0].message.created_at)
            is_unsure = before == "unsure" or any(each.kind == "unknown" for each in inside)
            if self.complete_range is not None:
                known_from = midnight(self.complete_range.since) + self.gap
                is_unsure |= began_at < known_from <= midnight(self.day)
            end = midnight(self.day) + timedelta(days=8)
            response = respond(step, thread[index + 1 :], end, is_unsure)
            found.append(self.with_hours(step, thread[index:], end, response))
        return found

    def with_hours(
        self, question: Step, after: list[Step], end: datetime, response: Response
    ) -> Response:
        """Add to the response to a session whether we reacted instead, and its business time."""
        asked_at = question.message.created_at
        in_time = [step for step in after if step.message.created_at < end]
        has_reaction = is_acknowledged(in_time, ("human", "unsure", "unknown"))
        if response.is_measured and response.seconds is None and has_reaction:
            return Response(False, None, is_acknowledged=True)
        is_in_hours = is_open(asked_at, self.hours)
        business = None
        if is_in_hours and self.hours and response.seconds is not None:
            answered_at = asked_at + timedelta(seconds=response.seconds)
            business = business_seconds(asked_at, answered_at, self.hours)
        return replace(response, is_in_hours=is_in_hours, business_seconds=business)

    def day_responses(self, thread: list[Step], day: date) -> list[Response]:
        """Return the response to the customer's first message of a day, if there is one."""
        for index, step in enumerate(thread):
            if step.kind == "inbound" and step.message.created_at.date() == day:
                earlier = self.of_day(thread[:index], day)
                is_unsure = any(each.kind == "unknown" for each in earlier)
                end = midnight(day) + timedelta(days=1)
                return [respond(step, thread[index + 1 :], end, is_unsure)]
        return []

    def responsiveness(self, is_known: bool) -> dict[str, object]:
        """Apply Meta's rule to the 7 days that end with this day."""
        responses: list[Response] = []
        hidden_count = 0
        for thread in self.threads:
            for day in (self.day - timedelta(days=back) for back in range(7)):
                responses += self.day_responses(thread, day)
                kinds = {step.kind for step in self.of_day(thread, day)}
                hidden_count += "unknown" in kinds and "inbound" not in kinds
        seconds = [each.seconds for each in responses if each.seconds is not None]
        measured_count = sum(each.is_measured for each in responses)
        unsure_count = hidden_count + len(responses) - measured_count
        best = is_responsive(seconds + [0.0] * unsure_count, measured_count + unsure_count)
        worst = (
            is_responsive(seconds, measured_count + unsure_count)
            and (quantile(seconds + [86400.0] * unsure_count, 0.5) or 0) <= 900
        )
        badge = best if measured_count + unsure_count and best == worst else None
        return {
            "responsiveness_measured_count": measured_count,
            "responsiveness_unsure_count": unsure_count,
            "responsiveness_rate": len(seconds) / measured_count
            if is_known and measured_count
            else None,
            "responsiveness_seconds": quantile(seconds, 0.5) if is_known else None,
            "is_very_responsive": badge if is_known else None,
            "responsiveness_version": "meta-badge-2016.1",
        }


def is_responsive(seconds: list[float], question_count: int) -> bool:
    """Whether nine of ten questions are answered, half of them within 15 minutes."""
    if not question_count or len(seconds) / question_count < 0.9:
        return False
    return (quantile(seconds, 0.5) or 0) <= 900


def respond(question: Step, after: list[Step], end: datetime, is_unsure: bool) -> Response:
    """Return the response to a question before `end`."""
    for step in after:
        if step.message.created_at >= end or step.kind == "human":
            is_answered = step.kind == "human" and step.message.created_at < end
            wait = (step.message.created_at - question.message.created_at).total_seconds()
            return Response(not is_unsure, wait if is_answered and not is_unsure else None)
        if step.kind in ("unknown", "unsure"):
            return Response(False, None)
    return Response(not is_unsure, None)


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return a quantile, interpolated linearly."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)
