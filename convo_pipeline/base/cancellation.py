"""How a run is ended from outside (Ctrl-C, SIGTERM, a cancelled run): whoever waits or calls for it looks here first."""

import threading
from dataclasses import replace

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import StoppedError

LOOK_SECONDS = 1.0
"""The longest wait without a look."""


class Halt:
    """Set once, by the thread that was told to end; safe for all threads of a run."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End the run: every later check raises."""
        self._event.set()

    def check(self) -> None:
        """Raise StoppedError if the run was ended."""
        if self._event.is_set():
            raise StoppedError(
                "the run was stopped; the next one stores what came and goes on from there"
            )

    def watch(self, clock: Clock) -> Clock:
        """Return the clock with a sleep that ends soon after the run was."""

        def sleep(seconds: float) -> None:
            self.check()
            while seconds > 0:
                clock.sleep(min(seconds, LOOK_SECONDS))
                seconds -= LOOK_SECONDS
                self.check()

        return replace(clock, sleep=sleep)
