"""Kill a child process at one of its calls that change the disk."""

import itertools
import os
from collections.abc import Callable, Iterator

CALLS = ("rename", "replace", "unlink", "fsync", "mkdir", "rmdir", "link")


def kill_everywhere(action: Callable[[], object], *, long_run: bool) -> None:
    """Repeat the action, killed at a later call each time, until it ends by itself."""
    last_call, kills = 1, 0
    while not run_killed(action, last_call):
        kills += 1
        last_call += 1 if long_run else 9
    print(f"killed at {kills} moments")
    assert kills > 5


def run_killed(action: Callable[[], object], last_call: int) -> bool:
    """Run in a child that dies at its nth disk call; return whether the action ended before."""
    child = os.fork()
    if child == 0:
        _die_at(last_call)
        _end(action)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


def count_calls(action: Callable[[], object]) -> int:
    """Run in a child; return how many calls of it change the disk."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        counter = _die_at(0)
        _end(lambda: (action(), os.write(writer, str(next(counter) - 1).encode())))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        count = int(pipe.read())
    assert os.waitpid(child, 0)[1] == 0
    return count


def _die_at(last_call: int) -> Iterator[int]:
    """Let this process die at its nth disk call; return the counter of these calls."""
    counter = itertools.count(1)
    for name in CALLS:
        real = getattr(os, name)

        def call(*args: object, real: Callable[..., object] = real, **kwargs: object) -> object:
            if next(counter) == last_call:
                os._exit(9)
            return real(*args, **kwargs)

        setattr(os, name, call)
    return counter


def _end(action: Callable[[], object]) -> None:
    """Run the action and end this process without any clean-up."""
    try:
        action()
    except BaseException:
        os._exit(1)
    os._exit(0)
