"""Compute the normalised tables and `coverage` of one day from its raw tables. Pure.

It is deterministic and never raises because of a payload. Every table has its declared schema and
is sorted by its key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.tables.conversations import (
    normalize_conversations,
    normalize_participants,
    read_own_ids,
)
from convo_pipeline.tables.directions import correct_directions, mark_second_ids, resolve_senders
from convo_pipeline.tables.messages import CHILD_NAMES, ParsedPayloads, parse_payloads

if TYPE_CHECKING:
    import pandas as pd

_LONG_AGO = pa.scalar(0, schema.TIME)
_ESTIMATES = pa.array(["conversation", "listing"])
_COLUMNS_OF_FIELDS = {
    "attachments": "attachment_count",
    "shares": "share_count",
    "reactions": "reaction_count",
    "is_unsupported": "is_unsupported",
}


def _empty(table: schema.Table) -> pa.Table:
    return table.schema.empty_table()


@dataclass(frozen=True)
class RawDay:
    """The raw tables of one account and date.

    The platform and the Page are used where the tables do not name them. `own_id` is the account's
    own id; empty if the runs could not decide, None if it is not known.
    """

    platform: str | None = None
    page_id: str | None = None
    conversations: pa.Table = field(default_factory=lambda: _empty(schema.RAW_CONVERSATIONS))
    message_ids: pa.Table = field(default_factory=lambda: _empty(schema.RAW_MESSAGE_IDS))
    message_details: pa.Table = field(default_factory=lambda: _empty(schema.RAW_MESSAGE_DETAILS))
    rejects: pa.Table = field(default_factory=lambda: _empty(schema.RAW_REJECTS))
    own_id: str | None = None


def normalize(raw: RawDay) -> dict[str, pa.Table]:
    """Return the six normalised tables; `messages` has exactly one row for each listed id."""
    own_ids = read_own_ids(raw.conversations, raw.platform, raw.page_id, raw.own_id)
    aligned = align_messages(raw.message_ids, raw.message_details)
    parsed = parse_payloads(aligned["payload"])
    messages = _messages_table(aligned, parsed, raw.platform, own_ids)
    participants = normalize_participants(raw.conversations, messages, own_ids, aligned["payload"])
    participants = mark_second_ids(participants, messages)
    messages = resolve_senders(messages, participants)
    messages = correct_directions(messages, participants, own_ids)
    conversations = normalize_conversations(
        raw.conversations, messages, participants, raw.platform, raw.page_id
    )
    children = {name: _child_table(name, parsed.children[name], messages) for name in CHILD_NAMES}
    return {
        schema.CONVERSATION_DAYS.name: conversations,
        schema.PARTICIPANT_DAYS.name: participants,
        schema.MESSAGES.name: messages,
        **children,
    }


def count_coverage(raw: RawDay, normalised: Mapping[str, pa.Table] | None = None) -> pa.Table:
    """Return `coverage`: one row, or none for a day without raw rows.

    `normalised` are the normalised tables of the day, if they are already computed.
    ids_listed = detailed + beyond_20 + gone + failed + pending always holds.
    """
    aligned = align_messages(raw.message_ids, raw.message_details)
    statuses = pc.fill_null(aligned["detail_status"], "pending")
    counts = {
        status: pc.sum(pc.equal(statuses, status)).as_py() or 0 for status in schema.DETAIL_STATUSES
    }
    conversation_ids = set(raw.conversations["conversation_id"].to_pylist())
    conversation_ids |= set(aligned["conversation_id"].unique().to_pylist())
    if not conversation_ids and not len(raw.rejects):
        return _empty(schema.COVERAGE)
    id_counts = aligned.group_by("conversation_id").aggregate([([], "count_all")])["count_all"]
    incomplete = set(
        aligned["conversation_id"].filter(pc.not_equal(statuses, "detailed")).to_pylist()
    )
    marker = f'"{schema.OLDER_MESSAGES_KEY}":"refused"'
    is_cut = pc.fill_null(pc.match_substring(raw.conversations["payload"], marker), False)
    cut_off = set(raw.conversations["conversation_id"].filter(is_cut).to_pylist())
    is_share_known = len(aligned) and not (cut_off and counts["detailed"] == len(aligned))
    at_risk_count = pc.sum(pc.greater(id_counts, schema.READABLE_COUNT)).as_py() or 0
    tables = normalised or normalize(raw)
    is_detailed = pc.equal(tables["messages"]["detail_status"], "detailed")
    has_no_direction = pc.and_(is_detailed, pc.is_null(tables["messages"]["direction"]))
    is_unknown_kind = pc.equal(tables["attachments"]["kind"], "other")
    row = counts | {
        "unknown_direction_count": pc.sum(has_no_direction).as_py() or 0,
        "unknown_kind_count": pc.sum(is_unknown_kind).as_py() or 0,
        "ids_listed": len(aligned),
        "rejected": len(raw.rejects),
        "share_detailed": counts["detailed"] / len(aligned) if is_share_known else None,
        "conversation_count": len(conversation_ids),
        "incomplete_conversation_count": len(incomplete | cut_off),
        "at_risk_conversation_count": at_risk_count,
    }
    return pa.Table.from_pylist([row], schema=schema.COVERAGE.schema)


def align_messages(message_ids: pa.Table, details: pa.Table) -> pa.Table:
    """Join ids and details: one row for each id in either table, sorted by key.

    Columns of details that the ids have too get the suffix `_of_details`.
    """
    ids, details = sort_by_key(message_ids), sort_by_key(details)
    key = list(schema.MESSAGES.key)
    shared = [name for name in details.column_names if name in ids.column_names and name not in key]
    details = details.rename_columns(
        [f"{name}_of_details" if name in shared else name for name in details.column_names]
    )
    if ids.select(key).equals(details.select(key)):
        columns = {name: details[name] for name in details.column_names}
        return pa.table({name: ids[name] for name in ids.column_names} | columns)
    import pandas as pd  # takes 0.3 s to load, and most days have the same ids in both tables

    frame = pd.merge(_frame(ids), _frame(details), on=key, how="outer", sort=False)
    fields = {field.name: field.type for table in (details, ids) for field in table.schema}
    aligned = pa.Table.from_pandas(frame, pa.schema(list(fields.items())), preserve_index=False)
    return sort_by_key(aligned.replace_schema_metadata())


def sort_by_key(table: pa.Table, key: tuple[str, ...] = schema.MESSAGES.key) -> pa.Table:
    """Return the rows sorted by key, one row for each key."""
    if _is_sorted(table, key):
        return table
    table = table.sort_by([(name, "ascending") for name in key])
    if _is_sorted(table, key):
        return table
    frame = _frame(table.select(list(key)))
    return table.filter(pa.array((~frame.duplicated(keep="first")).to_numpy()))


def _is_sorted(table: pa.Table, key: tuple[str, ...]) -> bool:
    """Return whether each key is greater than the one before."""
    rises = pa.scalar(False)
    is_same = pa.scalar(True)
    for name in key:
        column = table[name]
        before, after = column.slice(0, max(len(column) - 1, 0)), column.slice(1)
        rises = pc.or_(rises, pc.and_(is_same, pc.less(before, after)))
        is_same = pc.and_(is_same, pc.equal(before, after))
    return bool(pc.all(rises, min_count=0).as_py())


def _frame(table: pa.Table) -> "pd.DataFrame":
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def _messages_table(
    aligned: pa.Table, parsed: ParsedPayloads, platform: str | None, own_ids: frozenset[str]
) -> pa.Table:
    columns: dict[str, object] = dict(parsed.columns)
    is_redacted = pc.and_(
        pc.is_valid(aligned["redacted_at"]), pc.equal(aligned["detail_status"], "gone")
    )
    has_payload = pc.and_(
        pc.is_valid(aligned["payload"]), pc.invert(pc.fill_null(is_redacted, False))
    )
    columns["content_type"] = pc.if_else(has_payload, columns["content_type"], "unavailable")
    sender_ids = parsed.columns["sender_id"]
    for name, is_requested in _find_requested(aligned["fields"]).items():
        columns[name] = _fill_requested(parsed.columns[name], has_payload, is_requested)
    columns |= {
        "conversation_id": aligned["conversation_id"],
        "message_id": aligned["message_id"],
        "platform": pa.repeat(pa.scalar(platform, schema.TEXT), len(aligned)),
        "created_at": pc.coalesce(
            aligned["created_at"],
            aligned["created_at_of_details"],
            aligned["first_seen_at"],
            _LONG_AGO,
        ),
        "order_in_second": pc.fill_null(aligned["order_in_second"], 0),
        "direction": _directions(sender_ids, own_ids),
        "has_own_reaction": _own_reactions(
            columns["reaction_count"], parsed.children["reactions"], own_ids
        ),
        "detail_status": pc.fill_null(aligned["detail_status"], "pending"),
        "deleted_at": pc.if_else(
            pc.is_null(aligned["returned_at"]), aligned["deleted_at"], pa.scalar(None, schema.TIME)
        ),
        "problem": _problems(aligned, parsed),
        "first_seen_at": pc.coalesce(
            _earlier(aligned["first_seen_at"], aligned["first_seen_at_of_details"]), _LONG_AGO
        ),
        "changed_at": pc.coalesce(aligned["changed_at"], aligned["first_seen_at"], _LONG_AGO),
    }
    return _build(schema.MESSAGES, columns)


def _earlier(one: pa.ChunkedArray, other: pa.ChunkedArray) -> object:
    first, second = pc.coalesce(one, other), pc.coalesce(other, one)
    return pc.if_else(pc.less(first, second), first, second)


def _build(table: schema.Table, columns: Mapping[str, object]) -> pa.Table:
    return pa.table([columns[name] for name in table.column_names], schema=table.schema)


def _directions(sender_ids: pa.ChunkedArray, own_ids: frozenset[str]) -> object:
    """Return the direction by sender; null where the sender or the own id is not known."""
    if not own_ids:
        return pa.nulls(len(sender_ids), schema.TEXT)
    is_own = pc.is_in(sender_ids, value_set=pa.array(sorted(own_ids), schema.TEXT))
    direction = pc.if_else(is_own, "outbound", "inbound")
    return pc.if_else(pc.is_valid(sender_ids), direction, pa.scalar(None, schema.TEXT))


def _own_reactions(counts: object, reactions: pa.Table, own_ids: frozenset[str]) -> object:
    """Return which messages have a reaction of the account; null where it is not known."""
    if not own_ids:
        return pc.if_else(pc.equal(counts, 0), False, pa.scalar(None, schema.FLAG))
    is_own = pc.is_in(reactions["reactor_id"], value_set=pa.array(sorted(own_ids), schema.TEXT))
    rows = pa.array(range(len(counts)), reactions["row"].type)  # type: ignore[arg-type]
    has_own = pc.is_in(rows, value_set=reactions["row"].filter(is_own).combine_chunks())
    return pc.if_else(pc.is_valid(counts), has_own, pa.scalar(None, schema.FLAG))


def _find_requested(fields: pa.ChunkedArray) -> dict[str, object]:
    """Return for some columns in which rows their field was requested; true without a record."""
    encoded = fields.combine_chunks().dictionary_encode()
    requested = {}
    for key, column in _COLUMNS_OF_FIELDS.items():
        is_named = pc.match_substring(encoded.dictionary, f'"{key}":')
        requested[column] = pc.fill_null(is_named.take(encoded.indices), True)
    return requested


def _fill_requested(column: pa.ChunkedArray, has_payload: object, is_requested: object) -> object:
    """Fill 0 or false where the field was requested and is absent; null where it was not."""
    nothing = pa.scalar(False) if pa.types.is_boolean(column.type) else pa.scalar(0, column.type)
    is_known = pc.and_(has_payload, is_requested)
    return pc.if_else(
        is_known,
        pc.fill_null(column, nothing),
        pc.if_else(pc.equal(column, nothing), pa.scalar(None, column.type), column),
    )


def _problems(aligned: pa.Table, parsed: ParsedPayloads) -> object:
    """Return the first of `schema.PROBLEMS` that each row has."""
    problems = parsed.columns["problem"]
    is_detailed = pc.equal(aligned["detail_status"], "detailed")
    is_lost = pc.fill_null(pc.and_(is_detailed, pc.is_null(aligned["payload"])), False)
    source = aligned["created_at_source"]
    is_undated = pc.fill_null(pc.not_equal(source, "message"), False)
    is_rare = pc.is_valid(parsed.columns["attachment_count"])  # plain messages have no cut list
    return pc.case_when(
        pc.make_struct(
            is_lost,
            pc.fill_null(
                pc.is_in(problems, value_set=pa.array(["payload_unreadable", "field_unreadable"])),
                False,
            ),
            _contains(aligned["payload"], schema.IS_CUT, is_rare),
            _contains(aligned["payload"], '"created_time":"', is_undated),
            pc.fill_null(pc.is_in(source, value_set=_ESTIMATES), False),
        ),
        pa.scalar("payload_unreadable"),
        problems,
        pa.scalar("list_cut"),
        pa.scalar("time_unreadable"),
        pa.scalar("time_estimated"),
        problems,
    )


def _contains(payloads: pa.ChunkedArray, part: str, where: pa.ChunkedArray) -> pa.Array:
    """Return which of the payloads in some rows contain a text; the other rows are not read."""
    is_found = np.array(where, dtype=bool)
    matches = pc.match_substring(payloads.filter(where), part)
    is_found[is_found] = np.asarray(pc.fill_null(matches, False), dtype=bool)
    return pa.array(is_found)


def _child_table(name: str, rows: pa.Table, messages: pa.Table) -> pa.Table:
    """Return a table of children with the key and the time of their messages."""
    shared = ("conversation_id", "message_id", "created_at")
    columns = {column: messages[column].take(rows["row"]) for column in shared}
    columns |= {column: rows[column] for column in CHILD_NAMES[name]}
    return _build(schema.TABLES[name], columns)
