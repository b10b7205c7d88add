"""Retention: expired rows leave, derived tables agree, and nothing restores them."""

import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

import convo_pipeline
from convo_pipeline.base.clock import Clock
from convo_pipeline.derive.account_days import derive_account_days, stale_account_days
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import BusyError, CorruptError, SettingsError, StoreError
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.first_days import read_first_days
from convo_pipeline.lake.segments import read_index
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.privacy.retention import expire, expire_by_clock, find_expired, retention_starts
from convo_pipeline.schema import NORMALISED, RAW, RUNS, TABLES
from convo_pipeline.settings import RetentionSettings, parse_settings
from convo_pipeline.upkeep.verify import verify
from tests.support.inboxes import NOW, Inboxes, serve, small_world, stopped_clock

FIRST = date(2026, 1, 1)
TODAY = NOW.date()
RAW_LIMIT, MESSAGES_LIMIT = 40, 20
WITH_TIMES = (
    "raw_message_ids",
    "raw_message_details",
    "messages",
    "attachments",
    "shares",
    "reactions",
)


def make_world() -> World:
    """Two accounts with a text on every fourth day since the first of January."""
    world = small_world()
    for account in world.accounts.values():
        conversation = account.add_conversation()
        for index in range(18):
            conversation.add_message(f"text {index}", NOW - timedelta(days=4 * index))
    return world


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake of that world after one complete extraction."""
    root = tmp_path_factory.mktemp("extracted") / "lake"
    with serve(root, make_world(), start=FIRST) as inboxes:
        inboxes.extract_whole(FIRST)
    return root


@pytest.fixture
def inboxes(tmp_path: Path, extracted: Path) -> Iterator[Inboxes]:
    """A copy of that lake, and an emulator that serves the world."""
    shutil.copytree(extracted, tmp_path / "lake")
    with serve(tmp_path / "lake", make_world(), start=FIRST) as inboxes:
        yield inboxes


def rows_by_table(inboxes: Inboxes) -> dict[str, list[dict[str, object]]]:
    return {table: inboxes.rows(table) for table in TABLES}


def oldest(inboxes: Inboxes, table: str) -> date | None:
    return min(
        (day for name in inboxes.names for day in inboxes.store.days(table, name)), default=None
    )


def run(inboxes: Inboxes, limits: dict[str, int], now: datetime = NOW) -> None:
    expire(inboxes.store, limits, now.date())


def test_s16_no_row_is_older_than_its_limit_at_any_hour(inboxes: Inboxes) -> None:
    for days in range(0, 12, 5):
        now = (NOW + timedelta(days=days)).replace(hour=23, minute=59)
        run(inboxes, {"raw_message_details": RAW_LIMIT, "messages": MESSAGES_LIMIT}, now)
        for table, limit in [
            *((name, RAW_LIMIT) for name in WITH_TIMES),
            ("messages", MESSAGES_LIMIT),
        ]:
            times = [row["created_at"] for row in inboxes.rows(table)]
            assert all(now - when < timedelta(days=limit) for when in times)
        assert inboxes.rows("messages")
        assert len(inboxes.rows("raw_message_ids")) > len(inboxes.rows("messages"))


def test_expired_days_are_not_fetched_or_derived_again(inboxes: Inboxes) -> None:
    run(inboxes, {"raw_message_details": RAW_LIMIT, "messages": MESSAGES_LIMIT})
    before = inboxes.files()
    assert [stale_days(inboxes.store, name) for name in inboxes.names] == [[], []]
    inboxes.store.state.reset_progress("insta")
    inboxes.store.state.reset_progress("mess")
    inboxes.extract_whole(FIRST)
    for name in inboxes.names:
        for index in range(70):
            derive_day(inboxes.store, name, FIRST + timedelta(days=index), is_forced=True)
    assert inboxes.files() == before
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_derived_tables_expire_with_raw_tables_or_by_their_own_limit(
    inboxes: Inboxes,
) -> None:
    rows = inboxes.rows("messages")
    run(inboxes, {"raw_message_ids": 10, "messages": 400, "coverage": 400})
    assert inboxes.rows("messages") == rows
    assert oldest(inboxes, "coverage") == oldest(inboxes, "messages") == date(2026, 1, 1)
    expected = {
        "raw_message_details": TODAY - timedelta(days=8),
        "participant_days": TODAY - timedelta(days=8),
    }
    assert {name: oldest(inboxes, name) for name in expected} == expected
    inboxes.derive()
    for name in inboxes.names:
        derive_day(inboxes.store, name, FIRST, is_forced=True)
    assert inboxes.rows("messages") == rows
    assert verify(inboxes.store, stale_days=stale_days).findings == ()


def test_account_days_stay_when_messages_expire(inboxes: Inboxes) -> None:
    for name in inboxes.names:
        derive_account_days(inboxes.store, name)
    figures = inboxes.rows("account_days")
    run(inboxes, {"raw_message_ids": 30, "account_days": 400})
    for name in inboxes.names:
        assert stale_account_days(inboxes.store, name) == []
        derive_account_days(inboxes.store, name)
    assert inboxes.rows("account_days") == figures


def test_dry_run_lists_partitions_and_removes_nothing(inboxes: Inboxes) -> None:
    before = inboxes.files()
    expired = find_expired(inboxes.store, retention_starts({"messages": MESSAGES_LIMIT}, TODAY))
    assert inboxes.files() == before
    assert {partition.table for partition in expired} == {"messages"}
    assert sum(partition.row_count for partition in expired) == 2 * 13
    assert expire(inboxes.store, {"messages": MESSAGES_LIMIT}, TODAY) == expired
    assert find_expired(inboxes.store, read_first_days(inboxes.store)) == []


def test_compactions_quarantine_and_state_expire_too(inboxes: Inboxes) -> None:
    store = inboxes.store
    compact(store, TODAY)
    path = store.path("raw_message_ids", "insta", date(2026, 1, 1))
    path.write_bytes(b"damaged")
    inboxes.extract(FIRST)
    store.path("messages", "insta", date(2026, 1, 5)).write_bytes(b"damaged")
    for table, day in (("messages", date(2026, 1, 13)), ("raw_message_ids", date(2026, 1, 9))):
        store.path(table, "insta", day).write_bytes(b"damaged")
        with pytest.raises(CorruptError):
            store.read(table, "insta", day)
    derive_day(store, "insta", date(2026, 1, 13))
    run(inboxes, {table.name: 30 for table in RAW})
    names = {path.name for path in store.root.rglob("*") if "2026-01" in path.name}
    months = {
        piece.month
        for table in TABLES
        for segment in read_index(store.backend, table)[0]
        for piece in segment.pieces
    }
    assert (names, months & {"2026-01"}) == (set(), set())
    assert store.state.suspect_files() == []
    assert [
        record
        for record in store.state.partitions()
        if record.date < date(2026, 2, 9) and record.account
    ] == []
    compact(store, TODAY)
    with convo_pipeline.connect(store.root) as con:
        assert con.sql("SELECT min(date) FROM messages").fetchall() == [(date(2026, 2, 10),)]
    assert verify(store, stale_days=stale_days).findings == ()


def test_state_of_a_quiet_conversation_expires(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_message("long ago", NOW - timedelta(days=60))
    recent = world.accounts["insta"].add_conversation()
    recent.add_message("lately", NOW - timedelta(days=2))
    with serve(tmp_path, world, start=FIRST) as inboxes:
        inboxes.extract_whole(FIRST)
        run(inboxes, {table.name: 30 for table in RAW})
        assert set(inboxes.store.state.conversations("insta")) == {recent.conversation_id}


def test_ledger_has_its_own_limit(inboxes: Inboxes) -> None:
    run(inboxes, {"runs": 30})
    assert list(inboxes.store.root.glob("runs/*/data.parquet"))
    run(inboxes, {"runs": 30}, NOW + timedelta(days=30))
    assert list(inboxes.store.root.glob("runs/*")) == []
    assert inboxes.store.state.runs() == []
    assert verify(inboxes.store).findings == ()


def test_locked_account_does_not_stop_others(
    inboxes: Inboxes,
) -> None:
    with inboxes.store.lock_account("insta"), pytest.raises(BusyError):
        run(inboxes, {"messages": MESSAGES_LIMIT})
    first = TODAY - timedelta(days=MESSAGES_LIMIT - 1)
    assert (
        inboxes.store.days("messages", "insta")[0]
        < first
        <= inboxes.store.days("messages", "mess")[0]
    )


def test_nightly_upkeep_expires_and_compacts(inboxes: Inboxes) -> None:
    settings = inboxes.settings.model_copy(
        update={"retention": RetentionSettings.model_validate({"messages": 40, RUNS.name: 90})}
    )
    log: list[str] = []
    deployment = Deployment(settings, clock=stopped_clock(inboxes.clock))
    assert run_upkeep(deployment, log.append) == []
    counts = {text.split(": ")[0]: int(text.split(": ")[1]) for text in log}
    assert (counts["erasures finished"], counts["partitions expired"]) == (0, 2 * 8)
    assert counts["months compacted"] > 2 * len(RAW) - 2
    assert list(inboxes.store.root.glob(".compact/messages/2026-*.parquet"))


AHEAD = NOW + timedelta(days=3650)
LIMITS = {"raw_message_details": RAW_LIMIT}


def test_clock_set_ahead_removes_nothing_and_is_named(inboxes: Inboxes) -> None:
    settings = inboxes.settings.model_copy(
        update={"retention": RetentionSettings.model_validate(LIMITS)}
    )
    for days in range(2):
        ahead = Clock(now=lambda moment=AHEAD + timedelta(days=days): moment)  # type: ignore[misc]
        before = inboxes.rows("raw_message_details")
        (failure,) = run_upkeep(Deployment(settings, clock=ahead), print)
        assert "nothing was removed: the machine's clock says 2036-03-0" in failure
        assert "confirm the time until 2026-03-02" in failure
        assert "expire --trust-clock" in failure
        assert (inboxes.rows("raw_message_details"), read_first_days(inboxes.store)) == (before, {})
        inboxes.clock.advance(24 * 3600)
        inboxes.extract()
    assert run_upkeep(Deployment(settings, clock=stopped_clock(inboxes.clock)), print) == []
    expected = NOW.date() + timedelta(days=2) - timedelta(days=RAW_LIMIT - 1)
    assert read_first_days(inboxes.store)["raw_message_details"] == expected


def test_one_run_dated_years_ahead_does_not_confirm_the_clock(
    inboxes: Inboxes,
) -> None:
    """The machine, the server and a message agree on a wrong date for one day."""
    inboxes.clock.set(AHEAD)
    for account in inboxes.world.accounts.values():
        account.add_conversation().add_message("from the future", AHEAD)
    assert {report.outcome for report in inboxes.extract(mode="full")} == {"complete"}
    assert AHEAD.date() in inboxes.store.days("raw_message_ids", "insta")
    before = inboxes.files()
    with pytest.raises(StoreError, match="nothing was removed"):
        expire_by_clock(inboxes.store, LIMITS, AHEAD)
    assert inboxes.files() == before


def test_messages_of_three_new_days_confirm_the_clock(inboxes: Inboxes) -> None:
    later = NOW + timedelta(days=90)
    conversation = inboxes.world.accounts["insta"].add_conversation()
    for days in range(3):
        inboxes.clock.set(later + timedelta(days=days))
        conversation.add_message("a word", inboxes.clock.now())
        inboxes.extract(mode="full")
        if days < 2:
            with pytest.raises(StoreError, match="confirm the time until 2026-03"):
                expire_by_clock(inboxes.store, LIMITS, inboxes.clock.now())
    assert expire_by_clock(inboxes.store, LIMITS, inboxes.clock.now())
    assert len(inboxes.rows("raw_message_details")) == 3


def test_wrong_clock_is_no_error_where_nothing_expires(inboxes: Inboxes) -> None:
    """No upkeep fails, and the clock is not trusted later because of it."""
    later = NOW + timedelta(days=90)
    assert expire_by_clock(inboxes.store, {"raw_message_details": 400}, later) == []
    assert read_first_days(inboxes.store) == {}
    with pytest.raises(StoreError, match="nothing was removed"):
        expire_by_clock(inboxes.store, LIMITS, later)


def test_inactive_account_expires_night_by_night(inboxes: Inboxes) -> None:
    for night in range(RAW_LIMIT + 1):
        expire_by_clock(inboxes.store, LIMITS, NOW + timedelta(days=night))
    assert inboxes.rows("raw_message_details") == []


def test_person_confirms_the_clock_after_months_without_power(
    inboxes: Inboxes,
) -> None:
    store, later = inboxes.store, NOW + timedelta(days=90)
    expire_by_clock(store, LIMITS, NOW)
    for _ in range(2):
        with pytest.raises(StoreError, match="confirm the time until 2026-03-10"):
            expire_by_clock(store, LIMITS, later)
    assert inboxes.rows("raw_message_details")
    expire_by_clock(store, LIMITS, later, is_clock_trusted=True)
    assert inboxes.rows("raw_message_details") == []
    expire_by_clock(store, LIMITS, later + timedelta(days=1))
    assert read_first_days(store)["messages"] == (later + timedelta(days=1)).date() - timedelta(
        days=RAW_LIMIT - 1
    )


def test_clock_is_trusted_14_days_after_a_trusted_upkeep(inboxes: Inboxes) -> None:
    last = NOW + timedelta(days=14)
    expire_by_clock(inboxes.store, LIMITS, NOW)
    with pytest.raises(StoreError, match="nothing was removed"):
        expire_by_clock(inboxes.store, LIMITS, last + timedelta(seconds=1))
    assert expire_by_clock(inboxes.store, LIMITS, last)


def test_upkeeps_cannot_confirm_a_clock_that_jumps_ahead_again(inboxes: Inboxes) -> None:
    """A clock that jumps 13 days ahead is not trusted for another jump."""
    inboxes.extract_whole()
    for night in range(3):
        expire_by_clock(inboxes.store, LIMITS, NOW + timedelta(days=night))
    expire_by_clock(inboxes.store, LIMITS, NOW + timedelta(days=14))
    with pytest.raises(StoreError, match="nothing was removed"):
        expire_by_clock(inboxes.store, LIMITS, NOW + timedelta(days=27))
    expire_by_clock(inboxes.store, LIMITS, NOW + timedelta(days=3))


def test_corrected_clock_is_trusted(inboxes: Inboxes) -> None:
    store = inboxes.store
    with pytest.raises(StoreError):
        expire_by_clock(store, LIMITS, AHEAD)
    expire_by_clock(store, LIMITS, NOW + timedelta(hours=8))
    expire_by_clock(store, LIMITS, NOW + timedelta(hours=32))
    assert read_first_days(store)["messages"] == NOW.date() + timedelta(days=1) - timedelta(
        days=RAW_LIMIT - 1
    )


def test_clock_is_not_checked_without_limits(inboxes: Inboxes) -> None:
    assert expire_by_clock(inboxes.store, {}, AHEAD) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "mesages = 3",
            "retention: there is no table 'mesages'; did you mean",
        ),
        ("messages = 0", "retention: messages must be kept for 1 to 366,000 days"),
        ('messages = "a year"', "retention.messages: must be a whole number"),
        (
            "messages = 400\ncoverage = 30",
            "retention: coverage must be kept at least as long as every table",
        ),
        ("coverage = 30", "retention: coverage must be kept at least as long as every table"),
        (
            "raw_message_ids = 30\nmessages = 90",
            "retention: coverage must be kept at least as long as every table",
        ),
    ],
)
def test_wrong_limit_is_named(text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(f"[retention]\n{text}".encode())
    assert expected in str(caught.value)


def test_limits_come_from_the_configuration() -> None:
    settings = parse_settings(b"[retention]\nraw_message_details = 90\nmessages = 30\nruns = 700")
    floors = retention_starts(settings.retention.limits, date(2026, 12, 31))
    others = {table.name: date(2026, 10, 3) for table in (*RAW, *NORMALISED)}
    assert floors == others | {
        "coverage": date(2026, 10, 3),
        "account_days": date(2026, 10, 3),
        "messages": date(2026, 12, 2),
        "runs": date(2025, 1, 31),
    }
