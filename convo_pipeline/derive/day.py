"""Make the derived tables of a partition from its raw ones, where they are not what the raw ones say now.

Glue between the lake and the pure tables. What a derived file was made from is its `source`: a digest of the day's raw
files, of `DERIVATION_VERSION` and of the schema's version. `coverage` has a row for every day with raw rows and is
written last, so a day whose coverage has the right source is whole.

A derivation never removes content: where raw rows were lost by damage, the day keeps its derived tables until a person
restores the raw file or accepts the loss.
"""

import hashlib
from datetime import date

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.base.threads import rare_garbage_collection
from convo_pipeline.lake.first_days import read_first_days
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.salvage import count_lost, salvage_day
from convo_pipeline.lake.store import Store
from convo_pipeline.tables.coverage import count_coverage
from convo_pipeline.tables.normalize import RawDay, normalize

DERIVATION_VERSION = 2
"""Raise it whenever the same raw rows give other derived rows: every stored day is then derived again."""

DERIVED = tuple(table.name for table in (*schema.NORMALISED, schema.COVERAGE))
_LAST = schema.COVERAGE.name
KEPT = "keep derived tables"
"""Task in `State.days_done`: the day keeps its derived tables while its raw tables have this digest."""
LOOKS = 3
"""How often a day is made again because another machine changed its raw tables meanwhile; then the next run does it."""


def stale_days(store: Store, account: str) -> list[date]:
    """Return the dates whose derived tables are not what their raw ones say now, sorted."""
    tables = [table.name for table in schema.RAW] + list(DERIVED)
    first_day = _first_day(store)
    days = {day for table in tables for day in store.days(table, account)}
    return [
        day for day in sorted(days) if day >= first_day and not _is_current(store, account, day)
    ]


def kept_days(store: Store, account: str) -> list[date]:
    """Return the days that keep their derived tables because the raw tables lost content, sorted."""
    return [
        day
        for day, source in sorted(store.state.days_done(KEPT, account).items())
        if source == derivation_source(store.raw_digest(account, day))
    ]


def accept_loss(store: Store, account: str) -> list[date]:
    """Derive the days of `kept_days` although messages leave the derived tables; return these days."""
    days = kept_days(store, account)
    for day in days:
        _derive(store, account, day, may_lose=True)
    store.state.remove_days_done(KEPT, account, days)
    return days


def derive_day(store: Store, account: str, day: date, *, is_forced: bool = False) -> list[Commit]:
    """Replace the derived tables of a partition; none is touched where all are current already.

    None is touched either where content would be lost (see `kept_days`).
    Another machine may have merged and derived meanwhile, and this one's tables are the older ones then: made again.
    """
    if day < _first_day(store) or (not is_forced and _is_current(store, account, day)):
        return [_held(store, table, account, day) for table in DERIVED]
    commits = _derive(store, account, day)
    for _ in range(LOOKS if store.backend.is_shared else 0):
        store.partitions.refresh_versions(account, day)
        if _is_current(store, account, day):
            break
        commits = _derive(store, account, day)
    return commits


def is_derived(store: Store, account: str, day: date) -> bool:
    """Whether a day's derived tables say what its raw ones do, or never will again: the raw rows of old days are gone."""
    return day < _first_day(store) or _is_current(store, account, day)


def current_coverage(store: Store, account: str, day: date) -> pa.Table:
    """Return a day's `coverage` as its raw tables are now: the stored row, or counted anew where that is older."""
    if is_derived(store, account, day):
        return store.read(_LAST, account, day)
    return count_coverage(read_raw_day(store, account, day))


def _first_day(store: Store) -> date:
    """Return the first day that is derived: of older ones the raw rows are gone, or nothing may be held any more."""
    floors = read_first_days(store)
    return max(floors.get(table, date.min) for table in (schema.RAW[0].name, _LAST))


def _derive(store: Store, account: str, day: date, may_lose: bool = False) -> list[Commit]:
    floors = read_first_days(store)
    with store.lock_derivation(account), rare_garbage_collection():
        salvage_day(store, account, day)
        source = wanted_source(store, account, day)
        raw = read_raw_day(store, account, day)
        tables = normalize(raw) | {_LAST: count_coverage(raw)}
        if not may_lose and count_lost(store, account, day, tables, raw.message_details):
            store.state.save_days_done(KEPT, account, {day: source})
            return [_held(store, table, account, day) for table in DERIVED]
        for table in DERIVED:
            if day < floors.get(table, date.min):
                tables[table] = schema.TABLES[table].schema.empty_table()
        commits = [store.replace(table, account, day, tables[table], source) for table in DERIVED]
    if _has_quarantine(store, account, day):
        store.state.clear_suspects(account, DERIVED, day)
    return commits


def wanted_source(store: Store, account: str, day: date) -> str:
    """Return the source of a day's derived tables: its raw files and the account's own id."""
    identity = store.state.identity(account)
    own_id = identity.own_id if identity else None
    return derivation_source(store.raw_digest(account, day), own_id)


def derivation_source(
    raw_digest: str, own_id: str | None = None, derivation_version: int = DERIVATION_VERSION
) -> str:
    """Return the source of derived tables: which raw bytes, by which derivation, into which schema."""
    versions = f"{raw_digest}:{own_id or ''}:{derivation_version}:{schema.SCHEMA_VERSION}"
    return hashlib.sha256(versions.encode()).hexdigest()


def read_raw_day(store: Store, account: str, day: date) -> RawDay:
    """Read a partition's raw tables, and whose account it is."""
    conversations, *others = (store.read(table.name, account, day) for table in schema.RAW)
    identity = store.state.identity(account)
    platform, page_id = (identity.platform, identity.page_id) if identity else (None, None)
    if len(conversations):
        platform, page_id = (conversations[name][0].as_py() for name in ("platform", "page_id"))
    own_id = identity.own_id if identity else None
    message_ids, message_details, rejects = others
    return RawDay(platform, page_id, conversations, message_ids, message_details, rejects, own_id)


def _is_current(store: Store, account: str, day: date) -> bool:
    sources = {table: store.source(table, account, day) for table in DERIVED}
    if _has_quarantine(store, account, day):
        return False
    wanted = wanted_source(store, account, day)
    if any(store.source(table.name, account, day) is not None for table in schema.RAW):
        is_current = sources[_LAST] == wanted and set(sources.values()) <= {wanted, None}
    else:
        is_current = not any(sources.values())
    return is_current or store.state.days_done(KEPT, account).get(day) == wanted


def _has_quarantine(store: Store, account: str, day: date) -> bool:
    """Say whether a derived table of the day was damaged and not made again."""
    return any(
        table in DERIVED and held == day for table, _, held, _ in store.state.suspect_files(account)
    )


def _held(store: Store, table: str, account: str, day: date) -> Commit:
    """Return what a partition is, as a commit that changed nothing."""
    held = store.state.partition(table, account, day)
    if held is None:
        return Commit(table, account, day, 0, 0, "", is_changed=False)
    return Commit(
        table, account, day, held.row_count, held.byte_count, held.sha256, is_changed=False
    )
