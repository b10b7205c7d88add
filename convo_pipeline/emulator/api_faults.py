"""Faults of the catalogue's part B: what the API's answers mean, and a world that moves while it is read."""

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from convo_pipeline.emulator import ids
from convo_pipeline.emulator.clock import MICROSECONDS, from_us
from convo_pipeline.emulator.fault import Occasion, conversation_rows, message_rows, register, rows_of, walk
from convo_pipeline.emulator.fields import FieldSyntaxError, parse_fields
from convo_pipeline.emulator.refusals import (
    Refusal,
    bad_parameter,
    expired_token,
    gone,
    missing,
    nonexisting_field,
    reduce_data,
)
from convo_pipeline.emulator.view import read_id
from convo_pipeline.emulator.world import Account, Conversation, Payload

LISTS = ("listing", "edge")
ALL = ("listing", "find", "edge", "node")
HOSTILE = "/|=..%*?['\"\x00\\ é" + "x" * 280
TIME_KEYS = ("created_time", "updated_time")

# Paging (B1–B8, B26, B27)


def _paging(body: Any) -> Payload | None:
    paging = body.get("paging") if isinstance(body, dict) else None
    return paging if isinstance(paging, dict) and "cursors" in paging else None


def _link_to(paging: Payload, after: str, base: str) -> None:
    paging["cursors"]["after"] = after
    paging["next"] = f"{base}&after={after}"


@register("B1", "after so many pages the cursors lead back to the first (A-B-A)", "body", takes="pages", default="2", kinds=LISTS)  # fmt: skip
def cursor_loop(occasion: Occasion, body: Any) -> Any:
    paging, seen = _paging(body), occasion.memory.setdefault(occasion.call.path, [])
    if paging is None:
        return body
    if len(seen) >= occasion.number:
        _link_to(paging, seen[0], f"{occasion.call.base_url}{occasion.call.path}?limit=25")
    else:
        seen.append(paging["cursors"]["after"])
    return body


@register("B1", "the cursor given is the one that was asked for", "body", kinds=LISTS)
def cursor_repeated(occasion: Occasion, body: Any) -> Any:
    paging, asked = _paging(body), occasion.call.params.get("after")
    if paging is not None and asked:
        _link_to(paging, asked, f"{occasion.call.base_url}{occasion.call.path}?limit=25")
    return body


@register("B2", "an empty page that has a next", "body", default="2", kinds=LISTS)
def empty_page(occasion: Occasion, body: Any) -> Any:
    occasion.memory["salt"] = salt = occasion.memory.get("salt", 0) + 1
    asked = ids.read_cursor(occasion.call.params.get("after", "")) or ["s"]
    after = ids.write_cursor([*asked[:3], f"salt{salt}"] if len(asked) > 1 else ["s", f"salt{salt}"])
    paging: Payload = {"cursors": {"before": after}}
    _link_to(paging, after, f"{occasion.call.base_url}{occasion.call.path}?limit=25")
    return {"data": [], "paging": paging}


@register("B3", "pages shorter than asked for, with a next", "prepare", takes="nothing", kinds=LISTS)
def short_page(occasion: Occasion) -> None:
    asked = occasion.call.params.get("limit", "25")
    if asked.isdigit():
        occasion.call.params["limit"] = str(max(1, int(asked) // 2))


@register("B4", "each page begins with the last row of the one before", "body", takes="nothing", kinds=LISTS)
def duplicates(occasion: Occasion, body: Any) -> Any:
    rows, key = rows_of(body), occasion.call.path
    if rows:
        body["data"] = [*occasion.memory.get(key, []), *rows, rows[0]]
        occasion.memory[key] = rows[-1:]
    return body


@register("B5", "rows of a page in any order", "body", takes="nothing", kinds=LISTS)
def shuffled(occasion: Occasion, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("data"), list):
        occasion.rng.shuffle(body["data"])
    return body


@register("B7", "the cursor has died", "refuse", default="1", kinds=LISTS)
def dead_cursor(occasion: Occasion) -> Refusal | None:
    return bad_parameter("Invalid cursors values") if "after" in occasion.call.params else None


@register("B26", "next points to another host", "body", takes="nothing", kinds=LISTS)
def foreign_next(occasion: Occasion, body: Any) -> Any:
    paging = _paging(body)
    if paging and "next" in paging:
        own, foreign = urlsplit(paging["next"]), urlsplit(occasion.foreign_url)
        netloc = occasion.rng.choice(
            (foreign.netloc, f"{own.netloc}@{foreign.netloc}", f"127.0.0.1.nip.invalid:{own.port}")
        )
        scheme = occasion.rng.choice(("http", "https", "file"))
        paging["next"] = urlunsplit((scheme, netloc, own.path, own.query, ""))
    return body


@register("B27", "next changes path, fields and limit", "body", takes="nothing", kinds=LISTS)
def altered_next(occasion: Occasion, body: Any) -> Any:
    paging = _paging(body)
    if paging and "next" in paging:
        own = urlsplit(paging["next"])
        query = f"fields=id&limit=1&platform=messenger&after={paging['cursors']['after']}"
        paging["next"] = urlunsplit((own.scheme, own.netloc, "/v1.0/../me/accounts", query, ""))
    return body


# A world that moves (B6, B8–B14, B28, B29)


def _parts(occasion: Occasion) -> list[str]:
    """Return the parts of a call's path, ids as the world has them."""
    return [read_id(part, occasion.switches) or part for part in occasion.call.segments]


def _account(occasion: Occasion) -> Account | None:
    """Return the account a call is about."""
    call = occasion.call
    platform = call.params.get("platform", "messenger").lower()
    for account in occasion.world.accounts.values():
        if {account.page_id, account.own_id} & set(call.segments) and account.platform == platform:
            return account
        if any(part in account.conversations or account.knows(part) for part in _parts(occasion)):
            return account
    return None


def _listed(occasion: Occasion) -> list[Conversation]:
    account = _account(occasion)
    now_us = occasion.world.refresh()
    return [conversation for _, conversation in account.listing("*", now_us)] if account else []


def _asked_conversation(occasion: Occasion) -> Conversation | None:
    account = _account(occasion)
    found = (account.conversations.get(part) for part in _parts(occasion)) if account else iter(())
    return next((conversation for conversation in found if conversation), None)


@register("B6", "at each further page of a listing the last conversation jumps to the head", "prepare", takes="nothing", kinds=("listing",))  # fmt: skip
def bump(occasion: Occasion) -> None:
    listed = _listed(occasion)
    if "after" in occasion.call.params and listed:
        listed[-1].add_message("one more thing")


@register("B8", "at each further page a conversation of the head is deleted", "prepare", takes="nothing", kinds=("listing",))  # fmt: skip
def vanish_head(occasion: Occasion) -> None:
    listed = _listed(occasion)
    if "after" in occasion.call.params and len(listed) > 1:
        listed[0].vanish()


@register("B9", "a message arrives while its conversation is read", "prepare", takes="nothing", kinds=("edge", "node"))
def message_midread(occasion: Occasion) -> None:
    conversation = _asked_conversation(occasion)
    if conversation:
        conversation.add_message("and another one")


@register("B10", "so many new messages come to one conversation at once", "prepare", takes="messages", default="45", kinds=("listing",))  # fmt: skip
def flood(occasion: Occasion) -> None:
    listed = _listed(occasion)
    if listed and not occasion.memory:
        occasion.memory["done"] = True
        now_us = occasion.world.clock.now_us()
        count = int(occasion.number)
        for number in range(count):
            moment = from_us(now_us - (count - number) * MICROSECONDS)
            listed[0].add_message(f"flood {number}", moment, is_ours=number % 2 == 1)


@register("B12", "a message among the newest 20 is unsent after it was listed", "prepare", default="1", kinds=("edge", "node"))  # fmt: skip
def unsend(occasion: Occasion) -> None:
    account, now_us = _account(occasion), occasion.world.clock.now_us()
    found = (account.find_message(part, now_us) for part in _parts(occasion)) if account else iter(())
    message = next((each for each in found if each), None)
    conversation = message.conversation if message else _asked_conversation(occasion)
    rows = conversation.rows(now_us, keep_unsent=False) if conversation else []
    if target := message or next(iter(rows), None):
        target.unsend()


@register("B13", "the conversation asked for has vanished", "prepare", default="1", kinds=("edge", "node"))
def vanish(occasion: Occasion) -> None:
    conversation = _asked_conversation(occasion)
    if conversation:
        conversation.vanish()


@register("B14", "the messages edge of a listed conversation is not found", "refuse", takes="nothing", kinds=("edge",))
def edge_missing(occasion: Occasion) -> Refusal:
    return missing(occasion.call.segments[-2])


@register("B14", "the messages edge of a listed conversation is empty", "body", takes="nothing", kinds=("edge",))
def edge_empty(occasion: Occasion, body: Any) -> Any:
    return {"data": []}


@register("B14", "nested messages are left out", "body", takes="nothing", kinds=("listing", "node"))
def nested_missing(occasion: Occasion, body: Any) -> Any:
    for row in conversation_rows(occasion, body):
        row.pop("messages", None)
    return body


@register("B28", "two conversations hold a message of the same id", "prepare", takes="nothing", kinds=("listing",))
def twin_ids(occasion: Occasion) -> None:
    listed = _listed(occasion)
    if len(listed) > 1 and not occasion.memory:
        occasion.memory["done"] = True
        twin = listed[0].add_message("twin")
        listed[1].add_message("twin", message_id=twin.message_id)


@register("B29", "with each listing a message's text is edited and its reactions change", "prepare", takes="nothing", kinds=("listing",))  # fmt: skip
def edit(occasion: Occasion) -> None:
    occasion.memory["count"] = count = occasion.memory.get("count", 0) + 1
    for conversation in _listed(occasion)[:3]:
        rows = conversation.rows(occasion.world.clock.now_us(), keep_unsent=False)
        rows[0].edit(f"edited {count}")
        rows[0].unreact() if count % 2 == 0 else rows[0].react("👍")


# The size of an answer, fields, poison


def _count_rows(occasion: Occasion) -> int:
    """Return how many rows a call asks for, nested ones included."""
    limit = int(occasion.call.params.get("limit", "25")) if occasion.kind != "node" else 1
    try:
        asked = parse_fields(occasion.call.params.get("fields", "id"))
    except FieldSyntaxError:
        return 0
    nested = [int(field.arguments.get("limit", "25")) for field in asked if field.name == "messages" and field.children]
    return limit * (nested[0] if nested else 1)


@register("B0", "code 1, reduce the amount of data, above so many rows", "refuse", takes="rows", default="200", kinds=ALL)  # fmt: skip
def reduce_above(occasion: Occasion) -> Refusal | None:
    return reduce_data() if _count_rows(occasion) > occasion.number else None


@register("B0", "one conversation (the Nth listed) fails every page that holds its content, code 1", "prepare", takes="position", default="1", kinds=ALL)  # fmt: skip
def poisoned(occasion: Occasion) -> None:
    listed = _listed(occasion)
    if listed and not occasion.memory:
        occasion.memory["done"] = True
        listed[min(int(occasion.number), len(listed)) - 1].poison()


@register("B0", "a field is refused as nonexisting", "refuse", takes="field", default="reactions", kinds=ALL)
def nonexisting(occasion: Occasion) -> Refusal | None:
    try:
        asked = parse_fields(occasion.call.params.get("fields", "id"))
    except FieldSyntaxError:
        return None
    names = [field.name for field in asked]
    nested = [child.name for field in asked for child in field.children or ()]
    return nonexisting_field(occasion.argument, "Message") if occasion.argument in names + nested else None


@register("B11", "a page of content that reaches beyond the newest 20 is refused as a whole", "refuse", takes="nothing", kinds=("edge",))  # fmt: skip
def old_page_refused(occasion: Occasion) -> Refusal | None:
    has_content = bool({"message", "from"} & set(occasion.call.params.get("fields", "").split(",")))
    is_deep = "after" in occasion.call.params or int(occasion.call.params.get("limit", "25")) > 20
    return gone(occasion.switches.refused_as, "") if has_content and is_deep else None


# Time, text, types (B15–B25)


@register("B15", "the server's clock is off by so many seconds", "content", takes="seconds", default="600")
def clock_skew(occasion: Occasion, content: bytes, headers: dict[str, str]) -> bytes:
    headers["x-emulator-skew-seconds"] = occasion.argument
    return content


def _change_times(occasion: Occasion, body: Any, change: Callable[[random.Random, Any], Any]) -> Any:
    for row in [*conversation_rows(occasion, body), *message_rows(occasion, body)]:
        for key in TIME_KEYS:
            if key in row:
                row[key] = change(occasion.rng, row[key])
    return body


@register("B16", "times in every form, mixed", "body", takes="nothing", kinds=ALL)
def mixed_times(occasion: Occasion, body: Any) -> Any:
    def change(rng: random.Random, value: Any) -> Any:
        stem = str(value)[:19]
        return rng.choice((value, f"{stem}+00:00", f"{stem}Z", f"{stem}.000+0000"))

    return _change_times(occasion, body, change)


@register("B17", "impossible times", "body", takes="nothing", kinds=ALL)
def impossible_times(occasion: Occasion, body: Any) -> Any:
    odd = ("1970-01-01T00:00:00+0000", "9999-12-31T23:59:59+0000", None, "soon", -1, 10**20, "2026-02-30T00:00:00+0000")

    def change(rng: random.Random, value: Any) -> Any:
        return rng.choice(odd) if rng.random() < 0.3 else value

    return _change_times(occasion, body, change)


@register("B18", "fields nobody asked for", "body", takes="nothing", kinds=ALL)
def unknown_fields(occasion: Occasion, body: Any) -> Any:
    for row in [*conversation_rows(occasion, body), *message_rows(occasion, body)]:
        row["new_in_2027"] = {"nested": [1, "two", None]}
    return body


@register("B19", "values of another type than ever before", "body", takes="nothing", kinds=ALL)
def type_changes(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body):
        for key in ("message", "to", "from", "attachments", "tags"):
            if key in row and occasion.rng.random() < 0.3:
                row[key] = occasion.rng.choice((42, True, [row[key]], {"value": "x"}, "text", None))
    for person in walk(body):
        if isinstance(person.get("id"), str) and person["id"].isdigit() and occasion.rng.random() < 0.5:
            person["id"] = int(person["id"])
    return body


@register("B20", "from, to or message are missing", "body", takes="nothing", kinds=ALL)
def missing_keys(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body):
        for key in ("from", "to", "message", "created_time"):
            if occasion.rng.random() < 0.3:
                row.pop(key, None)
    return body


@register("B20", "rows without an id", "body", takes="nothing", kinds=ALL)
def missing_id(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body):
        if occasion.rng.random() < 0.1:
            row.pop("id", None)
    return body


@register("B21", "a message of so many bytes", "body", takes="bytes", default="1000000", kinds=ALL)
def huge_message(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body)[:1]:
        row["message"] = "ä🥐x" * int(occasion.number // 7)
    return body


@register("B21", "a message with so many attachments", "body", takes="attachments", default="10000", kinds=ALL)
def many_attachments(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body)[:1]:
        pictures = [
            {"id": str(n), "image_data": {"url": f"https://example.org/{n}.jpg"}} for n in range(int(occasion.number))
        ]
        row["attachments"] = {"data": pictures}
    return body


@register(
    "B22", "NUL, control characters, right-to-left marks and joiners in texts", "body", takes="nothing", kinds=ALL
)
def control_characters(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body):
        if isinstance(row.get("message"), str):
            row["message"] = f"\x00\x01\x1b[31m\u202e\u200f👩‍👩‍👧‍👦\ufeff\r\n{row['message']}\u2028\x7f"
    return body


@register("B23", "lone surrogates in texts", "body", takes="nothing", kinds=ALL)
def lone_surrogate(occasion: Occasion, body: Any) -> Any:
    for row in message_rows(occasion, body):
        if isinstance(row.get("message"), str):
            row["message"] += "\ud83d"
    return body


def _hostile_path(occasion: Occasion) -> None:
    """Undo the hostile spelling in what is asked for."""
    parts = [part.removesuffix(HOSTILE) for part in occasion.call.segments]
    occasion.call.path = "/" + "/".join(quote(part, safe="") for part in parts)


@register(
    "B24",
    "ids with slashes, quotes, wildcards, NUL, and 300 characters long",
    "body",
    takes="nothing",
    kinds=ALL,
    prepare=_hostile_path,
)
def hostile_ids(occasion: Occasion, body: Any) -> Any:
    for row in [*conversation_rows(occasion, body), *message_rows(occasion, body)]:
        if isinstance(row.get("id"), str):
            row["id"] += HOSTILE
    return body


@register("B25", "people's ids with leading zeros and twenty digits", "body", takes="nothing", kinds=ALL)
def long_numbers(occasion: Occasion, body: Any) -> Any:
    for row in walk(body):
        for person in [row.get("from"), *rows_of(row.get("to")), *rows_of(row.get("participants"))]:
            if isinstance(person, dict) and isinstance(person.get("id"), str):
                person["id"] = person["id"].zfill(20)
    return body


# Who may ask (B30)


@register("B30", "code 10: permission", "refuse", takes="nothing", kinds=ALL)
def permission_10(occasion: Occasion) -> Refusal:
    return Refusal(10, "(#10) This endpoint requires the 'pages_messaging' permission")


@register("B30", "code 200: no Advanced Access", "refuse", takes="nothing", kinds=ALL)
def permission_200(occasion: Occasion) -> Refusal:
    return Refusal(200, "(#200) App does not have Advanced Access to pages_messaging permission")


@register("B30", "code 200/2534041: the owner has switched off message access", "refuse", takes="nothing", kinds=ALL)
def access_switched_off(occasion: Occasion) -> Refusal:
    return Refusal(200, "(#200) The account owner has disabled access to instagram direct messages", 2534041)


@register("B30", "code 230: pages_messaging is missing", "refuse", takes="nothing", kinds=ALL)
def permission_230(occasion: Occasion) -> Refusal:
    return Refusal(230, "(#230) Requires pages_messaging permission to manage the object")


@register("B30", "the token dies after so many calls (190/463)", "refuse", takes="calls", default="3")
def token_dies(occasion: Occasion) -> Refusal | None:
    occasion.memory["calls"] = calls = occasion.memory.get("calls", 0) + 1
    return expired_token() if calls > occasion.number else None


@register("B30", "the token was revoked (190/460)", "refuse", takes="nothing")
def token_revoked(occasion: Occasion) -> Refusal:
    text = "Error validating access token: The session has been invalidated because the user changed their password."
    return Refusal(190, text, 460)


@register("B30", "the version is retired and refused", "refuse", takes="nothing")
def retired_version(occasion: Occasion) -> Refusal:
    text = "(#2635) You are calling a deprecated version of the Graph API. Please update to the latest version: v26.0."
    return Refusal(2635, text)


@register("B30", "the version is retired; another one serves", "content", takes="version", default="v27.0")
def version_upgraded(occasion: Occasion, content: bytes, headers: dict[str, str]) -> bytes:
    headers["Facebook-API-Version"] = occasion.argument
    return content


@register("B0", "items of a batch that timed out are null", "body", takes="nothing", kinds=("other",))
def batch_null(occasion: Occasion, body: Any) -> Any:
    return [None if position % 2 else item for position, item in enumerate(body)] if isinstance(body, list) else body
