"""What a fault is: when it fires, what it may look at, and the raw connection for those below HTTP."""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World

WRITE_BUFFER_BYTES = 1 << 20


class RawConnection:
    """The raw connection, for what HTTP libraries do not let one do."""

    def __init__(self, transport: asyncio.Transport, receive: Callable[[], Awaitable[Any]]) -> None:
        self._transport = transport
        self._receive = receive

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    async def send(self, content: bytes) -> None:
        """Write, but never far ahead of the reader."""
        self._transport.write(content)
        while self.is_open and self._transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
            await asyncio.sleep(0.005)

    async def wait(self, seconds: float) -> None:
        """Sleep, or less when the client has gone."""
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
        """Close with an RST, unsent bytes thrown away."""
        found = self._transport.get_extra_info("socket")
        if found is not None and self.is_open:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


@dataclass
class FaultContext:
    """One call that a fault fires on, with everything it may look at or change."""

    call: Call
    kind: str
    """listing, find, edge, node or other, told from the path alone."""
    world: World
    switches: Switches
    rng: random.Random
    argument: str
    memory: dict[str, Any]
    """The fault's own, from call to call."""
    foreign_url: str
    """Another host, where nobody should ever be sent."""

    @property
    def number(self) -> float:
        return float(self.argument)


PrepareCall = Callable[[FaultContext], object]
RefuseCall = Callable[[FaultContext], Refusal | EmulatedResponse | None]
ChangeBody = Callable[[FaultContext, Any], Any]
ChangeContent = Callable[[FaultContext, bytes, dict[str, str]], bytes]
SendOnWire = Callable[
    [FaultContext, RawConnection, EmulatedResponse, bytes], Coroutine[Any, Any, None]
]


@dataclass(frozen=True)
class FaultKind:
    """A fault of the catalogue; one hook acts, at times with a `prepare` of its own."""

    name: str
    number: str
    summary: str
    takes: str = "times"
    """What the argument means; `times` = fire on so many calls only."""
    default: str = ""
    kinds: tuple[str, ...] = ()
    """The kinds of call it fires on; none = all."""
    prepare: PrepareCall | None = None
    refuse: RefuseCall | None = None
    body: ChangeBody | None = None
    content: ChangeContent | None = None
    wire: SendOnWire | None = None


@dataclass
class Fault:
    """A kind of fault and when it fires."""

    kind: FaultKind
    argument: str = ""
    probability: float = 1.0
    times: int | None = None
    after_calls: int = 0
    fired: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def draws(self, call_number: int, kind: str, rng: random.Random) -> bool:
        """Decide whether this call meets the fault."""
        if self.kind.kinds and kind not in self.kind.kinds:
            return False
        if call_number <= self.after_calls or (self.times is not None and self.fired >= self.times):
            return False
        if rng.random() >= self.probability:
            return False
        self.fired += 1
        return True


REGISTRY: dict[str, FaultKind] = {}
"""Every fault by name; `faults.FAULTS` is the whole of it."""


def register(number: str, summary: str, stage: str, **details: Any) -> Callable[[Any], Any]:
    """Enter a function into the catalogue under its own name."""

    def enter(function: Any) -> Any:
        name = function.__name__
        REGISTRY[name] = FaultKind(name, number, summary, **{stage: function}, **details)
        return function

    return enter


def kind_of(call: Call) -> str:
    """Tell the kind of a call from its path."""
    segments = call.segments
    if segments and segments[0][:1] == "v" and segments[0][1:].replace(".", "").isdigit():
        segments = segments[1:]
    if len(segments) == 2 and segments[1] in ("conversations", "threads"):
        return "find" if "user_id" in call.params else "listing"
    if len(segments) == 2 and segments[1] == "messages":
        return "edge"
    if (
        len(segments) == 1
        and segments[0] not in ("me", "debug_token")
        and not segments[0].isdigit()
    ):
        return "node"
    return "other"


def rows_of(container: Any) -> list[dict[str, Any]]:
    """Return the rows of a page or of a nested list, whatever its shape."""
    if isinstance(container, dict) and "data" in container:
        container = container["data"]
    if isinstance(container, dict):
        container = [container]
    return (
        [row for row in container if isinstance(row, dict)] if isinstance(container, list) else []
    )


def conversation_rows(occasion: FaultContext, body: Any) -> list[dict[str, Any]]:
    """Return the conversations of an answer."""
    if occasion.kind in ("listing", "find"):
        return rows_of(body)
    if (
        occasion.kind == "node"
        and isinstance(body, dict)
        and ("messages" in body or "participants" in body)
    ):
        return [body]
    return []


def message_rows(occasion: FaultContext, body: Any) -> list[dict[str, Any]]:
    """Return the messages of an answer, nested or not."""
    if occasion.kind == "edge":
        return rows_of(body)
    conversations = conversation_rows(occasion, body)
    if occasion.kind == "node" and not conversations and isinstance(body, dict):
        return [body]
    return [row for conversation in conversations for row in rows_of(conversation.get("messages"))]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object inside a value."""
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from walk(inner)
