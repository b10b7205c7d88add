"""Read and validate `convo.toml`; an error is one line that names the wrong key.

Settings contain no secret, only the names of the environment variables that `base.secrets` reads.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from croniter import croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from convo_pipeline.errors import SettingsError
from convo_pipeline.schema import COVERAGE, LEDGER, NORMALISED, RAW, TABLES

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
_BUCKET_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=-]+)*/?")
_ENDPOINT_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/?")


def _check_base_url(url: str) -> str:
    return url if url == EMULATOR else _check_address(url).rstrip("/")


def _check_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('must be an https address such as "https://example.org"')
    if parts.username or parts.query or parts.fragment:
        raise ValueError("must not contain a user name, query or fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("must be an https address; plain http is allowed on loopback only")
    return url


def _is_loopback(host: str) -> bool:
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


BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
Version = Annotated[str, Field(pattern=r"^v\d{1,3}\.\d$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AccountName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GraphSettings(_Section):
    """`[graph]`: how to reach the Graph API."""

    base_url: BaseUrl = "https://graph.facebook.com"
    version: Version = "v26.0"
    calls_per_second: float = Field(default=1.8, gt=0, le=10_000)
    calls_per_run: int = Field(default=20_000, ge=1)
    timeout_seconds: float = Field(default=60, gt=0, le=600)
    token_in: Literal["header", "query"] = "header"  # noqa: S105


class StoreSettings(_Section):
    """`[store]`: where the tables and the state are stored."""

    root: str = "data"
    state_dir: str = ""
    endpoint_url: str = ""

    @model_validator(mode="after")
    def _check_remote(self) -> Self:
        if self.is_remote and not self.state_dir:
            raise ValueError("state_dir is required for a bucket: name a local folder")
        if "://" in self.root and not _BUCKET_URL.fullmatch(self.root):
            raise ValueError("root must be a local folder or s3://bucket/prefix")
        if self.endpoint_url and not _ENDPOINT_URL.fullmatch(self.endpoint_url):
            raise ValueError(
                'endpoint_url must be an address such as "https://s3.example.org", without a user'
                " name or path"
            )
        return self

    @property
    def is_remote(self) -> bool:
        return self.root.startswith("s3://")

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
    most_unsent_at_once: int = Field(default=100, ge=1)

    @property
    def limits(self) -> dict[str, int]:
        """Days per table; a table without a limit is kept as long as its source."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        limits, tables = self.limits, [*TABLES, *(table.name for table in LEDGER)]
        for name, days in limits.items():
            if name not in tables:
                raise ValueError(f"there is no table {name!r}; the tables are: {', '.join(tables)}")
            if days < 1:
                raise ValueError(f"{name} must be kept for at least one day")
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


class ExportSettings(_Section):
    """`[export]`: the secret from which exports derive the codes of people."""

    secret_env: VariableName | None = None


class DeletionSettings(_Section):
    """`[deletion]`: Meta's data deletion callback."""

    app_secret_env: VariableName | None = None
    status_url: Annotated[str, AfterValidator(_check_address)] | None = None


class MetricsSettings(_Section):
    """`[metrics]`: definitions that differ between businesses."""

    session_gap_hours: float = Field(default=24, gt=0)


class AccountSettings(_Section):
    """`[[accounts]]`: one inbox, of a Page on Messenger or of an Instagram account."""

    name: AccountName
    page_id: str = Field(pattern=r"^(me|\d{1,32})$")
    platform: Literal["instagram", "messenger"]
    token_env: VariableName
    app_secret_env: VariableName | None = None
    start_date: date
    folders: tuple[str, ...] = ("",)
    timezone: str = "UTC"
    business_hours: str | None = None
    base_url: BaseUrl | None = None
    version: Version | None = None

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
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError('must be a time zone name such as "Europe/Berlin"') from None
        return value

    @field_validator("business_hours")
    @classmethod
    def _check_business_hours(cls, value: str | None) -> str | None:
        if value is not None:
            parse_business_hours(value)
        return value


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
    export: ExportSettings = ExportSettings()
    deletion: DeletionSettings = DeletionSettings()
    retention: RetentionSettings = RetentionSettings()
    accounts: tuple[AccountSettings, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [account.name for account in self.accounts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'accounts: the name "{name}" is used twice')
        return self

    def account(self, name: str) -> AccountSettings:
        """Return the account with this name; SettingsError lists the configured names."""
        for account in self.accounts:
            if account.name == name:
                return account
        known = ", ".join(account.name for account in self.accounts) or "none"
        raise SettingsError(f'unknown account "{name}"; the configuration has: {known}')

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
    """Read and validate the configuration; SettingsError names the first wrong key."""
    file = find_settings_file(path, environ)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise SettingsError(
            f"no configuration: {file} does not exist; create it, or name another file by --config"
            f" or {CONFIG_VARIABLE}"
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    return parse_settings(content, str(file))


def parse_settings(content: bytes, source: str = CONFIG_FILE) -> Settings:
    """Validate the content of a configuration file.

    >>> parse_settings(b'[graph]\\nspeed = 3')
    Traceback (most recent call last):
    convo_pipeline.errors.SettingsError: convo.toml: graph.speed: unknown key
    """
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{source} is not valid TOML: {error}") from None
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(f"{source}: {_describe(dict(first), document)}") from None


def _describe(error: dict[str, object], document: dict[str, object]) -> str:
    location = error["loc"]
    assert isinstance(location, tuple)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "unknown key"
    key = _key_name(location, document)
    return f"{key}: {message}" if key else message


def _key_name(location: tuple[object, ...], document: dict[str, object]) -> str:
    """Return the key as in the file, such as `accounts[2] "bakery".page_id`."""
    parts: list[str] = []
    for index, part in enumerate(location):
        if isinstance(part, int) and index == 1 and location[0] == "accounts":
            entries = document["accounts"]
            entry = entries[part] if isinstance(entries, list) else None
            name = entry.get("name") if isinstance(entry, dict) else None
            parts[-1] += f"[{part + 1}]" + (f' "{name}"' if isinstance(name, str) else "")
        elif isinstance(part, int):
            parts[-1] += f"[{part + 1}]"
        else:
            parts.append(str(part))
    return ".".join(parts)
