"""Faults as small objects: what can go wrong on the way (A) and in the API's answers (B).

`FAULTS` names them all with their number in the fault catalogue; `parse_fault` reads them from text such as
`slow_loris:0.1` (a probability) or `token_dies:5` (an argument). Drawing is seeded: the same calls meet the same faults.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from convo_pipeline.emulator.calls import Answer, Call
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World

WRITE_BUFFER_BYTES = 1 << 20


class FaultError(ValueError):
    """A fault's text cannot be read; the message says what would be right."""


class Wire:
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
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


@dataclass
class Occasion:
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


Prepare = Callable[[Occasion], object]
Refuse = Callable[[Occasion], Refusal | Answer | None]
Body = Callable[[Occasion, Any], Any]
Bytes = Callable[[Occasion, bytes, dict[str, str]], bytes]
WireWrite = Callable[[Occasion, Wire, Answer, bytes], Coroutine[Any, Any, None]]


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
    prepare: Prepare | None = None
    refuse: Refuse | None = None
    body: Body | None = None
    content: Bytes | None = None
    wire: WireWrite | None = None


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


_REGISTRY: dict[str, FaultKind] = {}
FAULTS: Mapping[str, FaultKind] = MappingProxyType(_REGISTRY)
"""Every fault by name."""


def register(number: str, summary: str, stage: str, **details: Any) -> Callable[[Any], Any]:
    """Enter a function into the catalogue under its own name."""

    def enter(function: Any) -> Any:
        name = function.__name__
        _REGISTRY[name] = FaultKind(name, number, summary, **{stage: function}, **details)
        return function

    return enter


def make_fault(
    name: str,
    argument: str | float | None = None,
    probability: float = 1.0,
    times: int | None = None,
    after_calls: int = 0,
) -> Fault:
    """Return a fault by its name; `times` bounds how often, `after_calls` lets the first calls pass."""
    kind = FAULTS.get(name)
    if kind is None:
        raise FaultError(f'no fault is called "{name}"; there are: {", ".join(sorted(FAULTS))}')
    chosen = kind.default if argument is None else f"{argument:g}" if isinstance(argument, float) else str(argument)
    if kind.takes == "times" and times is None and chosen:
        times = int(chosen)
    return Fault(kind, chosen, probability, times, after_calls)


def parse_fault(text: str) -> Fault:
    """Read `name`, `name:probability` (with a point), `name:argument` or `name:argument:probability`.

    >>> fault = parse_fault("slow_loris:0.1")
    >>> fault.kind.name, fault.probability
    ('slow_loris', 0.1)
    >>> parse_fault("token_dies:5").argument
    '5'
    """
    name, *rest = text.split(":")
    if len(rest) > 2:
        raise FaultError(f'"{text}" is not name, name:probability, name:argument or name:argument:probability')
    probability = 1.0
    if rest and "." in rest[-1] and _is_probability(rest[-1]):
        probability = float(rest.pop())
        if not rest and name in FAULTS and FAULTS[name].takes == "times":
            return replace(make_fault(name), probability=probability, times=None)
    elif len(rest) == 2:
        raise FaultError(f'"{rest[1]}" is not a probability such as 0.1')
    return make_fault(name, rest[0] if rest else None, probability)


def _is_probability(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


class Trouble:
    """All faults of a server, applied to each call in the order they were given."""

    def __init__(
        self, faults: Sequence[Fault | str], world: World, switches: Switches, seed: int = 0, foreign_url: str = ""
    ) -> None:
        self.faults = [parse_fault(each) if isinstance(each, str) else each for each in faults]
        self.foreign_url = foreign_url
        self._world = world
        self._switches = switches
        self._rng = random.Random(seed)

    def draw(self, call: Call) -> list[tuple[FaultKind, Occasion]]:
        """Return what this call meets."""
        kind = kind_of(call)
        drawn = []
        for fault in self.faults:
            if fault.draws(call.number, kind, self._rng):
                occasion = Occasion(
                    call,
                    kind,
                    self._world,
                    self._switches,
                    self._rng,
                    fault.argument,
                    fault.memory,
                    self.foreign_url,
                )
                drawn.append((fault.kind, occasion))
        return drawn


Drawn = Sequence[tuple[FaultKind, Occasion]]


def prepare(drawn: Drawn) -> None:
    """Let faults change the world or the call before it is answered."""
    for kind, occasion in drawn:
        if kind.prepare:
            kind.prepare(occasion)


def refusal_of(drawn: Drawn) -> Refusal | Answer | None:
    """Return what a fault answers in place of the API."""
    found = (kind.refuse(occasion) for kind, occasion in drawn if kind.refuse)
    return next((each for each in found if each is not None), None)


def spoil_body(drawn: Drawn, body: Any) -> Any:
    """Return the body as the faults leave it; the world's own objects stay as they are."""
    changers = [(kind.body, occasion) for kind, occasion in drawn if kind.body]
    if changers:
        body = deepcopy(body)
    for change, occasion in changers:
        body = change(occasion, body)
    return body


def spoil_content(drawn: Drawn, content: bytes, headers: dict[str, str]) -> bytes:
    for kind, occasion in drawn:
        if kind.content:
            content = kind.content(occasion, content, headers)
    return content


def kind_of(call: Call) -> str:
    """Tell the kind of a call from its path."""
    segments = call.segments
    if segments and segments[0][:1] == "v" and segments[0][1:].replace(".", "").isdigit():
        segments = segments[1:]
    if len(segments) == 2 and segments[1] in ("conversations", "threads"):
        return "find" if "user_id" in call.params else "listing"
    if len(segments) == 2 and segments[1] == "messages":
        return "edge"
    if len(segments) == 1 and segments[0] not in ("me", "debug_token") and not segments[0].isdigit():
        return "node"
    return "other"


def rows_of(container: Any) -> list[dict[str, Any]]:
    """Return the rows of a page or of a nested list, whatever its shape."""
    if isinstance(container, dict) and "data" in container:
        container = container["data"]
    if isinstance(container, dict):
        container = [container]
    return [row for row in container if isinstance(row, dict)] if isinstance(container, list) else []


def conversation_rows(occasion: Occasion, body: Any) -> list[dict[str, Any]]:
    """Return the conversations of an answer."""
    if occasion.kind in ("listing", "find"):
        return rows_of(body)
    if occasion.kind == "node" and isinstance(body, dict) and ("messages" in body or "participants" in body):
        return [body]
    return []


def message_rows(occasion: Occasion, body: Any) -> list[dict[str, Any]]:
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
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)
