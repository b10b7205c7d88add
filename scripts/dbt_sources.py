"""Write the sources of the dbt example from the schema: python -m scripts.dbt_sources."""

import json
import sys
from collections.abc import Iterator

from convo_pipeline.schema import DERIVED, Table

READER = (
    "read_parquet('{{{{ env_var(\"CONVO_ROOT\") }}}}/{table}/*/*/data.parquet',"
    " hive_partitioning = true, union_by_name = true)"
)


def render() -> str:
    """Return the YAML of all derived tables: texts, required columns and keys as tests."""
    lines = [
        "# Written by `python -m scripts.dbt_sources`; do not edit it by hand.",
        "version: 2",
        "sources:",
        "  - name: inbox",
        "    tables:",
    ]
    for table in DERIVED:
        lines += _table(table)
    return "\n".join(lines) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield f"      - name: {table.name}"
    yield f"        description: {json.dumps(table.description)}"
    yield "        meta:"
    yield f"          external_location: {json.dumps(READER.format(table=table.name))}"
    yield "        columns:"
    for column in table.columns:
        yield f"          - name: {column.name}"
        yield f"            description: {json.dumps(column.description)}"
        if column.required:
            yield "            data_tests: [not_null]"


if __name__ == "__main__":
    sys.stdout.write(render())
