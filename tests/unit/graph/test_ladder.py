"""What to ask next, as tables."""

from dataclasses import replace
from datetime import date

import pytest

from convo_pipeline.errors import (
    AccessDeniedError,
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
from convo_pipeline.graph.fields import (
    conversation_fields,
    message_fields,
    names_in,
    optional_names,
)
from convo_pipeline.graph.ladder import (
    EDGES,
    TOP,
    Rung,
    be_patient,
    from_json,
    is_nesting_hopeless,
    smaller_edge,
    step_down,
    step_up,
    to_json,
    with_probes,
)

TODAY = date(2026, 2, 19)
REFUSED = TooMuchDataError(GraphFault(code=1, status=500))
TOO_SLOW = TooMuchDataError(GraphFault())
BROKEN = UnreachableError(GraphFault(status=200))


def steps(rung: Rung | None, failure: GraphError) -> list[tuple[int, int, str]]:
    """Walk down to the end."""
    found: list[tuple[int, int, str]] = []
    while rung is not None:
        found.append((rung.conversations_per_page, rung.messages_per_conversation, rung.mode))
        rung = step_down(rung, failure, "instagram", TODAY)
    return found


def test_a_refused_page_goes_down_rung_by_rung() -> None:
    nested = [(50, 20), (25, 20), (10, 20), (5, 20), (2, 20), (1, 20), (1, 10)]
    light = [(50, 20), (25, 20), (10, 20), (5, 20), (2, 20), (1, 20)]
    assert steps(TOP, REFUSED) == [(*size, "nested") for size in nested] + [
        (*size, "light") for size in light
    ]


@pytest.mark.parametrize("failure", [TOO_SLOW, BROKEN, RetryableError(GraphFault(code=2))])
def test_a_page_without_an_answer_goes_down_faster(failure: GraphError) -> None:
    assert steps(TOP, failure)[:5] == [(50, 20, "nested"), (10, 20, "nested"), (2, 20, "nested"), (1, 10, "nested"), (50, 20, "light")]  # fmt: skip


@pytest.mark.parametrize(
    "kind", [GraphError, TokenError, AccessDeniedError, MissingError, ThrottledError]
)
def test_what_less_cannot_cure_has_no_next_rung(kind: type[GraphError]) -> None:
    assert step_down(TOP, kind(GraphFault(100, 33)), "instagram", TODAY) is None


@pytest.mark.parametrize(
    "failure", [MissingError(GraphFault(551)), WithheldError(GraphFault(10, 2018336))]
)
def test_a_missing_conversation_is_searched_on_smaller_pages(failure: GraphError) -> None:
    lower = step_down(TOP, failure, "instagram", TODAY)
    assert lower is not None
    assert (lower.mode, lower.conversations_per_page) == ("nested", 25)


@pytest.mark.parametrize(
    ("platform", "field", "dropped"),
    [
        ("instagram", "story", "story"),
        ("messenger", "sticker", "sticker"),
        ("messenger", "participants", "participants"),
        ("instagram", "link", "shares.link"),
    ],
)
def test_a_refused_field_costs_only_itself(platform: str, field: str, dropped: str) -> None:
    rung = step_down(TOP, UnknownFieldError(GraphFault(code=100), field), platform, TODAY)
    assert rung == replace(TOP, dropped=((dropped, TODAY),))


@pytest.mark.parametrize(
    "field", ["", "id", "created_time", "message", "updated_time", "sticker", "never_asked"]
)
def test_a_field_that_cannot_be_dropped_has_no_next_rung(field: str) -> None:
    assert (
        step_down(TOP, UnknownFieldError(GraphFault(code=100), field), "instagram", TODAY) is None
    )


def test_a_server_without_nesting_is_listed_light() -> None:
    rung = step_down(TOP, UnknownFieldError(GraphFault(code=100), "messages"), "instagram", TODAY)
    assert rung == Rung(mode="light")


def test_every_optional_field_can_be_dropped_and_then_no_answer_is_refused_for_ever() -> None:
    rung, names = TOP, names_in(conversation_fields("messenger", 20))
    for field in sorted(names - {"shares"}):
        lower = step_down(rung, UnknownFieldError(GraphFault(code=100), field), "messenger", TODAY)
        rung = lower if lower is not None and lower.mode == "nested" else rung
    assert (
        message_fields("messenger", rung.dropped_names)
        == "id,created_time,from,to,message,shares{id}"
    )
    assert optional_names("messenger", rung.dropped_names) == ("shares",)


def test_good_pages_climb_and_a_failed_climb_waits_longer() -> None:
    rung = Rung(10)
    climbed = []
    for _ in range(12):
        rung = step_up(rung)
        climbed.append(rung.conversations_per_page)
    assert climbed == [10, 10, 10, 25, 25, 25, 25, 50, 50, 50, 50, 50]
    assert [be_patient(replace(TOP, climb_after=n)).climb_after for n in (4, 8, 64)] == [8, 16, 64]


def test_a_light_listing_climbs_back_to_small_nested_pages() -> None:
    assert step_up(Rung(mode="light", streak=3)) == Rung(10, 20, "nested")


@pytest.mark.parametrize(
    ("failure", "places"),
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
def test_one_conversations_own_messages_go_down_to_one_call_each(
    failure: GraphError, places: list[int]
) -> None:
    found, edge = [], smaller_edge(EDGES[0], failure)
    while edge is not None:
        found.append(EDGES.index(edge))
        edge = smaller_edge(edge, failure)
    assert [0, *found] == places


def test_nesting_is_hopeless_only_if_it_costs_more_than_it_brings() -> None:
    table = {
        (0, 9, 0): False,
        (1, 9, 0): False,
        (2, 9, 0): True,
        (2, 16, 1): False,
        (2, 17, 1): True,
        (9, 90, 500): False,
    }
    assert {key: is_nesting_hopeless(*key) for key in table} == table


def test_a_field_is_probed_again_after_a_week() -> None:
    rung = Rung(dropped=(("story", date(2026, 2, 12)), ("tags", date(2026, 2, 13))))
    assert with_probes(rung, TODAY) == Rung(dropped=(("tags", date(2026, 2, 13)),))


def test_a_rung_is_remembered_whole() -> None:
    rung = Rung(5, 10, "light", (("story", TODAY), ("shares.type", TODAY)), 3, 16)
    assert from_json(to_json(rung)) == rung


@pytest.mark.parametrize(
    "text", [None, "", "x", "{}", "[]", "null", '{"conversations_per_page": "a"}', to_json(TOP).replace("50", "5000"),
             to_json(TOP).replace("nested", "else"), to_json(TOP).replace("[]", "[[1]]")],
)  # fmt: skip
def test_a_memory_that_cannot_be_read_starts_at_the_top(text: str | None) -> None:
    assert from_json(text) == TOP
