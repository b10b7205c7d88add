"""Give an account another name: its folders, spool, receipts, ledger lines and state.

An interrupted rename is finished by the same command, or by `verify --rebuild-state`. On a disk a
table's folder moves in one step. In a bucket each object is copied, then deleted.
"""

from contextlib import ExitStack

from convo_pipeline.errors import StoreError
from convo_pipeline.extract.spool import SHARED_SPOOL, SPOOL, SharedSpools
from convo_pipeline.lake import accounts, ledger
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.parquet import read_label
from convo_pipeline.lake.store import RENAMES, Store
from convo_pipeline.lake.suppression import RECEIPTS, rename_receipts
from convo_pipeline.privacy.erasure_plan import rename_pending_plans
from convo_pipeline.privacy.unsent import rename_pending_days
from convo_pipeline.schema import TABLES
from convo_pipeline.storage.layout import QUARANTINE, check_account, file_parts, table_of
from convo_pipeline.storage.local import LocalFolder


def finish_renames(store: Store) -> None:
    """Finish every interrupted rename."""
    for note in store.notes.names(RENAMES):
        old, _, new = note.partition(".")
        rename_account(store, old, new)


def rename_account(store: Store, old: str, new: str, *, is_dry_run: bool = False) -> list[str]:
    """Move everything of account `old` to `new`; return the tables whose folder moved.

    With `is_dry_run`, check everything, change nothing and return the tables that would move.

    Data files keep their bytes. Notes of an unfinished erasure move too. A StoreError says, before
    anything moves, that `old` is unknown or that `new` has data of another inbox. A bucket's old
    versions under the old name are deleted.
    """
    if check_account(old) == check_account(new):
        raise StoreError(f'"{old}" is its name already')
    state_folder, note = LocalFolder(store.state_path), f"{old}.{new}"
    with ExitStack() as locks:
        for lock in (store.locks.account, store.locks.derivation):
            for account in sorted((old, new)):
                locks.enter_context(lock(account))
        for account in (old, new):
            store.check_name(account, besides=f"{old}.{new}")
        tables = [table for table in TABLES if old in store.listed_accounts(table)]
        if store.notes.read(RENAMES, note) is None:
            _check(store, old, new, tables)
        if is_dry_run:
            return tables
        store.notes.write(RENAMES, note, b"")
        for table in tables:
            store.backend.rename_folder((table, f"account={old}"), f"account={new}")
        for table in store.backend.list_names((QUARANTINE,)):
            if f"account={old}" in store.backend.list_names((QUARANTINE, table)):
                store.backend.rename_folder((QUARANTINE, table, f"account={old}"), f"account={new}")
        if old in state_folder.list_names((SPOOL,)):
            state_folder.rename_folder((SPOOL, old), new)
        shared = SharedSpools.of(store)
        if shared:
            shared.rename(old, new)
        rename_receipts(store, old, new)
        rename_pending_plans(store, old, new)
        rename_pending_days(store, old, new)
        _check_all_moved(store, old)
        accounts.rename_account(store, old, new)
        ledger.change_runs(store, lambda rows: ledger.rename_account(rows, old, new))
        store.state.rename_account(old, new)
        drop_outdated(store, (old, new))
        for table in (*TABLES, SHARED_SPOOL):
            store.backend.delete_old_versions((table, f"account={old}"))
            store.backend.delete_old_versions((QUARANTINE, table, f"account={old}"))
        store.notes.remove(RENAMES, note)
    return tables


def _check(store: Store, old: str, new: str, tables: list[str]) -> None:
    """Raise a StoreError if the rename is not possible."""
    if not tables and not _is_in_state(store, old):
        raise StoreError(f'there is no account "{old}" to rename')
    if _is_half_renamed(store, old, new):
        return
    has_rows = any(new in store.listed_accounts(table) for table in tables)
    if has_rows or _is_in_state(store, new):
        raise StoreError(f'"{new}" already has rows of its own: choose another name for "{old}"')
    # An earlier account without rows can have left a spool or receipts. An empty folder of a run
    # counts, too: no folder can move over it.
    state_folder, remains = LocalFolder(store.state_path), None
    if state_folder.list_names((SPOOL, new)):
        remains = state_folder.location((SPOOL, new))
    elif any(True for _ in store.backend.list_files((SHARED_SPOOL, f"account={new}"))):
        remains = store.backend.location((SHARED_SPOOL, f"account={new}"))
    elif any(True for _ in store.backend.list_files((RECEIPTS, f"account={new}"))):
        remains = store.backend.location((RECEIPTS, f"account={new}"))
    if remains:
        raise StoreError(
            f'"{new}" was an account before and left {remains}: choose another name for "{old}"'
        )


def _is_half_renamed(store: Store, old: str, new: str) -> bool:
    """Return whether the files of one inbox lie under both names: a rename lost its note.

    The note is lost with the folder of the state. Each file names its inbox in its footer.
    """
    inboxes = [_stored_inboxes(store, account) for account in (old, new)]
    return len(inboxes[0]) == 1 and inboxes[0] == inboxes[1]


def _stored_inboxes(store: Store, account: str) -> set[str]:
    """Return the inboxes that the account's files name, from one file of each table."""
    inboxes = set()
    for table in TABLES.values():
        for day in store.days(table.name, account)[:1]:
            file = store.backend.read(file_parts(table, account, day))
            inboxes.add(read_label(file.content).partition(" ")[2] if file else "")
    return inboxes - {""}


def _check_all_moved(store: Store, old: str) -> None:
    """Raise a StoreError if a bucket did not list a file of the old name, so it did not move."""
    if not store.backend.is_shared:
        return
    files = [
        file_parts(table_of(record.table), old, record.date)
        for record in store.state.partitions(old)
    ]
    files += [(RECEIPTS, f"account={old}", name) for name in store.state.receipts(old)]
    for parts in files:
        if store.backend.version(parts):
            raise StoreError(
                f"{store.backend.location(parts)} exists, but the bucket did not list it:"
                " run the same command again later"
            )


def _is_in_state(store: Store, account: str) -> bool:
    return store.state.identity(account) is not None or bool(store.state.partitions(account))
