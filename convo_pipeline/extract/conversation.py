"""One conversation's own calls: older pages of its messages, and single messages that came bare.

It asks and spools; when to stop is decided in `walk`, what a row means in `rows`.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from convo_pipeline.errors import (
    ConvoError,
    GraphError,
    MissingError,
    PayloadError,
    TooMuchDataError,
    UnknownFieldError,
    UnreachableError,
)
from convo_pipeline.extract import rows
from convo_pipeline.extract.contents import Journal
from convo_pipeline.extract.spool import Record
from convo_pipeline.extract.walk import Walk, bare_beyond, bare_readable
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.fields import message_field_names, message_fields
from convo_pipeline.graph.ladder import EDGES, Edge, Rung, smaller_edge
from convo_pipeline.graph.pages import Page

MOST_EMPTY_PAGES = 3
SETTLED_AFTER_US = 2 * rows.SECOND
BARE_FIELDS = ("id", "created_time")
MESSAGE_FAILED = "message_failed"


@dataclass(frozen=True)
class Listed:
    """A conversation as an answer showed it: its newest messages nested, and the time of that answer."""

    conversation_id: str
    updated_us: int | None
    nested: Page
    walk: Walk
    rung: Rung
    is_current: bool = False
    """Listed without messages, and its time of activity is the one that is held."""

    @property
    def dropped(self) -> frozenset[str]:
        return self.rung.dropped_names

    @property
    def at_us(self) -> int:
        return rows.to_us(self.nested.server_time)

    @property
    def is_settled(self) -> bool:
        """Whether the second of its last activity was over, so that the same time means: nothing more came."""
        return self.updated_us is not None and self.at_us - self.updated_us >= SETTLED_AFTER_US

    @cached_property
    def needs_no_call(self) -> bool:
        """Nothing older is wanted, and nothing came bare."""
        if self.is_current:
            return True
        is_walked = self.nested.after is None or self.walk.is_deep_enough
        return is_walked and not bare_readable(self.nested.rows, 1) and not bare_beyond(self.nested.rows, 1)


@dataclass
class RuleCheck:
    """One message a run and account confirms that beyond the newest 20 nothing can be read."""

    _holds: bool | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, is_readable: Callable[[], bool]) -> bool:
        """Return the answer; the first to ask finds it out, whoever asks meanwhile waits for it."""
        with self._lock:
            if self._holds is None:
                self._holds = not is_readable()
            return self._holds


@dataclass
class Footing:
    """How many messages a page the account gives: found once, then used for all its conversations in the run."""

    edge: Edge = EDGES[0]


@dataclass(frozen=True)
class ConversationReader:
    """Reads conversations of one account in one run; may be used by several threads."""

    client: GraphClient
    journal: Journal
    platform: str
    rule: RuleCheck
    is_held: Callable[[str, str, int], bool]
    """Whether (conversation_id, message_id, created_us) needs no asking: its content, or that it is gone, is held."""
    on_messages: Callable[[int], None]
    footing: Footing = field(default_factory=Footing)

    def read(self, listed: Listed) -> Record:
        """Read what is due of a conversation; return its state. Raises what ends it early."""
        walk, after = listed.walk, listed.nested.after
        is_whole = self._ask_bare(listed, listed.nested.rows, 1)
        cursors: set[str] = set()
        empty_pages = 0
        while after is not None and not walk.is_deep_enough:
            if after in cursors or empty_pages > MOST_EMPTY_PAGES:
                raise PayloadError("the message listing repeats itself")
            cursors.add(after)
            page = self._fetch_older(listed, after, walk.count + 1)
            is_whole &= self._ask_bare(listed, page.rows, walk.count + 1)
            empty_pages = 0 if page.rows else empty_pages + 1
            walk, after = walk.extend(page.rows), page.after
        return state_record(listed, walk, at_end=after is None, due_reason=None if is_whole else MESSAGE_FAILED)

    def _fetch_older(self, listed: Listed, after: str, first_rank: int) -> Page:
        """Read and spool one page of messages."""
        fields, page = self._fetch_page(listed, after)
        self.journal.append(
            {
                "kind": "edge",
                "at_us": rows.to_us(page.server_time),
                "conversation_id": listed.conversation_id,
                "updated_us": listed.updated_us,
                "first_rank": first_rank,
                "fields": fields,
                "rows": list(page.rows),
            }
        )
        self.on_messages(len(page.rows))
        return page

    def _fetch_page(self, listed: Listed, after: str) -> tuple[tuple[str, ...], Page]:
        """Ask for a page of messages, and for less until it is given; return it and the fields it was asked for."""
        edge = self.footing.edge
        while True:
            fields = ",".join(BARE_FIELDS) if edge.is_bare else message_fields(self.platform, listed.dropped)
            try:
                page = self.client.fetch_messages(listed.conversation_id, fields, edge.limit, after or None)
            except GraphError as error:
                smaller = smaller_edge(edge, error)
                if smaller is None:
                    raise
                edge = smaller
            else:
                break
        if edge.is_bare:
            return BARE_FIELDS, page
        self.footing.edge = edge
        return message_field_names(self.platform, listed.dropped), page

    def _ask_bare(self, listed: Listed, entries: Sequence[object], first_rank: int) -> bool:
        """Ask singly for bare messages inside the newest 20, and once a run beyond; False if one failed."""
        due, beyond = bare_readable(entries, first_rank), bare_beyond(entries, first_rank)
        if beyond and not self.rule.holds(lambda: self._ask(listed, *beyond[0]) == "detailed"):
            due += beyond
        return "failed" not in [self._ask(listed, *bare) for bare in due]

    def _ask(self, listed: Listed, rank: int, message_id: str, row: dict[str, object]) -> str:
        """Read and spool one message; return its `detail_status`."""
        created_us, source = rows.placed_time(row, message_id, listed.updated_us, listed.at_us)
        if rank <= rows.READABLE_RANKS and self.is_held(listed.conversation_id, message_id, created_us):
            return "held"
        record = {
            "kind": "message",
            "conversation_id": listed.conversation_id,
            "message_id": message_id,
            "created_us": created_us,
            "created_at_source": source,
            "rank": rank,
            "fields": message_field_names(self.platform, listed.dropped),
        }
        verdict = self._fetch_message(listed, message_id, rank)
        self.journal.append(record | verdict)
        return str(verdict["verdict"])

    def _fetch_message(self, listed: Listed, message_id: str, rank: int) -> Record:
        throttled_seconds = self.client.throttled_seconds
        try:
            answer = self.client.fetch_message(message_id, message_fields(self.platform, listed.dropped))
        except (MissingError, PayloadError, UnknownFieldError, TooMuchDataError, UnreachableError) as error:
            is_calm = self.client.throttled_seconds == throttled_seconds
            return {"at_us": listed.at_us, "payload": None, **judge(error, rank, is_calm)}
        at_us = rows.to_us(answer.server_time)
        if not isinstance(answer.body, dict) or rows.lacks_content(answer.body):
            no_refusal = PayloadError("a message's answer has no content")
            return {"at_us": at_us, "payload": None, **judge(no_refusal, rank, is_calm=True)}
        return {"at_us": at_us, "payload": answer.body, **_verdict("detailed")}


def judge(error: ConvoError, rank: int, is_calm: bool) -> Record:
    """Say what a refusal means for the message.

    Deleted and too old are one error, so the place decides: beyond the newest 20 a refusal adds nothing to what
    the bare row said. One that came while the account was throttled can mean "slow down" and says nothing either;
    an answer that refuses nothing and brings nothing is none: it is asked for again.
    """
    if rank > rows.READABLE_RANKS:
        return _verdict("beyond_20")
    is_refusal = isinstance(error, MissingError) and is_calm
    fault = error.fault if isinstance(error, GraphError) else None
    return _verdict("gone" if is_refusal else "failed", fault.code if fault else None, fault.subcode if fault else None)


def _verdict(status: str, code: int | None = None, subcode: int | None = None) -> Record:
    return {"verdict": status, "code": code, "subcode": subcode}


def state_record(listed: Listed, walk: Walk, *, at_end: bool, due_reason: str | None = None) -> Record:
    """Return how far a conversation is held now; `walked_down_to_us` is -1 for the very first message."""
    return {
        "kind": "state",
        "at_us": listed.at_us,
        "conversation_id": listed.conversation_id,
        "updated_us": listed.updated_us if listed.is_settled else None,
        "newest_message_id": walk.newest_message_id,
        "complete_since_us": walk.complete_since_us(at_end),
        "walked_down_to_us": -1 if at_end else walk.low_us,
        "due_reason": due_reason,
    }


def failed_state_record(conversation_id: str, at_us: int, due_reason: str | None) -> Record:
    """Return that a conversation could not be read to its end; what is known of it stays."""
    return {
        "kind": "state",
        "at_us": at_us,
        "conversation_id": conversation_id,
        "updated_us": None,
        "newest_message_id": None,
        "complete_since_us": None,
        "walked_down_to_us": None,
        "due_reason": due_reason,
    }
