"""Accounts × a window of dates: every account by itself, several at a time, one report each.

One account's failure is its report's, never its neighbours'.
"""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from datetime import date

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.threads import ThreadPool, rare_garbage_collection
from convo_pipeline.errors import SettingsError
from convo_pipeline.extract.account import AccountRun
from convo_pipeline.extract.plan import Mode
from convo_pipeline.extract.report import AccountReport, Progress
from convo_pipeline.extract.spool import delete_old_spools
from convo_pipeline.lake.ledger import export_runs, restore_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings

ACCOUNTS_IN_FLIGHT = 64
"""They wait for answers nearly all of the time."""
LOADS_IN_FLIGHT = 4
WAKE_SECONDS = 0.5
"""The main thread wakes so often: a signal that the system handed to another thread is seen only by then."""

__all__ = ["AccountReport", "Mode", "Progress", "extract", "find"]


def extract(
    settings: Settings,
    store: Store,
    accounts: Sequence[str],
    since: date,
    until: date,
    *,
    mode: Mode = "window",
    on_progress: Callable[[Progress], None] | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = SYSTEM_CLOCK,
) -> list[AccountReport]:
    """Bring accounts × [since, until) into the raw tables; return one report per account, in the order asked.

    Raises SettingsError for an unknown account or a window that is none, StoreError where the store cannot be
    written at all; everything that concerns one account is in its report. An interrupt (Ctrl-C, SIGTERM) ends all
    accounts within seconds: their ledger lines say `stopped`, and what came waits in their spools.
    """
    if since >= until:
        raise SettingsError(f"since ({since}) must be before until ({until})")
    chosen = [settings.account(name) for name in accounts]
    store.preflight()
    if mode != "capture":
        restore_runs(store)
    run_id, loads, cancellation = (
        new_run_id(clock),
        ThreadPool(LOADS_IN_FLIGHT, thread_name_prefix="load"),
        Cancellation(),
    )
    watched, on_progress = cancellation.watch(clock), on_progress or _ignore
    runs = [
        AccountRun(
            settings,
            store,
            account,
            since,
            until,
            mode,
            run_id,
            on_progress,
            environ,
            watched,
            loads,
            cancellation,
        )
        for account in chosen
    ]
    try:
        with rare_garbage_collection(), loads:
            loads.submit(
                int
            ).result()  # one thread there is from now on, however little memory the accounts leave
            reports = _report_all(runs, cancellation)
        delete_old_spools(
            store.state_path, clock.now(), [account.name for account in settings.accounts]
        )
    finally:
        export_runs(store, run_id)
    return reports


def _report_all(runs: Sequence[AccountRun], cancellation: Cancellation) -> list[AccountReport]:
    """Do every account's work, side by side; one for which the others left too little memory is done again alone."""
    with ThreadPool(
        min(ACCOUNTS_IN_FLIGHT, max(1, len(runs))), thread_name_prefix="account"
    ) as pool:
        reports = _wait([pool.submit(run.report) for run in runs], cancellation)
        for place, run in enumerate(runs):
            if reports[place].reasons == ("memory",) and len(runs) > 1:
                (reports[place],) = _wait(
                    [pool.submit(run.report, earlier=reports[place].commits)], cancellation
                )
    return reports


def _wait(
    reports: Sequence["Future[AccountReport]"], cancellation: Cancellation
) -> list[AccountReport]:
    """Wait for reports; whatever ends this thread's wait ends the accounts' work within seconds."""
    try:
        waiting = set(reports)
        while waiting:
            done, waiting = wait(waiting, WAKE_SECONDS, FIRST_EXCEPTION)
            for each in done:
                each.result()
        return [each.result() for each in reports]
    except BaseException:
        cancellation.cancel()
        raise


def find(
    settings: Settings,
    store: Store,
    account: str,
    user_id: str,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = SYSTEM_CLOCK,
) -> tuple[AccountReport, list[str]]:
    """Refresh the conversation with one person; return the report and the ids found (none: an empty list)."""
    chosen = settings.account(account)
    store.preflight()
    today = clock.now().date()
    run = AccountRun(
        settings,
        store,
        chosen,
        chosen.start_date,
        today,
        "find",
        new_run_id(clock),
        _ignore,
        environ,
        clock,
    )
    report = run.report(user_id)
    return report, run.found


def new_run_id(clock: Clock) -> str:
    """Return a new id; ids sort by time."""
    return f"{clock.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def _ignore(progress: Progress) -> None:
    """Show no progress."""
