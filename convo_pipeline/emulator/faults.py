"""Faults by name: what can go wrong on the way (A) and in the API's answers (B).

`FAULTS` names them all with their number in the fault catalogue; `parse_fault` reads them from text such as
`slow_loris:0.1` (a probability) or `token_dies:5` (an argument). Drawing is seeded: the same calls meet the same faults.
"""

import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any

from convo_pipeline.emulator import (
    access_faults,
    network_faults,
    paging_faults,
    value_faults,
    world_faults,
)
from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.fault import REGISTRY, Fault, FaultContext, FaultKind, kind_of
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World

PARTS: tuple[ModuleType, ...] = (
    network_faults,
    paging_faults,
    world_faults,
    value_faults,
    access_faults,
)
"""The modules whose faults are entered below."""
FAULTS: Mapping[str, FaultKind] = MappingProxyType(REGISTRY)
"""Every fault by name."""
TEXT_ARGUMENTS = ("field", "version")


class FaultError(ValueError):
    """A fault's text cannot be read; the message says what would be right."""


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
    chosen = (
        kind.default
        if argument is None
        else f"{argument:g}"
        if isinstance(argument, float)
        else str(argument)
    )
    if chosen and kind.takes not in TEXT_ARGUMENTS and not _is_number(chosen):
        raise FaultError(f'{name} takes {kind.takes}, a number, not "{chosen}"')
    if kind.takes == "times" and times is None and chosen:
        times = int(float(chosen))
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
        raise FaultError(
            f'"{text}" is not name, name:probability, name:argument or name:argument:probability'
        )
    probability = 1.0
    if rest and "." in rest[-1] and _is_probability(rest[-1]):
        probability = float(rest.pop())
        if not rest and name in FAULTS and FAULTS[name].takes == "times":
            return replace(make_fault(name), probability=probability, times=None)
    elif len(rest) == 2:
        raise FaultError(f'"{rest[1]}" is not a probability such as 0.1')
    return make_fault(name, rest[0] if rest else None, probability)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_probability(text: str) -> bool:
    return _is_number(text) and 0 <= float(text) <= 1


class FaultInjector:
    """All faults of a server, applied to each call in the order they were given."""

    def __init__(
        self,
        faults: Sequence[Fault | str],
        world: World,
        switches: Switches,
        seed: int = 0,
        foreign_url: str = "",
    ) -> None:
        self.faults = [parse_fault(each) if isinstance(each, str) else each for each in faults]
        self.foreign_url = foreign_url
        self._world = world
        self._switches = switches
        self._rng = random.Random(seed)

    def draw(self, call: Call) -> list[tuple[FaultKind, FaultContext]]:
        """Return what this call meets."""
        kind = kind_of(call)
        drawn = []
        for fault in self.faults:
            if fault.draws(call.number, kind, self._rng):
                occasion = FaultContext(
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


ActiveFaults = Sequence[tuple[FaultKind, FaultContext]]


def prepare(drawn: ActiveFaults) -> None:
    """Let faults change the world or the call before it is answered."""
    for kind, occasion in drawn:
        if kind.prepare:
            kind.prepare(occasion)


def refusal_of(drawn: ActiveFaults) -> Refusal | EmulatedResponse | None:
    """Return what a fault answers in place of the API."""
    found = (kind.refuse(occasion) for kind, occasion in drawn if kind.refuse)
    return next((each for each in found if each is not None), None)


def spoil_body(drawn: ActiveFaults, body: Any) -> Any:
    """Return the body as the faults leave it; the world's own objects stay as they are."""
    changers = [(kind.body, occasion) for kind, occasion in drawn if kind.body]
    if changers:
        body = deepcopy(body)
    for change, occasion in changers:
        body = change(occasion, body)
    return body


def spoil_content(drawn: ActiveFaults, content: bytes, headers: dict[str, str]) -> bytes:
    for kind, occasion in drawn:
        if kind.content:
            content = kind.content(occasion, content, headers)
    return content
