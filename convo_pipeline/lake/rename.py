"""Give an account another name: its folders, spool, ledger lines and state. Cut off half-way, it is simply run again.

On a disk a table's folder moves in one step; in a bucket each object is copied, then removed.
"""

from contextlib import ExitStack

from convo_pipeline.errors import StoreError
from convo_pipeline.lake import ledger
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.folder import Folder
from convo_pipeline.lake.layout import check_account
from convo_pipeline.lake.place import remove_file, write_file
from convo_pipeline.lake.suppression import rename_receipts
from convo_pipeline.schema import TABLES

SPOOL = "spool"
MOVING = "rename"
"""A note in the state's folder while a rename is under way: in a bucket, files of both names are then no surprise."""


def rename_account(store: Store, old: str, new: str) -> list[str]:
    """Move all that is held under `old` to `new` and return the tables whose folder moved; nothing is rewritten.

    A StoreError says that `old` is unknown or that `new` holds something already; then nothing was moved.
    """
    if check_account(old) == check_account(new):
        raise StoreError(f'"{old}" is its name already')
    with ExitStack() as locks:
        for account in sorted((old, new)):
            locks.enter_context(store.lock_account(account))
        note = Folder(store.state_path), (MOVING, f"{old}.{new}")
        tables = _check(store, old, new, is_resumed=note[0].exists(note[1]))
        write_file(*note, b"")
        for table in tables:
            store.place.rename_folder((table, f"account={old}"), f"account={new}")
        _rename_spool(store, old, new)
        rename_receipts(store, old, new)
        ledger.change_runs(store, lambda rows: ledger.rename_account(rows, old, new))
        store.state.rename_account(old, new)
        drop_outdated(store)
        remove_file(*note)
    return tables


def _check(store: Store, old: str, new: str, is_resumed: bool) -> list[str]:
    tables = [table for table in TABLES if old in store.accounts(table)]
    if not tables and not _is_known(store, old):
        raise StoreError(f'there is no account "{old}" to rename')
    taken = [table for table in tables if new in store.accounts(table)]
    if (taken and not is_resumed) or _is_known(store, new):
        raise StoreError(f'"{new}" already holds rows of its own: choose another name for "{old}"')
    return tables


def _is_known(store: Store, account: str) -> bool:
    return store.state.identity(account) is not None or bool(store.state.partitions(account))


def _rename_spool(store: Store, old: str, new: str) -> None:
    folder = Folder(store.state_path)
    if old in folder.names((SPOOL,)):
        folder.rename((SPOOL, old), new)
