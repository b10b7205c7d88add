"""A clock that a test shares with the Dagster processes it starts, so that waits are short."""

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from convo_pipeline.emulator.clock import VirtualClock

FOLDER = Path(__file__).parent / "shifted"
FAST = 4
"""Seconds of the shared clock in one second of the machine's clock, while it is fast."""
ROUND_SECONDS = 0.25


class SharedClock:
    """A clock whose offset to the machine's clock is in a file, for processes with `environ`."""

    def __init__(self, file: Path) -> None:
        self.world = VirtualClock()
        self.file = file
        self.ahead_seconds = 0.0
        self.advance(0)

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables that make a Python process use this clock."""
        path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
        return {"SHIFTED_CLOCK": str(self.file), "PYTHONPATH": path}

    def now(self) -> datetime:
        return self.world.now()

    def advance(self, seconds: float) -> None:
        self.ahead_seconds += seconds
        self.world.advance(seconds)
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("d", self.ahead_seconds))

    def set(self, moment: datetime) -> None:
        self.advance((moment - self.now()).total_seconds())

    @contextmanager
    def fast(self) -> Iterator[None]:
        """Make the clock faster in this block."""
        is_over = threading.Event()

        def run() -> None:
            while not is_over.wait(ROUND_SECONDS):
                self.advance(ROUND_SECONDS * (FAST - 1))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
