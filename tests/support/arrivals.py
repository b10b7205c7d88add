"""When calls arrive at the emulator."""

import os
import threading
from collections.abc import Iterable
from contextlib import suppress

from convo_pipeline.emulator.calls import LoggedCall


def most_calls_in_a_second(log: Iterable[LoggedCall]) -> int:
    """Return the largest number of calls of one account in any closed second."""
    times: dict[str | None, list[float]] = {}
    for call in log:
        times.setdefault(call.account, []).append(call.at)
    return max(
        sum(first <= other <= first + 1 for other in sent)
        for sent in times.values()
        for first in sent
    )


def prefer_emulator() -> None:
    """Let the emulator's thread run first if the system allows it: it notes when calls arrive."""
    for thread in threading.enumerate():
        if thread.name == "emulator" and thread.native_id:
            with suppress(OSError):
                os.sched_setscheduler(thread.native_id, os.SCHED_RR, os.sched_param(1))
