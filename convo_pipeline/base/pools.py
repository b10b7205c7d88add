"""Threads, as many as are wanted and the machine has room for."""

from concurrent.futures import ThreadPoolExecutor


class Pool(ThreadPoolExecutor):
    """A pool whose work is done by the threads there are where no other can be started: memory or a limit forbids it.

    RuntimeError from `submit` only where there is none at all.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
