"""Cancel a run from another thread: after Ctrl-C, SIGTERM or a cancelled Dagster run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import StoppedError

CHECK_SECONDS = 1.0
"""The longest wait between two checks."""


class Cancellation:
    """A flag that is set once; all threads of a run check it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Cancel the run: every later check raises."""
        self._event.set()

    def check(self) -> None:
        """Raise StoppedError if the run was cancelled."""
        if self._event.is_set():
            raise StoppedError(
                "the run was stopped; the next run stores the spooled messages and continues"
            )

    def watch(self, clock: Clock) -> Clock:
        """Return the clock with a `sleep` that raises StoppedError soon after a cancellation."""

        def sleep(seconds: float) -> None:
            self.check()
            while seconds > 0:
                clock.sleep(min(seconds, CHECK_SECONDS))
                seconds -= CHECK_SECONDS
                self.check()

        return replace(clock, sleep=sleep)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as on Ctrl-C. Only the main thread receives signals."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)
