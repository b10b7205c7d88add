"""Recover rows of a damaged or lost raw file from other copies, and count what stays lost.

Two copies can hold the rows of a raw file: files of the day that were set aside but can be read (a
backup of an earlier schema), and the compacted month. Their rows are merged like rows of the API.
Erased people and days beyond the retention are left out. Single pages of a damaged file are not
read: only 4 % of its bytes are in columns that a row can spare.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext, suppress
from datetime import date
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError, SchemaError, UnreadableError
from convo_pipeline.lake import parquet
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.compact import read_compacted_day
from convo_pipeline.lake.first_days import RAW_NAMES, first_raw_day
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import SuppressionList, read_suppression
from convo_pipeline.schema import (
    MESSAGES,
    PARTICIPANT_DAYS,
    RAW,
    RAW_REJECTS,
    SCHEMA_VERSION,
    Table,
)
from convo_pipeline.state.records import SuspectFile
from convo_pipeline.tables.people import is_sent_by, without_person

CONTENT = ("sender_id", "text", "is_unsupported")
"""Columns of `messages` that are null without content."""


def damaged_files(store: Store, account: str) -> frozenset[SuspectFile]:
    """Return the suspect raw files of an account: no complete run has read their days since."""
    suspects = store.state.suspect_files(account)
    return frozenset(suspect for suspect in suspects if suspect.table in RAW_NAMES)


def damaged_days(store: Store, account: str) -> set[date]:
    """Return the days of these files."""
    return {damaged.date for damaged in damaged_files(store, account)}


def salvage_days(store: Store, account: str, days: Collection[date]) -> list[Commit]:
    """Recover the damaged raw files of these days; hold the account's derivation lock meanwhile."""
    with store.lock_derivation(account) if days else nullcontext():
        return [commit for day in sorted(days) for commit in salvage_day(store, account, day)]


def salvage_day(store: Store, account: str, day: date) -> list[Commit]:
    """Merge the rows of other copies into the day's damaged raw files, if it has any.

    The caller holds the account's `lock_derivation`, so no erasure runs meanwhile.
    """
    damaged = damaged_files(store, account)
    names = {suspect.table for suspect in damaged if suspect.date == day}
    if not names or day < first_raw_day(store):
        return []
    tables = [table for table in RAW if table.name in names]
    copies = {table: _read_copies(store, table, account, day) for table in tables}
    kept = _without_erased(copies, read_suppression(store, account))
    return [
        store.merge(table.name, account, day, rows) for table, rows in kept.items() if rows.num_rows
    ]


def count_lost(
    store: Store, account: str, day: date, derived: Mapping[str, pa.Table], details: pa.Table
) -> int:
    """Count the messages and conversations of the stored derived tables that would lose content.

    `derived` are the tables that would replace them, made from raw tables of which `details` is
    one. A message that was unsent may lose its content. Raise CorruptError if a stored table is
    damaged.
    """
    if store.source(MESSAGES.name, account, day) is None:
        return 0
    try:
        names = [*MESSAGES.key, *CONTENT]
        messages = read_columns(store, MESSAGES, account, day, names)
        people = read_columns(store, PARTICIPANT_DAYS, account, day, ["conversation_id"])
    except (SchemaError, UnreadableError):  # an unreadable file is kept under another name
        return 0
    new_messages = derived[MESSAGES.name]
    unsent = new_messages.filter(pc.is_valid(new_messages["deleted_at"]))
    readable = details.filter(pc.is_valid(details["payload"]))
    keys = MESSAGES.row_keys(messages)
    has_content = pa.array([False] * messages.num_rows)
    for name in CONTENT:
        has_content = pc.or_(has_content, pc.is_valid(messages[name]))
    may_be_empty = [*MESSAGES.row_keys(unsent).chunks, *MESSAGES.row_keys(readable).chunks]
    is_empty = pc.invert(pc.is_in(keys, value_set=pa.chunked_array(may_be_empty, pa.string())))
    is_gone = pc.invert(pc.is_in(keys, value_set=MESSAGES.row_keys(new_messages)))
    lost_count = pc.sum(pc.or_(is_gone, pc.and_(has_content, is_empty))).as_py() or 0
    conversations = set(people["conversation_id"].to_pylist())
    return lost_count + len(
        conversations.difference(derived[PARTICIPANT_DAYS.name]["conversation_id"].to_pylist())
    )


def _read_copies(store: Store, table: Table, account: str, day: date) -> pa.Table:
    """Return the partition's rows of all readable copies; a key may occur several times."""
    rows = [read_compacted_day(store, table, account, day)]
    for aside, _, aside_day, parts in store.set_aside_files(account):
        if (aside, aside_day) == (table, day):
            rows += _read_set_aside(store, table, account, day, parts)
    return pa.concat_tables(rows)


def _read_set_aside(
    store: Store, table: Table, account: str, day: date, parts: tuple[str, ...]
) -> Iterator[pa.Table]:
    """Yield the rows of a file that was set aside, if it is whole and of this partition."""
    file = store.backend.read(parts)
    if file is None:
        return
    with suppress(CorruptError, SchemaError):
        content = parquet.decode(table, file.content, "")
        is_trusted = content.has_current_schema or content.schema_version < SCHEMA_VERSION
        if is_trusted and not store.partitions.belongs_elsewhere(content.label, account, day):
            yield content.checked_rows()


def _without_erased(
    copies: Mapping[Table, pa.Table], suppression: SuppressionList
) -> Mapping[Table, pa.Table]:
    """Return the rows without erased people. A restored copy can be older than an erasure."""
    if suppression.is_empty:
        return copies
    erased: set[str] = set()
    kept = {table: _cut(table, rows, suppression, erased) for table, rows in copies.items()}
    value_set = pa.array(sorted(erased), pa.string())
    for table, rows in kept.items():
        if "message_id" in rows.column_names:
            kept[table] = rows.filter(pc.invert(pc.is_in(rows["message_id"], value_set=value_set)))
    return kept


def _cut(table: Table, rows: pa.Table, suppression: SuppressionList, erased: set[str]) -> pa.Table:
    """Remove erased people from payloads, and their own rows; add their message ids to `erased`."""
    is_erased, kept = suppression.contains, []
    for row in rows.to_pylist():
        payload = _read_payload(row.get("payload"))
        conversation_id = row.get("conversation_id", "")
        rest = without_person(payload, is_erased, partial(suppression.redact, conversation_id))
        is_theirs = is_erased(row.get("conversation_id", "")) or is_sent_by(payload, is_erased)
        if is_theirs or (table is RAW_REJECTS and rest != payload):
            erased.add(row.get("message_id", ""))
        else:
            kept.append(row if rest == payload else row | {"payload": dump_json(rest).decode()})
    return pa.Table.from_pylist(kept, schema=table.schema)


def _read_payload(text: str | None) -> Mapping[str, object]:
    with suppress(ValueError):
        value = load_json(text or "{}")
        return value if isinstance(value, Mapping) else {}
    return {}
