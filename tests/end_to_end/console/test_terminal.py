"""Hostile texts on a real terminal: no command passes a control sequence of a stranger on."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import LAKES

pytestmark = pytest.mark.slow
HOSTILE = ("\x1b]52;c;aGk=\x07", "\x1b]8;;http://x\x07evil", "\x1b[2J", "\x9b31m", "\u202e\u2066")
OWN_STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, which the commands print themselves. Any other control sequence is a stranger's."""
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


MAIN = "from convo_pipeline.cli import main; main()"


def run_on_terminal(folder: Path, *arguments: str) -> str:
    """Run the command with a terminal as its output; return everything that it printed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "--config", str(folder / "convo.toml"), *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # the terminal has no writer any more
            part = b""
        if not part:
            break
        printed += part
    process.wait()
    os.close(ours)
    return printed.decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    shutil.copytree(LAKES / "version_4", folder / "lake")
    (folder / "convo.toml").write_text(f'[store]\nroot = "{folder}/lake"\n')
    return folder


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize(
    "sql",
    [
        'select {text} as "{name}"',
        "pivot (select {text} as word, 1 as number) on word using sum(number)",
        'select "{name}" from messages',
        "select error({text})",
        "select cast({text} as integer)",
        "select * from {name}",
    ],
    ids=["value and name", "pivot", "unknown column", "error", "cast", "syntax"],
)
def test_no_foreign_control_sequence_reaches_a_terminal(folder: Path, sql: str, form: str) -> None:
    hostile = "".join(HOSTILE)
    text = " || ".join(f"chr({ord(character)})" for character in hostile)
    statement = sql.format(text=f"({text})", name=hostile)
    printed = run_on_terminal(folder, "query", "--format", form, statement)
    assert len(printed) > 5
    assert FORBIDDEN.findall(OWN_STYLE.sub("", printed).replace("\r\n", "\n")) == []


@pytest.mark.parametrize(
    "arguments", [("rename",), ("forget",), ("find",), ("extract", "--account")]
)
def test_a_hostile_argument_is_cleaned_in_its_error(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    printed = run_on_terminal(folder, *arguments, "".join(HOSTILE), "x")
    assert FORBIDDEN.findall(OWN_STYLE.sub("", printed).replace("\r\n", "\n")) == []
