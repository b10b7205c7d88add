"""Each benchmark runs at its smallest size and prints figures."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SMALLEST = {
    "account_days": ("20000", "1"),
    "bulk": ("--messages", "2000", "--days", "3", "--rounds", "1"),
    "calls": ("--conversations", "20", "--messages", "200"),
    "command": ("--works", "idle", "--rounds", "1"),
    "commit": ("--rows", "1,100"),
    "dagster_share": ("--messages", "400", "--days", "2"),
    "fleet": (
        "--accounts",
        "2",
        "--conversations",
        "5",
        "--latency",
        "0.01",
        "--rate",
        "1000",
        "--singles",
        "1",
    ),
    "forget": ("--messages", "2000", "--days", "3"),
    "forget_talkative": ("--messages", "20", "--days", "2"),
    "memory": ("--scale", "0.005"),
    "night": ("--conversations", "10", "--rate", "1000", "--latency", "0.01", "--rounds", "1"),
    "normalise": ("--messages", "2000", "--rounds", "1"),
    "notebooks": ("--messages", "2000", "--days", "3", "--rounds", "1"),
    "query": ("--accounts", "2", "--days", "32", "--rows", "10"),
    "size": ("--messages", "2000", "--days", "3"),
    "start": ("--rounds", "1"),
    "unsent": ("--days", "3", "--rounds", "1"),
}
PARTS = {"__init__", "bulk_inbox", "inbox_server", "processes", "simple_script", "words"}
"""Modules that benchmarks import; they are no benchmarks."""

pytestmark = pytest.mark.slow


def test_every_benchmark_has_a_smallest_size() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - PARTS == set(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_prints_figures(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALLEST[name]]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    assert any(character.isdigit() for character in run.stdout)
