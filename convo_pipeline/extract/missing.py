"""Decide which stored messages are missing or deleted, and which ones earlier runs missed. Pure.

The API answers for an unsent message with the same error as for one that is too old, so no error
proves a deletion (Meta's error codes, 9000001). Its absence can. One absence is not enough: a page
that is read while the list moves skips rows, a replica that lags behind lacks the newest messages,
and an object that failed to load is left out. So:
- `missing_at`: a walk from the newest message down passed its place, and it was not listed;
- `deleted_at`: at least an hour later one page listed messages sent before it and after it, and
  again not it. So the newest message of a conversation counts as deleted only after a newer one is
  listed;
- `returned_at`: it was listed again after it was missing. The listing is unreliable for this
  message, so it never counts as deleted any more.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.times import day_start_us, from_us, to_us
from convo_pipeline.extract.observations import (
    ConversationObservation,
    MessageObservation,
    Reject,
)
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.state.records import ConversationState
from convo_pipeline.tables.complete_range import CompleteRange

CONFIRMED_AFTER = timedelta(hours=1)


class PageSpan(NamedTuple):
    """The times of a page's oldest and newest message and of the response, microseconds."""

    oldest_us: int
    newest_us: int
    at_us: int


def page_span(rows: Sequence[MessageObservation | Reject], at_us: int) -> PageSpan | None:
    """Return the span of a page, newest message first.

    None if a row without an id, a time or a place in the order could be any message.
    """
    times = [
        row.created_us
        for row in rows
        if isinstance(row, MessageObservation) and row.created_at_source == "message"
    ]
    if len(times) < len(rows) or len(times) < 2 or times != sorted(times, reverse=True):
        return None
    return PageSpan(times[-1], times[0], at_us)


def update_missing(
    stored_rows: pa.Table, observed_rows: pa.Table, spans: Mapping[str, Sequence[PageSpan]]
) -> pa.Table | None:
    """Return the missing rows of `raw_message_ids` that are now proved deleted or returned.

    `stored_rows` are those of one day, `observed_rows` those that the run observed, and `spans` the
    pages of each conversation. None if no row changes.
    """
    is_open = pc.and_(
        pc.is_valid(stored_rows["missing_at"]), pc.is_null(stored_rows["returned_at"])
    )
    missing = stored_rows.filter(is_open).to_pylist()
    if not missing:
        return None
    wanted = {(row["conversation_id"], row["message_id"]) for row in missing}
    columns = ("conversation_id", "message_id", "first_seen_at")
    seen: dict[tuple[str, str], datetime] = {}
    for *key, seen_at in zip(*(observed_rows[each].to_pylist() for each in columns), strict=True):
        if tuple(key) in wanted:
            seen[key[0], key[1]] = max(seen.get((key[0], key[1]), seen_at), seen_at)
    changed = []
    for row in missing:
        last_seen_at = seen.get((row["conversation_id"], row["message_id"]))
        if last_seen_at is not None and last_seen_at > row["missing_at"]:
            changed.append(row | {"returned_at": last_seen_at})
        elif last_seen_at is None and row["deleted_at"] is None:
            deleted_us = _find_deleted_us(row, spans.get(row["conversation_id"], ()))
            if deleted_us is not None:
                changed.append(row | {"deleted_at": from_us(deleted_us)})
    return pa.Table.from_pylist(changed, schema=RAW_MESSAGE_IDS.schema) if changed else None


def _find_deleted_us(row: dict[str, object], spans: Sequence[PageSpan]) -> int | None:
    """Return when a page around a missing message lacked it again; None if no page did."""
    created_at, missing_at = row["created_at"], row["missing_at"]
    assert isinstance(created_at, datetime)
    assert isinstance(missing_at, datetime)
    if row["created_at_source"] != "message":
        return None
    created_us, after_us = to_us(created_at), to_us(missing_at + CONFIRMED_AFTER)
    times = (
        span.at_us
        for span in spans
        if span.oldest_us < created_us < span.newest_us and span.at_us >= after_us
    )
    return min(times, default=None)


def count_missed(
    complete_range: CompleteRange,
    new_messages: pa.Table,
    states: Mapping[str, ConversationState],
    conversations: Mapping[str, ConversationObservation],
) -> int:
    """Count the messages of one day that earlier runs had to store and did not.

    It should be zero. `new_messages` have no row yet, `states` are from before this run, and
    `conversations` are as this run listed them.
    """
    columns = ("conversation_id", "message_id", "created_us")
    rows = zip(*(new_messages[name].to_pylist() for name in columns), strict=True)
    times = {(conversation_id, message_id): us for conversation_id, message_id, us in rows}
    return sum(
        _had_to_be_stored(created_us, complete_range, states.get(key), conversations.get(key))
        for (key, _), created_us in times.items()
    )


def _had_to_be_stored(
    created_us: int,
    complete_range: CompleteRange,
    state: ConversationState | None,
    listed: ConversationObservation | None,
) -> bool:
    """Whether no later run would have fetched a message that has no row.

    It is so if the conversation was stored from before the message until after it, or if its last
    activity is before the next incremental listing ends. It is not so if the conversation was due
    again because it failed, or is new since the last run, or has no time of its last activity.
    """
    if state is not None and state.due_reason:
        return False
    until_us = to_us(complete_range.until)
    updated_us = listed.updated_us if listed else None
    is_listed_before = updated_us is not None and updated_us < until_us
    if is_listed_before and day_start_us(complete_range.since) <= created_us < until_us:
        return True
    if state is None or state.complete_since_us is None or state.updated_us is None:
        return False
    # at both ends, messages of the same second may be left out
    return state.complete_since_us < created_us < state.updated_us
