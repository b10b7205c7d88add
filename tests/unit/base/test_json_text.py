"""JSON keeps long integers and lone surrogates, and refuses what is not JSON."""

import pytest

from convo_pipeline.base.json_text import dump_json, load_json


@pytest.mark.parametrize(
    "value",
    [
        {"id": 340282366841710300949110269838224261120},
        [-(10**25), 18446744073709551616],
        {"text": "a\ud83d", "ё": None},
        12345678901234567890123,
    ],
)
def test_a_value_survives_writing_and_reading(value: object) -> None:
    assert load_json(dump_json(value)) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"NaN", "not JSON"),
        (b'{"a": -Infinity}', "not JSON"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_anything_else_than_json_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_json(content)


def test_duplicate_keys_are_refused_only_where_keys_must_be_unique() -> None:
    """Equal values under one key lose nothing."""
    content = b'{"data": [1], "data": [2]}'
    assert load_json(content) == {"data": [2]}
    with pytest.raises(ValueError, match="not JSON"):
        load_json(content, unique_keys=True)
    assert load_json(b'{"a": 1, "a": 1}', unique_keys=True) == {"a": 1}
