"""Find and remove one person in API payloads, and ids in texts. Pure: values in, values out.

A person is known by an id: in an object with this `id`, or alone as a value or key, also under keys
that this version does not know. The caller decides by `is_person` which ids belong to the person,
and by `redact` which parts of a text name the person. Message texts stay as they are.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

IsPerson = Callable[[str], bool]
Redact = Callable[[str], str]
"""Returns a text with `REPLACEMENT` in the place of each name and id of the person."""
REPLACEMENT = "(forgotten)"
"""Stands in texts where an id or a name was."""
NAME_KEYS = ("name", "username", "email")
"""Keys of an object that is a person, beside `id`."""
UNSEARCHED_KEYS = frozenset({
    "id", "message", "created_time", "updated_time", "mime_type", "type", "share_type", "reaction",
    "emoji", "tags",
})  # fmt: skip
"""Keys whose texts are no names of people: what others wrote, times, kinds."""
MOST_ID_CHARACTERS = 300
_REMOVED = object()
_WORD = re.compile(r"\w+")
_WORD_CHARACTER = re.compile(r"\w")


def people_in(value: object) -> set[str]:
    """Return the ids of the people in `from`, `to` or `participants`.

    The value is an object, an id alone, a list or `{"data": [...]}`.

    >>> sorted(people_in({"data": [{"id": "1", "name": "Ada"}, {"id": 2}, "3"]}))
    ['1', '2', '3']
    """
    if _is_id(value):
        return {str(value)}
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


def names_in(value: object, is_person: IsPerson) -> set[str]:
    """Return the names, user names and addresses of the person in a payload.

    >>> payload = {"to": [{"id": "1", "name": "Ada"}], "by": {"user": {"id": 2, "name": "Bob"}}}
    >>> names_in(payload, {"1"}.__contains__)
    {'Ada'}
    """
    if isinstance(value, list):
        return set().union(*(names_in(item, is_person) for item in value))
    if not isinstance(value, Mapping):
        return set()
    names = set().union(*(names_in(item, is_person) for item in value.values()))
    if any(_is_id(item) and is_person(str(item)) for item in value.values()):
        texts = [value.get(key) for key in NAME_KEYS]
        names.update(text for text in texts if isinstance(text, str) and len(text.strip()) > 1)
    return names


def without_person(value: object, is_person: IsPerson, redact: Redact = str) -> object:
    """Return a copy of the value without the person: objects, ids alone, and names.

    An object of somebody else in the same payload keeps its name.

    >>> payload = {"to": {"data": [{"id": "1"}, {"id": "2"}]}, "from": {"id": "1"}, "seen": ["1"]}
    >>> without_person(payload, {"1"}.__contains__)
    {'to': {'data': [{'id': '2'}]}, 'seen': []}
    >>> without_person({"id": "t", "name": "Ada, Bob"}, {"1"}.__contains__, IdMatcher(["Ada"]).cut)
    {'id': 't', 'name': '(forgotten), Bob'}
    """
    people = people_of_message(value)
    if isinstance(value, Mapping):
        people |= people_in(value.get("participants"))
    others = frozenset(each for each in people if not is_person(each))
    rest = _Cut(is_person, redact, others).apply(value, is_root=True)
    return None if rest is _REMOVED else rest


@dataclass(frozen=True)
class _Cut:
    """Removal of one person from a JSON value."""

    is_person: IsPerson
    redact: Redact
    others: frozenset[str]

    def apply(self, value: object, key: str = "", *, is_root: bool = False) -> object:
        if isinstance(value, list):
            items = (self.apply(item, key, is_root=is_root) for item in value)
            return [item for item in items if item is not _REMOVED]
        if isinstance(value, Mapping):
            return self._cut_object(value, is_root=is_root)
        if self._is_theirs(value):
            return _REMOVED
        if not isinstance(value, str) or key in UNSEARCHED_KEYS:
            return value
        rest = self.redact(value)
        return _REMOVED if rest == REPLACEMENT != value else rest

    def _cut_object(self, value: Mapping[str, object], *, is_root: bool) -> object:
        own_id = value.get("id")
        if own_id is not None and self._is_theirs(own_id):
            return _REMOVED
        if own_id is None and not is_root and self._describes_person(value):
            return _REMOVED
        is_other = own_id is not None and str(own_id) in self.others
        rest = {}
        for key, item in value.items():
            is_kept = is_other and key in NAME_KEYS
            new = item if is_kept else self.apply(item, key)
            if new is not _REMOVED and not self._is_theirs(key):
                rest[key] = new
        return rest

    def _describes_person(self, value: Mapping[str, object]) -> bool:
        """Return whether an object without an `id` of its own is the person: by id or by name."""
        names = (value.get(key) for key in NAME_KEYS)
        return any(map(self._is_theirs, value.values())) or any(
            isinstance(name, str) and self.redact(name) == REPLACEMENT != name for name in names
        )

    def _is_theirs(self, value: object) -> bool:
        return _is_id(value) and self.is_person(str(value))


def _is_id(value: object) -> bool:
    """Return whether a value can be an id: a short text without spaces, or a whole number."""
    if isinstance(value, str):
        return 0 < len(value) <= MOST_ID_CHARACTERS and not any(map(str.isspace, value))
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30


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

    def cut(self, text: str) -> str:
        """Return the text with `REPLACEMENT` in the place of each id."""
        return self.replace(text, REPLACEMENT)

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
