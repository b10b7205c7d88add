"""The run ledger as rows, and the state rebuilt from the files. It writes through the store alone."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.json_text import dump_json, load_json
from convo_pipeline.lake.state import AccountIdentity, Run
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_IDS, RUNS

if TYPE_CHECKING:
    from convo_pipeline.lake.files import Store

CERTAIN_SOURCES = ("message", "message_id")
"""A date from these never changes; any other is a placement that the state remembers."""


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
    left = [row | {name: row[name] and redact(row[name]) for name in ("error", "report")} for row in held]
    left = [new if new["account"] == account else old for old, new in zip(held, left, strict=True)]
    return rows if left == held else pa.Table.from_pylist(left, schema=RUNS.schema)


def read_runs(rows: pa.Table) -> list[Run]:
    """Return the ledger's rows as runs."""
    return [_read_run(row) for row in rows.to_pylist()]


def rebuild(store: "Store") -> None:
    """Derive the state from the files; a damaged file is left to `verify` and to whoever reads it.

    What accounts are believed to hold to its end is believed no longer: the files may be older than that belief.
    """
    identities: dict[str, AccountIdentity] = {}
    for record in store.state.partitions():
        if not store.adopt(record.table, record.account, record.date):
            store.state.remove_partition(record.table, record.account, record.date)
    for table, account, day in store.data_files():
        held = store.adopt(table.name, account, day)
        if held is None:
            continue
        if table is RAW_CONVERSATIONS and held.content.rows.num_rows:
            identities[account] = _newest_identity(account, held.content.rows, identities.get(account))
        elif table is RAW_MESSAGE_IDS:
            store.state.save_placements(account, _uncertain_places(held.content.rows, day))
        elif table is RUNS:
            for run in read_runs(held.content.rows):
                store.state.save_run(run)
    for identity in identities.values():
        store.state.set_identity(identity)
    for identity in store.state.identities():
        store.state.reopen(identity.account)


def _newest_identity(account: str, rows: pa.Table, known: AccountIdentity | None) -> AccountIdentity:
    """Days come in order, so a later day's own id replaces an earlier one's; null replaces nothing."""
    newest = rows.sort_by([("first_seen_at", "ascending")]).to_pylist()
    identity = known or AccountIdentity(account, newest[-1]["page_id"], newest[-1]["platform"])
    for row in newest:
        if row["own_id"] is not None:
            own = row["own_id"], row["own_username"]
            identity = AccountIdentity(account, row["page_id"], row["platform"], *own, own_id_source="inferred")
    return identity


def _uncertain_places(rows: pa.Table, day: date) -> dict[tuple[str, str], date]:
    """Return the rows whose date is a guess, or was one when they were filed."""
    is_certain = pc.is_in(rows["created_at_source"], value_set=pa.array(CERTAIN_SOURCES))
    is_own_day = pc.equal(pc.cast(rows["created_at"], pa.date32()), day)
    uncertain = rows.filter(pc.invert(pc.and_(is_certain, is_own_day))).select(["conversation_id", "message_id"])
    return {(row["conversation_id"], row["message_id"]): day for row in uncertain.to_pylist()}


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
