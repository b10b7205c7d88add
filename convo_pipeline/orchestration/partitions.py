"""Partition keys, ranges and windows: how Dagster names accounts and days.

Keys are `account|YYYY-MM-DD`; days are UTC; windows are half-open.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from convo_pipeline.settings import AccountSettings, Settings

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
SHARD_TAG = "convo/shard"
ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, order=True)
class Window:
    """Days [since, until) that one run requests."""

    since: date
    until: date

    @property
    def days(self) -> list[date]:
        return [self.since + ONE_DAY * index for index in range((self.until - self.since).days)]

    @property
    def last(self) -> date:
        return self.until - ONE_DAY


def key_of(account: str, day: date) -> str:
    """Return the partition key of an account and a day.

    >>> key_of("bakery", date(2026, 11, 21))
    'bakery|2026-11-21'
    """
    return f"{account}|{day.isoformat()}"


def split_key(key: str) -> tuple[str, date]:
    """Return the account and the day of a partition key."""
    account, day = str(key).split("|")
    return account, date.fromisoformat(day)


def by_account(keys: Iterable[str]) -> dict[str, list[date]]:
    """Return the sorted days of each account in these partition keys."""
    days: dict[str, list[date]] = defaultdict(list)
    for account, day in map(split_key, keys):
        days[account].append(day)
    return {account: sorted(set(account_days)) for account, account_days in days.items()}


def windows_of(days: Sequence[date]) -> list[Window]:
    """Join consecutive days to windows.

    >>> days = [date(2026, 1, day) for day in (1, 2, 5)]
    >>> [(window.since.day, window.until.day) for window in windows_of(days)]
    [(1, 3), (5, 6)]
    """
    windows: list[Window] = []
    for day in sorted(days):
        if windows and windows[-1].until == day:
            windows[-1] = Window(windows[-1].since, day + ONE_DAY)
        else:
            windows.append(Window(day, day + ONE_DAY))
    return windows


def starts_by_end(days: Mapping[str, Sequence[date]]) -> dict[date, dict[str, date]]:
    """Return the windows by their end: the first day of each account that reads up to it.

    >>> days = [date(2026, 1, day) for day in (1, 2, 5)]
    >>> starts_by_end({"bakery": days, "bikes": days[1:2]})[date(2026, 1, 3)]
    {'bakery': datetime.date(2026, 1, 1), 'bikes': datetime.date(2026, 1, 2)}
    """
    starts: dict[date, dict[str, date]] = defaultdict(dict)
    for account, account_days in days.items():
        for window in windows_of(account_days):
            starts[window.until][account] = window.since
    return dict(sorted(starts.items()))


def accounts_by_window(windows: Mapping[str, Window]) -> dict[Window, list[str]]:
    """Return the accounts of each window, the earliest window first."""
    shared: dict[Window, list[str]] = defaultdict(list)
    for account, window in windows.items():
        shared[window].append(account)
    return dict(sorted(shared.items()))


def since_start(
    accounts: Sequence[AccountSettings], days: Mapping[str, Sequence[date]]
) -> dict[str, list[date]]:
    """Return the days from each account's start date on; accounts without any are left out."""
    starts = {account.name: account.start_date for account in accounts}
    kept = {
        name: [day for day in account_days if day >= starts[name]]
        for name, account_days in days.items()
    }
    return {name: account_days for name, account_days in kept.items() if account_days}


ACCOUNTS_TAG, DAYS_TAG = DESCRIBING_TAGS = ("convo/accounts", "convo/days")
"""Tags for the list of runs. A capture and an upkeep read their accounts from the tag: their names,
separated by commas. Other runs have range tags.
"""


def range_tags(accounts: Sequence[str], window: Window) -> dict[str, str]:
    """Return the tags of one run over a window and accounts that are neighbours in `convo.toml`.

    Two of them tell accounts and days in the list of runs.
    """
    return {
        RANGE_START: key_of(accounts[0], window.since),
        RANGE_END: key_of(accounts[-1], window.last),
        **describing_tags(accounts, window.since, window.last),
    }


def describing_tags(accounts: Sequence[str], first: date, last: date) -> dict[str, str]:
    """Return the tags that tell accounts and days in the list of runs.

    >>> describing_tags(["bakery", "bikes"], date(2026, 1, 2), date(2026, 1, 2))
    {'convo/accounts': 'bakery and 1 more', 'convo/days': '2026-01-02'}
    """
    more = f" and {len(accounts) - 1:,} more" if len(accounts) > 1 else ""
    days = f"{first}" if first == last else f"{first} to {last}"
    return {ACCOUNTS_TAG: f"{accounts[0]}{more}", DAYS_TAG: days}


def shards_of(settings: Settings) -> list[list[str]]:
    """Divide all accounts into shards of `[schedule] accounts_per_run`, in the order of the file.

    An account belongs to one shard. Adding an account at the end moves no other one.
    """
    names = [account.name for account in settings.accounts]
    size = settings.schedule.accounts_per_run or max(1, len(names))
    return [names[first : first + size] for first in range(0, len(names), size)]


def shard_tags(shards: Sequence[Sequence[str]], number: int, kind: str) -> dict[str, str]:
    """Return the tag of a shard's run; none if there is one shard. A run queue can limit by it.

    >>> shard_tags([["bakery"], ["bikes"]], 2, "nightly")
    {'convo/shard': 'nightly 2 of 2'}
    """
    return {SHARD_TAG: f"{kind} {number} of {len(shards)}"} if len(shards) > 1 else {}


def tagged_accounts(tags: Iterable[tuple[str, str]]) -> list[str]:
    """Read the accounts from a run's tags; none means all.

    >>> tagged_accounts({"convo/accounts": "bakery,bikes"}.items()), tagged_accounts([])
    (['bakery', 'bikes'], [])
    """
    return [name for name in dict(tags).get(ACCOUNTS_TAG, "").split(",") if name]


def neighbours(settings: Settings, accounts: Iterable[str]) -> list[list[str]]:
    """Split accounts into groups of neighbours in `convo.toml`: a range tag covers one group."""
    wanted = set(accounts)
    groups: list[list[str]] = [[]]
    for account in settings.accounts:
        if account.name in wanted:
            groups[-1].append(account.name)
        elif groups[-1]:
            groups.append([])
    return [group for group in groups if group]
