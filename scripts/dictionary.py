"""Write the data dictionary from the declarations in `schema` and `view_schema`: `python -m scripts.dictionary > docs/data-dictionary.md`.

It knows Markdown and nothing of what the tables hold.
"""

import sys
from collections.abc import Iterable

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.query.view_schema import LOCAL_TIME, VIEWS, ViewSchema
from convo_pipeline.schema import Column, Table

_INTRODUCTION = f"""\
# Data dictionary

Written by `python -m scripts.dictionary`; do not edit it by hand. Schema version {schema.SCHEMA_VERSION}.

Every table is a folder and a DuckDB view of the same name, and all but the ledger are Dagster assets. Beside the columns
below every row has `account` and `date`, which come from its path (`<table>/account=<name>/date=YYYY-MM-DD/data.parquet`;
the ledger's has only the date); `date` is the UTC day of the message. Ids are strings. Times are UTC, to the microsecond.
**Bold** columns are the key within a partition; a column marked with ● is never null.
"""
_NOTES = {
    "messages": """
`content_type` is the first that fits: `unavailable` (no content held) · `unsupported` (Meta says so) · `story_mention` ·
`story_reply` · `sticker` · the kind of the first attachment that is available · `share` · `text` · `unavailable` (only
a privacy placeholder) · `other` (only fields without a column) · `empty`.
`problem` names the first that applies: `payload_unreadable` (the raw payload is no JSON object) · `field_unreadable` (a
value of a wrong type; it is in `extra`) · `time_unreadable` and `time_estimated` (`created_at` is not the message's own)
· `surrogate_replaced` (half a character in a text became U+FFFD).
""",
}
_LAYERS = {
    "raw": "Raw: what the API said. Only ever merged: what was once read stays.",
    "normalised": "Normalised: made from the raw tables, and made anew whenever these change.",
    "marts": "Marts: figures, made from the tables above.",
    "ledger": "Ledger: what the runs did.",
}
_VIEWS_HEAD = """
## Views: what `connect()` adds, made anew at every query

Every row has `account`; those of messages, turns and sessions also `date`, the UTC day of the message or of the beginning. How the
metrics are defined: [metrics.md](metrics.md).
"""
_TYPES = {
    schema.TEXT: "text",
    schema.TEXTS: "list of text",
    schema.TIME: "time",
    schema.COUNT: "whole number",
    schema.RATIO: "number",
    schema.FLAG: "yes/no",
    pa.date32(): "date",
    LOCAL_TIME: "local time",
}


def write_dictionary() -> str:
    """Return the data dictionary as Markdown."""
    tables = [*schema.TABLES.values(), schema.RUNS]
    parts = [_INTRODUCTION]
    for layer, title in _LAYERS.items():
        held = [table for table in tables if table.layer == layer]
        parts.append(
            "\n".join((f"\n## {title}\n", *(_describe(table) for table in held))) if held else ""
        )
    parts.append("\n".join((_VIEWS_HEAD, *map(_describe_view, VIEWS))))
    return "".join(parts)


def _describe_view(view: ViewSchema) -> str:
    besides = f" Every column of `{view.of.name}`, and:" if view.of else ""
    lines = (
        f"| `{column.name}` | {_TYPES[column.type]} | {column.description} |"
        for column in view.columns
    )
    head = "| column | type | meaning |\n|---|---|---|"
    return (
        f"### `{view.name}`\n\n{view.description}{besides}\n\n" + "\n".join((head, *lines)) + "\n"
    )


def _describe(table: Table) -> str:
    lines: Iterable[str] = (_describe_column(column, table.key) for column in table.columns)
    head = "| column | type | | meaning |\n|---|---|---|---|"
    return (
        f"### `{table.name}`\n\n{table.description}\n\n"
        + "\n".join((head, *lines))
        + "\n"
        + _NOTES.get(table.name, "")
    )


def _describe_column(column: Column, key: tuple[str, ...]) -> str:
    """Return one line of a table.

    >>> _describe_column(schema.MESSAGE_ID, ("message_id",)).split(" | ")[:3]
    ['| **`message_id`**', 'text', '●']
    """
    name = f"**`{column.name}`**" if column.name in key else f"`{column.name}`"
    meaning = column.description.replace("|", "\\|")
    return f"| {name} | {_TYPES[column.type]} | {'●' if column.required else ''} | {meaning} |"


if __name__ == "__main__":
    sys.stdout.write(write_dictionary())
