"""Examples in docstrings return what they show."""

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
def test_docstring_examples_hold(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = doctest.testmod(import_module(".".join(path.with_suffix("").parts)))
    assert result.attempted > 0
    assert (result.failed, capsys.readouterr().out) == (0, "")
