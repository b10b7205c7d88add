"""Time many accounts in one run, against one account alone and against the CPU seconds of all.

    python -m benchmarks.fleet [--accounts 50] [--conversations 200] [--latency 0.5] [--rate 1.8]
                               [--singles 3] [--check]

All inboxes have the same size: every tenth conversation has 40 messages, the others have 8.

- latency: `--latency` seconds for a response, `--rate` calls a second and account. Goal: the wall
  time of all is at most 1.5 times that of the slowest of `--singles` accounts alone.
- processor: no latency, no limit. Goal: the wall time of all is at most 1.25 times the CPU seconds
  of all accounts one after the other. On a busy machine compare the CPU seconds instead.

`--check` exits with 1 if the wall time with latency, the CPU seconds without or the memory exceed
their goal.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.bulk import cpu_seconds
from benchmarks.inbox_server import NO_LIMIT, inbox_server, settings_for
from benchmarks.processes import ROOM, end
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings

GOAL_MB = 600
MESSAGES_EACH, DEEP_MESSAGES = 8, 40


def fleet_settings(base_url: str, root: str, count: int, calls_per_second: float) -> Settings:
    start = datetime.now(UTC).date() - timedelta(days=3)
    names = [f"account-{number}" for number in range(count)]
    return settings_for(base_url, Path(root), start, names, calls_per_second=calls_per_second)


def run(settings: Settings, names: Sequence[str]) -> tuple[float, float]:
    """Extract these accounts in one run; return wall and CPU seconds."""
    today = datetime.now(UTC).date()
    store = Store(settings.store)
    wall, cpu = time.perf_counter(), cpu_seconds()
    since, until = today - timedelta(days=3), today + timedelta(days=1)
    reports = extract(settings, store, names, since, until, mode="nightly", environ={"T": "token"})
    seconds = time.perf_counter() - wall, cpu_seconds() - cpu
    assert {report.outcome for report in reports} == {"complete"}, reports
    store.close()
    return seconds


def measure(
    base_url: str, count: int, singles: int, calls_per_second: float
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Return (wall, CPU) seconds of accounts run alone, and of all in one run into another lake."""
    with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as together:
        settings = fleet_settings(base_url, alone, count, calls_per_second)
        names = [account.name for account in settings.accounts]
        single_runs = [run(settings, [name]) for name in names[:singles]]
        settings = fleet_settings(base_url, together, count, calls_per_second)
        return single_runs, run(settings, names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=1.8)
    parser.add_argument("--singles", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    inbox = (arguments.conversations, MESSAGES_EACH, 1)
    with inbox_server(
        *inbox, latency_seconds=arguments.latency, deep_messages=DEEP_MESSAGES
    ) as server:
        single_runs, (wall, cpu) = measure(
            server.base_url, arguments.accounts, arguments.singles, arguments.rate
        )
    misses = []
    slowest = max(seconds for seconds, _ in single_runs)
    misses += ["latency"] if wall / slowest > 1.5 * ROOM else []
    print(
        f"latency: {arguments.accounts} accounts in {wall:.2f} s ({cpu:.2f} s CPU),"
        f" one alone in {slowest:.2f} s:"
        f" {wall / slowest:.2f} x (goal <= 1.5)"
    )
    with inbox_server(*inbox, deep_messages=DEEP_MESSAGES) as server:
        single_runs, (wall, cpu) = measure(
            server.base_url, arguments.accounts, arguments.accounts, NO_LIMIT
        )
    summed = sum(seconds for _, seconds in single_runs)
    print(
        f"processor: {arguments.accounts} accounts in {wall:.2f} s ({cpu:.2f} s CPU),"
        f" one by one {summed:.2f} s CPU:"
        f" {wall / summed:.2f} x wall (goal <= 1.25), {cpu / summed:.2f} x CPU"
    )
    misses += ["processor"] if cpu / summed > 1.25 * ROOM else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of all: {peak:.0f} MB (goal <= {GOAL_MB} MB)")
    end([*misses, *(["memory"] if peak > GOAL_MB else [])], arguments.check)


if __name__ == "__main__":
    main()
