"""Normalise one partition: raw tables in, the six normalised tables out. Pure, deterministic, never raises on a payload.

pandas aligns and groups, pyarrow is the door: every table leaves with exactly the schema declared for it, sorted by
its key. It refuses to know files, accounts and the API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.tables.conversations import (
    clear_unsure_directions,
    normalize_conversations,
    normalize_participants,
    read_own_ids,
    resolve_senders,
)
from convo_pipeline.tables.messages import CHILD_NAMES, ParsedPayloads, parse_payloads

_NEVER = pa.scalar(0, schema.TIME)
_ESTIMATES = pa.array(["conversation", "listing"])
_ASKED_COLUMNS = {
    "attachments": "attachment_count",
    "shares": "share_count",
    "reactions": "reaction_count",
    "is_unsupported": "is_unsupported",
}


def _empty(table: schema.Table) -> pa.Table:
    return table.schema.empty_table()


@dataclass(frozen=True)
class RawDay:
    """The raw tables of one account and date, and who that account is where the tables do not say."""

    platform: str | None = None
    page_id: str | None = None
    conversations: pa.Table = field(default_factory=lambda: _empty(schema.RAW_CONVERSATIONS))
    message_ids: pa.Table = field(default_factory=lambda: _empty(schema.RAW_MESSAGE_IDS))
    message_details: pa.Table = field(default_factory=lambda: _empty(schema.RAW_MESSAGE_DETAILS))
    rejects: pa.Table = field(default_factory=lambda: _empty(schema.RAW_REJECTS))
    own_id: str | None = None
    """The account's own id as it is known now; None: as stored with the conversations."""


def normalize(raw: RawDay) -> dict[str, pa.Table]:
    """Return the six normalised tables of a partition; every listed id has exactly one row in `messages`."""
    own_ids = read_own_ids(raw.conversations, raw.platform, raw.page_id, raw.own_id)
    held = align_messages(raw.message_ids, raw.message_details)
    contents = parse_payloads(held["payload"])
    messages = _messages_table(held, contents, raw.platform, own_ids)
    participants = normalize_participants(raw.conversations, messages, own_ids, held["payload"])
    messages = clear_unsure_directions(resolve_senders(messages, participants), participants)
    tables = {
        "conversations": normalize_conversations(
            raw.conversations, messages, participants, raw.platform, raw.page_id
        ),
        "participants": participants,
        "messages": messages,
    }
    return tables | {
        name: _child_table(name, contents.children[name], messages) for name in CHILD_NAMES
    }


def align_messages(message_ids: pa.Table, details: pa.Table) -> pa.Table:
    """Put ids and details side by side: one row for each id in either, sorted by key; details' names get `_held`."""
    ids, details = sort_by_key(message_ids), sort_by_key(details)
    key = list(schema.MESSAGES.key)
    shared = [name for name in details.column_names if name in ids.column_names and name not in key]
    details = details.rename_columns(
        [f"{name}_held" if name in shared else name for name in details.column_names]
    )
    if ids.select(key).equals(details.select(key)):
        rest = [name for name in details.column_names if name not in key]
        return pa.table(
            {
                name: table[name]
                for table, names in ((ids, ids.column_names), (details, rest))
                for name in names
            }
        )
    frame = pd.merge(_frame(ids), _frame(details), on=key, how="outer", sort=False)
    fields = {field.name: field.type for table in (details, ids) for field in table.schema}
    aligned = pa.Table.from_pandas(frame, pa.schema(list(fields.items())), preserve_index=False)
    return sort_by_key(aligned.replace_schema_metadata())


def sort_by_key(table: pa.Table, key: tuple[str, ...] = schema.MESSAGES.key) -> pa.Table:
    """Return the rows in the order of their key, one row a key; a table that already is so comes back as it is."""
    if _is_sorted(table, key):
        return table
    table = table.sort_by([(name, "ascending") for name in key])
    if _is_sorted(table, key):
        return table
    frame = _frame(table.select(list(key)))
    return table.filter(pa.array(~frame.duplicated(keep="first")))


def _is_sorted(table: pa.Table, key: tuple[str, ...]) -> bool:
    """Tell whether keys rise strictly."""
    rises = pa.scalar(False)
    is_same = pa.scalar(True)
    for name in key:
        column = table[name]
        before, after = column.slice(0, max(len(column) - 1, 0)), column.slice(1)
        rises = pc.or_(rises, pc.and_(is_same, pc.less(before, after)))
        is_same = pc.and_(is_same, pc.equal(before, after))
    return bool(pc.all(rises, min_count=0).as_py())


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def _messages_table(
    held: pa.Table, contents: ParsedPayloads, platform: str | None, own_ids: frozenset[str]
) -> pa.Table:
    columns: dict[str, object] = dict(contents.columns)
    is_redacted = pc.and_(pc.is_valid(held["redacted_at"]), pc.equal(held["detail_status"], "gone"))
    has_payload = pc.and_(pc.is_valid(held["payload"]), pc.invert(pc.fill_null(is_redacted, False)))
    columns["content_type"] = pc.if_else(has_payload, columns["content_type"], "unavailable")
    sender_ids = contents.columns["sender_id"]
    for key, was_asked in _find_asked(held["fields"]).items():
        name = _ASKED_COLUMNS[key]
        columns[name] = _fill_asked(contents.columns[name], has_payload, was_asked)
    columns |= {
        "conversation_id": held["conversation_id"],
        "message_id": held["message_id"],
        "platform": pa.repeat(pa.scalar(platform, schema.TEXT), len(held)),
        "created_at": pc.coalesce(
            held["created_at"], held["created_at_held"], held["first_seen_at"], _NEVER
        ),
        "tie_rank": pc.fill_null(held["tie_rank"], 0),
        "direction": _directions(sender_ids, own_ids),
        "detail_status": pc.fill_null(held["detail_status"], "pending"),
        "deleted_at": pc.if_else(
            pc.is_null(held["returned_at"]), held["deleted_at"], pa.scalar(None, schema.TIME)
        ),
        "problem": _problems(held, contents),
        "first_seen_at": pc.coalesce(
            _earlier(held["first_seen_at"], held["first_seen_at_held"]), _NEVER
        ),
        "changed_at": pc.coalesce(held["changed_at"], held["first_seen_at"], _NEVER),
    }
    return _build(schema.MESSAGES, columns)


def _earlier(one: pa.ChunkedArray, other: pa.ChunkedArray) -> object:
    first, second = pc.coalesce(one, other), pc.coalesce(other, one)
    return pc.if_else(pc.less(first, second), first, second)


def _build(table: schema.Table, columns: Mapping[str, object]) -> pa.Table:
    return pa.table([columns[name] for name in table.column_names], schema=table.schema)


def _directions(sender_ids: pa.ChunkedArray, own_ids: frozenset[str]) -> object:
    """Tell who sent: we, the customer, or null where we do not know ourselves or the sender."""
    if not own_ids:
        return pa.nulls(len(sender_ids), schema.TEXT)
    is_own = pc.is_in(sender_ids, value_set=pa.array(sorted(own_ids), schema.TEXT))
    direction = pc.if_else(is_own, "outbound", "inbound")
    return pc.if_else(pc.is_valid(sender_ids), direction, pa.scalar(None, schema.TEXT))


def _find_asked(fields: pa.ChunkedArray) -> dict[str, object]:
    """Tell of some payload keys whether the answer was asked for them; true where it is not written down."""
    encoded = fields.combine_chunks().dictionary_encode()
    named = {key: pc.match_substring(encoded.dictionary, f'"{key}":') for key in _ASKED_COLUMNS}
    return {key: pc.fill_null(names.take(encoded.indices), True) for key, names in named.items()}


def _fill_asked(column: pa.ChunkedArray, has_payload: object, was_asked: object) -> object:
    """Say 0 or false where the payload, asked for the key, says nothing; null where nobody asked."""
    nothing = pa.scalar(False) if pa.types.is_boolean(column.type) else pa.scalar(0, column.type)
    is_known = pc.and_(has_payload, was_asked)
    return pc.if_else(
        is_known,
        pc.fill_null(column, nothing),
        pc.if_else(pc.equal(column, nothing), pa.scalar(None, column.type), column),
    )


def _problems(held: pa.Table, contents: ParsedPayloads) -> object:
    """Name one problem a row: the first of `schema.PROBLEMS` that it has."""
    found = contents.columns["problem"]
    is_detailed = pc.equal(held["detail_status"], "detailed")
    is_lost = pc.fill_null(pc.and_(is_detailed, pc.is_null(held["payload"])), False)
    source = held["created_at_source"]
    is_dated = pc.fill_null(pc.match_substring(held["payload"], '"created_time":"'), False)
    is_undated = pc.fill_null(pc.not_equal(source, "message"), False)
    return pc.case_when(
        pc.make_struct(
            is_lost,
            pc.fill_null(
                pc.is_in(found, value_set=pa.array(["payload_unreadable", "field_unreadable"])),
                False,
            ),
            pc.and_(is_undated, is_dated),
            pc.fill_null(pc.is_in(source, value_set=_ESTIMATES), False),
        ),
        pa.scalar("payload_unreadable"),
        found,
        pa.scalar("time_unreadable"),
        pa.scalar("time_estimated"),
        found,
    )


def _child_table(name: str, rows: pa.Table, messages: pa.Table) -> pa.Table:
    """Give children their message's key and time."""
    places = rows["row"]
    of_message = {
        column: messages[column].take(places)
        for column in ("conversation_id", "message_id", "created_at")
    }
    own = {column: rows[column] for column in CHILD_NAMES[name]}
    return _build(schema.TABLES[name], of_message | own)
