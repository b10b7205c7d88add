"""Time each notebook over a million messages of 90 days: wall and CPU seconds with kernel start.

The tables are made as a user's are: an inbox over real HTTP is extracted and derived. `--root`
keeps them for the next call.

    python -m benchmarks.notebooks [--messages 1000000] [--days 90] [--rounds 3] [--root FOLDER]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from benchmarks.bulk import run_pipeline
from benchmarks.inbox_server import inbox_server

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
PER_CONVERSATION = 20
GOAL_SECONDS = 60


def build(root: Path, message_count: int, days: float) -> None:
    """Extract and derive the inbox into `root`, in a separate process."""
    with inbox_server(message_count // PER_CONVERSATION, PER_CONVERSATION, days) as server:
        code = (
            "from benchmarks.notebooks import fill; "
            f"fill({server.base_url!r}, {str(root)!r}, {days})"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def fill(base_url: str, root: str, days: float) -> None:
    from convo_pipeline.derive.account_days import derive_account_days
    from convo_pipeline.lake.store import Store
    from convo_pipeline.settings import StoreSettings

    run_pipeline(base_url, Path(root), days)
    derive_account_days(Store(StoreSettings(root=root)), "bulk")


def execute(path: Path, root: Path) -> tuple[float, float]:
    """Run a notebook as Jupyter does; return wall and CPU seconds with the kernel's start."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["CONVO_ROOT"] = str(root)
    started, used_before = time.perf_counter(), children_seconds()
    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    return time.perf_counter() - started, children_seconds() - used_before


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, default=90)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--root", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = (arguments.root or Path(folder)).resolve()
        if not (root / "messages").is_dir():
            build(root, arguments.messages, arguments.days)
        seconds: dict[str, list[tuple[float, float]]] = {path.stem: [] for path in NOTEBOOKS}
        for _ in range(arguments.rounds):
            for path in NOTEBOOKS:
                seconds[path.stem].append(execute(path, root))
    for name, rounds in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:22} {wall:5.1f} s wall, {cpu:5.1f} s CPU (at most {GOAL_SECONDS} s)")


if __name__ == "__main__":
    main()
