"""Typed values of successful responses: pages of rows, conversations, objects. Pure.

A response of an unknown shape raises PayloadError. `paging.next` contains the access token and may
point to any server, so only its cursor is used, never its address.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from urllib.parse import parse_qs, urlsplit

import orjson

from convo_pipeline.base.json_text import OverLimit, dump_json, load_json, readable_id
from convo_pipeline.base.times import EARLIEST_US, parse_time_us
from convo_pipeline.errors import PayloadError

MOST_ROW_BYTES = 8 * 1024 * 1024
MOST_ROW_KEYS = 1_000
_TIMES_AND_IDS = ("id", "created_time", "updated_time", "user_id")
"""Keys that a row keeps first if not all of its keys are within the limits."""
_LIST_KEYS = {"data", "error", "paging"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class GraphResponse:
    """The JSON of one successful response; `version` is the API version that served it."""

    body: object
    server_time: datetime
    byte_count: int
    version: str | None
    rejected_text: str | None = None
    """The text of an object that exceeds the limits; `body` is what of it is within them."""


@dataclass(frozen=True)
class Identity:
    """The account's own user id and name; None where the API does not return them."""

    own_id: str | None = None
    own_username: str | None = None


@dataclass(frozen=True)
class Page:
    """The rows of one list, in the API's order.

    `after` is the cursor of the next page, None on the last page. On a nested page it may be "":
    more messages exist but no cursor was given, so the messages are read again from the newest.
    """

    rows: tuple[object, ...]
    after: str | None
    server_time: datetime


@dataclass(frozen=True)
class ConversationRow:
    """One row of a conversation list, with its nested messages as a page.

    `payload` is the row without `messages`, or the value that the API sent instead of an object.
    `messages` has no rows if the row has no messages. If their shape is unknown, its cursor is ""
    and `malformed_messages` holds the value.
    """

    payload: object
    messages: Page
    malformed_messages: object = None

    @cached_property
    def conversation_id(self) -> str | None:
        """The conversation's id, or None if the row has no usable one."""
        return readable_id(self.payload)

    @cached_property
    def updated_us(self) -> int | None:
        """The time of the last activity in microseconds since 1970, or None."""
        payload = self.payload
        return parse_time_us(payload.get("updated_time")) if isinstance(payload, dict) else None

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


def read_json(content: bytes) -> object:
    """Parse a response's JSON strictly, with or without a byte order mark.

    Raises PayloadError for anything that `load_json` refuses with unique keys.

    >>> read_json(b'{"id": 12345678901234567890123}')
    {'id': 12345678901234567890123}
    """
    try:
        return load_json(content.removeprefix(_BYTE_ORDER_MARK), unique_keys=True)
    except ValueError as error:
        raise PayloadError(f"the response is {error}") from None


def activity_times(body: object) -> Iterator[int]:
    """Yield the times of the conversations and messages in a response, microseconds since 1970.

    Times before these platforms existed are wrong and left out.
    """
    for row in _rows_of(body):
        if isinstance(row, dict):
            times = (parse_time_us(row.get(name)) for name in ("updated_time", "created_time"))
            yield from (time for time in times if time is not None and time >= EARLIEST_US)
            if "messages" in row:
                yield from activity_times(row["messages"])


def _rows_of(body: object) -> Sequence[object]:
    if isinstance(body, dict):
        body = next((body[name] for name in ("data", "conversations") if name in body), [body])
    return body if isinstance(body, list) else [body]


def read_object(response: GraphResponse) -> GraphResponse:
    """Return the response of a call for one object; raise PayloadError for anything else."""
    if not isinstance(response.body, dict) or not response.body:
        raise PayloadError("the response is not an object")
    return response


def read_node(response: GraphResponse) -> GraphResponse:
    """Return the response of a call for an account or a token; PayloadError for other values.

    A list of one object is that object, as Meta's get-started page prints it inside `data`.
    """
    body = response.body
    if isinstance(body, list) and len(body) == 1:
        response = replace(response, body=body[0])
    return read_object(response)


def read_message(response: GraphResponse) -> GraphResponse:
    """Return the response of a call for one message, within the limits."""
    body, text = within_limits(read_object(response).body)
    return replace(response, body=body, rejected_text=text)


def within_limits(row: object) -> tuple[object, str | None]:
    """Return the part of a row that is within the limits, and the text of the row if it is not all.

    A row has at most 1,000 keys and 8 MiB, and no value that is `OverLimit`. The id and the times
    of a row are kept first, then its other keys in their order. Whatever is within the limits can
    be stored, read, erased, exported and verified. A text passes: it may be that of a whole row.
    PayloadError for a list beyond the limits.

    >>> within_limits({"id": "m_1", "message": "hi"})
    ({'id': 'm_1', 'message': 'hi'}, None)
    >>> within_limits(read_json(b'{"id": "m_1", "message": "hi", "rating": 1e999}'))
    ({'id': 'm_1', 'message': 'hi'}, '{"id":"m_1","message":"hi","rating":"1e999"}')
    """
    if isinstance(row, str):
        return str(row), None
    is_small = not isinstance(row, dict) or len(row) <= MOST_ROW_KEYS
    size = _size_of(row)
    if is_small and size is not None and size <= MOST_ROW_BYTES:
        return row, None
    text = dump_json(row).decode()
    if not isinstance(row, dict):
        raise PayloadError("the response has a list that exceeds the limits in place of an object")
    kept: dict[str, object] = {}
    room = MOST_ROW_BYTES
    for key in sorted(row, key=lambda key: key not in _TIMES_AND_IDS):
        size = _size_of({key: row[key]})
        if size is not None and size <= room and len(kept) < MOST_ROW_KEYS:
            kept[key] = row[key]
            room -= size
    return kept, text


def limit_rows(rows: Iterable[object]) -> tuple[object, ...]:
    """Return rows within the limits; after them the texts of those that were not, which no row is.

    Texts come last, so that every row keeps its place.
    """
    rows = list(rows)
    size = _size_of(rows)
    is_small = size is not None and size <= MOST_ROW_BYTES
    if is_small and all(not isinstance(row, dict) or len(row) <= MOST_ROW_KEYS for row in rows):
        return tuple(rows)
    limited = [within_limits(row) for row in rows]
    return (*(row for row, _ in limited), *(text for _, text in limited if text is not None))


def _size_of(value: object) -> int | None:
    """Return the bytes of a value as JSON; None if a part of it exceeds a limit."""
    try:
        return len(orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS))
    except TypeError:  # it may only hold a long number or half a surrogate pair
        waiting = [value]
        while waiting:
            part = waiting.pop()
            if isinstance(part, OverLimit):
                return None
            waiting += (
                part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
            )
        return len(dump_json(value))


def read_page(response: GraphResponse) -> Page:
    """Read a list of messages within the limits.

    PayloadError if it is no list, or if more pages follow without a cursor. A bare list is
    accepted, and an object in place of the list `data`, as in Meta's own sample.
    """
    page = _read_list(response)
    return replace(page, rows=limit_rows(page.rows))


def _read_list(response: GraphResponse) -> Page:
    body = response.body
    if isinstance(body, dict) and "data" not in body and "conversations" in body:
        # an older page of Meta prints the list under this key
        inner = body["conversations"]
        body = inner if isinstance(inner, dict) else {**body, "data": inner}
    if isinstance(body, list):
        return Page(tuple(body), None, response.server_time)
    if not isinstance(body, dict) or not isinstance(body.get("data"), list | dict):
        raise PayloadError("the response has no data list")
    if _size_of({key: value for key, value in body.items() if key != "data"}) is None:
        raise PayloadError("the response is nested too deeply beside its data")
    after = _read_cursor(body.get("paging"))
    if after == "":
        raise PayloadError("the response has a next page but no cursor")
    return Page(_read_rows(body["data"]), after, response.server_time)


def read_conversations(response: GraphResponse) -> ConversationPage:
    """Read a list of conversations, each with its nested messages."""
    page = _read_list(response)
    rows = tuple(read_conversation_row(row, page.server_time) for row in page.rows)
    return ConversationPage(rows, page.after, page.server_time)


def read_conversation_of_user(response: GraphResponse) -> ConversationPage:
    """Read a search by user: a list of at most one conversation, or the conversation itself.

    Meta's guide shows only an id as the response.
    """
    body = response.body
    if isinstance(body, dict) and "data" not in body and isinstance(body.get("id"), str):
        return read_conversation(response)
    return read_conversations(response)


def read_conversation(response: GraphResponse, conversation_id: str = "") -> ConversationPage:
    """Read a single conversation as a page of one row; `conversation_id` if it has no id."""
    body = read_object(response).body
    payload = {"id": conversation_id, **body} if isinstance(body, dict) else body
    row = read_conversation_row(payload, response.server_time)
    return ConversationPage((row,), None, response.server_time)


def read_conversation_row(value: object, server_time: datetime) -> ConversationRow:
    """Separate one row of a conversation list from the messages nested in it.

    >>> value = {"id": "t_1", "messages": {"data": [{"id": "m_1"}]}}
    >>> row = read_conversation_row(value, datetime.min)
    >>> row.payload, row.messages.rows
    ({'id': 't_1'}, ({'id': 'm_1'},))
    """
    if not isinstance(value, dict):
        return ConversationRow(within_limits(value)[0], Page((), None, server_time))
    payload, text = within_limits({key: item for key, item in value.items() if key != "messages"})
    rejected = () if text is None else (text,)
    messages = value.get("messages")
    if isinstance(messages, list):
        rows = (*limit_rows(messages), *rejected)
        return ConversationRow(payload, Page(rows, None, server_time))
    if messages is None:
        return ConversationRow(payload, Page(rejected, None, server_time))
    if not isinstance(messages, dict):
        return ConversationRow(payload, Page(rejected, "", server_time), within_limits(messages)[0])
    if "data" in messages or "error" in messages:
        rows = limit_rows(_read_rows(messages.get("data")))
    else:  # one message instead of a list, or nothing
        rows = limit_rows([messages] if messages.keys() - {"paging"} else [])
    # messages that were refused, in whole or in part, are read by a call of their own
    after = "" if "error" in messages else _read_cursor(messages.get("paging"))
    return ConversationRow(payload, Page((*rows, *rejected), after, server_time))


def read_next(value: object) -> tuple[tuple[object, ...], str] | None:
    """Return the rows of a list inside an object and the cursor of its next page.

    None if no page follows; the cursor is "" if the next page has none, or if the API returned an
    error with the list or in its place.

    >>> read_next({"data": [1], "paging": {"next": "https://graph.example/?after=b"}})
    ((1,), 'b')
    >>> read_next({"error": {"code": 10}})
    ((), '')
    """
    if not isinstance(value, dict):
        return None
    is_refused = isinstance(value.get("error"), dict) and value.keys() <= _LIST_KEYS
    after = "" if is_refused else _read_cursor(value.get("paging"))
    return None if after is None else (_read_rows(value.get("data")), after)


def read_identity(value: object) -> Identity:
    """Read `{id, username}`, also inside `{"data": [...]}` as Meta's get-started page prints it.

    `/me` of Instagram Login calls the id `user_id`; its `id` may be valid for one app only.
    """
    if isinstance(value, dict) and "data" in value:
        value = value["data"]
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if not isinstance(value, dict):
        return Identity()
    own_id, username = value.get("user_id") or value.get("id"), value.get("username")
    is_id = isinstance(own_id, str | int) and not isinstance(own_id, bool) and own_id != ""
    is_name = isinstance(username, str) and username
    return Identity(str(own_id) if is_id else None, username if is_name else None)


def _read_rows(data: object) -> tuple[object, ...]:
    if isinstance(data, list):
        return tuple(data)
    return () if data is None or data == {} else (data,)


def _read_cursor(paging: object) -> str | None:
    """Return the next page's cursor: None on the last page, "" if a next page has no cursor."""
    if not isinstance(paging, dict) or not paging.get("next"):
        return None
    cursors = paging.get("cursors")
    after = cursors.get("after") if isinstance(cursors, dict) else None
    if isinstance(after, str | int) and not isinstance(after, bool) and after != "":
        return str(after)
    try:
        return parse_qs(urlsplit(str(paging["next"])).query).get("after", [""])[-1]
    except ValueError:
        return ""
