"""Which page of a list counts as its last one although it names a next page."""

from datetime import date

from convo_pipeline.extract.nested_lists import PHANTOM_AFTER, CutList, NestedLists
from convo_pipeline.graph.responses import Page
from tests.support.inboxes import NOW

EMPTY = Page((), None, NOW)


def row(count: int) -> dict[str, object]:
    items = [{"id": str(number)} for number in range(count)]
    paging = {"cursors": {"after": "A"}, "next": "https://graph.facebook.com/m/shares?after=A"}
    return {"id": "m", "shares": {"data": items, "paging": paging}}


def cut_counts(lists: NestedLists, count: int) -> list[int]:
    return [len(cut.rows) for cut in lists.find(row(count), ("shares",))]


def learned(count: int) -> NestedLists:
    """Return lists after three pages of `count` shares whose next page was empty."""
    lists = NestedLists(date(2026, 3, 10))
    for _ in range(PHANTOM_AFTER):
        [cut] = lists.find(row(count), ("shares",))
        assert lists.read(cut, lambda after: EMPTY)[:2] == (cut, True)
    return lists


def test_a_single_item_is_whole_after_empty_next_pages() -> None:
    assert cut_counts(learned(1), 1) == []


def test_the_longest_page_so_far_is_read_on_although_earlier_next_pages_were_empty() -> None:
    """The API's page may have two items: then two of 27 shares look like a whole list."""
    assert cut_counts(learned(1), 2) == [2]
    assert cut_counts(learned(2), 2) == [2]


def test_a_page_that_is_shorter_than_another_one_is_whole() -> None:
    lists = learned(2)
    assert cut_counts(lists, 3) == [3]
    assert cut_counts(lists, 2) == []


def test_a_list_of_another_name_is_read_on() -> None:
    lists, other = learned(1), CutList("attachments", ({"id": "1"},), "A")
    assert lists.read(other, lambda after: Page(({"id": "2"},), None, NOW))[0].rows == (
        {"id": "1"},
        {"id": "2"},
    )
