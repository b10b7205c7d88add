"""The pages agree with the code: closed lists, settings, paths, links, commands, capacity."""

import inspect
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import date, timedelta
from math import ceil
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
import dagster._cli
import dagster._daemon.cli
import dagster_webserver.cli
import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from convo_pipeline import schema
from convo_pipeline.console import arguments
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.faults import FAULTS
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.report import Mode, Outcome
from convo_pipeline.extract.run import ACCOUNTS_IN_FLIGHT
from convo_pipeline.graph.page_size import LISTING_SIZES, MESSAGE_SIZES
from convo_pipeline.orchestration.assets import FRESHNESS
from convo_pipeline.orchestration.checks import (
    ALL_CHECKS,
    CARRIED_DAYS,
    LEAST_SHARE_DETAILED,
)
from convo_pipeline.reasons import RUN_REASONS
from convo_pipeline.settings import (
    AccountMetricsSettings,
    GraphSettings,
    ScheduleSettings,
    Settings,
)
from convo_pipeline.tables.chart_data import CONTEXT_DAYS, MOST_DAYS
from convo_pipeline.upkeep.verify import FINDING_KINDS
from scripts.reasons import write_page
from tests.support.inboxes import NOW, serve
from tests.support.paths import PACKAGE
from tests.support.shown import (
    PAGES,
    README,
    ROOT,
    anchors,
    command_lines,
    every_block,
    in_code,
    page,
    rows,
    section,
    without_blocks,
)
from tests.unit.test_imports import FLOORS

OPERATE, CONNECT, SETTINGS = page("operate.md"), page("connect.md"), page("settings.md")


def first_cells(text: str) -> list[str]:
    return [name for row in rows(text) for name in in_code(row[0])]


# closed lists


def test_operate_page_explains_every_outcome_and_reason() -> None:
    named = first_cells(section(OPERATE, "How a run ends"))
    outcomes = {*get_args(Outcome), "running"}
    assert sorted(named) == sorted([*outcomes, *RUN_REASONS])
    assert named[: len(outcomes)] == ["complete", "incomplete", "failed", "busy", "running"]


def test_generated_tables_of_operate_page_are_current() -> None:
    assert write_page(OPERATE) == OPERATE, "python -m scripts.reasons"


def test_operate_page_explains_every_exit_code() -> None:
    names = ("EXIT_FAILED", "EXIT_USAGE", "EXIT_NOT_FOUND", "EXIT_STOPPED")
    codes = {0, *(getattr(arguments, name) for name in names)}
    assert {int(row[0]) for row in rows(section(OPERATE, "Exit codes"))} == codes
    assert {int(code) for code in re.findall(r"^  (\d+)  ", arguments.EXIT_CODES, re.M)} == codes


def test_ui_page_explains_every_check() -> None:
    text = section(page("ui.md"), "Checks")
    assert set(first_cells(text)) == {check.name for check in ALL_CHECKS}
    warn = {check.name for check in ALL_CHECKS if check.severity.value == "WARN"}
    assert {in_code(row[0])[0] for row in rows(text) if "(warns)" in row[0]} == warn
    assert f"fewer than {LEAST_SHARE_DETAILED:.0%}".replace("%", " %") in text


def test_operate_page_explains_every_finding_of_verify() -> None:
    assert sorted(first_cells(section(OPERATE, "Verify"))) == sorted(FINDING_KINDS)


def test_emulator_page_lists_every_fault() -> None:
    assert {in_code(row[1])[0] for row in rows(section(page("emulator.md"), "Faults"))} == set(
        FAULTS
    )


def test_readme_lists_every_table() -> None:
    named = first_cells(section(README, "What you get"))
    assert sorted(named) == sorted(schema.TABLES)


def test_data_dictionary_names_every_kind_of_run() -> None:
    described = next(column.description for column in schema.RUNS.columns if column.name == "kind")
    words = re.findall(r"(\w+)(?: \([^)]*\))?(?:,| or |\.)", described.split(":")[1])
    assert sorted(words) == sorted(get_args(Mode))


def test_ui_page_states_the_limits_of_the_code() -> None:
    text = page("ui.md")
    windows = (FRESHNESS.warn_window, FRESHNESS.fail_window)
    warn, fail = (
        round(window.to_timedelta().total_seconds() / 3600) for window in windows if window
    )
    assert f"younger than {warn} hours, warns after" in section(text, "Freshness")
    assert f"fails after {fail}:" in section(text, "Freshness")
    assert f"the newest {MOST_DAYS} days" in section(text, "Pictures")
    assert f"among the {CONTEXT_DAYS} days up to it" in section(text, "Pictures")
    assert f"repeated for {CARRIED_DAYS} days" in section(text, "Checks")


def test_emulator_page_shows_the_parameters_of_the_server() -> None:
    shown = re.search(r"`EmulatorServer\((world=None.*?)\)`", page("emulator.md"), re.S)
    assert shown is not None
    parameters = inspect.signature(EmulatorServer).parameters.values()
    assert re.findall(r"(\w+)=", shown[1]) == [parameter.name for parameter in parameters]


# settings


def test_settings_page_lists_every_key_with_type_and_default() -> None:
    shown = {}
    for part in SETTINGS.split("\n## ")[1:]:
        name = re.match(r"\[+(\w+)\]+", part)
        for cells in rows(part) if name else []:
            shown[f"{name[1]}.{in_code(cells[0])[0]}"] = (cells[1], cells[2])  # type: ignore[index]
            assert cells[3], cells
    assert shown == dict(declared_keys())
    assert [name for name in Settings.model_fields if f"[{name}]" not in SETTINGS] == []


def declared_keys() -> Iterator[tuple[str, tuple[str, str]]]:
    for name, part in Settings.model_fields.items():
        kind = part.annotation
        model = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if isinstance(model, type) and issubclass(model, BaseModel):
            for key, field in model.model_fields.items():
                yield f"{name}.{key}", (kind_of(key, field), default_of(field))


def kind_of(key: str, field: FieldInfo) -> str:
    if key.endswith("_env"):
        return "name of a variable"
    if key in ("nightly", "sweep", "upkeep"):
        return "cron"
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    kind = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    if get_origin(kind) is Literal:
        return " or ".join(f'`"{value}"`' for value in get_args(kind))
    names = {str: "text", SecretStr: "text", int: "whole number", float: "number", date: "date"}
    names[AccountMetricsSettings] = "table"
    return "list of text" if get_origin(kind) is tuple else names[kind]


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None or isinstance(field.default, BaseModel):
        return "–"
    if isinstance(field.default, SecretStr):
        return f'`"{field.default.get_secret_value()}"`'
    if isinstance(field.default, tuple):
        return f"`{list(field.default)}`".replace("'", '"')
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default:g}`"


# commands of other programs


KNOWN_PROGRAMS = {
    "dbt",
    "dg",
    "docker",
    "kubectl",
    ".",
    ".venv/bin/jupyter",
    ".venv/bin/python",
    "cd",
    "convo",
    "convo-pipeline",
    "dagster",
    "exec",
    "export",
    "git",
    "install",
    "python",
    "python3",
    "set",
    "systemctl",
    "tar",
    "useradd",
}


def words_of(line: str) -> Iterator[list[str]]:
    """Yield the simple commands of a line without the variable assignments before them."""
    for part in line.split("&&"):
        words = shlex.split(part)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        yield words


def test_shown_commands_start_known_programs() -> None:
    assert {words[0] for line in command_lines() for words in words_of(line)} == KNOWN_PROGRAMS


@pytest.mark.parametrize("block", every_block("sh"), ids=lambda block: block.splitlines()[0][:40])
def test_shell_blocks_have_valid_syntax(block: str) -> None:
    assert (
        subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        ).stderr
        == ""
    )


DAGSTER_LINES = sorted(
    {
        shlex.join(words[words.index("dagster") :])
        for line in command_lines()
        for words in words_of(line)
        if "dagster" in words[:2]
    }
)


@pytest.mark.parametrize("line", DAGSTER_LINES)
def test_dagster_accepts_shown_options(line: str) -> None:
    parse_options(dagster._cli.create_dagster_cli(), shlex.split(line)[1:])


def parse_options(command: click.Command, words: list[str]) -> None:
    """Parse the words down to the last subcommand without running it."""
    context = command.make_context(command.name or "", words)
    while isinstance(command, click.Group):
        _, subcommand, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert subcommand is not None
        command = subcommand
        context = command.make_context(command.name or "", words, parent=context)


# paths, names, links


FOLDERS = ("convo_pipeline", "tests", "scripts", "benchmarks", "docs", "notebooks", "deploy")
SOURCES = {path.name for path in ROOT.iterdir()} | {
    str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*")
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    named = [
        code
        for code in in_code(without_blocks(path.read_text()))
        if re.fullmatch(r"[\w./-]+\.(py|md|ipynb|lock)", code)
    ]
    places = ("", "convo_pipeline/", "tests/")
    assert [
        name for name in named if not any(f"{place}{name}" in SOURCES for place in places)
    ] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_to_headings_work(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]*#[^)\s]*)\)", text):
        file, anchor = target.split("#")
        if "://" not in target:
            there = (path.parent / file).read_text() if file else text
            assert anchor in set(anchors(there)), target


def test_readme_links_every_page() -> None:
    listed = section(README, "Where to go next")
    names = {path.name for path in PAGES[1:]} - {"index.md"}  # the first page of the site
    assert {name for name in names if f"(docs/{name})" not in listed} == set()


def test_every_picture_is_used() -> None:
    text = "".join(path.read_text() for path in PAGES)
    assert [
        path.name
        for path in (ROOT / "docs" / "images").iterdir()
        if f"images/{path.name}" not in text
    ] == []


MOST_PLACES, MOST_VOCABULARIES = 9, 3


def walk(name: str) -> list[list[str]]:
    """Return the rows of a table of develop.md that follows something through the code."""
    return rows(page("develop.md").split(f"<!-- walk: {name} -->\n")[1].split("\n\n")[0])


def test_message_passes_few_places_that_use_its_types() -> None:
    places = walk("message")
    assert len(places) <= MOST_PLACES
    for place, _, gives in places:
        source = (PACKAGE / in_code(place)[0]).read_text()
        assert re.search(rf"\b{in_code(gives)[0]}\b", source), place


def test_refusal_has_few_vocabularies() -> None:
    words = {word.split(",")[0] for *_, word in walk("refusal")} - {"the same"}
    assert len(words) <= MOST_VOCABULARIES
    assert all((PACKAGE / in_code(place)[0]).is_file() for place, *_ in walk("refusal"))


def test_names_of_the_develop_page_exist() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    names = [name for name in in_code(without_blocks(page("develop.md"))) if name.isidentifier()]
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"\b{name}\b", sources)] == []


# capacity


def calls_of(
    conversations: int, deep: int, messages_each: int, platform: str, *, is_capture: bool = False
) -> int:
    """Return the number of calls of one run of one account, by the formula of operate.md."""
    listings = max(1, ceil(conversations / LISTING_SIZES[0].conversations))
    pages = deep * max(
        0, ceil((messages_each - LISTING_SIZES[0].messages) / MESSAGE_SIZES[0].messages)
    )
    is_instagram = platform == "instagram"
    return (
        listings
        + (listings > 1)
        + pages
        + (is_instagram and not is_capture)
        + (is_instagram and pages > 0)
    )


def in_words(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def test_capacity_table_follows_the_formula() -> None:
    text = section(OPERATE, "Capacity")
    rate = GraphSettings().calls_per_second
    table = rows(text)
    assert len(table) == 8
    for kind, conversations, messages_each, instagram, messenger, duration in table:
        count, depth = number(conversations), number(messages_each)
        calls = [
            calls_of(
                count,
                count if depth > 20 else 0,
                depth,
                platform,
                is_capture=kind.startswith("capture"),
            )
            for platform in ("instagram", "messenger")
        ]
        assert [number(instagram), number(messenger)] == calls
        assert duration == in_words(calls[0] / rate)
    between = ScheduleSettings().capture_minutes * 60 * rate
    assert (
        f"{between:,.0f} calls: {between * LISTING_SIZES[0].conversations:,.0f} conversations"
        in text
    )
    assert f"{ACCOUNTS_IN_FLIGHT} are asked at a time" in text
    assert f"⌈C / {LISTING_SIZES[0].conversations}⌉" in text
    assert f"⌈(M − {LISTING_SIZES[0].messages}) / {MESSAGE_SIZES[0].messages}⌉" in text


def number(cell: str) -> int:
    return 0 if cell == "–" else int(cell.replace(",", ""))


@pytest.mark.parametrize("platform", ["instagram", "messenger"])
@pytest.mark.parametrize(
    ("conversations", "messages_each"), [(30, 2), (110, 3), (12, 45), (3, 130)]
)
def test_run_makes_as_many_calls_as_the_formula(
    conversations: int, messages_each: int, platform: str, tmp_path: Path
) -> None:
    world = World(VirtualClock(NOW))
    shop = world.add_account("shop", "111", platform)  # type: ignore[arg-type]
    for index in range(conversations):
        shop.add_conversation(f"Ada {index}").add_messages(
            messages_each, NOW - timedelta(hours=1 + index), step_seconds=1
        )
    deep = conversations if messages_each > 20 else 0
    with serve(tmp_path / "lake", world) as inboxes:
        [first] = inboxes.extract()
        [idle] = inboxes.extract(mode="capture")
    assert first.outcome == idle.outcome == "complete"
    assert sum(first.calls.values()) == calls_of(conversations, deep, messages_each, platform)
    assert sum(idle.calls.values()) == calls_of(0, 0, 0, platform, is_capture=True)


def test_quotas_are_those_of_the_settings() -> None:
    graph, schedule = GraphSettings(), ScheduleSettings()
    text = section(OPERATE, "Quotas")
    assert f"for {graph.calls_per_second}," in text
    assert f"({graph.calls_per_run:,})" in text
    assert round(graph.calls_per_run / graph.calls_per_second / 3600) == 3
    assert round(24 * 60 / schedule.capture_minutes + 2, -1) == 100


# layout


def test_design_page_draws_the_tested_layout() -> None:
    shown = page("design.md").split("<!-- floors -->\n```text\n")[1].split("```")[0]
    drawn = [set(re.split(r" {3,}", line)[0].split()) for line in shown.splitlines()]
    floors = [names - {"__init__", "__main__"} for names in reversed(FLOORS)]
    assert set().union(*drawn) == set().union(*floors)
    level = {name: index for index, names in enumerate(drawn) for name in names}
    for above, below in itertools.combinations(floors, 2):
        for high, low in itertools.product(above, below):
            assert level[high] <= level[low], (high, low)


def test_s9_dagsters_page_listens_on_this_machine_only() -> None:
    """The page has no login. Shown commands and the default use the loopback address."""
    server = dagster_webserver.cli.create_dagster_webserver_cli()
    (host,) = [option for option in server.params if option.name == "host"]
    assert host.default == "127.0.0.1"
    shown = [shlex.split(line) for line in DAGSTER_LINES]
    starts = [
        line.partition("=")[2]
        for path in sorted((ROOT / "deploy/systemd").glob("*.service"))
        for line in path.read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    shown += map(shlex.split, starts)
    shown += [shlex.split(line) for line in command_lines() if "dagster" in line]
    hosts = {words[words.index("-h") + 1] for words in shown if "-h" in words}
    assert hosts <= {"127.0.0.1"}
    assert not any("--host" in words for words in shown)
