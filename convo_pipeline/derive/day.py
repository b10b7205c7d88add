"""Rebuild the derived tables of one day when its raw tables have changed.

The `source` of a derived file is a digest of what it is made from: the day's raw files, the
account's own id, `DERIVATION_VERSION` and the schema version. `coverage` has a row for every day
with raw rows and is written last, so a day whose coverage has the right source is complete.

A derivation never removes content. Where damage removed raw rows, the day keeps its derived tables
until a person restores the raw file or accepts the loss.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.base.threads import rare_garbage_collection
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.first_days import read_first_days
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.salvage import count_lost, salvage_day
from convo_pipeline.lake.store import Store, digest_raw
from convo_pipeline.state.records import Partition
from convo_pipeline.storage.layout import table_of
from convo_pipeline.tables.directions import count_unsure
from convo_pipeline.tables.normalize import RawDay, count_coverage, normalize

DERIVATION_VERSION = 6
"""Increase it when the same raw rows give other derived rows: all days are then derived again."""
RAW = tuple(table.name for table in schema.RAW)
DERIVED = tuple(table.name for table in (*schema.NORMALISED, schema.COVERAGE))
_COVERAGE = schema.COVERAGE.name
_KEEP_TASK = "keep derived tables"
"""Task in `State.days_done`: the day keeps its derived tables while this source is wanted."""
_REPEATS = 3
"""How often a day is derived again at once because another machine changed its raw tables."""


def stale_days(store: Store, account: str) -> list[date]:
    """Return the sorted dates whose derived tables do not match their raw tables."""
    first_day = _first_day(store)
    listed = {table: store.days(table, account) for table in (*RAW, *DERIVED)}
    records = store.partitions.records(listed, account)
    days = {day for days in listed.values() for day in days if day >= first_day}
    return sorted(days - _current_days(store, account, days, records))


def kept_days(store: Store, account: str) -> list[date]:
    """Return the sorted days that keep their derived tables because raw rows were lost."""
    return [
        day
        for day, source in sorted(store.state.days_done(_KEEP_TASK, account).items())
        if source == wanted_source(store, account, day)
    ]


def accept_loss(store: Store, account: str) -> list[date]:
    """Derive the `kept_days` again although content is lost; return these days."""
    days = kept_days(store, account)
    for day in days:
        _derive(store, account, day, may_lose=True)
    store.state.remove_days_done(_KEEP_TASK, account, days)
    return days


def derive_day(store: Store, account: str, day: date, *, is_forced: bool = False) -> list[Commit]:
    """Replace the derived tables of a day, unless all are current or content would be lost.

    In a bucket another machine can change the raw tables at the same time. Then it derives again.
    """
    if day < _first_day(store) or (not is_forced and _is_current(store, account, day)):
        return _unchanged(store, account, day)
    commits = _derive(store, account, day)
    for _ in range(_REPEATS if store.backend.is_shared else 0):
        store.partitions.refresh_versions(account, day)
        if _is_current(store, account, day):
            break
        commits = _derive(store, account, day)
    return commits


def is_derived(store: Store, account: str, day: date) -> bool:
    """Return whether the derived tables of a day are current, or too old to be derived again."""
    return day < _first_day(store) or _is_current(store, account, day)


def current_coverage(store: Store, account: str, day: date) -> pa.Table:
    """Return the `coverage` of a day's raw tables: the stored row, or a new one if it is stale."""
    if is_derived(store, account, day):
        return store.read(_COVERAGE, account, day)
    return count_coverage(read_raw_day(store, account, day))


def count_unsure_directions(store: Store, account: str, day: date) -> int:
    """Return how many messages of a day have a sender and no direction."""
    names = ["sender_id", "direction"]
    return count_unsure(read_columns(store, schema.MESSAGES, account, day, names))


def _first_day(store: Store) -> date:
    """Return the first day that can be derived: the raw rows of older days have expired."""
    first_days = read_first_days(store)
    return max(first_days.get(table, date.min) for table in (schema.RAW[0].name, _COVERAGE))


def _derive(store: Store, account: str, day: date, may_lose: bool = False) -> list[Commit]:
    first_days = read_first_days(store)
    with store.lock_derivation(account), rare_garbage_collection():
        salvage_day(store, account, day)
        source = wanted_source(store, account, day)
        raw = read_raw_day(store, account, day)
        normalised = normalize(raw)
        tables = normalised | {_COVERAGE: count_coverage(raw, normalised)}
        if not may_lose and count_lost(store, account, day, tables, raw.message_details):
            store.state.save_days_done(_KEEP_TASK, account, {day: source})
            return _unchanged(store, account, day)
        for table in DERIVED:
            if day < first_days.get(table, date.min):
                tables[table] = schema.TABLES[table].schema.empty_table()
        commits = [store.replace(table, account, day, tables[table], source) for table in DERIVED]
    if any(each.date == day for each in store.state.suspect_files(account)):
        store.state.clear_suspects(account, DERIVED, day)
    return commits


def wanted_source(store: Store, account: str, day: date) -> str:
    """Return the source that the derived tables of a day must have."""
    identity = store.state.identity(account)
    own_id = identity.own_id if identity else None
    return derivation_source(store.raw_digest(account, day), own_id)


def derivation_source(
    raw_digest: str, own_id: str | None = None, derivation_version: int = DERIVATION_VERSION
) -> str:
    """Return the source of derived tables: a digest of everything that they depend on."""
    parts = f"{raw_digest}:{own_id or ''}:{derivation_version}:{schema.SCHEMA_VERSION}"
    return hashlib.sha256(parts.encode()).hexdigest()


def read_raw_day(store: Store, account: str, day: date) -> RawDay:
    """Read the raw tables of a day, and the account's platform, Page and own id."""
    conversations, *others = (store.read(table.name, account, day) for table in schema.RAW)
    identity = store.state.identity(account)
    platform, page_id = (identity.platform, identity.page_id) if identity else (None, None)
    if len(conversations):
        platform, page_id = (conversations[name][0].as_py() for name in ("platform", "page_id"))
    own_id = (identity.own_id or "") if identity else None
    message_ids, message_details, rejects = others
    return RawDay(platform, page_id, conversations, message_ids, message_details, rejects, own_id)


def _is_current(store: Store, account: str, day: date) -> bool:
    partitions = store.partitions
    tables = map(table_of, (*RAW, *DERIVED))
    found = {(table.name, day): partitions.record(table, account, day) for table in tables}
    records = {key: record for key, record in found.items() if record}
    return bool(_current_days(store, account, [day], records))


def _current_days(
    store: Store,
    account: str,
    days: Iterable[date],
    records: Mapping[tuple[str, date], Partition],
) -> set[date]:
    """Return those of the days whose derived tables match their raw tables, by these records.

    A day with a damaged file that was not derived again is not current.
    """
    identity = store.state.identity(account)
    own_id = identity.own_id if identity else None
    suspects = {each.date for each in store.state.suspect_files(account) if each.table in DERIVED}
    kept = store.state.days_done(_KEEP_TASK, account)
    current = set()
    for day in set(days) - suspects:
        raw = {table: records.get((table, day)) for table in RAW}
        wanted = derivation_source(digest_raw(raw), own_id)
        derived = {table: records.get((table, day)) for table in DERIVED}
        sources = {table: record and record.source for table, record in derived.items()}
        if any(raw.values()):
            is_current = sources[_COVERAGE] == wanted and set(sources.values()) <= {wanted, None}
        else:
            is_current = not any(sources.values())
        if is_current or kept.get(day) == wanted:
            current.add(day)
    return current


def _unchanged(store: Store, account: str, day: date) -> list[Commit]:
    """Return the stored derived tables as commits that changed nothing."""
    commits = []
    for table in DERIVED:
        record = store.state.partition(table, account, day)
        commits.append(
            Commit.of(record, is_changed=False)
            if record
            else Commit(table, account, day, 0, 0, "", is_changed=False)
        )
    return commits
