"""Faults of the catalogue's part A: HTTP and the network."""

import gzip
import json
import zlib
from datetime import timedelta
from email.utils import format_datetime

from convo_pipeline.emulator.calls import EmulatedResponse
from convo_pipeline.emulator.fault import FaultContext, RawConnection, register
from convo_pipeline.emulator.refusals import Refusal, rate_limited

MEGABYTE = 1 << 20
CALLS = ("listing", "find", "edge", "node")
HTML = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body><h1>Something went wrong</h1></body></html>"


def head(answer: EmulatedResponse, length: int | None, **more: str) -> bytes:
    """Write a status line and headers by hand."""
    headers = {**answer.headers, **more} | (
        {} if length is None else {"Content-Length": str(length)}
    )
    lines = [
        f"HTTP/1.1 {answer.status} OK",
        *(f"{name}: {value}" for name, value in headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1", "replace")


@register(
    "A1",
    "connections are not accepted (the whole server; connect time-out)",
    "prepare",
    takes="nothing",
)
def connect_timeout(occasion: FaultContext) -> None:
    """Nothing to do at a call: `EmulatorServer` opens a port that answers no SYN."""


@register(
    "A2", "no answer for so many seconds, then none at all", "wire", takes="seconds", default="3600"
)
async def read_timeout(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.wait(occasion.number)
    wire.close()


@register("A2", "the answer comes so many seconds late", "wire", takes="seconds", default="0.5")
async def latency(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.wait(occasion.number)
    await wire.send(head(answer, len(content), Connection="close") + content)
    wire.close()


@register("A3", "one byte every so many seconds", "wire", takes="seconds", default="0.2")
async def slow_loris(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, len(content), Connection="close"))
    for position in range(len(content)):
        if not wire.is_open:
            return
        await wire.send(content[position : position + 1])
        await wire.wait(occasion.number)
    wire.close()


@register("A4", "connection reset before any byte", "wire")
async def reset(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    wire.reset()


@register("A5", "connection reset in mid-body", "wire")
async def reset_mid_body(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, len(content)) + content[: len(content) // 2])
    await wire.wait(0.05)
    wire.reset()


@register("A5", "fewer bytes than Content-Length says", "wire")
async def short_body(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, len(content)) + content[: len(content) // 2])
    wire.close()


@register("A6", "no Content-Length, half a body, end", "wire")
async def no_length(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, None, Connection="close") + content[: len(content) // 2])
    wire.close()


@register("A6", "JSON cut in the middle, length as if it were whole", "content")
def truncated_json(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return content[: max(1, len(content) // 2)]


@register("A7", "chunks without an end", "wire")
async def endless_chunks(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    half = content[: len(content) // 2]
    await wire.send(head(answer, None, **{"Transfer-Encoding": "chunked"}))
    await wire.send(f"{len(half):x}\r\n".encode() + half + b"\r\n")
    wire.close()


@register(
    "A8",
    "cut at an object's edge: valid JSON that lacks what was asked for",
    "content",
    kinds=CALLS,
)
def cut_at_edge(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return b'{"paging":{}}' if occasion.kind in ("listing", "edge") else b"{}"


def _gzipped(content: bytes, headers: dict[str, str]) -> bytes:
    headers["Content-Encoding"] = "gzip"
    return gzip.compress(content, 1)


@register("A9", "gzip cut in the middle", "content")
def gzip_cut(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    packed = _gzipped(content, headers)
    return packed[: len(packed) // 2]


@register("A9", "gzip with a wrong checksum", "content")
def gzip_bad_crc(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    packed = _gzipped(content, headers)
    return packed[:-8] + bytes(byte ^ 0xFF for byte in packed[-8:-4]) + packed[-4:]


@register("A9", "said to be gzip, and is not", "content")
def gzip_garbage(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["Content-Encoding"] = "gzip"
    return b"\x1f\x8b" + bytes(occasion.rng.randrange(256) for _ in range(200))


@register("A10", "gzip without its trailer", "content")
def gzip_no_trailer(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return _gzipped(content, headers)[:-8]


@register("A11", "an HTML page with status 200", "refuse")
def html_200(occasion: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(200, None, {"Content-Type": "text/html; charset=utf-8"}, HTML)


@register("A12", "status 200 without a body", "refuse")
def empty_body(occasion: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(200, None, {"Content-Type": "application/json"}, b"")


@register("A12", "status 204", "refuse")
def no_content(occasion: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(204, None, {}, b"")


@register("A13", "invalid UTF-8 inside a text", "content")
def bad_utf8(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return (
        content.replace(b'"data"', b'"d\xff\xfea":0,"data"', 1)
        if b'"data"' in content
        else b'{"x":"\xc3\x28"}'
    )


@register("A13", "a byte order mark before the JSON", "content")
def byte_order_mark(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return b"\xef\xbb\xbf" + content


@register("A13", "Latin-1 instead of UTF-8", "content")
def latin1(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return (
        json.dumps({"note": "Bäckerei"}, ensure_ascii=False).encode("latin-1")[:-1]
        + b","
        + content[1:]
    )


@register("A14", "NaN and Infinity as numbers", "content")
def nan(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return b'{"score":NaN,"limit":Infinity,' + content[1:]


@register("A14", "the same key twice", "content")
def duplicate_keys(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return content[:-1] + b',"data":[]}' if content.startswith(b'{"data"') else content


@register("A14", "arrays nested so deep", "content", takes="depth", default="100000")
def deep_nesting(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    depth = int(occasion.number)
    return b'{"deep":' + b"[" * depth + b"]" * depth + b"," + content[1:]


@register("A15", "a burst of 500, 502, 503 and 504", "refuse", default="3")
def server_error(occasion: FaultContext) -> EmulatedResponse:
    occasion.memory["count"] = count = occasion.memory.get("count", 0) + 1
    return EmulatedResponse(
        (503, 500, 502, 504)[(count - 1) % 4], None, {"Content-Type": "text/html"}, HTML
    )


@register("A15", "503 with Retry-After in seconds", "refuse", default="1")
def retry_after_seconds(occasion: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(503, None, {"Retry-After": "2", "Content-Type": "text/html"}, HTML)


@register("A15", "503 with Retry-After as a date two seconds ahead", "refuse", default="1")
def retry_after_date(occasion: FaultContext) -> EmulatedResponse:
    moment = occasion.world.clock.now() + timedelta(seconds=2)
    return EmulatedResponse(
        503,
        None,
        {"Retry-After": format_datetime(moment, usegmt=True), "Content-Type": "text/html"},
        HTML,
    )


@register("A15", "code 2, transient, so many times", "refuse", default="2")
def transient(occasion: FaultContext) -> Refusal:
    return Refusal(
        2, "An unexpected error has occurred. Please retry your request later.", is_transient=True
    )


@register("A15", "code 1 without a reason, so many times", "refuse", default="1")
def unknown_error(occasion: FaultContext) -> Refusal:
    return Refusal(1, "An unknown error occurred", 99)


@register("A16", "429 without headers", "refuse", default="2")
def too_many_requests(occasion: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(429, None, {"Content-Type": "text/plain"}, b"Too Many Requests")


@register("A17", "613/2534040: more than two calls a second", "refuse", default="1", kinds=CALLS)
def throttle_613(occasion: FaultContext) -> Refusal:
    return rate_limited()


@register("A17", "code 4: app limit", "refuse", default="1", kinds=CALLS)
def throttle_4(occasion: FaultContext) -> Refusal:
    return Refusal(4, "(#4) Application request limit reached", is_transient=True)


@register(
    "A17", "code 17: user limit, in a body with status 200", "refuse", default="1", kinds=CALLS
)
def throttle_17(occasion: FaultContext) -> Refusal:
    return Refusal(17, "(#17) User request limit reached", 2446079, is_transient=True, status=200)


@register("A17", "code 32: Page limit", "refuse", default="1", kinds=CALLS)
def throttle_32(occasion: FaultContext) -> Refusal:
    return Refusal(32, "(#32) Page request limit reached")


@register("A17", "code 341: feed limit", "refuse", default="1", kinds=CALLS)
def throttle_341(occasion: FaultContext) -> Refusal:
    return Refusal(341, "(#341) Application limit reached, temporarily blocked")


@register("A17", "100/33 that means slow down", "refuse", default="1", kinds=("edge", "node"))
def throttle_as_missing(occasion: FaultContext) -> Refusal:
    return Refusal(100, "Unsupported get request.", 33, "GraphMethodException")


def _business_limit(occasion: FaultContext, code: int, kind: str, text: str) -> Refusal:
    minutes = int(occasion.number)
    case = {
        "type": kind,
        "call_count": 100,
        "total_cputime": 25,
        "total_time": 25,
        "estimated_time_to_regain_access": minutes,
    }
    page_id = occasion.call.segments[-2] if len(occasion.call.segments) > 1 else "0"
    message = f"(#{code}) There have been too many {text} to this Page account. Wait a bit and try again. For more info, please refer to https://developers.facebook.com/docs/graph-api/overview/rate-limiting."
    return Refusal(
        code, message, headers={"X-Business-Use-Case-Usage": json.dumps({page_id: [case]})}
    )


def _is_over(occasion: FaultContext) -> bool:
    """Whether the block has passed, by the emulator's clock."""
    until_us = occasion.memory.setdefault(
        "until_us", occasion.world.clock.now_us() + int(occasion.number * 60_000_000)
    )
    return bool(occasion.world.clock.now_us() >= until_us)


@register(
    "A18",
    "80006: Messenger limit for so many minutes",
    "refuse",
    takes="minutes",
    default="19",
    kinds=CALLS,
)
def business_80006(occasion: FaultContext) -> Refusal | None:
    return (
        None
        if _is_over(occasion)
        else _business_limit(occasion, 80006, "messenger", "messenger api calls")
    )


@register(
    "A18",
    "80002: Instagram limit for so many minutes",
    "refuse",
    takes="minutes",
    default="19",
    kinds=CALLS,
)
def business_80002(occasion: FaultContext) -> Refusal | None:
    return (
        None
        if _is_over(occasion)
        else _business_limit(occasion, 80002, "instagram", "instagram api calls")
    )


@register(
    "A18",
    "80001: Pages limit for so many minutes",
    "refuse",
    takes="minutes",
    default="19",
    kinds=CALLS,
)
def business_80001(occasion: FaultContext) -> Refusal | None:
    return None if _is_over(occasion) else _business_limit(occasion, 80001, "pages", "calls")


@register("A19", "usage headers say 95 %", "content", takes="percent", default="95")
def high_usage(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    figures = {"call_count": int(occasion.number), "total_time": 25, "total_cputime": 25}
    case = {"type": "messenger", **figures, "estimated_time_to_regain_access": 0}
    headers["X-App-Usage"] = json.dumps(figures)
    headers["X-Business-Use-Case-Usage"] = json.dumps({"1": [case]})
    return content


MALFORMED = (
    "",
    "{",
    "null",
    "[]",
    '{"call_count":"many"}',
    '{"1":[{}]}',
    '{"1":null}',
    "95%",
    '{"call_count":NaN}',
)


@register("A20", "usage headers that cannot be read", "content")
def malformed_usage(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["X-App-Usage"] = occasion.rng.choice(MALFORMED)
    headers["X-Business-Use-Case-Usage"] = occasion.rng.choice(MALFORMED)
    return content


@register("A21", "a redirect to another host", "refuse")
def redirect(occasion: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(
        302, None, {"Location": f"{occasion.foreign_url}{occasion.call.path}"}, b""
    )


@register("A24", "a body of so many megabytes", "wire", takes="megabytes", default="1024")
async def giant_body(
    occasion: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    size = int(occasion.number * MEGABYTE)
    await wire.send(head(answer, size) + content[:-1])
    left = size - len(content)
    block = b" " * MEGABYTE
    while left > 0 and wire.is_open:
        await wire.send(block[:left])
        left -= len(block)
    await wire.send(content[-1:])


@register(
    "A24",
    "a small gzip body that unpacks to so many megabytes",
    "content",
    takes="megabytes",
    default="1024",
)
def zip_bomb(occasion: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["Content-Encoding"] = "gzip"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(content[:-1])]
    block = b" " * MEGABYTE
    parts += [packer.compress(block) for _ in range(int(occasion.number))]
    return b"".join([*parts, packer.compress(content[-1:]), packer.flush()])
