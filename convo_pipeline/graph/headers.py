"""What answer headers say: server time, how long to wait, how much of the quota is used. Pure; bad headers say nothing."""

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
    """Return the Date header as UTC."""
    return _read_date(headers.get("Date", ""))


def _read_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def wait_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long Meta asks us to stay silent: the longest of its own header (minutes) and Retry-After.

    >>> wait_seconds({"Retry-After": "7"}, datetime(2026, 1, 1, tzinfo=UTC))
    7.0
    """
    times = [
        *_regain_seconds(headers),
        *_retry_after_seconds(headers.get("Retry-After", "").strip(), now),
    ]
    return max(times, default=None)


def _retry_after_seconds(text: str, now: datetime) -> Iterator[float]:
    if text.isascii() and text.isdigit() and len(text) < 10:
        yield float(text)
    elif moment := _read_date(text):
        yield max((moment - now).total_seconds(), 0.0)


def _regain_seconds(headers: Mapping[str, str]) -> Iterator[float]:
    for entry in _business_entries(headers):
        minutes = entry.get("estimated_time_to_regain_access")
        if _is_number(minutes) and minutes > 0:
            yield minutes * 60.0


def usage_percent(headers: Mapping[str, str]) -> float | None:
    """Return the highest usage any header reports; None if there is none.

    >>> usage_percent({"X-App-Usage": '{"call_count":28,"total_time":25,"total_cputime":25}'})
    28.0
    """
    entries = [
        *_business_entries(headers),
        *_objects(headers, APP_USAGE),
        *_objects(headers, PAGE_USAGE),
    ]
    values = [
        value for entry in entries for name in _PERCENTAGES if _is_number(value := entry.get(name))
    ]
    return float(max(values)) if values else None


def _business_entries(headers: Mapping[str, str]) -> Iterator[dict[str, object]]:
    for by_object in _objects(headers, BUSINESS_USAGE):
        for entries in by_object.values():
            yield from (
                (entry for entry in entries if isinstance(entry, dict))
                if isinstance(entries, list)
                else ()
            )


def _objects(headers: Mapping[str, str], name: str) -> Iterator[dict[str, object]]:
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
