"""Tables as Parquet bytes: exact schema, deterministic, checked. It knows no path.

The same rows give the same bytes: zstd, page checksums, no time of writing. The file's metadata has
the schema version, the partition that it belongs to (`label`) and, for derived tables, the digest
of the raw files that it was made from (`source`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convo_pipeline.errors import CorruptError, SchemaError
from convo_pipeline.schema import SCHEMA_VERSION, VERSION_KEY, Column, Table

SOURCE_KEY = b"convo_pipeline.source"
LABEL_KEY = b"convo_pipeline.place"
HASH_CHARACTERS = 16
"""Of a label's hash, stored before it: a footer has no checksum, so the label needs its own."""
DEFAULTS: dict[str, object] = {
    "text": "",
    "whole number": 0,
    "time": 0,
    "bool": False,
    "double": 0.0,
    "list of text": [],
}
"""Values of a required column that an older file does not have, by kind."""
ROWS_PER_GROUP = 131_072
THREADED_BYTES = 4 * 1024 * 1024
"""Smaller files are read faster by one thread."""


@dataclass(frozen=True)
class FileContent:
    """A decoded data file."""

    rows: pa.Table
    """In the current schema; empty if there is a `schema_error`."""
    row_count: int
    schema_version: int
    source: str
    label: str
    """The partition that the file belongs to; empty if it is unknown."""
    has_current_schema: bool
    schema_error: SchemaError | None = None
    """Why the rows do not fit the current schema."""

    def checked_rows(self) -> pa.Table:
        """Return the rows; raise the `schema_error` if there is one."""
        if self.schema_error:
            raise self.schema_error
        return self.rows


def encode(table: Table, rows: pa.Table, source: str = "", label: str = "") -> bytes:
    """Return the bytes of a data file. The rows, source and label of a file give its bytes."""
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    if source:
        metadata[SOURCE_KEY] = source.encode()
    if label:
        metadata[LABEL_KEY] = _with_hash(label)
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(rows.columns, schema=table.schema.with_metadata(metadata)),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=[
            name for name in table.column_names if name not in ("payload", "message_id", "text")
        ],
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode(table: Table, content: bytes, name: str) -> FileContent:
    """Return a data file's content; raise CorruptError, with the file's name, if it is damaged."""
    with _corrupt_errors(f"{name} is damaged"):
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        stored = file.read(use_threads=len(content) > THREADED_BYTES)
        metadata = file.schema_arrow.metadata or {}
        version = int(metadata.get(VERSION_KEY, b"1"))
        source = metadata.get(SOURCE_KEY, b"").decode()
        rows, schema_error = table.schema.empty_table(), None
        try:
            rows = _upgrade(table, stored)
        except SchemaError as error:
            schema_error = error
    has_current_schema = stored.schema.equals(table.schema)
    label = _label_in(metadata)
    return FileContent(
        rows, stored.num_rows, version, source, label, has_current_schema, schema_error
    )


def read_schema_version(content: bytes) -> int | None:
    """Return the schema version in a data file's footer; None if the footer cannot be read."""
    try:
        return int(_read_metadata(content).get(VERSION_KEY, b"1"))
    except (CorruptError, ValueError):
        return None


def read_label(content: bytes) -> str:
    """Return the label in a data file's footer; an empty one if it cannot be read."""
    try:
        return _label_in(_read_metadata(content))
    except CorruptError:
        return ""


def _read_metadata(content: bytes) -> Mapping[bytes, bytes]:
    with _corrupt_errors("the footer is damaged"):
        return pq.read_schema(pa.BufferReader(content)).metadata or {}


@contextmanager
def _corrupt_errors(message: str) -> Iterator[None]:
    """Raise CorruptError instead of Arrow's errors, but not instead of a lack of memory."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptError(f"{message}: {type(error).__name__}") from None


def _with_hash(label: str) -> bytes:
    digest = hashlib.sha256(label.encode()).hexdigest()[:HASH_CHARACTERS]
    return f"{digest} {label}".encode()


def _label_in(metadata: Mapping[bytes, bytes]) -> str:
    label = metadata.get(LABEL_KEY, b"").decode("utf-8", "replace")[HASH_CHARACTERS + 1 :]
    return label if label and _with_hash(label) == metadata[LABEL_KEY] else ""


def is_as_written(table: Table, content: bytes) -> bool:
    """Return whether the file's rows encode to exactly these bytes, so that all of it is whole.

    False also for files of an older schema and of another version of the Parquet library.
    """
    try:
        decoded = decode(table, content, "")
    except CorruptError:
        return False
    is_current = decoded.has_current_schema and decoded.schema_version == SCHEMA_VERSION
    return is_current and encode(table, decoded.rows, decoded.source, decoded.label) == content


def check_written(table: Table, rows: pa.Table, content: bytes, name: str) -> None:
    """Raise CorruptError unless the bytes contain exactly the keys of `rows`."""
    with _corrupt_errors(f"{name} could not be read back"):
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        is_same = file.metadata.num_rows == rows.num_rows
        if is_same and table.key:
            use_threads = len(content) > THREADED_BYTES
            keys = file.read(columns=list(table.key), use_threads=use_threads)
            is_same = keys.equals(rows.select(list(table.key)))
    if not is_same:
        raise CorruptError(f"{name} read back differs from what was written")


def conform(table: Table, rows: pa.Table) -> pa.Table:
    """Return rows in the table's exact schema. Casts lose nothing.

    Raise SchemaError with table, column and type if a column does not fit.
    """
    if rows.schema.equals(table.schema) and not any(
        _lacks_value(column, rows[column.name]) for column in table.columns
    ):
        return rows.replace_schema_metadata(table.schema.metadata)
    unknown = [name for name in rows.schema.names if name not in table.column_names]
    if unknown:
        raise SchemaError(f"{table.name}.{unknown[0]}: there is no such column")
    columns = [_conform_column(table, column, rows) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def sort(table: Table, rows: pa.Table) -> pa.Table:
    """Return rows sorted by key; raise SchemaError if a key occurs twice."""
    if not table.key or rows.num_rows < 2:
        return rows
    rows = rows.sort_by([(name, "ascending") for name in table.key])
    if has_repeated_key(table, rows):
        raise SchemaError(f"{table.name}: the key ({', '.join(table.key)}) occurs twice")
    return rows


def is_sorted(table: Table, rows: pa.Table) -> bool:
    """Return whether rows are sorted by key."""
    keys = rows.select(list(table.key))
    return not table.key or keys.equals(keys.sort_by([(name, "ascending") for name in table.key]))


def has_repeated_key(table: Table, rows: pa.Table) -> bool:
    """Return whether a key occurs twice in sorted rows."""
    repeated = None
    for name in table.key:
        column = rows[name].combine_chunks()
        same = pc.equal(column.slice(1), column.slice(0, len(column) - 1))
        repeated = same if repeated is None else pc.and_(repeated, same)
    return repeated is not None and bool(pc.any(repeated).as_py())


def _conform_column(table: Table, column: Column, rows: pa.Table) -> pa.ChunkedArray:
    name = f"{table.name}.{column.name}"
    if column.name not in rows.schema.names:
        raise SchemaError(f"{name}: the column is missing")
    values = rows[column.name]
    try:
        values = values if values.type == column.type else _cast(values, column.type)
    except MemoryError:
        raise
    except (pa.ArrowException, TypeError):
        raise SchemaError(f"{name}: {values.type} is no {column.type}") from None
    if _lacks_value(column, values):
        raise SchemaError(f"{name}: null, but a {column.type} is required")
    return values


def _cast(values: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """Cast without loss; raise TypeError for text as a number or time, or the reverse."""
    if _kind(values.type) not in ("null", _kind(target)):
        raise TypeError
    return values.cast(target)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_timestamp(kind):
        return "time" if kind.tz is not None else "local time"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_kind(kind.value_type)}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    return "whole number" if pa.types.is_integer(kind) else str(kind)


def _lacks_value(column: Column, values: pa.ChunkedArray) -> bool:
    return column.required and values.null_count > 0


def _upgrade(table: Table, rows: pa.Table) -> pa.Table:
    """Return a file's rows in the current schema.

    Columns are found by their former names too. New columns are null, or have a default if they are
    required. Unknown columns are dropped.
    """
    if rows.schema.equals(table.schema):
        return rows.replace_schema_metadata(table.schema.metadata)
    rows = rename_former_columns(table, rows)
    columns = [
        rows[column.name] if column.name in rows.schema.names else _fill(column, rows.num_rows)
        for column in table.columns
    ]
    return conform(table, pa.table(columns, names=list(table.column_names)))


def rename_former_columns(table: Table, rows: pa.Table) -> pa.Table:
    """Return rows with the current names of the table's columns."""
    names = {
        column.former_name: column.name
        for column in table.columns
        if column.name not in rows.schema.names
    }
    return rows.rename_columns([names.get(name, name) for name in rows.schema.names])


def _fill(column: Column, count: int) -> pa.Array:
    if not column.required:
        return pa.nulls(count, column.type)
    return pa.array([DEFAULTS[_kind(column.type)]] * count, column.type)
