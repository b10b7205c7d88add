"""What the state holds, as values, and how each becomes a row of SQLite and is read from one: pure.

Times are whole microseconds since 1970 in the rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.base.times import from_us, to_us

GIVEN_UP = "given_up"
GIVEN_UP_UNSHOWN = "given_up_unshown"
"""Given up while no answer showed any of its messages: one that does ends it."""
GIVEN_UP_REASONS = frozenset({GIVEN_UP, GIVEN_UP_UNSHOWN})


@dataclass(frozen=True)
class Partition:
    """What a partition's file must be; `next_sha256` is set while a commit is under way ("" = to be removed)."""

    table: str
    account: str
    date: date
    sha256: str
    row_count: int
    byte_count: int
    source: str = ""
    next_sha256: str | None = None


@dataclass(frozen=True)
class ConversationState:
    """How far a conversation is held: ids and details without a hole from the newest down to `complete_since_us`."""

    conversation_id: str
    updated_us: int | None = None
    newest_message_id: str | None = None
    complete_since_us: int | None = None
    due_reason: str | None = None
    """Why it is to be asked again, by its id; one that was given up only when something new came, and by a sweep."""

    @property
    def is_due(self) -> bool:
        """Whether the next run asks it in any case."""
        return self.due_reason is not None and self.due_reason not in GIVEN_UP_REASONS


@dataclass(frozen=True)
class Run:
    """One account's part of one run."""

    run_id: str
    account: str
    kind: str
    started_at: datetime
    """T0: the server's time of the first answer."""
    since: date | None = None
    until: date | None = None
    ended_at: datetime | None = None
    outcome: str = "running"
    reasons: tuple[str, ...] = ()
    error: str | None = None
    calls: Mapping[str, int] | None = None
    counts: Mapping[str, int] | None = None
    report: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Compaction:
    """A month's compacted file, while it agrees with the days it was made from."""

    table: str
    account: str
    month: str
    source: str
    day_count: int
    byte_count: int


def partition_key(partition: Partition) -> tuple[str, str, str]:
    """Return a partition's primary key."""
    return partition.table, partition.account, str(partition.date)


def read_partition(row: tuple[Any, ...]) -> Partition:
    """Return the partition of a row."""
    return Partition(str(row[0]), str(row[1]), date.fromisoformat(str(row[2])), *row[3:])


def run_values(run: Run) -> tuple[object, ...]:
    """Return the row of a run."""
    dates = (None if day is None else str(day) for day in (run.since, run.until))
    times = (to_us(run.started_at), None if run.ended_at is None else to_us(run.ended_at))
    parts = (write_json(part or {}) for part in (run.calls, run.counts, run.report))
    return (
        run.run_id,
        run.account,
        run.kind,
        *dates,
        *times,
        run.outcome,
        write_json(list(run.reasons)),
        run.error,
        *parts,
    )


def read_run(row: tuple[Any, ...]) -> Run:
    """Return the run of a row."""
    (
        run_id,
        account,
        kind,
        since,
        until,
        started_us,
        ended_us,
        outcome,
        reasons,
        error,
        calls,
        counts,
        report,
    ) = row
    return Run(
        str(run_id),
        str(account),
        str(kind),
        started_at=from_us(started_us),
        since=None if since is None else date.fromisoformat(str(since)),
        until=None if until is None else date.fromisoformat(str(until)),
        ended_at=None if ended_us is None else from_us(ended_us),
        outcome=str(outcome),
        reasons=tuple(load_json(str(reasons))),  # type: ignore[arg-type]
        error=None if error is None else str(error),
        calls=read_json(calls),  # type: ignore[arg-type]
        counts=read_json(counts),  # type: ignore[arg-type]
        report=read_json(report),
    )


def write_json(value: object) -> str:
    """Return a value as the text that is stored."""
    return dump_json(value).decode()


def read_json(text: object) -> dict[str, object]:
    """Return what `write_json` stored of a dictionary."""
    value = load_json(str(text))
    return value if isinstance(value, dict) else {}
