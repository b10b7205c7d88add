"""Values of response headers, as tables."""

from datetime import UTC, datetime

import pytest

from convo_pipeline.graph.headers import (
    APP_USAGE,
    BUSINESS_USAGE,
    PAGE_USAGE,
    server_time,
    usage_percent,
    wait_seconds,
)
from convo_pipeline.graph.retry import MAX_BLOCK_SECONDS

NOW = datetime(2026, 2, 19, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thu, 19 Feb 2026 09:00:00 GMT", NOW),
        ("Thu, 19 Feb 2026 09:00:00 -0000", NOW),
        ("Thu, 19 Feb 2026 10:00:00 +0100", NOW),
        ("Fri, 31 Dec 9999 23:59:59 -1200", None),
        ("soon", None),
        ("", None),
    ],
)
def test_server_time(text: str, expected: datetime | None) -> None:
    found = server_time({"Date": text})
    assert found == expected
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "Thu, 19 Feb 2026 09:01:00 GMT"}, 60.0),
        ({"Retry-After": "Thu, 19 Feb 2026 08:00:00 GMT"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "9999999999"}, MAX_BLOCK_SECONDS),
        ({"Retry-After": "9" * 5000}, MAX_BLOCK_SECONDS),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, MAX_BLOCK_SECONDS),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -1200"}, None),
        ({"Retry-After": "\u0667"}, None),
        ({BUSINESS_USAGE: '{"17": [{"estimated_time_to_regain_access": 19}]}'}, 1140.0),
        (
            {BUSINESS_USAGE: '{"17": [{"estimated_time_to_regain_access": 1e308}]}'},
            MAX_BLOCK_SECONDS,
        ),
        ({BUSINESS_USAGE: '{"17": [{"estimated_time_to_regain_access": 0}]}'}, None),
        ({BUSINESS_USAGE: '{"17": [{"estimated_time_to_regain_access": true}]}'}, None),
        ({BUSINESS_USAGE: '{"17": {"estimated_time_to_regain_access": 19}}'}, None),
        (
            {
                BUSINESS_USAGE: '{"17": [{"estimated_time_to_regain_access": 1}], "18": [5]}',
                "Retry-After": "70",
            },
            70.0,
        ),
    ],
)
def test_wait_seconds(headers: dict[str, str], expected: float | None) -> None:
    assert wait_seconds(headers, NOW) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({APP_USAGE: '{"call_count": 28, "total_time": 30.5, "total_cputime": 25}'}, 30.5),
        ({PAGE_USAGE: '{"total_cputime": 99}', APP_USAGE: '{"call_count": 5}'}, 99.0),
        ({BUSINESS_USAGE: '{"17": [{"call_count": 81}, {"total_time": 7}]}'}, 81.0),
        ({APP_USAGE: '{"call_count": true}'}, None),
        ({APP_USAGE: "[]"}, None),
        ({APP_USAGE: "{"}, None),
    ],
)
def test_usage_percent(headers: dict[str, str], expected: float | None) -> None:
    assert usage_percent(headers) == expected
