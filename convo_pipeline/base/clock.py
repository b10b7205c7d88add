"""Time as a value that is passed in, so that a test can let it pass without waiting."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Clock:
    """What time it is and how to wait; the default is the machine's."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
