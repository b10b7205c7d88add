"""The two steps, extract and normalise: what they store, and which accounts failed.

An error of one account fails that account and no other. The steps do not need Dagster: the command
line runs them directly, and the assets report their results to Dagster.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TypeVar

from convo_pipeline import schema
from convo_pipeline.derive.account_days import derive_account_days, read_rules, stale_account_days
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.derive.rederive import (
    Scope,
    finish_rederivation,
    plan_rederivation,
    rederive_day,
)
from convo_pipeline.errors import SettingsError, StoreError, UnreadableError
from convo_pipeline.extract.report import (
    AccountReport,
    Mode,
    Progress,
    figures_in,
    missed_in,
)
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.nights import catch_up
from convo_pipeline.orchestration.partitions import (
    ONE_DAY,
    Window,
    by_account,
    key_of,
    since_start,
    starts_by_end,
)
from convo_pipeline.orchestration.sandbox import emulator_if_needed
from convo_pipeline.reasons import Interface, describe_error, describe_outcome, is_settled
from convo_pipeline.settings import Settings
from convo_pipeline.state.access import open_database, open_locks
from convo_pipeline.storage.locks import Locks

RAW = tuple(table.name for table in schema.RAW)
DERIVED = tuple(table.name for table in schema.DERIVED)
FORCED: frozenset[Scope] = frozenset({"asked", "all"})
"""Scopes that derive current days again."""
MOST_LINES = 5
"""Accounts that have a line of their own in a run's log."""
UNREAD = "stored with other days or by a capture: no complete run has read this day yet"
BEFORE_START = "not requested: before the account's start_date"
Days = Mapping[str, Sequence[date]]
"""The days of each account."""
Log = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class StoredDay:
    """A requested day of an account whose tables are stored completely."""

    account: str
    day: date
    tables: Sequence[str]
    note: str | None = None


@dataclass
class StepResult:
    """What a step stored, and which accounts failed, with a reason and a remedy."""

    interface: Interface = "page"
    requested: list[StoredDay] = field(default_factory=list)
    """Days that complete runs have read, among those that the step must store."""
    unrequested: list[Commit] = field(default_factory=list)
    """Changed partitions of other days."""
    drawable: dict[str, Sequence[date]] = field(default_factory=dict)
    """The derived days of each account whose figures are complete."""
    changed_accounts: set[str] = field(default_factory=set)
    """Accounts with a file that changed."""
    failures: dict[str, str] = field(default_factory=dict)
    reports: Sequence[AccountReport] = ()
    changed_count: int = 0
    """Partitions whose files changed, those of failed accounts included."""

    def attempt(self, account: str, work: Callable[[], T]) -> T | None:
        """Return what `work` returns; an error fails this account alone, and None is returned."""
        try:
            return work()
        except Exception as error:
            self.failures[account] = f"{account}: {describe_error(error, self.interface)}"
        return None

    def add_commits(self, commits: Iterable[Commit], requested_days: Iterable[date] = ()) -> None:
        """Count the changed partitions, and keep those of other days than the requested ones."""
        requested = set(requested_days)
        for commit in commits:
            self.changed_count += commit.is_changed
            if commit.is_changed:
                self.changed_accounts.add(commit.account)
            if commit.is_changed and commit.date not in requested:
                self.unrequested.append(commit)


@contextmanager
def run_locks(deployment: Deployment) -> Iterator[Locks]:
    """Open the locks that show which runs live, on a session of their own."""
    settings = deployment.settings.store
    with closing(open_database(settings)) as database:
        yield open_locks(settings, database)


@contextmanager
def hold_run(deployment: Deployment, run_id: str) -> Iterator[None]:
    """Hold the lock that shows that a run lives.

    A state that cannot be written is reported by the store, for each account.
    """
    with ExitStack() as stack:
        with suppress(StoreError):
            locks = stack.enter_context(run_locks(deployment))
            stack.enter_context(locks.run(run_id))
        yield


def read_keys(settings: Settings, store: Store, keys: Iterable[str]) -> set[str]:
    """Return those of the partition keys whose day a complete run of the account has read.

    There is nothing to read before an account's start date.
    """
    starts = {account.name: account.start_date for account in settings.accounts}
    read: set[str] = set()
    for account, days in by_account(keys).items():
        start = starts.get(account, date.min)
        spans = [(date.min, start), *store.state.requested_spans(account)]
        read |= {
            key_of(account, day)
            for day in days
            if any(since <= day < until for since, until in spans)
        }
    return read


# extract


def run_extract(
    deployment: Deployment, store: Store, requested: Days, log: Log, mode: Mode = "window"
) -> StepResult:
    """Extract these days, all accounts in parallel.

    In the mode `nightly` each account also reads the earlier days that it lacks. Raise
    SettingsError if every day is before its account's start date.
    """
    if mode == "nightly":
        requested = catch_up(deployment.settings, requested, store.state)
    days = since_start(deployment.settings.accounts, requested)
    skipped = sorted(requested.keys() - days.keys())
    if skipped:
        log(f"skipped, because all days are before start_date: {list_some(skipped)}")
    if not days:
        raise SettingsError("nothing to extract: every day is before its account's start_date")
    reports = extract_days(deployment, store, days, mode)
    for line in summarize(reports):
        log(line)
    return _collect_extracted(deployment, requested, days, reports)


def extract_days(
    deployment: Deployment, store: Store, days: Days, mode: Mode
) -> list[AccountReport]:
    """Extract these days; return a report per account and window of consecutive days."""
    reports: list[AccountReport] = []
    with emulator_if_needed(deployment.settings, deployment.environ) as (settings, environ):
        for until, starts in starts_by_end(days).items():
            reports += extract(
                settings,
                store,
                list(starts),
                starts,
                until,
                mode=mode,
                wait_seconds=deployment.wait_seconds,
                on_progress=deployment.on_progress,
                environ=environ,
                clock=deployment.clock,
            )
    if deployment.on_reports:
        deployment.on_reports(reports)
    return reports


def summarize(reports: Sequence[AccountReport]) -> Iterator[str]:
    """Yield the lines of a run's log: one for each account, or one for all if there are many.

    The step's failure names the accounts that failed, and how many are complete.

    >>> ended = [AccountReport("bakery", "complete"), AccountReport("bikes", "failed")]
    >>> list(summarize(ended))
    ['bakery: complete, 0 calls']
    >>> list(summarize([ended[0], AccountReport("bikes", "complete")]))[-1]
    '2 of 2 accounts complete, 0 calls'
    """
    complete = [report for report in reports if report.outcome == "complete"]
    if len(reports) <= MOST_LINES:
        for report in complete:
            yield f"{report.account}: complete, {describe_calls([report])}"
    missed = missed_in(reports)
    if missed:
        yield f"{missed:,} messages had been MISSED by earlier runs"
    if len(reports) > 1 and all(is_settled(each.outcome, each.reasons) for each in reports):
        count = f"{len(complete):,} of {len(reports):,} accounts complete"
        yield f"{count}, {describe_calls(reports)}"


def describe_calls(reports: Sequence[AccountReport]) -> str:
    """Return how many calls the reports' runs made, and how many the API refused."""
    cost = figures_in(reports)
    refused = f", {cost.refused:,} of them refused" if cost.refused else ""
    return f"{cost.used:,} calls{refused}"


def list_some(names: Sequence[str]) -> str:
    """Return the names, the first ones only if there are many."""
    more = len(names) - MOST_LINES
    shown = ", ".join(names[:MOST_LINES])
    return f"{shown} and {more:,} more" if more > 0 else shown


def describe_failure(deployment: Deployment, report: AccountReport) -> str:
    """Say in one line why an account's run is not complete and what to do about it."""
    why = describe_outcome(report.outcome, report.reasons, report.error, deployment.interface)
    return f"{report.account}: {why}"


def _collect_extracted(
    deployment: Deployment, requested: Days, days: Days, reports: Sequence[AccountReport]
) -> StepResult:
    """Collect the days of complete accounts, and all other partitions whose files changed.

    What the API refuses for good fails no run: the check `no_failed_accounts` names it.
    """
    result = StepResult(deployment.interface, reports=reports)
    for report in reports:
        if not is_settled(report.outcome, report.reasons):
            result.failures[report.account] = describe_failure(deployment, report)
        result.add_commits(report.commits, days.get(report.account, ()))
    for account in sorted(requested.keys() - result.failures.keys()):
        for day in requested[account]:
            note = None if day in days.get(account, ()) else BEFORE_START
            result.requested.append(StoredDay(account, day, RAW, note))
    return result


# normalise


def run_normalise(
    deployment: Deployment, store: Store, requested: Days, scope: Scope = "asked"
) -> StepResult:
    """Derive the days as the scope says, then all other stale days of their accounts.

    The scope `changed` follows an extract run. So it includes the earlier days that the nightly run
    of the same days read because they were missing.
    """
    result = StepResult(deployment.interface)
    for account, days in requested.items():
        caught_up = _days_caught_up(store, account, max(days)) if scope == "changed" else []
        all_days = sorted({*days, *caught_up})
        _normalise_account(deployment, store, account, all_days, scope, result)
    return result


def _days_caught_up(store: Store, account: str, last_day: date) -> list[date]:
    """Return the days of the account's last complete nightly run, if it ends with this day."""
    night = store.state.last_complete(account, "nightly")
    if night is None or night.since is None or night.until != last_day + ONE_DAY:
        return []
    return Window(night.since, night.until).days


def _normalise_account(
    deployment: Deployment,
    store: Store,
    account: str,
    days: Sequence[date],
    scope: Scope,
    result: StepResult,
) -> None:
    def report_progress(step: str, count: int) -> None:
        if deployment.on_progress:
            progress = Progress(account, step, count)
            result.attempt(account, partial(deployment.on_progress, progress))

    plan = result.attempt(account, lambda: plan_rederivation(store, account, scope, days))
    if plan is None:
        return
    report_progress("days", len(plan.days))
    if scope in ("stale", "all"):
        report_progress("days done", plan.done_count)
    read = read_keys(deployment.settings, store, (key_of(account, day) for day in days))
    read_days = [day for day in days if key_of(account, day) in read]
    derived_days = set()
    for day in plan.remaining_days:
        commits = result.attempt(account, partial(rederive_day, store, plan, day))
        if commits is not None:
            derived_days.add(day)
            result.add_commits(commits, read_days)
        report_progress("partitions", len(commits or ()))
    complete_days = [day for day in days if day in derived_days or day not in plan.remaining_days]
    for day in result.attempt(account, lambda: stale_days(store, account)) or ():
        if day not in days:
            result.add_commits(derive(store, account, day, result))
    figures = derive_figures(
        deployment, store, account, result, complete_days if scope in FORCED else derived_days
    )
    tables = [name for name in DERIVED if name != schema.ACCOUNT_DAYS.name or figures is not None]
    result.add_commits(figures or (), read_days)
    stored_days = [day for day in complete_days if day in read_days]
    start = deployment.settings.account(account).start_date
    result.requested += [
        StoredDay(account, day, tables, BEFORE_START if day < start else None)
        for day in stored_days
    ]
    if figures is not None:
        result.drawable[account] = stored_days
        result.attempt(account, lambda: finish_rederivation(store, plan, derived_days))


def derive(store: Store, account: str, day: date, result: StepResult) -> list[Commit]:
    """Derive one day; a damaged file fails its account and no other day."""
    return result.attempt(account, lambda: derive_day(store, account, day)) or []


def derive_figures(
    deployment: Deployment,
    store: Store,
    account: str,
    result: StepResult,
    days: Iterable[date] = (),
) -> list[Commit] | None:
    """Derive `account_days` of these days and of all stale days; return None if that failed.

    Return only commits that changed a figure: most days near a new message change only their
    source.
    """
    table = schema.ACCOUNT_DAYS.name

    def derive_stale() -> list[Commit]:
        rules = read_rules(store, deployment.settings, account)
        wanted = {*stale_account_days(store, account, rules=rules), *days}
        before = {}
        for day in wanted:
            with suppress(UnreadableError):  # the day is derived again all the same
                before[day] = store.read(table, account, day)
        commits = derive_account_days(store, account, wanted, rules=rules)
        return [
            commit
            for commit in commits
            if store.read(table, account, commit.date) != before.get(commit.date)
        ]

    return result.attempt(account, derive_stale)
