"""Whether to ask again, as a table."""

import pytest

from convo_pipeline.errors import (
    AccessDeniedError,
    BudgetError,
    ConvoError,
    GraphError,
    GraphFault,
    MissingError,
    RetryableError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    UnknownFieldError,
    UnreachableError,
)
from convo_pipeline.graph.retry import Pause, Stop, decide

NO_CODE, CODE_1, CODE_2 = GraphFault(), GraphFault(code=1), GraphFault(code=2)


@pytest.mark.parametrize(
    "kind",
    [GraphError, TokenError, AccessDeniedError, MissingError, UnknownFieldError, TooMuchDataError],
)
def test_what_asking_again_cannot_cure_is_not_asked_again(kind: type[GraphError]) -> None:
    assert decide(kind(NO_CODE), 1, 0) == Stop()


def test_a_used_up_budget_stops() -> None:
    assert decide(BudgetError("x"), 1, 0) == Stop()


@pytest.mark.parametrize(
    ("error", "attempt", "elapsed", "draw", "is_heavy", "expected"),
    [
        (RetryableError(CODE_2), 1, 0, 0.0, False, Pause(0.5)),
        (RetryableError(CODE_2), 1, 0, 1.0, False, Pause(1.0)),
        (RetryableError(CODE_2), 2, 0, 0.0, False, Pause(1.0)),
        (UnreachableError(NO_CODE), 3, 0, 0.0, False, Pause(2.0)),
        (UnreachableError(NO_CODE), 4, 0, 0.0, False, Pause(4.0)),
        (UnreachableError(NO_CODE), 5, 0, 0.0, False, Stop()),
        (UnreachableError(NO_CODE), 2, 180, 0.0, False, Stop()),
        (UnreachableError(NO_CODE), 2, 0, 0.0, True, Pause(1.0)),
        (UnreachableError(NO_CODE), 3, 0, 0.0, True, Stop()),
        (RetryableError(CODE_1), 2, 0, 0.0, False, Pause(1.0)),
        (RetryableError(CODE_1), 3, 0, 0.0, False, Stop()),
        (ThrottledError(NO_CODE), 1, 0, 0.0, False, Pause(4.0)),
        (ThrottledError(NO_CODE), 2, 0, 0.0, False, Pause(16.0)),
        (ThrottledError(NO_CODE), 3, 0, 1.0, False, Pause(80.0)),
        (ThrottledError(NO_CODE), 4, 0, 0.0, False, Stop(256.0)),
        (ThrottledError(NO_CODE, 0), 1, 0, 0.0, False, Pause(1.0)),
        (ThrottledError(NO_CODE, 120), 1, 0, 0.0, False, Pause(120)),
        (ThrottledError(NO_CODE, 121), 1, 0, 0.0, False, Stop(121)),
        (ThrottledError(NO_CODE, 5), 4, 0, 0.0, False, Stop(5)),
    ],
)
def test_attempts_pauses_and_total_time_are_capped(
    error: ConvoError,
    attempt: int,
    elapsed: float,
    draw: float,
    is_heavy: bool,
    expected: Stop | Pause,
) -> None:
    assert decide(error, attempt, elapsed, draw=draw, is_heavy=is_heavy) == expected


def test_a_probe_is_answered_by_the_first_error_that_has_a_code() -> None:
    assert (
        decide(RetryableError(CODE_2), 1, 0, is_probe=True)
        == decide(RetryableError(CODE_1), 1, 0, is_probe=True)
        == Stop()
    )
    assert decide(UnreachableError(NO_CODE), 1, 0, draw=0.0, is_probe=True) == Pause(0.5)
    assert decide(ThrottledError(CODE_2), 1, 0, draw=0.0, is_probe=True) == Pause(4.0)


def test_no_single_pause_is_longer_than_two_minutes() -> None:
    errors = [RetryableError(CODE_2), ThrottledError(NO_CODE), ThrottledError(NO_CODE, 119)]
    decisions = [
        decide(error, attempt, 0, draw=0.99) for error in errors for attempt in range(1, 9)
    ]
    assert max(decision.seconds for decision in decisions if isinstance(decision, Pause)) <= 120
