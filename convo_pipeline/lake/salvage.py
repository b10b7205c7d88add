"""What is still held of a raw file that was damaged or lost, merged back: what can be read of it anywhere is not lost.

Three places may hold its rows: the damaged file itself (each column whose pages are whole), the compaction of its month,
and the tables that were derived from it. All are merged as any observation is, so that what the API or a backup says of a
row afterwards counts as always, and doing it again changes nothing. Who was forgotten does not come back, nor does
what is too old. The day stays noted, to be asked again.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext, suppress
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError, SchemaError
from convo_pipeline.lake import parquet
from convo_pipeline.lake.compact import read_compacted_day
from convo_pipeline.lake.floors import RAW_NAMES, raw_floor
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Suppression, read_suppression
from convo_pipeline.schema import (
    NORMALISED,
    RAW,
    RAW_CONVERSATIONS,
    RAW_MESSAGE_DETAILS,
    RAW_MESSAGE_IDS,
    RAW_REJECTS,
    SCHEMA_VERSION,
    Table,
)
from convo_pipeline.tables.merge import merge
from convo_pipeline.tables.people import (
    is_one_to_one,
    is_sent_by,
    people_in,
    people_of_message,
    without_person,
)
from convo_pipeline.tables.remake import (
    Derived,
    remake_conversations,
    remake_message_details,
    remake_message_ids,
)

_ANSWER = ("fields", "payload")
"""Columns that are of one answer: where one is damaged, both are taken from elsewhere."""


def damaged_files(store: Store, account: str) -> frozenset[tuple[str, str, date, str]]:
    """Return (table, account, date, path) of the raw files that were set aside or lost, and not asked again since."""
    return frozenset(each for each in store.state.suspect_files(account) if each[0] in RAW_NAMES)


def damaged_days(store: Store, account: str) -> set[date]:
    """Return the days of these files."""
    return {day for _, _, day, _ in damaged_files(store, account)}


def salvage_days(store: Store, account: str, days: Collection[date]) -> list[Commit]:
    """Merge back what is still held of the damaged raw files of these days, while nobody derives or erases."""
    with store.lock_derivation(account) if days else nullcontext():
        return [commit for day in sorted(days) for commit in salvage_day(store, account, day)]


def salvage_day(store: Store, account: str, day: date) -> list[Commit]:
    """Merge back what is still held of the day's damaged raw files; nothing to do where none is noted.

    The caller holds the account's `lock_derivation`: nobody erases meanwhile what is read here.
    """
    noted = {
        table for table, _, noted_day, _ in store.state.suspect_files(account) if noted_day == day
    }
    lost = [table for table in RAW if table.name in noted]
    if not lost or day < raw_floor(store):
        return []
    derived = {table.name: _read_sound(store, table, account, day) for table in NORMALISED}
    found = {table: _find_rows(store, table, account, day, derived) for table in lost}
    kept = _without_forgotten(found, read_suppression(store, account), _own_ids(store, account))
    return [
        store.merge(table.name, account, day, rows) for table, rows in kept.items() if rows.num_rows
    ]


def _read_sound(store: Store, table: Table, account: str, day: date) -> pa.Table:
    """Return a partition's rows, none if it is damaged: it is set aside then, and made again like any other."""
    with suppress(CorruptError):
        return store.read(table.name, account, day)
    return table.schema.empty_table()


def _find_rows(store: Store, table: Table, account: str, day: date, derived: Derived) -> pa.Table:
    """Return all rows that are found, and of the derived tables those that are found nowhere else."""
    remade = _remake(store, table, account, day, derived)
    as_told = pa.concat_tables(
        [
            read_compacted_day(store, table, account, day),
            *(
                _complete(table, columns, remade)
                for columns in _read_damaged(store, table, account, day)
            ),
        ]
    )
    held = _read_sound(store, table, account, day)
    held = merge(table, held, as_told) if as_told.num_rows else held
    if "payload" in table.column_names:
        held = held.filter(pc.is_valid(held["payload"]))
    is_lacking = pc.invert(pc.is_in(table.row_keys(remade), value_set=table.row_keys(held)))
    return pa.concat_tables([as_told, remade.filter(is_lacking)])


def _read_damaged(store: Store, table: Table, account: str, day: date) -> Iterator[pa.Table]:
    """Yield what can be read of the partition's files that were set aside."""
    for found_table, _, found_day, parts in store.set_aside_files(account):
        found = store.backend.read(parts) if (found_table, found_day) == (table, day) else None
        if found and not store.partitions.is_other_place(
            parquet.read_place(found[0]), account, day
        ):
            older = _read_older(table, found[0])
            yield parquet.decode_whole_columns(table, found[0]) if older is None else older


def _read_older(table: Table, content: bytes) -> pa.Table | None:
    """Return the rows of a whole file of an earlier schema, which is set aside where nobody knows its bytes; else None."""
    try:
        decoded = parquet.decode(table, content, "")
        return decoded.fitting_rows() if decoded.version < SCHEMA_VERSION else None
    except (CorruptError, SchemaError):
        return None


def _complete(table: Table, columns: pa.Table, remade: pa.Table) -> pa.Table:
    """Return whole rows of what could be read of a file: what is missing is taken from the rows that were made again.

    A row without what every row must have is left out, and so is one whose content alone is missing: it says that it
    is held.
    """
    names = set(columns.column_names)
    if not names.issuperset(table.key):
        return table.schema.empty_table()
    if not names.issuperset(name for name in _ANSWER if name in table.column_names):
        names -= set(_ANSWER)
    places = pc.index_in(table.row_keys(columns), value_set=table.row_keys(remade))
    whole = {
        name: columns[name] if name in names else remade[name].take(places)
        for name in table.column_names
    }
    rows = pa.table(whole)
    is_whole = pa.array([True] * rows.num_rows)
    for column in table.columns:
        if column.required:
            is_whole = pc.and_(is_whole, pc.is_valid(rows[column.name]))
    if table is RAW_MESSAGE_DETAILS and "payload" not in names:
        is_empty = pc.and_(pc.equal(rows["detail_status"], "detailed"), pc.is_null(rows["payload"]))
        is_whole = pc.and_(is_whole, pc.invert(pc.fill_null(is_empty, False)))
    return parquet.conform(table, rows.filter(is_whole))


def _remake(store: Store, table: Table, account: str, day: date, derived: Derived) -> pa.Table:
    if table is RAW_MESSAGE_IDS:
        return remake_message_ids(derived, day, store.state.placements(account).keys())
    if table is RAW_MESSAGE_DETAILS:
        return remake_message_details(derived)
    if table is RAW_CONVERSATIONS:
        identity = store.state.identity(account)
        own = (identity.own_id, identity.own_username) if identity else (None, None)
        return remake_conversations(derived, day, *own)
    return table.schema.empty_table()  # what was rejected is in no derived table


def _own_ids(store: Store, account: str) -> frozenset[str]:
    identity = store.state.identity(account)
    return (
        frozenset(each for each in (identity.page_id, identity.own_id) if each)
        if identity
        else frozenset()
    )


def _without_forgotten(
    found: Mapping[Table, pa.Table], suppression: Suppression, own_ids: frozenset[str]
) -> Mapping[Table, pa.Table]:
    """Return the rows without anybody who was forgotten: a file may be older than that, if a backup was put back."""
    if suppression.is_empty:
        return found
    forgotten: set[str] = set()
    """Conversations and messages that are theirs."""
    kept = {
        table: _cut(table, rows, suppression, own_ids, forgotten) for table, rows in found.items()
    }
    is_theirs = pa.array(sorted(forgotten), pa.string())
    for table, rows in kept.items():
        for name in ("conversation_id", "message_id"):
            if name in rows.column_names:
                rows = rows.filter(pc.invert(pc.is_in(rows[name], value_set=is_theirs)))
        kept[table] = rows
    return kept


def _cut(
    table: Table,
    rows: pa.Table,
    suppression: Suppression,
    own_ids: frozenset[str],
    forgotten: set[str],
) -> pa.Table:
    """Cut forgotten people out of the payloads, and note what is theirs as a whole."""
    left = []
    for row in rows.to_pylist():
        conversation_id, payload = row.get("conversation_id", ""), _read_payload(row.get("payload"))
        people = people_of_message(payload) | people_in(payload.get("participants"))
        is_met = any(map(suppression.holds, people))
        if suppression.holds(conversation_id) or (
            is_met and is_one_to_one(people, own_ids, suppression.holds)
        ):
            forgotten.add(conversation_id)
        elif is_sent_by(payload, suppression.holds):
            forgotten.add(row.get("message_id", ""))
        cut = without_person(payload, suppression.holds)
        if cut == payload:
            left.append(row)
        elif table is not RAW_REJECTS:
            left.append(row | {"payload": dump_json(cut).decode()})
    return pa.Table.from_pylist(left, schema=table.schema)


def _read_payload(text: str | None) -> Mapping[str, object]:
    try:
        value = load_json(text) if text is not None else None
    except ValueError:
        value = None
    return value if isinstance(value, Mapping) else {}
