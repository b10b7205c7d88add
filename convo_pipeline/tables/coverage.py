"""Count what the API could give of a day and what it could not. Pure: raw tables in, one row out (none for an empty day).

The balance always holds: ids_listed = detailed + beyond_20 + gone + failed + pending.
"""

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.tables.normalize import RawDay, align_messages


def count_coverage(raw: RawDay) -> pa.Table:
    """Return `coverage` of one account and date."""
    held = align_messages(raw.message_ids, raw.message_details)
    statuses = pc.fill_null(held["detail_status"], "pending")
    counts = {
        status: pc.sum(pc.equal(statuses, status)).as_py() or 0 for status in schema.DETAIL_STATUSES
    }
    conversation_ids = set(raw.conversations["conversation_id"].to_pylist())
    conversation_ids |= set(held["conversation_id"].unique().to_pylist())
    if not conversation_ids and not len(raw.rejects):
        return schema.COVERAGE.schema.empty_table()
    per_conversation = held.group_by("conversation_id").aggregate([([], "count_all")])["count_all"]
    open_ids = held["conversation_id"].filter(pc.not_equal(statuses, "detailed"))
    row = counts | {
        "ids_listed": len(held),
        "rejected": len(raw.rejects),
        "share_detailed": counts["detailed"] / len(held) if len(held) else None,
        "conversation_count": len(conversation_ids),
        "incomplete_conversation_count": len(open_ids.unique()),
        "at_risk_conversation_count": pc.sum(
            pc.greater(per_conversation, schema.READABLE_COUNT)
        ).as_py()
        or 0,
    }
    return pa.Table.from_pylist([row], schema=schema.COVERAGE.schema)
