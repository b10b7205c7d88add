"""Steps that the erasure of people and of unsent messages have in common."""

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any, TypeVar

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import SHARED_SPOOL, SharedSpools, left_spools
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.parquet import read_label
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RUNS, TABLES, Table
from convo_pipeline.settings import FIRST_START_DATE, AccountSettings, Settings
from convo_pipeline.storage.layout import DATA_FILE, QUARANTINE, folder_parts

T = TypeVar("T")
R = TypeVar("R")

FIRST_DAY = date(2004, 1, 1)
"""No message is older, so no staged file belongs to an earlier day."""


class PendingFiles:
    """JSON notes in a folder beside the state, for work that an interruption must not lose."""

    def __init__(self, store: Store, folder: str) -> None:
        self._notes, self._folder = store.notes, folder

    def names(self) -> list[str]:
        files = self._notes.names(self._folder)
        return [name.removesuffix(".json") for name in files if name.endswith(".json")]

    def read(self, name: str) -> Any:
        """Return the content of a file; None if there is no file."""
        content = self._notes.read(self._folder, f"{name}.json")
        return None if content is None else load_json(content)

    def create(self, name: str, value: object) -> None:
        """Write a note if there is none: of two writers at once the first wins."""
        self._notes.create(self._folder, f"{name}.json", dump_json(value))

    def save(self, name: str, value: object) -> None:
        self._notes.write(self._folder, f"{name}.json", dump_json(value))

    def remove(self, name: str) -> None:
        self._notes.remove(self._folder, f"{name}.json")


def load_leftover_spools(settings: Settings, store: Store, account: str) -> None:
    """Store what interrupted runs left in their spools, so that the erasure covers it.

    The caller holds `lock_account`, and not `lock_derivation`: loading can take it.
    """
    for spool in left_spools(store.state_path, account, SharedSpools.of(store)):
        load_spool(store, _account_settings(settings, store, account), spool)
        spool.delete()


def _account_settings(settings: Settings, store: Store, name: str) -> AccountSettings:
    """Return the account's settings, from the state if it left the configuration."""
    for account in settings.accounts:
        if account.name == name:
            return account
    identity = store.state.identity(name)
    if identity is None:
        raise StoreError(
            f"{store.state_path / 'spool' / name} holds data of an interrupted run, but neither"
            f' the configuration nor the state has an account "{name}". Put it back into the'
            " configuration, or run `convo-pipeline verify --rebuild-state`"
        )
    return AccountSettings.model_validate(
        {
            "name": name,
            "page_id": identity.page_id,
            "platform": identity.platform,
            "token_env": "NONE",
            "start_date": FIRST_START_DATE,
        }
    )


def delete_copies(
    store: Store,
    account: str,
    today: date,
    may_hold_erased: Callable[[Table, date], bool] = lambda table, day: True,
) -> None:
    """Delete copies of erased rows outside the partitions of an account.

    These are compacted months, staged files, quarantined files and a bucket's old versions. A
    quarantined file can hold anything, so it is deleted where `may_hold_erased` is true for its
    table and day: in the account's folders, in the ledger's, and in the folder of another account
    if the file belongs elsewhere. The state still lists its day as damaged. The caller holds
    both locks of the account.
    """
    drop_outdated(store, (account,))
    folders = [folder_parts(table, account) for table in (*TABLES.values(), RUNS)]
    days = [FIRST_DAY + timedelta(days=days) for days in range((today - FIRST_DAY).days + 3)]
    store.discard_staged((*folder, f"date={day}", DATA_FILE) for folder in folders for day in days)
    for table, folder_account, day, parts in list(store.set_aside_files()):
        if not may_hold_erased(table, day):
            continue
        is_foreign = folder_account not in (account, "")
        content = store.backend.read(parts) if is_foreign else None
        is_misplaced = content is not None and store.partitions.belongs_elsewhere(
            read_label(content[0]), folder_account, day
        )
        if is_misplaced or not is_foreign:
            store.remove_set_aside(parts)
    for folder in (*folders, (QUARANTINE,), (SHARED_SPOOL, f"account={account}")):
        store.backend.delete_old_versions(folder)


def apply_to_each(work: Callable[[T], R], items: Iterable[T]) -> tuple[list[R], list[StoreError]]:
    """Do the work for each item; return the results and the errors of the items that failed."""
    results, errors = [], []
    for item in items:
        try:
            results.append(work(item))
        except StoreError as error:
            errors.append(error)
    return results, errors
