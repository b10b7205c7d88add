"""Try an account's set-up with a few calls and say what is wrong in words a person can act on.

It uses the limiter that all runs share, stores nothing of what it reads, and prints no token. The words are in `reasons`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.base.secrets import Credentials, read_credentials
from convo_pipeline.console.advice import CODES, SCOPES
from convo_pipeline.errors import (
    AccessDeniedError,
    ConvoError,
    GraphError,
    SettingsError,
    StoreError,
    ThrottledError,
    TokenError,
    UnknownFieldError,
    UnreachableError,
    VersionError,
)
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.rate_limit import CallBudget, SqliteLimiter, read_block
from convo_pipeline.graph.responses import read_identity
from convo_pipeline.lake.store import Store
from convo_pipeline.reasons import REASONS, Connection, Level, reason_of
from convo_pipeline.sandbox import reachable
from convo_pipeline.settings import AccountSettings, Settings
from convo_pipeline.state.identity import AccountIdentity, check_identity

MOST_CALLS = 40
ACCOUNTS_IN_FLIGHT = 8
EXPIRING = timedelta(days=14)
MANY_PARTITIONS = 100_000
"""Dagster advises at most this many partitions an asset."""
INSTAGRAM_HOST, FACEBOOK_HOST = "graph.instagram.com", "graph.facebook.com"
INSTAGRAM_TOKENS, FACEBOOK_TOKENS = ("IGAA", "IGQ"), ("EAA",)
USUAL_FOLDERS = ("other", "page_done", "spam")
"""Messenger's folders besides the inbox, as working clients name them; Meta documents none."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about an account ("" = about all), and what to do."""

    account: str
    name: str
    level: Level
    sentence: str
    remedy: str


@dataclass
class Diagnosis:
    """What the check learnt of one account; no secret among it."""

    account: str
    platform: str
    findings: list[Finding] = field(default_factory=list)
    token_kind: str | None = None
    expires: str | None = None
    """The day the token ends, `never`, or None if that is not known."""
    own_id: str | None = None
    folders: list[str] = field(default_factory=list)
    """The configured folders that could be listed."""
    call_count: int = 0

    @property
    def is_fine(self) -> bool:
        return all(finding.level == "note" for finding in self.findings)


def check_accounts(
    settings: Settings, names: Sequence[str], environ: Mapping[str, str], clock: Clock
) -> tuple[list[Diagnosis], list[Finding]]:
    """Check these accounts side by side; return what was learnt of each, and findings about the whole configuration."""
    with (
        closing(Store(settings.store, clock)) as store,
        reachable(settings, environ) as (reached, tokens),
    ):
        store.state.identities()
        chosen = [account for account in reached.accounts if account.name in names]
        with ThreadPoolExecutor(ACCOUNTS_IN_FLIGHT, thread_name_prefix="check") as pool:
            examined = list(
                pool.map(
                    lambda each: Examination(reached, store, each, tokens, clock).examine(), chosen
                )
            )
    return examined, list(_check_size(settings, clock.now().date()))


def _check_size(settings: Settings, today: date) -> Iterator[Finding]:
    first = min((account.start_date for account in settings.accounts), default=today)
    count = len(settings.accounts) * ((today - first).days + 1)
    if count > MANY_PARTITIONS:
        yield _find("", "messenger", "many_partitions", {"count": f"{count:,}"})


def _find(account: str, connection: Connection, name: str, details: Mapping[str, str]) -> Finding:
    reason = REASONS[name]
    sentence = reason.describe(details)
    if details.get("detail"):
        sentence += f" ({details['detail']})"
    remedy = reason.remedy_for(connection, details=details)
    return Finding(account, name, reason.level, sentence, remedy)


class Examination:
    """The check of one account: cheap looks first, and no call that an earlier finding makes pointless."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        account: AccountSettings,
        environ: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._account = account
        self._environ = environ
        self._clock = clock
        self._host = urlsplit(settings.base_url(account)).netloc
        self.diagnosis = Diagnosis(account.name, account.platform)

    @property
    def _is_instagram_login(self) -> bool:
        is_login = self._account.page_id == "me" or self._host == INSTAGRAM_HOST
        return is_login and self._account.platform == "instagram"

    @property
    def _connection(self) -> Connection:
        return "instagram_login" if self._is_instagram_login else self._account.platform

    def examine(self) -> Diagnosis:
        """Find what is wrong; never raises a ConvoError."""
        try:
            credentials = read_credentials(self._account, self._environ)
        except SettingsError as error:
            self._note("token_missing", detail=str(error))
            return self.diagnosis
        wrong = _wrong_host(self._account, self._host, credentials.token)
        if wrong:
            self._note("wrong_host", detail=wrong)
        elif not self._is_blocked():
            with self._open_client(credentials) as client:
                self._call(client)
                self.diagnosis.call_count = sum(client.calls.values())
        return self.diagnosis

    def _note(self, name: str, **details: str) -> None:
        known = {"variable": self._account.token_env, "page_id": self._account.page_id, **details}
        self.diagnosis.findings.append(_find(self._account.name, self._connection, name, known))

    def _note_error(self, error: ConvoError) -> None:
        self._note(name_of(error), detail=_brief(error))

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint.of(self._settings, self._account)

    def _is_blocked(self) -> bool:
        until = read_block(self._store.state.path, self._endpoint.limit_key, self._clock.now())
        if until:
            self._note("blocked", until=f"{until:%Y-%m-%d %H:%M} UTC")
        return until is not None

    @contextmanager
    def _open_client(self, credentials: Credentials) -> Iterator[GraphClient]:
        rate, path = self._settings.graph.calls_per_second, self._store.state.path
        with (
            closing(SqliteLimiter(path, self._endpoint.limit_key, rate, self._clock)) as limiter,
            GraphClient(
                self._endpoint,
                credentials,
                limiter,
                budget=CallBudget(MOST_CALLS),
                clock=self._clock,
            ) as client,
        ):
            yield client

    def _call(self, client: GraphClient) -> None:
        steps: tuple[Callable[[GraphClient], bool], ...] = (
            self._ask_token,
            self._ask_account,
            self._ask_folders,
        )
        all(step(client) for step in steps)
        if client.version and client.version != client.endpoint.version:
            self._note("version_changed", asked=client.endpoint.version, served=client.version[:16])

    def _ask_token(self, client: GraphClient) -> bool:
        """Look at the token; say whether further calls make sense."""
        if self._host == INSTAGRAM_HOST:
            self._note("token_unknown")
            return True
        try:
            body = client.fetch_token().body
        except (TokenError, ThrottledError, UnreachableError, VersionError) as error:
            self._note_error(error)
            return False
        except ConvoError as error:
            is_policy = name_of(error) == "policy"
            self._note("policy" if is_policy else "token_unknown")
            return not is_policy
        facts = body.get("data") if isinstance(body, dict) else None
        return self._judge_token(facts if isinstance(facts, dict) else {})

    def _judge_token(self, facts: Mapping[str, object]) -> bool:
        if not facts:
            self._note("token_unknown")
            return True
        now, before = self._clock.now(), len(self.diagnosis.findings)
        kind = str(facts.get("type") or "")[:16]
        ends, access_ends = (
            _moment(facts.get(key)) for key in ("expires_at", "data_access_expires_at")
        )
        self.diagnosis.token_kind = kind.lower() or None
        self.diagnosis.expires = f"{ends:%Y-%m-%d}" if ends else "never"
        if facts.get("is_valid") is False or (ends and ends <= now):
            self._note("token_expired" if ends and ends <= now else "token_invalid")
            return False
        for name, end in (("token_expiring", ends), ("data_access_expiring", access_ends)):
            if end and end <= now + EXPIRING:
                self._note(name, date=f"{end:%Y-%m-%d}")
        if kind and kind != "PAGE" and not self._is_instagram_login:
            self._note("token_kind", kind=kind.lower())
        missing = [
            scope for scope in SCOPES[self._connection] if scope not in _texts(facts.get("scopes"))
        ]
        if missing:
            self._note("scope_missing", scopes=", ".join(missing))
        if not self._is_instagram_login and not _covers(facts, self._account.page_id):
            self._note("other_page")
        found = self.diagnosis.findings[before:]
        return not any(finding.name in ("token_kind", "other_page") for finding in found)

    def _ask_account(self, client: GraphClient) -> bool:
        """Ask the Page (or `/me`) who it is; an id of another kind lacks the field."""
        is_instagram = self._account.platform == "instagram"
        fields = "instagram_business_account{id,username}" if is_instagram else "category"
        try:
            body = client.fetch_account(
                "user_id,username" if self._is_instagram_login else fields
            ).body
        except UnknownFieldError:
            self._note("wrong_id_kind")
            return False
        except AccessDeniedError:
            body = {}
        except ConvoError as error:
            self._note_error(error)
            return False
        answer = body if isinstance(body, dict) else {}
        if not is_instagram:
            self.diagnosis.own_id = self._account.page_id
        else:
            own = answer if self._is_instagram_login else answer.get("instagram_business_account")
            self.diagnosis.own_id = read_identity(own).own_id
        return self._agrees_with_lake()

    def _agrees_with_lake(self) -> bool:
        account, own_id = self._account, self.diagnosis.own_id
        asked = AccountIdentity(
            account.name, account.page_id, account.platform, own_id, None, own_id and "asked"
        )
        try:
            check_identity(asked, self._store.state.identities())
        except StoreError as error:
            self._note("other_inbox", detail=str(error))
        return True

    def _ask_folders(self, client: GraphClient) -> bool:
        """List one conversation of every configured folder, and look into Messenger's usual others."""
        counts = {folder: self._count(client, folder) for folder in self._account.folders}
        if any(name in BROKEN for name in (finding.name for finding in self.diagnosis.findings)):
            return False
        if self._account.platform == "instagram":
            useless = [folder for folder in self._account.folders if folder]
            if useless:
                self._note("folder_useless", folder=", ".join(useless))
            if self.diagnosis.own_id is None:
                self._note("own_id_unknown")
        if not any(counts.values()):
            self._note("inbox_empty")
        if self._account.platform == "messenger":
            for folder in USUAL_FOLDERS:
                if folder not in counts and self._holds(client, folder):
                    self._note("folder_left_out", folder=folder)
        return True

    def _count(self, client: GraphClient, folder: str) -> int:
        try:
            count = len(client.fetch_conversations("id", 1, folder=folder).rows)
        except ConvoError as error:
            is_of_folder = bool(folder) and not isinstance(
                error, TokenError | ThrottledError | UnreachableError
            )
            if is_of_folder:
                self._note("folder_refused", folder=folder, detail=_brief(error))
            elif name_of(error) not in (finding.name for finding in self.diagnosis.findings):
                self._note_error(error)
            return 0
        self.diagnosis.folders.append(folder)
        return count

    def _holds(self, client: GraphClient, folder: str) -> bool:
        """Whether a folder that was not asked for holds anything; where it is refused, it holds nothing for us."""
        try:
            return bool(client.fetch_conversations("id", 1, folder=folder).rows)
        except ConvoError:
            return False


BROKEN = frozenset({*CODES.values(), "throttled", "unreachable", "answer"})
"""Findings after which the inbox says nothing more."""


def name_of(error: ConvoError) -> str:
    """Return the reason for an error: by its code, else by its class."""
    if isinstance(error, GraphError) and error.fault.code is not None:
        code, subcode = error.fault.code, error.fault.subcode
        found = CODES.get((code, subcode)) or CODES.get((code, None))
        if found:
            return found
    return "token_invalid" if isinstance(error, TokenError) else reason_of(error)


def _brief(error: ConvoError) -> str:
    """Keep an error's reason and numbers."""
    return str(error) if isinstance(error, GraphError) else type(error).__name__


def _wrong_host(account: AccountSettings, host: str, token: str) -> str | None:
    """Say what cannot fit together before any call is made; the token is looked at, never shown."""
    if host == INSTAGRAM_HOST and account.platform == "messenger":
        return f"{host} has no Messenger"
    if host == INSTAGRAM_HOST and token.startswith(FACEBOOK_TOKENS):
        return f"the token is Facebook's, base_url is {host}"
    if host == FACEBOOK_HOST and token.startswith(INSTAGRAM_TOKENS):
        return f"the token is of Instagram Login, base_url is {host}"
    if host == FACEBOOK_HOST and account.page_id == "me":
        return f'page_id = "me" belongs to Instagram Login, base_url is {host}'
    return None


def _covers(facts: Mapping[str, object], page_id: str) -> bool:
    """Whether a Page token is this Page's; true where the answer does not say."""
    granular = facts.get("granular_scopes")
    entries = (
        [entry for entry in granular if isinstance(entry, dict)]
        if isinstance(granular, list)
        else []
    )
    pages = {
        target
        for entry in entries
        if str(entry.get("scope")).startswith("pages_")
        for target in _texts(entry.get("target_ids"))
    }
    pages |= set(_texts([facts.get("profile_id")])) if facts.get("profile_id") else set()
    return not pages or page_id in pages


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _moment(value: object) -> datetime | None:
    """Read unix seconds; 0 means never."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 253_402_300_800:
        return None
    return datetime.fromtimestamp(value, UTC)


STYLES: Mapping[Level, str] = {"problem": "red", "warning": "yellow", "note": "dim"}


def show_check(
    diagnoses: Sequence[Diagnosis], general: Sequence[Finding], form: str, console: Console
) -> None:
    """Print a row an account, then every finding with what to do; or JSON."""
    if form == "json":
        accounts = [{**asdict(each), "is_fine": each.is_fine} for each in diagnoses]
        console.file.write(
            dump_json(
                {"accounts": accounts, "general": [asdict(each) for each in general]}
            ).decode()
            + "\n"
        )
        return
    console.print(_table(diagnoses))
    for finding in [*general, *(finding for each in diagnoses for finding in each.findings)]:
        where = f"{finding.account}: " if finding.account else ""
        console.print(
            f"{where}{finding.sentence}", style=STYLES[finding.level], markup=False, highlight=False
        )
        console.print(f"  → {finding.remedy}", markup=False, highlight=False)


def _table(diagnoses: Sequence[Diagnosis]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("account", overflow="fold", max_width=28)
    for name in ("result", "token", "expires", "own id"):
        table.add_column(name, no_wrap=name != "own id", overflow="fold")
    table.add_column("calls", justify="right")
    for each in diagnoses:
        worst = next(
            (level for level in STYLES if any(found.level == level for found in each.findings)),
            None,
        )
        result = "fine" if each.is_fine else f"{worst}"
        known = (value or "–" for value in (each.token_kind, each.expires, each.own_id))
        style = "" if each.is_fine else STYLES[worst or "problem"]
        table.add_row(each.account, result, *known, str(each.call_count), style=style)
    return table
