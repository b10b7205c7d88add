"""Write the generated tables of `docs/operate.md`: `python -m scripts.reasons`.

The words come from `convo_pipeline.reasons` and from `verify`; a test compares the page with them.
"""

from collections.abc import Mapping
from pathlib import Path

from convo_pipeline.reasons import REASONS, RUN_REASONS
from convo_pipeline.upkeep.verify import FINDING_KINDS

PAGE = Path(__file__).parent.parent / "docs" / "operate.md"


def reasons_table() -> str:
    """Return a row for each reason that a run stores."""
    lines = ["| reason | what happened | what to do |", "|---|---|---|"]
    for name in (name for name in REASONS if name in RUN_REASONS):
        reason = REASONS[name]
        remedy = ("nothing: " if reason.is_self_healing else "") + reason.remedy_for()
        lines.append(f"| `{name}` | {reason.describe()} | {remedy} |")
    return "\n".join(lines)


def findings_table() -> str:
    """Return a row for each kind of finding of `verify`."""
    rows = (f"| `{name}` | {text} |" for name, text in FINDING_KINDS.items())
    return "\n".join(["| finding | meaning and remedy |", "|---|---|", *rows])


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """Replace the text between `<!-- name -->` and `<!-- end -->` by each table.

    >>> with_tables("<!-- a -->\\nold\\n<!-- end -->", {"a": "new"})
    '<!-- a -->\\nnew\\n<!-- end -->'
    """
    for name, table in tables.items():
        head, rest = text.split(f"<!-- {name} -->\n")
        text = f"{head}<!-- {name} -->\n{table}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return text


def write_page(text: str) -> str:
    """Return the page with its tables of today."""
    return with_tables(text, {"reasons": reasons_table(), "findings": findings_table()})


if __name__ == "__main__":
    PAGE.write_text(write_page(PAGE.read_text("utf-8")), "utf-8")
