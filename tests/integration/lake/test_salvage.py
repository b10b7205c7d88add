"""Damage to a raw file: rows of other copies are recovered, derived tables lose no content."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.derive.day import accept_loss, derive_day, kept_days, stale_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import CorruptError
from convo_pipeline.extract.spool import Spool
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.salvage import damaged_days, salvage_day
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import Receipt, keyed_hash, make_key, save_receipt
from convo_pipeline.privacy.forget import forget
from convo_pipeline.privacy.retention import expire
from convo_pipeline.privacy.unsent import find_unsent, remove_content
from convo_pipeline.schema import NORMALISED, RAW, RAW_REJECTS, TABLES, VERSION_KEY
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import AccountIdentity
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.verify import verify
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, Inboxes, reopened, serve
from tests.support.raw_days import AT, OWN_IDS, PAGE_ID, conversation_row, detail_row, id_row, table
from tests.support.spools import append_json
from tests.unit.tables.test_normalize_hostile import MESSAGES, PARTICIPANTS

OLD, TODAY = NOW.date() - timedelta(days=40), NOW.date()
START = OLD - timedelta(days=3)
RAW_FILES = ("raw_conversations", "raw_message_ids", "raw_message_details")
ADA, ADAS = "9990000000000301", "a word of Ada's"
DAY = AT.date()
CONTENT = ["conversation_id", "message_id", "sender_id", "text", "content_type", "extra"]
"""Columns of `messages` that damage to a raw file never changes."""
Harm = Callable[[Path], None]


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def in_column(name: str) -> Harm:
    """Return a function that flips a bit in a column's pages."""

    def harm(path: Path) -> None:
        group = pq.ParquetFile(path).metadata.row_group(0)
        (column,) = [
            group.column(i)
            for i in range(group.num_columns)
            if group.column(i).path_in_schema == name
        ]
        start = column.dictionary_page_offset or column.data_page_offset
        flip(path, start + column.total_compressed_size - 1)

    return harm


def in_footer(path: Path) -> None:
    content = path.read_bytes()
    flip(path, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


HARMS: dict[str, Harm] = {
    "payload": in_column("payload"),
    "key": in_column("message_id"),
    "footer": in_footer,
    "truncated": truncated,
    "removed": Path.unlink,
}


@pytest.fixture
def store(memory_path: Path) -> Iterator[Store]:
    """A derived day with messages of every known shape."""
    with closing(Store(StoreSettings(root=str(memory_path / "lake")))) as store:
        store.state.set_identity(
            AccountIdentity("insta", PAGE_ID, "instagram", OWN_IDS["instagram"], None, "asked")
        )
        rows = {
            "raw_conversations": [conversation_row("instagram", PARTICIPANTS)],
            "raw_message_ids": [id_row(f"m{number}") for number in range(len(MESSAGES))],
            "raw_message_details": [
                detail_row(f"m{number}", payload) for number, payload in enumerate(MESSAGES)
            ],
        }
        for name, some in rows.items():
            store.merge(name, "insta", DAY, table(TABLES[name], some))
        derive_day(store, "insta", DAY)
        yield store


def derived_files(store: Store) -> list[Path]:
    return [
        path for table in NORMALISED for path in (store.root / table.name).rglob("data.parquet")
    ]


def notice(store: Store, name: str, day: date = DAY) -> None:
    """Read a damaged file, so that it is set aside."""
    with suppress(CorruptError):
        store.read(name, "insta", day)
    assert day in damaged_days(store, "insta")


def derived(store: Store, day: date = DAY) -> dict[str, Any]:
    return {table.name: store.read(table.name, "insta", day) for table in NORMALISED}


@pytest.mark.parametrize("harm", HARMS)
def test_a_day_whose_details_were_damaged_keeps_its_derived_files(store: Store, harm: str) -> None:
    before = {path: path.read_bytes() for path in derived_files(store)}
    HARMS[harm](store.path("raw_message_details", "insta", DAY))
    notice(store, "raw_message_details")
    for is_forced in (False, True):
        commits = derive_day(store, "insta", DAY, is_forced=is_forced)
        assert not any(commit.is_changed for commit in commits)
        assert {path: path.read_bytes() for path in derived_files(store)} == before
        assert (stale_days(store, "insta"), kept_days(store, "insta")) == ([], [DAY])


@pytest.mark.parametrize("name", ["raw_conversations", "raw_message_ids"])
@pytest.mark.parametrize("harm", ["footer", "truncated", "removed"])
def test_damage_to_another_raw_file_costs_no_content(store: Store, name: str, harm: str) -> None:
    before = derived(store)
    HARMS[harm](store.path(name, "insta", DAY))
    notice(store, name)
    derive_day(store, "insta", DAY)
    after = derived(store)
    assert after["messages"].select(CONTENT).equals(before["messages"].select(CONTENT))
    for children in ("attachments", "shares", "reactions"):
        assert after[children].equals(before[children])


def test_a_day_without_raw_messages_keeps_its_derived_tables_after_the_state_is_rebuilt(
    store: Store,
) -> None:
    before = derived(store)
    for name in ("raw_message_ids", "raw_message_details"):
        store.path(name, "insta", DAY).unlink()
    for _ in range(2):
        rebuild_state(store)
        derive_day(store, "insta", DAY)
    assert (derived(store), kept_days(store, "insta")) == (before, [DAY])


def test_verify_names_a_day_that_keeps_its_derived_tables_until_the_loss_is_accepted(
    store: Store,
) -> None:
    in_footer(store.path("raw_message_details", "insta", DAY))
    notice(store, "raw_message_details")
    derive_day(store, "insta", DAY)
    found = verify(store, stale_days=stale_days)
    (kept,) = (finding for finding in found.findings if finding.kind == "kept")
    assert (kept.where, found.is_sound) == (f"account=insta/date={DAY}", False)
    assert accept_loss(store, "insta") == [DAY]
    messages = store.read("messages", "insta", DAY)
    assert set(messages["detail_status"].to_pylist()) == {"pending"}
    kinds = {finding.kind for finding in verify(store, stale_days=stale_days).findings}
    assert kinds == {"quarantine"}
    assert (stale_days(store, "insta"), kept_days(store, "insta")) == ([], [])


def test_a_day_is_derived_again_when_its_raw_rows_are_complete_again(store: Store) -> None:
    details = store.read("raw_message_details", "insta", DAY)
    truncated(store.path("raw_message_details", "insta", DAY))
    notice(store, "raw_message_details")
    derive_day(store, "insta", DAY)
    assert kept_days(store, "insta") == [DAY]
    new = table(TABLES["raw_message_details"], [detail_row("new", {"message": "new"})])
    store.merge("raw_message_details", "insta", DAY, pa.concat_tables([details, new]))
    assert (stale_days(store, "insta"), kept_days(store, "insta")) == ([DAY], [])
    derive_day(store, "insta", DAY)
    assert (stale_days(store, "insta"), kept_days(store, "insta")) == ([], [])


def test_a_lost_row_without_content_does_not_keep_the_day(store: Store) -> None:
    store.drop("raw_message_details", "insta", DAY)
    without = detail_row("m0", None, detail_status="beyond_20", fields=None)
    rows = table(TABLES["raw_message_details"], [without])
    for name in derived(store):
        store.drop(name, "insta", DAY)
    store.merge("raw_message_details", "insta", DAY, rows)
    derive_day(store, "insta", DAY)
    truncated(store.path("raw_message_details", "insta", DAY))
    notice(store, "raw_message_details")
    derive_day(store, "insta", DAY)
    assert (stale_days(store, "insta"), kept_days(store, "insta")) == ([], [])
    statuses = store.read("messages", "insta", DAY)["detail_status"].to_pylist()
    assert set(statuses) == {"pending"}


def test_an_unsent_message_leaves_a_day_that_keeps_its_derived_tables(store: Store) -> None:
    """No raw table has its content, so it is removed from the derived ones."""
    truncated(store.path("raw_message_details", "insta", DAY))
    notice(store, "raw_message_details")
    derive_day(store, "insta", DAY)
    (row,) = store.read("raw_message_ids", "insta", DAY).slice(0, 1).to_pylist()
    row |= {"missing_at": AT, "deleted_at": AT + timedelta(days=1)}
    store.merge("raw_message_ids", "insta", DAY, table(TABLES["raw_message_ids"], [row]))
    derive_day(store, "insta", DAY)
    (found,) = find_unsent(store, "insta", "redact")
    assert list(found.messages) == [("c1", "m0")]
    before = store.read("messages", "insta", DAY)
    with store.lock_account("insta"), store.lock_derivation("insta"):
        remove_content(store, "insta", [found], "redact")
    derive_day(store, "insta", DAY)
    assert store.read("messages", "insta", DAY).equals(before.slice(1))
    assert (kept_days(store, "insta"), find_unsent(store, "insta", "redact")) == ([DAY], [])


@pytest.mark.parametrize("name", RAW_FILES)
def test_a_restored_raw_file_ends_the_loss(store: Store, name: str) -> None:
    path, tables = store.path(name, "insta", DAY), derived(store)
    whole = path.read_bytes()
    truncated(path)
    notice(store, name)
    derive_day(store, "insta", DAY)
    assert not path.exists()
    path.write_bytes(whole)
    salvage_day(store, "insta", DAY)
    derive_day(store, "insta", DAY)
    assert (path.read_bytes(), derived(store)) == (whole, tables)
    assert kept_days(store, "insta") == []


def test_a_month_that_was_compacted_gives_every_byte_back_once(store: Store) -> None:
    compact(store, TODAY)
    before = {path: path.read_bytes() for path in store.root.rglob("data.parquet")}
    for name in RAW_FILES:
        truncated(store.path(name, "insta", DAY))
        notice(store, name)
    for is_changed in (True, False):
        commits = salvage_day(store, "insta", DAY)
        assert [commit.is_changed for commit in commits] == [is_changed] * 3
    assert {path: path.read_bytes() for path in store.root.rglob("data.parquet")} == before
    assert (stale_days(store, "insta"), kept_days(store, "insta")) == ([], [])


def test_a_day_whose_derived_table_is_damaged_too_is_derived_from_what_is_left(
    store: Store,
) -> None:
    flip(store.path("messages", "insta", DAY), 300)
    in_column("payload")(store.path("raw_message_details", "insta", DAY))
    notice(store, "raw_message_details")
    with pytest.raises(CorruptError):
        derive_day(store, "insta", DAY, is_forced=True)
    derive_day(store, "insta", DAY)
    messages = store.read("messages", "insta", DAY)
    assert set(messages["detail_status"].to_pylist()) == {"pending"}


def test_rows_of_a_readable_file_that_was_set_aside_are_recovered(store: Store) -> None:
    rows = [{"digest": "d" * 64, "reason": "no id", "payload": "{}", "first_seen_at": AT}]
    store.merge(RAW_REJECTS.name, "insta", DAY, table(RAW_REJECTS, rows))
    path = store.path(RAW_REJECTS.name, "insta", DAY)
    content = path.read_bytes()
    start = content.index(b"parquet-cpp-arrow")
    path.write_bytes(content[:start] + b"q" + content[start + 1 :])
    notice(store, RAW_REJECTS.name)
    salvage_day(store, "insta", DAY)
    assert path.read_bytes() == content


def test_rows_of_an_unrecorded_file_of_an_earlier_schema_are_recovered(
    store: Store,
) -> None:
    """Its rows do not encode to its bytes, but its pages are whole."""
    rows = store.read("raw_message_details", "insta", DAY)
    path, tables = store.path("raw_message_details", "insta", DAY), derived(store)
    older = rows.drop_columns(["redacted_at", "gone_at"]).replace_schema_metadata(
        {VERSION_KEY: b"1"}
    )
    pq.write_table(older, path, write_page_checksum=True)
    for name in tables:
        store.drop(name, "insta", DAY)
    notice(store, "raw_message_details")
    salvage_day(store, "insta", DAY)
    assert store.read("raw_message_details", "insta", DAY).equals(rows)


def lose(store: Store, name: str) -> Path:
    """Set a raw file aside as it is; return its new path."""
    path = store.path(name, "insta", DAY)
    aside = path.with_name("data.parquet.corrupt-0badbeef")
    path.rename(aside)
    store.state.mark_suspect(name, "insta", DAY, str(aside.relative_to(store.root)))
    return aside


def test_an_erased_person_is_cut_out_of_the_rows_of_other_people(store: Store) -> None:
    """The copy is older than the erasure. Ada's message leaves, Bob's stays without her id."""
    ada, bob, us = ({"id": each} for each in (ADA, "9990000000000302", OWN_IDS["instagram"]))
    payloads = {
        "by ada": {"from": ada, "to": {"data": [bob, us]}, "message": ADAS},
        "by bob": {"from": bob, "to": {"data": [ada, us]}, "message": "hello"},
    }
    rejects = [
        {"digest": digest * 64, "reason": "no id", "payload": dump_json({"from": person}).decode()}
        for digest, person in (("a", ada), ("b", bob))
    ]
    rows = {
        "raw_message_ids": [id_row(name) for name in payloads],
        "raw_message_details": [detail_row(name, each) for name, each in payloads.items()],
        "raw_rejects": [reject | {"first_seen_at": AT} for reject in rejects],
    }
    for name, some in rows.items():
        store.drop(name, "insta", DAY)
        store.merge(name, "insta", DAY, table(TABLES[name], some))
        lose(store, name)
    person = keyed_hash(make_key(store.notes), ADA)
    save_receipt(store, Receipt("insta", person, (), NOW))
    salvage_day(store, "insta", DAY)
    (details,) = store.read("raw_message_details", "insta", DAY).to_pylist()
    assert details["message_id"] == "by bob"
    assert load_json(details["payload"]) == payloads["by bob"] | {"to": {"data": [us]}}
    assert store.read("raw_message_ids", "insta", DAY)["message_id"].to_pylist() == ["by bob"]
    assert store.read("raw_rejects", "insta", DAY)["digest"].to_pylist() == ["b" * 64]


def test_an_erased_conversation_is_not_recovered(store: Store) -> None:
    for name in RAW_FILES:
        lose(store, name)
    key = make_key(store.notes)
    save_receipt(store, Receipt("insta", keyed_hash(key, ADA), (keyed_hash(key, "c1"),), NOW))
    assert salvage_day(store, "insta", DAY) == []


def test_a_file_of_another_day_is_not_recovered(store: Store) -> None:
    aside = lose(store, "raw_message_details")
    elsewhere = aside.parent.with_name(f"date={DAY + timedelta(days=1)}") / aside.name
    elsewhere.parent.mkdir()
    aside.rename(elsewhere)
    store.state.mark_suspect(
        "raw_message_details", "insta", DAY + timedelta(days=1), str(elsewhere)
    )
    assert salvage_day(store, "insta", DAY + timedelta(days=1)) == []


def test_a_file_of_the_current_version_with_other_columns_is_not_recovered(store: Store) -> None:
    """Its footer is damaged, so its types can be wrong."""
    aside = lose(store, "raw_message_details")
    rows = pq.read_table(aside)
    pq.write_table(rows.drop_columns(["rank_when_asked"]), aside, write_page_checksum=True)
    assert salvage_day(store, "insta", DAY) == []


def test_rows_beyond_the_retention_are_not_recovered(store: Store) -> None:
    damaged = store.path("raw_message_details", "insta", DAY)
    truncated(damaged)
    notice(store, "raw_message_details")
    (aside,) = store.root.rglob("*.corrupt-*")
    content, place = aside.read_bytes(), aside
    expire(store, {"raw_message_details": 2}, DAY + timedelta(days=5))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    store.state.mark_suspect(
        "raw_message_details", "insta", DAY, str(place.relative_to(store.root))
    )
    assert salvage_day(store, "insta", DAY) == []
    assert not damaged.exists()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inboxes]:
    """Messages of two people that were read, and are not among the newest 20 any more."""
    clock = VirtualClock(datetime.combine(OLD, time(18), UTC))
    world = World(clock)
    account = world.add_account("insta", "1111111111", "instagram")
    people = [account.add_conversation("Ada", ADA), account.add_conversation("Bob")]
    for guest, words in zip(people, (ADAS, "🧁 Bob's"), strict=True):
        guest.add_messages(3, clock.now() - timedelta(hours=3))
        guest.add_message(words, clock.now() - timedelta(hours=1))
    with serve(tmp_path_factory.mktemp("served") / "lake", world, start=START) as inboxes:
        inboxes.extract_whole(START)
        clock.advance((NOW - clock.now()).total_seconds())
        for guest in people:
            guest.add_messages(25, NOW - timedelta(hours=3))
        inboxes.extract_whole(START)
        inboxes.store.close()
        yield inboxes


@pytest.fixture
def inboxes(served: Inboxes, memory_path: Path) -> Iterator[Inboxes]:
    """A copy of that lake, with its emulator."""
    shutil.copytree(Path(served.settings.store.root), memory_path / "lake")
    inboxes = reopened(served, memory_path / "lake")
    yield inboxes
    inboxes.store.close()


def seen(inboxes: Inboxes) -> dict[str, Any]:
    return {table.name: inboxes.rows(table.name, "insta") for table in NORMALISED}


def heal(inboxes: Inboxes) -> str:
    """Run a nightly extraction and derive; return the outcome."""
    [report] = inboxes.extract(TODAY - timedelta(days=1), mode="nightly")
    inboxes.derive()
    return report.outcome


def kinds(inboxes: Inboxes) -> list[str]:
    return sorted(
        {finding.kind for finding in verify(inboxes.store, stale_days=stale_days).findings}
    )


@pytest.mark.parametrize("harm", HARMS)
def test_d1_content_beyond_the_newest_20_outlives_damage_to_its_raw_file(
    inboxes: Inboxes, harm: str
) -> None:
    """The day keeps its derived tables until the raw file is restored."""
    before, path = seen(inboxes), inboxes.store.path("raw_message_details", "insta", OLD)
    backup = path.read_bytes()
    HARMS[harm](path)
    notice(inboxes.store, "raw_message_details", OLD)
    assert heal(inboxes) == "complete"
    assert (seen(inboxes), kept_days(inboxes.store, "insta")) == (before, [OLD])
    assert set(kinds(inboxes)) <= {"set aside", "kept"}
    path.write_bytes(backup)
    assert heal(inboxes) == "incomplete"
    assert (seen(inboxes), kept_days(inboxes.store, "insta")) == (before, [])


def test_damage_found_while_a_left_spool_is_stored_costs_no_content(
    inboxes: Inboxes,
) -> None:
    before, state = seen(inboxes), inboxes.store.state_path
    message = next(row for row in before["messages"] if row["date"] == OLD)
    told = {
        "id": message["message_id"],
        "created_time": f"{message['created_at']:%Y-%m-%dT%H:%M:%S+0000}",
    }
    edge = {
        "kind": "edge",
        "conversation_id": message["conversation_id"],
        "rows": [told],
        "fields": ["id"],
    }
    times = {"at_us": int(NOW.timestamp() * 1_000_000), "updated_us": None, "first_rank": 24}
    append_json(Spool.create(state, "insta", "killed"), edge | times)
    in_column("message_id")(inboxes.store.path("raw_message_details", "insta", OLD))
    [report] = inboxes.extract(TODAY - timedelta(days=1), mode="nightly")
    assert report.reasons == ("quarantined",)
    assert damaged_days(inboxes.store, "insta") == set()
    inboxes.derive()
    assert seen(inboxes) == before


@pytest.mark.parametrize("is_asked_first", [True, False])
def test_a_day_whose_raw_files_were_all_lost_keeps_its_derived_tables(
    inboxes: Inboxes, is_asked_first: bool
) -> None:
    before = seen(inboxes)
    for name in RAW_FILES:
        shutil.rmtree(inboxes.store.path(name, "insta", OLD).parent)
        notice(inboxes.store, name, OLD)
    if not is_asked_first:
        inboxes.derive()
        assert seen(inboxes) == before
    assert heal(inboxes) == "complete"
    assert (seen(inboxes), kinds(inboxes)) == (before, ["kept"])
    assert accept_loss(inboxes.store, "insta") == [OLD]
    assert kinds(inboxes) == []


def test_an_erased_person_is_not_recovered_from_older_copies(inboxes: Inboxes) -> None:
    store = inboxes.store
    (hers,) = {
        row["conversation_id"]
        for row in inboxes.rows("participant_days", "insta")
        if row["participant_id"] == ADA
    }
    bobs = [row for row in inboxes.rows("messages", "insta") if row["conversation_id"] != hers]
    damaged = store.path("raw_message_details", "insta", OLD)
    backup = store.root.parent / "backup"
    shutil.copytree(store.root, backup, ignore=shutil.ignore_patterns(".state", ".forgotten"))
    truncated(damaged)
    assert forget(inboxes.settings, store, "insta", ADA, inboxes.clock.now())
    assert inboxes.rows("messages", "insta") == bobs
    assert find_texts(store.root, [ADA, ADAS]) == []
    for name in RAW_FILES:  # a damaged file from before the erasure
        path = store.path(name, "insta", OLD)
        aside = path.with_name("data.parquet.corrupt-0badbeef")
        aside.parent.mkdir(exist_ok=True)
        shutil.copyfile(backup / path.relative_to(store.root), aside)
        store.state.mark_suspect(name, "insta", OLD, str(aside.relative_to(store.root)))
    assert heal(inboxes) == "complete"
    assert inboxes.rows("messages", "insta") == bobs
    assert [
        row
        for name in RAW_FILES
        for row in inboxes.rows(name, "insta")
        if row["conversation_id"] == hers
    ] == []


@pytest.mark.hunt
@pytest.mark.timeout(7200)
def test_no_flip_in_a_raw_file_costs_content_of_the_derived_tables(
    inboxes: Inboxes, long_run: bool
) -> None:
    store, chance = inboxes.store, random.Random(20)

    def content() -> list[tuple[object, ...]]:
        rows = seen(inboxes)["messages"]
        return [tuple(row[name] for name in CONTENT) for row in rows]

    before = content()
    for _ in range(2_000 if long_run else 30):
        name = chance.choice(RAW_FILES)
        path = store.path(name, "insta", OLD)
        whole = path.read_bytes()
        flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))
        notice(store, name, OLD)
        inboxes.derive()
        assert content() == before
        store.state.clear_suspects("insta", [table.name for table in RAW], OLD)
        for kept in list(store.root.rglob("*.corrupt-*")):
            kept.unlink()
        path.write_bytes(whole)
        inboxes.derive()
