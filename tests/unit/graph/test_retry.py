"""Whether to ask again, as a table."""

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
)
from convo_pipeline.graph.retry import GiveUp, Retry, decide

NO_CODE, CODE_1, CODE_2 = GraphFault(), GraphFault(code=1), GraphFault(code=2)


@pytest.mark.parametrize(
    "kind",
    [GraphError, TokenError, AccessDeniedError, MissingError, UnknownFieldError, TooMuchDataError],
)
def test_permanent_errors_are_not_retried(kind: type[GraphError]) -> None:
    assert decide(kind(NO_CODE), 1, 0) == GiveUp()


@pytest.mark.parametrize(
    ("error", "attempt", "elapsed", "draw", "is_heavy", "expected"),
    [
        (RetryableError(CODE_2), 1, 0, 0.0, False, Retry(0.5)),
        (RetryableError(CODE_2), 1, 0, 1.0, False, Retry(1.0)),
        (RetryableError(CODE_2), 2, 0, 0.0, False, Retry(1.0)),
        (UnreachableError(NO_CODE), 3, 0, 0.0, False, Retry(2.0)),
        (UnreachableError(NO_CODE), 4, 0, 0.0, False, Retry(4.0)),
        (UnreachableError(NO_CODE), 5, 0, 0.0, False, GiveUp()),
        (UnreachableError(NO_CODE), 2, 180, 0.0, False, GiveUp()),
        (UnreachableError(NO_CODE), 2, 0, 0.0, True, Retry(1.0)),
        (UnreachableError(NO_CODE), 3, 0, 0.0, True, GiveUp()),
        (RetryableError(CODE_1), 2, 0, 0.0, False, Retry(1.0)),
        (RetryableError(CODE_1), 3, 0, 0.0, False, GiveUp()),
        (ThrottledError(NO_CODE), 1, 0, 0.0, False, Retry(4.0)),
        (ThrottledError(NO_CODE), 2, 0, 0.0, False, Retry(16.0)),
        (ThrottledError(NO_CODE), 3, 0, 1.0, False, Retry(80.0)),
        (ThrottledError(NO_CODE), 4, 0, 0.0, False, GiveUp(256.0)),
        (ThrottledError(NO_CODE, 0), 1, 0, 0.0, False, Retry(1.0)),
        (ThrottledError(NO_CODE, 120), 1, 0, 0.0, False, Retry(120)),
        (ThrottledError(NO_CODE, 121), 1, 0, 0.0, False, GiveUp(121)),
        (ThrottledError(NO_CODE, 5), 4, 0, 0.0, False, GiveUp(5)),
    ],
)
def test_attempts_waits_and_total_time_are_limited(
    error: GraphError,
    attempt: int,
    elapsed: float,
    draw: float,
    is_heavy: bool,
    expected: GiveUp | Retry,
) -> None:
    assert decide(error, attempt, elapsed, draw=draw, is_heavy=is_heavy) == expected


def test_probe_ends_at_the_first_error_code() -> None:
    assert (
        decide(RetryableError(CODE_2), 1, 0, is_probe=True)
        == decide(RetryableError(CODE_1), 1, 0, is_probe=True)
        == GiveUp()
    )
    assert decide(UnreachableError(NO_CODE), 1, 0, draw=0.0, is_probe=True) == Retry(0.5)
    assert decide(ThrottledError(CODE_2), 1, 0, draw=0.0, is_probe=True) == Retry(4.0)


def test_no_wait_is_longer_than_two_minutes() -> None:
    errors: list[GraphError] = [
        RetryableError(CODE_2),
        ThrottledError(NO_CODE),
        ThrottledError(NO_CODE, 119),
    ]
    decisions = [
        decide(error, attempt, 0, draw=0.99) for error in errors for attempt in range(1, 9)
    ]
    assert max(decision.seconds for decision in decisions if isinstance(decision, Retry)) <= 120
