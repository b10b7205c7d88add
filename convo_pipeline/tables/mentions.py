"""Find ids in texts: many ids in many texts, so each word of a text is looked up, not each id searched for."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

_WORD = re.compile(r"\w+")
_WORD_CHARACTER = re.compile(r"\w")


class IdMatcher:
    """Ids that may be mentioned: whole, not as a part of a longer one.

    >>> mentions = IdMatcher(["12", "m_a-1"])
    >>> mentions.occur_in('{"id":"12"}'), mentions.occur_in('{"id":"123"}')
    (True, False)
    >>> mentions.replaced("of m_a-1, not of m_a-13", "?")
    'of ?, not of m_a-13'
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_word: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        """Ids by the word they begin with, then by their length."""
        self._others: list[str] = []
        """Ids that begin with no word: searched for one by one."""
        for name in names:
            word = _WORD.match(name)
            if word:
                self._by_word[word.group()][len(name)].add(name)
            elif name:
                self._others.append(name)
        self._others.sort(key=len, reverse=True)

    def occur_in(self, text: str) -> bool:
        """Say whether a text names one of the ids."""
        return next(self._places(text), None) is not None or any(
            _pattern(name).search(text) for name in self._others
        )

    def replaced(self, text: str, replacement: str) -> str:
        """Return the text with each of the ids replaced; where one begins with another, the longer one."""
        parts, end = [], 0
        for first, last in self._places(text):
            parts += [text[end:first], replacement]
            end = last
        text = "".join([*parts, text[end:]])
        for name in self._others:
            text = _pattern(name).sub(lambda _: replacement, text)
        return text

    def _places(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where an id begins and ends, in order and apart from each other; words are looked up in a table."""
        end = 0
        for word in _WORD.finditer(text):
            lengths = self._by_word.get(word.group(), {}) if word.start() >= end else {}
            for length in sorted(lengths, reverse=True):
                last = word.start() + length
                if text[word.start() : last] in lengths[length] and not _WORD_CHARACTER.match(
                    text, last
                ):
                    yield word.start(), last
                    end = last
                    break


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
