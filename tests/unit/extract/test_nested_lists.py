"""Which lists a run reads on, although earlier next pages were empty."""

from convo_pipeline.extract.nested_lists import (
    DOUBTFUL_AFTER,
    MOST_DOUBTFUL,
    CutList,
    NestedLists,
    holds_whole,
)
from convo_pipeline.graph.responses import Page
from tests.support.inboxes import NOW

EMPTY = Page((), None, NOW)


def row(count: int) -> dict[str, object]:
    items = [{"id": str(number)} for number in range(count)]
    paging = {"cursors": {"after": "A"}, "next": "https://graph.facebook.com/m/shares?after=A"}
    return {"id": "m", "shares": {"data": items, "paging": paging}}


def learned(count: int, left: int = 1) -> NestedLists:
    """Return lists after three pages of `count` shares whose next page was empty."""
    lists = NestedLists(left)
    for _ in range(DOUBTFUL_AFTER):
        [cut] = lists.find(row(count), ("shares",))
        assert lists.read(cut, lambda after: EMPTY)[:2] == (cut, True)
    return lists


def is_doubtful(lists: NestedLists, count: int) -> bool:
    [cut] = lists.find(row(count), ("shares",))
    return lists.is_doubtful(cut)


def test_a_single_item_is_doubtful_after_empty_next_pages() -> None:
    assert is_doubtful(learned(1), 1)
    assert not is_doubtful(NestedLists(), 1)


def test_the_longest_page_so_far_is_read_on_although_earlier_next_pages_were_empty() -> None:
    """The API's page may have two items: then two of 27 shares look like a whole list."""
    assert not is_doubtful(learned(1), 2)
    assert not is_doubtful(learned(2), 2)


def test_a_page_that_is_shorter_than_another_one_is_doubtful() -> None:
    lists = learned(2)
    assert not is_doubtful(lists, 3)
    assert is_doubtful(lists, 2)


def test_doubtful_pages_are_read_on_up_to_a_number_and_are_then_not_whole() -> None:
    lists = learned(1)
    [cut] = lists.find(row(1), ("shares",))
    assert lists.read(cut, lambda after: EMPTY) == (cut, True, None)
    assert lists.read(cut, lambda after: EMPTY) == (cut, False, None)
    assert MOST_DOUBTFUL == 100


def test_an_item_on_a_next_page_ends_the_doubt() -> None:
    lists = learned(1)
    [cut] = lists.find(row(1), ("shares",))
    found, is_whole, _ = lists.read(cut, lambda after: Page(({"id": "9"},), None, NOW))
    assert (len(found.rows), is_whole, is_doubtful(lists, 1)) == (2, True, False)


def test_a_list_of_another_name_is_read_on() -> None:
    lists, other = learned(1), CutList("attachments", ({"id": "1"},), "A")
    assert lists.read(other, lambda after: Page(({"id": "2"},), None, NOW))[0].rows == (
        {"id": "1"},
        {"id": "2"},
    )


def test_a_stored_list_holds_a_page_if_it_is_whole_and_has_its_items() -> None:
    cut = CutList("shares", ({"id": "1"},), "A")
    assert holds_whole('{"shares":{"data":[{"id":"1"},{"id":"2"}]}}', cut)
    assert holds_whole('{"shares":[{"id":"1"}]}', cut)
    assert not holds_whole('{"shares":{"data":[{"id":"1"}],"is_cut":true}}', cut)
    assert not holds_whole('{"shares":{"data":[{"id":"2"}]}}', cut)
    assert not holds_whole("{}", cut)
    assert not holds_whole(None, cut)
