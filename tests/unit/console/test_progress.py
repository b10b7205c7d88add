"""Progress lines show a remaining time only while the number of steps is known."""

import io

from rich.console import Console

from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.extract.report import Progress


def totals(progress: ProgressLines) -> list[tuple[float | None, float]]:
    """Return the expected and the finished steps of each line."""
    return [(task.total, task.completed) for task in progress._bars.tasks]


def test_the_estimate_of_all_gives_the_number_of_conversations() -> None:
    with ProgressLines(terminal(), {"bakery": 100}) as progress:
        progress(Progress("bakery", "conversations", 40))
        progress(Progress("bikes", "conversations", 40))
        assert totals(progress) == [(100, 40), (None, 0)]


def test_an_estimate_that_was_too_low_is_dropped() -> None:
    with ProgressLines(terminal(), {"bakery": 100}) as progress:
        for _ in range(3):
            progress(Progress("bakery", "conversations", 40))
        assert totals(progress) == [(None, 120)]


def test_days_are_counted_while_they_are_derived() -> None:
    with ProgressLines(terminal(), {"bakery": 100}) as progress:
        progress(Progress("bakery", "conversations", 40))
        progress(Progress("bakery", "partitions", 12))
        progress(Progress("bakery", "days", 8))
        progress(Progress("bakery", "partitions", 9))
        assert totals(progress) == [(8, 1)]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)
