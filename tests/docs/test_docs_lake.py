"""Examples of the pages run over a small lake: queries, Python, backups, erasures, files."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convo_pipeline.cli import main as cli
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.orchestration.instance import make_home
from convo_pipeline.query.connection import Connection, connect
from convo_pipeline.settings import read_settings
from tests.support.inboxes import Inboxes, serve
from tests.support.shown import PAGES, blocks, command_lines, page, rows, section

NOW = datetime(2026, 3, 12, 12, tzinfo=UTC)
START = date(2026, 3, 9)
ADA = "9990000000000042"
PRIVACY = page("privacy.md")
EMPTY_WHEN_ALL_IS_WELL = ("where outcome <> 'complete'", "as rows_left", "from weeks w")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader has it: `data/demo`, `data` and `convo.toml`."""
    folder = tmp_path_factory.mktemp("docs")
    world = default_world(VirtualClock(NOW), history_days=4)
    ada = world.accounts["bakery-instagram"].add_conversation("Ada Invented", customer_id=ADA)
    ada.add_messages(4, NOW - timedelta(days=1), step_seconds=60)
    with serve(folder / "lake", world, start=START) as inboxes:
        inboxes.extract_whole(START)
        for name in inboxes.names:
            derive_account_days(inboxes.store, name)
        write_config(folder, inboxes)
    (folder / "data").symlink_to("lake")
    (folder / "lake" / "demo").symlink_to(".")
    shutil.copy(folder / "convo.toml", folder / "lake" / "convo.toml")
    return folder


def write_config(folder: Path, inboxes: Inboxes) -> None:
    text = f'[store]\nroot = "{folder / "lake"}"\n'
    for account in inboxes.settings.accounts:
        text += (
            f'[[accounts]]\nname = "{account.name}"\npage_id = "{account.page_id}"\n'
            f'platform = "{account.platform}"\ntoken_env = "T"\nstart_date = "{START}"\n'
            'timezone = "Europe/Berlin"\nbusiness_hours = "Mon-Fri 09:00-18:00"\n'
        )
    (folder / "convo.toml").write_text(text)


def invoke(folder: Path, *arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(
        cli, ["--config", str(folder / "convo.toml"), *arguments], input=typed
    )


@pytest.fixture(scope="module")
def con(home: Path) -> Iterator[Connection]:
    with connect(home / "lake", settings=read_settings(home / "convo.toml")) as con:
        yield con


def shown_queries() -> list[tuple[str, str]]:
    return [(path.name, block) for path in PAGES for block in blocks("sql", path.read_text())]


@pytest.mark.parametrize(
    ("name", "query"),
    shown_queries(),
    ids=[f"{name}-{n}" for n, (name, _) in enumerate(shown_queries())],
)
def test_shown_query_returns_values(name: str, query: str, con: Connection) -> None:
    result = con.sql(query).fetchall()
    if not any(text in query for text in EMPTY_WHEN_ALL_IS_WELL):
        assert result
        assert any(value is not None for value in result[0])


def test_analyse_page_has_ten_recipes() -> None:
    assert len(blocks("sql", page("analyse.md"))) >= 10


SHOWN_PYTHON = [
    (path.name, block) for path in PAGES for block in blocks("python", path.read_text())
]


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.parametrize(
    ("name", "block"), SHOWN_PYTHON, ids=[f"{name}-{n}" for n, (name, _) in enumerate(SHOWN_PYTHON)]
)
def test_shown_python_runs(
    name: str, block: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    names: dict[str, object] = {}
    exec(compile(f"import convo_pipeline\n{block}", name, "exec"), names)
    if "con" in names:
        names["con"].close()  # type: ignore[attr-defined]


def test_shown_query_commands_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    queries = [
        words
        for words in map(shlex.split, command_lines())
        if words[1:2] == ["query"] and " " in words[-1]
    ]
    assert len(queries) >= 3
    for words in queries:
        done = CliRunner().invoke(cli, words[1:])
        assert done.exit_code == 0, done.output
    assert (home / "days.csv").read_text().startswith("account,")


# privacy.md


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """Return a copy of the lake that the test may change."""
    shutil.copytree(
        home / "lake", tmp_path / "lake", symlinks=True, ignore=shutil.ignore_patterns("demo")
    )
    text = (home / "convo.toml").read_text().replace(str(home / "lake"), str(tmp_path / "lake"))
    (tmp_path / "convo.toml").write_text(text)
    return tmp_path


def test_forget_prints_the_shown_output(copy: Path) -> None:
    shown = PRIVACY.split("<!-- output: forget -->\n```text\n")[1].split("```")[0]
    command, *output = shown.splitlines()
    words = command.removeprefix("$ convo-pipeline ").split()
    done = invoke(copy, *words, typed="y\n")
    assert done.exit_code == 0
    assert masked(done.output) == masked("\n".join(output))
    assert invoke(copy, "forget", words[1], "1").exit_code == 3
    receipts = list((copy / "lake" / ".forgotten").rglob("*.json"))
    assert len(receipts) == 1
    assert ADA not in receipts[0].read_text() + receipts[0].name


def masked(text: str) -> list[str]:
    return re.sub(r"receipt [0-9a-f]{32}", "receipt …", text).strip().splitlines()


def test_privacy_page_lists_every_file_and_files_are_private(copy: Path) -> None:
    known_patterns = list(patterns())
    lake = copy / "lake"
    assert invoke(copy, "forget", "bakery-instagram", ADA, "--yes").exit_code == 0
    with (copy / "convo.toml").open("a") as file:
        file.write("[retention]\nmessages = 3000\n")
    assert invoke(copy, "expire", "--trust-clock").exit_code == 0
    assert invoke(copy, "compact").exit_code == 0
    made = [path for path in lake.rglob("*") if path != lake / "convo.toml"]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o700}
    make_home(lake / ".dagster")
    files = [str(path.relative_to(lake)) for path in lake.rglob("*") if path.is_file()]
    assert [
        path for path in files if not any(fnmatchcase(path, pattern) for pattern in known_patterns)
    ] == []
    rare = "quarantine shared-state .staging spool /forget/ /delet /rename/ /alerts/ history"
    words = (*rare.split(), "state-id", "schedules", "storage", ".dagster/.")
    unused = [
        pattern
        for pattern in known_patterns
        if not any(fnmatchcase(path, pattern) for path in files)
    ]
    assert [name for name in unused if not any(word in name for word in words)] == []


def patterns() -> Iterator[str]:
    """Yield the table's places as patterns below the root."""
    places = {"<root>/": "", "<state>/": ".state/", "<home>/": ".dagster/"}
    for row in rows(section(PRIVACY, "What is stored where")):
        for shown in re.findall(r"`([^`]+)`", row[0]):
            assert shown.startswith(tuple(places)), shown
            for word, folder in places.items():
                shown = shown.replace(word, folder)
            group = re.search(r"\{(.*)\}", shown)
            yield from (
                [shown.replace(group[0], name) for name in group[1].split(",")]
                if group
                else [shown]
            )


# connect.md


def test_shown_backup_can_be_restored(copy: Path, tmp_path: Path) -> None:
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    for folder in (backup, restored):
        folder.mkdir()
    (copy / "lake").rename(copy / "data")
    make, put_back = [
        line
        for block in blocks("sh", page("connect.md"))
        for line in block.splitlines()
        if line.startswith("tar ")
    ]
    run(make.replace("/var/lib/convo-pipeline", str(copy)).replace("/backup", str(backup)))
    run(put_back.replace("/var/lib/convo-pipeline", str(restored)).replace("/backup", str(backup)))
    text = (copy / "convo.toml").read_text().replace(str(copy / "lake"), str(restored / "data"))
    (restored / "convo.toml").write_text(text)
    assert not (restored / "data" / ".state" / "state.db").exists()
    done = invoke(restored, "verify", "--rebuild-state")
    assert (done.exit_code, done.output.split(":")[0]) == (0, "sound"), done.output


def run(command: str) -> None:
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "LC_ALL": "C"})
