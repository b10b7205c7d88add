"""A lake that an earlier version wrote is read as it is, upgraded when written, derived again from its raw rows."""

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convo_pipeline.derive import derive_day, stale_days
from convo_pipeline.errors import SchemaError
from convo_pipeline.lake.deleted import find_deleted, remove_content
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.forget import lock_person_out
from convo_pipeline.lake.identity import AccountIdentity
from convo_pipeline.lake.rebuild import rebuild_state
from convo_pipeline.lake.verify import verify
from convo_pipeline.schema import RAW, RAW_MESSAGE_IDS, SCHEMA_VERSION, TABLES, VERSION_KEY
from convo_pipeline.settings import StoreSettings

ACCOUNT, DAY = "bakery", date(2025, 11, 3)
SENT_AT = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)
OLD_LAKE = Path(__file__).parent / "lakes" / "version_0"
"""Three messages; times in ms, counts in int32, without `gone_at`, `missing_at`, `folder`; `messages` with a column more."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(OLD_LAKE, tmp_path / "lake")
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    rebuild_state(store)
    yield store
    store.close()


def version_of(store: Store, table: str) -> bytes:
    version: bytes = pq.read_schema(store.path(table, ACCOUNT, DAY)).metadata[VERSION_KEY]
    return version


def test_d5_older_raw_files_are_read_in_todays_schema(store: Store) -> None:
    rows = store.read("raw_message_details", ACCOUNT, DAY)
    assert rows.schema.equals(TABLES["raw_message_details"].schema, check_metadata=True)
    assert rows["created_at"].to_pylist() == [SENT_AT] * 3
    assert rows["rank_when_asked"].to_pylist() == [2, 1, None]
    assert rows["gone_at"].to_pylist() == [None] * 3


def test_state_is_rebuilt_from_older_files(store: Store) -> None:
    assert store.state.identity(ACCOUNT) == AccountIdentity(ACCOUNT, "1001", "instagram", "17841", None, "inferred")
    assert [record.row_count for record in store.state.partitions(ACCOUNT)] == [3, 1, 3, 3]


def test_reading_leaves_older_files_as_they_are(store: Store) -> None:
    for table in RAW:
        store.read(table.name, ACCOUNT, DAY)
    for path in OLD_LAKE.rglob("*.parquet"):
        assert (store.root / path.relative_to(OLD_LAKE)).read_bytes() == path.read_bytes()


def test_a_merge_upgrades_an_older_file_even_if_it_learns_nothing(store: Store) -> None:
    before = store.read("raw_message_ids", ACCOUNT, DAY)
    commit = store.merge("raw_message_ids", ACCOUNT, DAY, RAW_MESSAGE_IDS.schema.empty_table())
    assert commit.is_changed
    assert version_of(store, "raw_message_ids") == str(SCHEMA_VERSION).encode()
    assert store.read("raw_message_ids", ACCOUNT, DAY).equals(before)


def test_derived_tables_of_an_older_lake_are_made_again(store: Store) -> None:
    assert stale_days(store, ACCOUNT) == [DAY]
    derive_day(store, ACCOUNT, DAY)
    messages = store.read("messages", ACCOUNT, DAY)
    assert messages["text"].to_pylist() == ["Guten Morgen 🥐", "hello", None]
    assert messages["direction"].to_pylist() == ["inbound", "outbound", None]
    assert version_of(store, "messages") == str(SCHEMA_VERSION).encode()
    assert stale_days(store, ACCOUNT) == []


def test_verify_tells_older_files_and_calls_them_sound_once_derived(store: Store) -> None:
    derive_day(store, ACCOUNT, DAY)
    found = verify(store, stale_days=stale_days)
    assert ({finding.kind for finding in found.findings}, found.is_sound) == ({"older"}, True)


def test_a_derived_file_that_cannot_be_read_says_which_column(store: Store) -> None:
    with pytest.raises(SchemaError, match=r"messages\.is_unsupported: string is no bool"):
        store.read("messages", ACCOUNT, DAY)


LAKE_OF_VERSION_1 = Path(__file__).parent / "lakes" / "version_1"
"""Three messages as version 1 wrote them: nothing tells what was unsent."""
MARCH_3 = date(2026, 3, 3)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(LAKE_OF_VERSION_1, tmp_path / "second")
    store = Store(StoreSettings(root=str(tmp_path / "second")))
    rebuild_state(store)
    yield store
    store.close()


def test_a_lake_of_version_1_says_the_same_once_derived_and_nothing_was_unsent(second: Store) -> None:
    before = second.read("messages", "insta", MARCH_3)
    assert stale_days(second, "insta") == [MARCH_3]
    derive_day(second, "insta", MARCH_3)
    assert second.read("messages", "insta", MARCH_3).equals(before)
    assert (before["text"].to_pylist(), before["deleted_at"].null_count) == (["hello", "we answer", ""], 3)
    assert find_deleted(second, "insta", "redact") == []


def test_a_message_that_version_1_wrote_is_redacted_all_the_same(second: Store) -> None:
    held = second.read("raw_message_ids", "insta", MARCH_3).slice(0, 1).to_pylist()
    row = held[0] | {"missing_at": SENT_AT, "deleted_at": SENT_AT + timedelta(days=200)}
    second.merge("raw_message_ids", "insta", MARCH_3, pa.Table.from_pylist([row], schema=RAW_MESSAGE_IDS.schema))
    with lock_person_out(second, "insta"):
        remove_content(second, "insta", find_deleted(second, "insta", "redact"), "redact")
    derive_day(second, "insta", MARCH_3)
    assert second.read("messages", "insta", MARCH_3)["text"].to_pylist() == [None, "we answer", ""]
    payloads = second.read("raw_message_details", "insta", MARCH_3)["payload"].to_pylist()
    assert ["hello" in payload for payload in payloads] == [False] * 3
