"""Cut out of every answer what belongs to people who were forgotten, before it is stored.

A conversation that was forgotten, or that is between us and forgotten people alone, is dropped whole; from one with
others too, what they sent is dropped, and who they are is cut out of the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import EPOCH
from convo_pipeline.extract.spool import Record
from convo_pipeline.graph.responses import ConversationRow, read_conversation_row
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Suppression, read_suppression
from convo_pipeline.settings import AccountSettings
from convo_pipeline.tables.people import (
    is_one_to_one,
    is_sent_by,
    people_in,
    people_of_message,
    without_person,
)

OF_THE_ACCOUNT = ("account", "claim")
"""Kinds of records that are about no conversation."""


@dataclass
class SuppressionFilter:
    """What one account's run must not keep, and how much of it was met."""

    suppression: Suppression
    own_ids: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    _conversations: set[str] = field(default_factory=set)
    """Those that are dropped although no receipt names them."""
    _others: set[str] = field(default_factory=set)
    """Those whose people were listed, and they are not theirs."""

    @classmethod
    def read(cls, store: Store, account: AccountSettings) -> "SuppressionFilter":
        """Read who was forgotten."""
        identity = store.state.identity(account.name)
        own_ids = {account.page_id, *((identity.own_id,) if identity and identity.own_id else ())}
        return cls(read_suppression(store, account.name), frozenset(own_ids))

    def clean(self, record: Record) -> Record | None:
        """Return a spooled record without what was forgotten; None if nothing of it is left.

        The states that it carries are records of their own.
        """
        if self.suppression.is_empty or record["kind"] in OF_THE_ACCOUNT:
            return record
        if record["kind"] == "listing":
            entries: Sequence[object] = record["conversations"]  # type: ignore[assignment]
            kept = self.clean_conversations(
                [read_conversation_row(entry, EPOCH) for entry in entries]
            )
            return record | {"conversations": [row.to_json() for row in kept]}
        if self._is_dropped(record) or self._is_told_by(record):
            return None
        if record["kind"] == "edge":
            return record | {"rows": self._clean_messages(record["rows"])}  # type: ignore[arg-type]
        if record["kind"] == "message" and record["payload"] is not None:
            payloads = self._clean_messages([record["payload"]])
            return record | {"payload": payloads[0]} if payloads else None
        return record

    def clean_conversations(self, entries: Sequence[ConversationRow]) -> list[ConversationRow]:
        """Return a listing's conversations without forgotten ones."""
        if self.suppression.is_empty:
            return list(entries)
        return [
            self._clean_conversation(entry) for entry in entries if not self._is_forgotten(entry)
        ]

    def _is_forgotten(self, row: ConversationRow) -> bool:
        if not isinstance(row.payload, dict):
            return False
        conversation_id = readable_id(row.payload)
        people = people_in(row.payload.get("participants")) | people_in_messages(row.messages.rows)
        if self._is_theirs(people) or (
            conversation_id is not None and self.suppression.holds(conversation_id)
        ):
            self._drop(conversation_id or "")
            return True
        if people:
            self._others.add(conversation_id or "")
        return False

    def _is_told_by(self, record: Record) -> bool:
        """Drop a conversation that was listed without its people, where its messages tell that it is theirs."""
        conversation_id = str(record["conversation_id"])
        entries = record.get("rows", (record.get("payload"),))
        if conversation_id in self._others or not self._is_theirs(people_in_messages(entries)):  # type: ignore[arg-type]
            return False
        self._drop(conversation_id)
        return True

    def _is_theirs(self, people: set[str]) -> bool:
        is_met = any(map(self.suppression.holds, people))
        return is_met and is_one_to_one(people, self.own_ids, self.suppression.holds)

    def _drop(self, conversation_id: str) -> None:
        if conversation_id not in self._conversations:
            self.counts["suppressed_conversations"] += 1
        self._conversations.add(conversation_id)

    def _clean_conversation(self, row: ConversationRow) -> ConversationRow:
        holds = self.suppression.holds
        return ConversationRow(
            without_person(row.payload, holds),
            replace(row.messages, rows=tuple(self._clean_messages(row.messages.rows))),
            without_person(row.malformed_messages, holds),
        )

    def _clean_messages(self, entries: Sequence[object]) -> list[object]:
        kept = [entry for entry in entries if not is_sent_by(entry, self.suppression.holds)]
        self.counts["suppressed_messages"] += len(entries) - len(kept)
        return [without_person(entry, self.suppression.holds) for entry in kept]

    def _is_dropped(self, record: Record) -> bool:
        return not self.keeps(str(record["conversation_id"]))

    def keeps(self, conversation_id: str) -> bool:
        """Whether a conversation may be named: it is of nobody who was forgotten, as far as is known by now."""
        return conversation_id not in self._conversations and not self.suppression.holds(
            conversation_id
        )


def people_in_messages(entries: Sequence[object]) -> set[str]:
    """Return who sent these messages and who received them."""
    return set().union(*map(people_of_message, entries))
