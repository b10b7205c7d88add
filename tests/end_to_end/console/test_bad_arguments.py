"""Every command with bad arguments and environments: one sentence, the right code, no traceback."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convo_pipeline.cli import main

TOKEN = "EAAB" + "x" * 40
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": (),
    "compact": (),
    "connect": ("META_TOKEN",),
    "database": ("views.duckdb",),
    "deletion answer": ("signed.request",),
    "deletion serve": (),
    "deletion status": (),
    "demo": (),
    "emulator": (),
    "expire": (),
    "export": ("--to", "exported"),
    "extract": (),
    "find": ("bakery", "12345"),
    "forget": ("bakery", "12345", "--yes"),
    "init": (),
    "metrics": (),
    "normalize": (),
    "query": ("select 1",),
    "rename": ("bakery", "bread"),
    "shapes": (),
    "state move": ("sqlite",),
    "status": (),
    "token": ("bakery",),
    "verify": (),
}
"""Each command with arguments that are well formed."""
WITHOUT_SETTINGS = {"demo", "emulator", "init"}
"""These commands read no configuration."""
CONFIG = """\
[graph]
base_url = "http://127.0.0.1:9"
[store]
root = "{root}"
[retention]
messages = 30
[deletion]
app_secret_env = "APP_SECRET"
status_url = "https://example.org/status"
[export]
secret_env = "EXPORT_SECRET"
[[accounts]]
name = "bakery"
page_id = "1234567890"
platform = "messenger"
token_env = "BAKERY_TOKEN"
start_date = "2026-01-01"
"""


def leaves() -> Iterator[str]:
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            yield from (f"{name} {each}" for each in command.commands)
        else:
            yield name


def test_every_command_is_tried() -> None:
    assert sorted(COMMANDS) == sorted(leaves())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a configuration, whose server refuses connections."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONVO_CONFIG", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "convo.toml").write_text(CONFIG.format(root="data"))
    return tmp_path


def run(*arguments: str, charset: str = "utf-8") -> tuple[int, str, str]:
    """Return exit code, stdout and stderr. A text on stderr is checked to be no traceback."""
    environ = {"BAKERY_TOKEN": TOKEN, "META_TOKEN": TOKEN, "EXPORT_SECRET": "s" * 40}
    result = CliRunner(charset=charset).invoke(main, arguments, env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), arguments
    assert "Traceback" not in result.output, arguments
    assert "a defect of this program" not in result.output, (arguments, result.output)
    assert TOKEN not in result.output
    return result.exit_code, result.stdout, result.stderr


def one_error(code: int, *arguments: str) -> str:
    """Check the exit code and return the last paragraph of stderr, the error."""
    found, _, stderr = run(*arguments)
    assert found == code, (arguments, found, stderr)
    assert stderr.strip(), arguments
    return stderr.strip().splitlines()[-1]


Prepare = Callable[[Path], tuple[str, ...]]


def missing_settings(folder: Path) -> tuple[str, ...]:
    return ("--config", "absent/convo.toml")


def settings_are_a_folder(folder: Path) -> tuple[str, ...]:
    return ("--config", str(folder))


def settings_are_binary(folder: Path) -> tuple[str, ...]:
    (folder / "convo.toml").write_bytes(b"\xff\x00\xfe")
    return ()


def settings_have_an_unknown_key(folder: Path) -> tuple[str, ...]:
    (folder / "convo.toml").write_text(CONFIG.format(root="data") + 'token_evn = "x"\n')
    return ()


def a_name_is_too_long(folder: Path) -> tuple[str, ...]:
    return ("--config", "x" * 5000)


SETTINGS_FAULTS: tuple[Prepare, ...] = (
    missing_settings,
    settings_are_a_folder,
    settings_are_binary,
    settings_have_an_unknown_key,
    a_name_is_too_long,
)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_wrong_usage_and_settings_are_code_2(name: str, folder: Path) -> None:
    words = (*name.split(), *COMMANDS[name])
    one_error(2, *words, "--nonsense")
    one_error(2, *words, "one", "two", "three")
    one_error(2, *words, "--log-format", "yaml")
    for fault in SETTINGS_FAULTS if name not in WITHOUT_SETTINGS else ():
        options = fault(folder)
        one_error(2, *options, *words)
        one_error(2, *words, *options)
        (folder / "convo.toml").write_text(CONFIG.format(root="data"))
    assert not list(folder.glob("data*")), "a refused command creates nothing"


NEEDS_NO_TABLES = {"connect", "token", "deletion serve", "metrics"}
USES_TABLES = sorted(set(COMMANDS) - WITHOUT_SETTINGS - NEEDS_NO_TABLES)


@pytest.mark.parametrize("name", USES_TABLES)
def test_a_root_that_cannot_hold_tables_is_named(name: str, folder: Path) -> None:
    words = (*name.split(), *COMMANDS[name])
    (folder / "file").write_text("no folder")
    for root in ("file", "file/lake", "/proc/lake", "x" * 300):
        code, stdout, stderr = run(*words, "--root", root)
        assert code in (1, 2, 3), (root, stderr)
        assert root[:80] in stderr or "never extracted" in stdout, (root, stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("find", "bakery", ""),
        ("find", "", "12345"),
        ("find", "bakery", "a b"),
        ("forget", "bakery", ""),
        ("extract", "nobody"),
        ("extract", "\x1b[31m"),
        ("extract", "bakery", "--since", "31.12.2026"),
        ("extract", "--since", "99999d"),
        ("query", "select 1", "--output", "absent/rows.csv"),
        ("query", "select 1", "--output", "rows.xlsx"),
        ("query", "select 1", "--file", "absent.sql"),
        ("query", "select 1", "--output", "convo.toml", "--format", "csv"),
        ("demo", "--port", "99999", "--ui"),
        ("emulator", "--port", "-1"),
        ("emulator", "--fault", "nonsense"),
        ("deletion", "serve", "--port", "port"),
        ("init",),
    ],
    ids=lambda arguments: " ".join(arguments).encode("unicode_escape").decode(),
)
def test_a_wrong_value_is_code_2(arguments: tuple[str, ...], folder: Path) -> None:
    assert one_error(2, *arguments)
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    "name",
    [
        "extract",
        pytest.param("find", marks=pytest.mark.slow),  # ten seconds of pauses between its tries
        pytest.param("check", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_refuses_connections_is_named_with_its_cause(name: str, folder: Path) -> None:
    """stdout has an encoding without the characters of tables."""
    code, stdout, stderr = run(name, *COMMANDS[name], charset="ascii")
    assert code == 1
    said = " ".join((stdout + stderr).split())
    assert "cannot connect to 127.0.0.1:9: connection refused" in said


@pytest.mark.parametrize(
    "command", ["--help", "status", "status --json", "shapes", "deletion status"]
)
def test_output_to_a_full_disk_is_one_error(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "data").mkdir()
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as exit_:
            main(["--config", "convo.toml", *command.split()])
    has_output = command != "deletion status"
    assert exit_.value.code == (1 if has_output else 0)
    error = "cannot write the output: No space left on device\n"
    assert capfd.readouterr().err.endswith(error if has_output else "")
