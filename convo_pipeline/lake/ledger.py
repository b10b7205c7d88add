"""The run ledger: what runs were, as rows of the `runs` table, kept in the lake's own files by day."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date
from functools import partial
from typing import Any

import pyarrow as pa

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError
from convo_pipeline.lake.partitions import Commit, StoredPartition
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RUNS
from convo_pipeline.state.records import Run

Change = Callable[[pa.Table], pa.Table]


def export_runs(store: Store, run_id: str) -> list[Commit]:
    """Write a run's lines into the ledger's files, beside those already there."""
    by_day: dict[date, list[Run]] = {}
    for run in store.state.runs(run_id=run_id):
        by_day.setdefault(_day_of(run), []).append(run)
    return [_change_day(store, day, partial(add_runs, runs=by_day[day])) for day in sorted(by_day)]


def restore_runs(store: Store) -> None:
    """Write the ledger's lost and damaged days anew, from the lines that the state still has."""
    store.partitions.check_files([RUNS], "")
    for _, _, day, _ in store.state.suspect_files(""):
        lines = partial(add_runs, runs=_runs_of(store, day))
        _change_day(store, day, lines)
        store.state.clear_suspects("", [RUNS.name], day)


def change_runs(store: Store, change: Change) -> None:
    """Change the lines of the ledger's files; a file of which nothing changes is left untouched."""
    for day in store.days(RUNS.name, ""):
        _change_day(store, day, change)


def upgrade_runs(store: Store) -> None:
    """Write the ledger's files of an earlier schema in today's."""
    for day in store.days(RUNS.name, ""):
        if not store.partitions.is_up_to_date(RUNS, "", day):
            _change_day(store, day, lambda rows: rows)


def add_runs(held: pa.Table, runs: Iterable[Run]) -> pa.Table:
    """Return the ledger's rows with these runs, newer lines in place of older ones, sorted by key."""
    rows = {(row["run_id"], row["account"]): row for row in held.to_pylist()}
    rows |= {(run.run_id, run.account): _run_row(run) for run in runs}
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=RUNS.schema)


def rename_account(rows: pa.Table, old: str, new: str) -> pa.Table:
    """Return the ledger's rows with an account under its new name."""
    runs = [replace(run, account=new) if run.account == old else run for run in read_runs(rows)]
    return add_runs(RUNS.schema.empty_table(), runs)


def redact_account(rows: pa.Table, account: str, redact: Callable[[str], str]) -> pa.Table:
    """Return the ledger's rows with an account's texts redacted; the very rows given where there was nothing to do."""
    held = rows.to_pylist()
    left = [
        row | {name: row[name] and redact(row[name]) for name in ("error", "report")}
        for row in held
    ]
    left = [new if new["account"] == account else old for old, new in zip(held, left, strict=True)]
    return rows if left == held else pa.Table.from_pylist(left, schema=RUNS.schema)


def read_runs(rows: pa.Table) -> list[Run]:
    """Return the ledger's rows as runs."""
    return [_read_run(row) for row in rows.to_pylist()]


def _change_day(store: Store, day: date, change: Change) -> Commit:
    """Change a day's lines; where its file was damaged and set aside, those that the state still has."""

    def make(held: StoredPartition | None) -> pa.Table:
        return change(held.content.fitting_rows() if held else RUNS.schema.empty_table())

    try:
        return store.partitions.commit(RUNS, "", day, make)
    except CorruptError:
        known = add_runs(RUNS.schema.empty_table(), _runs_of(store, day))
        commit = store.partitions.commit(RUNS, "", day, lambda held: change(known))
        store.state.clear_suspects("", [RUNS.name], day)
        return commit


def _runs_of(store: Store, day: date) -> list[Run]:
    return [run for run in store.state.runs() if _day_of(run) == day]


def _day_of(run: Run) -> date:
    return run.started_at.astimezone(UTC).date()


def _run_row(run: Run) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "account": run.account,
        "kind": run.kind,
        "since": run.since,
        "until": run.until,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "outcome": run.outcome,
        "reasons": list(run.reasons),
        "error": run.error,
        "calls": dump_json(dict(run.calls or {})).decode(),
        "counts": dump_json(dict(run.counts or {})).decode(),
        "report": dump_json(dict(run.report or {})).decode(),
    }


def _read_run(row: dict[str, Any]) -> Run:
    parts = {name: load_json(row[name] or "{}") for name in ("calls", "counts", "report")}
    reasons: Sequence[str] = row["reasons"] or ()
    return Run(**{**row, **parts, "reasons": tuple(reasons)})
