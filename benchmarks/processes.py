"""Run a command in a new process and measure its CPU seconds, wall seconds and memory."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
