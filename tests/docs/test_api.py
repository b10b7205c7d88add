"""The page of the public API follows the docstrings, and names everything that is public."""

import pytest

import convo_pipeline
import convo_pipeline.dagster
from scripts.api import write_api
from tests.support.shown import page


def test_the_api_page_is_current() -> None:
    assert page("api.md") == write_api(), "python -m scripts.api > docs/api.md"


@pytest.mark.parametrize("module", [convo_pipeline, convo_pipeline.dagster])
def test_every_public_name_exists_and_has_a_docstring(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert [name for name in names if not getattr(module, name).__doc__] == []


def test_the_public_api_has_exactly_these_names() -> None:
    """A change here is a change of the version: see the changelog."""
    assert convo_pipeline.__all__ == ["connect"]
    assert convo_pipeline.dagster.__all__ == ["ConvoComponent", "ConvoLake", "build_defs"]
