"""Measure Dagster's share of the CPU time: the same inbox by plain calls and by the jobs.

    python -m benchmarks.dagster_share [--messages 20000] [--days 30] [--check]

The share is the difference, divided by the recorded materialisations: one for each asset and
partition. Start-up is measured apart: the jobs first run over one day, which imports everything,
resolves the jobs and evaluates all checks once. `--check` exits with 1 if the share is above its
goal and the room for noise.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.bulk import cpu_seconds
from benchmarks.inbox_server import inbox_server, settings_for
from convo_pipeline.base.clock import SYSTEM_CLOCK
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import make_home, open_home
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.recorded_runs import run_jobs
from convo_pipeline.settings import Settings

GOAL_MILLISECONDS = 15
ROOM = 1.25
"""Noise that `--check` allows above the goal."""
ENVIRON = {"T": "token"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    today = datetime.now(UTC).date()
    window = Window(today - timedelta(days=arguments.days), today + timedelta(days=1))
    empty = Window(today, window.until)
    with (
        inbox_server(arguments.messages // 20, 20, arguments.days) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        plain = run_plain(
            settings_for(server.base_url, Path(folder) / "plain", window.since), window
        )
        start, _ = run_dagster(settings_for(server.base_url, Path(folder) / "start", today), empty)
        seconds, count = run_dagster(
            settings_for(server.base_url, Path(folder) / "dagster", window.since), window
        )
    print(f"plain {plain:.2f} s CPU, Dagster's start-up with an empty day {start:.2f} s CPU")
    print(f"through Dagster {seconds:.2f} s CPU, {count} materialisations of asset and partition")
    share = (seconds - plain) / count * 1000
    print(f"Dagster's share {share:.1f} ms each (goal <= {GOAL_MILLISECONDS})")
    sys.exit(1 if arguments.check and share > GOAL_MILLISECONDS * ROOM else 0)


def run_plain(settings: Settings, window: Window) -> float:
    """Return CPU seconds of extract and derive."""
    started = cpu_seconds()
    store = Store(settings.store)
    [report] = extract(settings, store, ["bulk"], window.since, window.until, environ=ENVIRON)
    assert report.outcome == "complete", report
    for day in stale_days(store, "bulk"):
        derive_day(store, "bulk", day)
    return cpu_seconds() - started


def run_dagster(settings: Settings, window: Window) -> tuple[float, int]:
    """Return CPU seconds of the jobs, and the number of materialised partitions."""
    with tempfile.TemporaryDirectory() as home, open_home(make_home(Path(home))) as instance:
        started = cpu_seconds()
        result = run_jobs(
            Deployment(settings, environ=ENVIRON, clock=SYSTEM_CLOCK), {"bulk": window}, instance
        )
        seconds = cpu_seconds() - started
        assert result.is_complete, result.failures
        keys = instance.get_asset_keys()
        return seconds, sum(len(instance.get_materialized_partitions(key)) for key in keys)


if __name__ == "__main__":
    main()
