"""`init` writes a file that is valid and changes none that exists."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from convo_pipeline.cli import main
from convo_pipeline.settings import read_settings


def test_init_writes_a_valid_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVO_CONFIG", raising=False)
    missing = CliRunner().invoke(main, ["status"])
    assert (missing.exit_code, "`convo-pipeline init`" in missing.output) == (2, True)
    done = CliRunner().invoke(main, ["init"])
    assert done.exit_code == 0, done.output
    (account,) = read_settings("convo.toml", {}).accounts
    assert (account.name, account.token_env) == ("my-page", "PAGE_TOKEN")
    text = Path("convo.toml").read_text()
    again = CliRunner().invoke(main, ["init"])
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    assert Path("convo.toml").read_text() == text


def test_every_line_that_the_file_offers_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "convo.toml"
    assert CliRunner().invoke(main, ["--config", str(file), "init"]).exit_code == 0
    offered = [
        line.removeprefix("# ") if " = " in line and "and page_id" not in line else line
        for line in file.read_text().replace("# [alerts]", "[alerts]").splitlines()
    ]
    file.write_text("\n".join(offered))
    settings = read_settings(file)
    assert settings.alerts.email_to == ("ops@example.org",)
    assert settings.accounts[0].business_hours == "Mon-Fri 09:00-18:00"


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "none" / "convo.toml"), "init"])
    assert (result.exit_code, "cannot write" in result.output) == (2, True)
