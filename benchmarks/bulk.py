"""Read a whole inbox: all tables of the pipeline against the simple script's one table.

    python -m benchmarks.bulk [--messages 100000] [--days 90] [--rounds 5] [--check]

Both read the same inbox over real HTTP from a server without latency or limit, each in a separate
process. The figures are medians of that process's CPU seconds with its children. The script writes
one table of seven columns and checks nothing. The pipeline writes its log, merges raw tables,
derives all others and records the run. Nine files a day cost as much as about 2,000 messages, so
the goal concerns inboxes with thousands of messages a day, such as 1,000,000 in 90 days.

`--check` exits with 1 if the pipeline needs more than the guard: what is reached must not get lost.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.inbox_server import PAGE_ID, inbox_server, settings_for
from benchmarks.processes import ROOM, end

if TYPE_CHECKING:
    from convo_pipeline.lake.store import Store
    from convo_pipeline.settings import Settings

GOAL, GUARD = 1.2, 2.2
"""Times the CPU seconds of the script: the goal, and the limit of `--check`."""
ACCOUNT = "bulk"
STEPS = ("script", "pipeline")


def run_script(base_url: str, root: Path, days: float) -> None:
    from benchmarks.simple_script import Script

    print(Script(base_url, PAGE_ID, "messenger", "token").run(root / "messages.parquet"))


def run_pipeline(base_url: str, root: Path, days: float) -> None:
    with bulk_lake(base_url, root, days) as (settings, store):
        started = cpu_seconds()
        listed = read_inbox(settings, store)
        extracted = cpu_seconds()
        derive_all(store)
    print(
        listed, f"extract {extracted - started:.2f} s, derive {cpu_seconds() - extracted:.2f} s CPU"
    )


@contextmanager
def bulk_lake(base_url: str, root: Path, days: float) -> Iterator[tuple["Settings", "Store"]]:
    """Open an empty lake with settings for the served inbox, from its first day on."""
    from convo_pipeline.lake.store import Store

    start = datetime.now(UTC).date() - timedelta(days=int(days) + 2)
    settings = settings_for(base_url, root, start, [ACCOUNT])
    with closing(Store(settings.store)) as store:
        yield settings, store


def read_inbox(settings: "Settings", store: "Store") -> int:
    """Extract the whole inbox and return the number of listed ids."""
    from convo_pipeline.extract.run import extract

    until = datetime.now(UTC).date() + timedelta(days=1)
    start = settings.accounts[0].start_date
    [report] = extract(settings, store, [ACCOUNT], start, until, environ={"T": "token"})
    assert report.outcome == "complete", report
    return report.counts["ids_listed"]


def derive_all(store: "Store") -> None:
    """Derive every day."""
    from convo_pipeline.derive.day import derive_day, stale_days

    for day in stale_days(store, ACCOUNT):
        derive_day(store, ACCOUNT, day)


def cpu_seconds() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def measure(step: str, base_url: str, days: float) -> tuple[float, float, float, str]:
    """Run a step; return CPU seconds, wall seconds, peak memory in MB and its output."""
    with tempfile.TemporaryDirectory() as root:
        started = time.monotonic()
        options = ["--step", step, "--url", base_url, "--root", root, "--days", str(days)]
        command = [sys.executable, "-m", "benchmarks.bulk", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        printed = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, printed
        return (
            usage.ru_utime + usage.ru_stime,
            time.monotonic() - started,
            usage.ru_maxrss / 1024,
            printed,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--days", type=float, default=90)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--url")
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        {"script": run_script, "pipeline": run_pipeline}[arguments.step](
            arguments.url, arguments.root, arguments.days
        )
        return
    figures: dict[str, list[tuple[float, float, float, str]]] = {step: [] for step in STEPS}
    with inbox_server(arguments.messages // 20, 20, arguments.days) as server:
        for _ in range(arguments.rounds):
            for step in STEPS:
                before = server.cpu_seconds()
                figures[step].append(measure(step, server.base_url, arguments.days))
                server_cpu = server.cpu_seconds() - before
                print(f"{step:9} {figures[step][-1]}, server {server_cpu:.2f} s CPU", flush=True)
    medians = {
        step: [statistics.median(column) for column in list(zip(*rows, strict=True))[:3]]
        for step, rows in figures.items()
    }
    for step, (cpu, wall, peak) in medians.items():
        print(
            f"{step:9} {arguments.messages:,} messages: {cpu:.2f} s CPU, {wall:.2f} s wall,"
            f" peak {peak:.0f} MB"
        )
    ratio = medians["pipeline"][0] / medians["script"][0]
    print(f"ratio     CPU {ratio:.2f} x the script (goal <= {GOAL:g}, guard <= {GUARD:g})")
    end(["pipeline"] if ratio > GUARD * ROOM else [], arguments.check)


if __name__ == "__main__":
    main()
