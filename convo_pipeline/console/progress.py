"""Progress of long work on stderr: one line an account, only on a terminal; what was done before is said anywhere."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from convo_pipeline.extract.run import Progress

STEPS = {
    "conversations": "conversations",
    "messages": "messages",
    "days": "days",
    "partitions": "partitions stored",
}


class ProgressLines:
    """Counts what the accounts report; call it with each step forward."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
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
            task = self._task(step.account)
            if step.step in STEPS:
                counts = self._counts[step.account]
                counts[step.step] = counts.get(step.step, 0) + step.count
                self._bars.update(task, counts=describe(counts))
            elif step.step == "days done" and step.count:
                days = self._counts[step.account].get("days", 0)
                self._bars.console.print(
                    f"{step.account}: {step.count:,} of {days:,} days were done already",
                    style="dim", highlight=False, markup=False, soft_wrap=True,
                )  # fmt: skip
            elif step.step == "done":
                self._bars.update(task, total=1, completed=1)

    def _task(self, account: str) -> TaskID:
        if account not in self._tasks:
            self._tasks[account] = self._bars.add_task("", total=None, account=account, counts="")
            self._counts[account] = {}
        return self._tasks[account]


def describe(counts: dict[str, int]) -> str:
    """Say how far an account is.

    >>> describe({"messages": 1200, "conversations": 40})
    '40 conversations, 1,200 messages'
    """
    return ", ".join(f"{counts[step]:,} {words}" for step, words in STEPS.items() if step in counts)
