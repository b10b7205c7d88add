"""The extract command: which days, progress while it runs, and a summary at the end."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import redact
from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.derive.day import accept_loss
from convo_pipeline.derive.rederive import (
    Scope,
    finish_rederivation,
    plan_rederivation,
    rederive_day,
)
from convo_pipeline.errors import ConvoError, SettingsError
from convo_pipeline.extract.estimate import Estimate, fetch_estimate
from convo_pipeline.extract.report import missed_in
from convo_pipeline.extract.run import Mode
from convo_pipeline.lake.ledger import upgrade_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import open_instance
from convo_pipeline.orchestration.jobs import NORMALISE_JOB
from convo_pipeline.orchestration.partitions import ONE_DAY, Window
from convo_pipeline.orchestration.runs import RunResult, run_jobs
from convo_pipeline.orchestration.schedules import nightly_window, open_ledger
from convo_pipeline.sandbox import reachable
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import Settings

HOW_ESTIMATED = (
    "estimated from the newest page of the inbox: as many conversations a day as it shows, 50 a call, and a call for"
    " each with more than 20 messages"
)


def choose_window(
    settings: Settings,
    accounts: Sequence[str],
    today: date,
    since: date | None,
    until: date | None,
    everything: bool,
) -> Window:
    """Work out the days that are asked for; a SettingsError says what is wrong with the dates."""
    first = min(settings.account(name).start_date for name in accounts)
    if everything:
        return Window(first, today + ONE_DAY)
    if since is None and until is None:
        with open_ledger(settings) as state:
            night = nightly_window(settings, today, state)
        if night is None or night.until <= first:
            raise SettingsError(
                f"nothing to do yet: the first day, {first}, is not over; use --since {first}"
            )
        return Window(max(night.since, first), night.until)
    since, until = since or first, until or today + ONE_DAY
    _check_dates(since, until, first, today)
    return Window(max(since, first), until)


def _check_dates(since: date, until: date, first: date, today: date) -> None:
    if since > today:
        raise SettingsError(f"--since {since} is in the future; today is {today} (UTC)")
    if until > today + ONE_DAY:
        raise SettingsError(
            f"--until {until} is in the future; at most {today + ONE_DAY}, which includes today (UTC)"
        )
    if since >= until:
        raise SettingsError(
            f"--since {since} must be before --until {until} (the day after the last)"
        )
    if until <= first:
        raise SettingsError(f"--until {until} is before the first start_date, {first}")


def run_extraction(
    settings: Settings,
    accounts: Sequence[str],
    window: Window,
    clock: Clock,
    environ: Mapping[str, str],
    mode: Mode = "window",
) -> bool:
    """Extract and normalise with progress and a summary; say whether every account is complete."""
    console = Console(stderr=True)
    _announce(console, settings, accounts, window)
    with open_instance(environ) as instance, ProgressLines(console) as progress:
        deployment = Deployment(settings, environ=environ, clock=clock, on_progress=progress)
        result = run_jobs(deployment, accounts, window, instance, mode=mode)
    Console().print(summary_table(result))
    _tell_missed(console, result)
    return _complain(console, result)


def announce_estimates(
    settings: Settings,
    accounts: Sequence[str],
    clock: Clock,
    environ: Mapping[str, str],
    console: Console,
) -> None:
    """Say for each account about how many calls and minutes everything since its start date takes."""
    with (
        closing(Store(settings.store)) as store,
        reachable(settings, environ) as (reached, surroundings),
    ):
        store.preflight()
        for name in accounts:
            try:
                found = fetch_estimate(reached, store, reached.account(name), surroundings, clock)
                text = describe_estimate(
                    found, settings.graph.calls_per_second, settings.graph.calls_per_run
                )
            except ConvoError as error:
                text = f"no estimate: {redact(str(error))}"
            _say(console, f"{name}: {text}")
    _say(console, HOW_ESTIMATED)


def describe_estimate(estimate: Estimate, calls_per_second: float, calls_per_run: int) -> str:
    """Say what an account's estimate means for whoever waits.

    >>> describe_estimate(Estimate(1240, 400, False), 1.8, 20_000)
    'about 1,240 conversations, about 400 calls or 4 minutes'
    """
    about = "" if estimate.is_whole else "about "
    runs = math.ceil(estimate.call_count / calls_per_run)
    more = f" in {runs} runs of at most {calls_per_run:,} calls" if runs > 1 else ""
    minutes = max(1, math.ceil(estimate.call_count / calls_per_second / 60))
    noun = "minute" if minutes == 1 else "minutes"
    return f"{about}{estimate.conversation_count:,} conversations, about {estimate.call_count:,} calls or {minutes:,} {noun}{more}"


def run_normalisation(
    settings: Settings,
    accounts: Sequence[str],
    window: Window,
    clock: Clock,
    environ: Mapping[str, str],
    scope: Scope = "stale",
) -> bool:
    """Derive the tables of accounts × window that do not agree with the raw ones, or all; say whether all went well."""
    console = Console(stderr=True)
    with open_instance(environ) as instance, ProgressLines(console) as progress:
        deployment = Deployment(settings, environ=environ, clock=clock, on_progress=progress)
        result = run_jobs(deployment, accounts, window, instance, [NORMALISE_JOB], scope=scope)
    if result.is_complete:
        Console().print(
            f"{len(accounts)} accounts, {window.since} to {window.last}: the tables agree with the raw ones"
        )
    return _complain(console, result)


def wished_scope(is_forced: bool) -> Scope:
    """Return which days a person wants to be made again."""
    return "all" if is_forced else "stale"


def normalise_unconfigured(settings: Settings, scope: Scope = "stale") -> None:
    """Do the same with what Dagster does not know: accounts that were taken out of the configuration, and the ledger."""
    gap = settings.metrics.session_gap_hours
    with closing(Store(settings.store)) as store:
        upgrade_runs(store)
        known = {account.name for account in settings.accounts}
        for name in sorted(set(store.accounts(RAW_MESSAGE_IDS.name)) - known):
            rederivation = plan_rederivation(store, name, scope)
            for day in rederivation.remaining_days:
                rederive_day(store, rederivation, day)
            derive_account_days(
                store, name, rederivation.days if scope == "all" else None, session_gap_hours=gap
            )
            finish_rederivation(store, rederivation, rederivation.remaining_days)


def accept_losses(settings: Settings, accounts: Sequence[str]) -> None:
    """Derive the days that keep their derived tables because raw rows were lost, and print them."""
    with closing(Store(settings.store)) as store:
        for name in accounts:
            for day in accept_loss(store, name):
                _say(
                    Console(stderr=True),
                    f"{name}: derived {day} from what is left of its raw tables",
                )


def _announce(
    console: Console, settings: Settings, accounts: Sequence[str], window: Window
) -> None:
    """Say what is asked for, and the most it can cost."""
    graph = settings.graph
    minutes = graph.calls_per_run / graph.calls_per_second / 60
    _say(
        console,
        f"{', '.join(accounts)}: {window.since} to {window.last} (UTC); at most {graph.calls_per_run:,} calls"
        f" or {minutes:,.0f} minutes an account, usually far less; what came is kept if you stop it",
    )


def _say(console: Console, text: str) -> None:
    console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _tell_missed(console: Console, result: RunResult) -> None:
    """Say what a sweep found that was claimed to be held: nothing, or an alarm."""
    missed = missed_in(result.reports)
    if missed == 0:
        _say(console, "swept: earlier runs had missed nothing")
    elif missed:
        names = ", ".join(
            f"{report.account} {report.missed:,}" for report in result.reports if report.missed
        )
        console.print(
            f"ALARM: earlier runs had missed {missed:,} messages ({names}) and called themselves complete. They are"
            " stored now; sweep more often, and report it if it happens again",
            style="bold red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def summary_table(result: RunResult) -> Table:
    """One line an account: how it ended, what it cost, what it brought, how many partitions changed."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("account", "outcome", "calls", "saved", "messages", "detailed", "changed"):
        table.add_column(
            name,
            justify="left" if name in ("account", "outcome") else "right",
            no_wrap=name == "account",
        )
    for report in result.reports:
        colour = "green" if report.outcome == "complete" else "red"
        table.add_row(
            report.account,
            Text(" ".join((report.outcome, *report.reasons)), style=colour),
            f"{report.figures.used:,}",
            f"{report.figures.saved:,}",
            f"{report.counts.get('ids_listed', 0):,}",
            f"{report.counts.get('detailed', 0):,}",
            f"{sum(commit.is_changed for commit in report.commits):,}",
        )
    return table


def _complain(console: Console, result: RunResult) -> bool:
    for line in result.failures:
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return result.is_complete
