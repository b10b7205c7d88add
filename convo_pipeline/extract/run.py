"""Extract a window of dates for several accounts at a time, with one report per account.

The failure of one account is in its report and stops no other account.
"""

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import suppress
from datetime import date

import pyarrow as pa

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.threads import ThreadPool, limit_memory_arenas, rare_garbage_collection
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.extract.account import AccountRun
from convo_pipeline.extract.report import AccountReport, Mode, Progress
from convo_pipeline.extract.run_data import share_of_memory
from convo_pipeline.extract.spool import SharedSpools, delete_old_spools
from convo_pipeline.lake.accounts import describe_account, save_accounts
from convo_pipeline.lake.ledger import export_runs, restore_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings

ACCOUNTS_IN_FLIGHT = 64
"""Accounts wait for responses nearly all of the time."""
LOADS_IN_FLIGHT = 4
WAKE_SECONDS = 0.5
"""The main thread wakes this often, to handle a signal that another thread received."""

__all__ = ["AccountReport", "Mode", "Progress", "extract", "find"]


def extract(
    settings: Settings,
    store: Store,
    accounts: Sequence[str],
    since: date | Mapping[str, date],
    until: date,
    *,
    mode: Mode = "window",
    wait_seconds: float = 0.0,
    on_progress: Callable[[Progress], None] | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = SYSTEM_CLOCK,
) -> list[AccountReport]:
    """Fetch accounts × [since, until) into the raw tables; return one report per account, in order.

    `since` is one day, or the day of each account. An account that another run works on is `busy`,
    after `wait_seconds`. Raise SettingsError for an unknown account or an
    empty window, StoreError if the store cannot be written at all. An interrupt (Ctrl-C, SIGTERM)
    ends all accounts within seconds: their ledger lines say `stopped`, and the next run stores the
    responses that are in their spools.
    """
    starts = since if isinstance(since, Mapping) else dict.fromkeys(accounts, since)
    for start in starts.values():
        if start >= until:
            raise SettingsError(f"since ({start}) must be before until ({until})")
    chosen = [settings.account(name) for name in accounts]
    store.preflight()
    # Arrow's own pool keeps some 10 MB for every thread that ever used it: one per account.
    pa.set_memory_pool(pa.system_memory_pool())
    limit_memory_arenas()
    if mode != "capture":
        restore_runs(store)
    run_id = new_run_id(clock)
    loads = ThreadPool(LOADS_IN_FLIGHT, thread_name_prefix="load")
    cancellation = Cancellation()
    rows_per_file = share_of_memory(min(len(chosen), ACCOUNTS_IN_FLIGHT) or 1)
    runs = [
        AccountRun(
            settings,
            store,
            account,
            starts[account.name],
            until,
            mode,
            run_id,
            on_progress or _ignore,
            environ,
            cancellation.watch(clock),
            loads,
            cancellation,
            rows_per_file,
            wait_seconds,
        )
        for account in chosen
    ]
    try:
        with rare_garbage_collection(), loads:
            loads.submit(int).result()  # start one thread before the accounts use the memory
            reports = _report_all(runs, cancellation)
        configured = [account.name for account in settings.accounts]
        with suppress(StoreError):  # The nightly upkeep does it again and reports the error.
            delete_old_spools(store.state_path, clock.now(), configured, SharedSpools.of(store))
    finally:
        export_runs(store, run_id)
        save_accounts(
            store, {each.name: describe_account(settings, store, each) for each in chosen}
        )
    return reports


def find(
    settings: Settings,
    store: Store,
    account: str,
    user_id: str,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = SYSTEM_CLOCK,
) -> tuple[AccountReport, list[str]]:
    """Refresh the conversation with one person; return the report and the conversation ids."""
    chosen = settings.account(account)
    store.preflight()
    run = AccountRun(
        settings,
        store,
        chosen,
        chosen.start_date,
        clock.now().date(),
        "find",
        new_run_id(clock),
        _ignore,
        environ,
        clock,
    )
    report = run.report(user_id)
    return report, run.found_ids


def new_run_id(clock: Clock) -> str:
    """Return a new id; ids sort by time."""
    return f"{clock.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def _report_all(runs: Sequence[AccountRun], cancellation: Cancellation) -> list[AccountReport]:
    """Run all accounts side by side; run an account that lacked memory again, alone.

    An exception in this thread cancels the accounts. Those that had not begun report it too.
    """
    threads = min(ACCOUNTS_IN_FLIGHT, max(1, len(runs)))
    futures: list[Future[AccountReport]] = []
    with ThreadPool(threads, thread_name_prefix="account") as pool:
        try:
            for run in runs:
                futures.append(pool.submit(run.report))
        except BaseException:
            cancellation.cancel()
            for run in runs[len(futures) :]:
                pool.submit(run.report)
            raise
        reports = _wait(futures, cancellation)
        for index, run in enumerate(runs):
            if reports[index].reasons == ("memory",) and len(runs) > 1:
                again = pool.submit(run.report, earlier=reports[index].commits)
                (reports[index],) = _wait([again], cancellation)
    return reports


def _wait(
    reports: Sequence["Future[AccountReport]"], cancellation: Cancellation
) -> list[AccountReport]:
    """Wait for reports; an exception in this thread cancels the accounts."""
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


def _ignore(progress: Progress) -> None:
    """Show no progress."""
