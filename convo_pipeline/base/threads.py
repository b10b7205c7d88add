"""Threads of one process: a thread pool, the parse lock, and rare garbage collection."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

PARSE_LOCK = threading.Lock()
"""One thread of a process parses responses, encodes records or sorts rows at a time.

Python runs one thread at a time. A thread that returns from a socket, a file or SQLite waits up
to 5 ms for each thread that computes. Without this lock, dozens of responses that arrive together
are all parsed late, and all next calls start late. With it, the first are parsed at once and their
threads go on calling. `benchmarks/fleet.py` measured 50 accounts at 500 ms: 23 to 25 s without the
lock, 20 s with it. Never hold it while you wait for a server, a disk or another lock.
"""

ALLOCATIONS_PER_COLLECTION = 200_000
"""Garbage collection threshold during a run. Pages and rows hold no cycles and are freed anyway."""

M_ARENA_MAX = -8
"""The parameter of glibc's `mallopt` (malloc.h)."""
MOST_ARENAS = 2

_lock = threading.Lock()
_usual_thresholds: list[tuple[int, int, int]] = []
"""The thresholds from before, once per caller that is inside."""


class ThreadPool(ThreadPoolExecutor):
    """A thread pool that works with fewer threads when the system refuses to start more.

    `submit` raises RuntimeError only if not even one thread can be started.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Run Python's cyclic garbage collector rarely; reentrant, and safe in several threads."""
    with _lock:
        usual = _usual_thresholds[0] if _usual_thresholds else gc.get_threshold()
        _usual_thresholds.append(usual)
        gc.set_threshold(ALLOCATIONS_PER_COLLECTION, *usual[1:])
    try:
        yield
    finally:
        with _lock:
            usual = _usual_thresholds.pop()
            if not _usual_thresholds:
                gc.set_threshold(*usual)


def limit_memory_arenas() -> None:
    """Let the threads of this process share two memory arenas of glibc; other systems ignore it.

    By default glibc keeps freed memory in up to eight arenas per core. With one thread per account
    the memory then grows with the number of accounts.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, MOST_ARENAS)
