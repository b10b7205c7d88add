"""Control characters, ANSI escapes and marks that reorder text reach no terminal."""

import json

import pytest

from convo_pipeline.base.csv_text import disarm_formula
from convo_pipeline.base.terminal_text import escape_controls, printable

HOSTILE = [
    "\x1b[31mred", "\x1b]8;;http://evil\x07link", "\x1b]52;c;ZXZpbA==\x07", "\x9b31m",
    "\x9d52;x\x9c",    "\u202egnp.exe", "\u2066x\u2069", "\u200fx", "\x7f", "\x00", "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_character_is_left(text: str) -> None:
    for clean in (printable(text), escape_controls(json.dumps(text, ensure_ascii=False))):
        assert printable(clean) == clean
    assert json.loads(escape_controls(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello\r=1+1", "hello\n=1+1"),
        ("\r=1+1", "'\n=1+1"),
        ("a\r\nb", "a\nb"),
        ("\u00a0=1+1", "'\u00a0=1+1"),
        ("plain", "plain"),
    ],
)
def test_a_lone_carriage_return_reaches_no_spreadsheet(text: str, expected: str) -> None:
    assert disarm_formula(text) == expected
