"""Write the data dictionary as Markdown: `python -m scripts.dictionary > docs/data-dictionary.md`.

All texts about columns come from `convo_pipeline.schema` and `convo_pipeline.query.view_schema`.
"""

import sys
from collections.abc import Iterable

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.query.view_schema import LOCAL_TIME, MESSAGES_VIEW, VIEWS, ViewSchema
from convo_pipeline.schema import Column, Table

_INTRODUCTION = f"""\
# Data dictionary

Written by `python -m scripts.dictionary`; do not edit it by hand.
Schema version {schema.SCHEMA_VERSION}.

Each table is a folder and a DuckDB view of the same name. All tables except `runs` are Dagster
assets. Each row also has the columns `account` and `date`. They come from the path of its file:
`<table>/account=<name>/date=YYYY-MM-DD/data.parquet`. The path of `runs` has only the date. `date`
is the UTC day of the message. Ids are strings. Times are UTC, to the microsecond. **Bold** columns
are the key within a partition. A column marked with ● is never null.
"""
_LOCAL_TIMES = " ".join(
    f"`{column.name}`: {column.description}" for column in MESSAGES_VIEW.columns
)
_NOTES = {
    "messages": f"""
The view `messages` has two more columns. {_LOCAL_TIMES}

`content_type` is the first of these that applies: `unavailable` (no content stored) ·
`unsupported` (Meta marks the message so) · `story_mention` · `story_reply` · `sticker` · the kind
of the first available attachment · `share` · `text` · `unavailable` (only a privacy placeholder) ·
`other` (only fields without a column) · `empty`.

`problem` is the first of these that applies: `payload_unreadable` (the raw payload is not a JSON
object) · `field_unreadable` (a value has a wrong type; it is in `extra`) · `time_unreadable` and
`time_estimated` (`created_at` is not the message's own time) · `surrogate_replaced` (U+FFFD
replaces an incomplete character in a text).
""",
}
_LAYERS = {
    "raw": "Raw: responses of the API, merged so that content read earlier stays",
    "normalised": "Normalised: computed from the raw tables, again after each change of them",
    "marts": "Marts: figures, computed from the tables above",
    "ledger": "Ledger: results of the runs",
}
_VIEWS_HEAD = """
## Views: added by `connect()`, computed at each query

Each row also has `account`. Rows of messages, turns and sessions also have `date`: the UTC day of
the message, or on which the turn or session begins. [metrics.md](metrics.md) defines the metrics.
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
        chosen = [table for table in tables if table.layer == layer]
        parts.append(
            "\n".join((f"\n## {title}\n", *(_describe(table) for table in chosen)))
            if chosen
            else ""
        )
    parts.append("\n".join((_VIEWS_HEAD, *map(_describe_view, VIEWS))))
    return "".join(parts)


def _describe_view(view: ViewSchema) -> str:
    besides = f" It has all columns of `{view.of.name}`, and:" if view.of else ""
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
