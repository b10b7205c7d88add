"""What nobody documents about the API, as switches: a client must work whatever they say.

The defaults are the likeliest reading. `SHAPES` lists the switches that change what an answer looks like;
`covering_switches` gives a small set in which every pair of their values meets, `every_combination` all of them.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

OldRows = Literal["omit_fields", "error_row", "full"]
OldNodes = Literal["refused", "readable"]


@dataclass(frozen=True)
class Switches:
    """One way the Graph API may behave."""

    old_rows_instagram: OldRows = "omit_fields"
    """How rows beyond the newest 20 look in an edge or a nested list."""
    old_rows_messenger: OldRows = "full"
    old_nodes_instagram: OldNodes = "refused"
    """Whether a single message beyond the newest 20 can be read."""
    old_nodes_messenger: OldNodes = "readable"
    readable_count: int = 20
    unsent_rows: Literal["removed", "kept"] = "removed"
    """Whether an unsent message keeps its (bare) row, and with it its place among the 20."""
    refused_as: Literal["9000001", "100/33"] = "9000001"
    """The error for a message that is unsent or too old."""
    time_format: Literal["iso", "unix", "unix_string", "ms"] = "iso"
    time_offset: Literal["+0000", "+00:00", "Z"] = "+0000"
    reactions_shape: Literal["data", "list", "object"] = "data"
    is_unsupported_type: Literal["bool", "string"] = "bool"
    data_shape: Literal["list", "object_if_single"] = "list"
    """The tutorial prints an object where `data` holds one entry."""
    sticker_shape: Literal["url", "attachment", "both"] = "url"
    """Messenger stickers: a `sticker` URL, or (from 2026) an attachment with `sticker_id`."""
    own_id: Literal["given", "refused"] = "given"
    """Whether the Page tells its Instagram account's id."""
    next_token: Literal["as_sent", "always", "never"] = "as_sent"  # noqa: S105 - no secret
    participants_order: Literal["customer_first", "account_first"] = "customer_first"
    to_includes_sender: bool = False
    id_alphabet: Literal["meta", "hostile"] = "meta"
    json_escapes: Literal["meta", "plain"] = "meta"
    """Meta writes non-ASCII as \\uXXXX and slashes as \\/."""
    inner_next: Literal["phantom", "absent"] = "phantom"
    """Whether `shares` inside a message carry a `next` that leads to an empty page."""
    cursor_kind: Literal["keyset", "item", "offset"] = "keyset"
    has_updated_time: bool = True
    """Whether a conversation's row names its updated_time when that is asked for."""
    undocumented_fields: bool = True
    """Whether Messenger conversations still have message_count, snippet, link and the like."""
    refused_fields: frozenset[str] = frozenset()
    """Fields that answer (#100) nonexisting, on top of the unknown ones."""
    conversation_routing: bool = False
    """Whether `is_owner` is told."""
    no_folder: Literal["inbox", "all"] = "inbox"
    default_limit: int = 25
    conversations_limit: int = 200
    messages_limit: int = 100
    usage_headers_after: int = 10
    """Usage headers come only once so many calls were made; -1 = never."""
    calls_per_hour: int = 5_000
    """What 100 % in a usage header means."""
    localised: bool = False
    """Whether error texts come in Portuguese."""
    error_statuses: tuple[tuple[int, int], ...] = ()
    """(code, HTTP status) pairs that replace the usual status."""
    errors_as_200: bool = False
    limiter: Literal["off", "sliding_window", "token_bucket", "fixed_window"] = "off"
    calls_per_second: float = 2.0
    batch_counts_items: bool = True
    media_hours: float = 24.0
    oldest_version: str = "v21.0"
    newest_version: str = "v26.0"

    def old_rows(self, platform: str) -> OldRows:
        return self.old_rows_instagram if platform == "instagram" else self.old_rows_messenger

    def old_nodes(self, platform: str) -> OldNodes:
        return self.old_nodes_instagram if platform == "instagram" else self.old_nodes_messenger


SHAPES: Mapping[str, tuple[object, ...]] = {
    "old_rows_instagram": ("omit_fields", "error_row", "full"),
    "old_rows_messenger": ("full", "omit_fields", "error_row"),
    "old_nodes_messenger": ("readable", "refused"),
    "unsent_rows": ("removed", "kept"),
    "refused_as": ("9000001", "100/33"),
    "time_format": ("iso", "unix", "unix_string", "ms"),
    "time_offset": ("+0000", "+00:00", "Z"),
    "reactions_shape": ("data", "list", "object"),
    "is_unsupported_type": ("bool", "string"),
    "data_shape": ("list", "object_if_single"),
    "sticker_shape": ("url", "attachment", "both"),
    "own_id": ("given", "refused"),
    "next_token": ("as_sent", "always", "never"),
    "participants_order": ("customer_first", "account_first"),
    "to_includes_sender": (False, True),
    "id_alphabet": ("meta", "hostile"),
    "json_escapes": ("meta", "plain"),
    "inner_next": ("phantom", "absent"),
    "cursor_kind": ("keyset", "item", "offset"),
    "undocumented_fields": (True, False),
    "conversation_routing": (False, True),
    "localised": (False, True),
    "errors_as_200": (False, True),
}
"""The switches that change what a client reads, with their values."""

SwitchValues = dict[str, object]


def every_combination(
    names: Sequence[str] = tuple(SHAPES), base: Switches | None = None
) -> Iterator[Switches]:
    """Yield the full product of the named switches (all of them together are millions)."""
    for values in itertools.product(*(SHAPES[name] for name in names)):
        yield _with(base, dict(zip(names, values, strict=True)))


def covering_switches(base: Switches | None = None, seed: int = 0) -> list[Switches]:
    """Return few combinations in which every pair of values of `SHAPES` occurs; the first is the default."""
    chosen: list[SwitchValues] = [{name: values[0] for name, values in SHAPES.items()}]
    missing = _pairs() - _pairs_of(chosen[0])
    rng = random.Random(seed)
    while missing:
        row = max(
            (_grow(missing, rng) for _ in range(8)),
            key=lambda candidate: len(_pairs_of(candidate) & missing),
        )
        chosen.append(row)
        missing -= _pairs_of(row)
    return [_with(base, row) for row in chosen]


ValuePair = tuple[str, object, str, object]


def _pairs() -> set[ValuePair]:
    return {
        (left, a, right, b)
        for left, right in itertools.combinations(sorted(SHAPES), 2)
        for a in SHAPES[left]
        for b in SHAPES[right]
    }


def _pairs_of(row: SwitchValues) -> set[ValuePair]:
    return {
        (left, row[left], right, row[right])
        for left, right in itertools.combinations(sorted(row), 2)
    }


def _grow(missing: set[ValuePair], rng: random.Random) -> SwitchValues:
    """Build one combination from a missing pair, each other switch taking the value that meets most missing pairs."""
    left, a, right, b = rng.choice(sorted(missing, key=repr))
    row: SwitchValues = {left: a, right: b}
    for name in rng.sample(sorted(SHAPES), len(SHAPES)):
        if name not in row:
            values = rng.sample(SHAPES[name], len(SHAPES[name]))
            row[name] = max(values, key=lambda value: _met(row, name, value, missing))
    return row


def _met(row: SwitchValues, name: str, value: object, missing: set[ValuePair]) -> int:
    return sum(
        ((other, held, name, value) if other < name else (name, value, other, held)) in missing
        for other, held in row.items()
    )


def _with(base: Switches | None, values: SwitchValues) -> Switches:
    return replace(base or Switches(), **values)  # type: ignore[arg-type]
