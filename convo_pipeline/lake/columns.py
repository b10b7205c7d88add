"""Read some columns of a partition without decoding the others."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.lake.store import Store
from convo_pipeline.schema import Table
from convo_pipeline.storage.layout import file_parts


def read_columns(
    store: Store, table: Table, account: str, day: date, names: Sequence[str]
) -> pa.Table:
    """Return columns of a partition, no rows if it has no file; raise as `Store.read` does.

    A file with the recorded hash is whole, so its other columns are not decoded. Any other file is
    read by `Store.read`.
    """
    file = store.backend.read(file_parts(table, account, day))
    record = store.state.partition(table.name, account, day)
    if file and record and hashlib.sha256(file.content).hexdigest() == record.sha256:
        with suppress(pa.ArrowInvalid, OSError):  # `Store.read` names a file that cannot be read
            parquet = pq.ParquetFile(pa.BufferReader(file.content))
            if all(parquet.schema_arrow.get_field_index(name) >= 0 for name in names):
                rows = parquet.read(list(names), use_threads=False).select(names)
                if rows.schema.equals(pa.schema([table.schema.field(name) for name in names])):
                    return rows
    return store.read(table.name, account, day).select(names)
