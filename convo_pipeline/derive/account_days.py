"""Derive `account_days` again for the days whose messages or complete range changed.

A row depends on the days around it. Its `source` is a digest of everything that it depends on: the
sources of those messages, the account's rules, the versions, and the status of the day.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta

import pyarrow as pa

from convo_pipeline.lake.accounts import read_accounts
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.first_days import read_first_days
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.query.account_days import (
    COLUMNS,
    compute_account_days,
    day_status,
    needed_days,
)
from convo_pipeline.query.reply_rules import DEFAULT_RULES, LOOKBACK_DAYS, ReplyRules
from convo_pipeline.schema import ACCOUNT_DAYS, MESSAGES, SCHEMA_VERSION
from convo_pipeline.settings import Settings
from convo_pipeline.tables.complete_range import CompleteRange

METRICS_VERSION = 4
"""Increase it when the same messages give other figures: every stored day is then derived again."""
BATCH_MESSAGES = 800_000
"""Messages in memory at once, about 450 MB. Days of one batch share the messages around them."""


def read_rules(store: Store, settings: Settings, account: str) -> ReplyRules:
    """Return an account's rules; of an account that is not configured, those of its last run."""
    stored = {} if account in {each.name for each in settings.accounts} else read_accounts(store)
    return ReplyRules.of(settings, account, stored.get(account, {}))


def stale_account_days(
    store: Store,
    account: str,
    *,
    rules: ReplyRules = DEFAULT_RULES,
) -> list[date]:
    """Return the sorted dates whose `account_days` must be derived again."""
    inputs = _Inputs(store, account, rules)
    stored = store.sources(ACCOUNT_DAYS.name, account)
    days = inputs.select_derivable({*inputs.sources, *stored})
    return [day for day in days if stored.get(day) != inputs.digest(day)]


def derive_account_days(
    store: Store,
    account: str,
    days: Iterable[date] | None = None,
    *,
    rules: ReplyRules = DEFAULT_RULES,
) -> list[Commit]:
    """Replace `account_days` of these days, by default of the stale ones.

    A day without messages has no file afterwards. StoreError if a rename of the account was cut
    off: rows under the name of today would stop it for good.
    """
    if days is None:
        days = stale_account_days(store, account, rules=rules)
    inputs = _Inputs(store, account, rules)
    commits: list[Commit] = []
    for batch in inputs.batches(days):
        with store.lock_derivation(account):
            rows = compute_account_days(
                inputs.read_messages(batch),
                batch,
                complete_range=inputs.complete_range,
                rules=rules,
            )
            for day in batch:
                row = rows.get(day, ACCOUNT_DAYS.schema.empty_table())
                source = inputs.digest(day) or ""
                commits.append(store.replace(ACCOUNT_DAYS.name, account, day, row, source))
    damaged = {
        day for table, _, day, _ in store.state.suspect_files(account) if table == ACCOUNT_DAYS.name
    }
    for day in damaged.intersection(commit.date for commit in commits):
        store.state.clear_suspects(account, [ACCOUNT_DAYS.name], day)
    return commits


def read_complete_range(store: Store, account: str) -> CompleteRange | None:
    """Return the account's complete range; it begins no earlier than its first stored messages."""
    complete_range = store.state.complete_range(account)
    first_day = min(store.days(MESSAGES.name, account), default=date.min)
    return complete_range and replace(complete_range, since=max(complete_range.since, first_day))


class _Inputs:
    """Everything that an account's rows depend on."""

    def __init__(self, store: Store, account: str, rules: ReplyRules) -> None:
        self._store = store
        self._account = account
        self._rules = rules
        self.complete_range = read_complete_range(store, account)
        self.sources = store.sources(MESSAGES.name, account)

    def select_derivable(self, days: Iterable[date]) -> list[date]:
        """Return the sorted days without those whose lookback reaches into expired messages."""
        first_days = read_first_days(self._store)
        first_day = first_days.get(ACCOUNT_DAYS.name, date.min)
        if MESSAGES.name in first_days:
            first_day = max(first_day, first_days[MESSAGES.name] + timedelta(days=LOOKBACK_DAYS))
        return sorted({day for day in days if day >= first_day})

    def batches(self, days: Iterable[date]) -> list[list[date]]:
        """Split the derivable days into batches that read at most `BATCH_MESSAGES`, if possible."""
        records = self._store.state.partitions(self._account, table=MESSAGES.name)
        counts = {record.date: record.row_count for record in records}
        batches: list[list[date]] = []
        needed: set[date] = set()
        message_count = 0
        for day in self.select_derivable(days):
            near = set(self._near(day))
            message_count += sum(counts.get(each, 0) for each in near - needed)
            needed |= near
            if not batches or message_count > BATCH_MESSAGES:
                batches.append([])
                needed, message_count = near, sum(counts.get(each, 0) for each in near)
            batches[-1].append(day)
        return batches

    def digest(self, day: date) -> str | None:
        """Return the source of a day's row; None for a day without messages."""
        if day not in self.sources:
            return None
        status = day_status(day, self.complete_range)
        versions = f"{METRICS_VERSION}:{SCHEMA_VERSION}:{self._rules}"
        parts = [f"{versions}:{status.history_days}:{status.ended_waits}"]
        parts += [f"{near}:{self.sources[near]}" for near in self._near(day)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read_messages(self, days: Sequence[date]) -> pa.Table:
        """Return the messages that the rows of these days depend on."""
        needed = sorted({near for day in days for near in self._near(day)})
        tables = [
            read_columns(self._store, MESSAGES, self._account, day, COLUMNS) for day in needed
        ]
        return pa.concat_tables([MESSAGES.schema.empty_table().select(COLUMNS), *tables])

    def _near(self, day: date) -> Iterator[date]:
        first, end = needed_days(day, self._rules)
        days = (first + timedelta(days=index) for index in range((end - first).days))
        return (near for near in days if near in self.sources)
