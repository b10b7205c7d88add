"""Python's cycle collector, while many small values that hold no cycles come and go."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CALM_ALLOCATIONS = 200_000
"""So many more containers than now before the collector looks: pages and rows die long before, cycles wait no longer."""
_lock = threading.Lock()
_usual: list[tuple[int, int, int]] = []
"""The usual thresholds, once for everybody who asked for calm."""


@contextmanager
def calm_collector() -> Iterator[None]:
    """Let the collector look seldom instead of at every page; may be nested and used by several threads."""
    with _lock:
        _usual.append(_usual[0] if _usual else gc.get_threshold())
        gc.set_threshold(CALM_ALLOCATIONS, *_usual[0][1:])
    try:
        yield
    finally:
        with _lock:
            usual = _usual.pop()
            if not _usual:
                gc.set_threshold(*usual)
