"""Faults B of values: times, types, texts, ids. The world itself does not change."""

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from urllib.parse import quote

from convo_pipeline.emulator.fault import (
    FaultContext,
    conversation_rows,
    is_chosen,
    message_rows,
    register,
    rows_of,
    walk,
)
from convo_pipeline.emulator.media import RARE_MEDIA
from convo_pipeline.emulator.world import stable_number

ALL = ("listing", "find", "edge", "node")
HOSTILE = "/|=..%*?['\"\x00\\ é" + "x" * 280
TIME_KEYS = ("created_time", "updated_time")


@register(
    "B15",
    "the server's clock is wrong by this many seconds",
    "content",
    takes="seconds",
    default="600",
)
def clock_skew(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["x-emulator-skew-seconds"] = context.argument
    return content


def _change_times(
    context: FaultContext, body: Any, change: Callable[[random.Random, Any], Any]
) -> Any:
    for row in [*conversation_rows(context, body), *message_rows(context, body)]:
        for key in TIME_KEYS:
            if key in row:
                row[key] = change(context.rng, row[key])
    return body


@register("B16", "times in several formats", "body", takes="nothing", kinds=ALL)
def mixed_times(context: FaultContext, body: Any) -> Any:
    def change(rng: random.Random, value: Any) -> Any:
        stem = str(value)[:19]
        return rng.choice((value, f"{stem}+00:00", f"{stem}Z", f"{stem}.000+0000"))

    return _change_times(context, body, change)


@register("B17", "impossible times", "body", takes="nothing", kinds=ALL)
def impossible_times(context: FaultContext, body: Any) -> Any:
    odd = (
        "1970-01-01T00:00:00+0000",
        "9999-12-31T23:59:59+0000",
        None,
        "soon",
        -1,
        10**20,
        "2026-02-30T00:00:00+0000",
    )

    def change(rng: random.Random, value: Any) -> Any:
        return rng.choice(odd) if rng.random() < 0.3 else value

    return _change_times(context, body, change)


@register("B18", "fields that were not requested", "body", takes="nothing", kinds=ALL)
def unknown_fields(context: FaultContext, body: Any) -> Any:
    for row in [*conversation_rows(context, body), *message_rows(context, body)]:
        row["new_in_2027"] = {"nested": [1, "two", None]}
    return body


@register("B19", "values of a new type", "body", takes="nothing", kinds=ALL)
def type_changes(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        for key in ("message", "to", "from", "attachments", "tags"):
            if key in row and context.rng.random() < 0.3:
                row[key] = context.rng.choice((42, True, [row[key]], {"value": "x"}, "text", None))
    for person in walk(body):
        if (
            isinstance(person.get("id"), str)
            and person["id"].isdigit()
            and context.rng.random() < 0.5
        ):
            person["id"] = int(person["id"])
    return body


@register("B20", "from, to or message are missing", "body", takes="nothing", kinds=ALL)
def missing_keys(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        for key in ("from", "to", "message", "created_time"):
            if context.rng.random() < 0.3:
                row.pop(key, None)
    return body


@register("B20", "a third of the messages lack from", "body", takes="nothing", kinds=ALL)
def missing_from(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        if is_chosen(row.get("id")):
            row.pop("from", None)
    return body


@register(
    "B31",
    "a third of the messages have neither sender, text nor media in a list, only by their own id",
    "body",
    takes="nothing",
    kinds=ALL,
)
def hollow_rows(context: FaultContext, body: Any) -> Any:
    is_list = context.kind != "node" or bool(conversation_rows(context, body))
    for row in message_rows(context, body) if is_list else ():
        if "message" in row and is_chosen(row.get("id")):
            for key in row.keys() - {"id", "created_time"}:
                del row[key]
            row["message"] = ""
    return body


@register(
    "B31",
    "a third of the messages have an attachment, share, sticker or story of a rare shape",
    "body",
    takes="nothing",
    kinds=ALL,
)
def rare_media(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        if "message" in row and is_chosen(row.get("id")):
            number = stable_number(str(row.get("id")), 9)
            row.update(deepcopy(RARE_MEDIA[number % len(RARE_MEDIA)]))
    return body


@register("B20", "rows without an id", "body", takes="nothing", kinds=ALL)
def missing_id(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        if context.rng.random() < 0.1:
            row.pop("id", None)
    return body


@register(
    "B21", "a message of this many bytes", "body", takes="bytes", default="1000000", kinds=ALL
)
def huge_message(context: FaultContext, body: Any) -> Any:
    """A row without content stays one."""
    rows = [row for row in message_rows(context, body) if "message" in row]
    for row in rows[:1]:
        row["message"] = "ä🥐x" * int(context.number // 7)
    return body


@register(
    "B21",
    "a message with this many attachments",
    "body",
    takes="attachments",
    default="10000",
    kinds=ALL,
)
def many_attachments(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body)[:1]:
        pictures = [
            {"id": str(n), "image_data": {"url": f"https://example.org/{n}.jpg"}}
            for n in range(int(context.number))
        ]
        row["attachments"] = {"data": pictures}
    return body


@register(
    "B22",
    "NUL, control characters, right-to-left marks and joiners in texts",
    "body",
    takes="nothing",
    kinds=ALL,
)
def control_characters(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        if isinstance(row.get("message"), str):
            row["message"] = (
                f"\x00\x01\x1b[31m\u202e\u200f👩‍👩‍👧‍👦\ufeff\r\n{row['message']}\u2028\x7f"
            )
    return body


@register("B23", "lone surrogates in texts", "body", takes="nothing", kinds=ALL)
def lone_surrogate(context: FaultContext, body: Any) -> Any:
    for row in message_rows(context, body):
        if isinstance(row.get("message"), str):
            row["message"] += "\ud83d"
    return body


def _hostile_path(context: FaultContext) -> None:
    """Remove the hostile suffix from the requested ids."""
    parts = [part.removesuffix(HOSTILE) for part in context.call.segments]
    context.call.path = "/" + "/".join(quote(part, safe="") for part in parts)


@register(
    "B24",
    "ids with slashes, quotes, wildcards, NUL, and 300 characters long",
    "body",
    takes="nothing",
    kinds=ALL,
    prepare=_hostile_path,
)
def hostile_ids(context: FaultContext, body: Any) -> Any:
    for row in [*conversation_rows(context, body), *message_rows(context, body)]:
        if isinstance(row.get("id"), str):
            row["id"] += HOSTILE
    return body


@register(
    "B25", "people's ids with leading zeros and twenty digits", "body", takes="nothing", kinds=ALL
)
def long_numbers(context: FaultContext, body: Any) -> Any:
    for row in walk(body):
        for person in [row.get("from"), *rows_of(row.get("to")), *rows_of(row.get("participants"))]:
            if isinstance(person, dict) and isinstance(person.get("id"), str):
                person["id"] = person["id"].zfill(20)
    return body
