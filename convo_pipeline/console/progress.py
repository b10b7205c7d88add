"""Show the progress of long commands on stderr: one line per account, on a terminal only.

The remaining time is shown only where the number of steps is known: from the estimate of `--all`
for conversations, and from the plan for days. It follows from the speed of the last steps.
"""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress as ProgressBars
from rich.progress import (
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from convo_pipeline.extract.report import Progress

STEPS = {
    "conversations": "conversations",
    "messages": "messages",
    "days": "days",
    "partitions": "partitions stored",
}


SPEED_SECONDS = 300
"""Steps of this long before now give the speed: page sizes and limits change during a run."""


class ProgressLines:
    """Add up the progress of each account; call it with each step.

    `expected` is the estimated number of conversations of each account.
    """

    def __init__(self, console: Console, expected: Mapping[str, int] | None = None) -> None:
        self._expected = expected or {}
        self._bars = ProgressBars(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[account]}"),
            TextColumn("{task.fields[counts]}", style="dim"),
            TimeElapsedColumn(),
            TextColumn("about"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            speed_estimate_period=SPEED_SECONDS,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, step: Progress) -> None:
        with self._lock:
            counts = self._counts.setdefault(step.account, {})
            if step.account not in self._tasks:
                self._tasks[step.account] = self._bars.add_task(
                    "", total=self._expected.get(step.account), account=step.account, counts=""
                )
            task = self._tasks[step.account]
            if step.step in STEPS:
                counts[step.step] = counts.get(step.step, 0) + step.count
                self._bars.update(task, counts=describe_counts(counts))
                self._advance(task, step, counts)
            elif step.step == "days done" and step.count:
                days = counts.get("days", 0)
                text = f"{step.account}: {step.count:,} of {days:,} days were done already"
                self._bars.console.print(
                    text, style="dim", highlight=False, markup=False, soft_wrap=True
                )
            elif step.step == "done":
                self._bars.update(task, total=1, completed=1)

    def _advance(self, task: TaskID, step: Progress, counts: Mapping[str, int]) -> None:
        """Count the step that the remaining time depends on; drop an estimate that was too low."""
        if step.step == "days":
            self._bars.reset(task, total=step.count)
        elif step.step == "partitions" and "days" in counts:
            self._bars.advance(task)
        elif step.step == "conversations" and step.account in self._expected:
            self._bars.update(task, completed=counts["conversations"])
            if counts["conversations"] >= self._expected[step.account]:
                next(each for each in self._bars.tasks if each.id == task).total = None


def describe_counts(counts: dict[str, int]) -> str:
    """Return the counts of one account as text.

    >>> describe_counts({"messages": 1200, "conversations": 40})
    '40 conversations, 1,200 messages'
    """
    return ", ".join(f"{counts[step]:,} {words}" for step, words in STEPS.items() if step in counts)
