"""Give an account another name: its folders, spool, ledger lines and state. Cut off half-way, it is simply run again.

On a disk a table's folder moves in one step; in a bucket each object is copied, then removed.
"""

from contextlib import ExitStack

from convo_pipeline.errors import StoreError
from convo_pipeline.lake import ledger
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.store import RENAMES, Store
from convo_pipeline.lake.suppression import RECEIPTS, rename_receipts
from convo_pipeline.privacy import unsent
from convo_pipeline.privacy.erasure_plan import read_pending_plans
from convo_pipeline.schema import TABLES
from convo_pipeline.storage.backend import remove_file, write_file
from convo_pipeline.storage.layout import check_account, file_parts, table_of
from convo_pipeline.storage.local import LocalFolder

SPOOL = "spool"


def rename_account(store: Store, old: str, new: str) -> list[str]:
    """Move all that is held under `old` to `new` and return the tables whose folder moved; nothing is rewritten.

    A StoreError says that `old` is unknown, that it waits for an erasure to be finished, or that `new` holds something
    already; then nothing was moved. Where a bucket keeps old versions, those under the old name go.
    """
    if check_account(old) == check_account(new):
        raise StoreError(f'"{old}" is its name already')
    with ExitStack() as locks:
        for lock in (store.locks.account, store.locks.derivation):
            for account in sorted((old, new)):
                locks.enter_context(lock(account))
        for account in (old, new):
            store.check_name(account, besides=f"{old}.{new}")
        note = LocalFolder(store.state_path), (RENAMES, f"{old}.{new}")
        tables = _check(store, old, new, is_resumed=note[0].exists(note[1]))
        write_file(*note, b"")
        for table in tables:
            store.backend.rename_folder((table, f"account={old}"), f"account={new}")
        _rename_spool(store, old, new)
        rename_receipts(store, old, new)
        _check_moved(store, old)
        ledger.change_runs(store, lambda rows: ledger.rename_account(rows, old, new))
        store.state.rename_account(old, new)
        drop_outdated(store, (old, new))
        for table in TABLES:
            store.backend.delete_old_versions((table, f"account={old}"))
        remove_file(*note)
    return tables


def _check(store: Store, old: str, new: str, is_resumed: bool) -> list[str]:
    tables = [table for table in TABLES if old in store.listed_accounts(table)]
    is_old_known, is_new_known = _is_known(store, old), _is_known(store, new)
    if is_resumed and not tables and not is_old_known:
        return []  # all but the last steps were done
    if not tables and not is_old_known:
        raise StoreError(f'there is no account "{old}" to rename')
    if unsent.read_pending_days(store, old) or any(
        each.account == old for each in read_pending_plans(store)
    ):
        raise StoreError(
            f'an erasure in "{old}" was cut off, and it knows this name alone: finish it first, by the same'
            " `convo-pipeline forget` or `expire`, or let the nightly upkeep do it"
        )
    taken = [table for table in tables if new in store.listed_accounts(table)]
    if (taken and not is_resumed) or is_new_known:
        raise StoreError(f'"{new}" already holds rows of its own: choose another name for "{old}"')
    left = None if is_resumed else _left_of(store, new)
    if left:
        raise StoreError(
            f'"{new}" was an account before and left {left}: choose another name for "{old}"'
        )
    return tables


def _left_of(store: Store, account: str) -> str | None:
    """Return where something lies that an account without rows left: a killed run's answers, or whom it forgot."""
    spool, receipts = LocalFolder(store.state_path), (RECEIPTS, f"account={account}")
    if spool.list_names(
        (SPOOL, account)
    ):  # also a run's folder in which nothing is yet: no folder moves over it
        return spool.location((SPOOL, account))
    return (
        store.backend.location(receipts)
        if next(iter(store.backend.list_files(receipts)), None)
        else None
    )


def _check_moved(store: Store, old: str) -> None:
    """Raise a StoreError where a bucket did not list what it has of the old name: it was not moved."""
    if not store.backend.is_shared:
        return
    known = [
        file_parts(table_of(each.table), old, each.date) for each in store.state.partitions(old)
    ]
    known += [(RECEIPTS, f"account={old}", name) for name in store.state.receipts(old)]
    left = next((parts for parts in known if store.backend.version(parts)), None)
    if left:
        raise StoreError(
            f"{store.backend.location(left)} is there and was not listed: give the same command again, later"
        )


def _is_known(store: Store, account: str) -> bool:
    return store.state.identity(account) is not None or bool(store.state.partitions(account))


def _rename_spool(store: Store, old: str, new: str) -> None:
    folder = LocalFolder(store.state_path)
    if old in folder.list_names((SPOOL,)):
        folder.rename((SPOOL, old), new)
