"""Check each account's setup with a few API calls; name every problem and its remedy.

The calls use the account's shared rate limit. Nothing is stored and no token is printed.
The texts are in `reasons`.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import Credentials, read_credentials
from convo_pipeline.console.results import counted
from convo_pipeline.console.status import (
    EXPIRES_SOON,
    count_unsure_in,
    differing_clocks,
    read_coverage,
)
from convo_pipeline.errors import (
    AccessDeniedError,
    ConvoError,
    GraphError,
    MissingError,
    ProofError,
    SettingsError,
    StoreError,
    ThrottledError,
    TokenError,
    UnknownFieldError,
    UnreachableError,
    VersionError,
)
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.codes import CODES, find_meaning, is_unspecific_100
from convo_pipeline.graph.rate_limit import CallBudget
from convo_pipeline.graph.responses import read_identity
from convo_pipeline.graph.tokens import TokenFacts, fetch_token_facts
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.sandbox import emulator_if_needed
from convo_pipeline.reasons import ACTIONS, REASONS, Connection, Level, reason_of
from convo_pipeline.settings import FACEBOOK_HOST, INSTAGRAM_HOST, AccountSettings, Settings
from convo_pipeline.state.access import blocked_until, open_limiter
from convo_pipeline.state.records import AccountIdentity, check_identity

MAX_CALLS = 40
ACCOUNTS_IN_FLIGHT = 8
MAX_PARTITIONS = 100_000
"""Dagster advises at most this many partitions per asset."""
INSTAGRAM_TOKENS, FACEBOOK_TOKENS = ("IGAA", "IGQ"), ("EAA",)
MESSENGER_FOLDERS = ("other", "page_done", "spam")
"""Messenger's folders besides the inbox, as working clients name them. Meta documents none."""
SCOPES: Mapping[Connection, tuple[str, ...]] = {
    "messenger": ("pages_messaging", "pages_manage_metadata", "pages_read_engagement"),
    "instagram": ("instagram_basic", "instagram_manage_messages", "pages_manage_metadata"),
    "instagram_login": ("instagram_business_basic", "instagram_business_manage_messages"),
}
"""The permissions each connection needs (Meta's conversations guide, February 2026)."""
INBOX_UNREADABLE = frozenset(
    {"throttled", "unreachable", "answer", "app_secret", "no_role"}
    | {meaning.reason for meaning in CODES.values() if meaning.reason}
)
"""After one of these findings, more calls to the inbox show nothing new."""
CHECKED_REASONS = frozenset(
    {
        "token",
        "app_secret",
        "permission",
        "version",
        "throttled",
        "unreachable",
        "missing",
        "answer",
        "settings",
    }
)
"""Reasons of runs whose cause this check looks for again."""
LEVEL_STYLES: Mapping[Level, str] = {"problem": "red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class SetupFinding:
    """One problem or note about an account ("": about all accounts), and what to do."""

    account: str
    name: str
    level: Level
    sentence: str
    remedy: str


@dataclass
class AccountSetup:
    """What the check found out about one account; it holds no secret."""

    account: str
    platform: str
    findings: list[SetupFinding] = field(default_factory=list)
    token_kind: str | None = None
    expires: str | None = None
    """The date on which the token expires, `never`, or None if unknown."""
    own_id: str | None = None
    folders: list[str] = field(default_factory=list)
    """The configured folders that could be listed."""
    call_count: int = 0

    @property
    def is_fine(self) -> bool:
        return all(finding.level == "note" for finding in self.findings)


def check_accounts(
    settings: Settings, names: Sequence[str], environ: Mapping[str, str], clock: Clock
) -> tuple[list[AccountSetup], list[SetupFinding]]:
    """Check these accounts in parallel; the second list is about the whole configuration."""
    with (
        closing(Store(settings.store, clock)) as store,
        emulator_if_needed(settings, environ) as (reached, tokens),
        ThreadPoolExecutor(ACCOUNTS_IN_FLIGHT, thread_name_prefix="check") as pool,
    ):
        store.state.identities()
        checks = [
            AccountCheck(reached, store, account, tokens, clock)
            for account in reached.accounts
            if account.name in names
        ]
        setups = list(pool.map(AccountCheck.run, checks))
    return setups, list(_check_size(settings, clock.now().date()))


def _check_size(settings: Settings, today: date) -> Iterator[SetupFinding]:
    first = min((account.start_date for account in settings.accounts), default=today)
    count = len(settings.accounts) * ((today - first).days + 1)
    if count > MAX_PARTITIONS:
        yield _make_finding("", "messenger", "many_partitions", {"count": f"{count:,}"})


def _make_finding(
    account: str, connection: Connection, name: str, details: Mapping[str, str]
) -> SetupFinding:
    reason = REASONS[name]
    detail = f" ({details['detail']})" if details.get("detail") else ""
    sentence = reason.describe(details) + detail
    remedy = reason.remedy_for(connection, details=details)
    return SetupFinding(account, name, reason.level, sentence, remedy)


@dataclass
class AccountCheck:
    """Check one account. A step that fails skips the calls that would fail for the same reason."""

    settings: Settings
    store: Store
    account: AccountSettings
    environ: Mapping[str, str]
    clock: Clock

    def __post_init__(self) -> None:
        account = self.account
        self._endpoint = Endpoint.of(self.settings, account)
        self._host = urlsplit(self.settings.base_url(account)).netloc
        is_login = account.page_id == "me" or self._host == INSTAGRAM_HOST
        self._connection: Connection = (
            "instagram_login" if is_login and account.platform == "instagram" else account.platform
        )
        self.setup = AccountSetup(account.name, account.platform)

    def run(self) -> AccountSetup:
        """Return the findings; no ConvoError is raised."""
        try:
            credentials = read_credentials(self.account, self.environ)
        except SettingsError as error:
            self._add("token_missing", detail=str(error))
        else:
            mismatch = _host_mismatch(self.account, self._host, credentials.token)
            key = self._endpoint.limit_key
            until = blocked_until(self.store.state.database, key, self.clock.now())
            if mismatch:
                self._add("wrong_host", detail=mismatch)
            elif until:
                self._add("blocked", until=f"{until:%Y-%m-%d %H:%M} UTC")
            else:
                self._check_api(credentials)
        self._add_last_run()
        self._add_directions()
        return self.setup

    def _add(self, name: str, **details: str) -> None:
        self.setup.findings.append(self._make(name, **details))

    def _make(self, name: str, **details: str) -> SetupFinding:
        known = {"variable": self.account.token_name, "page_id": self.account.page_id, **details}
        known |= {"secret_variable": self.account.app_secret_env or "`app_secret_env`"}
        return _make_finding(self.account.name, self._connection, name, known)

    def _add_error(self, error: ConvoError) -> None:
        self._add(reason_name(error), detail=_describe_error(error))

    @property
    def _names(self) -> set[str]:
        return {finding.name for finding in self.setup.findings}

    def _add_directions(self) -> None:
        """Add that stored messages have no direction."""
        name = self.account.name
        try:
            coverage = read_coverage(self.store, name, self.clock.now().date())
            count = count_unsure_in(self.store, name, coverage)
        except StoreError as error:
            self._add("store", detail=str(error))
            return
        if count:
            self._add("directions_unknown", what=counted(count, "message"))

    def _add_last_run(self) -> None:
        """Add why the account's last run was not complete.

        It is a note if the next run repairs it, or if the calls above no longer show the cause.
        """
        run = self.store.state.last_ended(self.account.name)
        if run is None or run.outcome not in ("incomplete", "failed"):
            if run and (clocks := differing_clocks(run)):
                self._add("clocks_differ", clocks=clocks)
            return
        has_problem = not self.setup.is_fine
        for name in run.reasons:
            is_checked = name in CHECKED_REASONS
            if name not in REASONS or (is_checked and has_problem):
                continue
            finding = self._make(name, detail=(run.error or "").rstrip("."))
            started = f"{run.started_at:%Y-%m-%d %H:%M} UTC"
            sentence = f"last run, {started}, {run.outcome}: {finding.sentence}"
            if is_checked:
                sentence += "; this check does not find it any more"
                finding = replace(finding, level="note", remedy=ACTIONS["command_line"]["again"])
            elif REASONS[name].is_self_healing:
                finding = replace(finding, level="note")
            self.setup.findings.append(replace(finding, sentence=sentence))

    def _check_api(self, credentials: Credentials) -> None:
        rate, key = self.settings.graph.calls_per_second, self._endpoint.limit_key
        budget = CallBudget(MAX_CALLS)
        with (
            closing(open_limiter(self.store.state.database, key, rate, self.clock)) as limiter,
            GraphClient(
                self._endpoint,
                credentials,
                limiter,
                budget=budget,
                clock=self.clock,
                read_credentials=partial(read_credentials, self.account, self.environ),
            ) as client,
        ):
            if self._check_token(client) and self._check_account_id(client):
                self._check_folders(client)
            if client.version and client.version != self._endpoint.version:
                served = client.version[:16]
                self._add("version_changed", asked=self._endpoint.version, served=served)
            self.setup.call_count = sum(client.calls.values())

    def _check_token(self, client: GraphClient) -> bool:
        """Read the token's debug_token; return whether further calls make sense."""
        if self._host == INSTAGRAM_HOST:
            self._add("token_unknown")
            return True
        try:
            facts = fetch_token_facts(client)
        except (TokenError, ThrottledError, UnreachableError, VersionError) as error:
            self._add_error(error)
            return False
        except ConvoError as error:
            is_policy = reason_name(error) == "policy"
            self._add("policy" if is_policy else "token_unknown")
            return not is_policy
        if facts is None:
            self._add("token_unknown")
            return True
        return self._check_token_facts(facts)

    def _check_token_facts(self, facts: TokenFacts) -> bool:
        now, is_login = self.clock.now(), self._connection == "instagram_login"
        expires_at, access_ends_at = facts.expires_at, facts.data_access_ends_at
        self.setup.token_kind = facts.kind
        self.store.state.save_token_ends(self.account.name, facts.ends)
        self.setup.expires = f"{expires_at:%Y-%m-%d}" if expires_at else "never"
        if expires_at and expires_at <= now:
            self._add("token_expired")
            return False
        if facts.is_valid is False:
            self._add("token_invalid")
            return False
        if expires_at and expires_at <= now + EXPIRES_SOON:
            self._add("token_expiring", date=f"{expires_at:%Y-%m-%d}")
        if access_ends_at and access_ends_at <= now + EXPIRES_SOON:
            self._add("data_access_expiring", date=f"{access_ends_at:%Y-%m-%d}")
        if facts.kind and facts.kind != "page" and not is_login:
            self._add("token_kind", kind=facts.kind)
        needed = SCOPES[self._connection]
        missing_scopes = [scope for scope in needed if scope not in facts.scopes]
        if missing_scopes:
            self._add("scope_missing", scopes=", ".join(missing_scopes))
        covered_ids = facts.covered_ids
        if not is_login and covered_ids and self.account.page_id not in covered_ids:
            self._add_other_page(covered_ids)
        return not self._names & {"token_kind", "other_page", "swapped_ids"}

    def _add_other_page(self, covered_ids: Set[str]) -> None:
        """Add that the token is another Page's; name the account whose only Page it is."""
        owners = [other.name for other in self.settings.accounts if covered_ids == {other.page_id}]
        if owners:
            self._add("swapped_ids", other=", ".join(owners))
        else:
            self._add("other_page", detail="it covers " + ", ".join(sorted(covered_ids)[:5]))

    def _check_account_id(self, client: GraphClient) -> bool:
        """Read who the account is. An id that is not a Page's lacks the requested field."""
        is_login = self._connection == "instagram_login"
        is_instagram = self.account.platform == "instagram"
        fields = "instagram_business_account{id,username}" if is_instagram else "category"
        try:
            if is_login:
                self._check_own_id(client.fetch_identity().own_id)
                return True
            body = client.fetch_account(fields).body
        except UnknownFieldError as error:
            if error.field in ("id", "username"):  # a field of the linked account, not of the Page
                self._check_own_id(client.fetch_identity().own_id)
                return True
            self._add("wrong_id_kind")
            return False
        except AccessDeniedError:
            body = {}
        except MissingError as error:
            self._explain_missing(client, error)
            return False
        except ConvoError as error:
            self._add_error(error)
            return False
        facts = body if isinstance(body, dict) else {}
        linked = read_identity(facts.get("instagram_business_account")).own_id
        self._check_own_id(linked if is_instagram else self.account.page_id)
        return True

    def _explain_missing(self, client: GraphClient, error: MissingError) -> None:
        """Add why the account's node is missing: the token can be the one of another account."""
        try:
            body = client.fetch_token_owner().body
        except ConvoError:
            body = {}
        owner_id = str(body.get("id")) if isinstance(body, dict) else ""
        if owner_id in {other.page_id for other in self.settings.accounts}:
            self._add_other_page({owner_id})
        else:
            self._add_error(error)

    def _check_own_id(self, own_id: str | None) -> None:
        """Compare the id that the API returns with what earlier runs stored."""
        self.setup.own_id = own_id
        stored = self.store.state.identity(self.account.name)
        if stored and stored.own_id and stored.own_id_source in ("username", "inferred"):
            self.setup.own_id = stored.own_id
            if own_id not in (None, stored.own_id):
                self._add("own_id_differs", asked=str(own_id), own=stored.own_id)
        account, source = self.account, "asked" if own_id else None
        identity = AccountIdentity(
            account.name, account.page_id, account.platform, own_id, None, source
        )
        try:
            check_identity(identity, self.store.state.identities())
        except StoreError as error:
            self._add("other_inbox", detail=str(error))

    def _check_folders(self, client: GraphClient) -> None:
        """List one conversation of each configured folder and of Messenger's other folders."""
        counts = {folder: self._count(client, folder) for folder in self.account.folders}
        if self._names & INBOX_UNREADABLE:
            return
        if self.account.platform == "instagram":
            unknown_folders = [folder for folder in self.account.folders if folder]
            if unknown_folders:
                self._add("folder_useless", folder=", ".join(unknown_folders))
            if self.setup.own_id is None:
                self._add("own_id_unknown")
        if not any(counts.values()):
            self._add("inbox_empty")
        if self.account.platform == "messenger":
            for folder in MESSENGER_FOLDERS:
                if folder not in counts and _has_conversations(client, folder):
                    self._add("folder_left_out", folder=folder)

    def _count(self, client: GraphClient, folder: str) -> int:
        try:
            count = len(client.fetch_conversations("id", 1, folder=folder).rows)
        except (TokenError, ThrottledError, UnreachableError) as error:
            self._add_once(error)
            return 0
        except ConvoError as error:
            if folder:
                self._add("folder_refused", folder=folder, detail=_describe_error(error))
            elif self._has_no_role(error):
                self._add("no_role", detail=_describe_error(error))
            else:
                self._add_once(error)
            return 0
        self.setup.folders.append(folder)
        return count

    def _has_no_role(self, error: ConvoError) -> bool:
        """Whether Instagram Login refuses every call with 100 and no subcode.

        So it refuses an account without a role on the app, and a tester who did not accept.
        """
        is_refused = self._connection == "instagram_login" and self.setup.own_id is None
        return is_refused and isinstance(error, GraphError) and is_unspecific_100(error)

    def _add_once(self, error: ConvoError) -> None:
        if reason_name(error) not in self._names:
            self._add_error(error)


def _has_conversations(client: GraphClient, folder: str) -> bool:
    """Whether a folder that is not configured can be read and is not empty."""
    try:
        return bool(client.fetch_conversations("id", 1, folder=folder).rows)
    except ConvoError:
        return False


def reason_name(error: ConvoError) -> str:
    """Return the reason for an error: by its code, else by its class."""
    if isinstance(error, GraphError):
        meaning = find_meaning(error.fault.code, error.fault.subcode)
        if meaning and meaning.reason:
            return meaning.reason
    is_token = isinstance(error, TokenError) and not isinstance(error, ProofError)
    return "token_invalid" if is_token else reason_of(error)


def _describe_error(error: ConvoError) -> str:
    return str(error) if isinstance(error, GraphError) else type(error).__name__


def _host_mismatch(account: AccountSettings, host: str, token: str) -> str | None:
    """Say which of host, platform, page_id and token do not fit together, without any call."""
    if host == INSTAGRAM_HOST and account.platform == "messenger":
        return f"{host} has no Messenger"
    if host == INSTAGRAM_HOST and token.startswith(FACEBOOK_TOKENS):
        return f"the token is a Facebook token, base_url is {host}"
    if host == FACEBOOK_HOST and token.startswith(INSTAGRAM_TOKENS):
        return f"the token is an Instagram Login token, base_url is {host}"
    if host == FACEBOOK_HOST and account.page_id == "me":
        return f'page_id = "me" belongs to Instagram Login, base_url is {host}'
    return None


def describe_check(
    setups: Sequence[AccountSetup], general: Sequence[SetupFinding]
) -> dict[str, object]:
    """Return the findings as a JSON document."""
    accounts = [{**asdict(setup), "is_fine": setup.is_fine} for setup in setups]
    return {"accounts": accounts, "general": [asdict(each) for each in general]}


def show_check(
    setups: Sequence[AccountSetup], general: Sequence[SetupFinding], console: Console
) -> None:
    """Print one row per account, then each finding with its remedy."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("account", overflow="fold", max_width=28)
    for name in ("result", "token", "expires", "own id"):
        table.add_column(name, no_wrap=name != "own id", overflow="fold")
    table.add_column("calls", justify="right")
    for setup in setups:
        levels = [level for level in LEVEL_STYLES if level in {f.level for f in setup.findings}]
        result = "fine" if setup.is_fine else levels[0]
        known = (value or "–" for value in (setup.token_kind, setup.expires, setup.own_id))
        style = "" if setup.is_fine else LEVEL_STYLES[levels[0]]
        table.add_row(setup.account, result, *known, str(setup.call_count), style=style)
    console.print(table)
    for finding in [*general, *(finding for setup in setups for finding in setup.findings)]:
        account = f"{finding.account}: " if finding.account else ""
        style = LEVEL_STYLES[finding.level]
        text = f"{account}{finding.sentence}"
        console.print(text, style=style, markup=False, highlight=False)
        console.print(f"  → {finding.remedy}", markup=False, highlight=False)
