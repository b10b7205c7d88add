"""Sightings of one run sorted by UTC date on disk, so that memory stays flat however large the inbox.

It knows Arrow files and dates; it does not know the store. Bucket files stand inside the spool folder; they are scratch, made anew when a run is stored again.
"""

import os
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa

from convo_pipeline.extract.rows import Sighting, day_of

FLUSH_ROWS = 20_000
SIGHTINGS = pa.schema(
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
    """Sightings by date: `add` them all, then `read` one date at a time.

    Each flush is one Arrow file with one record batch a date, so the number of open files does not grow
    with the number of dates.
    """

    folder: Path
    _waiting: dict[date, list[Sighting]] = field(default_factory=dict)
    _waiting_count: int = 0
    _places: dict[date, list[tuple[Path, int]]] = field(default_factory=dict)
    _file_count: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for left in self.folder.iterdir():
            left.unlink()

    def add(self, sighting: Sighting, day: date | None = None) -> None:
        """Put a sighting under the day of its time, or under the day where its row stands already."""
        self._waiting.setdefault(day or day_of(sighting.created_us), []).append(sighting)
        self._waiting_count += 1
        if self._waiting_count >= FLUSH_ROWS:
            self._flush()

    def days(self) -> list[date]:
        """Return the dates that have sightings, oldest first."""
        return sorted({*self._waiting, *self._places})

    def read(self, day: date) -> pa.Table:
        """Return the day's sightings in order of arrival."""
        batches = [_read_batch(path, index) for path, index in self._places.get(day, [])]
        if day in self._waiting:
            batches.append(_as_batch(self._waiting[day]))
        return pa.Table.from_batches(batches, schema=SIGHTINGS)

    def _flush(self) -> None:
        self._file_count += 1
        path = self.folder / f"{self._file_count:06d}.arrow"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as sink, pa.ipc.new_file(sink, SIGHTINGS) as writer:
            for index, (day, sightings) in enumerate(self._waiting.items()):
                writer.write_batch(_as_batch(sightings))
                self._places.setdefault(day, []).append((path, index))
        self._waiting.clear()
        self._waiting_count = 0


def _read_batch(path: Path, index: int) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).get_batch(index)


def _as_batch(sightings: list[Sighting]) -> pa.RecordBatch:
    columns = zip(*sightings, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SIGHTINGS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SIGHTINGS)
