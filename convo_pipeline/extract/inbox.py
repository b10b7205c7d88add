"""One inbox: its listing, then what each conversation still lacks; all of it spooled.

It decides nothing about HTTP (`graph`) and writes no table (`load`). Up to four conversations are read at a
time; the order of their answers does not matter. One conversation's failure never costs its neighbours.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.threads import ThreadPool
from convo_pipeline.base.times import parse_time_us, to_us
from convo_pipeline.errors import (
    STOPPING,
    ConvoError,
    GraphError,
    UnreachableError,
)
from convo_pipeline.extract.contents import Journal
from convo_pipeline.extract.conversation import (
    EMPTY_EDGE,
    UNREAD,
    ConversationReader,
    Listed,
    failed_state_record,
    state_record,
)
from convo_pipeline.extract.newest20_probe import says_absent
from convo_pipeline.extract.spool import Record
from convo_pipeline.extract.walk import Held, Walk
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.codes import is_outage, is_permanent
from convo_pipeline.graph.ladder import TOP, Rung
from convo_pipeline.graph.listing import ListedPage, Listing
from convo_pipeline.graph.responses import ConversationRow, Page
from convo_pipeline.reasons import reason_of
from convo_pipeline.state.records import GIVEN_UP, GIVEN_UP_REASONS, GIVEN_UP_UNSHOWN

WALKS_IN_FLIGHT = 4
UNREACHABLE_IN_A_ROW = 3
FAULTS_IN_A_ROW = 10
"""So many conversations that the server fails on, one after the other, are its own failure; code 1 may be theirs."""
CONVERSATION_FAILED = "conversation_failed"
REFUSED = "refused"
"""Why a conversation is due that was refused in a way that asking again does not cure; refused again, it is given up."""
ANSWER = "answer"


@dataclass(frozen=True)
class Known:
    """What earlier runs left in the state of one account."""

    held: Mapping[str, Held] = field(default_factory=dict)
    updated_us: Mapping[str, int | None] = field(default_factory=dict)
    due_reasons: Mapping[str, str] = field(default_factory=dict)
    """Why conversations have to be asked again: what they failed with last, by their ids."""
    reread_since_us: int | None = None
    """From which last activity on edits and reactions are looked for: they do not move that time."""
    trusted_before_us: int | None = None
    """Activity before this was over when the last complete run listed it: there the time alone tells that nothing came."""
    is_swept: bool = False
    """Whether conversations are walked as if nothing of them were held: what was missed is found."""

    @property
    def due(self) -> frozenset[str]:
        """Conversations to ask by their ids if they are not listed."""
        return frozenset(
            key
            for key, reason in self.due_reasons.items()
            if reason not in GIVEN_UP_REASONS or self.is_swept
        )

    def was_failing(self, conversation_id: str) -> bool:
        """Whether the server failed on a conversation when it was asked last: that may pass, and it may stay for ever."""
        return self.due_reasons.get(conversation_id) == ANSWER

    def was_refused(self, conversation_id: str) -> bool:
        """Whether a conversation was refused when it was asked last, in a way that asking again does not cure."""
        return self.due_reasons.get(conversation_id) in {REFUSED, *GIVEN_UP_REASONS}


@dataclass
class Fetched:
    """What the account's calls came to; their content is in the spool."""

    reasons: set[str] = field(default_factory=set)
    error: ConvoError | None = None
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, ConvoError] = field(default_factory=dict)
    """What each conversation that could not be read failed with."""


class InboxReader:
    """The calls of one account in one run."""

    def __init__(
        self,
        client: GraphClient,
        reader: ConversationReader,
        journal: Journal,
        known: Known,
        *,
        since_us: int,
        rung: Rung = TOP,
        on_conversations: Callable[[int], None] = lambda count: None,
        clean: Callable[[Sequence[ConversationRow]], Sequence[ConversationRow]] = lambda listed: (
            listed
        ),
    ) -> None:
        self.fetched = Fetched()
        self._client = client
        self._reader = reader
        self._journal = journal
        self._known = known
        self._since_us = since_us
        self._rung = rung
        self._on_conversations = on_conversations
        self._clean = clean
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._doubt = threading.Lock()
        """Held while it is found out whether the server fails on everything: nobody begins a conversation then."""
        self._unreachable_in_a_row = self._faults_in_a_row = 0
        self._seen: set[str] = set()
        self._well: set[str] = set()
        """Conversations that can be read: in this run or an earlier one they were."""

    def fetch(self, listing: Listing) -> Fetched:
        """Read everything the listing brings, then what is due from before; never raises a ConvoError."""
        with ThreadPool(WALKS_IN_FLIGHT, thread_name_prefix="walk") as pool:
            reads: list[Future[None]] = []
            try:
                for page in listing.pages():
                    reads += [pool.submit(self._read, listed) for listed in self._take_page(page)]
                    self._on_conversations(len(page.rows))
                    if self._stop.is_set():
                        break
            except ConvoError as error:
                self._end(error)
            except BaseException:
                self._stop.set()  # whoever reads for us shall not go on for nobody
                raise
            reads += [
                pool.submit(self.revisit, conversation_id)
                for conversation_id in sorted(self._known.due - self._seen)
            ]
            for read in reads:
                read.result()
        return self.fetched

    def adds_nothing(self, row: ConversationRow) -> bool:
        """Whether a listed conversation is held as it is: below such a page, and old ones, nothing can be new."""
        conversation_id, updated_us = readable_id(row.payload), _updated_us(row)
        if conversation_id is None or not self._is_current(conversation_id, updated_us):
            return False
        entries = row.messages.rows
        if not entries:
            return self._is_trusted(updated_us)
        return readable_id(entries[0]) == self._known.held[conversation_id].newest_message_id

    def revisit(self, conversation_id: str) -> None:
        """Ask one conversation by its id, with its newest messages nested, and read what it lacks."""
        if not self._is_ended():
            self._guard(conversation_id, 0, lambda: self._revisit(conversation_id))

    def _take_page(self, page: ListedPage) -> list[Listed]:
        """Spool a page with the states of the conversations that need no more; return the others."""
        page = replace(page, rows=tuple(self._clean(page.rows)))
        self._rung = page.rung
        listed = [self._listed(row, page) for row in page.rows if readable_id(row.payload)]
        with self._lock:
            self._seen.update(conversation.conversation_id for conversation in listed)
        self._tally("listed", len(listed))
        done = [conversation for conversation in listed if conversation.needs_no_call]
        lacking = [conversation for conversation in listed if not conversation.needs_no_call]
        wanted = [conversation for conversation in lacking if not conversation.is_given_up]
        states = [
            state_record(each, each.walk, at_end=each.nested.after is None)
            for each in done
            if not each.is_current
        ]
        self._spool_listing(page, states)
        self._count(done)
        with self._lock:
            self._well.update({each.conversation_id for each in done} & self._known.held.keys())
        self._tally("unchanged", len(lacking) - len(wanted))
        return wanted

    def _listed(self, row: ConversationRow, page: ListedPage) -> Listed:
        conversation_id = readable_id(row.payload)
        assert conversation_id is not None
        updated_us = _updated_us(row)
        held = None if self._known.is_swept else self._known.held.get(conversation_id)
        walk = Walk(self._since_us, held)
        nested = row.messages
        is_current, is_shown = False, page.messages_limit > 0 and bool(nested.rows)
        if not is_shown:
            is_current = self._is_current(conversation_id, updated_us) and self._is_trusted(
                updated_us
            )
            nested = Page((), UNREAD, page.server_time)
        return Listed(
            conversation_id,
            updated_us,
            nested,
            walk.extend(nested.rows),
            page.rung,
            page.messages_limit,
            is_current,
            is_given_up=self._is_given_up(conversation_id, updated_us, is_shown),
            was_empty=self._known.due_reasons.get(conversation_id) == EMPTY_EDGE,
        )

    def _is_given_up(self, conversation_id: str, updated_us: int | None, is_shown: bool) -> bool:
        reason = self._known.due_reasons.get(conversation_id)
        is_left = reason == GIVEN_UP or (reason == GIVEN_UP_UNSHOWN and not is_shown)
        return is_left and not self._known.is_swept and self._is_trusted(updated_us)

    def _is_current(self, conversation_id: str, updated_us: int | None) -> bool:
        """Whether what is held is as new as what was listed and as deep as is asked, as far as times can tell."""
        if updated_us is None or self._known.updated_us.get(conversation_id) != updated_us:
            return False
        held, reread_since_us = self._known.held.get(conversation_id), self._known.reread_since_us
        is_deep_enough = held is not None and held.complete_since_us <= self._since_us
        is_due = conversation_id in self._known.due or (
            reread_since_us is not None and updated_us >= reread_since_us
        )
        return is_deep_enough and not is_due

    def _is_trusted(self, updated_us: int | None) -> bool:
        """Whether the time of activity alone, no message being shown, tells that nothing came within the same second."""
        before_us = self._known.trusted_before_us
        return updated_us is not None and before_us is not None and updated_us < before_us

    def _count(self, done: Sequence[Listed]) -> None:
        unchanged = list(filter(self._is_unchanged, done))
        self._tally("unchanged", len(unchanged))
        self._tally("fetched", len(done) - len(unchanged))
        with self._lock:
            self.fetched.counts["messages_unchanged"] += sum(
                len(listed.nested.rows) for listed in unchanged
            )

    def _tally(self, fate: str, count: int = 1) -> None:
        """Count conversations by what became of them: `RUN_PARTS` must add up."""
        with self._lock:
            self.fetched.counts[f"conversations_{fate}"] += count

    def _is_unchanged(self, listed: Listed) -> bool:
        """Same time of activity and same newest message as held: a message of the same second is not overlooked."""
        if listed.is_current:
            return True
        held = self._known.held.get(listed.conversation_id)
        is_same_time = self._known.updated_us.get(listed.conversation_id) == listed.updated_us
        return (
            held is not None
            and is_same_time
            and held.newest_message_id == listed.walk.newest_message_id
        )

    def _spool_listing(self, page: ListedPage, states: Sequence[Record]) -> None:
        self._journal.append(
            {
                "kind": "listing",
                "at_us": to_us(page.server_time),
                "folder": page.folder,
                "fields": page.message_fields,
                "conversation_fields": page.conversation_fields,
                "conversations": [row.to_json() for row in page.rows],
                "states": states,
            }
        )

    def _read(self, listed: Listed) -> None:
        if self._is_ended():
            self._tally("pending")
            return
        is_shown = bool(listed.nested.rows)
        self._guard(
            listed.conversation_id,
            listed.at_us,
            lambda: self._read_listed(listed),
            is_shown=is_shown,
        )

    def _read_listed(self, listed: Listed) -> None:
        self._probe(listed.conversation_id)
        self._read_to_end(listed)

    def _probe(self, conversation_id: str) -> None:
        """Where the server failed on a conversation in the run before, see first, by one call, whether it still does."""
        if self._known.was_failing(conversation_id):
            self._client.probe_conversation(conversation_id)

    def _read_to_end(self, listed: Listed) -> None:
        state = self._reader.read(listed)
        self._journal.note(state)
        self._tally("fetched")
        with self._lock:
            self._unreachable_in_a_row = self._faults_in_a_row = 0
            self._well.add(listed.conversation_id)
            if state["due_reason"]:
                self.fetched.reasons.add(str(state["due_reason"]))

    def _revisit(self, conversation_id: str) -> None:
        try:
            self._probe(conversation_id)
            page = self._reader.find(conversation_id, self._rung)
        except ConvoError as error:
            self._tally("listed")
            if not says_absent(error) or not self._known.was_refused(conversation_id):
                raise
            self._journal.note(failed_state_record(conversation_id, 0, due_reason=None))
            self._tally("vanished")
            return
        for listed in self._take_page(page):
            self._read_to_end(listed)

    def _guard(
        self, conversation_id: str, at_us: int, step: Callable[[], None], *, is_shown: bool = False
    ) -> None:
        """Do one conversation's step; what fails there is due next run, or ends the account.

        `is_shown`: an answer held some of its messages before.
        """
        try:
            step()
        except STOPPING as error:
            self._tally("pending")
            self._end(error)
        except ConvoError as error:
            self._fail(conversation_id, at_us, error, is_shown)
        except BaseException:
            self._stop.set()
            raise

    def _fail(self, conversation_id: str, at_us: int, error: ConvoError, is_shown: bool) -> None:
        """Note what a conversation failed with: it is due next run, unless it was refused for good and so before."""
        is_refused = is_permanent(error)
        is_given_up = is_refused and self._known.was_refused(conversation_id)
        given_up = GIVEN_UP if is_shown else GIVEN_UP_UNSHOWN
        due_reason = given_up if is_given_up else REFUSED if is_refused else reason_of(error)
        self._journal.note(failed_state_record(conversation_id, at_us, due_reason))
        with self._lock:
            self.fetched.failures[conversation_id] = error
        if is_given_up:
            self._tally("given_up")
        else:
            self._tally("failed")
            self._heed_failure(error)

    def _heed_failure(self, error: ConvoError) -> None:
        """Count failures in a row; where there were too many, find out whether it is the server that fails."""
        with self._lock:
            self.fetched.reasons.add(CONVERSATION_FAILED)
            self._unreachable_in_a_row += isinstance(error, UnreachableError)
            self._faults_in_a_row += is_outage(error)
            is_host_dead = self._unreachable_in_a_row >= UNREACHABLE_IN_A_ROW
            is_server_failing = self._faults_in_a_row >= FAULTS_IN_A_ROW
            if not (is_host_dead or is_server_failing):
                return
            self._unreachable_in_a_row = self._faults_in_a_row = 0
            failed = {*self.fetched.failures, *self._known.due_reasons}
            others = sorted(self._well or self._seen - failed)
        with self._doubt:
            if isinstance(error, GraphError) and not (
                others and self._is_answered(random.choice(others))
            ):
                self._end(
                    UnreachableError(
                        replace(error.fault, reason="one conversation after the other fails")
                    )
                )

    def _is_answered(self, conversation_id: str) -> bool:
        """Whether another conversation's messages can be read, so that those that failed are bad by themselves."""
        try:
            self._reader.ask_one(conversation_id)
        except STOPPING as error:
            self._end(error)
        except ConvoError as error:
            return not is_outage(error)
        return True

    def _is_ended(self) -> bool:
        with self._doubt:
            return self._stop.is_set()

    def _end(self, error: ConvoError) -> None:
        with self._lock:
            self.fetched.reasons.add(reason_of(error))
            self.fetched.error = self.fetched.error or error
        self._stop.set()


def _updated_us(row: ConversationRow) -> int | None:
    updated_time = row.payload.get("updated_time") if isinstance(row.payload, dict) else None
    return parse_time_us(updated_time)
