"""Each mistake in a configuration is one error that names the key."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

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
TOMORROW = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()


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
        "store": {"root": "data", "state_dir": "", "endpoint_url": ""},
        "schedule": {
            "nightly": "15 0 * * *",
            "sweep": "30 1 * * 0",
            "upkeep": "30 3 * * *",
            "capture_minutes": 15,
            "recheck_days": 2,
        },
        "metrics": {"session_gap_hours": 24},
        "alerts": {"webhook_env": None},
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
        ('[store]\nroot = "gs://bucket"', "store: root must be a local folder or s3://"),
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
            GOOD.replace("2026-01-01", TOMORROW),
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
        (GOOD.replace("token_env", "# token_env"), 'accounts[1] "bakery".token_env: '),
        ("[graph\n", "is not valid TOML"),
    ],
)
def test_an_error_names_the_wrong_key(text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text.encode())
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


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
