"""Normalise conversations and their participants, and find out which ids are ours.

Where a conversation's payload names no participants, those its messages name stand in.
It refuses to know message payloads: messages come normalised.
"""

from collections.abc import Iterable, Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.tables.payloads import PayloadReader, parse_payload

_PERSON = ("name", "username", "email")
_NOT_AN_ID = "me"
_RAW_NAMES = ["conversation_id", "platform", "page_id", "folder"]
_CUSTOMER_NAMES = {
    "participant_id": "customer_id",
    "name": "customer_name",
    "username": "customer_username",
}
_COUNTED = {
    "inbound_count": ("direction", "inbound"),
    "outbound_count": ("direction", "outbound"),
    "detailed_count": ("detail_status", "detailed"),
}
_COUNT_NAMES = {
    "created_at_min": "first_message_at",
    "created_at_max": "last_message_at",
    "created_at_count": "message_count",
} | {f"{name}_sum": name for name in _COUNTED}
_PEOPLE_NAMES = ["conversation_id", "participant_count"]
_COUNTS = ("participant_count", "message_count", *_COUNTED)

Person = tuple[str, str, str | None, str | None, str | None]
"""conversation_id, participant_id, name, username, email."""


def read_own_ids(
    conversations: pa.Table, platform: str | None, page_id: str | None
) -> frozenset[str]:
    """Return the ids under which this account itself speaks: its own id, on Messenger the Page's too."""
    own_ids = set(conversations["own_id"].drop_null().unique().to_pylist())
    if platform == "messenger":
        own_ids |= {page_id, *conversations["page_id"].drop_null().unique().to_pylist()}
    return frozenset(own_ids - {None, "", _NOT_AN_ID})


def normalize_participants(
    conversations: pa.Table, messages: pa.Table, own_ids: frozenset[str]
) -> pa.Table:
    """Return `participants`, sorted by key; who is named twice is one, with the first of each field that is known."""
    people = list(_read_people(conversations))
    unnamed = set(messages["conversation_id"].unique().to_pylist()) - {
        person[0] for person in people
    }
    people += _people_of_messages(messages, unnamed) if unnamed else []
    key = list(schema.PARTICIPANTS.key)
    frame = pd.DataFrame(people, columns=[*key, *_PERSON], dtype=object)
    if frame.duplicated(key).any():
        frame = frame.groupby(key, sort=False, as_index=False).first()
    frame = frame.sort_values(key, ignore_index=True)
    frame["is_account"] = frame["participant_id"].isin(own_ids) if own_ids else None
    return _to_table(schema.PARTICIPANTS, frame)


def _to_table(table: schema.Table, frame: pd.DataFrame) -> pa.Table:
    columns = [
        pa.array(frame[column.name].array, column.type, from_pandas=True)
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


def _read_people(conversations: pa.Table) -> Iterator[Person]:
    ids, payloads = (
        conversations["conversation_id"].to_pylist(),
        conversations["payload"].to_pylist(),
    )
    for conversation_id, payload in zip(ids, payloads, strict=True):
        for item in _read_participants(payload):
            person = PayloadReader(item if isinstance(item, dict) else {"id": item})
            participant_id = person.text("id")
            if participant_id is not None:
                yield conversation_id, participant_id, *(person.text(key) for key in _PERSON)


def _read_participants(payload: str | None) -> list[object]:
    """Return the list of participants; empty where there is none or it cannot be read."""
    try:
        value, _ = parse_payload(payload or "{}")
    except ValueError:
        return []
    return PayloadReader(value).items("participants") if isinstance(value, dict) else []


def _people_of_messages(messages: pa.Table, conversation_ids: Iterable[str]) -> Iterator[Person]:
    """Name senders and recipients of conversations whose participants nobody told us."""
    wanted = pc.is_in(
        messages["conversation_id"], value_set=pa.array(sorted(conversation_ids), schema.TEXT)
    )
    names = ["conversation_id", "sender_id", "sender_name", "sender_username", "recipient_ids"]
    columns = [column.to_pylist() for column in messages.select(names).filter(wanted).columns]
    for conversation_id, sender_id, name, username, recipient_ids in zip(*columns, strict=True):
        if sender_id is not None:
            yield conversation_id, sender_id, name, username, None
        yield from (
            (conversation_id, recipient_id, None, None, None)
            for recipient_id in recipient_ids or ()
        )


def normalize_conversations(
    conversations: pa.Table,
    messages: pa.Table,
    participants: pa.Table,
    platform: str | None,
    page_id: str | None,
) -> pa.Table:
    """Return `conversations`, sorted by key: who takes part, and the day's counts."""
    counts = _count_messages(messages)
    ids = pc.unique(
        pa.chunked_array(
            [*conversations["conversation_id"].chunks, *counts["conversation_id"].chunks]
        )
    )
    ids = ids.take(pc.sort_indices(ids))
    raw, counted = _of(ids, conversations.select(_RAW_NAMES)), _of(ids, counts)
    people, customers = (
        _of(ids, _count_people(participants)),
        _of(ids, _find_customers(participants)),
    )
    columns = {"conversation_id": ids, "participant_count": people["participant_count"]}
    columns |= {name: _without_empty(raw[name]) for name in ("platform", "page_id", "folder")}
    columns |= {name: customers[name] for name in _CUSTOMER_NAMES.values()}
    columns |= {name: counted[name] for name in _COUNT_NAMES.values()}
    for name, default in {
        "platform": platform,
        "page_id": page_id,
        **dict.fromkeys(_COUNTS, 0),
    }.items():
        columns[name] = pc.coalesce(columns[name], pa.scalar(default, columns[name].type))
    return pa.table(
        [columns[column.name] for column in schema.CONVERSATIONS.columns],
        schema=schema.CONVERSATIONS.schema,
    )


def _of(ids: pa.Array, rows: pa.Table) -> pa.Table:
    """Return for each conversation its first row, nulls where it has none."""
    return rows.take(pc.index_in(ids, value_set=rows["conversation_id"].combine_chunks()))


def _without_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)


def _count_messages(messages: pa.Table) -> pa.Table:
    table = messages.select(["conversation_id", "created_at"])
    for name, (column, value) in _COUNTED.items():
        table = table.append_column(name, pc.fill_null(pc.equal(messages[column], value), False))
    sums = [(name, "sum") for name in _COUNTED]
    counted = table.group_by("conversation_id").aggregate(
        [("created_at", "min"), ("created_at", "max"), ("created_at", "count"), *sums]
    )
    return counted.rename_columns([_COUNT_NAMES.get(name, name) for name in counted.column_names])


def _count_people(participants: pa.Table) -> pa.Table:
    """Return how many take part in each conversation."""
    return (
        participants.group_by("conversation_id")
        .aggregate([([], "count_all")])
        .rename_columns(_PEOPLE_NAMES)
    )


def _find_customers(participants: pa.Table) -> pa.Table:
    """Return of each conversation the one who is not us, where there is exactly one such."""
    others = participants.filter(pc.equal(participants["is_account"], pa.scalar(False)))
    counts = _count_people(others)
    alone = counts.filter(pc.equal(counts["participant_count"], 1))["conversation_id"]
    is_alone = pc.is_in(others["conversation_id"], value_set=alone)
    return (
        others.filter(is_alone)
        .select(["conversation_id", *_CUSTOMER_NAMES])
        .rename_columns(["conversation_id", *_CUSTOMER_NAMES.values()])
    )
