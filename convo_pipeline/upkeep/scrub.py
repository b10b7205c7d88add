"""Verify a share of all files every night and repair what can be repaired without API calls.

A changed bit would otherwise stay unnoticed: DuckDB does not check page checksums. Buckets are
skipped, because they check their own bytes and each request costs.
"""

from collections.abc import Callable
from datetime import date

from convo_pipeline.derive.rederive import derive_stale_days
from convo_pipeline.errors import CorruptError
from convo_pipeline.lake.ledger import restore_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RUNS, TABLES
from convo_pipeline.settings import Settings

NIGHTS = 28
"""Each file is hashed once in this number of nights."""
MOST_NAMED = 5
"""Number of damaged files that an error names."""


def is_due(day: date, today: date) -> bool:
    """Return whether the files of a day are hashed tonight.

    >>> is_due(date(2026, 1, 5), date(2026, 2, 2)), is_due(date(2026, 1, 6), date(2026, 2, 2))
    (True, False)
    """
    return day.toordinal() % NIGHTS == today.toordinal() % NIGHTS


def scrub(
    store: Store,
    today: date,
    settings: Settings,
    is_chosen: Callable[[str], bool] = lambda account: True,
) -> int:
    """Compare tonight's files with their hashes and the others with their sizes.

    The files are those of the chosen accounts; the ledger has the account "".

    Returns the number of hashed files. A CorruptError names the damaged files, after they were
    quarantined and their days were derived again as far as possible.
    """
    if store.backend.is_shared:
        return 0
    records = [record for record in store.state.partitions() if is_chosen(record.account)]
    due_days = {record.date for record in records if is_due(record.date, today)}
    problems: list[str] = []
    for account in sorted({record.account for record in records}):
        tables = TABLES.values() if account else [RUNS]
        damaged = store.partitions.check_files(tables, account, hashed_days=due_days)
        if damaged and account:
            derive_stale_days(store, account, settings)
        problems += damaged
    if is_chosen(""):
        restore_runs(store)
    if problems:
        more = f", and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise CorruptError(
            f"{'; '.join(problems[:MOST_NAMED])}{more}: derived tables were made again, and the"
            " next run fetches the days of raw tables. `convo-pipeline verify` shows what is left"
            " and what a backup can restore"
        )
    return sum(record.date in due_days for record in records)
