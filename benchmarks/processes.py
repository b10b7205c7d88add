"""Run a command in a new process and measure its CPU seconds, wall seconds and memory."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ROOM = 1.25
"""Noise that `--check` allows above a goal."""


@dataclass(frozen=True)
class Usage:
    """CPU and wall seconds of a process with its children, its peak memory and exit code."""

    cpu: float
    wall: float
    peak_mb: float
    exit_code: int


def run_process(
    command: Sequence[str], environ: Mapping[str, str], is_quiet: bool = False
) -> Usage:
    """Run a command to its end, without its output if quiet, and return what it used."""
    output = subprocess.DEVNULL if is_quiet else None
    started = time.monotonic()
    process = subprocess.Popen(command, env=dict(environ), stdout=output, stderr=output)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        usage.ru_utime + usage.ru_stime,
        time.monotonic() - started,
        usage.ru_maxrss / 1024,
        process.returncode,
    )


def end(misses: Sequence[str], is_checked: bool) -> None:
    """Print the figures beyond their goal; exit with 1 if there are any and `--check` is given."""
    if misses:
        print(f"beyond the goal: {', '.join(misses)}")
    sys.exit(1 if misses and is_checked else 0)
