"""Read the rows of one API response into observations of messages and conversations. Pure.

Times are whole microseconds since 1970, UTC. A message row of the API is one of three kinds:
*detailed* (it has content), *bare* (only `id` and `created_time`, because it is beyond the newest
20), or *refused* (it holds an `error`). Ranks count from 1, the newest message. The API returns the
content of the newest 20 (Meta's Conversations guide). For Messenger the guide is ambiguous, so the
limit is observed there, not assumed.
"""

import base64
import binascii
import hashlib
import re
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from convo_pipeline.base.json_text import dump_json, dump_without_paging, readable_id
from convo_pipeline.base.times import DAY_US, EARLIEST_US, SECOND_US, parse_time_us
from convo_pipeline.extract.spool import ListingRecord, MessageRecord, MessagesRecord
from convo_pipeline.graph.fields import BASE_MESSAGE_FIELDS, OPTIONAL_MESSAGE_FIELDS
from convo_pipeline.graph.responses import ConversationRow
from convo_pipeline.schema import READABLE_COUNT

BARE_FIELDS = ("id", "created_time")
CONTENT_KEYS = frozenset(
    (*BASE_MESSAGE_FIELDS, *chain(*OPTIONAL_MESSAGE_FIELDS.values()))
).difference(BARE_FIELDS)
"""Keys of a message besides its id and time: a row with none of them shows no content."""
ERASED_ROW = {"is_erased": True}
"""Stands in the place of an erased person's message: the messages after it keep their ranks."""
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
"""Keys that change with every message. They are left out, so that daily rows stay equal."""
_TIME_IN_MESSAGE_ID = re.compile(rb"ig_dm_item:\d+:IGMessageID:\d+:\d+:(\d{1,40})")
_IDS_START = "aWdfZ"
"""`ig_d` in Meta's variant of base64."""
_ACCOUNT_IN_ID = re.compile(rb"ig_dm(?:_item)?:\d+:IGMessage(?:Thread|ID):(\d+):\d+(?::\d+)?")
_LARGEST_CODE = 1 << 63


class MessageObservation(NamedTuple):
    """One message as one response showed it, with the rank it had there."""

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
    """JSON in UTF-8; bytes, because most payloads are never parsed again during the run."""


class ConversationObservation(NamedTuple):
    """One conversation as one response showed it."""

    conversation_id: str
    folder: str | None
    updated_us: int | None
    at_us: int
    fields: str | None
    payload: str | None


class Reject(NamedTuple):
    """A row that has no id or an unknown shape."""

    digest: str
    reason: str
    payload: str
    at_us: int


def read_messages(page: MessagesRecord) -> list[MessageObservation | Reject]:
    """Read the message rows of one page, newest first."""
    conversation_id, at_us = page.conversation_id, page.at_us
    fields = fields_json(page.fields, at_us)
    found: list[MessageObservation | Reject] = []
    for rank, row in enumerate(page.rows, page.first_rank):
        if row == ERASED_ROW:
            continue
        message_id = readable_id(row)
        if message_id is None or not isinstance(row, dict):
            what = "beyond the limits" if isinstance(row, str) else "without an id"
            reason = f"a message of conversation {conversation_id} {what}"
            found.append(reject(row, reason, at_us))
            continue
        created_us, source = find_created_us(row, message_id, page.updated_us, at_us)
        head = (conversation_id, message_id, created_us, source, rank, at_us)
        if "from" in row or not lacks_content(row):
            payload = dump_without_paging(row)
            found.append(MessageObservation(*head, "detailed", None, None, fields, payload))
        else:
            status = "failed" if "error" in row else "pending"
            status = status if rank <= READABLE_COUNT else "beyond_20"
            codes = _error_codes(row.get("error"))
            found.append(MessageObservation(*head, status, *codes, None, None))
    return found


def read_message(record: MessageRecord) -> MessageObservation:
    """Read a message that was fetched by its id."""
    if record.detail_status != "detailed":
        return MessageObservation(**vars(record) | {"fields": None, "payload": None})
    fields, payload = fields_json(record.fields, record.at_us), dump_without_paging(record.payload)
    return MessageObservation(**vars(record) | {"fields": fields, "payload": payload})


def read_conversation(
    row: ConversationRow, conversation_id: str, listing: ListingRecord
) -> ConversationObservation:
    """Read a listed conversation without the keys that change with every message."""
    payload = row.payload if isinstance(row.payload, dict) else {}
    stable = {k: value for k, value in payload.items() if k not in VOLATILE_CONVERSATION_KEYS}
    names = listing.conversation_fields
    stable_names = tuple(name for name in names if name not in VOLATILE_CONVERSATION_KEYS)
    return ConversationObservation(
        conversation_id,
        listing.folder or None,
        row.updated_us,
        listing.at_us,
        fields_json(stable_names, listing.at_us),
        dump_without_paging(stable).decode(),
    )


def reject(row: object, reason: str, at_us: int) -> Reject:
    """Return a row that cannot be read as a Reject; equal rows have equal digests."""
    payload = dump_without_paging(row)
    return Reject(hashlib.sha256(payload).hexdigest(), reason, payload.decode(), at_us)


@lru_cache(maxsize=1024)
def fields_json(fields: tuple[str, ...], at_us: int) -> str:
    """Return the `fields` column: each requested key with the time of the response."""
    return dump_json(dict.fromkeys(fields, at_us)).decode()


def lacks_content(row: dict[str, object]) -> bool:
    """Whether a row holds nothing but its id and time, or only empty values and no sender.

    >>> lacks_content({"id": "m", "message": ""}), lacks_content({"id": "m", "from": {"id": "1"}})
    (True, False)
    """
    sender = row.get("from")
    if isinstance(sender, dict) and not _is_empty(sender):  # so it is in nearly every row
        return False
    return all(_is_empty(row[key]) for key in CONTENT_KEYS.intersection(row))


def _is_empty(value: object) -> bool:
    if isinstance(value, dict):
        return _is_empty(value["data"]) if "data" in value else not value
    return value is None or value in ("", [])


def find_created_us(
    row: dict[str, object], message_id: str, updated_us: int | None, at_us: int
) -> tuple[int, str]:
    """Return when the message was sent and the source of it, one of `CREATED_AT_SOURCES`."""
    created_us = parse_time_us(row.get("created_time"))
    if created_us is not None and is_plausible(created_us, at_us):
        return created_us, "message"
    id_us = message_id_us(message_id)
    if id_us is not None and is_plausible(id_us, at_us):
        return id_us // SECOND_US * SECOND_US, "message_id"
    if updated_us is not None and is_plausible(updated_us, at_us):
        return updated_us, "conversation"
    return at_us // DAY_US * DAY_US, "listing"


def is_plausible(time_us: int | None, at_us: int) -> bool:
    """Whether a message can be sent at this time: from 2004 until a day after the server's time."""
    return time_us is not None and EARLIEST_US <= time_us <= at_us + DAY_US


def message_id_us(message_id: str) -> int | None:
    """Return the send time inside an Instagram message id, or None.

    The id is Meta's text of `ig_dm_item:1:IGMessageID:<account>:<thread>:<item>`, and item is
    microseconds << 64. It is used only where no time is given.
    """
    match = _TIME_IN_MESSAGE_ID.fullmatch(_decode_id(message_id))
    return int(match[1]) >> 64 if match else None


def account_in_id(meta_id: str) -> str | None:
    """Return the account inside an Instagram id of a conversation or message, or None.

    A conversation's id is Meta's text of `ig_dm:1:IGMessageThread:<account>:<thread>`. The account
    is the one that sees the conversation.
    """
    match = _ACCOUNT_IN_ID.fullmatch(_decode_id(meta_id))
    return match[1].decode() if match else None


def _decode_id(meta_id: str) -> bytes:
    """Return the bytes of Meta's variant of base64 (`ZD` for `=`, `ZA` for a plain `Z`), or none.

    This was decoded from real ids of Instagram. It is undocumented.
    """
    if not meta_id.startswith(_IDS_START):
        return b""
    plain = meta_id
    for code, letter in (("ZD", "="), ("ZB", "+"), ("ZC", "/"), ("ZA", "Z")):
        plain = plain.replace(code, letter)
    plain = plain.rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _error_codes(error: object) -> tuple[int | None, int | None]:
    """Return code and subcode of an error object, None where there is none of 64 bits."""
    if not isinstance(error, dict):
        return None, None
    code, subcode = (
        number if isinstance(number, int) and abs(number) < _LARGEST_CODE else None
        for number in (error.get("code"), error.get("error_subcode"))
    )
    return code, subcode
