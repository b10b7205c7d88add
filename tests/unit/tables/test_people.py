"""`IdMatcher` finds the same ids as one regular expression per id."""

import random
import re

import pytest

from convo_pipeline.tables.people import IdMatcher

ALPHABET = "ab1_-=.é "


def contains_any(text: str, ids: list[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text) for each in ids)


@pytest.mark.parametrize("seed", range(5))
def test_id_matcher_agrees_with_regular_expressions(seed: int) -> None:
    rng = random.Random(seed)
    changed_count = 0
    for _ in range(2_000):
        ids = [
            "".join(rng.choices(ALPHABET, k=rng.randint(1, 5))) for _ in range(rng.randint(0, 6))
        ]
        text = "".join(rng.choices(ALPHABET, k=rng.randint(0, 25)))
        matcher = IdMatcher(ids)
        assert matcher.matches(text) == contains_any(text, ids)
        replaced = matcher.replace(text, "#")
        assert (replaced == text) == (not contains_any(text, ids))
        assert not contains_any(replaced.replace("#", "ß"), ids)
        changed_count += replaced != text
    assert changed_count > 200


def test_id_matcher_replaces_the_longer_id_and_only_whole_words() -> None:
    assert IdMatcher(["m_1", "m_1-2"]).replace("m_1-2, m_1, m_12, xm_1", "?") == "?, ?, m_12, xm_1"
    assert IdMatcher([]).replace("m_1", "?") == "m_1"
    assert not IdMatcher(["", "m_1"]).matches("")
