"""Show the progress of long commands on stderr: bars on a terminal, else a line every 10 seconds.

The remaining time is shown only where the number of steps is known: from the estimate of `--all`
for conversations, and from the plan for days and files. It follows from the speed of the last
steps.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBars

from convo_pipeline.console.messages import LOG
from convo_pipeline.extract.report import STEPS, Progress, describe_counts

SPEED_SECONDS = 300
"""Steps of this long before now give the speed: page sizes and limits change during a run."""
LINE_SECONDS = 10
"""Time between two lines where there is no terminal."""
MOST_BARS = 10
"""With more accounts, a bar disappears when its account is done."""
FILES = "files"


class ProgressLines:
    """Add up the progress of each account; call it with each step.

    `expected` is the estimated number of conversations of each account.
    """

    def __init__(
        self,
        console: Console,
        expected: Mapping[str, int] | None = None,
        *,
        has_bars: bool = True,
        has_lines: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected = expected or {}
        self._has_lines = has_lines and not has_bars
        self._monotonic = monotonic
        self._line_at = monotonic()
        self._bars = ProgressBars(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[account]}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[counts]}", style="dim"),
            TimeElapsedColumn(),
            TextColumn("about"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            speed_estimate_period=SPEED_SECONDS,
            transient=True,
            disable=not has_bars,
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
            task = self._task_of(step.account)
            if step.step in STEPS:
                counts[step.step] = counts.get(step.step, 0) + step.count
                self._bars.update(task, counts=describe_counts(counts))
                self._advance(task, step, counts)
            elif step.step == "days done" and step.count:
                days = counts.get("days", 0)
                LOG.info("%s: %s of %s days were done already", step.account, step.count, days)
            elif step.step == "done":
                is_hidden = len(self._tasks) > MOST_BARS
                self._bars.update(task, total=1, completed=1, visible=not is_hidden)
            self._write_line()

    def show_files(self, done: int, total: int) -> None:
        """Show how many of the files were read."""
        with self._lock:
            counts = {FILES: done}
            task = self._task_of(FILES)
            self._bars.update(task, completed=done, total=total, counts=f"{done:,} of {total:,}")
            self._counts[FILES] = counts
            self._write_line()

    def totals(self) -> Counter[str]:
        """Return the counts of all accounts."""
        with self._lock:
            return self._add_up()

    def _add_up(self) -> Counter[str]:
        totals: Counter[str] = Counter()
        for counts in self._counts.values():
            totals.update(counts)
        return totals

    def _task_of(self, name: str) -> TaskID:
        if name not in self._tasks:
            total = self._expected.get(name)
            self._tasks[name] = self._bars.add_task("", total=total, account=name, counts="")
        return self._tasks[name]

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

    def _write_line(self) -> None:
        """Write the totals, at most once in LINE_SECONDS."""
        now = self._monotonic()
        if not self._has_lines or now - self._line_at < LINE_SECONDS:
            return
        self._line_at = now
        done = sum(task.finished for task in self._bars.tasks)
        total = sum(task.total or 0 for task in self._bars.tasks)
        completed = sum(task.completed for task in self._bars.tasks if task.total)
        share = f", {completed / total:.0%}" if total else ""
        longest = max((task.time_remaining or 0 for task in self._bars.tasks), default=0)
        left = f", about {longest / 60:.0f} minutes left" if longest >= 60 else ""
        if FILES in self._tasks:
            LOG.info("%s files read%s%s", f"{self._counts[FILES][FILES]:,}", share, left)
            return
        accounts = f"{done:,} of {len(self._tasks):,} accounts done"
        LOG.info("%s: %s%s%s", accounts, describe_counts(self._add_up()), share, left)
