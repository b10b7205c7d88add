"""The examples in docstrings are run: one that no longer holds is a lie in the very place where people look."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import convo_pipeline

ROOT = Path(convo_pipeline.__file__).parent
EXAMPLE = ">" * 3
MODULES = sorted(
    path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py") if EXAMPLE in path.read_text()
)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_example_in_a_docstring_is_true(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = doctest.testmod(import_module(".".join(path.with_suffix("").parts)))
    assert found.attempted > 0
    assert (found.failed, capsys.readouterr().out) == (0, "")
