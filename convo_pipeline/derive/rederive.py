"""Which days are to be derived again, so that a `normalize` that was cut off goes on where it was.

Glue between the lake and the derivation of a day. What a day was derived from stands in its files, so whoever only wants
the tables to agree needs no other memory. Whoever wants every day made again does: those are noted in the state, until
all of the account's days that were asked for are done.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from convo_pipeline import schema
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store

Scope = Literal["asked", "stale", "all"]
"""Which days are made again: those that are asked for, whatever they hold; those of them that do not agree with their raw
tables; all of them that hold anything. `stale` and `all` go on where they were cut off."""
RENEWAL = "normalize --force"
"""The state's name for the task of making every day again."""


@dataclass(frozen=True)
class Renewal:
    """The days of an account that it is about, and those of them that are still to be made again; sorted."""

    account: str
    scope: Scope
    held: Sequence[date]
    due: Sequence[date]

    @property
    def done_count(self) -> int:
        return len(self.held) - len(self.due)


def plan_renewal(
    store: Store, account: str, scope: Scope, asked: Collection[date] | None = None
) -> Renewal:
    """Return what is to be done of these days, by default of all.

    Stale is a day of which a raw file changed or is of an earlier schema, or any file is gone or not what was written:
    each is read and compared with its hash.
    """
    if scope == "asked":
        store.partitions.check_files(schema.DERIVED, account)
        return Renewal(account, scope, sorted(asked or ()), sorted(asked or ()))
    held = {
        day for table in (*schema.RAW, *schema.DERIVED) for day in store.days(table.name, account)
    }
    held |= {record.date for record in store.state.partitions(account)}
    held = held if asked is None else held.intersection(asked)
    store.partitions.check_files(schema.DERIVED, account, hashed_days=held)
    damaged = {
        day
        for table, _, day, _ in store.state.suspect_files(account)
        if not table.startswith("raw_")
    }
    held |= damaged if asked is None else damaged.intersection(asked)
    due = damaged.union(stale_days(store, account))
    due |= {
        day
        for day in held - due
        if not all(store.partitions.is_up_to_date(raw, account, day) for raw in schema.RAW)
    }
    done = held if scope == "stale" else store.state.days_done(RENEWAL, account).keys()
    return Renewal(
        account, scope, sorted(held), sorted(day for day in held if day in due or day not in done)
    )


def renew_day(store: Store, renewal: Renewal, day: date) -> list[Commit]:
    """Make a day's derived tables again, whatever they are; where not just it was asked for, from raw files of today's schema."""
    if renewal.scope != "asked":
        store.upgrade_raw(renewal.account, day)
    commits = derive_day(store, renewal.account, day, is_forced=True)
    if renewal.scope == "all":
        store.state.save_days_done(RENEWAL, renewal.account, {day: ""})
    return commits


def end_renewal(store: Store, renewal: Renewal, done: Iterable[date]) -> None:
    """Forget which days were made again where no other is left: whoever asks for it after this wants it anew."""
    if renewal.scope == "all" and set(done).issuperset(renewal.due):
        store.state.remove_days_done(RENEWAL, renewal.account, renewal.held)


def settle(store: Store, account: str, session_gap_hours: float) -> None:
    """Make the derived tables agree with what is left of the raw ones."""
    for day in stale_days(store, account):
        derive_day(store, account, day)
    if store.days(schema.ACCOUNT_DAYS.name, account):
        derive_account_days(store, account, session_gap_hours=session_gap_hours)
