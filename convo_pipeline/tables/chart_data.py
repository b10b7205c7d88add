"""Compute the data of the charts: columns in, arrays out. Pure; it draws nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.schema import DETAIL_STATUSES

WAITS = (
    (300, "≤ 5 min"), (900, "5–15 min"), (3600, "15–60 min"), (4 * 3600, "1–4 h"),
    (86_400, "4–24 h"), (np.inf, "1–7 days"),
)  # fmt: skip
"""Classes of first responses: upper limit in seconds (inclusive) and label."""
UNANSWERED = "none so far"
REACTED = "reaction"
UNKNOWN = "not known"
CONTEXT_DAYS = 28
MOST_DAYS = 92
"""Maximum number of days in a chart. Of a longer range only the newest days are shown."""
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
    """Count the quarter hours of each local weekday and hour: an array of 7 × 24.

    It counts the given UTC days up to `until`.
    """
    starts = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
    quarters = [start + timedelta(minutes=15 * index) for start in starts for index in range(96)]
    over = [quarter for quarter in quarters if quarter < until]
    return count_by_hour(pa.chunked_array([pa.array(over, pa.timestamp("us", tz="UTC"))]), timezone)


def count_weekdays(days: Iterable[date], timezone: str, until: datetime) -> list[int]:
    """Return how often the rarest hour of each local weekday, Monday first, occurs.

    It counts the given UTC days up to `until`. Hours that do not occur are left out.

    >>> days = [date(2026, 3, 2), date(2026, 3, 9)]
    >>> count_weekdays(days, "UTC", datetime(2026, 4, 1, tzinfo=UTC))
    [2, 0, 0, 0, 0, 0, 0]
    >>> count_weekdays(days, "UTC", datetime(2026, 3, 9, 5, tzinfo=UTC))
    [1, 0, 0, 0, 0, 0, 0]
    """
    quarters = count_hours(days, timezone, until)
    return [min((-(-int(each) // 4) for each in hours if each), default=0) for hours in quarters]


def mean_by_hour(counts: Ints, days: Iterable[date], timezone: str, until: datetime) -> Floats:
    """Return the mean count per local weekday and hour over the UTC days up to `until`: 7 × 24.

    The mean is NaN for an hour that does not occur on these days.
    """
    hours = count_hours(days, timezone, until) / 4
    return np.where(hours > 0, counts / np.maximum(hours, 0.25), np.nan)


def class_waits(
    seconds: Floats, unanswered_count: int, acknowledged_count: int, unknown_count: int
) -> dict[str, int]:
    """Count sessions by the customer's wait in seconds, and add those without a known response.

    >>> list(class_waits(np.array([60.0, 300.0, 301.0, 90000.0]), 2, 3, 5).values())
    [2, 1, 0, 0, 0, 1, 2, 3, 5]
    """
    classes = np.searchsorted([end for end, _ in WAITS], seconds)
    counts = np.bincount(classes, minlength=len(WAITS))
    answered = {label: int(count) for (_, label), count in zip(WAITS, counts, strict=True)}
    others = {UNANSWERED: unanswered_count, REACTED: acknowledged_count, UNKNOWN: unknown_count}
    return answered | others


@dataclass(frozen=True)
class ChartDays:
    """Days of a chart: `pictured` are the selected days, `shown` also includes days around them."""

    pictured: tuple[date, ...]
    shown: tuple[date, ...]

    @property
    def title(self) -> str:
        first, last = self.pictured[0], self.pictured[-1]
        return f"{first}" if first == last else f"{first} to {last}"


def choose_chart_days(days: Sequence[date], *, first_day: date | None = None) -> ChartDays:
    """Return the days of a chart: all from the first to the last day, at most the newest 92.

    A chart of one day also shows the days before it, 28 days in total. These extra days do not
    begin before `first_day`, the first day with stored rows.

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
    """Return the share of ids per status and day, most complete status first; NaN without ids."""
    listed = np.array([_value(rows, day, "ids_listed") for day in days])
    return {
        status: np.array([_value(rows, day, status) for day in days])
        / np.where(listed > 0, listed, np.nan)
        for status in reversed(DETAIL_STATUSES)
    }


def daily(
    rows: Mapping[date, Row], days: Sequence[date], name: str, missing: float = 0.0
) -> Floats:
    """Return one value of a column per day; `missing` for days without a row or value."""
    return np.array([_value(rows, day, name, missing) for day in days])


def _value(rows: Mapping[date, Row], day: date, name: str, missing: float = 0.0) -> float:
    value = rows[day][name] if day in rows else None
    return missing if value is None else float(value)
