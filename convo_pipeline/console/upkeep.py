"""Commands `verify`, `expire` and `compact`: work on stored tables without API calls."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.messages import LOG
from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.console.results import counted
from convo_pipeline.derive.day import stale_days
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.extract.spool import find_damaged_records
from convo_pipeline.lake.compact import compact, find_changed_months
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.retention import (
    ExpiredPartition,
    expire_by_clock,
    find_expired,
    retention_starts,
)
from convo_pipeline.privacy.unsent import UnsentMessages, find_all_unsent, remove_unsent
from convo_pipeline.query.sources import EXTRACT_FIRST
from convo_pipeline.settings import STATE_NEEDS_BUCKET, Settings, StoreSettings
from convo_pipeline.upkeep.move_state import move_state
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.verify import FINDING_KINDS, NOTICES, Verification, verify

SQLITE = "sqlite"
"""Target of `state move` that is no database server."""
REBUILT_FROM_LISTING = (
    "rebuilding the state from the bucket's listing; if listings lag, run this some time after the"
    " last write"
)


@contextmanager
def open_lake(settings: StoreSettings) -> Iterator[Store]:
    """Open an existing lake; StoreError if its folder does not exist."""
    if not settings.is_remote and not Path(settings.root).is_dir():
        raise StoreError(f"no lake at {settings.root}: the folder does not exist; {EXTRACT_FIRST}")
    with closing(Store(settings)) as store:
        store.rename_former_tables()
        yield store


def copy_state(
    settings: StoreSettings, target: str, *, is_dry_run: bool
) -> tuple[dict[str, int], str]:
    """Copy the state to a database; return the rows per table, and where the database is."""
    if "://" in target:
        raise SettingsError(
            "TARGET must be the name of a variable or the absolute path of a file: a command line"
            " is no place for a password"
        )
    if target != SQLITE and not settings.is_remote:
        raise SettingsError(STATE_NEEDS_BUCKET)
    names = {"state_url_file": target} if os.path.isabs(target) else {"state_url_env": target}
    changes = {"state_url": SecretStr(""), "state_url_env": None, "state_url_file": None}
    chosen = settings.model_copy(update=changes | ({} if target == SQLITE else names))
    with open_lake(settings) as source, closing(Store(chosen)) as store:
        counts = move_state(source, store, is_dry_run=is_dry_run)
        return counts, store.state.database.location


def verify_lake(
    settings: StoreSettings, progress: ProgressLines, *, is_quick: bool, is_rebuilt: bool
) -> Verification:
    """Verify every file and show the progress; with `is_rebuilt`, rebuild the state first."""
    with open_lake(settings) as store, progress:
        if is_rebuilt:
            if store.backend.is_shared:
                LOG.info(REBUILT_FROM_LISTING)
            rebuild_state(store)
        return verify(
            store,
            is_quick=is_quick,
            stale_days=stale_days,
            damaged_records=find_damaged_records,
            on_progress=progress.show_files,
        )


def show_verification(result: Verification, console: Console) -> None:
    """Print the findings, then what to do about each kind."""
    if result.findings:
        table = Table(box=None)
        for name in ("kind", "where", "finding"):
            table.add_column(name, overflow="fold")
        for finding in result.findings:
            style = "yellow" if finding.kind in NOTICES else "red"
            table.add_row(finding.kind, finding.where, finding.text, style=style)
        console.print(table)
        for kind in sorted({finding.kind for finding in result.findings}):
            console.print(f"{kind}: {FINDING_KINDS[kind]}", markup=False)
    rows = " (names and sizes only)" if result.is_quick else f", {result.row_count:,} rows"
    counts = f"{result.file_count:,} files, {result.byte_count:,} bytes{rows}"
    console.print(f"{'sound' if result.is_sound else 'not sound'}: {counts}", markup=False)


@dataclass(frozen=True)
class Removal:
    """Partitions that exceed `[retention]`, and messages that were unsent."""

    expired: list[ExpiredPartition]
    unsent: list[UnsentMessages]
    on_deleted: str
    is_dry_run: bool


def expire_rows(
    settings: Settings, clock: Clock, is_dry_run: bool, *, is_clock_trusted: bool = False
) -> Removal:
    """Remove expired partitions and unsent messages, or only list them.

    SettingsError if the settings remove nothing. StoreError if the machine's clock may be ahead.
    """
    now, retention = clock.now(), settings.retention
    if not retention.limits and retention.on_deleted == "keep":
        raise SettingsError('[retention] has no limit and on_deleted = "keep": every row is kept')
    with open_lake(settings.store) as store:
        if is_dry_run:
            starts = retention_starts(retention.limits, now.astimezone(UTC).date())
            expired, unsent = find_expired(store, starts), find_all_unsent(settings, store)
            return Removal(expired, unsent, retention.on_deleted, is_dry_run)
        try:  # first: raw rows that expire now say what was unsent
            unsent = remove_unsent(settings, store, now)
        finally:
            expired = expire_by_clock(
                store, retention.limits, now, is_clock_trusted=is_clock_trusted
            )
        return Removal(expired, unsent, retention.on_deleted, is_dry_run)


def show_removal(removal: Removal, console: Console) -> None:
    """Print one line per table and account, then the totals."""
    groups: dict[tuple[str, str], list[ExpiredPartition]] = {}
    for each in removal.expired:
        groups.setdefault((each.table, each.account), []).append(each)
    table = Table("table", "account", "days", "from", "to", "rows", "bytes", box=None)
    for (name, account), group in sorted(groups.items()):
        rows, size = sum(each.row_count for each in group), sum(each.byte_count for each in group)
        dates = (str(group[0].date), str(group[-1].date))
        table.add_row(name, account or "-", f"{len(group):,}", *dates, f"{rows:,}", f"{size:,}")
    if groups:
        console.print(table)
    will = "would be " if removal.is_dry_run else ""
    console.print(f"{counted(len(removal.expired), 'partition')} {will}removed")
    if removal.on_deleted != "keep":
        done = {"redact": "redacted", "drop": "dropped"}[removal.on_deleted]
        messages = counted(sum(len(each.messages) for each in removal.unsent), "unsent message")
        console.print(f"{messages} {will}{done}")


def compact_lake(
    settings: StoreSettings, clock: Clock, console: Console, *, is_dry_run: bool = False
) -> int:
    """Compact every closed month that changed, or only find them; return how many."""
    today = clock.now().astimezone(UTC).date()
    with open_lake(settings) as store, console.status("compacting"):
        if is_dry_run:
            return len(find_changed_months(store, today))
        store.preflight()
        return len(compact(store, today))
