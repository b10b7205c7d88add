"""An interrupted `normalize` resumes with the remaining days and writes the same files."""

import signal
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convo_pipeline import schema
from convo_pipeline.cli import main
from convo_pipeline.derive.day import stale_days
from convo_pipeline.derive.rederive import FORCE_TASK, Scope
from convo_pipeline.extract.report import Progress
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.steps import run_normalise
from convo_pipeline.settings import Settings, parse_settings
from tests.support.raw_days import conversation_row, detail_row, id_row, table
from tests.support.web_server import wait_for

ACCOUNT, FIRST, COUNT = "bakery", date(2026, 2, 1), 6
CONFIG = """
[store]
root = "{root}"
[[accounts]]
name = "bakery"
page_id = "1234567890"
platform = "instagram"
token_env = "NO_TOKEN"
start_date = "2026-02-01"
"""
Steps = dict[str, int]


def write_lake(folder: Path, day_count: int = COUNT) -> Settings:
    """Write the raw tables of some days and a settings file; derive nothing."""
    folder.mkdir()
    text = CONFIG.format(root=folder / "lake")
    (folder / "convo.toml").write_text(text)
    settings = parse_settings(text.encode())
    with closing(Store(settings.store)) as store:
        for day in days_of(day_count):
            at = datetime.combine(day, time(9), tzinfo=UTC)
            names = [f"m{day}-{number}" for number in range(3)]
            store.merge(
                "raw_conversations",
                ACCOUNT,
                day,
                table(schema.RAW_CONVERSATIONS, [conversation_row("instagram")]),
            )
            store.merge(
                "raw_message_ids",
                ACCOUNT,
                day,
                table(schema.RAW_MESSAGE_IDS, [id_row(name, created_at=at) for name in names]),
            )
            details = [
                detail_row(name, {"id": name, "message": "hello"}, created_at=at) for name in names
            ]
            store.merge(
                "raw_message_details", ACCOUNT, day, table(schema.RAW_MESSAGE_DETAILS, details)
            )
    return settings


def days_of(count: int) -> list[date]:
    return [FIRST + timedelta(days=index) for index in range(count)]


def derived_files(settings: Settings) -> dict[str, bytes]:
    root = Path(settings.store.root)
    paths = [path for name in schema.DERIVED for path in (root / name.name).rglob("*.parquet")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def normalise(settings: Settings, scope: Scope, *, break_after: int = 0) -> Steps:
    """Normalise all days and return the progress; raise Ctrl-C after so many days."""
    steps: Steps = {}

    def listen(step: Progress) -> None:
        steps[step.step] = steps.get(step.step, 0) + (
            1 if step.step == "partitions" else step.count
        )
        if break_after and steps.get("partitions") == break_after:
            raise KeyboardInterrupt

    with closing(Store(settings.store)) as store:
        deployment = Deployment(settings, on_progress=listen)
        outcome = run_normalise(deployment, store, {ACCOUNT: days_of(COUNT)}, scope)
    assert outcome.failures == {}
    return steps


@pytest.fixture
def settings(memory_path: Path) -> Settings:
    return write_lake(memory_path / "one")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The derived files of an uninterrupted run over the same raw rows."""
    settings = write_lake(tmp_path_factory.mktemp("whole") / "lake")
    normalise(settings, "asked")
    return derived_files(settings)


def test_interrupted_run_resumes_with_the_remaining_days(
    settings: Settings, whole: dict[str, bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        normalise(settings, "stale", break_after=2)
    assert normalise(settings, "stale") == {"days": COUNT, "days done": 2, "partitions": COUNT - 2}
    assert normalise(settings, "stale") == {"days": COUNT, "days done": COUNT}
    assert derived_files(settings) == whole


def test_forced_run_resumes_and_starts_anew_after_it_has_finished(
    settings: Settings, whole: dict[str, bytes]
) -> None:
    normalise(settings, "stale")
    with pytest.raises(KeyboardInterrupt):
        normalise(settings, "all", break_after=2)
    assert normalise(settings, "all") == {"days": COUNT, "days done": 2, "partitions": COUNT - 2}
    assert normalise(settings, "all") == {"days": COUNT, "days done": 0, "partitions": COUNT}
    assert derived_files(settings) == whole


def test_day_that_changed_after_its_derivation_is_derived_again(settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt):
        normalise(settings, "all", break_after=2)
    with closing(Store(settings.store)) as store:
        more = id_row("m-late", created_at=datetime.combine(FIRST, time(10), tzinfo=UTC))
        store.merge("raw_message_ids", ACCOUNT, FIRST, table(schema.RAW_MESSAGE_IDS, [more]))
    assert normalise(settings, "all") == {"days": COUNT, "days done": 1, "partitions": COUNT - 1}


def test_changed_bytes_in_derived_files_are_found_by_their_hash(
    settings: Settings, whole: dict[str, bytes]
) -> None:
    normalise(settings, "stale")
    for day, name in zip(days_of(COUNT), ("messages", "coverage", "account_days"), strict=False):
        path = (
            Path(settings.store.root) / name / f"account={ACCOUNT}" / f"date={day}" / "data.parquet"
        )
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert normalise(settings, "stale") == {"days": COUNT, "days done": COUNT - 3, "partitions": 3}
    assert derived_files(settings) == whole
    with closing(Store(settings.store)) as store:
        assert store.state.suspect_files() == []


MANY = 60


@pytest.mark.slow
def test_killed_command_resumes_and_prints_the_finished_days(tmp_path: Path) -> None:
    settings, uninterrupted = write_lake(tmp_path / "one", MANY), write_lake(tmp_path / "two", MANY)
    with closing(Store(uninterrupted.store)) as store:
        deployment = Deployment(uninterrupted)
        assert run_normalise(deployment, store, {ACCOUNT: days_of(MANY)}).failures == {}
    for arguments in ([], ["--force"]):
        done = kill_while_running(settings, arguments)
        result = normalize(settings, *arguments)
        (line,) = (line for line in result.stderr.splitlines() if "done already" in line)
        assert (result.exit_code, line) == (
            0,
            f"{ACCOUNT}: {done} of {MANY} days were done already",
        )
        assert derived_files(settings) == derived_files(uninterrupted)


def command_of(settings: Settings, *more: str) -> list[str]:
    config = Path(settings.store.root).parent / "convo.toml"
    window = ["--since", str(FIRST), "--until", str(FIRST + timedelta(days=MANY))]
    return ["--config", str(config), "normalize", *window, *more]


def normalize(settings: Settings, *more: str) -> Result:
    return CliRunner().invoke(main, command_of(settings, *more), catch_exceptions=False)


def kill_while_running(settings: Settings, arguments: list[str]) -> int:
    """Kill the command after some days and return how many it has finished."""

    def count() -> int:
        with closing(Store(settings.store)) as store:
            if arguments:
                return len(store.state.days_done(FORCE_TASK, ACCOUNT))
            stale = stale_days(store, ACCOUNT)
            return MANY - len(stale)

    process = subprocess.Popen(
        [sys.executable, "-m", "convo_pipeline.cli", *command_of(settings, *arguments)]
    )
    wait_for(lambda: count() > 5, 100)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = count()
    assert 5 < done < MANY
    return done
