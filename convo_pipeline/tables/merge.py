"""Merge two observations of a raw table: what was read stays, and the order of arrival does not matter.

`join` is a lattice join per key: idempotent, commutative, associative, keys = union.
`merge` is `join` plus rest: where the join says nothing new but volatile parts (signed URLs, counters,
times of looking), the older row stays as it is, so a rerun that learns nothing rewrites nothing.

Columns are compared as a whole; only rows that really disagree become Python values. It knows no file and no API.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.schema import (
    CREATED_AT_SOURCES,
    DETAIL_STATUSES,
    RAW_MESSAGE_DETAILS,
    TIME,
    Table,
)

Row = dict[str, Any]
"""One row as Python values; times are whole microseconds since 1970."""

Key = tuple[str, str]
"""(conversation_id, message_id)."""
Answer = tuple[int, bool, object]
"""What was said of a payload's key: when it was asked for, whether it was there, its value."""
WHO_KEYS = frozenset({"from", "to"})
NEVER = -1
"""Time of a payload key that no `fields` entry dates: any dated answer beats it."""

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
"""Regular expressions over canonical JSON, in the common subset of `re` and RE2. Inside a JSON string every quote
follows a backslash, so what begins with a bare quote after `:`, `[`, `,` or `{` is a value or key, never text."""
FIELDS_REWRITES = ((r'":-?[0-9]+', '":'),)

LOOKS = ("first_seen_at", "changed_at", "rank_when_asked")
"""Columns that say when or how was looked, not what was there."""
REWRITES = {"payload": PAYLOAD_REWRITES, "fields": FIELDS_REWRITES}


def stable_payload(text: str) -> str:
    """Return a payload without its volatile parts, for comparison only (it is no JSON any more).

    >>> stable_payload('{"image":"https://cdn.example/a.jpg?sig=1","unread_count":3}')
    '{"image":"https://cdn.example/a.jpg",}'
    >>> stable_payload('{"message":"https://example.org/?page=2"}') == stable_payload('{"message":"https://example.org/?page=3"}')
    False
    """
    return _rewrite(text, PAYLOAD_REWRITES)


def merge(table: Table, held: pa.Table, incoming: pa.Table) -> pa.Table:
    """Return `held` and `incoming` as one table, sorted by key; `held` itself where nothing new was learned.

    Both have the table's exact schema; `held` has each key once, `incoming` may repeat keys.
    """
    incoming = _unite(table, _settle(table, incoming))
    if held.num_rows == 0:
        return _sort(table, incoming)
    settled = _settle(table, held)
    return _combine(table, settled, incoming, _is_at_rest, _choose)


def join(table: Table, left: pa.Table, right: pa.Table) -> pa.Table:
    """Return the pure lattice join of two tables of this schema, sorted by key."""
    left = _unite(table, _settle(table, left))
    right = _unite(table, _settle(table, right))
    return _combine(
        table,
        _sort(table, left),
        right,
        _is_identical,
        lambda table, *rows: join_rows(table, *rows),
    )


def join_rows(table: Table, left: Row, right: Row) -> Row:
    """Return the lattice join of two rows of one key."""
    return _JOINS[table.name](left, right)


def _combine(
    table: Table,
    held: pa.Table,
    incoming: pa.Table,
    is_settled: Callable[[Table, pa.Table, pa.Table], np.ndarray],
    decide: Callable[[Table, Row, Row], Row],
) -> pa.Table:
    places = pc.index_in(table.row_keys(incoming), value_set=table.row_keys(held))
    is_new = pc.is_null(places).to_numpy(zero_copy_only=False)
    held_places = pc.drop_null(places).to_numpy(zero_copy_only=False)
    known = incoming.filter(pa.array(~is_new))
    open_pairs = ~is_settled(table, held.take(pa.array(held_places)), known)
    if not is_new.any() and not open_pairs.any():
        return held
    disputed = held.take(pa.array(held_places[open_pairs]))
    decided = _decide(table, disputed, known.filter(pa.array(open_pairs)), decide)
    if not is_new.any() and decided.equals(disputed):
        return held
    is_kept = np.ones(held.num_rows, dtype=bool)
    is_kept[held_places[open_pairs]] = False
    return _sort(
        table,
        pa.concat_tables(
            [held.filter(pa.array(is_kept)), decided, incoming.filter(pa.array(is_new))]
        ),
    )


def _decide(
    table: Table, held: pa.Table, incoming: pa.Table, decide: Callable[[Table, Row, Row], Row]
) -> pa.Table:
    pairs = zip(read_rows(held), read_rows(incoming), strict=True)
    return write_rows(table, [decide(table, *pair) for pair in pairs])


def read_rows(rows: pa.Table) -> list[Row]:
    """Return the rows as Python values, times as whole microseconds."""
    columns = [_plain(rows.column(field.name)).to_pylist() for field in rows.schema]
    names = rows.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def write_rows(table: Table, rows: list[Row]) -> pa.Table:
    """Return rows of Python values as a table of the exact schema."""
    columns = []
    for field in table.schema:
        values = [row[field.name] for row in rows]
        columns.append(
            pa.array(values, pa.int64()).cast(TIME)
            if field.type == TIME
            else pa.array(values, field.type)
        )
    return pa.Table.from_arrays(columns, schema=table.schema)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int64()) if column.type == TIME else column


def _sort(table: Table, rows: pa.Table) -> pa.Table:
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in table.key])
    places = order.to_numpy(zero_copy_only=False)
    is_sorted = bool((places == np.arange(len(places), dtype=places.dtype)).all())
    rows = rows if is_sorted else rows.take(order)
    return rows.replace_schema_metadata(table.schema.metadata)


def _unite(table: Table, rows: pa.Table) -> pa.Table:
    """Join the rows that share a key, in any order."""
    keys = table.row_keys(rows)
    first = pc.index_in(keys, value_set=keys).to_numpy(zero_copy_only=False)
    is_repeat = first != np.arange(len(first))
    if not is_repeat.any():
        return rows
    is_shared = np.isin(first, first[is_repeat])
    united: dict[int, Row] = {}
    for place, row in zip(
        first[is_shared].tolist(), read_rows(rows.filter(pa.array(is_shared))), strict=True
    ):
        united[place] = join_rows(table, united[place], row) if place in united else row
    return pa.concat_tables(
        [rows.filter(pa.array(~is_shared)), write_rows(table, list(united.values()))]
    )


def _settle(table: Table, rows: pa.Table) -> pa.Table:
    """Give each row its one spelling: `gone` has a time, without a payload there are no fields, redacted is redacted."""
    names = rows.schema.names
    if "gone_at" in names:
        is_gone = pc.and_(pc.equal(rows["detail_status"], "gone"), pc.is_null(rows["gone_at"]))
        rows = _replace(rows, "gone_at", is_gone, rows["changed_at"])
    if "fields" in names:
        is_bare = pc.and_(pc.is_null(rows["payload"]), pc.is_valid(rows["fields"]))
        rows = _replace(rows, "fields", is_bare, pa.scalar(None, pa.string()))
    if "redacted_at" in names:
        rows = _change_rows(
            rows, pc.is_valid(rows["redacted_at"]), lambda row: redact_row(row, row["redacted_at"])
        )
    return rows


def _replace(
    rows: pa.Table, name: str, where: pa.ChunkedArray, value: pa.ChunkedArray | pa.Scalar
) -> pa.Table:
    if not pc.any(where).as_py():
        return rows
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(name), pc.if_else(where, value, rows[name]))


def _change_rows(
    details: pa.Table, where: pa.Array | pa.ChunkedArray, change: Callable[[Row], Row]
) -> pa.Table:
    """Change some rows of `raw_message_details` in their places; the very rows given where none changes."""
    places = np.flatnonzero(_flags(where))
    held = read_rows(details.take(pa.array(places))) if len(places) else []
    changed = [change(row) for row in held]
    if changed == held:
        return details
    order = np.arange(details.num_rows)
    order[places] = details.num_rows + np.arange(len(places))
    return pa.concat_tables([details, write_rows(RAW_MESSAGE_DETAILS, changed)]).take(
        pa.array(order)
    )


def _is_identical(table: Table, held: pa.Table, incoming: pa.Table) -> np.ndarray:
    alike = np.ones(held.num_rows, dtype=bool)
    for name in table.column_names:
        alike &= _equal(held[name], incoming[name])
    return alike


def _is_at_rest(table: Table, held: pa.Table, incoming: pa.Table) -> np.ndarray:
    """Say where `held` stays as it is: the same bytes, or the same stable content looked at later."""
    names = table.column_names
    same, alike = np.ones(held.num_rows, dtype=bool), np.ones(held.num_rows, dtype=bool)
    for name in names:
        equal = _equal(held[name], incoming[name])
        same &= equal
        if name not in LOOKS:
            alike &= _alike(held[name], incoming[name], equal, REWRITES.get(name))
    alike &= _later(held, incoming, "first_seen_at", pc.greater_equal)
    if "changed_at" in names:
        alike &= _later(held, incoming, "changed_at", pc.greater)
    return same | alike


def _later(
    held: pa.Table, incoming: pa.Table, name: str, compare: Callable[..., Any]
) -> np.ndarray:
    return _flags(compare(incoming[name], held[name]))


def _alike(
    left: pa.ChunkedArray,
    right: pa.ChunkedArray,
    equal: np.ndarray,
    rewrites: tuple[tuple[str, str], ...] | None,
) -> np.ndarray:
    if rewrites is None or equal.all():
        return equal
    differs = pa.array(~equal)
    alike = equal.copy()
    alike[~equal] = _equal(
        _rewrite_column(left.filter(differs), rewrites),
        _rewrite_column(right.filter(differs), rewrites),
    )
    return alike


def _rewrite_column(
    column: pa.ChunkedArray, rewrites: tuple[tuple[str, str], ...]
) -> pa.ChunkedArray:
    """Rewrite each distinct text once: a page of rows often shares its `fields`."""
    encoded = (
        pa.chunked_array(column).combine_chunks().dictionary_encode() if column.num_chunks else None
    )
    if encoded is None:
        return column
    texts = encoded.dictionary
    for pattern, replacement in rewrites:
        texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=replacement)
    return texts.take(encoded.indices)


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray:
    equal = pc.equal(left, right)
    if equal.null_count:
        equal = pc.or_(pc.fill_null(equal, False), pc.and_(pc.is_null(left), pc.is_null(right)))
    return _flags(equal)


def _flags(values: pa.ChunkedArray) -> np.ndarray:
    flags: np.ndarray = (
        values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    )
    return flags.astype(bool)


def _choose(table: Table, held: Row, incoming: Row) -> Row:
    """Return the join, or the older row whose stable content the join is."""
    joined = join_rows(table, held, incoming)
    stable = _stable_row(joined)
    alike = [row for row in (held, incoming) if _stable_row(row) == stable]
    if not alike:
        return joined
    return min(alike, key=_age) | {"first_seen_at": joined["first_seen_at"]}


def _stable_row(row: Row) -> Row:
    return {
        name: _rewrite(value, REWRITES[name]) if name in REWRITES and value is not None else value
        for name, value in row.items()
        if name not in LOOKS
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
    return (
        joined
        | _join_payload(left, right)
        | {"first_seen_at": min(left["first_seen_at"], right["first_seen_at"])}
    )


def _join_message_id(left: Row, right: Row) -> Row:
    placed = min(
        left,
        right,
        key=lambda row: (CREATED_AT_SOURCES.index(row["created_at_source"]), row["created_at"]),
    )
    return placed | {
        "tie_rank": max(left["tie_rank"], right["tie_rank"]),
        "first_seen_at": min(left["first_seen_at"], right["first_seen_at"]),
        **{
            name: _least(left[name], right[name])
            for name in ("missing_at", "deleted_at", "returned_at")
        },
    }


def _join_message_detail(left: Row, right: Row) -> Row:
    joined = (
        max(left, right, key=_knowledge)
        | _join_payload(left, right)
        | {
            "created_at": min(left["created_at"], right["created_at"]),
            "first_seen_at": min(left["first_seen_at"], right["first_seen_at"]),
            "gone_at": _least(left["gone_at"], right["gone_at"]),
        }
    )
    redacted_at = _largest(left["redacted_at"], right["redacted_at"])
    return joined if redacted_at is None else redact_row(joined, redacted_at)


def redact(details: pa.Table, deleted: Mapping[Key, int]) -> pa.Table:
    """Return `raw_message_details` without the content of deleted messages; the very rows given if it holds none of it.

    `deleted` says of (conversation_id, message_id) when the message was found deleted, in microseconds since 1970.
    """
    keys = zip(*(details[name].to_pylist() for name in RAW_MESSAGE_DETAILS.key), strict=True)
    is_deleted = pa.array([key in deleted for key in keys], pa.bool_())
    return _change_rows(
        details,
        is_deleted,
        lambda row: redact_row(row, deleted[row["conversation_id"], row["message_id"]]),
    )


def redact_row(row: Row, redacted_at: int) -> Row:
    """Return the row without what was said of the message up to then; of sender and recipients the ids stay.

    It is no observation but a floor: every answer from before it, whenever it is merged, loses its content to it, and
    an answer from after it shows that the message is there and counts. So everything here follows from the dated
    payload and the floor alone; that is what keeps the join a join.
    """
    held = {} if row["payload"] is None else _read_answers(row["payload"], row["fields"])
    left = {key: answer for key, answer in held.items() if answer[0] > redacted_at}
    newest_at = max((asked_at for asked_at, _, _ in left.values()), default=None)
    for key in WHO_KEYS & held.keys() - left.keys():
        asked_at, is_present, value = held[key]
        left[key] = asked_at, is_present, _ids_only(value)
    written = _write_answers(
        left, has_fields=any(asked_at != NEVER for asked_at, _, _ in left.values())
    )
    return row | {
        **(written if left else {"payload": None, "fields": None}),
        "detail_status": "gone" if newest_at is None else "detailed",
        "changed_at": redacted_at if newest_at is None else newest_at,
        "rank_when_asked": None,
        "error_code": None,
        "error_subcode": None,
        "gone_at": redacted_at if row["gone_at"] is None else min(row["gone_at"], redacted_at),
        "redacted_at": redacted_at,
    }


def _ids_only(value: object) -> object:
    """Return who it is without what they are called.

    >>> _ids_only({"data": [{"id": "1", "name": "Ada"}, "Bob"]})
    {'data': [{'id': '1'}, None]}
    """
    if isinstance(value, list):
        return [_ids_only(item) for item in value]
    if not isinstance(value, dict):
        return None
    return {
        key: item if key == "id" else _ids_only(item)
        for key, item in value.items()
        if key in ("id", "data")
    }


def _join_reject(left: Row, right: Row) -> Row:
    return {name: min(left[name], right[name]) for name in left}


def _knowledge(row: Row) -> tuple[object, ...]:
    """Order the answers about a message: a total order, so that the largest of many is the same in any order."""
    numbers = [row[name] for name in ("error_code", "error_subcode", "rank_when_asked")]
    return (
        DETAIL_STATUSES.index(row["detail_status"]),
        row["changed_at"],
        *((value is not None, value or 0) for value in numbers),
    )


def _join_payload(left: Row, right: Row) -> Row:
    """Join payloads key by key: the newest answer that asked for a key wins, asked and absent is absent."""
    sides = [(row["payload"], row["fields"]) for row in (left, right) if row["payload"] is not None]
    if len(set(sides)) < 2:
        payload, fields = sides[0] if sides else (None, None)
        return {"payload": payload, "fields": fields}
    readable = [(payload, fields) for payload, fields in sides if _read_object(payload) is not None]
    if len(readable) < 2:
        payload, fields = (
            readable[0] if readable else max(sides, key=lambda side: (side[0], side[1] or ""))
        )
        return {"payload": payload, "fields": fields}
    return _join_objects([_read_answers(payload, fields) for payload, fields in readable], readable)


def _join_objects(answers: list[dict[str, Answer]], sides: list[tuple[str, str | None]]) -> Row:
    newest = {
        key: _newest(key, *(side[key] for side in answers if key in side))
        for side in answers
        for key in side
    }
    return _write_answers(newest, has_fields=any(fields is not None for _, fields in sides))


def _write_answers(answers: Mapping[str, Answer], *, has_fields: bool) -> Row:
    payload = {key: value for key, (_, is_present, value) in answers.items() if is_present}
    times = {key: asked_at for key, (asked_at, _, _) in answers.items() if asked_at != NEVER}
    return {
        "payload": dump_json(payload).decode(),
        "fields": dump_json(times).decode() if has_fields else None,
    }


def _read_answers(payload: str, fields: str | None) -> dict[str, Answer]:
    values = _read_object(payload) or {}
    times = (_read_object(fields) if fields is not None else None) or {}
    answers: dict[str, Answer] = {}
    for key in values.keys() | times.keys():
        asked_at = times.get(key, NEVER)
        answers[key] = (
            asked_at if isinstance(asked_at, int) else NEVER,
            key in values,
            values.get(key),
        )
    return answers


def _newest(key: str, *answers: Answer) -> Answer:
    """Return the newest answer; of one time the larger JSON, and of people first by their ids, which a redaction leaves."""
    if len(answers) == 1:
        return answers[0]
    reduce = _ids_only if key in WHO_KEYS else lambda value: None
    return max(
        answers,
        key=lambda answer: (*answer[:2], dump_json(reduce(answer[2])), dump_json(answer[2])),
    )


def _read_object(text: str) -> dict[str, object] | None:
    try:
        value = load_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


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
