"""Fetch one conversation: itself by its id, older pages of its messages, and bare messages by id.

`walk` decides where paging stops, and `newest20_probe` what a refused message means.
"""

import random
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import SECOND_US, to_us
from convo_pipeline.errors import (
    STOPPING,
    AccessDeniedError,
    ConvoError,
    GraphError,
    GraphFault,
    MissingError,
    PayloadError,
    RetryableError,
    ThrottledError,
    TooMuchDataError,
    UnknownFieldError,
)
from convo_pipeline.extract.nested_lists import (
    CONVERSATION_LISTS,
    MESSAGE_LISTS,
    CutList,
    NestedLists,
    find_next,
    holds_whole,
    mark_cut,
)
from convo_pipeline.extract.newest20_probe import (
    Newest20Probe,
    is_about_message,
    refused_status,
)
from convo_pipeline.extract.observations import BARE_FIELDS, find_created_us, lacks_content
from convo_pipeline.extract.run_data import RunData
from convo_pipeline.extract.spool import (
    ListingRecord,
    MessageRecord,
    MessagesRecord,
    StateRecord,
)
from convo_pipeline.extract.walk import BareMessage, Walk, bare_messages
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.codes import is_permanent
from convo_pipeline.graph.fields import (
    conversation_field_names,
    conversation_fields,
    list_fields,
    message_field_names,
    message_fields,
)
from convo_pipeline.graph.listing import ListedPage
from convo_pipeline.graph.page_size import PageSize, PageSizePolicy, smaller_message_page
from convo_pipeline.graph.responses import ConversationRow, Page
from convo_pipeline.schema import IS_CUT, READABLE_COUNT
from convo_pipeline.state.records import REFUSED_PART, ConversationState

MOST_EMPTY_PAGES = 3
SETTLED_AFTER_US = 2 * SECOND_US
MOST_FAILED_IN_A_ROW = 5
"""After so many failed messages in a row the conversation waits for the next run."""
MAX_REFUSALS = 20
"""After so many refused conversations and messages without one that was read, the account stops."""
FROM_HEAD = ""
"""The cursor of a conversation that was listed without messages: page from its newest message."""
FINAL_STATUSES = frozenset({"detailed", "gone"})
MESSAGE_FAILED = "message_failed"
EMPTY_EDGE = "empty_edge"
"""Due reason: the conversation shows no messages where some must exist, or may exist.

It is accepted as empty if the next run finds the same.
"""


Gaps = list[ConvoError | None]
"""Why parts of a conversation are not read; None if an earlier run was refused them."""


@dataclass(frozen=True)
class ListedConversation:
    """A conversation as a response showed it, with its newest messages nested."""

    conversation_id: str
    updated_us: int | None
    nested: Page
    walk: Walk
    messages_limit: int
    """How many nested messages were requested; 0 is none."""
    is_current: bool = False
    """Listed without messages, and its last activity is the stored one."""
    is_deferred: bool = False
    """An earlier run was refused, and nothing has changed since: it waits for its day."""
    is_retry: bool = False
    """An earlier run was refused: the first refusal ends it, without smaller requests."""
    skips_refused: bool = False
    """Messages and lists that an earlier run was refused are not requested."""
    was_empty: bool = False
    """Its messages were an empty list in the previous run."""
    page: ListedPage | None = None
    """The page with this conversation alone, if lists inside it are cut."""

    @property
    def at_us(self) -> int:
        return to_us(self.nested.server_time)

    @property
    def is_second_over(self) -> bool:
        """Whether the second of its last activity is over: the same time then means no change."""
        return self.updated_us is not None and self.at_us - self.updated_us >= SETTLED_AFTER_US

    @cached_property
    def needs_no_call(self) -> bool:
        """Whether no older message and no bare message has to be fetched."""
        if self.page:
            return False
        if self.is_current:
            return True
        is_read = self.nested.after is None or self.walk.is_deep_enough
        return is_read and not any(bare_messages(self.nested.rows, 1))

    def state_after(
        self, walk: Walk, *, at_end: bool, due_reason: str | None = None
    ) -> StateRecord:
        """Return the conversation's state once a walk is stored."""
        state = ConversationState(
            self.conversation_id,
            self.updated_us if self.is_second_over else None,
            walk.newest_message_id,
            walk.complete_since_us(at_end),
            due_reason,
        )
        return StateRecord(self.at_us, state, -1 if at_end else walk.low_us)


def listing_record(page: ListedPage) -> ListingRecord:
    """Return the record of a page of conversations."""
    return ListingRecord(
        to_us(page.server_time),
        page.folder,
        page.message_fields,
        page.conversation_fields,
        page.rows,
    )


@dataclass
class AccountControl:
    """Whether an error stops the account, or concerns one conversation or message alone.

    A refused permission is ambiguous, so the inbox itself is requested once a run as a control.
    After `MAX_REFUSALS` refusals before any conversation was read, the account is refused.
    """

    client: GraphClient
    has_read: bool = False
    """Whether the calls of a conversation succeeded in this run."""
    _is_inbox_refused: bool | None = None
    _refusal_count: int = 0
    _stopping: ConvoError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stops(self, error: ConvoError) -> bool:
        """Return whether the account must stop because of this error; may raise another one."""
        if not isinstance(error, AccessDeniedError):
            return isinstance(error, STOPPING)
        with self._lock:
            if error is self._stopping:
                return True
            if self.client.is_probing:
                return False
            self._refusal_count += 1
            if self._is_inbox_refused is None:
                try:
                    self.client.fetch_conversations("id", 1)
                    self._is_inbox_refused = False
                except AccessDeniedError:
                    self._is_inbox_refused = True
            is_useless = not self.has_read and self._refusal_count >= MAX_REFUSALS
            self._stopping = error if self._is_inbox_refused or is_useless else None
            return self._stopping is not None


@dataclass(frozen=True)
class ConversationReader:
    """Fetch conversations of one account in one run; several threads may use it."""

    client: GraphClient
    data: RunData
    platform: str
    probe: Newest20Probe
    page_sizes: PageSizePolicy
    lists: NestedLists
    control: AccountControl
    find_details: Callable[[str, str, int], Collection[tuple[str, str | None]]]
    """Returns the stored `detail_status` and payload of (conversation, message, created_us)."""
    is_stored: Callable[[str, str, int], bool]
    """Whether (conversation_id, message_id, created_us) has a row."""
    on_messages: Callable[[int], None]

    def find(self, conversation_id: str) -> ListedPage:
        """Fetch one conversation by its id, with its newest messages unless these are refused."""
        if self.page_sizes.mode == "nested":
            try:
                return self._find(conversation_id, READABLE_COUNT)
            except ThrottledError:
                raise
            except (TooMuchDataError, RetryableError, UnknownFieldError):
                pass  # its messages are fetched by a call of their own
        return self._find(conversation_id, 0)

    def _find(self, conversation_id: str, messages_limit: int) -> ListedPage:
        dropped, page = self.page_sizes.send_without_refused_fields(
            lambda names: self.client.fetch_conversation(
                conversation_id, conversation_fields(self.platform, messages_limit, names)
            ),
            may_be_unnamed=True,
        )
        return ListedPage(
            page.rows,
            conversation_field_names(dropped),
            message_field_names(self.platform, dropped) if messages_limit else (),
            messages_limit,
            "",
            page.server_time,
        )

    def fetch_one_message(self, conversation_id: str) -> None:
        """Fetch one message id of a conversation, only to see whether the server responds."""
        self.client.fetch_messages(conversation_id, "id", 1)

    def read(self, listed: ListedConversation) -> tuple[StateRecord, ConvoError | None]:
        """Fetch the rest of a conversation; return its new state, and what a part was refused with.

        Raise what ends it early.
        """
        walk, after = (
            self._meet_stored(listed, listed.walk, listed.nested.rows),
            listed.nested.after,
        )
        gaps: Gaps = []
        self._read_listed_lists(listed, gaps)
        is_probed = self._fetch_bare(listed, listed.nested.rows, 1, gaps)
        if after == FROM_HEAD:  # the newest messages are read again, so their ranks begin at 1
            walk = Walk(walk.since_us, walk.stored)
        cursors: set[str] = set()
        empty_count, has_restarted = 0, False
        while after is not None and not walk.is_deep_enough:
            if after in cursors or empty_count > MOST_EMPTY_PAGES:
                raise RetryableError(
                    GraphFault(reason="the message listing does not come to its end")
                )
            cursors.add(after)
            try:
                page = self._fetch_older(listed, after, walk.count + 1, gaps)
            except GraphError as error:
                is_stopping = isinstance(error, STOPPING) or listed.is_retry
                if after == FROM_HEAD or is_stopping or not is_permanent(error):
                    raise  # `InboxReader` asks the control
                if has_restarted:  # the head was readable, so it is the cursor that is refused
                    reason = "a later page of the messages is refused"
                    raise RetryableError(replace(error.fault, reason=reason)) from None
                walk, after, has_restarted = Walk(walk.since_us, walk.stored), FROM_HEAD, True
                cursors.clear()
                continue
            if self._is_doubtful(listed, page, walk):
                if after == FROM_HEAD:
                    state = ConversationState(listed.conversation_id, due_reason=EMPTY_EDGE)
                    return StateRecord(listed.at_us, state), None
                walk, after = Walk(walk.since_us, walk.stored), FROM_HEAD
                continue
            is_probed &= self._fetch_bare(listed, page.rows, walk.count + 1, gaps)
            empty_count = 0 if page.rows else empty_count + 1
            walk, after = self._meet_stored(listed, walk.extend(page.rows), page.rows), page.after
        refusals = [error for error in gaps if error is None or is_permanent(error)]
        due_reason = None if not gaps else REFUSED_PART if refusals == gaps else MESSAGE_FAILED
        record = listed.state_after(walk, at_end=after is None, due_reason=due_reason)
        if not is_probed:  # the next run reads the older pages again
            record = replace(record, state=replace(record.state, complete_since_us=None))
        return record, next(filter(None, refusals), None)

    def _meet_stored(self, listed: ListedConversation, walk: Walk, rows: Sequence[object]) -> Walk:
        """Let the walk meet another stored message than the newest one, which may be unsent."""
        candidate = walk.find_stored_candidate(rows)
        is_met = candidate is not None and self.is_stored(listed.conversation_id, *candidate)
        return replace(walk, met_stored=True) if is_met else walk

    def _is_doubtful(self, listed: ListedConversation, page: Page, walk: Walk) -> bool:
        """Whether a page without rows ends the messages although more must exist, or may exist.

        After a full nested page the messages are fetched again from the head. If they are empty
        too, that contradicts the nested page. If none were nested, the next run decides.
        """
        if page.rows or page.after is not None:
            return False
        if walk.count:
            return walk.count == len(listed.nested.rows) >= listed.messages_limit > 0
        if listed.nested.rows:
            return True
        return not listed.messages_limit and not listed.was_empty

    def _fetch_older(
        self, listed: ListedConversation, after: str, first_rank: int, gaps: Gaps
    ) -> Page:
        """Fetch one page of messages and the lists inside them, and write it to the spool."""
        fields, page = self._fetch_page(listed, after)
        cuts = [self.lists.find(row, MESSAGE_LISTS) for row in page.rows]
        self.data.append(
            MessagesRecord(
                to_us(page.server_time),
                listed.conversation_id,
                listed.updated_us,
                first_rank,
                fields,
                tuple(map(self.lists.mark, page.rows)),
            )
        )
        self.on_messages(len(page.rows))
        self._read_message_lists(listed, page, cuts, fields, first_rank, gaps)
        return page

    def _read_listed_lists(self, listed: ListedConversation, gaps: Gaps) -> None:
        """Read the cut lists of a listed conversation and its messages to their end."""
        page = listed.page
        if page is None:
            return
        (row,) = page.rows
        cuts = self.lists.find(row.payload, CONVERSATION_LISTS)
        if cuts and isinstance(row.payload, dict):
            if listed.skips_refused:
                gaps.append(None)
            else:
                payload = self._read_lists(listed.conversation_id, row.payload, cuts, gaps)
                row = ConversationRow(payload, replace(row.messages, rows=()))
                self.data.append(listing_record(replace(page, rows=(row,))))
        message_cuts = [find_next(message, MESSAGE_LISTS) for message in listed.nested.rows]
        self._read_message_lists(listed, listed.nested, message_cuts, page.message_fields, 1, gaps)

    def _read_message_lists(
        self,
        listed: ListedConversation,
        page: Page,
        cuts_of_rows: Sequence[Sequence[CutList]],
        fields: tuple[str, ...],
        first_rank: int,
        gaps: Gaps,
    ) -> None:
        """Read the cut lists of messages to their end and write these messages again."""
        at_us = to_us(page.server_time)
        for rank, (row, cuts) in enumerate(zip(page.rows, cuts_of_rows, strict=True), first_rank):
            message_id = readable_id(row)
            if not cuts or message_id is None or not isinstance(row, dict):
                continue
            created_us, source = find_created_us(row, message_id, listed.updated_us, at_us)
            if listed.skips_refused or any(map(self.lists.is_doubtful, cuts)):
                stored = self.find_details(listed.conversation_id, message_id, created_us)
                payloads = [payload for _, payload in stored if payload]
                if listed.skips_refused and any(IS_CUT in payload for payload in payloads):
                    gaps.append(None)
                    continue
                cuts = [
                    cut
                    for cut in cuts
                    if not self.lists.is_doubtful(cut)
                    or not any(holds_whole(payload, cut) for payload in payloads)
                ]
                if not cuts:
                    continue
            payload = self._read_lists(
                message_id, row, cuts, gaps, is_refusable=rank > READABLE_COUNT
            )
            record = MessageRecord(
                at_us=at_us,
                conversation_id=listed.conversation_id,
                message_id=message_id,
                created_us=created_us,
                created_at_source=source,
                rank=rank,
                detail_status="detailed",
                error_code=None,
                error_subcode=None,
                fields=fields,
                payload=payload,
            )
            self.data.append(record)

    def _read_lists(
        self,
        object_id: str,
        row: dict[str, object],
        cuts: Sequence[CutList],
        gaps: Gaps,
        *,
        is_refusable: bool = False,
    ) -> object:
        """Return an object with its cut lists read on. Raise an error that stops the account.

        With `is_refusable`, a list that the API says is missing stays cut and is no gap: the API
        refuses the calls of messages beyond the newest 20, also if it lists their content.
        """
        read = dict(row)
        for cut in cuts:
            fields = list_fields(cut.name, self.page_sizes.dropped)
            found, is_whole, error = self.lists.read(
                cut, partial(self.client.fetch_list, object_id, cut.name, fields)
            )
            if error and self.control.stops(error):
                raise error
            read[cut.name] = {"data": list(found.rows)}
            if not is_whole:
                read = mark_cut(read, [found])
            if error and not (is_refusable and isinstance(error, MissingError)):
                gaps.append(error)
        return self.lists.mark(read)

    def _fetch_page(self, listed: ListedConversation, after: str) -> tuple[tuple[str, ...], Page]:
        """Fetch a page of messages, smaller and smaller until it comes; return its fields too."""
        size = self.page_sizes.message_size
        while True:
            try:
                fields, page = self._fetch_edge(listed, after, size)
            except GraphError as error:
                is_final = listed.is_retry and is_permanent(error)
                smaller = None if is_final else smaller_message_page(size, error)
                if smaller is None:
                    raise
                size = smaller
            else:
                self.page_sizes.accept_messages(size)
                return fields, page

    def _fetch_edge(
        self, listed: ListedConversation, after: str, size: PageSize
    ) -> tuple[tuple[str, ...], Page]:
        """Fetch one page of this size, without the fields that the API refuses."""
        conversation_id, cursor = listed.conversation_id, after or None
        if size.is_bare:
            return BARE_FIELDS, self.client.fetch_messages(
                conversation_id, ",".join(BARE_FIELDS), size.messages, cursor
            )
        dropped, page = self.page_sizes.send_without_refused_fields(
            lambda names: self.client.fetch_messages(
                conversation_id, message_fields(self.platform, names), size.messages, cursor
            ),
            may_be_unnamed=cursor is None,
        )
        return message_field_names(self.platform, dropped), page

    def _fetch_bare(
        self, listed: ListedConversation, rows: Sequence[object], first_rank: int, gaps: Gaps
    ) -> bool:
        """Fetch the bare messages among the newest 20 by id, and once a run some beyond.

        After a refusal in an earlier run, the first refused message ends it. Return False if it is
        not known whether messages beyond the newest 20 are readable.
        """
        due, beyond = bare_messages(rows, first_rank)
        is_probed = True
        try:
            is_limited = not beyond or self.probe.is_limited(
                lambda index: self._fetch_message(listed, beyond[index], gaps), len(beyond)
            )
        except STOPPING:
            raise
        except GraphError as failure:  # its ids are stored all the same; the next run probes again
            gaps.append(RetryableError(failure.fault))
            is_limited, is_probed = True, False
        if not is_limited:
            due += beyond
        if listed.is_retry:
            random.shuffle(due)  # so that each of them is requested in some run
        failed_in_a_row = 0
        for bare in due:
            gap_count = len(gaps)
            error = self._fetch_message(listed, bare, gaps)
            failed_in_a_row = failed_in_a_row + 1 if isinstance(error, RetryableError) else 0
            if error is not None and failed_in_a_row >= MOST_FAILED_IN_A_ROW:
                raise error
            if listed.is_retry and len(gaps) > gap_count:
                break
        return is_probed

    def _fetch_message(
        self, listed: ListedConversation, bare: BareMessage, gaps: Gaps
    ) -> ConvoError | None:
        """Fetch one message and write it to the spool; return the error."""
        created_us, source = find_created_us(
            bare.row, bare.message_id, listed.updated_us, listed.at_us
        )
        is_readable = bare.rank <= READABLE_COUNT
        stored = (
            self.find_details(listed.conversation_id, bare.message_id, created_us)
            if is_readable
            else ()
        )
        statuses = {status for status, _ in stored}
        if statuses & FINAL_STATUSES:
            return None
        if listed.skips_refused and "failed" in statuses:
            gaps.append(None)
            return None
        record, error = self._fetch_content(
            listed,
            MessageRecord(
                at_us=listed.at_us,
                conversation_id=listed.conversation_id,
                message_id=bare.message_id,
                created_us=created_us,
                created_at_source=source,
                rank=bare.rank,
                detail_status="failed",
                error_code=None,
                error_subcode=None,
                fields=message_field_names(self.platform, self.page_sizes.dropped),
                payload=None,
            ),
            gaps,
        )
        self.data.append(record)
        if record.detail_status == "failed":
            gaps.append(error)
        return error

    def _fetch_content(
        self, listed: ListedConversation, record: MessageRecord, gaps: Gaps
    ) -> tuple[MessageRecord, ConvoError | None]:
        """Return the record with the message's content, or with the meaning of the error returned.

        Raise errors beyond the newest 20 that are not about the message.
        """
        throttled_seconds = self.client.throttled_seconds
        try:
            dropped, answer = self.page_sizes.send_without_refused_fields(
                lambda names: self.client.fetch_message(
                    record.message_id, message_fields(self.platform, names)
                ),
            )
        except (GraphError, PayloadError) as error:
            if self.control.stops(error):
                raise
            is_throttled = self.client.throttled_seconds != throttled_seconds
            if record.rank > READABLE_COUNT and not is_about_message(error, is_throttled):
                raise
            status = refused_status(error, record.rank, is_throttled)
            if status == "gone" and not self._is_among_newest_20(listed, record.message_id):
                status = "failed"  # newer messages pushed it out, or it is unsent
            fault = error.fault if isinstance(error, GraphError) and status != "beyond_20" else None
            return replace(
                record,
                detail_status=status,
                error_code=fault.code if fault else None,
                error_subcode=fault.subcode if fault else None,
            ), error
        record = replace(
            record,
            at_us=to_us(answer.server_time),
            fields=message_field_names(self.platform, dropped),
        )
        if answer.rejected_text is not None:
            rows = (answer.rejected_text,)
            self.data.append(
                MessagesRecord(record.at_us, record.conversation_id, None, record.rank, (), rows)
            )
        if isinstance(answer.body, dict) and not lacks_content(answer.body):
            cuts = self.lists.find(answer.body, MESSAGE_LISTS)
            payload = self._read_lists(record.message_id, answer.body, cuts, gaps)
            return replace(record, detail_status="detailed", payload=payload), None
        no_content = PayloadError("a message's answer has no content")
        status = refused_status(no_content, record.rank, is_throttled=False)
        return replace(record, detail_status=status), no_content

    def _is_among_newest_20(self, listed: ListedConversation, message_id: str) -> bool:
        """Whether a message is still among the newest 20, whose content is readable."""
        left, after = READABLE_COUNT, None
        while left > 0:  # pages may be shorter than requested
            page = self.client.fetch_messages(
                listed.conversation_id, ",".join(BARE_FIELDS), left, after
            )
            if message_id in map(readable_id, page.rows):
                return True
            left, after = left - len(page.rows), page.after
            if after is None or not page.rows:
                return False
        return False
