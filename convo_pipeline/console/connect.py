"""`connect` and `token`: find the inboxes that a token opens, and keep tokens alive.

Both call the Graph API a few times, outside of any inbox. No token is stored or shown.
"""

import errno
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import Credentials, read_credentials, read_token
from convo_pipeline.console.check import INSTAGRAM_TOKENS, SCOPES
from convo_pipeline.errors import GraphError, SettingsError, TokenError, UnknownFieldError
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.rate_limit import NO_LIMIT, CallBudget
from convo_pipeline.graph.tokens import (
    NewToken,
    PageAccess,
    TokenFacts,
    exchange_login_token,
    exchange_user_token,
    fetch_missing_permissions,
    fetch_page_access,
    fetch_token_facts,
    refresh_login_token,
)
from convo_pipeline.orchestration.sandbox import emulator_if_needed
from convo_pipeline.settings import (
    FACEBOOK_HOST,
    INSTAGRAM_HOST,
    AccountSettings,
    Settings,
    find_settings_file,
    parse_settings,
    read_settings,
)
from convo_pipeline.storage.local import PRIVATE_FILE, write_synced

MAX_CALLS = 2_000
LONGEST_NAME = 50
PERMISSIONS = tuple(dict.fromkeys(["pages_show_list", *SCOPES["messenger"], *SCOPES["instagram"]]))
"""Permissions that a user's token needs, so that all its inboxes can be read."""


@dataclass(frozen=True)
class FoundInbox:
    """One inbox that a token opens; `problem` says why it cannot be read yet."""

    name: str
    page_id: str
    platform: str
    title: str
    tasks: tuple[str, ...] = ()
    problem: str | None = None
    configured_as: str | None = None
    """The account that has this inbox already."""


@dataclass(frozen=True)
class TokenConnection:
    """All inboxes that a token opens."""

    inboxes: tuple[FoundInbox, ...]
    missing_permissions: tuple[str, ...]
    token_key: str
    """The key of `[[accounts]]` that names the token: token_env, token_file or token_from."""
    token_name: str
    base_url: str | None = None

    def blocks(self, start: date) -> str:
        """Return the `[[accounts]]` blocks of the new inboxes; a comment if one has a problem."""
        new = [inbox for inbox in self.inboxes if inbox.configured_as is None]
        return "\n".join(self._block(inbox, start) for inbox in new)

    def _block(self, inbox: FoundInbox, start: date) -> str:
        entries = {"name": inbox.name, "page_id": inbox.page_id, "platform": inbox.platform}
        entries |= {"base_url": self.base_url} if self.base_url else {}
        entries |= {self.token_key: self.token_name, "start_date": f"{start}"}
        lines = [f"# {inbox.title}", "[[accounts]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
        if inbox.problem:
            lines[:1] += [f"# {inbox.problem}"]
            lines[2:] = [f"# {line}" for line in lines[2:]]
        return "\n".join(lines) + "\n"


def find_inboxes(
    config: str | None, token_name: str, environ: Mapping[str, str], clock: Clock
) -> TokenConnection:
    """Return the inboxes that the token in a variable or a file opens.

    SettingsError if the token cannot be read or belongs to a Page; GraphError if Meta refuses it.
    """
    has_config = config is not None or find_settings_file(environ=environ).exists()
    settings = read_settings(config, environ) if has_config else Settings()
    with emulator_if_needed(_with_probe(settings, token_name), environ) as (reached, tokens):
        token = read_token(token_name, "connect", tokens)
        probe = reached.accounts[-1]
        if token.startswith(INSTAGRAM_TOKENS):
            return _find_login_inbox(settings, probe, token, token_name, clock)
        with _open(Endpoint.of(reached, probe), Credentials(token), clock) as client:
            try:
                pages = fetch_page_access(client)
            except UnknownFieldError:
                raise SettingsError(
                    f"{token_name} holds the token of one Page: connect needs the token of a user"
                    " or system user"
                ) from None
            missing = fetch_missing_permissions(client, PERMISSIONS)
    return TokenConnection(
        inboxes=tuple(_list_inboxes(pages, settings.accounts)),
        missing_permissions=tuple(missing),
        token_key="token_from",  # noqa: S106
        token_name=token_name,
    )


def _with_probe(settings: Settings, token_name: str) -> Settings:
    """Add an account for the calls of `connect` itself, so that an emulator is started for it."""
    probe = AccountSettings(
        name="connect",
        page_id="1",
        platform="messenger",
        token_from=token_name,
        start_date=date(2020, 1, 1),
    )
    return settings.model_copy(update={"accounts": (*settings.accounts, probe)})


@contextmanager
def _open(endpoint: Endpoint, credentials: Credentials, clock: Clock) -> Iterator[GraphClient]:
    budget = CallBudget(MAX_CALLS)
    with GraphClient(endpoint, credentials, NO_LIMIT, budget=budget, clock=clock) as client:
        yield client


def _find_login_inbox(
    settings: Settings, probe: AccountSettings, token: str, token_name: str, clock: Clock
) -> TokenConnection:
    base_url = settings.base_url(probe)
    if urlsplit(base_url).hostname == FACEBOOK_HOST:
        base_url = f"https://{INSTAGRAM_HOST}"
    endpoint = Endpoint(base_url, settings.version(probe), "me", "instagram")
    with _open(endpoint, Credentials(token), clock) as client:
        identity = client.fetch_identity()
    title = identity.own_username or "Instagram account"
    known = [
        account.name
        for account in settings.accounts
        if account.token_name == token_name and account.page_id == "me"
    ]
    taken = {account.name for account in settings.accounts}
    name = _unused(f"{_slug(title, 'account')}-instagram", taken)
    problem = None if identity.own_id else "Instagram returns no id for this token"
    inbox = FoundInbox(name, "me", "instagram", title, (), problem, known[0] if known else None)
    key = "token_file" if os.path.isabs(token_name) else "token_env"
    return TokenConnection((inbox,), (), key, token_name, base_url)


def _list_inboxes(
    pages: Sequence[PageAccess], accounts: Sequence[AccountSettings]
) -> Iterator[FoundInbox]:
    known: dict[tuple[str, str], str] = {
        (account.page_id, account.platform): account.name for account in accounts
    }
    taken = {account.name for account in accounts}
    for page in pages:
        platforms = ["messenger"] + ["instagram"] * (page.instagram_id is not None)
        for platform in platforms:
            title = page.name
            if platform == "instagram" and page.instagram_username:
                title = f"{page.name} (@{page.instagram_username})"
            configured_as = known.get((page.page_id, platform))
            name = configured_as or _unused(
                f"{_slug(page.name, f'page-{page.page_id}')}-{platform}", taken
            )
            yield FoundInbox(
                name=name,
                page_id=page.page_id,
                platform=platform,
                title=title,
                tasks=tuple(sorted(page.tasks)),
                problem=_problem(page, platform),
                configured_as=configured_as,
            )


def _problem(page: PageAccess, platform: str) -> str | None:
    if page.has_task(platform):
        return None
    if not page.has_token:
        return "Meta returns no token for this Page: give the user a task on it"
    return "the user lacks the task MESSAGING on this Page: add it in the Page's settings"


def _slug(title: str, otherwise: str) -> str:
    """Return a title as an account name.

    >>> _slug("Café Zürich & Co.", "page-1"), _slug("日本", "page-1")
    ('cafe-zurich-co', 'page-1')
    """
    text = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", text).strip("-0123456789")[:LONGEST_NAME].strip("-")
    return name or otherwise


def _unused(name: str, taken: set[str]) -> str:
    number = 1
    chosen = name
    while chosen in taken:
        number += 1
        chosen = f"{name}-{number}"
    taken.add(chosen)
    return chosen


def append_blocks(config: str | None, blocks: str, environ: Mapping[str, str]) -> Path:
    """Append `[[accounts]]` blocks to the configuration, if the result is valid; return its path.

    An existing file keeps its mode, owner and links. A new one is private (mode 0600).
    SettingsError says what is wrong; the file is then as it was.
    """
    path = find_settings_file(config, environ)
    try:
        before = path.read_bytes() if path.exists() else b""
        gap = b"" if not before else b"\n" if before.endswith(b"\n") else b"\n\n"
        added = gap + blocks.encode()
        parse_settings(before + added, str(path))
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
        try:
            if os.write(descriptor, added) < len(added):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, len(before))
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None
    return path


def _replace_file(path: Path, content: bytes) -> None:
    """Write a private file (mode 0600) whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        write_synced(new, content)
        new.replace(path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None


def show_inboxes(connection: TokenConnection, console: Console) -> None:
    """Print one row per inbox, then the missing permissions."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("account", "platform", "Page id", "Page", "state"):
        table.add_column(heading, overflow="fold")
    for inbox in connection.inboxes:
        state = inbox.problem or ("is configured" if inbox.configured_as else "new")
        table.add_row(inbox.name, inbox.platform, inbox.page_id, inbox.title, state)
    console.print(table)
    if not connection.inboxes:
        console.print("The token opens no Page. Give its user a task on the Page, then try again.")
    if connection.missing_permissions:
        names = ", ".join(connection.missing_permissions)
        console.print(f"The token lacks permissions: {names}. Create a new token with them.")


@dataclass(frozen=True)
class TokenReport:
    """What `token` shows about one account's token."""

    account: str
    source: str
    facts: TokenFacts | None

    def to_json(self) -> dict[str, object]:
        """Return the report with JSON values; times are ISO 8601 in UTC."""
        facts = asdict(self.facts) if self.facts else {}
        shown = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in facts.items()
        }
        if self.facts:
            shown |= {"scopes": list(self.facts.scopes), "page_ids": sorted(self.facts.page_ids)}
        return {"account": self.account, "source": self.source, **shown}

    def lines(self) -> Iterator[str]:
        """Yield one line per fact."""
        yield f"account: {self.account}"
        yield f"read from: {self.source}"
        if self.facts is None:
            yield "Meta does not describe this token (debug_token has no facts)"
            return
        facts = self.facts
        yield f"kind: {facts.kind or 'unknown'}"
        if facts.is_valid is False:
            yield "the token is invalid: create a new one"
        if facts.user_id or facts.page_id:
            owner = " of ".join(filter(None, (facts.page_id, facts.user_id)))
            yield f"owner: {owner}"
        yield f"app: {facts.application or 'unknown'} ({facts.app_id or 'unknown id'})"
        yield f"expires: {_day(facts.expires_at)}"
        yield f"data access ends: {_day(facts.data_access_ends_at)}"
        yield f"permissions: {', '.join(facts.scopes) or 'none'}"


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


@contextmanager
def _account_client(
    settings: Settings, name: str, environ: Mapping[str, str], clock: Clock, *, is_owner: bool
) -> Iterator[tuple[GraphClient, Credentials]]:
    """Open a client of an account; with `is_owner`, for the token in the settings itself."""
    with emulator_if_needed(settings, environ) as (reached, tokens):
        account = reached.account(name)
        read = partial(read_credentials, account, tokens)
        credentials = read()
        if is_owner:
            credentials = Credentials(credentials.token)
        with _open(Endpoint.of(reached, account), credentials, clock) as client:
            yield client, read()


def describe_token(
    settings: Settings, name: str, environ: Mapping[str, str], clock: Clock
) -> TokenReport:
    """Return what Meta says about the token of an account. With `token_from`: the user's token."""
    account = settings.account(name)
    with _account_client(settings, name, environ, clock, is_owner=True) as (client, _):
        try:
            facts = fetch_token_facts(client)
        except TokenError:
            raise
        except GraphError:
            facts = None
    return TokenReport(name, account.token_name, facts)


def renew_token(
    settings: Settings, name: str, environ: Mapping[str, str], clock: Clock
) -> NewToken:
    """Return a longer-lived token in place of the account's.

    An Instagram Login token is refreshed. A user's token is exchanged, which needs the app's secret
    (`app_secret_env`). SettingsError for a Page's token: it lives as long as its user's token.
    """
    account = settings.account(name)
    now = clock.now()
    with _account_client(settings, name, environ, clock, is_owner=True) as (client, credentials):
        if account.page_id == "me":
            try:
                return refresh_login_token(client, now)
            except TokenError:
                raise
            except GraphError:
                if credentials.app_secret is None:
                    raise
                return exchange_login_token(client, credentials.app_secret, now)
        facts = fetch_token_facts(client)
        if facts is not None and facts.kind == "page":
            raise SettingsError(
                f"{account.token_name} holds a Page's token, which cannot be renewed: it lives as"
                " long as the token of its user. Use token_from with the user's token"
            )
        if credentials.app_secret is None or facts is None or facts.app_id is None:
            raise SettingsError(
                f'account "{name}": set app_secret_env; Meta exchanges a token for its app only'
            )
        return exchange_user_token(
            client, credentials.token, facts.app_id, credentials.app_secret, now
        )


def write_token(token: NewToken, output: Path | None, stdout: IO[str]) -> str:
    """Write a token to a file (mode 0600) or to `stdout`, a pipe; return a sentence."""
    expires = f"; it expires {_day(token.expires_at)}" if token.expires_at else ""
    if output is None:
        stdout.write(token.token + "\n")
        return f"the new token was written to the pipe{expires}"
    _replace_file(output, f"{token.token}\n".encode())
    return f"the new token is in {output}{expires}"
