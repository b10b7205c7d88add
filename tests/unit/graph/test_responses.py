"""Reading answers: strict JSON, every shape of a list."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convo_pipeline.errors import PayloadError
from convo_pipeline.graph.responses import (
    GraphResponse,
    Page,
    read_conversation_row,
    read_json,
    read_page,
)

NOW = datetime(2026, 2, 19, 9, tzinfo=UTC)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=60, deadline=None)
@given(JSON, st.booleans())
def test_json_is_read_like_the_standard_library(value: Any, is_ascii: bool) -> None:
    content = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    try:
        content.decode()
    except UnicodeDecodeError:
        with pytest.raises(PayloadError):
            read_json(content)
    else:
        assert read_json(content) == json.loads(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (rb'{"a": "\ud800"}', {"a": "\ud800"}),
        (rb'{"a": "\ud83d\ude00"}', {"a": "😀"}),
        (
            b'{"a": 340282366841710301244270000000000000001}',
            {"a": 340282366841710301244270000000000000001},
        ),
        (b"[-18446744073709551617 ]", [-18446744073709551617]),
        (b'{"a":' + b" " * 20 + b"18446744073709551616}", {"a": 18446744073709551616}),
        (
            b'{"u": "/12345678901234567890_1.jpg", "a": [1, 18446744073709551616]}',
            {"u": "/12345678901234567890_1.jpg", "a": [1, 18446744073709551616]},
        ),
        (b'{"a":18446744073709551616}', {"a": 18446744073709551616}),
        (
            b'{"a":9223372036854775807, "b": "x:12345678901234567890,"}',
            {"a": 9223372036854775807, "b": "x:12345678901234567890,"},
        ),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": "b:c", "d": 1, "a": "b:c"}', {"a": "b:c", "d": 1}),
        (b'{"a": "nul \\u0000 here"}', {"a": "nul \x00 here"}),
    ],
)
def test_json_keeps_text_and_numbers(content: bytes, expected: object) -> None:
    assert read_json(content) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a" 1}',
        b'{"data": [1, 2], "data": [3]}',
        b'{"data": [1], "paging": {}, "data": []}',
        b'[{"a": {"b": 1, "c": 2, "b": 3}}]',
        b'{"data" : ["\\u003a"], "data":["::"], "x": "\\ud800"}',
        b'{"a":' * 300 + b'{"b":1,"b":2}' + b"}" * 300,
        b"{\"a\": '1'}",
        b'{"data": [{"id": "1"}],}',
        b'{"a": 1} x',
        '{"a": "ü"}'.encode("latin-1"),
    ],
)
def test_broken_json_is_refused(content: bytes) -> None:
    with pytest.raises(PayloadError):
        read_json(content)


ROW = {"id": "t_1"}


@pytest.mark.parametrize(
    ("body", "rows", "after"),
    [
        ({"data": [ROW]}, (ROW,), None),
        ({"data": []}, (), None),
        ({"data": {}}, (), None),
        ({"data": ROW}, (ROW,), None),
        ([ROW], (ROW,), None),
        ({"data": [ROW], "paging": {"cursors": {"after": "A"}}}, (ROW,), None),
        (
            {"data": [ROW], "paging": {"cursors": {"after": "A"}, "next": "https://x/?after=B"}},
            (ROW,),
            "A",
        ),
        ({"data": [], "paging": {"next": "https://u:p@x:9/y?after=B%3D&limit=1"}}, (), "B="),
        ({"data": [], "paging": {"cursors": {"after": 5}, "next": "x"}}, (), "5"),
        ({"data": [], "paging": {"cursors": {"after": "A"}, "next": ""}}, (), None),
        ({"data": [], "paging": None}, (), None),
        ({"data": [], "paging": []}, (), None),
    ],
)
def test_page_has_a_cursor_only_with_next(body: object, rows: Any, after: str | None) -> None:
    assert read_page(GraphResponse(body, NOW, 1, None)) == Page(rows, after, NOW)


@pytest.mark.parametrize(
    "body",
    [
        None,
        1,
        "x",
        {},
        {"paging": {}},
        {"data": None},
        {"data": "x"},
        {"id": "t_1"},
        {"data": [], "paging": {"next": "https://x/?until=5"}},
        {"data": [], "paging": {"next": 7}},
        {"data": [], "paging": {"next": "http://[x"}},
    ],
)
def test_response_that_is_no_list_is_refused(body: object) -> None:
    with pytest.raises(PayloadError):
        read_page(GraphResponse(body, NOW, 1, None))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Page((), None, NOW)),
        ({}, Page((), None, NOW)),
        ([ROW], Page((ROW,), None, NOW)),
        (ROW, Page((ROW,), None, NOW)),
        ({"data": None}, Page((), None, NOW)),
        (
            {"data": [ROW], "paging": {"cursors": {"after": "A"}, "next": "n"}},
            Page((ROW,), "A", NOW),
        ),
        ({"data": [ROW], "paging": {"next": "https://x/?__paging_token=1"}}, Page((ROW,), "", NOW)),
    ],
)
def test_nested_messages_are_read_in_every_shape(value: object, expected: Page) -> None:
    row = read_conversation_row({"id": "t_1", "messages": value}, NOW)
    assert (row.payload, row.messages, row.malformed_messages) == ({"id": "t_1"}, expected, None)


@pytest.mark.parametrize("value", ["x", 5, True])
def test_malformed_nested_messages_are_kept(
    value: object,
) -> None:
    row = read_conversation_row({"id": "t_1", "messages": value}, NOW)
    assert (row.messages, row.malformed_messages) == (Page((), "", NOW), value)
    assert row.to_json() == {"id": "t_1", "messages": value}


def test_row_that_is_no_object_is_its_own_payload() -> None:
    row = read_conversation_row(5, NOW)
    assert (row.payload, row.messages, row.to_json()) == (5, Page((), None, NOW), 5)


def test_row_to_json_omits_the_cursor() -> None:
    nested = {"data": [ROW], "paging": {"cursors": {"after": "A"}, "next": "n"}}
    row = read_conversation_row({"id": "t_1", "messages": nested}, NOW)
    assert row.to_json() == {"id": "t_1", "messages": {"data": [ROW]}}
    assert read_conversation_row({"id": "t_1"}, NOW).to_json() == {"id": "t_1"}
