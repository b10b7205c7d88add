"""Damaged and missing files: quarantine, repair by the next run, and what is left."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.derive.day import stale_days
from convo_pipeline.derive.rederive import Scope
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import Account, World
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake.ledger import export_runs, restore_runs
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.steps import run_normalise
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.schema import DERIVED, RUNS, TABLES
from convo_pipeline.settings import Settings
from convo_pipeline.state.records import AccountIdentity
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.scrub import NIGHTS, is_due, scrub
from convo_pipeline.upkeep.token_ends import read_token_ends
from convo_pipeline.upkeep.verify import verify
from tests.support.inboxes import NOW, Inboxes, serve, stopped_clock

OLD, TODAY = NOW.date() - timedelta(days=6), NOW.date()
NIGHT = TODAY - timedelta(days=1)
RAW_FILES = ("raw_conversations", "raw_message_ids", "raw_message_details")


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """One conversation of two days within the newest 20 messages."""
    world = World(VirtualClock(NOW))
    guest = world.add_account("insta", "1111111111", "instagram").add_conversation("Ada")
    for at in (NOW - timedelta(days=6), NOW - timedelta(hours=2)):
        guest.add_messages(3, at)
    with serve(tmp_path / "lake", world) as inboxes:
        inboxes.extract_whole()
        yield inboxes


def flip(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return bytes(content)


def kinds(inboxes: Inboxes) -> list[str]:
    return sorted(
        {finding.kind for finding in verify(inboxes.store, stale_days=stale_days).findings}
    )


@pytest.mark.parametrize("table", RAW_FILES)
def test_d1_next_night_fetches_a_damaged_raw_day(inboxes: Inboxes, table: str) -> None:
    store, before = (
        inboxes.store,
        {name: inboxes.rows(name, "insta") for name in ("messages", "participant_days")},
    )
    damaged = flip(store.path(table, "insta", OLD))
    assert kinds(inboxes) == ["damaged"]
    with pytest.raises(
        CorruptError,
        match=f"{table}/account=insta/date={OLD}.*set aside as.*the next run reads its day again",
    ):
        store.read(table, "insta", OLD)
    assert "quarantine" in kinds(inboxes)
    reports = inboxes.extract(NIGHT, mode="nightly")
    inboxes.derive()
    assert [report.outcome for report in reports] == ["complete"]
    assert store.state.suspect_files() == []
    assert {name: inboxes.rows(name, "insta") for name in before} == before
    assert kinds(inboxes) == ["set aside"]
    (kept,) = store.root.rglob(f"{table}/account=insta/date={OLD}/*.corrupt-*")
    assert kept.read_bytes() == damaged


def damaged_files(inboxes: Inboxes, tables: Iterable[str]) -> list[Path]:
    paths = [inboxes.store.path(table, "insta", OLD) for table in tables]
    return [path for path in paths if path.exists()]


def normalise(inboxes: Inboxes, day: date, scope: Scope) -> None:
    deployment = Deployment(inboxes.settings, environ={}, clock=stopped_clock(inboxes.clock))
    assert not run_normalise(deployment, inboxes.store, {"insta": [day]}, scope).failures


def test_commands_that_verify_names_cure_every_table(inboxes: Inboxes) -> None:
    """A flipped bit keeps the size of a file: only these two commands look for it at once."""
    normalise(inboxes, OLD, "stale")
    before = {name: inboxes.rows(name, "insta") for name in TABLES}
    derived = [table.name for table in DERIVED]
    for path in damaged_files(inboxes, derived):
        flip(path)
    assert set(kinds(inboxes)) == {"damaged"}
    normalise(inboxes, OLD, "stale")
    assert kinds(inboxes) == ["set aside"]
    for path in damaged_files(inboxes, RAW_FILES):
        flip(path)
    (report,) = inboxes.extract(mode="full")
    assert report.reasons == ("quarantined",)  # the next run completes the day
    (report,) = inboxes.extract(NIGHT, mode="nightly")
    assert report.outcome == "complete"
    normalise(inboxes, OLD, "stale")
    assert kinds(inboxes) == ["set aside"]
    assert {name: inboxes.rows(name, "insta") for name in TABLES} == before


@pytest.mark.parametrize("damage", ["truncated", "removed", "read before"])
def test_next_run_of_other_days_cures_derived_tables(inboxes: Inboxes, damage: str) -> None:
    normalise(inboxes, OLD, "stale")
    before = {name: inboxes.rows(name, "insta") for name in TABLES}
    for table in DERIVED:
        for path in damaged_files(inboxes, [table.name]):
            if damage == "removed":
                path.unlink()
            elif damage == "truncated":
                path.write_bytes(path.read_bytes()[:-9])
            else:
                flip(path)
                with pytest.raises(CorruptError):
                    inboxes.store.read(table.name, "insta", OLD)
    assert kinds(inboxes) != []
    inboxes.extract(NIGHT, mode="nightly")
    normalise(inboxes, NIGHT, "asked")
    assert set(kinds(inboxes)) <= {"set aside"}
    assert {name: inboxes.rows(name, "insta") for name in TABLES} == before


@pytest.mark.parametrize(("account", "day"), [("insta", TODAY), ("mess", OLD)])
def test_swapped_files_are_damage_and_add_no_rows(
    inboxes: Inboxes, account: str, day: date
) -> None:
    """Each file is intact but belongs to another day or account."""
    store = inboxes.store
    store.state.set_identity(AccountIdentity("mess", "2222222222", "messenger"))
    for table in RAW_FILES if account == "mess" else ():
        store.merge(table, "mess", OLD, store.read(table, "insta", OLD))
    before = inboxes.rows("messages")
    for table in RAW_FILES:
        one, other = store.path(table, "insta", OLD), store.path(table, account, day)
        contents = one.read_bytes(), other.read_bytes()
        one.write_bytes(contents[1])
        other.write_bytes(contents[0])
    assert set(kinds(inboxes)) == {"damaged"}
    rebuild_state(store)
    for table in RAW_FILES:
        with pytest.raises(CorruptError, match="set aside"):
            store.read(table, "insta", OLD)
    inboxes.extract(NIGHT, mode="nightly")
    inboxes.derive()
    assert inboxes.rows("messages") == before


def test_file_damaged_during_a_run_is_repaired_by_the_next(inboxes: Inboxes) -> None:
    before = inboxes.rows("messages", "insta")
    (conversation,) = inboxes.world.accounts["insta"].conversations.values()
    conversation.add_message("late", NOW - timedelta(minutes=1))
    flip(inboxes.store.path("raw_message_details", "insta", TODAY))
    [report] = inboxes.extract(NIGHT, accounts=["insta"], mode="nightly")
    assert (report.outcome, report.reasons) == ("incomplete", ("quarantined",))
    assert [entry[:3] for entry in inboxes.store.state.suspect_files()] == [
        ("raw_message_details", "insta", TODAY)
    ]
    [report] = inboxes.extract(NIGHT, accounts=["insta"], mode="nightly")
    inboxes.derive()
    assert (report.outcome, inboxes.store.state.suspect_files()) == ("complete", [])
    assert [row for row in inboxes.rows("messages", "insta") if row["text"] != "late"] == before
    assert kinds(inboxes) == ["set aside"]


def test_d1_damaged_derived_day_is_derived_again(inboxes: Inboxes) -> None:
    path = inboxes.store.path("messages", "insta", OLD)
    content = path.read_bytes()
    flip(path)
    with pytest.raises(CorruptError, match="it is made again from the raw tables"):
        inboxes.store.read("messages", "insta", OLD)
    assert kinds(inboxes) == ["quarantine", "stale"]
    inboxes.derive()
    assert path.read_bytes() == content
    assert kinds(inboxes) == ["set aside"]


def test_damaged_ledger_day_is_restored_from_the_state(inboxes: Inboxes) -> None:
    store = inboxes.store
    before = store.read(RUNS.name, "", TODAY)
    flip(store.path(RUNS.name, "", TODAY))
    export_runs(store, str(before["run_id"][0]))
    assert store.read(RUNS.name, "", TODAY).equals(before)
    assert (store.state.suspect_files(), kinds(inboxes)) == ([], ["set aside"])


def test_intact_file_is_never_quarantined(inboxes: Inboxes) -> None:
    """Too little memory or no more threads can make an intact file unreadable."""
    store = inboxes.store
    path, record = (
        store.path("messages", "insta", OLD),
        store.state.partition("messages", "insta", OLD),
    )
    assert record is not None
    path.write_bytes(b"unreadable")
    store.state.save_partition(replace(record, sha256=hashlib.sha256(b"unreadable").hexdigest()))
    with pytest.raises(StoreError, match="but its bytes are as written, so it stays"):
        store.read("messages", "insta", OLD)
    assert (path.read_bytes(), store.state.suspect_files()) == (b"unreadable", [])


def test_rebuilt_state_knows_quarantined_files(inboxes: Inboxes) -> None:
    store = inboxes.store
    flip(store.path("raw_message_ids", "insta", OLD))
    with pytest.raises(CorruptError):
        store.read("raw_message_ids", "insta", OLD)
    noted = store.state.suspect_files()
    for _, _, _, path in noted:
        store.state.remove_suspect(path)
    rebuild_state(store)
    assert store.state.suspect_files() == noted
    inboxes.extract(NIGHT, mode="nightly")
    assert store.state.suspect_files() == []


def test_rebuild_rewrites_a_file_with_a_changed_footer(inboxes: Inboxes) -> None:
    """A footer has no checksum. A readable file with a changed footer is written anew."""
    store = inboxes.store
    records = store.state.partitions()
    path = store.path("raw_message_ids", "insta", OLD)
    content = path.read_bytes()
    start = content.index(b"parquet-cpp-arrow")
    path.write_bytes(content[:start] + b"q" + content[start + 1 :])
    rebuild_state(store)
    assert (path.read_bytes(), store.state.partitions()) == (content, records)


@pytest.mark.parametrize("table", ["raw_message_details", "messages", "account_days"])
def test_scrub_finds_and_repairs_unread_damage_within_four_weeks(
    inboxes: Inboxes, table: str
) -> None:
    """The nightly upkeep finds it on the one night when the day is due."""
    run_normalise(deployment_of(inboxes), inboxes.store, {"insta": [TODAY]})
    store, before = (
        inboxes.store,
        {name: inboxes.rows(name, "insta") for name in ("messages", "account_days")},
    )
    flip(store.path(table, "insta", OLD))
    nights = [TODAY + timedelta(days=number) for number in range(NIGHTS)]
    assert [night for night in nights if is_due(OLD, night)] == [OLD + timedelta(days=NIGHTS)]
    errors = {}
    for night in (OLD + timedelta(days=NIGHTS + number) for number in (-1, 0, 1)):
        try:
            scrub(store, night, Settings())
        except CorruptError as error:
            errors[night] = str(error)
    assert list(errors) == [OLD + timedelta(days=NIGHTS)]
    assert (
        f"{table}/account=insta/date={OLD}/data.parquet.corrupt-"
        in errors[OLD + timedelta(days=NIGHTS)]
    )
    assert {name: inboxes.rows(name, "insta") for name in before} == before
    inboxes.extract(NIGHT, mode="nightly")
    assert kinds(inboxes) == ["set aside"]


def test_nightly_upkeep_fails_on_a_damaged_file(
    inboxes: Inboxes,
) -> None:
    log: list[str] = []
    store, clock = inboxes.store, Clock(now=lambda: NOW + timedelta(days=NIGHTS - 6))
    deployment = Deployment(inboxes.settings, environ=inboxes.environ, clock=clock)
    count = sum(record.date == OLD for record in store.state.partitions())
    assert run_upkeep(deployment, log.append) == []
    assert f"files checked: {count}" in log
    assert "tokens read: 1" in log
    assert list(store.state.token_ends("insta").values()) == ["data_access_expiring"]
    flip(store.path("messages", "insta", OLD))
    (failure,) = run_upkeep(deployment, log.append)
    assert f"messages/account=insta/date={OLD}" in failure
    assert run_upkeep(deployment, log.append) == []


def test_one_call_reads_the_end_of_a_token_for_all_its_accounts(inboxes: Inboxes) -> None:
    (account,) = inboxes.settings.accounts
    second = account.model_copy(update={"name": "second"})
    settings = inboxes.settings.model_copy(update={"accounts": (account, second)})
    clock = Clock(now=inboxes.clock.now)
    assert read_token_ends(settings, inboxes.store, inboxes.environ, clock) == 1
    ends = [inboxes.store.state.token_ends(name) for name in ("insta", "second")]
    assert ends[0] == ends[1] != {}
    assert read_token_ends(settings, inboxes.store, {}, clock) == 0
    assert inboxes.store.state.token_ends("insta") == ends[0], "an unread token changes nothing"


def crowd(account: Account, at: datetime) -> None:
    """Fill the first page of the listing with other conversations."""
    for number in range(60):
        account.add_conversation(f"Eve {at} {number}").add_messages(
            1, at - timedelta(minutes=number)
        )


def remove_day(inboxes: Inboxes, day: date, tables: Iterable[str]) -> None:
    for table in tables:
        shutil.rmtree(inboxes.store.path(table, "insta", day).parent)


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Inboxes]:
    """A guest who wrote once, days ago, below the first page of the listing."""
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    account.add_conversation("Ada").add_messages(2, NOW - timedelta(days=5))
    crowd(account, NOW - timedelta(hours=3))
    with serve(tmp_path / "lake", world) as inboxes:
        inboxes.extract_whole()
        yield inboxes


QUIET = TODAY - timedelta(days=5)


def deployment_of(inboxes: Inboxes) -> Deployment:
    return Deployment(inboxes.settings, environ=inboxes.environ, clock=stopped_clock(inboxes.clock))


@pytest.mark.parametrize("tables", [*((table,) for table in RAW_FILES), RAW_FILES])
def test_d13_next_night_fetches_removed_raw_days(quiet: Inboxes, tables: tuple[str, ...]) -> None:
    before = quiet.rows("messages", "insta")
    remove_day(quiet, QUIET, tables)
    assert kinds(quiet) == ["missing"]
    reports = [*quiet.extract(NIGHT, mode="nightly"), *quiet.extract(NIGHT, mode="nightly")]
    quiet.derive()
    assert [(report.outcome, report.reasons) for report in reports] == [
        ("incomplete", ("quarantined",)),
        ("complete", ()),
    ]
    named = [
        f"{table}/account=insta/date={QUIET}/data.parquet"
        " was lost, damaged or put back from a backup"
        for table in tables
    ]
    assert reports[0].report["quarantined"] == sorted(named)
    assert (quiet.rows("messages", "insta"), kinds(quiet)) == (before, [])


def test_d13_normalize_derives_a_removed_day(
    quiet: Inboxes,
) -> None:
    run_normalise(deployment_of(quiet), quiet.store, {"insta": [TODAY]})
    before = {
        name: quiet.rows(name, "insta") for name in ("messages", "participant_days", "account_days")
    }
    remove_day(quiet, QUIET, before)
    assert kinds(quiet) == ["missing"]
    outcome = run_normalise(deployment_of(quiet), quiet.store, {"insta": [TODAY]})
    assert (outcome.failures, {name: quiet.rows(name, "insta") for name in before}) == ({}, before)
    assert (kinds(quiet), quiet.store.state.suspect_files()) == ([], [])


def test_d13_next_run_restores_a_removed_ledger_day(
    quiet: Inboxes,
) -> None:
    store = quiet.store
    before = store.read(RUNS.name, "", TODAY)
    shutil.rmtree(store.path(RUNS.name, "", TODAY).parent)
    restore_runs(store)
    assert (store.read(RUNS.name, "", TODAY).equals(before), kinds(quiet)) == (True, [])


def live_on(inboxes: Inboxes) -> date:
    """Extract after five days with messages on the first and many on the last; return it."""
    account, clock = inboxes.world.accounts["insta"], inboxes.clock
    for name, hours in (("Bob", 1), ("Joe", 24)):
        account.add_conversation(name).add_messages(2, NOW + timedelta(hours=hours))
    clock.advance(timedelta(days=5).total_seconds())
    crowd(account, clock.now() - timedelta(hours=13))
    inboxes.extract_whole()
    return clock.now().date() - timedelta(days=1)


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_d15_next_night_fetches_days_missing_in_a_backup(quiet: Inboxes, is_rebuilt: bool) -> None:
    """The backup lacks days and has an older file; the state still lists the newer ones."""
    store, backup = quiet.store, quiet.store.root.parent / "backup"
    shutil.copytree(store.root, backup, ignore=shutil.ignore_patterns(".state"))
    night = live_on(quiet)
    before = quiet.rows("messages", "insta")
    for folder in store.root.glob("[!.]*"):
        shutil.rmtree(folder)
    shutil.copytree(backup, store.root, dirs_exist_ok=True)
    if is_rebuilt:
        rebuild_state(store)
    else:
        assert set(kinds(quiet)) == {"missing", "restored"}
    reports = [*quiet.extract(night, mode="nightly"), *quiet.extract(night, mode="nightly")]
    store.partitions.check_files(DERIVED, "insta")
    quiet.derive()
    assert [report.outcome for report in reports] == [
        "complete" if is_rebuilt else "incomplete",
        "complete",
    ]
    assert (quiet.rows("messages", "insta"), kinds(quiet), store.state.suspect_files()) == (
        before,
        [],
        [],
    )
    assert list(store.root.rglob("*.corrupt-*")) == []


def test_d15_files_newer_than_the_state_are_accepted(quiet: Inboxes) -> None:
    """Only the state comes from a backup: intact newer files are no damage."""
    store = quiet.store
    store.close()
    backup = {path: path.read_bytes() for path in store.state_path.glob("state.db*")}
    night = live_on(quiet)
    before = quiet.rows("messages", "insta")
    store.close()
    for path in store.state_path.glob("state.db*"):
        path.unlink()
    for path, content in backup.items():
        path.write_bytes(content)
    assert "restored" in kinds(quiet)
    assert quiet.rows("messages", "insta") == before
    quiet.extract(night, mode="nightly")
    quiet.derive()
    assert (quiet.rows("messages", "insta"), list(store.root.rglob("*.corrupt-*"))) == (before, [])
