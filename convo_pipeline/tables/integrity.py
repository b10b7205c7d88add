"""Find invalid rows: duplicate keys, rows of another day, rows without a parent row. Pure."""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.schema import Table


def count_duplicates(table: Table, rows: pa.Table) -> int:
    """Return the number of duplicate rows in a partition.

    A table without a key has one row per partition; all other rows are duplicates.
    """
    if not table.key:
        return max(0, int(rows.num_rows) - 1)
    return int(rows.num_rows - rows.group_by(list(table.key)).aggregate([]).num_rows)


def find_misdated(rows: pa.Table, day: date) -> pa.Table:
    """Return the rows whose `created_at` is not on the UTC day `day`."""
    return rows.filter(pc.not_equal(pc.cast(rows["created_at"], pa.date32()), day))


def count_orphans(rows: pa.Table, known: pa.Table, key: Sequence[str]) -> int:
    """Return the number of distinct keys of `rows` that have no row in `known`."""
    wanted = rows.select(list(key)).group_by(list(key)).aggregate([])
    found = wanted.join(
        known.select(list(key)), keys=list(key), join_type="left anti", use_threads=False
    )
    return int(found.num_rows)
