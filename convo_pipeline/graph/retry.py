"""Whether to ask again, and after how long: a pure decision, apart from the loop that acts on it.

Attempts, total time and every single pause are capped. What a smaller request cures (TooMuchDataError) is not
repeated here: the ladder asks for less.
"""

from dataclasses import dataclass

from convo_pipeline.errors import GraphError, RetryableError, ThrottledError
from convo_pipeline.graph.codes import attempts_of
from convo_pipeline.graph.throttle import LONGEST_SLEEP_SECONDS

HEAVY_ATTEMPTS = 3
"""Of a nested page: a smaller one is the better next try."""
TOTAL_SECONDS = 180.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
THROTTLE_SECONDS = (4.0, 16.0, 64.0, 256.0)
"""Where Meta names no time: growing, since calls during a block extend it. The last one is left to the next run."""


@dataclass(frozen=True)
class Pause:
    """Ask again after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Stop:
    """Do not ask again; `blocked_seconds` is how long the account has to stay silent."""

    blocked_seconds: float = 0.0


def decide(
    error: BaseException,
    attempt: int,
    elapsed_seconds: float,
    *,
    draw: float = 0.5,
    is_heavy: bool = False,
    is_probe: bool = False,
) -> Stop | Pause:
    """Decide after `attempt` failed attempts (from 1); `draw` in [0, 1) is the jitter.

    A probe only asks whether the server still fails on something: one answer that says so is enough.

    >>> from convo_pipeline.errors import GraphFault
    >>> decide(RetryableError(GraphFault(code=2)), 1, 0.3)
    Pause(seconds=0.75)
    >>> decide(ThrottledError(GraphFault(code=613), 1140), 1, 0.3)
    Stop(blocked_seconds=1140)
    """
    if isinstance(error, ThrottledError):
        return _decide_throttled(error, attempt, draw)
    if not isinstance(error, RetryableError):
        return Stop()
    if attempt >= _attempts(error, is_heavy, is_probe) or elapsed_seconds >= TOTAL_SECONDS:
        return Stop()
    longest = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    return Pause(longest * (0.5 + draw / 2))


def _attempts(error: GraphError, is_heavy: bool, is_probe: bool) -> int:
    if is_probe and error.fault.code is not None:
        return 1
    if is_heavy:
        return HEAVY_ATTEMPTS
    return attempts_of(error)


def _decide_throttled(error: ThrottledError, attempt: int, draw: float) -> Stop | Pause:
    """Meta's own time, or a growing one; never less than a second, and jitter only adds."""
    grown = THROTTLE_SECONDS[min(attempt, len(THROTTLE_SECONDS)) - 1] * (1 + draw / 4)
    seconds = grown if error.wait_seconds is None else max(error.wait_seconds, 1.0)
    if seconds > LONGEST_SLEEP_SECONDS or attempt >= len(THROTTLE_SECONDS):
        return Stop(seconds)
    return Pause(seconds)
