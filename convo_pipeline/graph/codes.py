"""One table: code and subcode of the Graph API -> error class, and the reason that `check` names.

Only numbers decide: texts are localised and the HTTP status is not documented per code
(Meta's error handling guide and Messenger error codes). The one text that is read is that of a plain code 100,
to learn which field was refused, or that it is the proof of the app secret. Nothing read from an answer reaches an
error's text.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from convo_pipeline.errors import (
    AccessDeniedError,
    ConvoError,
    GraphError,
    GraphFault,
    MissingError,
    PayloadError,
    RetryableError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    UnknownFieldError,
    UnreachableError,
    VersionError,
    WithheldError,
)


class CodeMeaning(NamedTuple):
    """What a code means: the error to raise, and the row of `reasons` if the class has no better."""

    error: type[GraphError]
    reason: str | None = None


CODES: dict[tuple[int, int | None], CodeMeaning] = {
    # (code, subcode); subcode None stands for every subcode that has no line of its own
    (-2, None): CodeMeaning(RetryableError),  # time-out inside Meta
    (-1, None): CodeMeaning(RetryableError),  # server error inside Meta
    (1, None): CodeMeaning(RetryableError),  # or TooMuchDataError, see `classify`
    (1, 99): CodeMeaning(RetryableError),
    (2, None): CodeMeaning(RetryableError),  # service down for a moment
    (3, None): CodeMeaning(AccessDeniedError, "permission"),  # the app lacks the capability
    (4, None): CodeMeaning(ThrottledError),  # app limit
    (10, None): CodeMeaning(AccessDeniedError, "permission"),
    (10, 2018336): CodeMeaning(WithheldError, "permission"),  # conversation hit by EU rules
    (10, 2534077): CodeMeaning(AccessDeniedError, "not_linked"),  # or two-factor login
    (17, None): CodeMeaning(ThrottledError),  # user limit
    (17, 2446079): CodeMeaning(ThrottledError),
    (32, None): CodeMeaning(ThrottledError),  # Page limit
    (100, None): CodeMeaning(GraphError),  # bad parameter; UnknownFieldError if it names a field
    (100, 33): CodeMeaning(MissingError, "missing"),  # object missing, or not visible to this token
    (100, 2534013): CodeMeaning(AccessDeniedError, "not_linked"),
    (100, 2534014): CodeMeaning(MissingError, "missing"),  # no such Instagram user
    (100, 2534037): CodeMeaning(MissingError),  # not the owner of this conversation
    (102, None): CodeMeaning(TokenError, "token_invalid"),
    (190, None): CodeMeaning(TokenError, "token_invalid"),
    (190, 458): CodeMeaning(TokenError, "app_removed"),
    (190, 459): CodeMeaning(TokenError, "token_checkpoint"),
    (190, 460): CodeMeaning(TokenError, "token_password"),
    (190, 463): CodeMeaning(TokenError, "token_expired"),
    (190, 464): CodeMeaning(TokenError, "token_unconfirmed"),
    (190, 467): CodeMeaning(TokenError, "token_invalid"),
    (200, None): CodeMeaning(AccessDeniedError, "advanced_access"),
    (200, 2534041): CodeMeaning(AccessDeniedError, "switched_off"),
    (230, None): CodeMeaning(AccessDeniedError, "permission"),  # needs pages_messaging
    (341, None): CodeMeaning(ThrottledError),  # app limit
    (368, None): CodeMeaning(AccessDeniedError, "policy"),
    (551, None): CodeMeaning(MissingError),  # person unavailable
    (613, None): CodeMeaning(ThrottledError),
    (613, 1996): CodeMeaning(ThrottledError),  # odd volume
    (613, 2534040): CodeMeaning(ThrottledError),  # more than 2 calls a second
    (803, None): CodeMeaning(MissingError, "missing"),  # no such id
    (2500, None): CodeMeaning(GraphError),  # path or query syntax
    (2635, None): CodeMeaning(VersionError, "version"),
    (36103, None): CodeMeaning(AccessDeniedError, "not_eligible"),
    (80001, None): CodeMeaning(ThrottledError),  # Page
    (80002, None): CodeMeaning(ThrottledError),  # Instagram
    (80006, None): CodeMeaning(ThrottledError),  # Messenger
    (9000001, None): CodeMeaning(MissingError),  # deleted, or older than the newest 20
}
REASONS: dict[tuple[type[GraphError], int | None], str] = {
    (VersionError, 2635): "this version of the API is retired: set graph.version to a later one",
    (
        TokenError,
        100,
    ): "the app's secret is not the one of the token's app, or is missing: check app_secret_env",
}
"""What to do, where the error's class and code do not say it."""
ABOUT_THE_INBOX = {(100, 33), (803, None)}
"""Missing by these is what the path names, the inbox or what its cursor stood on, not a conversation on the page."""
PERMISSION_CODES = range(200, 300)
REFUSING_STATUSES = frozenset(range(400, 500)) - {408, 425, 429}
"""HTTP statuses that find fault with the request; the others of that hundred ask for another try."""
TOO_MUCH_CODE = 1
"""Meta answers "reduce the amount of data" and "unknown error" alike with code 1. Where a request is heavy,
asking for less is the better retry: it cures both. Elsewhere nothing can be made smaller: retry."""

PROOF = "appsecret_proof"
"""The parameter's name: in any language the text of a code 100 that is about it holds it."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NONEXISTING = re.compile(r"nonexisting field \(([^()]{1,100})\)", re.IGNORECASE)
_PARENTHESES = re.compile(r"\(([A-Za-z_][A-Za-z0-9_]*)\)")


def classify(
    code: int | None, subcode: int | None, status: int, *, is_heavy: bool, is_transient: bool
) -> type[GraphError]:
    """Return the class of an error answer.

    >>> classify(100, 33, 400, is_heavy=False, is_transient=False).__name__
    'MissingError'
    >>> classify(1, None, 500, is_heavy=True, is_transient=False).__name__
    'TooMuchDataError'
    """
    if code is None:
        return _classify_status(status)
    if code == TOO_MUCH_CODE and is_heavy:
        return TooMuchDataError
    meaning = find_meaning(code, subcode)
    known = meaning.error if meaning else None
    if known is None and code in PERMISSION_CODES:
        return AccessDeniedError
    if known is None and (is_transient or status >= 500 or status == 429):
        return ThrottledError if status == 429 else RetryableError
    return known or GraphError


def find_meaning(code: int | None, subcode: int | None) -> CodeMeaning | None:
    """Return the table's row for a code and subcode, or None for an unknown code."""
    if code is None:
        return None
    return CODES.get((code, subcode)) or CODES.get((code, None))


def _classify_status(status: int) -> type[GraphError]:
    """Without a code the status is all there is; a proxy's page is passing until it has failed often."""
    return ThrottledError if status == 429 else RetryableError


def refused_field(message: str, asked: Iterable[str]) -> str | None:
    """Return the field a code 100 complains of, "" if it names none we can read, None if it is about something else.

    >>> refused_field("(#100) Tried accessing nonexisting field (sticker) on node type (Message)", ["id", "sticker"])
    'sticker'
    >>> refused_field("(#100) Campo inexistente (sticker)", ["sticker"])
    'sticker'
    >>> refused_field("(#100) Invalid cursor", ["id"]) is None
    True
    """
    names = set(asked)
    match = _NONEXISTING.search(message)
    if match:
        named = _WORD.findall(match[1])
        return next((word for word in reversed(named) if word in names), named[-1] if named else "")
    return next((word for word in _PARENTHESES.findall(message) if word in names), None)


def build_error(
    error: dict[str, object],
    status: int,
    path: str,
    *,
    is_heavy: bool = False,
    asked: Iterable[str] = (),
    wait_seconds: float | None = None,
) -> GraphError:
    """Turn the `error` object of an answer into the exception that says what to do next."""
    code, subcode = _integer(error.get("code")), _integer(error.get("error_subcode"))
    kind = classify(
        code, subcode, status, is_heavy=is_heavy, is_transient=_is_true(error.get("is_transient"))
    )
    text = str(error.get("message", ""))
    if code == 100 and kind is GraphError and PROOF in text:
        kind = TokenError
    fault = GraphFault(
        code,
        subcode,
        status,
        _trace_id(error.get("fbtrace_id")),
        path,
        REASONS.get((kind, code), ""),
    )
    if kind is RetryableError and wait_seconds is not None:
        kind = ThrottledError  # who names a time is obeyed
    if kind is ThrottledError:
        return ThrottledError(fault, wait_seconds)
    if code == 100 and kind is GraphError:
        field = refused_field(text, asked)
        return UnknownFieldError(fault, field) if field is not None else GraphError(fault)
    return kind(fault)


def may_concern_one_row(error: GraphError) -> bool:
    """Whether a page may be refused because of a single row on it, so that a smaller page may be given.

    >>> may_concern_one_row(MissingError(GraphFault(551))), may_concern_one_row(MissingError(GraphFault(100, 33)))
    (True, False)
    """
    if isinstance(error, MissingError):
        return (error.fault.code, error.fault.subcode) not in ABOUT_THE_INBOX
    return isinstance(error, TooMuchDataError | RetryableError) and not isinstance(
        error, ThrottledError
    )


def is_outage(error: ConvoError) -> bool:
    """Whether the server or the way to it failed, which says nothing of what was asked for; code 1 may be about that.

    >>> is_outage(RetryableError(GraphFault(2))), is_outage(RetryableError(GraphFault(1)))
    (True, False)
    """
    return isinstance(error, RetryableError) and error.fault.code != TOO_MUCH_CODE


def is_permanent(error: ConvoError) -> bool:
    """Whether asking for one object again is no cure, as far as one answer can tell.

    >>> is_permanent(MissingError(GraphFault(100, 33))), is_permanent(GraphError(GraphFault(2500))), is_permanent(RetryableError(GraphFault(1)))
    (True, True, False)
    """
    if isinstance(
        error, RetryableError
    ):  # what stands before the API may not like an id, and says no code
        return error.fault.code is None and error.fault.status in REFUSING_STATUSES
    return isinstance(error, GraphError | PayloadError) and not isinstance(error, TooMuchDataError)


def is_unspecific_100(error: GraphError) -> bool:
    """Whether it is the code 100 that says nothing of its reason."""
    return type(error) is GraphError and error.fault.code == 100


def is_unanswered(error: BaseException) -> bool:
    """Whether not even a broken answer came."""
    return isinstance(error, UnreachableError) and error.fault.status is None


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,10}", value):
        return int(value)
    return value if isinstance(value, int) else None


def _is_true(value: object) -> bool:
    return value is True or value == "true"


def _trace_id(value: object) -> str | None:
    """Keep a trace id only if it looks like one: it goes into logs."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value) else None
