"""Remove partitions that are older than `[retention]` allows, by whole days.

The four raw tables share the shortest limit of any of them. A derived table without its own limit
leaves with them. A derived table with a longer limit keeps its rows unchanged. The first day that
each table keeps is stored in `<root>/.retention.json`; merging and derivation ignore earlier days.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from convo_pipeline.base.times import from_us, to_us
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.first_days import RAW_NAMES, read_first_days_or_none, write_first_days
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.erasure import apply_to_each
from convo_pipeline.schema import RAW_MESSAGE_IDS, RUNS, TABLES

CLOCK_TOLERANCE = timedelta(days=14)
CONFIRMING_DAYS = 3
"""Number of days with stored messages, or of upkeeps, that together confirm the machine's clock."""
_CLOCK_MEMORY = ""
"""Name of the clock's entry among the memories of accounts; no account can have it."""


@dataclass(frozen=True)
class ExpiredPartition:
    """A partition that is older than the limit of its table."""

    table: str
    account: str
    date: date
    row_count: int
    byte_count: int


def retention_starts(limits: Mapping[str, int], today: date) -> dict[str, date]:
    """Return the first day that each table keeps; tables without a limit are left out.

    The limit is a number of days that includes today.

    >>> starts = retention_starts({"raw_message_details": 90}, date(2026, 3, 31))
    >>> starts["raw_message_ids"], starts["messages"]
    (datetime.date(2026, 1, 1), datetime.date(2026, 1, 1))
    """
    raw = min((limits[name] for name in RAW_NAMES if name in limits), default=None)
    days = {name: raw if name in RAW_NAMES else limits.get(name, raw) for name in TABLES}
    days[RUNS.name] = limits.get(RUNS.name)
    return {
        name: today - timedelta(days=count - 1) for name, count in days.items() if count is not None
    }


def find_expired(store: Store, first_days: Mapping[str, date]) -> list[ExpiredPartition]:
    """Return every partition before the first kept day of its table, oldest first."""
    expired = []
    for table, account, day in store.data_files():
        if day < first_days.get(table.name, date.min):
            byte_count, record = store.partitions.measure(table, account, day)
            row_count = record.row_count if record else 0
            expired.append(ExpiredPartition(table.name, account, day, row_count, byte_count or 0))
    return sorted(expired, key=_sort_key)


def _sort_key(partition: ExpiredPartition) -> tuple[date, str, str]:
    return partition.date, partition.account, partition.table


def expire_by_clock(
    store: Store, limits: Mapping[str, int], now: datetime, *, is_clock_trusted: bool = False
) -> list[ExpiredPartition]:
    """Remove what is older than its limit by the machine's clock; return what was removed.

    A StoreError says, before anything is removed, that the clock may be ahead. It is trusted up to
    14 days after the earliest of the last three upkeeps that trusted it, and up to 14 days after
    the third newest day with messages. So no single upkeep, run or message with a wrong date
    confirms a wrong clock. `is_clock_trusted` skips this check; the upkeeps count anew.
    """
    today = now.astimezone(UTC).date()
    if limits and not is_clock_trusted:
        confirmed_at = _last_confirmed_time(store)
        if confirmed_at is None or now > confirmed_at + CLOCK_TOLERANCE:
            if not find_expired(store, retention_starts(limits, today)):
                return []
            raise StoreError(
                f"nothing was removed: the machine's clock says {now:%Y-%m-%d %H:%M} UTC. Stored"
                " messages and earlier upkeeps confirm"
                f" {f'the time until {confirmed_at:%Y-%m-%d}' if confirmed_at else 'no time'}."
                " Correct the clock. If it is right, run `convo-pipeline expire --trust-clock`;"
                f" messages of {CONFIRMING_DAYS} newer days confirm it too"
            )
    if limits:
        days = [] if is_clock_trusted else _trusted_times(store)
        days = [day for day in days if day.date() != today] + [now]
        trusted_us = [to_us(day) for day in days[-CONFIRMING_DAYS:]]
        store.state.save_memory(_CLOCK_MEMORY, {"trusted_us": trusted_us})
    return expire(store, limits, today)


def _last_confirmed_time(store: Store) -> datetime | None:
    """Return the newest time that the stored messages or an earlier upkeep confirm."""
    days = {
        day
        for account in store.accounts(RAW_MESSAGE_IDS.name)
        for day in store.days(RAW_MESSAGE_IDS.name, account)
    }
    times = sorted(_trusted_times(store))[:1]
    if len(days) >= CONFIRMING_DAYS:
        times.append(datetime.combine(sorted(days)[-CONFIRMING_DAYS], time(), UTC))
    return max(times, default=None)


def _trusted_times(store: Store) -> list[datetime]:
    """Return the last upkeeps that trusted the clock, one a day; early versions stored one."""
    saved = store.state.memory(_CLOCK_MEMORY).get("trusted_us")
    values = saved if isinstance(saved, list) else [saved]
    return [from_us(value) for value in values if isinstance(value, int)]


def expire(store: Store, limits: Mapping[str, int], today: date) -> list[ExpiredPartition]:
    """Remove what is older than its limit on `today`; return what was removed.

    A StoreError of one account, such as a BusyError, is raised after all accounts were tried.
    """
    first_days = retention_starts(limits, today)
    if first_days != read_first_days_or_none(store):
        write_first_days(store, first_days)
    expired: dict[str, list[ExpiredPartition]] = {}
    for partition in find_expired(store, first_days):
        expired.setdefault(partition.account, []).append(partition)
    quarantined: dict[str, list[tuple[str, ...]]] = {}
    for table, account, day, parts in store.set_aside_files():
        if day < first_days.get(table.name, date.min):
            quarantined.setdefault(account, []).append(parts)

    def expire_account(account: str) -> list[ExpiredPartition]:
        partitions, files = expired.get(account, []), quarantined.get(account, [])
        _expire_account(store, account, partitions, files)
        return partitions

    results, errors = apply_to_each(expire_account, sorted(expired.keys() | quarantined.keys()))
    removed = [partition for partitions in results for partition in partitions]
    drop_outdated(store, {partition.account for partition in removed})
    for name, _, day, path in store.state.suspect_files():
        if day < first_days.get(name, date.min):
            store.state.remove_suspect(path)
    if RAW_NAMES[0] in first_days:
        store.state.forget_before(first_days[RAW_NAMES[0]])
    if RUNS.name in first_days:
        store.state.prune_runs(datetime.combine(first_days[RUNS.name], time(), UTC))
    if errors:
        raise errors[0]
    return sorted(removed, key=_sort_key)


def _expire_account(
    store: Store,
    account: str,
    partitions: list[ExpiredPartition],
    quarantined: list[tuple[str, ...]],
) -> None:
    with ExitStack() as locks:
        if account:  # The ledger has no account.
            locks.enter_context(store.lock_account(account, wait_seconds=1))
            locks.enter_context(store.lock_derivation(account))
        folders = {parts[:-2] for parts in quarantined}
        for partition in partitions:
            store.drop(partition.table, account, partition.date)
            folders.add((partition.table, *([f"account={account}"] if account else [])))
        for parts in quarantined:
            store.remove_set_aside(parts)
        for folder in folders:
            store.backend.delete_old_versions(folder)
