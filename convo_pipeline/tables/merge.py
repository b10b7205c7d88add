"""Merge two versions of a raw table. Content that was read is kept, in any order of arrival.

Rows of one key are joined: the join is idempotent and commutative, and keeps every key. It is
associative, with one exception (`redact_row`). Where the join brings nothing new except volatile
parts (signed URLs, counters, times), the older row stays as it is. So a rerun without news changes
no file.

Columns are compared as a whole. Only rows that differ become Python values.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.schema import (
    CREATED_AT_SOURCES,
    CUT_KEY,
    DETAIL_STATUSES,
    IS_CUT,
    RAW_MESSAGE_DETAILS,
    TIME,
    Table,
)
from convo_pipeline.tables.payloads import read_object

Row = dict[str, Any]
"""One row as Python values; times are whole microseconds since 1970."""
Key = tuple[str, str]
"""(conversation_id, message_id)."""
DatedValue = tuple[int, bool, object]
"""The value of a payload key: when it was requested, whether it was present, and the value."""
PEOPLE_KEYS = frozenset({"from", "to"})
KEPT_LISTS = frozenset({"attachments", "shares", "to", "participants"})
"""Lists that do not become empty: a message keeps its media, and a conversation its people."""
NO_TIME = -1
"""Time of a payload key that `fields` does not name. Any other time is newer."""

TEXT_KEYS = "message|text|title|name|description|subject|username"
_TEXT_IS_URL = (rf'([{{,]"(?:{TEXT_KEYS})":")http', "\\1\x01http")
_URL_QUERY = (r'([:\[,]"https?://[^"\\?]*)\?(?:[^"\\]|\\.)*"', r'\1"')
_COUNTER = (r'([{,])"(?:unread_count|message_count)":-?[0-9]+', r"\1")
_STRING = r'"(?:[^"\\]|\\.)*"'
_PAGING = (
    rf'"paging":\{{(?:[^{{}}"]|{_STRING}|\{{(?:[^{{}}"]|{_STRING})*\}})*\}}',
    r'"paging":0',
)
PAYLOAD_REWRITES = (_TEXT_IS_URL, _URL_QUERY, _COUNTER, _PAGING)
"""Regular expressions over canonical JSON, in the common subset of `re` and RE2. Inside a JSON
string a backslash precedes every quote. So a quote after `:`, `[`, `,` or `{` begins a key or a
value, never a part of a text."""
FIELDS_REWRITES = ((r'":-?[0-9]+', '":'),)
REWRITES = {"payload": PAYLOAD_REWRITES, "fields": FIELDS_REWRITES}
OBSERVATION_COLUMNS = ("first_seen_at", "changed_at", "rank_when_asked")
"""Columns that tell when and how a row was read. They are not content."""


def stable_payload(text: str) -> str:
    """Return a payload without its volatile parts, for comparison only: it is no JSON any more.

    >>> stable_payload('{"image":"https://cdn.example/a.jpg?sig=1","unread_count":3}')
    '{"image":"https://cdn.example/a.jpg",}'
    >>> first, second = ('{"message":"https://example.org/?page=%d"}' % page for page in (2, 3))
    >>> stable_payload(first) == stable_payload(second)
    False
    """
    return _rewrite(text, PAYLOAD_REWRITES)


def merge(table: Table, stored: pa.Table, incoming: pa.Table) -> pa.Table:
    """Return both tables as one, sorted by key; `stored` itself where nothing is new.

    Both have the table's exact schema. `stored` has each key once, `incoming` may repeat keys.
    """
    incoming = _join_repeated_keys(table, _clean(table, incoming))
    if stored.num_rows == 0:
        return _sort(table, incoming)
    stored = _clean(table, stored)
    matches = pc.index_in(table.row_keys(incoming), value_set=table.row_keys(stored))
    is_new = pc.is_null(matches).to_numpy(zero_copy_only=False)
    matched = pc.drop_null(matches).to_numpy(zero_copy_only=False)
    known = incoming.filter(pa.array(~is_new))
    differs = ~_is_unchanged(table, stored.take(pa.array(matched)), known)
    if not is_new.any() and not differs.any():
        return stored
    before = stored.take(pa.array(matched[differs]))
    pairs = zip(read_rows(before), read_rows(known.filter(pa.array(differs))), strict=True)
    after = write_rows(table, [_merge_rows(table, *pair) for pair in pairs])
    if not is_new.any() and after.equals(before):
        return stored
    is_kept = np.ones(stored.num_rows, dtype=bool)
    is_kept[matched[differs]] = False
    parts = [stored.filter(pa.array(is_kept)), after, incoming.filter(pa.array(is_new))]
    return _sort(table, pa.concat_tables(parts))


def join_rows(table: Table, left: Row, right: Row) -> Row:
    """Return the join of two rows of one key."""
    return _JOINS[table.name](left, right)


def read_rows(rows: pa.Table) -> list[Row]:
    """Return the rows as Python values, times as whole microseconds."""
    names = rows.schema.names
    columns = [
        column.cast(pa.int64()) if column.type == TIME else column for column in rows.columns
    ]
    values = zip(*(column.to_pylist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def write_rows(table: Table, rows: list[Row]) -> pa.Table:
    """Return rows of Python values as a table of the exact schema."""
    columns = []
    for field in table.schema:
        values = [row[field.name] for row in rows]
        is_time = field.type == TIME
        column = pa.array(values, pa.int64() if is_time else field.type)
        columns.append(column.cast(TIME) if is_time else column)
    return pa.Table.from_arrays(columns, schema=table.schema)


def _sort(table: Table, rows: pa.Table) -> pa.Table:
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in table.key])
    indices = order.to_numpy(zero_copy_only=False)
    is_sorted = bool((indices == np.arange(len(indices), dtype=indices.dtype)).all())
    rows = rows if is_sorted else rows.take(order)
    return rows.replace_schema_metadata(table.schema.metadata)


def _join_repeated_keys(table: Table, rows: pa.Table) -> pa.Table:
    """Join the rows that share a key; the result has no order."""
    keys = table.row_keys(rows)
    first = pc.index_in(keys, value_set=keys).to_numpy(zero_copy_only=False)
    is_repeat = first != np.arange(len(first))
    if not is_repeat.any():
        return rows
    is_shared = np.isin(first, first[is_repeat])
    joined: dict[int, Row] = {}
    shared = read_rows(rows.filter(pa.array(is_shared)))
    for index, row in zip(first[is_shared].tolist(), shared, strict=True):
        joined[index] = join_rows(table, joined[index], row) if index in joined else row
    single = rows.filter(pa.array(~is_shared))
    return pa.concat_tables([single, write_rows(table, list(joined.values()))])


def _clean(table: Table, rows: pa.Table) -> pa.Table:
    """Give equal content equal columns.

    A `gone` row has a time, a row without payload has no fields, a redacted row has no content.
    """
    names = table.column_names
    if "gone_at" in names:
        is_gone = pc.and_(pc.equal(rows["detail_status"], "gone"), pc.is_null(rows["gone_at"]))
        rows = _replace(rows, "gone_at", is_gone, rows["changed_at"])
    if "fields" in names:
        has_none = pc.and_(pc.is_null(rows["payload"]), pc.is_valid(rows["fields"]))
        rows = _replace(rows, "fields", has_none, pa.scalar(None, pa.string()))
    if "redacted_at" in names:
        is_redacted = pc.is_valid(rows["redacted_at"])
        rows = _change_rows(rows, is_redacted, lambda row: redact_row(row, row["redacted_at"]))
    return rows


def _replace(
    rows: pa.Table, name: str, where: pa.ChunkedArray, value: pa.ChunkedArray | pa.Scalar
) -> pa.Table:
    if not pc.any(where).as_py():
        return rows
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(name), pc.if_else(where, value, rows[name]))


def _change_rows(
    details: pa.Table, where: pa.Array | pa.ChunkedArray, change: Callable[[Row], Row]
) -> pa.Table:
    """Change some rows of `raw_message_details`; return `details` itself if none changes."""
    indices = np.flatnonzero(_flags(where))
    before = read_rows(details.take(pa.array(indices))) if len(indices) else []
    after = [change(row) for row in before]
    if after == before:
        return details
    order = np.arange(details.num_rows)
    order[indices] = details.num_rows + np.arange(len(indices))
    both = pa.concat_tables([details, write_rows(RAW_MESSAGE_DETAILS, after)])
    return both.take(pa.array(order))


def _is_unchanged(table: Table, stored: pa.Table, incoming: pa.Table) -> np.ndarray:
    """Return where the stored row stays: equal, or the same stable content that was read later."""
    is_equal, is_stable = np.ones(stored.num_rows, bool), np.ones(stored.num_rows, bool)
    for name in table.column_names:
        equal = _equal(stored[name], incoming[name])
        is_equal &= equal
        if name not in OBSERVATION_COLUMNS:
            is_stable &= _equal_rewritten(stored[name], incoming[name], equal, REWRITES.get(name))
    is_stable &= _flags(pc.greater_equal(incoming["first_seen_at"], stored["first_seen_at"]))
    if "changed_at" in table.column_names:
        is_stable &= _flags(pc.greater(incoming["changed_at"], stored["changed_at"]))
    return is_equal | is_stable


def _equal_rewritten(
    left: pa.ChunkedArray,
    right: pa.ChunkedArray,
    equal: np.ndarray,
    rewrites: tuple[tuple[str, str], ...] | None,
) -> np.ndarray:
    """Return where two columns are equal without their volatile parts."""
    if rewrites is None or equal.all():
        return equal
    differs = pa.array(~equal)
    sides = (_rewrite_column(column.filter(differs), rewrites) for column in (left, right))
    is_alike = equal.copy()
    is_alike[~equal] = _equal(*sides)
    return is_alike


def _rewrite_column(column: pa.ChunkedArray, rewrites: tuple[tuple[str, str], ...]) -> pa.Array:
    """Rewrite each distinct text once: many rows share their `fields`."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = encoded.dictionary
    for pattern, replacement in rewrites:
        texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=replacement)
    return texts.take(encoded.indices)


def _equal(left: pa.ChunkedArray | pa.Array, right: pa.ChunkedArray | pa.Array) -> np.ndarray:
    equal = pc.equal(left, right)
    if equal.null_count:
        equal = pc.or_(pc.fill_null(equal, False), pc.and_(pc.is_null(left), pc.is_null(right)))
    return _flags(equal)


def _flags(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.asarray(values, dtype=bool)


def _merge_rows(table: Table, stored: Row, incoming: Row) -> Row:
    """Return the join, or the older row if its stable content equals that of the join."""
    joined = join_rows(table, stored, incoming)
    stable = _stable_row(joined)
    alike = [row for row in (stored, incoming) if _stable_row(row) == stable]
    if not alike:
        return joined
    return min(alike, key=_age) | {"first_seen_at": joined["first_seen_at"]}


def _stable_row(row: Row) -> Row:
    return {
        name: _rewrite(value, REWRITES[name]) if name in REWRITES and value is not None else value
        for name, value in row.items()
        if name not in OBSERVATION_COLUMNS
    }


def _age(row: Row) -> tuple[int, str]:
    rest = {name: value for name, value in row.items() if name != "first_seen_at"}
    return row.get("changed_at", 0), json.dumps(rest, sort_keys=True)


def _rewrite(text: str, rewrites: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rewrites:
        text = _compiled(pattern).sub(replacement, text)
    return text


@lru_cache(maxsize=16)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _join_conversation(left: Row, right: Row) -> Row:
    joined = {name: _largest(left[name], right[name]) for name in left}
    first_seen_at = min(left["first_seen_at"], right["first_seen_at"])
    return joined | _join_payload(left, right) | {"first_seen_at": first_seen_at}


def _join_message_id(left: Row, right: Row) -> Row:
    dated = min(
        left,
        right,
        key=lambda row: (CREATED_AT_SOURCES.index(row["created_at_source"]), row["created_at"]),
    )
    least = ("first_seen_at", "missing_at", "deleted_at", "returned_at")
    return dated | {
        "order_in_second": max(left["order_in_second"], right["order_in_second"]),
        **{name: _least(left[name], right[name]) for name in least},
    }


def _join_message_detail(left: Row, right: Row) -> Row:
    least = ("created_at", "first_seen_at", "gone_at")
    joined = max(left, right, key=_knowledge) | _join_payload(left, right)
    joined |= {name: _least(left[name], right[name]) for name in least}
    redacted_at = _largest(left["redacted_at"], right["redacted_at"])
    return joined if redacted_at is None else redact_row(joined, redacted_at)


def redact(details: pa.Table, deleted: Mapping[Key, int]) -> pa.Table:
    """Return `raw_message_details` without the content of deleted messages.

    `deleted` gives by (conversation_id, message_id) when the message was found deleted, in
    microseconds since 1970. Return `details` itself if it has none of this content.
    """
    keys = zip(*(details[name].to_pylist() for name in RAW_MESSAGE_DETAILS.key), strict=True)
    is_deleted = pa.array([key in deleted for key in keys], pa.bool_())
    return _change_rows(
        details,
        is_deleted,
        lambda row: redact_row(row, deleted[row["conversation_id"], row["message_id"]]),
    )


def redact_row(row: Row, redacted_at: int) -> Row:
    """Return the row without content from up to that time; ids of sender and recipients stay.

    `redacted_at` is a lower limit: every older value loses its content, also if it is merged later.
    A newer value shows that the message still exists, and stays.

    The order of joins can matter for one key: a list that is whole before the limit, and cut or
    empty after it. The join keeps the whole list and forgets the other one. A later redaction then
    removes both; an earlier one keeps the newer list. No order keeps content from up to the limit.
    """
    values = {} if row["payload"] is None else _read_values(row["payload"], row["fields"])
    kept = {key: value for key, value in values.items() if value[0] > redacted_at}
    newest_at = max((requested_at for requested_at, _, _ in kept.values()), default=None)
    for key in PEOPLE_KEYS & values.keys() - kept.keys():
        requested_at, is_present, value = values[key]
        kept[key] = requested_at, is_present, _ids_only(value)
    has_fields = any(requested_at != NO_TIME for requested_at, _, _ in kept.values())
    content = _write_values(kept, has_fields) if kept else {"payload": None, "fields": None}
    return row | {
        **content,
        "detail_status": "gone" if newest_at is None else "detailed",
        "changed_at": redacted_at if newest_at is None else newest_at,
        "rank_when_asked": None,
        "error_code": None,
        "error_subcode": None,
        "gone_at": _least(row["gone_at"], redacted_at),
        "redacted_at": redacted_at,
    }


def _ids_only(value: object) -> object:
    """Keep the ids of people and drop their names.

    >>> _ids_only({"data": [{"id": "1", "name": "Ada"}, "Bob"]})
    {'data': [{'id': '1'}, None]}
    """
    if isinstance(value, list):
        return [_ids_only(item) for item in value]
    if not isinstance(value, dict):
        return None
    return {
        key: item if key in ("id", CUT_KEY) else _ids_only(item)
        for key, item in value.items()
        if key in ("id", "data", CUT_KEY)
    }


def _join_reject(left: Row, right: Row) -> Row:
    return {name: min(left[name], right[name]) for name in left}


def _knowledge(row: Row) -> tuple[object, ...]:
    """Return a sort key by how much a row of details tells. It is a total order."""
    numbers = [row[name] for name in ("error_code", "error_subcode", "rank_when_asked")]
    return (
        DETAIL_STATUSES.index(row["detail_status"]),
        row["changed_at"],
        *((value is not None, value or 0) for value in numbers),
    )


def _join_payload(left: Row, right: Row) -> Row:
    """Join payloads key by key: the newest value wins, also where it is absent."""
    sides = {(row["payload"], row["fields"]) for row in (left, right) if row["payload"] is not None}
    readable = [side for side in sides if read_object(side[0]) is not None]
    if len(sides) > 1 and len(readable) > 1:
        newest: dict[str, DatedValue] = {}
        for payload, fields in readable:
            for key, value in _read_values(payload, fields).items():
                newest[key] = _newest(key, newest[key], value) if key in newest else value
        return _write_values(newest, any(fields is not None for _, fields in readable))
    payload, fields = max(
        readable or sides, key=lambda side: (side[0], side[1] or ""), default=(None, None)
    )
    return {"payload": payload, "fields": fields}


def _write_values(values: Mapping[str, DatedValue], has_fields: bool) -> Row:
    payload = {key: value for key, (_, is_present, value) in values.items() if is_present}
    times = {key: time for key, (time, _, _) in values.items() if time != NO_TIME}
    fields = dump_json(times).decode() if has_fields else None
    return {"payload": dump_json(payload).decode(), "fields": fields}


def _read_values(payload: str, fields: str | None) -> dict[str, DatedValue]:
    values, times = read_object(payload) or {}, read_object(fields) or {}
    dated = {}
    for key in values.keys() | times.keys():
        time = times.get(key)
        requested_at = time if isinstance(time, int) else NO_TIME
        dated[key] = requested_at, key in values, values.get(key)
    return dated


def _newest(key: str, *values: DatedValue) -> DatedValue:
    """Return the newest value; of one time the one with the larger JSON.

    A list that the API returned in part never replaces a whole one, nor a longer part. An empty or
    absent one of `KEPT_LISTS` replaces no other. People are compared by their ids alone first,
    because a redaction keeps the ids.
    """
    reduce = _ids_only if key in PEOPLE_KEYS else lambda value: value

    def rank(value: DatedValue) -> tuple[object, ...]:
        reduced = reduce(value[2])
        is_empty = key in KEPT_LISTS and reduced in (None, [], {}, {"data": []})
        content, reduced_content = dump_json(value[2]), dump_json(reduced)
        cut_length = len(reduced_content) if IS_CUT.encode() in content else math.inf
        return -1 if is_empty else cut_length, *value[:2], reduced_content, content

    return max(values, key=rank)


def _least(left: int | None, right: int | None) -> int | None:
    return min((value for value in (left, right) if value is not None), default=None)


def _largest(left: Any, right: Any) -> Any:
    return max((value for value in (left, right) if value is not None), default=None)


_JOINS: dict[str, Callable[[Row, Row], Row]] = {
    "raw_conversations": _join_conversation,
    "raw_message_ids": _join_message_id,
    "raw_message_details": _join_message_detail,
    "raw_rejects": _join_reject,
}
