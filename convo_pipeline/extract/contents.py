"""What a run's records say, sorted: messages by date on disk, conversations and states in memory.

Records come from the calls as they are answered, or from a spool that a killed run left: the same records give the
same contents. It calls no API and writes no table.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.threads import PARSE_LOCK
from convo_pipeline.base.times import DAY_US, EPOCH, SECOND_US, day_of, day_start_us
from convo_pipeline.extract.absence import Span, span_of
from convo_pipeline.extract.buckets import Buckets
from convo_pipeline.extract.missed import Claim
from convo_pipeline.extract.observations import (
    ConversationObservation,
    MessageObservation,
    Reject,
    fields_json,
    read_conversation,
    read_messages,
    reject,
)
from convo_pipeline.extract.own_id import OwnIdClues
from convo_pipeline.extract.paging import dump_without_paging
from convo_pipeline.extract.spool import Record, Spool
from convo_pipeline.extract.suppression_filter import SuppressionFilter
from convo_pipeline.graph.responses import read_conversation_row
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import AccountSettings
from convo_pipeline.state.records import ConversationState

Placements = dict[tuple[str, str], date]
ESTIMATES = ("conversation", "listing")
"""Sources of a time that is not the message's own."""


@dataclass
class Journal:
    """Where the calls bring what they got: durably into the spool, and from there sorted at once.

    May be used by several threads. What was sorted is scratch: after a kill the spool is sorted again.
    """

    spool: Spool
    contents: "Contents"
    is_whole: bool = True
    """Whether all that is in the spool was sorted too."""
    _states: list[Record] = field(default_factory=list)
    """States of conversations that no record carries yet."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, record: Record) -> None:
        """Write one record durably, with the states noted so far, then sort it."""
        with self._lock:
            states, self._states = self._states, []
        if states:
            record = {**record, "states": [*record.get("states", ()), *states]}  # type: ignore[misc]
        self.spool.append(record)
        with self._lock, PARSE_LOCK:
            try:
                self.contents.read(record)
            except BaseException:
                self.is_whole = False
                raise

    def note(self, state: Record) -> None:
        """Let the next record carry a conversation's state: no file and no sync of its own.

        What it is about is on disk already. If the process is killed before, the next run asks the conversation again.
        """
        with self._lock:
            self._states.append(state)

    def flush(self) -> None:
        """Write the states that no record carries yet."""
        with self._lock:
            states, self._states = self._states, []
        if states:
            first, *others = states
            self.append({**first, "states": others})


@dataclass(frozen=True)
class OwnIdentity:
    """Who the account is inside its conversations, and how that is known."""

    own_id: str | None = None
    own_username: str | None = None
    source: str | None = None


@dataclass
class Contents:
    """Everything a run brought; `read` it record by record."""

    buckets: Buckets
    placements: Placements
    suppressor: SuppressionFilter
    conversations: dict[str, ConversationObservation] = field(default_factory=dict)
    states: dict[str, ConversationState] = field(default_factory=dict)
    walked_down_to: dict[str, tuple[int, int]] = field(default_factory=dict)
    spans: dict[str, list[Span]] = field(default_factory=dict)
    """What each conversation's pages span, by which a message that is not in them is known to be gone."""
    untimed: list[MessageObservation] = field(default_factory=list)
    rejects: dict[str, Reject] = field(default_factory=dict)
    clues: OwnIdClues = field(default_factory=OwnIdClues)
    known: OwnIdentity = OwnIdentity()
    claim: Claim | None = None
    """What had been claimed to be held, if this run swept it again."""
    conversations_with_messages: set[str] = field(default_factory=set)

    @classmethod
    def create(cls, store: Store, account: AccountSettings, spool: Spool) -> "Contents":
        """Return empty contents whose scratch files stand beside the spool."""
        placements = store.state.placements(account.name)
        return cls(
            Buckets(spool.folder / "buckets"), placements, SuppressionFilter.read(store, account)
        )

    def read(self, record: Record) -> None:
        """Sort one record and the states it carries, without what was forgotten; an unknown kind is a defect of ours."""
        states: Sequence[Record] = record.get("states", ())  # type: ignore[assignment]
        for part in (record, *states):
            kept = self.suppressor.clean(part)
            if kept is not None:
                READERS[str(kept["kind"])](self, kept)

    def read_account(self, record: dict[str, Any]) -> None:
        self.known = OwnIdentity(record["own_id"], record["own_username"], record["own_id_source"])

    def read_claim(self, record: dict[str, Any]) -> None:
        self.claim = Claim(record["since_us"], record["listed_until_us"])

    def read_listing(self, record: dict[str, Any]) -> None:
        at_us, fields = record["at_us"], tuple(record["fields"])
        for row in record["conversations"]:
            conversation_id = readable_id(row)
            if conversation_id is None:
                self._reject(reject(row, "a conversation without an id", at_us))
                continue
            observation = read_conversation(
                row, conversation_id, record["folder"], tuple(record["conversation_fields"]), at_us
            )
            self._keep_conversation(observation, row)
            self._add_messages(
                self._nested(row, at_us), conversation_id, observation.updated_us, 1, fields, at_us
            )

    def read_edge(self, record: dict[str, Any]) -> None:
        self._add_messages(
            record["rows"],
            record["conversation_id"],
            record["updated_us"],
            record["first_rank"],
            tuple(record["fields"]),
            record["at_us"],
        )

    def read_message(self, record: dict[str, Any]) -> None:
        """A message asked singly: its content, or the verdict on the refusal."""
        at_us, payload = record["at_us"], record["payload"]
        is_detailed = record["verdict"] == "detailed"
        observation = MessageObservation(
            conversation_id=record["conversation_id"],
            message_id=record["message_id"],
            created_us=record["created_us"],
            created_at_source=record["created_at_source"],
            rank=record["rank"],
            at_us=at_us,
            detail_status=record["verdict"],
            error_code=record["code"],
            error_subcode=record["subcode"],
            fields=fields_json(tuple(record["fields"]), at_us) if is_detailed else None,
            payload=dump_without_paging(payload) if is_detailed else None,
        )
        self._add_sightings(observation.conversation_id, [observation])
        self.clues.add_message(payload)

    def read_state(self, record: dict[str, Any]) -> None:
        """How far a conversation is held now."""
        conversation_id = record["conversation_id"]
        self.states[conversation_id] = ConversationState(
            conversation_id=conversation_id,
            updated_us=record["updated_us"],
            newest_message_id=record["newest_message_id"],
            complete_since_us=record["complete_since_us"],
            due_reason=record["due_reason"],
        )
        if record["walked_down_to_us"] is not None:
            self.walked_down_to[conversation_id] = (record["walked_down_to_us"], record["at_us"])

    def distrust(self) -> None:
        """Claim nothing of how far conversations were read, nor of what was absent: a part of the run is lost."""
        for claimed in (self.states, self.walked_down_to, self.spans):
            claimed.clear()

    def identity(self, store: Store, account: AccountSettings) -> OwnIdentity:
        """Return who we are: as asked, else as known from before, else as inferred."""
        if self.known.own_id:
            return self.known
        held = store.state.identity(account.name)
        if held and held.own_id:
            return OwnIdentity(held.own_id, held.own_username, held.own_id_source)
        own_id = self.clues.verdict()
        return OwnIdentity(own_id, None, "inferred" if own_id else None)

    def place_untimed(self, held: Placements) -> Placements:
        """File messages without a time of their own: where they stand already, else by the fallback, for good.

        `held` says where the lake has some of them; returned is where all of them stand now.
        """
        placed: Placements = {}
        known = self._where_timed() | held
        for observation in self.untimed:
            key = (observation.conversation_id, observation.message_id)
            day = placed.setdefault(key, known.get(key) or day_of(observation.created_us))
            self.buckets.add(_moved(observation, day))
        self.untimed.clear()
        return placed

    def _where_timed(self) -> Placements:
        """Return where messages stand that came once without a time and, in another answer of this run, with one."""
        wanted = {
            (observation.conversation_id, observation.message_id) for observation in self.untimed
        }
        found: Placements = {}
        for day in self.buckets.days() if wanted else ():
            met = self.buckets.read(day).select(["conversation_id", "message_id"])
            keys = wanted.intersection(
                zip(*(column.to_pylist() for column in met.columns), strict=True)
            )
            found |= dict.fromkeys(keys, day)
        return found

    def _keep_conversation(
        self, observation: ConversationObservation, row: dict[str, object]
    ) -> None:
        held = self.conversations.get(observation.conversation_id)
        if held is None or (observation.at_us, observation.folder or "") >= (
            held.at_us,
            held.folder or "",
        ):
            self.conversations[observation.conversation_id] = observation
        if not self.known.own_id:
            self.clues.add_conversation(observation.conversation_id, row)

    def _add_messages(
        self,
        entries: Sequence[object],
        conversation_id: str,
        updated_us: int | None,
        first_rank: int,
        fields: tuple[str, ...],
        at_us: int,
    ) -> None:
        found = read_messages(
            entries,
            conversation_id=conversation_id,
            updated_us=updated_us,
            first_rank=first_rank,
            fields=fields,
            at_us=at_us,
        )
        span = span_of(found, at_us)
        if span:
            self.spans.setdefault(conversation_id, []).append(span)
        self._add_sightings(
            conversation_id, [entry for entry in found if isinstance(entry, MessageObservation)]
        )
        for entry in found:
            if isinstance(entry, Reject):
                self._reject(entry)
        if not self.known.own_id:
            for row in entries:
                self.clues.add_message(row)

    def _add_sightings(self, conversation_id: str, observations: list[MessageObservation]) -> None:
        """Put messages under their days; those without a time of their own wait for `place_untimed`."""
        if not observations:
            return
        self.conversations_with_messages.add(conversation_id)
        if self.placements:
            known = [
                observation for observation in observations if _key(observation) in self.placements
            ]
            self.buckets.extend(
                [_moved(observation, self.placements[_key(observation)]) for observation in known]
            )
            observations = [
                observation
                for observation in observations
                if _key(observation) not in self.placements
            ]
        untimed = [
            observation
            for observation in observations
            if observation.created_at_source in ESTIMATES
        ]
        self.untimed += untimed
        self.buckets.extend(
            [each for each in observations if each.created_at_source not in ESTIMATES]
            if untimed
            else observations
        )

    def _nested(self, row: dict[str, object], at_us: int) -> Sequence[object]:
        conversation = read_conversation_row(row, EPOCH)
        if conversation.malformed_messages is not None:
            reason = f"the messages of conversation {readable_id(row)} are no list"
            self._reject(reject(conversation.malformed_messages, reason, at_us))
        return conversation.messages.rows

    def _reject(self, entry: Reject) -> None:
        self.rejects.setdefault(entry.digest, entry)


READERS: dict[str, Callable[[Contents, dict[str, Any]], None]] = {
    "account": Contents.read_account,
    "claim": Contents.read_claim,
    "listing": Contents.read_listing,
    "edge": Contents.read_edge,
    "message": Contents.read_message,
    "state": Contents.read_state,
}


def _key(observation: MessageObservation) -> tuple[str, str]:
    return observation.conversation_id, observation.message_id


def _moved(observation: MessageObservation, day: date) -> MessageObservation:
    """Keep a message on the day where it was first placed: a row never moves.

    The time it takes there loses every merge against the one that is held.
    """
    if day_of(observation.created_us) == day:
        return observation
    last_us = day_start_us(day) + DAY_US - SECOND_US
    return observation._replace(created_us=last_us, created_at_source="listing")
