"""Compute `conversation_days` and `participant_days`. Pure.

People come from the list of participants, and from senders and recipients of messages.
"""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.tables.payloads import PayloadReader, parse_payload

_PERSON = ("name", "username", "email")
_NOT_AN_ID = "me"
_CUSTOMER_COLUMNS = {
    "participant_id": "customer_id",
    "name": "customer_name",
    "username": "customer_username",
}
_COUNTED = {
    "inbound_count": ("direction", "inbound"),
    "outbound_count": ("direction", "outbound"),
    "detailed_count": ("detail_status", "detailed"),
}
_COUNTS = ("participant_count", "message_count", *_COUNTED)

Person = tuple[str, str, str | None, str | None, str | None]
"""conversation_id, participant_id, name, username, email."""


def read_own_ids(
    conversations: pa.Table, platform: str | None, page_id: str | None, own_id: str | None = None
) -> frozenset[str]:
    """Return the ids under which the account sends: its own id, on Messenger also the Page's id.

    `own_id` is the id that the runs decided on, empty if they could not decide. If it is None, the
    ids that are stored in the rows count.
    """
    stored_ids = conversations["own_id"].drop_null().unique().to_pylist()
    own_ids = set(stored_ids) if own_id is None else {own_id}
    if platform == "messenger":
        own_ids |= {page_id, *conversations["page_id"].drop_null().unique().to_pylist()}
    return frozenset(own_ids - {None, "", _NOT_AN_ID})


def normalize_participants(
    conversations: pa.Table,
    messages: pa.Table,
    own_ids: frozenset[str],
    payloads: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Return `participant_days`, sorted by key, one row for each person in a conversation.

    Ids and names come from the list of participants, then from the messages, newest first.
    `payloads` are those of the messages, row by row: only they have the names of recipients.
    """
    people = [*_read_people(conversations), *_people_of_messages(messages)]
    named = {person[:2] for person in people if person[2] or person[3]}
    unnamed = {person[0] for person in people if person[:2] not in named}
    if unnamed and payloads is not None:
        people += _named_recipients(messages, payloads, unnamed)
    merged: dict[tuple[str, str], list[str | None]] = {}
    for conversation_id, participant_id, *values in people:
        known = merged.setdefault((conversation_id, participant_id), values)
        if known is not values and None in known:
            known[:] = [
                value if old is None else old for old, value in zip(known, values, strict=True)
            ]
    rows = [(*key, *values) for key, values in sorted(merged.items())]
    key = schema.PARTICIPANT_DAYS.key
    columns: dict[str, Sequence[object]] = {
        name: [row[index] for row in rows] for index, name in enumerate((*key, *_PERSON))
    }
    participant_ids = columns["participant_id"]
    columns["is_account"] = [each in own_ids if own_ids else None for each in participant_ids]
    return pa.table(
        [pa.array(columns[column.name], column.type) for column in schema.PARTICIPANT_DAYS.columns],
        schema=schema.PARTICIPANT_DAYS.schema,
    )


def _read_people(conversations: pa.Table) -> Iterator[Person]:
    ids, payloads = conversations["conversation_id"], conversations["payload"]
    for conversation_id, payload in zip(ids.to_pylist(), payloads.to_pylist(), strict=True):
        yield from _read_list(conversation_id, payload, "participants")


def _read_list(conversation_id: str, payload: str | None, key: str) -> Iterator[Person]:
    """Yield the people in one list of a payload; none if it cannot be read."""
    try:
        value, _ = parse_payload(payload or "{}")
    except ValueError:
        return
    for item in PayloadReader(value).items(key) if isinstance(value, dict) else ():
        person = PayloadReader(item if isinstance(item, dict) else {"id": item})
        participant_id = person.text("id")
        if participant_id is not None:
            name, username, email = (person.text(each) or None for each in _PERSON)
            yield conversation_id, participant_id, name, username, email


def _people_of_messages(messages: pa.Table) -> Iterator[Person]:
    """Yield senders, newest first, then recipients: each person once for each name."""
    names = ["conversation_id", "sender_id", "sender_name", "sender_username"]
    sent = messages.filter(pc.is_valid(messages["sender_id"]))
    senders = sent.group_by(names, use_threads=False).aggregate([("created_at", "max")])
    senders = senders.sort_by([("created_at_max", "descending")]).select(names)
    columns = [column.to_pylist() for column in senders.columns]
    for conversation_id, sender_id, name, username in zip(*columns, strict=True):
        yield conversation_id, sender_id, name or None, username or None, None
    recipients = messages["recipient_ids"].combine_chunks()
    ids = messages["conversation_id"].take(pc.list_parent_indices(recipients))
    pairs = pa.table([ids, pc.list_flatten(recipients)], ["conversation_id", "recipient_id"])
    pairs = pairs.group_by(pairs.column_names, use_threads=False).aggregate([])
    for pair in pairs.to_pylist():
        if pair["recipient_id"] is not None:
            yield pair["conversation_id"], pair["recipient_id"], None, None, None


def _named_recipients(
    messages: pa.Table, payloads: pa.ChunkedArray, conversation_ids: Iterable[str]
) -> Iterator[Person]:
    """Yield the recipients in `to` of some conversations with their names, newest first."""
    wanted = pa.array(sorted(conversation_ids), schema.TEXT)
    rows = messages.select(["conversation_id", "created_at"]).append_column("payload", payloads)
    rows = rows.filter(pc.is_in(rows["conversation_id"], value_set=wanted))
    rows = rows.sort_by([("created_at", "descending")])
    ids, texts = rows["conversation_id"].to_pylist(), rows["payload"].to_pylist()
    for conversation_id, payload in zip(ids, texts, strict=True):
        yield from _read_list(conversation_id, payload, "to")


def normalize_conversations(
    conversations: pa.Table,
    messages: pa.Table,
    participants: pa.Table,
    platform: str | None,
    page_id: str | None,
) -> pa.Table:
    """Return `conversation_days`, sorted by key: its customer, and the counts of the day."""
    counts = _count_messages(messages)
    chunks = [*conversations["conversation_id"].chunks, *counts["conversation_id"].chunks]
    ids = pc.unique(pa.chunked_array(chunks))
    ids = ids.take(pc.sort_indices(ids))
    columns: dict[str, object] = {"conversation_id": ids}
    for rows in (
        conversations.select(["conversation_id", "platform", "page_id", "folder"]),
        _find_customers(participants),
        _count_people(participants),
        _find_cut_lists(conversations),
        counts,
    ):
        matches = rows.take(pc.index_in(ids, value_set=rows["conversation_id"].combine_chunks()))
        columns |= {name: matches[name] for name in rows.column_names[1:]}
    for name in ("platform", "page_id", "folder"):
        is_empty = pc.equal(columns[name], "")
        columns[name] = pc.if_else(is_empty, pa.scalar(None, schema.TEXT), columns[name])
    defaults: dict[str, object] = {"platform": platform, "page_id": page_id}
    defaults |= {"has_more_participants": False} | dict.fromkeys(_COUNTS, 0)
    for name, default in defaults.items():
        field = schema.CONVERSATION_DAYS.schema.field(name)
        columns[name] = pc.coalesce(columns[name], pa.scalar(default, field.type))
    names = schema.CONVERSATION_DAYS.column_names
    return pa.table([columns[name] for name in names], schema=schema.CONVERSATION_DAYS.schema)


def _count_messages(messages: pa.Table) -> pa.Table:
    table = messages.select(["conversation_id", "created_at"])
    for name, (column, value) in _COUNTED.items():
        table = table.append_column(name, pc.fill_null(pc.equal(messages[column], value), False))
    sums = [(name, "sum") for name in _COUNTED]
    times = [("created_at", function) for function in ("min", "max", "count")]
    counts = table.group_by("conversation_id").aggregate([*times, *sums])
    return counts.rename_columns(
        ["conversation_id", "first_message_at", "last_message_at", "message_count", *_COUNTED]
    )


def _count_people(participants: pa.Table) -> pa.Table:
    counts = participants.group_by("conversation_id").aggregate([([], "count_all")])
    return counts.rename_columns(["conversation_id", "participant_count"])


def _find_cut_lists(conversations: pa.Table) -> pa.Table:
    """Return for each conversation whether its list of participants is cut."""
    is_cut = pc.fill_null(pc.match_substring(conversations["payload"], schema.IS_CUT), False)
    names = ["conversation_id", "has_more_participants"]
    return pa.table([conversations["conversation_id"], is_cut], names)


def _find_customers(participants: pa.Table) -> pa.Table:
    """Return the customer of each conversation that has exactly one participant besides us."""
    others = participants.filter(pc.equal(participants["is_account"], pa.scalar(False)))
    counts = _count_people(others)
    single = counts.filter(pc.equal(counts["participant_count"], 1))["conversation_id"]
    customers = others.filter(pc.is_in(others["conversation_id"], value_set=single))
    return customers.select(["conversation_id", *_CUSTOMER_COLUMNS]).rename_columns(
        ["conversation_id", *_CUSTOMER_COLUMNS.values()]
    )
