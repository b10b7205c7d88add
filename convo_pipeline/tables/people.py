"""Find and remove one person in API payloads, and ids in texts. Pure: values in, values out.

A person is an object with the `id` of the person: a participant, a sender, a recipient, a reactor.
The caller decides by `is_person` which ids belong to the person. Names are not searched.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

IsPerson = Callable[[str], bool]
_REMOVED = object()
_WORD = re.compile(r"\w+")
_WORD_CHARACTER = re.compile(r"\w")


def people_in(value: object) -> set[str]:
    """Return the ids of the people in `from`, `to` or `participants`.

    The value is an object, a list or `{"data": [...]}`.

    >>> sorted(people_in({"data": [{"id": "1", "name": "Ada"}, {"id": 2}]}))
    ['1', '2']
    """
    if isinstance(value, list):
        return {person_id for item in value for person_id in people_in(item)}
    if not isinstance(value, Mapping):
        return set()
    own_id = {str(value["id"])} if value.get("id") not in (None, "") else set()
    return own_id | people_in(value.get("data"))


def people_of_message(message: object) -> set[str]:
    """Return the ids of the sender and the recipients of a message."""
    if not isinstance(message, Mapping):
        return set()
    return people_in(message.get("from")) | people_in(message.get("to"))


def is_sent_by(message: object, is_person: IsPerson) -> bool:
    """Return whether the person sent the message."""
    return isinstance(message, Mapping) and any(map(is_person, people_in(message.get("from"))))


def is_one_to_one(people: set[str], own_ids: frozenset[str], is_person: IsPerson) -> bool:
    """Return whether a conversation of these people is between the account and the person alone.

    >>> is_one_to_one({"us", "ada"}, frozenset({"us"}), {"ada"}.__contains__)
    True
    >>> is_one_to_one({"us", "ada", "bob"}, frozenset({"us"}), {"ada"}.__contains__)
    False
    """
    others = {person for person in people if person not in own_ids and not is_person(person)}
    return not others or len(people) <= 2


def without_person(value: object, is_person: IsPerson) -> object:
    """Return a copy of the value without the objects that are the person.

    >>> payload = {"to": {"data": [{"id": "1"}, {"id": "2"}]}, "from": {"id": "1"}}
    >>> without_person(payload, {"1"}.__contains__)
    {'to': {'data': [{'id': '2'}]}}
    """
    rest = _remove_person(value, is_person)
    return None if rest is _REMOVED else rest


def _remove_person(value: object, is_person: IsPerson) -> object:
    if isinstance(value, list):
        items = (_remove_person(item, is_person) for item in value)
        return [item for item in items if item is not _REMOVED]
    if not isinstance(value, Mapping):
        return value
    if value.get("id") is not None and is_person(str(value["id"])):
        return _REMOVED
    pairs = ((key, _remove_person(item, is_person)) for key, item in value.items())
    return {key: item for key, item in pairs if item is not _REMOVED}


class IdMatcher:
    """Search texts for many ids at once. An id matches only as a whole word.

    It looks each word of a text up in a table, so the time does not grow with the number of ids.

    >>> matcher = IdMatcher(["12", "m_a-1"])
    >>> matcher.matches('{"id":"12"}'), matcher.matches('{"id":"123"}')
    (True, False)
    >>> matcher.replace("of m_a-1, not of m_a-13", "?")
    'of ?, not of m_a-13'
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._by_word: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        """Ids by their first word, then by their length."""
        self._others: list[str] = []
        """Ids that do not begin with a word, longest first: each is searched for alone."""
        for each in ids:
            word = _WORD.match(each)
            if word:
                self._by_word[word.group()][len(each)].add(each)
            elif each:
                self._others.append(each)
        self._others.sort(key=len, reverse=True)

    def matches(self, text: str) -> bool:
        """Return whether a text contains one of the ids."""
        return any(True for _ in self._spans(text)) or any(
            _whole_word(each).search(text) for each in self._others
        )

    def replace(self, text: str, replacement: str) -> str:
        """Return the text with each id replaced; the longest id wins where several begin."""
        parts, end = [], 0
        for first, last in self._spans(text):
            parts += [text[end:first], replacement]
            end = last
        text = "".join([*parts, text[end:]])
        for each in self._others:
            text = _whole_word(each).sub(lambda _: replacement, text)
        return text

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield begin and end of each id, in order, without overlaps."""
        end = 0
        for word in _WORD.finditer(text):
            lengths = self._by_word.get(word.group(), {}) if word.start() >= end else {}
            for length in sorted(lengths, reverse=True):
                last = word.start() + length
                is_id = text[word.start() : last] in lengths[length]
                if is_id and not _WORD_CHARACTER.match(text, last):
                    yield word.start(), last
                    end = last
                    break


def _whole_word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
