"""What a type checker knows of the connection."""

import re
from pathlib import Path

import pytest
from mypy import api

from tests.support.paths import ROOT

CODE = """
import convo_pipeline
con = convo_pipeline.connect()
rows = con.sql("from messages")
reveal_type(con)
reveal_type(con.execute("select 1").fetchall())
reveal_type(con.execute("select 1").df())
reveal_type(rows.df())
reveal_type(rows.to_arrow_table())
reveal_type(rows.columns)
reveal_type(rows.filter("true"))
con.nothing()
"""


@pytest.mark.slow
def test_methods_have_exact_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "code.py").write_text(CODE)
    shown, errors, _ = api.run(["--config-file", "pyproject.toml", str(tmp_path / "code.py")])
    assert errors == ""
    assert re.findall(r'Revealed type is "([^"]+)"', shown) == [
        "convo_pipeline.query.connection.Connection",
        "list[tuple[Any, ...]]",
        "pandas.core.frame.DataFrame",
        "pandas.core.frame.DataFrame",
        "Any",  # pyarrow has no types
        "list[str]",
        "duckdb._relation.DuckDBPyRelation",
    ]
    assert '"Connection" has no attribute "nothing"' in shown
