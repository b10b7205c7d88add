"""Parse message payloads into columns of `messages`, and into attachments, shares and reactions.

Most messages are plain: they have a sender, recipients, a text and sometimes tags. `read_plain`
parses these fast, and `PlainColumns` parses the people and tags of a conversation only once.
`read_message` parses all other messages key by key. A test checks that all return the same row.
Names of recipients and e-mail addresses are only in `participant_days`.

`content_type` is the first of these that applies:
unavailable (no content stored), unsupported (marked by Meta), story_mention, story_reply, sticker,
the kind of the first available attachment, share, text, unavailable (only a privacy placeholder),
other (only unknown keys), empty.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.tables import media
from convo_pipeline.tables.media import Row
from convo_pipeline.tables.payloads import PayloadReader, parse_payload, parse_plain

CHUNK_ROWS = 2048
PLAIN_NAMES = (
    "sender_id", "sender_name", "sender_username", "recipient_ids", "text", "tags", "content_type",
)  # fmt: skip
RARE_NAMES = (
    "attachment_count", "share_count", "reaction_count", "sticker_url", "story_kind", "story_id",
    "story_url", "reply_to_message_id", "is_unsupported", "problem", "extra",
)  # fmt: skip
CHILD_NAMES = {
    "attachments": media.ATTACHMENT_NAMES,
    "shares": media.SHARE_NAMES,
    "reactions": media.REACTION_NAMES,
}

_NO_CONTENT: Row = (None, None, None, None, None, None, "unavailable")
_UNREADABLE: Row = (None, None, None, None, None, None, "other")
_UNREADABLE_RARE: Row = (0, 0, 0, None, None, None, None, None, False, "payload_unreadable", None)
_PLAIN_KEYS = {"created_time", "from", "id", "message", "tags", "to"}
_PERSON_KEYS = {"email", "id", "name", "username"}
_PLAIN_PAYLOAD = re.compile(
    rb'\{"created_time":"[^"\\]*","from":(\{[^{}]*\}),"id":"[^"\\]*"'
    rb'(?:,"message":"([^"\\]*(?:\\.[^"\\]*)*)")?'
    rb'((?:,"tags":\{"data":\[[^\]]*\]\})?,"to":\{"data":\[[^\]]*\]\}\})'
)
"""Canonical JSON of a plain message: its sender, its text, and its tags and recipients.

Inside a JSON string a backslash precedes every quote, so no text matches a part with raw quotes."""
_TEXT = PLAIN_NAMES.index("text")
_KIND = media.ATTACHMENT_NAMES.index("kind")
_TEXT_OR_NONE = (str, type(None))
_STORY_KINDS = {"mention": "mention", "reply_to": "reply_to"}
_CONTENT_OF_STORY = {"mention": "story_mention", "reply_to": "story_reply"}
_CONTENT_OF_KIND = {
    "appointment": "template", "link_preview": "share", "story": "share", "location": "other",
}  # fmt: skip
_EMPTY_KEYS = {"from", "reply_to", "to"}
"""Keys that do not change the content type to `other` if parts of them have no column."""
_READ_CHILDREN = {
    "attachments": media.read_attachments,
    "shares": media.read_shares,
    "reactions": media.read_reactions,
}
_NOTHING: dict[str, list[Row]] = {name: [] for name in CHILD_NAMES}


@dataclass(frozen=True)
class ParsedPayloads:
    """Columns of `messages` with one value per payload, and child rows by payload index (`row`)."""

    columns: dict[str, pa.ChunkedArray]
    children: dict[str, pa.Table]


def parse_payloads(payloads: pa.ChunkedArray, chunk_rows: int = CHUNK_ROWS) -> ParsedPayloads:
    """Parse a column of payloads (JSON or null).

    It parses `chunk_rows` payloads at a time to limit the memory for Python values.
    """
    names = (*PLAIN_NAMES, *RARE_NAMES)
    chunks: list[dict[str, pa.Array]] = []
    children: dict[str, list[pa.Table]] = {name: [_to_table(name, [], [])] for name in CHILD_NAMES}
    for start in range(0, len(payloads), chunk_rows):
        columns, tables = _parse_chunk(start, payloads.slice(start, chunk_rows))
        chunks.append(columns)
        for name, table in tables.items():
            children[name].append(table)
    types = {name: schema.MESSAGES.schema.field(name).type for name in names}
    return ParsedPayloads(
        {name: pa.chunked_array([chunk[name] for chunk in chunks], types[name]) for name in names},
        {name: pa.concat_tables(tables) for name, tables in children.items()},
    )


def _parse_chunk(
    start: int, payloads: pa.ChunkedArray
) -> tuple[dict[str, pa.Array], dict[str, pa.Table]]:
    """Return the columns and the child rows of a chunk whose first payload has index `start`."""
    plain = PlainColumns()
    rare: list[Row] = []
    rare_indices: list[int | None] = [None] * len(payloads)
    children: dict[str, tuple[list[int], list[Row]]] = {name: ([], []) for name in CHILD_NAMES}
    for index, payload in enumerate(payloads.cast(pa.binary()).to_pylist()):
        if payload is None:
            plain.add_row(_NO_CONTENT)
        elif not plain.add(payload):
            row, rare_row, own_children = read_message(payload.decode(), parse_plain(payload))
            plain.add_row(row)
            rare_indices[index] = len(rare)
            rare.append(rare_row)
            for name, rows in own_children.items():
                children[name][0].extend([start + index] * len(rows))
                children[name][1].extend(rows)
    columns = plain.to_columns()
    taken = pa.array(rare_indices, pa.int32())
    for name, column in _to_columns(RARE_NAMES, rare, schema.MESSAGES).items():
        columns[name] = column.take(taken)
    return columns, {name: _to_table(name, *rows) for name, rows in children.items()}


def _to_columns(names: Sequence[str], rows: list[Row], table: schema.Table) -> dict[str, pa.Array]:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return {
        name: pa.array(column, table.schema.field(name).type)
        for name, column in zip(names, columns, strict=True)
    }


def _to_table(name: str, indices: list[int], rows: list[Row]) -> pa.Table:
    columns = _to_columns(CHILD_NAMES[name], rows, schema.TABLES[name])
    return pa.table({"row": pa.array(indices, pa.int64()), **columns})


class PlainColumns:
    """Columns of `PLAIN_NAMES`; messages with equal sender, tags and recipients share a row."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._texts: list[object] = []
        """The text of each message; it replaces the text in the message's row."""
        self._indices: list[int] = []
        self._shared: dict[tuple[bytes, bytes, object], int | None] = {}
        """Index of the row by sender, tags and recipients, and whether a text follows."""

    def add(self, payload: bytes) -> bool:
        """Add a plain message and return True; any other message is not added."""
        match = _PLAIN_PAYLOAD.fullmatch(payload)
        sender, text, rest = match.groups() if match else (b"", b"\\", b"")
        if text is not None and b"\\" in text:
            row = read_plain(parse_plain(payload))
            if row is not None:
                self.add_row(row)
            return row is not None
        key = sender, rest, text and True
        if key not in self._shared:
            message = b'{"from":' + sender + (b"" if text is None else b',"message":"%b"' % text)
            row = read_plain(parse_plain(message + rest))
            self._shared[key] = None if row is None else len(self._rows)
            self._rows += [] if row is None else [row]
        index = self._shared[key]
        if index is not None:
            self._indices.append(index)
            self._texts.append(None if text is None else text.decode())
        return index is not None

    def add_row(self, row: Row) -> None:
        """Add a message with a row of its own."""
        self._indices.append(len(self._rows))
        self._rows.append(row)
        self._texts.append(row[_TEXT])

    def to_columns(self) -> dict[str, pa.Array]:
        columns = _to_columns(PLAIN_NAMES, self._rows, schema.MESSAGES)
        indices = pa.array(self._indices, pa.int32())
        columns = {name: column.take(indices) for name, column in columns.items()}
        return columns | {"text": pa.array(self._texts, schema.TEXT)}


def read_plain(message: Any) -> Row | None:
    """Return the values of `PLAIN_NAMES` for a plain message; None for any other message."""
    try:
        if not message.keys() <= _PLAIN_KEYS:
            return None
        sender, to = message["from"], message["to"]
        text, tags = message.get("message"), message.get("tags")
        sender_id, name, username = sender["id"], sender.get("name"), sender.get("username")
        recipients, tag_list = to["data"], () if tags is None else tags["data"]
        recipient_ids = [person["id"] for person in recipients if person.keys() <= _PERSON_KEYS]
        tag_names = [tag["name"] for tag in tag_list if len(tag) == 1]
        is_plain = (
            sender.keys() <= _PERSON_KEYS
            and len(to) == 1
            and (tags is None or len(tags) == 1)
            and len(recipient_ids) == len(recipients)
            and len(tag_names) == len(tag_list)
        )
    except (AttributeError, KeyError, TypeError):
        return None
    if not (is_plain and sender_id.__class__ is str and text.__class__ in _TEXT_OR_NONE):
        return None
    if name.__class__ not in _TEXT_OR_NONE or username.__class__ not in _TEXT_OR_NONE:
        return None
    for values in (recipient_ids, tag_names):
        for value in values:
            if value.__class__ is not str:
                return None
    tag_column = None if tags is None else tag_names
    return sender_id, name, username, recipient_ids, text, tag_column, "text" if text else "empty"


def read_closely(message: PayloadReader) -> Row:
    """Take the values of `PLAIN_NAMES` from any message, key by key."""
    message.drop(("id", "created_time"))
    sender = _read_sender(message)
    recipient_ids = message.values("to", "id", ("name", "username", "email"))
    tags, text = message.values("tags", "name"), message.text("message")
    return *sender, recipient_ids, text, tags, "text" if text else "empty"


def read_message(payload: str, parsed: object = None) -> tuple[Row, Row, Mapping[str, list[Row]]]:
    """Return the values of `PLAIN_NAMES` and `RARE_NAMES`, and the child rows; it never raises."""
    try:
        value, is_replaced = parse_payload(payload, parsed)
        if isinstance(value, dict):
            return _read_object(value, is_replaced)
    except (ValueError, RecursionError):
        pass
    return _UNREADABLE, _UNREADABLE_RARE, _NOTHING


def _read_object(
    value: dict[str, object], is_replaced: bool
) -> tuple[Row, Row, dict[str, list[Row]]]:
    row = read_plain({key: item for key, item in value.items() if key in _PLAIN_KEYS})
    message = PayloadReader(value)
    if row is None:
        row = read_closely(message)
    else:
        message.drop(_PLAIN_KEYS)
    sticker_url, story = _read_sticker(message), _read_story(message)
    reply_to = _read_reply(message)
    is_unsupported = message.flag("is_unsupported") or False
    children = {
        name: read(message) if name in message.rest else [] for name, read in _READ_CHILDREN.items()
    }
    content_type = "unsupported"
    if not is_unsupported:
        content_type = _find_content_type(story[0], sticker_url, children, row[_TEXT], message.rest)
    problem = None if message.is_readable else "field_unreadable"
    if problem is None and is_replaced:
        problem = "surrogate_replaced"
    counts = (len(rows) for rows in children.values())
    rare = (*counts, sticker_url, *story, reply_to, is_unsupported, problem, message.dump_rest())
    return (*row[:-1], content_type), rare, children


def _read_sender(message: PayloadReader) -> Row:
    """Take `from`: id, name and user name. The value can also be an id without an object."""
    if isinstance(message.rest.get("from"), str | int):
        return message.text("from"), None, None
    sender = message.open("from")
    row = sender.text("id"), sender.text("name"), sender.text("username")
    sender.drop(("email",))
    message.close("from", sender)
    return row


def _read_sticker(message: PayloadReader) -> str | None:
    """Take `sticker`: an address, or an object with one."""
    if not isinstance(message.rest.get("sticker"), dict):
        return message.text("sticker")
    sticker = message.open("sticker")
    url = sticker.first_text("url", "link")
    message.close("sticker", sticker)
    return url


def _read_story(message: PayloadReader) -> Row:
    """Take `story`: kind, id and link. The kind is `unknown` if the API returns only the story.

    In the shape of webhooks the story that a message answers is in `reply_to`.
    """
    if "story" not in message.rest:
        reply = message.rest.get("reply_to")
        if not (isinstance(reply, dict) and isinstance(reply.get("story"), dict)):
            return None, None, None
        outer = message.open("reply_to")
        story = outer.open("story")
        answered = "reply_to", story.text("id"), story.first_text("link", "url")
        outer.close("story", story)
        message.close("reply_to", outer)
        return answered
    story = message.open("story")
    row: Row = (None, None, None)
    for key, kind in _STORY_KINDS.items():
        if row[0] is None and isinstance(story.rest.get(key), dict):
            inner = story.open(key)
            row = kind, inner.text("id"), inner.first_text("link", "url")
            story.close(key, inner)
    if row[0] is None and ("id" in story.rest or "link" in story.rest or "url" in story.rest):
        row = "unknown", story.text("id"), story.first_text("link", "url")
    message.close("story", story)
    return row


def _read_reply(message: PayloadReader) -> str | None:
    """Take `reply_to`: the id of the quoted message, alone or in an object."""
    if not isinstance(message.rest.get("reply_to", 0), dict):
        return message.text("reply_to")
    reply = message.open("reply_to")
    message_id = reply.first_text("mid", "id")
    message.close("reply_to", reply)
    return message_id


def _find_content_type(
    story_kind: object,
    sticker_url: object,
    children: dict[str, list[Row]],
    text: object,
    rest: dict[str, object],
) -> str:
    """Return the first content type that applies, in the order of the module's docstring."""
    kinds = [str(row[_KIND]) for row in children["attachments"]]
    available = [kind for kind in kinds if kind != "unavailable"]
    if story_kind is not None:
        return _CONTENT_OF_STORY.get(str(story_kind)) or ("story_reply" if text else "other")
    if sticker_url or "sticker_id" in rest:
        return "sticker"
    if available == ["link_preview"] and text:
        return "text"
    if available:
        return _CONTENT_OF_KIND.get(available[0], available[0])
    if children["shares"]:
        return "share"
    if text:
        return "text"
    if kinds:
        return "unavailable"
    return "empty" if rest.keys() <= _EMPTY_KEYS else "other"
