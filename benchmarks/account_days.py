"""Measure the CPU and memory of `account_days`: a million messages over 90 days.

Each round derives every day of a lake in a process of its own. Memory is its peak resident set.
There are lakes of other sizes too. The views are measured once.

    python -m benchmarks.account_days [MESSAGES] [ROUNDS] [--check]

`--check` exits with 1 if four times as many days take more than four times the CPU seconds, or if
the memory exceeds its goal.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

import convo_pipeline
from benchmarks.processes import ROOM, end
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import MESSAGES
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import Run

ACCOUNT = "bakery"
SINCE = date(2026, 1, 1)
DAY_COUNT = 90
SHAPES = ((100, 90), (10, 90), (1, 90), (1, 360))
"""Lakes: one part in so many of the messages a day, and the number of days."""
PER_CONVERSATION = 10
GOAL_MB = 900
"""Peak memory; a process with `BATCH_MESSAGES` messages needs about 450 MB besides PyArrow."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("messages", nargs="?", type=int, default=1_000_000)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    message_count, rounds = arguments.messages, arguments.rounds
    _, megabytes = measure(Path(), 0)
    print(f"an idle process: {megabytes:.0f} MB peak memory")
    seconds: dict[tuple[int, int], float] = {}
    misses = []
    for part, day_count in SHAPES:
        count = message_count // part * day_count // DAY_COUNT
        with tempfile.TemporaryDirectory() as folder:
            write_lake(Path(folder), count, day_count)
            runs = [measure(Path(folder), day_count) for _ in range(rounds)]
            if (part, day_count) == (1, DAY_COUNT):
                show_views(Path(folder))
        cpu, megabytes = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"{count:,} messages over {day_count} days: {cpu:.2f} s CPU,"
            f" {megabytes:.0f} MB peak memory (goal <= {GOAL_MB} MB)"
        )
        seconds[part, day_count] = cpu
        misses += [f"memory of {count:,} messages"] if megabytes > GOAL_MB else []
    if seconds[1, 4 * DAY_COUNT] > 4 * ROOM * seconds[1, DAY_COUNT]:
        misses.append(f"{4 * DAY_COUNT} days")
    end(misses, arguments.check)


def measure(root: Path, day_count: int) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB of a process that makes every day."""
    code = (
        "from pathlib import Path; from benchmarks.account_days import measure_here; "
        f"measure_here(Path({str(root)!r}), {day_count})"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, cwd=Path(__file__).parents[1], text=True)
    cpu, kibibytes = printed.split()
    return float(cpu), int(kibibytes) / 1024


def measure_here(root: Path, day_count: int) -> None:
    """Derive every day of a lake; print the CPU seconds and the peak memory in KiB."""
    pa.set_cpu_count(1)
    begun = time.process_time()
    if day_count:
        with closing(Store(StoreSettings(root=str(root)))) as store:
            days = store.days(MESSAGES.name, ACCOUNT)
            derive_account_days(store, ACCOUNT, days)
            assert store.days("account_days", ACCOUNT) == days
    print(time.process_time() - begun, peak_kibibytes())


def peak_kibibytes() -> int:
    """Return the peak of this process alone; `getrusage` of a child begins at its parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def show_views(root: Path) -> None:
    with convo_pipeline.connect(root, config={"threads": 1}) as con:
        for view in ("response_turns", "sessions", "inbox"):
            begun = time.process_time()
            con.execute(f"SELECT count(*), max(COLUMNS(*)) FROM {view}").fetchall()
            print(f"{view}: {time.process_time() - begun:.2f} s CPU for all columns and rows")


def write_lake(root: Path, message_count: int, day_count: int = DAY_COUNT) -> None:
    """Conversations of ten messages, evenly over the days, with waits from seconds to days."""
    draw = np.random.default_rng(7)
    conversation = np.repeat(np.arange(message_count // PER_CONVERSATION), PER_CONVERSATION)
    waits = np.exp(draw.normal(6, 2.5, len(conversation))).astype(np.int64)
    begun = draw.integers(0, day_count * 86_400, message_count // PER_CONVERSATION)
    elapsed = np.cumsum(waits) - np.repeat(np.cumsum(waits)[::PER_CONVERSATION], PER_CONVERSATION)
    seconds = np.minimum(np.repeat(begun, PER_CONVERSATION) + elapsed, day_count * 86_400 - 1)
    direction = np.array(["inbound", "outbound", None], dtype=object)[
        draw.choice(3, len(conversation), p=(0.5, 0.48, 0.02))
    ]
    start = int(datetime(SINCE.year, SINCE.month, SINCE.day, tzinfo=UTC).timestamp())
    with closing(Store(StoreSettings(root=str(root)))) as store:
        for number in range(day_count):
            rows = np.flatnonzero(seconds // 86_400 == number)
            content = one_day(rows, conversation[rows], start + seconds[rows], direction[rows])
            day = SINCE + timedelta(days=number)
            store.replace(MESSAGES.name, ACCOUNT, day, content, f"messages of {day}")
        ended_at = datetime(2026, 12, 31, tzinfo=UTC)
        run = Run("run", ACCOUNT, "window", ended_at, SINCE, ended_at.date(), outcome="complete")
        store.state.save_run(run)


def one_day(
    rows: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    conversation: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    seconds: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    direction: "np.ndarray[tuple[int], np.dtype[np.object_]]",
) -> pa.Table:
    moment = pa.array(seconds * 1_000_000, pa.timestamp("us", tz="UTC"))
    known = {
        "conversation_id": [f"t_{number:012d}" for number in conversation],
        "message_id": [f"m_aWdfZAG1faXRlbToxOklHTWVzc2FnZA{row:012d}" for row in rows],
        "created_at": moment,
        "order_in_second": rows % PER_CONVERSATION,
        "direction": list(direction),
        "text": [
            f"hello, this is message {row % 5000} of the shop" if row % 3 else "ok" for row in rows
        ],
        "content_type": ["text" if row % 9 else "image" for row in rows],
        "reaction_count": [int(row % 11 == 0) for row in rows],
        "detail_status": ["detailed" if word else "beyond_20" for word in direction],
        "first_seen_at": moment,
        "changed_at": moment,
    }
    columns = [
        pa.array(known[field.name], field.type)
        if not isinstance(known.get(field.name, 0), int)
        else pa.nulls(len(rows), field.type)
        for field in MESSAGES.schema
    ]
    return pa.table(columns, schema=MESSAGES.schema)


if __name__ == "__main__":
    main()
