"""`base.times`: every time format of the Graph API, and microseconds."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convo_pipeline.base.times import (
    DAY_US,
    EARLIEST,
    EARLIEST_US,
    day_of,
    day_start_us,
    from_us,
    parse_time,
    parse_time_us,
    to_us,
)

MOMENT = datetime(2019, 4, 24, 10, 38, 15, tzinfo=UTC)
SENT = "2026-02-19T08:57:24+0000"
SENT_US = to_us(datetime(2026, 2, 19, 8, 57, 24, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    ["2019-04-24T10:38:15+0000", "2019-04-24T10:38:15+00:00", "2019-04-24T10:38:15Z",
     "2019-04-24T10:38:15", "2019-04-24T12:38:15+0200", "2019-04-24T05:08:15-05:30",
     "2019-04-24 10:38:15 +0000", 1556102295, 1556102295000, "1556102295", "1556102295000",
     1556102295.0, "1556102295.0", " 2019-04-24T10:38:15+0000 "],
)  # fmt: skip
def test_every_format_gives_the_same_time(text: object) -> None:
    assert parse_time(text) == MOMENT


def test_fractions_are_kept_to_the_microsecond() -> None:
    assert parse_time("2019-04-24T10:38:15.123456789Z") == MOMENT.replace(microsecond=123456)
    assert parse_time(1556102295123) == MOMENT.replace(microsecond=123000)


@pytest.mark.parametrize(
    "value",
    [None, "", "soon", True, [], {}, "2019-02-30T00:00:00Z", "2019-04-24T25:00:00Z",
     "2019-04-24", 10**30, "9" * 16, float("inf"), float("nan"), "0000-01-01T00:00:00Z",
     "9999-12-31T23:59:59-2359", "١٥٥٦١٠٢٢٩٥"],
)  # fmt: skip
def test_other_values_are_no_time(value: object) -> None:
    assert parse_time(value) is None


def test_dates_far_away_are_times() -> None:
    assert (
        parse_time("1970-01-01T00:00:00+0000") == parse_time(0) == datetime(1970, 1, 1, tzinfo=UTC)
    )
    assert parse_time("9999-12-31T23:59:59Z") == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@settings(deadline=None)
@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary()))
def test_parsing_a_time_never_raises(value: object) -> None:
    found = parse_time(value)
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (SENT, SENT_US),
        ("2026-02-19T08:57:24Z", SENT_US),
        ("2026-02-19T10:57:24+02:00", SENT_US),
        (SENT_US // 1_000_000, SENT_US),
        (str(SENT_US // 1_000), SENT_US),
        ("2026-02-30T08:57:24+0000", None),
        ("2026-02-19T25:57:24+0000", None),
        ("2026-02-19 08:57:24+0000", SENT_US),
        ("yesterday", None),
        (None, None),
        (True, None),
    ],
)
def test_every_time_format_gives_microseconds(written: object, expected: int | None) -> None:
    assert parse_time_us(written) == expected


def test_microseconds_and_times_convert_both_ways() -> None:
    assert from_us(to_us(MOMENT)) == MOMENT
    assert to_us(EARLIEST) == EARLIEST_US


def test_a_day_holds_its_first_and_last_microsecond() -> None:
    day = date(2026, 2, 28)
    start_us = day_start_us(day)
    assert [day_of(start_us + us) for us in (-1, 0, DAY_US - 1, DAY_US)] == [
        date(2026, 2, 27),
        day,
        day,
        date(2026, 3, 1),
    ]


@pytest.mark.parametrize("offset", ["+0000", "-1200", "+1400", "-2359", "+2359", "Z", ""])
@pytest.mark.parametrize(
    "local", ["0000-01-01T00:00:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59"]
)
def test_every_time_that_is_read_is_a_date(local: str, offset: str) -> None:
    """Years 0 to 9999 with any offset are a time that a date can hold, or none."""
    for time_us in (parse_time_us(local + offset), parse_time_us(f"{local}.000{offset}")):
        if time_us is not None:
            assert from_us(time_us).date() == day_of(time_us)


@pytest.mark.parametrize("number", [1e308, -1e308, 10**400, -(10**400), 253_402_300_800, -1, 1e17])
def test_every_number_is_a_time_or_none(number: float) -> None:
    time_us = parse_time_us(number)
    if time_us is not None:
        assert from_us(time_us).date() == day_of(time_us)
