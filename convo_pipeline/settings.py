"""Read and validate `convo.toml`; an error names every wrong key with its line.

Settings contain no secret, only the names of the environment variables that `base.secrets` reads.
"""

import ipaddress
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import available_timezones

from croniter import croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from convo_pipeline.errors import SettingsError

EMULATOR = "emulator"
"""As `base_url` it starts the built-in emulator, which needs no token."""
CONFIG_VARIABLE = "CONVO_CONFIG"
CONFIG_FILE = "convo.toml"
FIRST_START_DATE = date(2010, 1, 1)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY, _CLOCK = "|".join(WEEKDAYS), r"\d\d:[0-5]\d"
_BUSINESS_HOURS = re.compile(
    rf"(?P<first>{_DAY})(-(?P<last>{_DAY}))? (?P<opens>{_CLOCK})-(?P<closes>{_CLOCK})"
)
CRON_WORDS = frozenset({
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    "sun", "mon", "tue", "wed", "thu", "fri", "sat", "l",
})  # fmt: skip
"""Month and weekday names, and `l` for the last day: all croniter versions read them alike."""
MOST_ERRORS = 20
"""Errors of a file that one text names."""
MOST_DAYS = 366_000
"""Largest number of days to keep rows: a thousand years, within the range of dates."""
MOST_GAP_HOURS = 8760
MOST_PRESENCE_MINUTES = 7 * 24 * 60
_TOKEN_SHAPE = r"(?:EAA|IGAA|IGQ)(?=[A-Z0-9_-]*[a-z])[A-Za-z0-9_-]{16,}"  # noqa: S105
"""Meta's access tokens; a name of a variable that begins alike has no lower-case letter."""
_SECRET_SHAPE = re.compile(
    rf"{_TOKEN_SHAPE}|[0-9a-f]{{32,}}|(?=\w*[a-z])(?=\w*[A-Z])(?=\w*[0-9])\w{{20,}}|\S{{129,}}"
)
"""What looks like a token or an app secret: it is refused as a name and not shown."""
FACEBOOK_HOST, INSTAGRAM_HOST = "graph.facebook.com", "graph.instagram.com"
"""Meta's hosts; the second one is for Instagram Login."""
_SCHEMES = ("s3://", "gs://", "az://")
_BUCKET_URL = re.compile(
    r"(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=-]+)*/?"
)
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_VERSION = re.compile(r"v\d{1,3}\.\d")
_VERSION_IN_PATH = re.compile(rf"(?:^|/)({_VERSION.pattern})(?:/|$)", re.IGNORECASE)


def is_bucket(root: str) -> bool:
    """Return whether a root is in an object store, not a local folder."""
    return root.startswith(_SCHEMES)


def split_address(url: str) -> SplitResult:
    """Split an http or https address; ValueError if no connection to it is possible.

    The text of the error contains nothing of the address: it may hold a secret.

    >>> split_address("https://example.org:99999")
    Traceback (most recent call last):
    ValueError: has an impossible port: use 1 to 65535
    """
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname or "", parts.scheme
        if "[" in parts.netloc:
            ipaddress.IPv6Address(host.partition("%")[0])
            host = "ipv6"
    except ValueError:
        host, scheme = "", ""
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(' \\"<>`{}|^')
    if scheme not in ("http", "https") or not is_plain or not _HOST_NAME.fullmatch(host):
        raise ValueError('must be an https address such as "https://example.org"')
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has an impossible port: use 1 to 65535")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or a password")
    return parts


def _check_base_url(url: str) -> str:
    if url == EMULATOR:
        return url
    version = _VERSION_IN_PATH.search(_check_address(url).partition("://")[2].partition("/")[2])
    if version:
        raise ValueError(
            f'must not contain a version: remove it here and write version = "{version[1].lower()}"'
        )
    return url.rstrip("/")


def _check_address(url: str) -> str:
    parts = split_address(url)
    if "?" in url or "#" in url:
        raise ValueError("must not contain a query or fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("must be an https address; plain http is allowed on loopback only")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host name or an IP address is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def next_time(cron: str, after: datetime) -> datetime:
    """Return the first time of a cron expression later than `after`; ValueError if it has none.

    >>> next_time("15 0 * * *", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)).isoformat()
    '2026-11-23T00:15:00+00:00'
    """
    found: datetime = croniter(cron, after, ret_type=datetime).get_next()
    return found


def _check_cron(cron: str) -> str:
    """Accept what this croniter and the older one in Dagster read alike."""
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", cron)}
    try:
        is_good = len(cron.split()) == 5 and words <= CRON_WORDS
        next_time(cron, datetime.now(UTC))
    except (ValueError, KeyError):
        is_good = False
    if not is_good:
        raise ValueError('must be five cron fields in UTC, such as "15 0 * * *"')
    return cron


def _matching(pattern: str, problem: str) -> AfterValidator:
    """Accept a text that matches the whole pattern; else raise ValueError with `problem`."""
    expression = re.compile(pattern)

    def check(value: str) -> str:
        if not expression.fullmatch(value):
            raise ValueError(problem)
        return value

    return AfterValidator(check)


def _check_variable_name(value: str) -> str:
    """Refuse a secret in the place of its variable's name; the error does not show it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or _SECRET_SHAPE.fullmatch(value):
        raise ValueError(
            'must be the name of an environment variable, such as "PAGE_TOKEN"; export the secret'
            " in that variable, and never write it into this file"
        )
    return value


def _check_absolute(path: str) -> str:
    """Refuse a relative path: it would depend on the current folder."""
    if not os.path.isabs(path) or _SECRET_SHAPE.fullmatch(path):
        raise ValueError("must be an absolute path such as /run/secrets/page_token")
    return path


def check_state_url(url: str) -> str:
    """Refuse what is no address of PostgreSQL; the error shows nothing of it."""
    if url and not re.fullmatch(r"postgresql(\+psycopg)?://[\x21-\x7e]+", url):
        raise ValueError(
            'must be an address such as "postgresql+psycopg://user@host:5432/database"; empty:'
            " SQLite"
        )
    return url


def _check_variable_or_file(name: str) -> str:
    return name if os.path.isabs(name) else _check_variable_name(name)


BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
Version = Annotated[str, _matching(_VERSION.pattern, 'must be a version such as "v26.0"')]
VariableName = Annotated[str, AfterValidator(_check_variable_name)]
AccountName = Annotated[
    str,
    _matching(
        r"[a-z][a-z0-9_-]{0,62}",
        'must begin with a lower-case letter, then letters, digits, "_" or "-", at most 63',
    ),
]
PageId = Annotated[
    str, _matching(r"me|[0-9]{1,32}", 'must be the digits of the Page\'s id in quotes, or "me"')
]
KeyPart = Annotated[
    str, _matching(r"[A-Za-z0-9_.-]{1,100}", 'must be letters, digits, "_", "-" or "."')
]
FunctionName = Annotated[
    str,
    _matching(
        r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*",
        'must be a module and a function, such as "shop.inbox:translate"',
    ),
]
TagName = Annotated[
    str, _matching(r"[A-Za-z0-9_.-]{1,63}", 'must be 1 to 63 letters, digits, "_", "-" or "."')
]
Owner = Annotated[
    str,
    _matching(
        r"team:[A-Za-z0-9_]{1,63}|[A-Za-z0-9.+_-]{1,64}@[A-Za-z0-9.-]{1,190}\.[A-Za-z]{2,}",
        'must be "team:" and a name, or an e-mail address',
    ),
]
EmailAddress = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}",
        'must be an e-mail address such as "ops@example.org"',
    ),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GraphSettings(_Section):
    """`[graph]`: how to reach the Graph API."""

    base_url: BaseUrl = f"https://{FACEBOOK_HOST}"
    version: Version = "v26.0"
    calls_per_second: float = Field(default=1.8, ge=0.001, le=10_000)
    calls_per_run: int = Field(default=20_000, ge=1, le=1_000_000_000)
    timeout_seconds: float = Field(default=60, ge=0.01, le=600)
    token_in: Literal["header", "query"] = "header"  # noqa: S105


STATE_NEEDS_BUCKET = (
    "a state in PostgreSQL is for tables in a bucket: set root to s3://bucket/prefix, or remove the"
    " state_url"
)
"""Many machines write one bucket. Queries of a local folder read its compactions in `state.db`."""


class StoreSettings(_Section):
    """`[store]`: where the tables and the state are stored. `~` is the user's home folder."""

    root: Annotated[str, AfterValidator(os.path.expanduser)] = "data"
    state_dir: Annotated[str, AfterValidator(os.path.expanduser)] = ""
    state_url: SecretStr = SecretStr("")
    state_url_env: VariableName | None = None
    state_url_file: Annotated[str, AfterValidator(_check_absolute)] | None = None
    endpoint_url: str = ""

    @field_validator("state_url")
    @classmethod
    def _check_state_url(cls, value: SecretStr) -> SecretStr:
        check_state_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _check_state_names(self) -> Self:
        given = (self.state_url.get_secret_value(), self.state_url_env, self.state_url_file)
        if sum(map(bool, given)) > 1:
            raise ValueError("set one of state_url, state_url_env and state_url_file")
        if any(given) and not self.is_remote:
            raise ValueError(STATE_NEEDS_BUCKET)
        return self

    @model_validator(mode="after")
    def _check_remote(self) -> Self:
        if not (self.root and self.root.isprintable() and self.state_dir.isprintable()):
            raise ValueError("root and state_dir must be names of folders")
        if self.is_remote and not self.state_dir:
            raise ValueError("state_dir is required for a bucket: name a local folder")
        if "://" in self.root and not _BUCKET_URL.fullmatch(self.root):
            raise ValueError(
                "root must be a local folder, or s3://bucket/prefix, gs://bucket/prefix or"
                " az://container/prefix"
            )
        if self.endpoint_url:
            try:
                parts = split_address(self.endpoint_url)
            except ValueError as error:
                raise ValueError(f"endpoint_url {error}") from None
            if parts.path not in ("", "/") or "?" in self.endpoint_url or "#" in self.endpoint_url:
                raise ValueError("endpoint_url must not contain a path, query or fragment")
        return self

    @property
    def is_remote(self) -> bool:
        return is_bucket(self.root)

    @property
    def state_path(self) -> Path:
        """Local folder of `state.db`, locks, the spool and `forget.key`."""
        return Path(self.state_dir) if self.state_dir else Path(self.root) / ".state"


class ScheduleSettings(_Section):
    """`[schedule]`: when Dagster runs each job, in UTC."""

    nightly: Annotated[str, AfterValidator(_check_cron)] = "15 0 * * *"
    sweep: Annotated[str, AfterValidator(_check_cron)] = "30 1 * * 0"
    upkeep: Annotated[str, AfterValidator(_check_cron)] = "30 3 * * *"
    capture_minutes: int = Field(default=15, ge=0, le=720)
    recheck_days: int = Field(default=2, ge=0, le=30)
    accounts_per_run: int = Field(default=0, ge=0, le=1_000_000)
    """Largest number of accounts in one scheduled run. 0: one run has all accounts."""

    @property
    def capture(self) -> str | None:
        """Cron expression of the captures, in whole hours from 60 minutes on; None: no captures.

        >>> ScheduleSettings().capture, ScheduleSettings(capture_minutes=90).capture
        ('*/15 * * * *', '0 */1 * * *')
        """
        minutes = self.capture_minutes
        if minutes == 0:
            return None
        return f"*/{minutes} * * * *" if minutes < 60 else f"0 */{minutes // 60} * * *"


class RetentionSettings(_Section):
    """`[retention]`: how to treat unsent messages; every other key is a table's days to keep."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, StrictInt] = Field(init=False)
    on_deleted: Literal["redact", "keep", "drop"] = "redact"
    most_unsent_at_once: int = Field(default=100, ge=1, le=1_000_000_000)

    @property
    def limits(self) -> dict[str, int]:
        """Days per table; a table without a limit is kept as long as its source."""
        limits = self.__pydantic_extra__
        if not limits:
            return {}
        from convo_pipeline.schema import current_name  # PyArrow loads slowly

        return {current_name(name): days for name, days in limits.items()}

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if not self.limits:
            return self
        from convo_pipeline.schema import COVERAGE, LEDGER, NORMALISED, RAW, TABLES

        limits, tables = self.limits, [*TABLES, *(table.name for table in LEDGER)]
        for name, days in limits.items():
            if name not in tables:
                raise ValueError(
                    f"there is no table {_shown(name)!r}{_did_you_mean(name, tables)}; the tables"
                    f" are: {', '.join(tables)}"
                )
            if not 1 <= days <= MOST_DAYS:
                raise ValueError(f"{name} must be kept for 1 to {MOST_DAYS:,} days")
        raw_days = min((limits[table.name] for table in RAW if table.name in limits), default=None)
        coverage_days = limits.get(COVERAGE.name, raw_days)
        if coverage_days is not None:
            for table in NORMALISED:
                days_kept = limits.get(table.name, raw_days)
                if days_kept is None or days_kept > coverage_days:
                    raise ValueError(
                        "coverage must be kept at least as long as every table that it counts"
                    )
        return self


class AlertsSettings(_Section):
    """`[alerts]`: where to report failed runs; off by default."""

    webhook_env: VariableName | None = None
    smtp_env: VariableName | None = None
    email_to: tuple[EmailAddress, ...] = Field(default=(), strict=False)
    email_from: EmailAddress | None = None

    @model_validator(mode="after")
    def _check_email(self) -> Self:
        if bool(self.email_to) != bool(self.smtp_env):
            raise ValueError("smtp_env and email_to are needed together")
        return self


class DagsterSettings(_Section):
    """`[dagster]`: names in the code location that mounts the pipeline."""

    key_prefix: tuple[KeyPart, ...] = Field(default=(), strict=False)
    """Put before every asset key. The command line records its runs under the same keys."""
    translation: FunctionName | None = None
    """Function that changes single assets, also for runs that the command line records."""
    owners: tuple[Owner, ...] = Field(default=(), strict=False)
    pii_tag: TagName = "pii"
    """Tag of the assets that hold personal data."""


class ExportSettings(_Section):
    """`[export]`: the secret from which exports derive the codes of people."""

    secret_env: VariableName | None = None


class DeletionSettings(_Section):
    """`[deletion]`: Meta's data deletion callback."""

    app_secret_env: VariableName | None = None
    status_url: Annotated[str, AfterValidator(_check_address)] | None = None


class MetricsSettings(_Section):
    """`[metrics]`: definitions that differ between businesses."""

    session_gap_hours: float = Field(default=24, gt=0, le=MOST_GAP_HOURS)
    automated_reply_seconds: float = Field(default=5, ge=0, le=3600)
    """A reply within this time can be automated. 0: no reply counts as automated."""
    presence_minutes: float = Field(default=60, ge=0, le=MOST_PRESENCE_MINUTES)
    """After a message of a person, no reply counts as automated for this time."""


class AccountMetricsSettings(_Section):
    """`metrics` of an account: its own values of `[metrics]`."""

    session_gap_hours: float | None = Field(default=None, gt=0, le=MOST_GAP_HOURS)
    automated_reply_seconds: float | None = Field(default=None, ge=0, le=3600)
    presence_minutes: float | None = Field(default=None, ge=0, le=MOST_PRESENCE_MINUTES)


class AccountSettings(_Section):
    """`[[accounts]]`: one inbox, of a Page on Messenger or of an Instagram account."""

    name: AccountName
    page_id: PageId
    platform: Literal["instagram", "messenger"]
    token_env: VariableName | None = None
    token_file: Annotated[str, AfterValidator(_check_absolute)] | None = None
    token_from: Annotated[str, AfterValidator(_check_variable_or_file)] | None = None
    app_secret_env: VariableName | None = None
    start_date: date
    folders: tuple[str, ...] = Field(default=("",), strict=False)
    timezone: str = "UTC"
    business_hours: str | None = None
    metrics: AccountMetricsSettings = AccountMetricsSettings()
    base_url: BaseUrl | None = None
    version: Version | None = None

    @property
    def token_name(self) -> str:
        """The variable or the absolute path of the file that holds the token."""
        return self.token_env or self.token_file or self.token_from or ""

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        names = ("token_env", "token_file", "token_from")
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(
                "set exactly one of token_env (a variable with the token), token_file (a file with"
                " it) and token_from (a variable or file with a user's token)"
            )
        if self.token_from and self.page_id == "me":
            raise ValueError("token_from needs the Page's id as page_id")
        return self

    @field_validator("start_date", mode="before")
    @classmethod
    def _check_start_date(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = date.fromisoformat(value)
            except ValueError:
                raise ValueError('must be a date such as "2026-01-01"') from None
        if isinstance(value, datetime) or not isinstance(value, date):
            raise ValueError('must be a date such as "2026-01-01"')
        if value < FIRST_START_DATE:
            raise ValueError(f"must not be before {FIRST_START_DATE}")
        if value > datetime.now(UTC).date():
            raise ValueError("must not be in the future")
        return value

    @field_validator("folders")
    @classmethod
    def _check_folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError('must name each folder once; [""] is the default listing')
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        if value not in _time_zones():
            guess = _did_you_mean(value, _time_zones())
            raise ValueError(f'must be a time zone name such as "Europe/Berlin"{guess}')
        return value

    @field_validator("business_hours")
    @classmethod
    def _check_business_hours(cls, value: str | None) -> str | None:
        if value is not None:
            parse_business_hours(value)
        return value


@cache
def _time_zones() -> frozenset[str]:
    """Return the names that DuckDB and Arrow know too."""
    return frozenset(available_timezones()) - {"localtime", "Factory"}


def parse_business_hours(text: str) -> tuple[int, int, list[int]]:
    """Return opening and closing seconds of the day, and the weekdays from Monday 0.

    >>> parse_business_hours("Fri-Mon 09:00-18:30")
    (32400, 66600, [4, 5, 6, 0])
    """
    match = _BUSINESS_HOURS.fullmatch(text)
    if not match or not match["opens"] < match["closes"] <= "24:00":
        raise ValueError('must be written like "Mon-Fri 09:00-18:00"')
    first = WEEKDAYS.index(match["first"])
    day_count = (WEEKDAYS.index(match["last"] or match["first"]) - first) % 7 + 1
    opens, closes = (
        int(clock[:2]) * 3600 + int(clock[3:]) * 60 for clock in match.group("opens", "closes")
    )
    return opens, closes, [(first + day) % 7 for day in range(day_count)]


class Settings(_Section):
    """The whole configuration."""

    graph: GraphSettings = GraphSettings()
    store: StoreSettings = StoreSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertsSettings = AlertsSettings()
    dagster: DagsterSettings = DagsterSettings()
    export: ExportSettings = ExportSettings()
    deletion: DeletionSettings = DeletionSettings()
    retention: RetentionSettings = RetentionSettings()
    accounts: tuple[AccountSettings, ...] = Field(default=(), strict=False)
    _by_name: tuple[tuple[AccountSettings, ...], dict[str, AccountSettings]] = PrivateAttr(
        default_factory=lambda: ((), {})
    )
    """The accounts by name, and the tuple from which they come: a copy may have other accounts."""

    @model_validator(mode="after")
    def _check_accounts(self) -> Self:
        """Refuse a name used twice, and one inbox under two names: it would be read twice."""
        counts = Counter(account.name for account in self.accounts)
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f'accounts: the name "{name}" is used twice')
        owners: dict[tuple[str, ...], str] = {}
        for account in self.accounts:
            owner = account.token_name if account.page_id == "me" else ""
            inbox = (self.base_url(account), account.platform, account.page_id, owner)
            other = owners.setdefault(inbox, account.name)
            if other != account.name:
                what = "token" if owner else "page_id"
                raise ValueError(
                    f'accounts: "{other}" and "{account.name}" are the same inbox ({what} and'
                    " platform are equal): remove one block"
                )
        return self

    def account(self, name: str) -> AccountSettings:
        """Return the account with this name; SettingsError lists the configured names."""
        accounts, by_name = self._by_name
        if accounts is not self.accounts:
            by_name = {account.name: account for account in self.accounts}
            self._by_name = self.accounts, by_name
        if name in by_name:
            return by_name[name]
        known = ", ".join(account.name for account in self.accounts) or "none"
        raise SettingsError(f'unknown account "{name}"; the configuration has: {known}')

    def describe(self, account: AccountSettings) -> dict[str, object]:
        """Return what a reader of the tables needs to know of an account, without secrets."""
        names = {"platform", "page_id", "timezone", "business_hours", "start_date"}
        metrics = self.metrics_of(account.name).model_dump(mode="json")
        return account.model_dump(mode="json", include=names) | {"metrics": metrics}

    def metrics_of(self, name: str) -> MetricsSettings:
        """Return `[metrics]` with the values of one account; an unknown account has none."""
        own = [each.metrics for each in self.accounts if each.name == name]
        changes = own[0].model_dump(exclude_none=True) if own else {}
        return self.metrics.model_copy(update=changes)

    def base_url(self, account: AccountSettings) -> str:
        return account.base_url or self.graph.base_url

    def version(self, account: AccountSettings) -> str:
        return account.version or self.graph.version


def find_settings_file(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return the path of the configuration: `path`, else $CONVO_CONFIG, else ./convo.toml."""
    return Path(path or environ.get(CONFIG_VARIABLE) or CONFIG_FILE)


def read_settings(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Read and validate the configuration; SettingsError names each wrong key."""
    file = find_settings_file(path, environ)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            f"no configuration: {file} does not exist; write one by `convo-pipeline init`, or name"
            f" another file by --config or {CONFIG_VARIABLE}"
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    return parse_settings(content, str(file))


def parse_settings(content: bytes, source: str = CONFIG_FILE) -> Settings:
    """Validate the content of a configuration file.

    >>> parse_settings(b'[graph]\\nversoin = "v26.0"')
    Traceback (most recent call last):
    convo_pipeline.errors.SettingsError: convo.toml, line 2: graph.versoin: unknown key; did you \
mean "version"?
    """
    try:
        text = content.decode("utf-8")
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{source} is not valid TOML: {_reason_of(error)}") from None
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    lines = dict(_find_lines(text))
    placed = sorted(
        (_line_of(each["loc"], lines), f"{_describe(dict(each), document)}") for each in found
    )
    texts = [f"line {line}: {text}" if line else text for line, text in placed[:MOST_ERRORS]]
    if len(placed) == 1:
        raise SettingsError(f"{source}{', ' if placed[0][0] else ': '}{texts[0]}")
    if len(placed) > MOST_ERRORS:
        texts.append(f"and {len(placed) - MOST_ERRORS:,} more")
    raise SettingsError("\n  ".join([f"{source}: {len(placed):,} errors", *texts]))


def read_valid_sections(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Return `[store]`, `[schedule]` and `[alerts]` of a wrong configuration, as far as valid.

    There are no accounts. So a wrong key elsewhere stops no alert.
    """
    settings = Settings()
    with suppress(OSError, ValueError, RecursionError):
        document = tomllib.loads(find_settings_file(path, environ).read_text("utf-8"))
        for name in ("store", "schedule", "alerts"):
            with suppress(ValidationError):
                section = Settings.model_validate({name: document.get(name, {})})
                settings = settings.model_copy(update={name: getattr(section, name)})
    return settings


def _reason_of(error: Exception) -> str:
    """Return why a file is no TOML, without its text."""
    if isinstance(error, tomllib.TOMLDecodeError):
        return re.sub(r"'(?:[^'\\]|\\.){2,}'", "a text", str(error))
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "it is nested too deep"


Location = tuple[int | str, ...]
_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_-]+)\s*\]")
_KEY = re.compile(r"\s*(?:([A-Za-z0-9_-]+)|\"([^\"]*)\"|'([^']*)')\s*=")


def _find_lines(text: str) -> Iterator[tuple[Location, int]]:
    """Yield the line number of each section and of each key that stands on a line of its own."""
    section: Location = ()
    counts: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            name = header[2]
            section = (name, counts[name]) if header[1] == "[[" else (name,)
            counts[name] += 1
            yield section, number
        elif key := _KEY.match(line):
            yield (*section, key[1] or key[2] or key[3] or ""), number


def _line_of(location: Location, lines: Mapping[Location, int]) -> int:
    """Return the line of a key, else that of its section, else 0."""
    starts = (location[:length] for length in range(len(location), 0, -1))
    return next((lines[start] for start in starts if start in lines), 0)


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is required",
    "literal_error": lambda context: "must be " + str(context["expected"]).replace("'", '"'),
    "greater_than": lambda context: f"must be greater than {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:,}",
    "less_than_equal": lambda context: f"must be at most {context['le']:,}",
    "finite_number": lambda _: "must be a finite number",
    "int_type": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "string_type": lambda _: "must be a text in quotes",
    "tuple_type": lambda _: "must be a list in brackets",
    "model_type": lambda _: "must be a section in brackets",
}
"""Our words for the kinds of errors of pydantic."""


def _describe(error: Mapping[str, Any], document: Mapping[str, object]) -> str:
    location: Location = error["loc"]
    sentence = _SENTENCES.get(error["type"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key{_did_you_mean(str(location[-1]), _known_keys(location))}"
    elif sentence:
        message = sentence(error.get("ctx", {}))
    key = _key_name(location, document)
    return f"{key}: {message}" if key else message


def _known_keys(location: Location) -> list[str]:
    """Return the keys that the section of a location can have."""
    if len(location) == 1:
        return list(Settings.model_fields)
    if location[0] == "accounts":
        return list(AccountSettings.model_fields)
    return list(type(getattr(Settings(), str(location[0]))).model_fields)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    by_lower_case = {name.lower(): name for name in known}
    for guess in get_close_matches(word.lower()[:100], by_lower_case, n=1):
        return f'; did you mean "{by_lower_case[guess]}"?'
    return ""


def _shown(text: str) -> str:
    """Return a short printable text; a secret in the place of a name is not shown.

    >>> _shown("bakery"), _shown("EAAwrong4ZCpsBAKZA1"), _shown("a\\nb")
    ('bakery', '***', 'a?b')
    """
    if _SECRET_SHAPE.search(text):
        return "***"
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= 64 else shown[:63] + "…"


def _key_name(location: Location, document: Mapping[str, object]) -> str:
    """Return the key as in the file, such as `accounts[2] "bakery".page_id`."""
    parts: list[str] = []
    for index, part in enumerate(location):
        if isinstance(part, int) and index == 1 and location[0] == "accounts":
            entries = document["accounts"]
            entry = entries[part] if isinstance(entries, list) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            parts[-1] += f"[{part + 1}]" + (f' "{_shown(name)}"' if isinstance(name, str) else "")
        elif isinstance(part, int):
            parts[-1] += f"[{part + 1}]"
        else:
            parts.append(_shown(part))
    return ".".join(parts)
