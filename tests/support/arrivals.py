"""When calls arrive at the emulator."""

from collections.abc import Iterable

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
