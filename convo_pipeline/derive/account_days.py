"""Keep `account_days` in agreement with `messages`: a row depends on the days around it, so one day remakes several.

Glue between the lake and the pure metrics. A row's `source` is a digest of the sources of all the messages it was made
from, so what a late answer, a backfill or another session gap changes is stale, and nothing else is. What the complete range says of
the day, and whether its answers may still come, belongs to it: a day is made again when its answers' time is over.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import chain

import pyarrow as pa

from convo_pipeline.lake.first_days import read_first_days
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import ACCOUNT_DAYS, MESSAGES, SCHEMA_VERSION
from convo_pipeline.tables.complete_range import CompleteRange
from convo_pipeline.tables.metrics import COLUMNS, LOOKBACK_DAYS, account_days, age_of, needed_days

METRICS_VERSION = 3
"""Raise it whenever the same messages give other figures: every stored day is then made again."""
BATCH_DAYS = 31
"""Days made at once: their neighbours are read once for all, and no more is held in memory."""


def stale_account_days(store: Store, account: str, *, session_gap_hours: float = 24) -> list[date]:
    """Return the dates whose `account_days` is not what the messages say now, sorted."""
    held = _message_sources(store, account)
    days = sorted({*held, *store.days(ACCOUNT_DAYS.name, account)})
    first_day = _first_day(store)
    complete_range = read_complete_range(store, account)
    wanted = {
        day: _source(held, day, session_gap_hours, complete_range)
        for day in days
        if day >= first_day
    }
    return [day for day in wanted if store.source(ACCOUNT_DAYS.name, account, day) != wanted[day]]


def derive_account_days(
    store: Store, account: str, days: Iterable[date] | None = None, *, session_gap_hours: float = 24
) -> list[Commit]:
    """Replace `account_days` of these days, else of the stale ones; a day without a message keeps no file."""
    asked = (
        stale_account_days(store, account, session_gap_hours=session_gap_hours)
        if days is None
        else days
    )
    first_day = _first_day(store)
    held = _message_sources(store, account)
    complete_range = read_complete_range(store, account)
    commits: list[Commit] = []
    for some in _batches(sorted({day for day in asked if day >= first_day})):
        messages = _read_around(store, account, some, held, session_gap_hours)
        made = account_days(
            messages, some, complete_range=complete_range, session_gap_hours=session_gap_hours
        )
        for day in some:
            content = made.get(day, ACCOUNT_DAYS.schema.empty_table())
            source = _source(held, day, session_gap_hours, complete_range) or ""
            commits.append(store.replace(ACCOUNT_DAYS.name, account, day, content, source))
    damaged = {
        day for table, _, day, _ in store.state.suspect_files(account) if table == ACCOUNT_DAYS.name
    }
    for day in damaged.intersection(commit.date for commit in commits):
        store.state.clear_suspects(account, [ACCOUNT_DAYS.name], day)
    return commits


def read_complete_range(store: Store, account: str) -> CompleteRange | None:
    """Return what the account's runs promised, as far as messages are still held."""
    complete_range, first_day = (
        store.state.complete_range(account),
        min(store.days(MESSAGES.name, account), default=date.min),
    )
    return complete_range and replace(complete_range, since=max(complete_range.since, first_day))


def _first_day(store: Store) -> date:
    """Return the first day that is made: of older ones some of the messages are gone that they were made of."""
    floors = read_first_days(store)
    messages = floors.get(MESSAGES.name)
    reaching = messages + timedelta(days=LOOKBACK_DAYS) if messages else date.min
    return max(reaching, floors.get(ACCOUNT_DAYS.name, date.min))


def _batches(days: Sequence[date]) -> list[list[date]]:
    """Cut the days into stretches that lie near each other."""
    found: list[list[date]] = []
    for day in days:
        if found and (day - found[-1][0]).days < BATCH_DAYS:
            found[-1].append(day)
        else:
            found.append([day])
    return found


def _message_sources(store: Store, account: str) -> dict[date, str]:
    """What each held day's messages were made from."""
    return {
        day: store.source(MESSAGES.name, account, day) or ""
        for day in store.days(MESSAGES.name, account)
    }


def _source(
    held: Mapping[date, str],
    day: date,
    session_gap_hours: float,
    complete_range: CompleteRange | None,
) -> str | None:
    """The digest of everything a day's row is made of; None for a day without messages."""
    if day not in held:
        return None
    age = age_of(day, complete_range)
    parts = [
        f"{METRICS_VERSION}:{SCHEMA_VERSION}:{session_gap_hours}:{age.promised_days}:{age.ripeness}"
    ]
    parts += [
        f"{near}:{held[near]}"
        for near in _range(*needed_days(day, session_gap_hours))
        if near in held
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_around(
    store: Store,
    account: str,
    days: Sequence[date],
    held: Mapping[date, str],
    session_gap_hours: float,
) -> pa.Table:
    near = chain.from_iterable(_range(*needed_days(day, session_gap_hours)) for day in days)
    needed = sorted(set(near) & held.keys())
    tables = [store.read(MESSAGES.name, account, day).select(COLUMNS) for day in needed]
    return pa.concat_tables([MESSAGES.schema.empty_table().select(COLUMNS), *tables])


def _range(first: date, last: date) -> list[date]:
    return [first + timedelta(days=index) for index in range((last - first).days)]
