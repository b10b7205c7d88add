"""Error codes of the Graph API in one table: error class, attempts and reason for each code.

Only numbers decide, because texts are localised and Meta documents no HTTP status per code (error
handling guide, Messenger error codes). One text is read: that of code 100 without a subcode, for
the name of the refused field or of the app secret's proof. No text of a response is kept.
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
    ProofError,
    RetryableError,
    ThrottledError,
    TokenError,
    TooMuchDataError,
    UnknownFieldError,
    UnreachableError,
    VersionError,
    WithheldError,
)
from convo_pipeline.reasons import REASONS

ATTEMPTS = 5


class CodeMeaning(NamedTuple):
    """What an error code means.

    `reason` is a name in `reasons.REASONS`; None if the error class says enough.
    `attempts` limits how often a retryable call is sent.
    """

    error: type[GraphError]
    reason: str | None = None
    attempts: int = ATTEMPTS


BAD_PARAMETER = 100
UNKNOWN_ERROR = 1
"""Meta's "unknown error" and "reduce the amount of data". It may pass, and it may last for one
conversation. A smaller request helps in both cases, if the request is heavy."""

CODES: dict[tuple[int, int | None], CodeMeaning] = {
    # (code, subcode); subcode None stands for every subcode without a line of its own
    (-2, None): CodeMeaning(RetryableError),  # timeout inside Meta
    (-1, None): CodeMeaning(RetryableError),  # server error inside Meta
    (UNKNOWN_ERROR, None): CodeMeaning(RetryableError, attempts=3),
    (2, None): CodeMeaning(RetryableError),  # service down for a moment
    (3, None): CodeMeaning(AccessDeniedError, "advanced_access"),  # the app lacks the capability
    (4, None): CodeMeaning(ThrottledError),  # app limit
    (10, None): CodeMeaning(AccessDeniedError, "permission"),
    (10, 2018336): CodeMeaning(WithheldError, "permission"),  # conversation under EU rules
    (10, 2534077): CodeMeaning(AccessDeniedError, "not_linked"),  # no Instagram link, or two-factor
    (17, None): CodeMeaning(ThrottledError),  # user limit
    (32, None): CodeMeaning(ThrottledError),  # Page limit
    (100, None): CodeMeaning(GraphError),  # bad parameter; UnknownFieldError if it names a field
    (100, 33): CodeMeaning(MissingError, "missing"),  # object missing, or not visible to this token
    (100, 2018001): CodeMeaning(MissingError),  # no conversation with this person
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
    (190, 2069032): CodeMeaning(TokenError, "token_kind"),
    (200, None): CodeMeaning(AccessDeniedError, "advanced_access"),
    (200, 2534041): CodeMeaning(AccessDeniedError, "switched_off"),
    (210, None): CodeMeaning(TokenError, "token_kind"),  # a Page token is required
    (230, None): CodeMeaning(AccessDeniedError, "permission"),  # needs pages_messaging
    (341, None): CodeMeaning(ThrottledError),  # app limit
    (368, None): CodeMeaning(AccessDeniedError, "policy"),
    (551, None): CodeMeaning(MissingError),  # person unavailable
    (613, None): CodeMeaning(ThrottledError),  # 1996: odd volume, 2534040: over 2 calls a second
    (803, None): CodeMeaning(MissingError, "missing"),  # no such id
    (2500, None): CodeMeaning(GraphError),  # path or query syntax
    (2635, None): CodeMeaning(VersionError, "version"),
    (36103, None): CodeMeaning(AccessDeniedError, "not_eligible"),
    (80001, None): CodeMeaning(ThrottledError),  # Page
    (80002, None): CodeMeaning(ThrottledError),  # Instagram
    (80006, None): CodeMeaning(ThrottledError),  # Messenger
    (9000001, None): CodeMeaning(MissingError),  # deleted, or older than the newest 20
}
PERMISSION_CODES = range(200, 300)
NO_CONVERSATION = (100, 2018001)
"""The answer to a search for a person who never wrote ("No matching user found")."""
INBOX_MISSING = {(100, 33), (803, None)}
"""These concern the id in the path, an inbox or a cursor's object, not a row of the page."""
REFUSING_STATUSES = frozenset(range(400, 500)) - {408, 425, 429}
"""HTTP statuses that reject the request itself; the other three allow another attempt."""
PROOF_PARAMETER = "appsecret_proof"
"""In every language the text of a code 100 about the proof contains the parameter's name."""
WRONG_PROOF = "the app secret is missing or belongs to another app: check app_secret_env"

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NONEXISTING = re.compile(r"nonexisting field \(([^()]{1,100})\)", re.IGNORECASE)
_PARENTHESES = re.compile(r"\(([A-Za-z_][A-Za-z0-9_]*)\)")


def find_meaning(code: int | None, subcode: int | None) -> CodeMeaning | None:
    """Return the table's line for a code and subcode, else for the code alone."""
    if code is None:
        return None
    return CODES.get((code, subcode)) or CODES.get((code, None))


def classify(
    code: int | None, subcode: int | None, status: int, *, is_heavy: bool, is_transient: bool
) -> type[GraphError]:
    """Return the class of an error response.

    >>> classify(100, 33, 400, is_heavy=False, is_transient=False).__name__
    'MissingError'
    >>> classify(1, None, 500, is_heavy=True, is_transient=False).__name__
    'TooMuchDataError'
    """
    if code == UNKNOWN_ERROR and is_heavy:
        return TooMuchDataError
    meaning = find_meaning(code, subcode)
    if meaning is not None:
        return meaning.error
    if code in PERMISSION_CODES:
        return AccessDeniedError
    if status == 429:
        return ThrottledError
    # without a code it is the page of a proxy: retry
    is_passing = code is None or is_transient or status >= 500
    return RetryableError if is_passing else GraphError


def attempts_of(error: GraphError) -> int:
    """Return how often a call that fails with this error is sent."""
    meaning = find_meaning(error.fault.code, error.fault.subcode)
    return meaning.attempts if meaning else ATTEMPTS


def find_refused_field(message: str, requested: Iterable[str]) -> str | None:
    """Return the field that a code 100 names.

    "" if it names a field that cannot be read, None if it is not about a field.

    >>> text = "(#100) Tried accessing nonexisting field (sticker) on node type (Message)"
    >>> find_refused_field(text, ["id", "sticker"])
    'sticker'
    >>> find_refused_field("(#100) Campo inexistente (sticker)", ["sticker"])
    'sticker'
    >>> find_refused_field("(#100) Invalid cursor", ["id"]) is None
    True
    """
    names = set(requested)
    match = _NONEXISTING.search(message)
    if not match:
        return next((word for word in _PARENTHESES.findall(message) if word in names), None)
    words = _WORD.findall(match[1])
    return next((word for word in reversed(words) if word in names), words[-1] if words else "")


def build_error(
    error: dict[str, object],
    status: int,
    path: str,
    *,
    is_heavy: bool = False,
    requested: Iterable[str] = (),
    wait_seconds: float | None = None,
) -> GraphError:
    """Return the exception for the `error` object of a response; `requested` are its fields.

    A retryable error with `wait_seconds` is a ThrottledError.
    """
    code, subcode = _read_integer(error.get("code")), _read_integer(error.get("error_subcode"))
    is_transient = error.get("is_transient") in (True, "true")
    kind = classify(code, subcode, status, is_heavy=is_heavy, is_transient=is_transient)
    text, reason = str(error.get("message", "")), ""
    is_bad_parameter = code == 100 and kind is GraphError
    if is_bad_parameter and PROOF_PARAMETER in text:
        kind, reason, is_bad_parameter = ProofError, WRONG_PROOF, False
    elif kind is VersionError:
        reason = REASONS["version"].sentence + ": set graph.version to a newer one"
    fault = GraphFault(code, subcode, status, _read_trace_id(error), path, reason)
    if kind is ThrottledError or (kind is RetryableError and wait_seconds is not None):
        return ThrottledError(fault, wait_seconds)
    field = find_refused_field(text, requested) if is_bad_parameter else None
    return kind(fault) if field is None else UnknownFieldError(fault, field)


def may_concern_one_row(error: GraphError) -> bool:
    """Return whether a single row can be why a page was refused, so that a smaller page may work.

    >>> may_concern_one_row(MissingError(GraphFault(551)))
    True
    >>> may_concern_one_row(MissingError(GraphFault(100, 33)))
    False
    """
    if isinstance(error, MissingError):
        return (error.fault.code, error.fault.subcode) not in INBOX_MISSING
    is_throttle = isinstance(error, ThrottledError)
    return isinstance(error, TooMuchDataError | RetryableError) and not is_throttle


def is_outage(error: ConvoError) -> bool:
    """Return whether the server or the network failed, whatever was requested.

    Code 1 does not count: it may concern the requested object.

    >>> is_outage(RetryableError(GraphFault(2))), is_outage(RetryableError(GraphFault(1)))
    (True, False)
    """
    return isinstance(error, RetryableError) and error.fault.code != UNKNOWN_ERROR


def is_permanent(error: ConvoError) -> bool:
    """Return whether the error of a single object probably stays, so that a retry is useless.

    A firewall in front of the API may refuse an id without a code: then the HTTP status decides.

    >>> is_permanent(MissingError(GraphFault(100, 33))), is_permanent(GraphError(GraphFault(2500)))
    (True, True)
    >>> is_permanent(RetryableError(GraphFault(1)))
    False
    """
    if isinstance(error, RetryableError):
        return error.fault.code is None and error.fault.status in REFUSING_STATUSES
    return isinstance(error, GraphError | PayloadError) and not isinstance(error, TooMuchDataError)


def is_unspecific_100(error: GraphError) -> bool:
    """Return whether it is a code 100 that does not say which parameter is wrong."""
    return type(error) is GraphError and error.fault.code == 100


def is_unanswered(error: BaseException) -> bool:
    """Return whether the server sent no response at all, not even a broken one."""
    return isinstance(error, UnreachableError) and error.fault.status is None


def _read_integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,10}", value):
        return int(value)
    return value if isinstance(value, int) else None


def _read_trace_id(error: dict[str, object]) -> str | None:
    """Keep a trace id only if it has the usual form, because it goes into logs."""
    value = error.get("fbtrace_id")
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value) else None
