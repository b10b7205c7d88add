#!/usr/bin/env python3
"""Make the environment and run a command in it. Needs Python 3.11 or newer and nothing else.

    python3 run.py demo [--ui]     two invented inboxes, from the API to an answer
    python3 run.py test [args]     format, lint, types and the fast tests; args go to pytest
    python3 run.py COMMAND [args]  any other command of convo-pipeline

The environment is .venv beside this file. It is made once and again whenever a lock file changes.
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
"""More workers than cores: the tests wait for servers and syncs half of their time."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        return fail(
            f"Python 3.11 or newer is needed; this is {found}. Try: python3.12 run.py {' '.join(arguments)}"
        )
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        if arguments[0] == "test":
            prepare(TEST_LOCK)
            return test(arguments[1:])
        prepare(RUN_LOCK)
        return become([str(SCRIPTS / "convo-pipeline"), *arguments])
    except SetupError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return 130


def fail(text: str) -> int:
    print(f"run.py: {text}", file=sys.stderr)
    return 2


class SetupError(Exception):
    """The environment cannot be made; the text says what to do."""


def prepare(lock: Path) -> None:
    """Make .venv hold what `lock` names; does nothing where it does already."""
    if is_prepared(lock):
        return
    say(f"setting up {VENV.name} from {lock.name} (once, about a minute)")
    if not PYTHON.exists():
        step("cannot make the environment; on Debian and Ubuntu: apt-get install python3-venv",
             [sys.executable, "-m", "venv", "--clear", str(VENV)])  # fmt: skip
    hint = "cannot install the packages; is the package index reachable? Delete .venv and try again"
    first = VENV / "first.lock"
    first.write_text(requirement(lock, "pip"))
    step(hint, [*pip(), "--require-hashes", "-r", str(first)])
    step(hint, [*pip(), "--require-hashes", "-r", str(lock)])
    step(hint, [*pip(), "--no-build-isolation", "-e", str(ROOT)])
    stamp(lock).write_text(digest(lock))


def is_prepared(lock: Path) -> bool:
    """The test environment holds everything the run environment needs."""
    stamps = [(stamp(one), one) for one in {lock, TEST_LOCK}]
    return PYTHON.exists() and any(
        mark.is_file() and mark.read_text() == digest(one) for mark, one in stamps
    )


def stamp(lock: Path) -> Path:
    return VENV / f"{lock.name}.done"


def digest(lock: Path) -> str:
    """Hash what the environment is made from."""
    return hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()


def requirement(lock: Path, name: str) -> str:
    """Cut one package with its hashes out of a lock: a new pip first installs the rest in half the time."""
    lines = lock.read_text().splitlines(keepends=True)
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{name}=="))
    length = next(
        (index for index, line in enumerate(lines[start + 1 :], 1) if not line.startswith(" ")),
        len(lines),
    )
    return "".join(lines[start : start + length])


def pip() -> list[str]:
    """Install exactly what is locked; byte code is made at first use, which is quicker than for all files now."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--no-deps")
    return [str(PYTHON), "-m", "pip", "install", *quiet]


def step(hint: str, command: list[str]) -> None:
    if run(command) != 0:
        raise SetupError(hint)


def test(arguments: list[str]) -> int:
    """Run all checks and say which failed; arguments replace the choice of tests."""
    codes = {}
    collecting = None if arguments else collect()
    for name, command in CHECKS:
        if arguments and name != "tests":
            continue
        say(name)
        if name == "tests" and collecting:
            collecting.wait()
        given = [*command[:5], *arguments] if arguments else list(command)
        codes[name] = run([str(PYTHON), "-m", *given], {} if arguments else in_memory())
    failed = [name for name, code in codes.items() if code]
    say(f"failed: {', '.join(failed)}" if failed else "all passed")
    return max(codes.values())


def collect() -> "subprocess.Popen[bytes]":
    """Collect the tests beside what comes before them: the workers of a first run would all make the same byte code."""
    command = [str(PYTHON), "-m", "pytest", "--collect-only"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def in_memory() -> dict[str, str]:
    """Let the fast tests write where no disk is waited for, if the machine has such a place; the slow ones use a disk."""
    has_room = (
        MEMORY.is_dir()
        and os.access(MEMORY, os.W_OK)
        and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
    )
    return {"TMPDIR": str(MEMORY)} if has_room and "TMPDIR" not in os.environ else {}


def run(command: list[str], more: dict[str, str] | None = None) -> int:
    """Run a command in the repository's root and wait for it, also when Ctrl-C reached both."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment() | (more or {}))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def become(command: list[str]) -> int:
    """Hand over to a command in the caller's folder, so that signals reach it."""
    if os.name == "posix":
        os.execve(command[0], command, environment())
    return subprocess.call(command, env=environment())


def environment() -> dict[str, str]:
    """Return the caller's environment with .venv's programs first on PATH, and byte code kept.

    Images for containers like to forbid byte code, which is made at first use here: without it every start compiles
    all that it imports, for seconds.
    """
    path = os.pathsep.join([str(SCRIPTS), os.environ.get("PATH", os.defpath)])
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(VENV)}


def say(text: str) -> None:
    print(f"── {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
