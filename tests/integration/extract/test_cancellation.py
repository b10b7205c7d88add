"""Cancel a run with a signal: it ends soon, its ledger line says so, and nothing is lost."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import Clock
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.faults import parse_fault
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import StoppedError
from convo_pipeline.extract.run import extract
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.graph.client import Endpoint
from convo_pipeline.graph.rate_limit import SqliteLimiter
from convo_pipeline.lake.store import Store
from tests.support.inboxes import NOW, START, Inboxes, serve

WAIT_SECONDS = 60
"""How long a run waits that ignores its cancellation."""
LONG = 40


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    """Two accounts, each with a short conversation and a long one that needs a call of its own."""
    world = World(VirtualClock(NOW))
    for name, page_id, platform in (
        ("insta", "1111111111", "instagram"),
        ("mess", "2222222222", "messenger"),
    ):
        account = world.add_account(name, page_id, platform)
        account.add_conversation("Ada").add_messages(LONG, NOW - timedelta(days=2))
        account.add_conversation("Bob").add_messages(2, NOW - timedelta(days=1))
    with serve(tmp_path, world) as inboxes:
        yield inboxes


def kill_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill_this_thread() -> None:
    """The system may also deliver a signal to another thread than the main one."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def interrupt(
    inboxes: Inboxes,
    is_due: Callable[[], bool],
    kill: Callable[[], None] = kill_process,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Extract in real time, and send Ctrl-C's signal once it is due."""
    moments: list[float] = []

    def wait() -> None:
        while not is_due():
            time.sleep(0.02)
        moments.append(time.monotonic())
        kill()

    threading.Thread(target=wait, daemon=True).start()
    clock, until = Clock(now=inboxes.clock.now, sleep=sleep), NOW.date() + timedelta(days=1)
    with pytest.raises(KeyboardInterrupt):
        extract(
            inboxes.settings,
            inboxes.store,
            inboxes.names,
            START,
            until,
            environ=inboxes.environ,
            clock=clock,
        )
    assert time.monotonic() - moments[0] < WAIT_SECONDS


def check_stopped(inboxes: Inboxes, outcome: str) -> None:
    """Check the ledger lines in the state and in the lake."""
    error = "the run was stopped; the next run stores the spooled messages and continues"
    for name in inboxes.names:
        (run,) = inboxes.store.state.runs(name)
        assert (run.outcome, run.reasons, run.error) == (outcome, ("stopped",), error)
    ledger = inboxes.store.read("runs", "", NOW.date())
    assert ledger["reasons"].to_pylist() == [["stopped"]] * len(inboxes.names)


def check_healed(inboxes: Inboxes) -> None:
    """Check that the next run gets the locks and completes everything."""
    inboxes.server.injector.faults.clear()
    inboxes.extract_whole()
    for name in inboxes.names:
        assert len(inboxes.rows("messages", name)) == LONG + 2
        assert left_spools(inboxes.store.state_path, name) == []


@pytest.mark.parametrize("kill", [kill_process, kill_this_thread])
def test_a_cancelled_run_ends_in_seconds_while_responses_are_due(
    inboxes: Inboxes, kill: Callable[[], None]
) -> None:
    """The listing is in the spool, and each account waits for the messages of a conversation."""
    fault = parse_fault(f"read_timeout:{WAIT_SECONDS}")
    fault = replace(fault, kind=replace(fault.kind, kinds=("edge",)))
    inboxes.server.injector.faults[:] = [fault]
    interrupt(inboxes, lambda: fault.fired == len(inboxes.names), kill)
    check_stopped(inboxes, "incomplete")
    assert [
        len(list(left_spools(inboxes.store.state_path, name)[0].folder.glob("*.json")))
        for name in inboxes.names
    ] == [2, 2]
    check_healed(inboxes)


def test_a_cancelled_run_ends_in_seconds_while_it_waits_for_the_rate_limit(
    inboxes: Inboxes,
) -> None:
    for account in inboxes.settings.accounts:
        key = Endpoint.of(inboxes.settings, account).limit_key
        with closing(
            SqliteLimiter(inboxes.store.state.path, key, clock=Clock(now=inboxes.clock.now))
        ) as limiter:
            limiter.block(WAIT_SECONDS)
    waiting: set[int] = set()

    def sleep(seconds: float) -> None:
        waiting.add(threading.get_ident())
        time.sleep(seconds)

    interrupt(inboxes, lambda: len(waiting) == len(inboxes.names), sleep=sleep)
    check_stopped(inboxes, "failed")
    assert len(inboxes.server.log) == 0
    inboxes.clock.advance(WAIT_SECONDS + 1)
    check_healed(inboxes)


def test_a_cancellation_ends_a_sleep() -> None:
    """A sleep is divided into seconds, and a cancellation is noticed after each of them."""
    slept: list[float] = []
    cancellation = Cancellation()
    cancellation.watch(Clock(sleep=slept.append)).sleep(2.5)
    assert slept == [1.0, 1.0, 0.5]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        cancellation.cancel()

    with pytest.raises(StoppedError):
        cancellation.watch(Clock(sleep=sleep)).sleep(120)
    assert slept[3:] == [1.0]


def test_a_run_waits_for_an_account_that_another_run_works_on(inboxes: Inboxes) -> None:
    """Backfills wait; other runs report the account as busy at once."""
    waits: list[float] = []
    lock = inboxes.store.lock_account("insta")

    def end_the_other_run(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            lock.__exit__(None, None, None)

    clock = Clock(now=inboxes.clock.now, sleep=end_the_other_run)
    with closing(Store(inboxes.settings.store)) as store:
        lock.__enter__()
        outcomes = [
            extract(
                inboxes.settings,
                store,
                ["insta"],
                START,
                NOW.date(),
                wait_seconds=wait_seconds,
                environ=inboxes.environ,
                clock=clock,
            )[0].outcome
            for wait_seconds in (0.0, 2.0, 60.0)
        ]
    assert outcomes == ["busy", "busy", "complete"]
