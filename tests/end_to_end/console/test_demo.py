"""The demo: its tables, its runs in Dagster, its output, and the page that a signal ends."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import requests

from convo_pipeline.query.connection import connect
from tests.support.paths import ROOT
from tests.support.web_server import Web, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def demo(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "convo_pipeline.cli", "demo", "--root", str(root), *arguments]
    environ = {**os.environ, "COLUMNS": "120"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )


def test_the_demo_prints_a_summary_and_no_token(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    printed, errors = (process := demo(root)).communicate()
    assert process.returncode == 0, errors
    check_summary(printed)
    check_tables(root, printed)
    assert "EAA" not in printed + errors + (root / "convo.toml").read_text()


def test_the_page_of_the_demo_works_until_sigterm(tmp_path: Path) -> None:
    root, port = tmp_path / "demo", free_port()
    process = demo(root, "--ui", "--port", str(port))
    assert process.stdout is not None
    assert process.stderr is not None
    printed = ""
    try:
        while f"http://127.0.0.1:{port}" not in printed:
            printed += (line := process.stdout.readline())
            assert line, process.stderr.read()
        check_summary(printed)
        check_page(Web(f"http://127.0.0.1:{port}"))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        errors = process.stderr.read()
        process.stdout.close()
        process.stderr.close()
    assert "EAA" not in printed + errors
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/server_info", timeout=2)


def check_summary(printed: str) -> None:
    assert re.search(r"bakery-instagram +\d+ +[\d,]+ ", printed)
    assert re.search(r"\d+ calls and \d+ seconds, recorded in Dagster", printed)
    assert re.search(r"Half of \d+ first responses came within \d+ minutes", printed)
    assert len(re.findall(r"^ +[123]\. ", printed, re.M)) == 3
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- output: demo -->\n```text\n")[1].split("```")[0]
    progress, _, result = shown.partition("…\n")
    assert progress.startswith("Fetching ")  # it goes to stderr
    assert masked(printed).startswith(masked(result))


def check_tables(root: Path, printed: str) -> None:
    """The week is stored, its runs are recorded, and the first printed command works."""
    with connect(root) as con:
        found = con.execute(
            "select account, count(distinct date) from messages group by 1 order by 1"
        ).fetchall()
        week = "date >= (select min(since) from runs)"
        [(count_answered, minutes)] = con.execute(
            "select count(*), median(first_response_seconds) / 60 from sessions"
            f" where is_answered_in_time and {week}"
            " and first_inbound_at <"
            " (select date_trunc('day', max(started_at) - interval 1 hour) from runs)"
        ).fetchall()
        (count,) = con.execute(
            f"select count(*) from messages where account like 'bakery%' and {week}"
        ).fetchone()
    assert f"Half of {count_answered} first responses came within {minutes:.0f} minutes" in printed
    assert re.search(rf"bakery-instagram +\d+ +{count:,} ", printed)
    assert [(account, days >= 7) for account, days in found] == [
        ("bakery-instagram", True),
        ("bikes-messenger", True),
    ]
    with dg.DagsterInstance.from_config(str(root / ".dagster")) as instance:
        assert [run.status.value for run in instance.get_runs()] == ["SUCCESS", "SUCCESS"]
    (command,) = re.findall(r"^ +1\. python3 run\.py (.*)$", printed, re.M)
    done = subprocess.run(
        f"{sys.executable} -m convo_pipeline.cli {command}",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "inbound" in done.stdout


def check_page(web: Web) -> None:
    """The page can materialise a partition with the demo's own emulator."""
    wait_for(lambda: is_answering(web), 60)
    key = max(web.row_counts("messages"))
    run_id = web.launch(["raw_conversations", "messages"], key, "convo_pipeline.definitions")
    assert web.end_of(run_id) == "SUCCESS"


def is_answering(web: Web) -> bool:
    try:
        return requests.get(f"{web.url}/server_info", timeout=5).ok
    except requests.ConnectionError:
        return False


def masked(text: str) -> str:
    """Replace numbers and spaces, which differ between runs."""
    return re.sub(r"\s+", " ", re.sub(r"[\d.,]*\d%?|─+", "N", text)).strip()
