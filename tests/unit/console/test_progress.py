"""Progress lines show a remaining time only while the number of steps is known."""

import io

import pytest
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


def test_without_a_terminal_a_line_follows_every_ten_seconds_at_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "convo_pipeline.console")
    seconds = iter([0.0, 1.0, 9.0, 12.0, 13.0, 21.9, 22.0])
    console = Console(file=io.StringIO())
    progress = ProgressLines(
        console, {"bakery": 100}, has_bars=False, monotonic=lambda: next(seconds)
    )
    with progress:
        for _ in range(5):
            progress(Progress("bakery", "conversations", 10))
        progress(Progress("bakery", "done", 1))
    assert [record.getMessage() for record in caplog.records] == [
        "0 of 1 accounts done: 30 conversations, 30%",
        "1 of 1 accounts done: 50 conversations, 100%",
    ]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)
