"""Fault codes: the page defines each code that tests use, and each defined code has a test."""

import re
from functools import cache

import pytest

from tests.support.paths import TESTS
from tests.support.shown import page, rows

FAULTS = page("faults.md")
DEFINED = [row[0] for row in rows(FAULTS) if re.fullmatch(r"[ABCDS]\d+", row[0])]


@cache
def codes_of_names() -> set[str]:
    """Return the codes in the names of test functions and files."""
    names = [
        name
        for path in TESTS.rglob("test_*.py")
        for name in (path.stem, *re.findall(r"^ *def (test_\w+)", path.read_text(), re.M))
    ]
    return {code.upper() for name in names for code in re.findall(r"_([abcds]\d+)(?=_|$)", name)}


@cache
def codes_of_parameters() -> set[str]:
    """Return the codes that parametrized tests of the emulator's faults name in quotes."""
    text = "".join(path.read_text() for path in TESTS.rglob("*.py"))
    return set(re.findall(r'\("([AB]\d+)", "\w+"\)', text))


def test_codes_are_in_order_and_without_gaps() -> None:
    assert [
        f"{letter}{number}"
        for letter, count in {"A": 25, "B": 30, "C": 22, "D": 16, "S": 21}.items()
        for number in range(1, count + 1)
    ] == DEFINED


def test_every_code_of_a_test_is_defined() -> None:
    assert codes_of_names() - set(DEFINED) == set()


@pytest.mark.parametrize("code", DEFINED)
def test_every_defined_code_has_a_test(code: str) -> None:
    used = codes_of_names() | codes_of_parameters()
    assert code in used
