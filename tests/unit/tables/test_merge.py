"""Laws of `merge` for every raw table, and examples of merged rows."""

import random
from datetime import UTC, datetime
from functools import partial, reduce
from itertools import combinations, permutations, product

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.schema import (
    CREATED_AT_SOURCES,
    DETAIL_STATUSES,
    RAW,
    RAW_CONVERSATIONS,
    RAW_MESSAGE_DETAILS,
    RAW_MESSAGE_IDS,
    RAW_REJECTS,
    Table,
)
from convo_pipeline.tables.merge import (
    OBSERVATION_COLUMNS,
    Row,
    join_rows,
    merge,
    read_rows,
    redact,
    redact_row,
    stable_payload,
    write_rows,
)

START = 1_760_000_000_000_000
TIMES = st.integers(0, 6).map(lambda step: START + step * 1_000_000)
IDS = st.sampled_from(["a", "b", "a:1", "é", "1:a"])
VALUES = st.sampled_from(
    [
        "x",
        "y",
        None,
        10**30,
        {"data": [{"url": "https://cdn.example/a.jpg?sig=1"}]},
        "https://cdn.example/a.jpg?sig=2",
    ]
)
LONE_SURROGATE = "\ud83d"


@st.composite
def responses(draw: st.DrawFn) -> dict[str, str | None]:
    """`payload` and `fields` of one response: some requested keys, none, or no object."""
    kind = draw(st.sampled_from(["object", "object", "object", "none", "unreadable"]))
    if kind == "none":
        return {"payload": None, "fields": None}
    requested = draw(
        st.dictionaries(st.sampled_from(["from", "message", "reactions"]), TIMES, max_size=3)
    )
    if kind == "unreadable":
        return {
            "payload": draw(st.sampled_from(['"text"', "[1]", "{broken"])),
            "fields": dump_json(requested).decode(),
        }
    present = draw(
        st.dictionaries(
            st.sampled_from(["from", "message", "reactions", "extra"]), VALUES, max_size=4
        )
    )
    payload = {key: value for key, value in present.items() if key in requested or key == "extra"}
    return {"payload": dump_json(payload).decode(), "fields": dump_json(requested).decode()}


OPTIONAL_NUMBERS = st.sampled_from([None, -1, 0, 100])
SEEN = {"first_seen_at": TIMES, "changed_at": TIMES}
COLUMNS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    RAW_CONVERSATIONS.name: {
        "conversation_id": IDS,
        "platform": st.just("instagram"),
        "page_id": st.just("1"),
        "folder": st.sampled_from([None, "other"]),
        "own_id": st.sampled_from([None, "17"]),
        "own_username": st.sampled_from([None, "bakery", "Bakery"]),
        **SEEN,
    },
    RAW_MESSAGE_IDS.name: {
        "conversation_id": IDS,
        "message_id": IDS,
        "created_at": TIMES,
        "created_at_source": st.sampled_from(CREATED_AT_SOURCES),
        "order_in_second": st.integers(0, 3),
        "first_seen_at": TIMES,
        **dict.fromkeys(("missing_at", "deleted_at", "returned_at"), st.none() | TIMES),
    },
    RAW_MESSAGE_DETAILS.name: {
        "conversation_id": IDS,
        "message_id": IDS,
        "created_at": TIMES,
        "detail_status": st.sampled_from(DETAIL_STATUSES),
        "rank_when_asked": OPTIONAL_NUMBERS,
        "error_code": OPTIONAL_NUMBERS,
        "error_subcode": OPTIONAL_NUMBERS,
        "gone_at": st.none() | TIMES,
        "redacted_at": st.none() | st.none() | TIMES,
        **SEEN,
    },
    RAW_REJECTS.name: {
        "digest": IDS,
        "reason": st.sampled_from(["no id", "no shape"]),
        "payload": st.sampled_from(["1", "2"]),
        "first_seen_at": TIMES,
    },
}


def observations(table: Table) -> st.SearchStrategy[pa.Table]:
    """Rows of a raw table in any order, keys repeated."""
    row = st.fixed_dictionaries(COLUMNS[table.name])
    if "fields" in table.column_names:
        row = st.tuples(row, responses()).map(lambda parts: {**parts[0], **parts[1]})
    return st.lists(row, max_size=6).map(lambda rows: write_rows(table, rows))


TABLES_AND_OBSERVATIONS = st.sampled_from(RAW).flatmap(
    lambda table: st.tuples(st.just(table), *[observations(table)] * 3)  # type: ignore[arg-type]
)
EXAMPLES = settings(max_examples=50, deadline=None)


def empty(table: Table) -> pa.Table:
    return table.schema.empty_table()


def join(table: Table, *parts: pa.Table) -> pa.Table:
    """Join rows without the rule that keeps older rows."""
    return merge(table, empty(table), pa.concat_tables(parts))


def stable(table: Table, rows: pa.Table) -> list[Row]:
    """The content, without the columns that tell when and how it was read."""
    return [
        {
            name: stable_payload(value)
            if name == "payload" and value is not None
            else sorted(name.split('"'))
            if name == "fields"
            else value
            for name, value in row.items()
            if name not in OBSERVATION_COLUMNS
        }
        for row in read_rows(rows)
    ]


@EXAMPLES
@given(TABLES_AND_OBSERVATIONS)
def test_join_is_idempotent_commutative_and_associative(
    case: tuple[Table, pa.Table, pa.Table, pa.Table],
) -> None:
    table, a, b, c = case
    ab = join(table, a, b)
    assert ab.equals(join(table, b, a), check_metadata=True)
    assert join(table, ab, c).equals(join(table, a, join(table, b, c)))
    assert join(table, ab, ab).equals(ab)
    assert join(table, ab, b).equals(ab)


@EXAMPLES
@given(TABLES_AND_OBSERVATIONS, st.randoms(use_true_random=False))
def test_order_and_batches_do_not_change_the_join(
    case: tuple[Table, pa.Table, pa.Table, pa.Table], order: random.Random
) -> None:
    table, *batches = case
    rows = [row for batch in batches for row in read_rows(batch)]
    at_once = join(table, empty(table), write_rows(table, rows))
    order.shuffle(rows)
    one_by_one = reduce(
        lambda stored, row: join(table, stored, write_rows(table, [row])), rows, empty(table)
    )
    assert one_by_one.equals(at_once, check_metadata=True)


@EXAMPLES
@given(TABLES_AND_OBSERVATIONS)
def test_merge_is_idempotent_commutative_and_keeps_every_key(
    case: tuple[Table, pa.Table, pa.Table, pa.Table],
) -> None:
    table, a, b, _ = case
    stored, incoming = merge(table, empty(table), a), merge(table, empty(table), b)
    merged = merge(table, stored, incoming)
    assert merged.equals(merge(table, incoming, stored), check_metadata=True)
    assert merge(table, merged, incoming) is merged or merge(table, merged, incoming).equals(merged)
    assert merge(table, merged, stored).equals(merged)
    keys = {*table.row_keys(a).to_pylist(), *table.row_keys(b).to_pylist()}
    assert sorted(table.row_keys(merged).to_pylist()) == sorted(keys)


@EXAMPLES
@given(TABLES_AND_OBSERVATIONS)
def test_merge_has_the_content_of_the_join(
    case: tuple[Table, pa.Table, pa.Table, pa.Table],
) -> None:
    table, a, b, _ = case
    stored = merge(table, empty(table), a)
    assert stable(table, merge(table, stored, b)) == stable(table, join(table, stored, b))


@EXAMPLES
@given(TABLES_AND_OBSERVATIONS)
def test_merge_returns_exact_schema_sorted_with_unique_keys(
    case: tuple[Table, pa.Table, pa.Table, pa.Table],
) -> None:
    table, a, b, _ = case
    merged = merge(table, merge(table, empty(table), a), b)
    assert merged.schema.equals(table.schema, check_metadata=True)
    keys = list(zip(*(merged[name].to_pylist() for name in table.key), strict=True))
    assert keys == sorted(set(keys))


def detail(**changes: object) -> pa.Table:
    row: Row = {
        "conversation_id": "c",
        "message_id": "m",
        "created_at": START,
        "detail_status": "detailed",
        "rank_when_asked": 1,
        "error_code": None,
        "error_subcode": None,
        "fields": dump_json({"message": START}).decode(),
        "payload": dump_json({"message": "hello"}).decode(),
        "first_seen_at": START,
        "changed_at": START,
        "gone_at": None,
        "redacted_at": None,
    }
    return write_rows(RAW_MESSAGE_DETAILS, [row | changes])


def detailed(
    payload: dict[str, object],
    at: int,
    requested: tuple[str, ...] = ("message",),
    **changes: object,
) -> pa.Table:
    fields = dump_json(dict.fromkeys(requested, at)).decode()
    text = dump_json(payload).decode()
    return detail(payload=text, fields=fields, first_seen_at=at, changed_at=at, **changes)


def refused(at: int, **changes: object) -> pa.Table:
    return detail(
        detail_status="gone",
        error_code=100,
        payload=None,
        fields=None,
        first_seen_at=at,
        changed_at=at,
        **changes,
    )


LATER = START + 60_000_000


def test_merge_keeps_text_when_the_refetch_was_refused() -> None:
    merged = merge(RAW_MESSAGE_DETAILS, detail(), refused(LATER))
    assert read_rows(merged) == read_rows(detail(gone_at=LATER))


def test_merge_keeps_the_first_gone_at_of_many_refusals() -> None:
    once = merge(RAW_MESSAGE_DETAILS, detail(), refused(LATER))
    assert merge(RAW_MESSAGE_DETAILS, once, refused(LATER + 1)) is once


def test_merge_replaces_a_pending_row_and_keeps_first_seen_at() -> None:
    bare = detail(detail_status="pending", payload=None, fields=None)
    newer = detailed({"message": "hello"}, LATER)
    expected = detailed({"message": "hello"}, LATER).to_pylist()[0] | {
        "first_seen_at": datetime.fromtimestamp(START / 1e6, UTC)
    }
    assert merge(RAW_MESSAGE_DETAILS, bare, newer).to_pylist() == [expected]


def test_merge_keeps_a_key_that_was_not_requested() -> None:
    stored = detailed({"message": "hello", "tags": ["inbox"]}, START, ("message", "tags"))
    merged = merge(RAW_MESSAGE_DETAILS, stored, detailed({"message": "hello!"}, LATER))
    assert merged["payload"].to_pylist() == ['{"message":"hello!","tags":["inbox"]}']
    assert merged["fields"].to_pylist() == [dump_json({"message": LATER, "tags": START}).decode()]


def test_merge_drops_a_requested_key_that_is_absent() -> None:
    stored = detailed(
        {"message": "hello", "reactions": {"data": []}}, START, ("message", "reactions")
    )
    merged = merge(
        RAW_MESSAGE_DETAILS, stored, detailed({"message": "hello"}, LATER, ("message", "reactions"))
    )
    assert merged["payload"].to_pylist() == ['{"message":"hello"}']


LISTS: dict[str, dict[str, object]] = {
    "absent": {},
    "empty": {"attachments": {"data": []}},
    "cut": {"attachments": {"data": [{"id": "1"}], "is_cut": True}},
    "longer": {"attachments": {"data": [{"id": "1"}, {"id": "2"}], "is_cut": True}},
    "whole": {"attachments": {"data": [{"id": "1"}]}},
}
"""Forms of a list of media, from the least to the most that they tell."""


@pytest.mark.parametrize("names", list(combinations(LISTS, 3)))
def test_a_list_of_media_never_becomes_less_whatever_the_order_and_the_times(
    names: tuple[str, ...],
) -> None:
    for order, times in product(permutations(names), permutations(range(3))):
        a, b, c = [
            read_rows(detailed(LISTS[name], START + at, ("attachments",)))[0]
            for name, at in zip(order, times, strict=True)
        ]
        joined = join_rows(RAW_MESSAGE_DETAILS, join_rows(RAW_MESSAGE_DETAILS, a, b), c)
        other = join_rows(RAW_MESSAGE_DETAILS, a, join_rows(RAW_MESSAGE_DETAILS, b, c))
        assert joined == other
        assert load_json(joined["payload"]) == LISTS[names[-1]]


def test_merge_takes_the_larger_text_of_two_responses_of_one_time() -> None:
    stored, other = detailed({"message": "b"}, START), detailed({"message": "a"}, START)
    assert merge(RAW_MESSAGE_DETAILS, stored, other) is stored
    assert merge(RAW_MESSAGE_DETAILS, other, stored)["payload"].to_pylist() == ['{"message":"b"}']


def test_merge_keeps_a_row_whose_urls_have_only_new_signatures() -> None:
    def signed(signature: str, at: int) -> pa.Table:
        return detailed(
            {"message": "", "attachments": f"https://cdn.example/a.jpg?sig={signature}"}, at
        )

    stored = signed("1", START)
    assert merge(RAW_MESSAGE_DETAILS, stored, signed("2", LATER)) is stored


def test_merge_takes_an_edited_text_that_is_a_link() -> None:
    stored = detailed({"message": "https://example.org/?page=1"}, START)
    merged = merge(
        RAW_MESSAGE_DETAILS, stored, detailed({"message": "https://example.org/?page=2"}, LATER)
    )
    assert merged["payload"].to_pylist() == ['{"message":"https://example.org/?page=2"}']


def test_merge_keeps_lone_surrogates_and_long_numbers_exactly() -> None:
    stored = detailed({"message": LONE_SURROGATE, "tags": 10**30}, START, ("message", "tags"))
    merged = merge(RAW_MESSAGE_DETAILS, stored, detailed({"from": {"id": "1"}}, LATER, ("from",)))
    assert merged["payload"].to_pylist() == [
        '{"from":{"id":"1"},"message":"\\ud83d","tags":1000000000000000000000000000000}'
    ]


def test_merge_prefers_the_better_source_of_a_time() -> None:
    def placed(source: str, created_at: int) -> pa.Table:
        row = {
            "conversation_id": "c",
            "message_id": "m",
            "created_at": created_at,
            "created_at_source": source,
        }
        return write_rows(
            RAW_MESSAGE_IDS,
            [
                row
                | {"order_in_second": 0, "first_seen_at": START}
                | dict.fromkeys(("missing_at", "deleted_at", "returned_at"))
            ],
        )

    merged = merge(RAW_MESSAGE_IDS, placed("listing", START), placed("message", LATER))
    assert merged.equals(placed("message", LATER))


def test_merge_distinguishes_keys_whose_parts_concatenate_to_the_same_text() -> None:
    rows = [
        read_rows(detail(conversation_id=c, message_id=m))[0]
        for c, m in (("a", "b:c"), ("a:b", "c"), ("1:a", "b"))
    ]
    merged = merge(
        RAW_MESSAGE_DETAILS, empty(RAW_MESSAGE_DETAILS), write_rows(RAW_MESSAGE_DETAILS, rows)
    )
    assert merged.num_rows == 3


@given(
    st.recursive(
        VALUES | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@settings(max_examples=60, deadline=None)
def test_both_regular_expression_engines_agree_on_the_stable_payload(value: object) -> None:
    payload = {
        "message": value,
        "url": value,
        "paging": {"next": value, "cursors": {"after": "x"}},
        "unread_count": 3,
    }
    text = dump_json(payload).decode()
    stored = detail(payload=text)
    again = detail(payload=text.replace("sig=1", "sig=9"), changed_at=LATER, first_seen_at=LATER)
    is_same = stable_payload(text) == stable_payload(text.replace("sig=1", "sig=9"))
    assert (merge(RAW_MESSAGE_DETAILS, stored, again) is stored) == is_same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"paging":{"cursors":{"after":"}{"},"next":"https://x.example/?a=1"},"z":1}',
            '{"paging":0,"z":1}',
        ),
        (
            '{"message":"say \\"https://x.example/?a=1\\" twice"}',
            '{"message":"say \\"https://x.example/?a=1\\" twice"}',
        ),
        (
            '["https://x.example/a?b=1","https://x.example/c"]',
            '["https://x.example/a","https://x.example/c"]',
        ),
        ('{"message_count":20,"unread_count":0}', "{,}"),
    ],
)
def test_stable_payload_removes_only_volatile_parts(text: str, expected: str) -> None:
    assert stable_payload(text) == expected


REDACTED_AT = START + 30_000_000
CONTENT = {
    "message": "hello",
    "snippet": "hel",
    "from": {"id": "7", "name": "Ada"},
    "to": {"data": [{"id": "1"}]},
}
PEOPLE = {"from": {"id": "7"}, "to": {"data": [{"id": "1"}]}}


def redacted(rows: pa.Table) -> pa.Table:
    return redact(rows, {("c", "m"): REDACTED_AT})


def test_redacted_message_keeps_its_time_and_the_ids_of_people() -> None:
    [row] = read_rows(redacted(detailed(CONTENT, START, ("message", "from"))))
    assert (load_json(row["payload"]), load_json(row["fields"])) == (PEOPLE, {"from": START})
    assert (row["detail_status"], row["created_at"], row["redacted_at"]) == (
        "gone",
        START,
        REDACTED_AT,
    )


def test_merge_does_not_restore_redacted_content() -> None:
    stored = redacted(detailed(CONTENT, START))
    for older in (
        detailed(CONTENT, START),
        detailed(CONTENT | {"tags": "late"}, REDACTED_AT),
        detail(fields=None),
        refused(LATER),
    ):
        assert merge(RAW_MESSAGE_DETAILS, stored, older) is stored
        assert merge(RAW_MESSAGE_DETAILS, older, stored).equals(
            join(RAW_MESSAGE_DETAILS, stored, older)
        )


def test_content_read_after_the_redaction_is_kept() -> None:
    [row] = read_rows(
        merge(
            RAW_MESSAGE_DETAILS,
            redacted(detailed(CONTENT, START)),
            detailed({"message": "back"}, LATER),
        )
    )
    assert (row["detail_status"], load_json(row["payload"])) == (
        "detailed",
        {"message": "back", **PEOPLE},
    )


READ = st.tuples(st.integers(0, 5), st.sampled_from(list(LISTS)))
"""One response: its second, and the form of its attachments."""


@settings(max_examples=200, deadline=None)
@given(st.lists(READ, min_size=1, max_size=3), st.none() | st.integers(0, 5))
def test_order_of_redaction_and_responses_matters_for_a_worse_newer_list_only(
    reads: list[tuple[int, str]], limit: int | None
) -> None:
    """The exception: a list that is better before the redaction than after it."""
    rows = [
        read_rows(
            detailed(
                CONTENT | LISTS[form], START + at, (*CONTENT, "attachments"), rank_when_asked=1
            )
        )[0]
        for at, form in reads
    ]
    if limit is not None:
        rows.append(redact_row(read_rows(refused(START + limit))[0], START + limit))
    joined = []
    for order in permutations(rows):
        joined.append(reduce(partial(join_rows, RAW_MESSAGE_DETAILS), order))
        joined.append(
            reduce(lambda right, left: join_rows(RAW_MESSAGE_DETAILS, left, right), order)
        )
    forms = list(LISTS)
    before, after = (
        [forms.index(form) for at, form in reads if limit is not None and (at > limit) is is_after]
        for is_after in (False, True)
    )
    if before and after and max(before) > max(after):
        for row in joined:
            values, times = load_json(row["payload"]), load_json(row["fields"])
            if "attachments" in values:
                assert times["attachments"] > START + (limit or 0)
            row["payload"] = {**values, "attachments": None}
            row["fields"] = {**times, "attachments": None}
    assert all(row == joined[0] for row in joined)


def test_redaction_does_not_change_other_rows() -> None:
    rows = pa.concat_tables([detail(message_id=name) for name in ("a", "m", "z")])
    result = redacted(rows)
    assert result.take([0, 2]).equals(rows.take([0, 2]))
    assert redact(rows, {("c", "other"): REDACTED_AT}) is rows
    assert redacted(result) is result
