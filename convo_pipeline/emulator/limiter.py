"""Rate limit of the server: 2 calls per second, by one of three algorithms.

Meta does not document the algorithm."""

import time
from collections import deque
from collections.abc import Callable, Hashable

from convo_pipeline.emulator.switches import Switches

BURST = 2


class ServerLimiter:
    """Decides which calls exceed the limit. Another rate scales the window, not the burst."""

    def __init__(
        self, switches: Switches, monotonic_seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind = switches.limiter
        self._rate = switches.calls_per_second
        self._now = monotonic_seconds
        self._stamps: dict[Hashable, deque[float]] = {}
        self._tokens: dict[Hashable, tuple[float, float]] = {}

    def admits(self, key: Hashable) -> bool:
        """Count one call; return False if it exceeds the limit."""
        if self._kind == "off":
            return True
        return self._admits_token(key) if self._kind == "token_bucket" else self._admits_window(key)

    def _admits_window(self, key: Hashable) -> bool:
        now, window = self._now(), BURST / self._rate
        stamps = self._stamps.setdefault(key, deque(maxlen=BURST))
        start = now - window if self._kind == "sliding_window" else now // window * window
        if len(stamps) == BURST and stamps[0] > start:
            return False
        stamps.append(now)
        return True

    def _admits_token(self, key: Hashable) -> bool:
        now = self._now()
        tokens, then = self._tokens.get(key, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - then) * self._rate)
        is_admitted = tokens >= 1
        self._tokens[key] = (tokens - is_admitted, now)
        return is_admitted
