"""Fields that exist on each node type; an unknown field refuses the whole call."""

from collections.abc import Sequence

from convo_pipeline.emulator.fields import Field
from convo_pipeline.emulator.refusals import nonexisting_field
from convo_pipeline.emulator.switches import Switches

MESSAGE_FIELDS = frozenset(
    (
        "id",
        "created_time",
        "from",
        "to",
        "message",
        "attachments",
        "shares",
        "sticker",
        "story",
        "reactions",
        "is_unsupported",
        "reply_to",
        "tags",
    )
)
CONVERSATION_FIELDS = frozenset(("id", "updated_time", "participants", "messages", "is_owner"))
UNDOCUMENTED_FIELDS = frozenset(
    (
        "message_count",
        "unread_count",
        "senders",
        "snippet",
        "can_reply",
        "is_subscribed",
        "link",
        "scoped_thread_key",
        "former_participants",
        "name",
        "wallpaper",
        "folder",
    )
)
ATTACHMENT_FIELDS = frozenset(
    (
        "id",
        "mime_type",
        "name",
        "size",
        "image_data",
        "video_data",
        "file_url",
        "generic_template",
        "appointment_booking",
        "sticker_id",
        "type",
        "url",
    )
)
SHARE_FIELDS = frozenset(
    ("id", "link", "name", "description", "picture", "type", "url", "title", "template")
)
PAGE_FIELDS = frozenset(
    (
        "id",
        "name",
        "username",
        "category",
        "instagram_business_account",
        "connected_instagram_account",
        "about",
        "link",
    )
)
IG_USER_FIELDS = frozenset(
    ("id", "user_id", "username", "name", "account_type", "profile_picture_url")
)


def check_fields(
    fields: Sequence[Field] | None, known: frozenset[str], node_type: str, switches: Switches
) -> None:
    """Refuse the call if a field does not exist."""
    for field in fields or ():
        if field.name not in known or field.name in switches.refused_fields:
            raise nonexisting_field(field.name, node_type)


def check_message_fields(fields: Sequence[Field] | None, switches: Switches) -> None:
    """Check the fields of a message, its attachments and its shares."""
    check_fields(fields, MESSAGE_FIELDS, "Message", switches)
    for field in fields or ():
        if field.name == "attachments":
            check_fields(field.children, ATTACHMENT_FIELDS, "MessageAttachment", switches)
        elif field.name == "shares":
            check_fields(field.children, SHARE_FIELDS, "MessageShare", switches)


def check_conversation_fields(
    fields: Sequence[Field] | None, platform: str, switches: Switches
) -> None:
    """Check the fields of a conversation and of the messages nested in it."""
    known = CONVERSATION_FIELDS
    if platform == "messenger" and switches.undocumented_fields:
        known = known | UNDOCUMENTED_FIELDS
    check_fields(fields, known, "UnifiedThread", switches)
    for field in fields or ():
        if field.name == "messages":
            check_message_fields(field.children, switches)
