"""Write the progress of a long step into Dagster's log."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from convo_pipeline.extract.report import Progress, describe_counts

LINE_SECONDS = 60
"""Time between two lines: a night is shorter, a long backfill has a line a minute."""
FEWEST_STEPS = 5
"""Days after which their speed gives the remaining time."""


class ProgressLog:
    """Add up the progress of all accounts; call it with each step, from any thread.

    The remaining time is given for the days of one account, because only they are known before. The
    API does not tell how many conversations follow.
    """

    def __init__(
        self, log: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._monotonic = monotonic
        self._line_at = monotonic()
        self._counts: Counter[str] = Counter()
        self._stored: set[str] = set()
        """Accounts whose rows are stored."""
        self._days = self._done = 0
        """Days to derive of the present account, and how many of them are done."""
        self._begun_at = 0.0
        self._lock = threading.Lock()

    def __call__(self, step: Progress) -> None:
        with self._lock:
            if step.step == "days":
                self._days, self._done, self._begun_at = step.count, 0, self._monotonic()
            elif step.step == "days done":
                self._days -= step.count
            elif step.step == "partitions":
                self._done += 1
                self._stored.add(step.account)
            if step.step in ("conversations", "messages", "partitions"):
                self._counts[step.step] += step.count
            if self._monotonic() - self._line_at >= LINE_SECONDS:
                self._line_at = self._monotonic()
                with suppress(Exception):  # a log that cannot be written costs no account
                    self._log(self._describe(step.account))

    def _describe(self, account: str) -> str:
        if not self._days:
            return f"accounts stored: {len(self._stored):,}; {describe_counts(self._counts)}"
        left = ""
        if FEWEST_STEPS <= self._done < self._days:
            pace = (self._monotonic() - self._begun_at) / self._done
            left = f", about {pace * (self._days - self._done) / 60:.0f} minutes left"
        return f"{account}: {self._done:,} of {self._days:,} days derived{left}"
