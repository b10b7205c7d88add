"""Faults B: the inbox changes while it is read."""

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


def _parts(context: FaultContext) -> list[str]:
    """Return the parts of a call's path, with the world's ids."""
    return [read_id(part, context.switches) or part for part in context.call.segments]


def _account(context: FaultContext) -> Account | None:
    """Return the account of a call."""
    call = context.call
    platform = call.params.get("platform", "messenger").lower()
    for account in context.world.accounts.values():
        if {account.page_id, account.own_id} & set(call.segments) and account.platform == platform:
            return account
        if any(part in account.conversations or account.knows(part) for part in _parts(context)):
            return account
    return None


def _listed(context: FaultContext) -> list[Conversation]:
    account = _account(context)
    now_us = context.world.refresh()
    return [conversation for _, conversation in account.listing("*", now_us)] if account else []


def _asked_conversation(context: FaultContext) -> Conversation | None:
    account = _account(context)
    conversations = (
        (account.conversations.get(part) for part in _parts(context)) if account else iter(())
    )
    return next((conversation for conversation in conversations if conversation), None)


@register(
    "B6",
    "at each further page the last listed conversation becomes the first",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def bump(context: FaultContext) -> None:
    listed = _listed(context)
    if "after" in context.call.params and listed:
        listed[-1].add_message("one more thing")


@register(
    "B8",
    "at each further page the first listed conversation is deleted",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def vanish_head(context: FaultContext) -> None:
    listed = _listed(context)
    if "after" in context.call.params and len(listed) > 1:
        listed[0].vanish()


@register(
    "B9",
    "a message arrives while its conversation is read",
    "prepare",
    takes="nothing",
    kinds=("edge", "node"),
)
def message_midread(context: FaultContext) -> None:
    conversation = _asked_conversation(context)
    if conversation:
        conversation.add_message("and another one")


@register(
    "B10",
    "this many new messages arrive in one conversation at once",
    "prepare",
    takes="messages",
    default="45",
    kinds=("listing",),
)
def flood(context: FaultContext) -> None:
    listed = _listed(context)
    if listed and not context.memory:
        context.memory["done"] = True
        now_us = context.world.clock.now_us()
        count = int(context.number)
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
def unsend(context: FaultContext) -> None:
    account, now_us = _account(context), context.world.clock.now_us()
    messages = (
        (account.find_message(part, now_us) for part in _parts(context)) if account else iter(())
    )
    message = next((each for each in messages if each), None)
    conversation = message.conversation if message else _asked_conversation(context)
    rows = conversation.rows(now_us, keep_unsent=False) if conversation else []
    if target := message or next(iter(rows), None):
        target.unsend()


@register(
    "B13", "the requested conversation is deleted", "prepare", default="1", kinds=("edge", "node")
)
def vanish(context: FaultContext) -> None:
    conversation = _asked_conversation(context)
    if conversation:
        conversation.vanish()


@register(
    "B14",
    "the messages edge of a listed conversation is not found",
    "refuse",
    takes="nothing",
    kinds=("edge",),
)
def edge_missing(context: FaultContext) -> Refusal:
    return missing(context.call.segments[-2])


@register(
    "B14",
    "the messages edge of a listed conversation is empty",
    "body",
    takes="nothing",
    kinds=("edge",),
)
def edge_empty(context: FaultContext, body: Any) -> Any:
    return {"data": []}


@register("B14", "nested messages are left out", "body", takes="nothing", kinds=("listing", "node"))
def nested_missing(context: FaultContext, body: Any) -> Any:
    for row in conversation_rows(context, body):
        row.pop("messages", None)
    return body


@register(
    "B28",
    "two conversations have a message with the same id",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def twin_ids(context: FaultContext) -> None:
    listed = _listed(context)
    if len(listed) > 1 and not context.memory:
        context.memory["done"] = True
        twin = listed[0].add_message("twin")
        listed[1].add_message("twin", message_id=twin.message_id)


@register(
    "B29",
    "with each listing, message texts and reactions change",
    "prepare",
    takes="nothing",
    kinds=("listing",),
)
def edit(context: FaultContext) -> None:
    context.memory["count"] = count = context.memory.get("count", 0) + 1
    for conversation in _listed(context)[:3]:
        rows = conversation.rows(context.world.clock.now_us(), keep_unsent=False)
        for newest in rows[:1]:
            newest.edit(f"edited {count}")
            newest.unreact() if count % 2 == 0 else newest.react("👍")


@register(
    "B0",
    "every response with the content of one conversation (the first listed) fails with an error",
    "prepare",
    takes="error",
    default="1",
    kinds=ALL,
)
def unreadable(context: FaultContext) -> None:
    listed = _listed(context)
    if listed and not context.memory:
        context.memory["done"] = True
        listed[0].make_unreadable(context.argument)
