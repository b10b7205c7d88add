"""How far a run lists and reads, decided from what earlier runs proved. Pure.

After a complete run everything active before its first answer is held, so the next listing ends there (less a margin).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from convo_pipeline.base.times import day_start_us, from_us

MARGIN = timedelta(minutes=10)
"""What is listed again behind a saved position: clocks differ, and the listing's order is not promised."""
ONE_DAY = timedelta(days=1)
Mode = Literal["window", "nightly", "full", "capture", "find"]


@dataclass(frozen=True)
class Coverage:
    """Everything active since the date `since` was held when the server's clock showed `t0_us`."""

    since: date
    t0_us: int

    @property
    def settled_before(self) -> datetime:
        """Activity before this was over when it was listed: from here on the next listing looks again."""
        return from_us(self.t0_us) - MARGIN

    @classmethod
    def read(cls, memory: Mapping[str, object]) -> "Coverage | None":
        held = memory.get("coverage")
        return (
            cls(date.fromisoformat(held["since"]), int(held["t0_us"]))
            if isinstance(held, dict)
            else None
        )

    def to_json(self) -> dict[str, object]:
        return {"since": self.since.isoformat(), "t0_us": self.t0_us}


@dataclass(frozen=True)
class Plan:
    """How far a run goes: the listing down to `listed_since`, each conversation down to `since`."""

    since: date
    listed_since: datetime
    is_incremental: bool


def plan_run(
    mode: Mode, since: date, now: datetime, covered: Coverage | None, recheck_days: int
) -> Plan:
    """Decide how far to list.

    >>> from datetime import UTC
    >>> from convo_pipeline.base.times import to_us
    >>> now = datetime(2026, 3, 9, tzinfo=UTC)
    >>> held = Coverage(date(2026, 1, 1), to_us(datetime(2026, 3, 8, 12, tzinfo=UTC)))
    >>> plan_run("window", date(2026, 3, 8), now, held, 2).listed_since.isoformat()
    '2026-03-08T11:50:00+00:00'
    >>> plan_run("window", date(2025, 12, 1), now, held, 2).listed_since.isoformat()
    '2025-12-01T00:00:00+00:00'
    """
    if mode == "capture":
        since = covered.since if covered else (now - ONE_DAY).date()
    start = from_us(day_start_us(since))
    if covered is None or covered.since > since:
        return Plan(since, start, is_incremental=False)
    listed_since = covered.settled_before
    if mode == "full":
        return Plan(since, min(start, listed_since), is_incremental=False)
    if mode == "nightly":
        listed_since = min(listed_since, now - recheck_days * ONE_DAY)
    return Plan(since, listed_since, is_incremental=True)
