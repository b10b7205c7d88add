"""Faults B: the API refuses data, fields, permissions, tokens or versions."""

from typing import Any

from convo_pipeline.emulator.fault import (
    FaultContext,
    conversation_rows,
    is_chosen,
    object_segments,
    register,
)
from convo_pipeline.emulator.fields import FieldSyntaxError, parse_fields
from convo_pipeline.emulator.refusals import (
    Refusal,
    expired_token,
    gone,
    nonexisting_field,
    reduce_data,
)

ALL = ("listing", "find", "edge", "node")


def _limit(text: str) -> int:
    return int(text) if text.isdigit() else 25


def _count_rows(context: FaultContext) -> int:
    """Return the number of rows that a call requests, with nested ones."""
    limit = _limit(context.call.params.get("limit", "25")) if context.kind != "node" else 1
    nested = _nested_limits(context)
    return limit * (nested[0] if nested else 1)


def _nested_limits(context: FaultContext) -> list[int]:
    """Return the limits of the nested messages that a call requests."""
    try:
        asked = parse_fields(context.call.params.get("fields", "id"))
    except FieldSyntaxError:
        return []
    return [
        _limit(field.arguments.get("limit", "25"))
        for field in asked
        if field.name == "messages" and field.children
    ]


@register(
    "B0",
    "code 1, reduce the amount of data, above this many rows",
    "refuse",
    takes="rows",
    default="200",
    kinds=ALL,
)
def reduce_above(context: FaultContext) -> Refusal | None:
    return reduce_data() if _count_rows(context) > context.number else None


@register(
    "B0",
    "code 1, reduce the amount of data, for nested messages",
    "refuse",
    takes="nothing",
    kinds=("listing", "node"),
)
def nested_refused(context: FaultContext) -> Refusal | None:
    return reduce_data() if _nested_limits(context) else None


@register(
    "B0",
    "a field is refused as nonexisting",
    "refuse",
    takes="field",
    default="reactions",
    kinds=ALL,
)
def nonexisting(context: FaultContext) -> Refusal | None:
    try:
        asked = parse_fields(context.call.params.get("fields", "id"))
    except FieldSyntaxError:
        return None
    names = [field.name for field in asked]
    nested = [child.name for field in asked for child in field.children or ()]
    return (
        nonexisting_field(context.argument, "Message")
        if context.argument in names + nested
        else None
    )


@register(
    "B11",
    "a page with content beyond the newest 20 is refused",
    "refuse",
    takes="nothing",
    kinds=("edge",),
)
def old_page_refused(context: FaultContext) -> Refusal | None:
    has_content = bool({"message", "from"} & set(context.call.params.get("fields", "").split(",")))
    is_deep = "after" in context.call.params or _limit(context.call.params.get("limit", "25")) > 20
    return gone(context.switches.refused_as, "") if has_content and is_deep else None


@register(
    "B31",
    "every call of a third of the conversations and messages is refused; they are listed",
    "refuse",
    takes="error",
    default="10",
    kinds=("edge", "inner", "node"),
)
def refused_objects(context: FaultContext) -> Refusal | None:
    return context.refusal if is_chosen(object_segments(context.call)[0]) else None


@register(
    "B31",
    "later pages of messages and of nested lists are refused",
    "refuse",
    takes="error",
    default="100",
    kinds=("edge", "inner"),
)
def later_pages_refused(context: FaultContext) -> Refusal | None:
    return context.refusal if "after" in context.call.params else None


@register(
    "B31",
    "a third of the conversations have an error instead of nested messages",
    "body",
    takes="error",
    default="1",
    kinds=("listing", "find", "node"),
)
def nested_error(context: FaultContext, body: Any) -> Any:
    for row in conversation_rows(context, body):
        if "messages" in row and is_chosen(row.get("id")):
            row["messages"] = context.refusal.envelope(context.call.path)
    return body


@register("B30", "code 10: permission", "refuse", takes="nothing", kinds=ALL)
def permission_10(context: FaultContext) -> Refusal:
    return Refusal(10, "(#10) This endpoint requires the 'pages_messaging' permission")


@register("B30", "code 200: no Advanced Access", "refuse", takes="nothing", kinds=ALL)
def permission_200(context: FaultContext) -> Refusal:
    return Refusal(200, "(#200) App does not have Advanced Access to pages_messaging permission")


@register(
    "B30",
    "code 200/2534041: the owner switched off message access",
    "refuse",
    takes="nothing",
    kinds=ALL,
)
def access_switched_off(context: FaultContext) -> Refusal:
    return Refusal(
        200, "(#200) The account owner has disabled access to instagram direct messages", 2534041
    )


@register("B30", "code 230: pages_messaging is missing", "refuse", takes="nothing", kinds=ALL)
def permission_230(context: FaultContext) -> Refusal:
    return Refusal(230, "(#230) Requires pages_messaging permission to manage the object")


@register(
    "B30", "the token expires after this many calls (190/463)", "refuse", takes="calls", default="3"
)
def token_dies(context: FaultContext) -> Refusal | None:
    context.memory["calls"] = calls = context.memory.get("calls", 0) + 1
    return expired_token() if calls > context.number else None


@register("B30", "the token was revoked (190/460)", "refuse", takes="nothing")
def token_revoked(context: FaultContext) -> Refusal:
    text = (
        "Error validating access token: The session has been invalidated because the user changed"
        " their password."
    )
    return Refusal(190, text, 460)


@register("B30", "the version is retired: the call is refused", "refuse", takes="nothing")
def retired_version(context: FaultContext) -> Refusal:
    text = (
        "(#2635) You are calling a deprecated version of the Graph API. Please update to the latest"
        " version: v26.0."
    )
    return Refusal(2635, text)


@register(
    "B30",
    "the version is retired: another version answers",
    "content",
    takes="version",
    default="v27.0",
)
def version_upgraded(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["Facebook-API-Version"] = context.argument
    return content


@register(
    "B0", "items of a batch that timed out are null", "body", takes="nothing", kinds=("other",)
)
def batch_null(context: FaultContext, body: Any) -> Any:
    return (
        [None if position % 2 else item for position, item in enumerate(body)]
        if isinstance(body, list)
        else body
    )
