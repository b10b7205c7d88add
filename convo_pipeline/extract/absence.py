"""What it proves that a message is no longer listed. Pure.

A message that was unsent is answered with the very error of one that is too old, so no error says that it was deleted
(Meta's error codes, 9000001); its absence can. One absence is not enough: a page that was read while the list moved
skips rows, an answer from a copy that lags behind lacks the newest, one object that failed to load is left out. So:
- `missing_at`: a walk from the newest message down passed its place and it was not there;
- `deleted_at`: an answer at least an hour later listed, in one page, messages sent before it and after it, and again
  not it. The newest of a conversation is therefore not taken for deleted until something newer is listed;
- `returned_at`: it was listed again after it was missed. Such a listing is not to be trusted on this message, so it
  is never taken for deleted any more.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.times import from_us, to_us
from convo_pipeline.extract.observations import MessageObservation, Reject
from convo_pipeline.schema import RAW_MESSAGE_IDS

CONFIRMED_AFTER = timedelta(hours=1)
Span = tuple[int, int, int]
"""One page of a conversation: its oldest and newest message's time and the answer's, in microseconds since 1970."""


def span_of(found: Sequence[MessageObservation | Reject], at_us: int) -> Span | None:
    """Return what a page spans; None where a row without an id, a time or a place in the order could be any message."""
    times = [
        entry.created_us
        for entry in found
        if isinstance(entry, MessageObservation) and entry.created_at_source == "message"
    ]
    if len(times) < len(found) or len(times) < 2 or times != sorted(times, reverse=True):
        return None
    return times[-1], times[0], at_us


def judge_missing(
    held: pa.Table, seen: pa.Table, spans: Mapping[str, Sequence[Span]]
) -> pa.Table | None:
    """Return the rows of `raw_message_ids` that were missed before and are now known to be deleted, or to be there.

    `held` are a day's rows as they are stored, `seen` those that the run met, `spans` the pages of each conversation.
    """
    is_open = pc.and_(pc.is_valid(held["missing_at"]), pc.is_null(held["returned_at"]))
    missed = held.filter(is_open).to_pylist()
    if not missed:
        return None
    keys = zip(seen["conversation_id"].to_pylist(), seen["message_id"].to_pylist(), strict=True)
    wanted = {(row["conversation_id"], row["message_id"]) for row in missed}
    met: dict[tuple[str, str], datetime] = {}
    for key, seen_at in zip(keys, seen["first_seen_at"].to_pylist(), strict=True):
        if key in wanted:
            met[key] = max(met.get(key, seen_at), seen_at)
    judged = []
    for row in missed:
        seen_at = met.get((row["conversation_id"], row["message_id"]))
        if seen_at is not None and seen_at > row["missing_at"]:
            judged.append(row | {"returned_at": seen_at})
        elif seen_at is None and row["deleted_at"] is None:
            deleted_us = _deleted_us(row, spans.get(row["conversation_id"], ()))
            judged += [row | {"deleted_at": from_us(deleted_us)}] if deleted_us is not None else []
    return pa.Table.from_pylist(judged, schema=RAW_MESSAGE_IDS.schema) if judged else None


def _deleted_us(row: Mapping[str, object], spans: Sequence[Span]) -> int | None:
    """Return when a page around a message that was missed before lacked it too; None where none did."""
    created_at, missing_at = row["created_at"], row["missing_at"]
    if row["created_at_source"] != "message":
        return None
    created_us, after_us = to_us(created_at), to_us(missing_at + CONFIRMED_AFTER)  # type: ignore[arg-type, operator]
    times = (
        at_us
        for oldest_us, newest_us, at_us in spans
        if oldest_us < created_us < newest_us and at_us >= after_us
    )
    return min(times, default=None)
