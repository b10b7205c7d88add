"""The columns of the views that `connect()` adds, declared once as data: what each means, for the data dictionary.

The views' SQL is in `query/views.py` and `query/response_times.py`; a test holds that it has these columns and types.
"""

from dataclasses import dataclass

import pyarrow as pa

from convo_pipeline.schema import (
    CONVERSATIONS,
    COUNT,
    FLAG,
    MESSAGES,
    PARTICIPANTS,
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
    """One view: its own columns, and the table whose columns it has besides, if there is one."""

    name: str
    description: str
    columns: tuple[Column, ...]
    of: Table | None = None

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Return every column's type by its name, without `account` and `date`."""
        base = {column.name: column.type for column in self.of.columns} if self.of else {}
        return base | {column.name: column.type for column in self.columns}


_CONVERSATION_ID = Column("conversation_id", TEXT, "The conversation.")
_STARTED_AT_LOCAL = Column(
    "started_at_local", LOCAL_TIME, "started_at on the account's wall clock; UTC without settings."
)
_DATES = (
    Column("first_date", DAY, "The first UTC day on which there is a row."),
    Column("last_date", DAY, "The last UTC day on which there is a row."),
)
VIEWS = (
    ViewSchema(
        "inbox",
        "A message, its conversation and its customer in one wide row.",
        (
            Column("customer_id", TEXT, "The customer; null unless exactly one participant is not us."),
            Column("customer_name", TEXT, "The customer's newest name (Messenger)."),
            Column("customer_username", TEXT, "The customer's newest user name (Instagram)."),
            Column("customer_email", TEXT, "Meta's relay address (Messenger)."),
            Column("page_id", TEXT, "The Page (or `me`) whose inbox was listed."),
            Column("folder", TEXT, "The folder it was found in; null for the default listing."),
        ),
        MESSAGES,
    ),
    ViewSchema(
        "conversations_latest",
        "One row per conversation: every field as last known, its counts and times over all days.",
        _DATES,
        CONVERSATIONS,
    ),
    ViewSchema(
        "participants_latest",
        "One row per conversation and participant: every field as last known.",
        _DATES,
        PARTICIPANTS,
    ),
    ViewSchema(
        "message_order",
        "Every message in its place.",
        (
            _CONVERSATION_ID,
            Column("message_id", TEXT, "The message."),
            Column("created_at", TIME, "When it was sent."),
            Column("direction", TEXT, "`inbound` from the customer, `outbound` from us, null where we cannot know."),
            Column("position", COUNT, "Its place in the conversation, from 1."),
            Column("session_number", COUNT, "Its session in the conversation, from 1."),
            Column("turn_number", COUNT, "The customer's turn it belongs to, from 1; null for ours and unread ones."),
            Column("is_likely_automated", FLAG, "Of ours: nobody typed it, probably; null where an unread message decides."),
            Column("automated_reason", TEXT, "`fast_reply` or `repeated_text`; null if it is not likely automated."),
            Column("follows_unknown", FLAG, "The message before it, of the same session, is unread."),
            Column("precedes_unknown", FLAG, "The message after it, of the same session, is unread."),
        ),
    ),
    ViewSchema(
        "response_turns",
        "Every run of a customer's messages without one of ours between them, and what answered it.",
        (
            _CONVERSATION_ID,
            Column("turn_number", COUNT, "The turn in the conversation, from 1."),
            Column("session_number", COUNT, "The session in which it began."),
            Column("started_at", TIME, "Its first message: the wait begins."),
            _STARTED_AT_LOCAL,
            Column("ended_at", TIME, "Its last message."),
            Column("inbound_count", COUNT, "Its messages."),
            Column("is_answered", FLAG, "A person answered it; null where an unread message hides that."),
            Column("response_at", TIME, "Our next message, whatever it was; null if none came or an unread one hides it."),
            Column("response_message_id", TEXT, "That message."),
            Column("response_seconds", RATIO, "From started_at to response_at."),
            Column("response_business_seconds", RATIO, "The same in business hours; null without them."),
            Column("is_likely_automated", FLAG, "That message is likely automated."),
            Column("automated_reason", TEXT, "Why."),
            Column("human_response_at", TIME, "Our next message that is not likely automated."),
            Column("human_response_seconds", RATIO, "From started_at to human_response_at."),
            Column("human_response_business_seconds", RATIO, "The same in business hours; null without them."),
            Column("is_lower_bound", FLAG, "It touches an unread message, no run promised when it began, or its answer is later "
                   "than the last complete run."),
        ),
    ),
    ViewSchema(
        "sessions",
        "Stretches of a conversation without a silence of `session_gap_hours`.",
        (
            _CONVERSATION_ID,
            Column("session_number", COUNT, "The session in the conversation, from 1."),
            Column("started_at", TIME, "Its first message."),
            _STARTED_AT_LOCAL,
            Column("ended_at", TIME, "Its last message."),
            Column("opener", TEXT, "Direction of its first message; null if that is unread."),
            Column("message_count", COUNT, "Its messages."),
            Column("inbound_count", COUNT, "Of these, the customer's."),
            Column("outbound_count", COUNT, "Of these, ours."),
            Column("automated_count", COUNT, "Of ours, those likely automated."),
            Column("unknown_count", COUNT, "Messages whose direction is not known: unread."),
            Column("turn_count", COUNT, "The customer's turns in it."),
            Column("first_inbound_at", TIME, "The customer's first message; null without one."),
            Column("first_response_at", TIME, "The first answer of a person, also after the session; null if none came or is known."),
            Column("first_response_seconds", RATIO, "From first_inbound_at to first_response_at."),
            Column("first_response_business_seconds", RATIO, "The same in business hours; null without them."),
            Column("is_one_touch", FLAG, "One message of a person after the customer's first, and it ends the session; null if unread "
                   "messages or no customer's leave it open."),
            Column("resolution_gap_seconds", RATIO, "From first_inbound_at to our last message, where a person's ends the session."),
            Column("is_unanswered", FLAG, "Nobody answered the customer's last words; null where an unread message hides that."),
            Column("unanswered_since", TIME, "Since when they wait."),
            Column("is_lower_bound", FLAG, "It has unread messages, no run promised when it began, it may still go on, or its answer is "
                   "later than the last complete run."),
        ),
    ),
)  # fmt: skip
"""In the order in which people meet them. Every row has `account`; `date` is the UTC day of its message or beginning."""
