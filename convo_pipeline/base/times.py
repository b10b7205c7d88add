"""Times: Graph API values, whole microseconds since 1970 (`_us`) and UTC dates. Pure."""

import re
from datetime import UTC, date, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2004, 1, 1, tzinfo=UTC)
"""No conversation on these platforms is older: an earlier time is wrong."""
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
EARLIEST_US = 1_072_915_200 * SECOND_US

_ISO_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r"\s*(?:(Z)|([+-])(\d\d):?(\d\d))?",
    re.IGNORECASE | re.ASCII,
)
_UNIX_TIME = re.compile(r"-?\d{1,16}(?:\.\d{1,9})?", re.ASCII)
MILLISECONDS_FROM = 100_000_000_000
"""Larger unix numbers are milliseconds: as seconds they would be after the year 5138."""
FIRST_SECOND = -62_135_596_800
LAST_SECOND = 253_402_300_799


def to_us(moment: datetime) -> int:
    """Return an aware time as whole microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    """Return whole microseconds since 1970 as an aware UTC time."""
    return EPOCH + timedelta(microseconds=time_us)


def day_of(time_us: int) -> date:
    """Return the UTC date of a time."""
    return date.fromordinal(EPOCH.toordinal() + time_us // DAY_US)


def day_start_us(day: date) -> int:
    """Return the first microsecond of a UTC date."""
    return (day.toordinal() - EPOCH.toordinal()) * DAY_US


def parse_time_us(value: object) -> int | None:
    """Return a Graph API time as microseconds since 1970, or None if it is not a time.

    Times before the year 1 or after 9999 in UTC are none, because no date can hold them.

    >>> parse_time_us("2026-02-19T08:57:24+0000")
    1771491444000000
    """
    if isinstance(value, str) and len(value) == 24 and value[4:20:3] == "--T::+":
        try:
            seconds = int(datetime.fromisoformat(value).timestamp())
        except ValueError:
            return None
        return seconds * SECOND_US if FIRST_SECOND <= seconds <= LAST_SECOND else None
    moment = parse_time(value)
    return None if moment is None else to_us(moment)


def parse_time(value: object) -> datetime | None:
    """Return any time format of the Graph API as an aware UTC time, or None if it is not a time.

    >>> parse_time("2019-04-24T10:38:15+0000").isoformat()
    '2019-04-24T10:38:15+00:00'
    >>> seconds, milliseconds, text = 1556102295, "1556102295000", "2019-04-24T12:38:15.000+02:00"
    >>> parse_time(seconds) == parse_time(milliseconds) == parse_time(text)
    True
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _unix_time(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    match = _ISO_TIME.fullmatch(text)
    if match:
        return _iso_time(match)
    if not _UNIX_TIME.fullmatch(text):
        return None
    return _unix_time(float(text) if "." in text else int(text))


def _iso_time(match: re.Match[str]) -> datetime | None:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    microsecond = int((match[7] or "0").ljust(6, "0")[:6])
    try:
        local = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=UTC)
        if not match[9]:
            return local
        offset = int(match[10]) * 3600 + int(match[11]) * 60
        sign = 1 if match[9] == "-" else -1
        return datetime.fromtimestamp(local.timestamp() + sign * offset, UTC) if offset else local
    except (ValueError, OverflowError, OSError):
        return None


def _unix_time(number: int | float) -> datetime | None:
    if abs(number) > LAST_SECOND * 1000:
        return None
    seconds = number / 1000 if abs(number) >= MILLISECONDS_FROM else number
    if not -LAST_SECOND <= seconds <= LAST_SECOND:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
