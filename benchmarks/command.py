"""Measure the whole command `extract` against the simple script, with and without DAGSTER_HOME.

    python -m benchmarks.command [--works idle night bulk] [--messages 100000] [--days 73]
                                 [--rounds 5] [--check]

Each contender runs in a new process, all in turns, against a server in another process without
latency or limit. The figures are medians of CPU seconds, wall seconds and peak memory.

- idle: nothing is new. One call.
- night: an empty lake and one day, 500 of 5,000 conversations with 5,000 messages.
- bulk: an empty lake and `--messages` messages of `--days` days.

`--check` exits with 1 if a contender needs more CPU than its goal, a multiple of the script. A goal
that is not reached yet has a guard instead: what is reached must not get lost.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from benchmarks.inbox_server import NO_LIMIT, PAGE_ID, inbox_server
from benchmarks.processes import ROOM, Usage, end, run_process

CONTENDERS = ("script", "direct", "recorded")
CONFIG = """
[graph]
base_url = "{url}"
calls_per_second = {limit}
[store]
root = "{root}"
[[accounts]]
name = "bulk"
page_id = "{page_id}"
platform = "messenger"
token_env = "T"
start_date = "{start}"
"""


@dataclass(frozen=True)
class Work:
    """An inbox, the days that are read, and the goals as multiples of the script's CPU seconds."""

    conversations: int
    messages_each: int
    inbox_days: float
    read_days: int
    goals: Mapping[str, float]
    guards: Mapping[str, float]
    """Multiples that `--check` uses where a goal is not reached."""
    is_idle: bool = False

    @property
    def start(self) -> date:
        return datetime.now(UTC).date() - timedelta(days=self.read_days)


def works(messages: int, days: int) -> dict[str, Work]:
    return {
        "idle": Work(
            20, 10, 10, 1, {"direct": 1.7, "recorded": 4.4}, {"recorded": 6.0}, is_idle=True
        ),
        "night": Work(5_000, 10, 10, 1, {"direct": 2.1, "recorded": 3.6}, {"recorded": 6.0}),
        "bulk": Work(
            messages // 20,
            20,
            days,
            days,
            {"direct": 1.6, "recorded": 3.3},
            {"direct": 3.6, "recorded": 6.0},
        ),
    }


def run_script(base_url: str, root: str, since: str) -> None:
    """Run the simple script in this process."""
    from benchmarks.simple_script import Script

    start = datetime.fromisoformat(since).replace(tzinfo=UTC)
    script = Script(base_url, PAGE_ID, "messenger", "token", since=start)
    Path(root).mkdir(parents=True, exist_ok=True)
    script.run(Path(root) / "messages.parquet")


def run_contender(name: str, work: Work, base_url: str, folder: Path) -> Usage:
    """Run one contender; an idle one has read everything before."""
    root, home, config = folder / name, folder / "home", folder / "convo.toml"
    environ = {**os.environ, "T": "token"}
    environ.pop("DAGSTER_HOME", None)
    if name == "script":
        since = datetime.now(UTC).date() if work.is_idle else work.start
        options = ["-m", "benchmarks.command", "--script", base_url, str(root), str(since)]
    else:
        config.write_text(
            CONFIG.format(
                url=base_url, limit=NO_LIMIT, root=root, page_id=PAGE_ID, start=work.start
            )
        )
        if name == "recorded":
            home.mkdir(exist_ok=True)
            environ["DAGSTER_HOME"] = str(home)
        options = ["-m", "convo_pipeline.cli", "--config", str(config), "extract"]
        options += [] if work.is_idle else ["--since", str(work.start)]
    command = [sys.executable, *options]
    if work.is_idle and name != "script":
        run_process(command, environ, is_quiet=True)
    usage = run_process(command, environ, is_quiet=True)
    assert usage.exit_code == 0, command
    return usage


def measure(name: str, work: Work, rounds: int) -> list[str]:
    """Run all contenders in turns, print the medians, and return those beyond their goal."""
    usages: dict[str, list[Usage]] = {contender: [] for contender in CONTENDERS}
    with inbox_server(work.conversations, work.messages_each, work.inbox_days) as server:
        for _ in range(rounds):
            for contender in CONTENDERS:
                with tempfile.TemporaryDirectory() as folder:
                    usage = run_contender(contender, work, server.base_url, Path(folder))
                usages[contender].append(usage)
    script = statistics.median(usage.cpu for usage in usages["script"])
    misses = []
    for contender in CONTENDERS:
        cpu, wall, peak = (
            statistics.median(getattr(usage, part) for usage in usages[contender])
            for part in ("cpu", "wall", "peak_mb")
        )
        goal = work.goals.get(contender)
        note = f" (goal <= {goal:g})" if goal else ""
        print(
            f"{name:6} {contender:9} {cpu:6.2f} s CPU, {wall:6.2f} s wall, {peak:4.0f} MB,"
            f" {cpu / script:.2f} x the script{note}",
            flush=True,
        )
        limit = work.guards.get(contender, goal)
        if limit and cpu / script > limit * ROOM:
            misses.append(f"{name} {contender}")
    return misses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--works", nargs="+", default=["idle", "night", "bulk"])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=73)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--script", nargs=3, metavar=("URL", "ROOT", "SINCE"))
    arguments = parser.parse_args()
    if arguments.script:
        run_script(*arguments.script)
        return
    all_works = works(arguments.messages, arguments.days)
    misses = [
        miss
        for name in arguments.works
        for miss in measure(name, all_works[name], arguments.rounds)
    ]
    end(misses, arguments.check)


if __name__ == "__main__":
    main()
