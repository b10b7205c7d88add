"""Take a person out of what the API said. Pure: payloads in, payloads out; who the person is, `is_person` decides.

A person is an object with an `id` of theirs: a participant, a sender, a recipient, a reactor. Names and texts are
not searched: what other people wrote about somebody is theirs.
"""

from collections.abc import Callable, Mapping

IsPerson = Callable[[str], bool]
NOTHING = object()


def people_in(value: object) -> set[str]:
    """Return the ids of the people in `from`, `to`, `participants`: an object, a list or `{"data": [...]}`.

    >>> sorted(people_in({"data": [{"id": "1", "name": "Ada"}, {"id": 2}]}))
    ['1', '2']
    """
    if isinstance(value, list):
        return {found for item in value for found in people_in(item)}
    if not isinstance(value, Mapping):
        return set()
    own = {str(value["id"])} if value.get("id") not in (None, "") else set()
    return own | people_in(value.get("data"))


def people_of_message(message: object) -> set[str]:
    """Return who sent a message and who received it."""
    return (
        people_in(message.get("from")) | people_in(message.get("to"))
        if isinstance(message, Mapping)
        else set()
    )


def is_sent_by(message: object, is_person: IsPerson) -> bool:
    """Say whether the person sent the message."""
    return isinstance(message, Mapping) and any(map(is_person, people_in(message.get("from"))))


def is_one_to_one(people: set[str], own_ids: frozenset[str], is_person: IsPerson) -> bool:
    """Say whether a conversation of these people is between us and the person alone.

    >>> is_one_to_one({"us", "ada"}, frozenset({"us"}), {"ada"}.__contains__)
    True
    >>> is_one_to_one({"us", "ada", "bob"}, frozenset({"us"}), {"ada"}.__contains__)
    False
    """
    others = {person for person in people if person not in own_ids and not is_person(person)}
    return not others or len(people) <= 2


def without_person(value: object, is_person: IsPerson) -> object:
    """Return the value without any object that is the person; the input stays as it is.

    >>> without_person({"to": {"data": [{"id": "1"}, {"id": "2"}]}, "from": {"id": "1"}}, {"1"}.__contains__)
    {'to': {'data': [{'id': '2'}]}}
    """
    left = _cut(value, is_person)
    return None if left is NOTHING else left


def _cut(value: object, is_person: IsPerson) -> object:
    if isinstance(value, list):
        return [left for item in value if (left := _cut(item, is_person)) is not NOTHING]
    if not isinstance(value, Mapping):
        return value
    if value.get("id") is not None and is_person(str(value["id"])):
        return NOTHING
    return {
        key: left for key, item in value.items() if (left := _cut(item, is_person)) is not NOTHING
    }
