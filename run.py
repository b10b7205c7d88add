#!/usr/bin/env python3
"""Create the environment and run a command in it. Needs Python 3.11 or newer and nothing else.

    python3 run.py demo [--ui]     fetch two invented inboxes and query their tables
    python3 run.py test [args]     check format, lint, types and fast tests; args go to pytest
    python3 run.py COMMAND [args]  run any other command of convo-pipeline

The environment is .venv beside this file. It is created once, and again if a lock file changes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
RUN_LOCK = ROOT / "requirements.lock"
TEST_LOCK = ROOT / "requirements-dev.lock"
OLDEST_PYTHON = (3, 11)
MEMORY, MEMORY_NEEDED = Path("/dev/shm"), 2 * 2**30
FOREIGN_VARIABLES = ("PYTHONHOME", "PIP_USER", "PYTHONDONTWRITEBYTECODE")
FAST = "not slow and not hunt and not browser"
CHECKS = (
    ("format", ("ruff", "format", "--check", ".")),
    ("lint", ("ruff", "check", ".")),
    ("types", ("mypy",)),
    ("tests", ("pytest", "-n", "4", "--dist", "loadfile", "--no-loadscope-reorder", "-m", FAST)),
)
"""Four workers on two cores: tests spend half of their time waiting for servers and disks."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:3]))
        return fail(
            f"Python 3.11 or newer is needed; this is {version}. "
            f"Try: python3.12 run.py {' '.join(arguments)}"
        )
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        if arguments[0] == "test":
            prepare(TEST_LOCK)
            return test(arguments[1:])
        prepare(RUN_LOCK)
        return exec_command([str(SCRIPTS / "convo-pipeline"), *arguments])
    except SetupError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return 130


def fail(text: str) -> int:
    print(f"run.py: {text}", file=sys.stderr)
    return 2


class SetupError(Exception):
    """The environment cannot be created; the text says what to do."""


def prepare(lock: Path) -> None:
    """Install what `lock` names into .venv, unless it is installed already."""
    if is_prepared(lock):
        return
    say(f"installing {lock.name} into {VENV.name} (once, about a minute)")
    if not PYTHON.exists():
        step("cannot create the environment; on Debian and Ubuntu: apt-get install python3-venv",
             [sys.executable, "-m", "venv", "--clear", str(VENV)])  # fmt: skip
    hint = "cannot install the packages; is the package index reachable? Delete .venv and try again"
    first = VENV / "first.lock"
    first.write_text(requirement(lock, "pip"))
    step(hint, [*pip(), "--require-hashes", "-r", str(first)])
    step(hint, [*pip(), "--require-hashes", "-r", str(lock)])
    step(hint, [*pip(), "--no-build-isolation", "-e", str(ROOT)])
    stamp(lock).write_text(digest(lock))


def is_prepared(lock: Path) -> bool:
    """Return whether the environment for this lock, or the larger one for tests, is complete."""
    return PYTHON.exists() and any(
        stamp(file).is_file() and stamp(file).read_text() == digest(file)
        for file in (lock, TEST_LOCK)
    )


def stamp(lock: Path) -> Path:
    return VENV / f"{lock.name}.done"


def digest(lock: Path) -> str:
    """Return the hash of the files that the environment depends on."""
    return hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()


def requirement(lock: Path, name: str) -> str:
    """Return one package of a lock with its hashes.

    A new pip, installed first, installs the other packages in half the time.
    """
    lines = lock.read_text().splitlines(keepends=True)
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{name}=="))
    length = next(
        (index for index, line in enumerate(lines[start + 1 :], 1) if not line.startswith(" ")),
        len(lines),
    )
    return "".join(lines[start : start + length])


def pip() -> list[str]:
    """Return the pip command for locked packages; byte code is compiled at first use."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--no-deps")
    return [str(PYTHON), "-m", "pip", "install", *quiet]


def step(hint: str, command: list[str]) -> None:
    if run(command) != 0:
        raise SetupError(hint)


def test(arguments: list[str]) -> int:
    """Run all checks and print which failed; arguments select tests and skip the other checks."""
    codes = {}
    collection = None if arguments else collect()
    for name, command in CHECKS:
        if arguments and name != "tests":
            continue
        say(name)
        if name == "tests" and collection:
            collection.wait()
        full_command = [*command[:5], *arguments] if arguments else command
        codes[name] = run([str(PYTHON), "-m", *full_command], {} if arguments else in_memory())
    failed = [name for name, code in codes.items() if code]
    say(f"failed: {', '.join(failed)}" if failed else "all passed")
    return max(codes.values())


def collect() -> "subprocess.Popen[bytes]":
    """Collect the tests during the other checks, so that the workers find compiled byte code."""
    command = [str(PYTHON), "-m", "pytest", "--collect-only"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def in_memory() -> dict[str, str]:
    """Return `TMPDIR` in memory for the fast tests if there is room; slow tests use the disk."""
    has_room = (
        MEMORY.is_dir()
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
    )
    return {"TMPDIR": str(MEMORY)} if has_room and "TMPDIR" not in os.environ else {}


def run(command: list[str], more: dict[str, str] | None = None) -> int:
    """Run a command in the repository's root and wait for it, also after Ctrl-C."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment() | (more or {}))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def exec_command(command: list[str]) -> int:
    """Replace this process by the command, so that signals reach it."""
    if os.name == "posix":
        os.execve(command[0], command, environment())
    return subprocess.call(command, env=environment())


def environment() -> dict[str, str]:
    """Return the caller's environment with .venv's programs first on PATH and byte code allowed.

    Many container images forbid byte code. Without it every start compiles all imports.
    """
    path = os.pathsep.join([str(SCRIPTS), os.environ.get("PATH", os.defpath)])
    variables = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return {**variables, "PATH": path, "VIRTUAL_ENV": str(VENV)}


def say(text: str) -> None:
    print(f"── {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
