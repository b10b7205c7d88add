"""The state in SQLite on a real disk, and the same tests on a real PostgreSQL server."""

import multiprocessing
import os
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.errors import StoreError
from convo_pipeline.state.postgres import PostgresDatabase
from convo_pipeline.state.records import (
    AccountIdentity,
    Compaction,
    ConversationState,
    Partition,
    Run,
)
from convo_pipeline.state.state import State
from convo_pipeline.tables.complete_range import CompleteRange

DAY = date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, 0, 0, 123, tzinfo=UTC)
BAKERY = AccountIdentity("bakery", "1001", "instagram", "17841", "bakery.berlin", "asked")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def state(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[State]:
    if request.param == "sqlite":
        state = State(tmp_path / "deep" / "state.db")
    else:
        state = State(PostgresDatabase(request.getfixturevalue("postgres").new_url()))
    yield state
    state.close()


@pytest.fixture
def sqlite_state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "deep" / "state.db")
    yield state
    state.close()


def partition(
    table: str = "messages", account: str = "bakery", day: date = DAY, sha256: str = "ab"
) -> Partition:
    return Partition(table, account, day, sha256, 3, 900, "digest")


def test_the_database_and_its_folder_are_private(sqlite_state: State) -> None:
    state = sqlite_state
    state.save_memory("bakery", {})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.path.parent.iterdir()}
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    assert stat.S_IMODE(state.path.parent.stat().st_mode) == 0o700


def test_partitions_are_sorted_by_account_date_and_table(state: State) -> None:
    recorded = [
        partition("shares"),
        partition("messages", day=date(2026, 1, 4)),
        partition("messages", "florist"),
    ]
    for one in recorded:
        state.save_partition(one)
    state.save_partition(partition("shares", sha256="cd"))
    assert state.partition("shares", "bakery", DAY) == partition("shares", sha256="cd")
    assert state.partitions("bakery") == [recorded[1], partition("shares", sha256="cd")]
    assert state.partitions(day=DAY) == [partition("shares", sha256="cd"), recorded[2]]
    state.remove_partition("shares", "bakery", DAY)
    assert state.partition("shares", "bakery", DAY) is None


def test_an_intent_stays_until_the_partition_is_recorded(state: State) -> None:
    state.save_partition(partition())
    state.save_intent(partition(), "ef")
    noted = state.partition("messages", "bakery", DAY)
    assert noted == Partition("messages", "bakery", DAY, "ab", 3, 900, "digest", "ef")
    state.save_partition(partition(sha256="ef"))
    assert state.partition("messages", "bakery", DAY) == partition(sha256="ef")


def test_an_identity_is_completed_by_its_own_id(state: State) -> None:
    unknown = AccountIdentity("bakery", "1001", "instagram")
    inferred = AccountIdentity("bakery", "1001", "instagram", "17840", None, "inferred")
    assert state.set_identity(unknown) == unknown
    assert state.set_identity(inferred) == inferred
    assert state.set_identity(BAKERY) == BAKERY
    assert state.set_identity(inferred) == BAKERY
    assert state.set_identity(unknown) == BAKERY
    assert state.identity("bakery") == BAKERY
    assert state.identity("florist") is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            AccountIdentity("bakery", "2002", "instagram"),
            "instagram page 1001 .own id 17841., not for instagram page 2002",
        ),
        (
            AccountIdentity("bakery", "1001", "messenger"),
            "instagram page 1001 .own id 17841., not for messenger page 1001",
        ),
        (
            AccountIdentity("bakery", "1001", "instagram", "9", None, "asked"),
            r"\(own id 17841\), not for .*\(own id 9\)",
        ),
        (
            AccountIdentity("cafe", "1001", "instagram"),
            'already stored as "bakery".*convo-pipeline rename bakery cafe',
        ),
    ],
)
def test_a_name_stands_for_one_inbox(state: State, other: AccountIdentity, message: str) -> None:
    state.set_identity(BAKERY)
    with pytest.raises(StoreError, match=message):
        state.set_identity(other)
    assert state.identities() == [BAKERY]


def test_instagram_logins_are_distinguished_by_their_own_ids(state: State) -> None:
    one = AccountIdentity("bakery", "me", "instagram", "17841", "bakery", "asked")
    state.set_identity(one)
    state.set_identity(AccountIdentity("florist", "me", "instagram", "17842", "florist", "asked"))
    with pytest.raises(StoreError, match='already stored as "bakery"'):
        state.set_identity(AccountIdentity("cafe", "me", "instagram", "17841", "bakery", "asked"))


def test_conversations_are_stored_by_account(state: State) -> None:
    first = [ConversationState("c1", 5, "m1", 3), ConversationState("c2", due_reason="refused")]
    state.save_conversations("bakery", first)
    state.save_conversations("bakery", [ConversationState("c2", 9, "m2", 9)])
    assert state.conversations("bakery") == {
        "c1": first[0],
        "c2": ConversationState("c2", 9, "m2", 9),
    }
    assert state.conversations("florist") == {}


def test_a_suspect_raw_file_resets_the_progress_of_its_account(state: State) -> None:
    state.save_conversations("bakery", [ConversationState("c1", 5, "m1", 3)])
    state.save_memory("bakery", {"coverage": {"since": "2026-01-01"}, "ladder": "x"})
    state.save_partition(partition("raw_message_ids"))
    state.mark_suspect("raw_message_ids", "bakery", DAY, "a/b.corrupt-1")
    assert state.conversations("bakery") == {"c1": ConversationState("c1", 5, "m1", None)}
    assert (state.partitions(), state.memory("bakery")) == ([], {"ladder": "x"})
    assert state.suspect_files("bakery") == [("raw_message_ids", "bakery", DAY, "a/b.corrupt-1")]
    state.remove_suspect("a/b.corrupt-1")
    assert state.suspect_files() == []


def test_memory_is_replaced(state: State) -> None:
    assert state.memory("bakery") == {}
    state.save_memory("bakery", {"page_size": 25, "dropped": ["tags"]})
    state.save_memory("bakery", {"page_size": 50})
    assert state.memory("bakery") == {"page_size": 50}


def test_a_placement_never_moves(state: State) -> None:
    state.save_placements("bakery", {("c", "m"): DAY})
    state.save_placements("bakery", {("c", "m"): date(2026, 2, 1), ("c", "n"): DAY})
    assert state.placements("bakery") == {("c", "m"): DAY, ("c", "n"): DAY}


def run(
    run_id: str,
    hours: int = 0,
    account: str = "bakery",
    outcome: str = "complete",
    kind: str = "extract",
) -> Run:
    started_at = NOON + timedelta(hours=hours)
    return Run(
        run_id,
        account,
        kind,
        started_at,
        DAY,
        DAY,
        started_at,
        outcome,
        ("throttled",),
        "x",
        {"listing": 2},
        {},
        {},
        {"timezone": "Europe/Berlin"},
    )


def test_runs_are_returned_newest_first(state: State) -> None:
    runs = [run("r1"), run("r2", 1), run("r2", 1, "florist")]
    for one in runs:
        state.save_run(one)
    assert state.runs("bakery") == [runs[1], runs[0]]
    assert state.runs(run_id="r2") == [runs[1], runs[2]]
    assert state.runs(limit=1) == [runs[1]]


def test_the_last_complete_run_is_found_by_kind(state: State) -> None:
    for one in (
        run("r1"),
        run("r2", 1, kind="capture"),
        run("r3", 2, outcome="incomplete"),
        run("r4", 3, "florist"),
    ):
        state.save_run(one)
    assert state.last_complete("bakery") == run("r2", 1, kind="capture")
    assert state.last_complete("bakery", "extract") == run("r1")
    assert state.last_complete("cafe") is None


def test_an_ended_run_replaces_the_running_one(state: State) -> None:
    state.save_run(Run("r1", "bakery", "extract", NOON))
    assert state.runs()[0].outcome == "running"
    state.save_run(run("r1"))
    assert state.runs() == [run("r1")]


def test_prune_runs_returns_the_number_of_runs(state: State) -> None:
    for hours in range(5):
        state.save_run(run(f"r{hours}", hours))
    assert state.prune_runs(NOON + timedelta(hours=3)) == 3
    assert [one.run_id for one in state.runs()] == ["r4", "r3"]


def test_rename_account_renames_it_in_all_tables(state: State) -> None:
    state.set_identity(BAKERY)
    state.save_memory("bakery", {"page_size": 25})
    state.save_run(run("r1"))
    state.rename_account("bakery", "cafe")
    assert (state.identity("bakery"), state.memory("bakery"), state.runs("bakery")) == (
        None,
        {},
        [],
    )
    assert (state.memory("cafe"), state.runs("cafe")[0].account) == ({"page_size": 25}, "cafe")


def test_rename_account_replaces_the_rows_of_the_new_name(state: State) -> None:
    for account in ("bakery", "cafe"):
        state.save_memory(account, {"of": account})
        state.save_receipt(account, "same.json")
        state.save_placements(account, {("c", account): DAY})
    state.mark_suspect("messages", "bakery", DAY, "messages/account=bakery/x")
    state.save_compaction(Compaction("messages", "bakery", "2026-01", "s", 1, 9), {})
    state.rename_account("bakery", "cafe")
    assert (state.memory("cafe"), state.receipts("cafe")) == ({"of": "bakery"}, {"same.json"})
    assert state.placements("cafe") == {("c", "bakery"): DAY, ("c", "cafe"): DAY}
    assert state.suspect_files() == [("messages", "cafe", DAY, "messages/account=cafe/x")]


def listing(run_id: str, day: int, since: int, **others: object) -> Run:
    """Return a complete run of 2026-01 that read [since, day + 1)."""
    started_at = datetime(2026, 1, day, 23, tzinfo=UTC)
    run = Run(run_id, "bakery", "nightly", started_at, date(2026, 1, since), date(2026, 1, day + 1))
    return replace(run, outcome="complete", **others)


def test_complete_ranges_end_at_a_gap(state: State) -> None:
    assert state.complete_range("bakery") is None
    for one in (listing("r1", 3, 1), listing("r2", 5, 3), listing("r3", 9, 7)):
        state.save_run(one)
    ended = datetime(2026, 1, 9, 23, tzinfo=UTC)
    assert state.complete_range("bakery") == CompleteRange(date(2026, 1, 7), ended)
    state.save_run(listing("r3", 9, 7, report={"is_incremental": True}))
    assert state.complete_range("bakery") == CompleteRange(date(2026, 1, 1), ended)
    refused = {"is_incremental": True, "refused": {"complete_from": "2026-01-04"}}
    state.save_run(listing("r3", 9, 7, report=refused))
    assert state.complete_range("bakery") == CompleteRange(date(2026, 1, 4), ended)
    spans = [(date(2026, 1, 3), date(2026, 1, 5)), (date(2026, 1, 7), date(2026, 1, 9))]
    assert sorted(state.complete_spans("bakery", date(2026, 1, 4))) == spans


def test_the_last_full_run_counts_what_was_missed(state: State) -> None:
    state.save_run(replace(run("r1", kind="full"), counts={"missed": 3}))
    state.save_run(run("r2", 1, kind="full"))
    assert state.last_full_run("bakery") == (NOON, 3)
    assert state.first_run_at("bakery") == NOON


def test_a_changed_partition_ends_the_compaction_of_its_month(state: State) -> None:
    def compact(sha256: str) -> bool:
        return state.save_compaction(compaction, {DAY: sha256})

    compaction = Compaction("messages", "bakery", "2026-01", "s", 1, 9)
    state.save_partition(partition())
    assert (compact("other"), compact("ab")) == (False, True)
    for change in (
        lambda: state.save_partition(partition(sha256="cd")),
        lambda: state.save_partition(partition(day=date(2026, 1, 9))),
        lambda: state.remove_partition("messages", "bakery", date(2026, 1, 9)),
    ):
        change()
        assert state.compactions() == []
        days = {each.date: each.sha256 for each in state.partitions("bakery")}
        assert state.save_compaction(compaction, days)
    state.save_partition(partition(day=date(2026, 2, 1)))
    assert state.compactions("bakery") == [compaction]


def test_forget_removes_a_person_and_redacts_texts(state: State) -> None:
    state.save_conversations("bakery", [ConversationState(key) for key in ("own", "group", "c")])
    keys = [("own", "m1"), ("group", "m2"), ("group", "m3")]
    state.save_placements("bakery", dict.fromkeys(keys, DAY))
    state.save_run(replace(run("r1"), error="Ada failed", report={"who": "Ada"}))
    state.save_memory("bakery", {"known": "Ada"})
    state.forget("bakery", ["own"], ["group"], {"m2"}, lambda text: text.replace("Ada", "x"))
    assert set(state.conversations("bakery")) == {"c"}
    assert set(state.placements("bakery")) == {("group", "m3")}
    assert (state.runs()[0].error, state.runs()[0].report) == ("x failed", {"who": "x"})
    assert state.memory("bakery") == {"known": "x"}
    state.forget_before(DAY + timedelta(days=1))
    assert state.placements("bakery") == {}


def test_any_text_is_stored_as_it_is(state: State) -> None:
    ids = ["a\0b", "\0", "\uf8e30", "\uf8e31\0", "\u2028 ? %s 'x'"]
    state.save_conversations("bakery", [ConversationState(each, 2**62) for each in ids])
    assert set(state.conversations("bakery")) == set(ids)


def test_a_failed_transaction_changes_nothing(state: State) -> None:
    state.save_conversations("bakery", [ConversationState("c1", 5)])
    with pytest.raises(StoreError):
        state.save_conversations(
            "bakery", [ConversationState("c1", 6), ConversationState({"no": "id"})]
        )  # type: ignore[arg-type]
    assert state.conversations("bakery") == {"c1": ConversationState("c1", 5)}


def test_a_database_of_a_newer_version_is_refused(sqlite_state: State) -> None:
    state = sqlite_state
    state.save_memory("bakery", {})
    state.close()
    with sqlite3.connect(state.path) as connection:
        connection.execute("UPDATE lake_version SET version = 99")
        connection.execute("DROP TABLE days_done")
        before = list(connection.iterdump())
    connection.close()
    with pytest.raises(StoreError, match="written by a newer convo-pipeline"):
        state.memory("bakery")
    with sqlite3.connect(state.path) as connection:
        assert list(connection.iterdump()) == before
    connection.close()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(
        StoreError,
        match=r"state\.db: file is not a database; move it away .* verify --rebuild-state",
    ):
        State(path).memory("bakery")


def test_a_symbolic_link_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreError, match="symbolic link"):
        State(tmp_path / "state.db").memory("bakery")


def test_many_threads_share_one_state(state: State) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda n: state.save_partition(partition(day=DAY + timedelta(days=n))), range(100)
            )
        )
    assert len(state.partitions("bakery")) == 100


def record_many(path: Path, writer: int) -> None:
    state = State(path)
    for n in range(10):
        state.save_partition(partition(account=f"a{writer}", day=DAY + timedelta(days=n)))
    state.close()


def test_many_processes_can_create_and_share_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convo_pipeline.lake.store"])
    processes = [
        context.Process(target=record_many, args=(tmp_path / "state.db", n)) for n in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    state = State(tmp_path / "state.db")
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(state.partitions()) == 80
    state.close()


def test_a_forked_child_opens_its_own_connection(state: State) -> None:
    state.save_memory("bakery", {"from": "parent"})
    child = os.fork()
    if child == 0:
        try:
            state.save_memory("florist", {"from": "child"})
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (state.memory("bakery"), state.memory("florist")) == (
        {"from": "parent"},
        {"from": "child"},
    )
