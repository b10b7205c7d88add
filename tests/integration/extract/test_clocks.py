"""Wrong clocks of the server and of the machine: no message is lost or filed under a wrong day."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.status import read_status
from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.run import AccountReport, extract
from tests.support.inboxes import NOW, START, Inboxes, serve, small_world

SKEWS = {
    "61 s": 61, "10 min": 600, "25 h": 90_000, "1 d": 86_400, "30 d": 30 * 86_400,
    "3 y": 3 * 365 * 86_400, "10 y": 10 * 365 * 86_400,
}  # fmt: skip
SIGNED = [seconds * sign for seconds in SKEWS.values() for sign in (1, -1)]
PATTERNS = {
    "first answer": {"times": 1},
    "second answer": {"times": 1, "after_calls": 1},
    "fourth answer": {"times": 1, "after_calls": 3},
    "every answer": {"times": 10_000},
    "half of the answers": {"times": 10_000, "probability": 0.5},
}


def skewed(seconds: int, pattern: str) -> Fault:
    return make_fault("clock_skew", str(seconds), **PATTERNS[pattern])


def dated(text: str) -> Fault:
    """A fault that sends this text as the Date header."""

    def content(context: FaultContext, content: bytes, headers: dict[str, str]) -> bytes:
        headers["Date"] = text
        return content

    return Fault(FaultKind("dated", "B15", "another Date", content=content))


def busy_inbox() -> World:
    """Conversations of many days, some of them longer than a page, in one account."""
    world = small_world()
    account = world.accounts["insta"]
    for number in range(45):
        hours = 2 + 4 * number
        count = 30 if number % 20 == 0 else 3
        account.add_conversation(f"C {number}").add_messages(
            count, NOW - timedelta(hours=hours), 60.0
        )
    return world


def add_news(inboxes: Inboxes, count: int) -> None:
    """Let an hour pass in which some old conversations and a new one get messages."""
    inboxes.clock.advance(3_000)
    account = inboxes.world.accounts["insta"]
    conversations = list(account.conversations.values())
    for conversation in conversations[::7]:
        for index in range(count):
            conversation.add_message(f"news {index}")
    account.add_conversation().add_message("a new customer")
    inboxes.clock.advance(600)


def run(
    inboxes: Inboxes,
    *faults: Fault,
    mode: str = "window",
    machine_seconds: float = 0,
    until: date | None = None,
    now: Callable[[], datetime] | None = None,
) -> AccountReport:
    """Run once with faults; what is `complete` must be stored."""
    inboxes.server.set_faults(*faults)
    ahead = timedelta(seconds=machine_seconds)
    clock = Clock(now=now or (lambda: inboxes.clock.now() + ahead), sleep=lambda seconds: None)
    [report] = extract(
        inboxes.settings,
        inboxes.store,
        ["insta"],
        START,
        until or inboxes.clock.now().date() + timedelta(days=1),
        mode=mode,  # type: ignore[arg-type]
        environ=inboxes.environ,
        clock=clock,
    )
    assert report.outcome in ("complete", "incomplete"), report
    assert set(report.reasons) <= {"clock"}, report
    if report.outcome == "complete":
        assert missing(inboxes) == set()
    return report


def expected(inboxes: Inboxes) -> dict[str, date]:
    """The day of each message from START on, by its id."""
    messages = (
        message
        for conversation in inboxes.world.accounts["insta"].conversations.values()
        for message in conversation.messages
    )
    days = {message.message_id: from_us_date(message.created_us) for message in messages}
    return {key: day for key, day in days.items() if day >= START}


def from_us_date(time_us: int) -> date:
    return datetime.fromtimestamp(time_us / 1e6, UTC).date()


def missing(inboxes: Inboxes) -> set[object]:
    """Messages that are not stored on the day on which they were sent."""
    stored = {(row["message_id"], row["date"]) for row in inboxes.rows("raw_message_ids", "insta")}
    return set(expected(inboxes).items()) - stored


def check_all_stored(inboxes: Inboxes) -> None:
    assert missing(inboxes) == set()
    assert len(inboxes.rows("raw_message_ids", "insta")) == len(expected(inboxes))


@pytest.mark.parametrize(
    ("seconds", "pattern"),
    [
        *((seconds, "every answer") for seconds in (61, 600, -90_000, 315_360_000)),
        *((86_400, pattern) for pattern in PATTERNS),
        *((-2_592_000, pattern) for pattern in PATTERNS),
    ],
)
def test_wrong_server_clock_loses_nothing(tmp_path: Path, seconds: int, pattern: str) -> None:
    """The first run, a later one and a night are wrong; the next ordinary run has everything."""
    check_server_clock(tmp_path, seconds, pattern)


@pytest.mark.hunt
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seconds", SIGNED)
def test_no_server_clock_of_many_loses_a_message(
    tmp_path: Path, seconds: int, pattern: str
) -> None:
    check_server_clock(tmp_path, seconds, pattern)


def check_server_clock(tmp_path: Path, seconds: int, pattern: str) -> None:
    with serve(tmp_path, busy_inbox()) as inboxes:
        first = run(inboxes, skewed(seconds, pattern))
        add_news(inboxes, 2)
        run(inboxes, skewed(seconds, pattern))
        add_news(inboxes, 1)
        night = run(inboxes, skewed(seconds, pattern), mode="nightly")
        check_all_stored(inboxes)
        add_news(inboxes, 1)
        last = run(inboxes)
        assert last.outcome == "complete"
        check_all_stored(inboxes)
        if abs(seconds) < 86_400:
            assert first.reasons + night.reasons == ()
            # the first answer comes before the listing: its time decides nothing
            is_told = abs(seconds) >= 300 and pattern != "first answer"
            assert bool(first.report["clocks"]) == is_told
        elif pattern == "every answer":
            assert first.reasons == night.reasons == ("clock",)
        full = run(inboxes, mode="full")
        assert (full.outcome, full.missed) == ("complete", 0)


@pytest.mark.parametrize("has_history", [True, False])
@pytest.mark.parametrize("seconds", [600, -600, 90_000, -90_000, 94_608_000, -315_360_000])
def test_wrong_machine_clock_loses_nothing(tmp_path: Path, seconds: int, has_history: bool) -> None:
    with serve(tmp_path, busy_inbox()) as inboxes:
        if has_history:
            run(inboxes)
            add_news(inboxes, 1)
        run(inboxes, machine_seconds=seconds)
        check_all_stored(inboxes)
        add_news(inboxes, 2)
        run(inboxes, machine_seconds=seconds, mode="nightly")
        check_all_stored(inboxes)
        add_news(inboxes, 1)
        assert run(inboxes).outcome == "complete"
        check_all_stored(inboxes)


@pytest.mark.parametrize("seconds", [600, -600, 3_600, -7_200])
def test_a_clock_minutes_off_is_a_note_and_every_night_is_complete(
    tmp_path: Path, seconds: int
) -> None:
    """The last day is over by both clocks, so it counts as complete. The position moves."""
    with serve(tmp_path, busy_inbox()) as inboxes:
        for _ in range(3):
            report = run(inboxes, machine_seconds=seconds, mode="nightly")
            assert (report.outcome, report.reasons, report.error) == ("complete", (), None)
            assert "this machine's clock is" in str(report.report["clocks"])
            coverage = inboxes.store.state.memory("insta")["coverage"]
            age = inboxes.clock.now().timestamp() - coverage["t0_us"] / 1e6  # type: ignore[index]
            assert 0 <= age <= 2 * 3_600
            add_news(inboxes, 1)
        [status] = read_status(inboxes.settings, ["insta"], inboxes.clock.now()).accounts
        assert "no message can be lost" in status.note
        assert "clock" not in "".join(status.attention)


@pytest.mark.parametrize("seconds", [90_000, -90_000])
def test_a_jump_of_the_machine_clock_inside_a_run_loses_nothing(
    tmp_path: Path, seconds: int
) -> None:
    check_jump(tmp_path, seconds, 4)


@pytest.mark.hunt
@pytest.mark.parametrize("seconds", SIGNED)
@pytest.mark.parametrize("reads", range(1, 7))
def test_no_jump_of_the_machine_clock_of_many_loses_a_message(
    tmp_path: Path, seconds: int, reads: int
) -> None:
    check_jump(tmp_path, seconds, reads)


def check_jump(tmp_path: Path, seconds: int, reads: int) -> None:
    """The clock jumps after some reads of each run and jumps back before the last run."""
    with serve(tmp_path, busy_inbox()) as inboxes:
        run(inboxes)
        for mode in ("window", "nightly", "capture"):
            add_news(inboxes, 2)
            read_count = itertools.count()

            def now(read_count: Iterator[int] = read_count) -> datetime:
                has_jumped = next(read_count) >= reads
                return inboxes.clock.now() + timedelta(seconds=seconds * has_jumped)

            run(inboxes, mode=mode, now=now)
            assert next(read_count) > reads
            check_all_stored(inboxes)
        add_news(inboxes, 1)
        assert run(inboxes).outcome == "complete"
        check_all_stored(inboxes)


@pytest.mark.parametrize("seconds", [600, -600])
def test_a_day_that_is_over_by_one_clock_only_is_not_complete(tmp_path: Path, seconds: int) -> None:
    with serve(tmp_path, busy_inbox()) as inboxes:
        midnight = datetime(2026, 3, 11, tzinfo=UTC)
        inboxes.clock.advance((midnight - inboxes.clock.now()).total_seconds() - seconds / 2)
        report = run(inboxes, machine_seconds=seconds, until=date(2026, 3, 11))
        assert (report.outcome, report.reasons) == ("incomplete", ("clock",))
        inboxes.clock.advance(3_600)
        report = run(inboxes, machine_seconds=seconds, until=date(2026, 3, 11))
        assert report.outcome == "complete"
        check_all_stored(inboxes)


def test_an_empty_inbox_with_a_clock_minutes_off_is_complete(tmp_path: Path) -> None:
    """Nothing shows the time, so no position is saved. The first message is stored."""
    world = World()
    account = world.add_account("insta", "1234567890", "instagram")
    with serve(tmp_path, world) as inboxes:
        for seconds in (7_200, 3_600):
            report = run(inboxes, skewed(seconds, "every answer"), machine_seconds=seconds + 600)
            assert (report.outcome, report.reasons) == ("complete", ())
        account.add_conversation().add_message("the first one")
        inboxes.clock.advance(600)
        assert run(inboxes).outcome == "complete"
        check_all_stored(inboxes)


@pytest.mark.parametrize(
    ("text", "machine_seconds"),
    [
        *(("", seconds) for seconds in (0, 3_600, -3_600, 90_000, -90_000)),
        ("Fri, 31 Dec 9999 23:59:59 -1200", 0),
        ("9" * 400, 90_000),
    ],
)
def test_unreadable_date_loses_nothing(tmp_path: Path, text: str, machine_seconds: int) -> None:
    with serve(tmp_path, busy_inbox()) as inboxes:
        for _ in range(3):
            run(inboxes, dated(text), machine_seconds=machine_seconds)
            check_all_stored(inboxes)
            add_news(inboxes, 2)
        assert run(inboxes).outcome == "complete"
        check_all_stored(inboxes)


def test_two_dates_lose_nothing(tmp_path: Path) -> None:
    text = "Tue, 10 Mar 2026 12:00:00 GMT, Fri, 10 Mar 2036 12:00:00 GMT"
    with serve(tmp_path, busy_inbox()) as inboxes:
        run(inboxes, dated(text))
        add_news(inboxes, 2)
        assert run(inboxes).outcome == "complete"
        check_all_stored(inboxes)


def test_both_clocks_ahead_lose_nothing_once_they_are_right(tmp_path: Path) -> None:
    """Server and machine agree on a wrong time: the position is in the future afterwards."""
    with serve(tmp_path, busy_inbox()) as inboxes:
        run(inboxes, skewed(864_000, "every answer"), machine_seconds=864_000)
        add_news(inboxes, 2)
        assert run(inboxes).outcome == "complete"
        check_all_stored(inboxes)


def test_a_dispute_names_the_clocks_and_moves_no_position(tmp_path: Path) -> None:
    with serve(tmp_path, busy_inbox()) as inboxes:
        run(inboxes)
        before = inboxes.store.state.memory("insta")["coverage"]
        add_news(inboxes, 1)
        report = run(inboxes, skewed(90_000, "every answer"), mode="capture")
        assert report.reasons == ("clock",)
        assert "the server's clock is 2026-03-11" in str(report.error)
        assert "this machine's clock is 2026-03-10" in str(report.error)
        after = inboxes.store.state.memory("insta")["coverage"]
        assert before["t0_us"] <= after["t0_us"] <= inboxes.clock.now().timestamp() * 1e6  # type: ignore[index]


def test_messages_before_the_start_are_counted(tmp_path: Path) -> None:
    world = small_world()
    account = world.accounts["insta"]
    conversation = account.add_conversation()
    conversation.add_messages(5, datetime(2026, 2, 27, 12, tzinfo=UTC), 60.0)
    conversation.add_messages(3, NOW - timedelta(hours=2), 60.0)
    with serve(tmp_path, world) as inboxes:
        report = run(inboxes)
        assert report.counts["before_start_date"] == 5
        assert len(inboxes.rows("raw_message_ids", "insta")) == 3
