"""One table decides what every error answer means."""

import pytest

from convo_pipeline import errors
from convo_pipeline.graph.codes import (
    CODES,
    build_error,
    classify,
    find_refused_field,
)

FACTS: dict[type[errors.GraphError], str] = {
    errors.RetryableError: "-2 -1 1 1/99 2",
    errors.AccessDeniedError: "3 10 10/2534077 100/2534013 200 200/2534041 230 245 299 368 36103",
    errors.ThrottledError: "4 17 17/2446079 32 341 613 613/1996 613/2534040 80001 80002 80006",
    errors.MissingError: "100/33 100/2018001 100/2534014 100/2534037 551 803 9000001",
    errors.WithheldError: "10/2018336",
    errors.TokenError: "102 190 190/458 190/459 190/460 190/463 190/464 190/467 190/2069032 210",
    errors.VersionError: "2635",
    errors.GraphError: "100 2500",
}
"""Every code of the project's facts about the API and what it is to become."""

PAIRS = [(kind, pair) for kind, line in FACTS.items() for pair in line.split()]


def split(pair: str) -> tuple[int, int | None]:
    code, _, subcode = pair.partition("/")
    return int(code), int(subcode) if subcode else None


@pytest.mark.parametrize(("kind", "pair"), PAIRS)
@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_http_status_does_not_change_a_code(
    kind: type[errors.GraphError], pair: str, status: int
) -> None:
    code, subcode = split(pair)
    assert classify(code, subcode, status, is_heavy=False, is_transient=False) is kind


@pytest.mark.parametrize(("kind", "pair"), PAIRS)
def test_unknown_subcode_means_the_code(kind: type[errors.GraphError], pair: str) -> None:
    code, subcode = split(pair)
    if subcode is None:
        assert classify(code, 424242, 400, is_heavy=False, is_transient=False) is kind


def test_facts_cover_the_table() -> None:
    assert set(CODES) <= {split(pair) for _, pair in PAIRS}


def test_code_1_of_a_heavy_request_is_too_much_data() -> None:
    assert classify(1, None, 500, is_heavy=True, is_transient=False) is errors.TooMuchDataError
    assert classify(1, 99, 500, is_heavy=True, is_transient=True) is errors.TooMuchDataError
    assert classify(2, None, 500, is_heavy=True, is_transient=False) is errors.RetryableError


def test_unknown_code_is_retried_only_if_transient() -> None:
    assert classify(777, None, 400, is_heavy=False, is_transient=False) is errors.GraphError
    assert classify(777, None, 400, is_heavy=False, is_transient=True) is errors.RetryableError
    assert classify(777, None, 500, is_heavy=False, is_transient=False) is errors.RetryableError
    assert classify(777, None, 429, is_heavy=False, is_transient=False) is errors.ThrottledError


def test_status_decides_without_a_code() -> None:
    assert classify(None, None, 429, is_heavy=False, is_transient=False) is errors.ThrottledError
    assert classify(None, None, 502, is_heavy=False, is_transient=False) is errors.RetryableError


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("(#100) Tried accessing nonexisting field (sticker) on node type (Message)", "sticker"),
        (
            "(#100) Tried accessing nonexisting field (messages.sticker) on node type (Message)",
            "sticker",
        ),
        ("Tried accessing nonexisting field (brand_new) on node type (X)", "brand_new"),
        ("Tried accessing nonexisting field (?) on node type (X)", ""),
        ("(#100) Поле (sticker) не существует", "sticker"),
        ("(#100) Invalid cursor", None),
        ("", None),
        ("(" * 10_000, None),
    ],
)
def test_refused_field_is_read_from_the_text(message: str, expected: str | None) -> None:
    assert find_refused_field(message, ["id", "messages", "sticker"]) == expected


@pytest.mark.parametrize(
    "error", [{}, {"code": "190"}, {"code": True}, {"code": None}, {"code": 1.5}, {"code": [1]}]
)
def test_malformed_error_object_is_an_error(error: dict[str, object]) -> None:
    failure = build_error(error | {"fbtrace_id": "x\n" * 99, "message": 5}, 400, "p")
    assert type(failure) is (
        errors.TokenError if error.get("code") == "190" else errors.RetryableError
    )
    assert failure.fault.trace_id is None


def test_error_contains_no_text_of_the_response() -> None:
    secret = "Session of canary person"
    failure = build_error(
        {"code": 190, "message": secret, "error_user_msg": secret, "fbtrace_id": "Ab1"},
        401,
        "17/conversations",
    )
    assert (
        str(failure)
        == "the Graph API returned an error, code 190, HTTP 401, at 17/conversations, trace Ab1"
    )


def test_transient_error_with_a_wait_is_a_throttle() -> None:
    failure = build_error({"code": 2}, 500, "p", wait_seconds=9)
    assert isinstance(failure, errors.ThrottledError)
    assert failure.wait_seconds == 9
