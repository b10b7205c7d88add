"""Decide how much each call of one account requests: page size, fields, unreadable conversations.

A refused page is requested smaller, and larger again after some accepted pages in a row. A climb
that is refused doubles that number. A refused field is not requested for a week. A conversation for
which a page is refused even alone is unreadable: its neighbours are listed around it. The next run
reads all of this from the account's memory. No I/O.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Literal, TypeVar

from convo_pipeline.errors import (
    GraphError,
    MissingError,
    RetryableError,
    TooMuchDataError,
    UnknownFieldError,
)
from convo_pipeline.graph.codes import UNKNOWN_ERROR, is_unspecific_100, may_concern_one_row
from convo_pipeline.graph.fields import find_optional_name, find_refused_fields
from convo_pipeline.schema import READABLE_COUNT

ListingMode = Literal["nested", "light"]
"""Listing with messages nested in each conversation, or with one call per conversation for them."""

CLIMB_AFTER = 4
MAX_CLIMB_AFTER = 64
LIGHT_AFTER = 8
"""List without messages after more refused pages than this, if no row came with messages yet ..."""
LIGHT_AFTER_ROWS = 15
"""... and later if refused pages outnumber the rows that came with messages by more than this."""
BARE_LIMIT = 2
"""After so many bare pages in a row, the next conversation is read with small pages."""
RETRY_FIELD_AFTER = timedelta(days=7)
MAX_UNREADABLE = 100
"""How many unreadable conversations the next run remembers."""

T = TypeVar("T")


@dataclass(frozen=True)
class PageSize:
    """How much one call requests.

    A listing: that many conversations, each with its newest `messages` (0: without messages).
    Messages of one conversation: `messages` a page. `is_bare`: only their ids and times.
    """

    conversations: int
    messages: int
    is_bare: bool = False


COUNTS = (50, 25, 10, 5, 2, 1)
LISTING_SIZES = (
    *(PageSize(count, READABLE_COUNT) for count in COUNTS),
    *(PageSize(count, 0) for count in COUNTS),
)
MESSAGE_SIZES = (PageSize(1, 100), PageSize(1, 20), PageSize(1, 10), PageSize(1, 100, is_bare=True))
"""Largest first; both are used from left to right as pages are refused."""
SMALLEST_MESSAGE_PAGE = min(size.messages for size in MESSAGE_SIZES)
LIGHT = len(COUNTS)
"""Index of the largest listing page without messages ..."""
FIRST_NESTED = COUNTS.index(10)
"""... and of the page that is tried next when messages are requested again."""


def smaller_message_page(size: PageSize, error: GraphError) -> PageSize | None:
    """Return what to request after a conversation's messages were refused; None if less is no help.

    If messages or a field are refused instead of the amount, their ids alone may be accepted.

    >>> from convo_pipeline.errors import GraphFault
    >>> smaller_message_page(MESSAGE_SIZES[0], TooMuchDataError(GraphFault(code=1)))
    PageSize(conversations=1, messages=20, is_bare=False)
    >>> smaller_message_page(MESSAGE_SIZES[0], MissingError(GraphFault()))
    PageSize(conversations=1, messages=100, is_bare=True)
    """
    smaller = MESSAGE_SIZES[MESSAGE_SIZES.index(size) + 1 :]
    if isinstance(error, MissingError | UnknownFieldError):
        smaller = tuple(each for each in smaller if each.is_bare)
    elif not isinstance(error, TooMuchDataError) and error.fault.code != UNKNOWN_ERROR:
        return None
    return smaller[0] if smaller else None


@dataclass
class _Position:
    """An index into a tuple of sizes, largest first."""

    index: int = 0
    accepted_in_a_row: int = 0
    climb_after: int = CLIMB_AFTER

    @classmethod
    def from_json(cls, value: Any, count: int) -> "_Position":
        """Read a remembered position in `count` sizes; raise ValueError if it cannot be one."""
        index, climb_after = int(value["index"]), int(value["climb_after"])
        if not 0 <= index < count:
            raise ValueError("no such size")
        climb_after = min(max(climb_after, CLIMB_AFTER), MAX_CLIMB_AFTER)
        return cls(index, int(value["accepted_in_a_row"]), climb_after)

    def set_index(self, index: int) -> None:
        """Use this size; if it is smaller, wait twice as long before the next climb."""
        if index > self.index:
            self.climb_after = min(2 * self.climb_after, MAX_CLIMB_AFTER)
        self.index, self.accepted_in_a_row = index, 0

    def count_accepted(self, larger: int | None) -> bool:
        """Count an accepted page; after enough of them use the index `larger` and return True."""
        self.accepted_in_a_row += 1
        if larger is None:
            self.climb_after = max(CLIMB_AFTER, self.climb_after - 1)
        elif self.accepted_in_a_row >= self.climb_after:
            self.set_index(larger)
            return True
        return False


@dataclass(frozen=True)
class _Search:
    """A listing page was refused: the reason is one of the next rows, or the page was too heavy."""

    index: int
    row_count: int
    is_passing: bool = False
    """The reason is known to be over: the size from before the search is used again."""


class PageSizePolicy:
    """How much the calls of one account request; safe for its threads, one of which lists.

    The listing uses `listing_size`, `accept_page`, `refuse_page` and `set_unreadable`, the calls of
    single conversations `message_size` and `accept_messages`, all `send_without_refused_fields`.
    """

    def __init__(self, platform: str, today: date, memory: object = None) -> None:
        """`memory` is what `to_json` returned in an earlier run; anything else is ignored."""
        self.step_count = 0
        self.unreadable: dict[str, GraphError | None] = {}
        """Unreadable conversations, each with its refusal in this run, if any."""
        self._platform = platform
        self._today = today
        self._listing, self._messages = _Position(), _Position()
        self._dropped: dict[str, date] = {}
        self._search: _Search | None = None
        self._skips: tuple[bool, ...] = ()
        """Whether each of the next rows is an unreadable conversation, as far as is known."""
        self._climbed_from: int | None = None
        self._refused_count = self._nested_row_count = self._bare_in_a_row = 0
        self._is_field_search_useless = False
        self._lock, self._field_lock = threading.Lock(), threading.Lock()
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            self._read_memory(memory)

    # -- pages of the listing

    @property
    def mode(self) -> ListingMode:
        return "light" if self._proven.index >= LIGHT else "nested"

    @property
    def _proven(self) -> _Position:
        """The position whose size was accepted last: not that of a climb that was not tried yet."""
        if self._climbed_from is None:
            return self._listing
        climb_after = self._listing.climb_after
        return _Position(self._climbed_from, climb_after - 1, climb_after)

    @property
    def listing_size(self) -> PageSize:
        """What the next listing page requests."""
        if self._skips and self._skips[0]:
            return PageSize(1, 0)
        size = LISTING_SIZES[self._search.index if self._search else self._listing.index]
        if any(self._skips):
            return replace(size, conversations=min(size.conversations, self._skips.index(True)))
        return size

    @property
    def may_skip_rows(self) -> bool:
        """Whether an unreadable conversation of an earlier run can be why a page was refused."""
        is_alone = self.listing_size.conversations == 1 or self.mode == "light"
        is_explained = self._search or self._skips or self._climbed_from is not None
        return None in self.unreadable.values() and not is_alone and not is_explained

    def skip_rows(self, is_unreadable: Sequence[bool]) -> bool:
        """List the unreadable ones of the next rows without messages, and those between with them.

        Return False if none of them is unreadable.

        >>> policy = PageSizePolicy("instagram", date(2026, 1, 1))
        >>> policy.skip_rows([True, False, False, True])
        True
        >>> for _ in range(4):
        ...     size = policy.listing_size
        ...     print(size.conversations, size.messages)
        ...     policy.accept_page(size, size.conversations)
        1 0
        2 20
        1 0
        50 20
        """
        self._skips = tuple(is_unreadable) if any(is_unreadable) else ()
        self.step_count += bool(self._skips)
        return bool(self._skips)

    def refuse_page(self, size: PageSize, error: GraphError) -> bool:
        """Request less after a refused listing page; return False if that is impossible.

        Then the page has one row. A page without a response is made smaller by two steps: each
        attempt costs a timeout.
        """
        self.step_count += 1
        self._refused_count += 1
        self._skips = ()
        if self._climbed_from is not None:
            self._listing.set_index(self._climbed_from)
            self._climbed_from = None
            return True
        row_count = self._nested_row_count
        limit = LIGHT_AFTER_ROWS + row_count if row_count else LIGHT_AFTER
        if size.messages and self._refused_count > limit:
            self.use_light()
            return True
        smaller = [
            index
            for index, each in enumerate(LISTING_SIZES)
            if each.messages == size.messages and each.conversations < size.conversations
        ]
        if not smaller:
            return False
        has_no_code = error.fault.code is None
        steps = 2 if has_no_code or isinstance(error, RetryableError) else 1
        self._search = _Search(
            smaller[min(steps, len(smaller)) - 1],
            min(self._search.row_count if self._search else size.conversations, size.conversations),
            is_passing=has_no_code and self._refused_count == 1,
        )
        return True

    def accept_page(self, size: PageSize, row_count: int) -> None:
        """Count an accepted listing page of `row_count` rows."""
        self._nested_row_count += row_count if size.messages else 0
        self._climbed_from = None
        if any(self._skips):
            self._skips = self._skips[size.conversations :]
        elif self._search is None:
            index = self._listing.index
            larger = FIRST_NESTED if index == LIGHT else index - 1 if index else None
            if self._listing.count_accepted(larger):
                self._climbed_from = index
        elif self._search.row_count > size.conversations:
            row_count = self._search.row_count - size.conversations
            self._search = replace(self._search, row_count=row_count)
        else:
            if not self._search.is_passing:  # no row is unreadable: the page was too heavy
                self._listing.set_index(self._search.index)
            self._search = None

    def set_unreadable(self, conversation_ids: Iterable[str], error: GraphError) -> None:
        """Remember conversations whose pages are refused even alone, and request as before.

        As long as no row came with messages, the next row is requested alone too.
        """
        self.unreadable |= dict.fromkeys(conversation_ids, error)
        self._search = None
        if self.mode == "nested" and self._nested_row_count == 0:
            self._search = _Search(LIGHT - 1, 1, is_passing=True)

    def use_light(self) -> None:
        """List without messages from now on."""
        self._listing.index, self._listing.accepted_in_a_row = LIGHT, 0
        self._search, self._skips, self._climbed_from = None, (), None

    @contextmanager
    def light(self) -> Iterator[None]:
        """List without messages inside the block, and as before after it."""
        listing, self._listing = self._listing, _Position()
        self.use_light()
        try:
            yield
        finally:
            self._listing = listing
            self._search, self._skips, self._climbed_from = None, (), None

    # -- messages of one conversation

    @property
    def message_size(self) -> PageSize:
        """What the first page of a conversation's messages requests."""
        return MESSAGE_SIZES[self._messages.index]

    def accept_messages(self, size: PageSize) -> None:
        """Count an accepted page of messages: the next conversation is requested with this size.

        >>> policy = PageSizePolicy("instagram", date(2026, 1, 1))
        >>> for _ in range(1 + 2 * CLIMB_AFTER):
        ...     policy.accept_messages(MESSAGE_SIZES[2])
        >>> policy.message_size.messages
        20
        """
        with self._lock:
            self._bare_in_a_row = self._bare_in_a_row + 1 if size.is_bare else 0
            index = MESSAGE_SIZES.index(size)
            if size.is_bare:
                if self._bare_in_a_row >= BARE_LIMIT:
                    self._messages.set_index(index - 1)
            elif index != self._messages.index:
                self._messages.set_index(index)
            else:
                self._messages.count_accepted(index - 1 if index else None)

    # -- fields

    @property
    def dropped(self) -> frozenset[str]:
        """The fields that are not requested."""
        return frozenset(self._dropped)

    def send_without_refused_fields(
        self, send: Callable[[frozenset[str]], T], *, may_be_unnamed: bool = False
    ) -> tuple[frozenset[str], T]:
        """Send a call without the fields that are refused; return their names and the result.

        `send` takes the names of the fields to leave out. Its error is raised if it is about no
        field that can be left out. `may_be_unnamed`: a code 100 that names no parameter can be
        about a field, because nothing else in the call can be wrong.
        """
        while True:
            dropped = self.dropped
            try:
                return dropped, send(dropped)
            except GraphError as error:
                is_about_fields = isinstance(error, UnknownFieldError) or (
                    may_be_unnamed and is_unspecific_100(error)
                )
                if not is_about_fields or not self._drop_field(error, dropped, send):
                    raise

    def _drop_field(
        self,
        error: GraphError,
        dropped: frozenset[str],
        send: Callable[[frozenset[str]], object],
    ) -> bool:
        """Leave out the refused field, found by name or by trial calls; False if there is none."""
        if isinstance(error, UnknownFieldError) and error.field == "messages":
            return False
        with self._field_lock:
            if self.dropped != dropped:
                return True  # another thread dropped one meanwhile
            name = None
            if isinstance(error, UnknownFieldError):
                name = find_optional_name(error.field, self._platform, dropped)
            refused: Collection[str] = [name] if name else []
            if not name and not self._is_field_search_useless:
                refused = find_refused_fields(
                    self._platform, dropped, lambda names: _are_fields_accepted(send, names)
                )
                self._is_field_search_useless = not refused
            self._dropped = self._dropped | dict.fromkeys(refused, self._today)
            self.step_count += bool(refused)
            return bool(refused)

    # -- memory

    def to_json(self, unreadable: Iterable[str]) -> dict[str, object]:
        """Return what the next run of the account needs, with these unreadable conversations."""
        return {
            "listing": vars(self._proven),
            "messages": vars(self._messages),
            "dropped": {name: since.isoformat() for name, since in self._dropped.items()},
            "unreadable": sorted(unreadable)[:MAX_UNREADABLE],
        }

    def _read_memory(self, memory: Any) -> None:
        listing = _Position.from_json(memory["listing"], len(LISTING_SIZES))
        messages = _Position.from_json(memory["messages"], len(MESSAGE_SIZES) - 1)
        dropped = {
            str(name): since
            for name, value in memory["dropped"].items()
            if self._today - (since := date.fromisoformat(value)) < RETRY_FIELD_AFTER
        }
        self.unreadable = dict.fromkeys(map(str, memory["unreadable"]))
        self._listing, self._messages, self._dropped = listing, messages, dropped


def _are_fields_accepted(send: Callable[[frozenset[str]], object], dropped: frozenset[str]) -> bool:
    """Return whether a call without these fields is accepted; only a code 100 refuses fields."""
    try:
        send(dropped)
    except GraphError as error:
        if isinstance(error, UnknownFieldError) or is_unspecific_100(error):
            return False
        if isinstance(error, RetryableError) or not may_concern_one_row(error):
            raise
    return True
