"""Decide the direction of each message from its people. Pure.

A message is outbound if the account sent it, else inbound. The direction is null where the sender
is not known, or where the people of the message or its conversation contradict the own id.
"""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema

Row = Mapping[str, Any]
_COLUMNS = ("conversation_id", "sender_id", "recipient_ids", "direction")


def mark_second_ids(participants: pa.Table, messages: pa.Table) -> pa.Table:
    """Mark a person with the account's user name in the same conversation as the account.

    The account can have one id in the list of participants and another one in messages, and
    user names of Instagram are unique. A person who exchanges messages with the account's first id
    is somebody else: user names change.
    """
    names = ["conversation_id", "username"]
    named = participants.filter(pc.is_valid(participants["username"]))
    counts = named.group_by(names, use_threads=False).aggregate([([], "count_all")])
    if not pc.any(pc.greater(counts["count_all"], 1)).as_py():
        return participants
    rows = participants.to_pylist()
    own_names = {(row["conversation_id"], row["username"]) for row in rows if row["is_account"]}
    exchanges = _exchanges(messages)
    own_ids = {row["participant_id"] for row in rows if row["is_account"]}
    for row in rows:
        key = row["conversation_id"], row["participant_id"]
        if row["username"] and (row["conversation_id"], row["username"]) in own_names:
            row["is_account"] |= exchanges.get(key, set()).isdisjoint(own_ids)
    return pa.Table.from_pylist(rows, schema=participants.schema)


def _exchanges(messages: pa.Table) -> dict[tuple[str, str], set[str]]:
    """Return with whom each person of a conversation exchanges messages."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in messages.select(_COLUMNS[:3]).to_pylist():
        for recipient_id in row["recipient_ids"] or ():
            for one, other in ((row["sender_id"], recipient_id), (recipient_id, row["sender_id"])):
                found.setdefault((row["conversation_id"], one), set()).add(other)
    return found


def resolve_senders(messages: pa.Table, participants: pa.Table) -> pa.Table:
    """Fill the sender of messages that name only recipients, in conversations with one customer.

    The account sends a message to the customer, and the customer one to the account. Any other
    sender stays null.
    """
    is_open = pc.and_(pc.is_null(messages["sender_id"]), pc.is_valid(messages["recipient_ids"]))
    if not pc.any(is_open).as_py():
        return messages
    people: dict[str, list[Row]] = {}
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


def _find_sender(row: Row, people: list[Row]) -> Row | None:
    if len(people) != 2 or {person["is_account"] for person in people} != {True, False}:
        return None
    recipients = row["recipient_ids"]
    senders = [person for person in people if [person["participant_id"]] != recipients]
    return senders[0] if len(senders) == 1 else None


def correct_directions(
    messages: pa.Table, participants: pa.Table, own_ids: Collection[str]
) -> pa.Table:
    """Correct the directions that come from the sender alone, where other people contradict them.

    `own_ids` are the ids by which the directions were decided.
    """
    doubtful_ids = _find_doubtful(messages, participants, own_ids)
    if not doubtful_ids or not own_ids:
        return messages
    people: dict[str, dict[str, bool]] = {}
    for person in participants.to_pylist():
        own = people.setdefault(person["conversation_id"], {})
        own[person["participant_id"]] = bool(person["is_account"])
    directions = messages["direction"].to_pylist()
    for index, row in enumerate(messages.select(_COLUMNS).to_pylist()):
        if row["conversation_id"] in doubtful_ids:
            is_own = people.get(row["conversation_id"], {})
            directions[index] = _decide_direction(row, is_own)
    index = messages.column_names.index("direction")
    field = messages.schema.field(index)
    return messages.set_column(index, field, pa.array(directions, field.type))


def _find_doubtful(
    messages: pa.Table, participants: pa.Table, own_ids: Collection[str]
) -> set[str]:
    """Return the conversations whose people contradict the own id in some way.

    The account is not among their people, it has a second id there, or a message goes from
    somebody else to somebody else.
    """
    people = participants.group_by("conversation_id", use_threads=False).aggregate(
        [("is_account", "any")]
    )
    has_account = pc.fill_null(people["is_account_any"], False)
    without_account = people["conversation_id"].filter(pc.invert(has_account))
    known = pa.array(sorted(own_ids), schema.TEXT)
    is_second = pc.and_(
        pc.fill_null(participants["is_account"], False),
        pc.invert(pc.is_in(participants["participant_id"], value_set=known)),
    )
    with_second_ids = participants["conversation_id"].filter(is_second)
    inbound = messages.filter(pc.equal(messages["direction"], "inbound"))
    recipients = inbound["recipient_ids"].combine_chunks()
    is_own = pc.is_in(pc.list_flatten(recipients), value_set=known)
    to_account = pc.unique(pc.list_parent_indices(recipients).filter(is_own))
    to_others = pc.unique(pc.list_parent_indices(recipients).filter(pc.invert(is_own)))
    is_contradicted = pc.invert(pc.is_in(to_others, value_set=to_account))
    contradicted = inbound["conversation_id"].take(to_others.filter(is_contradicted))
    return {
        conversation_id
        for ids in (without_account, with_second_ids, contradicted)
        for conversation_id in ids.unique().to_pylist()
    }


def count_unsure(messages: pa.Table) -> int:
    """Return how many messages have a sender and no direction: the evidence is thin or conflicts.

    The table needs the columns `sender_id` and `direction`.
    """
    is_unsure = pc.and_(pc.is_valid(messages["sender_id"]), pc.is_null(messages["direction"]))
    return pc.sum(is_unsure).as_py() or 0


def _decide_direction(row: Row, is_own: Mapping[str, bool]) -> str | None:
    """Return the direction of a message in a conversation of these people."""
    sender_id, recipient_ids = row["sender_id"], row["recipient_ids"] or ()
    if sender_id is None:
        return None
    if is_own.get(sender_id):
        return "outbound"
    if not any(is_own.values()):
        return None if len(is_own) > 1 else "inbound"
    is_to_others = recipient_ids and not any(map(is_own.get, recipient_ids))
    return None if is_to_others else "inbound"
