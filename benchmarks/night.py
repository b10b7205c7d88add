"""Time a night's extract step, against the rate limit and against the simple script with latency.

    python -m benchmarks.night [--conversations 500] [--messages-each 8] [--rate 10]
                               [--latency 0.5] [--rounds 3]

Every tenth conversation has 40 messages, more than the 20 that a listing contains.

- limit: no latency, `--rate` calls a second instead of 1.8. Goal: at most 1.15 times calls / rate.
- latency: `--latency` seconds for a response and no limit, in turns with the script. Goal: faster
  than the script.
- start-up: the interpreter and Dagster, which both start before the step.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.inbox_server import NO_LIMIT, PAGE_ID, inbox_server, settings_for
from benchmarks.simple_script import Script
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.store import Store

DEEP_MESSAGES = 40
STARTS = {
    "interpreter": "pass",
    "interpreter and the extract step": "import convo_pipeline.extract.run",
    "interpreter and Dagster's definitions": "import convo_pipeline.definitions",
}


def run_extract(base_url: str, calls_per_second: float) -> tuple[float, int]:
    """Return wall seconds of the extract step, and its number of calls."""
    today = datetime.now(UTC).date()
    with tempfile.TemporaryDirectory() as folder:
        since, until = today - timedelta(days=3), today + timedelta(days=1)
        settings = settings_for(
            base_url, Path(folder), since, ["night"], calls_per_second=calls_per_second
        )
        store = Store(settings.store)
        started = time.perf_counter()
        [report] = extract(
            settings, store, ["night"], since, until, mode="nightly", environ={"T": "token"}
        )
        seconds = time.perf_counter() - started
        assert report.outcome == "complete", report
        store.close()
        return seconds, sum(report.calls.values())


def run_script(base_url: str) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as folder:
        script = Script(base_url, PAGE_ID, "messenger", "token")
        started = time.perf_counter()
        script.run(Path(folder) / "messages.parquet")
        return time.perf_counter() - started, script.calls


def median(runs: list[tuple[float, int]]) -> tuple[float, int]:
    """Return the median of the seconds, and the number of calls, the same in all runs."""
    [calls] = {calls for _, calls in runs}
    return statistics.median(seconds for seconds, _ in runs), calls


def show_limit(base_url: str, rate: float, rounds: int) -> None:
    seconds, calls = median([run_extract(base_url, rate) for _ in range(rounds)])
    ratio = seconds * rate / calls
    print(
        f"limit: {calls} calls at {rate:g} a second in {seconds:.2f} s,"
        f" {ratio:.3f} x calls / rate (goal <= 1.15)"
    )


def show_latency(base_url: str, latency_seconds: float, rounds: int) -> None:
    contenders: dict[str, Callable[[], tuple[float, int]]] = {
        "script": lambda: run_script(base_url),
        "extract": lambda: run_extract(base_url, NO_LIMIT),
    }
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            runs[name].append(run())
    (script, script_calls), (seconds, calls) = (median(runs[name]) for name in contenders)
    print(
        f"latency: {calls} calls of {latency_seconds:g} s in {seconds:.2f} s,"
        f" the script {script_calls} in {script:.2f} s:"
        f" {script / seconds:.2f} x as fast (goal > 1)"
    )


def show_starts() -> None:
    for name, code in STARTS.items():
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"start-up: {name} {seconds:.2f} s ({cpu:.2f} s CPU)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--messages-each", type=int, default=8)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    inbox = (arguments.conversations, arguments.messages_each, 1)
    with inbox_server(*inbox, deep_messages=DEEP_MESSAGES) as server:
        show_limit(server.base_url, arguments.rate, arguments.rounds)
    with inbox_server(
        *inbox, latency_seconds=arguments.latency, deep_messages=DEEP_MESSAGES
    ) as server:
        show_latency(server.base_url, arguments.latency, arguments.rounds)
    show_starts()


if __name__ == "__main__":
    main()
