"""Rename of an account: everything moves, bytes stay, an interruption is finished."""

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import RENAMES, Store
from convo_pipeline.privacy import unsent
from convo_pipeline.privacy.erasure_plan import plan_erasure, read_pending_plans
from convo_pipeline.privacy.forget import erase, resume_erasures
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_IDS, REACTIONS
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.state.records import AccountIdentity, Run
from convo_pipeline.storage.backend import write_file
from convo_pipeline.storage.local import LocalFolder
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify
from tests.support.kills import run_killed

DAY = date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ID = {
    "conversation_id": "c",
    "message_id": "m",
    "created_at": NOON,
    "created_at_source": "message",
    "order_in_second": 0,
    "first_seen_at": NOON,
}
REACTION = {
    "conversation_id": "c",
    "message_id": "m",
    "reactor_id": "1",
    "reaction": "love",
    "created_at": NOON,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    for account in ("bakery", "florist"):
        store.merge(
            "raw_message_ids",
            account,
            DAY,
            pa.Table.from_pylist([ID], schema=RAW_MESSAGE_IDS.schema),
        )
        rows = pa.Table.from_pylist([REACTION], schema=REACTIONS.schema)
        store.replace("reactions", account, DAY, rows, "digest")
        store.state.set_identity(AccountIdentity(account, f"page of {account}", "instagram"))
        store.state.save_run(Run("r1", account, "extract", NOON, outcome="complete"))
    export_runs(store, "r1")
    (store.state_path / "spool" / "bakery" / "r1").mkdir(parents=True)
    yield store
    store.close()


def files(store: Store) -> dict[str, bytes]:
    paths = store.root.glob("*/account=*/*/*.parquet")
    return {str(path.relative_to(store.root)): path.read_bytes() for path in paths}


def test_rename_moves_everything_and_keeps_bytes(store: Store) -> None:
    before = files(store)
    assert rename_account(store, "bakery", "cafe") == ["raw_message_ids", "reactions"]
    assert files(store) == {
        path.replace("=bakery/", "=cafe/"): content for path, content in before.items()
    }
    assert (store.state.identity("bakery"), store.state.identities("cafe")[0].page_id) == (
        None,
        "page of bakery",
    )
    assert (store.state_path / "spool" / "cafe" / "r1").is_dir()
    runs = pq.ParquetFile(store.root / "runs" / "date=2026-01-05" / "data.parquet").read()
    assert runs["account"].to_pylist() == ["cafe", "florist"]
    assert verify(store).findings == ()


def test_new_name_has_the_identity_of_the_old(store: Store) -> None:
    rename_account(store, "bakery", "cafe")
    assert (
        store.state.set_identity(AccountIdentity("cafe", "page of bakery", "instagram")).account
        == "cafe"
    )
    with pytest.raises(StoreError, match="convo-pipeline rename cafe bakery"):
        store.state.set_identity(AccountIdentity("bakery", "page of bakery", "instagram"))


def test_name_with_rows_is_refused(store: Store) -> None:
    before = files(store)
    with pytest.raises(StoreError, match='"florist" already has rows'):
        rename_account(store, "bakery", "florist")
    assert files(store) == before


@pytest.mark.parametrize(
    "remains",
    [".state/spool/cafe/r9/1.json", ".state/spool/cafe/r9/", ".forgotten/account=cafe/1.json"],
)
def test_name_with_a_spool_or_receipts_is_refused(store: Store, remains: str) -> None:
    before, path = files(store), store.root / remains
    (path if remains.endswith("/") else path.parent).mkdir(parents=True)
    if not remains.endswith("/"):
        path.write_bytes(b"{}")
    for receipts in (
        store.root / ".forgotten/account=bakery",
        store.state_path / "spool/bakery/r1",
    ):
        receipts.mkdir(parents=True, exist_ok=True)
        (receipts / "1.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match=r'"cafe" was an account before and left .*cafe'):
        rename_account(store, "bakery", "cafe")
    assert files(store) == before
    with store.lock_account("bakery"):
        pass


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unknown", "cafe", 'no account "unknown"'),
        ("bakery", "bakery", "its name already"),
        ("bakery", "Ca/fe", "no account name"),
    ],
)
def test_impossible_names_are_refused(store: Store, old: str, new: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        rename_account(store, old, new)


def test_locked_account_is_not_renamed(store: Store) -> None:
    with store.lock_account("bakery"), pytest.raises(BusyError):
        rename_account(store, "bakery", "cafe")


def test_rename_interrupted_between_tables_is_finished_by_the_next(store: Store) -> None:
    store.folder.rename_folder(("raw_message_ids", "account=bakery"), "account=cafe")
    assert rename_account(store, "bakery", "cafe") == ["reactions"]
    assert verify(store).findings == ()
    assert store.days("raw_message_ids", "cafe") == [DAY]


def test_rename_interrupted_before_the_state_is_finished_by_the_next(store: Store) -> None:
    for table in ("raw_message_ids", "reactions"):
        store.folder.rename_folder((table, "account=bakery"), "account=cafe")
    assert rename_account(store, "bakery", "cafe") == []
    assert verify(store).findings == ()


def note_rename(store: Store, note: str = "bakery.cafe") -> None:
    (store.state_path / "rename").mkdir()
    (store.state_path / "rename" / note).touch()


def test_rename_interrupted_after_the_state_is_finished_by_the_next(store: Store) -> None:
    rename_account(store, "bakery", "cafe")
    note_rename(store)
    assert rename_account(store, "bakery", "cafe") == []
    assert not (store.state_path / "rename").exists()
    with pytest.raises(StoreError, match='no account "bakery"'):
        rename_account(store, "bakery", "cafe")


def test_half_renamed_account_is_locked_and_gets_no_third_name(
    store: Store,
) -> None:
    note_rename(store)
    for account in ("bakery", "cafe"):
        for lock in (store.lock_account, store.lock_derivation):
            with (
                pytest.raises(
                    StoreError, match="run `convo-pipeline rename bakery cafe` again first"
                ),
                lock(account),
            ):
                pass
    for old, new in (("bakery", "patisserie"), ("florist", "cafe")):
        with pytest.raises(StoreError, match="run `convo-pipeline rename bakery cafe` again first"):
            rename_account(store, old, new)
    with store.lock_account("florist"):
        pass
    assert rename_account(store, "bakery", "cafe") == ["raw_message_ids", "reactions"]
    with store.lock_account("cafe"), store.lock_derivation("cafe"):
        pass


def test_an_unfinished_erasure_is_renamed_and_finished_under_the_new_name(store: Store) -> None:
    with store.lock_account("bakery"), store.lock_derivation("bakery"):
        erase(store, plan_erasure(store, "bakery", "1"), NOON)
    unsent.save_pending_days(store, "bakery", [DAY])
    (store.state_path / "spool" / "bakery" / "r1").rmdir()
    rename_account(store, "bakery", "cafe")
    assert [plan.account for plan in read_pending_plans(store)] == ["cafe"]
    assert unsent.read_pending_days(store, "cafe") == {DAY}
    settings = Settings(store=StoreSettings(root=str(store.root)))
    assert [receipt.account for receipt in resume_erasures(settings, store, NOON)] == ["cafe"]
    remove_unsent(settings, store, NOON)
    assert read_pending_plans(store) == []
    assert not unsent.read_pending_days(store, "cafe")
    assert verify(store).findings == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("is_state_lost", [False, True])
def test_a_killed_rename_is_finished_although_the_state_was_rebuilt(
    store: Store, is_state_lost: bool
) -> None:
    """With the folder of the state the note is lost; then the error names the rename to run."""
    add_conversations(store)
    old, new, last_call, kills, is_done = "bakery", "cafe", 1, 0, False
    while not is_done:
        store.close()
        rename = partial(rename_account, Store(StoreSettings(root=str(store.root))), old, new)
        is_done = run_killed(rename, last_call)
        kills += not is_done
        if is_state_lost:
            shutil.rmtree(store.state_path)
        for _ in range(3):
            try:
                rebuild_state(store)
                break
            except StoreError as error:
                names = re.search(r"convo-pipeline rename (\w+) (\w+)", str(error))
                assert names is not None
                rename_account(store, *names.groups())
        assert verify(store).findings == ()
        held = [name for name in (old, new) if store.days("raw_message_ids", name)]
        assert len(held) == 1
        for account in ("bakery", "cafe"):
            with store.lock_account(account):
                pass
        if held == [old]:
            rename_account(store, old, new)
        assert verify(store).findings == ()
        old, new, last_call = new, old, last_call + 1
    assert kills > 20


def test_no_day_is_derived_under_a_name_while_its_rename_is_unfinished(store: Store) -> None:
    """A file under the new name would stop the rename for good: both folders would have the day."""
    write_file(LocalFolder(store.state_path), (RENAMES, "bakery.cafe"), b"")
    for name in ("bakery", "cafe"):
        with pytest.raises(StoreError, match="a rename of bakery was cut off"):
            derive_account_days(store, name, [DAY])
    assert store.accounts("account_days") == []


def add_conversations(store: Store) -> None:
    """Give each account a file that tells its inbox, as every account with a run has."""
    for account in ("bakery", "florist"):
        row = {
            "conversation_id": "c",
            "first_seen_at": NOON,
            "changed_at": NOON,
            "page_id": f"page of {account}",
            "platform": "instagram",
            "payload": "{}",
        }
        rows = pa.Table.from_pylist([row], schema=RAW_CONVERSATIONS.schema)
        store.merge("raw_conversations", account, DAY, rows)
    # The files of the fixture name no inbox in their footers: write them again.
    for account in ("bakery", "florist"):
        for table in ("raw_message_ids", "reactions"):
            store.drop(table, account, DAY)
        rows = pa.Table.from_pylist([ID], schema=RAW_MESSAGE_IDS.schema)
        store.merge("raw_message_ids", account, DAY, rows)
        rows = pa.Table.from_pylist([REACTION], schema=REACTIONS.schema)
        store.replace("reactions", account, DAY, rows, "digest")


def test_a_name_with_data_of_another_inbox_is_refused_although_no_table_has_both(
    store: Store,
) -> None:
    add_conversations(store)
    store.drop("reactions", "florist", DAY)
    with pytest.raises(StoreError, match='"florist" already has rows'):
        rename_account(store, "bakery", "florist")


def test_two_files_of_one_day_are_named_and_none_is_replaced(store: Store) -> None:
    add_conversations(store)
    note_rename(store)
    shutil.copytree(
        store.root / "reactions" / "account=bakery", store.root / "reactions" / "account=cafe"
    )
    with pytest.raises(StoreError, match=f"both contain date={DAY}: move one of the two away"):
        rename_account(store, "bakery", "cafe")
    shutil.rmtree(store.root / "reactions" / "account=bakery")
    rename_account(store, "bakery", "cafe")
    assert verify(store).findings == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_rename_killed_at_any_call_is_finished_by_the_next(store: Store) -> None:
    old, new, last_call, kills = "bakery", "cafe", 1, 0
    is_done = False
    while not is_done:
        store.close()
        rename = partial(rename_account, Store(StoreSettings(root=str(store.root))), old, new)
        is_done = run_killed(rename, last_call)
        if not is_done and (
            old in store.accounts("reactions") or any(store.state_path.glob("rename/*"))
        ):
            kills += 1
            rename_account(store, old, new)
        assert verify(store).findings == ()
        assert [store.days("raw_message_ids", account) for account in (old, new)] == [[], [DAY]]
        old, new, last_call = new, old, last_call + 1
    assert kills > 20
