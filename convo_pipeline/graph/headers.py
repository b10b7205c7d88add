"""Read response headers: server time, how long to wait, how much of the quota is used. Pure.

A header that cannot be read is ignored.
"""

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeGuard

import orjson

APP_USAGE = "X-App-Usage"
PAGE_USAGE = "X-Page-Usage"
BUSINESS_USAGE = "X-Business-Use-Case-Usage"
_PERCENTAGES = ("call_count", "total_time", "total_cputime")
_warned: set[str] = set()


def server_time(headers: Mapping[str, str]) -> datetime | None:
    """Return the Date header in UTC."""
    return _parse_date(headers.get("Date", ""))


def wait_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long Meta asks to wait: the longest time of its usage header and of Retry-After.

    >>> wait_seconds({"Retry-After": "7"}, datetime(2026, 1, 1, tzinfo=UTC))
    7.0
    """
    times = [
        minutes * 60.0
        for entry in _business_entries(headers)
        if _is_number(minutes := entry.get("estimated_time_to_regain_access")) and minutes > 0
    ]
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        times.append(float(text))
    elif moment := _parse_date(text):
        times.append(max((moment - now).total_seconds(), 0.0))
    return max(times, default=None)


def usage_percent(headers: Mapping[str, str]) -> float | None:
    """Return the highest percentage of all usage headers, or None if there is none.

    >>> usage_percent({"X-App-Usage": '{"call_count":28,"total_time":25,"total_cputime":25}'})
    28.0
    """
    entries = [
        *_business_entries(headers),
        *_read_objects(headers, APP_USAGE),
        *_read_objects(headers, PAGE_USAGE),
    ]
    values = [entry.get(name) for entry in entries for name in _PERCENTAGES]
    return max((float(value) for value in values if _is_number(value)), default=None)


def _parse_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _business_entries(headers: Mapping[str, str]) -> Iterator[dict[str, object]]:
    for by_object in _read_objects(headers, BUSINESS_USAGE):
        for entries in by_object.values():
            if isinstance(entries, list):
                yield from (entry for entry in entries if isinstance(entry, dict))


def _read_objects(headers: Mapping[str, str], name: str) -> Iterator[dict[str, object]]:
    text = headers.get(name)
    if not text:
        return
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        yield value
    elif name not in _warned:
        _warned.add(name)
        logging.getLogger(__name__).warning("the header %s cannot be read and is ignored", name)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
