"""Read one inbox: list its conversations, then fetch what each of them lacks.

Everything is written to the spool; HTTP is the task of `graph`, tables are the task of `load`. Up
to four conversations are read at a time, in any order. The failure of one conversation never stops
the others.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import date

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.threads import ThreadPool
from convo_pipeline.base.times import day_start_us
from convo_pipeline.errors import (
    STOPPING,
    AccessDeniedError,
    ConvoError,
    GraphError,
    UnreachableError,
)
from convo_pipeline.extract.conversation import (
    EMPTY_EDGE,
    FROM_HEAD,
    MESSAGE_FAILED,
    ConversationReader,
    ListedConversation,
    listing_record,
)
from convo_pipeline.extract.nested_lists import CONVERSATION_LISTS, MESSAGE_LISTS
from convo_pipeline.extract.newest20_probe import is_absent
from convo_pipeline.extract.run_data import RunData
from convo_pipeline.extract.spool import StateRecord
from convo_pipeline.extract.walk import Walk
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.codes import is_outage, is_permanent
from convo_pipeline.graph.listing import ListedPage, Listing
from convo_pipeline.graph.responses import ConversationRow, Page
from convo_pipeline.reasons import reason_of
from convo_pipeline.state.records import (
    REFUSED,
    REFUSED_PART,
    REFUSED_REASONS,
    ConversationState,
    ObjectRefusal,
)

CONVERSATIONS_IN_FLIGHT = 4
UNREACHABLE_IN_A_ROW = 3
FAULTS_IN_A_ROW = 10
"""After so many conversations in a row that the server fails on, the server itself is checked.

Code 1 does not count: it may be about the conversation.
"""
CONVERSATION_FAILED = "conversation_failed"
CONVERSATION_REFUSED = "conversation_refused"
RETRY_CALLS, RETRY_SHARE = 2, 10
"""A run repeats refused calls until this many, or this part of all refusals, are refused again."""
ANSWER = "answer"
"""Due reason: the server failed on the conversation, for a while or for ever."""


@dataclass(frozen=True)
class StoredConversations:
    """What earlier runs of the account know about its conversations.

    From a last activity of `reread_since_us` on, conversations are read again for edits and
    reactions, which do not change that time. Before `trusted_before_us` the time of the last
    activity alone proves that nothing is new. A sweep reads every conversation as if nothing of it
    were stored, to find missed messages.
    """

    states: Mapping[str, ConversationState] = field(default_factory=dict)
    refusals: Mapping[str, ObjectRefusal] = field(default_factory=dict)
    today: date = date.min
    reread_since_us: int | None = None
    trusted_before_us: int | None = None
    is_sweep: bool = False

    def complete(self, conversation_id: str) -> ConversationState | None:
        """Return the state of a conversation that was read without a gap."""
        state = self.states.get(conversation_id)
        return state if state and state.complete_since_us is not None else None

    def due_reason(self, conversation_id: str) -> str | None:
        """Return why a conversation has to be read again: what its last read failed with."""
        state = self.states.get(conversation_id)
        return state.due_reason if state else None

    def is_due(self, conversation_id: str) -> bool:
        """Whether to fetch the conversation by its id if it is not listed."""
        reason = self.due_reason(conversation_id)
        return bool(reason) and (reason not in REFUSED_REASONS or self.is_sweep)

    def refusal(self, conversation_id: str) -> ObjectRefusal | None:
        """Return what the last read was refused; a refusal without details is due."""
        if self.due_reason(conversation_id) not in REFUSED_REASONS:
            return None
        return self.refusals.get(conversation_id, ObjectRefusal())

    def is_unchanged_since(self, conversation_id: str, updated_us: int | None) -> bool:
        """Whether the last activity is the stored one."""
        state = self.states.get(conversation_id)
        return updated_us is not None and state is not None and state.updated_us == updated_us

    def is_current(self, conversation_id: str, updated_us: int | None, since_us: int) -> bool:
        """Whether times prove that nothing has to be read down to `since_us`."""
        state = self.complete(conversation_id)
        if state is None or not self.is_unchanged_since(conversation_id, updated_us):
            return False
        assert state.complete_since_us is not None
        assert updated_us is not None
        is_reread = self.reread_since_us is not None and updated_us >= self.reread_since_us
        is_deep_enough = state.complete_since_us <= since_us
        return is_deep_enough and not is_reread and not self.is_due(conversation_id)

    def is_trusted(self, updated_us: int | None) -> bool:
        """Whether no further message can have the same second of last activity."""
        before_us = self.trusted_before_us
        return updated_us is not None and before_us is not None and updated_us < before_us


@dataclass
class InboxResult:
    """How the calls of one account ended; their content is in the spool."""

    reasons: set[str] = field(default_factory=set)
    error: ConvoError | None = None
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, ConvoError] = field(default_factory=dict)
    """The error of each conversation that could not be read."""
    refusals: dict[str, ObjectRefusal] = field(default_factory=dict)
    """What the API refuses, by conversation, of this run and of earlier ones."""


class InboxReader:
    """The calls of one account in one run."""

    def __init__(
        self,
        client: GraphClient,
        reader: ConversationReader,
        data: RunData,
        stored: StoredConversations,
        *,
        since_us: int,
        on_conversations: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.result = InboxResult(
            refusals={key: refusal for key in stored.states if (refusal := stored.refusal(key))}
        )
        self._client = client
        self._reader = reader
        self._data = data
        self._stored = stored
        self._since_us = since_us
        self._on_conversations = on_conversations
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server_check = threading.Lock()
        """Held while the server is checked: no other conversation starts then."""
        self._unreachable_in_a_row = self._faults_in_a_row = 0
        self._listed_ids: set[str] = set()
        self._readable_ids: set[str] = set()
        """Conversations that were read in this run or an earlier one."""
        self._deferred: dict[str, ListedConversation] = {}
        """Listed conversations that were refused before and are unchanged."""

    def read(self, listing: Listing) -> InboxResult:
        """Read every listed conversation, then those that are due; never raise a ConvoError."""
        with ThreadPool(CONVERSATIONS_IN_FLIGHT, thread_name_prefix="conversation") as pool:
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
                self._stop.set()  # the other threads end soon
                raise
            due_ids = set(filter(self._stored.is_due, self._stored.states)) - self._listed_ids
            reads += [pool.submit(self.revisit, due_id) for due_id in sorted(due_ids)]
            for read in reads:
                read.result()
        self._retry_refused()
        self._tally("refused", len(self._deferred))
        if any(self._stored.refusal(key) for key in self.result.refusals):
            self.result.reasons.add(CONVERSATION_REFUSED)
        return self.result

    def _retry_refused(self) -> None:
        """Request again what earlier runs were refused, where its day has come, longest first.

        A few refused calls end this, so that many refusals do not cost many calls every night. What
        is left is requested in the next runs. A sweep has requested all of it already.
        """
        if self._stored.is_sweep:
            return
        refusals, failures = self.result.refusals, self.result.failures
        due = [key for key, each in refusals.items() if each.is_due(self._stored.today)]
        due.sort(key=lambda key: (refusals[key].retry_on, key))
        limit = max(RETRY_CALLS, len(refusals) // RETRY_SHARE)
        refused_count = 0
        self._client.is_probing = True
        for conversation_id in due:
            if self._stop.is_set() or refused_count >= limit:
                break
            if conversation_id in failures:
                continue
            call_count = sum(self._client.calls.values())
            self._retry(conversation_id)
            if conversation_id in failures:
                refused_count += sum(self._client.calls.values()) - call_count
        self._client.is_probing = False

    def _retry(self, conversation_id: str) -> None:
        listed = self._deferred.pop(conversation_id, None)
        if listed is None:
            self.revisit(conversation_id, is_retry=True)
        else:
            retried = replace(listed, is_retry=True, skips_refused=False)
            self._guard(conversation_id, listed, lambda: self._read_to_end(retried))

    def adds_nothing(self, row: ConversationRow) -> bool:
        """Whether a listed conversation is stored as listed.

        The listing ends below a page of such conversations and old ones.
        """
        conversation_id = row.conversation_id
        if conversation_id is None or not self._is_current(conversation_id, row.updated_us):
            return False
        if not row.messages.rows:
            return self._stored.is_trusted(row.updated_us)
        newest_message_id = self._stored.states[conversation_id].newest_message_id
        return readable_id(row.messages.rows[0]) == newest_message_id

    def revisit(self, conversation_id: str, *, is_retry: bool = False) -> None:
        """Fetch one conversation by its id with its newest messages, and read what it lacks.

        `is_retry`: an earlier run was refused.
        """
        if not self._is_ended():
            self._guard(conversation_id, None, lambda: self._revisit(conversation_id, is_retry))

    def _take_page(self, page: ListedPage, *, is_listing: bool = True) -> list[ListedConversation]:
        """Write a page to the spool; return the conversations that need calls of their own.

        A listing leaves out what was refused before and is unchanged.
        """
        page = replace(page, rows=tuple(self._data.clean(page.rows)))
        listed = [
            self._read_row(row, row.conversation_id, page)
            for row in page.rows
            if row.conversation_id is not None
        ]
        with self._lock:
            self._listed_ids.update(conversation.conversation_id for conversation in listed)
        self._tally("listed", len(listed))
        done = [each for each in listed if each.needs_no_call]
        lacking = [each for each in listed if not each.needs_no_call]
        deferred = [each for each in lacking if is_listing and each.is_deferred]
        wanted = [each for each in lacking if not (is_listing and each.is_deferred)]
        record = listing_record(replace(page, rows=tuple(map(self._mark_cut, page.rows))))
        states = [
            each.state_after(each.walk, at_end=each.nested.after is None)
            for each in done
            if not each.is_current
        ]
        self._data.append(record, states)
        unchanged = [each for each in done if self._is_unchanged(each)]
        self._tally("unchanged", len(unchanged))
        self._tally("refused", sum(each.conversation_id in self._deferred for each in deferred))
        self._deferred |= {each.conversation_id: each for each in deferred}
        for state in states:
            self._accept(state.state.conversation_id)
        self._tally("fetched", len(done) - len(unchanged))
        with self._lock:
            message_count = sum(len(each.nested.rows) for each in unchanged)
            self.result.counts["messages_unchanged"] += message_count
            done_ids = (each.conversation_id for each in done)
            self._readable_ids.update(filter(self._stored.complete, done_ids))
        return wanted

    def _read_row(
        self, row: ConversationRow, conversation_id: str, page: ListedPage
    ) -> ListedConversation:
        stored, updated_us = self._stored, row.updated_us
        walk = Walk(self._since_us, None if stored.is_sweep else stored.complete(conversation_id))
        nested, is_current = row.messages, False
        is_shown = page.messages_limit > 0 and bool(nested.rows)
        if not is_shown:
            is_current = self._is_current(conversation_id, updated_us) and stored.is_trusted(
                updated_us
            )
            nested = Page((), FROM_HEAD, page.server_time)
        due_reason = stored.due_reason(conversation_id)
        refusal = None if stored.is_sweep else stored.refusal(conversation_id)
        is_unchanged = (
            refusal is not None
            and refusal.updated_us == updated_us
            and (refusal.was_shown or not is_shown)
        )
        return ListedConversation(
            conversation_id,
            updated_us,
            nested,
            walk.extend(nested.rows),
            page.messages_limit,
            is_current,
            is_deferred=is_unchanged,
            is_retry=refusal is not None and due_reason == REFUSED,
            skips_refused=refusal is not None and due_reason == REFUSED_PART,
            was_empty=due_reason == EMPTY_EDGE,
            page=replace(page, rows=(row,)) if self._has_new_cut_lists(row) else None,
        )

    def _mark_cut(self, row: ConversationRow) -> ConversationRow:
        """Mark the lists of a conversation and its messages that the response holds in part."""
        mark = self._reader.lists.mark
        messages = replace(row.messages, rows=tuple(map(mark, row.messages.rows)))
        return replace(row, payload=mark(row.payload, CONVERSATION_LISTS), messages=messages)

    def _has_new_cut_lists(self, row: ConversationRow) -> bool:
        """Whether lists have to be read on; those of a stored conversation are whole already."""
        find = self._reader.lists.find
        is_cut = bool(find(row.payload, CONVERSATION_LISTS)) or any(
            find(message, MESSAGE_LISTS) for message in row.messages.rows
        )
        due_reason = self._stored.due_reason(row.conversation_id or "")
        return is_cut and not (due_reason is None and self.adds_nothing(row))

    def _is_current(self, conversation_id: str, updated_us: int | None) -> bool:
        return self._stored.is_current(conversation_id, updated_us, self._since_us)

    def _is_unchanged(self, listed: ListedConversation) -> bool:
        """Whether last activity and newest message are the stored ones.

        The message is compared because another one can have the same second.
        """
        if listed.is_current:
            return True
        stored = self._stored.complete(listed.conversation_id)
        return (
            stored is not None
            and stored.updated_us == listed.updated_us
            and stored.newest_message_id == listed.walk.newest_message_id
        )

    def _tally(self, result: str, count: int = 1) -> None:
        """Count conversations by their result; `RUN_PARTS` must add up."""
        with self._lock:
            self.result.counts[f"conversations_{result}"] += count

    def _read(self, listed: ListedConversation) -> None:
        if self._is_ended():
            self._tally("pending")
            return

        def read() -> None:
            self._probe_failing(listed.conversation_id)
            self._read_to_end(listed)

        self._guard(listed.conversation_id, listed, read)

    def _probe_failing(self, conversation_id: str) -> None:
        """Check by one small call whether the server still fails on a conversation."""
        if self._stored.due_reason(conversation_id) == ANSWER:
            self._client.probe_conversation(conversation_id)

    def _read_to_end(self, listed: ListedConversation) -> None:
        record, refusal = self._reader.read(listed)
        self._data.append_later(record)
        self._tally("fetched")
        self._reader.control.has_read = True
        with self._lock:
            self._unreachable_in_a_row = self._faults_in_a_row = 0
            self._readable_ids.add(listed.conversation_id)
        due_reason = record.state.due_reason
        if due_reason == REFUSED_PART and refusal is not None:
            self._refuse(listed.conversation_id, listed, refusal, MESSAGE_FAILED, has_all_ids=True)
        elif due_reason == REFUSED_PART:
            with self._lock:
                refusals = self.result.refusals
                refusals[listed.conversation_id] = replace(
                    refusals[listed.conversation_id], updated_us=listed.updated_us
                )
        elif due_reason is None:
            self._accept(listed.conversation_id)
        else:
            with self._lock:
                self.result.reasons.add(due_reason)

    def _accept(self, conversation_id: str) -> None:
        """Forget what the API refused of a conversation: it is read to its end."""
        with self._lock:
            self.result.refusals.pop(conversation_id, None)

    def _refuse(
        self,
        conversation_id: str,
        listed: ListedConversation | None,
        error: ConvoError,
        reason: str,
        *,
        has_all_ids: bool = False,
    ) -> None:
        """Record a refusal; `reason` is why the run is incomplete if it is the first one.

        `has_all_ids`: only parts of known messages are refused.
        """
        before = self._stored.refusal(conversation_id)
        refusal = before or ObjectRefusal()
        updated_us, was_shown, gap_us = refusal.updated_us, refusal.was_shown, refusal.gap_us
        if listed:
            updated_us, was_shown = listed.updated_us, bool(listed.nested.rows)
            gap_us = listed.walk.low_us or listed.updated_us or listed.at_us
        elif gap_us is None:
            gap_us = day_start_us(self._stored.today)
        with self._lock:
            self.result.failures[conversation_id] = error
            self.result.refusals[conversation_id] = refusal.again(
                self._stored.today,
                error,
                updated_us=updated_us,
                was_shown=was_shown,
                gap_us=None if has_all_ids else gap_us,
            )
            if before is None:
                self.result.reasons.add(reason)

    def _revisit(self, conversation_id: str, is_retry: bool) -> None:
        try:
            self._probe_failing(conversation_id)
            page = self._reader.find(conversation_id)
        except ConvoError as error:
            self._tally("listed")
            if not is_absent(error) or self._stored.refusal(conversation_id) is None:
                raise
            self._data.append_later(StateRecord(0, ConversationState(conversation_id)))
            self._tally("vanished")
            self._accept(conversation_id)
            return
        for listed in self._take_page(page, is_listing=False):
            self._read_to_end(replace(listed, is_retry=is_retry, skips_refused=False))

    def _guard(
        self, conversation_id: str, listed: ListedConversation | None, step: Callable[[], None]
    ) -> None:
        """Run one conversation's step: an error makes it due in the next run, or ends the account.

        `listed` is the conversation as a response of this run showed it. A refusal that was there
        before never ends the account.
        """
        try:
            step()
        except ConvoError as error:
            is_known = isinstance(error, AccessDeniedError) and (
                self._stored.refusal(conversation_id) is not None
            )
            try:
                is_stopping = not is_known and self._reader.control.stops(error)
            except ConvoError as other:
                error, is_stopping = other, True
            if is_stopping:
                self._tally("pending")
                self._end(error)
            else:
                self._fail(conversation_id, listed, error)
        except BaseException:
            self._stop.set()
            raise

    def _fail(
        self, conversation_id: str, listed: ListedConversation | None, error: ConvoError
    ) -> None:
        """Record the error of a conversation."""
        is_refused = is_permanent(error)
        stays_refused = self._stored.due_reason(conversation_id) == REFUSED
        due_reason = REFUSED if is_refused or stays_refused else reason_of(error)
        state = ConversationState(conversation_id, due_reason=due_reason)
        self._data.append_later(StateRecord(listed.at_us if listed else 0, state))
        is_known = self._stored.refusal(conversation_id) is not None
        self._tally("refused" if is_refused and is_known else "failed")
        if is_refused:
            self._refuse(conversation_id, listed, error, CONVERSATION_FAILED)
        if not (is_refused and is_known):
            self._count_failure(conversation_id, error)

    def _count_failure(self, conversation_id: str, error: ConvoError) -> None:
        """Count failures in a row; after too many of them, check the server and end the account.

        The check fetches a conversation that was readable.
        """
        with self._lock:
            self.result.failures[conversation_id] = error
            self.result.reasons.add(CONVERSATION_FAILED)
            self._unreachable_in_a_row += isinstance(error, UnreachableError)
            self._faults_in_a_row += is_outage(error)
            is_host_dead = self._unreachable_in_a_row >= UNREACHABLE_IN_A_ROW
            is_server_failing = self._faults_in_a_row >= FAULTS_IN_A_ROW
            if not (is_host_dead or is_server_failing):
                return
            self._unreachable_in_a_row = self._faults_in_a_row = 0
            due_ids = {key for key in self._stored.states if self._stored.due_reason(key)}
            failed_ids = {*self.result.failures, *due_ids}
            others = sorted(self._readable_ids or self._listed_ids - failed_ids)
        with self._server_check:
            is_answered = bool(others) and self._is_answered(random.choice(others))
            if isinstance(error, GraphError) and not is_answered:
                reason = "one conversation after the other fails"
                self._end(UnreachableError(replace(error.fault, reason=reason)))

    def _is_answered(self, conversation_id: str) -> bool:
        """Whether another conversation is readable: then the server works."""
        try:
            self._reader.fetch_one_message(conversation_id)
        except STOPPING as error:
            self._end(error)
        except ConvoError as error:
            return not is_outage(error)
        return True

    def _is_ended(self) -> bool:
        with self._server_check:
            return self._stop.is_set()

    def _end(self, error: ConvoError) -> None:
        with self._lock:
            self.result.reasons.add(reason_of(error))
            self.result.error = self.result.error or error
        self._stop.set()
