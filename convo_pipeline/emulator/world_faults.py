"""Faults of part B in which the inbox moves while it is read."""

from typing import Any

from convo_pipeline.emulator.clock import MICROSECONDS, from_us
from convo_pipeline.emulator.fault import FaultContext, conversation_rows, register
from convo_pipeline.emulator.refusals import (
    Refusal,
    missing,
)
from convo_pipeline.emulator.view import read_id
from convo_pipeline.emulator.world import Account, Conversation

ALL = ("listing", "find", "edge", "node")


def _parts(occasion: FaultContext) -> list[str]:
    """Return the parts of a call's path, ids as the world has them."""
    return [read_id(part, occasion.switches) or part for part in occasion.call.segments]


def _account(occasion: FaultContext) -> Account | None:
    """Return the account a call is about."""
    call = occasion.call
    platform = call.params.get("platform", "messenger").lower()
    for account in occasion.world.accounts.values():
        if {account.page_id, account.own_id} & set(call.segments) and account.platform == platform:
            return account
        if any(part in account.conversations or account.knows(part) for part in _parts(occasion)):
            return account
    return None


def _listed(occasion: FaultContext) -> list[Conversation]:
    account = _account(occasion)
    now_us = occasion.world.refresh()
    return [conversation for _, conversation in account.listing("*", now_us)] if account else []


def _asked_conversation(occasion: FaultContext) -> Conversation | None:
    account = _account(occasion)
    found = (account.conversations.get(part) for part in _parts(occasion)) if account else iter(())
    return next((conversation for conversation in found if conversation), None)


@register(
    "B6",
    "at each further page of a listing the last conversation jumps to the head",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def bump(occasion: FaultContext) -> None:
    listed = _listed(occasion)
    if "after" in occasion.call.params and listed:
        listed[-1].add_message("one more thing")


@register(
    "B8",
    "at each further page a conversation of the head is deleted",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def vanish_head(occasion: FaultContext) -> None:
    listed = _listed(occasion)
    if "after" in occasion.call.params and len(listed) > 1:
        listed[0].vanish()


@register(
    "B9",
    "a message arrives while its conversation is read",
    "prepare",
    takes="nothing",
    kinds=("edge", "node"),
)
def message_midread(occasion: FaultContext) -> None:
    conversation = _asked_conversation(occasion)
    if conversation:
        conversation.add_message("and another one")


@register(
    "B10",
    "so many new messages come to one conversation at once",
    "prepare",
    takes="messages",
    default="45",
    kinds=("listing",),
)
def flood(occasion: FaultContext) -> None:
    listed = _listed(occasion)
    if listed and not occasion.memory:
        occasion.memory["done"] = True
        now_us = occasion.world.clock.now_us()
        count = int(occasion.number)
        for number in range(count):
            moment = from_us(now_us - (count - number) * MICROSECONDS)
            listed[0].add_message(f"flood {number}", moment, is_ours=number % 2 == 1)


@register(
    "B12",
    "a message among the newest 20 is unsent after it was listed",
    "prepare",
    default="1",
    kinds=("edge", "node"),
)
def unsend(occasion: FaultContext) -> None:
    account, now_us = _account(occasion), occasion.world.clock.now_us()
    found = (
        (account.find_message(part, now_us) for part in _parts(occasion)) if account else iter(())
    )
    message = next((each for each in found if each), None)
    conversation = message.conversation if message else _asked_conversation(occasion)
    rows = conversation.rows(now_us, keep_unsent=False) if conversation else []
    if target := message or next(iter(rows), None):
        target.unsend()


@register(
    "B13", "the conversation asked for has vanished", "prepare", default="1", kinds=("edge", "node")
)
def vanish(occasion: FaultContext) -> None:
    conversation = _asked_conversation(occasion)
    if conversation:
        conversation.vanish()


@register(
    "B14",
    "the messages edge of a listed conversation is not found",
    "refuse",
    takes="nothing",
    kinds=("edge",),
)
def edge_missing(occasion: FaultContext) -> Refusal:
    return missing(occasion.call.segments[-2])


@register(
    "B14",
    "the messages edge of a listed conversation is empty",
    "body",
    takes="nothing",
    kinds=("edge",),
)
def edge_empty(occasion: FaultContext, body: Any) -> Any:
    return {"data": []}


@register("B14", "nested messages are left out", "body", takes="nothing", kinds=("listing", "node"))
def nested_missing(occasion: FaultContext, body: Any) -> Any:
    for row in conversation_rows(occasion, body):
        row.pop("messages", None)
    return body


@register(
    "B28",
    "two conversations hold a message of the same id",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def twin_ids(occasion: FaultContext) -> None:
    listed = _listed(occasion)
    if len(listed) > 1 and not occasion.memory:
        occasion.memory["done"] = True
        twin = listed[0].add_message("twin")
        listed[1].add_message("twin", message_id=twin.message_id)


@register(
    "B29",
    "with each listing a message's text is edited and its reactions change",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def edit(occasion: FaultContext) -> None:
    occasion.memory["count"] = count = occasion.memory.get("count", 0) + 1
    for conversation in _listed(occasion)[:3]:
        rows = conversation.rows(occasion.world.clock.now_us(), keep_unsent=False)
        for newest in rows[:1]:
            newest.edit(f"edited {count}")
            newest.unreact() if count % 2 == 0 else newest.react("👍")


@register(
    "B0",
    "one conversation (the Nth listed) fails every page that holds its content, code 1",
    "prepare",
    takes="position",
    default="1",
    kinds=ALL,
)
def poisoned(occasion: FaultContext) -> None:
    _poison_once(occasion, 1)


@register(
    "B0",
    "one conversation (the Nth listed) is withheld by EU rules, 10/2018336, and so is every page with its content",
    "prepare",
    takes="position",
    default="1",
    kinds=ALL,
)
def withheld(occasion: FaultContext) -> None:
    _poison_once(occasion, 10, 2018336)


def _poison_once(occasion: FaultContext, code: int, subcode: int | None = None) -> None:
    listed = _listed(occasion)
    if listed and not occasion.memory:
        occasion.memory["done"] = True
        listed[min(int(occasion.number), len(listed)) - 1].make_unreadable(code, subcode)
