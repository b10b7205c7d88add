"""Many accounts in one run: the extract step's wall time against one account's, and against the CPU of all.

    python -m benchmarks.fleet [--accounts 50] [--conversations 200] [--latency 0.5] [--rate 1.8] [--singles 3]

All accounts answer with inboxes of the same size: every tenth conversation has 40 messages, the others 8.

- latency: `--latency` seconds an answer, `--rate` calls a second an account; goal: the fleet's wall time <= 1.5 x that
  of the slowest of `--singles` accounts run alone;
- processor: no latency, no limit; goal: the fleet's wall time <= 1.25 x the CPU seconds of all accounts run one by one.
  Where other programs use the machine too, the fleet's own CPU, shown beside it, says more than its wall time.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.bulk import cpu_seconds
from benchmarks.inbox_server import inbox_server
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings, parse_settings

MESSAGES_EACH, DEEP_MESSAGES = 8, 40
NO_LIMIT = 10_000


def settings_for(base_url: str, root: Path, count: int, calls_per_second: float) -> Settings:
    start = datetime.now(UTC).date() - timedelta(days=3)
    accounts = "".join(
        f'[[accounts]]\nname = "account-{number}"\npage_id = "{1_000_000_000 + number}"\nplatform = "messenger"\n'
        f'token_env = "T"\nstart_date = "{start}"\n'
        for number in range(count)
    )
    text = f'[graph]\nbase_url = "{base_url}"\ncalls_per_second = {calls_per_second}\n[store]\nroot = "{root}"\n'
    return parse_settings((text + accounts).encode())


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
        settings = settings_for(base_url, Path(alone), count, calls_per_second)
        names = [account.name for account in settings.accounts]
        each = [run(settings, [name]) for name in names[:singles]]
        return each, run(settings_for(base_url, Path(together), count, calls_per_second), names)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--rate", type=float, default=1.8)
    parser.add_argument("--singles", type=int, default=3)
    given = parser.parse_args()
    inbox = (given.conversations, MESSAGES_EACH, 1)
    with inbox_server(*inbox, latency_seconds=given.latency, deep_messages=DEEP_MESSAGES) as server:
        each, (wall, cpu) = measure(server.base_url, given.accounts, given.singles, given.rate)
    slowest = max(seconds for seconds, _ in each)
    print(
        f"latency: {given.accounts} accounts in {wall:.2f} s ({cpu:.2f} s CPU), one alone in {slowest:.2f} s:"
        f" {wall / slowest:.2f} x (goal <= 1.5)"
    )
    with inbox_server(*inbox, deep_messages=DEEP_MESSAGES) as server:
        each, (wall, cpu) = measure(server.base_url, given.accounts, given.accounts, NO_LIMIT)
    summed = sum(seconds for _, seconds in each)
    print(
        f"processor: {given.accounts} accounts in {wall:.2f} s ({cpu:.2f} s CPU), one by one {summed:.2f} s CPU:"
        f" {wall / summed:.2f} x by the clock (goal <= 1.25), {cpu / summed:.2f} x by CPU"
    )
    print(f"peak memory of all: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
