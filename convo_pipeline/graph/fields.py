"""Which fields are asked for, as data, and the expansion strings made of them. Pure.

Base fields are always asked; every optional one can be dropped alone when an account refuses it
(one unknown field fails the whole call, code 100). A field of a share is dropped as `shares.<name>`.
"""

import re
from collections.abc import Callable, Collection, Sequence

BASE_MESSAGE_FIELDS = ("id", "created_time", "from", "to", "message")
OPTIONAL_MESSAGE_FIELDS = {
    "instagram": ("attachments", "shares", "story", "reactions", "reply_to", "is_unsupported"),
    "messenger": (
        "attachments",
        "shares",
        "sticker",
        "reactions",
        "reply_to",
        "tags",
        "is_unsupported",
    ),
}
SHARE_FIELDS = ("id", "link", "name", "description", "type", "url", "title", "template")
"""`shares` gives nothing unless its fields are named (Meta's Message reference)."""
BASE_CONVERSATION_FIELDS = ("id", "updated_time")
OPTIONAL_CONVERSATION_FIELDS = ("participants",)

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_SHARE_PREFIX = "shares."


def message_field_names(platform: str, dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the top-level fields asked of a message.

    >>> message_field_names("instagram", {"story", "shares.type"})
    ('id', 'created_time', 'from', 'to', 'message', 'attachments', 'shares', 'reactions', 'reply_to', 'is_unsupported')
    """
    optional = (name for name in OPTIONAL_MESSAGE_FIELDS[platform] if name not in dropped)
    return (
        *BASE_MESSAGE_FIELDS,
        *(name for name in optional if name != "shares" or _share_fields(dropped)),
    )


def message_fields(platform: str, dropped: Collection[str] = ()) -> str:
    """Return the `fields` of a message, shares with their own fields."""
    shares = "shares{" + ",".join(_share_fields(dropped)) + "}"
    return ",".join(
        shares if name == "shares" else name for name in message_field_names(platform, dropped)
    )


def _share_fields(dropped: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in SHARE_FIELDS if _SHARE_PREFIX + name not in dropped)


def conversation_field_names(dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the top-level fields asked of a conversation, nested messages aside."""
    return BASE_CONVERSATION_FIELDS + tuple(
        name for name in OPTIONAL_CONVERSATION_FIELDS if name not in dropped
    )


def conversation_fields(platform: str, messages_limit: int, dropped: Collection[str] = ()) -> str:
    """Return the `fields` of a conversation with its newest messages nested; without them if the limit is 0.

    >>> conversation_fields("messenger", 0)
    'id,updated_time,participants'
    """
    names = conversation_field_names(dropped)
    if not messages_limit:
        return ",".join(names)
    return ",".join(
        (*names, f"messages.limit({messages_limit}){{{message_fields(platform, dropped)}}}")
    )


def droppable(name: str, platform: str, dropped: Collection[str] = ()) -> str | None:
    """Return what to drop when `name` is refused; None if it is a base field or not asked.

    >>> droppable("sticker", "messenger"), droppable("link", "messenger"), droppable("message", "messenger")
    ('sticker', 'shares.link', None)
    """
    optional = optional_names(platform, dropped)
    if name in optional:
        return name
    if name in BASE_MESSAGE_FIELDS + BASE_CONVERSATION_FIELDS or "shares" not in optional:
        return None
    return _SHARE_PREFIX + name if name in _share_fields(dropped) else None


def optional_names(platform: str, dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the optional fields that are still asked, those of conversations last."""
    asked = (*message_field_names(platform, dropped), *conversation_field_names(dropped))
    return tuple(
        name for name in asked if name not in BASE_MESSAGE_FIELDS + BASE_CONVERSATION_FIELDS
    )


def optional_share_names(dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return what a share's fields are dropped as."""
    return tuple(_SHARE_PREFIX + name for name in _share_fields(dropped))


def names_in(fields: str) -> frozenset[str]:
    """Return every field name that occurs in an expansion string.

    >>> sorted(names_in("id,messages.limit(20){id,from}"))
    ['from', 'id', 'messages']
    """
    return frozenset(_NAME.findall(fields)) - {"limit"}


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
