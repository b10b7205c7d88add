"""Decide the account's own id from the API's answer and from the people of its conversations. Pure.

The own id decides the direction of every message. The account takes part in each of its
conversations, so an id that others surpass there is not the account's. An app-scoped id, the id of
a person, or an id of a customer does not pass this test.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.extract.observations import account_in_id
from convo_pipeline.extract.spool import OwnIdentity

MOST_CONVERSATIONS = 500
"""Conversations whose people are collected: the newest ones that a run observed."""
ENOUGH_TO_INFER, ENOUGH_TO_CONTRADICT = 2, 3
"""Conversations of two with a common person that show the account: without another claim, and
against an id or user name of a person who takes part in one of them."""


@dataclass
class OwnIdClues:
    """The people of the conversations that a run observed, and their user names."""

    _people: dict[str, set[str]] = field(default_factory=dict)
    """By conversation: participants, senders and recipients."""
    _ids_of_name: dict[str, set[str]] = field(default_factory=dict)
    _accounts_in_ids: set[str] = field(default_factory=set)
    """The account ids that Instagram's ids of conversations and messages contain."""

    def add_conversation(self, conversation_id: str, row: dict[str, object]) -> None:
        if conversation_id not in self._people:
            if len(self._people) >= MOST_CONVERSATIONS:
                return
            self._note_account_in(conversation_id)
        people = self._people.setdefault(conversation_id, set())
        people.update(self._read_people(row.get("participants")))

    def add_message(self, conversation_id: str, row: object) -> None:
        if isinstance(row, dict):
            self.add_conversation(conversation_id, {})
            people = self._people.get(conversation_id)
            if people is not None:
                people.update(self._read_people(row.get("from")), self._read_people(row.get("to")))
                self._note_account_in(readable_id(row) or "")

    def _note_account_in(self, meta_id: str) -> None:
        account_id = account_in_id(meta_id)
        if account_id is not None:
            self._accounts_in_ids.add(account_id)

    def decide(self, asked: OwnIdentity, stored: OwnIdentity, stored_count: int) -> OwnIdentity:
        """Return who the account is; without own id if the evidence conflicts or is thin.

        The order is: the id that the API returned now, the stored one, the person with the
        account's user name, the account in Instagram's ids, the one person common to all
        conversations of two. Without any evidence the stored identity stays. It also stays where
        earlier runs stored more conversations (`stored_count`) than contradict it now.
        """
        username = asked.own_username or stored.own_username
        if not any(self._people.values()):
            is_stored = stored.own_id is not None or stored_count > 0
            return stored if is_stored else asked
        for known in (asked, stored):
            if self._fits(known.own_id):
                return OwnIdentity(known.own_id, username, known.own_id_source)
        ids_of_name = self._ids_of_name.get(_plain(username or ""), set())
        named = set(filter(self._fits, ids_of_name))
        if len(named) == 1:
            return OwnIdentity(named.pop(), username, "username")
        told_ids = filter(None, (asked.own_id, stored.own_id, *ids_of_name))
        is_contradicted = any(map(self._is_seen, told_ids))
        inferred = self._infer(ENOUGH_TO_CONTRADICT if is_contradicted else ENOUGH_TO_INFER)
        if inferred is not None:
            return OwnIdentity(inferred, username, "inferred")
        pair_count = len(list(self._pairs()))
        is_kept = pair_count < min(ENOUGH_TO_CONTRADICT, stored_count)
        own_id, source = (stored.own_id, stored.own_id_source) if is_kept else (None, None)
        return OwnIdentity(own_id, username, source)

    def _fits(self, own_id: str | None) -> bool:
        """Return whether this id can be the account's.

        It takes part in a conversation or is in Instagram's ids, no other id takes part in more
        conversations of two, and Instagram's ids name no other person of a conversation.
        """
        if own_id is None or not (self._is_seen(own_id) or own_id in self._accounts_in_ids):
            return False
        counts = Counter(person for pair in self._pairs() for person in pair)
        is_surpassed = counts[own_id] < max(counts.values(), default=0)
        others = filter(self._is_seen, self._accounts_in_ids - {own_id})
        return not is_surpassed and not any(others)

    def _is_seen(self, person_id: str) -> bool:
        return any(person_id in people for people in self._people.values())

    def _infer(self, enough: int) -> str | None:
        """Return the only id that can be the account's; None if no id or several can.

        `enough` is how many conversations of two it takes.
        """
        for account_id in filter(self._is_seen, self._accounts_in_ids):
            if self._fits(account_id):
                return account_id
        pairs = list(self._pairs())
        common = set.intersection(*pairs) if len(pairs) >= enough else set()
        return common.pop() if len(common) == 1 else None

    def _pairs(self) -> Iterator[set[str]]:
        """Yield the people of each conversation of two: the account and a customer."""
        return (people for people in self._people.values() if len(people) == 2)

    def _read_people(self, value: object) -> Iterable[str]:
        """Yield the ids in `{"data": [..]}`, in a list or in a single object; note user names."""
        if isinstance(value, dict) and "data" in value:
            value = value["data"]
        for entry in value if isinstance(value, list) else [value]:
            person_id = readable_id({"id": entry} if isinstance(entry, str | int) else entry)
            if person_id is not None:
                username = entry.get("username") if isinstance(entry, dict) else None
                if isinstance(username, str) and username:
                    self._ids_of_name.setdefault(_plain(username), set()).add(person_id)
                yield person_id


def _plain(username: str) -> str:
    """Return a user name as Instagram stores it: in small letters, without `@`."""
    return username.lower().removeprefix("@")
