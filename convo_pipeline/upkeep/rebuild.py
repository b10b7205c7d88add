"""The state made again from the lake's files alone, after it was lost or a backup was put back."""

from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.lake.ledger import read_runs, restore_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_IDS, RUNS
from convo_pipeline.state.identity import AccountIdentity
from convo_pipeline.storage.layout import is_set_aside

CERTAIN_SOURCES = ("message", "message_id")
"""A date from these never changes; any other is a placement that the state remembers."""


def rebuild_state(store: Store) -> None:
    """Derive the state from the files alone, each read to its last byte; a damaged one is left to whoever reads it.

    What accounts are believed to hold to its end is believed no longer: the files may be older than that belief. The
    day of a raw file that is gone, or another than it was, is asked again by the next run.
    """
    _note_set_aside(store)
    identities: dict[str, AccountIdentity] = {}
    known = {
        (record.table, record.account, record.date): record for record in store.state.partitions()
    }
    for table, account, day in store.data_files():
        held = store.partitions.register_file(table, account, day)
        if held is None:
            continue
        known.pop((table.name, account, day), None)
        if table is RAW_CONVERSATIONS and held.content.rows.num_rows:
            identities[account] = _newest_identity(
                account, held.content.rows, identities.get(account)
            )
        elif table is RAW_MESSAGE_IDS:
            store.state.save_placements(account, _uncertain_places(held.content.rows, day))
        elif table is RUNS:
            for run in read_runs(held.content.rows):
                store.state.save_run(run)
    for record in known.values():
        store.partitions.forget_missing(record)
    restore_runs(store)
    for identity in identities.values():
        store.state.set_identity(identity)
    for identity in store.state.identities():
        store.state.reset_progress(identity.account)


def _note_set_aside(store: Store) -> None:
    """Note every damaged file that was set aside, made again since or not; the ledger's are made again at once."""
    for _, _, _, path in store.state.suspect_files():
        if is_set_aside(path.rpartition("/")[2]):
            store.state.remove_suspect(path)
    for table, account, day, parts in store.set_aside_files():
        if table is not RUNS:
            store.state.mark_suspect(table.name, account, day, "/".join(parts))


def _newest_identity(
    account: str, rows: pa.Table, known: AccountIdentity | None
) -> AccountIdentity:
    """Days come in order, so a later day's own id replaces an earlier one's; null replaces nothing."""
    newest = rows.sort_by([("first_seen_at", "ascending")]).to_pylist()
    identity = known or AccountIdentity(account, newest[-1]["page_id"], newest[-1]["platform"])
    for row in newest:
        if row["own_id"] is not None:
            own = row["own_id"], row["own_username"]
            identity = AccountIdentity(
                account, row["page_id"], row["platform"], *own, own_id_source="inferred"
            )
    return identity


def _uncertain_places(rows: pa.Table, day: date) -> dict[tuple[str, str], date]:
    """Return the rows whose date is a guess, or was one when they were filed."""
    is_certain = pc.is_in(rows["created_at_source"], value_set=pa.array(CERTAIN_SOURCES))
    is_own_day = pc.equal(pc.cast(rows["created_at"], pa.date32()), day)
    uncertain = rows.filter(pc.invert(pc.and_(is_certain, is_own_day))).select(
        ["conversation_id", "message_id"]
    )
    return {(row["conversation_id"], row["message_id"]): day for row in uncertain.to_pylist()}
