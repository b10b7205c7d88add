"""Normalise conversations and their participants, and find out which ids are ours.

Where a conversation's payload names no participants, those its messages name stand in.
It refuses to know message payloads: messages come normalised.
"""

from collections.abc import Iterable, Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline import schema
from convo_pipeline.tables.payloads import Fields, parse_payload

_PERSON = ("name", "username", "email")
_NOT_AN_ID = "me"

Person = tuple[str, str, str | None, str | None, str | None]
"""conversation_id, participant_id, name, username, email."""


def read_own_ids(conversations: pa.Table, platform: str | None, page_id: str | None) -> frozenset[str]:
    """Return the ids under which this account itself speaks: its own id, on Messenger the Page's too."""
    own_ids = set(conversations["own_id"].drop_null().unique().to_pylist())
    if platform == "messenger":
        own_ids |= {page_id, *conversations["page_id"].drop_null().unique().to_pylist()}
    return frozenset(own_ids - {None, "", _NOT_AN_ID})


def normalize_participants(conversations: pa.Table, messages: pa.Table, own_ids: frozenset[str]) -> pa.Table:
    """Return `participants`, sorted by key."""
    people = list(_read_people(conversations))
    named = {person[0] for person in people}
    unnamed = set(messages["conversation_id"].unique().to_pylist()) - named
    people += _people_of_messages(messages, unnamed) if unnamed else []
    frame = pd.DataFrame(people, columns=["conversation_id", "participant_id", *_PERSON], dtype=object)
    merged = frame.groupby(["conversation_id", "participant_id"], sort=True, as_index=False).first()
    merged["is_account"] = merged["participant_id"].isin(own_ids) if own_ids else None
    return _to_table(schema.PARTICIPANTS, merged)


def _to_table(table: schema.Table, frame: pd.DataFrame) -> pa.Table:
    frame = frame.astype(object).where(frame.notna(), None)
    columns = [pa.array(frame[column.name].tolist(), column.type) for column in table.columns]
    return pa.table(columns, schema=table.schema)


def _read_people(conversations: pa.Table) -> Iterator[Person]:
    ids, payloads = conversations["conversation_id"].to_pylist(), conversations["payload"].to_pylist()
    for conversation_id, payload in zip(ids, payloads, strict=True):
        for item in _read_participants(payload):
            person = Fields(item if isinstance(item, dict) else {"id": item})
            participant_id = person.text("id")
            if participant_id is not None:
                yield conversation_id, participant_id, *(person.text(key) for key in _PERSON)


def _read_participants(payload: str | None) -> list[object]:
    """Return the list of participants; empty where there is none or it cannot be read."""
    try:
        value, _ = parse_payload(payload or "{}")
    except ValueError:
        return []
    return Fields(value).items("participants") if isinstance(value, dict) else []


def _people_of_messages(messages: pa.Table, conversation_ids: Iterable[str]) -> Iterator[Person]:
    """Name senders and recipients of conversations whose participants nobody told us."""
    wanted = pc.is_in(messages["conversation_id"], value_set=pa.array(sorted(conversation_ids), schema.TEXT))
    names = ["conversation_id", "sender_id", "sender_name", "sender_username", "recipient_ids"]
    columns = [column.to_pylist() for column in messages.select(names).filter(wanted).columns]
    for conversation_id, sender_id, name, username, recipient_ids in zip(*columns, strict=True):
        if sender_id is not None:
            yield conversation_id, sender_id, name, username, None
        yield from ((conversation_id, recipient_id, None, None, None) for recipient_id in recipient_ids or ())


def normalize_conversations(
    conversations: pa.Table, messages: pa.Table, participants: pa.Table, platform: str | None, page_id: str | None
) -> pa.Table:
    """Return `conversations`, sorted by key: who takes part, and the day's counts."""
    raw = conversations.select(["conversation_id", "platform", "page_id", "folder"]).to_pandas(
        types_mapper=pd.ArrowDtype
    )
    frame = raw.drop_duplicates("conversation_id").set_index("conversation_id")
    counts = _count_messages(messages)
    people = participants.to_pandas(types_mapper=pd.ArrowDtype)
    frame = frame.reindex(sorted({*frame.index, *counts.index}))
    frame["platform"] = frame["platform"].fillna(platform) if platform else frame["platform"]
    frame["page_id"] = frame["page_id"].fillna(page_id) if page_id else frame["page_id"]
    frame["folder"] = frame["folder"].where(frame["folder"] != "")
    frame["participant_count"] = people.groupby("conversation_id").size()
    frame = frame.join(counts).join(_find_customers(people))
    totals = [name for name in frame.columns if name.endswith("_count")]
    frame[totals] = frame[totals].fillna(0).astype("int64")
    return _to_table(schema.CONVERSATIONS, frame.rename_axis("conversation_id").reset_index())


def _count_messages(messages: pa.Table) -> pd.DataFrame:
    names = ["conversation_id", "created_at"]
    columns = {
        **{name: messages[name] for name in names},
        "inbound": pc.fill_null(pc.equal(messages["direction"], "inbound"), False),
        "outbound": pc.fill_null(pc.equal(messages["direction"], "outbound"), False),
        "detailed": pc.equal(messages["detail_status"], "detailed"),
    }
    frame = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)
    counts: pd.DataFrame = frame.groupby("conversation_id").agg(
        first_message_at=("created_at", "min"),
        last_message_at=("created_at", "max"),
        message_count=("created_at", "size"),
        inbound_count=("inbound", "sum"),
        outbound_count=("outbound", "sum"),
        detailed_count=("detailed", "sum"),
    )
    return counts


def _find_customers(people: pd.DataFrame) -> pd.DataFrame:
    """Return the one participant who is not us, of each conversation that has exactly one such."""
    others = people[(~people["is_account"]).fillna(False).astype(bool)]
    alone = others[~others.duplicated("conversation_id", keep=False)].set_index("conversation_id")
    names = {"participant_id": "customer_id", "name": "customer_name", "username": "customer_username"}
    return alone[list(names)].rename(columns=names)
