"""Faults A: HTTP and the network."""

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
HTML = (
    b"<!DOCTYPE html><html><head><title>Sorry</title></head>"
    b"<body><h1>Something went wrong</h1></body></html>"
)


def head(answer: EmulatedResponse, length: int | None, **more: str) -> bytes:
    """Return a status line and headers as bytes."""
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
    "no connection is accepted, so connecting times out (whole server)",
    "prepare",
    takes="nothing",
)
def connect_timeout(context: FaultContext) -> None:
    """Do nothing for a call: `EmulatorServer` opens a port that answers no SYN."""


@register(
    "A2",
    "no response; the connection closes after this many seconds",
    "wire",
    takes="seconds",
    default="3600",
)
async def read_timeout(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.wait(context.number)
    wire.close()


@register("A2", "the response is this many seconds late", "wire", takes="seconds", default="0.5")
async def latency(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.wait(context.number)
    await wire.send(head(answer, len(content), Connection="close") + content)
    wire.close()


@register("A3", "one byte per this many seconds", "wire", takes="seconds", default="0.2")
async def slow_loris(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, len(content), Connection="close"))
    for position in range(len(content)):
        if not wire.is_open:
            return
        await wire.send(content[position : position + 1])
        await wire.wait(context.number)
    wire.close()


@register("A4", "connection reset before any byte", "wire")
async def reset(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    wire.reset()


@register("A5", "connection reset in the middle of the body", "wire")
async def reset_mid_body(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, len(content)) + content[: len(content) // 2])
    await wire.wait(0.05)
    wire.reset()


@register("A5", "fewer bytes than Content-Length", "wire")
async def short_body(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, len(content)) + content[: len(content) // 2])
    wire.close()


@register("A6", "no Content-Length, and only half of the body", "wire")
async def no_length(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    await wire.send(head(answer, None, Connection="close") + content[: len(content) // 2])
    wire.close()


@register("A6", "JSON cut in the middle, with a matching Content-Length", "content")
def truncated_json(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return content[: max(1, len(content) // 2)]


@register("A7", "chunked body without the last chunk", "wire")
async def endless_chunks(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    half = content[: len(content) // 2]
    await wire.send(head(answer, None, **{"Transfer-Encoding": "chunked"}))
    await wire.send(f"{len(half):x}\r\n".encode() + half + b"\r\n")
    wire.close()


@register(
    "A8",
    "valid JSON without the requested data",
    "content",
    kinds=CALLS,
)
def cut_at_edge(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return b'{"paging":{}}' if context.kind in ("listing", "edge") else b"{}"


def _gzipped(content: bytes, headers: dict[str, str]) -> bytes:
    headers["Content-Encoding"] = "gzip"
    return gzip.compress(content, 1)


@register("A9", "gzip cut in the middle", "content")
def gzip_cut(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    packed = _gzipped(content, headers)
    return packed[: len(packed) // 2]


@register("A9", "gzip with a wrong checksum", "content")
def gzip_bad_crc(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    packed = _gzipped(content, headers)
    return packed[:-8] + bytes(byte ^ 0xFF for byte in packed[-8:-4]) + packed[-4:]


@register("A9", "Content-Encoding gzip, but random bytes", "content")
def gzip_garbage(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["Content-Encoding"] = "gzip"
    return b"\x1f\x8b" + bytes(context.rng.randrange(256) for _ in range(200))


@register("A10", "gzip without its trailer", "content")
def gzip_no_trailer(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return _gzipped(content, headers)[:-8]


@register("A11", "an HTML page with status 200", "refuse")
def html_200(context: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(200, None, {"Content-Type": "text/html; charset=utf-8"}, HTML)


@register("A12", "status 200 without a body", "refuse")
def empty_body(context: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(200, None, {"Content-Type": "application/json"}, b"")


@register("A12", "status 204", "refuse")
def no_content(context: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(204, None, {}, b"")


@register("A13", "invalid UTF-8 in the body", "content")
def bad_utf8(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return (
        content.replace(b'"data"', b'"d\xff\xfea":0,"data"', 1)
        if b'"data"' in content
        else b'{"x":"\xc3\x28"}'
    )


@register("A13", "byte order mark before the JSON", "content")
def byte_order_mark(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return b"\xef\xbb\xbf" + content


@register("A13", "Latin-1 instead of UTF-8", "content")
def latin1(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return (
        json.dumps({"note": "Bäckerei"}, ensure_ascii=False).encode("latin-1")[:-1]
        + b","
        + content[1:]
    )


@register("A14", "NaN and Infinity as numbers", "content")
def nan(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return b'{"score":NaN,"limit":Infinity,' + content[1:]


@register("A14", "the same key twice", "content")
def duplicate_keys(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    return content[:-1] + b',"data":[]}' if content.startswith(b'{"data"') else content


@register("A14", "arrays nested this deep", "content", takes="depth", default="100000")
def deep_nesting(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    depth = int(context.number)
    return b'{"deep":' + b"[" * depth + b"]" * depth + b"," + content[1:]


@register("A15", "status 503, 500, 502, 504 in turn", "refuse", default="3")
def server_error(context: FaultContext) -> EmulatedResponse:
    context.memory["count"] = count = context.memory.get("count", 0) + 1
    return EmulatedResponse(
        (503, 500, 502, 504)[(count - 1) % 4], None, {"Content-Type": "text/html"}, HTML
    )


@register("A15", "503 with Retry-After in seconds", "refuse", default="1")
def retry_after_seconds(context: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(503, None, {"Retry-After": "2", "Content-Type": "text/html"}, HTML)


@register("A15", "503 with Retry-After as a date two seconds ahead", "refuse", default="1")
def retry_after_date(context: FaultContext) -> EmulatedResponse:
    moment = context.world.clock.now() + timedelta(seconds=2)
    return EmulatedResponse(
        503,
        None,
        {"Retry-After": format_datetime(moment, usegmt=True), "Content-Type": "text/html"},
        HTML,
    )


@register("A15", "code 2, transient", "refuse", default="2")
def transient(context: FaultContext) -> Refusal:
    return Refusal(
        2, "An unexpected error has occurred. Please retry your request later.", is_transient=True
    )


@register("A15", "code 1 without a reason", "refuse", default="1")
def unknown_error(context: FaultContext) -> Refusal:
    return Refusal(1, "An unknown error occurred", 99)


@register("A16", "429 without headers", "refuse", default="2")
def too_many_requests(context: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(429, None, {"Content-Type": "text/plain"}, b"Too Many Requests")


@register("A17", "613/2534040: more than two calls per second", "refuse", default="1", kinds=CALLS)
def throttle_613(context: FaultContext) -> Refusal:
    return rate_limited()


@register("A17", "code 4: app limit", "refuse", default="1", kinds=CALLS)
def throttle_4(context: FaultContext) -> Refusal:
    return Refusal(4, "(#4) Application request limit reached", is_transient=True)


@register(
    "A17", "code 17: user limit, in a body with status 200", "refuse", default="1", kinds=CALLS
)
def throttle_17(context: FaultContext) -> Refusal:
    return Refusal(17, "(#17) User request limit reached", 2446079, is_transient=True, status=200)


@register("A17", "code 32: Page limit", "refuse", default="1", kinds=CALLS)
def throttle_32(context: FaultContext) -> Refusal:
    return Refusal(32, "(#32) Page request limit reached")


@register("A17", "code 341: feed limit", "refuse", default="1", kinds=CALLS)
def throttle_341(context: FaultContext) -> Refusal:
    return Refusal(341, "(#341) Application limit reached, temporarily blocked")


@register("A17", "100/33 as a rate limit", "refuse", default="1", kinds=("edge", "node"))
def throttle_as_missing(context: FaultContext) -> Refusal:
    return Refusal(100, "Unsupported get request.", 33, "GraphMethodException")


def _business_limit(context: FaultContext, code: int, kind: str, text: str) -> Refusal:
    minutes = int(context.number)
    case = {
        "type": kind,
        "call_count": 100,
        "total_cputime": 25,
        "total_time": 25,
        "estimated_time_to_regain_access": minutes,
    }
    page_id = context.call.segments[-2] if len(context.call.segments) > 1 else "0"
    message = (
        f"(#{code}) There have been too many {text} to this Page account. Wait a bit and try again."
        " For more info, please refer to"
        " https://developers.facebook.com/docs/graph-api/overview/rate-limiting."
    )
    return Refusal(
        code, message, headers={"X-Business-Use-Case-Usage": json.dumps({page_id: [case]})}
    )


def _is_over(context: FaultContext) -> bool:
    """Return whether the block is over, by the emulator's clock."""
    until_us = context.memory.setdefault(
        "until_us", context.world.clock.now_us() + int(context.number * 60_000_000)
    )
    return bool(context.world.clock.now_us() >= until_us)


@register(
    "A18",
    "80006: Messenger limit for this many minutes",
    "refuse",
    takes="minutes",
    default="19",
    kinds=CALLS,
)
def business_80006(context: FaultContext) -> Refusal | None:
    return (
        None
        if _is_over(context)
        else _business_limit(context, 80006, "messenger", "messenger api calls")
    )


@register(
    "A18",
    "80002: Instagram limit for this many minutes",
    "refuse",
    takes="minutes",
    default="19",
    kinds=CALLS,
)
def business_80002(context: FaultContext) -> Refusal | None:
    return (
        None
        if _is_over(context)
        else _business_limit(context, 80002, "instagram", "instagram api calls")
    )


@register(
    "A18",
    "80001: Pages limit for this many minutes",
    "refuse",
    takes="minutes",
    default="19",
    kinds=CALLS,
)
def business_80001(context: FaultContext) -> Refusal | None:
    return None if _is_over(context) else _business_limit(context, 80001, "pages", "calls")


@register("A19", "usage headers with this percentage", "content", takes="percent", default="95")
def high_usage(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    figures = {"call_count": int(context.number), "total_time": 25, "total_cputime": 25}
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


@register("A20", "malformed usage headers", "content")
def malformed_usage(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["X-App-Usage"] = context.rng.choice(MALFORMED)
    headers["X-Business-Use-Case-Usage"] = context.rng.choice(MALFORMED)
    return content


@register("A21", "redirect to another host", "refuse")
def redirect(context: FaultContext) -> EmulatedResponse:
    return EmulatedResponse(
        302, None, {"Location": f"{context.foreign_url}{context.call.path}"}, b""
    )


@register("A24", "a body of this many megabytes", "wire", takes="megabytes", default="1024")
async def giant_body(
    context: FaultContext, wire: RawConnection, answer: EmulatedResponse, content: bytes
) -> None:
    size = int(context.number * MEGABYTE)
    await wire.send(head(answer, size) + content[:-1])
    remaining = size - len(content)
    block = b" " * MEGABYTE
    while remaining > 0 and wire.is_open:
        await wire.send(block[:remaining])
        remaining -= len(block)
    await wire.send(content[-1:])


@register(
    "A24",
    "a small gzip body that decompresses to this many megabytes",
    "content",
    takes="megabytes",
    default="1024",
)
def zip_bomb(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
    headers["Content-Encoding"] = "gzip"
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(content[:-1])]
    block = b" " * MEGABYTE
    parts += [packer.compress(block) for _ in range(int(context.number))]
    return b"".join([*parts, packer.compress(content[-1:]), packer.flush()])
