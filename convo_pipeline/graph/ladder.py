"""What to ask next, given what was asked and what was answered. Pure, remembered per account as JSON.

Going down a listing: fewer conversations a page, then fewer messages of a single one, then without nesting (each
conversation's messages are then asked by a call of their own). Down a conversation's own messages: fewer a page, then
their ids alone and one call per message. A refused field is dropped for the account and tried again after a week.
Going up: one rung after so many good pages, and longer waiting after each climb that failed.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

import orjson

from convo_pipeline.errors import (
    GraphError,
    MissingError,
    RetryableError,
    TooMuchDataError,
    UnknownFieldError,
)
from convo_pipeline.graph.codes import UNKNOWN_ERROR, may_concern_one_row
from convo_pipeline.graph.fields import droppable, optional_names, optional_share_names

Mode = Literal["nested", "light"]
MODES: tuple[Mode, ...] = ("nested", "light")

SIZES = ((50, 20), (25, 20), (10, 20), (5, 20), (2, 20), (1, 20), (1, 10))
"""Conversations a page and messages of each, from the top down."""
LIGHT_SIZES = (50, 25, 10, 5, 2, 1)
CLIMB_AFTER = 4
LONGEST_CLIMB_AFTER = 64
PROBE_AFTER = timedelta(days=7)


@dataclass(frozen=True)
class Rung:
    """How much one call asks for.

    `mode`: `nested` lists conversations with their messages, `light` without (messages by one call per
    conversation). `dropped` holds refused fields and since when.
    """

    conversations_per_page: int = 50
    messages_per_conversation: int = 20
    mode: Mode = "nested"
    dropped: tuple[tuple[str, date], ...] = ()
    streak: int = 0
    climb_after: int = CLIMB_AFTER

    @property
    def dropped_names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.dropped)

    @property
    def nested_messages(self) -> int:
        """Messages nested in a listing; 0 where it is asked without them."""
        return self.messages_per_conversation if self.mode == "nested" else 0


TOP = Rung()


@dataclass(frozen=True)
class Edge:
    """How much one call asks of a conversation's own messages; `is_bare`: ids and times, their content one by one."""

    limit: int
    is_bare: bool = False


EDGES = (Edge(100), Edge(20), Edge(10), Edge(100, is_bare=True))
"""From the top down."""
SMALLEST_EDGE = min(edge.limit for edge in EDGES)


def step_down(rung: Rung, failure: GraphError, platform: str, today: date) -> Rung | None:
    """Return the rung that asks for less; None if less cannot help.

    A refused field costs only itself. A page that gave no answer at all goes down faster than one that was refused:
    each try costs a time-out or several attempts.

    >>> from convo_pipeline.errors import GraphFault
    >>> rung = step_down(TOP, TooMuchDataError(GraphFault(code=1)), "instagram", date(2026, 1, 1))
    >>> rung.conversations_per_page, rung.messages_per_conversation, rung.mode
    (25, 20, 'nested')
    """
    if isinstance(failure, UnknownFieldError):
        return _without(rung, failure.field, platform, today)
    if not may_concern_one_row(failure):
        return None
    was_refused = not isinstance(failure, RetryableError) and failure.fault.code is not None
    return _smaller(rung, 1 if was_refused else 2)


def _without(rung: Rung, name: str, platform: str, today: date) -> Rung | None:
    if name == "messages" and rung.mode == "nested":
        return replace(rung, mode="light", streak=0)
    found = droppable(name, platform, rung.dropped_names)
    return without(rung, [found], today) if found else None


def without(rung: Rung, names: Iterable[str], today: date) -> Rung:
    """Return the rung that no longer asks for these fields, and remembers since when."""
    return replace(rung, dropped=rung.dropped + tuple((name, today) for name in names))


def find_refused(
    names: Sequence[str], is_accepted: Callable[[Sequence[str]], bool]
) -> tuple[str, ...]:
    """Return which of these fields, together refused, are refused by themselves; asks for halves of them.

    For an account whose refusals do not name the field (texts are localised).

    >>> find_refused("abcdefgh", lambda names: "c" not in names and "h" not in names)
    ('c', 'h')
    """
    if len(names) == 1:
        return tuple(names)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return tuple(
        name for half in halves if not is_accepted(half) for name in find_refused(half, is_accepted)
    )


def find_refused_fields(
    platform: str, dropped: Collection[str], is_accepted: Callable[[frozenset[str]], bool]
) -> tuple[str, ...]:
    """Return which of the optional fields still asked are refused, those of shares singly; empty if it is none of them.

    `is_accepted` asks without the fields it is given.
    """
    asked = frozenset(dropped)
    names = optional_names(platform, asked)

    def is_accepted_with(kept: Sequence[str], others: Sequence[str] = names) -> bool:
        return is_accepted(asked | (set(others) - set(kept)))

    if not is_accepted_with(()):
        return ()
    refused = find_refused(names, is_accepted_with)
    if "shares" not in refused:
        return refused
    shares = optional_share_names(asked)
    others = (*shares, *(name for name in names if name != "shares"))
    bad = find_refused(shares, lambda kept: is_accepted_with(kept, others))
    return tuple(name for name in refused if name != "shares") + bad


def _smaller(rung: Rung, steps: int) -> Rung | None:
    if rung.mode == "nested":
        size = (rung.conversations_per_page, rung.messages_per_conversation)
        smaller = [
            other
            for other in SIZES
            if other[0] <= size[0] and other[1] <= size[1] and other != size
        ]
        if not smaller:
            return replace(
                rung,
                conversations_per_page=50,
                messages_per_conversation=20,
                mode="light",
                streak=0,
            )
        conversations, messages = smaller[min(steps, len(smaller)) - 1]
        return replace(
            rung, conversations_per_page=conversations, messages_per_conversation=messages, streak=0
        )
    below = [size for size in LIGHT_SIZES if size < rung.conversations_per_page]
    if rung.mode == "light" and below:
        return replace(rung, conversations_per_page=below[min(steps, len(below)) - 1], streak=0)
    return None


def smaller_edge(edge: Edge, failure: GraphError) -> Edge | None:
    """Return what to ask of a conversation after its messages were refused; None if less cannot help.

    Where not the amount is refused but the messages are (some are out of reach) or a field is, their ids may still come.

    >>> from convo_pipeline.errors import GraphFault
    >>> smaller_edge(EDGES[0], TooMuchDataError(GraphFault(code=1))), smaller_edge(EDGES[0], MissingError(GraphFault()))
    (Edge(limit=20, is_bare=False), Edge(limit=100, is_bare=True))
    """
    lower = EDGES[EDGES.index(edge) + 1 :]
    if isinstance(failure, MissingError | UnknownFieldError):
        lower = tuple(each for each in lower if each.is_bare)
    elif not isinstance(failure, TooMuchDataError) and failure.fault.code != UNKNOWN_ERROR:
        return None
    return lower[0] if lower else None


def step_up(rung: Rung) -> Rung:
    """Count one good page; climb when there were enough of them in a row.

    >>> step_up(Rung(25, streak=3)).conversations_per_page, step_up(Rung(25)).conversations_per_page
    (50, 25)
    """
    higher = _higher(rung)
    if higher is None:
        return replace(rung, streak=0, climb_after=max(CLIMB_AFTER, rung.climb_after - 1))
    if rung.streak + 1 < rung.climb_after:
        return replace(rung, streak=rung.streak + 1)
    return replace(higher, streak=0)


def _higher(rung: Rung) -> Rung | None:
    if rung.mode == "nested":
        size = (rung.conversations_per_page, rung.messages_per_conversation)
        larger = [
            other
            for other in SIZES
            if other[0] >= size[0] and other[1] >= size[1] and other != size
        ]
        return replace(rung, conversations_per_page=larger[-1][0], messages_per_conversation=larger[-1][1]) if larger else None  # fmt: skip
    above = [size for size in LIGHT_SIZES if size > rung.conversations_per_page]
    if above:
        return replace(rung, conversations_per_page=above[-1])
    return replace(rung, conversations_per_page=10, messages_per_conversation=20, mode="nested")


def be_patient(rung: Rung) -> Rung:
    """Delay twice as long before the next climb: the last one was refused."""
    return replace(rung, climb_after=min(rung.climb_after * 2, LONGEST_CLIMB_AFTER))


def is_nesting_hopeless(isolated_count: int, refused_count: int, nested_row_count: int) -> bool:
    """Whether to list without nesting for the rest of the run: a call per conversation is then the cheaper way.

    >>> is_nesting_hopeless(2, 9, 0), is_nesting_hopeless(2, 9, 40)
    (True, False)
    """
    return (isolated_count >= 2 and nested_row_count == 0) or refused_count > 15 + nested_row_count


def with_probes(rung: Rung, today: date) -> Rung:
    """Ask again for the fields that were dropped a week ago or earlier: a newer version may know them."""
    return replace(
        rung,
        dropped=tuple((name, since) for name, since in rung.dropped if today - since < PROBE_AFTER),
    )


def to_json(rung: Rung) -> str:
    """Return the rung as it is remembered per account."""
    return orjson.dumps(rung, option=orjson.OPT_SORT_KEYS).decode()


def from_json(text: str | None) -> Rung:
    """Read a remembered rung; the top one if there is none or it cannot be read: it only costs calls.

    >>> from_json(to_json(Rung(10, dropped=(("story", date(2026, 1, 1)),)))).dropped
    (('story', datetime.date(2026, 1, 1)),)
    """
    try:
        found = orjson.loads(text or "")
        dropped = tuple((str(name), date.fromisoformat(since)) for name, since in found["dropped"])
        size = (found["conversations_per_page"], found["messages_per_conversation"])
        is_known = (
            found["mode"] in MODES
            and 1 <= size[0] <= 50
            and size[1] in {messages for _, messages in SIZES}
        )
        counts = (
            int(found["streak"]),
            min(max(int(found["climb_after"]), CLIMB_AFTER), LONGEST_CLIMB_AFTER),
        )
    except (ValueError, KeyError, TypeError):
        return TOP
    return Rung(*size, found["mode"], dropped, *counts) if is_known else TOP
