"""The numbers behind the pictures, by hand."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from convo_pipeline.tables.chart_data import (
    choose_chart_days,
    class_waits,
    count_by_hour,
    count_hours,
    coverage_shares,
    daily,
    mean_by_hour,
)

SATURDAY = date(2026, 11, 21)
LATER = datetime(2027, 1, 1, tzinfo=UTC)
WEEK = [SATURDAY - timedelta(days=index) for index in range(7)]


def times(*texts: str) -> pa.ChunkedArray:
    moments = [datetime.fromisoformat(f"{text}+00:00").astimezone(UTC) for text in texts]
    return pa.chunked_array([pa.array(moments, pa.timestamp("us", tz="UTC"))])


def places(counts: "np.typing.NDArray[np.int64]") -> dict[tuple[int, int], int]:
    return {
        (int(row), int(column)): int(counts[row, column])
        for row, column in zip(*np.nonzero(counts), strict=True)
    }


def test_messages_are_counted_by_the_accounts_own_weekday_and_hour() -> None:
    written = times(
        "2026-11-21T09:59:59", "2026-11-21T10:00:00", "2026-11-21T23:30:00", "2026-07-04T12:00:00"
    )
    assert places(count_by_hour(written, "Europe/Berlin")) == {
        (5, 10): 1,
        (5, 11): 1,
        (6, 0): 1,
        (5, 14): 1,
    }
    assert places(count_by_hour(times(), "UTC")) == {}


def test_a_utc_day_holds_the_last_hour_of_its_own_local_day_or_the_first_of_the_next() -> None:
    held = count_hours([SATURDAY], "Europe/Berlin", LATER)
    assert (held[5, 0], held[5, 1], held[5, 23], held[6, 0], held.sum()) == (0, 4, 4, 4, 96)
    assert count_hours(WEEK, "Asia/Kathmandu", LATER).min() == 4


def test_means_are_per_hour_that_the_days_hold_and_unknown_for_others() -> None:
    written = times("2026-11-21T10:10:00", "2026-11-21T10:20:00", "2026-11-14T10:30:00")
    counts = count_by_hour(written, "UTC")
    means = mean_by_hour(counts, [SATURDAY, SATURDAY - timedelta(days=7)], "UTC", LATER)
    assert means[5, 10] == 1.5
    assert means[5, 11] == 0
    assert np.isnan(means[6]).all()


def test_an_hour_that_was_not_over_makes_no_mean_smaller() -> None:
    written = times(
        "2026-11-21T10:10:00", "2026-11-14T10:20:00", "2026-11-14T10:40:00", "2026-11-14T12:30:00"
    )
    until = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
    means = mean_by_hour(
        count_by_hour(written, "UTC"), [SATURDAY, SATURDAY - timedelta(days=7)], "UTC", until
    )
    assert (means[5, 10], means[5, 12]) == (2, 1)
    assert np.isnan(
        mean_by_hour(count_by_hour(times(), "UTC"), [SATURDAY], "UTC", until)[5, 11:]
    ).all()


def test_waits_fall_into_classes_by_their_upper_end() -> None:
    seconds = np.array([0.0, 300.0, 300.5, 900.0, 3600.0, 14_400.0, 86_400.0, 600_000.0])
    assert list(class_waits(seconds, 3, 2, 4).values()) == [2, 2, 1, 1, 1, 1, 3, 2, 4]
    assert sum(class_waits(np.empty(0), 0, 0, 0).values()) == 0


def test_one_day_is_shown_among_the_28_up_to_it_but_not_before_the_first_that_is_held() -> None:
    assert choose_chart_days([SATURDAY]).shown[0] == SATURDAY - timedelta(days=27)
    span = choose_chart_days([SATURDAY], first_day=SATURDAY - timedelta(days=2))
    assert (len(span.shown), span.pictured, span.title) == (3, (SATURDAY,), "2026-11-21")
    assert choose_chart_days([SATURDAY], first_day=SATURDAY + timedelta(days=9)).shown == (
        SATURDAY,
    )


def test_a_range_shows_itself_and_of_a_long_one_the_newest_days() -> None:
    assert choose_chart_days(WEEK).shown == tuple(sorted(WEEK))
    long = choose_chart_days([SATURDAY - timedelta(days=index) for index in range(400)])
    assert (len(long.shown), long.shown[-1]) == (92, SATURDAY)


def test_shares_add_up_to_one_and_are_unknown_without_ids() -> None:
    rows = {
        SATURDAY: {
            "ids_listed": 8,
            "detailed": 4,
            "beyond_20": 2,
            "gone": 1,
            "failed": 1,
            "pending": 0,
        },
    }
    shares = coverage_shares(rows, [SATURDAY, SATURDAY + timedelta(days=1)])
    assert {status: values[0] for status, values in shares.items()} == {
        "detailed": 0.5, "gone": 0.125, "beyond_20": 0.25, "failed": 0.125, "pending": 0.0,
    }  # fmt: skip
    assert all(np.isnan(values[1]) for values in shares.values())


def test_a_day_without_a_row_is_missing_in_its_series() -> None:
    rows = {SATURDAY: {"backlog_count": 3}}
    assert daily(rows, [SATURDAY], "backlog_count")[0] == 3
    assert daily(rows, [WEEK[1]], "backlog_count", np.nan)[0] != pytest.approx(0)
