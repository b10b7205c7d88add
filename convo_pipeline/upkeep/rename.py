"""Give an account another name: its folders, spool, receipts, ledger lines and state.

An interrupted rename is finished by the same command. On a disk a table's folder moves in one
step. In a bucket each object is copied, then deleted.
"""

from contextlib import ExitStack

from convo_pipeline.errors import StoreError
from convo_pipeline.lake import ledger
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.store import RENAMES, Store
from convo_pipeline.lake.suppression import RECEIPTS, rename_receipts
from convo_pipeline.privacy.erasure_plan import read_pending_plans
from convo_pipeline.privacy.unsent import read_pending_days
from convo_pipeline.schema import TABLES
from convo_pipeline.storage.backend import remove_file, write_file
from convo_pipeline.storage.layout import check_account, file_parts, table_of
from convo_pipeline.storage.local import LocalFolder

SPOOL = "spool"


def rename_account(store: Store, old: str, new: str) -> list[str]:
    """Move everything of account `old` to `new`; return the tables whose folder moved.

    Data files keep their bytes. A StoreError says, before anything moves, that `old` is unknown or
    has an unfinished erasure, or that `new` has data already. A bucket's old versions under the
    old name are deleted.
    """
    if check_account(old) == check_account(new):
        raise StoreError(f'"{old}" is its name already')
    state_folder, note = LocalFolder(store.state_path), (RENAMES, f"{old}.{new}")
    with ExitStack() as locks:
        for lock in (store.locks.account, store.locks.derivation):
            for account in sorted((old, new)):
                locks.enter_context(lock(account))
        for account in (old, new):
            store.check_name(account, besides=f"{old}.{new}")
        tables = _check(store, old, new, is_resumed=state_folder.version(note) is not None)
        write_file(state_folder, note, b"")
        for table in tables:
            store.backend.rename_folder((table, f"account={old}"), f"account={new}")
        if old in state_folder.list_names((SPOOL,)):
            state_folder.rename_folder((SPOOL, old), new)
        rename_receipts(store, old, new)
        _check_all_moved(store, old)
        ledger.change_runs(store, lambda rows: ledger.rename_account(rows, old, new))
        store.state.rename_account(old, new)
        drop_outdated(store, (old, new))
        for table in TABLES:
            store.backend.delete_old_versions((table, f"account={old}"))
        remove_file(state_folder, note)
    return tables


def _check(store: Store, old: str, new: str, is_resumed: bool) -> list[str]:
    """Return the tables to move; raise a StoreError if the rename is not possible."""
    tables = [table for table in TABLES if old in store.listed_accounts(table)]
    if not tables and not _is_in_state(store, old):
        if is_resumed:
            return []  # Only the last steps are left to do.
        raise StoreError(f'there is no account "{old}" to rename')
    has_pending_plan = any(plan.account == old for plan in read_pending_plans(store))
    if has_pending_plan or read_pending_days(store, old):
        raise StoreError(
            f'an erasure in "{old}" was interrupted, and it only knows this name. Finish it first'
            " with the same `convo-pipeline forget` or `expire`, or wait for the nightly upkeep"
        )
    has_rows = any(new in store.listed_accounts(table) for table in tables)
    if (has_rows and not is_resumed) or _is_in_state(store, new):
        raise StoreError(f'"{new}" already has rows of its own: choose another name for "{old}"')
    # An earlier account without rows can have left a spool or receipts. An empty folder of a run
    # counts, too: no folder can move over it.
    state_folder, remains = LocalFolder(store.state_path), None
    if state_folder.list_names((SPOOL, new)):
        remains = state_folder.location((SPOOL, new))
    elif any(True for _ in store.backend.list_files((RECEIPTS, f"account={new}"))):
        remains = store.backend.location((RECEIPTS, f"account={new}"))
    if remains and not is_resumed:
        raise StoreError(
            f'"{new}" was an account before and left {remains}: choose another name for "{old}"'
        )
    return tables


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
