"""The shape census: what it shows of responses, and what it can never show."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convo_pipeline.graph.shapes import (
    ID_KEY,
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
                census.add("message", {f"{first}_{second}_{third}": {"id": 1, "url": "u"}})
    assert len(census.paths) <= MOST_PATHS
    assert census.more_paths > 0
    assert "further paths" in render(census)


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
