"""What is left of rows that were taken out of their partitions: compacted, staged, set aside as damaged, old versions."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta

from convo_pipeline.base.times import EARLIEST
from convo_pipeline.lake.compact import drop_outdated
from convo_pipeline.lake.parquet import read_place
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RUNS, TABLES, Table
from convo_pipeline.storage.backend import remove_file
from convo_pipeline.storage.layout import DATA_FILE, folder_parts

FIRST_DAY = EARLIEST.date()
"""Every partition that a killed writer can have staged is of this day or later."""


def erase_copies(
    store: Store,
    account: str,
    today: date,
    is_doubtful: Callable[[Table, date], bool] = lambda table, day: True,
) -> None:
    """Remove them; of damaged files, which may hold anything, those that are doubtful: of the account,
    of the ledger, and what of other accounts was found in the wrong place.

    The caller holds what keeps others from copying the account's rows meanwhile. That a damaged day waits to be made
    again stays noted.
    """
    drop_outdated(store, (account,))
    store.discard_staged(_stageable(account, today))
    for table, name, day, parts in list(store.set_aside_files()):
        if is_doubtful(table, day) and (
            name in (account, "") or _is_misplaced(store, name, day, parts)
        ):
            remove_file(store.backend, parts)
    for table in (*TABLES.values(), RUNS):
        store.backend.delete_old_versions(folder_parts(table, account))


def _is_misplaced(store: Store, account: str, day: date, parts: tuple[str, ...]) -> bool:
    """Say whether a file that was set aside is another partition's: it may be one of the account from which rows leave."""
    found = store.backend.read(parts)
    return found is not None and store.partitions.is_other_place(read_place(found[0]), account, day)


def _stageable(account: str, today: date) -> Iterator[tuple[str, ...]]:
    """Yield every file of the account, and of the ledger, that a killed writer can have staged."""
    folders = [folder_parts(table, account) for table in (*TABLES.values(), RUNS)]
    for index in range((today - FIRST_DAY).days + 3):
        day = FIRST_DAY + timedelta(days=index)
        for folder in folders:
            yield *folder, f"date={day}", DATA_FILE
