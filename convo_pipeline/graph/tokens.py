"""Tokens: what a token is, which Pages it opens, and how to get one that lives longer.

Sources: Meta's guides on access tokens, `/me/accounts`, `debug_token` and Instagram Login.
No value of this module holds a token, except `NewToken`, whose `repr` hides it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from convo_pipeline.base.times import LAST_SECOND
from convo_pipeline.errors import PayloadError
from convo_pipeline.graph.client import LINKED, GraphClient
from convo_pipeline.graph.responses import read_identity

MAX_PAGES = 100_000
MESSENGER_TASKS = frozenset({"MESSAGING", "MODERATE"})
INSTAGRAM_TASKS = frozenset({"MESSAGING"})


@dataclass(frozen=True)
class TokenFacts:
    """What `debug_token` says about a token. Times are UTC; None: never, or unknown."""

    kind: str | None = None
    """Such as `page`, `user` or `system_user`."""
    app_id: str | None = None
    application: str | None = None
    user_id: str | None = None
    page_id: str | None = None
    is_valid: bool | None = None
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    data_access_ends_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    page_ids: frozenset[str] = frozenset()
    """The Pages for which the `pages_…` permissions hold; empty if Meta names none."""

    @property
    def ends(self) -> dict[date, str]:
        """The UTC days on which the token or its access to data ends, with the reason's name."""
        moments = {
            "data_access_expiring": self.data_access_ends_at,
            "token_expiring": self.expires_at,
        }
        return {moment.date(): name for name, moment in moments.items() if moment}

    @property
    def covered_ids(self) -> frozenset[str]:
        """The ids of the Pages that the token is valid for; none if the facts name no Page."""
        return self.page_ids | {self.page_id} if self.page_id else self.page_ids


@dataclass(frozen=True)
class PageAccess:
    """One Page that a user manages, with its Instagram account."""

    page_id: str
    name: str
    tasks: frozenset[str]
    has_token: bool
    instagram_id: str | None
    instagram_username: str | None

    def has_task(self, platform: str) -> bool:
        """Return whether the user's tasks allow to read the inbox of this platform."""
        wanted = MESSENGER_TASKS if platform == "messenger" else INSTAGRAM_TASKS
        return self.has_token and (not self.tasks or bool(self.tasks & wanted))


@dataclass(frozen=True)
class NewToken:
    """A token that Meta has issued; `expires_at` is UTC, None if Meta names no time."""

    token: str = field(repr=False)
    expires_at: datetime | None = None


def fetch_token_facts(client: GraphClient) -> TokenFacts | None:
    """Return what Meta knows about the client's token; None if the answer has no facts."""
    body = client.fetch_token().body
    facts = body.get("data") if isinstance(body, dict) else None
    return read_token_facts(facts) if isinstance(facts, dict) and facts else None


def read_token_facts(facts: Mapping[str, object]) -> TokenFacts:
    """Read the `data` of a `debug_token` response.

    >>> read_token_facts({"type": "PAGE", "expires_at": 0, "profile_id": 12}).kind
    'page'
    """
    granular = facts.get("granular_scopes")
    page_ids = {
        target
        for entry in (granular if isinstance(granular, list) else [])
        if isinstance(entry, dict) and str(entry.get("scope")).startswith("pages_")
        for target in map(_id, _list(entry.get("target_ids")))
        if target is not None
    }
    is_valid = facts.get("is_valid")
    return TokenFacts(
        kind=(_name(facts.get("type")) or "")[:16].lower() or None,
        app_id=_id(facts.get("app_id")),
        application=_name(facts.get("application")),
        user_id=_id(facts.get("user_id")),
        page_id=_id(facts.get("profile_id")),
        is_valid=is_valid if isinstance(is_valid, bool) else None,
        issued_at=_time(facts.get("issued_at")),
        expires_at=_time(facts.get("expires_at")),
        data_access_ends_at=_time(facts.get("data_access_expires_at")),
        scopes=tuple(_texts(facts.get("scopes"))),
        page_ids=frozenset(page_ids),
    )


def fetch_page_access(client: GraphClient) -> list[PageAccess]:
    """Return all Pages of the user whose token the client sends, sorted by name.

    PayloadError if the pages of the answer never end.
    """
    found: dict[str, PageAccess] = {}
    after: str | None = None
    while True:
        page = client.fetch_pages(after)
        count = len(found)
        for row in page.rows:
            if access := _read_page_access(row):
                found[access.page_id] = access
        after = page.after
        if after is None:
            return sorted(found.values(), key=lambda access: (access.name.lower(), access.page_id))
        if len(found) == count or len(found) > MAX_PAGES:
            raise PayloadError("the list of Pages does not end")


def fetch_missing_permissions(client: GraphClient, needed: Sequence[str]) -> list[str]:
    """Return which of these permissions the user's token lacks, in the same order."""
    granted = {
        row.get("permission")
        for row in client.fetch_permissions().rows
        if isinstance(row, dict) and row.get("status") == "granted"
    }
    return [name for name in needed if name not in granted]


def exchange_user_token(
    client: GraphClient, token: str, app_id: str, app_secret: str, now: datetime
) -> NewToken:
    """Exchange a short-lived token of a user for one of about 60 days."""
    parameters = {
        "grant_type": "fb_exchange_token",
        "client_id": app_id,
        "client_secret": app_secret,
        "fb_exchange_token": token,
    }
    return _read_new_token(client.exchange_token("oauth/access_token", parameters).body, now)


def exchange_login_token(client: GraphClient, app_secret: str, now: datetime) -> NewToken:
    """Exchange a token of Instagram Login that lives one hour for one of 60 days."""
    parameters = {"grant_type": "ig_exchange_token", "client_secret": app_secret}
    return _read_new_token(client.exchange_token("access_token", parameters).body, now)


def refresh_login_token(client: GraphClient, now: datetime) -> NewToken:
    """Refresh a 60-day token of Instagram Login. Meta requires that it is a day old."""
    parameters = {"grant_type": "ig_refresh_token"}
    return _read_new_token(client.exchange_token("refresh_access_token", parameters).body, now)


def _read_new_token(body: object, now: datetime) -> NewToken:
    token = body.get("access_token") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(token, str) or not token:
        raise PayloadError("the answer has no token")
    seconds = body.get("expires_in")
    lifetime = seconds if isinstance(seconds, int) and not isinstance(seconds, bool) else None
    expires_at = None if lifetime is None else _time(int(now.timestamp()) + lifetime)
    return NewToken(token, expires_at)


def _read_page_access(row: object) -> PageAccess | None:
    page_id = _id(row.get("id")) if isinstance(row, dict) else None
    if not isinstance(row, dict) or page_id is None:
        return None
    linked = read_identity(row.get(LINKED))
    return PageAccess(
        page_id=page_id,
        name=_name(row.get("name")) or page_id,
        tasks=frozenset(_texts(row.get("tasks"))),
        has_token=isinstance(row.get("access_token"), str) and bool(row["access_token"]),
        instagram_id=_id(linked.own_id),
        instagram_username=_name(linked.own_username),
    )


def _id(value: object) -> str | None:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if text.isascii() and text.isdigit() and len(text) <= 32 else None


def _name(value: object) -> str | None:
    """Return a name without control characters, of at most 100 characters."""
    if not isinstance(value, str):
        return None
    return "".join(char if char.isprintable() else " " for char in value[:100]).strip() or None


def _texts(value: object) -> list[str]:
    return [text for item in _list(value) if (text := _name(item))]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _time(value: object) -> datetime | None:
    """Read Unix seconds; 0 means never."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LAST_SECOND:
        return None
    return datetime.fromtimestamp(value, UTC)
