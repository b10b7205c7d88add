"""The first hour of a new user: every command and its output, compared with `first_hour.txt`.

`python -m tests.end_to_end.console.test_first_hour` writes the file anew. Read it as a whole then.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.shifted_clock import SharedClock

TRANSCRIPT = Path(__file__).parent / "first_hour.txt"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAYS = '"select date, count(*) as messages from messages group by all order by all limit 5"'
DIRECTIONS = '"select direction, count(*) as messages from messages group by all order by 1"'
TYPO = ('token_env = "EMULATOR_TOKEN"', 'token_evn = "EMULATOR_TOKEN"')
STEPS = (
    "# Try it without an account.",
    "demo --root demo",
    f"query --root demo {DIRECTIONS}",
    "status --root demo",
    "# A configuration of my own.",
    "check",
    "init",
    "init",
    "check",
    "extract",
    "# The emulator in another terminal, and its settings in convo.toml. One key is misspelt.",
    ">emulator",
    ">misspell",
    "check",
    ">correct",
    "check",
    "# The token is set.",
    ">token",
    "check",
    "extract --since 7d",
    "extract --since 7d",
    "status",
    "extract bikes",
    "extract bikes-messenger --since 20.11.2026",
    "extract --since tomorrow",
    "# Look at the data.",
    f"query {DAYS}",
    'query "select * from mesages"',
    'query "select nme from messages"',
    'query "select name, count(*) from accounts group by 1"',
    f"query {DAYS} --output days/days.csv",
    f"query {DAYS} --output days.csv",
    f"query {DAYS} --output days.csv",
    "find bikes-messenger 12345",
    "verify",
    "forget bikes-messenger 12345",
    "nothing",
)


class NewUser:
    """A shell in an empty folder, in which the program is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clock = SharedClock(folder.parent / "clock")
        clock.set(NOW)
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.environ = {
            **kept,
            **clock.environ,
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "1",
        }
        self.settings = ""
        self.emulator: subprocess.Popen[str] | None = None

    def run(self, line: str) -> str:
        """Return the output of one command, and its exit code if it is not 0."""
        command = f"{sys.executable} -m convo_pipeline {line}"
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        )  # fmt: skip
        code = f"[exit code {done.returncode}]\n" if done.returncode else ""
        return self.hide(f"$ convo-pipeline {line}\n{done.stdout}{code}\n")

    def act(self, word: str) -> str:
        """Do what the user does besides running a command."""
        file = self.folder / "convo.toml"
        if word == "emulator":
            command = [sys.executable, "-m", "convo_pipeline", "emulator"]
            self.emulator = subprocess.Popen(
                command, env=self.environ, cwd=self.folder, stdout=subprocess.PIPE, text=True
            )
            assert self.emulator.stdout is not None
            while 'name = "bikes-messenger"' not in self.settings:
                self.settings += self.emulator.stdout.readline()
            for _ in range(6):
                self.settings += self.emulator.stdout.readline()
            return self.hide(f"$ convo-pipeline emulator\n{self.settings}\n")
        if word == "token":
            (token,) = re.findall(r"export EMULATOR_TOKEN=(\S+)", self.settings)
            self.environ["EMULATOR_TOKEN"] = token
            return "$ export EMULATOR_TOKEN=…\n\n"
        file.write_text(self.settings.replace(*TYPO) if word == "misspell" else self.settings)
        return ""

    def hide(self, text: str) -> str:
        """Replace what differs between two runs."""
        text = text.replace(str(self.folder), "~")
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
        text = re.sub(r"EMULATOR_TOKEN=\S+", "EMULATOR_TOKEN=…", text)
        text = re.sub(r"\d+ seconds", "N seconds", text)
        text = re.sub(r"^\d of \d accounts done: .*\n", "", text, flags=re.M)
        text = re.sub(rf"({NOW:%Y-%m-%d %H}):\d\d", r"\1:MM", text)
        text = re.sub(r"\d+ calls and", "N calls and", text)
        # how many calls two accounts save each other depends on their threads
        text = re.sub(r"(?<=complete) +\d\d +[\d,]+", hide_digits, text)
        text = re.sub(r"(?<=%) +\d+ +\d\d (?=\n)", hide_digits, text)
        return re.sub(r"[\d,]+ bytes", "N bytes", text)

    def end(self) -> None:
        if self.emulator is not None:
            self.emulator.terminate()
            self.emulator.wait()
            assert self.emulator.stdout is not None
            self.emulator.stdout.close()


def hide_digits(found: re.Match[str]) -> str:
    """Return the text with N in the place of each digit."""
    return re.sub(r"\d", "N", found[0])


def transcript(folder: Path) -> Iterator[str]:
    home = folder / "home"
    home.mkdir()
    user = NewUser(home)
    try:
        for step in STEPS:
            if step.startswith("#"):
                yield f"{step}\n\n"
            elif step.startswith(">"):
                yield user.act(step[1:])
            else:
                yield user.run(step)
    finally:
        user.end()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_first_hour_reads_as_it_is_checked_in(tmp_path: Path) -> None:
    assert "".join(transcript(tmp_path)) == TRANSCRIPT.read_text("utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        TRANSCRIPT.write_text("".join(transcript(Path(name))), "utf-8")
