"""Normalise never raises and never drops an id, whatever valid payloads were turned into."""

import copy
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convo_pipeline import schema
from convo_pipeline.tables.normalize import RawDay, count_coverage, normalize
from tests.support.raw_days import conversation_row, detail_row, id_row, raw_day, read_sample

MESSAGES: list[dict[str, Any]] = [
    *read_sample(2)["messages"]["data"],
    *read_sample(11),
    *read_sample(26).values(),
    *(read_sample(number) for number in (5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16)),
]
PARTICIPANTS = {"participants": read_sample(2)["participants"]}
UNREADABLE = ("payload_unreadable", "field_unreadable")
READABLE_SHARE = 0.6
KEYS = sorted(
    {key for message in MESSAGES for key in message}
    | {"data", "users", "url", "type", "sticker_id", "error"}
)

texts = st.text(max_size=12) | st.sampled_from(
    ["\x00", "\ud800", "😀\udfff", "9" * 30, "true", "1e5", "-0", "NaN", "{}"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.just(10**400)
    | texts
)
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=3)
    ),
    max_leaves=6,
)
times = st.integers(0, 7_258_118_400_000_000).map(
    lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
)
hostile_ids = st.sampled_from(
    ["a+/=:-_%", "m|*?['\"", "é\x00", "M1", "m1", "0123", "x" * 300, "", "..", "ıİ"]
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything inside a JSON value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [place for key, item in items for place in ((*path, key), *nodes(item, (*path, key)))]


def mutate(draw: st.DrawFn, message: dict[str, Any]) -> None:
    """Change one thing anywhere in a message."""
    *parents, key = draw(st.sampled_from(nodes(message) or [("id",)]))
    holder: Any = message
    for parent in parents:
        holder = holder[parent]
    held = holder[key] if isinstance(holder, list) or key in holder else None
    match draw(st.sampled_from(("replace", "remove", "add", "wrap", "repeat", "retype"))):
        case "replace":
            holder[key] = draw(junk)
        case "remove":
            del holder[key]
        case "add":
            (holder if isinstance(holder, dict) else message)[
                draw(st.sampled_from(KEYS) | texts)
            ] = draw(junk)
        case "wrap":
            holder[key] = draw(
                st.sampled_from(([held], {"data": held}, {"data": [held]}, [held, held]))
            )
        case "repeat":
            holder[key] = held * 3 if isinstance(held, list | str) else held
        case _:
            holder[key] = json.dumps(held) if not isinstance(held, str) else len(held)


@st.composite
def payloads(draw: st.DrawFn) -> str | None:
    """Return a valid message's payload, seldom untouched, sometimes cut or broken as text."""
    message = copy.deepcopy(draw(st.sampled_from(MESSAGES)))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 1, 2, 3)))):
        if message:
            mutate(draw, message)
    text = json.dumps(
        message, sort_keys=True, ensure_ascii=draw(st.booleans()) or not is_encodable(message)
    )
    if draw(st.integers(0, 19)) == 0:
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(st.sampled_from(("", "}", '"', "NaN", "\\ud83d")))
    return None if draw(st.integers(0, 29)) == 0 else text


def is_encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@st.composite
def raw_days(draw: st.DrawFn) -> RawDay:
    """Return a partition with ids in any order, mutated payloads and odd raw rows."""
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(("c1", "c2")) | hostile_ids, hostile_ids | st.text("mn123",
            min_size=1, max_size=3)),
            min_size=1, max_size=12, unique=True,
        )
    )  # fmt: skip
    ids, details = [], []
    for conversation_id, message_id in keys:
        held = draw(st.sampled_from(("both", "both", "both", "both", "id", "details")))
        if held != "details":
            ids.append(id_row(message_id, conversation_id, **draw(odd_ids)))
        if held != "id":
            details.append(
                detail_row(message_id, draw(payloads()), conversation_id, **draw(odd_details))
            )
    platform = draw(st.sampled_from(("instagram", "messenger")))
    conversations = [
        conversation_row(platform, draw(st.just(PARTICIPANTS) | junk), "c1"),
        conversation_row(
            platform,
            None,
            "c2",
            own_id=draw(st.none() | hostile_ids),
            folder=draw(st.none() | texts_in_files),
        ),
    ]
    return raw_day(
        platform, draw(st.permutations(ids)), draw(st.permutations(details)), conversations
    )


texts_in_files = st.text(st.characters(codec="utf-8"), max_size=5)
odd_ids = st.fixed_dictionaries(
    {},
    optional={
        "created_at": times,
        "created_at_source": st.sampled_from(schema.CREATED_AT_SOURCES),
        "order_in_second": st.integers(0, 2**40),
        "missing_at": times,
    },
)
odd_details = st.fixed_dictionaries(
    {},
    optional={
        "created_at": times,
        "detail_status": st.sampled_from((*schema.DETAIL_STATUSES, "detailed", "detailed")),
        "fields": st.none() | texts_in_files | st.just('{"from":1}'),
        "error_code": st.none() | st.integers(-(2**60), 2**60),
        "gone_at": times,
    },
)


def check(raw: RawDay, seen: Counter[str]) -> None:
    """Assert what holds for every partition, and count how many ids came out readable."""
    tables = normalize(raw)
    for name, table in tables.items():
        assert table.schema.equals(schema.TABLES[name].schema, check_metadata=True)
        table.validate(full=True)
        required = [column.name for column in schema.TABLES[name].columns if column.required]
        assert all(table[column].null_count == 0 for column in required)
        keys = [
            tuple(row.values()) for row in table.select(list(schema.TABLES[name].key)).to_pylist()
        ]
        assert keys == sorted(
            keys,
            key=lambda key: [str(part).encode() if isinstance(part, str) else part for part in key],
        )
        assert len(set(keys)) == len(keys)
    key = list(schema.MESSAGES.key)
    held = {
        tuple(row.values())
        for table in (raw.message_ids, raw.message_details)
        for row in table.select(key).to_pylist()
    }
    messages = tables["messages"].to_pylist()
    assert {(row["conversation_id"], row["message_id"]) for row in messages} == held
    for row in messages:
        assert row["content_type"] in schema.CONTENT_TYPES
        assert row["problem"] is None or row["problem"] in schema.PROBLEMS
        assert row["extra"] is None or isinstance(json.loads(row["extra"]), dict)
    for child in ("attachment", "share", "reaction"):
        counted = sum(row[f"{child}_count"] or 0 for row in messages)
        assert counted == tables[f"{child}s"].num_rows
    coverage = count_coverage(raw).to_pylist()[0]
    assert (
        coverage["ids_listed"]
        == len(held)
        == sum(coverage[status] for status in schema.DETAIL_STATUSES)
    )
    with_payload = {
        (row["conversation_id"], row["message_id"])
        for row in raw.message_details.to_pylist()
        if row["payload"] is not None
    }
    for row in messages:
        if (row["conversation_id"], row["message_id"]) in with_payload:
            seen["readable" if row["problem"] not in UNREADABLE else "unreadable"] += 1


def hunt(examples: int, is_repeatable: bool = True) -> Counter[str]:
    """Run so many examples; count the ids whose payload was readable."""
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=is_repeatable,
        suppress_health_check=list(HealthCheck),
    )
    @given(raw_days())
    def search(raw: RawDay) -> None:
        check(raw, seen)

    search()
    return seen


def test_mutated_payloads_never_raise_and_never_lose_an_id() -> None:
    seen = hunt(80)
    assert seen.total() > 100
    assert seen["readable"] >= READABLE_SHARE * seen.total()


@pytest.mark.hunt
@pytest.mark.timeout(7200)
def test_no_payload_is_too_hostile(long_run: bool) -> None:
    seen = hunt(20_000 if long_run else 60, is_repeatable=not long_run)
    assert not long_run or seen["readable"] >= READABLE_SHARE * seen.total()


@settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(raw_days(), st.randoms(use_true_random=False))
def test_the_same_raw_rows_in_any_order_give_the_same_tables(raw: RawDay, random: Any) -> None:
    places = list(range(raw.message_details.num_rows))
    random.shuffle(places)
    shuffled = RawDay(
        raw.platform,
        raw.page_id,
        raw.conversations,
        raw.message_ids,
        raw.message_details.take(pa.array(places, pa.int64())),
    )
    assert normalize(shuffled) == normalize(raw)
