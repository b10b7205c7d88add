"""What must add up between the tables of one account and date. Pure: tables in, sentences out."""

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.schema import DETAIL_STATUSES, MESSAGES

Tables = Mapping[str, pa.Table]
"""The tables of one partition by name; one without a file has no rows."""

CHILDREN = {
    "attachments": "attachment_count",
    "shares": "share_count",
    "reactions": "reaction_count",
}


def check_balances(tables: Tables) -> list[str]:
    """Return what does not add up; empty if all does."""
    return [
        *_check_messages(tables),
        *_check_children(tables),
        *_check_conversations(tables),
        *_check_coverage(tables),
    ]


def _check_messages(tables: Tables) -> Iterator[str]:
    raw = _keys(tables["raw_message_ids"]) | _keys(tables["raw_message_details"])
    messages = _keys(tables["messages"])
    if raw - messages:
        yield f"messages lacks {len(raw - messages)} of {len(raw)} ids of the raw tables"
    if messages - raw:
        yield f"messages has {len(messages - raw)} ids that no raw table has"


def _check_children(tables: Tables) -> Iterator[str]:
    messages = tables["messages"]
    known = _keys(messages)
    for name, count_name in CHILDREN.items():
        counted = pc.sum(messages[count_name]).as_py() or 0
        if tables[name].num_rows != counted:
            yield f"{name} has {tables[name].num_rows} rows, messages.{count_name} adds up to {counted}"
        if _keys(tables[name]) - known:
            yield f"{name} has rows of messages that are not there"


def _check_conversations(tables: Tables) -> Iterator[str]:
    conversations = tables["conversations"]
    counted = pc.sum(conversations["message_count"]).as_py() or 0
    if counted != tables["messages"].num_rows:
        yield f"conversations count {counted} messages, messages has {tables['messages'].num_rows}"
    known = set(conversations["conversation_id"].to_pylist())
    for name in ("raw_conversations", "messages", "participants"):
        missing = set(tables[name]["conversation_id"].to_pylist()) - known
        if missing:
            yield f"{name} has {len(missing)} conversations that conversations lacks"


def _check_coverage(tables: Tables) -> Iterator[str]:
    rows = tables["coverage"].to_pylist()
    if not rows:
        if tables["messages"].num_rows:
            yield "coverage has no row"
        return
    statuses = tables["messages"]["detail_status"].to_pylist()
    expected = {status: statuses.count(status) for status in DETAIL_STATUSES}
    expected |= {"ids_listed": len(statuses), "rejected": tables["raw_rejects"].num_rows}
    for name, count in expected.items():
        if rows[0][name] != count:
            yield f"coverage.{name} is {rows[0][name]}, the tables have {count}"


def _keys(rows: pa.Table) -> set[tuple[str, ...]]:
    return set(zip(*(rows[name].to_pylist() for name in MESSAGES.key), strict=True))
