"""Page sizes after refused and accepted calls, as tables."""

from datetime import date
from typing import Any

import pytest

from convo_pipeline.errors import (
    GraphError,
    GraphFault,
    MissingError,
    RetryableError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    UnknownFieldError,
    UnreachableError,
    WithheldError,
)
from convo_pipeline.graph.codes import may_concern_one_row
from convo_pipeline.graph.page_size import (
    CLIMB_AFTER,
    MESSAGE_SIZES,
    PageSize,
    PageSizePolicy,
    smaller_message_page,
)

TODAY = date(2026, 2, 19)
REFUSED = TooMuchDataError(GraphFault(code=1, status=500))
TOO_SLOW = TooMuchDataError(GraphFault())
BROKEN = UnreachableError(GraphFault(status=200))
NESTED = [(50, 20), (25, 20), (10, 20), (5, 20), (2, 20), (1, 20)]
LIGHT = [(50, 0), (25, 0), (10, 0), (5, 0), (2, 0), (1, 0)]


def make_policy(memory: object = None) -> PageSizePolicy:
    return PageSizePolicy("instagram", TODAY, memory)


def size_of(policy: PageSizePolicy) -> tuple[int, int]:
    return policy.listing_size.conversations, policy.listing_size.messages


def refuse(policy: PageSizePolicy, failure: GraphError = REFUSED) -> bool:
    return policy.refuse_page(policy.listing_size, failure)


def accept(policy: PageSizePolicy, pages: int = 1) -> None:
    for _ in range(pages):
        policy.accept_page(policy.listing_size, policy.listing_size.conversations)


def refuse_to_the_end(policy: PageSizePolicy, failure: GraphError) -> list[tuple[int, int]]:
    """Refuse page after page until a page of one row is refused; return all sizes."""
    sizes = [size_of(policy)]
    while refuse(policy, failure):
        sizes.append(size_of(policy))
    return sizes


def test_refused_pages_get_smaller_down_to_one_row() -> None:
    assert refuse_to_the_end(make_policy(), REFUSED) == NESTED
    policy = make_policy()
    policy.use_light()
    assert refuse_to_the_end(policy, REFUSED) == LIGHT


def test_memory_does_not_hold_an_untested_climb() -> None:
    """The next run starts with the size that was accepted, and climbs after one page."""
    memory: Any = make_policy().to_json(())
    memory["listing"] = {"index": 2, "accepted_in_a_row": 0, "climb_after": CLIMB_AFTER}
    policy = make_policy(memory)
    accept(policy, CLIMB_AFTER)
    assert (size_of(policy), policy.mode) == ((25, 20), "nested")
    again = make_policy(policy.to_json(()))
    assert size_of(again) == (10, 20)
    accept(again)
    assert size_of(again) == (25, 20)


@pytest.mark.parametrize("failure", [TOO_SLOW, BROKEN, RetryableError(GraphFault(code=2))])
def test_unanswered_page_gets_smaller_by_two_steps(failure: GraphError) -> None:
    assert refuse_to_the_end(make_policy(), failure) == [(50, 20), (10, 20), (2, 20), (1, 20)]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (MissingError(GraphFault(551)), True),
        (WithheldError(GraphFault(10, 2018336)), True),
        (REFUSED, True),
        (BROKEN, True),
        (MissingError(GraphFault(100, 33)), False),
        (ThrottledError(GraphFault(613)), False),
        (TokenError(GraphFault(190)), False),
        (GraphError(GraphFault(2500)), False),
    ],
)
def test_only_some_errors_can_concern_one_row(failure: GraphError, expected: bool) -> None:
    assert may_concern_one_row(failure) is expected


def test_refused_climb_waits_twice_as_long() -> None:
    policy = make_policy()
    accept(policy, 1)
    refuse(policy)
    refuse(policy)
    accept(policy, 3)  # 50 rows without a refusal: the page was too heavy
    assert size_of(policy) == (10, 20)
    accept(policy, 2 * CLIMB_AFTER - 1)
    assert size_of(policy) == (10, 20)
    accept(policy)
    assert size_of(policy) == (25, 20)
    refuse(policy)
    assert size_of(policy) == (10, 20)
    accept(policy, 4 * CLIMB_AFTER - 1)
    assert size_of(policy) == (10, 20)
    accept(policy)
    assert size_of(policy) == (25, 20)


def test_unreadable_conversation_keeps_the_page_size() -> None:
    policy = make_policy()
    accept(policy)
    assert refuse_to_the_end(policy, REFUSED) == NESTED
    policy.set_unreadable(["t_1"], REFUSED)
    assert (size_of(policy), policy.unreadable) == ((50, 20), {"t_1": REFUSED})


def test_listing_goes_light_if_no_row_comes_with_messages() -> None:
    policy = make_policy()
    refuse_to_the_end(policy, REFUSED)
    policy.set_unreadable(["t_1"], REFUSED)
    assert size_of(policy) == (1, 20)
    for number in range(2, 4):
        assert not refuse(policy)
        policy.set_unreadable([f"t_{number}"], REFUSED)
    assert refuse(policy)
    assert (size_of(policy), policy.mode) == ((50, 0), "light")


def test_accepted_row_restores_the_full_size() -> None:
    policy = make_policy()
    refuse_to_the_end(policy, REFUSED)
    policy.set_unreadable(["t_1"], REFUSED)
    accept(policy)
    assert size_of(policy) == (50, 20)


def test_first_unanswered_page_keeps_the_page_size() -> None:
    policy = make_policy()
    refuse(policy, BROKEN)
    accept(policy, 4)
    assert size_of(policy) == (10, 20)
    accept(policy)
    assert size_of(policy) == (50, 20)
    refuse(policy, BROKEN)
    accept(policy, 5)
    assert size_of(policy) == (10, 20)


def test_light_listing_tries_nested_pages_again() -> None:
    policy = make_policy()
    policy.use_light()
    accept(policy, CLIMB_AFTER)
    assert size_of(policy) == (10, 20)
    refuse(policy)
    assert size_of(policy) == (50, 0)
    accept(policy, CLIMB_AFTER)
    assert size_of(policy) == (50, 0)


def test_light_block_restores_the_page_size() -> None:
    policy = make_policy()
    refuse(policy)
    accept(policy, 2)
    with policy.light():
        assert size_of(policy) == (50, 0)
    assert size_of(policy) == (25, 20)


def test_refused_page_between_skipped_rows_is_searched() -> None:
    policy = make_policy(make_policy().to_json(["t_1"]))
    accept(policy)
    assert policy.may_skip_rows
    assert not policy.skip_rows([False] * 50)
    assert (size_of(policy), policy.may_skip_rows) == ((50, 20), True)
    assert policy.skip_rows([False] * 20 + [True])
    assert (size_of(policy), policy.may_skip_rows) == ((20, 20), False)
    refuse(policy)
    assert size_of(policy) == (10, 20)


@pytest.mark.parametrize(
    ("failure", "indexes"),
    [
        (REFUSED, [0, 1, 2, 3]),
        (TOO_SLOW, [0, 1, 2, 3]),
        (RetryableError(GraphFault(code=1)), [0, 1, 2, 3]),
        (MissingError(GraphFault(code=100, subcode=33)), [0, 3]),
        (UnknownFieldError(GraphFault(code=100), "from"), [0, 3]),
        (ThrottledError(GraphFault(code=613)), [0]),
        (TokenError(GraphFault(code=190)), [0]),
        (BROKEN, [0]),
    ],
)
def test_refused_messages_get_smaller_and_then_bare(
    failure: GraphError, indexes: list[int]
) -> None:
    sizes: list[PageSize] = []
    size: PageSize | None = MESSAGE_SIZES[0]
    while size is not None:
        sizes.append(size)
        size = smaller_message_page(size, failure)
    assert [MESSAGE_SIZES.index(each) for each in sizes] == indexes


def test_accepted_message_page_sets_the_next_size() -> None:
    policy = make_policy()
    policy.accept_messages(MESSAGE_SIZES[1])
    assert policy.message_size == MESSAGE_SIZES[1]
    for _ in range(2 * CLIMB_AFTER):
        policy.accept_messages(MESSAGE_SIZES[1])
    assert policy.message_size == MESSAGE_SIZES[0]


def test_two_bare_pages_make_the_next_page_small() -> None:
    policy = make_policy()
    policy.accept_messages(MESSAGE_SIZES[3])
    policy.accept_messages(MESSAGE_SIZES[0])
    policy.accept_messages(MESSAGE_SIZES[3])
    assert policy.message_size == MESSAGE_SIZES[0]
    policy.accept_messages(MESSAGE_SIZES[3])
    assert policy.message_size == MESSAGE_SIZES[2]


def send_to(refused: set[str], failure: type[UnknownFieldError] | None = UnknownFieldError) -> Any:
    """Return a call that a server refuses as long as it requests one of these fields."""

    def send(dropped: frozenset[str]) -> str:
        left = sorted(name for name in refused - dropped if name.partition(".")[0] not in dropped)
        if left and failure:
            raise failure(GraphFault(code=100), left[0].removeprefix("shares."))
        if left:
            raise GraphError(GraphFault(code=100))
        return "accepted"

    return send


@pytest.mark.parametrize(
    ("platform", "field"),
    [
        ("instagram", "story"),
        ("messenger", "sticker"),
        ("messenger", "participants"),
        ("instagram", "shares.link"),
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
def test_only_the_refused_field_is_left_out(platform: str, field: str, is_named: bool) -> None:
    policy = PageSizePolicy(platform, TODAY)
    send = send_to({field}, UnknownFieldError if is_named else None)
    found = policy.send_without_refused_fields(send, may_be_unnamed=True)
    assert found == (frozenset([field]), "accepted")
    assert policy.dropped == {field}


def test_all_fields_of_shares_are_left_out_if_shares_is_refused() -> None:
    policy = make_policy()
    policy.send_without_refused_fields(send_to({"shares"}))
    assert policy.dropped == {"shares"}


def test_field_that_another_thread_dropped_is_left_out() -> None:
    policy = make_policy()

    def send(dropped: frozenset[str]) -> str:
        if "story" not in dropped:
            policy.send_without_refused_fields(send_to({"story"}))  # meanwhile
            raise UnknownFieldError(GraphFault(code=100), "story")
        return "accepted"

    assert policy.send_without_refused_fields(send) == ({"story"}, "accepted")
    assert policy.step_count == 1


@pytest.mark.parametrize(
    "field", ["", "id", "created_time", "message", "updated_time", "sticker", "never_asked"]
)
def test_refused_base_field_is_raised(field: str) -> None:
    policy = make_policy()

    def send(dropped: frozenset[str]) -> None:
        raise UnknownFieldError(GraphFault(code=100), field)

    with pytest.raises(UnknownFieldError):
        policy.send_without_refused_fields(send)
    assert policy.dropped == set()


def test_unnamed_code_100_is_raised_by_default() -> None:
    with pytest.raises(GraphError):
        make_policy().send_without_refused_fields(send_to({"story"}, None))


def test_refused_field_is_requested_again_after_a_week() -> None:
    memory: Any = make_policy().to_json(())
    memory["dropped"] = {"story": "2026-02-12", "reactions": "2026-02-13"}
    assert make_policy(memory).dropped == {"reactions"}


def test_memory_restores_the_policy() -> None:
    policy = make_policy()
    refuse(policy)
    accept(policy, 3)
    policy.accept_messages(MESSAGE_SIZES[2])
    policy.send_without_refused_fields(send_to({"story", "shares.type"}))
    memory: Any = policy.to_json(["t_2", "t_1"])
    assert memory == {
        "listing": {"index": 1, "accepted_in_a_row": 1, "climb_after": 8},
        "messages": {"index": 2, "accepted_in_a_row": 0, "climb_after": 8},
        "dropped": {"shares.type": "2026-02-19", "story": "2026-02-19"},
        "unreadable": ["t_1", "t_2"],
    }
    again = make_policy(memory)
    assert (size_of(again), again.message_size) == ((25, 20), MESSAGE_SIZES[2])
    assert (again.dropped, again.unreadable) == (
        {"story", "shares.type"},
        {"t_1": None, "t_2": None},
    )
    assert again.to_json(again.unreadable) == memory


@pytest.mark.parametrize(
    "memory",
    [
        None,
        "x",
        [],
        {},
        {"page_size": 25},
        {"conversations_per_page": 50, "mode": "nested", "dropped": [], "streak": 1},
        make_policy().to_json(())
        | {"listing": {"index": 12, "accepted_in_a_row": 0, "climb_after": 4}},
        make_policy().to_json(())
        | {"messages": {"index": 3, "accepted_in_a_row": 0, "climb_after": 4}},
        make_policy().to_json(())
        | {"listing": {"index": -1, "accepted_in_a_row": 0, "climb_after": 4}},
        make_policy().to_json(()) | {"dropped": {"story": "yesterday"}},
        make_policy().to_json(()) | {"unreadable": 5},
    ],
)
def test_unreadable_memory_is_ignored(memory: object) -> None:
    assert make_policy(memory).to_json(()) == make_policy().to_json(())
