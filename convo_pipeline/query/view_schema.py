"""Declare the views that `connect()` adds: the type and meaning of each column.

The data dictionary is made from these declarations. The SQL of the views is in `query/views.py` and
`query/response_times.py`. A test compares its columns and types with this module.
The direction of an unread message is unknown, because its details could not be read.
"""

from dataclasses import dataclass

import pyarrow as pa

from convo_pipeline.schema import (
    CONVERSATION_DAYS,
    COUNT,
    FLAG,
    MESSAGES,
    PARTICIPANT_DAYS,
    RATIO,
    TEXT,
    TIME,
    Column,
    Table,
)

DAY = pa.date32()
LOCAL_TIME = pa.timestamp("us")


@dataclass(frozen=True)
class ViewSchema:
    """A view: its own columns and, in `of`, a table whose columns it has too."""

    name: str
    description: str
    columns: tuple[Column, ...]
    of: Table | None = None

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Return the type of each column by name, without `account` and `date`."""
        base = {column.name: column.type for column in self.of.columns} if self.of else {}
        return base | {column.name: column.type for column in self.columns}


_CONVERSATION_ID = Column("conversation_id", TEXT, "Id of the conversation.")
_STARTED_AT_LOCAL = Column(
    "started_at_local",
    LOCAL_TIME,
    "`started_at` in the account's time zone; null if the lake does not know the zone.",
)
_LOCAL_TIMES = (
    Column(
        "created_at_local",
        LOCAL_TIME,
        "`created_at` in the account's time zone; null if the lake does not know the zone.",
    ),
    Column("local_date", DAY, "The date of `created_at_local`."),
)
_LOCAL_DATE = Column("local_date", DAY, "The date of `started_at_local`.")
_IN_HOURS = Column(
    "is_in_business_hours",
    FLAG,
    "Whether the customer asked within business hours; null without them.",
)
_DATES = (
    Column("first_date", DAY, "The first UTC day with a row."),
    Column("last_date", DAY, "The last UTC day with a row."),
)
MESSAGES_VIEW = ViewSchema(
    "messages",
    "One row per message id, with or without content.",
    _LOCAL_TIMES,
    MESSAGES,
)
"""The view of the table `messages` has the local time too."""
VIEWS = (
    ViewSchema(
        "accounts",
        "One row per account: its newest settings, from its last run.",
        (
            Column("platform", TEXT, "`instagram` or `messenger`."),
            Column("page_id", TEXT, "Id of the Page whose inbox is read, or `me`."),
            Column("own_id", TEXT, "The account's own id in conversations; null if not known."),
            Column("own_username", TEXT, "The account's own Instagram user name."),
            Column("timezone", TEXT, "The account's time zone."),
            Column("business_hours", TEXT, "The account's business hours; null without them."),
            Column("start_date", DAY, "First day that the account's runs read."),
            Column("session_gap_hours", RATIO, "Setting `metrics.session_gap_hours`."),
            Column("automated_reply_seconds", RATIO, "Setting `metrics.automated_reply_seconds`."),
            Column("presence_minutes", RATIO, "Setting `metrics.presence_minutes`."),
        ),
    ),
    ViewSchema(
        "account_history",
        "One row per account and change of its settings.",
        (
            Column("since", TIME, "Start of the first run with these settings."),
            Column("timezone", TEXT, "The account's time zone."),
            Column("business_hours", TEXT, "The account's business hours; null without them."),
            Column("settings", TEXT, "All settings as JSON, as in `runs`."),
        ),
    ),
    ViewSchema(
        "inbox",
        "One row per message, with its conversation and its customer.",
        (
            *_LOCAL_TIMES,
            Column(
                "customer_id",
                TEXT,
                "Id of the customer; null unless exactly one participant is not us.",
            ),
            Column("customer_name", TEXT, "The customer's newest name (Messenger)."),
            Column("customer_username", TEXT, "The customer's newest user name (Instagram)."),
            Column("customer_email", TEXT, "Meta's relay address (Messenger)."),
            Column("page_id", TEXT, "The Page (or `me`) whose inbox was listed."),
            Column(
                "folder",
                TEXT,
                "The folder that listed the conversation; null for the default listing.",
            ),
        ),
        MESSAGES,
    ),
    ViewSchema(
        "conversations",
        "One row per conversation. A field has its newest value; counts and times cover all days.",
        _DATES,
        CONVERSATION_DAYS,
    ),
    ViewSchema(
        "participants",
        "One row per conversation and participant. A field has its newest value.",
        _DATES,
        PARTICIPANT_DAYS,
    ),
    ViewSchema(
        "message_order",
        "One row per message that was not unsent: its position in the conversation, its session and"
        " its turn.",
        (
            _CONVERSATION_ID,
            Column("message_id", TEXT, "Id of the message."),
            Column("created_at", TIME, "When the message was sent."),
            Column(
                "direction",
                TEXT,
                "`inbound` (from the customer) or `outbound` (from us); null if unknown.",
            ),
            Column("position", COUNT, "Position in the conversation, from 1."),
            Column("session_number", COUNT, "Number of its session in the conversation, from 1."),
            Column(
                "turn_number",
                COUNT,
                "Number of its turn in the conversation, from 1; null unless the message is "
                "inbound.",
            ),
            Column(
                "is_likely_automated",
                FLAG,
                "Whether our message is automated; null if the evidence does not decide, and for "
                "messages that are not ours.",
            ),
            Column(
                "automated_reason",
                TEXT,
                "The evidence: `quick_reply`; null if not likely automated.",
            ),
            Column("is_acknowledged", FLAG, "Whether we reacted to this message of the customer."),
            Column("follows_unknown", FLAG, "The previous message of the same session is unread."),
            Column("precedes_unknown", FLAG, "The next message of the same session is unread."),
        ),
    ),
    ViewSchema(
        "response_turns",
        "One row per turn: consecutive messages of a customer in one session, and our response.",
        (
            _CONVERSATION_ID,
            Column("turn_number", COUNT, "Number of the turn in the conversation, from 1."),
            Column("session_number", COUNT, "Number of the session in which the turn began."),
            Column("started_at", TIME, "Time of the first message; response times start here."),
            _STARTED_AT_LOCAL,
            _LOCAL_DATE,
            _IN_HOURS,
            Column("ended_at", TIME, "Time of the last message of the turn."),
            Column("inbound_count", COUNT, "Number of messages in the turn."),
            Column(
                "is_answered",
                FLAG,
                "Whether a person responded; null if this depends on an unread message.",
            ),
            Column(
                "is_acknowledged",
                FLAG,
                "Whether we reacted to its last message, or a later one, before our next response.",
            ),
            Column(
                "response_at",
                TIME,
                "Time of our next message, automated or not; null without one, or if this depends "
                "on an unread message.",
            ),
            Column("response_message_id", TEXT, "Id of our next message."),
            Column("response_seconds", RATIO, "Seconds from `started_at` to `response_at`."),
            Column(
                "response_business_seconds",
                RATIO,
                "The same, within business hours; null without them.",
            ),
            Column("is_likely_automated", FLAG, "Whether our next message is likely automated."),
            Column(
                "automated_reason",
                TEXT,
                "The evidence that our next message is automated.",
            ),
            Column(
                "human_response_at", TIME, "Time of our next message that is not likely automated."
            ),
            Column(
                "human_response_seconds", RATIO, "Seconds from `started_at` to `human_response_at`."
            ),
            Column(
                "human_response_business_seconds",
                RATIO,
                "The same, within business hours; null without them.",
            ),
            Column(
                "is_lower_bound",
                FLAG,
                "The turn or its wait may be longer. An unread message is next to the turn, the "
                "turn began outside the complete days, or the turn or its response is later than "
                "the last complete run.",
            ),
        ),
    ),
    ViewSchema(
        "sessions",
        "One row per session: messages of a conversation without a pause of `session_gap_hours`.",
        (
            _CONVERSATION_ID,
            Column("session_number", COUNT, "Number of the session in the conversation, from 1."),
            Column("started_at", TIME, "Time of the first message."),
            _STARTED_AT_LOCAL,
            Column("local_date", DAY, "The local date of the customer's first message."),
            _IN_HOURS,
            Column("ended_at", TIME, "Time of the last message."),
            Column("opener", TEXT, "Direction of the first message; null if it is unread."),
            Column("message_count", COUNT, "Number of messages."),
            Column("inbound_count", COUNT, "Number of messages from the customer."),
            Column("outbound_count", COUNT, "Number of messages from us."),
            Column("automated_count", COUNT, "Number of our messages that are likely automated."),
            Column("unknown_count", COUNT, "Number of unread messages."),
            Column("turn_count", COUNT, "Number of the customer's turns."),
            Column(
                "is_nudge",
                FLAG,
                "Whether the customer waits for an earlier response when this session begins; null "
                "if unread messages or messages before the complete days decide, or without a "
                "message of the customer.",
            ),
            Column(
                "first_inbound_at", TIME, "Time of the customer's first message; null without one."
            ),
            Column(
                "is_answered",
                FLAG,
                "Whether a person responded to the first message; null for a nudge, without a "
                "message of the customer, or if this depends on an unread message.",
            ),
            Column(
                "is_measured",
                FLAG,
                "Whether the session is in `measured_session_count` of `account_days`: it began on "
                "a complete day, no unread message hides its question or its response within 7 "
                "days, and it is no nudge and not only acknowledged.",
            ),
            Column(
                "is_answered_in_time",
                FLAG,
                "Whether a person responded within 7 days, as in `answered_session_count`; null if "
                "the session is not measured.",
            ),
            Column(
                "first_response_at",
                TIME,
                "Time of the first response of a person, also after the session; null without "
                "one, for a nudge, or if this depends on an unread message.",
            ),
            Column(
                "first_response_seconds",
                RATIO,
                "Seconds from `first_inbound_at` to `first_response_at`.",
            ),
            Column(
                "first_response_business_seconds",
                RATIO,
                "The same, within business hours; null without them.",
            ),
            Column(
                "is_one_touch",
                FLAG,
                "Exactly one message of a person follows the customer's first message, and the "
                "session ends with it; null if a message is unread or none is inbound.",
            ),
            Column(
                "resolution_gap_seconds",
                RATIO,
                "Seconds from `first_inbound_at` to our last message that is not likely "
                "automated; null if the customer writes after it or a message is unread.",
            ),
            Column(
                "is_acknowledged",
                FLAG,
                "Whether we reacted to a message of the customer before any response of a person.",
            ),
            Column(
                "is_unanswered",
                FLAG,
                "Whether the customer waits since this session: the last message has no response "
                "of a person and no reaction of ours; null if this depends on an unread message.",
            ),
            Column(
                "unanswered_since",
                TIME,
                "Time of the first message without a response of a person; null without one.",
            ),
            Column(
                "is_lower_bound",
                FLAG,
                "The session may be longer, or its response earlier. A message is unread, the "
                "session began outside the complete days, it may continue, or its response is "
                "later than the last complete run.",
            ),
        ),
    ),
    ViewSchema(
        "local_days",
        "One row per account and local date, for accounts with a known time zone. Each figure has "
        "the meaning that it has in `account_days`.",
        (
            Column("local_date", DAY, "The date in the account's time zone."),
            *(
                Column(name, COUNT, f"As in `account_days`: {meaning}")
                for name, meaning in (
                    ("inbound_count", "messages from customers."),
                    ("outbound_count", "messages from the account."),
                    ("automated_count", "automated messages."),
                    ("unsure_automated_count", "messages that may be automated."),
                    ("unknown_count", "unread messages."),
                    ("active_conversation_count", "conversations with a message."),
                    ("active_customer_count", "conversations with a message of the customer."),
                    ("session_count", "sessions in which a customer first asks on this date."),
                    ("measured_session_count", "measured sessions."),
                    ("answered_session_count", "answered sessions."),
                    ("in_hours_session_count", "measured sessions within business hours."),
                    ("out_of_hours_session_count", "measured sessions outside of them."),
                )
            ),
            Column("median_first_response_seconds", RATIO, "As in `account_days`."),
            Column("median_first_response_business_seconds", RATIO, "As in `account_days`."),
            Column("is_complete", FLAG, "A run read the local day to the end."),
            Column("has_ended", FLAG, "The local day was over when the last complete run began."),
        ),
    ),
)
"""The views, in the order of the data dictionary.

Each row has `account`. `date` is the UTC day of the message, or on which the turn or session began.
"""
