"""Run ledger: the runs as rows of the `runs` table, in one file per day."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from datetime import UTC, date
from functools import partial
from typing import Any

import pyarrow as pa

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import CorruptError
from convo_pipeline.lake.partitions import Commit, StoredPartition, rows_of
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RUNS
from convo_pipeline.state.records import Run

Change = Callable[[pa.Table], pa.Table]
JSON_COLUMNS = ("calls", "counts", "report", "settings")


def export_runs(store: Store, run_id: str) -> list[Commit]:
    """Add a run's rows to the ledger's files."""
    by_day: dict[date, list[Run]] = {}
    for run in store.state.runs(run_id=run_id):
        by_day.setdefault(_day_of(run), []).append(run)
    return [_change_day(store, day, partial(add_runs, runs=by_day[day])) for day in sorted(by_day)]


def restore_runs(store: Store) -> None:
    """Write the ledger's lost and damaged days again, with the runs that the state still has."""
    store.partitions.check_files([RUNS], "")
    for suspect in store.state.suspect_files(""):
        _change_day(store, suspect.date, partial(add_runs, runs=_runs_of(store, suspect.date)))
        store.state.clear_suspects("", [RUNS.name], suspect.date)


def change_runs(store: Store, change: Change) -> None:
    """Change the rows of the ledger's files; a file stays if none of its rows changes."""
    for day in store.days(RUNS.name, ""):
        _change_day(store, day, change)


def upgrade_runs(store: Store) -> None:
    """Write the ledger's files of an earlier schema in the current one."""
    for day in store.days(RUNS.name, ""):
        if not store.partitions.is_up_to_date(RUNS, "", day):
            _change_day(store, day, lambda rows: rows)


def add_runs(stored_rows: pa.Table, runs: Iterable[Run]) -> pa.Table:
    """Return the ledger's rows with these runs, sorted by key; a run replaces its older row."""
    rows = {(row["run_id"], row["account"]): row for row in stored_rows.to_pylist()}
    rows |= {(run.run_id, run.account): _run_row(run) for run in runs}
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=RUNS.schema)


def rename_account(rows: pa.Table, old: str, new: str) -> pa.Table:
    """Return the ledger's rows with an account under its new name."""
    runs = [replace(run, account=new) if run.account == old else run for run in read_runs(rows)]
    return add_runs(RUNS.schema.empty_table(), runs)


def redact_account(rows: pa.Table, account: str, redact: Callable[[str], str]) -> pa.Table:
    """Return the ledger's rows with an account's texts redacted; the same table if none changes."""
    stored, redacted = rows.to_pylist(), []
    for row in stored:
        texts = {name: row[name] and redact(row[name]) for name in ("error", "report")}
        redacted.append(row | texts if row["account"] == account else row)
    return rows if redacted == stored else pa.Table.from_pylist(redacted, schema=RUNS.schema)


def read_runs(rows: pa.Table) -> list[Run]:
    """Return the ledger's rows as runs."""
    return [_read_run(row) for row in rows.to_pylist()]


def _change_day(store: Store, day: date, change: Change) -> Commit:
    """Change a day's rows; of a damaged file, those that the state still has."""

    def make(stored: StoredPartition | None) -> pa.Table:
        return change(rows_of(RUNS, stored))

    try:
        return store.partitions.commit(RUNS, "", day, make)
    except CorruptError:
        rows = add_runs(RUNS.schema.empty_table(), _runs_of(store, day))
        commit = store.partitions.commit(RUNS, "", day, lambda stored: change(rows))
        store.state.clear_suspects("", [RUNS.name], day)
        return commit


def _runs_of(store: Store, day: date) -> list[Run]:
    return [run for run in store.state.runs() if _day_of(run) == day]


def _day_of(run: Run) -> date:
    return run.started_at.astimezone(UTC).date()


def _run_row(run: Run) -> dict[str, object]:
    row = {column.name: getattr(run, column.name) for column in fields(run)}
    texts = {name: dump_json(dict(row[name] or {})).decode() for name in JSON_COLUMNS}
    return row | texts | {"reasons": list(run.reasons)}


def _read_run(row: dict[str, Any]) -> Run:
    values = {name: load_json(row[name] or "{}") for name in JSON_COLUMNS}
    return Run(**{**row, **values, "reasons": tuple(row["reasons"] or ())})
