"""All faults by name: A of the network, B of the API's responses.

`FAULTS` has each fault with its code in the fault catalogue. `parse_fault` reads a text such as
`slow_loris:0.1` (a probability) or `token_dies:5` (an argument). The random numbers are seeded:
the same calls get the same faults.
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
from convo_pipeline.emulator.refusals import Refusal, read_refusal
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import World

PARTS: tuple[ModuleType, ...] = (
    network_faults,
    paging_faults,
    world_faults,
    value_faults,
    access_faults,
)
"""Modules that register faults when they are imported."""
FAULTS: Mapping[str, FaultKind] = MappingProxyType(REGISTRY)
"""Every fault by name."""
TEXT_ARGUMENTS = ("field", "version", "error")


class FaultError(ValueError):
    """A fault's text is wrong; the message says what is allowed."""


def make_fault(
    name: str,
    argument: str | float | None = None,
    probability: float = 1.0,
    times: int | None = None,
    after_calls: int = 0,
) -> Fault:
    """Return a fault by name; it fires at most `times`, after the first `after_calls` calls."""
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
    if kind.takes == "error" and read_refusal(chosen) is None:
        raise FaultError(f'{name} takes an error such as 10, 100/33 or http403, not "{chosen}"')
    if chosen and kind.takes not in TEXT_ARGUMENTS and not _is_number(chosen):
        raise FaultError(f'{name} takes {kind.takes}, a number, not "{chosen}"')
    if kind.takes == "times" and times is None and chosen:
        times = int(float(chosen))
    return Fault(kind, chosen, probability, times, after_calls)


def parse_fault(text: str) -> Fault:
    """Parse `name`, `name:argument`, `name:probability` or `name:argument:probability`.

    A probability has a decimal point.

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
    """All faults of a server, applied to each call in the given order."""

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

    def choose(self, call: Call) -> list[tuple[FaultKind, FaultContext]]:
        """Return the faults that fire on this call."""
        kind = kind_of(call)
        active = []
        for fault in self.faults:
            if fault.fires(call.number, kind, self._rng):
                context = FaultContext(
                    call,
                    kind,
                    self._world,
                    self._switches,
                    self._rng,
                    fault.argument,
                    fault.memory,
                    self.foreign_url,
                )
                active.append((fault.kind, context))
        return active


ActiveFaults = Sequence[tuple[FaultKind, FaultContext]]


def prepare(active: ActiveFaults) -> None:
    """Let faults change the world or the call before the API answers."""
    for kind, context in active:
        if kind.prepare:
            kind.prepare(context)


def find_replacement(active: ActiveFaults) -> Refusal | EmulatedResponse | None:
    """Return the response of the first fault that replaces the API's response."""
    responses = (kind.refuse(context) for kind, context in active if kind.refuse)
    return next((each for each in responses if each is not None), None)


def change_body(active: ActiveFaults, body: Any) -> Any:
    """Return a copy of the body as the faults change it."""
    changers = [(kind.body, context) for kind, context in active if kind.body]
    if changers:
        body = deepcopy(body)
    for change, context in changers:
        body = change(context, body)
    return body


def change_content(active: ActiveFaults, content: bytes, headers: dict[str, str]) -> bytes:
    for kind, context in active:
        if kind.content:
            content = kind.content(context, content, headers)
    return content
