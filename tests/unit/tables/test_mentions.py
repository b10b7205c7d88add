"""Ids are found in texts as plain patterns would find them one by one."""

import random
import re

import pytest

from convo_pipeline.tables.mentions import IdMatcher

ALPHABET = "ab1_-=.é "


def names_plainly(text: str, names: list[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)


@pytest.mark.parametrize("seed", range(5))
def test_any_ids_are_found_in_any_text_where_a_pattern_finds_them_and_none_is_left(
    seed: int,
) -> None:
    rng = random.Random(seed)
    found = 0
    for _ in range(2_000):
        names = [
            "".join(rng.choices(ALPHABET, k=rng.randint(1, 5))) for _ in range(rng.randint(0, 6))
        ]
        text = "".join(rng.choices(ALPHABET, k=rng.randint(0, 25)))
        mentions = IdMatcher(names)
        assert mentions.occur_in(text) == names_plainly(text, names)
        left = mentions.replaced(text, "#")
        assert (left == text) == (not names_plainly(text, names))
        assert not names_plainly(left.replace("#", "ß"), names)
        found += left != text
    assert found > 200


def test_the_longer_of_two_ids_is_replaced_and_what_only_contains_one_stays() -> None:
    assert IdMatcher(["m_1", "m_1-2"]).replaced("m_1-2, m_1, m_12, xm_1", "?") == "?, ?, m_12, xm_1"
    assert IdMatcher([]).replaced("m_1", "?") == "m_1"
    assert not IdMatcher(["", "m_1"]).occur_in("")
