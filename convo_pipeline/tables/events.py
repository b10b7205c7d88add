"""Recognise webhook bodies: what happened to which message, when. Pure; nothing here is stored or sent.

Shapes differ by platform and age: times are ms numbers, ids strings or (in old ones) numbers. Delivery is at least once
and unordered, so an event is told apart by `message_id`, `kind` and `at`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from convo_pipeline.errors import PayloadError
from convo_pipeline.tables.payloads import PayloadReader

OBJECTS = {"instagram": "instagram", "page": "messenger"}
KINDS = ("message", "echo", "unsend", "edit", "reaction", "other")


@dataclass(frozen=True)
class Event:
    """One thing that happened; `own_id` is the account it was sent to, `reaction` is "" where it was taken back."""

    kind: str
    platform: str
    own_id: str | None
    sender_id: str | None
    recipient_id: str | None
    at: datetime | None
    message_id: str | None
    text: str | None = None
    reaction: str | None = None


def read_events(body: object) -> list[Event]:
    """Return the events of a webhook body, in its order; PayloadError if it is none."""
    envelope = PayloadReader(body) if isinstance(body, dict) else PayloadReader({})
    platform = OBJECTS.get(envelope.text("object") or "")
    if platform is None or not isinstance(envelope.rest.get("entry"), list):
        raise PayloadError(
            'no webhook body: it needs "object" (instagram or page) and a list "entry"'
        )
    entries = [PayloadReader(entry) for entry in envelope.items("entry") if isinstance(entry, dict)]
    return [event for entry in entries for event in _read_entry(entry, platform)]


def _read_entry(entry: PayloadReader, platform: str) -> Iterator[Event]:
    own_id = entry.text("id")
    for item in entry.items("messaging"):
        if isinstance(item, dict):
            yield _read_event(PayloadReader(item), platform, own_id)


def _read_event(event: PayloadReader, platform: str, own_id: str | None) -> Event:
    sender_id, recipient_id = event.open("sender").text("id"), event.open("recipient").text("id")
    key = next((key for key in ("message", "message_edit", "reaction") if key in event.rest), "")
    content = event.open(key)
    kind, reaction = _find_kind(key, content), None
    if kind == "reaction":
        reaction = (
            "" if content.text("action") == "unreact" else content.first_text("emoji", "reaction")
        )
    message_id, text = content.text("mid"), content.text("text")
    at = _read_ms(event.count("timestamp"))
    return Event(kind, platform, own_id, sender_id, recipient_id, at, message_id, text, reaction)


def _find_kind(key: str, content: PayloadReader) -> str:
    if key == "message":
        if content.flag("is_deleted"):
            return "unsend"
        return "echo" if content.flag("is_echo") else "message"
    return {"message_edit": "edit", "reaction": "reaction"}.get(key, "other")


def _read_ms(value: int | None) -> datetime | None:
    """Read ms since 1970; None where it is no time of a calendar."""
    try:
        seconds, ms = divmod(value, 1000) if value is not None else (None, 0)
        return (
            None
            if seconds is None
            else datetime.fromtimestamp(seconds, UTC).replace(microsecond=ms * 1000)
        )
    except (ValueError, OverflowError, OSError):
        return None
