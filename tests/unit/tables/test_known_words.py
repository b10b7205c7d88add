"""Only known words are shown; whatever the API or a customer's program chose is "other"."""

import pytest

from convo_pipeline.schema import TABLES, TEXT, TEXTS
from convo_pipeline.tables.known_words import OTHER, WORDS, known_word

SENTENCE = "please call me at home, 555 0101"


@pytest.mark.parametrize("column", [*WORDS, "kind", "folder", "platform", "problem", "new column"])
@pytest.mark.parametrize("value", [SENTENCE, "x" * 1_000_000, "", "Ada", "5550101/x", "é"])
def test_no_sentence_is_shown(column: str, value: str) -> None:
    assert known_word(column, value) == OTHER


@pytest.mark.parametrize("column", WORDS)
def test_a_single_unknown_word_of_the_api_is_not_shown(column: str) -> None:
    assert known_word(column, "canary0123456789") == OTHER


@pytest.mark.parametrize("emoji", ["❤️", "👍🏽", "👨‍👩‍👧‍👦", "😮", "🇩🇪"])
def test_an_emoji_is_a_reaction(emoji: str) -> None:
    assert known_word("reaction", emoji) == emoji
    assert known_word("tags", emoji) == OTHER


@pytest.mark.parametrize("text", ["❤️" * 20, "a❤️", "1️⃣", "❤️ ", "\u202e❤️"])
def test_what_only_contains_an_emoji_is_no_reaction(text: str) -> None:
    assert known_word("reaction", text) == OTHER


def test_each_column_of_words_is_a_column_of_text() -> None:
    columns = {column.name: column.type for table in TABLES.values() for column in table.columns}
    assert all(columns[name] in (TEXT, TEXTS) for name in WORDS)
