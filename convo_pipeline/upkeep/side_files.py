"""What lies beside the partitions and is not what was written: compacted months, receipts and their key, the state."""

from collections.abc import Iterator
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.floors import FLOORS, read_floors
from convo_pipeline.lake.segments import (
    COMPACT,
    INDEX_FILE,
    Key,
    Segment,
    month_of,
    read_index,
    segment_parts,
)
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import RECEIPTS, read_suppression
from convo_pipeline.schema import TABLES

Found = tuple[str, str, str]
"""A kind of `verify`'s findings, where, and what was found."""


def check_side_files(store: Store, *, is_quick: bool) -> Iterator[Found]:
    """Yield what is off; of compactions `is_quick` compares names and sizes alone, and looks at nothing else."""
    for name in store.backend.list_names((COMPACT,)):
        if name in TABLES:
            yield from _check_compaction(store, name, is_quick=is_quick)
    if not is_quick:
        yield from _check_receipts(store)
        yield from _check_floors(store)
        yield from (
            ("state", str(store.state.path), text) for text in store.state.database.defects()
        )


def _check_compaction(store: Store, table: str, *, is_quick: bool) -> Iterator[Found]:
    segments, _ = read_index(store.backend, table)
    if not segments and (lost := _count_segments(store, table)):
        yield (
            "compaction",
            "/".join(segment_parts(table, INDEX_FILE)),
            f"it names none of the {lost} files beside it",
        )
    listed = {piece.key: piece.source for segment in segments for piece in segment.pieces}
    for line in () if store.backend.is_shared else store.state.compactions():
        if line.table == table and listed.get((line.account, line.month)) != line.source:
            where = "/".join(segment_parts(table, INDEX_FILE))
            yield (
                "compaction",
                where,
                f"it does not name {line.month} of {line.account} as it was made",
            )
    for segment in segments:
        text = (
            _differs_in_size(store, table, segment) if is_quick else _differs(store, table, segment)
        )
        if text:
            yield "compaction", "/".join(segment_parts(table, segment.name)), text


def _count_segments(store: Store, table: str) -> int:
    return sum(name.endswith(".parquet") for name in store.backend.list_names((COMPACT, table)))


def _differs_in_size(store: Store, table: str, segment: Segment) -> str | None:
    mark = store.backend.version(segment_parts(table, segment.name))
    if mark is None:
        return "there is no file"
    return (
        None
        if mark.byte_count == segment.byte_count
        else f"{mark.byte_count} bytes instead of {segment.byte_count}"
    )


def _differs(store: Store, table: str, segment: Segment) -> str | None:
    text = _differs_in_size(store, table, segment)
    if text:
        return text
    content, _ = store.backend.read(segment_parts(table, segment.name)) or (b"", None)
    if not segment.is_of(content):
        return f"its hash is not {segment.sha256[:8]}…"
    if _days_of(content) != {piece.key: piece.day_count for piece in segment.pieces}:
        return "it holds other months or days than the index says"
    return None


def _days_of(content: bytes) -> dict[Key, int]:
    """Return how many days of each account's months a segment holds."""
    days = (
        pq.read_table(pa.BufferReader(content), columns=["account", "date"])
        .group_by(["account", "date"])
        .aggregate([])
    )
    found: dict[Key, int] = {}
    for account, day in zip(
        days["account"].to_pylist(), pc.cast(days["date"], pa.date32()).to_pylist(), strict=True
    ):
        assert isinstance(day, date)
        found[account, month_of(day)] = found.get((account, month_of(day)), 0) + 1
    return found


def _check_receipts(store: Store) -> Iterator[Found]:
    for name in store.backend.list_names((RECEIPTS,)):
        try:
            read_suppression(store, name.removeprefix("account="))
        except StoreError as error:
            yield "erasure", f"{RECEIPTS}/{name}", str(error)


def _check_floors(store: Store) -> Iterator[Found]:
    try:
        read_floors(store)
    except StoreError as error:
        yield "retention", FLOORS[0], str(error)
