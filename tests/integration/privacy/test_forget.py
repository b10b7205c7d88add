"""A person who must be erased is gone to the last byte, does not come back, and nobody else lost anything."""

import hashlib
import itertools
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from convo_pipeline.derive.day import stale_days
from convo_pipeline.emulator.world import Account, Conversation, World
from convo_pipeline.errors import BusyError, CorruptError, StoreError
from convo_pipeline.extract.conversation import failed_state_record
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import Spool, left_spools
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Receipt, read_receipts
from convo_pipeline.privacy.erasure import lock_for_erasure
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

ADA, BOB, EVE = "9990000000000101", "9990000000000202", "9990000000000303"
SECRET = "a secret of Ada's, örtlich"
TRACES = [ADA, "Ada Lovelace", "ada_lovelace", "ada.likes", SECRET, "a picture of Ada's"]
LATER = date(2026, 5, 2)


def at(day: int, hour: int = 9) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=NOW.tzinfo)


def fill(account: Account) -> tuple[Conversation, Conversation]:
    """Ada writes on three days, in a group too, and reacts to Bob's words there; Bob and Eve write as well."""
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
    """The lake of that world, read whole once."""
    root = tmp_path_factory.mktemp("extracted") / "lake"
    with serve(root, make_world()) as inboxes:
        inboxes.extract_whole()
    return root


@pytest.fixture
def inboxes(tmp_path: Path, extracted: Path) -> Iterator[Inboxes]:
    """A copy of that lake, and its world served."""
    shutil.copytree(extracted, tmp_path / "lake")
    with serve(tmp_path / "lake", make_world()) as inboxes:
        yield inboxes


def erase_ada(inboxes: Inboxes, account: str = "insta") -> Receipt:
    receipt = forget(inboxes.settings, inboxes.store, account, ADA, inboxes.clock.now())
    assert receipt is not None
    return receipt


def hits(root: Path, account: str = "insta", traces: list[str] = TRACES) -> list[tuple[str, str]]:
    """Where a trace of Ada's is; of an account, or of all."""
    return find_texts(root, traces, account)


def others(inboxes: Inboxes, gone: set[str]) -> dict[str, list[dict[str, object]]]:
    """Every row that is of none of these conversations, by table; figures of whole days aside."""
    tables = [name for name, table in TABLES.items() if "conversation_id" in table.column_names]
    return {
        name: [row for row in inboxes.rows(name) if row["conversation_id"] not in gone]
        for name in tables
    }


def conversations_of(inboxes: Inboxes, person: str, account: str = "insta") -> set[str]:
    found = inboxes.world.accounts[account].conversations.values()
    return {
        each.conversation_id for each in found if person in [some["id"] for some in each.people]
    }


def test_not_a_byte_of_the_person_is_left_and_nothing_else_changed(inboxes: Inboxes) -> None:
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


def test_on_messenger_the_name_and_the_relay_address_go_too(inboxes: Inboxes) -> None:
    erase_ada(inboxes, "mess")
    assert hits(Path(inboxes.store.root), "mess", [*TRACES, f"{ADA}@facebook.com"]) == []
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_in_a_group_the_others_words_stay_and_the_person_is_cut_out(inboxes: Inboxes) -> None:
    (group,) = conversations_of(inboxes, EVE)
    erase_ada(inboxes)
    messages = [row for row in inboxes.rows("messages", "insta") if row["conversation_id"] == group]
    assert sorted(str(row["text"]) for row in messages) == ["Eve in the group", "we in the group"]
    assert [row for row in inboxes.rows("reactions", "insta") if row["reactor_id"] == ADA] == []
    people = {
        row["participant_id"]
        for row in inboxes.rows("participants", "insta")
        if row["conversation_id"] == group
    }
    own_id = inboxes.world.accounts["insta"].own_id
    assert people == {EVE, own_id}
    assert all(ADA not in row["recipient_ids"] for row in messages)  # type: ignore[operator]


def test_in_a_group_whose_raw_rows_are_gone_already_the_others_words_stay_too(
    inboxes: Inboxes,
) -> None:
    (group,) = conversations_of(inboxes, EVE)
    longer = ("messages", "participants", "reactions", "coverage", "account_days")
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


def test_b28_a_message_of_another_conversation_that_has_the_same_id_stays(inboxes: Inboxes) -> None:
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


def test_ids_of_what_they_sent_to_a_group_leave_the_state_too(inboxes: Inboxes) -> None:
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


def test_the_next_runs_do_not_bring_the_person_back(inboxes: Inboxes) -> None:
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


def test_a_new_conversation_of_the_person_is_not_stored_either(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    account = inboxes.world.accounts["insta"]
    account.add_conversation("Ada Lovelace", ADA).add_message(SECRET, at(10, 10))
    account.add_conversation("Carol", "9990000000000404").add_message("hello", at(10, 10))
    inboxes.extract_whole()
    assert hits(Path(inboxes.store.root)) == []
    assert "hello" in [row["text"] for row in inboxes.rows("messages", "insta")]


def test_a_refusal_does_not_name_the_persons_conversations_again(inboxes: Inboxes) -> None:
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
    suspects = []
    for mode in ("window", "full", "nightly"):
        inboxes.extract(accounts=["insta"], mode=mode)
        assert (
            hits(Path(inboxes.store.root), traces=[new.conversation_id, old.conversation_id]) == []
        )
        suspects.append(inboxes.store.state.memory("insta")["suspects"])
    assert [bob.conversation_id] in suspects


def test_another_account_keeps_its_own_rows(inboxes: Inboxes) -> None:
    before = inboxes.rows("messages", "mess")
    erase_ada(inboxes)
    assert inboxes.rows("messages", "mess") == before


def test_what_a_killed_run_left_in_the_spool_goes_too(inboxes: Inboxes) -> None:
    at_us = int(NOW.timestamp() * 1_000_000)
    ada = next(iter(conversations_of(inboxes, ADA)))
    row = {"id": ada, "updated_time": "2026-03-09T09:00:00+0000", "messages": {"data": [
        {"id": "m_new", "created_time": "2026-03-09T09:00:00+0000", "message": SECRET, "from": {"id": ADA}}]}}  # fmt: skip
    spool = Spool.create(inboxes.store.state_path, "insta", "killed")
    spool.append({"kind": "listing", "at_us": at_us, "folder": "", "fields": ["message", "from"],
                  "conversation_fields": ["id"], "conversations": [row], "states": []})  # fmt: skip
    [record] = spool.folder.iterdir()
    assert (f".state/spool/insta/killed/{record.name}", SECRET) in hits(Path(inboxes.store.root))
    erase_ada(inboxes)
    assert hits(Path(inboxes.store.root)) == []
    assert left_spools(inboxes.store.state_path, "insta") == []


def test_a_spool_from_before_is_stored_without_the_person(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    row = {
        "id": "t_9",
        "participants": {"data": [{"id": ADA}, {"id": inboxes.world.accounts["insta"].own_id}]},
    }
    spool = Spool.create(inboxes.store.state_path, "insta", "old")
    spool.append({"kind": "listing", "at_us": int(NOW.timestamp() * 1_000_000), "folder": "", "fields": [],
                  "conversation_fields": ["id"], "conversations": [row], "states": []})  # fmt: skip
    edge = {"kind": "edge", "conversation_id": "t_9", "rows": [{"id": "m", "message": SECRET}]}
    states = [failed_state_record(chat, 1, "answer") for chat in ("t_9", "t_other")]
    spool.append(
        edge | {"at_us": 1, "updated_us": None, "first_rank": 21, "fields": [], "states": states}
    )
    loaded = load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
    assert (loaded.commits, loaded.counts["suppressed_conversations"]) == ([], 1)
    known = inboxes.store.state.conversations("insta")
    assert "t_9" not in known
    assert known["t_other"].due_reason == "answer", "a dropped record carried it"
    spool.delete()


@pytest.mark.parametrize("kind", ["edge", "message"])
def test_a_conversation_that_is_listed_without_its_people_is_theirs_by_its_messages(
    inboxes: Inboxes, kind: str
) -> None:
    erase_ada(inboxes)
    us, at_us = {"id": inboxes.world.accounts["insta"].own_id}, int(NOW.timestamp() * 1_000_000)
    spool = Spool.create(inboxes.store.state_path, "insta", "killed")
    spool.append({"kind": "listing", "at_us": at_us, "folder": "", "fields": [], "conversation_fields": ["id"], "states": [],
                  "conversations": [{"id": "t_9"}, {"id": "t_8", "participants": {"data": [us, {"id": ADA}, {"id": EVE}]}}]})  # fmt: skip
    for chat in ("t_9", "t_8"):
        row = {"id": f"m_{chat}", "created_time": "2026-03-09T09:00:00+0000", "message": f"we to {chat}", "from": us,
               "to": {"data": [{"id": ADA}]}}  # fmt: skip
        about = {
            "kind": kind,
            "at_us": at_us,
            "conversation_id": chat,
            "fields": ["message", "from", "to"],
        }
        edge = {"updated_us": None, "first_rank": 1, "rows": [row]}
        single = {"message_id": row["id"], "created_us": at_us, "created_at_source": "message", "rank": 1, "code": None,
                  "subcode": None, "verdict": "detailed", "payload": row}  # fmt: skip
        spool.append(about | (edge if kind == "edge" else single))
    loaded = load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
    spool.delete()
    texts = [str(row["payload"]) for row in inboxes.rows("raw_message_details", "insta")]
    assert [sum(f"we to {chat}" in text for text in texts) for chat in ("t_9", "t_8")] == [0, 1]
    assert (loaded.counts["suppressed_conversations"], hits(Path(inboxes.store.root))) == (1, [])


def test_damaged_staged_and_compacted_copies_go_too(inboxes: Inboxes) -> None:
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


def test_a_file_of_theirs_that_was_set_aside_in_another_accounts_folder_goes_too(
    inboxes: Inboxes,
) -> None:
    store, day = inboxes.store, date(2026, 3, 2)
    astray = store.path("messages", "mess", day)
    astray.write_bytes(store.path("messages", "insta", day).read_bytes())
    with pytest.raises(CorruptError, match="set aside"):
        store.read("messages", "mess", day)
    assert len(list(astray.parent.glob("*.corrupt-*"))) == 1
    erase_ada(inboxes)
    assert list(astray.parent.glob("*.corrupt-*")) == []


def test_rejected_entries_and_run_errors_that_name_the_person_go(inboxes: Inboxes) -> None:
    store = inboxes.store
    schema = TABLES["raw_rejects"].schema
    entries = [
        {"message": SECRET, "from": {"id": ADA}},
        {"message": "no id", "from": {"id": f"{ADA}7"}},
    ]
    texts = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    rows = [{"digest": hashlib.sha256(text.encode()).hexdigest(), "reason": "no id", "payload": text,
             "first_seen_at": NOW} for text in texts]  # fmt: skip
    store.merge("raw_rejects", "insta", START, pa.Table.from_pylist(rows, schema=schema))
    run = store.state.runs("insta")[0]
    store.state.save_run(
        type(run)(
            **{**vars(run), "error": f"refused at /{ADA}", "report": {"of": f"user {ADA}", "n": 9}}
        )
    )
    export_runs(store, run.run_id)
    erase_ada(inboxes)
    assert [row["payload"] for row in inboxes.rows("raw_rejects", "insta")] == [texts[1]]
    held = store.state.runs("insta", run.run_id)[0]
    assert (held.error, held.report) == (
        "refused at /(forgotten)",
        {"of": "user (forgotten)", "n": 9},
    )
    found = {trace for _, trace in hits(Path(store.root), traces=[*TRACES, f"user {ADA}"])}
    assert found == {ADA}  # as the first digits of another's id alone
    assert hits(Path(store.root / ".state")) == []


def test_rejected_entries_of_their_conversation_go_although_they_name_nobody(
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
    spool.append(
        edge
        | {
            "conversation_id": chat,
            "rows": [{"message": SECRET, "created_time": "2026-03-09T09:00:00Z"}],
        }
    )
    spool.append({"kind": "listing", "at_us": at_us, "folder": "", "fields": [], "conversation_fields": [], "states": [],
                  "conversations": [{"id": chat, "messages": f"{SECRET}, in no list"}, {"id": "another", "messages": "b"}]})  # fmt: skip
    load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
    spool.delete()
    assert len(inboxes.rows("raw_rejects", "insta")) == 3
    assert erase_ada(inboxes).row_counts["raw_rejects"] == 2
    assert hits(Path(inboxes.store.root), traces=[*TRACES, chat]) == []
    assert [row["payload"] for row in inboxes.rows("raw_rejects", "insta")] == ['"b"']


def test_a_ledger_that_a_killed_writer_left_staged_goes(inboxes: Inboxes) -> None:
    staged, _ = inboxes.store.folder.stage(
        ("runs", "date=2026-03-02", "data.parquet"), f"failed: {ADA}".encode()
    )
    erase_ada(inboxes)
    assert not staged.exists()


def test_what_a_killed_writer_left_staged_beside_the_state_goes_after_an_hour(
    inboxes: Inboxes,
) -> None:
    beside = LocalFolder(inboxes.store.state_path)
    old, new = (
        beside.stage(("deletions", f"{name}.json"), ADA.encode())[0] for name in ("old", "new")
    )
    os.utime(old, (0, 0))
    inboxes.store.preflight()
    assert (old.exists(), new.exists()) == (False, True)


def test_nobody_is_said_to_be_unknown_while_a_damaged_file_may_hold_them(inboxes: Inboxes) -> None:
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


def test_a_receipt_is_left_that_names_nobody(inboxes: Inboxes) -> None:
    receipt = erase_ada(inboxes)
    assert read_receipts(inboxes.store, "insta") == [receipt]
    (path,) = Path(inboxes.store.root).glob(".forgotten/account=insta/*.json")
    content = json.loads(path.read_bytes())
    assert Receipt.from_json(content) == receipt
    assert content["finished_at"] == inboxes.clock.now().isoformat()
    assert content["person"] != hashlib.sha256(ADA.encode()).hexdigest()
    key = inboxes.store.state_path / "forget.key"
    assert (stat.S_IMODE(key.stat().st_mode), key.stat().st_size) == (0o600, 32)


def test_without_its_key_nobody_is_let_back_in(inboxes: Inboxes) -> None:
    erase_ada(inboxes)
    (inboxes.store.state_path / "forget.key").unlink()
    [report] = inboxes.extract(accounts=["insta"])
    assert report.outcome == "failed"
    assert "forget.key is missing" in str(report.error)


def test_forgetting_again_finds_nothing_and_keeps_the_receipt(inboxes: Inboxes) -> None:
    receipt = erase_ada(inboxes)
    assert erase_ada(inboxes) == receipt


def test_a_backup_that_brings_the_person_back_is_cleaned_by_forgetting_again(
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


def test_s19_after_a_restore_the_receipts_find_whom_to_forget_again(
    inboxes: Inboxes, tmp_path: Path
) -> None:
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


def test_a_renamed_account_remembers_whom_it_forgot(inboxes: Inboxes) -> None:
    receipt = erase_ada(inboxes)
    rename_account(inboxes.store, "insta", "cafe")
    assert [each.person for each in read_receipts(inboxes.store, "cafe")] == [receipt.person]


@pytest.mark.parametrize(
    ("account", "message"), [("nobody", "no account"), ("insta", "is the account itself")]
)
def test_what_cannot_be_forgotten_is_refused(inboxes: Inboxes, account: str, message: str) -> None:
    own_id = inboxes.world.accounts["insta"].own_id
    before = inboxes.files()
    with pytest.raises(StoreError, match=message):
        forget(inboxes.settings, inboxes.store, account, own_id, NOW)
    assert inboxes.files() == before


def test_an_unknown_person_changes_nothing(inboxes: Inboxes) -> None:
    before = inboxes.files()
    assert forget(inboxes.settings, inboxes.store, "insta", "123456789", NOW) is None
    assert (inboxes.files(), read_receipts(inboxes.store, "insta")) == (before, [])


def test_saying_no_changes_nothing(inboxes: Inboxes) -> None:
    before = inboxes.files()
    assert forget(inboxes.settings, inboxes.store, "insta", ADA, NOW, lambda traces: False) is None
    assert (inboxes.files(), read_receipts(inboxes.store, "insta")) == (before, [])


def test_one_erasure_that_cannot_be_finished_keeps_no_other_from_it(inboxes: Inboxes) -> None:
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
    """Leave what an erasure of Ada leaves that was cut off before its figures were made again."""
    with lock_for_erasure(store, account):
        erase(store, plan_erasure(store, account, ADA), NOW)


def test_an_account_at_work_is_left_alone(inboxes: Inboxes) -> None:
    with inboxes.store.lock_account("insta"), pytest.raises(BusyError):
        forget(inboxes.settings, inboxes.store, "insta", ADA, NOW)


CALLS = ("rename", "replace", "unlink", "fsync", "mkdir", "rmdir", "link")


def kill_everywhere(action: Callable[[], object], *, long_run: bool) -> None:
    """Begin it again and again, killed each time at a later call, until it comes to its end."""
    last_call, kills = 1, 0
    while not run_killed(action, last_call):
        kills += 1
        last_call += 1 if long_run else 9
    print(f"killed at {kills} moments")
    assert kills > 5


def run_killed(action: Callable[[], object], last_call: int) -> bool:
    """Do it in a child that dies at its nth call that changes the disk; say whether it came to its end before."""
    child = os.fork()
    if child == 0:
        counter = itertools.count(1)
        for name in CALLS:
            real = getattr(os, name)

            def call(*args: object, real: Callable[..., object] = real, **kwargs: object) -> object:
                if next(counter) == last_call:
                    os._exit(9)
                return real(*args, **kwargs)

            setattr(os, name, call)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_erasure_killed_anywhere_is_finished_by_the_next(
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
def test_an_erasure_killed_once_is_finished_by_the_nightly_upkeep(
    inboxes: Inboxes, tmp_path: Path, long_run: bool
) -> None:
    """Killed at each moment of it: either nothing was begun, or the night does the rest."""
    lake = Path(inboxes.store.root)
    inboxes.store.close()
    shutil.copytree(lake, tmp_path / "whole")
    is_done, moment, outcomes = False, 1, Counter[str]()
    while not is_done:
        shutil.rmtree(lake)
        shutil.copytree(tmp_path / "whole", lake)
        is_done = run_killed(
            lambda: forget(inboxes.settings, Store(inboxes.settings.store), "insta", ADA, NOW),
            moment,
        )
        with closing(Store(inboxes.settings.store)) as store:
            is_begun = bool(read_pending_plans(store) or read_receipts(store, "insta"))
            resume_erasures(inboxes.settings, store, NOW)
            assert (hits(lake) == [], read_pending_plans(store)) == (is_begun, [])
            assert all(receipt.finished_at for receipt in read_receipts(store, "insta"))
        outcomes["finished" if is_begun else "not begun"] += 1
        moment += 1 if long_run else 41 if is_begun else 3
    print(dict(outcomes))
    assert min(outcomes.values()) > 1
