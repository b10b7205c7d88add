"""The extract command: which days, progress while it runs, and a summary at the end."""

from collections.abc import Mapping, Sequence
from datetime import date

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convo_pipeline.clock import Clock
from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.errors import SettingsError
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import open_instance
from convo_pipeline.orchestration.jobs import NORMALISE_JOB
from convo_pipeline.orchestration.partitions import ONE_DAY, Window
from convo_pipeline.orchestration.runs import RunResult, run_jobs
from convo_pipeline.orchestration.schedules import nightly_window, open_ledger
from convo_pipeline.settings import Settings


def choose_window(
    settings: Settings, accounts: Sequence[str], today: date, since: date | None, until: date | None, everything: bool
) -> Window:
    """Work out the days that are asked for; a SettingsError says what is wrong with the dates."""
    first = min(settings.account(name).start_date for name in accounts)
    if everything:
        return Window(first, today + ONE_DAY)
    if since is None and until is None:
        with open_ledger(settings) as state:
            night = nightly_window(settings, today, state)
        if night is None or night.until <= first:
            raise SettingsError(f"nothing to do yet: the first day, {first}, is not over; use --since {first}")
        return Window(max(night.since, first), night.until)
    since, until = since or first, until or today + ONE_DAY
    _check_dates(since, until, first, today)
    return Window(max(since, first), until)


def _check_dates(since: date, until: date, first: date, today: date) -> None:
    if since > today:
        raise SettingsError(f"--since {since} is in the future; today is {today} (UTC)")
    if until > today + ONE_DAY:
        raise SettingsError(f"--until {until} is in the future; at most {today + ONE_DAY}, which includes today (UTC)")
    if since >= until:
        raise SettingsError(f"--since {since} must be before --until {until} (the day after the last)")
    if until <= first:
        raise SettingsError(f"--until {until} is before the first start_date, {first}")


def run_extraction(
    settings: Settings, accounts: Sequence[str], window: Window, clock: Clock, environ: Mapping[str, str]
) -> bool:
    """Extract and normalise with progress and a summary; say whether every account is complete."""
    console = Console(stderr=True)
    _announce(console, settings, accounts, window)
    with open_instance(environ) as instance, ProgressLines(console) as progress:
        deployment = Deployment(settings, environ=environ, clock=clock, on_progress=progress)
        result = run_jobs(deployment, accounts, window, instance)
    Console().print(summary_table(result))
    return _complain(console, result)


def run_normalisation(
    settings: Settings, accounts: Sequence[str], window: Window, clock: Clock, environ: Mapping[str, str]
) -> bool:
    """Derive every table of accounts × window again where raw changed; say whether all went well."""
    console = Console(stderr=True)
    with open_instance(environ) as instance, console.status("normalising"):
        result = run_jobs(
            Deployment(settings, environ=environ, clock=clock), accounts, window, instance, [NORMALISE_JOB]
        )
    Console().print(f"{len(accounts)} accounts, {window.since} to {window.last}: the tables agree with the raw ones")
    return _complain(console, result)


def _announce(console: Console, settings: Settings, accounts: Sequence[str], window: Window) -> None:
    """Say what is asked for, and the most it can cost."""
    graph = settings.graph
    minutes = graph.calls_per_run / graph.calls_per_second / 60
    console.print(
        f"{', '.join(accounts)}: {window.since} to {window.last} (UTC); at most {graph.calls_per_run:,} calls"
        f" or {minutes:,.0f} minutes an account, usually far less; what came is kept if you stop it",
        style="dim",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def summary_table(result: RunResult) -> Table:
    """One line an account: how it ended, what it cost, what it brought."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("account", "outcome", "calls", "messages", "detailed", "partitions changed"):
        table.add_column(name, justify="left" if name in ("account", "outcome") else "right")
    for report in result.reports:
        colour = "green" if report.outcome == "complete" else "red"
        table.add_row(
            report.account,
            Text(" ".join((report.outcome, *report.reasons)), style=colour),
            f"{sum(report.calls.values()):,}",
            f"{report.counts.get('ids_listed', 0):,}",
            f"{report.counts.get('detailed', 0):,}",
            f"{sum(commit.is_changed for commit in report.commits):,}",
        )
    return table


def _complain(console: Console, result: RunResult) -> bool:
    for line in result.failures:
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return result.is_complete
