"""Schedules: the next time is the one that Dagster computes, and a wrong expression is refused."""

from datetime import UTC, datetime

import pytest
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string

from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import ScheduleSettings, next_time, parse_settings

CAPTURES = [
    str(ScheduleSettings(capture_minutes=minutes).capture) for minutes in (1, 7, 60, 719, 720)
]
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
    "0 0 L * *",
    "0 0 * * 1#2",
    "* * */2 * */5",
]


@pytest.mark.parametrize("cron", CRONS + CAPTURES)
def test_next_times_equal_dagsters(cron: str) -> None:
    now = datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC)
    dagsters = cron_string_iterator(now.timestamp(), cron, "UTC")
    for _ in range(6):
        now = next_time(cron, now)
        assert now == next(dagsters)


@pytest.mark.parametrize("cron", CRONS)
def test_an_accepted_expression_loads_in_dagster(cron: str) -> None:
    settings = parse_settings(f'[schedule]\nnightly = "{cron}"'.encode())
    assert is_valid_cron_string(settings.schedule.nightly)


@pytest.mark.parametrize(
    "cron",
    [
        "61 0 * * *",
        "0 0 30 2 *",
        "a b c d e",
        "0 0 * *",
        "0 0 * * * *",
        "@daily",
        "0 0 15W * *",
        "R 0 * * *",
        "H 0 * * *",
    ],
)
def test_a_wrong_expression_is_refused_with_its_key(cron: str) -> None:
    """Expressions that never come, or that Dagster reads otherwise, are wrong too."""
    with pytest.raises(SettingsError, match=r"schedule\.nightly: must be five cron fields"):
        parse_settings(f'[schedule]\nnightly = "{cron}"'.encode())
