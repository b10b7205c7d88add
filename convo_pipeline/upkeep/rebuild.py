"""Rebuild the state from the lake's files, after it was lost or a backup was restored."""

from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.ledger import read_runs, restore_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_IDS, RUNS
from convo_pipeline.state.records import AccountIdentity
from convo_pipeline.storage.layout import is_set_aside
from convo_pipeline.upkeep.rename import finish_renames

CERTAIN_SOURCES = ("message", "message_id")
"""Values of `created_at_source` whose date never changes. For others the state keeps the date."""


def rebuild_state(store: Store) -> None:
    """Rebuild the state from the files; each is read completely and damaged ones are skipped.

    Interrupted renames are finished first: their files lie under two names. At the end, StoreError
    names an inbox whose files lie under two names without such a note, and the command to run.
    The files can be older than the state, so the state no longer says what was read to the end.
    The next run fetches the day of each raw file that is missing or changed.
    """
    store.release_bucket()
    finish_renames(store)
    _mark_quarantined_files(store)
    identities: dict[str, AccountIdentity] = {}
    missing = {
        (record.table, record.account, record.date): record for record in store.state.partitions()
    }
    for table, account, day in store.data_files():
        registered = store.partitions.register_file(table, account, day)
        if registered is None:
            continue
        missing.pop((table.name, account, day), None)
        rows = registered.content.rows
        if table is RAW_CONVERSATIONS and rows.num_rows:
            identities[account] = _newest_identity(account, rows, identities.get(account))
        elif table is RAW_MESSAGE_IDS:
            store.state.save_placements(account, _uncertain_dates(rows, day))
        elif table is RUNS:
            for run in read_runs(rows):
                store.state.save_run(run)
    for record in missing.values():
        store.partitions.forget_missing(record)
    restore_runs(store)
    errors = []
    for identity in identities.values():
        try:
            store.state.set_identity(identity)
        except StoreError as error:
            errors.append(error)
    for identity in store.state.identities():
        store.state.reset_progress(identity.account)
    if errors:
        raise errors[0]


def _mark_quarantined_files(store: Store) -> None:
    """Mark every quarantined file as suspect, except the ledger's, which are restored at once."""
    for _, _, _, path in store.state.suspect_files():
        if is_set_aside(path.rpartition("/")[2]):
            store.state.remove_suspect(path)
    for table, account, day, parts in store.set_aside_files():
        if table is not RUNS:
            store.state.mark_suspect(table.name, account, day, "/".join(parts))


def _newest_identity(
    account: str, rows: pa.Table, known: AccountIdentity | None
) -> AccountIdentity:
    """Return the newest own id of the account. Days come in order, and null replaces nothing."""
    by_time = rows.sort_by([("first_seen_at", "ascending")]).to_pylist()
    identity = known or AccountIdentity(account, by_time[-1]["page_id"], by_time[-1]["platform"])
    for row in by_time:
        if row["own_id"] is not None:
            own = row["own_id"], row["own_username"]
            identity = AccountIdentity(
                account, row["page_id"], row["platform"], *own, own_id_source="inferred"
            )
    return identity


def _uncertain_dates(rows: pa.Table, day: date) -> dict[tuple[str, str], date]:
    """Return the day of each message whose date is estimated, or was when it was stored."""
    is_certain = pc.is_in(rows["created_at_source"], value_set=pa.array(CERTAIN_SOURCES))
    is_own_day = pc.equal(pc.cast(rows["created_at"], pa.date32()), day)
    uncertain = rows.filter(pc.invert(pc.and_(is_certain, is_own_day)))
    keys = (uncertain[name].to_pylist() for name in RAW_MESSAGE_IDS.key)
    return dict.fromkeys(zip(*keys, strict=True), day)
