"""The shared rate limit: as a pure table, with real processes, and at the wall."""

import multiprocessing
import sqlite3
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import BudgetError, StoreError, ThrottledError
from convo_pipeline.graph.rate_limit import (
    CallBudget,
    Delay,
    LimiterState,
    LimitKey,
    LimitRows,
    LimitTimes,
    SqliteLimiter,
    next_step,
)

KEY = LimitKey("graph.facebook.com", "17", "instagram")
GAP = 1 / 1.8


class Time:
    """A clock that passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds

    def clock(self) -> Clock:
        start = datetime(2026, 2, 19, tzinfo=UTC)
        return Clock(
            lambda: start + timedelta(seconds=self.seconds), lambda: self.seconds, self.sleep
        )


def stamp_calls(
    path: Path, key: LimitKey, until: float, results: "multiprocessing.Queue[list[float]]"
) -> None:
    limiter = SqliteLimiter(path, key)
    stamps = []
    while not stamps or time.monotonic() < until:
        limiter.acquire()
        stamps.append(time.monotonic())
    results.put(stamps)


def run_processes(
    path: Path, count: int, seconds: float, method: str = "spawn", *, kill_one: bool = False
) -> list[float]:
    context: Any = multiprocessing.get_context(method)
    results: multiprocessing.Queue[list[float]] = context.Queue()
    until = time.monotonic() + seconds
    workers = [
        context.Process(target=stamp_calls, args=(path, KEY, until, results)) for _ in range(count)
    ]
    victim = context.Process(target=stamp_calls, args=(path, KEY, until, context.Queue()))
    for worker in [*workers, victim] if kill_one else workers:
        worker.start()
    if kill_one:
        time.sleep(seconds / 3)
        victim.kill()
        victim.join()
    stamps = sorted(stamp for _ in workers for stamp in results.get(timeout=seconds + 60))
    for worker in workers:
        worker.join()
    return stamps


def crowded_windows(stamps: list[float]) -> int:
    return sum(third - first <= 1.0 for first, third in zip(stamps, stamps[2:], strict=False))


def test_c22_four_processes_never_send_three_calls_in_a_second(
    tmp_path: Path,
) -> None:
    """Forked processes start at once, so they meet at the first slots."""
    stamps = run_processes(tmp_path / "state.db", 4, 0.6, "fork")
    assert crowded_windows(stamps) == 0
    assert len(stamps) >= 4


def test_c22_four_limiters_waste_no_slot(tmp_path: Path) -> None:
    now = Time()
    limiters = [SqliteLimiter(tmp_path / "s.db", KEY, clock=now.clock()) for _ in range(4)]
    start = now.seconds
    for number in range(40):
        limiters[number % 4].acquire()
    assert now.seconds - start == pytest.approx(39 * GAP)


@pytest.mark.hunt
@pytest.mark.timeout(900)
def test_rate_holds_for_long_and_after_a_kill(tmp_path: Path, long_run: bool) -> None:
    stamps = run_processes(tmp_path / "state.db", 4, 600 if long_run else 60, kill_one=True)
    assert crowded_windows(stamps) == 0
    assert (len(stamps) - 1) / (stamps[-1] - stamps[0]) >= 1.75
    assert max(later - earlier for earlier, later in pairwise(stamps)) < 2.5


def test_first_call_does_not_wait(tmp_path: Path) -> None:
    now = Time()
    limiter = SqliteLimiter(tmp_path / "s.db", KEY, clock=now.clock())
    for _ in range(4):
        limiter.acquire()
    assert now.sleeps == pytest.approx([GAP] * 3)


@pytest.mark.parametrize(
    ("slots", "monotonic", "unix", "expected"),
    [
        (LimiterState(), 100.0, 5.0, LimiterState(100.0 + GAP, 100.0, -1e9)),
        (
            LimiterState(next_slot=100.3, last_sent=99.8),
            100.0,
            5.0,
            Delay(pytest.approx(0.3), False),
        ),
        (
            LimiterState(next_slot=100.0, last_sent=99.9, sent_before=99.5),
            100.0,
            5.0,
            Delay(pytest.approx(99.5 + 1.95 * GAP - 100), False),
        ),
        (LimiterState(blocked_until=65.0), 100.0, 5.0, Delay(60.0, True)),
        (
            LimiterState(next_slot=9000.0, last_sent=8999.0),
            100.0,
            5.0,
            LimiterState(100.0 + GAP, 100.0, -1e9),
        ),
        (
            LimiterState(blocked_until=5.0 + 90_000),
            100.0,
            5.0,
            LimiterState(100.0 + GAP, 100.0, -1e9, 5.0 + 90_000),
        ),
        (
            LimiterState(100.0, 99.0, 98.0, 0.0, 60.0, 4.0),
            100.0,
            5.0,
            LimiterState(100.0 + 4 * GAP, 100.0, 99.0, 0.0, 60.0, 4.0),
        ),
        (LimiterState(99.85, 99.0, 98.0), 100.0, 5.0, LimiterState(99.85 + GAP, 100.0, 99.0)),
        (LimiterState(99.5, 99.0, 98.0), 100.0, 5.0, LimiterState(100.0 + GAP, 100.0, 99.0)),
        (
            LimiterState(100.0, 99.0, 98.0, 0.0, 4.0, 4.0),
            100.0,
            5.0,
            LimiterState(100.0 + GAP, 100.0, 99.0, 0.0, 4.0, 4.0),
        ),
    ],
)
def test_next_step(
    slots: LimiterState, monotonic: float, unix: float, expected: LimiterState | Delay
) -> None:
    found = next_step(slots, monotonic, unix, GAP)
    if isinstance(expected, Delay):
        assert found == expected
    else:
        assert isinstance(found, LimiterState)
        assert vars(found) == pytest.approx(vars(expected))


def test_delayed_caller_moves_its_stamp(tmp_path: Path) -> None:
    now = Time()
    readings = iter([0.0, 0.3, 0.3, 0.31])  # at the stamp, when it returns, twice when it moves

    def monotonic() -> float:
        return now.seconds + next(readings, 0.31)

    held_up = SqliteLimiter(
        tmp_path / "s.db", KEY, clock=replace(now.clock(), monotonic_seconds=monotonic)
    )
    held_up.acquire()
    connection = sqlite3.connect(tmp_path / "s.db")
    assert connection.execute("SELECT last_sent FROM rate_limits").fetchall() == [(1000.3,)]
    connection.close()


def test_call_that_leaves_late_moves_its_stamp(tmp_path: Path) -> None:
    """A new connection with TLS takes 0.3 s here."""
    now = Time()
    limiter = SqliteLimiter(tmp_path / "s.db", KEY, clock=now.clock())
    stamps = []
    for number in range(60):
        limiter.acquire()
        now.seconds += 0.3 if number % 7 == 0 else 0.0
        limiter.correct()
        stamps.append(now.seconds)
    assert crowded_windows(stamps) == 0


class FarLimiter(SqliteLimiter):
    """A limiter whose clock is on another machine: each reading of it takes another time."""

    def __init__(self, path: Path, time: Time, trips: Random) -> None:
        super().__init__(path, KEY, clock=time.clock())
        self._time, self._trips = time, trips

    def _read_times(self, rows: LimitRows, state: LimiterState | None = None) -> LimitTimes:
        there, back = self._trips.choice([(0.0, 0.0), (0.0, 0.2), (0.2, 0.0), (0.03, 0.03)])
        self._time.seconds += there
        read = self._time.seconds
        self._time.seconds += back
        monotonic = max(read, state.last_sent) if state else read
        return LimitTimes(monotonic, read, self._time.seconds, there + back)


def test_slow_clock_of_another_machine_lets_no_three_calls_into_a_second(tmp_path: Path) -> None:
    time = Time()
    limiter = FarLimiter(tmp_path / "limits.db", time, Random(7))
    stamps = []
    for _ in range(300):
        limiter.acquire()
        stamps.append(time.seconds)
    assert crowded_windows(stamps) == 0
    assert stamps[-1] - stamps[0] < 300 * GAP * 1.3


def test_a16_block_stops_all_processes_and_both_platforms(tmp_path: Path) -> None:
    now = Time()
    mine = SqliteLimiter(tmp_path / "s.db", KEY, clock=now.clock())
    sibling = SqliteLimiter(
        tmp_path / "s.db", KEY._replace(platform="messenger"), clock=now.clock()
    )
    other = SqliteLimiter(tmp_path / "s.db", KEY._replace(page_id="18"), clock=now.clock())
    mine.block(30)
    assert other.acquire() == 0.0
    assert sibling.acquire() == pytest.approx(30)
    assert mine.acquire() == 0.0


def test_long_block_is_raised_with_its_end(tmp_path: Path) -> None:
    now = Time()
    limiter = SqliteLimiter(tmp_path / "s.db", KEY, clock=now.clock())
    limiter.block(600)
    limiter.block(5)  # never shortens
    with pytest.raises(ThrottledError) as caught:
        limiter.acquire()
    assert now.sleeps == []
    assert caught.value.resume_at == datetime(2026, 2, 19, tzinfo=UTC) + timedelta(seconds=1600)


def test_a19_high_usage_slows_calls_down(tmp_path: Path) -> None:
    now = Time()
    limiter = SqliteLimiter(tmp_path / "s.db", KEY, clock=now.clock())

    def pace() -> float:
        limiter.acquire()
        limiter.acquire()
        start = now.seconds
        limiter.acquire()
        return now.seconds - start

    normal = pace()
    limiter.slow_down(96)
    slow = pace()
    limiter.slow_down(10)
    limiter.acquire()
    assert normal <= GAP * 1.91
    assert slow == pytest.approx(8 * GAP)
    assert pace() <= GAP * 1.91


def test_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match=r"s\.db"):
        SqliteLimiter(tmp_path / "s.db", KEY).acquire()


def test_limiter_shares_the_state_file(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("CREATE TABLE runs (x)")
    limiter = SqliteLimiter(tmp_path / "s.db", KEY)
    limiter.acquire()
    limiter.close()
    connection = sqlite3.connect(tmp_path / "s.db")
    names = {
        row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    connection.close()
    assert names == {"runs", "rate_limits"}


def test_call_budget_counts_down() -> None:
    budget = CallBudget(2)
    budget.spend()
    assert budget.remaining == 1
    budget.spend()
    with pytest.raises(BudgetError):
        budget.spend()
