"""Schemas of all tables as data: columns, types, keys and a description of each.

Files, views, the column schema in the UI and the data dictionary are made from these declarations.
The partition is part of the path: `<table>/account=<name>/date=YYYY-MM-DD/data.parquet`.
So `date` is never a column, and `account` is a column of `runs` only.
Times are `timestamp[us, UTC]`. Ids are strings.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA_VERSION = 5
"""Version of the columns. Increase it when the columns of a table change.

Before that, run `python -m tests.support.write_lake`. It stores test lakes of the old version.
"""
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
"""Statuses from least to most information. A merge keeps the later status."""
READABLE_COUNT = 20
CUT_KEY = "is_cut"
"""Key that this program adds to a list in a payload: the API has more items than are stored."""
OLDER_MESSAGES_KEY = "older_messages"
"""Key that this program adds to a conversation: "refused" while the API refuses older messages, and
"read" after they were read."""
IS_CUT = f'"{CUT_KEY}":true'
"""The key in canonical JSON. No text of a message contains it, because quotes in texts are escaped.
"""
"""Number of newest messages of a conversation whose content the API returns."""
CREATED_AT_SOURCES = ("message", "message_id", "conversation", "listing")
PROBLEMS = (
    "payload_unreadable",
    "field_unreadable",
    "list_cut",
    "time_unreadable",
    "time_estimated",
    "surrogate_replaced",
)
DIRECTIONS = ("inbound", "outbound")


@dataclass(frozen=True)
class Column:
    """One column: its name, its Arrow type and its description.

    `former_name` is its name in files of an earlier schema.
    """

    name: str
    type: pa.DataType
    description: str
    required: bool = False
    former_name: str | None = None


@dataclass(frozen=True)
class Table:
    """One table. Its folder, its asset key and its view have the same name.

    `former_name` is the folder of the table in a lake of an earlier schema.
    """

    name: str
    layer: Layer
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    former_name: str | None = None

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the files. Its metadata contains the schema version."""
        fields = [
            pa.field(column.name, column.type, nullable=not column.required)
            for column in self.columns
        ]
        return pa.schema(fields, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def row_keys(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return one string per row. Two strings are equal if the keys of their rows are equal.

        The length before the first value keeps different keys apart.
        """
        first, *rest = (rows.column(name) for name in self.key)
        for column in rest:
            length = pc.cast(pc.binary_length(first), pa.string())
            first = pc.binary_join_element_wise(length, first, column, ":")
        return first


def _id(name: str, description: str, required: bool = True) -> Column:
    return Column(name, TEXT, description, required)


CONVERSATION_ID = _id("conversation_id", "The Graph API's id of the conversation.")
MESSAGE_ID = _id("message_id", "The Graph API's id of the message. Webhooks name it `mid`.")
CREATED_AT = Column(
    "created_at", TIME, "Time at which the message was sent, to the second, UTC.", required=True
)
FIRST_SEEN_AT = Column(
    "first_seen_at",
    TIME,
    "Time of the first response with this content (server clock).",
    required=True,
)
CHANGED_AT = Column(
    "changed_at",
    TIME,
    "Time of the last response that changed this content (server clock).",
    required=True,
)
POSITION = Column("position", COUNT, "Index in the message's list, from 0.", required=True)

RAW_CONVERSATIONS = Table(
    "raw_conversations",
    "raw",
    "Conversations as the API returned them: one row for each day on which the"
    " conversation has a message.",
    ("conversation_id",),
    (
        CONVERSATION_ID,
        Column("platform", TEXT, "`instagram` or `messenger`.", required=True),
        Column("page_id", TEXT, "Id of the Page whose inbox was listed, or `me`.", required=True),
        Column(
            "folder",
            TEXT,
            "Inbox folder in which the conversation was listed; null for the default listing.",
        ),
        Column("own_id", TEXT, "The account's own id in conversations; null if it is not known."),
        Column(
            "own_username", TEXT, "The account's own Instagram user name, if the API returns it."
        ),
        Column(
            "fields",
            TEXT,
            "JSON: for each requested payload key, the time of the response that"
            " contained it (µs since 1970). 0: an earlier version rebuilt the value from"
            " derived tables.",
        ),
        Column(
            "payload",
            TEXT,
            "JSON of the conversation, without messages, paging, tokens, counters and snippet.",
        ),
        FIRST_SEEN_AT,
        CHANGED_AT,
    ),
)
RAW_MESSAGE_IDS = Table(
    "raw_message_ids",
    "raw",
    "All message ids that the API listed, with or without content.",
    ("conversation_id", "message_id"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        CREATED_AT,
        Column(
            "created_at_source",
            TEXT,
            f"Source of `created_at`: {', '.join(CREATED_AT_SOURCES)}.",
            required=True,
        ),
        Column(
            "order_in_second",
            COUNT,
            "Order of the ids of one conversation and second, from 0, oldest first.",
            required=True,
            former_name="tie_rank",
        ),
        FIRST_SEEN_AT,
        Column(
            "missing_at",
            TIME,
            "Time at which a run first read past the message's position and the API did"
            " not list it.",
        ),
        Column(
            "deleted_at",
            TIME,
            "Time of a later response that listed an older and a newer message, but not this one.",
        ),
        Column(
            "returned_at",
            TIME,
            "Time at which a missing message was first listed again. Such a message"
            " counts as not deleted.",
        ),
    ),
)
RAW_MESSAGE_DETAILS = Table(
    "raw_message_details",
    "raw",
    "Content of each message as the API returned it, or the error that it returned.",
    ("conversation_id", "message_id"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        CREATED_AT,
        Column(
            "detail_status",
            TEXT,
            f"Status of the content: {', '.join(reversed(DETAIL_STATUSES))}.",
            required=True,
        ),
        Column(
            "rank_when_asked",
            COUNT,
            "Rank in the conversation at the time of the request; the newest message is 1.",
        ),
        Column("error_code", COUNT, "The Graph API's error code, if it refused the request."),
        Column("error_subcode", COUNT, "The Graph API's error subcode, if it refused the request."),
        Column(
            "fields",
            TEXT,
            "JSON: for each requested payload key, the time of the response that"
            " contained it (µs since 1970). 0: an earlier version rebuilt the value from"
            " derived tables.",
        ),
        Column("payload", TEXT, "JSON of the message, without paging and tokens."),
        FIRST_SEEN_AT,
        CHANGED_AT,
        Column(
            "gone_at",
            TIME,
            "Time at which the API first refused the message although it was among the newest 20.",
        ),
        Column(
            "redacted_at",
            TIME,
            "The message's `deleted_at`, set when its content is removed. Older content"
            " is not stored again.",
        ),
    ),
)
RAW_REJECTS = Table(
    "raw_rejects",
    "raw",
    "Items without an id or with an unreadable shape, stored unchanged under the"
    " date of the response.",
    ("digest",),
    (
        Column("digest", TEXT, "SHA-256 of the payload, hexadecimal.", required=True),
        Column("reason", TEXT, "Why the item was rejected.", required=True),
        Column("payload", TEXT, "The item as JSON.", required=True),
        FIRST_SEEN_AT,
    ),
)
MESSAGES = Table(
    "messages",
    "normalised",
    "One row per message id, with or without content.",
    ("conversation_id", "message_id"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        Column("platform", TEXT, "`instagram` or `messenger`."),
        CREATED_AT,
        Column(
            "order_in_second",
            COUNT,
            "Order of the messages of one conversation and second, from 0, oldest first.",
            required=True,
            former_name="tie_rank",
        ),
        Column(
            "direction",
            TEXT,
            "`inbound` (from the customer) or `outbound` (from the account); null if not known.",
        ),
        Column("sender_id", TEXT, "The sender's id."),
        Column("sender_name", TEXT, "The sender's name (Messenger)."),
        Column("sender_username", TEXT, "The sender's user name (Instagram)."),
        Column("recipient_ids", TEXTS, "The recipients' ids."),
        Column("text", TEXT, "The text, unchanged; empty for media, null without content."),
        Column(
            "content_type", TEXT, f"Type of the content: {', '.join(CONTENT_TYPES)}.", required=True
        ),
        Column("attachment_count", COUNT, "Number of rows in `attachments`; null without content."),
        Column("share_count", COUNT, "Number of rows in `shares`; null without content."),
        Column("reaction_count", COUNT, "Number of rows in `reactions`; null without content."),
        Column(
            "has_own_reaction",
            FLAG,
            "True if the account itself reacted to the message now; null if this is not known.",
        ),
        Column("sticker_url", TEXT, "Link to the sticker's picture; it expires."),
        Column(
            "story_kind",
            TEXT,
            "Relation to an Instagram story: `reply_to`, `mention` or `unknown` (the API"
            " returned only the story).",
        ),
        Column("story_id", TEXT, "The story's id."),
        Column("story_url", TEXT, "Link to the story's media; it expires with the story."),
        Column("reply_to_message_id", TEXT, "Id of the message that this message quotes."),
        Column(
            "is_unsupported",
            FLAG,
            "True if Meta marks the message as not supported by the API; null without content.",
        ),
        Column("tags", TEXTS, "Messenger's tags, such as folder, direction and client."),
        Column(
            "detail_status",
            TEXT,
            f"Status of the content: {', '.join(reversed(DETAIL_STATUSES))}.",
            required=True,
        ),
        Column(
            "deleted_at",
            TIME,
            "Time at which a run detected that the message was unsent or deleted; null otherwise.",
        ),
        Column(
            "problem",
            TEXT,
            f"Problem while the message was parsed: {', '.join(PROBLEMS)}; null without one.",
        ),
        Column(
            "extra", TEXT, "JSON of the payload's fields that have no column; null without any."
        ),
        FIRST_SEEN_AT,
        CHANGED_AT,
    ),
)
ATTACHMENTS = Table(
    "attachments",
    "normalised",
    "Attachments of messages: pictures, videos, audio, files, stickers and"
    " templates. The table stores links, not files.",
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
            "Kind: image, video, audio, file, sticker, template, appointment, share,"
            " link_preview, story_mention, story, location, unavailable or other.",
            True,
        ),
        Column("mime_type", TEXT, "MIME type, if the API returns it."),
        Column("name", TEXT, "File name, if the API returns it."),
        Column("size_bytes", COUNT, "Size in bytes, if the API returns it."),
        Column("url", TEXT, "Signed link to the media; it expires within hours or days."),
        Column("url_expires_at", TIME, "Time at which the link expires, if the link contains it."),
        Column("preview_url", TEXT, "Signed link to a preview."),
        Column("width", COUNT, "Width in pixels."),
        Column("height", COUNT, "Height in pixels."),
        Column("duration_seconds", RATIO, "Duration of a video or audio, in seconds."),
        Column(
            "is_sticker", FLAG, "True if the attachment is displayed as a sticker.", required=True
        ),
        Column("title", TEXT, "Title of a template, a shared post or a link preview."),
        Column("extra", TEXT, "JSON of the fields that have no column; null without any."),
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
        Column("share_id", TEXT, "Id of the shared object, if the API returns it."),
        Column(
            "share_type",
            TEXT,
            "Type: post, ig_post, reel, ig_reel, product or link; null if not known.",
        ),
        Column(
            "link",
            TEXT,
            "Link. For a shared post the API returns only the link to its image or video.",
        ),
        Column("name", TEXT, "Name or title."),
        Column("description", TEXT, "Description."),
        Column("extra", TEXT, "JSON of the fields that have no column; null without any."),
    ),
)
REACTIONS = Table(
    "reactions",
    "normalised",
    "Current reactions to messages. A removed reaction has no row.",
    ("conversation_id", "message_id", "reactor_id", "reaction"),
    (
        CONVERSATION_ID,
        MESSAGE_ID,
        Column(
            "reactor_id",
            TEXT,
            "Id of the person who reacted; empty if Meta does not return it.",
            required=True,
        ),
        Column("reaction", TEXT, "The emoji, or Meta's name for it.", required=True),
        CREATED_AT,
        Column("reactor_username", TEXT, "User name or name of the person who reacted."),
    ),
)
PARTICIPANT_DAYS = Table(
    "participant_days",
    "normalised",
    "Participants of the day's conversations. The view `participants` has one row for each.",
    ("conversation_id", "participant_id"),
    (
        CONVERSATION_ID,
        _id(
            "participant_id",
            "Page-scoped or Instagram-scoped id. The same person has another id for"
            " another account.",
        ),
        Column("name", TEXT, "Name (Messenger)."),
        Column("username", TEXT, "User name (Instagram)."),
        Column("email", TEXT, "Meta's relay e-mail address (Messenger)."),
        Column(
            "is_account", FLAG, "True if the participant is the account itself; null if not known."
        ),
    ),
    former_name="participants",
)
CONVERSATION_DAYS = Table(
    "conversation_days",
    "normalised",
    "One row per conversation and UTC day with a message. The view `conversations` has one row"
    " per conversation.",
    ("conversation_id",),
    (
        CONVERSATION_ID,
        Column("platform", TEXT, "`instagram` or `messenger`."),
        Column("page_id", TEXT, "Id of the Page whose inbox was listed, or `me`."),
        Column(
            "folder",
            TEXT,
            "Inbox folder in which the conversation was listed; null for the default listing.",
        ),
        Column(
            "participant_count",
            COUNT,
            "Number of participants, including the account.",
            required=True,
        ),
        Column(
            "has_more_participants",
            FLAG,
            "True if the API did not return all participants, so that the number is a lower bound.",
        ),
        Column(
            "customer_id",
            TEXT,
            "The customer's id; null unless exactly one participant is not the account.",
        ),
        Column("customer_name", TEXT, "The customer's name (Messenger)."),
        Column("customer_username", TEXT, "The customer's user name (Instagram)."),
        Column("first_message_at", TIME, "Time of the day's first message; null without one."),
        Column("last_message_at", TIME, "Time of the day's last message; null without one."),
        Column("message_count", COUNT, "Number of messages of the day.", required=True),
        Column(
            "inbound_count", COUNT, "Number of the day's messages from the customer.", required=True
        ),
        Column(
            "outbound_count", COUNT, "Number of the day's messages from the account.", required=True
        ),
        Column(
            "detailed_count",
            COUNT,
            "Number of the day's messages with stored content.",
            required=True,
        ),
    ),
    former_name="conversations",
)
COVERAGE = Table(
    "coverage",
    "marts",
    "Number of message ids with and without content, per account and UTC day.",
    (),
    (
        Column("ids_listed", COUNT, "Stored message ids of the day.", required=True),
        Column("detailed", COUNT, "Ids with stored content.", required=True),
        Column(
            "beyond_20",
            COUNT,
            "Ids without content: the message was no longer among the newest 20 when a"
            " run requested it.",
            required=True,
        ),
        Column(
            "gone",
            COUNT,
            "Ids that the API refused although they were among the newest 20, and unsent"
            " messages whose content was removed.",
            required=True,
        ),
        Column(
            "failed",
            COUNT,
            "Ids whose request failed. The next run requests them again.",
            required=True,
        ),
        Column("pending", COUNT, "Ids that were not requested yet.", required=True),
        Column("rejected", COUNT, "Items in `raw_rejects`.", required=True),
        Column(
            "share_detailed",
            RATIO,
            "`detailed` / `ids_listed`, 0 to 1; null without ids. It is also null, not 1, if the"
            " API refuses the older messages of a conversation.",
        ),
        Column("conversation_count", COUNT, "Number of the day's conversations.", required=True),
        Column(
            "incomplete_conversation_count",
            COUNT,
            "Conversations with an id without content, or whose older messages the API refuses.",
            required=True,
        ),
        Column(
            "at_risk_conversation_count",
            COUNT,
            f"Conversations with more than {READABLE_COUNT} ids of the day. One run a day"
            " can lose content of these.",
            required=True,
        ),
        Column(
            "unknown_direction_count",
            COUNT,
            "Messages with content whose `direction` is null: the sender or the account's own id"
            " is not known, or the people of the message contradict it.",
            required=True,
        ),
        Column(
            "unknown_kind_count",
            COUNT,
            "Attachments of a kind that this version does not know (`other`).",
            required=True,
        ),
    ),
)
ACCOUNT_DAYS = Table(
    "account_days",
    "marts",
    "Message counts and response times per account and UTC day. docs/metrics.md"
    " defines each figure.",
    (),
    (
        Column("inbound_count", COUNT, "Messages from customers.", required=True),
        Column("outbound_count", COUNT, "Messages from the account.", required=True),
        Column(
            "automated_count",
            COUNT,
            "Messages from the account that followed a customer's message within seconds while"
            " no person of the account wrote.",
            required=True,
        ),
        Column(
            "unsure_automated_count",
            COUNT,
            "Messages from the account that may be automated or a person's.",
            required=True,
        ),
        Column(
            "unknown_count",
            COUNT,
            "Messages of unknown direction, because their content is missing.",
            required=True,
        ),
        Column(
            "active_conversation_count",
            COUNT,
            "Conversations with a message of the day.",
            required=True,
        ),
        Column(
            "active_customer_count",
            COUNT,
            "Conversations with a message of the customer on the day.",
            required=True,
        ),
        Column(
            "new_customer_count",
            COUNT,
            "Active customers whose conversation had no message in the 28 days before.",
            required=True,
        ),
        Column("returning_customer_count", COUNT, "All other active customers.", required=True),
        Column(
            "history_days",
            COUNT,
            "Complete days before this one, at most 28. With fewer than 28, some"
            " customers count as new although they wrote earlier.",
            required=True,
        ),
        Column(
            "session_count",
            COUNT,
            "Sessions whose first message of the customer is on this day, without those that begin"
            " while the customer waits for an earlier response.",
            required=True,
        ),
        Column(
            "measured_session_count",
            COUNT,
            "Measured sessions: sessions of the day whose beginning and response, or lack"
            " of response, are known.",
            required=True,
            former_name="judged_session_count",
        ),
        Column(
            "acknowledged_session_count",
            COUNT,
            "Sessions without a response whose last message of the customer has a reaction of the"
            " account. They are not measured.",
            required=True,
        ),
        Column(
            "answered_session_count",
            COUNT,
            "Measured sessions that a person answered within 7 days.",
            required=True,
        ),
        Column(
            "median_first_response_seconds",
            RATIO,
            "Median time until the first response of a person; null without a response or"
            " if the day is not complete.",
        ),
        Column(
            "median_first_response_seconds_min",
            RATIO,
            "The median if each response that is not known came at once.",
        ),
        Column(
            "median_first_response_seconds_max",
            RATIO,
            "The median if each response that is not known came after 8 days.",
        ),
        Column(
            "p90_first_response_seconds",
            RATIO,
            "90th percentile of the time until the first response of a person; null without a"
            " response or if the day is not complete.",
        ),
        Column(
            "share_answered_1h",
            RATIO,
            "Share of measured sessions answered within an hour, 0 to 1. Null without"
            " measured sessions, if the day is not complete, and until the hour after the"
            " day is over.",
        ),
        Column(
            "share_answered_1h_min",
            RATIO,
            "The share of all sessions but acknowledged ones if no unknown response came in time.",
        ),
        Column("share_answered_1h_max", RATIO, "The share if all unknown responses came in time."),
        Column(
            "share_answered_24h",
            RATIO,
            "Share of measured sessions answered within a day, 0 to 1. Null without"
            " measured sessions, if the day is not complete, and until the day after it"
            " is over.",
        ),
        Column(
            "share_answered_24h_min",
            RATIO,
            "The share of all sessions but acknowledged ones if no unknown response came in time.",
        ),
        Column("share_answered_24h_max", RATIO, "The share if all unknown responses came in time."),
        Column(
            "in_hours_session_count",
            COUNT,
            "Measured sessions asked within business hours; null without them.",
        ),
        Column(
            "out_of_hours_session_count",
            COUNT,
            "Measured sessions asked outside business hours. The next column leaves them out.",
        ),
        Column(
            "median_first_response_business_seconds",
            RATIO,
            "Median business time until the first response of a person, of sessions asked within"
            " business hours; null without one or if the day is not complete.",
        ),
        Column(
            "backlog_count",
            COUNT,
            "Conversations that wait for a response at the end of the day, for at most 28 days.",
            required=True,
        ),
        Column(
            "backlog_count_max",
            COUNT,
            "The same with the conversations whose last message may be the customer's.",
            required=True,
        ),
        Column("text_count", COUNT, "Text messages.", required=True),
        Column(
            "media_count",
            COUNT,
            "Messages with a picture, video, audio, file or sticker.",
            required=True,
        ),
        Column(
            "share_count", COUNT, "Messages that share a post, a reel or a product.", required=True
        ),
        Column("story_count", COUNT, "Story replies and mentions.", required=True),
        Column(
            "other_count",
            COUNT,
            "All other messages, including those without content.",
            required=True,
        ),
        Column("reaction_count", COUNT, "Current reactions to the day's messages.", required=True),
        Column(
            "responsiveness_measured_count",
            COUNT,
            "Measured new messages of the 7 days: their response, or lack of response, is known.",
            required=True,
            former_name="responsiveness_judged_count",
        ),
        Column(
            "responsiveness_unsure_count",
            COUNT,
            "Further new messages of the 7 days, real or possible, that unread messages hide.",
            True,
        ),
        Column(
            "responsiveness_rate",
            RATIO,
            "Meta's response rate: share of measured new messages of the 7 days that were"
            " answered, 0 to 1. Null without any, or unless all 7 days are complete and"
            " over.",
        ),
        Column(
            "responsiveness_seconds",
            RATIO,
            "Meta's response time: median over the 7 days. Null without a response, or"
            " unless all 7 days are complete and over.",
        ),
        Column(
            "is_very_responsive",
            FLAG,
            "True if the rate is at least 90 % and the time at most 15 minutes. Null if"
            " unread messages could change the result.",
        ),
        Column(
            "responsiveness_version",
            TEXT,
            "Version of the definition of Meta's rule.",
            required=True,
        ),
        Column(
            "is_lower_bound",
            FLAG,
            "True if counts may be larger: messages are unread, or the day is not"
            " complete, is the first complete day, or is not over.",
            required=True,
        ),
        Column(
            "is_backlog_lower_bound",
            FLAG,
            "True if the backlog may be larger: the last message of a conversation is"
            " unread, or `history_days` is below 28.",
            True,
        ),
        Column(
            "is_complete",
            FLAG,
            "True if the day is complete: a run read it to the end. Otherwise it has only some"
            " messages, and medians and shares are null.",
            required=True,
            former_name="is_promised",
        ),
        Column(
            "has_ended",
            FLAG,
            "True if the day was over when the last complete run began.",
            required=True,
            former_name="is_over",
        ),
        Column(
            "is_final",
            FLAG,
            "True if the day is complete and the 7 days after it were over too. Later"
            " responses do not change the row.",
            required=True,
        ),
    ),
)
RUNS = Table(
    "runs",
    "ledger",
    "One row per run and account, stored under the UTC date on which the run started.",
    ("run_id", "account"),
    (
        Column("run_id", TEXT, "The run's id.", required=True),
        Column("account", TEXT, "The account's name.", required=True),
        Column(
            "kind",
            TEXT,
            "Kind of run: window (a range of days), nightly, capture (newest messages),"
            " full (reads everything again) or find (conversations of one person).",
            required=True,
        ),
        Column("since", pa.date32(), "First date that the run reads."),
        Column("until", pa.date32(), "Date after the last date that the run reads."),
        Column("started_at", TIME, "Time of the first response (server clock).", required=True),
        Column(
            "ended_at",
            TIME,
            "Time at which the account's run ended; null while it runs or if its process"
            " was killed.",
        ),
        Column("outcome", TEXT, "complete, incomplete, failed or running.", required=True),
        Column("reasons", TEXTS, "Reasons why the run is not complete."),
        Column("error", TEXT, "Error that stopped the run."),
        Column("calls", TEXT, "JSON: number of API calls by kind."),
        Column("counts", TEXT, "JSON: numbers of rows, ids and retries."),
        Column("report", TEXT, "JSON: the rest of the account's report."),
        Column(
            "settings",
            TEXT,
            "JSON: the account's settings at the time of the run: platform, time zone, business"
            " hours, start date, own ids and `[metrics]`. The view `accounts` has the newest ones.",
        ),
    ),
)

RAW = (RAW_CONVERSATIONS, RAW_MESSAGE_IDS, RAW_MESSAGE_DETAILS, RAW_REJECTS)
NORMALISED = (CONVERSATION_DAYS, PARTICIPANT_DAYS, MESSAGES, ATTACHMENTS, SHARES, REACTIONS)
MARTS = (COVERAGE,)
ACROSS_DAYS = (ACCOUNT_DAYS,)
"""Marts whose rows also depend on the messages of neighbouring days."""
DERIVED = (*NORMALISED, *MARTS, *ACROSS_DAYS)
LEDGER = (RUNS,)
TABLES = {table.name: table for table in (*RAW, *DERIVED)}
FORMER_TABLES: dict[str, str] = {
    table.former_name: table.name for table in TABLES.values() if table.former_name
}
"""Names of tables in an earlier schema, and their names now."""


def current_name(name: str) -> str:
    """Return the name of a table that may be written as in an earlier schema.

    >>> current_name("conversations"), current_name("messages")
    ('conversation_days', 'messages')
    """
    return FORMER_TABLES.get(name, name)
