"""`extract.walk`: how far a conversation is read."""

from convo_pipeline.extract.walk import Held, Walk, bare_beyond, bare_readable


def message(message_id: str, second: int, **content: object) -> dict[str, object]:
    return {"id": message_id, "created_time": second * 1_000 + 1_700_000_000_000, **content}


def us(second: int) -> int:
    return (second + 1_700_000_000) * 1_000_000


def test_a_walk_ends_before_the_windows_start() -> None:
    walk = Walk(us(50), None).extend([message("b", 60), message("a", 55)])
    assert not walk.is_deep_enough
    assert walk.extend([message("z", 49)]).is_deep_enough


def test_a_walk_ends_on_a_held_past_that_reaches_the_window() -> None:
    page = [message("c", 90), message("b", 80)]
    assert Walk(us(50), Held("b", us(40))).extend(page).is_deep_enough
    assert not Walk(us(50), Held("b", us(60))).extend(page).is_deep_enough
    assert not Walk(us(50), Held("x", us(40))).extend(page).is_deep_enough


def test_what_is_held_afterwards_reaches_down_to_the_walk_or_below_it() -> None:
    page = [message("c", 90), message("b", 80)]
    assert Walk(us(85), None).extend(page).complete_since_us(at_end=False) == us(80)
    assert Walk(us(50), Held("b", us(40))).extend(page).complete_since_us(at_end=False) == us(40)
    assert Walk(us(85), None).extend(page).complete_since_us(at_end=True) == 0
    assert Walk(us(85), None).extend([]).complete_since_us(at_end=False) is None


def test_the_newest_id_and_the_count_go_on_over_pages() -> None:
    walk = Walk(0, None).extend([message("c", 3)]).extend([message("b", 2), message("a", 1)])
    assert (walk.newest_message_id, walk.count, walk.low_us) == ("c", 3, us(1))


def test_an_empty_page_changes_nothing() -> None:
    walk = Walk(0, None).extend([message("c", 3)])
    assert walk.extend([]) == walk


def test_bare_rows_are_split_at_the_twentieth_place() -> None:
    entries = [message(f"m{rank}", 100 - rank) for rank in range(19, 23)]
    assert [rank for rank, _, _ in bare_readable(entries, 19)] == [19, 20]
    assert [rank for rank, _, _ in bare_beyond(entries, 19)] == [21, 22]


def test_a_row_with_content_is_not_bare_and_a_refused_one_is() -> None:
    entries = [
        message("a", 1, message=""),
        message("b", 2, error={"code": 9000001}),
        {"created_time": 1},
        None,
    ]
    assert [message_id for _, message_id, _ in bare_readable(entries, 1)] == ["b"]
