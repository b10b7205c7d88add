"""Sightings of one run sorted by UTC date on disk, so that memory stays flat however large the inbox.

It knows Arrow files and dates; it does not know the store. Bucket files stand inside the spool folder; they are scratch, made anew when a run is stored again.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from convo_pipeline.base.times import DAY_US, day_of
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.observations import MessageObservation

FLUSH_ROWS = 5_000
OBSERVATION_SCHEMA = pa.schema(
    [
        pa.field("conversation_id", pa.string()),
        pa.field("message_id", pa.string()),
        pa.field("created_us", pa.int64()),
        pa.field("created_at_source", pa.string()),
        pa.field("rank", pa.int64()),
        pa.field("at_us", pa.int64()),
        pa.field("detail_status", pa.string()),
        pa.field("error_code", pa.int64()),
        pa.field("error_subcode", pa.int64()),
        pa.field("fields", pa.string()),
        pa.field("payload", pa.string()),
    ]
)


@dataclass
class Buckets:
    """Sightings by date: add them all, then `read` one date at a time.

    Each flush is one Arrow file with one record batch a date, so the number of open files does not grow
    with the number of dates.
    """

    folder: Path
    _waiting: list[MessageObservation] = field(default_factory=list)
    _places: dict[date, list[tuple[Path, int]]] = field(default_factory=dict)
    _file_count: int = 0

    def __post_init__(self) -> None:
        with _refusals(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for left in self.folder.iterdir():
                left.unlink()

    def add(self, observation: MessageObservation) -> None:
        """Put a observation under the day of its time."""
        self.extend((observation,))

    def extend(self, observations: Sequence[MessageObservation]) -> None:
        """Put each observation under the day of its time."""
        self._waiting += observations
        if len(self._waiting) >= FLUSH_ROWS:
            self._flush()

    def days(self) -> list[date]:
        """Return the dates that have observations, oldest first."""
        self._flush()
        return sorted(self._places)

    def read(self, day: date) -> pa.Table:
        """Return the day's observations in order of arrival."""
        self._flush()
        batches = [_read_batch(path, index) for path, index in self._places.get(day, [])]
        return pa.Table.from_batches(batches, schema=OBSERVATION_SCHEMA)

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._file_count += 1
        path = self.folder / f"{self._file_count:06d}.arrow"
        with _refusals(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with (
                open(descriptor, "wb") as sink,
                pa.ipc.new_file(sink, OBSERVATION_SCHEMA) as writer,
            ):
                for index, (day, batch) in enumerate(_by_day(_as_batch(self._waiting))):
                    writer.write_batch(batch)
                    self._places.setdefault(day, []).append((path, index))
        self._waiting.clear()


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write the spool {path}: {error.strerror or type(error).__name__}"
        ) from None


def _read_batch(path: Path, index: int) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(index)


def _as_batch(observations: Sequence[MessageObservation]) -> pa.RecordBatch:
    columns = zip(*observations, strict=True)
    arrays = [
        _as_array(column, field) for column, field in zip(columns, OBSERVATION_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=OBSERVATION_SCHEMA)


def _as_array(column: Sequence[object], field: pa.Field) -> pa.Array:
    """Payloads are our own JSON, so their UTF-8 needs no checking."""
    return (
        pa.array(column, pa.binary()).view(field.type)
        if field.name == "payload"
        else pa.array(column, field.type)
    )


def _by_day(batch: pa.RecordBatch) -> Iterator[tuple[date, pa.RecordBatch]]:
    """Split rows by the day of their time, each day's rows in order of arrival."""
    times = batch.column("created_us").to_numpy()
    days = times // DAY_US
    order = np.argsort(days, kind="stable")
    starts = np.flatnonzero(np.diff(days[order], prepend=days[order[0]] - 1))
    batch = batch.take(pa.array(order))
    for start, stop in zip(starts, [*starts[1:], len(days)], strict=True):
        yield day_of(int(times[order[start]])), batch.slice(start, stop - start)
