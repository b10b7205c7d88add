"""Faults B of paging: cursors, pages, order, `next`."""

from copy import deepcopy
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from convo_pipeline.emulator import ids
from convo_pipeline.emulator.fault import FaultContext, register, rows_of
from convo_pipeline.emulator.refusals import (
    Refusal,
    bad_parameter,
)
from convo_pipeline.emulator.world import Payload

LISTS = ("listing", "edge")
ALL_LISTS = (*LISTS, "inner")


def _paging(body: Any) -> Payload | None:
    paging = body.get("paging") if isinstance(body, dict) else None
    return paging if isinstance(paging, dict) and "cursors" in paging else None


def _link_to(paging: Payload, after: str, base: str) -> None:
    paging["cursors"]["after"] = after
    paging["next"] = f"{base}&after={after}"


@register(
    "B1",
    "after this many pages the cursors lead back to the first page (A-B-A)",
    "body",
    takes="pages",
    default="2",
    kinds=ALL_LISTS,
)
def cursor_loop(context: FaultContext, body: Any) -> Any:
    paging, cursors = _paging(body), context.memory.setdefault(context.call.path, [])
    if paging is None:
        return body
    if len(cursors) >= context.number:
        _link_to(paging, cursors[0], f"{context.call.base_url}{context.call.path}?limit=25")
    else:
        cursors.append(paging["cursors"]["after"])
    return body


@register("B1", "the next cursor equals the requested one", "body", kinds=ALL_LISTS)
def cursor_repeated(context: FaultContext, body: Any) -> Any:
    paging, asked = _paging(body), context.call.params.get("after")
    if paging is not None and asked:
        _link_to(paging, asked, f"{context.call.base_url}{context.call.path}?limit=25")
    return body


@register("B2", "an empty page with a next", "body", default="2", kinds=LISTS)
def empty_page(context: FaultContext, body: Any) -> Any:
    context.memory["salt"] = salt = context.memory.get("salt", 0) + 1
    asked = ids.read_cursor(context.call.params.get("after", "")) or ["s"]
    after = ids.write_cursor(
        [*asked[:3], f"salt{salt}"] if len(asked) > 1 else ["s", f"salt{salt}"]
    )
    paging: Payload = {"cursors": {"before": after}}
    _link_to(paging, after, f"{context.call.base_url}{context.call.path}?limit=25")
    return {"data": [], "paging": paging}


@register(
    "B3", "pages shorter than requested, with a next", "prepare", takes="nothing", kinds=LISTS
)
def short_page(context: FaultContext) -> None:
    asked = context.call.params.get("limit", "25")
    if asked.isdigit():
        context.call.params["limit"] = str(max(1, int(asked) // 2))


@register(
    "B4",
    "each page begins with the last row of the previous page",
    "body",
    takes="nothing",
    kinds=LISTS,
)
def duplicates(context: FaultContext, body: Any) -> Any:
    rows, key = rows_of(body), context.call.path
    if rows and "data" in body:
        body["data"] = [*context.memory.get(key, []), *rows, deepcopy(rows[0])]
        context.memory[key] = [
            deepcopy(rows[-1])
        ]  # a copy, because another fault may change the row
    return body


@register("B5", "rows of a page in random order", "body", takes="nothing", kinds=LISTS)
def shuffled(context: FaultContext, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("data"), list):
        context.rng.shuffle(body["data"])
    return body


@register("B7", "the cursor is invalid", "refuse", default="1", kinds=ALL_LISTS)
def dead_cursor(context: FaultContext) -> Refusal | None:
    return bad_parameter("Invalid cursors values") if "after" in context.call.params else None


@register("B26", "next points to another host", "body", takes="nothing", kinds=ALL_LISTS)
def foreign_next(context: FaultContext, body: Any) -> Any:
    paging = _paging(body)
    if paging and "next" in paging:
        own, foreign = urlsplit(paging["next"]), urlsplit(context.foreign_url)
        netloc = context.rng.choice(
            (foreign.netloc, f"{own.netloc}@{foreign.netloc}", f"127.0.0.1.nip.invalid:{own.port}")
        )
        scheme = context.rng.choice(("http", "https", "file"))
        paging["next"] = urlunsplit((scheme, netloc, own.path, own.query, ""))
    return body


@register("B27", "next changes path, fields and limit", "body", takes="nothing", kinds=ALL_LISTS)
def altered_next(context: FaultContext, body: Any) -> Any:
    paging = _paging(body)
    if paging and "next" in paging:
        own = urlsplit(paging["next"])
        query = f"fields=id&limit=1&platform=messenger&after={paging['cursors']['after']}"
        paging["next"] = urlunsplit((own.scheme, own.netloc, "/v1.0/../me/accounts", query, ""))
    return body
