"""A capture: ask every account what is new, often, so that nothing leaves the newest 20 unread.

It promises no range; it stores what the listing's head brings and derives what became stale by it.
An account whose lock another run holds is left to that run.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from convo_pipeline.derive import stale_days
from convo_pipeline.errors import BusyError
from convo_pipeline.extract.run import AccountReport
from convo_pipeline.lake.files import Store
from convo_pipeline.orchestration.assets import (
    Log,
    changed,
    derive,
    derive_figures,
    extract_windows,
    open_store,
    remedy,
)
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.outcome import Outcome
from convo_pipeline.orchestration.partitions import ONE_DAY, Window, accounts_by_window, since_start


def run_capture(deployment: Deployment, log: Log) -> Outcome:
    """Ask all accounts for the last captures' time and derive what changed."""
    outcome, accounts = Outcome(), deployment.settings.accounts
    window = capture_window(deployment.clock.now(), deployment.settings.schedule.capture_minutes)
    with open_store(deployment) as store:
        free = [account.name for account in accounts if is_free(store, account.name)]
        days = since_start(accounts, dict.fromkeys(free, window.days))
        reports = extract_windows(deployment, store, accounts_by_window(days))
        outcome.failures.update({report.account: remedy(report) for report in reports if report.outcome == "failed"})
        outcome.extra.update(changed(commit for report in reports for commit in report.commits))
        _derive_stale(deployment, store, reports, outcome)
    log(f"{len(reports)} accounts asked, {len(outcome.extra)} partitions changed, {len(outcome.failures)} failed")
    return outcome


def capture_window(now: datetime, capture_minutes: int) -> Window:
    """Cover today and, just after midnight, the end of yesterday that the last capture could not see."""
    margin = timedelta(minutes=2 * max(capture_minutes, 1))
    return Window((now - margin).date(), now.date() + ONE_DAY)


def is_free(store: Store, account: str) -> bool:
    """Whether no other run works on the account."""
    try:
        with store.lock_account(account):
            return True
    except BusyError:
        return False


def _derive_stale(deployment: Deployment, store: Store, reports: Iterable[AccountReport], outcome: Outcome) -> None:
    for report in reports:
        for day in stale_days(store, report.account):
            outcome.extra.update(changed(derive(store, report.account, day, outcome) or ()))
        outcome.extra.update(changed(derive_figures(deployment, store, report.account, outcome)))
