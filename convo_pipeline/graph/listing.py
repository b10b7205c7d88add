"""List an inbox that changes while it is read: passes, restarts and where a pass stops.

The API orders conversations by their last activity and its pages are live. A conversation that
receives a message during a pass moves to the newest page, which was read already. So the newest
pages are listed again until a pass finds nothing changed. The API has no time filter: the listing
stops by itself. `page_size` decides what each page requests. This module stores nothing. It yields
a row once, and again only if it changed meanwhile.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import EARLIEST_US, parse_time_us, to_us
from convo_pipeline.errors import (
    AccessDeniedError,
    GraphError,
    MissingError,
    ThrottledError,
    TokenError,
    UnknownFieldError,
    VersionError,
)
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.codes import (
    INBOX_MISSING,
    is_outage,
    is_unanswered,
    is_unspecific_100,
    may_concern_one_row,
)
from convo_pipeline.graph.fields import (
    OPTIONAL_CONVERSATION_FIELDS,
    conversation_field_names,
    conversation_fields,
    message_field_names,
)
from convo_pipeline.graph.page_size import ListingMode, PageSize, PageSizePolicy
from convo_pipeline.graph.responses import ConversationPage, ConversationRow

MARGIN = timedelta(minutes=10)
"""A pass lists this much more than it has to: clocks differ, and Meta promises no exact order."""
MAX_RELISTINGS = 3
MAX_RESTARTS = 3
MAX_LOOP_RESTARTS = 1
EMPTY_PAGES = 20
ENOUGH_ROWS = 10
"""A pass ends after at least so many rows in a row that add nothing. One misplaced row can be a
whole small page."""

Cut = Literal["cursor_loop", "dead_cursor", "empty_pages", "page_refused"]
"""Why a pass ended early."""
IsKnown = Callable[[ConversationRow], bool]


@dataclass(frozen=True)
class ListedPage:
    """New and changed rows of one call, and which fields the call requested.

    `messages_limit` is 0 if messages were not requested: each conversation then needs its own call.
    The payload of a row is as the API sent it; it may be no conversation at all.
    """

    rows: tuple[ConversationRow, ...]
    conversation_fields: tuple[str, ...]
    message_fields: tuple[str, ...]
    messages_limit: int
    folder: str
    server_time: datetime


@dataclass(frozen=True)
class ListingSummary:
    """The figures of a listing so far; final after its last page.

    `started_at`: the server's time of the first response. The next listing may stop there if `cuts`
    is empty. `moving`: conversations that still changed in the last allowed pass; the next run must
    read them. `unreadable`: conversations whose page was refused even alone, with the error.
    """

    started_at: datetime | None
    listed_count: int
    page_count: int
    passes: int
    restarts: int
    inversions: int
    page_size_steps: int
    mode: ListingMode
    dropped_fields: frozenset[str]
    moving: frozenset[str]
    unreadable: Mapping[str, GraphError]
    cuts: tuple[Cut, ...]


@dataclass
class _Pass:
    """One pass from the newest conversation down to `bound_us`."""

    bound_us: int
    is_relisting: bool
    started_at: datetime | None = None
    page_count: int = 0
    idle_count: int = 0
    """How many rows in a row add nothing, the last row included ..."""
    is_past_bound: bool = False
    """... and whether one of them is older than the bound."""
    changed_ids: set[str] = field(default_factory=set)
    previous_us: int | None = None
    cut: Cut | None = None


class _CursorLostError(Exception):
    """The cursor cannot be used: start again with the newest page."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut)
        self.cut = cut


class Listing:
    """One listing of an account's folders down to `since`: iterate `pages()`, then read `summary`.

    `is_known` returns whether a row adds nothing to the stored data: a page of such rows that are
    also old ends a pass. Errors that stop the account (token, permission, throttle, budget, host)
    are raised by the iterator; the pages before them are valid.
    """

    def __init__(
        self,
        client: GraphClient,
        page_sizes: PageSizePolicy,
        *,
        since: datetime,
        folders: Sequence[str] = ("",),
        is_known: IsKnown | None = None,
    ) -> None:
        self._client = client
        self._platform = client.endpoint.platform
        self._page_sizes = page_sizes
        self._since = since
        self._folders = tuple(folders)
        self._is_known = is_known
        self._seen: dict[str, tuple[int | None, str | None]] = {}
        """Last activity and newest message of each conversation, as last listed."""
        self._started_at: datetime | None = None
        self._page_count = self._passes = self._restarts = self._loops = self._inversions = 0
        self._skip_reason: GraphError | None = None
        self._codes_of_rows: set[tuple[int | None, int | None]] = set()
        """Codes that refused a page only because of the messages of one of its conversations."""
        self._moving: set[str] = set()
        self._cuts: list[Cut] = []

    @property
    def summary(self) -> ListingSummary:
        unreadable = self._page_sizes.unreadable.items()
        return ListingSummary(
            self._started_at,
            len(self._seen),
            self._page_count,
            self._passes,
            self._restarts,
            self._inversions,
            self._page_sizes.step_count,
            self._page_sizes.mode,
            self._page_sizes.dropped,
            frozenset(self._moving),
            {conversation_id: error for conversation_id, error in unreadable if error},
            tuple(self._cuts),
        )

    def pages(self) -> Iterator[ListedPage]:
        """Yield every page with new or changed rows, of all folders and passes."""
        for folder in self._folders:
            yield from self._list_folder(folder)

    def _list_folder(self, folder: str) -> Iterator[ListedPage]:
        """List a folder, and its newest pages again until a pass finds nothing changed.

        If a conversation is unreadable with its messages, they are listed again without messages.
        """
        last = yield from self._run_pass(folder, self._since - MARGIN, is_relisting=False)
        if last.page_count <= 1 and last.cut is None:
            return
        for _ in range(MAX_RELISTINGS):
            if last.started_at is None:
                return
            with self._page_sizes.light() if self.summary.unreadable else nullcontext():
                bound = last.started_at - MARGIN
                last = yield from self._run_pass(folder, bound, is_relisting=True)
            if not last.changed_ids:
                return
        self._moving |= last.changed_ids

    def _run_pass(
        self, folder: str, bound: datetime, *, is_relisting: bool
    ) -> Generator[ListedPage, None, _Pass]:
        """List from the newest page down to the bound; restart if the cursor is lost."""
        self._passes += 1
        changed_ids: set[str] = set()
        while True:
            current = _Pass(to_us(bound), is_relisting)
            yield from self._list_pages(folder, current)
            changed_ids |= current.changed_ids
            self._loops += current.cut == "cursor_loop"
            is_exhausted = self._loops > MAX_LOOP_RESTARTS or self._restarts >= MAX_RESTARTS
            if current.cut in (None, "empty_pages") or is_exhausted:
                break
            self._restarts += 1
        current.changed_ids = changed_ids
        if current.cut is not None and current.cut not in self._cuts:
            self._cuts.append(current.cut)
        return current

    def _list_pages(self, folder: str, current: _Pass) -> Iterator[ListedPage]:
        after: str | None = None
        cursors: set[str] = set()
        empty_count = 0
        while current.cut is None:
            try:
                page, after = self._fetch_page(folder, after)
            except _CursorLostError as lost:
                current.cut = lost.cut
                return
            is_end = self._is_end(page.rows, current)
            changed = self._select_changed(page, current)
            if changed.rows:
                yield changed
            empty_count = 0 if page.rows else empty_count + 1
            if after is None or is_end:
                return
            if empty_count >= EMPTY_PAGES:
                current.cut = "empty_pages"
            elif after in cursors:
                current.cut = "cursor_loop"
            cursors.add(after)

    def _is_end(self, rows: Sequence[ConversationRow], current: _Pass) -> bool:
        """Return whether no later page can add anything.

        All rows of this page and enough rows before add nothing, and one is older than the bound.
        """

        def is_old(row: ConversationRow) -> bool:
            active_us = _active_us(row)
            return active_us is not None and active_us < current.bound_us

        def adds_nothing(row: ConversationRow) -> bool:
            if is_old(row):
                return True
            if row.conversation_id is None:
                return False
            if current.is_relisting:
                return not self._has_changed(row, row.conversation_id)
            return self._is_known is not None and self._is_known(row)

        last_rows = list(takewhile(adds_nothing, reversed(rows)))
        is_whole_page, is_past_bound = len(last_rows) == len(rows), any(map(is_old, last_rows))
        current.idle_count = len(last_rows) + current.idle_count * is_whole_page
        current.is_past_bound = is_past_bound or (current.is_past_bound and is_whole_page)
        return is_whole_page and current.is_past_bound and current.idle_count >= ENOUGH_ROWS

    def _select_changed(self, page: ListedPage, current: _Pass) -> ListedPage:
        """Keep the rows that are new or have changed since this listing yielded them."""
        current.started_at = current.started_at or page.server_time
        current.page_count += 1
        rows: list[ConversationRow] = []
        for row in page.rows:
            active_us, conversation_id = _active_us(row), row.conversation_id
            if active_us is not None:
                previous_us, current.previous_us = current.previous_us, active_us
                self._inversions += previous_us is not None and active_us > previous_us
            if conversation_id is None:
                rows.append(row)
            elif self._has_changed(row, conversation_id):
                self._seen[conversation_id] = (row.updated_us, _newest_message_id(row))
                rows.append(row)
                current.changed_ids.add(conversation_id)
                if page.messages_limit:
                    self._page_sizes.unreadable.pop(conversation_id, None)
        return replace(page, rows=tuple(rows))

    def _has_changed(self, row: ConversationRow, conversation_id: str) -> bool:
        """Return whether a row is newer than what was listed; an older row is a late copy."""
        if conversation_id not in self._seen:
            return True
        seen_us, seen_message_id = self._seen[conversation_id]
        newest_message_id = _newest_message_id(row)
        if row.updated_us == seen_us:
            is_known = newest_message_id is not None and seen_message_id is not None
            return is_known and newest_message_id != seen_message_id
        return seen_us is None or row.updated_us is None or row.updated_us > seen_us

    def _fetch_page(self, folder: str, after: str | None) -> tuple[ListedPage, str | None]:
        """Fetch the next page and its cursor; request less until a page is accepted."""
        while True:
            size = self._page_sizes.listing_size
            try:
                listed, next_cursor = self._fetch(size, folder, after)
            except GraphError as error:
                if self._page_count == 0 and is_unanswered(error):
                    raise  # the host is down: a smaller page is no help
                if size.messages and _is_nesting_refused(error):
                    self._page_sizes.use_light()
                elif not self._may_concern_one_row(error, size, folder, after):
                    raise _read_refusal(error, after) from None
                elif not self._skips_unreadable(
                    error, folder, after
                ) and not self._page_sizes.refuse_page(size, error):
                    return self._list_alone(error, size, folder, after)
            else:
                if not size.messages and self._skip_reason is not None:
                    known_ids = _ids_of(listed) & self._page_sizes.unreadable.keys()
                    self._page_sizes.unreadable |= dict.fromkeys(known_ids, self._skip_reason)
                self._page_sizes.accept_page(size, len(listed.rows))
                return listed, next_cursor

    def _may_concern_one_row(
        self, error: GraphError, size: PageSize, folder: str, after: str | None
    ) -> bool:
        """Return whether one conversation of the page can be why it was refused.

        Any code can mean that one conversation refuses its messages. As a control the same page is
        requested once without messages: if it is accepted, the messages are what was refused.
        """
        code = (error.fault.code, error.fault.subcode)
        if may_concern_one_row(error) or code in self._codes_of_rows:
            return True
        is_cursor = after is not None and code in {(100, None), *INBOX_MISSING}
        if not size.messages or error.fault.code is None or is_cursor:
            return False
        is_account = isinstance(error, TokenError | ThrottledError | VersionError)
        if is_account or _is_nesting_refused(error):
            return False
        try:
            self._fetch(replace(size, messages=0), folder, after)
        except GraphError:
            return False
        self._codes_of_rows.add(code)
        return True

    def _skips_unreadable(self, error: GraphError, folder: str, after: str | None) -> bool:
        """Find known unreadable conversations on a refused page, to list them without messages.

        One call lists the same rows without messages. Return False if none of them is known.
        """
        if not self._page_sizes.may_skip_rows:
            return False
        size = replace(self._page_sizes.listing_size, messages=0)
        try:
            listed, _ = self._fetch(size, folder, after)
        except GraphError as refusal:
            if may_concern_one_row(refusal):
                return False
            raise _read_refusal(refusal, after) from None
        is_unreadable = [row.conversation_id in self._page_sizes.unreadable for row in listed.rows]
        if not self._page_sizes.skip_rows(is_unreadable):
            return False
        self._skip_reason = error
        return True

    def _list_alone(
        self, error: GraphError, size: PageSize, folder: str, after: str | None
    ) -> tuple[ListedPage, str | None]:
        """List one refused row without its messages, or with nothing but its id and time."""
        for without in ((), OPTIONAL_CONVERSATION_FIELDS)[0 if size.messages else 1 :]:
            try:
                listed, next_cursor = self._fetch(PageSize(1, 0), folder, after, without)
            except GraphError as refusal:
                code = (refusal.fault.code, refusal.fault.subcode)
                if not may_concern_one_row(refusal) and code not in self._codes_of_rows:
                    raise _read_refusal(refusal, after) from None
                if is_unanswered(refusal) or (self._page_count == 0 and is_outage(refusal)):
                    raise  # no call was accepted yet: the server fails, not one conversation
            else:
                self._page_sizes.set_unreadable(_ids_of(listed), error)
                return listed, next_cursor
        if after is None:
            raise _read_refusal(error, after)
        raise _CursorLostError("page_refused")

    def _fetch(
        self, size: PageSize, folder: str, after: str | None, without: tuple[str, ...] = ()
    ) -> tuple[ListedPage, str | None]:
        """Send one call, without the fields that are refused; return the page and its cursor."""

        def send(dropped: frozenset[str]) -> ConversationPage:
            fields = conversation_fields(self._platform, size.messages, dropped | set(without))
            return self._client.fetch_conversations(fields, size.conversations, after, folder)

        dropped, page = self._page_sizes.send_without_refused_fields(
            send, may_be_unnamed=after is None
        )
        self._page_count += 1
        self._started_at = self._started_at or page.server_time
        messages = message_field_names(self._platform, dropped) if size.messages else ()
        listed = ListedPage(
            page.rows,
            conversation_field_names(dropped | set(without)),
            messages,
            size.messages,
            folder,
            page.server_time,
        )
        return listed, page.after


def _ids_of(listed: ListedPage) -> set[str]:
    return {row.conversation_id for row in listed.rows if row.conversation_id is not None}


def _is_nesting_refused(error: GraphError) -> bool:
    return isinstance(error, UnknownFieldError) and error.field == "messages"


def _read_refusal(error: GraphError, after: str | None) -> Exception:
    """Return what a bad parameter or missing object means: the cursor, or on page one the inbox."""
    if after is not None and (isinstance(error, MissingError) or is_unspecific_100(error)):
        return _CursorLostError("dead_cursor")
    if isinstance(error, MissingError):
        reason = "the inbox is not visible to this token"
        return AccessDeniedError(replace(error.fault, reason=reason))
    return error


def _newest_message_id(row: ConversationRow) -> str | None:
    return readable_id(row.messages.rows[0]) if row.messages.rows else None


def _active_us(row: ConversationRow) -> int | None:
    """Return the time of the last activity; if the API omits it, that of the newest message.

    A time before these platforms existed is wrong and would end a pass too early.
    """
    newest = row.messages.rows[0] if row.messages.rows else None
    created_us = parse_time_us(newest.get("created_time")) if isinstance(newest, dict) else None
    times = (row.updated_us, created_us)
    return next((time for time in times if time is not None and time >= EARLIEST_US), None)
