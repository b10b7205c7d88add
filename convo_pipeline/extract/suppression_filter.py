"""Remove the data of erased people from responses before it is stored.

A conversation that was erased, or that is only between the account and erased people, is dropped.
In a conversation with others too, the messages of erased people are dropped, and their ids and
names are removed from the rest.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from convo_pipeline.base.json_text import dump_json, load_json, readable_id
from convo_pipeline.extract.observations import ERASED_ROW
from convo_pipeline.extract.spool import (
    ListingRecord,
    MessageRecord,
    MessagesRecord,
    Record,
    StateRecord,
)
from convo_pipeline.graph.responses import ConversationRow
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import SuppressionList, read_suppression
from convo_pipeline.schema import CUT_KEY
from convo_pipeline.settings import AccountSettings
from convo_pipeline.tables.people import (
    IdMatcher,
    is_one_to_one,
    is_sent_by,
    names_in,
    people_in,
    people_of_message,
    without_person,
)


@dataclass
class SuppressionFilter:
    """The erased people of one account, and counts of what was removed because of them."""

    suppression: SuppressionList
    own_ids: frozenset[str] = frozenset()
    knows_own_id: bool = False
    """Whether the account's id in conversations is among `own_ids`."""
    counts: Counter[str] = field(default_factory=Counter)
    _dropped_ids: set[str] = field(default_factory=set)
    """Conversations that are dropped although the erasure did not name them."""
    _names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Names of erased people that this run's responses contained, by conversation."""
    _erased_message_ids: set[str] = field(default_factory=set)
    """Messages of erased people in this run: they leave the replies of others."""
    _kept_ids: set[str] = field(default_factory=set)
    """Conversations that were listed with their people and are not only with erased people."""

    @classmethod
    def read(cls, store: Store, account: AccountSettings) -> "SuppressionFilter":
        """Return the filter for everybody who was erased from the account."""
        identity = store.state.identity(account.name)
        own_id = identity.own_id if identity else None
        own_ids = frozenset({account.page_id, *([own_id] if own_id else [])})
        knows_own_id = own_id is not None or account.platform == "messenger"
        return cls(read_suppression(store, account.name), own_ids, knows_own_id)

    def clean(self, record: Record) -> Record | None:
        """Return the record without the data of erased people; None if nothing is left."""
        if self.suppression.is_empty:
            return record
        match record:
            case ListingRecord():
                rows = tuple(self.clean_conversations(record.conversations))
                return replace(record, conversations=rows)
            case MessagesRecord():
                if self._is_dropped(record.conversation_id, record.rows):
                    return None
                messages = self._clean_messages(record.conversation_id, record.rows)
                return replace(record, rows=tuple(messages))
            case MessageRecord():
                if self._is_dropped(record.conversation_id, (record.payload,)):
                    return None
                if record.payload is None:
                    return record
                (payload,) = self._clean_messages(record.conversation_id, [record.payload])
                return None if payload == ERASED_ROW else replace(record, payload=payload)
            case StateRecord():
                state = record.state
                if state.newest_message_id in self._erased_message_ids:
                    record = replace(record, state=replace(state, newest_message_id=None))
                return record if self.keeps(state.conversation_id) else None
        return record

    def clean_conversations(self, rows: Sequence[ConversationRow]) -> list[ConversationRow]:
        """Return listed conversations without the data of erased people."""
        if self.suppression.is_empty:
            return list(rows)
        return [self._clean_conversation(row) for row in rows if not self._is_erased(row)]

    def keeps(self, conversation_id: str) -> bool:
        """Whether a conversation may be named; more may become known later in the run."""
        return conversation_id not in self._dropped_ids and not self.suppression.contains(
            conversation_id
        )

    def _is_erased(self, row: ConversationRow) -> bool:
        if not isinstance(row.payload, dict):
            return False
        conversation_id = row.conversation_id or ""
        participants = row.payload.get("participants")
        people = people_in(participants) | _people_of(row.messages.rows)
        are_all = bool(people_in(participants)) and not _is_cut(participants)
        if self._has_only_erased(people, are_all) or self.suppression.contains(conversation_id):
            self._drop(conversation_id)
            return True
        if people:
            self._kept_ids.add(conversation_id)
        return False

    def _is_dropped(self, conversation_id: str, messages: Sequence[object]) -> bool:
        """Whether to drop messages; a listing without people may leave the decision to them."""
        if not self.keeps(conversation_id):
            return True
        people = _people_of(messages)
        if conversation_id in self._kept_ids or not self._has_only_erased(people, are_all=False):
            return False
        self._drop(conversation_id)
        return True

    def _has_only_erased(self, people: set[str], are_all: bool) -> bool:
        """Return whether a conversation is between the account and erased people.

        `are_all`: these are all its people. Else a person that is not the account may be the third:
        a page of a group can hold messages of two people only.
        """
        holds = self.suppression.contains
        if not any(map(holds, people)):
            return False
        if are_all or not self.knows_own_id:
            return is_one_to_one(people, self.own_ids, holds)
        return all(person in self.own_ids or holds(person) for person in people)

    def _drop(self, conversation_id: str) -> None:
        self.counts["suppressed_conversations"] += conversation_id not in self._dropped_ids
        self._dropped_ids.add(conversation_id)

    def _clean_conversation(self, row: ConversationRow) -> ConversationRow:
        id_ = row.conversation_id or ""
        self._names[id_] |= names_in(row.payload, self.suppression.contains)
        messages = self._clean_messages(id_, row.messages.rows)
        return ConversationRow(
            self.clean_value(row.payload, id_),
            replace(row.messages, rows=tuple(messages)),
            self.clean_value(row.malformed_messages, id_),
        )

    def _clean_messages(self, conversation_id: str, messages: Sequence[object]) -> list[object]:
        """Return the messages without data of erased people; their own are `ERASED_ROW`.

        So the other messages keep their ranks.
        """
        holds = self.suppression.contains
        kept = [ERASED_ROW if is_sent_by(_parsed(each), holds) else each for each in messages]
        self.counts["suppressed_messages"] += kept.count(ERASED_ROW) - messages.count(ERASED_ROW)
        for message in map(_parsed, messages):
            self._names[conversation_id] |= names_in(message, holds)
            if is_sent_by(message, holds) and (message_id := readable_id(message)):
                self._erased_message_ids.add(message_id)
        return [self.clean_value(message, conversation_id) for message in kept]

    def clean_value(self, value: object, conversation_id: str = "") -> object:
        """Return any JSON value, or the text of one, without ids and names of erased people."""
        if self.suppression.is_empty:
            return value
        parsed = _parsed(value)
        names = IdMatcher(self._names[conversation_id])

        def is_theirs(id_: str) -> bool:
            return self.suppression.contains(id_) or id_ in self._erased_message_ids

        def redact(text: str) -> str:
            return self.suppression.redact(conversation_id, names.cut(text))

        cleaned = without_person(parsed, is_theirs, redact)
        if parsed is value:
            return cleaned
        return value if cleaned == parsed else dump_json(cleaned).decode()


def _parsed(value: object) -> object:
    """Return the object in the text of a row that exceeds the limits; any other value as it is."""
    if isinstance(value, str):
        with suppress(ValueError):
            parsed = load_json(value, unique_keys=True)
            return parsed if isinstance(parsed, dict) else value
    return value


def _is_cut(listed: object) -> bool:
    """Return whether a list inside a row has a next page that was not read yet."""
    paging = listed.get("paging") if isinstance(listed, Mapping) else None
    has_next = isinstance(paging, Mapping) and "next" in paging
    return has_next or (isinstance(listed, Mapping) and CUT_KEY in listed)


def _people_of(messages: Sequence[object]) -> set[str]:
    """Return who sent these messages and who received them."""
    return set().union(*map(people_of_message, map(_parsed, messages)))
