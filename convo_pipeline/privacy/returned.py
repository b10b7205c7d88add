"""Who was forgotten and is there again, because a backup from before was put back: found by the receipts' keyed hashes."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import keyed_hash, read_receipts, read_suppression
from convo_pipeline.schema import TABLES

PEOPLE = {
    "participants": "participant_id",
    "messages": "sender_id",
    "conversations": "customer_id",
    "reactions": "reactor_id",
}
"""A column of each derived table that names people; recipients are read besides."""


def find_returned_people(store: Store, account: str) -> list[str]:
    """Return the ids of forgotten people whom the derived tables name, sorted; these have been made again before."""
    forgotten = {receipt.person for receipt in read_receipts(store, account)}
    key = read_suppression(store, account).key
    people = {person for person in _people(store, account) if person} if forgotten else set()
    return sorted(person for person in people if keyed_hash(key, person) in forgotten)


def _people(store: Store, account: str) -> Iterator[str]:
    for table, name in PEOPLE.items():
        names = (name, "recipient_ids") if table == "messages" else (name,)
        for day in store.days(table, account):
            rows = read_columns(store, TABLES[table], account, day, names)
            for column in rows.columns:
                values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
                yield from pc.unique(values).to_pylist()
