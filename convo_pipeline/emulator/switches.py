"""Switches for undocumented behaviour of the API: a client must work with every value.

The defaults are the likeliest behaviour. `SHAPES` lists the switches that change the form of
responses. `covering_switches` returns a small set of combinations that contains each pair of
values; `every_combination` returns all combinations.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

OldRows = Literal["omit_fields", "error_row", "full"]
OldNodes = Literal["refused", "readable"]
OwnId = Literal[
    "given", "refused", "enveloped", "field_refused", "app_scoped", "unknown_id", "username_only"
]
Participants = Literal["customer_first", "account_first", "ids_only", "account_only", "absent"]


@dataclass(frozen=True)
class Switches:
    """One possible behaviour of the Graph API."""

    old_rows_instagram: OldRows = "omit_fields"
    """Form of rows beyond the newest 20 in an edge or a nested list."""
    old_rows_messenger: OldRows = "full"
    old_nodes_instagram: OldNodes = "refused"
    """Whether a message beyond the newest 20 can be read by its id."""
    old_nodes_messenger: OldNodes = "readable"
    readable_count: int = 20
    unsent_rows: Literal["removed", "kept"] = "removed"
    """Whether an unsent message keeps a row without content, and its place among the 20."""
    refused_as: Literal["9000001", "100/33"] = "9000001"
    """Error for an unsent or too old message."""
    time_format: Literal["iso", "unix", "unix_string", "ms"] = "iso"
    time_offset: Literal["+0000", "+00:00", "Z"] = "+0000"
    reactions_shape: Literal["data", "list", "object"] = "data"
    is_unsupported_type: Literal["bool", "string"] = "bool"
    data_shape: Literal["list", "object_if_single"] = "list"
    """Meta's tutorial shows an object instead of a list if `data` has one entry."""
    sticker_shape: Literal["url", "attachment", "both", "image"] = "url"
    """Messenger stickers: a `sticker` URL; from 2026, an attachment with `sticker_id`, which may
    stand in its `image_data`."""
    own_id: OwnId = "given"
    """How the account's own id is shown: as it is in conversations; not at all; in a `data` list;
    only if no sub-field is requested (`field_refused`); as an id that occurs in no conversation,
    with the user name (`app_scoped`) or without it (`unknown_id`); or as the user name alone."""
    next_token: Literal["as_sent", "always", "never"] = "as_sent"  # noqa: S105 - no secret
    participants: Participants = "customer_first"
    """Order of the participants, or what they lack: names, customers, or all of them."""
    to_includes_sender: bool = False
    id_alphabet: Literal["meta", "hostile"] = "meta"
    json_escapes: Literal["meta", "plain"] = "meta"
    """Meta writes non-ASCII as \\uXXXX and slashes as \\/."""
    inner_next: Literal["phantom", "absent", "everywhere"] = "phantom"
    """Whether the last page of `shares`, or of every nested list, has a `next` to an empty page."""
    inner_limit: int = 25
    """Number of participants, recipients, attachments, shares, reactions and tags on a page."""
    cursor_kind: Literal["keyset", "item", "offset"] = "keyset"
    has_updated_time: bool = True
    """Whether conversations have the field updated_time."""
    undocumented_fields: bool = True
    """Whether Messenger conversations have message_count, snippet, link and similar fields."""
    refused_fields: frozenset[str] = frozenset()
    """Known fields that are refused as nonexisting (#100)."""
    conversation_routing: bool = False
    """Whether conversations have `is_owner`."""
    no_folder: Literal["inbox", "all"] = "inbox"
    default_limit: int = 25
    conversations_limit: int = 200
    messages_limit: int = 100
    usage_headers_after: int = 10
    """Number of calls before usage headers are sent; -1 means never."""
    calls_per_hour: int = 5_000
    """Number of calls that is 100 % in a usage header."""
    localised: bool = False
    """Whether error texts are in Portuguese."""
    error_statuses: tuple[tuple[int, int], ...] = ()
    """Pairs of (code, HTTP status) that replace the usual status."""
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
    "sticker_shape": ("url", "attachment", "both", "image"),
    "own_id": (
        "given",
        "refused",
        "enveloped",
        "field_refused",
        "app_scoped",
        "unknown_id",
        "username_only",
    ),
    "next_token": ("as_sent", "always", "never"),
    "participants": ("customer_first", "account_first", "ids_only", "account_only", "absent"),
    "to_includes_sender": (False, True),
    "id_alphabet": ("meta", "hostile"),
    "json_escapes": ("meta", "plain"),
    "inner_next": ("phantom", "absent", "everywhere"),
    "inner_limit": (25, 2, 3),
    "cursor_kind": ("keyset", "item", "offset"),
    "undocumented_fields": (True, False),
    "conversation_routing": (False, True),
    "localised": (False, True),
    "errors_as_200": (False, True),
}
"""Switches that change the form of responses, with their values."""

SwitchValues = dict[str, object]


def every_combination(
    names: Sequence[str] = tuple(SHAPES), base: Switches | None = None
) -> Iterator[Switches]:
    """Yield all combinations of the named switches; of all switches there are millions."""
    for values in itertools.product(*(SHAPES[name] for name in names)):
        yield _with(base, dict(zip(names, values, strict=True)))


def covering_switches(base: Switches | None = None, seed: int = 0) -> list[Switches]:
    """Return few combinations that contain each pair of values of `SHAPES`; default first."""
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
    """Return a combination with a missing pair; other values cover most missing pairs."""
    left, a, right, b = rng.choice(sorted(missing, key=repr))
    row: SwitchValues = {left: a, right: b}
    for name in rng.sample(sorted(SHAPES), len(SHAPES)):
        if name not in row:
            values = rng.sample(SHAPES[name], len(SHAPES[name]))
            row[name] = max(
                values, key=lambda value: _count_missing_pairs(row, name, value, missing)
            )
    return row


def _count_missing_pairs(
    row: SwitchValues, name: str, value: object, missing: set[ValuePair]
) -> int:
    return sum(
        ((other, chosen, name, value) if other < name else (name, value, other, chosen)) in missing
        for other, chosen in row.items()
    )


def _with(base: Switches | None, values: SwitchValues) -> Switches:
    return replace(base or Switches(), **values)  # type: ignore[arg-type]
