"""When a schedule comes next: five cron fields, UTC. Pure; Dagster's own reading of them is what the tests compare with."""

from datetime import datetime, timedelta

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FURTHEST_DAYS = 366 * 8
"""29 February may be eight years away."""


def capture_cron(minutes: int) -> str:
    """Spell "every so many minutes"; from an hour on in whole hours.

    >>> capture_cron(15), capture_cron(90)
    ('*/15 * * * *', '0 */1 * * *')
    """
    return f"*/{minutes} * * * *" if minutes < 60 else f"0 */{minutes // 60} * * *"


def next_time(cron: str, after: datetime) -> datetime | None:
    """Return the first time later than `after`; None for a field that is not plain cron, or a time that never comes.

    >>> from datetime import UTC
    >>> next_time("15 0 * * *", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)).isoformat()
    '2026-11-23T00:15:00+00:00'
    """
    try:
        minutes, hours, days, months, weekdays = _read(cron)
    except ValueError:
        return None
    _, _, day_field, _, weekday_field = cron.split()
    is_either = not day_field.startswith("*") and not weekday_field.startswith("*")
    start = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
    for index in range(FURTHEST_DAYS):
        day = start + timedelta(days=index)
        fits = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month in months and (any(fits) if is_either else all(fits)):
            times = (
                day.replace(hour=hour, minute=minute)
                for hour in sorted(hours)
                for minute in sorted(minutes)
            )
            found = next((time for time in times if time >= start), None)
            if found:
                return found
    return None


def _read(cron: str) -> tuple[set[int], set[int], set[int], set[int], set[int]]:
    minute, hour, day, month, weekday = cron.lower().split()
    weekdays = _values(weekday, 0, 7, WEEKDAYS, 0)
    return (
        _values(minute, 0, 59),
        _values(hour, 0, 23),
        _values(day, 1, 31),
        _values(month, 1, 12, MONTHS, 1),
        {value % 7 for value in weekdays},
    )


def _values(
    field: str, least: int, most: int, names: tuple[str, ...] = (), first: int = 0
) -> set[int]:
    """Read one field: `*`, numbers or names, ranges, steps and lists of these; ValueError for anything else."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = ("-".join((str(least), str(most))) if span == "*" else span).partition("-")
        begin = _number(low, names, first)
        end = _number(high, names, first) if high else most if step else begin
        if not (least <= begin <= end <= most) or (step and int(step) < 1):
            raise ValueError(field)
        found.update(range(begin, end + 1, int(step or 1)))
    return found


def _number(text: str, names: tuple[str, ...], first: int) -> int:
    return names.index(text) + first if text in names else int(text)
