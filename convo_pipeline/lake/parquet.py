"""Tables to Parquet bytes and back: exact schema, deterministic, checked. It knows no path.

The same rows give the same bytes: zstd, page checksums, no time of writing. The file's metadata carries the schema
version, whose day it is (`place`) and, for derived tables, `source`: the digest of the raw files it was made from.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convo_pipeline.errors import CorruptError, SchemaError
from convo_pipeline.schema import SCHEMA_VERSION, VERSION_KEY, Column, Table

SOURCE_KEY = b"convo_pipeline.source"
PLACE_KEY = b"convo_pipeline.place"
SEAL_CHARACTERS = 16
"""Of a place's hash, beside it: a footer has no checksum, and damage must not look like another partition's file."""
NEUTRAL: dict[str, object] = {
    "text": "",
    "whole number": 0,
    "time": 0,
    "bool": False,
    "double": 0.0,
    "list of text": [],
}
"""What a required column holds for rows written before it existed."""
ROWS_PER_GROUP = 131_072
THREADED_BYTES = 4 * 1024 * 1024
"""A smaller file is read before other threads have begun."""


@dataclass(frozen=True)
class FileContent:
    """What a file holds: its rows in today's schema, the version it was written in, its source."""

    rows: pa.Table
    row_count: int
    version: int
    source: str
    place: str = ""
    """Of which partition it was written, as its writer said; empty where that cannot be told."""
    is_exact: bool = True
    """Whether the file itself has today's columns and types."""
    misfit: SchemaError | None = None
    """Why its rows cannot be read in today's schema; then `rows` is empty."""

    def fitting_rows(self) -> pa.Table:
        """Return the rows, or raise the SchemaError that says why they cannot be read."""
        if self.misfit:
            raise self.misfit
        return self.rows


def encode(table: Table, rows: pa.Table, source: str = "", place: str = "") -> bytes:
    """Return the bytes of a data file; rows that were read from one, with its source and place, give its bytes again."""
    told = {SOURCE_KEY: source.encode(), PLACE_KEY: _sealed(place)}
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()} | {
        key: value for key, value in told.items() if value
    }
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(rows.columns, schema=table.schema.with_metadata(metadata)),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=[
            column.name
            for column in table.columns
            if column.name not in ("payload", "message_id", "text")
        ],
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decode(table: Table, content: bytes, name: str) -> FileContent:
    """Read a data file's bytes; a CorruptError names the file."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        stored = file.read(use_threads=len(content) > THREADED_BYTES)
        metadata = file.schema_arrow.metadata or {}
        version, source = (
            int(metadata.get(VERSION_KEY, b"1")),
            metadata.get(SOURCE_KEY, b"").decode(),
        )
        is_exact = stored.schema.equals(table.schema)
        return _content(table, stored, version, source, _read_place(metadata), is_exact)
    except MemoryError:  # Arrow's own is an ArrowException as well, and says nothing about the file
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptError(f"{name} is damaged: {type(error).__name__}") from None


def read_version(content: bytes) -> int | None:
    """Read the schema version off a data file's footer, None where that cannot be read."""
    try:
        metadata = pq.read_schema(pa.BufferReader(content)).metadata or {}
        return int(metadata.get(VERSION_KEY, b"1"))
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return None


def read_place(content: bytes) -> str:
    """Read off a data file's footer of which partition it was written; empty where that cannot be told."""
    try:
        return _read_place(pq.read_schema(pa.BufferReader(content)).metadata or {})
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return ""


def _sealed(place: str) -> bytes:
    return (
        f"{hashlib.sha256(place.encode()).hexdigest()[:SEAL_CHARACTERS]} {place}".encode()
        if place
        else b""
    )


def _read_place(metadata: Mapping[bytes, bytes]) -> str:
    place = metadata.get(PLACE_KEY, b"").decode("utf-8", "replace")[SEAL_CHARACTERS + 1 :]
    return place if place and _sealed(place) == metadata[PLACE_KEY] else ""


def decode_whole_columns(table: Table, content: bytes) -> pa.Table:
    """Return those columns of a damaged file whose every page is whole; none where its footer cannot be read.

    A page has a checksum, so that damage to one costs its column alone. The footer, which has none, says where pages are: what
    it misleads to is no page or has another checksum, type or length. (Of 30,000 flips none gave a wrong value.)
    """
    whole: dict[str, pa.ChunkedArray] = {}
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        row_count = file.metadata.num_rows
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return pa.table(whole)
    for name in table.column_names:
        try:
            values = file.read(columns=[name], use_threads=False)[name]
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError):
            continue
        if values.type == table.schema.field(name).type and len(values) == row_count:
            whole[name] = values
    return pa.table(whole)


def _content(
    table: Table, stored: pa.Table, version: int, source: str, place: str, is_exact: bool
) -> FileContent:
    try:
        return FileContent(
            _upgrade(table, stored), stored.num_rows, version, source, place, is_exact
        )
    except SchemaError as misfit:
        return FileContent(
            table.schema.empty_table(), stored.num_rows, version, source, place, is_exact, misfit
        )


def is_as_written(table: Table, content: bytes) -> bool:
    """Say whether these are exactly the bytes that their rows give: a file of ours, and whole to the last byte.

    One of an earlier version, or written by another version of the Parquet library, cannot be told by this.
    """
    try:
        found = decode(table, content, "")
    except CorruptError:
        return False
    is_up_to_date = found.is_exact and found.version == SCHEMA_VERSION
    return is_up_to_date and encode(table, found.rows, found.source, found.place) == content


def check_written(table: Table, rows: pa.Table, content: bytes, name: str) -> None:
    """Raise CorruptError unless the bytes hold exactly the keys of `rows`."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        keys = (
            file.read(columns=list(table.key), use_threads=len(content) > THREADED_BYTES)
            if table.key
            else None
        )
        row_count = file.metadata.num_rows
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{name} could not be read back: {type(error).__name__}") from None
    if row_count != rows.num_rows or (
        keys is not None and not keys.equals(rows.select(list(table.key)))
    ):
        raise CorruptError(f"{name} read back differs from what was written")


def conform(table: Table, rows: pa.Table) -> pa.Table:
    """Return `rows` in the table's exact schema; lossless casts only, a SchemaError names table, column and type."""
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
    """Return `rows` sorted by key; a SchemaError says that a key occurs twice."""
    if not table.key or rows.num_rows < 2:
        return rows
    rows = rows.sort_by([(name, "ascending") for name in table.key])
    if has_repeated_key(table, rows):
        raise SchemaError(f"{table.name}: the key ({', '.join(table.key)}) occurs twice")
    return rows


def is_sorted(table: Table, rows: pa.Table) -> bool:
    """Say whether the rows are in the order of their key."""
    keys = rows.select(list(table.key))
    return not table.key or keys.equals(keys.sort_by([(name, "ascending") for name in table.key]))


def has_repeated_key(table: Table, rows: pa.Table) -> bool:
    """Say whether neighbours of a sorted table share their key."""
    repeated = None
    for name in table.key:
        column = rows[name].combine_chunks()
        same = pc.equal(column.slice(1), column.slice(0, len(column) - 1))
        repeated = same if repeated is None else pc.and_(repeated, same)
    return repeated is not None and bool(pc.any(repeated).as_py())


def _conform_column(table: Table, column: Column, rows: pa.Table) -> pa.ChunkedArray:
    if column.name not in rows.schema.names:
        raise SchemaError(f"{table.name}.{column.name}: the column is missing")
    values = rows[column.name]
    try:
        values = values if values.type == column.type else _cast(values, column.type)
    except MemoryError:
        raise
    except (pa.ArrowException, TypeError):
        raise SchemaError(
            f"{table.name}.{column.name}: {rows[column.name].type} is no {column.type}"
        ) from None
    if _lacks_value(column, values):
        raise SchemaError(f"{table.name}.{column.name}: null, but a {column.type} is required")
    return values


def _cast(values: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """Cast without loss; text is never read as a number or time, nor the other way round."""
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
    """Return a stored file's rows in today's schema.

    A column the file lacks is null, or neutral where a value is required; a column we do not know is left out.
    """
    if rows.schema.equals(table.schema):
        return rows.replace_schema_metadata(table.schema.metadata)
    columns = [
        rows[column.name] if column.name in rows.schema.names else _fill(column, rows.num_rows)
        for column in table.columns
    ]
    return conform(table, pa.table(columns, names=list(table.column_names)))


def _fill(column: Column, count: int) -> pa.Array:
    if not column.required:
        return pa.nulls(count, column.type)
    return pa.array([NEUTRAL[_kind(column.type)]] * count, column.type)
