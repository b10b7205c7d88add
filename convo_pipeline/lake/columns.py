"""Read some columns of a partition: for those who count keys and times and have no use for texts."""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from convo_pipeline.lake.files import Store
from convo_pipeline.lake.layout import DATA_FILE
from convo_pipeline.schema import Table


def read_columns(store: Store, table: Table, account: str, day: date, names: Sequence[str]) -> pa.Table:
    """Return these columns of a partition, no rows if it has no file; a StoreError names a damaged one.

    Only what is asked for is decoded. A file of an earlier version or a damaged one is left to `Store.read`.
    """
    found = store.place.read_marked((table.name, f"account={account}", f"date={day}", DATA_FILE))
    if found is None:
        return table.schema.empty_table().select(names)
    try:
        return pq.ParquetFile(pa.BufferReader(found[0])).read(list(names), use_threads=False).select(names)
    except (pa.ArrowException, KeyError, OSError):
        return store.read(table.name, account, day).select(names)
