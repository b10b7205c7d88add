"""Query results on a terminal."""

import io

import pyarrow as pa
import pytest
from rich.console import Console

from convo_pipeline.console.results import print_rows


@pytest.mark.parametrize("width", [60, 15], ids=["table", "blocks"])
def test_a_null_differs_from_an_empty_text(width: int) -> None:
    out = io.StringIO()
    rows = pa.table({"text": ["", None, "Hello"], "messages": [None, 2, 3]})
    print_rows(rows, Console(file=out, width=width))
    lines = [line.split() for line in out.getvalue().splitlines()]
    if width == 60:
        assert lines[3:6] == [["NULL"], ["NULL", "2"], ["Hello", "3"]]
    else:
        assert [line for line in lines if line[:1] in (["text"], ["messages"])] == [
            ["text"],
            ["messages", "NULL"],
            ["text", "NULL"],
            ["messages", "2"],
            ["text", "Hello"],
            ["messages", "3"],
        ]
