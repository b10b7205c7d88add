"""Offline upkeep as a person asks for it: verify the lake, rename an account. Glue between the lake and a console."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.console.results import counted
from convo_pipeline.derive.day import stale_days
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.extract.spool import find_damaged_records
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Receipt
from convo_pipeline.privacy import forget as erasure
from convo_pipeline.privacy.erasure_plan import ErasurePlan
from convo_pipeline.privacy.forget import forget
from convo_pipeline.privacy.retention import (
    ExpiredPartition,
    expire_by_clock,
    find_expired,
    retention_starts,
)
from convo_pipeline.privacy.unsent import UnsentMessages, find_all_unsent, remove_unsent
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import FINDING_KINDS, NOTICES, Verification, verify

REBUILT_FROM_LISTING = "the state is made again from what the bucket lists now; if its listings lag, wait after the last write before this"


@contextmanager
def open_lake(settings: StoreSettings) -> Iterator[Store]:
    """Open a lake that is there already; a StoreError says that it is not."""
    if not settings.is_remote and not Path(settings.root).is_dir():
        raise StoreError(
            f"no lake at {settings.root}: the folder does not exist; name the folder that holds the tables"
        )
    with closing(Store(settings)) as store:
        yield store


def verify_lake(
    settings: StoreSettings, progress: Console, *, is_quick: bool, is_rebuilt: bool
) -> Verification:
    """Look at every file of a lake, with a bar on a terminal; first take the files for the truth, if asked."""
    columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn())
    with (
        open_lake(settings) as store,
        Progress(
            *columns, console=progress, transient=True, disable=not progress.is_terminal
        ) as bars,
    ):
        if is_rebuilt:
            if store.backend.is_shared:
                progress.print(REBUILT_FROM_LISTING, markup=False, highlight=False, soft_wrap=True)
            rebuild_state(store)
        task = bars.add_task("files", total=None)
        return verify(
            store,
            is_quick=is_quick,
            stale_days=stale_days,
            damaged_records=find_damaged_records,
            on_progress=lambda done, total: bars.update(task, completed=done, total=total),
        )


def show_verification(found: Verification, form: str, console: Console) -> None:
    """Print what was found: a table and what to do about each kind, or JSON."""
    if form == "json":
        console.file.write(dump_json(found.as_dict()).decode() + "\n")
        return
    looked = f"{found.file_count:,} files, {found.byte_count:,} bytes"
    looked += " (names and sizes only)" if found.is_quick else f", {found.row_count:,} rows"
    if found.findings:
        console.print(_findings_table(found))
        for kind in sorted({finding.kind for finding in found.findings}):
            console.print(f"{kind}: {FINDING_KINDS[kind]}", markup=False)
    console.print(f"{'sound' if found.is_sound else 'not sound'}: {looked}", markup=False)


def rename(settings: StoreSettings, old: str, new: str) -> list[str]:
    """Move everything held under one account name to another; return the tables that moved."""
    with open_lake(settings) as store:
        return rename_account(store, old, new)


def forget_person(
    settings: Settings, account: str, person_id: str, clock: Clock, is_agreed: Callable[[str], bool]
) -> str | None:
    """Erase a person and return what was done; None if nothing was found or the answer was no."""
    with open_lake(settings.store) as store:
        receipt = forget(
            settings,
            store,
            account,
            person_id,
            clock.now(),
            lambda found: is_agreed(_describe(found)),
        )
    return _told(receipt) if receipt else None


def forget_again(settings: Settings, account: str, clock: Clock) -> list[str]:
    """Erase again whoever came back with a backup; return what was done, a line each."""
    with open_lake(settings.store) as store:
        return [
            _told(receipt)
            for receipt in erasure.forget_again(settings, store, account, clock.now())
        ]


def _told(receipt: Receipt) -> str:
    rows = (
        ", ".join(f"{count:,} of {table}" for table, count in sorted(receipt.row_counts.items()))
        or "none"
    )
    return f"erased from {receipt.account}; rows that left: {rows}; receipt {receipt.person[:32]}"


def _describe(found: ErasurePlan) -> str:
    messages = found.row_counts.get("raw_message_ids", 0)
    shared = (
        f" and their part in {len(found.group_conversations)} with others"
        if found.group_conversations
        else ""
    )
    own = counted(len(found.direct_conversations), "conversation")
    return f"{own}{shared}, {counted(messages, 'message')} of {found.account} leave for good."


@dataclass(frozen=True)
class Leaving:
    """What leaves by `[retention]`: partitions by their age, messages because they were unsent."""

    expired: list[ExpiredPartition]
    deleted: list[UnsentMessages]
    on_deleted: str
    is_dry_run: bool


def expire_rows(
    settings: Settings, clock: Clock, is_dry_run: bool, *, is_clock_trusted: bool = False
) -> Leaving:
    """Remove what is older than it may be and what was unsent, or only name it."""
    now, retention = clock.now(), settings.retention
    if not retention.limits and retention.on_deleted == "keep":
        raise SettingsError(
            "[retention] in the configuration has no limit, and on_deleted is keep: every row is kept"
        )
    with open_lake(settings.store) as store:
        if is_dry_run:
            today = now.astimezone(UTC).date()
            expired = find_expired(store, retention_starts(retention.limits, today))
            return Leaving(
                expired, find_all_unsent(settings, store), retention.on_deleted, is_dry_run
            )
        try:  # while the raw rows tell what was unsent
            deleted = remove_unsent(settings, store, now)
        finally:
            expired = expire_by_clock(
                store, retention.limits, now, is_clock_trusted=is_clock_trusted
            )
        return Leaving(expired, deleted, retention.on_deleted, is_dry_run)


def show_expired(leaving: Leaving, console: Console) -> None:
    """Print one line for each table and account."""
    groups: dict[tuple[str, str], list[ExpiredPartition]] = {}
    for each in leaving.expired:
        groups.setdefault((each.table, each.account), []).append(each)
    table = Table("table", "account", "days", "from", "to", "rows", "bytes", box=None)
    for (name, account), some in sorted(groups.items()):
        rows, sizes = sum(each.row_count for each in some), sum(each.byte_count for each in some)
        dates = (str(some[0].date), str(some[-1].date))
        table.add_row(name, account or "-", f"{len(some):,}", *dates, f"{rows:,}", f"{sizes:,}")
    if groups:
        console.print(table)
    verb = "would go" if leaving.is_dry_run else "removed"
    console.print(f"{len(leaving.expired):,} partitions {verb}")
    if leaving.on_deleted != "keep":
        done = {"redact": "redacted", "drop": "dropped"}[leaving.on_deleted]
        count = counted(sum(len(each.messages) for each in leaving.deleted), "unsent message")
        console.print(f"{count} {f'would be {done}' if leaving.is_dry_run else done}")


def compact_lake(settings: StoreSettings, clock: Clock, console: Console) -> int:
    """Compact every closed month; return how many were made."""
    with open_lake(settings) as store, console.status("compacting"):
        store.preflight()
        return len(compact(store, clock.now().astimezone(UTC).date()))


def _findings_table(found: Verification) -> Table:
    table = Table("what", "where", "found", box=None)
    for finding in found.findings:
        style = "yellow" if finding.kind in NOTICES else "red"
        table.add_row(finding.kind, finding.where, finding.text, style=style)
    return table
