"""One conversation's own calls: itself by its id, older pages of its messages, and single messages that came bare.

It asks and spools; when to stop is decided in `walk`, what a row means in `rows`, what a refusal means in `verdict`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.times import SECOND_US, to_us
from convo_pipeline.errors import (
    STOPPING,
    ConvoError,
    GraphError,
    GraphFault,
    PayloadError,
    RetryableError,
    ThrottledError,
    TooMuchDataError,
    UnknownFieldError,
)
from convo_pipeline.extract.contents import Journal
from convo_pipeline.extract.newest20_probe import Newest20Probe, is_telling, judge, look_of, verdict
from convo_pipeline.extract.observations import lacks_content, placed_time
from convo_pipeline.extract.spool import Record
from convo_pipeline.extract.walk import Walk, bare_beyond, bare_readable
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.codes import is_permanent
from convo_pipeline.graph.fields import (
    conversation_field_names,
    conversation_fields,
    message_field_names,
    message_fields,
)
from convo_pipeline.graph.footing import Footing
from convo_pipeline.graph.ladder import Edge, Rung, smaller_edge
from convo_pipeline.graph.listing import ListedPage
from convo_pipeline.graph.responses import Page
from convo_pipeline.schema import READABLE_COUNT

MOST_EMPTY_PAGES = 3
SETTLED_AFTER_US = 2 * SECOND_US
BARE_FIELDS = ("id", "created_time")
MOST_FAILED_IN_A_ROW = 5
"""Single messages of a conversation that the server fails on before the conversation waits for the next run."""
UNREAD = ""
"""The cursor of a conversation whose messages did not come with it: its edge is walked from the head."""
SETTLED_STATUSES = frozenset({"detailed", "gone"})
MESSAGE_FAILED = "message_failed"
EMPTY_EDGE = "empty_edge"
"""A conversation shows no messages where there must be some, or may be: believed when it is met twice."""


@dataclass(frozen=True)
class Listed:
    """A conversation as an answer showed it: its newest messages nested, and the time of that answer."""

    conversation_id: str
    updated_us: int | None
    nested: Page
    walk: Walk
    rung: Rung
    messages_limit: int
    """How many of its messages were asked for with it; 0: none."""
    is_current: bool = False
    """Listed without messages, and its time of activity is the one that is held."""
    is_given_up: bool = False
    """Refused for good, twice, and nothing came since: what is listed of it is all that is taken."""
    was_empty: bool = False
    """Whether it was met without messages in the run before, and not believed."""

    @property
    def dropped(self) -> frozenset[str]:
        return self.rung.dropped_names

    @property
    def at_us(self) -> int:
        return to_us(self.nested.server_time)

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
        return (
            is_walked
            and not bare_readable(self.nested.rows, 1)
            and not bare_beyond(self.nested.rows, 1)
        )


@dataclass(frozen=True)
class ConversationReader:
    """Reads conversations of one account in one run; may be used by several threads."""

    client: GraphClient
    journal: Journal
    platform: str
    rule: Newest20Probe
    footing: Footing
    held_as: Callable[[str, str, int], Collection[tuple[str, int | None]]]
    """Under which `detail_status` and error code (conversation_id, message_id, created_us) is held; empty: not at all."""
    is_stored: Callable[[str, str, int], bool]
    """Whether (conversation_id, message_id, created_us) has a row."""
    on_messages: Callable[[int], None]

    def find(self, conversation_id: str, rung: Rung) -> ListedPage:
        """Ask for one conversation by its id, with its newest messages nested unless that is refused."""
        if rung.nested_messages:
            try:
                return self._find(conversation_id, rung, READABLE_COUNT)
            except ThrottledError:
                raise
            except (TooMuchDataError, RetryableError, UnknownFieldError):
                pass  # its messages are asked for by a call of their own
        return self._find(conversation_id, rung, 0)

    def _find(self, conversation_id: str, rung: Rung, messages_limit: int) -> ListedPage:
        dropped, page = self.footing.ask(
            rung.dropped_names,
            lambda names: self.client.fetch_conversation(
                conversation_id, conversation_fields(self.platform, messages_limit, names)
            ),
            is_plain_about_fields=True,
        )
        return ListedPage(
            page.rows,
            conversation_field_names(dropped),
            message_field_names(self.platform, dropped) if messages_limit else (),
            messages_limit,
            "",
            page.server_time,
            rung,
        )

    def ask_one(self, conversation_id: str) -> None:
        """Ask for one message of a conversation, only to see whether an answer comes."""
        self.client.fetch_messages(conversation_id, "id", 1)

    def read(self, listed: Listed) -> Record:
        """Read what is due of a conversation; return its state. Raises what ends it early."""
        walk, after = self._meet_held(listed, listed.walk, listed.nested.rows), listed.nested.after
        is_whole = self._ask_bare(listed, listed.nested.rows, 1)
        cursors: set[str] = set()
        empty_pages, has_restarted = 0, False
        while after is not None and not walk.is_deep_enough:
            if after in cursors or empty_pages > MOST_EMPTY_PAGES:
                raise RetryableError(
                    GraphFault(reason="the message listing does not come to its end")
                )
            cursors.add(after)
            try:
                page = self._fetch_older(listed, after, walk.count + 1)
            except GraphError as error:
                if after == UNREAD or isinstance(error, STOPPING) or not is_permanent(error):
                    raise
                if (
                    has_restarted
                ):  # the head was given: what is refused is the cursor, not the conversation
                    raise RetryableError(
                        replace(error.fault, reason="a later page of the messages is refused")
                    ) from None
                walk, after, has_restarted = Walk(walk.since_us, walk.held), UNREAD, True
                cursors.clear()
                continue
            if self._is_doubtful(listed, page, walk):
                if after == UNREAD:
                    return failed_state_record(listed.conversation_id, listed.at_us, EMPTY_EDGE)
                walk, after = (
                    Walk(walk.since_us, walk.held),
                    UNREAD,
                )  # the listing of its own, from the head
                continue
            is_whole &= self._ask_bare(listed, page.rows, walk.count + 1)
            empty_pages = 0 if page.rows else empty_pages + 1
            walk, after = self._meet_held(listed, walk.extend(page.rows), page.rows), page.after
        return state_record(
            listed, walk, at_end=after is None, due_reason=None if is_whole else MESSAGE_FAILED
        )

    def _meet_held(self, listed: Listed, walk: Walk, entries: Sequence[object]) -> Walk:
        """Let a walk meet what is held by another message than its newest, which may be unsent by now."""
        clue = walk.stored_clue(entries)
        return (
            walk.meet()
            if clue is not None and self.is_stored(listed.conversation_id, *clue)
            else walk
        )

    def _is_doubtful(self, listed: Listed, page: Page, walk: Walk) -> bool:
        """Whether a page without rows ends a listing where there must be more, or may well be.

        After a full nested page the edge is asked from the head; if that is empty too, it contradicts what was nested.
        Where nothing is nested there is no second opinion, but that of the next run.
        """
        if page.rows or page.after is not None:
            return False
        if walk.count:
            return walk.count == len(listed.nested.rows) >= listed.messages_limit > 0
        if listed.nested.rows:
            return True
        return not listed.messages_limit and not listed.was_empty

    def _fetch_older(self, listed: Listed, after: str, first_rank: int) -> Page:
        """Read and spool one page of messages."""
        fields, page = self._fetch_page(listed, after)
        self.journal.append(
            {
                "kind": "edge",
                "at_us": to_us(page.server_time),
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
            try:
                fields, page = self._fetch_edge(listed, after, edge)
            except GraphError as error:
                smaller = smaller_edge(edge, error)
                if smaller is None:
                    raise
                edge = smaller
            else:
                self.footing.note_given(edge)
                return fields, page

    def _fetch_edge(self, listed: Listed, after: str, edge: Edge) -> tuple[tuple[str, ...], Page]:
        """Ask for one page of so many messages, without the fields that are refused."""
        conversation_id, cursor = listed.conversation_id, after or None
        if edge.is_bare:
            return BARE_FIELDS, self.client.fetch_messages(
                conversation_id, ",".join(BARE_FIELDS), edge.limit, cursor
            )
        dropped, page = self.footing.ask(
            listed.dropped,
            lambda names: self.client.fetch_messages(
                conversation_id, message_fields(self.platform, names), edge.limit, cursor
            ),
            is_plain_about_fields=cursor is None,
        )
        return message_field_names(self.platform, dropped), page

    def _ask_bare(self, listed: Listed, entries: Sequence[object], first_rank: int) -> bool:
        """Ask singly for bare messages inside the newest 20, and for some beyond once a run; False if one failed."""
        due, beyond = bare_readable(entries, first_rank), bare_beyond(entries, first_rank)
        if beyond and not self.rule.holds(
            lambda place: look_of(self._ask(listed, *beyond[place])[1]), len(beyond)
        ):
            due += beyond
        is_whole, failed_in_a_row = True, 0
        for bare in due:
            status, error = self._ask(listed, *bare)
            is_whole &= status != "failed"
            failed_in_a_row = failed_in_a_row + 1 if isinstance(error, RetryableError) else 0
            if error is not None and failed_in_a_row >= MOST_FAILED_IN_A_ROW:
                raise error
        return is_whole

    def _ask(
        self, listed: Listed, rank: int, message_id: str, row: dict[str, object]
    ) -> tuple[str, ConvoError | None]:
        """Read and spool one message; return its `detail_status` and what was raised instead of it.

        A refusal that asking again does not cure is believed when it is met twice: `settled`.
        """
        created_us, source = placed_time(row, message_id, listed.updated_us, listed.at_us)
        is_readable = rank <= READABLE_COUNT
        held = self.held_as(listed.conversation_id, message_id, created_us) if is_readable else ()
        if any(status in SETTLED_STATUSES for status, _ in held):
            return "settled", None
        found, error = self._fetch_message(listed, message_id, rank)
        self.journal.append(
            {
                "kind": "message",
                "conversation_id": listed.conversation_id,
                "message_id": message_id,
                "created_us": created_us,
                "created_at_source": source,
                "rank": rank,
                **found,
            }
        )
        is_met_again = (
            error is not None and is_permanent(error) and ("failed", found["code"]) in held
        )
        return "settled" if is_met_again else str(found["verdict"]), error

    def _fetch_message(
        self, listed: Listed, message_id: str, rank: int
    ) -> tuple[Record, ConvoError | None]:
        """Ask for one message; raises where beyond the newest 20 no answer comes: that says nothing of the message."""
        throttled_seconds = self.client.throttled_seconds
        asked = {
            "at_us": listed.at_us,
            "payload": None,
            "fields": message_field_names(self.platform, listed.dropped),
        }
        try:
            dropped, answer = self.footing.ask(
                listed.dropped,
                lambda names: self.client.fetch_message(
                    message_id, message_fields(self.platform, names)
                ),
            )
        except STOPPING:
            raise
        except (GraphError, PayloadError) as error:
            is_calm = self.client.throttled_seconds == throttled_seconds
            if rank > READABLE_COUNT and not is_telling(error, is_calm):
                raise
            found = judge(error, rank, is_calm)
            if found["verdict"] == "gone" and not self._is_in_reach(listed, message_id):
                found |= {
                    "verdict": "failed"
                }  # newer ones came meanwhile and pushed it out, or it is unsent
            return asked | found, error
        asked |= {
            "at_us": to_us(answer.server_time),
            "fields": message_field_names(self.platform, dropped),
        }
        if not isinstance(answer.body, dict) or lacks_content(answer.body):
            no_refusal = PayloadError("a message's answer has no content")
            return asked | judge(no_refusal, rank, is_calm=True), no_refusal
        return asked | {"payload": answer.body} | verdict("detailed"), None

    def _is_in_reach(self, listed: Listed, message_id: str) -> bool:
        """Whether a message is still among the newest 20, whose content can be read."""
        left, after = READABLE_COUNT, None
        while left > 0:  # pages may be shorter than asked for
            page = self.client.fetch_messages(
                listed.conversation_id, ",".join(BARE_FIELDS), left, after
            )
            if message_id in map(readable_id, page.rows):
                return True
            left, after = left - len(page.rows), page.after
            if after is None or not page.rows:
                return False
        return False


def state_record(
    listed: Listed, walk: Walk, *, at_end: bool, due_reason: str | None = None
) -> Record:
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
