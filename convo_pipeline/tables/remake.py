"""Raw rows made again from the derived tables of their day, for when the raw file was lost: the inverse of `normalize`.

What a derived table has no column for (who else got an e-mail, error codes, ranks) is not in them. Each payload reads
back to the rows it was made of. `REMADE` dates its keys before every answer, so that whatever the API or a backup says
of a key replaces it, and tells it apart from what the API said. Pure: tables in, tables out.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Any

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.tables import media
from convo_pipeline.tables.payloads import PayloadReader

REMADE = 0
"""The time of every key of a payload that was made again, in `fields`: older than any answer."""
Row = dict[str, Any]
Key = tuple[str, str]
Derived = Mapping[str, pa.Table]
"""The normalised tables of one account and date, by name; one that is not held has no rows."""

_UNREADABLE = "null"
"""Stands for a payload that was no object: it is as unreadable."""
_REPLACED = "\ufffd"
"""Stands for a lone surrogate, in a text or in a key that is not kept (the message's own `id` is none of its columns)."""
_ASKED = {
    "attachments": "attachment_count",
    "shares": "share_count",
    "reactions": "reaction_count",
    "is_unsupported": "is_unsupported",
}
_PERSON = {"id": "participant_id", "name": "name", "username": "username", "email": "email"}
_ATTACHMENT_KEYS = {
    "id": "attachment_id",
    "sticker_id": "sticker_id",
    "mime_type": "mime_type",
    "name": "name",
    "size": "size_bytes",
}
_URL_PLACES = {
    "video": ("video_data", "url"),
    "image": ("image_data", "url"),
    "sticker": ("image_data", "url"),
    "template": ("generic_template", "media_url"),
}
_ALL_URL_PLACES = (
    ("", "file_url"),
    ("", "url"),
    ("image_data", "url"),
    ("video_data", "url"),
    ("generic_template", "media_url"),
    ("generic_template", "medial_url"),
)
_HOLDER_OF_KIND = {"video": "video_data", "image": "image_data", "template": "generic_template"}


def remake_message_ids(derived: Derived, day: date, uncertain: Collection[Key]) -> pa.Table:
    """Return `raw_message_ids` as far as `messages` tells; `uncertain` are the messages whose date was a guess."""
    rows = []
    for message in derived[schema.MESSAGES.name].to_pylist():
        key = message["conversation_id"], message["message_id"]
        is_estimated = message["problem"] == "time_estimated" or key in uncertain
        is_undated = message["problem"] == "time_unreadable" or message["created_at"].date() != day
        rows.append(
            {
                name: message[name]
                for name in (
                    "conversation_id",
                    "message_id",
                    "created_at",
                    "tie_rank",
                    "first_seen_at",
                )
            }
            | {
                "created_at_source": "conversation"
                if is_estimated
                else "message_id"
                if is_undated
                else "message",
                "missing_at": message["deleted_at"],
                "deleted_at": message["deleted_at"],
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.RAW_MESSAGE_IDS.schema)


def remake_message_details(derived: Derived) -> pa.Table:
    """Return `raw_message_details` as far as the derived tables tell.

    A message that was never asked, or was told of without a word about it, has no row: the list of ids holds it.
    """
    children = {name: _by_message(derived[name]) for name in ("attachments", "shares", "reactions")}
    rows = []
    for message in derived[schema.MESSAGES.name].to_pylist():
        key = message["conversation_id"], message["message_id"]
        payload = _remake_payload(
            message, {name: found.get(key, []) for name, found in children.items()}
        )
        was_asked = (
            message["detail_status"] != "pending"
            or message["changed_at"] != message["first_seen_at"]
        )
        if payload is None and not was_asked:
            continue
        is_redacted = payload is not None and _was_emptied(message)
        rows.append(
            {
                name: message[name]
                for name in (
                    "conversation_id",
                    "message_id",
                    "created_at",
                    "detail_status",
                    "first_seen_at",
                    "changed_at",
                )
            }
            | {
                "payload": payload,
                "fields": None if payload is None else _fields_of(message, payload),
                "redacted_at": message["changed_at"] if is_redacted else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.RAW_MESSAGE_DETAILS.schema)


def remake_conversations(
    derived: Derived, day: date, own_id: str | None, own_username: str | None
) -> pa.Table:
    """Return `raw_conversations` as far as the derived tables tell; `own_id` is the account's where a conversation does not say."""
    people: dict[str, list[Row]] = defaultdict(list)
    for person in derived[schema.PARTICIPANTS.name].to_pylist():
        people[person["conversation_id"]].append(person)
    seen_at: dict[str, datetime] = {}
    for message in (
        derived[schema.MESSAGES.name].select(["conversation_id", "first_seen_at"]).to_pylist()
    ):
        before = seen_at.setdefault(message["conversation_id"], message["first_seen_at"])
        seen_at[message["conversation_id"]] = min(before, message["first_seen_at"])
    rows = []
    for conversation in derived[schema.CONVERSATIONS.name].to_pylist():
        if conversation["platform"] is None or conversation["page_id"] is None:
            continue
        found = people[conversation["conversation_id"]]
        own = next((person for person in found if person["is_account"]), None)
        is_known = any(person["is_account"] is not None for person in found)
        at = seen_at.get(conversation["conversation_id"], datetime.combine(day, time(), UTC))
        items = [_known({key: person[name] for key, name in _PERSON.items()}) for person in found]
        rows.append(
            {
                name: conversation[name]
                for name in ("conversation_id", "platform", "page_id", "folder")
            }
            | {
                "own_id": own["participant_id"] if own else own_id if is_known else None,
                "own_username": own_username if is_known else None,
                "payload": dump_json({"participants": {"data": items}}).decode() if items else None,
                "fields": dump_json({"participants": REMADE}).decode() if items else None,
                "first_seen_at": at,
                "changed_at": at,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.RAW_CONVERSATIONS.schema)


def _by_message(rows: pa.Table) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows.to_pylist():
        found[row["conversation_id"], row["message_id"]].append(row)
    return found


def _says_nothing(message: Row) -> bool:
    """Say whether no content is held of a message, only perhaps who wrote to whom."""
    return message["content_type"] == "unavailable" and message["text"] is None


def _was_emptied(message: Row) -> bool:
    """Say whether a message that is gone lost its content; of one that kept it, counts are known where they were asked for."""
    is_uncounted = all(message[name] is None for name in _ASKED.values())
    return message["detail_status"] == "gone" and is_uncounted and _says_nothing(message)


def _fields_of(message: Row, payload: str) -> str:
    """Return what was asked for, as far as it can be told."""
    value = load_json(payload)
    keys = set(_ASKED).union(value if isinstance(value, dict) else ())
    unasked = {key for key, name in _ASKED.items() if message[name] is None}
    return dump_json(dict.fromkeys(keys - unasked, REMADE)).decode()


def _remake_payload(message: Row, children: Mapping[str, list[Row]]) -> str | None:
    """Return JSON that reads back to the message and what hangs on it; None where nothing was held of it."""
    if message["content_type"] == "other" and message["problem"] == "payload_unreadable":
        return _UNREADABLE
    payload = _read_extra(message)
    _put_object(
        payload, "from", {key: message[f"sender_{key}"] for key in ("id", "name", "username")}
    )
    _put(payload, ("message",), message["text"])
    _put_list(payload, "to", _items("id", message["recipient_ids"]))
    _put_list(payload, "tags", _items("name", message["tags"]))
    _put(payload, ("sticker",), message["sticker_url"])
    _put_story(payload, message)
    reply = _inner(payload, "reply_to")
    _put(reply, ("mid", "id"), message["reply_to_message_id"])
    _put_object(payload, "reply_to", reply)
    if message["is_unsupported"]:
        payload["is_unsupported"] = True
    is_readable = message["problem"] != "field_unreadable"
    for key, read, propose in (
        ("attachments", media.read_attachments, _propose_attachments),
        ("shares", media.read_shares, _propose_shares),
    ):
        items = [
            _first_that_reads_back(key, read, propose(row), row, is_readable)
            for row in children[key]
        ]
        _put_list(payload, key, items or None)
    _put_reactions(payload, children["reactions"], is_readable)
    if not payload and _says_nothing(message):
        return None
    if message["problem"] == "time_unreadable":
        payload["created_time"] = ""
    if message["problem"] == "surrogate_replaced":
        return dump_json(payload | {"id": _REPLACED}).decode().replace(_REPLACED, "\\ud800")
    return dump_json(payload).decode()


def _read_extra(row: Row) -> Row:
    value = load_json(row["extra"]) if row["extra"] else {}
    return value if isinstance(value, dict) else {}


def _known(values: Mapping[str, object]) -> Row:
    return {key: value for key, value in values.items() if value is not None}


def _items(name: str, values: Iterable[str] | None) -> list[object] | None:
    return None if values is None else [{name: value} for value in values]


def _put(holder: Row, keys: Iterable[str], value: object) -> None:
    """Put a value under the first of its spellings that nothing else is left under."""
    free = next((key for key in keys if key not in holder), None)
    if value is not None and free is not None:
        holder[free] = value


def _inner(holder: Row, key: str) -> Row:
    """Return a copy of what is left of an object."""
    held = holder.get(key)
    return dict(held) if isinstance(held, dict) else {}


def _put_object(holder: Row, key: str, values: Mapping[str, object]) -> None:
    """Add known keys to what is left of an object; one that could not be read stays as it is."""
    held = holder.get(key, {})
    if isinstance(held, dict) and _known(values):
        holder[key] = held | _known(values)


def _put_story(payload: Row, message: Row) -> None:
    kind = message["story_kind"]
    if kind is None:
        return
    story = _inner(payload, "story")
    inner = _inner(story, kind)
    _put(inner, ("id",), message["story_id"])
    _put(inner, ("link", "url"), message["story_url"])
    payload["story"] = story | {kind: inner}


def _put_list(payload: Row, key: str, items: list[object] | None) -> None:
    """Put items before what is left of a list, wrapped as it was; one that could not be read stays as it is."""
    held = payload.get(key)
    if isinstance(held, list | dict) or (held is None and items is not None):
        left, rest = _unwrap(held)
        payload[key] = {**rest, "data": [*(items or ()), *left]}


def _unwrap(held: object) -> tuple[list[object], Row]:
    """Return what `PayloadReader` left of a list: its items and its wrapper's other keys."""
    if isinstance(held, list):
        return held, {}
    if not isinstance(held, dict):
        return [], {}
    if held.keys() == {"data", "rest"}:
        items, rest = _unwrap(held["rest"])
        return [*items, *held["data"]], rest
    return [], held


def _first_that_reads_back(
    key: str,
    read: Callable[[PayloadReader], list[media.Row]],
    proposed: Iterator[Row],
    row: Row,
    is_readable: bool,
) -> object:
    """Return the first item that gives the row again, and is as readable; else one that gives less: nothing is dropped."""
    names = [
        name
        for name in row
        if name not in ("conversation_id", "message_id", "created_at", "position")
    ]
    wanted = tuple(row[name] for name in names)
    best: tuple[int, Row] | None = None
    for item in proposed:
        fields = PayloadReader({key: {"data": [item]}})
        is_same = [found[1:] for found in read(fields)] == [wanted]
        likeness = is_same * 2 + (fields.is_readable == is_readable)
        if likeness == 3:
            return item
        best = max(best or (likeness, item), (likeness, item), key=lambda each: each[0])
    return best and best[1]


def _propose_attachments(row: Row) -> Iterator[Row]:
    """Yield items that may read back to an attachment: as Meta spells its kind first, then every other spelling."""
    kind = row["kind"]
    usual = _URL_PLACES.get(kind, _ALL_URL_PLACES[0])
    for holder, key in (usual, *(place for place in _ALL_URL_PLACES if place != usual)):
        for media_key in (
            ("video_data", "image_data") if kind == "video" else ("image_data", "video_data")
        ):
            for is_typed in (False, True):
                yield _attachment(row, kind, (holder, key), media_key, is_typed)


def _attachment(
    row: Row, kind: str, url_place: tuple[str, str], media_key: str, is_typed: bool
) -> Row:
    item = _read_extra(row)
    for key, name in _ATTACHMENT_KEYS.items():
        _put(item, (key,), row[name])
    parts: dict[str, Row] = {
        name: _inner(item, name) for name in ("image_data", "video_data", "generic_template")
    }
    for key in ("preview_url", "width", "height"):
        _put(parts[media_key], (key,), row[key])
    _put(parts["video_data"], ("length",), row["duration_seconds"])
    _put(parts["generic_template"], ("title",), row["title"])
    if kind == "sticker" and row["sticker_id"] is None and not is_typed:
        parts["image_data"]["render_as_sticker"] = True
    holder, key = url_place
    _put(parts[holder] if holder else item, (key,), row["url"])
    needed = None if is_typed else _HOLDER_OF_KIND.get(kind)
    item |= {name: part for name, part in parts.items() if part or name == needed}
    if is_typed:
        _put(item, ("type",), kind)
    return item


def _propose_shares(row: Row) -> Iterator[Row]:
    """Yield items that may read back to a share: a flat one, or a product's template."""
    for link in ("link", "url"):
        for name in ("name", "title"):
            item = _read_extra(row)
            named = {
                "id": "share_id",
                "type": "share_type",
                link: "link",
                name: "name",
                "description": "description",
            }
            for key, column in named.items():
                _put(item, (key,), row[column])
            yield item
    for is_inside in (True, False) if row["share_type"] == "product" else ():
        product = _read_extra(row) if is_inside else {}
        _put(product, ("id",), row["share_id"])
        _put(product, ("url", "image_url"), row["link"])
        _put(product, ("name", "title"), row["name"])
        _put(product, ("description",), row["description"])
        share = {} if is_inside else _read_extra(row)
        template = _inner(share, "template")
        payload = _inner(template, "payload")
        held = _inner(payload, "product")
        yield share | {
            "template": template
            | {"payload": payload | {"product": held | {"elements": [product]}}}
        }


def _put_reactions(payload: Row, rows: list[Row], is_readable: bool) -> None:
    items: list[object] = [
        {"reaction": row["reaction"]} | ({"users": {"data": [_user(row)]}} if _user(row) else {})
        for row in rows
    ]
    left, rest = _unwrap(payload.get("reactions"))
    if left:
        items += [_with_reaction(each, rows, is_readable) for each in left]
        payload["reactions"] = rest
    _put_list(payload, "reactions", items or None)


def _user(row: Row) -> Row:
    return _known({"id": row["reactor_id"] or None, "username": row["reactor_username"]})


def _with_reaction(left: object, rows: list[Row], is_readable: bool) -> object:
    """Give what was left of a reaction the reaction it hung on, unless that makes another row of it."""
    if not isinstance(left, dict) or not rows:
        return left
    users, rest = _unwrap(left.get("users"))
    first = users[0] if users and isinstance(users[0], dict) else {}
    user = first | _user(rows[0])
    item = dict(left)
    _put(item, ("reaction", "emoji"), rows[0]["reaction"])
    if user:
        item["users"] = {**rest, "data": [user, *users[1:]]}
    return item if is_readable else left
