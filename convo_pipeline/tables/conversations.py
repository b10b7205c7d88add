"""Normalise conversations and their participants, and find out which ids are ours.

People come from the list of participants and from senders and recipients of messages.
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
    conversations: pa.Table, platform: str | None, page_id: str | None, own_id: str | None = None
) -> frozenset[str]:
    """Return the ids under which this account sends: its own id, on Messenger the Page's id too.

    `own_id` is the id that is known now; without it those that were stored with the rows count.
    """
    stored_ids = conversations["own_id"].drop_null().unique().to_pylist()
    own_ids = {own_id} if own_id else set(stored_ids)
    if platform == "messenger":
        own_ids |= {page_id, *conversations["page_id"].drop_null().unique().to_pylist()}
    return frozenset(own_ids - {None, "", _NOT_AN_ID})


def normalize_participants(
    conversations: pa.Table,
    messages: pa.Table,
    own_ids: frozenset[str],
    payloads: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Return `participants`, sorted by key, one row for each person in a conversation.

    Ids and names come from the list of participants, then from senders and recipients of messages,
    newest first. `payloads` are the messages' payloads, row by row: recipients' names stand there alone.
    """
    people = [*_read_people(conversations), *_people_of_messages(messages)]
    named = {person[:2] for person in people if person[2] or person[3]}
    unnamed = {person[0] for person in people if person[:2] not in named}
    if unnamed and payloads is not None:
        people += _named_recipients(messages, payloads, unnamed)
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
        yield from _read_list(conversation_id, payload, "participants")


def _read_list(conversation_id: str, payload: str | None, key: str) -> Iterator[Person]:
    """Yield the people of one list of a payload; none where it cannot be read."""
    try:
        value, _ = parse_payload(payload or "{}")
    except ValueError:
        return
    for item in PayloadReader(value).items(key) if isinstance(value, dict) else ():
        person = PayloadReader(item if isinstance(item, dict) else {"id": item})
        participant_id = person.text("id")
        if participant_id is not None:
            name, username, email = (person.text(each) for each in _PERSON)
            yield conversation_id, participant_id, name, username, email


def _people_of_messages(messages: pa.Table) -> Iterator[Person]:
    """Yield senders, newest first, then recipients; each person of a conversation once a name."""
    names = ["conversation_id", "sender_id", "sender_name", "sender_username"]
    sent = messages.filter(pc.is_valid(messages["sender_id"]))
    senders = sent.group_by(names, use_threads=False).aggregate([("created_at", "max")])
    senders = senders.sort_by([("created_at_max", "descending")]).select(names)
    columns = [column.to_pylist() for column in senders.columns]
    for conversation_id, sender_id, name, username in zip(*columns, strict=True):
        yield conversation_id, sender_id, name, username, None
    recipients = messages["recipient_ids"].combine_chunks()
    of_row = pc.list_parent_indices(recipients)
    pairs = pa.table(
        {
            "conversation_id": messages["conversation_id"].take(of_row),
            "recipient_id": pc.list_flatten(recipients),
        }
    )
    pairs = pairs.group_by(["conversation_id", "recipient_id"], use_threads=False).aggregate([])
    for conversation_id, recipient_id in zip(*(c.to_pylist() for c in pairs.columns), strict=True):
        if recipient_id is not None:
            yield conversation_id, recipient_id, None, None, None


def _named_recipients(
    messages: pa.Table, payloads: pa.ChunkedArray, conversation_ids: Iterable[str]
) -> Iterator[Person]:
    """Yield the recipients of some conversations with the names of `to`, newest first."""
    wanted = pa.array(sorted(conversation_ids), schema.TEXT)
    rows = messages.select(["conversation_id", "created_at"]).append_column("payload", payloads)
    rows = rows.filter(pc.is_in(rows["conversation_id"], value_set=wanted))
    rows = rows.sort_by([("created_at", "descending")])
    ids, texts = rows["conversation_id"].to_pylist(), rows["payload"].to_pylist()
    for conversation_id, payload in zip(ids, texts, strict=True):
        yield from _read_list(conversation_id, payload, "to")


def clear_unsure_directions(messages: pa.Table, participants: pa.Table) -> pa.Table:
    """Set the direction to null in conversations of several people where no person is the account."""
    people = participants.group_by("conversation_id", use_threads=False).aggregate(
        [("is_account", "any"), ([], "count_all")]
    )
    has_account = pc.fill_null(people["is_account_any"], False)
    is_unsure = pc.and_(pc.greater(people["count_all"], 1), pc.invert(has_account))
    unsure_ids = people.filter(is_unsure)["conversation_id"]
    if not len(unsure_ids):
        return messages
    is_in_one = pc.is_in(messages["conversation_id"], value_set=unsure_ids.combine_chunks())
    direction = pc.if_else(is_in_one, pa.scalar(None, schema.TEXT), messages["direction"])
    index = messages.column_names.index("direction")
    return messages.set_column(index, messages.schema.field("direction"), direction)


def resolve_senders(messages: pa.Table, participants: pa.Table) -> pa.Table:
    """Fill the sender of messages that name only recipients, where the conversation has one customer.

    A message to the customer is ours, a message to us is the customer's; else the sender stays null.
    """
    is_open = pc.and_(pc.is_null(messages["sender_id"]), pc.is_valid(messages["recipient_ids"]))
    if not pc.any(is_open).as_py():
        return messages
    people: dict[str, list[dict[str, object]]] = {}
    for person in participants.to_pylist():
        people.setdefault(person["conversation_id"], []).append(person)
    rows = messages.to_pylist()
    for row, needs_sender in zip(rows, is_open.to_pylist(), strict=True):
        if needs_sender and (sender := _find_sender(row, people.get(row["conversation_id"], []))):
            row |= {
                "sender_id": sender["participant_id"], "sender_name": sender["name"],
                "sender_username": sender["username"],
                "direction": "outbound" if sender["is_account"] else "inbound",
            }  # fmt: skip
    return pa.Table.from_pylist(rows, schema=messages.schema)


def _find_sender(
    row: dict[str, object], people: list[dict[str, object]]
) -> dict[str, object] | None:
    if len(people) != 2 or {person["is_account"] for person in people} != {True, False}:
        return None
    recipients = row["recipient_ids"]
    left = [person for person in people if [person["participant_id"]] != recipients]
    return left[0] if len(left) == 1 else None


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
