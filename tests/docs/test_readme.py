"""The README's commands, settings and links work; the lock files are complete."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from convo_pipeline.cli import main as cli
from convo_pipeline.settings import parse_settings
from run import CHECKS
from scripts.commands import write_commands
from tests.support.shown import PAGES, README, ROOT, command_lines, every_block, page


@pytest.mark.parametrize(
    "line", [line for line in command_lines() if line.startswith("convo-pipeline ")]
)
def test_shown_command_has_valid_options(line: str) -> None:
    context = cli.make_context(
        "convo-pipeline", shlex.split(line)[1:], resilient_parsing="--version" in line
    )
    if "--version" in line:
        return
    name, command, rest = cli.resolve_command(context, context._protected_args + context.args)
    assert command is not None, name
    command.make_context(name, rest, parent=context, resilient_parsing=False)


def test_commands_page_is_current() -> None:
    assert page("commands.md") == write_commands(), "python -m scripts.commands > docs/commands.md"


def test_commands_page_has_every_command() -> None:
    assert isinstance(cli, click.Group)
    headings = re.findall(r"^## convo-pipeline (\w+)$", page("commands.md"), re.M)
    assert sorted(headings) == sorted(cli.commands)


def test_readme_shows_the_output_of_the_test_command() -> None:
    shown = README.split("<!-- output: test -->\n```text\n")[1].split("```")[0]
    assert shown.splitlines() == [f"── {name}" for name, _ in CHECKS] + ["── all passed"]


def test_shown_settings_are_valid() -> None:
    shown = [parse_settings(block.encode()) for block in every_block("toml")]
    assert [account.name for settings in shown for account in settings.accounts][:1] == [
        "bakery-instagram"
    ]


def test_shipped_settings_are_valid_and_have_both_platforms() -> None:
    settings = parse_settings((ROOT / "convo.toml").read_bytes())
    assert [account.platform for account in settings.accounts] == ["instagram", "messenger"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_to_files_work(path: Path) -> None:
    links = [
        link.split("#")[0]
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text())
        if "://" not in link
    ]
    assert [link for link in links if link and not (path.parent / link).exists()] == []


def test_s11_lock_files_pin_versions_and_name_no_host() -> None:
    for name in ("", "-dev", "-engines", "-celery"):
        lock = f"requirements{name}.lock"
        lines = (ROOT / lock).read_text().splitlines()
        assert [
            line for line in lines if "://" in line or "--index" in line or "--find-links" in line
        ] == []
        assert [line for line in lines if line[:1].isalnum() and "==" not in line] == []


def test_lock_file_has_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        line.split("==")[0].split("[")[0]
        for lock in ("requirements.lock", "requirements-celery.lock")
        for line in (ROOT / lock).read_text().splitlines()
        if "==" in line
    }
    required = {
        re.split(r"[<>=\[;~ ]", entry)[0].lower().replace("_", "-")
        for entries in (project["dependencies"], *project["optional-dependencies"].values())
        for entry in entries
        if entries is not project["optional-dependencies"]["dev"]
    }
    assert required - locked == {"convo-pipeline"}
