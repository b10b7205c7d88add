"""First day that each table keeps after retention removed rows: `<root>/.retention.json`."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import date

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW, TABLES, current_name
from convo_pipeline.storage.backend import write_file

RETENTION_FILE = (".retention.json",)
HASH_KEY = "sha256"
"""Key of a hash of the days, because a damaged day would hide rows or derive a removed day."""
RAW_NAMES = tuple(table.name for table in RAW)


def read_first_days(store: Store) -> dict[str, date]:
    """Return the first day that each table keeps; empty if no row was ever removed.

    Raise StoreError if the file is damaged.
    """
    file = store.backend.read(RETENTION_FILE)
    if file is None:
        return {}
    try:
        value = load_json(file.content)
        assert isinstance(value, dict)
        stored_hash = value.pop(HASH_KEY, None)
        assert stored_hash in (None, _hash(value))
        return {current_name(name): date.fromisoformat(day) for name, day in value.items()}
    except (ValueError, TypeError, AssertionError):
        raise StoreError(
            f"{store.backend.location(RETENTION_FILE)} cannot be read: run `convo-pipeline expire`"
        ) from None


def read_first_days_or_none(store: Store) -> dict[str, date] | None:
    """Return the first days; None if their file is damaged."""
    with suppress(StoreError):
        return read_first_days(store)
    return None


def write_first_days(store: Store, first_days: Mapping[str, date]) -> None:
    """Store the first day that each table keeps."""
    days = {name: str(day) for name, day in sorted(first_days.items())}
    write_file(store.backend, RETENTION_FILE, dump_json(days | {HASH_KEY: _hash(days)}))


def first_raw_day(store: Store) -> date:
    """Return the first day that the raw tables keep. Earlier days are not stored or derived."""
    return read_first_days(store).get(RAW_NAMES[0], date.min)


def first_complete_day(store: Store) -> date:
    """Return the first day that all tables keep. Tables of earlier days do not balance."""
    first_days = read_first_days(store)
    return max((first_days[name] for name in TABLES if name in first_days), default=date.min)


def _hash(days: Mapping[str, str]) -> str:
    return hashlib.sha256(dump_json(days)).hexdigest()
