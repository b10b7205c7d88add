"""`extract.walk`: how far a conversation is read."""

import pytest

from convo_pipeline.extract.walk import Walk, bare_messages
from convo_pipeline.state.records import ConversationState


def message(message_id: str, second: int, **content: object) -> dict[str, object]:
    return {"id": message_id, "created_time": second * 1_000 + 1_700_000_000_000, **content}


def stored(newest_message_id: str, second: int) -> ConversationState:
    return ConversationState("c", None, newest_message_id, us(second))


def us(second: int) -> int:
    return (second + 1_700_000_000) * 1_000_000


def test_a_walk_ends_before_the_start_of_the_window() -> None:
    walk = Walk(us(50), None).extend([message("b", 60), message("a", 55)])
    assert not walk.is_deep_enough
    assert walk.extend([message("z", 49)]).is_deep_enough


def test_a_walk_ends_at_stored_messages_that_reach_the_window() -> None:
    page = [message("c", 90), message("b", 80)]
    assert Walk(us(50), stored("b", 40)).extend(page).is_deep_enough
    assert not Walk(us(50), stored("b", 60)).extend(page).is_deep_enough
    assert not Walk(us(50), stored("x", 40)).extend(page).is_deep_enough


def test_the_complete_range_ends_with_the_walk_or_with_the_stored_messages() -> None:
    page = [message("c", 90), message("b", 80)]
    assert Walk(us(85), None).extend(page).complete_since_us(at_end=False) == us(80)
    assert Walk(us(50), stored("b", 40)).extend(page).complete_since_us(at_end=False) == us(40)
    assert Walk(us(85), None).extend(page).complete_since_us(at_end=True) == 0
    assert Walk(us(85), None).extend([]).complete_since_us(at_end=False) is None


def test_pages_add_up() -> None:
    walk = Walk(0, None).extend([message("c", 3)]).extend([message("b", 2), message("a", 1)])
    assert (walk.newest_message_id, walk.count, walk.low_us) == ("c", 3, us(1))


def test_a_row_without_an_id_is_no_stored_message() -> None:
    """An empty conversation has no newest message; a row without an id must not match it."""
    empty = ConversationState("c", us(10), None, 0)
    assert not Walk(us(50), empty).extend([{"created_time": us(60)}]).met_stored


def test_an_empty_page_changes_nothing() -> None:
    walk = Walk(0, None).extend([message("c", 3)])
    assert walk.extend([]) == walk


def test_bare_messages_are_split_after_rank_20() -> None:
    entries = [message(f"m{rank}", 100 - rank) for rank in range(19, 23)]
    readable, beyond = bare_messages(entries, 19)
    assert [message.rank for message in readable] == [19, 20]
    assert [message.rank for message in beyond] == [21, 22]


def test_a_refused_row_is_bare_and_a_row_with_content_is_not() -> None:
    entries = [
        message("a", 1, message="", **{"from": {"id": "1"}}),
        message("b", 2, error={"code": 9000001}),
        message("c", 3, message="", attachments={"data": []}),
        {"created_time": 1},
        None,
    ]
    readable, beyond = bare_messages(entries, 1)
    assert ([message.message_id for message in readable], beyond) == (["b", "c"], [])


COMPLETE = ConversationState("c", us(90), "newest", us(40))


@pytest.mark.parametrize(
    ("second", "candidate"),
    [(39, None), (40, ("m", us(40))), (89, ("m", us(89))), (90, None)],
)
def test_a_message_within_the_stored_range_must_be_stored(
    second: int, candidate: tuple[str, int] | None
) -> None:
    """The last row of the page decides; the newest stored message may be unsent."""
    page = [message("x", 95), message("m", second)]
    assert Walk(us(50), COMPLETE).find_stored_candidate(page) == candidate


@pytest.mark.parametrize(
    "walk",
    [
        Walk(us(50)),
        Walk(us(50), COMPLETE, met_stored=True),
        Walk(us(50), ConversationState("c", None, "newest", us(40))),
    ],
    ids=["nothing_stored", "met", "no_activity_time"],
)
def test_a_walk_needs_no_candidate(walk: Walk) -> None:
    assert walk.find_stored_candidate([message("m", 60)]) is None


@pytest.mark.parametrize("row", [{"id": "m"}, {"created_time": "2023-11-14T22:14:20Z"}, None])
def test_a_row_without_id_or_time_is_no_candidate(row: object) -> None:
    assert Walk(us(50), COMPLETE).find_stored_candidate([row]) is None
