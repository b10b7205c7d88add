"""Predict which conversations will exceed 20 unread messages before the next capture.

The rule is in docs/metrics.md. It makes no API call: it reads the times of stored messages. A
*listing* here is a run that listed the whole inbox; the *interval* is the time between two of them.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_DETAILS, RAW_MESSAGE_IDS, READABLE_COUNT
from convo_pipeline.settings import Settings
from convo_pipeline.state.records import Run

LOOKBACK = timedelta(hours=48)
SAFETY_FACTOR = 2
"""The next interval may bring twice as many messages as the last one."""
SHORTEST_WAIT = timedelta(minutes=1)
LONGEST_INTERVAL = timedelta(days=1)
RUNS_READ = 50
MOST_MINUTES = 720
"""The largest `capture_minutes`."""
REASONS_OF_A_WHOLE_LISTING = frozenset(
    {"conversation_failed", "conversation_refused", "message_failed", "empty_edge", "quarantined"}
)
"""Why a run can be incomplete although it listed the whole inbox."""


@dataclass(frozen=True)
class ConversationRisk:
    """A conversation that may lose messages.

    `expected_count` messages may arrive in the next interval. `capture_within` of the last listing
    is half the time in which 20 may arrive.
    """

    conversation_id: str
    expected_count: int
    capture_within: timedelta


@dataclass(frozen=True)
class AccountRisks:
    """The conversations of one account that may lose messages, the riskiest first.

    `last_listed_at` is None for an account without a listing. `refused_ids` are conversations of
    which the API refused something in the last run, at most 100. No capture saves what it refuses.
    """

    account: str
    last_listed_at: datetime | None
    interval: timedelta
    risks: tuple[ConversationRisk, ...] = ()
    refused_ids: tuple[str, ...] = ()

    @property
    def due_at(self) -> datetime | None:
        """When the next capture is due; None while no conversation is at risk."""
        if self.last_listed_at is None or not self.risks:
            return None
        return self.last_listed_at + min(risk.capture_within for risk in self.risks)


def find_risks(settings: Settings, store: Store, account: str) -> AccountRisks:
    """Return the risks of an account from its stored messages of the last 48 hours."""
    runs = store.state.runs(account, limit=RUNS_READ)
    listings = listing_times(runs)
    interval = listing_interval(settings, listings)
    if not listings:
        return AccountRisks(account, None, interval)
    times = _read_times(store, account, listings[0])
    risks = assess(times, listings[0], interval)
    return AccountRisks(account, listings[0], interval, risks, _find_refused(runs))


def assess(
    times: Mapping[str, Iterable[datetime]], last_listed_at: datetime, interval: timedelta
) -> tuple[ConversationRisk, ...]:
    """Return the conversations at risk, given the times of all their messages; riskiest first.

    >>> from datetime import UTC
    >>> noon = datetime(2026, 3, 9, 12, tzinfo=UTC)
    >>> recent = [noon - timedelta(minutes=minute) for minute in range(12)]
    >>> [risk] = assess({"busy": recent, "calm": recent[:10]}, noon, timedelta(minutes=15))
    >>> risk.conversation_id, risk.expected_count, risk.capture_within.seconds
    ('busy', 24, 375)
    """
    risks = []
    for conversation_id, message_times in times.items():
        count = expect_count(sorted(message_times), last_listed_at, interval)
        if count > READABLE_COUNT:
            wait = max(SHORTEST_WAIT, interval * READABLE_COUNT / count / SAFETY_FACTOR)
            risks.append(ConversationRisk(conversation_id, count, wait))
    return tuple(sorted(risks, key=lambda risk: (-risk.expected_count, risk.conversation_id)))


def expect_count(times: Sequence[datetime], last_listed_at: datetime, interval: timedelta) -> int:
    """Return how many messages may arrive in the next interval.

    It is twice the last interval's count, or the largest count of any interval in 48 hours. `times`
    are sorted; an interval includes its end and excludes its start.
    """
    recent = [time for time in times if time > last_listed_at - LOOKBACK]
    newest = sum(time > last_listed_at - interval for time in recent)
    largest = first = 0
    for last, time in enumerate(recent):
        while recent[first] <= time - interval:
            first += 1
        largest = max(largest, last - first + 1)
    return max(SAFETY_FACTOR * newest, largest)


def propose_minutes(
    store: Store, account: str, days: Iterable[date], among: Container[str] | None = None
) -> str:
    """Say which `capture_minutes` would have been enough for the lost messages of these days.

    `among` limits the conversations. A conversation loses no message if no interval holds more
    than the newest 20.
    """
    ids, details, columns = RAW_MESSAGE_IDS, RAW_MESSAGE_DETAILS, ["conversation_id", "created_at"]
    times: dict[str, list[datetime]] = defaultdict(list)
    losing: set[str] = set()
    for day in days:
        known = read_columns(store, ids, account, day, columns)
        for row in known.to_pylist():
            times[row["conversation_id"]].append(row["created_at"])
        lost = read_columns(store, details, account, day, ["conversation_id", "detail_status"])
        losing |= {
            row["conversation_id"]
            for row in lost.to_pylist()
            if row["detail_status"] == "beyond_20"
            and (among is None or row["conversation_id"] in among)
        }
    minutes = enough_minutes(times[each] for each in losing)
    if minutes is None:
        return "make `schedule.capture_minutes` smaller"
    if minutes == 0:
        return "set `schedule.capture_minutes = 1`: more than 20 messages came in a minute"
    return f"set `schedule.capture_minutes = {minutes}` or less, which would have been enough"


def enough_minutes(conversations: Iterable[Iterable[datetime]]) -> int | None:
    """Return the longest interval in whole minutes that never holds more than 20 messages.

    0 if no whole minute is short enough; None if no conversation has more than 20 messages.

    >>> from datetime import UTC
    >>> noon = datetime(2026, 3, 9, 12, tzinfo=UTC)
    >>> enough_minutes([[noon + timedelta(seconds=30 * number) for number in range(40)]])
    10
    """
    spans = []
    for times in map(sorted, conversations):
        spans += [
            later - first for first, later in zip(times, times[READABLE_COUNT:], strict=False)
        ]
    return min(MOST_MINUTES, min(spans) // timedelta(minutes=1)) if spans else None


def listing_interval(settings: Settings, listings: Sequence[datetime]) -> timedelta:
    """Return the time between two listings: the planned one, or the last one if that was longer.

    `listings` are newest first. The result is at most a day, and a day if captures are off.
    """
    minutes = settings.schedule.capture_minutes
    planned = timedelta(minutes=minutes) if minutes else LONGEST_INTERVAL
    last = listings[0] - listings[1] if len(listings) > 1 else planned
    return min(LONGEST_INTERVAL, max(planned, last))


def listing_times(runs: Iterable[Run]) -> list[datetime]:
    """Return when runs listed the whole inbox of an account, newest first."""
    return [run.started_at for run in runs if run.kind != "find" and _is_whole(run)]


def _find_refused(runs: Iterable[Run]) -> tuple[str, ...]:
    """Return the conversations that the newest run with a report names as refused."""
    reports = [run.report["refused"] for run in runs if run.report and "refused" in run.report]
    refused: Any = next(iter(reports), {})
    return tuple(each["conversation_id"] for each in refused.get("first", ()))


def _is_whole(run: Run) -> bool:
    is_nearly_complete = run.outcome == "incomplete" and REASONS_OF_A_WHOLE_LISTING.issuperset(
        run.reasons
    )
    return run.outcome == "complete" or is_nearly_complete


def _read_times(store: Store, account: str, last_listed_at: datetime) -> dict[str, list[datetime]]:
    """Return the message times of each conversation, if there are enough for any risk."""
    first = (last_listed_at - LOOKBACK).date()
    days = [first + timedelta(days=index) for index in range(LOOKBACK.days + 2)]
    partitions = [store.state.partition(RAW_MESSAGE_IDS.name, account, day) for day in days]
    stored = [partition for partition in partitions if partition]
    times: dict[str, list[datetime]] = defaultdict(list)
    if sum(each.row_count for each in stored) * SAFETY_FACTOR <= READABLE_COUNT:
        return times
    for each in stored:
        rows = store.read(RAW_MESSAGE_IDS.name, account, each.date)
        columns = (rows[name].to_pylist() for name in ("conversation_id", "created_at"))
        for conversation_id, created_at in zip(*columns, strict=True):
            times[conversation_id].append(created_at)
    return times
