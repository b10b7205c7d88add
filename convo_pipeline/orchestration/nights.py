"""Which days a nightly run and a sweep read of each account."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import date, timedelta

from convo_pipeline.orchestration.partitions import ONE_DAY, Window
from convo_pipeline.settings import AccountSettings, Settings
from convo_pipeline.state.access import has_state, open_database
from convo_pipeline.state.state import State

MOST_DAYS_BACK = 30


def recheck_window(settings: Settings, today: date) -> Window | None:
    """Return the days that every nightly run reads: the last `recheck_days`, up to yesterday.

    None if the first day of every account is not over.
    """
    first = min((account.start_date for account in settings.accounts), default=today)
    since = max(first, _recheck_start(settings, today))
    return Window(since, today) if since < today else None


def nightly_windows(
    settings: Settings, accounts: Iterable[AccountSettings], today: date, state: State | None
) -> dict[str, Window]:
    """Return the days of a nightly run of each account, up to yesterday.

    An account's days start at its oldest day without a complete run, at most 30 days back, and
    include the last `recheck_days`. An account whose first day is not over is left out.
    """
    windows = {}
    for account in accounts:
        recheck = _recheck_start(settings, today)
        since = max(account.start_date, _first_incomplete(account, recheck, today, state))
        if since < today:
            windows[account.name] = Window(since, today)
    return windows


def catch_up(
    settings: Settings, requested: Mapping[str, Sequence[date]], state: State
) -> dict[str, list[date]]:
    """Add to the requested days of a nightly run the earlier days that an account lacks."""
    days = {}
    for name, account_days in requested.items():
        today = max(account_days) + ONE_DAY
        windows = nightly_windows(settings, [settings.account(name)], today, state)
        missing = windows[name].days if name in windows else []
        days[name] = sorted({*account_days, *missing})
    return days


def sweep_window(settings: Settings, today: date) -> Window | None:
    """Return the days of a sweep: the last 30, up to yesterday; None if there are none."""
    first = min((account.start_date for account in settings.accounts), default=today)
    since = max(first, today - timedelta(days=MOST_DAYS_BACK))
    return Window(since, today) if since < today else None


@contextmanager
def open_ledger(settings: Settings) -> Iterator[State | None]:
    """Open the state; None if there is none yet: reading creates no file."""
    if not has_state(settings.store):
        yield None
        return
    with closing(State(open_database(settings.store))) as state:
        yield state


def _recheck_start(settings: Settings, today: date) -> date:
    return today - timedelta(days=max(1, settings.schedule.recheck_days))


def _first_incomplete(
    account: AccountSettings, recheck: date, today: date, state: State | None
) -> date:
    """Return the first day before `recheck` that no complete run after its end covers."""
    oldest = max(account.start_date, today - timedelta(days=MOST_DAYS_BACK))
    covered = state.complete_spans(account.name, oldest) if state else []
    days = Window(oldest, recheck).days
    return next(
        (day for day in days if not any(since <= day < until for since, until in covered)), recheck
    )
