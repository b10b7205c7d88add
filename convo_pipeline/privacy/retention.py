"""Rows leave when they are older than `[retention]` allows, by whole days; what left is not made or fetched again.

The raw tables stand for one another: the shortest limit of any closes a day, and then all four leave it. A derived
table without a limit of its own leaves with them; one with a longer limit stays as it was last made. How far each
table reaches back is kept in `<root>/.retention.json`, where whoever merges or derives looks it up.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.floors import RAW_NAMES, read_floors_or_none, write_floors
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.known_time import KnownTime, look_at_clock, remember_look
from convo_pipeline.schema import RUNS, TABLES
from convo_pipeline.storage.backend import remove_file


@dataclass(frozen=True)
class ExpiredPartition:
    """A partition that is older than it may be."""

    table: str
    account: str
    date: date
    row_count: int
    byte_count: int


def first_kept_days(limits: Mapping[str, int], today: date) -> dict[str, date]:
    """Return the first day that each table may still hold; a table that may hold all is left out.

    A limit counts today, so that no row is ever older than so many days.

    >>> first_kept_days({"raw_message_details": 90, "coverage": 400}, date(2026, 3, 31))["messages"]
    datetime.date(2026, 1, 1)
    """
    raw = min((limits[name] for name in RAW_NAMES if name in limits), default=None)
    days = {name: raw if name in RAW_NAMES else limits.get(name, raw) for name in TABLES}
    days[RUNS.name] = limits.get(RUNS.name)
    return {
        name: today - timedelta(days=count - 1) for name, count in days.items() if count is not None
    }


def find_expired(store: Store, floors: Mapping[str, date]) -> list[ExpiredPartition]:
    """Return every partition before its table's floor, oldest first."""
    found = []
    for table, account, day in store.data_files():
        if day < floors.get(table.name, date.min):
            size, record = store.partitions.measure(table, account, day)
            found.append(
                ExpiredPartition(
                    table.name, account, day, record.row_count if record else 0, size or 0
                )
            )
    return sorted(found, key=_order)


def _order(each: ExpiredPartition) -> tuple[date, str, str]:
    return each.date, each.account, each.table


def expire(store: Store, limits: Mapping[str, int], today: date) -> list[ExpiredPartition]:
    """Remove what is older than its limit, in every account; return what left.

    A BusyError of one account leaves its days to the next time; it is raised when the others are done.
    """
    floors = first_kept_days(limits, today)
    if floors != read_floors_or_none(store):
        write_floors(store, floors)
    expired = find_expired(store, floors)
    damaged = _find_set_aside(store, floors)
    errors: list[StoreError] = []
    removed: list[ExpiredPartition] = []
    for account in sorted({each.account for each in expired} | damaged.keys()):
        try:
            removed += _expire_account(
                store,
                account,
                [each for each in expired if each.account == account],
                damaged.get(account, []),
            )
        except StoreError as error:
            errors.append(error)
    drop_outdated(store, {each.account for each in removed})
    _forget_state(store, floors)
    if errors:
        raise errors[0]
    return sorted(removed, key=_order)


def expire_by_clock(
    store: Store, limits: Mapping[str, int], now: datetime, *, is_trusted: bool = False
) -> list[ExpiredPartition]:
    """Expire by the time that is believed of a clock that says `now`; a StoreError then says what is wrong with the clock."""
    known = KnownTime(now) if is_trusted else look_at_clock(store.state, now)
    removed = expire(store, limits, known.at.astimezone(UTC).date())
    remember_look(store.state, now, known.at)
    if known.doubt and limits:
        raise StoreError(f"{len(removed)} partitions removed, but {known.doubt}")
    return removed


def _find_set_aside(store: Store, floors: Mapping[str, date]) -> dict[str, list[tuple[str, ...]]]:
    """Return where damaged files lie that were set aside from partitions older than they may be, by account."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for table, account, day, parts in store.set_aside_files():
        if day < floors.get(table.name, date.min):
            found.setdefault(account, []).append(parts)
    return found


def _expire_account(
    store: Store, account: str, expired: list[ExpiredPartition], damaged: list[tuple[str, ...]]
) -> list[ExpiredPartition]:
    with ExitStack() as locks:
        if account:  # the ledger is nobody's
            locks.enter_context(store.lock_account(account, wait_seconds=1))
            locks.enter_context(store.lock_derivation(account))
        for each in expired:
            store.drop(each.table, account, each.date)
        for parts in damaged:
            remove_file(store.backend, parts)
        for folder in {*(_folder_of(each) for each in expired), *(parts[:-2] for parts in damaged)}:
            store.backend.delete_old_versions(folder)
    return expired


def _folder_of(each: ExpiredPartition) -> tuple[str, ...]:
    return (each.table, f"account={each.account}") if each.account else (each.table,)


def _forget_state(store: Store, floors: Mapping[str, date]) -> None:
    for table, _, day, path in store.state.suspect_files():
        if day < floors.get(table, date.min):
            store.state.remove_suspect(path)
    if RAW_NAMES[0] in floors:
        store.state.forget_before(floors[RAW_NAMES[0]])
    if RUNS.name in floors:
        day = floors[RUNS.name]
        store.state.prune_runs(datetime(day.year, day.month, day.day, tzinfo=UTC))
