"""A fault: when it fires, what it can read and change, and the raw connection."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.refusals import Refusal, read_refusal
from convo_pipeline.emulator.render import WRAPPED
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World, stable_number

WRITE_BUFFER_BYTES = 1 << 20


class RawConnection:
    """The raw connection, for responses that HTTP libraries do not allow."""

    def __init__(self, transport: asyncio.Transport, receive: Callable[[], Awaitable[Any]]) -> None:
        self._transport = transport
        self._receive = receive

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    async def send(self, content: bytes) -> None:
        """Write, with a limited buffer."""
        self._transport.write(content)
        while self.is_open and self._transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
            await asyncio.sleep(0.005)

    async def wait(self, seconds: float) -> None:
        """Sleep, but stop when the client disconnects."""
        try:
            await asyncio.wait_for(self.wait_closed(), seconds)
        except TimeoutError:
            return

    async def wait_closed(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        self._transport.close()

    def reset(self) -> None:
        """Close with an RST and drop unsent bytes."""
        raw_socket = self._transport.get_extra_info("socket")
        if raw_socket is not None and self.is_open:
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


@dataclass
class FaultContext:
    """A call on which a fault fires, and everything that the fault can read or change."""

    call: Call
    kind: str
    """listing, find, edge, inner (a nested list), node or other, derived from the path."""
    world: World
    switches: Switches
    rng: random.Random
    argument: str
    memory: dict[str, Any]
    """Values that the fault keeps between calls."""
    foreign_url: str
    """Address of another host that the client must never call."""

    @property
    def number(self) -> float:
        return float(self.argument)

    @property
    def refusal(self) -> Refusal:
        """The error that the argument names."""
        refusal = read_refusal(self.argument)
        assert refusal is not None
        return refusal


PrepareCall = Callable[[FaultContext], object]
RefuseCall = Callable[[FaultContext], Refusal | EmulatedResponse | None]
ChangeBody = Callable[[FaultContext, Any], Any]
ChangeContent = Callable[[FaultContext, bytes, dict[str, str]], bytes]
SendOnWire = Callable[
    [FaultContext, RawConnection, EmulatedResponse, bytes], Coroutine[Any, Any, None]
]


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault. One function acts; some have a `prepare` function as well."""

    name: str
    number: str
    summary: str
    takes: str = "times"
    """Meaning of the argument; `times` is the number of calls on which it fires."""
    default: str = ""
    kinds: tuple[str, ...] = ()
    """Kinds of calls on which it fires; none means all."""
    prepare: PrepareCall | None = None
    refuse: RefuseCall | None = None
    body: ChangeBody | None = None
    content: ChangeContent | None = None
    wire: SendOnWire | None = None


@dataclass
class Fault:
    """A kind of fault, its argument and when it fires."""

    kind: FaultKind
    argument: str = ""
    probability: float = 1.0
    times: int | None = None
    after_calls: int = 0
    fired: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def fires(self, call_number: int, kind: str, rng: random.Random) -> bool:
        """Return whether the fault fires on this call."""
        if self.kind.kinds and kind not in self.kind.kinds:
            return False
        if call_number <= self.after_calls or (self.times is not None and self.fired >= self.times):
            return False
        if rng.random() >= self.probability:
            return False
        self.fired += 1
        return True


REGISTRY: dict[str, FaultKind] = {}
"""Every fault by name; use `faults.FAULTS`, which imports all modules."""


def register(number: str, summary: str, stage: str, **details: Any) -> Callable[[Any], Any]:
    """Register a function as a fault under its name."""

    def enter(function: Any) -> Any:
        name = function.__name__
        REGISTRY[name] = FaultKind(name, number, summary, **{stage: function}, **details)
        return function

    return enter


def object_segments(call: Call) -> list[str]:
    """Return the path of a call without the version: the object, and its edge if it has one."""
    segments = call.segments
    has_version = segments and segments[0][:1] == "v" and segments[0][1:].replace(".", "").isdigit()
    return segments[1:] if has_version else segments


def kind_of(call: Call) -> str:
    """Return the kind of a call from its path."""
    segments = object_segments(call)
    if len(segments) == 2 and segments[1] in ("conversations", "threads"):
        return "find" if "user_id" in call.params else "listing"
    if len(segments) == 2 and segments[1] == "messages":
        return "edge"
    if len(segments) == 2 and segments[1] in ("participants", *WRAPPED):
        return "inner"
    if (
        len(segments) == 1
        and segments[0] not in ("me", "debug_token")
        and not segments[0].isdigit()
    ):
        return "node"
    return "other"


def rows_of(container: Any) -> list[dict[str, Any]]:
    """Return the rows of a page or of a nested list of any shape."""
    if isinstance(container, dict) and "data" in container:
        container = container["data"]
    if isinstance(container, dict):
        container = [container]
    return (
        [row for row in container if isinstance(row, dict)] if isinstance(container, list) else []
    )


def conversation_rows(context: FaultContext, body: Any) -> list[dict[str, Any]]:
    """Return the conversations in a response body."""
    if context.kind in ("listing", "find"):
        return rows_of(body)
    if (
        context.kind == "node"
        and isinstance(body, dict)
        and ("messages" in body or "participants" in body)
    ):
        return [body]
    return []


def message_rows(context: FaultContext, body: Any) -> list[dict[str, Any]]:
    """Return the messages in a response body, nested or not."""
    if context.kind == "edge":
        return rows_of(body)
    conversations = conversation_rows(context, body)
    if context.kind == "node" and not conversations and isinstance(body, dict):
        return [body]
    return [row for conversation in conversations for row in rows_of(conversation.get("messages"))]


def is_chosen(object_id: Any) -> bool:
    """Return whether an object is one of the third that a lasting fault concerns."""
    return stable_number(str(object_id), 9) % 3 == 0


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object inside a value."""
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from walk(inner)
