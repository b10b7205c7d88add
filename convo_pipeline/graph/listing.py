"""Lists an inbox that moves while it is read: owns the passes over it and where they stop.

The API orders conversations by activity and pages live. A conversation that gets a message while we read jumps to the
head, behind our cursor, so after the last page the head is listed again until a pass brings nothing new. There is no
time-based paging: the stop is our own. What is asked for on each page is the ladder's decision; here its failures are
acted on: a smaller page from the same cursor, and a conversation that fails even alone is listed without its messages,
so that its neighbours are whole.
It knows no table and stores nothing; a row is passed on once, and again only if it came back changed.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import EARLIEST, parse_time
from convo_pipeline.errors import (
    AccessDeniedError,
    GraphError,
    MissingError,
    UnknownFieldError,
)
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.codes import (
    is_outage,
    is_unanswered,
    is_unspecific_100,
    may_concern_one_row,
)
from convo_pipeline.graph.descent import Descent
from convo_pipeline.graph.fields import (
    OPTIONAL_CONVERSATION_FIELDS,
    conversation_field_names,
    conversation_fields,
    message_field_names,
)
from convo_pipeline.graph.footing import is_accepted
from convo_pipeline.graph.ladder import TOP, Rung, find_refused_fields, without
from convo_pipeline.graph.responses import ConversationPage, ConversationRow

MARGIN = timedelta(minutes=10)
HEAD_PASSES = 3
EMPTY_PAGES = 20
LOOP_RESTARTS = 1
ENOUGH_ROWS = 10
"""A pass ends after no fewer rows in a row that add nothing: one that is out of its place may be a whole small page."""

Cut = Literal["cursor_loop", "dead_cursor", "empty_pages", "page_refused"]
"""Why a listing ended before its stop."""

IsKnown = Callable[[ConversationRow], bool]


@dataclass(frozen=True)
class ListedPage:
    """New and changed rows of one call, and what that call asked for.

    `messages_limit` is 0 where the messages were not asked for: each conversation then needs a call of its own.
    The payload of a row is as the API sent it; it may be no conversation at all.
    """

    rows: tuple[ConversationRow, ...]
    conversation_fields: tuple[str, ...]
    message_fields: tuple[str, ...]
    messages_limit: int
    folder: str
    server_time: datetime
    rung: Rung


@dataclass(frozen=True)
class ListingSummary:
    """What a listing did; true at any time, final when its pages are used up.

    `rung` is the last one that was given a page. `started_at` is the server's time of the first answer (T0): the next listing's `since`, if `cuts` is empty.
    `moving` holds the conversations that still changed in the last pass allowed: due next run.
    `poisoned` holds those whose nested messages were refused even alone, with the refusal; `suspects` are these and those
    of earlier listings that did not come well since: the next listing's `suspects`.
    """

    started_at: datetime | None
    listed_count: int
    page_count: int
    passes: int
    restarts: int
    inversions: int
    ladder_steps: int
    rung: Rung
    moving: frozenset[str]
    poisoned: Mapping[str, GraphError]
    suspects: frozenset[str]
    cuts: tuple[Cut, ...]


@dataclass
class _Walk:
    """One pass from the head down: what it has met."""

    bound: datetime
    is_head: bool
    started_at: datetime | None = None
    page_count: int = 0
    idle_count: int = 0
    """How many rows in a row, the last one met among them, add nothing ..."""
    is_past_bound: bool = False
    """... and whether any of these is older than the bound."""
    fresh: set[str] = field(default_factory=set)
    newest_before: datetime | None = None
    cut: Cut | None = None


class _CursorLostError(Exception):
    """The cursor leads nowhere: start again from the head."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut)
        self.cut = cut


class Listing:
    """One listing of an account's folders, head to `since`; iterate `pages()` once, then read `summary`.

    `is_known` may say that a row adds nothing to what is stored: a page of old and known rows then ends the pass.
    A refused page is searched for the conversation it is refused for, unless one of `suspects` is on it.
    Fields dropped a week ago are asked for again; refused again, they are dropped with today's date.
    Errors that stop the account (token, permission, throttle, budget, dead host) are raised from the iteration; what
    was yielded before is good.
    """

    def __init__(
        self,
        client: GraphClient,
        rung: Rung = TOP,
        *,
        since: datetime,
        folders: Sequence[str] = ("",),
        is_known: IsKnown | None = None,
        suspects: Iterable[str] = (),
        max_restarts: int = 3,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client = client
        self._platform = client.endpoint.platform
        self._descent = Descent(rung, self._platform, clock.now().date())
        self._since = since
        self._folders = tuple(folders)
        self._is_known = is_known
        self._suspects = set(suspects)
        self._suspicion: GraphError | None = None
        self._max_restarts = max_restarts
        self._seen: dict[str, tuple[object, str | None]] = {}
        self._has_eliminated = False
        self._started_at: datetime | None = None
        self._page_count = self._passes = self._restarts = self._loops = self._inversions = 0
        self._moving: set[str] = set()
        self._poisoned: dict[str, GraphError] = {}
        self._cuts: list[Cut] = []

    @property
    def summary(self) -> ListingSummary:
        return ListingSummary(
            self._started_at,
            len(self._seen),
            self._page_count,
            self._passes,
            self._restarts,
            self._inversions,
            self._descent.steps,
            self._descent.settled,
            frozenset(self._moving),
            dict(self._poisoned),
            frozenset({*self._suspects, *self._poisoned}),
            tuple(self._cuts),
        )

    def pages(self) -> Iterator[ListedPage]:
        """Yield every page that brought something; all folders, all passes."""
        for folder in self._folders:
            yield from self._list_folder(folder)

    def _list_folder(self, folder: str) -> Iterator[ListedPage]:
        walk = yield from self._pass(folder, self._since - MARGIN, is_head=False)
        if walk.page_count <= 1 and walk.cut is None:
            return
        for _ in range(HEAD_PASSES):
            if walk.started_at is None:
                return
            walk = yield from self._head_pass(folder, walk.started_at - MARGIN)
            if not walk.fresh:
                return
        self._moving |= walk.fresh

    def _head_pass(self, folder: str, bound: datetime) -> Generator[ListedPage, None, _Walk]:
        """List the head again; without messages where nesting has met poison, which would be searched for again."""
        if not self._poisoned:
            return (yield from self._pass(folder, bound, is_head=True))
        rung = self._descent.go_light()
        walk = yield from self._pass(folder, bound, is_head=True)
        self._descent.come_back(rung)
        return walk

    def _pass(
        self, folder: str, bound: datetime, *, is_head: bool
    ) -> Generator[ListedPage, None, _Walk]:
        """Walk from the head to the bound; start again when the cursor is lost, a bounded number of times."""
        self._passes += 1
        fresh: set[str] = set()
        while True:
            walk = _Walk(bound, is_head)
            yield from self._walk(folder, walk)
            fresh |= walk.fresh
            if walk.cut is None or not self._may_restart(walk.cut):
                break
        walk.fresh = fresh
        if walk.cut is not None and walk.cut not in self._cuts:
            self._cuts.append(walk.cut)
        return walk

    def _may_restart(self, cut: Cut) -> bool:
        self._loops += cut == "cursor_loop"
        if (
            cut == "empty_pages"
            or self._loops > LOOP_RESTARTS
            or self._restarts >= self._max_restarts
        ):
            return False
        self._restarts += 1
        return True

    def _walk(self, folder: str, walk: _Walk) -> Iterator[ListedPage]:
        after: str | None = None
        cursors: set[str] = set()
        empty_count = 0
        while walk.cut is None:
            try:
                listed, after = self._fetch_page(folder, after)
            except _CursorLostError as lost:
                walk.cut = lost.cut
                return
            is_end = self._is_end(listed.rows, walk)
            fresh = self._take_fresh(listed, walk)
            if fresh.rows:
                yield fresh
            empty_count = 0 if listed.rows else empty_count + 1
            if after is None or is_end:
                return
            if empty_count >= EMPTY_PAGES:
                walk.cut = "empty_pages"
            elif after in cursors:
                walk.cut = "cursor_loop"
            cursors.add(after)

    def _is_end(self, rows: Sequence[ConversationRow], walk: _Walk) -> bool:
        """Whether nothing below this page can matter: it and enough rows are older than the bound, or old and known."""
        tail = list(
            takewhile(
                lambda row: _is_before(walk.bound, row) or self._adds_nothing(row, walk),
                reversed(rows),
            )
        )
        is_whole_page, is_past_bound = (
            len(tail) == len(rows),
            any(_is_before(walk.bound, row) for row in tail),
        )
        walk.idle_count = len(tail) + walk.idle_count * is_whole_page
        walk.is_past_bound = is_past_bound or (walk.is_past_bound and is_whole_page)
        return is_whole_page and walk.is_past_bound and walk.idle_count >= ENOUGH_ROWS

    def _adds_nothing(self, row: ConversationRow, walk: _Walk) -> bool:
        conversation_id = readable_id(row.payload)
        if conversation_id is None:
            return False
        if walk.is_head:
            return not self._is_fresh(row, conversation_id)
        return self._is_known is not None and self._is_known(row)

    def _take_fresh(self, listed: ListedPage, walk: _Walk) -> ListedPage:
        """Keep the rows that are new or changed since they were seen in this listing."""
        walk.started_at = walk.started_at or listed.server_time
        walk.page_count += 1
        kept: list[ConversationRow] = []
        ids: list[str] = []
        for row in listed.rows:
            self._count_inversion(row, walk)
            conversation_id = readable_id(row.payload)
            if conversation_id is None:
                kept.append(row)
            elif self._is_fresh(row, conversation_id):
                self._seen[conversation_id] = (_updated_time(row), _newest_message_id(row))
                kept.append(row)
                ids.append(conversation_id)
        walk.fresh.update(ids)
        if listed.messages_limit:
            for conversation_id in ids:
                self._poisoned.pop(conversation_id, None)
                self._suspects.discard(conversation_id)
        return replace(listed, rows=tuple(kept))

    def _is_fresh(self, row: ConversationRow, conversation_id: str) -> bool:
        """Same time and same newest message is nothing new; an older time is a late copy of what we have."""
        seen = self._seen.get(conversation_id)
        if seen is None:
            return True
        updated_time, newest = _updated_time(row), _newest_message_id(row)
        if updated_time == seen[0]:
            return newest is not None and seen[1] is not None and newest != seen[1]
        before, now = parse_time(seen[0]), parse_time(updated_time)
        return before is None or now is None or now > before

    def _count_inversion(self, row: ConversationRow, walk: _Walk) -> None:
        time = _updated_at(row)
        if time is None:
            return
        self._inversions += walk.newest_before is not None and time > walk.newest_before
        walk.newest_before = time

    def _fetch_page(self, folder: str, after: str | None) -> tuple[ListedPage, str | None]:
        """Fetch the next page, asking for less until it is given."""
        while True:
            rung = self._descent.rung
            try:
                page = self._fetch(rung, folder, after)
            except GraphError as error:
                if self._page_count == 0 and is_unanswered(error):
                    raise  # a dead host, not a heavy page
                if may_concern_one_row(error):
                    if not self._goes_around(error, folder, after) and not self._descent.refuse(
                        error
                    ):
                        return self._isolate(error, folder, after)
                elif not self._drops_field(error, folder, after):
                    raise _meaning(error, after) from None
            else:
                self._note_suspects(rung, page)
                self._descent.accept(rung, len(page.rows))
                return self._listed(page, rung, folder), page.after

    def _goes_around(self, error: GraphError, folder: str, after: str | None) -> bool:
        """Look where on a refused page the suspects are, to list them apart from the others; False if none is there."""
        if not self._suspects or not self._descent.may_go_around:
            return False
        try:
            page = self._fetch(replace(self._descent.rung, mode="light"), folder, after)
        except GraphError as refusal:
            if may_concern_one_row(refusal):
                return False
            raise _meaning(refusal, after) from None
        places = [
            place
            for place, row in enumerate(page.rows)
            if readable_id(row.payload) in self._suspects
        ]
        if places:
            self._suspicion = error
            self._descent.go_around(places)
        return bool(places)

    def _note_suspects(self, rung: Rung, page: ConversationPage) -> None:
        """Note those that were listed apart from the others: they were not asked for their messages again."""
        if rung.mode == "light" and self._suspicion is not None:
            found = {
                found for row in page.rows if (found := readable_id(row.payload)) in self._suspects
            }
            self._poisoned |= dict.fromkeys(found, self._suspicion)

    def _fetch(self, rung: Rung, folder: str, after: str | None) -> ConversationPage:
        fields = conversation_fields(self._platform, rung.nested_messages, rung.dropped_names)
        page = self._client.fetch_conversations(fields, rung.conversations_per_page, after, folder)
        self._page_count += 1
        self._started_at = self._started_at or page.server_time
        return page

    def _listed(self, page: ConversationPage, rung: Rung, folder: str) -> ListedPage:
        names = conversation_field_names(rung.dropped_names)
        messages = (
            message_field_names(self._platform, rung.dropped_names) if rung.nested_messages else ()
        )
        return ListedPage(
            page.rows, names, messages, rung.nested_messages, folder, page.server_time, rung
        )

    def _isolate(
        self, error: GraphError, folder: str, after: str | None
    ) -> tuple[ListedPage, str | None]:
        """List the one row that is refused without its messages, in the last resort with its id and time only."""
        alone = self._descent.rung
        light = replace(alone, mode="light", conversations_per_page=1)
        bare = without(light, OPTIONAL_CONVERSATION_FIELDS, self._descent.today)
        for rung in (light, bare) if alone.mode == "nested" else (bare,):
            try:
                page = self._fetch(rung, folder, after)
            except GraphError as refusal:
                if not may_concern_one_row(refusal):
                    raise _meaning(refusal, after) from None
                if is_unanswered(refusal) or (self._page_count == 0 and is_outage(refusal)):
                    raise  # a server that never answered well, not one bad conversation
            else:
                self._poisoned |= {
                    found: error
                    for row in page.rows
                    if (found := readable_id(row.payload)) is not None
                }
                self._descent.isolated()
                return self._listed(page, rung, folder), page.after
        if after is None:
            raise _meaning(error, after)
        raise _CursorLostError("page_refused")

    def _drops_field(self, error: GraphError, folder: str, after: str | None) -> bool:
        """Go on without the field that a code 100 names, or may mean; False if it is not about fields."""
        if isinstance(error, UnknownFieldError) and self._descent.drop_field(error):
            return True
        is_about_fields = isinstance(error, UnknownFieldError) or (
            is_unspecific_100(error) and after is None
        )
        if not is_about_fields or self._has_eliminated:
            return False
        self._has_eliminated = True
        refused = self._find_refused(folder)
        if refused:
            self._descent.drop(refused)
        return bool(refused)

    def _find_refused(self, folder: str) -> tuple[str, ...]:
        """Find by asking which fields are refused, where no text names them; empty if it is none of them."""
        rung = self._descent.rung

        def ask(dropped: frozenset[str]) -> ConversationPage:
            fields = conversation_fields(self._platform, rung.nested_messages, dropped)
            return self._client.fetch_conversations(fields, 1, None, folder)

        return find_refused_fields(
            self._platform, rung.dropped_names, lambda names: is_accepted(ask, names)
        )


def _meaning(error: GraphError, after: str | None) -> Exception:
    """A bad parameter or missing object behind a cursor is the cursor; at the head it is the inbox itself."""
    if after is not None and (isinstance(error, MissingError) or is_unspecific_100(error)):
        return _CursorLostError("dead_cursor")
    if isinstance(error, MissingError):
        return AccessDeniedError(
            replace(error.fault, reason="the inbox is not visible to this token")
        )
    return error


def _updated_time(row: ConversationRow) -> object:
    return row.payload.get("updated_time") if isinstance(row.payload, dict) else None


def _updated_at(row: ConversationRow) -> datetime | None:
    """Return when the conversation last changed; where the API does not say, when its newest message was sent."""
    newest = _newest_message(row)
    created_time = newest.get("created_time") if isinstance(newest, dict) else None
    times = (parse_time(_updated_time(row)), parse_time(created_time))
    return next((time for time in times if time is not None and time >= EARLIEST), None)


def _is_before(bound: datetime, row: ConversationRow) -> bool:
    time = _updated_at(row)
    return time is not None and time < bound


def _newest_message(row: ConversationRow) -> object:
    return row.messages.rows[0] if row.messages.rows else None


def _newest_message_id(row: ConversationRow) -> str | None:
    return readable_id(_newest_message(row))
