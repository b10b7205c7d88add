"""Listings of a scripted inbox over HTTP: moving, refused, unreadable, looping."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

import pytest

from convo_pipeline import errors
from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import Credentials
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.listing import (
    EMPTY_PAGES,
    ENOUGH_ROWS,
    MARGIN,
    ListedPage,
    Listing,
    ListingSummary,
)
from convo_pipeline.graph.page_size import LISTING_SIZES, PageSizePolicy
from convo_pipeline.graph.rate_limit import NO_LIMIT, CallBudget
from tests.support.graph_server import Call, Reply, page, refusal, serving

NOW = datetime(2026, 2, 19, 9, tzinfo=UTC)  # what the scripted server's Date says
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Inbox:
    """Conversations by activity, newest first, with item cursors.

    `hook` runs before each reply: it may change the inbox or return another reply.
    """

    times: dict[str, datetime]
    unreadable: set[str] = field(default_factory=set)
    unreadable_reply: Reply = refusal(1, status=500)  # noqa: RUF009
    nested_limit: int = 10_000
    unknown_fields: set[str] = field(default_factory=set)
    unknown_text: str = "(#100) Tried accessing nonexisting field ({}) on node type (Message)"
    hook: Callable[["Inbox", int], Reply | None] = lambda inbox, number: None
    number: int = 0
    is_first_page: bool = False
    messages: dict[str, int] = field(default_factory=dict)

    def __call__(self, call: Call) -> Reply:
        self.number += 1
        self.is_first_page = "after" not in call.parameters
        override = self.hook(self, self.number)
        if override is not None:
            return override
        fields, limit = call.parameters["fields"], int(call.parameters["limit"])
        for name in self.unknown_fields & set(re.findall(r"\w+", fields)):
            return refusal(100, message=self.unknown_text.format(name))
        order = sorted(self.times, key=lambda key: self.times[key], reverse=True)
        after = call.parameters.get("after")
        start = order.index(after) + 1 if after in order else (0 if after is None else -1)
        if start < 0:
            return refusal(100, message="(#100) Invalid cursor")
        chosen = order[start : start + limit]
        is_nested = "messages" in fields
        if is_nested and set(chosen) & self.unreadable:
            return self.unreadable_reply
        if is_nested and limit > self.nested_limit:
            return refusal(1, status=500)
        answer = page(
            [self.row(key, is_nested) for key in chosen],
            chosen[-1] if order[start + limit :] else None,
        )
        return replace(
            answer,
            headers={"Date": format_datetime(NOW + timedelta(seconds=self.number), usegmt=True)},
        )

    def row(self, key: str, is_nested: bool) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": key,
            "updated_time": self.times[key].strftime("%Y-%m-%dT%H:%M:%S+0000"),
        }
        newest = f"m_{key}_{self.messages.get(key, 0)}"
        return row | ({"messages": {"data": [{"id": newest}]}} if is_nested else {})

    def bump(self, key: str, when: datetime = NOW) -> None:
        self.times[key] = when
        self.messages[key] = self.messages.get(key, 0) + 1


def inbox_of(count: int, minutes: int = 60, **options: Any) -> Inbox:
    """`count` conversations, the newest `minutes` ago and one each so many minutes further back."""
    return Inbox(
        {f"t_{n}": NOW - timedelta(minutes=minutes * (n + 1)) for n in range(count)}, **options
    )


@dataclass
class Result:
    pages: list[ListedPage]
    summary: ListingSummary
    calls: list[Call]
    page_sizes: PageSizePolicy
    error: Exception | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows = [row.to_json() for page in self.pages for row in page.rows]
        return [row for row in rows if isinstance(row, dict)]

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row in self.rows]

    @property
    def nested(self) -> set[str]:
        return {row["id"] for row in self.rows if "messages" in row}


def policy(memory: object = None) -> PageSizePolicy:
    return PageSizePolicy("instagram", NOW.date(), memory)


def memory_of(result: Result) -> object:
    """What the next listing of the account remembers of this one."""
    return result.page_sizes.to_json(result.page_sizes.unreadable)


def list_all(
    script: Any, memory: object = None, since: datetime = LONG_AGO, **options: Any
) -> Result:
    page_sizes = policy(memory)
    with serving(script) as server:
        endpoint = Endpoint(server.url, "v26.0", "17", "instagram", timeout_seconds=5)
        clock = Clock(now=lambda: NOW, sleep=lambda seconds: None)
        client = GraphClient(
            endpoint, Credentials("x"), NO_LIMIT, budget=CallBudget(1000), clock=clock
        )
        listing = Listing(client, page_sizes, since=since, **options)
        pages: list[ListedPage] = []
        error: Exception | None = None
        try:
            pages.extend(listing.pages())
        except errors.ConvoError as caught:
            error = caught
        client.close()
        return Result(pages, listing.summary, server.calls, page_sizes, error)


def test_small_inbox_costs_one_call() -> None:
    result = list_all(inbox_of(30))
    assert len(result.calls) == 1
    assert result.calls[0].parameters == {
        "platform": "instagram",
        "limit": "50",
        "fields": "id,updated_time,participants,"
        "messages.limit(20){id,created_time,from,to,message,attachments,"
        "shares{id,link,name,description,type,url,title,template},story,reactions,reply_to,is_unsupported}",
    }
    assert (len(result.nested), result.summary.passes, result.summary.started_at) == (
        30,
        1,
        NOW + timedelta(seconds=1),
    )
    assert result.pages[0].messages_limit == 20


def test_idle_inbox_costs_one_call() -> None:
    result = list_all(inbox_of(500), since=NOW - timedelta(minutes=5))
    assert (len(result.calls), result.summary.cuts) == (1, ())


def test_old_and_known_rows_end_the_listing() -> None:
    inbox = inbox_of(500, minutes=1)
    result = list_all(inbox, since=NOW - timedelta(minutes=2), is_known=lambda row: True)
    assert len(result.calls) == 1
    changed = list_all(
        inbox, since=NOW - timedelta(minutes=2), is_known=lambda row: row.payload["id"] != "t_3"
    )
    assert len(changed.calls) == 3  # the next page is wholly old, then the first page again


def test_listing_stops_after_a_page_of_old_rows() -> None:
    result = list_all(inbox_of(500), since=NOW - timedelta(hours=70))
    assert len(result.calls) == 4  # 50, 50, a whole page older, the first page again
    assert set(result.ids) == {f"t_{n}" for n in range(150)}
    assert (result.summary.passes, result.summary.page_count, result.summary.listed_count) == (
        2,
        4,
        150,
    )


def test_b5_wrong_order_does_not_end_the_listing() -> None:
    inbox = inbox_of(200)
    inbox.hook = lambda box, number: None
    late = {"id": "t_late", "updated_time": "2026-02-19T07:00:00+0000"}
    script = [
        page([inbox.row("t_190", False), inbox.row("t_191", False), late], "C1"),
        page([inbox.row("t_199", False)]),
    ]
    result = list_all([*script, page([inbox.row("t_190", False)])], since=NOW - timedelta(hours=5))
    assert set(result.ids) == {"t_190", "t_191", "t_late", "t_199"}
    assert result.summary.inversions == 1


def in_pages_of(size: int, inbox: Inbox) -> Callable[[Call], Reply]:
    """Return a server whose pages have fewer rows than requested."""
    return lambda call: inbox(replace(call, parameters=call.parameters | {"limit": str(size)}))


@pytest.mark.parametrize("size", [50, 10, 5, 2, 1])
def test_b5_misplaced_row_does_not_end_small_pages(size: int) -> None:
    inbox = inbox_of(60, minutes=1)
    true_row = inbox.row
    misplaced = {"updated_time": "2026-01-01T00:00:00+0000"}
    inbox.row = lambda key, is_nested: (
        true_row(key, is_nested) | (misplaced if key == "t_7" else {})
    )  # type: ignore[method-assign]
    result = list_all(in_pages_of(size, inbox), since=NOW - timedelta(hours=8))
    assert set(result.ids) == {f"t_{n}" for n in range(60)}


@pytest.mark.parametrize(("size", "calls"), [(50, 1), (10, 1), (5, 2), (2, 5), (1, 10)])
def test_pass_over_an_idle_inbox_reads_ten_rows(size: int, calls: int) -> None:
    result = list_all(in_pages_of(size, inbox_of(500)), since=NOW - timedelta(minutes=5))
    assert len(result.calls) == calls * result.summary.passes


def test_listing_goes_ten_minutes_further_than_since() -> None:
    inbox = inbox_of(200, minutes=1)  # t_0 was active a minute ago, t_1 two minutes ago, ...
    result = list_all(in_pages_of(1, inbox), since=NOW - timedelta(minutes=60))
    assert timedelta(minutes=10) == MARGIN
    assert set(result.ids) == {f"t_{n}" for n in range(70 + ENOUGH_ROWS)}


def test_b6_moved_conversation_is_listed_again() -> None:
    def hook(inbox: Inbox, number: int) -> None:
        if number == 2:
            inbox.bump("t_180")  # behind the cursor from now on

    result = list_all(inbox_of(200, hook=hook))
    assert set(result.ids) == {f"t_{n}" for n in range(200)}
    assert (result.summary.passes, result.summary.moving) == (3, frozenset())


def test_message_of_the_same_second_is_new() -> None:
    def hook(inbox: Inbox, number: int) -> None:
        if number == 2:
            inbox.messages["t_0"] = 1

    result = list_all(inbox_of(60, hook=hook))
    newest = [row["messages"]["data"][0]["id"] for row in result.rows if row["id"] == "t_0"]
    assert newest == ["m_t_0_0", "m_t_0_1"]


def test_b6_conversation_that_still_moves_is_reported() -> None:
    def hook(inbox: Inbox, number: int) -> None:
        inbox.bump("t_7", NOW + timedelta(seconds=number))

    result = list_all(inbox_of(60, hook=hook))
    assert result.summary.moving == frozenset({"t_7"})
    assert result.summary.passes == 4


def test_b4_repeated_rows_are_yielded_once() -> None:
    rows: list[object] = [inbox_of(3).row(f"t_{n}", True) for n in range(3)]
    older = {"id": "t_0", "updated_time": "2026-02-18T00:00:00+0000"}
    result = list_all([page(rows, "C1"), page([rows[0], older], "C2"), page([rows[2]]), page(rows)])
    assert result.ids == ["t_0", "t_1", "t_2"]


def test_b2_b3_short_and_empty_pages_continue() -> None:
    rows: list[object] = [inbox_of(3).row(f"t_{n}", True) for n in range(3)]
    gaps = [[page([], f"E{gap}.{number}") for number in range(EMPTY_PAGES - 1)] for gap in range(2)]
    script = [
        page(rows[:1], "C1"),
        *gaps[0],
        page(rows[1:2], "C2"),
        *gaps[1],
        page(rows[2:], "C3"),
        page([]),
    ]
    result = list_all([*script, page(rows)])
    assert (result.ids, result.summary.cuts) == (["t_0", "t_1", "t_2"], ())


def test_b2_endless_empty_pages_cut_the_listing() -> None:
    cursors = iter(range(1000))
    result = list_all(lambda call: page([], f"C{next(cursors)}"))
    assert result.summary.cuts == ("empty_pages",)
    assert len(result.calls) <= 50


@pytest.mark.parametrize("cursors", [["C1", "C1"], ["C1", "C2", "C1", "C2"]])
def test_b1_cursor_loop_restarts_once(cursors: list[str]) -> None:
    def script(call: Call) -> Reply:
        after = call.parameters.get("after")
        return page([{"id": f"t_{after}"}], "C2" if after == "C1" and "C2" in cursors else "C1")

    result = list_all(script)
    assert (result.summary.restarts, result.summary.cuts) == (1, ("cursor_loop",))
    assert len(result.calls) < 20


def test_b7_expired_cursor_restarts() -> None:
    def hook(inbox: Inbox, number: int) -> Reply | None:
        return refusal(100, message="(#100) Invalid cursor") if number == 3 else None

    result = list_all(inbox_of(200, hook=hook))
    assert set(result.ids) == {f"t_{n}" for n in range(200)}
    assert (result.summary.restarts, result.summary.cuts, len(result.ids)) == (1, (), 200)


def test_b7_always_expired_cursor_is_cut_after_three_restarts() -> None:
    result = list_all(
        lambda call: refusal(100, 33) if "after" in call.parameters else page([{"id": "t_1"}], "C")
    )
    assert (result.summary.restarts, result.summary.cuts, result.ids) == (
        3,
        ("dead_cursor",),
        ["t_1"],
    )


@pytest.mark.parametrize("reply", [refusal(100, 33), refusal(803)])
def test_invisible_inbox_is_access_denied(reply: Reply) -> None:
    result = list_all([reply])
    assert isinstance(result.error, errors.AccessDeniedError)
    assert len(result.calls) == 2  # with messages, then without: the inbox itself is refused


def test_heavy_page_is_requested_smaller() -> None:
    result = list_all(inbox_of(100, nested_limit=10))
    assert result.nested == {f"t_{n}" for n in range(100)}
    limits = [int(call.parameters["limit"]) for call in result.calls]
    assert limits[:3] == [50, 25, 10]
    assert limits.count(50) == 1
    assert len(result.calls) <= 16
    memory: Any = memory_of(result)
    assert LISTING_SIZES[memory["listing"]["index"]].conversations == 10


def test_unreadable_conversation_is_listed_alone() -> None:
    result = list_all(inbox_of(200, unreadable={"t_77"}))
    assert result.nested == {f"t_{n}" for n in range(200)} - {"t_77"}
    assert "t_77" in result.ids
    assert set(result.summary.unreadable) == {"t_77"}
    assert result.summary.unreadable["t_77"].fault.code == 1
    light = [page for page in result.pages if page.messages_limit == 0]
    assert [[row.payload for row in page.rows] for page in light] == [
        [{"id": "t_77", "updated_time": "2026-02-16T03:00:00+0000"}]
    ]
    assert len(result.calls) <= 20
    assert result.page_sizes.listing_size == policy().listing_size


@pytest.mark.parametrize("places", [(0, 1), (0, 49), (5, 33), (24, 48), (48, 49)])
def test_two_unreadable_conversations_are_searched_once(
    places: tuple[int, int],
) -> None:
    inbox = inbox_of(50, unreadable={f"t_{place}" for place in places})
    first = list_all(inbox)
    assert set(first.summary.unreadable) == inbox.unreadable
    assert len(first.nested) == 48
    assert len(first.calls) <= 24  # one call without them
    again = list_all(inbox, memory_of(first))
    assert set(again.summary.unreadable) == inbox.unreadable
    assert len(again.nested) == 48
    assert len(again.calls) <= 8


@pytest.mark.parametrize("code", [1, 190])
def test_error_of_the_call_that_finds_known_unreadable_conversations(code: int) -> None:
    """A second refusal starts a search; a token error stops the account."""
    inbox = inbox_of(50, unreadable={"t_5"})
    memory = memory_of(list_all(inbox))
    inbox.number = 0
    inbox.hook = lambda box, number: refusal(code, status=500) if number in (2, 3, 4) else None
    result = list_all(inbox, memory)
    if code == 190:
        assert isinstance(result.error, errors.TokenError)
        assert (result.ids, len(result.calls)) == ([], 2)
    else:
        assert set(result.summary.unreadable) == {"t_5"}
        assert len(result.nested) == 49


def test_token_error_while_a_refused_row_is_listed_alone_stops_the_account() -> None:
    inbox = inbox_of(5, unreadable={"t_0"})
    inbox.hook = lambda box, number: refusal(190) if number == 7 else None
    result = list_all(inbox)
    assert "messages" not in result.calls[-1].parameters["fields"]
    assert isinstance(result.error, errors.TokenError)
    assert len(result.calls) == 7


@pytest.mark.parametrize(
    "reply", [refusal(551), refusal(9000001), refusal(10, 2018336), refusal(100, 2534037)]
)
def test_missing_conversation_does_not_cost_its_page(reply: Reply) -> None:
    result = list_all(inbox_of(60, unreadable={"t_7"}, unreadable_reply=reply))
    assert (result.error, result.summary.cuts, set(result.summary.unreadable)) == (
        None,
        (),
        {"t_7"},
    )
    assert set(result.ids) == {f"t_{n}" for n in range(60)}
    assert result.nested == set(result.ids) - {"t_7"}
    assert len(result.calls) <= 20


@pytest.mark.parametrize(
    "unreadable",
    [{"t_0"}, {"t_0", "t_1"}, {"t_199"}, {"t_49", "t_50"}, {"t_3", "t_90", "t_91", "t_150"}],
)
def test_unreadable_conversations_anywhere_cost_only_themselves(unreadable: set[str]) -> None:
    result = list_all(inbox_of(200, unreadable=unreadable))
    assert set(result.ids) == {f"t_{n}" for n in range(200)}
    if unreadable != {
        "t_0",
        "t_1",
    }:  # two refusals before any success look like a server without nesting
        assert result.nested == {f"t_{n}" for n in range(200)} - unreadable
        assert set(result.summary.unreadable) == unreadable
    assert result.summary.cuts == ()


def test_listing_goes_light_if_all_nested_calls_are_refused() -> None:
    result = list_all(inbox_of(500, nested_limit=0))
    assert set(result.ids) == {f"t_{n}" for n in range(500)}
    assert result.nested == set()
    assert result.summary.mode == "light"
    assert len(result.calls) <= 35  # with one call per conversation: 535 of the 550 allowed
    again = list_all(inbox_of(500, nested_limit=0), memory_of(result))
    assert len(again.calls) <= 13


def test_light_listing_returns_to_nesting() -> None:
    light = memory_of(list_all(inbox_of(500, nested_limit=0)))
    result = list_all(inbox_of(1000), light)
    assert result.summary.mode == "nested"
    assert len(result.nested) > 500


def test_refused_field_is_dropped_with_its_date() -> None:
    result = list_all(inbox_of(60, unknown_fields={"story", "type"}))
    memory: Any = memory_of(result)
    assert memory["dropped"] == {"shares.type": "2026-02-19", "story": "2026-02-19"}
    assert len(result.nested) == 60
    assert len(result.calls) == 5
    assert "story" not in result.pages[0].message_fields


@pytest.mark.parametrize(
    "unknown", [{"story"}, {"participants"}, {"url", "title", "reactions"}, {"template"}]
)
def test_unnamed_refused_field_is_found(unknown: set[str]) -> None:
    inbox = inbox_of(60, unknown_fields=unknown, unknown_text="Ocorreu um erro inesperado.")
    result = list_all(inbox)
    names = {name.removeprefix("shares.") for name in result.summary.dropped_fields}
    assert names == unknown
    assert len(result.nested) == 60
    assert len(result.calls) <= 30
    assert len(list_all(inbox, memory_of(result)).calls) == 3


def test_code_100_about_no_field_stops() -> None:
    result = list_all([refusal(100, message="Ocorreu um erro inesperado.")])
    assert type(result.error) is errors.GraphError
    assert len(result.calls) == 3  # with all fields, a trial with fewer, then without messages


def test_dropped_field_is_requested_again_after_a_week() -> None:
    memory: Any = policy().to_json(())
    memory["dropped"] = {"story": "2026-02-12", "reactions": "2026-02-13"}
    healed: Any = memory_of(list_all(inbox_of(5), memory))
    assert healed["dropped"] == {"reactions": "2026-02-13"}
    refused = list_all(inbox_of(5, unknown_fields={"story"}), memory)
    learned: Any = memory_of(refused)
    assert learned["dropped"] == {"reactions": "2026-02-13", "story": "2026-02-19"}
    assert len(refused.calls) == 2


def test_refused_base_field_stops_the_account() -> None:
    result = list_all(inbox_of(5, unknown_fields={"updated_time"}))
    assert isinstance(result.error, errors.UnknownFieldError)
    assert len(result.calls) == 3  # with all fields, with fewer, then without messages


def test_pages_before_a_token_error_are_kept() -> None:
    def hook(inbox: Inbox, number: int) -> Reply | None:
        return refusal(190, 463) if number >= 3 else None

    result = list_all(inbox_of(200, hook=hook))
    assert isinstance(result.error, errors.TokenError)
    assert (len(result.ids), len(result.calls)) == (100, 3)


def test_failing_server_is_given_up() -> None:
    result = list_all(lambda call: Reply(content=b"down", status=502))
    assert isinstance(result.error, errors.UnreachableError)
    assert len(result.calls) <= 30


def test_broken_page_costs_only_its_conversation() -> None:
    inbox = inbox_of(120)

    def script(call: Call) -> Reply:
        reply = inbox(call)
        return (
            Reply(content=b'{"data": [\xff]}')
            if b'"t_33"' in reply.bytes and b"messages" in reply.bytes
            else reply
        )

    result = list_all(script)
    assert result.nested == {f"t_{n}" for n in range(120)} - {"t_33"}
    assert set(result.summary.unreadable) == {"t_33"}


def test_rows_that_are_no_conversations_are_yielded() -> None:
    rows = [
        None,
        5,
        {"updated_time": "x"},
        {"id": True},
        {"id": 7},
        {"id": "t_1", "updated_time": None},
    ]
    result = list_all([page(rows)])
    assert [row.payload for row in result.pages[0].rows] == rows
    assert result.summary.listed_count == 2


def test_every_folder_is_listed() -> None:
    result = list_all(inbox_of(10), folders=("", "other"))
    assert [call.parameters.get("folder") for call in result.calls] == [None, "other"]
    assert {page.folder for page in result.pages} == {
        ""
    }  # the same conversations, so nothing new in the second


def simulate(seed: int) -> tuple[Inbox, Result, dict[str, int]]:
    """List a random inbox that moves, refuses pages and loses cursors.

    Return it, the result, and the number of messages per conversation at the start of the last
    pass.
    """
    random = Random(seed)
    count = random.choice([5, 60, 180, 300])
    unreadable = {f"t_{random.randrange(count)}" for _ in range(random.choice([0, 0, 1, 3]))}
    moves, cursor_faults = random.choice([0, 0.3, 0.9]), random.choice([0, 0, 0.03])
    limit = random.choice([10_000, 10_000, 20, 5, 0])
    before_last_pass: dict[str, int] = {}

    def hook(inbox: Inbox, number: int) -> Reply | None:
        now = NOW + timedelta(seconds=number)
        if inbox.is_first_page:
            before_last_pass.clear()
            before_last_pass.update({key: inbox.messages.get(key, 0) for key in inbox.times})
        if number < 150 and random.random() < moves:
            inbox.bump(f"t_{random.randrange(count)}", now)
        return refusal(100) if not inbox.is_first_page and random.random() < cursor_faults else None

    inbox = inbox_of(
        count, minutes=random.choice([1, 30]), unreadable=unreadable, nested_limit=limit, hook=hook
    )
    return inbox, list_all(inbox), before_last_pass


@pytest.mark.hunt
def test_nothing_is_missed_in_random_inboxes(long_run: bool) -> None:
    failing = []
    for seed in range(2000 if long_run else 25):
        inbox, result, truth = simulate(seed)
        newest = {row["id"]: row for row in result.rows}
        missed = set(inbox.times) - set(newest)
        stale = {
            key
            for key, count in truth.items()
            if key in newest
            and key not in result.summary.moving
            and not is_current(newest[key], key, count, inbox)
        }
        if (missed or stale) and not result.summary.cuts:
            failing.append((seed, missed, stale))
    assert failing == []


def is_current(row: dict[str, Any], key: str, count: int, inbox: Inbox) -> bool:
    """Whether a row shows the newest message, or without messages the time of the activity."""
    if "messages" in row:
        return int(row["messages"]["data"][0]["id"].rpartition("_")[2]) >= count
    return (
        count == 0
        or inbox.messages.get(key, 0) > count
        or row["updated_time"] == inbox.row(key, False)["updated_time"]
    )
