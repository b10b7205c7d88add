"""The shape census: what it shows of responses, and what it can never show."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convo_pipeline.graph.shapes import (
    ID_KEY,
    MOST_CHARACTERS,
    MOST_NODES,
    MOST_PATHS,
    OTHER,
    UNKNOWN_KEY,
    Census,
    is_unknown_path,
    render,
    shown_key,
)
from tests.support.paths import SAMPLES
from tests.support.raw_days import read_sample

CANARY = "Zqxv-canary-7731"
MESSAGE = {
    "id": "m_1", "created_time": "2026-02-19T08:57:24+0000", "message": "hello there",
    "from": {"id": "9990000000000777", "name": "Ada Invented"},
    "attachments": {"data": [{"mime_type": "image/jpeg", "type": "hologram"}]},
}  # fmt: skip


def census_of(*values: object, endpoint: str = "message") -> Census:
    census = Census()
    for value in values:
        census.add(endpoint, value)
    return census


def test_keys_types_lengths_and_known_values_are_counted() -> None:
    shapes = census_of(MESSAGE).to_json()["paths"]
    assert isinstance(shapes, dict)
    assert shapes["message.message"] == {"types": {"string": 1}, "lengths": {"≤16": 1}}
    assert shapes["message.attachments.data[].mime_type"]["values"] == {"image/jpeg": 1}
    assert shapes["message.attachments.data[].type"]["values"] == {OTHER: 1}


def test_an_unknown_key_and_an_unknown_value_are_marked() -> None:
    census = census_of({"voice_transcript": {"text": "secret"}, "type": "voice"})
    assert census.unknown == [
        "message.type = voice",
        "message.voice_transcript",
        "message.voice_transcript.text",
    ]
    assert "! voice_transcript: object 1" in render(census)
    assert "!voice:1" in render(census)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem[:2])
def test_no_sample_has_an_unknown_key_but_webhook_bodies(path: Any) -> None:
    number = int(path.stem[:2])
    body = read_sample(number)
    unknown = [each for each in census_of(body, endpoint="x").unknown if "=" not in each]
    assert unknown == [] or number in (25, 26, 27, 28, 29, 30, 31)


def test_error_codes_are_shown() -> None:
    text = render(census_of({"error": {"code": 190, "error_subcode": 463, "message": "Ada"}}))
    assert "error.code: integer 1; values 190:1" in text
    assert "Ada" not in text


def test_a_census_is_bounded() -> None:
    census = census_of({"data": {f"{a}_{b}": 1 for a in "xy" for b in range(3)}})
    for first in ("photo", "video", "voice", "story"):
        for second in sorted({"id", "url", "time", "type", "name", "size", "count"}):
            for third in sorted({"new", "old", "next", "first", "last", "media", "user"} - {"old"}):
                name = f"{first}_{second}_{third}"
                census.add("message", {"id": 1, name: {"id": 1, "url": "u"}})
    assert len(census.paths) <= MOST_PATHS
    assert census.more_paths > 0
    assert "further paths" in render(census)


def test_a_census_that_is_read_again_and_merged_adds_up() -> None:
    census = census_of(MESSAGE)
    again = Census.from_json(json.loads(json.dumps(census.to_json())))
    assert again.to_json() == census.to_json()
    assert not again.merge(census)
    assert again.paths["message.id"].types == {"string": 2}
    assert again.merge(census_of({"voice_transcript": 1}))
    assert again.merge(census_of({"id": 17}))
    assert not again.merge(census_of({"id": 18}))


def test_a_rendered_census_fits_into_an_issue_and_keeps_what_is_unknown() -> None:
    census = Census()
    words = "photo_video_voice_story_message"
    for number in range(MOST_PATHS):
        value: object = 1
        for depth in range(10):
            value = {f"{words}_{'new_' * (number >> depth & 1)}id": value, "id": 1, "name": "x"}
        census.add("message", value)
    census.add("message", {"mime_type": "image/jpeg"})
    assert census.more_paths > 0
    text = render(census)
    assert len(text) <= MOST_CHARACTERS + 200
    assert "left out" in text


def test_a_response_is_counted_up_to_a_number_of_values() -> None:
    census = census_of([{"id": "1"}] * 10 * MOST_NODES)
    assert sum(census.paths["message[].id"].types.values()) <= MOST_NODES
    assert census.paths["message"].lengths == {"more": 1}


def test_a_list_is_sampled_over_its_whole_length() -> None:
    census = Census()
    items = [{"id": "1"}] * 99 + [{"id": "1", "new_id": "1"}]
    census.add("message", items, most_items=100)
    assert "message[].new_id" in census.paths


def test_an_unknown_error_code_is_marked_and_a_known_one_is_not() -> None:
    text = render(census_of({"error": {"code": 190}}, {"error": {"code": 98765}}))
    assert "! error.code: integer 2; values 190:1 !98765:1" in text


@pytest.mark.parametrize(
    "people",
    [
        {"live_shop": {"id": "1"}},
        {"17841400000000001": {"id": "1"}, "a": {}},
        {"live_shop": 1, "photo_page": 2},
        {"live_shop": "love", "photo_page": "love", "link": "love"},
        {"live_shop": [{"id": "1"}]},
        {"max": 1, "mark": 2},
    ],
)
def test_the_keys_of_an_object_by_person_are_masked(people: dict[str, Any]) -> None:
    census = census_of({"id": "1", "mentions": people}, people, {"data": [people]})
    for key in people.keys() - {"link"}:
        assert f".{key}" not in json.dumps(census.to_json())


@pytest.mark.parametrize("key", ["mime_type", "reaction", "type", "status", "template_type"])
@pytest.mark.parametrize("text", ["call Ada", "ada", "Ada", "@-x", "\x1b[31m", "a" * 5000])
def test_a_text_in_the_place_of_an_enumerated_value_is_not_shown(key: str, text: str) -> None:
    shown = render(census_of({key: text}))
    assert text not in shown
    assert f"!{OTHER}:1" in shown or "<emoji>" in shown


@pytest.mark.parametrize("text", ["new_story", "share"])
def test_an_unknown_value_from_a_device_is_not_shown(text: str) -> None:
    assert text not in render(census_of({"mime_type": text}))
    assert text not in render(census_of({"reaction": text}))


@pytest.mark.parametrize("key", ["ada", "ada_invented", "Ada", "a" * 50, "été", "", "a b"])
def test_a_key_that_may_be_a_name_is_not_shown(key: str) -> None:
    assert shown_key(key) == UNKNOWN_KEY
    assert is_unknown_path(f"message.{shown_key(key)}")


def test_a_key_that_is_an_id_is_not_shown() -> None:
    assert shown_key("9990000000000777") == ID_KEY
    assert not is_unknown_path(f"message.{ID_KEY}.id")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CANARY),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "mime_type", "name", "tags", "data", "error", "code", CANARY])
            | st.text(max_size=8).map(lambda text: f"{CANARY}{text}"),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_nothing_that_a_person_wrote_is_in_a_census(value: object) -> None:
    census = census_of(value)
    assert CANARY not in json.dumps(census.to_json())
    assert CANARY not in render(census)


def test_a_canary_in_every_key_and_value_of_every_sample_is_in_no_census() -> None:
    for path in SAMPLES.glob("*.json"):
        body = read_sample(int(path.stem[:2]))
        for marked in (_with_values(body), _with_keys(body)):
            census = census_of(marked)
            assert CANARY not in json.dumps(census.to_json())
            assert CANARY not in render(census)


def _with_values(value: object) -> object:
    if isinstance(value, dict):
        return {key: _with_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_values(item) for item in value]
    return CANARY


def _with_keys(value: object) -> object:
    if isinstance(value, dict):
        return {f"{key}{CANARY}": _with_keys(item) for key, item in value.items()}
    return [_with_keys(item) for item in value] if isinstance(value, list) else value
