"""Faults of part B that spoil paging: cursors, pages, order, `next`."""

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


def _paging(body: Any) -> Payload | None:
    paging = body.get("paging") if isinstance(body, dict) else None
    return paging if isinstance(paging, dict) and "cursors" in paging else None


def _link_to(paging: Payload, after: str, base: str) -> None:
    paging["cursors"]["after"] = after
    paging["next"] = f"{base}&after={after}"


@register(
    "B1",
    "after so many pages the cursors lead back to the first (A-B-A)",
    "body",
    takes="pages",
    default="2",
    kinds=LISTS,
)
def cursor_loop(occasion: FaultContext, body: Any) -> Any:
    paging, seen = _paging(body), occasion.memory.setdefault(occasion.call.path, [])
    if paging is None:
        return body
    if len(seen) >= occasion.number:
        _link_to(paging, seen[0], f"{occasion.call.base_url}{occasion.call.path}?limit=25")
    else:
        seen.append(paging["cursors"]["after"])
    return body


@register("B1", "the cursor given is the one that was asked for", "body", kinds=LISTS)
def cursor_repeated(occasion: FaultContext, body: Any) -> Any:
    paging, asked = _paging(body), occasion.call.params.get("after")
    if paging is not None and asked:
        _link_to(paging, asked, f"{occasion.call.base_url}{occasion.call.path}?limit=25")
    return body


@register("B2", "an empty page that has a next", "body", default="2", kinds=LISTS)
def empty_page(occasion: FaultContext, body: Any) -> Any:
    occasion.memory["salt"] = salt = occasion.memory.get("salt", 0) + 1
    asked = ids.read_cursor(occasion.call.params.get("after", "")) or ["s"]
    after = ids.write_cursor(
        [*asked[:3], f"salt{salt}"] if len(asked) > 1 else ["s", f"salt{salt}"]
    )
    paging: Payload = {"cursors": {"before": after}}
    _link_to(paging, after, f"{occasion.call.base_url}{occasion.call.path}?limit=25")
    return {"data": [], "paging": paging}


@register(
    "B3", "pages shorter than asked for, with a next", "prepare", takes="nothing", kinds=LISTS
)
def short_page(occasion: FaultContext) -> None:
    asked = occasion.call.params.get("limit", "25")
    if asked.isdigit():
        occasion.call.params["limit"] = str(max(1, int(asked) // 2))


@register(
    "B4",
    "each page begins with the last row of the one before",
    "body",
    takes="nothing",
    kinds=LISTS,
)
def duplicates(occasion: FaultContext, body: Any) -> Any:
    rows, key = rows_of(body), occasion.call.path
    if rows and "data" in body:
        body["data"] = [*occasion.memory.get(key, []), *rows, deepcopy(rows[0])]
        occasion.memory[key] = [
            deepcopy(rows[-1])
        ]  # copies: what another fault does to a row, it does to each once
    return body


@register("B5", "rows of a page in any order", "body", takes="nothing", kinds=LISTS)
def shuffled(occasion: FaultContext, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("data"), list):
        occasion.rng.shuffle(body["data"])
    return body


@register("B7", "the cursor has died", "refuse", default="1", kinds=LISTS)
def dead_cursor(occasion: FaultContext) -> Refusal | None:
    return bad_parameter("Invalid cursors values") if "after" in occasion.call.params else None


@register("B26", "next points to another host", "body", takes="nothing", kinds=LISTS)
def foreign_next(occasion: FaultContext, body: Any) -> Any:
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
def altered_next(occasion: FaultContext, body: Any) -> Any:
    paging = _paging(body)
    if paging and "next" in paging:
        own = urlsplit(paging["next"])
        query = f"fields=id&limit=1&platform=messenger&after={paging['cursors']['after']}"
        paging["next"] = urlunsplit((own.scheme, own.netloc, "/v1.0/../me/accounts", query, ""))
    return body
