"""The tables, declared once as data: columns, types, keys, one line of meaning each.

Everything else walks these declarations: files, views, the UI's column schema, the data dictionary.
It knows no file, no DataFrame and no API. `account` and `date` are never columns here: they are the
partition, i.e. the path (`<table>/account=<name>/date=YYYY-MM-DD/data.parquet`).
Times are `timestamp[us, UTC]`; ids are strings.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 4
"""Raise it whenever a table's columns change; before that, `python -m tests.support.write_lake` keeps a lake of the old ones."""
VERSION_KEY = b"convo_pipeline.schema_version"

TEXT = pa.string()
TEXTS = pa.list_(pa.string())
TIME = pa.timestamp("us", tz="UTC")
COUNT = pa.int64()
RATIO = pa.float64()
FLAG = pa.bool_()

Layer = Literal["raw", "normalised", "marts", "ledger"]

CONTENT_TYPES = (
    "text", "image", "video", "audio", "file", "sticker", "share", "story_reply", "story_mention",
    "template", "unsupported", "empty", "unavailable", "other",
)  # fmt: skip
DETAIL_STATUSES = ("pending", "failed", "beyond_20", "gone", "detailed")
"""From least to most known: a merge keeps the later one."""
READABLE_COUNT = 20
"""The API gives the content of so many of a conversation's newest messages."""
CREATED_AT_SOURCES = ("message", "message_id", "conversation", "listing")
PROBLEMS = (
    "payload_unreadable",
    "field_unreadable",
    "time_unreadable",
    "time_estimated",
    "surrogate_replaced",
)
DIRECTIONS = ("inbound", "outbound")


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type and, in one line, what it means."""

    name: str
    type: pa.DataType
    description: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """One table = folder = asset key = view."""

    name: str
    layer: Layer
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the files, with the schema version in its metadata."""
        fields = [
            pa.field(column.name, column.type, nullable=not column.required)
            for column in self.columns
        ]
        return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def row_keys(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return one string per row that is equal exactly where the key is equal."""
        first, *rest = (rows.column(name) for name in self.key)
        for column in rest:
            length = pc.cast(pc.binary_length(first), pa.string())
            first = pc.binary_join_element_wise(length, first, column, ":")
        return first


def _id(name: str, description: str, required: bool = True) -> Column:
    return Column(name, TEXT, description, required)


CONVERSATION_ID = _id("conversation_id", "The Graph API's id of the conversation, opaque.")
MESSAGE_ID = _id(
    "message_id", "The Graph API's id of the message, opaque; the same as `mid` in webhooks."
)
CREATED_AT = Column(
    "created_at", TIME, "When the message was sent, to the second, UTC.", required=True
)
FIRST_SEEN_AT = Column(
    "first_seen_at", TIME, "When an answer first held this content (server clock).", required=True
)
CHANGED_AT = Column(
    "changed_at", TIME, "When an answer last changed this content (server clock).", required=True
)
POSITION = Column("position", COUNT, "Place in the message's list, from 0.", required=True)

RAW_CONVERSATIONS = Table(
    "raw_conversations",
    "raw",
    "What the API said of a conversation, one row for every day on which it has a message.",
    ("conversation_id",),
    (
        CONVERSATION_ID,
        Column("platform", TEXT, "`instagram` or `messenger`.", required=True),
        Column("page_id", TEXT, "The Page (or `me`) whose inbox was listed.", required=True),
        Column(
            "folder", TEXT, "The folder asked for when it was found; null for the default listing."
        ),
        Column(
            "own_id", TEXT, "The account's own id inside conversations; null where it is not known."
        ),
        Column("own_username", TEXT, "The account's own Instagram user name, where given."),
        Column(
            "fields",
            TEXT,
            "JSON: each payload key asked for and the time (µs since 1970) of the answer it is from;"
            " 0: an earlier version rebuilt it from derived tables.",
        ),
        Column(
            "payload",
            TEXT,
            "JSON of the stable part: no messages, paging, tokens, counters or snippet.",
        ),
        FIRST_SEEN_AT,
        CHANGED_AT,
    ),
)
RAW_MESSAGE_IDS = Table(
    "raw_message_ids",
    "raw",
    "Every message id the API listed, whether its details can be read or not.",
    ("conversation_id", "message_id"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        CREATED_AT,
        Column(
            "created_at_source",
            TEXT,
            f"Where created_at is from: {', '.join(CREATED_AT_SOURCES)}.",
            required=True,
        ),
        Column(
            "tie_rank",
            COUNT,
            "Order among the conversation's ids of one second, oldest 0.",
            required=True,
        ),
        FIRST_SEEN_AT,
        Column(
            "missing_at",
            TIME,
            "When a contiguous walk first passed its place and it was not there.",
        ),
        Column(
            "deleted_at",
            TIME,
            "When a later answer listed what was sent before and after it, and again not it.",
        ),
        Column(
            "returned_at",
            TIME,
            "When it was first listed again after it was missed: then it was not deleted.",
        ),
    ),
)
RAW_MESSAGE_DETAILS = Table(
    "raw_message_details",
    "raw",
    "What the API said of a message, or why it said nothing.",
    ("conversation_id", "message_id"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        CREATED_AT,
        Column(
            "detail_status",
            TEXT,
            f"How much is known: {', '.join(reversed(DETAIL_STATUSES))}.",
            required=True,
        ),
        Column("rank_when_asked", COUNT, "Place in the conversation when asked, newest 1."),
        Column("error_code", COUNT, "The Graph API's error code, where it refused."),
        Column("error_subcode", COUNT, "The Graph API's error subcode, where it refused."),
        Column(
            "fields",
            TEXT,
            "JSON: each payload key asked for and the time (µs since 1970) of the answer it is from;"
            " 0: an earlier version rebuilt it from derived tables.",
        ),
        Column("payload", TEXT, "JSON of the message; paging and tokens stripped."),
        FIRST_SEEN_AT,
        CHANGED_AT,
        Column(
            "gone_at", TIME, "When the API first refused it although it was among the newest 20."
        ),
        Column(
            "redacted_at",
            TIME,
            "Its `deleted_at`, once its content was removed: what was said before is not kept.",
        ),
    ),
)
RAW_REJECTS = Table(
    "raw_rejects",
    "raw",
    "Entries without an id or a shape we can read, kept as they came; their date is the listing's.",
    ("digest",),
    (
        Column("digest", TEXT, "SHA-256 of the payload, hexadecimal.", required=True),
        Column("reason", TEXT, "Why it was rejected.", required=True),
        Column("payload", TEXT, "The entry as JSON.", required=True),
        FIRST_SEEN_AT,
    ),
)
MESSAGES = Table(
    "messages",
    "normalised",
    "One row per message id, detailed or not.",
    ("conversation_id", "message_id"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        Column("platform", TEXT, "`instagram` or `messenger`."),
        CREATED_AT,
        Column(
            "tie_rank",
            COUNT,
            "Order among the conversation's messages of one second, oldest 0.",
            required=True,
        ),
        Column(
            "direction",
            TEXT,
            "`inbound` from the customer, `outbound` from us, null where we cannot know.",
        ),
        Column("sender_id", TEXT, "Who sent it."),
        Column("sender_name", TEXT, "The sender's name (Messenger)."),
        Column("sender_username", TEXT, "The sender's user name (Instagram)."),
        Column("recipient_ids", TEXTS, "To whom it was sent."),
        Column("text", TEXT, "The text, byte for byte; empty for media, null without details."),
        Column("content_type", TEXT, f"What it is: {', '.join(CONTENT_TYPES)}.", required=True),
        Column("attachment_count", COUNT, "Rows in `attachments`; null without details."),
        Column("share_count", COUNT, "Rows in `shares`; null without details."),
        Column("reaction_count", COUNT, "Rows in `reactions`; null without details."),
        Column("sticker_url", TEXT, "The sticker's picture (expires)."),
        Column(
            "story_kind",
            TEXT,
            "`reply_to`, `mention` or `unknown` (the API named only the story), for Instagram stories.",
        ),
        Column("story_id", TEXT, "The story's id."),
        Column("story_url", TEXT, "The story's media (expires with the story)."),
        Column("reply_to_message_id", TEXT, "The message this one quotes."),
        Column(
            "is_unsupported",
            FLAG,
            "Meta says that its kind is not supported by the API; null without details.",
        ),
        Column("tags", TEXTS, "Messenger's tags: folder, direction, client."),
        Column(
            "detail_status",
            TEXT,
            f"How much is known: {', '.join(reversed(DETAIL_STATUSES))}.",
            required=True,
        ),
        Column(
            "deleted_at",
            TIME,
            "When it was found that it had been unsent or deleted; null if it was not.",
        ),
        Column(
            "problem",
            TEXT,
            f"What could not be understood: {', '.join(PROBLEMS)}; null if nothing.",
        ),
        Column("extra", TEXT, "JSON of the payload's fields that have no column; null if none."),
        FIRST_SEEN_AT,
        CHANGED_AT,
    ),
)
ATTACHMENTS = Table(
    "attachments",
    "normalised",
    "Pictures, videos, audio, files, stickers and templates of messages: links, not files.",
    ("conversation_id", "message_id", "position"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        POSITION,
        CREATED_AT,
        Column("attachment_id", TEXT, "The Graph API's id of the attachment."),
        Column("sticker_id", TEXT, "The sticker's id."),
        Column(
            "kind",
            TEXT,
            "image, video, audio, file, sticker, template, appointment, share, link_preview,"
            " story_mention, story, location, unavailable or other.",
            True,
        ),
        Column("mime_type", TEXT, "MIME type, where given."),
        Column("name", TEXT, "File name, where given."),
        Column("size_bytes", COUNT, "Size in bytes, where given."),
        Column("url", TEXT, "Signed link to the media; dies within hours or days."),
        Column("url_expires_at", TIME, "When the link dies, where the link says so."),
        Column("preview_url", TEXT, "Signed link to a preview."),
        Column("width", COUNT, "Width in pixels."),
        Column("height", COUNT, "Height in pixels."),
        Column("duration_seconds", RATIO, "Length of a video or audio, in seconds."),
        Column("is_sticker", FLAG, "It is shown as a sticker.", required=True),
        Column("title", TEXT, "Title of a template, a shared post or a link preview."),
        Column("extra", TEXT, "JSON of the fields that have no column; null if none."),
    ),
)
SHARES = Table(
    "shares",
    "normalised",
    "Posts, reels, links and products shared in messages.",
    ("conversation_id", "message_id", "position"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        POSITION,
        CREATED_AT,
        Column("share_id", TEXT, "The shared object's id, where visible."),
        Column("share_type", TEXT, "post, ig_post, reel, ig_reel, product or link, where known."),
        Column("link", TEXT, "Link; for a shared post only its image or video is ever given."),
        Column("name", TEXT, "Its name or title."),
        Column("description", TEXT, "Its description."),
        Column("extra", TEXT, "JSON of the fields that have no column; null if none."),
    ),
)
REACTIONS = Table(
    "reactions",
    "normalised",
    "Reactions that stand on messages now; a removed one is gone.",
    ("conversation_id", "message_id", "reactor_id", "reaction"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        Column("reactor_id", TEXT, "Who reacted; empty where Meta does not say.", required=True),
        Column("reaction", TEXT, "The emoji, or Meta's word for it.", required=True),
        CREATED_AT,
        Column("reactor_username", TEXT, "The reactor's user name or name."),
    ),
)
PARTICIPANTS = Table(
    "participants",
    "normalised",
    "Who takes part in the day's conversations.",
    ("conversation_id", "participant_id"),
    (
        CONVERSATION_ID,
        _id(
            "participant_id",
            "Page-scoped or Instagram-scoped id: it means this person to this account only.",
        ),
        Column("name", TEXT, "Name (Messenger)."),
        Column("username", TEXT, "User name (Instagram)."),
        Column("email", TEXT, "Meta's relay address (Messenger)."),
        Column("is_account", FLAG, "It is us; null where we cannot know."),
    ),
)
CONVERSATIONS = Table(
    "conversations",
    "normalised",
    "The conversation on that date.",
    ("conversation_id",),
    (
        CONVERSATION_ID,
        Column("platform", TEXT, "`instagram` or `messenger`."),
        Column("page_id", TEXT, "The Page (or `me`) whose inbox was listed."),
        Column("folder", TEXT, "The folder it was found in; null for the default listing."),
        Column("participant_count", COUNT, "Participants, us included.", required=True),
        Column("customer_id", TEXT, "The customer; null unless exactly one participant is not us."),
        Column("customer_name", TEXT, "The customer's name (Messenger)."),
        Column("customer_username", TEXT, "The customer's user name (Instagram)."),
        Column("first_message_at", TIME, "The day's first message; null if it has none."),
        Column("last_message_at", TIME, "The day's last message; null if it has none."),
        Column("message_count", COUNT, "Messages of the day.", required=True),
        Column("inbound_count", COUNT, "Messages of the day from the customer.", required=True),
        Column("outbound_count", COUNT, "Messages of the day from us.", required=True),
        Column(
            "detailed_count", COUNT, "Messages of the day whose content is held.", required=True
        ),
    ),
)
COVERAGE = Table(
    "coverage",
    "marts",
    "What the API could give and what it could not, per account and day.",
    (),
    (
        Column("ids_listed", COUNT, "Message ids held for the day.", required=True),
        Column("detailed", COUNT, "Ids whose content is held.", required=True),
        Column(
            "beyond_20",
            COUNT,
            "Ids that had left the newest 20 before they could be read.",
            required=True,
        ),
        Column(
            "gone",
            COUNT,
            "Ids refused although among the newest 20, and unsent ones whose content was removed.",
            required=True,
        ),
        Column("failed", COUNT, "Ids whose reading failed and is tried again.", required=True),
        Column("pending", COUNT, "Ids not asked yet.", required=True),
        Column("rejected", COUNT, "Entries that could not be read at all.", required=True),
        Column("share_detailed", RATIO, "detailed / ids_listed, 0 to 1; null without ids."),
        Column("conversation_count", COUNT, "Conversations of the day.", required=True),
        Column(
            "incomplete_conversation_count",
            COUNT,
            "Conversations with an id that is not detailed.",
            required=True,
        ),
        Column(
            "at_risk_conversation_count",
            COUNT,
            f"Conversations with more than {READABLE_COUNT} ids of the day: who looks once a day may lose some of them.",
            required=True,
        ),
    ),
)
ACCOUNT_DAYS = Table(
    "account_days",
    "marts",
    "How much was written and how fast it was answered, per account and UTC day; defined in docs/metrics.md.",
    (),
    (
        Column("inbound_count", COUNT, "Messages from customers.", required=True),
        Column("outbound_count", COUNT, "Messages from us.", required=True),
        Column(
            "automated_count",
            COUNT,
            "Messages from us that were likely not typed by a person.",
            required=True,
        ),
        Column(
            "unknown_count",
            COUNT,
            "Messages whose direction is not known: details missing.",
            required=True,
        ),
        Column("active_conversation_count", COUNT, "Conversations with a message.", required=True),
        Column(
            "active_customer_count",
            COUNT,
            "Conversations in which the customer wrote.",
            required=True,
        ),
        Column(
            "new_customer_count",
            COUNT,
            "Of these, those silent on both sides for 28 days before.",
            required=True,
        ),
        Column("returning_customer_count", COUNT, "Of these, the others.", required=True),
        Column(
            "history_days",
            COUNT,
            "Promised days before this one, at most 28: fewer make more look new.",
            required=True,
        ),
        Column(
            "session_count",
            COUNT,
            "Sessions in which the customer first wrote on this day.",
            required=True,
        ),
        Column(
            "judged_session_count",
            COUNT,
            "Of these, those whose beginning and answer, or lack of it, are known.",
            required=True,
        ),
        Column(
            "answered_session_count",
            COUNT,
            "Of these, those a person answered within 7 days.",
            required=True,
        ),
        Column(
            "median_first_response_seconds",
            RATIO,
            "Median wait for a person's first answer; null without one.",
        ),
        Column(
            "p90_first_response_seconds",
            RATIO,
            "Nine of ten waited at most so long; null without an answer.",
        ),
        Column(
            "share_answered_1h",
            RATIO,
            "Answered within an hour / judged sessions, 0 to 1; null without any, and until it is over.",
        ),
        Column(
            "share_answered_24h",
            RATIO,
            "Answered within a day / judged sessions, 0 to 1; null without any, and until it is over.",
        ),
        Column(
            "backlog_count",
            COUNT,
            "Conversations that wait for us at the day's end, for 28 days at most.",
            True,
        ),
        Column("text_count", COUNT, "Messages of text.", required=True),
        Column("media_count", COUNT, "Pictures, videos, audio, files and stickers.", required=True),
        Column("share_count", COUNT, "Shared posts, reels and products.", required=True),
        Column("story_count", COUNT, "Story replies and mentions.", required=True),
        Column("other_count", COUNT, "Everything else, and what could not be read.", required=True),
        Column(
            "reaction_count", COUNT, "Reactions that stand on the day's messages.", required=True
        ),
        Column(
            "responsiveness_judged_count",
            COUNT,
            "New messages of the 7 days whose answer or lack of it is known.",
            True,
        ),
        Column(
            "responsiveness_unsure_count",
            COUNT,
            "Those, real or possible, of which an unread message hides it.",
            True,
        ),
        Column(
            "responsiveness_rate",
            RATIO,
            "Meta's response rate over 7 days, 0 to 1, of the judged ones; null without.",
        ),
        Column(
            "responsiveness_seconds",
            RATIO,
            "Meta's response time over 7 days; null without an answer.",
        ),
        Column(
            "is_very_responsive",
            FLAG,
            "At least 90 % answered and within 15 minutes; null where unread ones decide.",
        ),
        Column(
            "responsiveness_version", TEXT, "Which reading of Meta's rule was used.", required=True
        ),
        Column(
            "is_lower_bound",
            FLAG,
            "Counts may be larger: unread messages, a day that was not promised, is the first, or is not over.",
            required=True,
        ),
        Column(
            "is_backlog_lower_bound",
            FLAG,
            "The backlog may be larger: a last word is unread, or history_days < 28.",
            True,
        ),
        Column(
            "is_promised",
            FLAG,
            "A run promised the day; else it holds only what came along: no medians, no shares.",
            True,
        ),
        Column("is_over", FLAG, "The day was over when the account was last asked.", required=True),
        Column(
            "is_final",
            FLAG,
            "The 7 days in which its sessions may still be answered are over.",
            required=True,
        ),
    ),
)
RUNS = Table(
    "runs",
    "ledger",
    "The ledger: one row per run and account, filed under the UTC date of its start.",
    ("run_id", "account"),
    (
        Column("run_id", TEXT, "The run's id.", required=True),
        Column("account", TEXT, "The account's name.", required=True),
        Column(
            "kind",
            TEXT,
            "What asked for it: window (a range of days), nightly, capture, full (a sweep) or find.",
            required=True,
        ),
        Column("since", pa.date32(), "First date promised."),
        Column("until", pa.date32(), "Date after the last one promised."),
        Column("started_at", TIME, "When the first answer came (server clock).", required=True),
        Column(
            "ended_at",
            TIME,
            "When the account's part ended; null while it runs or if it was killed.",
        ),
        Column("outcome", TEXT, "complete, incomplete, failed or running.", required=True),
        Column("reasons", TEXTS, "Why it is not complete."),
        Column("error", TEXT, "What stopped it."),
        Column("calls", TEXT, "JSON: calls by kind."),
        Column("counts", TEXT, "JSON: rows, ids and retries counted."),
        Column("report", TEXT, "JSON: the rest of the account's report."),
    ),
)

RAW = (RAW_CONVERSATIONS, RAW_MESSAGE_IDS, RAW_MESSAGE_DETAILS, RAW_REJECTS)
NORMALISED = (CONVERSATIONS, PARTICIPANTS, MESSAGES, ATTACHMENTS, SHARES, REACTIONS)
MARTS = (COVERAGE,)
ACROSS_DAYS = (ACCOUNT_DAYS,)
DERIVED = (*NORMALISED, *MARTS, *ACROSS_DAYS)
"""Marts whose rows depend on the days around theirs, too."""
LEDGER = (RUNS,)
TABLES = {table.name: table for table in (*RAW, *DERIVED)}
