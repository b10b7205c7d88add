"""Read response headers: server time, how long to wait, how much of the quota is used. Pure.

A header that cannot be read is ignored.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeGuard

import orjson

from convo_pipeline.graph.retry import MAX_BLOCK_SECONDS

APP_USAGE = "X-App-Usage"
PAGE_USAGE = "X-Page-Usage"
BUSINESS_USAGE = "X-Business-Use-Case-Usage"
_PERCENTAGES = ("call_count", "total_time", "total_cputime")
_VERSION = re.compile(r"v\d{1,3}\.\d{1,3}", re.ASCII)
_SECONDS = re.compile(r"(\d+)(?:\.\d*)?", re.ASCII)
_LONGEST_NUMBER = 9
"""More digits are longer than every wait."""
_warned: set[str] = set()


def server_time(headers: Mapping[str, str]) -> datetime | None:
    """Return the Date header in UTC."""
    return _parse_date(headers.get("Date", ""))


def api_version(headers: Mapping[str, str]) -> str | None:
    """Return the API version that served the response; None if the header has another form.

    >>> [api_version({"Facebook-API-Version": text}) for text in ("v25.0", "25")]
    ['v25.0', None]
    """
    version = headers.get("Facebook-API-Version", "")
    return version if _VERSION.fullmatch(version) else None


def wait_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long Meta asks to wait: the longest time of its usage header and of Retry-After.

    At most a day, as no block is longer. `now` is the server's time, for a date in Retry-After.

    >>> wait_seconds({"Retry-After": "7"}, datetime(2026, 1, 1, tzinfo=UTC))
    7.0
    """
    times = [
        min(minutes, MAX_BLOCK_SECONDS) * 60.0
        for entry in _business_entries(headers)
        if _is_number(minutes := entry.get("estimated_time_to_regain_access")) and minutes > 0
    ]
    text = headers.get("Retry-After", "").strip()
    if match := _SECONDS.fullmatch(text):
        digits = match[1].lstrip("0") or "0"
        times.append(float(text) if len(digits) <= _LONGEST_NUMBER else MAX_BLOCK_SECONDS)
    elif moment := _parse_date(text):
        times.append(max((moment - now).total_seconds(), 0.0))
    return min(max(times), MAX_BLOCK_SECONDS) if times else None


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
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


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
