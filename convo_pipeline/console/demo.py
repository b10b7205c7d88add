"""The demo: a week of two invented inboxes, through Dagster into tables, and a question answered.

It writes its own configuration beside the tables, so that every other command works on the result.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from convo_pipeline.console.progress import ProgressLines
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import HOME_VARIABLE, make_home, open_instance
from convo_pipeline.orchestration.partitions import ONE_DAY, Window
from convo_pipeline.orchestration.runs import RunResult, run_jobs
from convo_pipeline.query.connection import Connection, connect
from convo_pipeline.sandbox import URL_VARIABLE, serving
from convo_pipeline.settings import CONFIG_FILE, CONFIG_VARIABLE, read_settings

DAYS = 7
HISTORY_DAYS = 14
"""How far the accounts' start_date lies back: there is something left to fetch after the week."""
CONFIG = """\
# Written by `convo-pipeline demo`: two invented businesses, answered by the built-in emulator.
[graph]
base_url = "emulator"

[store]
root = {root}

[[accounts]]
name = "bakery-instagram"
page_id = "1234567890"
platform = "instagram"
token_env = "BAKERY_PAGE_TOKEN"
start_date = "{start}"
timezone = "Europe/Berlin"
business_hours = "Mon-Fri 09:00-18:00"

[[accounts]]
name = "bikes-messenger"
page_id = "9876543210"
platform = "messenger"
token_env = "BIKES_PAGE_TOKEN"
start_date = "{start}"
timezone = "Europe/Lisbon"
business_hours = "Mon-Sat 10:00-19:00"
"""


def run_demo(
    root: Path,
    console: Console,
    ui_port: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> bool:
    """Run the demo below `root`, print what came of it, keep the UI if a port is given; say whether all went well."""
    today = datetime.now(UTC).date()
    file = write_config(root, today)
    home = make_home(root / ".dagster")
    settings = read_settings(file)
    window = Window(today - timedelta(days=DAYS - 1), today + ONE_DAY)
    with serving() as server:
        environ = {
            **environ,
            URL_VARIABLE: server.base_url,
            CONFIG_VARIABLE: str(file),
            HOME_VARIABLE: str(home),
        }
        began = time.monotonic()
        result = _fetch(Deployment(settings, environ=environ), window, console)
        seconds = time.monotonic() - began
        with connect(settings.store.root, settings=settings) as con:
            _print_summary(console, con, window.since, result, seconds)
        for line in result.failures:
            console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        _print_next(console, root, is_ui=ui_port is not None)
        if ui_port is not None:
            serve_ui(console, environ, free_port(ui_port))
    return result.is_complete


def write_config(root: Path, today: date) -> Path:
    """Write the demo's configuration; the emulator's clock is the machine's, so the history ends now."""
    root.mkdir(parents=True, exist_ok=True)
    file = root.resolve() / CONFIG_FILE
    start = today - timedelta(days=HISTORY_DAYS - 1)
    if file.is_file():  # a second demo goes on with the first one's partitions
        return file
    file.write_text(
        CONFIG.format(root=json.dumps(str(root.resolve())), start=start.isoformat()),
        encoding="utf-8",
    )
    return file


def _fetch(deployment: Deployment, window: Window, console: Console) -> RunResult:
    names = [account.name for account in deployment.settings.accounts]
    console.print(
        f"Fetching {window.since} to {window.last} of {' and '.join(names)} …",
        style="dim",
        highlight=False,
    )
    with open_instance(deployment.environ) as instance, ProgressLines(console) as progress:
        return run_jobs(replace(deployment, on_progress=progress), names, window, instance)


TOTALS = """
select account, count(*), count(distinct conversation_id) as conversations,
       count(*) filter (direction = 'inbound') as inbound, count(*) filter (direction = 'outbound') as outbound
from messages where date >= ? group by account order by account
"""
COVERAGE = """
select account, sum(detailed) / nullif(sum(ids_listed), 0), sum(beyond_20), sum(gone)
from coverage where date >= ? group by account order by account
"""
FIRST_RESPONSE = "select median(human_response_seconds) / 60 from response_turns where date >= ?"
BUSIEST_HOUR = """
select extract(hour from created_at) as hour, count(*) as message_count
from messages where direction = 'inbound' and date >= ? group by hour order by message_count desc, hour limit 1
"""


def _print_summary(
    console: Console, con: Connection, since: date, result: RunResult, seconds: float
) -> None:
    """Print what was got of the days since then, how whole it is, what it cost, and an answer.

    Of older days only what came along is held, which says nothing of them.
    """
    coverage = {row[0]: row[1:] for row in con.execute(COVERAGE, [since]).fetchall()}
    calls = {report.account: sum(report.calls.values()) for report in result.reports}
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("account", "conversations", "messages", "in / out", "detailed", "unread", "calls"):
        table.add_column(name, justify="left" if name == "account" else "right", no_wrap=True)
    for account, messages, conversations, inbound, outbound in con.execute(
        TOTALS, [since]
    ).fetchall():
        share, beyond, gone = coverage.get(account, (None, 0, 0))
        whole = "–" if share is None else f"{share:.1%}"
        cells = (
            f"{conversations:,}",
            f"{messages:,}",
            f"{inbound:,} / {outbound:,}",
            whole,
            f"{beyond + gone:,}",
        )
        table.add_row(account, *cells, f"{calls.get(account, 0):,}")
    console.print(table)
    console.print(
        f"[bold]{sum(calls.values()):,} calls[/bold] and {seconds:.0f} seconds, recorded in Dagster.\n"
    )
    console.print(
        Panel(
            answer(con, since),
            title="A question, answered by DuckDB",
            title_align="left",
            expand=False,
        )
    )


def answer(con: Connection, since: date) -> str:
    """Say how fast the businesses answer and when they are busiest."""
    (minutes,) = con.execute(FIRST_RESPONSE, [since]).fetchone()
    busiest = con.execute(BUSIEST_HOUR, [since]).fetchone()
    if minutes is None or busiest is None:
        return "How fast do we answer? No customer was answered in these days."
    return (
        f"How fast do we answer?  Half of the answers come within [bold]{minutes:.0f} minutes[/bold].\n"
        f"When are we busiest?    At [bold]{busiest[0]:02.0f}:00 UTC[/bold], with {busiest[1]:,} messages from customers."
    )


def _print_next(console: Console, root: Path, is_ui: bool) -> None:
    program = "python3 run.py" if Path("run.py").is_file() else "convo-pipeline"
    folder, config = shlex.quote(str(root)), shlex.quote(str(root / CONFIG_FILE))
    sql = '"select direction, count(*) from messages group by all"'
    steps = [
        f"{program} query --root {folder} {sql}",
        f"{program} --config {config} extract    (the week before, too)",
        "notebooks/  in Jupyter"
        if is_ui
        else f"{program} demo --root {folder} --ui    (Dagster in the browser)",
    ]
    console.print("\nNext:", style="bold")
    for number, text in enumerate(steps, 1):
        console.print(f"  {number}. {text}", markup=False, highlight=False, soft_wrap=True)


def free_port(wanted: int) -> int:
    """Return the wanted port, or another free one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def serve_ui(console: Console, environ: Mapping[str, str], port: int) -> None:
    """Run `dagster dev` until Ctrl-C, then end it and all it started."""
    options = [
        "-m",
        "convo_pipeline.definitions",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "--log-level",
        "error",
    ]
    command = [sys.executable, "-m", "dagster", "dev", *options]
    with suppress(KeyboardInterrupt), _interrupted_by_sigterm():
        process = subprocess.Popen(  # noqa: S603 (our own interpreter, nothing from outside)
            command, env=dict(environ), cwd=environ[HOME_VARIABLE], start_new_session=True
        )
        try:
            if wait_until_up(port, process):
                console.print(f"\nDagster: [bold]http://127.0.0.1:{port}[/bold]    Ctrl-C ends it.")
            process.wait()
        finally:
            end(process)


def wait_until_up(port: int, process: "subprocess.Popen[bytes]", seconds: float = 120) -> bool:
    """Wait until the web server listens; False if it ended or never did."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
        time.sleep(0.3)
    return False


def end(process: "subprocess.Popen[bytes]", seconds: float = 20) -> None:
    """Ask it to end; it ends its children. What does not listen is killed."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let a polite kill end the UI the way Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
