"""The committed data dictionary follows the declared tables and views."""

from pathlib import Path

import pytest

import convo_pipeline
from convo_pipeline.query.response_times import response_time_views
from convo_pipeline.query.view_schema import MESSAGES_VIEW, VIEWS, ViewSchema
from convo_pipeline.query.views import views
from convo_pipeline.settings import MetricsSettings
from scripts.dictionary import write_dictionary
from tests.support.paths import DOCS

COMMITTED = DOCS / "data-dictionary.md"


def test_data_dictionary_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == write_dictionary(), (
        "python -m scripts.dictionary > docs/data-dictionary.md"
    )


@pytest.mark.parametrize("view", [MESSAGES_VIEW, *VIEWS], ids=lambda view: view.name)
def test_view_has_its_declared_columns(view: ViewSchema, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with convo_pipeline.connect(tmp_path) as con:
        schema = con.sql(f"from {view.name} limit 0").to_arrow_table().schema
    types = {field.name: field.type for field in schema if field.name not in ("account", "date")}
    assert {name: str(kind) for name, kind in types.items()} == {
        name: str(kind).replace("item:", "l:") for name, kind in view.types.items()
    }


def test_every_view_is_declared() -> None:
    statements = "\n".join(response_time_views(MetricsSettings()))
    created = {
        word
        for word in statements.split("CREATE VIEW ")[1:]
        for word in [word.split()[0]]
        if "." not in word
    }
    assert {view.name for view in VIEWS} == created | set(views())
