"""First day that each table still holds after retention removed older rows, stored in `<root>/.retention.json`."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import date

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW, TABLES
from convo_pipeline.storage.backend import write_file

FLOORS = (".retention.json",)
SEAL = "sha256"
"""Beside the tables' days, a hash of these: a day that was changed by damage would close or open others."""
RAW_NAMES = tuple(table.name for table in RAW)


def read_floors(store: Store) -> dict[str, date]:
    """Return the first day that each table holds since rows last left; empty if none ever did."""
    found = store.backend.read(FLOORS)
    if found is None:
        return {}
    try:
        value = load_json(found[0])
        assert isinstance(value, dict)
        written = value.pop(SEAL, None)
        assert written in (None, _seal(value))
        return {name: date.fromisoformat(day) for name, day in value.items()}
    except (ValueError, TypeError, AssertionError):
        raise StoreError(
            f"{store.backend.location(FLOORS)} cannot be read: run `convo-pipeline expire`"
        ) from None


def _seal(days: Mapping[str, str]) -> str:
    return hashlib.sha256(dump_json(days)).hexdigest()


def raw_floor(store: Store) -> date:
    """Return the first day whose raw rows are kept: days before it are closed."""
    return read_floors(store).get(RAW_NAMES[0], date.min)


def whole_since(store: Store) -> date:
    """Return the first day that no table has left: earlier ones cannot add up."""
    floors = read_floors(store)
    return max((floors[name] for name in TABLES if name in floors), default=date.min)


def read_floors_or_none(store: Store) -> dict[str, date] | None:
    """Return the floors, None where their file is damaged: it is then written anew."""
    with suppress(StoreError):
        return read_floors(store)
    return None


def write_floors(store: Store, floors: Mapping[str, date]) -> None:
    """Store the first day that each table holds."""
    days = {name: str(day) for name, day in sorted(floors.items())}
    write_file(store.backend, FLOORS, dump_json(days | {SEAL: _seal(days)}))
