"""From spooled records to rows: what one answer says about conversations and messages. Pure.

All times here are whole microseconds since 1970, UTC. A message row of the API is one of three things:
*detailed* (it has content), *bare* (only `id` and `created_time`: the rule of the newest 20 took the rest),
or *refused* (it holds an `error`). Ranks count from 1, the newest; the newest 20 can be read
(Meta's Conversations guide; for Messenger the guide is ambiguous, so there it is observed, not assumed).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from convo_pipeline.base.json_text import dump_json, readable_id
from convo_pipeline.base.times import DAY_US, EARLIEST_US, SECOND_US, parse_time_us
from convo_pipeline.extract.paging import dump_without_paging
from convo_pipeline.graph.fields import BASE_MESSAGE_FIELDS, OPTIONAL_MESSAGE_FIELDS
from convo_pipeline.schema import READABLE_COUNT

LATEST_MARGIN_US = DAY_US
BARE_KEYS = frozenset({"id", "created_time"})
CONTENT_KEYS = (
    frozenset((*BASE_MESSAGE_FIELDS, *chain(*OPTIONAL_MESSAGE_FIELDS.values()))) - BARE_KEYS
)
"""What is asked of a message besides its id and time: a row with none of it says nothing of its content."""
VOLATILE_CONVERSATION_KEYS = frozenset(
    {
        "id",
        "messages",
        "updated_time",
        "snippet",
        "unread_count",
        "message_count",
        "senders",
        "can_reply",
    }
)
_TIME_IN_MESSAGE_ID = re.compile(rb"ig_dm_item:\d+:IGMessageID:\d+:\d+:(\d+)")

Content = tuple[str, int | None, int | None, str | None, bytes | None]
"""The last five columns of a observation."""


class MessageObservation(NamedTuple):
    """One message as one answer showed it: the columns of `raw_message_ids` and `raw_message_details` and its place."""

    conversation_id: str
    message_id: str
    created_us: int
    created_at_source: str
    rank: int
    at_us: int
    detail_status: str
    error_code: int | None
    error_subcode: int | None
    fields: str | None
    payload: bytes | None
    """JSON, UTF-8; most of it is never looked at, so it becomes no Python text."""


class ConversationObservation(NamedTuple):
    """One conversation as one answer showed it."""

    conversation_id: str
    folder: str | None
    updated_us: int | None
    at_us: int
    fields: str | None
    payload: str | None


class Reject(NamedTuple):
    """An entry that has no id or no shape we can read."""

    digest: str
    reason: str
    payload: str
    at_us: int


def is_plausible(time_us: int | None, at_us: int) -> bool:
    """Say whether a message can have been sent then: not before 2004, not a day ahead of the server."""
    return time_us is not None and EARLIEST_US <= time_us <= at_us + LATEST_MARGIN_US


def message_id_us(message_id: str) -> int | None:
    """Return the send time inside an Instagram message id, or None.

    The id is Meta's spelling of base64 (`ZD` for `=`, `ZA` for a plain `Z`) around
    `ig_dm_item:1:IGMessageID:<account>:<thread>:<item>`, and item is microseconds << 64
    (decoded from real ids; undocumented, so it only fills in where no time is given).
    """
    plain = (
        message_id.replace("ZD", "=")
        .replace("ZB", "+")
        .replace("ZC", "/")
        .replace("ZA", "Z")
        .rstrip("=")
    )
    try:
        decoded = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    match = _TIME_IN_MESSAGE_ID.fullmatch(decoded)
    return int(match[1]) >> 64 if match else None


def placed_time(
    row: dict[str, object], message_id: str, updated_us: int | None, at_us: int
) -> tuple[int, str]:
    """Return when the message was sent and where that is from; see `schema.CREATED_AT_SOURCES`."""
    created_us = parse_time_us(row.get("created_time"))
    if created_us is not None and is_plausible(created_us, at_us):
        return created_us, "message"
    id_us = message_id_us(message_id)
    if id_us is not None and is_plausible(id_us, at_us):
        return id_us // SECOND_US * SECOND_US, "message_id"
    if updated_us is not None and is_plausible(updated_us, at_us):
        return updated_us, "conversation"
    return at_us // DAY_US * DAY_US, "listing"


def lacks_content(row: dict[str, object]) -> bool:
    """Say whether a row holds nothing that was asked for but its id and time, whatever else it may hold."""
    return CONTENT_KEYS.isdisjoint(row)


@lru_cache(maxsize=1024)
def fields_json(fields: tuple[str, ...], at_us: int) -> str:
    """Return the `fields` column: each key asked for, and when."""
    return dump_json(dict.fromkeys(fields, at_us)).decode()


def read_messages(
    rows: Sequence[object],
    *,
    conversation_id: str,
    updated_us: int | None,
    first_rank: int,
    fields: tuple[str, ...],
    at_us: int,
) -> list[MessageObservation | Reject]:
    """Read the message rows of one answer, newest first, the first at `first_rank`."""
    asked = fields_json(fields, at_us)
    found: list[MessageObservation | Reject] = []
    content: Content
    for rank, row in enumerate(rows, first_rank):
        message_id = readable_id(row)
        if message_id is None or not isinstance(row, dict):
            found.append(
                reject(row, f"a message of conversation {conversation_id} without an id", at_us)
            )
            continue
        created_us, source = placed_time(row, message_id, updated_us, at_us)
        if "from" not in row and lacks_content(row):
            content = _poor_content(row, rank)
        else:
            content = "detailed", None, None, asked, dump_without_paging(row)
        found.append(
            MessageObservation._make(
                (conversation_id, message_id, created_us, source, rank, at_us, *content)
            )
        )
    return found


def _poor_content(row: dict[str, object], rank: int) -> Content:
    """Return what a bare or refused row says of its message: status, error code and subcode, no fields, no payload."""
    status = "failed" if "error" in row else "pending"
    return (
        status if rank <= READABLE_COUNT else "beyond_20",
        *error_codes(row.get("error")),
        None,
        None,
    )


def error_codes(error: object) -> tuple[int | None, int | None]:
    """Return code and subcode of an error object, None where it has none."""
    if not isinstance(error, dict):
        return None, None
    code, subcode = error.get("code"), error.get("error_subcode")
    return _small(code), _small(subcode)


def _small(number: object) -> int | None:
    """Return a whole number that fits its column."""
    return number if isinstance(number, int) and abs(number) < 1 << 63 else None


def read_conversation(
    row: dict[str, object], conversation_id: str, folder: str, fields: tuple[str, ...], at_us: int
) -> ConversationObservation:
    """Read a listed conversation; what changes with every message is left out, so its daily rows agree."""
    stable = {key: value for key, value in row.items() if key not in VOLATILE_CONVERSATION_KEYS}
    stable_fields = tuple(name for name in fields if name not in VOLATILE_CONVERSATION_KEYS)
    return ConversationObservation(
        conversation_id,
        folder or None,
        parse_time_us(row.get("updated_time")),
        at_us,
        fields_json(stable_fields, at_us),
        dump_without_paging(stable).decode(),
    )


def reject(entry: object, reason: str, at_us: int) -> Reject:
    """Keep an entry that cannot be read."""
    payload = dump_without_paging(entry)
    return Reject(hashlib.sha256(payload).hexdigest(), reason, payload.decode(), at_us)
