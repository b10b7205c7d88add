"""Measure how long commands take to start, against the import of PyArrow and requests.

    python -m benchmarks.start [--rounds 5] [--check]

Each command runs in a new process, all in turns. The figures are medians of CPU and wall seconds.
`--check` exits with 1 if a command needs more than its goal, a multiple of the baseline.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import Usage, end, run_process

BASELINE = "import pyarrow, requests"
CONFIG = """
[[accounts]]
name = "bakery"
page_id = "1234567890"
platform = "instagram"
token_env = "T"
start_date = "2026-01-01"
"""
CLI = ["-m", "convo_pipeline.cli"]
STARTS: dict[str, tuple[list[str], float]] = {
    "baseline": (["-c", BASELINE], 1.0),
    "--help": ([*CLI, "--help"], 0.8),
    "import convo_pipeline": (["-c", "import convo_pipeline"], 0.4),
    "status": ([*CLI, "status"], 4.0),
    "definitions": (["-c", "import convo_pipeline.definitions"], 16.0),
}
"""The arguments of each start, and how many times the baseline it may need."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    usages: dict[str, list[Usage]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "convo.toml"
        config.write_text(f'[store]\nroot = "{folder}/lake"\n{CONFIG}')
        environ = {**os.environ, "CONVO_CONFIG": str(config), "T": "token"}
        for _ in range(arguments.rounds):
            for name, (options, _) in STARTS.items():
                command = [sys.executable, *options]
                usages[name].append(run_process(command, environ, is_quiet=True))
    medians = {name: statistics.median(each.cpu for each in usages[name]) for name in STARTS}
    misses = []
    for name, (_, goal) in STARTS.items():
        wall = statistics.median(each.wall for each in usages[name])
        ratio = medians[name] / medians["baseline"]
        print(
            f"{name:22} {medians[name]:.2f} s CPU, {wall:.2f} s wall,"
            f" {ratio:.2f} x the baseline (goal <= {goal:g})"
        )
        misses += [name] if ratio > goal else []
    end(misses, arguments.check)


if __name__ == "__main__":
    main()
