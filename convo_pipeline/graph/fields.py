"""Fields that calls request, and the field expansion strings made of them. Pure.

One unknown field fails the whole call (code 100), so every optional field can be left out alone.
A field inside `shares` is left out as `shares.<name>`.
"""

import re
from collections.abc import Callable, Collection, Sequence

BASE_MESSAGE_FIELDS = ("id", "created_time", "from", "to", "message")
OPTIONAL_MESSAGE_FIELDS = {
    "instagram": ("attachments", "shares", "story", "reactions", "reply_to", "is_unsupported"),
    "messenger": (
        *("attachments", "shares", "sticker", "reactions", "reply_to", "tags", "is_unsupported"),
    ),
}
SHARE_FIELDS = ("id", "link", "name", "description", "type", "url", "title", "template")
"""`shares` returns nothing unless its fields are named (Meta's Message reference)."""
BASE_CONVERSATION_FIELDS = ("id", "updated_time")
OPTIONAL_CONVERSATION_FIELDS = ("participants",)

_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def message_field_names(platform: str, dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the top-level fields requested of a message.

    >>> message_field_names("instagram", {"attachments", "reactions", "reply_to", "shares.type"})
    ('id', 'created_time', 'from', 'to', 'message', 'shares', 'story', 'is_unsupported')
    """
    optional = (name for name in OPTIONAL_MESSAGE_FIELDS[platform] if name not in dropped)
    has_shares = bool(_share_fields(dropped))
    return (*BASE_MESSAGE_FIELDS, *(name for name in optional if name != "shares" or has_shares))


def message_fields(platform: str, dropped: Collection[str] = ()) -> str:
    """Return the `fields` of a message, with the fields inside `shares`."""
    shares = "shares{" + ",".join(_share_fields(dropped)) + "}"
    names = message_field_names(platform, dropped)
    return ",".join(shares if name == "shares" else name for name in names)


def list_fields(name: str, dropped: Collection[str] = ()) -> str:
    """Return the `fields` of a later page of a list; "" for the list's default fields.

    >>> list_fields("attachments"), list_fields("shares", SHARE_FIELDS)
    ('', 'id,link,name,description,type,url,title,template')
    """
    return ",".join(_share_fields(dropped)) if name == "shares" else ""


def _share_fields(dropped: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in SHARE_FIELDS if f"shares.{name}" not in dropped)


def conversation_field_names(dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the top-level fields requested of a conversation, without `messages`."""
    optional = (name for name in OPTIONAL_CONVERSATION_FIELDS if name not in dropped)
    return (*BASE_CONVERSATION_FIELDS, *optional)


def conversation_fields(platform: str, messages_limit: int, dropped: Collection[str] = ()) -> str:
    """Return the `fields` of a conversation with its newest messages, or without if it is 0.

    >>> conversation_fields("messenger", 0)
    'id,updated_time,participants'
    """
    names = [*conversation_field_names(dropped)]
    if messages_limit:
        messages = message_fields(platform, dropped)
        names.append(f"messages.limit({messages_limit}){{{messages}}}")
    return ",".join(names)


def names_in(fields: str) -> frozenset[str]:
    """Return all field names in a field expansion string.

    >>> sorted(names_in("id,messages.limit(20){id,from}"))
    ['from', 'id', 'messages']
    """
    return frozenset(_NAME.findall(fields)) - {"limit"}


def optional_names(platform: str, dropped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the optional fields that are still requested, those inside `shares` one by one."""
    names = (*message_field_names(platform, dropped), *conversation_field_names(dropped))
    base = {*BASE_MESSAGE_FIELDS, *BASE_CONVERSATION_FIELDS, "shares"}
    shares = _share_fields(dropped) if "shares" in names else ()
    return (
        *(f"shares.{name}" for name in shares),
        *(name for name in names if name not in base),
    )


def find_optional_name(name: str, platform: str, dropped: Collection[str] = ()) -> str | None:
    """Return what to leave out if `name` is refused; None for a base field or one not requested.

    >>> find_optional_name("sticker", "messenger"), find_optional_name("link", "messenger")
    ('sticker', 'shares.link')
    >>> find_optional_name("message", "messenger") is None
    True
    """
    names = optional_names(platform, dropped)
    if name in {*BASE_MESSAGE_FIELDS, *BASE_CONVERSATION_FIELDS}:
        return None
    if name == "shares" and any(each.startswith("shares.") for each in names):
        return name
    return next((each for each in (name, f"shares.{name}") if each in names), None)


def find_refused_fields(
    platform: str, dropped: Collection[str], is_accepted: Callable[[frozenset[str]], bool]
) -> tuple[str, ...]:
    """Find by trial calls which optional fields are refused; empty if none of them is.

    For accounts whose errors do not name the field, because texts are localised. `is_accepted`
    sends a call without the given fields.
    """
    names = optional_names(platform, dropped)

    def is_accepted_with(requested: Sequence[str]) -> bool:
        return is_accepted(frozenset(dropped) | (set(names) - set(requested)))

    return find_refused(names, is_accepted_with) if is_accepted_with(()) else ()


def find_refused(
    names: Sequence[str], is_accepted: Callable[[Sequence[str]], bool]
) -> tuple[str, ...]:
    """Return which of these names are refused alone, found by halving; all together are refused.

    >>> find_refused("abcdefgh", lambda names: "c" not in names and "h" not in names)
    ('c', 'h')
    """
    if len(names) == 1:
        return tuple(names)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    refused = (find_refused(half, is_accepted) for half in halves if not is_accepted(half))
    return tuple(name for half in refused for name in half)
