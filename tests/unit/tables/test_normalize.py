"""Normalising a partition: whole rows, whatever the payloads hold."""

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from convo_pipeline import schema
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.tables.media import url_expires_at
from convo_pipeline.tables.messages import (
    PLAIN_NAMES,
    PlainColumns,
    parse_payloads,
    read_closely,
    read_plain,
)
from convo_pipeline.tables.normalize import RawDay, normalize
from convo_pipeline.tables.payloads import PayloadReader, parse_plain
from tests.support.raw_days import (
    AT,
    OWN_IDS,
    PAGE_ID,
    SEEN,
    conversation_row,
    day_of,
    detail_row,
    id_row,
    raw_day,
    read_sample,
)  # fmt: skip

OWN, CUSTOMER = OWN_IDS["instagram"], "42"
LATER = datetime(2026, 2, 20, tzinfo=UTC)
FAMILY = "👩‍👩‍👧‍👦🏳️‍🌈"


def rows(raw: RawDay, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = normalize(raw)[name].to_pylist()
    return found


def first(*payloads: object, platform: str = "instagram") -> dict[str, Any]:
    return rows(day_of(*payloads, platform=platform), "messages")[0]


def pick(row: dict[str, Any], *names: str) -> tuple[object, ...]:
    return tuple(row[name] for name in names)


# shape of the tables


def test_every_table_has_exactly_its_declared_schema() -> None:
    full = normalize(day_of(*(read_sample(number) for number in (5, 9, 13, 14))))
    for tables in (full, normalize(RawDay())):
        assert list(tables) == [
            "conversation_days",
            "participant_days",
            "messages",
            "attachments",
            "shares",
            "reactions",
        ]
        for name, table in tables.items():
            assert table.schema.equals(schema.TABLES[name].schema, check_metadata=True)
            table.validate(full=True)


def test_no_required_column_is_null() -> None:
    for name, table in normalize(
        day_of(*(read_sample(number) for number in (5, 9, 13, 14)), None, "{")
    ).items():
        for column in schema.TABLES[name].columns:
            assert not (column.required and table[column.name].null_count), (name, column.name)


def test_an_empty_partition_gives_six_empty_tables() -> None:
    assert {table.num_rows for table in normalize(RawDay()).values()} == {0}


def test_rows_are_sorted_by_key_whatever_the_order_they_came_in() -> None:
    ids = [id_row(f"m{number}", f"c{number % 3}") for number in range(9)]
    details = [
        detail_row(f"m{number}", {"message": str(number)}, f"c{number % 3}") for number in range(9)
    ]
    backwards = normalize(raw_day("instagram", ids[::-1], details[4:] + details[:4]))
    assert backwards == normalize(raw_day("instagram", ids, details))
    keys = [pick(row, "conversation_id", "message_id") for row in backwards["messages"].to_pylist()]
    assert keys == sorted(keys)
    assert len(keys) == 9


def test_chunks_make_no_difference() -> None:
    payloads = day_of(
        *([read_sample(9), read_sample(5), None, "{", read_sample(12)] * 5)
    ).message_details["payload"]
    whole, chunked = parse_payloads(payloads), parse_payloads(payloads, chunk_rows=3)
    assert chunked.columns == whole.columns
    assert chunked.children == whole.children


# one row per id


def test_every_id_has_one_row_listed_or_detailed_or_both() -> None:
    raw = raw_day(
        "instagram", [id_row("m1"), id_row("m2")], [detail_row("m2", {}), detail_row("m3", {})]
    )
    found = [
        pick(row, "message_id", "detail_status", "created_at", "order_in_second")
        for row in rows(raw, "messages")
    ]
    assert found == [("m1", "pending", AT, 0), ("m2", "detailed", AT, 0), ("m3", "detailed", AT, 0)]


def test_an_id_held_twice_has_one_row() -> None:
    raw = raw_day(
        "instagram",
        [id_row("m1"), id_row("m1", order_in_second=1)],
        [detail_row("m1", {}), detail_row("m1", {})],
    )
    assert [row["message_id"] for row in rows(raw, "messages")] == ["m1"]


def test_the_same_id_in_two_conversations_is_two_messages() -> None:
    raw = raw_day(
        "instagram",
        [id_row("m1", "c1"), id_row("m1", "c2")],
        [detail_row("m1", {"message": "one"}, "c1"), detail_row("m1", {"message": "two"}, "c2")],
    )
    assert [row["text"] for row in rows(raw, "messages")] == ["one", "two"]


@pytest.mark.parametrize("status", ["beyond_20", "gone", "failed", "pending"])
def test_an_id_without_content_keeps_its_status(status: str) -> None:
    raw = raw_day("instagram", [id_row("m1")], [detail_row("m1", None, detail_status=status)])
    (row,) = rows(raw, "messages")
    assert pick(row, "detail_status", "content_type", "text", "attachment_count", "problem") == (
        status, "unavailable", None, None, None,
    )  # fmt: skip


def test_first_seen_is_the_earliest_and_changed_the_latest_sighting_of_content() -> None:
    raw = raw_day(
        "instagram",
        [id_row("m1", first_seen_at=SEEN)],
        [detail_row("m1", {}, first_seen_at=LATER, changed_at=LATER)],
    )
    assert pick(rows(raw, "messages")[0], "first_seen_at", "changed_at") == (SEEN, LATER)


# who we are


def person(person_id: object, **others: object) -> dict[str, object]:
    return {"id": person_id, **others}


@pytest.mark.parametrize(
    ("platform", "own_id", "sender_id", "direction"),
    [
        ("instagram", OWN, OWN, "outbound"),
        ("instagram", OWN, CUSTOMER, "inbound"),
        ("instagram", OWN, PAGE_ID, "inbound"),
        ("instagram", None, CUSTOMER, None),
        ("messenger", None, PAGE_ID, "outbound"),
        ("messenger", "77", "77", "outbound"),
        ("messenger", None, CUSTOMER, "inbound"),
    ],
)
def test_direction_is_told_by_our_own_ids(
    platform: str, own_id: str | None, sender_id: str, direction: str | None
) -> None:
    conversations = [conversation_row(platform, None, own_id=own_id)]
    raw = raw_day(
        platform, [id_row("m1")], [detail_row("m1", {"from": person(sender_id)})], conversations
    )
    assert rows(raw, "messages")[0]["direction"] == direction


def test_an_own_id_known_from_one_conversation_counts_for_all() -> None:
    conversations = [
        conversation_row("instagram", None, "c1", own_id=None),
        conversation_row("instagram", None, "c2"),
    ]
    raw = raw_day(
        "instagram", [id_row("m1")], [detail_row("m1", {"from": person(OWN)})], conversations
    )
    assert rows(raw, "messages")[0]["direction"] == "outbound"


def test_a_message_without_a_sender_has_no_direction() -> None:
    assert pick(first({"message": "hi"}), "direction", "sender_id", "problem") == (None, None, None)


# coercion, extra, problems


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"from": person(42)}, {"sender_id": "42"}),
        (
            {"from": person(123456789012345678901234567890)},
            {"sender_id": "123456789012345678901234567890"},
        ),
        ({"from": person("0123")}, {"sender_id": "0123"}),
        ({"from": "42"}, {"sender_id": "42"}),
        ({"from": 42}, {"sender_id": "42"}),
        ({"to": {"data": [person(1), person("2")]}}, {"recipient_ids": ["1", "2"]}),
        ({"to": [person("1")]}, {"recipient_ids": ["1"]}),
        ({"to": person("1")}, {"recipient_ids": ["1"]}),
        ({"to": {"data": person("1")}}, {"recipient_ids": ["1"]}),
        ({"to": {"data": ["1", 2]}}, {"recipient_ids": ["1", "2"]}),
        ({"to": {"data": []}}, {"recipient_ids": []}),
        ({"message": 5}, {"text": "5", "content_type": "text"}),
        ({"message": ""}, {"text": "", "content_type": "empty"}),
        ({"is_unsupported": "True"}, {"is_unsupported": True}),
        ({"is_unsupported": 0}, {"is_unsupported": False}),
        ({"tags": ["inbox"]}, {"tags": ["inbox"]}),
        (
            {"message": None, "from": None, "to": None, "shares": None},
            {"text": None, "share_count": 0},
        ),
    ],
)
def test_a_wrong_type_is_coerced_where_nothing_is_lost(
    payload: object, expected: dict[str, object]
) -> None:
    row = first(payload)
    assert {name: row[name] for name in (*expected, "problem", "extra")} == expected | {
        "problem": None,
        "extra": None,
    }


@pytest.mark.parametrize(
    ("payload", "column"),
    [
        ({"message": True}, "text"),
        ({"message": 1.5}, "text"),
        ({"message": ["a"]}, "text"),
        ({"from": {"id": 1.5}}, "sender_id"),
        ({"from": {"id": {"id": "1"}}}, "sender_id"),
        ({"from": ["42"]}, "sender_id"),
        ({"sticker": ["x"]}, "sticker_url"),
        ({"story": "x"}, "story_kind"),
        ({"story": {"mention": {"id": []}}}, "story_id"),
        ({"reply_to": {"mid": False}}, "reply_to_message_id"),
    ],
)
def test_what_cannot_be_read_is_null_flagged_and_kept_in_extra(
    payload: dict[str, object], column: str
) -> None:
    row = first(payload)
    assert pick(row, column, "problem") == (None, "field_unreadable")
    assert json.loads(row["extra"]) == payload


@pytest.mark.parametrize("key", ["attachments", "shares", "reactions", "tags", "to"])
def test_a_list_that_is_none_is_kept_in_extra(key: str) -> None:
    row = first({"message": "hi", key: "nonsense"})
    assert pick(row, "text", "problem", "extra") == (
        "hi",
        "field_unreadable",
        json.dumps({key: "nonsense"}).replace(" ", ""),
    )


def test_an_item_that_is_no_object_is_kept_and_its_neighbours_pass() -> None:
    raw = day_of({"attachments": {"data": ["nonsense", {"id": "1", "mime_type": "image/png"}]}})
    (row,) = rows(raw, "messages")
    assert pick(row, "attachment_count", "problem", "extra") == (
        1,
        "field_unreadable",
        '{"attachments":["nonsense"]}',
    )
    assert [item["attachment_id"] for item in rows(raw, "attachments")] == ["1"]


def test_unknown_fields_land_in_extra() -> None:
    payload = {
        "message": "hi",
        "thread_id": "t1",
        "from": person("42", badge="gold"),
        "mood": {"b": 1, "a": [2]},
    }
    row = first(payload)
    assert pick(row, "text", "sender_id", "problem", "extra") == (
        "hi", "42", None, '{"from":{"badge":"gold"},"mood":{"a":[2],"b":1},"thread_id":"t1"}',
    )  # fmt: skip


def test_unknown_whole_numbers_keep_every_digit() -> None:
    assert first({"message": "hi", "n": 340282366841710300949110269838224261120})["extra"] == (
        '{"n":340282366841710300949110269838224261120}'
    )


@pytest.mark.parametrize(
    "payload", ["", "{", "[]", '"text"', "7", "null", "NaN", '{"a":NaN}', "[" * 100_000, "\x00"]
)
def test_a_payload_that_is_no_object_keeps_its_row_and_its_neighbours_pass(payload: str) -> None:
    raw = day_of({"message": "before"}, payload, {"message": "after"})
    found = [pick(row, "text", "content_type", "problem") for row in rows(raw, "messages")]
    assert found == [
        ("before", "text", None),
        (None, "other", "payload_unreadable"),
        ("after", "text", None),
    ]


def test_a_detailed_row_without_payload_is_a_problem() -> None:
    assert first(None)["problem"] == "payload_unreadable"


@pytest.mark.parametrize(
    ("source", "payload", "problem"),
    [
        ("message", {"created_time": "2026-02-19T08:57:24+0000"}, None),
        ("message_id", {}, None),
        ("message_id", {"created_time": "yesterday"}, "time_unreadable"),
        ("conversation", {}, "time_estimated"),
        ("listing", {}, "time_estimated"),
        ("listing", {"created_time": "yesterday"}, "time_unreadable"),
        ("listing", {"created_time": None}, "time_estimated"),
        ("listing", {"message": []}, "field_unreadable"),
    ],
)
def test_a_time_that_is_not_the_messages_own_is_flagged(
    source: str, payload: object, problem: str | None
) -> None:
    raw = raw_day(
        "instagram", [id_row("m1", created_at_source=source)], [detail_row("m1", payload)]
    )
    assert rows(raw, "messages")[0]["problem"] == problem


# text


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "\t\r\n\x1b",
        FAMILY,
        "שלום‏ ‮ مرحبا",
        "é é",
        "\ufeffbom",
        "�",
        " ",
        "x" * 1_000_000,
        "\\ud800",
        '"\\"',
    ],
    ids=[
        "nul",
        "control",
        "zwj",
        "rtl",
        "forms",
        "bom",
        "replacement",
        "space",
        "1 MB",
        "escape",
        "quotes",
    ],
)
def test_text_survives_byte_for_byte(text: str) -> None:
    for payload in ({"message": text}, {"message": text, "sticker": "x"}):
        assert pick(first(payload), "text", "problem") == (text, None)


def test_lone_surrogates_become_replacement_characters_with_a_flag() -> None:
    row = first('{"message":"a\\ud800b\\ude00","x\\udfff":"\\ud83d\\ude00"}')
    assert pick(row, "text", "problem", "extra") == ("a�b�", "surrogate_replaced", '{"x�":"😀"}')


def test_a_lone_surrogate_does_not_hide_a_worse_problem() -> None:
    assert first('{"message":["\\ud800"]}')["problem"] == "field_unreadable"


# what hangs on a message


ATTACHMENT_KINDS: list[tuple[dict[str, object], str]] = [
    ({"mime_type": "image/jpeg", "image_data": {"url": "u"}}, "image"),
    ({"image_data": {"url": "u"}}, "image"),
    ({"video_data": {"url": "u"}}, "video"),
    ({"mime_type": "video/mp4", "image_data": {"width": 1}, "video_data": {"url": "u"}}, "video"),
    ({"mime_type": "audio/mpeg", "file_url": "u"}, "audio"),
    ({"mime_type": "video/mp4", "file_url": "u"}, "video"),
    ({"mime_type": "application/pdf", "file_url": "u"}, "file"),
    ({"mime_type": "text/plain"}, "file"),
    ({"file_url": "u"}, "file"),
    ({"type": "sticker", "sticker_id": "369239263222822", "url": "u"}, "sticker"),
    ({"sticker_id": 369239263222822, "image_data": {"url": "u"}}, "sticker"),
    ({"mime_type": "image/png", "image_data": {"url": "u", "render_as_sticker": True}}, "sticker"),
    ({"generic_template": {"title": "t"}}, "template"),
    ({"generic_template": {"elements": []}}, "template"),
    ({"appointment_booking": {"status": "BOOKED"}}, "appointment"),
    ({"name": "Media not available"}, "unavailable"),
    ({}, "unavailable"),
    ({"name": None, "hologram": {"url": "u"}}, "other"),
]


@pytest.mark.parametrize(("item", "kind"), ATTACHMENT_KINDS)
def test_the_kind_of_an_attachment(item: dict[str, object], kind: str) -> None:
    raw = day_of({"attachments": {"data": [{"id": "1", **item}]}})
    (found,) = rows(raw, "attachments")
    assert pick(found, "attachment_id", "kind", "is_sticker") == ("1", kind, kind == "sticker")
    (row,) = rows(raw, "messages")
    assert row["content_type"] == {"appointment": "template"}.get(kind, kind)
    assert row["problem"] is None


def test_a_sticker_of_2026() -> None:
    raw = day_of(
        {
            "attachments": {
                "data": [{"type": "sticker", "sticker_id": 369, "url": "https://a.b/c?oe=65D3A1F0"}]
            }
        }
    )
    names = ("sticker_id", "url", "url_expires_at", "extra")
    expires_at = datetime(2024, 2, 19, 18, 46, 8, tzinfo=UTC)
    assert pick(rows(raw, "attachments")[0], *names) == (
        "369",
        "https://a.b/c?oe=65D3A1F0",
        expires_at,
        None,
    )


def test_sizes_as_text_are_numbers_and_nonsense_is_kept() -> None:
    raw = day_of(
        {"attachments": [{"size": "28824", "file_url": "u"}, {"size": "big", "file_url": "u"}]}
    )
    found = [pick(row, "size_bytes", "extra") for row in rows(raw, "attachments")]
    assert found == [(28824, None), (None, '{"size":"big"}')]
    assert rows(raw, "messages")[0]["problem"] == "field_unreadable"


@pytest.mark.parametrize(
    "url",
    [
        "https://a.b/c",
        "https://a.b/c?oe=INV",
        "https://a.b/c?oe=65D3A1F",
        "https://a.b/c?noe=65D3A1F0",
        "",
        None,
    ],
)
def test_a_link_that_does_not_say_when_it_dies(url: str | None) -> None:
    assert url_expires_at(url) is None


@pytest.mark.parametrize(
    "reactions",
    [
        {"data": [{"reaction": "love", "users": [person("42", username="ada")]}]},
        [{"reaction": "love", "users": {"data": [person("42", username="ada")]}}],
        {"reaction": "love", "users": [person(42, username="ada")]},
        {"reaction": "love", "users": person("42", name="ada")},
        {
            "data": [
                {
                    "reaction": "love",
                    "users": [person("42", username="ada"), person("42", username="ada")],
                }
            ]
        },
    ],
)
def test_reactions_in_all_their_shapes(reactions: object) -> None:
    raw = day_of({"message": "hi", "reactions": reactions})
    names = ("message_id", "reactor_id", "reaction", "reactor_username")
    assert [pick(row, *names) for row in rows(raw, "reactions")] == [("m0", "42", "love", "ada")]
    assert pick(rows(raw, "messages")[0], "reaction_count", "problem", "extra") == (1, None, None)


def test_a_reaction_without_users_has_an_empty_reactor() -> None:
    raw = day_of({"reactions": {"data": [{"reaction": "❤️"}, {"reaction": "👍", "users": []}]}})
    found = [pick(row, "reactor_id", "reaction") for row in rows(raw, "reactions")]
    assert found == [("", "❤️"), ("", "👍")]


def test_several_products_are_several_shares() -> None:
    elements = [
        person("0", name="Cake"),
        person("77", name="Tart", url="https://a.b/tart", image_url="https://a.b/t.png"),
    ]
    shares = [
        {"template": {"payload": {"product": {"elements": {"data": elements}}}}},
        {"link": "https://a.b"},
    ]
    found = rows(day_of({"shares": {"data": shares}}), "shares")
    names = ("position", "share_id", "share_type", "link", "name", "extra")
    assert [pick(row, *names) for row in found] == [
        (0, None, "product", None, "Cake", None),
        (1, "77", "product", "https://a.b/tart", "Tart", '{"image_url":"https://a.b/t.png"}'),
        (2, None, None, "https://a.b", None, None),
    ]


def test_a_template_of_another_kind_stays_in_extra() -> None:
    (row,) = rows(
        day_of({"shares": [{"template": {"payload": {"receipt": {"total": 1}}}}]}), "shares"
    )
    assert row["extra"] == '{"template":{"payload":{"receipt":{"total":1}}}}'


def test_ten_thousand_attachments_are_ten_thousand_rows() -> None:
    items = [{"id": str(number), "file_url": "u"} for number in range(10_000)]
    found = normalize(day_of({"attachments": {"data": items}}))
    assert found["attachments"]["position"].to_pylist() == list(range(10_000))
    assert found["messages"]["attachment_count"].to_pylist() == [10_000]


CONTENT_TYPES: list[tuple[dict[str, object], str]] = [
    ({"message": "hi", "is_unsupported": True, "sticker": "u"}, "unsupported"),
    ({"message": "hi", "story": {"mention": {"id": "1"}}, "sticker": "u"}, "story_mention"),
    ({"message": "hi", "story": {"reply_to": {"id": "1"}}}, "story_reply"),
    ({"sticker": "u", "attachments": [{"image_data": {"url": "u"}}]}, "sticker"),
    ({"message": "hi", "attachments": [{"name": "gone"}, {"image_data": {"url": "u"}}]}, "image"),
    ({"message": "hi", "attachments": [{"name": "gone"}]}, "text"),
    ({"message": "hi", "shares": [{"link": "u"}]}, "share"),
    ({"message": "", "hologram": 1}, "other"),
    ({"message": "", "reply_to": {"mid": "m", "is_self_reply": True}}, "empty"),
    ({}, "empty"),
]


@pytest.mark.parametrize(("payload", "content_type"), CONTENT_TYPES)
def test_content_types_by_precedence(payload: object, content_type: str) -> None:
    assert first(payload)["content_type"] == content_type


def test_every_content_type_is_declared() -> None:
    used = {kind for _, kind in CONTENT_TYPES} | {
        kind for _, kind in ATTACHMENT_KINDS if kind != "appointment"
    }
    assert used <= set(schema.CONTENT_TYPES)


def test_counts_of_what_nobody_asked_for_are_null() -> None:
    raw = raw_day(
        "instagram", [id_row("m1")], [detail_row("m1", {"message": "hi"}, fields='{"message":1}')]
    )
    names = ("text", "attachment_count", "share_count", "reaction_count", "is_unsupported")
    assert pick(rows(raw, "messages")[0], *names) == ("hi", None, None, None, None)


# the short way


@pytest.mark.parametrize(
    "message",
    [
        read_sample(2)["messages"]["data"][1],
        {"from": person("1"), "to": {"data": []}},
        {
            "from": person("1", name=None, username="u"),
            "to": {"data": [person("2", email="e")]},
            "message": None,
        },
        {
            "from": person("1"),
            "to": {"data": [person("2"), person("3")]},
            "message": "",
            "tags": {"data": []},
        },
    ],
)
def test_the_short_way_gives_what_reading_closely_gives(message: dict[str, object]) -> None:
    plain = read_plain(message)
    assert plain is not None
    closely = PayloadReader(message)
    assert dict(zip(PLAIN_NAMES, plain, strict=True)) == dict(
        zip(PLAIN_NAMES, read_closely(closely), strict=True)
    )
    assert pick(
        {"rest": closely.rest, "is_readable": closely.is_readable}, "rest", "is_readable"
    ) == ({}, True)


@pytest.mark.parametrize(
    "message",
    [
        {"from": person("1"), "to": {"data": [person("2")]}, "story": {}},
        {"from": person("1", age=3), "to": {"data": []}},
        {"from": person(1), "to": {"data": []}},
        {"from": person("1"), "to": {"data": [person(2)]}},
        {"from": person("1"), "to": {"data": [person("2", age=3)]}},
        {"from": person("1"), "to": {"data": [], "summary": 1}},
        {"from": person("1"), "to": [person("2")]},
        {"from": person("1"), "to": {"data": []}, "message": 5},
        {"from": person("1", name=5), "to": {"data": []}},
        {"from": person("1"), "to": {"data": []}, "tags": {"data": [{"name": 5}]}},
        {"from": person("1"), "to": {"data": []}, "tags": {"data": [{"name": "a", "b": 1}]}},
        {"from": person("1"), "to": {"data": []}, "tags": ["a"]},
        {"from": person("1"), "to": {"data": "abc"}},
        {"from": "1", "to": {"data": []}},
        [],
        None,
    ],
)
def test_the_short_way_leaves_the_unusual_alone(message: object) -> None:
    assert read_plain(message) is None


def test_shared_parsing_of_people_and_tags_gives_what_parsing_alone_gives() -> None:
    """Random texts hold each character and each sequence that has a meaning in JSON."""
    random = Random(5)
    parts = [
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        '"tags":',
        '"id":"',
        "null",
        "é",
        "\n",
        "\ud83d",
    ]

    def text() -> str:
        return "".join(random.choices(parts, k=random.randrange(5)))

    columns, expected = PlainColumns(), []
    for _ in range(2_000):
        message: dict[str, object] = {
            "created_time": "2026-02-19T08:57:24+0000",
            "from": person(random.choice("12"), name=random.choice(["Ada", text()])),
            "id": "m_1",
            "to": {"data": [person("3", name=random.choice(["Bob", text()]))]},
        }
        if random.random() < 0.9:
            message["message"] = random.choice([text(), None, 5, {"a": 1}])
        if random.random() < 0.5:
            message["tags"] = {"data": [{"name": random.choice(["read", text()])}]}
        if random.random() < 0.1:
            message[random.choice(["story", "zzz", "a"])] = text()
        payload = dump_json(message)
        row = read_plain(parse_plain(payload))
        assert columns.add(payload) is (row is not None)
        expected += [] if row is None else [row]
    found = (column.to_pylist() for column in columns.to_columns().values())
    assert list(zip(*found, strict=True)) == expected
    assert len(expected) > 500


# participants and conversations


def conversations_of(
    *people: object, own_id: str | None = OWN
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    row = conversation_row("instagram", {"participants": {"data": list(people)}}, own_id=own_id)
    raw = raw_day("instagram", conversations=[row])
    return rows(raw, "conversation_days"), rows(raw, "participant_days")


def test_the_customer_is_the_one_participant_who_is_not_us() -> None:
    (row,), people = conversations_of(person("42", username="ada"), person(OWN, username="bakery"))
    names = (
        "customer_id",
        "customer_username",
        "participant_count",
        "message_count",
        "first_message_at",
    )
    assert pick(row, *names) == ("42", "ada", 2, 0, None)
    assert [pick(row, "participant_id", "is_account") for row in people] == [
        (OWN, True),
        ("42", False),
    ]


def test_two_customers_are_no_customer() -> None:
    (row,), _ = conversations_of(person("42"), person("43"), person(OWN))
    assert pick(row, "customer_id", "participant_count") == (None, 3)


def test_without_an_own_id_nobody_is_known_to_be_us() -> None:
    (row,), people = conversations_of(person("42"), person(OWN), own_id=None)
    assert row["customer_id"] is None
    assert [row["is_account"] for row in people] == [None, None]


def test_participants_named_twice_are_one_with_all_that_is_known() -> None:
    _, people = conversations_of(
        person("42", name="Ada"), person(42, username="ada"), person(None), {"name": "x"}, 7
    )
    names = ("participant_id", "name", "username")
    assert [pick(row, *names) for row in people] == [("42", "Ada", "ada"), ("7", None, None)]


def test_a_conversation_without_payload_takes_its_participants_from_its_messages() -> None:
    message = {
        "from": person("42", username="ada"),
        "to": {"data": [person(OWN, username="bakery")]},
    }
    raw = raw_day("instagram", [id_row("m1")], [detail_row("m1", message)])
    (row,) = rows(raw, "conversation_days")
    assert pick(row, "customer_id", "customer_username", "participant_count") == ("42", "ada", 2)


def test_a_conversation_that_is_only_known_by_its_messages_has_a_row() -> None:
    raw = raw_day("instagram", [id_row("m1", "c9")], conversations=[])
    assert rows(raw, "conversation_days") == [
        {
            "conversation_id": "c9", "platform": "instagram", "page_id": PAGE_ID, "folder": None,
            "participant_count": 0, "has_more_participants": False, "customer_id": None,
            "customer_name": None, "customer_username": None,
            "first_message_at": AT, "last_message_at": AT, "message_count": 1, "inbound_count": 0,
            "outbound_count": 0, "detailed_count": 0,
        }
    ]  # fmt: skip


def test_counts_are_the_days() -> None:
    details = [
        detail_row("m1", {"from": person(OWN)}),
        detail_row("m2", {"from": person("42")}),
        detail_row("m3", None, detail_status="beyond_20"),
    ]
    ids = [id_row("m1"), id_row("m2"), id_row("m3", created_at=LATER)]
    names = (
        "message_count",
        "inbound_count",
        "outbound_count",
        "detailed_count",
        "first_message_at",
        "last_message_at",
    )
    assert pick(rows(raw_day("instagram", ids, details), "conversation_days")[0], *names) == (
        3,
        1,
        1,
        2,
        AT,
        LATER,
    )


def test_the_default_folder_is_null() -> None:
    found = [
        conversation_row("messenger", None, "c1", folder=""),
        conversation_row("messenger", None, "c2", folder="spam"),
    ]
    assert [
        row["folder"]
        for row in rows(raw_day("messenger", conversations=found), "conversation_days")
    ] == [None, "spam"]


def test_inputs_are_not_mutated() -> None:
    raw = day_of(read_sample(9))
    before = pa.table(raw.message_details)
    normalize(raw)
    assert raw.message_details.equals(before)
