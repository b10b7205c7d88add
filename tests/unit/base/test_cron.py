"""When a schedule comes next, as Dagster itself will say."""

from datetime import UTC, datetime, timedelta

import pytest
from dagster._utils.schedules import cron_string_iterator

from convo_pipeline.base.cron import capture_cron, next_time

CRONS = [
    "15 0 * * *",
    "*/15 * * * *",
    "0 */6 * * *",
    "30 3 1 * *",
    "0 0 29 2 *",
    "5,35 8-18/2 * * 1-5",
    "0 9 13 * fri",
    "0 7 * jan,jul sun",
    "0 0 * * 7",
    *(capture_cron(minutes) for minutes in (1, 7, 60, 719, 720)),
]


@pytest.mark.parametrize("cron", CRONS)
def test_the_next_times_are_those_of_dagster(cron: str) -> None:
    now = datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC)
    theirs = cron_string_iterator(now.timestamp(), cron, "UTC")
    for _ in range(6):
        found = next_time(cron, now)
        assert found == next(theirs)
        assert found is not None
        now = found


@pytest.mark.parametrize(
    "cron", ["0 0 L * *", "0 0 * * 1#2", "61 0 * * *", "0 0 30 2 *", "a b c d e", "0 0 5-3 * *"]
)
def test_what_is_not_plain_cron_or_never_comes_has_no_next_time(cron: str) -> None:
    assert next_time(cron, datetime(2026, 11, 22, tzinfo=UTC) + timedelta(hours=3)) is None
