"""Copy the state of a lake between SQLite and PostgreSQL: rows, blocks and notes.

All rows are copied in one transaction of the target and compared before it ends. So an interrupted
copy leaves no rows, and the same command starts again. The source is not changed. One account is
locked at a time, because PostgreSQL has room for some 6,000 locks and a process for 1,024 files. A
run that changes an account after its copy is found by the comparison.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.lake.store import SHARED_STATE, Store
from convo_pipeline.state.access import read_blocks, save_blocks
from convo_pipeline.state.database import Transaction
from convo_pipeline.state.notes import NOTE_FOLDERS
from convo_pipeline.state.state_schema import STATE_TABLES, StateTable
from convo_pipeline.storage.backend import remove_file


def move_state(source: Store, target: Store, *, is_dry_run: bool = False) -> dict[str, int]:
    """Copy the state of `source` to `target`; return the number of rows of each table.

    Raise StoreError if the target holds another state, and BusyError if a run is at work.
    """
    if source.state.database.location == target.state.database.location:
        raise StoreError(f"the state is in {source.state.database.location} already")
    accounts = _accounts(source)
    with ExitStack() as locks:
        for store in (source, target):
            locks.enter_context(store.locks.deletions())
            locks.enter_context(store.locks.compaction())
        _check_target(source, target, accounts)
        counts = {table.name: _count(source, table) for table in STATE_TABLES.values()}
        if is_dry_run:
            return counts
        with target.state.database.transaction() as rows:
            for table in STATE_TABLES.values():
                rows.execute(f"DELETE FROM {table.name}")  # noqa: S608 - literals
            for account in accounts:
                with _locked(source, account):
                    for table in STATE_TABLES.values():
                        _copy(source, table, account, rows)
            for account in accounts:
                with _locked(source, account):
                    _check_unchanged(source, account, rows)
        for folder in NOTE_FOLDERS:
            for name in source.notes.names(folder):
                content = source.notes.read(folder, name)
                if content is not None:
                    target.notes.write(folder, name, content)
        save_blocks(target.state.database, read_blocks(source.state.database))
        if not target.locks.are_shared:
            remove_file(target.backend, (SHARED_STATE,))
    return counts


@contextmanager
def _locked(source: Store, account: str) -> Iterator[None]:
    """Lock an account, if it has a name: the rows of the ledger have none."""
    with ExitStack() as locks:
        if account:
            locks.enter_context(source.locks.account(account))
            locks.enter_context(source.locks.derivation(account))
        yield


def _check_unchanged(source: Store, account: str, rows: Transaction) -> None:
    """Raise BusyError if a run changed an account after it was copied."""
    for table in STATE_TABLES.values():
        sql = _of_account(table)
        copied = _digest(rows.execute(sql, (account,)).fetchall())
        if copied != _digest(source.state.database.select(sql, account)):
            raise BusyError(
                f"a run changed {table.name} of {account} during the copy: nothing was copied; stop"
                " all runs and repeat"
            )


def _copy(source: Store, table: StateTable, account: str, rows: Transaction) -> None:
    """Copy one account's rows of a table; StoreError if other rows are read back."""
    sql = _of_account(table)
    copied = source.state.database.select(sql, account)
    if copied:
        rows.executemany(table.insert(), copied)
    if _digest(rows.execute(sql, (account,)).fetchall()) != _digest(copied):
        raise StoreError(f"{table.name} of {account} read back differs: nothing was copied")


def _check_target(source: Store, target: Store, accounts: list[str]) -> None:
    """Raise StoreError if the target holds rows or a key that the source does not."""
    place = target.state.database.location
    for table in STATE_TABLES.values():
        for account in {*accounts, *_accounts(target)}:
            stored = _digest(target.state.database.select(_of_account(table), account))
            copied = _digest(source.state.database.select(_of_account(table), account))
            if stored not in (copied, _digest([])):
                raise StoreError(
                    f"{place} holds another state ({table.name} of {account or 'all accounts'}):"
                    " name an empty database, or move that state away"
                )
    for folder in NOTE_FOLDERS:
        for name in target.notes.names(folder):
            if target.notes.read(folder, name) != source.notes.read(folder, name):
                raise StoreError(
                    f"{target.notes.location(folder, name)} differs from the one to copy: move it"
                    " away"
                )


def _accounts(store: Store) -> list[str]:
    """Return the accounts of all rows; the ledger's is empty."""
    names = {
        str(name)
        for table in STATE_TABLES
        for (name,) in store.state.database.select(f"SELECT DISTINCT account FROM {table}")  # noqa: S608
    }
    return sorted(names)


def _count(store: Store, table: StateTable) -> int:
    return int(store.state.database.select(f"SELECT count(*) FROM {table.name}")[0][0])  # noqa: S608


def _of_account(table: StateTable) -> str:
    return f"{table.select} WHERE account = ? ORDER BY {', '.join(table.key)}"


def _digest(rows: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()
