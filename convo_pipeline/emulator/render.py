"""Render conversations and messages as API objects, with the 20 rule.

Decides which fields of a message are visible. Tokens, limits and HTTP are in other modules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from convo_pipeline.emulator import ids
from convo_pipeline.emulator.fields import Field
from convo_pipeline.emulator.known_fields import check_conversation_fields, check_message_fields
from convo_pipeline.emulator.media import sign
from convo_pipeline.emulator.paging import Paging, SortKey, cut_page, read_paging
from convo_pipeline.emulator.refusals import gone
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.view import CallView, link, show_data, show_id, show_paging, show_time
from convo_pipeline.emulator.world import Account, Conversation, Message, Payload

DEFAULT_MESSAGE = (Field("id"), Field("created_time"))
DEFAULT_CONVERSATION = (Field("id"), Field("updated_time"))
WRAPPED = ("to", "attachments", "shares", "reactions", "tags")
MEDIA = ("attachments", "shares", "sticker", "story")


# Messages


def messages_page(
    view: CallView,
    conversation: Conversation,
    fields: Sequence[Field] | None,
    paging: Paging,
    expression: str,
) -> Payload:
    """Return the messages edge of a conversation, with `data` and `paging`."""
    refuse_unreadable_conversation(conversation)
    switches = view.switches
    check_message_fields(fields, switches)
    rows = conversation.rows(view.now_us, keep_unsent=switches.unsent_rows == "kept")
    keys = _MessageKeys(rows)
    part, cut = cut_page(keys, paging, switches.cursor_kind)
    data = [
        show_message_row(view, message, fields or DEFAULT_MESSAGE, rank)
        for rank, message in enumerate(rows[part], part.start + 1)
    ]
    page: Payload = {"data": show_data(data, switches)}
    arguments: dict[str, object] = {
        "pretty": 0,
        **({"fields": expression} if expression else {}),
        "limit": 25,
    }
    path = f"{quote(show_id(conversation.conversation_id, switches), safe='')}/messages"
    if shown := show_paging(view, cut, path, arguments):
        page["paging"] = shown
    return page


class _MessageKeys(Sequence[SortKey]):
    """The (time, sequence) sort keys of messages, computed on access."""

    def __init__(self, rows: Sequence[Message]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        message = self._rows[index]
        return (message.created_us, f"{message.sequence:09d}")


def show_message_row(
    view: CallView, message: Message, fields: Sequence[Field], rank: int
) -> Payload:
    """Return a message as a row of an edge: without content, an error, or complete."""
    switches = view.switches
    platform = message.conversation.account.platform
    is_unsent = message.is_unsent(view.now_us)
    mode = switches.old_rows(platform) if rank > switches.readable_count else "full"
    if is_unsent and mode == "full":
        mode = "omit_fields"
    if mode == "full":
        return show_message(view, message, fields)
    bare = show_message(
        view, message, [field for field in fields if field.name in ("id", "created_time")]
    )
    if mode == "error_row" and any(field.name not in ("id", "created_time") for field in fields):
        refusal = gone(switches.refused_as, bare["id"])
        bare |= refusal.envelope(message.message_id, localised=switches.localised)
    return bare


def message_node(view: CallView, message: Message, fields: Sequence[Field] | None) -> Payload:
    """Return a message by its id; refuse an unsent or too old one."""
    refuse_unreadable(view, message)
    check_message_fields(fields, view.switches)
    return show_message(view, message, fields or DEFAULT_MESSAGE)


def refuse_unreadable_conversation(conversation: Conversation) -> None:
    if conversation.refusal is not None:
        raise replace(conversation.refusal)


def refuse_unreadable(view: CallView, message: Message) -> None:
    conversation, switches = message.conversation, view.switches
    refuse_unreadable_conversation(conversation)
    rows = conversation.rows(view.now_us, keep_unsent=switches.unsent_rows == "kept")
    is_old = message not in rows[: switches.readable_count]
    if message.is_unsent(view.now_us) or (
        is_old and switches.old_nodes(conversation.account.platform) == "refused"
    ):
        raise gone(switches.refused_as, show_id(message.message_id, switches))


def show_message(view: CallView, message: Message, fields: Sequence[Field]) -> Payload:
    """Return the requested fields that have data."""
    payload = message.payload
    shown: Payload = {}
    for field in fields:
        if field.name == "id":
            shown["id"] = payload.get("id", show_id(message.message_id, view.switches))
        elif field.name == "created_time":
            shown["created_time"] = payload.get(
                "created_time", show_time(message.created_us, view.switches)
            )
        elif (value := _message_value(view, message, field, payload)) is not _ABSENT:
            shown[field.name] = value
    shown.setdefault("id", payload.get("id", show_id(message.message_id, view.switches)))
    return shown | message.extra


_ABSENT = object()


def _message_value(
    view: CallView, message: Message, field: Field, payload: Payload, after: str | None = None
) -> Any:
    name, switches = field.name, view.switches
    if (
        name in ("sticker", "attachments")
        and switches.sticker_shape != "url"
        and payload.get("sticker")
    ):
        payload = _restick(payload, switches)
    if name not in payload:
        return _ABSENT
    value = payload[name]
    if name == "reply_to" and isinstance(value, dict) and "mid" in value:
        return value | {"mid": show_id(value["mid"], switches)}
    if name == "is_unsupported" and switches.is_unsupported_type == "string":
        return "true" if value is True else value
    if name == "to" and switches.to_includes_sender and isinstance(value, list):
        value = [payload["from"], *value]
    if name == "tags" and isinstance(value, list):
        value = [{"name": tag} for tag in value]
    if name in MEDIA:
        value = _signed(value, view)
    if name in WRAPPED and isinstance(value, list):
        return _wrap(view, message, field, value, after)
    return _narrow(value, field.children)


def _restick(payload: Payload, switches: Switches) -> Payload:
    """Return the payload with its sticker as an attachment, the form of 2026."""
    url = payload["sticker"]
    sticker = {"type": "sticker", "sticker_id": url.rsplit("/", 1)[-1].split(".")[0], "url": url}
    changed = payload | {"attachments": [sticker]}
    if switches.sticker_shape == "image":
        sticker["image_data"] = {"sticker_id": sticker.pop("sticker_id"), "url": sticker.pop("url")}
        del sticker["type"]
    if switches.sticker_shape != "both":
        del changed["sticker"]
    return changed


def _signed(value: Any, view: CallView) -> Any:
    if isinstance(value, str):
        return (
            sign(value, view.now_us, view.switches.media_hours)
            if value.startswith("https://")
            else value
        )
    if isinstance(value, dict):
        return {key: _signed(inner, view) for key, inner in value.items()}
    return [_signed(inner, view) for inner in value] if isinstance(value, list) else value


def _wrap(
    view: CallView, message: Message, field: Field, value: list[Any], after: str | None
) -> Any:
    """Return a list as `{data: […]}`, with the shape of reactions that the switch says."""
    switches = view.switches
    if field.name == "reactions" and switches.reactions_shape != "data":
        return value[0] if switches.reactions_shape == "object" and value else value
    if field.name == "shares" and not field.children:
        field = replace(field, children=(Field("id"), Field("link")))
    return _inner_page(view, message.message_id, field, value, after)


def _inner_page(
    view: CallView, owner_id: str, field: Field, items: Sequence[Any], after: str | None
) -> Payload:
    """Return a page of a nested list, with a `next` if there are more items, or a phantom one.

    A cursor is the index of the last item, as in Meta's responses.
    """
    switches, start = view.switches, 0
    if after is not None:
        start = ids.read_offset(after) + 1
    stop = start + switches.inner_limit
    rows = [_narrow(item, field.children) for item in items[start:stop]]
    page: Payload = {"data": show_data(rows, switches)}
    is_phantom = switches.inner_next == "everywhere" or (
        switches.inner_next == "phantom" and field.name == "shares"
    )
    if rows and (stop < len(items) or is_phantom):
        first, last = (ids.write_offset(index) for index in (start, start + len(rows) - 1))
        path = f"{quote(show_id(owner_id, switches), safe='')}/{field.name}"
        page["paging"] = {
            "cursors": {"before": first, "after": last},
            "next": link(view, path, {"limit": 25, "after": last}),
        }
    return page


def _narrow(value: Any, children: Sequence[Field] | None) -> Any:
    """Return only the requested sub-fields."""
    if not children or not isinstance(value, dict):
        return value
    return {
        child.name: _narrow(value[child.name], child.children)
        for child in children
        if child.name in value
    }


def message_edge(
    view: CallView, message: Message, name: str, fields: Sequence[Field] | None, after: str | None
) -> Payload:
    """Return a page of a nested list of a message, such as `/{message}/attachments`."""
    refuse_unreadable(view, message)
    field = Field(name, children=tuple(fields) if fields else None)
    value = _message_value(view, message, field, message.payload, after)
    if value is _ABSENT:
        return {"data": []}
    return value if isinstance(value, dict) and "data" in value else {"data": value}


# Conversations


def conversations_page(
    view: CallView,
    account: Account,
    fields: Sequence[Field] | None,
    paging: Paging,
    arguments: Mapping[str, object],
    rows: Sequence[tuple[int, Conversation]],
) -> Payload:
    """Return the conversations edge, newest activity first."""
    check_conversation_fields(fields, account.platform, view.switches)
    keys = [(moment, conversation.conversation_id) for moment, conversation in rows]
    part, cut = cut_page(keys, paging, view.switches.cursor_kind)
    data = [
        show_conversation(view, conversation, fields or DEFAULT_CONVERSATION)
        for _, conversation in rows[part]
    ]
    page: Payload = {"data": show_data(data, view.switches)}
    if shown := show_paging(
        view, cut, f"{account.page_id}/conversations", {**arguments, "limit": paging.limit}
    ):
        page["paging"] = shown
    return page


def conversation_node(
    view: CallView, conversation: Conversation, fields: Sequence[Field] | None
) -> Payload:
    check_conversation_fields(fields, conversation.account.platform, view.switches)
    return show_conversation(view, conversation, fields or DEFAULT_CONVERSATION)


def people_edge(
    view: CallView,
    conversation: Conversation,
    name: str,
    fields: Sequence[Field] | None,
    after: str | None,
) -> Payload:
    """Return a page of `/{conversation}/participants` or `/senders`."""
    refuse_unreadable_conversation(conversation)
    field = Field(name, children=tuple(fields) if fields else None)
    page = _people(view, conversation, field, after)
    return {"data": []} if page is _ABSENT else page


def show_conversation(
    view: CallView, conversation: Conversation, fields: Sequence[Field]
) -> Payload:
    shown: Payload = {}
    for field in fields:
        maker = _CONVERSATION.get(field.name)
        value = maker(view, conversation, field) if maker else _ABSENT
        if value is not _ABSENT:
            shown[field.name] = value
    shown.setdefault("id", show_id(conversation.conversation_id, view.switches))
    return shown | conversation.extra


def _nested_messages(view: CallView, conversation: Conversation, field: Field) -> Any:
    switches = view.switches
    paging = read_paging(field.arguments, switches.default_limit, switches.messages_limit)
    page = messages_page(view, conversation, field.children, paging, _write(field.children))
    return page if page["data"] else _ABSENT


def _write(fields: Sequence[Field] | None) -> str:
    """Return a field expression as text."""
    return ",".join(
        field.name + (f"{{{_write(field.children)}}}" if field.children is not None else "")
        for field in fields or ()
    )


def _people(
    view: CallView, conversation: Conversation, field: Field, after: str | None = None
) -> Any:
    shape, own = view.switches.participants, conversation.account.person()
    people = [*conversation.people, own]
    if shape == "absent":
        return _ABSENT
    if shape == "account_first":
        people.reverse()
    if shape == "account_only":
        people = [own]
    if shape == "ids_only":
        people = [{"id": person["id"]} for person in people]
    return _inner_page(view, conversation.conversation_id, field, people, after)


def _snippet(view: CallView, conversation: Conversation, field: Field) -> Any:
    rows = conversation.rows(view.now_us, keep_unsent=False)
    return rows[0].payload.get("message") or "You received a message." if rows else _ABSENT


def _link(view: CallView, conversation: Conversation, field: Field) -> str:
    account = conversation.account
    return f"/{account.title.replace(' ', '-')}-{account.page_id}/inbox/{conversation.thread}/"


Maker = Callable[[CallView, Conversation, Field], Any]
_CONVERSATION: Mapping[str, Maker] = {
    "id": lambda view, conversation, field: show_id(conversation.conversation_id, view.switches),
    "updated_time": lambda view, conversation, field: (
        show_time(conversation.updated_us(view.now_us) or 0, view.switches)
        if view.switches.has_updated_time
        else _ABSENT
    ),
    "participants": _people,
    "messages": _nested_messages,
    "senders": _people,
    "is_owner": lambda view, conversation, field: (
        True if view.switches.conversation_routing else _ABSENT
    ),
    "message_count": lambda view, conversation, field: len(
        conversation.rows(view.now_us, keep_unsent=False)
    ),
    "unread_count": lambda view, conversation, field: 0,
    "snippet": _snippet,
    "can_reply": lambda view, conversation, field: True,
    "is_subscribed": lambda view, conversation, field: True,
    "link": _link,
    "scoped_thread_key": lambda view, conversation, field: show_id(
        conversation.conversation_id, view.switches
    ),
    "former_participants": lambda view, conversation, field: {"data": []},
}
