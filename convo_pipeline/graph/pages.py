"""Answers as values: strict JSON, and one page of rows with the cursor that follows it. Pure.

`paging.next` carries the token and may point anywhere: of it only the cursor is taken, never the address.
"""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

from convo_pipeline.base.json_text import load_json
from convo_pipeline.errors import PayloadError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Page:
    """One response's rows, in the API's order.

    `after` is the cursor of the next page; None on the last one. On a nested page it may be "": there is more,
    but no cursor was given, so the edge is walked from its head.
    """

    rows: tuple[object, ...]
    after: str | None
    server_time: datetime


@dataclass(frozen=True)
class ConversationRow:
    """One row of a conversation list, its nested messages read into a page of their own.

    `payload` is the row without `messages`, or the value that the API sent instead of an object.
    `messages` has no rows if the row has no messages. If their shape is unknown, its cursor is ""
    and `malformed_messages` holds the value.
    """

    payload: object
    messages: Page
    malformed_messages: object = None

    def to_json(self) -> object:
        """Return the row with its messages inside again, without their `paging`."""
        if not isinstance(self.payload, dict):
            return self.payload
        if self.malformed_messages is not None:
            return self.payload | {"messages": self.malformed_messages}
        nested = {"messages": {"data": list(self.messages.rows)}} if self.messages.rows else {}
        return self.payload | nested


@dataclass(frozen=True)
class ConversationPage:
    """One page of a conversation list; `after` as in `Page`."""

    rows: tuple[ConversationRow, ...]
    after: str | None
    server_time: datetime


def read_conversation_row(value: object, server_time: datetime) -> ConversationRow:
    """Separate a row of a conversation list from the messages nested in it.

    >>> row = read_conversation_row({"id": "t_1", "messages": {"data": [{"id": "m_1"}]}}, datetime.min)
    >>> row.payload, row.messages.rows
    ({'id': 't_1'}, ({'id': 'm_1'},))
    """
    if not isinstance(value, dict):
        return ConversationRow(value, Page((), None, server_time))
    payload = {key: item for key, item in value.items() if key != "messages"}
    messages = value.get("messages")
    try:
        return ConversationRow(payload, _read_nested(messages, server_time))
    except PayloadError:
        return ConversationRow(payload, Page((), "", server_time), messages)


def read_conversations(page: Page) -> ConversationPage:
    """Return a page of conversations with the nested messages of each row."""
    rows = tuple(read_conversation_row(row, page.server_time) for row in page.rows)
    return ConversationPage(rows, page.after, page.server_time)


def read_json(content: bytes) -> object:
    """Parse JSON strictly from bytes; raise PayloadError if it is broken.

    Lone surrogates stay in the strings as they came (`\\ud800`), integers keep every digit, NaN and invalid UTF-8 are
    refused, and so is an object that says two things under one key; a byte order mark is skipped.

    >>> read_json(b'{"id": 12345678901234567890123}')
    {'id': 12345678901234567890123}
    """
    try:
        return load_json(content.removeprefix(_BYTE_ORDER_MARK), unique_keys=True)
    except ValueError as error:
        raise PayloadError(f"the answer is {error}") from None


def read_page(body: object, server_time: datetime) -> Page:
    """Read a list answer; raise PayloadError if it is none or goes on without a cursor.

    A bare list is accepted, and an object where `data` should be a list, as Meta's own sample prints it.
    """
    if isinstance(body, list):
        return Page(tuple(body), None, server_time)
    if not isinstance(body, dict) or not isinstance(body.get("data"), list | dict):
        raise PayloadError("the answer has no data list")
    after = _cursor(body.get("paging"))
    if after == "":
        raise PayloadError("the answer says that more follows but names no cursor")
    return Page(_rows(body["data"]), after, server_time)


def _read_nested(value: object, server_time: datetime) -> Page:
    """Read a list nested in a row: `{"data": [...]}`, a bare list, one object, or nothing at all."""
    if value is None:
        return Page((), None, server_time)
    if isinstance(value, list):
        return Page(tuple(value), None, server_time)
    if not isinstance(value, dict):
        raise PayloadError("a nested list has an unknown shape")
    if "data" not in value:
        is_empty = not value or set(value) == {"paging"}
        return Page(() if is_empty else (value,), _cursor(value.get("paging")), server_time)
    return Page(_rows(value["data"]), _cursor(value.get("paging")), server_time)


def _rows(data: object) -> tuple[object, ...]:
    if isinstance(data, list):
        return tuple(data)
    return () if data is None or data == {} else (data,)


def _cursor(paging: object) -> str | None:
    """Return the next page's cursor; None if this is the last page, "" if more follows but no cursor is named."""
    if not isinstance(paging, dict) or not paging.get("next"):
        return None
    cursors = paging.get("cursors")
    after = cursors.get("after") if isinstance(cursors, dict) else None
    if isinstance(after, str | int) and not isinstance(after, bool) and after != "":
        return str(after)
    return _cursor_in_address(paging["next"])


def _cursor_in_address(address: object) -> str:
    if not isinstance(address, str):
        return ""
    try:
        values = parse_qs(urlsplit(address).query).get("after", [""])
    except ValueError:
        return ""
    return values[-1]
