"""The committed data dictionary is what the declarations say."""

from pathlib import Path

from convo_pipeline.dictionary import write_dictionary

COMMITTED = Path(__file__).parents[1] / "docs" / "data-dictionary.md"


def test_the_committed_dictionary_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == write_dictionary(), (
        "python -m convo_pipeline.dictionary > docs/data-dictionary.md"
    )
