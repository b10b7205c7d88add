"""A call, its response, and the log of all calls."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

SECRET_PARAMETERS = frozenset(
    (
        "access_token",
        "appsecret_proof",
        "input_token",
        "batch",
        "client_secret",
        "fb_exchange_token",
    )
)


@dataclass
class Call:
    """One Graph call, single or from a batch."""

    method: str
    path: str
    """Percent-encoded, so that an id can contain a slash."""
    params: dict[str, str]
    headers: Mapping[str, str]
    base_url: str
    number: int = 0
    """1 is the first call of this server."""
    kind: str = "other"
    is_free: bool = False
    """Whether the limiter ignores it: an item of a batch that counts as one call."""
    account: str | None = None
    page_id: str | None = None
    platform: str | None = None

    @property
    def segments(self) -> list[str]:
        return [unquote(part) for part in self.path.split("/") if part]

    @property
    def token_in(self) -> str | None:
        if "access_token" in self.params:
            return "query"
        return (
            "header"
            if self.headers.get("authorization", "").lower().startswith("bearer ")
            else None
        )

    @property
    def token(self) -> str | None:
        if "access_token" in self.params:
            return self.params["access_token"]
        return self.headers["authorization"][7:].strip() if self.token_in else None


@dataclass
class EmulatedResponse:
    """A response: its body as an object, or already as bytes."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass(frozen=True)
class LoggedCall:
    """One call in the log, without secrets."""

    number: int
    at: float
    """When the system received the request, in monotonic seconds."""
    method: str
    path: str
    params: Mapping[str, str]
    status: int
    kind: str
    """Such as listing, find, conversation, edge, message, identity, token, batch or other."""
    account: str | None
    token_in: str | None
    code: int | None
    """Code of the error; None for a success."""


class CallLog:
    """All calls, in order."""

    def __init__(self) -> None:
        self._calls: list[LoggedCall] = []

    def append(self, call: LoggedCall) -> None:
        self._calls.append(call)

    def __iter__(self) -> Iterator[LoggedCall]:
        return iter(list(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, index: int) -> LoggedCall:
        return self._calls[index]

    def clear(self) -> None:
        self._calls.clear()

    def kinds(self) -> Counter[str]:
        """Count calls by kind."""
        return Counter(call.kind for call in self)

    def most_in_one_second(self, account: str | None = None, seconds: float = 1.0) -> int:
        """Return the largest number of calls that arrived within one second."""
        stamps = sorted(call.at for call in self if account is None or call.account == account)
        first, most = 0, 0
        for last, stamp in enumerate(stamps):
            while stamps[first] <= stamp - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


def public_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters without secrets."""
    return {name: value for name, value in params.items() if name not in SECRET_PARAMETERS}


def read_query(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))
