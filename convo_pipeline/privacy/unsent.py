"""What was unsent leaves, as `[retention] on_deleted` says: its content (`redact`), its rows (`drop`) or nothing (`keep`).

Which messages those are says `raw_message_ids.deleted_at`, which `extract.absence` decided; here nothing is inferred.
A redacted message keeps its id, its time and who wrote to whom. The raw rows are changed here; the derived tables
are made again by the caller, then what is left elsewhere is erased. Cut off half-way, the days stand in
`<state>/deleted/` and are done again.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.remains import erase_copies
from convo_pipeline.schema import RAW_MESSAGE_DETAILS, RAW_MESSAGE_IDS, RAW_REJECTS, RUNS
from convo_pipeline.storage.backend import remove_file, write_file
from convo_pipeline.storage.local import LocalFolder
from convo_pipeline.tables.merge import Key, redact
from convo_pipeline.tables.people import IdMatcher

Policy = Literal["redact", "keep", "drop"]
PENDING = "deleted"
TASK = "unsent"
"""The state's name for having looked, with the policy after it."""
EVIDENCE = (*RAW_MESSAGE_IDS.key, "deleted_at", "returned_at")


@dataclass(frozen=True)
class UnsentMessages:
    """A day's messages that were unsent and are still to leave; when each was found deleted, in µs since 1970."""

    account: str
    date: date
    messages: Mapping[Key, int]


def find_unsent(store: Store, account: str, policy: Policy) -> list[UnsentMessages]:
    """Return what is to leave, oldest first; a damaged day waits until it is made again.

    Days are read whose files are others than when nothing was found there: a night reads what the day changed.
    """
    if policy == "keep":
        return []
    task, found, looked = f"{TASK} {policy}", [], {}
    known = store.state.days_done(task, account)
    for day in store.days(RAW_MESSAGE_IDS.name, account):
        with suppress(CorruptError):
            digest = _digest(store, account, day)
            if known.get(day) == digest:
                continue
            messages = _find_day(store, account, day, policy)
            if messages:
                found.append(UnsentMessages(account, day, messages))
            else:
                looked[day] = digest
    store.state.save_days_done(task, account, looked)
    return found


def _digest(store: Store, account: str, day: date) -> str:
    """Return which files a day's unsent messages are found in."""
    records = [
        store.partitions.record(table, account, day)
        for table in (RAW_MESSAGE_IDS, RAW_MESSAGE_DETAILS)
    ]
    return ":".join(record.sha256 if record else "" for record in records)


def _find_day(store: Store, account: str, day: date, policy: Policy) -> dict[Key, int]:
    rows = read_columns(store, RAW_MESSAGE_IDS, account, day, EVIDENCE)
    rows = rows.filter(pc.and_(pc.is_valid(rows["deleted_at"]), pc.is_null(rows["returned_at"])))
    if not rows.num_rows:
        return {}
    times = rows["deleted_at"].cast(pa.int64()).to_pylist()
    found = dict(zip(_keys(rows), times, strict=True))
    if policy == "drop":
        return found
    names = (*RAW_MESSAGE_IDS.key, "payload", "redacted_at")
    details = read_columns(store, RAW_MESSAGE_DETAILS, account, day, names)
    held = set(
        _keys(
            details.filter(
                pc.and_(pc.is_valid(details["payload"]), pc.is_null(details["redacted_at"]))
            )
        )
    )
    return {key: time for key, time in found.items() if key in held}


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(*(rows[name].to_pylist() for name in RAW_MESSAGE_IDS.key), strict=True))


def remove_content(
    store: Store, account: str, found: Iterable[UnsentMessages], policy: Policy
) -> None:
    """Take it out of the raw tables, what tells that it is to leave last; the caller holds `lock_for_erasure`."""
    found = list(found)
    save_pending(store, account, {*read_pending(store, account), *(each.date for each in found)})
    mentions = IdMatcher(message_id for each in found for _, message_id in each.messages)
    for day in store.days(RAW_REJECTS.name, account) if found else ():
        store.shrink(RAW_REJECTS.name, account, day, lambda rows: _without_mentions(rows, mentions))
    tables = (
        (RAW_MESSAGE_DETAILS,) if policy == "redact" else (RAW_MESSAGE_DETAILS, RAW_MESSAGE_IDS)
    )
    change = redact if policy == "redact" else _without
    for each in found:
        for table in tables:
            store.shrink(table.name, account, each.date, partial(change, deleted=each.messages))


def _without(rows: pa.Table, deleted: Mapping[Key, int]) -> pa.Table:
    is_kept = [key not in deleted for key in _keys(rows)]
    return rows if all(is_kept) else rows.filter(pa.array(is_kept))


def _without_mentions(rows: pa.Table, mentions: IdMatcher) -> pa.Table:
    is_kept = [not mentions.matches(text) for text in rows["payload"].to_pylist()]
    return rows if all(is_kept) else rows.filter(pa.array(is_kept))


def finish(store: Store, account: str, today: date) -> None:
    """Erase what is left of it outside the partitions; the derived tables have been made again."""
    days = read_pending(store, account)
    erase_copies(
        store,
        account,
        today,
        lambda table, day: table is RAW_REJECTS or (table is not RUNS and day in days),
    )
    remove_file(LocalFolder(store.state_path), _pending(account))


def read_pending(store: Store, account: str) -> set[date]:
    """Return the days that were begun and not finished."""
    content = LocalFolder(store.state_path).read_bytes(_pending(account))
    return {date.fromisoformat(day) for day in load_json(content)} if content else set()  # type: ignore[attr-defined]


def pending_accounts(store: Store) -> set[str]:
    """Return the accounts in which a removal was cut off."""
    return {
        name.removesuffix(".json") for name in LocalFolder(store.state_path).list_names((PENDING,))
    }


def save_pending(store: Store, account: str, days: Iterable[date]) -> None:
    """Note the days that are about to change."""
    write_file(LocalFolder(store.state_path), _pending(account), dump_json(sorted(map(str, days))))


def _pending(account: str) -> tuple[str, str]:
    return PENDING, f"{account}.json"
