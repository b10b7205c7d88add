"""A clock that is passed in as a value, so that tests need not wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Clock:
    """Read the time and sleep; the default is the machine's clock in UTC."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
