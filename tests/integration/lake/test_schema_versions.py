"""A lake of an earlier version is read, upgraded by writes, and derived again."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convo_pipeline.console.extraction import normalise_unconfigured
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.errors import SchemaError
from convo_pipeline.lake.first_days import read_first_days, write_first_days
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.unsent import find_unsent, remove_content
from convo_pipeline.query.connection import connect
from convo_pipeline.schema import (
    DERIVED,
    RAW,
    RAW_MESSAGE_IDS,
    SCHEMA_VERSION,
    TABLES,
    VERSION_KEY,
    Table,
)
from convo_pipeline.settings import Settings, StoreSettings, parse_settings
from convo_pipeline.state.records import AccountIdentity
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.verify import verify
from tests.support import write_lake as lake
from tests.support.inboxes import serve, small_world
from tests.support.paths import LAKES

ACCOUNT, DAY = "bakery", date(2025, 11, 3)
SENT_AT = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)
OLD_LAKE = LAKES / "version_0"
"""Three messages. Times in ms, counts in int32; no `gone_at`, `missing_at` and `folder`; a further
column in `messages`."""


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


def test_d5_older_raw_files_are_read_in_the_current_schema(store: Store) -> None:
    rows = store.read("raw_message_details", ACCOUNT, DAY)
    assert rows.schema.equals(TABLES["raw_message_details"].schema, check_metadata=True)
    assert rows["created_at"].to_pylist() == [SENT_AT] * 3
    assert rows["rank_when_asked"].to_pylist() == [2, 1, None]
    assert rows["gone_at"].to_pylist() == [None] * 3


def test_state_is_rebuilt_from_older_files(store: Store) -> None:
    assert store.state.identity(ACCOUNT) == AccountIdentity(
        ACCOUNT, "1001", "instagram", "17841", None, "inferred"
    )
    assert [record.row_count for record in store.state.partitions(ACCOUNT)] == [3, 1, 3, 3]


def test_reading_leaves_older_files_as_they_are(store: Store) -> None:
    for table in RAW:
        store.read(table.name, ACCOUNT, DAY)
    for path in OLD_LAKE.rglob("*.parquet"):
        assert (store.root / path.relative_to(OLD_LAKE)).read_bytes() == path.read_bytes()


def test_a_merge_upgrades_an_older_file_even_without_new_rows(store: Store) -> None:
    before = store.read("raw_message_ids", ACCOUNT, DAY)
    commit = store.merge("raw_message_ids", ACCOUNT, DAY, RAW_MESSAGE_IDS.schema.empty_table())
    assert commit.is_changed
    assert version_of(store, "raw_message_ids") == str(SCHEMA_VERSION).encode()
    assert store.read("raw_message_ids", ACCOUNT, DAY).equals(before)


def test_derived_tables_of_an_older_lake_are_derived_again(store: Store) -> None:
    assert stale_days(store, ACCOUNT) == [DAY]
    derive_day(store, ACCOUNT, DAY)
    messages = store.read("messages", ACCOUNT, DAY)
    assert messages["text"].to_pylist() == ["Guten Morgen 🥐", "hello", None]
    assert messages["direction"].to_pylist() == ["inbound", "outbound", None]
    assert version_of(store, "messages") == str(SCHEMA_VERSION).encode()
    assert stale_days(store, ACCOUNT) == []


def test_verify_reports_older_files_as_a_notice(store: Store) -> None:
    derive_day(store, ACCOUNT, DAY)
    found = verify(store, stale_days=stale_days)
    assert ({finding.kind for finding in found.findings}, found.is_sound) == ({"older"}, True)


def test_an_unreadable_derived_file_names_the_column(store: Store) -> None:
    with pytest.raises(SchemaError, match=r"messages\.is_unsupported: string is no bool"):
        store.read("messages", ACCOUNT, DAY)


LAKE_OF_VERSION_1 = LAKES / "version_1"
"""Three messages of version 1, which did not detect unsent messages."""
MARCH_3 = date(2026, 3, 3)


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(LAKE_OF_VERSION_1, tmp_path / "second")
    store = Store(StoreSettings(root=str(tmp_path / "second")))
    rebuild_state(store)
    yield store
    store.close()


def test_a_lake_of_version_1_gives_the_same_messages_when_derived_again(
    second: Store,
) -> None:
    before = second.read("messages", "insta", MARCH_3)
    assert stale_days(second, "insta") == [MARCH_3]
    derive_day(second, "insta", MARCH_3)
    after = second.read("messages", "insta", MARCH_3)
    new = [name for name in NEW_COLUMNS if name in after.column_names]
    assert after.drop_columns(new).equals(before.drop_columns(new))
    assert (before["text"].to_pylist(), before["deleted_at"].null_count) == (
        ["hello", "we answer", ""],
        3,
    )
    assert find_unsent(second, "insta", "redact") == []


def test_a_message_of_version_1_can_be_redacted(second: Store) -> None:
    stored = second.read("raw_message_ids", "insta", MARCH_3).slice(0, 1).to_pylist()
    row = stored[0] | {"missing_at": SENT_AT, "deleted_at": SENT_AT + timedelta(days=200)}
    second.merge(
        "raw_message_ids",
        "insta",
        MARCH_3,
        pa.Table.from_pylist([row], schema=RAW_MESSAGE_IDS.schema),
    )
    with second.lock_account("insta"), second.lock_derivation("insta"):
        remove_content(second, "insta", find_unsent(second, "insta", "redact"), "redact")
    derive_day(second, "insta", MARCH_3)
    assert second.read("messages", "insta", MARCH_3)["text"].to_pylist() == [None, "we answer", ""]
    payloads = second.read("raw_message_details", "insta", MARCH_3)["payload"].to_pylist()
    assert ["hello" in payload for payload in payloads] == [False] * 3


EARLIER = range(SCHEMA_VERSION)
NORMALISED_SINCE = 1
"""Derived tables of version 0 do not fit the current schema."""
SAME_FIGURES_SINCE = {"account_days": 5}
"""Version 5 counts a reply as automated only on evidence."""
NEW_COLUMNS = ("has_own_reaction", "has_more_participants")
"""Columns that a derivation fills; they are null in older files."""


@dataclass(frozen=True)
class Older:
    """A copy of an older lake with a rebuilt state."""

    version: int
    settings: Settings
    store: Store

    @property
    def account(self) -> str:
        return ACCOUNT if self.version == 0 else lake.ACCOUNT

    @property
    def day(self) -> date:
        return DAY if self.version == 0 else lake.DAY

    def rows(self, tables: Iterable[Table]) -> dict[str, list[dict[str, Any]]]:
        return {
            each.name: self.store.read(each.name, self.account, self.day).to_pylist()
            for each in tables
        }

    def versions(self) -> set[bytes]:
        return {
            pq.read_schema(path).metadata[VERSION_KEY]
            for path in self.store.root.rglob("data.parquet")
        }


@pytest.fixture(params=EARLIER)
def older(request: pytest.FixtureRequest, memory_path: Path) -> Iterator[Older]:
    shutil.copytree(LAKES / f"version_{request.param}", memory_path / "lake")
    settings = parse_settings(f'[store]\nroot = "{memory_path / "lake"}"'.encode())
    with closing(Store(settings.store)) as store:
        rebuild_state(store)
        yield Older(request.param, settings, store)


def test_there_is_a_lake_of_every_earlier_version() -> None:
    """Run `python -m tests.support.write_lake` before SCHEMA_VERSION is raised."""
    written = {
        folder.name: {
            pq.read_schema(path).metadata[VERSION_KEY] for path in folder.rglob("data.parquet")
        }
        for folder in LAKES.glob("version_*")
    }
    assert {f"version_{each}" for each in EARLIER} <= written.keys()
    assert written == {name: {name.removeprefix("version_").encode()} for name in written}


def test_an_older_lake_is_read_without_changing_it(older: Older) -> None:
    files = {path: path.read_bytes() for path in older.store.root.rglob("data.parquet")}
    rows = older.rows(RAW if older.version < NORMALISED_SINCE else TABLES.values())
    with connect(older.settings.store.root, settings=older.settings) as con:
        for name in rows:
            assert con.sql(f"select count(*) from {name}").fetchall() == [(len(rows[name]),)]
    assert {path: path.read_bytes() for path in older.store.root.rglob("data.parquet")} == files
    assert len(rows["raw_message_details"]) >= 3


def test_the_next_write_upgrades_an_older_file_and_keeps_its_rows(older: Older) -> None:
    before = older.rows([RAW_MESSAGE_IDS])[RAW_MESSAGE_IDS.name]
    new = before[0] | {"message_id": "zz-new"}
    more = pa.Table.from_pylist([new], schema=RAW_MESSAGE_IDS.schema)
    older.store.merge(RAW_MESSAGE_IDS.name, older.account, older.day, more)
    assert older.rows([RAW_MESSAGE_IDS])[RAW_MESSAGE_IDS.name] == [*before, new]
    path = older.store.path(RAW_MESSAGE_IDS.name, older.account, older.day)
    assert pq.read_schema(path).metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()


def test_normalize_upgrades_an_older_lake_and_keeps_its_rows(
    older: Older,
) -> None:
    raw = older.rows(RAW)
    derived = older.rows(DERIVED) if older.version >= NORMALISED_SINCE else {}
    normalise_unconfigured(older.settings)
    assert (older.rows(RAW), older.versions()) == (raw, {str(SCHEMA_VERSION).encode()})
    assert verify(older.store, stale_days=stale_days).findings == ()
    for name, rows in derived.items():
        if rows and older.version >= SAME_FIGURES_SINCE.get(name, 0):
            found = older.rows([TABLES[name]])[name]
            assert list(map(without_new, found)) == list(map(without_new, rows))


def without_new(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NEW_COLUMNS}


RENAMED = {
    "SELECT order_in_second FROM messages": [(0,)] * 4,
    "SELECT order_in_second FROM messages WHERE order_in_second = 0": [(0,)] * 4,
    "SELECT is_complete, has_ended, measured_session_count FROM account_days": [(True, True, 1)],
    "SELECT conversation_id, message_count FROM conversation_days": [("c1", 4)],
    "SELECT conversation_id, message_count, last_date FROM conversations": [("c1", 4, lake.DAY)],
    "SELECT count(*) FROM participant_days": [(2,)],
    "SELECT count(*) FROM messages JOIN conversations USING (account, conversation_id)": [(4,)],
}
"""Queries with names of version 5, and their rows in the lake of version 4."""


def test_a_lake_of_version_4_is_read_with_the_new_names_before_it_is_upgraded(
    memory_path: Path,
) -> None:
    root = memory_path / "lake"
    shutil.copytree(LAKES / "version_4", root)
    with connect(root) as con:
        assert {query: con.execute(query).fetchall() for query in RENAMED} == RENAMED
        Store(StoreSettings(root=str(root))).close()
        assert {query: con.execute(query).fetchall() for query in RENAMED} == RENAMED
    assert not {"conversations", "participants"} & {path.name for path in root.iterdir()}


def test_an_interrupted_move_of_a_renamed_table_is_finished(memory_path: Path) -> None:
    """The file that has the new name already stays."""
    root = memory_path / "lake"
    shutil.copytree(LAKES / "killed_run_version_4", root)
    day = "account=insta/date=2026-03-03"
    (root / "conversation_days" / day).mkdir(parents=True)
    (root / "conversation_days" / day / "data.parquet").write_bytes(b"new")
    later = root / "conversations/account=insta/date=2026-03-08/data.parquet"
    content = later.read_bytes()
    Store(StoreSettings(root=str(root))).close()
    moved = {path.parent.name: path.read_bytes() for path in root.glob("conversation_days/*/*/*")}
    assert moved == {"date=2026-03-03": b"new", "date=2026-03-08": content}
    assert not (root / "conversations").exists()


def test_the_state_of_version_4_has_the_new_names(memory_path: Path) -> None:
    root = memory_path / "lake"
    shutil.copytree(LAKES / "killed_run_version_4", root)
    with closing(Store(StoreSettings(root=str(root)))) as store:
        records = store.state.partitions("insta", table="conversation_days")
        assert [record.date.day for record in records] == [3, 8]
        assert store.partitions.check_files([TABLES["conversation_days"]], "insta") == []


def test_former_names_of_tables_are_understood(memory_path: Path) -> None:
    """In the configuration, and in the file of the days that retention keeps."""
    limits = parse_settings(b"[retention]\nconversations = 40").retention.limits
    assert limits == {"conversation_days": 40}
    with closing(Store(StoreSettings(root=str(memory_path / "lake")))) as store:
        write_first_days(store, {"participants": lake.DAY})
        assert read_first_days(store) == {"participant_days": lake.DAY}


@pytest.mark.parametrize("older", [each for each in EARLIER if each > 1], indirect=True)
def test_a_message_that_an_older_version_found_unsent_is_removed(older: Older) -> None:
    (found,) = find_unsent(older.store, older.account, "redact")
    assert list(found.messages) == [("c1", "m4")]
    with older.store.lock_account(older.account), older.store.lock_derivation(older.account):
        remove_content(older.store, older.account, [found], "redact")
    normalise_unconfigured(older.settings)
    rows = older.rows([TABLES["messages"]])["messages"]
    assert [row["text"] for row in rows] == ["hello", "we answer", "", None]
    assert verify(older.store, stale_days=stale_days).findings == ()


@pytest.mark.parametrize(
    "path", sorted(LAKES.glob("killed_run_version_*")), ids=lambda path: path.name
)
def test_a_killed_run_of_an_earlier_version_is_continued(path: Path, memory_path: Path) -> None:
    """The next run stores the log of the killed run, and asks the API for nothing that it has."""
    shutil.copytree(path, memory_path / "lake")
    world = small_world()
    lake.add_first_messages(world)
    lake.add_later_messages(world)
    with serve(memory_path / "lake", world) as inboxes:
        stored = {row["message_id"] for row in inboxes.rows("messages", lake.ACCOUNT)}
        [report] = inboxes.extract(accounts=[lake.ACCOUNT], mode="window")
        assert (report.outcome, report.calls) == ("complete", {"listing": 1})
        inboxes.derive()
        derive_account_days(inboxes.store, lake.ACCOUNT)
        rows = {row["message_id"]: row for row in inboxes.rows("messages", lake.ACCOUNT)}
        assert len(stored) == 28
        assert stored < rows.keys()
        assert rows.keys() == {message.message_id for message in world.truth()}
        statuses = Counter(row["detail_status"] for row in rows.values())
        assert statuses == {"detailed": 29, "beyond_20": 5}
        findings = verify(inboxes.store, stale_days=stale_days).findings
        assert {finding.kind for finding in findings} <= {"older"}
        normalise_unconfigured(inboxes.settings)
        assert verify(inboxes.store, stale_days=stale_days).findings == ()
        [full] = inboxes.extract(accounts=[lake.ACCOUNT], mode="full")
        assert (full.outcome, full.counts["missed"]) == ("complete", 0)
