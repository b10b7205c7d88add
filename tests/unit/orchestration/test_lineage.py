"""The column lineage in Dagster's catalogue is that of the code."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from convo_pipeline import schema
from convo_pipeline.orchestration.lineage import PACKAGE, RawColumn, lineage_metadata, sources_of
from convo_pipeline.tables.messages import CHILD_NAMES
from convo_pipeline.tables.normalize import RawDay, normalize
from tests.support.raw_days import (
    AT,
    PAGE_ID,
    SEEN,
    conversation_row,
    detail_row,
    id_row,
    raw_day,
    read_sample,
)

TABLES = [schema.MESSAGES, *(schema.TABLES[name] for name in CHILD_NAMES)]
RAW = {
    "conversations": schema.RAW_CONVERSATIONS,
    "message_ids": schema.RAW_MESSAGE_IDS,
    "message_details": schema.RAW_MESSAGE_DETAILS,
}
TEXTS = {"platform": "messenger", "detail_status": "gone", "created_at_source": "listing"}
"""Other values of columns that hold one of a few words."""


def make_day() -> RawDay:
    """Return a day with messages of many shapes, with and without ids, details and a sender."""
    payloads = [read_sample(number) for number in (5, 7, 8, 9, 13, 14)]
    ids = [id_row(f"m{number}", deleted_at=SEEN) for number in range(len(payloads))]
    details = [detail_row(f"m{number}", payload) for number, payload in enumerate(payloads)]
    to_customer = {"to": {"data": [{"id": "1", "username": "ada"}]}, "message": "Hello"}
    details.append(detail_row("without-id", to_customer))
    ids.append(id_row("without-details"))
    people = {"participants": {"data": [{"id": "1", "username": "ada"}, {"id": PAGE_ID}]}}
    conversation = conversation_row("instagram", people, own_id=PAGE_ID)
    day = raw_day("instagram", ids, details, [conversation])
    return replace(day, page_id=None)


def other_values(column: pa.ChunkedArray, name: str) -> Iterator[pa.Array]:
    """Yield the column with each value changed, and the column of nulls."""
    if pa.types.is_timestamp(column.type):
        moved = pc.add(pc.coalesce(column, pa.scalar(AT, column.type)), timedelta(seconds=7))
        yield moved.cast(column.type)
    elif pa.types.is_integer(column.type):
        yield pc.add(pc.fill_null(column, 0), 5)
    elif name == "fields":
        yield pa.array(["{}"] * len(column), column.type)
    elif name == "payload":
        yield pc.replace_substring(column, '"message":"', '"message":"Changed ')
        yield pc.replace_substring(column, '"id":"', '"id":"9')
        yield pc.replace_substring(column, '"username":"', '"username":"another_')
    else:
        yield pa.array([TEXTS.get(name, "9")] * len(column), column.type)
    yield pa.nulls(len(column), column.type)


def change(day: RawDay, field: str, name: str) -> Iterator[RawDay]:
    rows = getattr(day, field)
    for values in other_values(rows[name], name):
        index = rows.column_names.index(name)
        changed = rows.set_column(index, pa.field(name, values.type), values)
        platform = changed["platform"][0].as_py() if name == "platform" else day.platform
        yield replace(day, **{field: changed}, platform=platform)


def changed_columns(before: pa.Table, after: pa.Table) -> set[str]:
    """Return the columns whose values differ; those of an empty table all do."""
    return {name for name in before.column_names if not before[name].equals(after[name])}


@pytest.mark.parametrize("field", RAW)
def test_a_change_of_a_raw_column_reaches_only_the_declared_columns(field: str) -> None:
    day = make_day()
    before = normalize(day)
    for column in RAW[field].columns:
        if column.name in schema.MESSAGES.key:
            continue
        for changed in change(day, field, column.name):
            after = normalize(changed)
            for table in TABLES:
                source = RawColumn(RAW[field].name, column.name)
                declared = {name for name, known in sources_of(table).items() if source in known}
                reached = changed_columns(before[table.name], after[table.name])
                if len(after[table.name]) == len(before[table.name]):
                    assert reached <= declared, (table.name, column.name)


def test_every_column_has_a_source_that_exists() -> None:
    for table in TABLES:
        sources = sources_of(table)
        assert tuple(sources) == table.column_names
        for name, columns in sources.items():
            assert columns, name
            for each in columns:
                assert each.column in schema.TABLES[each.table].column_names


def test_code_references_are_files() -> None:
    for table in schema.TABLES.values():
        code = lineage_metadata(table, {})["dagster/code_references"]
        files = [reference.file_path for reference in code.code_references]
        assert len(files) >= 2
        assert all((PACKAGE / file).is_file() for file in files)
