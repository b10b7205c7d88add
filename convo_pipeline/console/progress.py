"""Show the progress of long commands on stderr: one line per account, on a terminal only."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress as ProgressBars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from convo_pipeline.extract.report import Progress

STEPS = {
    "conversations": "conversations",
    "messages": "messages",
    "days": "days",
    "partitions": "partitions stored",
}


class ProgressLines:
    """Add up the progress of each account; call it with each step."""

    def __init__(self, console: Console) -> None:
        self._bars = ProgressBars(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[account]}"),
            TextColumn("{task.fields[counts]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
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
                    "", total=None, account=step.account, counts=""
                )
            task = self._tasks[step.account]
            if step.step in STEPS:
                counts[step.step] = counts.get(step.step, 0) + step.count
                self._bars.update(task, counts=describe_counts(counts))
            elif step.step == "days done" and step.count:
                days = counts.get("days", 0)
                text = f"{step.account}: {step.count:,} of {days:,} days were done already"
                self._bars.console.print(
                    text, style="dim", highlight=False, markup=False, soft_wrap=True
                )
            elif step.step == "done":
                self._bars.update(task, total=1, completed=1)


def describe_counts(counts: dict[str, int]) -> str:
    """Return the counts of one account as text.

    >>> describe_counts({"messages": 1200, "conversations": 40})
    '40 conversations, 1,200 messages'
    """
    return ", ".join(f"{counts[step]:,} {words}" for step, words in STEPS.items() if step in counts)
