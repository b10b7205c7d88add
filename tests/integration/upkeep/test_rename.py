"""Rename of an account: everything moves, bytes stay, an interruption is finished."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy import unsent
from convo_pipeline.privacy.erasure import lock_for_erasure
from convo_pipeline.privacy.erasure_plan import plan_erasure
from convo_pipeline.privacy.forget import erase, resume_erasures
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.schema import RAW_MESSAGE_IDS, REACTIONS
from convo_pipeline.settings import Settings, StoreSettings
from convo_pipeline.state.records import AccountIdentity, Run
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify
from tests.integration.privacy.test_forget import run_killed

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


def test_account_with_an_unfinished_erasure_is_not_renamed(
    store: Store,
) -> None:
    with lock_for_erasure(store, "bakery"):
        erase(store, plan_erasure(store, "bakery", "1"), NOON)
    unsent.save_pending_days(store, "bakery", [DAY])
    (store.state_path / "spool" / "bakery" / "r1").rmdir()
    for finish in (resume_erasures, remove_unsent):
        with pytest.raises(StoreError, match='an erasure in "bakery" was interrupted'):
            rename_account(store, "bakery", "cafe")
        finish(Settings(store=StoreSettings(root=str(store.root))), store, NOON)
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
