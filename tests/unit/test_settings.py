"""Each mistake in a configuration is one error that names the key."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import available_timezones

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import SecretStr

from convo_pipeline.base.secrets import read_state_url
from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import Settings, parse_settings, read_settings
from tests.support.paths import ROOT

GOOD = """
[[accounts]]
name = "bakery"
page_id = "123"
platform = "instagram"
token_env = "TOKEN"
start_date = "2026-01-01"
"""
PASSWORD = "not-to-be-shown"
IN_TWO_DAYS = (datetime.now(UTC).date() + timedelta(days=2)).isoformat()


def test_the_shipped_example_has_one_account_per_platform() -> None:
    settings = read_settings(ROOT / "convo.toml", {})
    assert {account.platform: (account.name, account.page_id) for account in settings.accounts} == {
        "instagram": ("bakery-instagram", "1234567890"),
        "messenger": ("bikes-messenger", "9876543210"),
    }
    assert settings.graph.base_url == "emulator"


def test_defaults_are_those_of_the_documentation() -> None:
    settings = parse_settings(GOOD.encode())
    assert settings.model_dump(exclude={"accounts"}) == {
        "graph": {
            "base_url": "https://graph.facebook.com",
            "version": "v26.0",
            "calls_per_second": 1.8,
            "calls_per_run": 20_000,
            "timeout_seconds": 60,
            "token_in": "header",
        },
        "store": {
            "root": "data",
            "state_dir": "",
            "state_url": SecretStr(""),
            "state_url_env": None,
            "state_url_file": None,
            "endpoint_url": "",
        },
        "schedule": {
            "nightly": "15 0 * * *",
            "sweep": "30 1 * * 0",
            "upkeep": "30 3 * * *",
            "accounts_per_run": 0,
            "capture_minutes": 15,
            "recheck_days": 2,
        },
        "metrics": {
            "session_gap_hours": 24,
            "automated_reply_seconds": 5,
            "presence_minutes": 60,
        },
        "alerts": {"webhook_env": None, "smtp_env": None, "email_to": (), "email_from": None},
        "dagster": {"key_prefix": (), "translation": None, "owners": (), "pii_tag": "pii"},
        "export": {"secret_env": None},
        "deletion": {"app_secret_env": None, "status_url": None},
        "retention": {"on_deleted": "redact", "most_unsent_at_once": 100},
    }
    (account,) = settings.accounts
    assert (account.folders, account.timezone, account.start_date) == (
        ("",),
        "UTC",
        date(2026, 1, 1),
    )
    assert settings.store.state_path == Path("data/.state")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[graph]\nspeed = 1", "graph.speed: unknown key"),
        ("[grpah]\n", "grpah: unknown key"),
        (
            '[graph]\nbase_url = "http://example.org"',
            "graph.base_url: must be an https address; plain http is allowed on loopback only",
        ),
        (
            '[graph]\nbase_url = "http://127.0.0.1.example.org"',
            "graph.base_url: must be an https address",
        ),
        (
            '[graph]\nbase_url = "https://user@example.org"',
            "graph.base_url: must not contain a user name",
        ),
        ('[graph]\nversion = "26"', "graph.version: "),
        ("[graph]\ncalls_per_second = 0", "graph.calls_per_second: "),
        ('[graph]\ntoken_in = "body"', "graph.token_in: "),
        ('[store]\nroot = "s3://bucket/lake"', "store: state_dir is required for a bucket"),
        ('[store]\nroot = "ftp://bucket"', "store: root must be a local folder, or s3://bucket"),
        ('[store]\nroot = "gs://bucket"', "store: state_dir is required for a bucket"),
        ('[schedule]\nnightly = "at midnight"', "schedule.nightly: must be five cron fields"),
        ('[schedule]\nsweep = "0 0 30 2 *"', "schedule.sweep: must be five cron fields"),
        ('[schedule]\nupkeep = "61 0 * * *"', "schedule.upkeep: must be five cron fields"),
        (GOOD + GOOD, 'accounts: the name "bakery" is used twice'),
        (GOOD.replace('"bakery"', '"Bakery"'), 'accounts[1] "Bakery".name: '),
        (GOOD.replace('"123"', '"abc"'), 'accounts[1] "bakery".page_id: '),
        (GOOD.replace('"instagram"', '"whatsapp"'), 'accounts[1] "bakery".platform: '),
        (
            GOOD.replace("2026-01-01", "2026-02-30"),
            'accounts[1] "bakery".start_date: must be a date such as',
        ),
        (
            GOOD.replace("2026-01-01", IN_TWO_DAYS),
            'accounts[1] "bakery".start_date: must not be in the future',
        ),
        (GOOD + 'timezone = "Berlin"', 'accounts[1] "bakery".timezone: must be a time zone name'),
        (
            GOOD + 'business_hours = "9-5"',
            'accounts[1] "bakery".business_hours: must be written like',
        ),
        (GOOD + 'business_hours = "Mon-Fry 09:00-17:00"', ".business_hours: must be written like"),
        (GOOD + 'business_hours = "Mon 17:00-09:00"', ".business_hours: must be written like"),
        (GOOD + 'business_hours = "Mon 09:75-17:00"', ".business_hours: must be written like"),
        (GOOD + 'folders = ["", ""]', 'accounts[1] "bakery".folders: must name each folder once'),
        (GOOD + 'token = "EAA"', 'accounts[1] "bakery".token: unknown key'),
        (
            GOOD.replace("token_env", "# token_env"),
            'accounts[1] "bakery": set exactly one of token_env',
        ),
        ("[graph\n", "is not valid TOML"),
        (
            '[graph]\nbase_url = "https://graph.facebook.com/v25.0"',
            "line 2: graph.base_url: must not contain a version: remove it here and write version ="
            ' "v25.0"',
        ),
        ('[graph]\nbase_url = "https://proxy.example.org/V25.0/"', "must not contain a version"),
        ('[graph]\nbase_url = "https://example.org?"', "must not contain a query"),
        ('[graph]\nbase_url = "https://example.org:0"', "has an impossible port"),
        ('[graph]\nbase_url = "https://example.org:99999"', "has an impossible port"),
        ('[graph]\nbase_url = "https://example.org:https"', "has an impossible port"),
        ('[graph]\nbase_url = "https://example.org\\n"', "must be an https address"),
        ('[graph]\nbase_url = "https://[::1"', "must be an https address"),
        ('[graph]\nbase_url = "https://exa mple.org"', "must be an https address"),
        ('[graph]\nbase_url = "https://graph.facebook.com\\\\@evil.org"', "must be an https"),
        (GOOD + 'base_url = "https://a.org:70000"', 'accounts[1] "bakery".base_url: has an imposs'),
        ('[deletion]\nstatus_url = "https://a.org:70000"', "deletion.status_url: has an imposs"),
        (
            '[store]\nendpoint_url = "https://a.org:70000"',
            "store: endpoint_url has an impossible port",
        ),
        (
            '[store]\nendpoint_url = "https://a.org/x"',
            "store: endpoint_url must not contain a path",
        ),
        ('[store]\nroot = ""', "store: root and state_dir must be names of folders"),
        ("[graph]\ncalls_per_second = nan", "graph.calls_per_second: must be a finite number"),
        ("[graph]\ntimeout_seconds = 601", "graph.timeout_seconds: must be at most 600"),
        ("[metrics]\nsession_gap_hours = inf", "metrics.session_gap_hours: must be a finite"),
        (
            "[metrics]\nsession_gap_hours = 1e300",
            "metrics.session_gap_hours: must be at most 8,760",
        ),
        ("[schedule]\ncapture_minutes = true", "schedule.capture_minutes: must be a whole number"),
        ("[retention]\nruns = 9999999999", "retention: runs must be kept for 1 to 366,000 days"),
        ('[alerts]\nsmtp_env = "MAIL"', "alerts: smtp_env and email_to are needed together"),
        (
            '[alerts]\nsmtp_env = "M"\nemail_to = ["a@b\\nTo: c@d"]',
            "alerts.email_to[1]: must be an e-mail address",
        ),
        ("[retention]\nmesages = 3", "no table 'mesages'; did you mean \"messages\"?"),
        (GOOD + 'timezone = "europe/berlin"', 'did you mean "Europe/Berlin"?'),
        (GOOD + 'timezone = "localtime"', "must be a time zone name"),
        (GOOD + 'timezone = "posixrules"', "must be a time zone name"),
        (GOOD + 'timezone = "right/UTC"', "must be a time zone name"),
        (GOOD.replace("token_env", "tokn_env"), 'unknown key; did you mean "token_env"?'),
        (GOOD.replace('"instagram"', '"insta"'), 'must be "instagram" or "messenger"'),
        (
            GOOD + GOOD.replace("bakery", "shop"),
            'accounts: "bakery" and "shop" are the same inbox (page_id and platform are equal)',
        ),
    ],
)
def test_an_error_names_the_wrong_key(text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text.encode())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (GOOD.replace('"TOKEN"', '"EAAwrong4ZCpsBAKZA1"'), "EAAwrong"),
        (GOOD.replace('"TOKEN"', '"IGAAwrong4ZCpsBAKZA1bX-_"'), "IGAA"),
        (GOOD.replace('"TOKEN"', '"abcdef0123456789abcdef0123456789"'), "abcdef"),
        (GOOD.replace('"TOKEN"', '"qW3rtyUiOpAsDfGh9jKl"'), "qW3"),
        (GOOD.replace('"TOKEN"', f'"{"x" * 200}"'), "xxx"),
        ('[alerts]\nwebhook_env = "https://hooks.example.org/T0/example3"', "example3"),
        ('[graph]\nbase_url = "https://:example3@example.org"', "example3"),
        ('[graph]\nbase_url = "https://user:example3@example.org:99999"', "example3"),
        ('[store]\nendpoint_url = "https://user:example3@example.org"', "example3"),
        (f'{GOOD}EAAwrong4ZCpsBAKZA1 = "x"', "EAAwrong"),
        ("[retention]\nEAAwrong4ZCpsBAKZA1 = 3", "EAAwrong"),
        (GOOD.replace('"bakery"', '"EAAwrong4ZCpsBAKZA1"'), "EAAwrong"),
        (GOOD.replace('"bakery"', '"EAAwrong4ZCpsBAKZA1') + '"', "EAAwrong"),
    ],
)
def test_an_error_shows_no_secret(text: str, secret: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text.encode())
    assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["EAA_TOKEN_EXAMPLE_BAKERY", "bakery_token_2", "A" * 60])
def test_a_name_of_a_variable_is_no_secret(name: str) -> None:
    settings = parse_settings(GOOD.replace('"TOKEN"', f'"{name}"').encode())
    assert settings.accounts[0].token_env == name


REMOTE = 'root = "s3://bucket/lake"\nstate_dir = "state"\n'


@pytest.mark.parametrize("key", ["state_url", "state_url_env", "state_url_file"])
def test_the_address_of_the_state_is_a_secret(tmp_path: Path, key: str) -> None:
    url = f"postgresql+psycopg://convo:{PASSWORD}@db.example.org/convo"
    (tmp_path / "url").write_text(f"{url}\n")
    value = {"state_url": url, "state_url_env": "URL", "state_url_file": f"{tmp_path}/url"}[key]
    store = parse_settings(f'[store]\n{REMOTE}{key} = "{value}"'.encode()).store
    assert read_state_url(store, {"URL": url}) == url
    assert PASSWORD not in f"{store!r} {store} {store.model_dump_json()}"


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (f'state_url = "mysql://u:{PASSWORD}@h/d"', "state_url: must be an address such as"),
        (f'state_url_env = "postgresql://u:{PASSWORD}@h"', "must be the name of an env"),
        ('state_url = "postgresql://h"\nstate_url_env = "URL"', "set one of state_url, state_url"),
        ('root = "lake"\nstate_url_env = "URL"', "is for tables in a bucket: set root to s3://"),
    ],
)
def test_a_wrong_address_of_the_state_is_not_shown(store: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected) as caught:
        parse_settings(f"[store]\n{'' if 'root' in store else REMOTE}{store}".encode())
    assert PASSWORD not in str(caught.value)
    named = parse_settings(f'[store]\n{REMOTE}state_url_env = "URL"'.encode()).store
    with pytest.raises(SettingsError, match="the value of URL must be an address") as caught:
        read_state_url(named, {"URL": PASSWORD})
    assert PASSWORD not in str(caught.value)


def test_all_errors_are_named_at_once_with_their_lines() -> None:
    text = GOOD.replace("2026-01-01", "2026-13-01") + "[graph]\nversoin = 1\ntoken_in = 'body'\n"
    with pytest.raises(SettingsError) as caught:
        parse_settings(text.encode())
    assert str(caught.value).splitlines() == [
        "convo.toml: 3 errors",
        '  line 7: accounts[1] "bakery".start_date: must be a date such as "2026-01-01"',
        '  line 9: graph.versoin: unknown key; did you mean "version"?',
        '  line 10: graph.token_in: must be "header" or "query"',
    ]
    with pytest.raises(SettingsError, match=r"convo\.toml: 36 errors(\n.*){20}\n  and 16 more$"):
        parse_settings(("[[accounts]]\nname = 'a'\n" * 12).encode())


def test_one_inbox_with_its_own_login_is_told_from_another_by_its_token() -> None:
    login = GOOD.replace('"123"', '"me"')
    other = login.replace("bakery", "studio")
    both = parse_settings((login + other.replace("TOKEN", "STUDIO_TOKEN")).encode())
    assert [account.name for account in both.accounts] == ["bakery", "studio"]
    with pytest.raises(SettingsError, match="are the same inbox"):
        parse_settings((login + other).encode())


def test_duckdb_and_arrow_know_every_accepted_time_zone() -> None:
    con = duckdb.connect(config={"threads": 1})
    for name in available_timezones() - {"localtime", "Factory"}:
        parse_settings(f'{GOOD}timezone = "{name}"'.encode())
        con.execute("select timezone(?, timestamptz '2026-01-01')", [name]).fetchone()
        moment = pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz=name))
        pc.local_timestamp(moment)


def test_an_error_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml does not exist"):
        read_settings(tmp_path / "none.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary\.toml is not valid TOML"):
        read_settings(tmp_path / "binary.toml", {})
    with pytest.raises(SettingsError, match="cannot read"):
        read_settings(tmp_path, {})


def test_an_argument_comes_before_the_variable_and_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.toml", "b.toml", "convo.toml"):
        (tmp_path / name).write_text(GOOD.replace("bakery", name.split(".")[0]))
    monkeypatch.chdir(tmp_path)

    def first(settings: Settings) -> str:
        return settings.accounts[0].name

    assert first(read_settings("a.toml", {"CONVO_CONFIG": "b.toml"})) == "a"
    assert first(read_settings(environ={"CONVO_CONFIG": "b.toml"})) == "b"
    assert first(read_settings(environ={})) == "convo"


def test_an_unknown_account_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match='unknown account "x"; the configuration has: bakery'):
        parse_settings(GOOD.encode()).account("x")
