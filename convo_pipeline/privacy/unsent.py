"""Apply `[retention] on_deleted` to unsent messages: remove the content, the row, or nothing.

`raw_message_ids.deleted_at` names the unsent messages; `extract.missing` decides them. A redacted
message keeps its id, its time, its sender and its recipients. An interrupted removal leaves its
days in `<state>/deleted/`, and the next call finishes it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.derive.day import kept_days
from convo_pipeline.derive.rederive import derive_stale_days
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.erasure import (
    PendingFiles,
    apply_to_each,
    delete_copies,
    load_leftover_spools,
)
from convo_pipeline.schema import (
    MESSAGES,
    NORMALISED,
    RAW_MESSAGE_DETAILS,
    RAW_MESSAGE_IDS,
    RAW_REJECTS,
    RUNS,
    Table,
)
from convo_pipeline.settings import Settings
from convo_pipeline.tables.merge import Key, redact
from convo_pipeline.tables.people import IdMatcher

Policy = Literal["redact", "keep", "drop"]
PENDING_FOLDER = "deleted"
TASK = "unsent"
"""Name of the search in `days_done` of the state, followed by the policy."""


@dataclass(frozen=True)
class UnsentMessages:
    """The unsent messages of one day that still have to be removed."""

    account: str
    date: date
    messages: Mapping[Key, int]
    """When each message was found deleted, in µs since 1970."""


def find_all_unsent(settings: Settings, store: Store) -> list[UnsentMessages]:
    """Return the unsent messages of every account that still have to be removed."""
    return [
        unsent
        for account in store.accounts(RAW_MESSAGE_IDS.name)
        for unsent in find_unsent(store, account, settings.retention.on_deleted)
    ]


def remove_unsent(
    settings: Settings,
    store: Store,
    now: datetime,
    is_chosen: Callable[[str], bool] = lambda account: True,
) -> list[UnsentMessages]:
    """Remove the unsent messages of the chosen accounts; return what was removed.

    A StoreError of one account, such as a BusyError, is raised after all accounts were tried.
    """
    accounts = {*PendingFiles(store, PENDING_FOLDER).names(), *store.accounts(RAW_MESSAGE_IDS.name)}
    results, errors = apply_to_each(
        lambda account: _remove_unsent(settings, store, account, now),
        sorted(filter(is_chosen, accounts)),
    )
    if errors:
        raise errors[0]
    return [unsent for removed in results for unsent in removed]


def _remove_unsent(
    settings: Settings, store: Store, account: str, now: datetime
) -> list[UnsentMessages]:
    """Remove the unsent messages of an account.

    A StoreError says, before anything is removed, that there are unusually many: removed content
    cannot be fetched again.
    """
    policy, most = settings.retention.on_deleted, settings.retention.most_unsent_at_once
    if not find_unsent(store, account, policy) and not read_pending_days(store, account):
        return []
    store.preflight()
    with store.lock_account(account):
        load_leftover_spools(settings, store, account)
        with store.lock_derivation(account):
            unsent_days = find_unsent(store, account, policy)
            count = sum(len(unsent.messages) for unsent in unsent_days)
            if count > most:
                raise StoreError(
                    f"{count} messages of {account} would leave as unsent at once, and [retention]"
                    f" most_unsent_at_once is {most}: an API that hides messages looks the same."
                    " Look at the rows of `messages` that have a deleted_at; if customers took them"
                    " back, set it higher"
                )
            remove_content(store, account, unsent_days, policy)
        derive_stale_days(store, account, settings)
        with store.lock_derivation(account):
            days = read_pending_days(store, account)

            def may_hold_erased(table: Table, day: date) -> bool:
                return table is RAW_REJECTS or (table is not RUNS and day in days)

            delete_copies(store, account, now.astimezone(UTC).date(), may_hold_erased)
            PendingFiles(store, PENDING_FOLDER).remove(account)
    return unsent_days


def find_unsent(store: Store, account: str, policy: Policy) -> list[UnsentMessages]:
    """Return the account's unsent messages that still have to be removed, oldest day first.

    Reads only days whose files changed since nothing was found there. Skips a damaged day.
    """
    if policy == "keep":
        return []
    task, unsent_days, empty_days = f"{TASK} {policy}", [], {}
    checked_days, kept = store.state.days_done(task, account), kept_days(store, account)
    for day in store.days(RAW_MESSAGE_IDS.name, account):
        with suppress(CorruptError):
            records = [
                store.partitions.record(table, account, day)
                for table in (RAW_MESSAGE_IDS, RAW_MESSAGE_DETAILS)
            ]
            digest = ":".join(record.sha256 if record else "" for record in records)
            if checked_days.get(day) == digest:
                continue
            messages = _find_day(store, account, day, policy, is_kept=day in kept)
            if messages:
                unsent_days.append(UnsentMessages(account, day, messages))
            else:
                empty_days[day] = digest
    store.state.save_days_done(task, account, empty_days)
    return unsent_days


def _find_day(
    store: Store, account: str, day: date, policy: Policy, is_kept: bool
) -> dict[Key, int]:
    names = (*RAW_MESSAGE_IDS.key, "deleted_at", "returned_at")
    rows = read_columns(store, RAW_MESSAGE_IDS, account, day, names)
    rows = rows.filter(pc.and_(pc.is_valid(rows["deleted_at"]), pc.is_null(rows["returned_at"])))
    if not rows.num_rows:
        return {}
    unsent = dict(zip(_keys(rows), rows["deleted_at"].cast(pa.int64()).to_pylist(), strict=True))
    if policy == "drop":
        return unsent
    names = (*RAW_MESSAGE_IDS.key, "payload", "redacted_at")
    details = read_columns(store, RAW_MESSAGE_DETAILS, account, day, names)
    has_content = pc.and_(pc.is_valid(details["payload"]), pc.is_null(details["redacted_at"]))
    with_content = set(_keys(details.filter(has_content)))
    if is_kept:  # the derived tables can have content that the raw tables lost
        messages = read_columns(store, MESSAGES, account, day, (*MESSAGES.key, "deleted_at"))
        with_content.update(_keys(messages.filter(pc.is_null(messages["deleted_at"]))))
    return {key: deleted_us for key, deleted_us in unsent.items() if key in with_content}


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(*(rows[name].to_pylist() for name in RAW_MESSAGE_IDS.key), strict=True))


def remove_content(
    store: Store, account: str, unsent_days: Iterable[UnsentMessages], policy: Policy
) -> None:
    """Remove the messages from the derived tables, and their content from the raw tables.

    `raw_message_ids` changes last, because its `deleted_at` says that a message has to leave. The
    caller holds both locks of the account and derives the days again.
    """
    unsent_days = list(unsent_days)
    days = {unsent.date for unsent in unsent_days}
    save_pending_days(store, account, read_pending_days(store, account) | days)
    matcher = IdMatcher(message_id for unsent in unsent_days for _, message_id in unsent.messages)

    def without_rejects(rows: pa.Table) -> pa.Table:
        return _keep_rows(rows, [not matcher.matches(text) for text in rows["payload"].to_pylist()])

    for day in store.days(RAW_REJECTS.name, account) if unsent_days else ():
        store.shrink(RAW_REJECTS.name, account, day, without_rejects)
    for unsent in unsent_days:

        def drop(rows: pa.Table, messages: Mapping[Key, int] = unsent.messages) -> pa.Table:
            return _keep_rows(rows, [key not in messages for key in _keys(rows)])

        def change(rows: pa.Table, messages: Mapping[Key, int] = unsent.messages) -> pa.Table:
            return redact(rows, messages) if policy == "redact" else drop(rows, messages)

        for table in NORMALISED:
            if "message_id" in table.column_names:
                store.shrink(table.name, account, unsent.date, drop)
        store.shrink(RAW_MESSAGE_DETAILS.name, account, unsent.date, change)
        if policy == "drop":
            store.shrink(RAW_MESSAGE_IDS.name, account, unsent.date, change)


def _keep_rows(rows: pa.Table, is_kept: list[bool]) -> pa.Table:
    """Return the rows to keep; the same table object if all are kept."""
    return rows if all(is_kept) else rows.filter(pa.array(is_kept))


def read_pending_days(store: Store, account: str) -> set[date]:
    """Return the days of an interrupted removal."""
    return set(map(date.fromisoformat, PendingFiles(store, PENDING_FOLDER).read(account) or ()))


def save_pending_days(store: Store, account: str, days: Iterable[date]) -> None:
    """Save the days before a removal changes them."""
    PendingFiles(store, PENDING_FOLDER).save(account, sorted(map(str, days)))


def rename_pending_days(store: Store, old: str, new: str) -> None:
    """Give the days of an interrupted removal the new name of their account."""
    days = read_pending_days(store, old)
    if days:
        save_pending_days(store, new, days | read_pending_days(store, new))
        PendingFiles(store, PENDING_FOLDER).remove(old)
