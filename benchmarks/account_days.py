"""What `account_days` costs: a million messages over 90 days, against the same figures by SQL in plain DuckDB.

Both read the same lake on one thread; CPU seconds of this process, medians of interleaved rounds. Peak memory is that of
a process that makes every day and nothing else, for lakes of other sizes too: what lies beyond a month is not held.
Run: python benchmarks/account_days.py [MESSAGES] [ROUNDS]
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import convo_pipeline
from convo_pipeline.derive.account_days import BATCH_DAYS
from convo_pipeline.query.connection import Connection
from convo_pipeline.schema import MESSAGES
from convo_pipeline.tables.complete_range import CompleteRange
from convo_pipeline.tables.metrics import COLUMNS, account_days, needed_days

SINCE = date(2026, 1, 1)
DAY_COUNT = 90
MEMORY_SHAPES = ((10, 90), (1, 90), (1, 360))
"""Lakes whose peak memory is shown: one part in so many of the messages a day, for so many days."""
PER_CONVERSATION = 10
SQL = (Path(__file__).parent / "account_days.sql").read_text()
COMPLETE_RANGE = CompleteRange(SINCE, datetime(2026, 12, 31, tzinfo=UTC))
PARAMETERS = {
    "since": COMPLETE_RANGE.since,
    "until": COMPLETE_RANGE.until,
    "edge": timedelta(hours=24),
}


def main(message_count: int = 1_000_000, rounds: int = 3) -> None:
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        write_lake(Path(folder), message_count)
        with convo_pipeline.connect(folder, config={"threads": 1}) as con:
            ways: dict[str, Callable[[], int]] = {
                "SQL in DuckDB": lambda: len(con.sql(SQL, params=PARAMETERS).to_arrow_table()),
                "account_days": lambda: make_all(Path(folder)),
            }
            spent: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    begun = time.process_time()
                    assert way() == DAY_COUNT
                    spent[name].append(time.process_time() - begun)
            report(spent, message_count)
            show_views(con)
    show_memory(message_count)


def report(spent: dict[str, list[float]], message_count: int) -> None:
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    for name, seconds in medians.items():
        print(
            f"{name:16} {seconds:6.2f} s CPU for {message_count:,} messages over {DAY_COUNT} days"
        )
    print(f"ratio            {medians['account_days'] / medians['SQL in DuckDB']:6.2f} (at most 3)")


def show_memory(message_count: int) -> None:
    """Make the days of smaller and longer lakes in processes of their own."""
    print(f"peak memory      {peak_megabytes(Path(), 0):6.0f} MB before anything is read")
    for part, day_count in MEMORY_SHAPES:
        count = message_count // part * day_count // DAY_COUNT
        with tempfile.TemporaryDirectory() as folder:
            write_lake(Path(folder), count, day_count)
            megabytes = peak_megabytes(Path(folder), day_count)
        print(f"peak memory      {megabytes:6.0f} MB for {count:,} messages over {day_count} days")


def peak_megabytes(root: Path, day_count: int) -> float:
    """Return what a process of its own says of itself: the kernel's figure for a child starts at its parent's peak."""
    code = (
        "from pathlib import Path; from account_days import make_all, own_peak; "
        f"make_all(Path({str(root)!r}), {day_count}); print(own_peak())"
    )
    printed = subprocess.check_output(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, text=True
    )
    return float(printed) / 1024


def own_peak() -> int:
    """Return the highest resident set of this process so far, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def show_views(con: Connection) -> None:
    for view in ("response_turns", "sessions", "inbox"):
        begun = time.perf_counter()
        con.execute(f"SELECT count(*), max(COLUMNS(*)) FROM {view}").fetchall()
        print(f"{view:16} {time.perf_counter() - begun:6.2f} s for every column of every row")


def make_all(root: Path, day_count: int = DAY_COUNT) -> int:
    """Make every day, a month at a time as the pipeline does, from the files of the days it needs."""
    made = 0
    for start in range(0, day_count, BATCH_DAYS):
        days = [
            SINCE + timedelta(days=start + index)
            for index in range(min(BATCH_DAYS, day_count - start))
        ]
        first, last = needed_days(days[0])[0], needed_days(days[-1])[1]
        paths = [
            partition(root, first + timedelta(days=index)) for index in range((last - first).days)
        ]
        held = pa.concat_tables(
            [pq.read_table(path, columns=list(COLUMNS)) for path in paths if path.exists()]
        )
        made += len(account_days(held, days, complete_range=COMPLETE_RANGE))
    return made


def partition(root: Path, day: date) -> Path:
    return root / "messages" / "account=bakery" / f"date={day}" / "data.parquet"


def write_lake(root: Path, message_count: int, day_count: int = DAY_COUNT) -> None:
    """Conversations of ten messages, begun evenly over the days, with waits from seconds to days."""
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
    for day in range(day_count):
        rows = np.flatnonzero(seconds // 86_400 == day)
        path = partition(root, SINCE + timedelta(days=day))
        path.parent.mkdir(parents=True)
        pq.write_table(
            one_day(rows, conversation[rows], start + seconds[rows], direction[rows]), path
        )


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
        "tie_rank": rows % PER_CONVERSATION,
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
    main(*(int(argument) for argument in sys.argv[1:]))
