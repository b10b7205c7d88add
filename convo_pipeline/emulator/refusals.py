"""Error responses of the API: codes, texts and the JSON envelope."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

OAUTH, GRAPH_METHOD, GRAPH_BATCH, INSTAGRAM = (
    "OAuthException",
    "GraphMethodException",
    "GraphBatchException",
    "IGApiException",
)

STATUSES: Mapping[int, int] = MappingProxyType({1: 500, 2: 500, 10: 403, 200: 403, 230: 403})
"""HTTP status by error code, else 400. Undocumented, so `Switches.error_statuses` overrides it."""
GONE = "This Message has been deleted by the user or the business."
REDUCE = "Please reduce the amount of data you're asking for, then retry your request"
UNKNOWN = "An unknown error occurred"
LIMITED = "(#613) Calls to this api have exceeded the rate limit."
PORTUGUESE: Mapping[str, str] = MappingProxyType(
    {
        GONE: "Esta mensagem foi excluída pelo usuário ou pela empresa.",
        REDUCE: "Reduza a quantidade de dados solicitados e tente novamente",
        LIMITED: "(#613) As chamadas a esta API excederam o limite de taxa.",
    }
)
NO_CODE = 0
OTHERWISE_IN_PORTUGUESE = "Ocorreu um erro inesperado. Tente novamente mais tarde."


@dataclass
class Refusal(Exception):
    """An error response."""

    code: int
    message: str
    subcode: int | None = None
    type: str = OAUTH
    is_transient: bool | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_bare: bool = False
    """Whether it has only code and message, as some real errors."""

    @property
    def is_html(self) -> bool:
        """Whether it is an HTML page with a status, as a proxy sends, instead of a Graph error."""
        return self.code == NO_CODE

    def envelope(self, call: str = "", *, localised: bool = False) -> dict[str, object]:
        """Return the response body in Meta's form."""
        text = PORTUGUESE.get(self.message, OTHERWISE_IN_PORTUGUESE) if localised else self.message
        if self.is_bare:
            return {"error": {"code": self.code, "message": text}}
        error: dict[str, object] = {"message": text, "type": self.type}
        if self.is_transient is not None:
            error["is_transient"] = self.is_transient
        error["code"] = self.code
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        error["fbtrace_id"] = "A" + hashlib.blake2b(call.encode(), digest_size=11).hexdigest()
        return {"error": error}


def read_refusal(text: str) -> Refusal | None:
    """Read `code`, `code/subcode` or `http` with a status; None if it is neither.

    >>> refusal = read_refusal("10/2018336")
    >>> refusal.code, refusal.subcode
    (10, 2018336)
    >>> read_refusal("http404").status
    404
    >>> read_refusal("nonsense") is None
    True
    """
    match = re.fullmatch(r"http(\d{3})|(\d+)(?:/(\d+))?", text)
    if not match:
        return None
    if match[1]:
        return Refusal(NO_CODE, "", status=int(match[1]))
    return Refusal(int(match[2]), UNKNOWN, int(match[3]) if match[3] else None)


def missing(object_id: str) -> Refusal:
    text = (
        f"Unsupported get request. Object with ID '{object_id}' does not exist, cannot be loaded"
        " due to missing permissions, or does not support this operation. Please read the Graph API"
        " documentation at https://developers.facebook.com/docs/graph-api"
    )
    return Refusal(100, text, 33, GRAPH_METHOD)


def gone(refused_as: str, object_id: str) -> Refusal:
    """Return the error of an old or an unsent message: the API does not tell which."""
    return missing(object_id) if refused_as == "100/33" else Refusal(9000001, GONE)


def nonexisting_field(name: str, node_type: str) -> Refusal:
    return Refusal(
        100, f"(#100) Tried accessing nonexisting field ({name}) on node type ({node_type})"
    )


def bad_parameter(text: str) -> Refusal:
    return Refusal(100, f"(#100) {text}")


def no_token() -> Refusal:
    return Refusal(104, "An access token is required to request this resource.")


def bad_token() -> Refusal:
    return Refusal(190, "Invalid OAuth access token - Cannot parse access token")


def expired_token() -> Refusal:
    text = (
        "Error validating access token: Session has expired on Thursday, 19-Feb-26 00:00:00 PST."
        " The current time is Thursday, 19-Feb-26 01:00:00 PST."
    )
    return Refusal(190, text, 463)


def bad_proof(is_missing: bool) -> Refusal:
    text = (
        "API calls from the server require an appsecret_proof argument"
        if is_missing
        else "Invalid appsecret_proof provided in the API argument"
    )
    return Refusal(100, text, type=GRAPH_METHOD)


def reduce_data() -> Refusal:
    return Refusal(1, REDUCE, is_bare=True)


def rate_limited() -> Refusal:
    return Refusal(613, LIMITED, 2534040)


def unknown_path(path: str) -> Refusal:
    return Refusal(2500, f"Unknown path components: {path}")
