"""One call and its answer as values, and the log of all calls seen."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

SECRET_PARAMETERS = frozenset(
    ("access_token", "appsecret_proof", "input_token", "batch", "client_secret")
)


@dataclass
class Call:
    """One Graph call, however it came (alone or in a batch)."""

    method: str
    path: str
    """Still percent-encoded, so that an id may hold a slash."""
    params: dict[str, str]
    headers: Mapping[str, str]
    base_url: str
    number: int = 0
    """1 = the first call this server saw."""
    kind: str = "other"
    is_free: bool = False
    """Whether the limiter looks away (an item of a batch that counts as one call)."""
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
    """What goes back: a body that is still an object, or bytes already."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass(frozen=True)
class LoggedCall:
    """One call in the log, without its secrets."""

    number: int
    at: float
    """Monotonic seconds at arrival."""
    method: str
    path: str
    params: Mapping[str, str]
    status: int
    kind: str
    """listing, find, conversation, edge, message, message_edge, identity, token, batch, ids or other."""
    account: str | None
    token_in: str | None
    code: int | None
    """The error's code, None for a good answer."""


class CallLog:
    """Every call seen, in order."""

    def __init__(self) -> None:
        self._seen: list[LoggedCall] = []

    def append(self, seen: LoggedCall) -> None:
        self._seen.append(seen)

    def __iter__(self) -> Iterator[LoggedCall]:
        return iter(list(self._seen))

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, index: int) -> LoggedCall:
        return self._seen[index]

    def clear(self) -> None:
        self._seen.clear()

    def kinds(self) -> Counter[str]:
        """Count calls by kind."""
        return Counter(seen.kind for seen in self)

    def most_in_one_second(self, account: str | None = None, seconds: float = 1.0) -> int:
        """Return the largest number of calls that arrived within any window of one second."""
        stamps = [seen.at for seen in self if account is None or seen.account == account]
        first, most = 0, 0
        for last, stamp in enumerate(stamps):
            while stamps[first] <= stamp - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


def public_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters without anything secret."""
    return {name: value for name, value in params.items() if name not in SECRET_PARAMETERS}


def read_query(query: str) -> dict[str, str]:
    return dict(parse_qsl(query, keep_blank_values=True))
