"""Derive many days again. A task that was interrupted goes on with the days that remain.

The files of a day say which raw files they are derived from, so the scope `stale` needs no record.
The scope `all` records the finished days in the state until every day is done.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from convo_pipeline import schema
from convo_pipeline.derive.account_days import derive_account_days, read_rules
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings

Scope = Literal["asked", "changed", "stale", "all"]
"""Which days are derived again: the given ones; those of them whose raw tables changed; those that
are stale, with every derived file read and hashed; all with any rows."""
FORCE_TASK = "normalize --force"
"""The name under which the state records the finished days of the scope `all`."""


@dataclass(frozen=True)
class Rederivation:
    """The days of one account that a task covers, and those that remain; both sorted."""

    account: str
    scope: Scope
    days: Sequence[date]
    remaining_days: Sequence[date]

    @property
    def done_count(self) -> int:
        return len(self.days) - len(self.remaining_days)


def plan_rederivation(
    store: Store, account: str, scope: Scope, asked: Collection[date] | None = None
) -> Rederivation:
    """Return which of the asked days (by default all) must be derived again.

    A day is stale if a raw file changed or has an older schema, or if a derived file is missing or
    damaged. Every derived file is read and compared with its hash.
    """
    if scope in ("asked", "changed"):
        store.partitions.check_files(schema.DERIVED, account)
        given = sorted(asked or ())
        stale = given if scope == "asked" else stale_days(store, account)
        return Rederivation(account, scope, given, sorted(set(given).intersection(stale)))
    days = {
        day for table in (*schema.RAW, *schema.DERIVED) for day in store.days(table.name, account)
    }
    days |= {record.date for record in store.state.partitions(account)}
    days = days if asked is None else days.intersection(asked)
    store.partitions.check_files(schema.DERIVED, account, hashed_days=days)
    damaged = {
        day
        for table, _, day, _ in store.state.suspect_files(account)
        if not table.startswith("raw_")
    }
    days |= damaged if asked is None else damaged.intersection(asked)
    outdated = damaged.union(stale_days(store, account))
    outdated |= {
        day
        for day in days - outdated
        if not all(store.partitions.is_up_to_date(raw, account, day) for raw in schema.RAW)
    }
    done = days if scope == "stale" else store.state.days_done(FORCE_TASK, account).keys()
    remaining = sorted(day for day in days if day in outdated or day not in done)
    return Rederivation(account, scope, sorted(days), remaining)


def rederive_day(store: Store, rederivation: Rederivation, day: date) -> list[Commit]:
    """Derive one day again, whether it is stale or not.

    The scopes `stale` and `all` first upgrade the day's raw files to the current schema.
    """
    if rederivation.scope in ("stale", "all"):
        store.upgrade_raw(rederivation.account, day)
    commits = derive_day(store, rederivation.account, day, is_forced=True)
    if rederivation.scope == "all":
        store.state.save_days_done(FORCE_TASK, rederivation.account, {day: ""})
    return commits


def finish_rederivation(store: Store, rederivation: Rederivation, done: Iterable[date]) -> None:
    """Forget the record of finished days when none remains, so that the next task starts anew."""
    if rederivation.scope == "all" and set(done).issuperset(rederivation.remaining_days):
        store.state.remove_days_done(FORCE_TASK, rederivation.account, rederivation.days)


def derive_stale_days(store: Store, account: str, settings: Settings) -> None:
    """Derive the stale days of an account, and its `account_days` if it has any."""
    for day in stale_days(store, account):
        derive_day(store, account, day)
    if store.days(schema.ACCOUNT_DAYS.name, account):
        derive_account_days(store, account, rules=read_rules(store, settings, account))
