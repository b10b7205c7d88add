"""Erasure of one person: no byte is left, other rows stay, later runs do not store the person."""

import hashlib
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from convo_pipeline.derive.day import stale_days
from convo_pipeline.emulator.world import Account, Conversation, World
from convo_pipeline.errors import BusyError, CorruptError, StoreError
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import Spool, left_spools
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Receipt, read_receipts
from convo_pipeline.privacy.erasure_plan import plan_erasure, read_pending_plans
from convo_pipeline.privacy.forget import erase, forget, forget_again, resume_erasures
from convo_pipeline.privacy.retention import expire
from convo_pipeline.schema import RAW, TABLES
from convo_pipeline.storage.local import LocalFolder
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, START, Inboxes, serve, small_world
from tests.support.kills import kill_everywhere, run_killed
from tests.support.spools import append_json

ADA, BOB, EVE = "9990000000000101", "9990000000000202", "9990000000000303"
SECRET = "a secret of Ada's, örtlich"
TRACES = [ADA, "Ada Lovelace", "ada_lovelace", "ada.likes", SECRET, "a picture of Ada's"]
LATER = date(2026, 5, 2)


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=NOW.tzinfo)


def fill(account: Account) -> tuple[Conversation, Conversation]:
    """Add a conversation with Ada, one with Bob, and a group with Ada and Eve."""
    ada = account.add_conversation("Ada Lovelace", ADA)
    for day in (2, 3, 7):
        ada.add_message(SECRET, at(day))
        ada.add_message(f"we answer Ada Lovelace on {day}", at(day, 10), is_ours=True)
    ada.add_message("", at(3, 11), attachments=[{"id": "5", "name": "a picture of Ada's"}])
    for number in range(18):
        ada.add_message(
            f"{SECRET} {number}", at(1 if number < 8 else 4) + timedelta(minutes=number)
        )
    account.add_conversation("Bob", BOB).add_messages(6, at(2), 90_000)
    people = [
        account.describe_customer(name, person)
        for name, person in (("Ada Lovelace", ADA), ("Eve", EVE))
    ]
    group = account.add_conversation(people=people)
    group.add_message(SECRET, at(3))
    eve = group.add_message(
        "Eve in the group", at(3, 12), **{"from": people[1], "to": [account.person(), people[0]]}
    )
    eve.react("❤️", {"id": ADA, "username": "ada.likes"})
    group.add_message("we in the group", at(8), is_ours=True)
    return ada, group


def make_world() -> World:
    world = small_world()
    for account in world.accounts.values():
        fill(account)
    return world


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of that world after one complete extraction."""
    root = tmp_path_factory.mktemp("extracted") / "lake"
    with serve(root, make_world()) as inboxes:
        inboxes.extract_whole()
    return root


@pytest.fixture
def inboxes(tmp_path: Path, extracted: Path) -> Iterator[Inboxes]:
    """A copy of that lake, and an emulator that serves the world."""
    shutil.copytree(extracted, tmp_path / "lake")
    with serve(tmp_path / "lake", make_world()) as inboxes:
        yield inboxes


def erase_ada(inboxes: Inboxes, account: str = "insta") -> Receipt:
    receipt = forget(inboxes.settings, inboxes.store, account, ADA, inboxes.clock.now())
    assert receipt is not None
    return receipt


def hits(root: Path, account: str = "insta", traces: list[str] = TRACES) -> list[tuple[str, str]]:
    """Return the files of an account that contain one of the texts."""
    return find_texts(root, traces, account)


def others(inboxes: Inboxes, gone: set[str]) -> dict[str, list[dict[str, object]]]:
    """Return the rows of all other conversations by table, without figures of whole days."""
    tables = [name for name, table in TABLES.items() if "conversation_id" in table.column_names]
    return {
        name: [row for row in inboxes.rows(name) if row["conversation_id"] not in gone]
        for name in tables
    }


def conversations_of(inboxes: Inboxes, person: str, account: str = "insta") -> set[str]:
    conversations = inboxes.world.accounts[account].conversations.values()
    return {
        each.conversation_id
        for each in conversations
        if person in [some["id"] for some in each.people]
    }


def test_s14_no_byte_of_the_person_is_left_and_other_rows_stay(inboxes: Inboxes) -> None:
    theirs = conversations_of(inboxes, ADA)
    before, files = others(inboxes, theirs), inboxes.files()
    assert {trace for _, trace in hits(Path(inboxes.store.root))} == set(TRACES)
    receipt = erase_ada(inboxes)
    assert hits(Path(inboxes.store.root)) == []
    assert others(inboxes, theirs) == before
    without = {path for path in files if "/account=insta" not in path or "date=2026-03-05" in path}
    assert without
    assert {path: inboxes.files()[path] for path in without} == {
        path: files[path] for path in without
    }
    assert receipt.row_counts["raw_message_ids"] == receipt.row_counts["messages"] == 26
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_messenger_name_and_relay_address_leave(inboxes: Inboxes) -> None:
    erase_ada(inboxes, "mess")
    assert hits(Path(inboxes.store.root), "mess", [*TRACES, f"{ADA}@facebook.com"]) == []
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_group_keeps_messages_of_others_without_the_person(inboxes: Inboxes) -> None:
    (group,) = conversations_of(inboxes, EVE)
    erase_ada(inboxes)
    messages = [row for row in inboxes.rows("messages", "insta") if row["conversation_id"] == group]
    assert sorted(str(row["text"]) for row in messages) == ["Eve in the group", "we in the group"]
    assert [row for row in inboxes.rows("reactions", "insta") if row["reactor_id"] == ADA] == []
    people = {
        row["participant_id"]
        for row in inboxes.rows("participant_days", "insta")
        if row["conversation_id"] == group
    }
    own_id = inboxes.world.accounts["insta"].own_id
    assert people == {EVE, own_id}
    assert all(ADA not in row["recipient_ids"] for row in messages)  # type: ignore[operator]


def test_group_with_expired_raw_rows_keeps_messages_of_others(
    inboxes: Inboxes,
) -> None:
    (group,) = conversations_of(inboxes, EVE)
    longer = ("messages", "participant_days", "reactions", "coverage", "account_days")
    expire(inboxes.store, {table.name: 2 for table in RAW} | dict.fromkeys(longer, 400), NOW.date())
    assert inboxes.rows("raw_message_details", "insta") == []
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root)) == []
    assert texts_of(inboxes, group) == ["Eve in the group", "we in the group"]
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def texts_of(inboxes: Inboxes, conversation_id: str) -> list[str]:
    messages = [
        row
        for row in inboxes.rows("messages", "insta")
        if row["conversation_id"] == conversation_id
    ]
    return sorted(str(row["text"]) for row in messages)


def test_b28_message_with_the_same_id_in_another_conversation_stays(inboxes: Inboxes) -> None:
    conversations = inboxes.world.accounts["insta"].conversations
    (ada,) = conversations_of(inboxes, ADA) - conversations_of(inboxes, EVE)
    (bob,) = conversations_of(inboxes, BOB)
    twin = conversations[ada].add_message("Ada's", at(10, 11))
    conversations[bob].add_message("Bob's", at(10, 11), message_id=twin.message_id)
    inboxes.extract_whole()
    before = others(inboxes, conversations_of(inboxes, ADA))
    erase_ada(inboxes)
    assert others(inboxes, conversations_of(inboxes, ADA)) == before
    assert "Bob's" in texts_of(inboxes, bob)


def test_ids_of_messages_sent_to_a_group_leave_the_state(inboxes: Inboxes) -> None:
    (group,) = conversations_of(inboxes, EVE)
    account = inboxes.world.accounts["insta"]
    chat = account.conversations[group]
    newest = chat.add_message(
        "the last word", at(10, 11), **{"from": account.describe_customer("Ada Lovelace", ADA)}
    )
    inboxes.extract_whole()
    inboxes.store.state.save_placements(
        "insta", {(group, newest.message_id): START, (group, "another's"): START}
    )
    theirs = [each.message_id for each in chat.messages if each.payload["from"]["id"] == ADA]  # type: ignore[index]
    assert {text for _, text in hits(inboxes.store.state_path, traces=theirs)} == {
        newest.message_id
    }
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root), traces=theirs) == []
    assert inboxes.store.state.placements("insta") == {(group, "another's"): START}
    inboxes.extract_whole()
    assert hits(Path(inboxes.store.root), traces=theirs) == []
    assert texts_of(inboxes, group) == ["Eve in the group", "we in the group"]


def test_later_runs_do_not_store_the_person_again(inboxes: Inboxes) -> None:
    ada = inboxes.world.accounts["insta"].conversations[
        next(iter(conversations_of(inboxes, ADA) - conversations_of(inboxes, EVE)))
    ]
    erase_ada(inboxes)
    rows = inboxes.rows("messages", "insta")
    ada.add_message(f"{SECRET}, later", at(10, 11))
    for mode in ("window", "full", "nightly"):
        [report] = inboxes.extract(accounts=["insta"], mode=mode)
        assert (report.outcome, report.counts["suppressed_conversations"]) == ("complete", 1)
        assert hits(Path(inboxes.store.root)) == []
        inboxes.derive()
        assert hits(Path(inboxes.store.root)) == []
    assert inboxes.rows("messages", "insta") == rows
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_new_conversation_of_an_erased_person_is_not_stored(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    account = inboxes.world.accounts["insta"]
    account.add_conversation("Ada Lovelace", ADA).add_message(SECRET, at(10, 10))
    account.add_conversation("Carol", "9990000000000404").add_message("hello", at(10, 10))
    inboxes.extract_whole()
    assert hits(Path(inboxes.store.root)) == []
    assert "hello" in [row["text"] for row in inboxes.rows("messages", "insta")]


def test_refused_conversations_of_an_erased_person_are_not_stored(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    account = inboxes.world.accounts["insta"]
    new = account.add_conversation("Ada Lovelace", ADA)
    old = account.conversations[
        next(iter(conversations_of(inboxes, ADA) - conversations_of(inboxes, EVE)))
    ]
    bob = account.conversations[next(iter(conversations_of(inboxes, BOB)))]
    for chat in (new, old, bob):
        chat.add_message("a word", at(10, 10))
        chat.make_unreadable(10, 2018336)
    unreadable = []
    for mode in ("window", "full", "nightly"):
        inboxes.extract(accounts=["insta"], mode=mode)
        assert (
            hits(Path(inboxes.store.root), traces=[new.conversation_id, old.conversation_id]) == []
        )
        page_size: Any = inboxes.store.state.memory("insta")["page_size"]
        unreadable.append(page_size["unreadable"])
    assert [bob.conversation_id] in unreadable


def test_other_account_keeps_its_rows(inboxes: Inboxes) -> None:
    before = inboxes.rows("messages", "mess")
    erase_ada(inboxes)
    assert inboxes.rows("messages", "mess") == before


def test_spool_of_a_killed_run_is_erased(inboxes: Inboxes) -> None:
    at_us = int(NOW.timestamp() * 1_000_000)
    ada = next(iter(conversations_of(inboxes, ADA)))
    row = {
        "id": ada,
        "updated_time": "2026-03-09T09:00:00+0000",
        "messages": {
            "data": [
                {
                    "id": "m_new",
                    "created_time": "2026-03-09T09:00:00+0000",
                    "message": SECRET,
                    "from": {"id": ADA},
                }
            ]
        },
    }
    spool = Spool.create(inboxes.store.state_path, "insta", "killed")
    append_json(
        spool,
        {
            "kind": "listing",
            "at_us": at_us,
            "folder": "",
            "fields": ["message", "from"],
            "conversation_fields": ["id"],
            "conversations": [row],
            "states": [],
        },
    )
    [record] = spool.folder.iterdir()
    assert (f".state/spool/insta/killed/{record.name}", SECRET) in hits(Path(inboxes.store.root))
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root)) == []
    assert left_spools(inboxes.store.state_path, "insta") == []


def test_older_spool_is_stored_without_the_person(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    row = {
        "id": "t_9",
        "participants": {"data": [{"id": ADA}, {"id": inboxes.world.accounts["insta"].own_id}]},
    }
    spool = Spool.create(inboxes.store.state_path, "insta", "old")
    append_json(
        spool,
        {
            "kind": "listing",
            "at_us": int(NOW.timestamp() * 1_000_000),
            "folder": "",
            "fields": [],
            "conversation_fields": ["id"],
            "conversations": [row],
            "states": [],
        },
    )
    edge = {"kind": "edge", "conversation_id": "t_9", "rows": [{"id": "m", "message": SECRET}]}
    state = {
        "kind": "state",
        "at_us": 1,
        "updated_us": None,
        "newest_message_id": None,
        "complete_since_us": None,
        "walked_down_to_us": None,
        "due_reason": "answer",
    }
    states = [state | {"conversation_id": chat} for chat in ("t_9", "t_other")]
    append_json(
        spool,
        edge | {"at_us": 1, "updated_us": None, "first_rank": 21, "fields": [], "states": states},
    )
    loaded = load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
    assert (loaded.commits, loaded.counts["suppressed_conversations"]) == ([], 1)
    states = inboxes.store.state.conversations("insta")
    assert "t_9" not in states
    assert states["t_other"].due_reason == "answer", "a dropped record carried it"
    spool.delete()


@pytest.mark.parametrize("kind", ["edge", "message"])
def test_conversation_listed_without_people_is_recognised_by_its_messages(
    inboxes: Inboxes, kind: str
) -> None:
    erase_ada(inboxes)
    us, at_us = {"id": inboxes.world.accounts["insta"].own_id}, int(NOW.timestamp() * 1_000_000)
    spool = Spool.create(inboxes.store.state_path, "insta", "killed")
    append_json(
        spool,
        {
            "kind": "listing",
            "at_us": at_us,
            "folder": "",
            "fields": [],
            "conversation_fields": ["id"],
            "states": [],
            "conversations": [
                {"id": "t_9"},
                {"id": "t_8", "participants": {"data": [us, {"id": ADA}, {"id": EVE}]}},
            ],
        },
    )
    for chat in ("t_9", "t_8"):
        row = {
            "id": f"m_{chat}",
            "created_time": "2026-03-09T09:00:00+0000",
            "message": f"we to {chat}",
            "from": us,
            "to": {"data": [{"id": ADA}]},
        }
        about = {
            "kind": kind,
            "at_us": at_us,
            "conversation_id": chat,
            "fields": ["message", "from", "to"],
        }
        edge = {"updated_us": None, "first_rank": 1, "rows": [row]}
        single = {
            "message_id": row["id"],
            "created_us": at_us,
            "created_at_source": "message",
            "rank": 1,
            "code": None,
            "subcode": None,
            "verdict": "detailed",
            "payload": row,
        }
        append_json(spool, about | (edge if kind == "edge" else single))
    loaded = load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
    spool.delete()
    texts = [str(row["payload"]) for row in inboxes.rows("raw_message_details", "insta")]
    assert [sum(f"we to {chat}" in text for text in texts) for chat in ("t_9", "t_8")] == [0, 1]
    assert (loaded.counts["suppressed_conversations"], hits(Path(inboxes.store.root))) == (1, [])


def test_damaged_staged_and_compacted_copies_leave(inboxes: Inboxes) -> None:
    store, root = inboxes.store, Path(inboxes.store.root)
    compact(store, LATER)
    assert list(root.glob(".compact/messages/*.parquet"))
    damaged = store.path("messages", "insta", date(2026, 3, 2))
    staged = store.folder.stage(
        ("raw_message_details", "account=insta", "date=2026-03-02", "data.parquet"), SECRET.encode()
    )
    other = store.folder.stage(
        ("raw_message_details", "account=mess", "date=2026-03-02", "data.parquet"), b"another's"
    )
    compacting = store.folder.stage((".compact", "messages", "segment.parquet"), SECRET.encode())
    damaged.write_bytes(SECRET.encode() + damaged.read_bytes())
    erase_ada(inboxes)
    assert (hits(root), staged[0].exists(), compacting[0].exists(), other[0].exists()) == (
        [],
        False,
        False,
        True,
    )
    assert list(root.rglob("*.corrupt-*")) == []
    assert len(list(root.glob(".compact/messages/*.parquet"))) == 1
    other[0].unlink()
    assert verify(store, stale_days=stale_days).findings == ()
    assert {row["text"] for row in inboxes.rows("messages", "insta")} >= {
        "Eve in the group",
        "message 1",
    }


def test_quarantined_file_in_another_accounts_folder_leaves(
    inboxes: Inboxes,
) -> None:
    store, day = inboxes.store, date(2026, 3, 2)
    astray = store.path("messages", "mess", day)
    astray.write_bytes(store.path("messages", "insta", day).read_bytes())
    with pytest.raises(CorruptError, match="set aside"):
        store.read("messages", "mess", day)
    quarantine = Path(store.root, ".quarantine/messages/account=mess")
    assert len(list(quarantine.rglob("*.corrupt-*"))) == 1
    erase_ada(inboxes)
    assert list(quarantine.rglob("*.corrupt-*")) == []


def test_rejects_and_run_errors_with_the_id_leave(inboxes: Inboxes) -> None:
    store = inboxes.store
    schema = TABLES["raw_rejects"].schema
    entries = [
        {"message": SECRET, "from": {"id": ADA}},
        {"message": "no id", "from": {"id": f"{ADA}7"}},
    ]
    texts = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    rows = [
        {
            "digest": hashlib.sha256(text.encode()).hexdigest(),
            "reason": "no id",
            "payload": text,
            "first_seen_at": NOW,
        }
        for text in texts
    ]
    store.merge("raw_rejects", "insta", START, pa.Table.from_pylist(rows, schema=schema))
    run = store.state.runs("insta")[0]
    store.state.save_run(
        type(run)(
            **{
                **vars(run),
                "error": f"refused at /{ADA}",
                "report": {"of": f"user {ADA}", "n": 9, "all": [ADA, 9]},
            }
        )
    )
    export_runs(store, run.run_id)
    erase_ada(inboxes)
    assert [row["payload"] for row in inboxes.rows("raw_rejects", "insta")] == [texts[1]]
    saved_run = store.state.runs("insta", run.run_id)[0]
    assert (saved_run.error, saved_run.report) == (
        "refused at /(forgotten)",
        {"of": "user (forgotten)", "n": 9, "all": ["(forgotten)", 9]},
    )
    traces = {trace for _, trace in hits(Path(store.root), traces=[*TRACES, f"user {ADA}"])}
    assert traces == {ADA}  # as the first digits of another's id alone
    assert hits(Path(store.root / ".state")) == []


def test_rejects_of_the_persons_conversation_leave(
    inboxes: Inboxes,
) -> None:
    (chat,) = conversations_of(inboxes, ADA) - conversations_of(inboxes, EVE)
    at_us = int(NOW.timestamp() * 1_000_000)
    spool = Spool.create(inboxes.store.state_path, "insta", "killed")
    edge = {
        "kind": "edge",
        "at_us": at_us,
        "updated_us": None,
        "first_rank": 1,
        "fields": ["message"],
    }
    append_json(
        spool,
        edge
        | {
            "conversation_id": chat,
            "rows": [{"message": SECRET, "created_time": "2026-03-09T09:00:00Z"}],
        },
    )
    append_json(
        spool,
        {
            "kind": "listing",
            "at_us": at_us,
            "folder": "",
            "fields": [],
            "conversation_fields": [],
            "states": [],
            "conversations": [
                {"id": chat, "messages": f"{SECRET}, in no list"},
                {"id": "another", "messages": "b"},
            ],
        },
    )
    load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
    spool.delete()
    assert len(inboxes.rows("raw_rejects", "insta")) == 3
    assert erase_ada(inboxes).row_counts["raw_rejects"] == 2
    assert hits(Path(inboxes.store.root), traces=[*TRACES, chat]) == []
    assert [row["payload"] for row in inboxes.rows("raw_rejects", "insta")] == ['"b"']


def test_staged_ledger_leaves(inboxes: Inboxes) -> None:
    staged, _ = inboxes.store.folder.stage(
        ("runs", "date=2026-03-02", "data.parquet"), f"failed: {ADA}".encode()
    )
    erase_ada(inboxes)
    assert not staged.exists()


def test_old_staged_files_beside_the_state_leave(
    inboxes: Inboxes,
) -> None:
    beside = LocalFolder(inboxes.store.state_path)
    old, new = (
        beside.stage(("deletions", f"{name}.json"), ADA.encode())[0] for name in ("old", "new")
    )
    os.utime(old, (0, 0))
    inboxes.store.preflight()
    assert (old.exists(), new.exists()) == (False, True)


def test_damaged_file_that_may_hold_the_person_is_an_error(inboxes: Inboxes) -> None:
    store = inboxes.store
    for table in TABLES:
        for day in store.days(table, "insta"):
            store.path(table, "insta", day).write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"is in no readable file of insta, but .*corrupt-.* may hold it"
        ):
            forget(inboxes.settings, store, "insta", ADA, NOW)
    assert read_receipts(store, "insta") == []


def test_receipt_contains_no_id(inboxes: Inboxes) -> None:
    receipt = erase_ada(inboxes)
    assert read_receipts(inboxes.store, "insta") == [receipt]
    (path,) = Path(inboxes.store.root).glob(".forgotten/account=insta/*.json")
    content = json.loads(path.read_bytes())
    assert Receipt.from_json(content) == receipt
    assert content["finished_at"] == inboxes.clock.now().isoformat()
    assert content["person"] != hashlib.sha256(ADA.encode()).hexdigest()
    key = inboxes.store.state_path / "forget.key"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_size) == (0o600, 32)


def test_runs_without_the_key_store_nothing(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    (inboxes.store.state_path / "forget.key").unlink()
    [report] = inboxes.extract(accounts=["insta"])
    assert report.outcome == "failed"
    assert "forget.key is missing" in str(report.error)


def test_second_erasure_keeps_the_receipt(inboxes: Inboxes) -> None:
    receipt = erase_ada(inboxes)
    assert erase_ada(inboxes) == receipt


def test_person_in_a_restored_file_is_erased_again(
    inboxes: Inboxes,
) -> None:
    path = inboxes.store.path("raw_message_details", "insta", date(2026, 3, 2))
    content = path.read_bytes()
    erase_ada(inboxes)
    path.write_bytes(content)
    rebuild_state(inboxes.store)
    assert hits(Path(inboxes.store.root))
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root)) == []


def test_s19_receipts_find_erased_people_after_a_restore(inboxes: Inboxes, tmp_path: Path) -> None:
    root, store = Path(inboxes.store.root), inboxes.store
    shutil.copytree(
        root, tmp_path / "backup", ignore=shutil.ignore_patterns("state.db*", "locks", ".staging")
    )
    erase_ada(inboxes)
    others = inboxes.rows("messages")
    assert forget_again(inboxes.settings, store, "insta", NOW) == []
    shutil.copytree(tmp_path / "backup", root, dirs_exist_ok=True)
    rebuild_state(store)
    assert {trace for _, trace in hits(root)} == set(TRACES)
    [receipt] = forget_again(inboxes.settings, store, "insta", NOW)
    assert (receipt.row_counts["messages"], hits(root), inboxes.rows("messages")) == (
        26,
        [],
        others,
    )
    assert {finding.kind for finding in verify(store, stale_days=stale_days).findings} == {
        "quarantine"
    }, "until a run"


def test_renamed_account_keeps_its_receipts(inboxes: Inboxes) -> None:
    receipt = erase_ada(inboxes)
    rename_account(inboxes.store, "insta", "cafe")
    assert [each.person for each in read_receipts(inboxes.store, "cafe")] == [receipt.person]


@pytest.mark.parametrize(
    ("account", "message"), [("nobody", "no account"), ("insta", "is the account itself")]
)
def test_unknown_account_and_own_id_are_refused(
    inboxes: Inboxes, account: str, message: str
) -> None:
    own_id = inboxes.world.accounts["insta"].own_id
    before = inboxes.files()
    with pytest.raises(StoreError, match=message):
        forget(inboxes.settings, inboxes.store, account, own_id, NOW)
    assert inboxes.files() == before


def test_unknown_person_changes_nothing(inboxes: Inboxes) -> None:
    before = inboxes.files()
    assert forget(inboxes.settings, inboxes.store, "insta", "123456789", NOW) is None
    assert (inboxes.files(), read_receipts(inboxes.store, "insta")) == (before, [])


def test_answer_no_changes_nothing(inboxes: Inboxes) -> None:
    before = inboxes.files()
    assert forget(inboxes.settings, inboxes.store, "insta", ADA, NOW, lambda traces: False) is None
    assert (inboxes.files(), read_receipts(inboxes.store, "insta")) == (before, [])


def test_one_blocked_erasure_does_not_stop_others(inboxes: Inboxes) -> None:
    for account in ("insta", "mess"):
        begin(inboxes.store, account)
    with inboxes.store.lock_account("insta"), pytest.raises(BusyError):
        resume_erasures(inboxes.settings, inboxes.store, NOW)
    assert [each.account for each in read_pending_plans(inboxes.store)] == ["insta"]
    assert [
        receipt.account for receipt in resume_erasures(inboxes.settings, inboxes.store, NOW)
    ] == ["insta"]
    assert (hits(Path(inboxes.store.root)), read_pending_plans(inboxes.store)) == ([], [])


def begin(store: Store, account: str) -> None:
    """Leave an erasure of Ada that was interrupted before the derived tables were made again."""
    with store.lock_account(account), store.lock_derivation(account):
        erase(store, plan_erasure(store, account, ADA), NOW)


def test_locked_account_is_not_erased(inboxes: Inboxes) -> None:
    with inboxes.store.lock_account("insta"), pytest.raises(BusyError):
        forget(inboxes.settings, inboxes.store, "insta", ADA, NOW)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_erasure_killed_at_any_call_is_finished_by_the_next(
    inboxes: Inboxes, long_run: bool
) -> None:
    store = inboxes.store

    def attempt() -> None:
        forget(inboxes.settings, Store(inboxes.settings.store), "insta", ADA, NOW)

    store.close()
    kill_everywhere(attempt, long_run=long_run)
    assert read_pending_plans(store) == []
    assert hits(Path(store.root)) == []
    assert verify(store, stale_days=stale_days).findings == ()
    [report] = inboxes.extract(accounts=["insta"])
    assert (report.outcome, hits(Path(store.root))) == ("complete", [])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_erasure_killed_once_is_finished_by_the_nightly_upkeep(
    inboxes: Inboxes, tmp_path: Path, long_run: bool
) -> None:
    """After a kill at any call, either nothing was begun or the nightly upkeep finishes it."""
    lake = Path(inboxes.store.root)
    inboxes.store.close()
    shutil.copytree(lake, tmp_path / "copy")
    is_done, last_call, outcomes = False, 1, Counter[str]()
    while not is_done:
        shutil.rmtree(lake)
        shutil.copytree(tmp_path / "copy", lake)
        is_done = run_killed(
            lambda: forget(inboxes.settings, Store(inboxes.settings.store), "insta", ADA, NOW),
            last_call,
        )
        with closing(Store(inboxes.settings.store)) as store:
            is_begun = bool(read_pending_plans(store) or read_receipts(store, "insta"))
            resume_erasures(inboxes.settings, store, NOW)
            assert (hits(lake) == [], read_pending_plans(store)) == (is_begun, [])
            assert all(receipt.finished_at for receipt in read_receipts(store, "insta"))
        outcomes["finished" if is_begun else "not begun"] += 1
        last_call += 1 if long_run else 41 if is_begun else 3
    print(dict(outcomes))
    assert min(outcomes.values()) > 1
