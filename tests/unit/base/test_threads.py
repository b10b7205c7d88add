"""Threads of one process, and garbage collection during a run."""

import gc
import threading

import pytest

from convo_pipeline.base.threads import (
    ALLOCATIONS_PER_COLLECTION,
    ThreadPool,
    rare_garbage_collection,
)


def refuse_threads(monkeypatch: pytest.MonkeyPatch, started_count: int) -> None:
    """Let the system refuse every thread after the first `started_count`."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited_start(thread: threading.Thread) -> None:
        if len(started) >= started_count:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited_start)


def test_a_pool_works_with_the_threads_that_could_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_threads(monkeypatch, 1)
    with ThreadPool(4) as pool:
        assert list(pool.map(str, range(20))) == [str(number) for number in range(20)]


def test_a_pool_without_any_thread_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_threads(monkeypatch, 0)
    pool = ThreadPool(4)
    with pytest.raises(RuntimeError, match="new thread"):
        pool.submit(str, 1)


def test_garbage_collection_is_rare_inside_nested_blocks_and_usual_after_them() -> None:
    usual = gc.get_threshold()
    with rare_garbage_collection():
        with rare_garbage_collection():
            assert gc.get_threshold()[0] == ALLOCATIONS_PER_COLLECTION
        assert gc.get_threshold()[0] == ALLOCATIONS_PER_COLLECTION
    assert gc.get_threshold() == usual
