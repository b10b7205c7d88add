"""The numbers behind the pictures. Pure: columns in, arrays out; it draws nothing and knows no text and no name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.schema import DETAIL_STATUSES

WAITS = ((300, "≤ 5 min"), (900, "5–15 min"), (3600, "15–60 min"), (4 * 3600, "1–4 h"), (86_400, "4–24 h"),
         (np.inf, "1–7 days"))  # fmt: skip
"""Upper ends of the first responses' classes; each session is in one."""
UNANSWERED = "none so far"
UNKNOWN = "not known"
CONTEXT_DAYS = 28
MOST_DAYS = 92
"""Days of the longest range that is pictured; of a longer one the newest."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Row = Mapping[str, float | None]


def count_by_hour(created_at: pa.ChunkedArray, timezone: str) -> Ints:
    """Count messages by local weekday (Monday first) and local hour: an array of 7 × 24."""
    local = pc.local_timestamp(pc.cast(created_at, pa.timestamp("us", tz=timezone)))
    slots = np.asarray(
        pc.add(pc.multiply(pc.day_of_week(local), 24), pc.hour(local)), dtype=np.int64
    )
    return np.bincount(slots, minlength=7 * 24).reshape(7, 24)


def count_hours(days: Iterable[date], timezone: str, until: datetime) -> Ints:
    """Count how often each local weekday and hour occurs on some UTC days up to a moment: 7 × 24 quarters of an hour."""
    starts = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
    quarters = [start + timedelta(minutes=15 * index) for start in starts for index in range(96)]
    over = [quarter for quarter in quarters if quarter < until]
    return count_by_hour(pa.chunked_array([pa.array(over, pa.timestamp("us", tz="UTC"))]), timezone)


def mean_by_hour(counts: Ints, days: Iterable[date], timezone: str, until: datetime) -> Floats:
    """Divide the counts by how often the days up to a moment hold each hour; one that they do not hold is not a number."""
    hours = count_hours(days, timezone, until) / 4
    return np.where(hours > 0, counts / np.maximum(hours, 0.25), np.nan)


def class_waits(seconds: Floats, unanswered_count: int, unknown_count: int) -> dict[str, int]:
    """Count first responses by how long the customer waited, those that never came, and those nothing is known of.

    >>> list(class_waits(np.array([60.0, 300.0, 301.0, 90000.0]), 2, 5).values())
    [2, 1, 0, 0, 0, 1, 2, 5]
    """
    classes = np.searchsorted([end for end, _ in WAITS], seconds)
    counts = np.bincount(classes, minlength=len(WAITS))
    answered = {label: int(count) for (_, label), count in zip(WAITS, counts, strict=True)}
    return answered | {UNANSWERED: unanswered_count, UNKNOWN: unknown_count}


@dataclass(frozen=True)
class ChartDays:
    """The days a picture is about, and the days it shows: a single day is shown among those before it."""

    pictured: tuple[date, ...]
    shown: tuple[date, ...]

    @property
    def title(self) -> str:
        first, last = self.pictured[0], self.pictured[-1]
        return f"{first}" if first == last else f"{first} to {last}"


def choose_chart_days(days: Sequence[date], *, first_day: date | None = None) -> ChartDays:
    """Return what to show of some days: all from the first to the last, at most the newest 92; of one day the 28 up to it.

    Nothing is shown before `first_day`, the first that is held, except what was asked for.

    >>> span = choose_chart_days([date(2026, 3, 1), date(2026, 3, 4)])
    >>> span.title, len(span.shown)
    ('2026-03-01 to 2026-03-04', 4)
    """
    last = max(days)
    first = max(min(days), last - timedelta(days=MOST_DAYS - 1))
    pictured = tuple(sorted({day for day in days if day >= first}))
    start = first
    if len(pictured) == 1:
        start = min(first, max(last - timedelta(days=CONTEXT_DAYS - 1), first_day or date.min))
    shown = tuple(start + timedelta(days=index) for index in range((last - start).days + 1))
    return ChartDays(pictured, shown)


def coverage_shares(rows: Mapping[date, Row], days: Sequence[date]) -> dict[str, Floats]:
    """Return each day's share of ids by what became of them, best first; not a number for days without ids."""
    listed = np.array([_value(rows, day, "ids_listed") for day in days])
    return {
        status: np.array([_value(rows, day, status) for day in days])
        / np.where(listed > 0, listed, np.nan)
        for status in reversed(DETAIL_STATUSES)
    }


def daily(
    rows: Mapping[date, Row], days: Sequence[date], name: str, missing: float = 0.0
) -> Floats:
    """Return one column by day; `missing` for days without a row."""
    return np.array([_value(rows, day, name, missing) for day in days])


def _value(rows: Mapping[date, Row], day: date, name: str, missing: float = 0.0) -> float:
    value = rows[day][name] if day in rows else None
    return missing if value is None else float(value)
