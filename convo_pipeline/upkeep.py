"""Offline upkeep as a person asks for it: verify the lake, rename an account. Glue between the lake and a console."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from convo_pipeline.derive import stale_days
from convo_pipeline.errors import StoreError
from convo_pipeline.json_text import dump_json
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.rename import rename_account
from convo_pipeline.lake.verify import KINDS, NOTICES, Verification, verify
from convo_pipeline.settings import StoreSettings


@contextmanager
def open_lake(settings: StoreSettings) -> Iterator[Store]:
    """Open a lake that is there already; a StoreError says that it is not."""
    if not settings.is_remote and not Path(settings.root).is_dir():
        raise StoreError(
            f"no lake at {settings.root}: the folder does not exist; name the folder that holds the tables"
        )
    with closing(Store(settings)) as store:
        yield store


def verify_lake(settings: StoreSettings, progress: Console, *, is_quick: bool, is_rebuilt: bool) -> Verification:
    """Look at every file of a lake, with a bar on a terminal; first take the files for the truth, if asked."""
    columns = (TextColumn("files"), BarColumn(), MofNCompleteColumn())
    with (
        open_lake(settings) as store,
        Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as bars,
    ):
        if is_rebuilt:
            store.rebuild_state()
        task = bars.add_task("files", total=None)
        return verify(
            store,
            is_quick=is_quick,
            stale_days=stale_days,
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
            console.print(f"{kind}: {KINDS[kind]}", markup=False)
    console.print(f"{'sound' if found.is_sound else 'not sound'}: {looked}", markup=False)


def rename(settings: StoreSettings, old: str, new: str) -> list[str]:
    """Move everything held under one account name to another; return the tables that moved."""
    with open_lake(settings) as store:
        return rename_account(store, old, new)


def _findings_table(found: Verification) -> Table:
    table = Table("what", "where", "found", box=None)
    for finding in found.findings:
        style = "yellow" if finding.kind in NOTICES else "red"
        table.add_row(finding.kind, finding.where, finding.text, style=style)
    return table
