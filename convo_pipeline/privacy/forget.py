"""Erase one person from everything that an account stores.

A conversation between the business and the person leaves completely. In a group, the person's
messages leave, and the person's id and names leave the other rows, also under unknown keys; what
others wrote stays. The
account's quarantined files can hold anybody, so all of them are deleted. Partitions of other days
and accounts keep their bytes. An interrupted erasure is finished by the next call.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.derive.rederive import derive_stale_days
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake import ledger
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.salvage import damaged_days, salvage_day
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import (
    Receipt,
    hash_ids,
    keyed_hash,
    make_key,
    read_receipts,
    read_suppression,
    save_receipt,
    scoped_name,
)
from convo_pipeline.privacy.erasure import (
    apply_to_each,
    delete_copies,
    load_leftover_spools,
)
from convo_pipeline.privacy.erasure_plan import (
    ErasurePlan,
    plan_erasure,
    read_pending_plans,
    remove_pending_plan,
    save_pending_plan,
)
from convo_pipeline.schema import TABLES, Table
from convo_pipeline.settings import Settings
from convo_pipeline.storage.layout import is_set_aside
from convo_pipeline.tables.payloads import read_object
from convo_pipeline.tables.people import REPLACEMENT

_JSON_COLUMNS = ("payload", "extra")
_TEXT_COLUMNS = ("reply_to_message_id", "customer_id", "customer_name", "customer_username")
"""Columns of derived tables where somebody else's row can name the person or their message."""
_PEOPLE_COLUMNS = {
    "participant_days": ("participant_id",),
    "messages": ("sender_id", "recipient_ids"),
    "conversation_days": ("customer_id",),
    "reactions": ("reactor_id",),
}
"""Columns of derived tables with ids of people."""


def forget(
    settings: Settings,
    store: Store,
    account: str,
    person_id: str,
    now: datetime,
    is_agreed: Callable[[ErasurePlan], bool] = lambda plan: True,
) -> Receipt | None:
    """Erase the person and return the receipt.

    None means that the person was not found, or that `is_agreed` refused the plan. A StoreError
    says that a damaged file may hold the person, so that the answer is unknown.
    """
    store.preflight()
    with store.lock_account(account):  # to the end, so that the account is not renamed meanwhile
        load_leftover_spools(settings, store, account)
        with store.lock_derivation(account):
            plan = _plan_with_salvage(store, account, person_id)
            if plan.is_empty and not _has_receipt(store, plan):
                _check_no_damage(store, account)
                return None
            if not is_agreed(plan):
                return None
            receipt = erase(store, plan, now)
        derive_stale_days(store, account, settings)
        remove_pending_plan(store, receipt.account, receipt.person)
    return receipt


def forget_again(settings: Settings, store: Store, account: str, now: datetime) -> list[Receipt]:
    """Erase forgotten people who came back with a restored backup; return their receipts."""
    derive_stale_days(store, account, settings)
    people = _find_returned_people(store, account)
    receipts = [forget(settings, store, account, person_id, now) for person_id in people]
    return [receipt for receipt in receipts if receipt]


def resume_erasures(
    settings: Settings,
    store: Store,
    now: datetime,
    is_chosen: Callable[[str], bool] = lambda account: True,
) -> list[Receipt]:
    """Finish the interrupted erasures of the chosen accounts.

    The first StoreError is raised after all were tried.
    """
    receipts, errors = apply_to_each(
        lambda plan: forget(settings, store, plan.account, plan.person_id, now),
        [plan for plan in read_pending_plans(store) if is_chosen(plan.account)],
    )
    if errors:
        raise errors[0]
    return [receipt for receipt in receipts if receipt]


def _plan_with_salvage(store: Store, account: str, person_id: str) -> ErasurePlan:
    """Plan the erasure after recovering other people's rows from damaged raw files.

    The erasure deletes damaged files. Planning can find new ones, so it repeats until none is new.
    """
    while True:
        for day in sorted(damaged_days(store, account)):
            salvage_day(store, account, day)
        known_suspects = store.state.suspect_files(account)
        plan = plan_erasure(store, account, person_id)
        if store.state.suspect_files(account) == known_suspects:
            return plan


def _has_receipt(store: Store, plan: ErasurePlan) -> bool:
    """Return whether the person was erased before, so that erasing again is no mistake."""
    receipts = read_receipts(store, plan.account)
    if not receipts:
        return False
    person_hash = keyed_hash(make_key(store.notes), plan.person_id)
    return any(receipt.person == person_hash for receipt in receipts)


def _check_no_damage(store: Store, account: str) -> None:
    """Raise a StoreError if a quarantined file exists: it may hold the person."""
    for *_, path in store.state.suspect_files(account):
        if is_set_aside(path.rpartition("/")[2]):
            raise StoreError(
                f"the id is in no readable file of {account}, but {path} is damaged and may hold"
                " it: let the next `extract` (raw tables) or `normalize` make its day again, or"
                " put a backup in its place; then forget again"
            )


def _find_returned_people(store: Store, account: str) -> list[str]:
    """Return the ids in the derived tables that belong to forgotten people, sorted."""
    forgotten_hashes = {receipt.person for receipt in read_receipts(store, account)}
    if not forgotten_hashes:
        return []
    key = read_suppression(store, account).key
    people: set[str] = set()
    for table, columns in _PEOPLE_COLUMNS.items():
        for day in store.days(table, account):
            for column in read_columns(store, TABLES[table], account, day, columns).columns:
                values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
                people.update(filter(None, pc.unique(values).to_pylist()))
    return sorted(person for person in people if keyed_hash(key, person) in forgotten_hashes)


def erase(store: Store, plan: ErasurePlan, now: datetime) -> Receipt:
    """Remove what the plan names from every file and the state; return the receipt.

    The caller holds the locks of the account and of its derivation since before the plan was made.
    At the end it rebuilds the derived tables and calls `remove_pending_plan`.
    """
    key = make_key(store.notes)
    person_hash = keyed_hash(key, plan.person_id)
    save_pending_plan(store, plan, person_hash)
    receipts = {receipt.person: receipt for receipt in read_receipts(store, plan.account)}
    receipt = receipts.get(person_hash) or Receipt(plan.account, person_hash, (), now)
    conversations = {*receipt.conversations, *hash_ids(key, plan.direct_conversations)}
    names = {
        *receipt.names,
        *hash_ids(
            key,
            (scoped_name(group, name) for group in plan.group_conversations for name in plan.names),
        ),
    }
    receipt = replace(
        receipt, conversations=tuple(sorted(conversations)), names=tuple(sorted(names))
    )
    save_receipt(store, receipt)
    _erase_rows(store, plan)
    _erase_texts(store, plan)
    delete_copies(store, plan.account, now.astimezone(UTC).date())
    store.state.database.wipe_free_pages()
    if plan.row_counts or receipt.finished_at is None:
        receipt = replace(receipt, finished_at=now, row_counts=plan.row_counts)
    save_receipt(store, receipt)
    return receipt


def _erase_rows(store: Store, plan: ErasurePlan) -> None:
    """Remove the rows, raw tables first: rows derived from them are then right."""
    order = list(TABLES)

    def sort_key(partition: tuple[str, date]) -> tuple[int, date]:
        return order.index(partition[0]), partition[1]

    for name, day in sorted(plan.partitions, key=sort_key):
        table = TABLES[name]

        def keep(rows: pa.Table, table: Table = table) -> pa.Table:
            is_leaving = plan.leaving_rows(table, rows)
            if rows.num_rows and pc.any(is_leaving).as_py():
                rows = rows.filter(pc.invert(is_leaving))
            if plan.group_conversations and table.name != "raw_rejects":
                rows = _without_person_in_groups(rows, plan)
            return rows

        with suppress(CorruptError):  # The store quarantined the file; `delete_copies` deletes it.
            store.shrink(name, plan.account, day, keep)


def _without_person_in_groups(rows: pa.Table, plan: ErasurePlan) -> pa.Table:
    """Remove the person from payloads and recipients of rows of groups.

    Returns the same table object if nothing changed, so that the file is not written again.
    """
    is_group = pc.is_in(rows["conversation_id"], value_set=plan.group_array)
    leaving = {plan.person_id, *plan.names, *plan.message_ids}

    def cut_json(text: str) -> str:
        return dump_json(plan.without_person(read_object(text) or {}) or {}).decode()

    def cut_list(ids: list[str] | None) -> list[str] | None:
        return ids and [each for each in ids if each != plan.person_id]

    def cut_text(text: str | None) -> str | None:
        return None if text in leaving else text

    changes: dict[str, Callable[..., object]] = dict.fromkeys(_JSON_COLUMNS, cut_json)
    changes |= dict.fromkeys(_TEXT_COLUMNS, cut_text)
    changes["recipient_ids"] = cut_list
    for name, change in changes.items():
        if name not in rows.column_names:
            continue
        column = rows[name]
        is_touched = is_group
        if change is cut_json:
            is_touched = pc.and_(is_group, plan.may_hold_person(column))
        if not pc.any(is_touched).as_py():
            continue
        pairs = zip(column.to_pylist(), is_touched.to_pylist(), strict=True)
        values = [change(value) if touched else value for value, touched in pairs]
        changed = pa.chunked_array([values], column.type)
        if not changed.equals(column):
            index = rows.schema.get_field_index(name)
            rows = rows.set_column(index, rows.schema.field(index), changed)
    return rows


def _erase_texts(store: Store, plan: ErasurePlan) -> None:
    """Remove the ids from the state, and from the errors and reports of runs."""

    def redact(text: str) -> str:
        if text.startswith("{"):
            with suppress(ValueError):
                report = load_json(text)
                redacted = _map_texts(report, redact)
                return text if redacted == report else dump_json(redacted).decode()
        return plan.id_matcher.replace(text, REPLACEMENT)

    store.state.forget(
        plan.account,
        plan.direct_conversations,
        plan.group_conversations,
        plan.message_ids,
        redact,
    )
    ledger.change_runs(store, lambda rows: ledger.redact_account(rows, plan.account, redact))


def _map_texts(value: object, change: Callable[[str], str]) -> object:
    """Apply `change` to each text in a JSON value; numbers of a report are not ids."""
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
