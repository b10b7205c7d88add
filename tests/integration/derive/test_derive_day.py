"""Derived tables of a day: when they are stale, and what a derivation writes."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from convo_pipeline import schema
from convo_pipeline.derive.day import (
    DERIVATION_VERSION,
    accept_loss,
    derivation_source,
    derive_day,
    kept_days,
    stale_days,
)
from convo_pipeline.errors import CorruptError
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import AccountIdentity

DAY = date(2026, 2, 19)
AT = datetime(2026, 2, 19, 8, 57, 24, tzinfo=UTC)
LATER = datetime(2026, 2, 19, 9, 0, 0, tzinfo=UTC)
ACCOUNT = "bakery"
ALL = (
    "conversation_days",
    "participant_days",
    "messages",
    "attachments",
    "shares",
    "reactions",
    "coverage",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(StoreSettings(root=str(tmp_path)))


def save_conversation(store: Store) -> None:
    row = {
        "conversation_id": "c1", "platform": "instagram", "page_id": "1", "own_id": "17",
        "fields": '{"participants":1}',
        "payload": '{"participants":{"data":[{"id":"17","username":"bakery"},'
        '{"id":"42","username":"ada"}]}}',
        "first_seen_at": AT, "changed_at": AT,
    }  # fmt: skip
    store.merge(
        "raw_conversations",
        ACCOUNT,
        DAY,
        pa.Table.from_pylist([row], schema.RAW_CONVERSATIONS.schema),
    )


def save_id(store: Store, message_id: str) -> None:
    row = {
        "conversation_id": "c1", "message_id": message_id, "created_at": AT,
        "created_at_source": "message",
        "order_in_second": 0, "first_seen_at": LATER,
    }  # fmt: skip
    store.merge(
        "raw_message_ids", ACCOUNT, DAY, pa.Table.from_pylist([row], schema.RAW_MESSAGE_IDS.schema)
    )


def save_details(store: Store, message_id: str, payload: str) -> None:
    row = {
        "conversation_id": "c1", "message_id": message_id, "created_at": AT,
        "detail_status": "detailed",
        "fields": '{"from":1,"message":1,"attachments":1,"shares":1,"reactions":1,'
        '"to":1,"is_unsupported":1}',
        "payload": payload, "first_seen_at": LATER, "changed_at": LATER,
    }  # fmt: skip
    store.merge(
        "raw_message_details",
        ACCOUNT,
        DAY,
        pa.Table.from_pylist([row], schema.RAW_MESSAGE_DETAILS.schema),
    )


def changed(commits: list[Commit]) -> list[str]:
    return [commit.table for commit in commits if commit.is_changed]


def test_day_with_raw_rows_is_stale_until_it_is_derived(store: Store) -> None:
    save_conversation(store)
    save_id(store, "m1")
    assert stale_days(store, ACCOUNT) == [DAY]
    commits = derive_day(store, ACCOUNT, DAY)
    assert [commit.table for commit in commits] == list(ALL)
    assert changed(commits) == ["conversation_days", "participant_days", "messages", "coverage"]
    assert stale_days(store, ACCOUNT) == []


def test_second_derivation_writes_no_file_and_returns_the_row_counts(store: Store) -> None:
    save_conversation(store)
    save_id(store, "m1")
    first = derive_day(store, ACCOUNT, DAY)
    files = {path: path.stat().st_mtime_ns for path in store.root.rglob("data.parquet")}
    assert derive_day(store, ACCOUNT, DAY) == [
        replace(commit, is_changed=False) for commit in first
    ]
    assert derive_day(store, ACCOUNT, DAY, is_forced=True) == [
        replace(commit, is_changed=False) for commit in first
    ]
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("data.parquet")} == files


def test_order_of_merges_does_not_change_the_files(
    tmp_path: Path,
) -> None:
    stores = [Store(StoreSettings(root=str(tmp_path / name))) for name in ("one", "two")]
    payloads = {
        "m1": '{"message":"hi"}',
        "m2": '{"attachments":{"data":[{"id":"1"}]},"x":1}',
        "m3": "{",
    }
    for store, order in zip(stores, (list(payloads), list(payloads)[::-1]), strict=True):
        for message_id in order:
            save_details(store, message_id, payloads[message_id])
            save_id(store, message_id)
        save_conversation(store)
        derive_day(store, ACCOUNT, DAY)
    one, two = (
        {
            path.relative_to(store.root): path.read_bytes()
            for path in store.root.rglob("data.parquet")
        }
        for store in stores
    )
    assert one == two
    assert len(one) == 8


def test_coverage_counts_ids_with_and_without_content(store: Store) -> None:
    save_conversation(store)
    for message_id in ("m1", "m2", "m3"):
        save_id(store, message_id)
    save_details(store, "m1", '{"message":"hi"}')
    derive_day(store, ACCOUNT, DAY)
    assert store.read("coverage", ACCOUNT, DAY).to_pylist() == [
        {
            "ids_listed": 3, "detailed": 1, "beyond_20": 0, "gone": 0, "failed": 0, "pending": 2,
            "rejected": 0,
            "share_detailed": 1 / 3, "conversation_count": 1, "incomplete_conversation_count": 1,
            "at_risk_conversation_count": 0, "unknown_direction_count": 1, "unknown_kind_count": 0,
        }
    ]  # fmt: skip


def test_removed_reaction_leaves_the_table(store: Store) -> None:
    save_conversation(store)
    save_id(store, "m1")
    reactions = '{"message":"hi","reactions":{"data":[{"reaction":"love","users":[{"id":"42"}]}]}}'
    save_details(store, "m1", reactions)
    derive_day(store, ACCOUNT, DAY)
    assert store.read("reactions", ACCOUNT, DAY).num_rows == 1
    newer = (
        '{"from":2,"message":2,"attachments":2,"shares":2,"reactions":2,"to":2,"is_unsupported":2}'
    )
    row = {
        "conversation_id": "c1", "message_id": "m1", "created_at": AT,
        "detail_status": "detailed", "fields": newer,
        "payload": '{"message":"hi"}', "first_seen_at": LATER, "changed_at": LATER,
    }  # fmt: skip
    store.merge(
        "raw_message_details",
        ACCOUNT,
        DAY,
        pa.Table.from_pylist([row], schema.RAW_MESSAGE_DETAILS.schema),
    )
    assert stale_days(store, ACCOUNT) == [DAY]
    assert "reactions" in changed(derive_day(store, ACCOUNT, DAY))
    assert store.read("reactions", ACCOUNT, DAY).num_rows == 0
    assert store.days("reactions", ACCOUNT) == []
    assert stale_days(store, ACCOUNT) == []


def test_source_depends_on_the_derivation_version(store: Store) -> None:
    save_conversation(store)
    save_id(store, "m1")
    derive_day(store, ACCOUNT, DAY)
    digest = store.raw_digest(ACCOUNT, DAY)
    assert store.source("messages", ACCOUNT, DAY) == derivation_source(digest)
    assert derivation_source(digest) != derivation_source(digest, None, DERIVATION_VERSION + 1)


def test_interrupted_day_is_derived_again(store: Store) -> None:
    save_conversation(store)
    save_id(store, "m1")
    derive_day(store, ACCOUNT, DAY)
    save_id(store, "m2")
    store.replace("messages", ACCOUNT, DAY, store.read("messages", ACCOUNT, DAY), "cut off here")
    assert stale_days(store, ACCOUNT) == [DAY]
    derive_day(store, ACCOUNT, DAY)
    assert store.read("messages", ACCOUNT, DAY)["message_id"].to_pylist() == ["m1", "m2"]
    assert stale_days(store, ACCOUNT) == []


def test_day_with_rejects_only_has_coverage(store: Store) -> None:
    row = {"digest": "d", "reason": "no id", "payload": "{}", "first_seen_at": AT}
    store.merge("raw_rejects", ACCOUNT, DAY, pa.Table.from_pylist([row], schema.RAW_REJECTS.schema))
    assert changed(derive_day(store, ACCOUNT, DAY)) == ["coverage"]
    assert store.read("coverage", ACCOUNT, DAY)["rejected"].to_pylist() == [1]
    assert stale_days(store, ACCOUNT) == []


def test_empty_day_has_no_derived_files(store: Store) -> None:
    assert changed(derive_day(store, ACCOUNT, DAY)) == []
    assert list(store.root.rglob("*.parquet")) == []


@pytest.mark.parametrize("own_id", [None, "17"])
def test_derived_files_stay_until_the_loss_of_raw_files_is_accepted(
    store: Store, own_id: str | None
) -> None:
    store.state.set_identity(AccountIdentity(ACCOUNT, "1", "instagram", own_id))
    save_conversation(store)
    save_id(store, "m1")
    derive_day(store, ACCOUNT, DAY)
    for table in schema.RAW:
        store.path(table.name, ACCOUNT, DAY).unlink(missing_ok=True)
        store.state.remove_partition(table.name, ACCOUNT, DAY)
    derived = sorted(store.root.rglob("*.parquet"))
    assert (stale_days(store, ACCOUNT), kept_days(store, ACCOUNT)) == ([DAY], [])
    derive_day(store, ACCOUNT, DAY)
    assert sorted(store.root.rglob("*.parquet")) == derived
    assert (stale_days(store, ACCOUNT), kept_days(store, ACCOUNT)) == ([], [DAY])
    assert accept_loss(store, ACCOUNT) == [DAY]
    assert list(store.root.rglob("*.parquet")) == []
    assert (stale_days(store, ACCOUNT), kept_days(store, ACCOUNT)) == ([], [])


def test_damaged_derived_file_is_derived_again(store: Store) -> None:
    save_conversation(store)
    save_id(store, "m1")
    derive_day(store, ACCOUNT, DAY)
    path = store.path("messages", ACCOUNT, DAY)
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(CorruptError, match="made again from the raw tables"):
        derive_day(store, ACCOUNT, DAY, is_forced=True)
    assert stale_days(store, ACCOUNT) == [DAY]
    derive_day(store, ACCOUNT, DAY)
    assert path.read_bytes() == whole
    assert stale_days(store, ACCOUNT) == []
