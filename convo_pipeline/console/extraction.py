"""Commands `extract`, `find` and `normalize`: their days, their progress and their summary."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.messages import LOG
from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.console.results import cell_text, counted
from convo_pipeline.console.status import note_of
from convo_pipeline.derive.account_days import derive_account_days, read_rules
from convo_pipeline.derive.day import accept_loss, derive_day, stale_days
from convo_pipeline.derive.rederive import (
    Scope,
    finish_rederivation,
    plan_rederivation,
    rederive_day,
)
from convo_pipeline.errors import ConvoError, SettingsError
from convo_pipeline.extract.estimate import Estimate, fetch_estimate
from convo_pipeline.extract.report import AccountReport, describe_counts, missed_in
from convo_pipeline.extract.run import Mode, find
from convo_pipeline.lake.ledger import upgrade_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.nights import nightly_windows, open_ledger
from convo_pipeline.orchestration.partitions import ONE_DAY, Window, accounts_by_window
from convo_pipeline.orchestration.runs import NORMALISE, RunResult, run_steps
from convo_pipeline.orchestration.sandbox import emulator_if_needed
from convo_pipeline.orchestration.steps import list_some
from convo_pipeline.reasons import REASONS, describe_outcome
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import Settings

ESTIMATE_NOTE = (
    "estimated from the newest page of each inbox: its conversations per day, 50 per call, and one"
    " call for each conversation with more than 20 messages"
)
MESSAGE_FIELDS = ("created_at", "direction", "sender", "text", "content_type", "detail_status")
MESSAGES = """
select created_at, direction, coalesce(sender_name, sender_username, sender_id) as sender, text,
       content_type, detail_status
from messages where account = ? and list_contains(?, conversation_id)
order by created_at, order_in_second, message_id
"""


def choose_windows(
    settings: Settings,
    accounts: Sequence[str],
    today: date,
    since: date | None,
    until: date | None,
    everything: bool,
) -> dict[str, Window]:
    """Return the days to read of each account, by default those of the next nightly run.

    SettingsError names what is wrong with the dates.
    """
    chosen = [settings.account(name) for name in accounts]
    first = min(account.start_date for account in chosen)
    _check_clock(settings, accounts, today, first)
    if everything:
        return {account.name: Window(account.start_date, today + ONE_DAY) for account in chosen}
    if since is None and until is None:
        with open_ledger(settings) as state:
            windows = nightly_windows(settings, chosen, today, state)
        if not windows:
            raise SettingsError(
                f"nothing to do yet: the first day, {first}, is not over; use --since {first}"
            )
        return windows
    since, until = since or first, until or today + ONE_DAY
    if since > today:
        raise SettingsError(f"--since {since} is in the future; today is {today} (UTC)")
    if until > today + ONE_DAY:
        raise SettingsError(
            f"--until {until} is in the future; use at most {today + ONE_DAY}, to include today"
            " (UTC)"
        )
    if since >= until:
        raise SettingsError(
            f"--since {since} must be before --until {until}, the day after the last day"
        )
    if until <= first:
        raise SettingsError(f"--until {until} is before the first start_date, {first}")
    return {
        account.name: Window(max(since, account.start_date), until)
        for account in chosen
        if account.start_date < until
    }


def _check_clock(settings: Settings, accounts: Sequence[str], today: date, first: date) -> None:
    """Raise SettingsError if this machine's clock is before the first start_date."""
    if today >= first:
        return
    with open_ledger(settings) as state:
        runs = [run for name in accounts for run in (state.runs(name, limit=1) if state else ())]
    newest = max((run.started_at.date() for run in runs), default=today)
    proof = f", and a run of {newest} is stored" if newest > today else ""
    remedy = "correct the clock" if proof else "correct the clock, or start_date"
    raise SettingsError(
        f"this machine's clock shows {today} (UTC), before the first start_date, {first}{proof}:"
        f" {remedy}"
    )


def describe_window(windows: Mapping[str, Window]) -> str:
    """Return how many accounts and which days the windows have."""
    since = min(window.since for window in windows.values())
    last = max(window.last for window in windows.values())
    return f"{counted(len(windows), 'account')}, {since} to {last}"


def run_extraction(
    settings: Settings,
    windows: Mapping[str, Window],
    clock: Clock,
    environ: Mapping[str, str],
    progress: ProgressLines,
    mode: Mode = "window",
) -> RunResult:
    """Extract and normalise; show the days first, then the progress.

    If it is interrupted, say what is stored and raise KeyboardInterrupt.
    """
    graph = settings.graph
    minutes = graph.calls_per_run / graph.calls_per_second / 60
    for window, names in accounts_by_window(windows).items():
        LOG.info("%s: %s to %s (UTC)", list_some(names), window.since, window.last)
    LOG.info(
        "at most %s calls or %s minutes per account, usually far less; if you stop it, stored"
        " messages are kept",
        f"{graph.calls_per_run:,}",
        f"{minutes:,.0f}",
    )
    deployment = Deployment(settings, environ=environ, clock=clock, on_progress=progress)
    try:
        with progress:
            return run_steps(deployment, windows, mode=mode)
    except KeyboardInterrupt:
        counts = describe_counts(progress.totals()) or "nothing yet"
        LOG.error(
            "stopped. Read and kept: %s. `convo-pipeline status` shows what is stored", counts
        )
        raise


def show_extraction(settings: Settings, result: RunResult, console: Console | None) -> None:
    """Print the summary to `console`, and the problems with what to do to stderr."""
    if console:
        console.print(summary_table(result.reports))
    if missed_in(result.reports) == 0:
        LOG.info("sweep: earlier runs missed no messages")
    for report in result.reports:
        if note := note_of(report):
            LOG.warning("%s: %s", report.account, note)
    for line in describe_problems(settings, result):
        LOG.error("%s", line)


def announce_estimates(
    settings: Settings, accounts: Sequence[str], clock: Clock, environ: Mapping[str, str]
) -> dict[str, int]:
    """Print how many calls and minutes everything since each account's start date takes.

    Return the estimated number of conversations of each account.
    """
    graph = settings.graph
    expected = {}
    with (
        closing(Store(settings.store)) as store,
        emulator_if_needed(settings, environ) as (reached, tokens),
    ):
        store.preflight()
        for name in accounts:
            try:
                estimate = fetch_estimate(reached, store, reached.account(name), tokens, clock)
                text = describe_estimate(estimate, graph.calls_per_second, graph.calls_per_run)
                expected[name] = estimate.conversation_count
            except ConvoError as error:
                text = f"no estimate: {error}"
            LOG.info("%s: %s", name, text)
    LOG.info(ESTIMATE_NOTE)
    return expected


def describe_estimate(estimate: Estimate, calls_per_second: float, calls_per_run: int) -> str:
    """Return an estimate as text.

    >>> describe_estimate(Estimate(1240, 400, False), 1.8, 20_000)
    'about 1,240 conversations, about 400 calls or 4 minutes'
    """
    about = "" if estimate.is_whole else "about "
    conversations = counted(estimate.conversation_count, "conversation")
    calls = counted(estimate.call_count, "call")
    runs = math.ceil(estimate.call_count / calls_per_run)
    more = f" in {runs} runs of at most {calls_per_run:,} calls" if runs > 1 else ""
    minutes = max(1, math.ceil(estimate.call_count / calls_per_second / 60))
    return f"{about}{conversations}, about {calls} or {counted(minutes, 'minute')}{more}"


def summary_table(reports: Sequence[AccountReport]) -> Table:
    """Return one row per account: outcome, calls, messages and changed partitions."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("account", no_wrap=True)
    table.add_column("outcome")
    for name in ("calls", "saved", "messages", "detailed", "changed"):
        table.add_column(name, justify="right")
    for report in reports:
        colour = "green" if report.outcome == "complete" else "red"
        table.add_row(
            report.account,
            Text(report.outcome, style=colour),
            f"{report.figures.used:,}",
            f"{max(0, report.figures.saved):,}",
            f"{report.counts.get('ids_listed', 0):,}",
            f"{report.counts.get('detailed', 0):,}",
            f"{sum(commit.is_changed for commit in report.commits):,}",
        )
    return table


def describe_problems(settings: Settings, result: RunResult) -> list[str]:
    """Return one line per problem, with what to do about it."""
    lines: list[str] = []
    for report in result.reports:
        if report.missed:
            details = {"messages": counted(report.missed, "message")}
            lines.append(f"{report.account}: {REASONS['missed'].explain(details=details)}")
        if report.outcome != "complete":
            lines.append(describe_report(settings, report))
    return [*lines, *result.failures]


def describe_report(settings: Settings, report: AccountReport) -> str:
    """Return why an account's run is not complete, and what to do about it."""
    account = settings.account(report.account)
    details = {"variable": account.token_name, "page_id": account.page_id}
    outcome = describe_outcome(report.outcome, report.reasons, report.error, details=details)
    return f"{report.account}: {outcome}"


def find_conversation(
    settings: Settings, account: str, user_id: str, clock: Clock, environ: Mapping[str, str]
) -> tuple[AccountReport, list[str]]:
    """Read the conversations with one person again; return the report and their ids."""
    settings.account(account)
    with closing(Store(settings.store, clock)) as store:
        with emulator_if_needed(settings, environ) as (reached, tokens):
            report, conversation_ids = find(
                reached, store, account, user_id, environ=tokens, clock=clock
            )
        for day in stale_days(store, account):
            derive_day(store, account, day)
    return report, conversation_ids


def read_conversation(
    settings: Settings, account: str, conversation_ids: list[str]
) -> list[dict[str, Any]]:
    """Return the stored messages of these conversations, newest last."""
    from convo_pipeline.query.connection import connect

    with connect(settings.store.root, settings=settings) as con:
        rows = con.execute(MESSAGES, [account, conversation_ids]).fetchall()
    return [dict(zip(MESSAGE_FIELDS, row, strict=True)) for row in rows]


def print_conversation(console: Console, messages: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per message."""
    for message in messages:
        console.print(_message_line(*message.values()), soft_wrap=True)


def _message_line(
    created_at: Any,
    direction: str | None,
    sender: str | None,
    text: str | None,
    content_type: str,
    status: str,
) -> Text:
    arrow = {"inbound": "→", "outbound": "←"}.get(direction or "", "·")
    kind = content_type if status == "detailed" else status
    line = Text(f"{created_at:%Y-%m-%d %H:%M} {arrow} ", style="dim")
    line.append(f"{cell_text(sender) or '?'}: ", style="bold")
    return line.append(cell_text(text) or f"[{kind}]", style="")


def run_normalisation(
    settings: Settings,
    windows: Mapping[str, Window],
    clock: Clock,
    environ: Mapping[str, str],
    scope: Scope,
    progress: ProgressLines,
) -> RunResult:
    """Derive the days that `scope` selects."""
    deployment = Deployment(settings, environ=environ, clock=clock, on_progress=progress)
    with progress:
        return run_steps(deployment, windows, [NORMALISE], scope=scope)


def normalise_unconfigured(settings: Settings, scope: Scope = "stale") -> None:
    """Derive accounts that are stored but not configured, and upgrade the table `runs`.

    Dagster has no partitions for them.
    """
    configured = {account.name for account in settings.accounts}
    with closing(Store(settings.store)) as store:
        store.rename_former_tables()
        upgrade_runs(store)
        for name in sorted(set(store.accounts(RAW_MESSAGE_IDS.name)) - configured):
            rederivation = plan_rederivation(store, name, scope)
            for day in rederivation.remaining_days:
                rederive_day(store, rederivation, day)
            days = rederivation.days if scope == "all" else None
            derive_account_days(store, name, days, rules=read_rules(store, settings, name))
            finish_rederivation(store, rederivation, rederivation.remaining_days)


def accept_losses(settings: Settings, accounts: Sequence[str]) -> None:
    """Derive the days that keep their derived tables because raw rows were lost, and print them."""
    with closing(Store(settings.store)) as store:
        for name in accounts:
            for day in accept_loss(store, name):
                LOG.info("%s: derived %s from the rest of its raw tables", name, day)
