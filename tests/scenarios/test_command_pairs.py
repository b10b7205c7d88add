"""After each killed command, each other command leads back to a sound lake by its own advice.

A command is killed at a call that changes the disk. Then another command runs. If it fails, its
message must name the command that helps. In the end every account is complete and the lake sound.
"""

import itertools
import os
import random
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from convo_pipeline.cli import main
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.query.connection import connect
from convo_pipeline.storage.local import LocalFolder
from tests.support.inbox_worlds import PAGES, TOKENS, Days, small_world, write_config
from tests.support.kills import count_calls, run_killed

pytestmark = [
    pytest.mark.hunt,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
OLD, NEW, OTHER = "bakery-instagram", "cafe", "bikes-messenger"
RETENTION = "\n[retention]\nraw_conversations = 43\n"
COMMANDS = {
    "extract": "extract --all",
    "sweep": "extract --full",
    "normalize": "normalize",
    "force": "normalize --force",
    "rename": f"rename {OLD} {NEW}",
    "back": f"rename {NEW} {OLD}",
    "forget": "forget NAME PERSON --yes",
    "again": "forget NAME --again",
    "expire": "expire --trust-clock",
    "compact": "compact",
    "verify": "verify",
    "rebuild": "verify --rebuild-state",
}
KILLED = ("extract", "force", "rename", "forget", "expire", "compact", "rebuild")
_ADVICE = re.compile(
    r"convo-pipeline ((?:extract|normalize|rename|forget|expire|verify|compact)[^`,;:]*)"
)
MOST_STEPS = 6
SEED = 20261129


@dataclass(frozen=True)
class Lake:
    """A lake, and a configuration for each name of its first account."""

    folder: Path
    person: str

    @property
    def name(self) -> str:
        """The account's name now: the new one once its files have moved."""
        renamed = self.folder / "lake" / "raw_message_ids" / f"account={NEW}"
        return NEW if renamed.exists() else OLD

    def invoke(self, command: str) -> Result:
        words = command.replace("NAME", self.name).replace("PERSON", self.person)
        arguments = ["--config", str(self.folder / f"{self.name}.toml"), *shlex.split(words)]
        return CliRunner().invoke(main, arguments, env=TOKENS)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A lake with two of three days of two accounts, from a month that is closed."""
    folder = tmp_path_factory.mktemp("pairs")
    days = Days(datetime.now(UTC).date() - timedelta(days=40))
    with EmulatorServer(small_world(days)) as server:
        text = write_config(folder, server, days.start).read_text() + RETENTION
        (folder / f"{OLD}.toml").write_text(text)
        (folder / f"{NEW}.toml").write_text(text.replace(f'"{OLD}"', f'"{NEW}"'))
        lake = Lake(folder, "")
        done = lake.invoke(f"extract --since {days.start} --until {days[2]}")
        assert done.exit_code == 0, done.output
        yield Lake(folder, sender_of(folder / "lake", OLD))


def sender_of(root: Path, account: str) -> str:
    """Return the id of one customer of an account."""
    sql = "SELECT min(participant_id) FROM participant_days WHERE NOT is_account AND account = ?"
    with connect(root) as con:
        (person,) = con.execute(sql, [account]).fetchone()
    return str(person)


def copy_of(template: Lake, folder: Path) -> Lake:
    """Copy the lake; the configurations of the copy name the copy."""
    shutil.copytree(template.folder, folder)
    for file in folder.glob("*.toml"):
        file.write_text(file.read_text().replace(str(template.folder), str(folder)))
    return Lake(folder, template.person)


def advised_command(output: str) -> str | None:
    """Return the first command that a message names; a terminal may break its lines anywhere."""
    found = _ADVICE.search(" ".join(output.split()))
    return found[1].strip().rstrip(".") if found else None


def assert_no_defect(result: Result, history: list[str]) -> None:
    is_exit = result.exception is None or isinstance(result.exception, SystemExit)
    assert is_exit, (history, repr(result.exception))
    assert "Traceback" not in result.output, history
    assert "defect" not in result.output, (history, result.output)


def lead_back(lake: Lake, history: list[str]) -> None:
    """Run `extract`, `normalize` and `verify`, and what they advise, until all of them succeed."""
    todo = ["extract --all", "normalize", "verify"]
    for _ in range(MOST_STEPS):
        results = []
        for command in todo:
            history.append(command)
            result = lake.invoke(command)
            assert_no_defect(result, history)
            results.append(result)
            advice = advised_command(result.output) if result.exit_code else None
            if advice and advice not in todo:
                history.append(advice)
                assert_no_defect(lake.invoke(advice), history)
        if all(result.exit_code == 0 for result in results):
            return
    raise AssertionError((history, [result.output for result in results]))


def message_count(lake: Lake, account: str) -> int:
    folder = lake.folder / f"lake/raw_message_ids/account={account}"
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("date=*/data.parquet"))


def kill(lake: Lake, command: str, at_call: int) -> bool:
    """Run a command in a child that dies at a call; return whether it was killed."""

    def run() -> None:
        if lake.invoke(command).exit_code == 130:
            raise AssertionError("stopped, not killed")

    return not run_killed(run, at_call)


def test_after_each_killed_command_each_next_one_leads_back(
    template: Lake, tmp_path: Path, long_run: bool
) -> None:
    """Each killed command dies at as many different calls as there are pairs with it.

    With --long it walks every pair and prints one line for each.
    """
    source = random.Random(SEED)
    pairs = [(killed, following) for killed in KILLED for following in COMMANDS]
    rounds = int(os.environ.get("PAIR_ROUNDS", "12")) if long_run else 1
    chosen = (pairs if long_run else source.sample(pairs, 14)) * rounds
    expected = message_count_when_whole(template, tmp_path / "whole")
    call_counts = {name: calls_of(template, name, tmp_path / name) for name in KILLED}
    print(f"calls that change the disk: {call_counts}")
    points = {
        name: itertools.cycle(source.sample(range(1, count + 1), count))
        for name, count in call_counts.items()
    }
    kills, started = 0, time.monotonic()
    for number, (killed, following) in enumerate(chosen):
        lake = copy_of(template, tmp_path / f"lake-{number}")
        at_call = next(points[killed])
        history = [f"{COMMANDS[killed]} killed at call {at_call}", COMMANDS[following]]
        kills += kill(lake, COMMANDS[killed], at_call)
        assert_no_defect(lake.invoke(COMMANDS[following]), history)
        lead_back(lake, history)
        has_expired = "expire" in (killed, following)
        has_forgotten = "forget" in (killed, following)
        if not has_expired:
            assert message_count(lake, OTHER) == expected[OTHER], history
        if not has_expired and not has_forgotten:
            assert message_count(lake, lake.name) == expected[OLD], history
        assert not LocalFolder(lake.folder / "lake/.state").list_names(("rename",)), history
        shutil.rmtree(lake.folder)
        print(number + 1, kills, f"{time.monotonic() - started:.0f} s", "; ".join(history[:2]))
    print(f"{kills} kills in {len(chosen)} pairs of commands")
    assert kills >= len(chosen) * 9 // 10


def calls_of(template: Lake, name: str, folder: Path) -> int:
    """Return how many calls of a command change the disk."""
    lake = copy_of(template, folder)
    return count_calls(lambda: lake.invoke(COMMANDS[name]))


def message_count_when_whole(template: Lake, folder: Path) -> dict[str, int]:
    lake = copy_of(template, folder)
    assert lake.invoke("extract --all").exit_code == 0
    return {name: message_count(lake, name) for name, _, _ in PAGES}
