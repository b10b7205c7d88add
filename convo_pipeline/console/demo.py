"""Command `demo`: fetch one week of two invented inboxes and answer a question about it.

The demo writes its configuration beside the tables, so that all other commands work on them.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from convo_pipeline.base.cancellation import interrupted_by_sigterm
from convo_pipeline.base.extras import needs_extra
from convo_pipeline.console.extraction import describe_problems
from convo_pipeline.console.messages import LOG
from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import make_home
from convo_pipeline.orchestration.partitions import ONE_DAY, Window
from convo_pipeline.orchestration.runs import HOME_VARIABLE, RunResult, run_steps
from convo_pipeline.orchestration.sandbox import EXAMPLE_ACCOUNTS, URL_VARIABLE, run_emulator
from convo_pipeline.query.connection import Connection, connect
from convo_pipeline.settings import CONFIG_FILE, CONFIG_VARIABLE, read_settings

DAYS = 7
HISTORY_DAYS = 14
"""The accounts start earlier than the week, so that `extract` can fetch more afterwards."""
CONFIG = """\
# Written by `convo-pipeline demo`: two invented businesses, served by the built-in emulator.
[graph]
base_url = "emulator"

[store]
root = {root}
"""

QUIET = {"PYTHONWARNINGS": "ignore:Function `dev_command` is superseded"}
"""Hides Dagster's advice to use another program, which this package does not install."""

TOTALS = """
select account, count(distinct conversation_id), count(*),
       count(*) filter (direction = 'inbound'), count(*) filter (direction = 'outbound')
from messages where date >= ? group by account order by account
"""
COVERAGE = """
select account, sum(detailed) / nullif(sum(ids_listed), 0), sum(beyond_20) + sum(gone)
from coverage where date >= ? group by account
"""
FIRST_RESPONSE = """
select count(*), median(first_response_seconds) / 60
from (select *, first_inbound_at::date as asked_on from sessions where is_answered_in_time) s
semi join account_days d
    on d.account = s.account and d.date = s.asked_on and d.share_answered_1h_max is not null
where asked_on >= ?
"""
"""The first response as in docs/analyse.md, of all accounts."""
BUSIEST_HOUR = """
select extract(hour from created_at) as hour, count(*) as message_count
from messages where direction = 'inbound' and date >= ?
group by hour order by message_count desc, hour limit 1
"""


def run_demo(
    root: Path,
    console: Console,
    progress: ProgressLines,
    ui_port: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> bool:
    """Run the demo below `root` and print its results; return whether every account is complete.

    With `ui_port`, Dagster's UI is then served until Ctrl-C.
    """
    if ui_port is not None:
        with needs_extra("web"):
            import dagster_webserver  # noqa: F401 - only whether it is installed
    today = datetime.now(UTC).date()
    file = write_config(root, today)
    home = make_home(root / ".dagster")
    settings = read_settings(file)
    window = Window(today - timedelta(days=DAYS - 1), today + ONE_DAY)
    with run_emulator() as server:
        environ = {
            **environ,
            URL_VARIABLE: server.base_url,
            CONFIG_VARIABLE: str(file),
            HOME_VARIABLE: str(home),
        }
        started = time.monotonic()
        result = _fetch(Deployment(settings, environ=environ), window, progress)
        seconds = time.monotonic() - started
        with connect(settings.store.root, settings=settings) as con:
            _print_summary(console, con, window.since, result, seconds)
        for line in describe_problems(settings, result):
            LOG.error("%s", line)
        _print_next_steps(console, root, is_ui=ui_port is not None)
        if ui_port is not None:
            serve_ui(console, environ, free_port(ui_port))
    return result.is_complete


def write_config(root: Path, today: date) -> Path:
    """Write the demo's configuration. One that exists stays, so that its partitions stay too."""
    root.mkdir(parents=True, exist_ok=True)
    file = root.resolve() / CONFIG_FILE
    if not file.is_file():
        start = today - timedelta(days=HISTORY_DAYS - 1)
        head = CONFIG.format(root=json.dumps(str(root.resolve())))
        file.write_text(head + EXAMPLE_ACCOUNTS.format(start=start), encoding="utf-8")
    return file


def _fetch(deployment: Deployment, window: Window, progress: ProgressLines) -> RunResult:
    names = [account.name for account in deployment.settings.accounts]
    LOG.info("Fetching %s to %s of %s …", window.since, window.last, " and ".join(names))
    with progress:
        return run_steps(replace(deployment, on_progress=progress), dict.fromkeys(names, window))


def _print_summary(
    console: Console, con: Connection, since: date, result: RunResult, seconds: float
) -> None:
    """Print the counts of each account since a day, the calls, and one answer."""
    coverage = {row[0]: row[1:] for row in con.execute(COVERAGE, [since]).fetchall()}
    calls = {report.account: sum(report.calls.values()) for report in result.reports}
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("account", "conversations", "messages", "in / out", "detailed", "unread", "calls"):
        table.add_column(name, justify="left" if name == "account" else "right", no_wrap=True)
    for account, conversations, messages, inbound, outbound in con.execute(
        TOTALS, [since]
    ).fetchall():
        share, unread = coverage.get(account, (None, 0))
        table.add_row(
            account,
            f"{conversations:,}",
            f"{messages:,}",
            f"{inbound:,} / {outbound:,}",
            "–" if share is None else f"{share:.1%}",
            f"{unread:,}",
            f"{calls.get(account, 0):,}",
        )
    console.print(table)
    total = f"[bold]{sum(calls.values()):,} calls[/bold] and {seconds:.0f} seconds"
    console.print(f"{total}, recorded in Dagster.\n")
    title = "A question, answered by DuckDB"
    console.print(Panel(answer(con, since), title=title, title_align="left", expand=False))


def answer(con: Connection, since: date) -> str:
    """Return how fast the businesses answer and when they are busiest."""
    [(response_count, minutes)] = con.execute(FIRST_RESPONSE, [since]).fetchall()
    busiest = con.execute(BUSIEST_HOUR, [since]).fetchone()
    if minutes is None or busiest is None:
        return "How fast do we answer? No customer was answered in these days."
    hour, count = busiest
    return (
        "How fast do we answer?  "
        f"Half of {response_count:,} first responses came within"
        f" [bold]{minutes:.0f} minutes[/bold].\n"
        "When are we busiest?    "
        f"At [bold]{hour:02.0f}:00 UTC[/bold], with {count:,} messages from customers."
    )


def _print_next_steps(console: Console, root: Path, is_ui: bool) -> None:
    program = "python3 run.py" if Path("run.py").is_file() else "convo-pipeline"
    folder, config = shlex.quote(str(root)), shlex.quote(str(root / CONFIG_FILE))
    sql = '"select direction, count(*) from messages group by all"'
    steps = [
        f"{program} query --root {folder} {sql}",
        f"{program} extract --config {config}    (the week before, too)",
        "notebooks/  in Jupyter"
        if is_ui
        else f"{program} demo --root {folder} --ui    (Dagster in the browser)",
    ]
    console.print("\nNext:", style="bold")
    for number, text in enumerate(steps, 1):
        console.print(f"  {number}. {text}", markup=False, highlight=False, soft_wrap=True)


def free_port(wanted: int) -> int:
    """Return the wanted port, or a free one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def serve_ui(console: Console, environ: Mapping[str, str], port: int) -> None:
    """Run `dagster dev` until Ctrl-C or SIGTERM, then end it and its children."""
    definitions = ["-m", "convo_pipeline.definitions", "--log-level", "error"]
    address = ["-h", "127.0.0.1", "-p", str(port)]
    command = [sys.executable, "-m", "dagster", "dev", *definitions, *address]
    with suppress(KeyboardInterrupt), interrupted_by_sigterm():
        process = subprocess.Popen(  # noqa: S603 (our own interpreter, no outside input)
            command, env={**environ, **QUIET}, cwd=environ[HOME_VARIABLE], start_new_session=True
        )
        try:
            if _wait_for_port(port, process):
                url = f"http://127.0.0.1:{port}"
                console.print(f"\nDagster: [bold]{url}[/bold]    Ctrl-C ends it.")
            process.wait()
        finally:
            _end(process)


def _wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 120) -> bool:
    """Wait until the web server listens; return False if it ends or the time is over."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
        time.sleep(0.3)
    return False


def _end(process: "subprocess.Popen[bytes]", seconds: float = 20) -> None:
    """End the process, which ends its children.

    Kill its process group after `seconds`, or when the user presses Ctrl-C again.
    """
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
