"""Read a share of all files every night, so that damage is found within weeks although nobody asks, and make good what is.

A reader outside of this project cannot tell a flipped bit: DuckDB checks no page's checksum. Glue between the lake and the
derivation. A bucket is left out: its store checks its own bytes, and each look costs.
"""

from datetime import date

from convo_pipeline.derive.rederive import derive_stale_days
from convo_pipeline.errors import CorruptError
from convo_pipeline.lake.ledger import restore_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RUNS, TABLES

NIGHTS = 28
"""Each file is read once in so many nights."""
MOST_NAMED = 5


def is_due(day: date, today: date) -> bool:
    """Say whether the files of a day are read tonight.

    >>> is_due(date(2026, 1, 5), date(2026, 2, 2)), is_due(date(2026, 1, 6), date(2026, 2, 2))
    (True, False)
    """
    return day.toordinal() % NIGHTS == today.toordinal() % NIGHTS


def scrub(store: Store, today: date, session_gap_hours: float) -> int:
    """Compare tonight's files with their hashes, all others with their sizes; return how many were hashed.

    A CorruptError names what was damaged, when it has been set aside and made again as far as that goes without a call.
    """
    if store.backend.is_shared:
        return 0
    records = store.state.partitions()
    due = {record.date for record in records if is_due(record.date, today)}
    found: list[str] = []
    for account in sorted({record.account for record in records}):
        damaged = store.partitions.check_files(
            TABLES.values() if account else [RUNS], account, hashed_days=due
        )
        if damaged and account:
            derive_stale_days(store, account, session_gap_hours)
        found += damaged
    restore_runs(store)
    if found:
        more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise CorruptError(
            f"{'; '.join(found[:MOST_NAMED])}{more}: what can be made again was, the next run asks the rest;"
            " `convo-pipeline verify` says what is left, and what a backup would bring back"
        )
    return sum(record.date in due for record in records)
