"""Erasure in groups: ids and names leave others' rows, also under keys that no version knows."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from convo_pipeline.derive.rederive import derive_stale_days
from convo_pipeline.extract.observations import ERASED_ROW
from convo_pipeline.extract.spool import MessagesRecord
from convo_pipeline.extract.suppression_filter import SuppressionFilter
from convo_pipeline.graph.responses import ConversationRow, Page
from convo_pipeline.lake.store import Store
from convo_pipeline.upkeep.verify import verify
from tests.integration.privacy.test_forget import (
    ADA,
    EVE,
    conversations_of,
    erase_ada,
    extracted,
    hits,
    make_world,
    texts_of,
)
from tests.support.inboxes import NOW, Inboxes, serve

__all__ = ["extracted"]
NAME, USERNAME = "Ada Lovelace", "ada.likes"
TRACES = [ADA, NAME, "ada_lovelace", USERNAME]
SEEDS = range(60)


@pytest.fixture
def inboxes(tmp_path: Path, extracted: Path) -> Iterator[Inboxes]:
    shutil.copytree(extracted, tmp_path / "lake")
    with serve(tmp_path / "lake", make_world()) as inboxes:
        yield inboxes


def unknown_values(seed: int) -> dict[str, object]:
    """Return keys that no version knows, with the person in many shapes."""
    random_ = random.Random(seed)
    person: list[object] = [
        ADA,
        int(ADA),
        NAME,
        USERNAME,
        {"id": ADA, "name": NAME},
        {"id": int(ADA)},
        {"user_id": ADA, "name": NAME, "offset": 3},
        {"name": NAME},
        {"username": USERNAME, "length": 3},
        {"user": {"id": ADA, "profile": {"label": NAME}}},
        {ADA: "love"},
        f"{NAME}, Eve",
        f"Eve and {NAME}",
        f"https://m.me/{ADA}?ref=1",
    ]

    def wrap(value: object, depth: int) -> object:
        if depth == 0:
            return value
        inner = wrap(value, depth - 1)
        return random_.choice([[inner], {"data": [inner, {"x": 1}]}, {"by": inner}, [1, inner]])

    keys = ["mentions", "forwarded_from", "seen_by", "thread", "quote", "pinned", "x"]
    values: dict[str, object] = {
        key: wrap(random_.choice(person), random_.randrange(4))
        for key in random_.sample(keys, random_.randrange(1, 4))
    }
    if random_.random() < 0.5:
        users = random_.choice([[{"username": USERNAME}], [{"name": NAME}], [ADA], [{}]])
        values["reactions"] = {"data": [{"reaction": "love", "emoji": "x", "users": users}]}
    return values


def change_group(store: Store, group: str, seed: int) -> None:
    """Put such keys into the payloads of others' messages, and a name into the group's own."""

    def change(rows: pa.Table) -> pa.Table:
        records = rows.to_pylist()
        for number, row in enumerate(records):
            payload = json.loads(row["payload"] or "{}")
            if row["conversation_id"] != group or not payload:
                continue
            if "message_id" not in row:
                payload["name"] = f"{NAME} & Eve"
                for person in payload["participants"]["data"]:
                    if person["id"] == ADA:
                        person["name"] = NAME
            elif payload.get("from", {}).get("id") == ADA:
                payload["from"] = ADA  # a sender as an id without an object
            else:
                known = payload.get("reactions", {}).get("data", [])
                payload |= unknown_values(1000 * seed + number)
                added = payload.get("reactions", {}).get("data", [])
                payload["reactions"] = {"data": [*known, *added]}
            row["payload"] = json.dumps(payload, ensure_ascii=False, sort_keys=True)
        return pa.Table.from_pylist(records, schema=rows.schema)

    for table in ("raw_conversations", "raw_message_details"):
        for day in store.days(table, "insta"):
            store.shrink(table, "insta", day, change)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_s14_no_byte_of_the_person_is_left_in_a_group_with_unknown_keys(
    inboxes: Inboxes, seed: int
) -> None:
    (group,) = conversations_of(inboxes, EVE)
    change_group(inboxes.store, group, seed)
    derive_stale_days(inboxes.store, "insta", 24)
    assert {text for _, text in hits(Path(inboxes.store.root), traces=TRACES)} >= {ADA, NAME}
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root), traces=TRACES) == []
    assert texts_of(inboxes, group) == ["Eve in the group", "we in the group"]
    assert verify(inboxes.store).findings == ()


def messages_of(seed: int, group: str) -> MessagesRecord:
    others = [{"id": EVE, "username": "eve"}]
    messages: list[Any] = [
        {
            "id": f"m{seed}-{number}",
            "from": others[0],
            "to": {
                "data": [{"id": ADA, "username": "ada_lovelace"}, {"id": "1", "username": "us"}]
            },
            "message": "what Eve wrote",
            **unknown_values(7000 + 10 * seed + number),
        }
        for number in range(3)
    ]
    messages.append({"id": f"a{seed}", "from": ADA, "message": "what Ada wrote"})
    messages.append(
        {"id": f"r{seed}", "from": others[0], "message": "yes", "reply_to": {"mid": f"a{seed}"}}
    )
    return MessagesRecord(0, group, None, 0, (), tuple(messages))


def test_later_responses_of_a_group_are_cleaned_under_unknown_keys(inboxes: Inboxes) -> None:
    (group,) = conversations_of(inboxes, EVE)
    change_group(inboxes.store, group, 0)
    erase_ada(inboxes)
    account = inboxes.settings.account("insta")
    for seed in SEEDS:
        filter_ = SuppressionFilter.read(inboxes.store, account)
        cleaned = filter_.clean(messages_of(seed, group))
        assert isinstance(cleaned, MessagesRecord)
        text = json.dumps(cleaned.rows, ensure_ascii=False)
        assert [trace for trace in [*TRACES, f'a{seed}"'] if trace in text] == [], text
        assert text.count("what Eve wrote") == 3
        assert text.count(f'"{EVE}"') >= 4
        assert "what Ada wrote" not in text


@pytest.mark.parametrize("participants", [None, [EVE, ADA]])
def test_a_page_of_two_people_of_a_group_keeps_the_other_person(
    inboxes: Inboxes, participants: list[str] | None
) -> None:
    """A page without the account, of a group whose other people are on later pages."""
    erase_ada(inboxes)
    filter_ = SuppressionFilter.read(inboxes.store, inboxes.settings.account("insta"))
    assert filter_.knows_own_id
    messages = [
        {"id": "m1", "from": {"id": EVE}, "message": "what Eve wrote"},
        {"id": "m2", "from": {"id": ADA}, "message": "what Ada wrote"},
    ]
    if participants:
        people = {"data": [{"id": person} for person in participants], "paging": {"next": "https:"}}
        payload = {"id": "t_new", "participants": people}
        (kept,) = filter_.clean_conversations(
            [ConversationRow(payload, Page(tuple(messages), None, NOW))]
        )
        rows: object = kept.messages.rows
    else:
        cleaned = filter_.clean(MessagesRecord(0, "t_new", None, 0, (), tuple(messages)))
        assert isinstance(cleaned, MessagesRecord)
        rows = cleaned.rows
    assert rows == (messages[0], ERASED_ROW)


def test_a_namesake_in_the_group_keeps_the_name(inboxes: Inboxes) -> None:
    (group,) = conversations_of(inboxes, EVE)

    def change(rows: pa.Table) -> pa.Table:
        records = rows.to_pylist()
        for row in records:
            payload = json.loads(row["payload"] or "{}")
            if row["conversation_id"] == group and payload.get("from", {}).get("id") == EVE:
                payload["from"]["username"] = "ada_lovelace"
                row["payload"] = json.dumps(payload, ensure_ascii=False, sort_keys=True)
        return pa.Table.from_pylist(records, schema=rows.schema)

    for day in inboxes.store.days("raw_message_details", "insta"):
        inboxes.store.shrink("raw_message_details", "insta", day, change)
    erase_ada(inboxes)
    rows = [row for row in inboxes.rows("messages", "insta") if row["conversation_id"] == group]
    assert "ada_lovelace" in {row["sender_username"] for row in rows}


def test_a_conversation_that_only_mentions_the_person_keeps_its_messages(
    inboxes: Inboxes,
) -> None:
    before = {
        row["message_id"]
        for row in inboxes.rows("messages", "insta")
        if row["conversation_id"] not in conversations_of(inboxes, ADA)
    }

    def change(rows: pa.Table) -> pa.Table:
        records = rows.to_pylist()
        for row in records:
            payload = json.loads(row["payload"] or "{}")
            if row["conversation_id"] not in conversations_of(inboxes, ADA) and payload:
                payload["mentions"] = [ADA]
                payload.pop("participants", None)
                row["payload"] = json.dumps(payload, ensure_ascii=False, sort_keys=True)
        return pa.Table.from_pylist(records, schema=rows.schema)

    for table in ("raw_conversations", "raw_message_details"):
        for day in inboxes.store.days(table, "insta"):
            inboxes.store.shrink(table, "insta", day, change)
    derive_stale_days(inboxes.store, "insta", 24)
    erase_ada(inboxes)
    assert before <= {row["message_id"] for row in inboxes.rows("messages", "insta")}
    assert hits(Path(inboxes.store.root), traces=[ADA]) == []


def test_ids_of_erased_messages_leave_the_replies_of_others(inboxes: Inboxes) -> None:
    (group,) = conversations_of(inboxes, EVE)
    theirs = next(
        str(row["message_id"])
        for row in inboxes.rows("messages", "insta")
        if (row["conversation_id"], row["sender_id"]) == (group, ADA)
    )

    def change(rows: pa.Table) -> pa.Table:
        records = rows.to_pylist()
        for row in records:
            payload = json.loads(row["payload"] or "{}")
            if row["conversation_id"] == group and payload.get("from", {}).get("id") == EVE:
                payload["reply_to"] = {"mid": theirs}
                row["payload"] = json.dumps(payload, ensure_ascii=False, sort_keys=True)
        return pa.Table.from_pylist(records, schema=rows.schema)

    for day in inboxes.store.days("raw_message_details", "insta"):
        inboxes.store.shrink("raw_message_details", "insta", day, change)
    derive_stale_days(inboxes.store, "insta", 24)
    assert hits(Path(inboxes.store.root) / "messages", traces=[theirs]) != []
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root), traces=[theirs]) == []
