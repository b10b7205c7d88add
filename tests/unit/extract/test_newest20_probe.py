"""`extract.newest20_probe`: what refused messages mean, and the probe beyond the newest 20."""

import pytest

from convo_pipeline.errors import (
    ConvoError,
    GraphError,
    GraphFault,
    MissingError,
    PayloadError,
    RetryableError,
    UnreachableError,
    WithheldError,
)
from convo_pipeline.extract.newest20_probe import (
    MOST_REFUSALS,
    Newest20Probe,
    is_about_message,
    probe_result,
    refused_status,
)

TOO_OLD = MissingError(GraphFault(9_000_001))
NOT_FOUND = MissingError(GraphFault(100, 33))
WITHHELD = WithheldError(GraphFault(10, 2_018_336))
NO_CONTENT = PayloadError("no content")
OUTAGE = RetryableError(GraphFault(2))


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, "read"),
        (TOO_OLD, "unreadable"),
        (NO_CONTENT, "unreadable"),
        (NOT_FOUND, "refused"),
        (WITHHELD, "refused"),
        (GraphError(GraphFault(100)), "refused"),
    ],
)
def test_the_result_of_a_probe(error: ConvoError | None, result: str) -> None:
    assert probe_result(error) == result


@pytest.mark.parametrize(
    ("error", "rank", "is_throttled", "status"),
    [
        (NOT_FOUND, 20, False, "gone"),
        (NOT_FOUND, 20, True, "failed"),
        (NOT_FOUND, 21, False, "beyond_20"),
        (WITHHELD, 1, False, "failed"),
        (NO_CONTENT, 1, False, "failed"),
    ],
)
def test_the_status_of_a_refused_message(
    error: ConvoError, rank: int, is_throttled: bool, status: str
) -> None:
    assert refused_status(error, rank, is_throttled) == status


@pytest.mark.parametrize(
    ("error", "is_throttled", "expected"),
    [
        (NOT_FOUND, False, True),
        (NOT_FOUND, True, False),
        (NO_CONTENT, True, True),
        (OUTAGE, False, False),
        (UnreachableError(GraphFault()), False, False),
        (RetryableError(GraphFault(1)), False, True),
    ],
)
def test_an_error_is_about_the_message_or_the_server(
    error: ConvoError, is_throttled: bool, expected: bool
) -> None:
    assert is_about_message(error, is_throttled) == expected


class Fetch:
    """Returns one error after the other, and counts the calls."""

    def __init__(self, *errors: ConvoError | None) -> None:
        self.errors = list(errors)
        self.indices: list[int] = []

    def __call__(self, index: int) -> ConvoError | None:
        self.indices.append(index)
        error = self.errors.pop(0)
        if error is OUTAGE:
            raise OUTAGE
        return error


@pytest.mark.parametrize(("error", "is_limited"), [(TOO_OLD, True), (None, False)])
def test_one_clear_result_ends_the_probe(error: ConvoError | None, is_limited: bool) -> None:
    probe, fetch = Newest20Probe(), Fetch(error)
    assert probe.is_limited(fetch, 5) == is_limited
    assert probe.is_limited(fetch, 5) == is_limited
    assert fetch.indices == [0]


def test_three_unclear_results_confirm_the_limit() -> None:
    probe, fetch = Newest20Probe(), Fetch(*[NOT_FOUND] * MOST_REFUSALS)
    assert probe.is_limited(fetch, 2)
    assert fetch.indices == [0, 1]
    assert probe.is_limited(fetch, 2)
    assert probe.is_limited(fetch, 2)
    assert fetch.indices == [0, 1, 0]


def test_a_message_that_is_read_later_ends_the_doubt() -> None:
    probe, fetch = Newest20Probe(), Fetch(NOT_FOUND, None)
    assert probe.is_limited(fetch, 1)
    assert not probe.is_limited(fetch, 1)


def test_a_raised_error_leaves_the_question_open() -> None:
    probe, fetch = Newest20Probe(), Fetch(OUTAGE, None)
    with pytest.raises(RetryableError):
        probe.is_limited(fetch, 1)
    assert not probe.is_limited(fetch, 1)
