"""Which conversations may collect more than 20 messages before the next look: about to be lost.

The rule is in docs/metrics.md. `assess` is pure: times in, risks out; `find_risks` reads the times from the lake.
It asks no API: what it knows of a conversation is what the last look brought.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS, READABLE_COUNT
from convo_pipeline.settings import Settings
from convo_pipeline.state.records import Run

LOOKBACK = timedelta(hours=48)
SAFETY = 2
"""What came in the last gap may come twice as fast in the next one."""
SHORTEST_GAP = timedelta(minutes=1)
LONGEST_GAP = timedelta(days=1)
RUNS_READ = 50
LISTED_ALL_THE_SAME = frozenset(
    {"conversation_failed", "message_failed", "empty_edge", "quarantined"}
)
"""Why a run can be incomplete although it listed the whole inbox."""


@dataclass(frozen=True)
class Risk:
    """One conversation that may lose messages."""

    conversation_id: str
    expected_count: int
    """So many messages may come before the next look."""
    look_within: timedelta
    """After the last look: half of the time in which 20 may come."""


@dataclass(frozen=True)
class AccountRisks:
    """What one account's last look lets us fear; `last_look` is None for an account that was never read."""

    account: str
    last_look: datetime | None
    gap: timedelta
    risks: tuple[Risk, ...] = ()

    @property
    def due_at(self) -> datetime | None:
        """When the next look must come; None while no conversation is at risk."""
        if self.last_look is None or not self.risks:
            return None
        return self.last_look + min(risk.look_within for risk in self.risks)


def assess(
    times: Mapping[str, Iterable[datetime]], last_look: datetime, gap: timedelta
) -> tuple[Risk, ...]:
    """Judge conversations by the times of their messages, inbound and outbound alike; the riskiest first.

    >>> from datetime import UTC
    >>> look = datetime(2026, 3, 9, 12, tzinfo=UTC)
    >>> recent = [look - timedelta(minutes=minute) for minute in range(12)]
    >>> assess({"busy": recent, "calm": recent[:10]}, look, timedelta(minutes=15))
    (Risk(conversation_id='busy', expected_count=24, look_within=datetime.timedelta(seconds=375)),)
    """
    expected = {key: expect_count(sorted(some), last_look, gap) for key, some in times.items()}
    risks = [
        Risk(key, n, _look_within(gap, n)) for key, n in expected.items() if n > READABLE_COUNT
    ]
    return tuple(sorted(risks, key=lambda risk: (-risk.expected_count, risk.conversation_id)))


def expect_count(times: Sequence[datetime], last_look: datetime, gap: timedelta) -> int:
    """Say how many messages may come in the next gap: twice the last gap's, or the most of any gap in 48 hours.

    `times` are sorted; a gap is half-open: it holds its end and not its start.
    """
    recent = [time for time in times if time > last_look - LOOKBACK]
    newest = sum(time > last_look - gap for time in recent)
    return max(SAFETY * newest, _peak(recent, gap))


def _peak(times: Sequence[datetime], gap: timedelta) -> int:
    """Count the most of these sorted times that any one gap holds."""
    peak = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - gap:
            first += 1
        peak = max(peak, last - first + 1)
    return peak


def _look_within(gap: timedelta, expected_count: int) -> timedelta:
    return max(SHORTEST_GAP, gap * READABLE_COUNT / expected_count / SAFETY)


def gap_between_looks(settings: Settings, looks: Sequence[datetime]) -> timedelta:
    """Return what lies between two looks: the capture's minutes, or what really lay between the last two, if that is more.

    `looks` are newest first. Without captures it is a day.
    """
    minutes = settings.schedule.capture_minutes
    planned = timedelta(minutes=minutes) if minutes else LONGEST_GAP
    seen = looks[0] - looks[1] if len(looks) > 1 else planned
    return min(LONGEST_GAP, max(planned, seen))


def find_risks(settings: Settings, store: Store, account: str) -> AccountRisks:
    """Read what the lake knows of one account's recent messages and judge it."""
    looks = looks_of(store.state.runs(account, limit=RUNS_READ))
    gap = gap_between_looks(settings, looks)
    if not looks:
        return AccountRisks(account, None, gap)
    return AccountRisks(
        account, looks[0], gap, assess(_read_times(store, account, looks[0]), looks[0], gap)
    )


def looks_of(runs: Iterable[Run]) -> list[datetime]:
    """Return when the account's inbox was listed to the end, newest first."""
    return [run.started_at for run in runs if run.kind != "find" and _is_whole(run)]


def _is_whole(run: Run) -> bool:
    is_nearly = run.outcome == "incomplete" and LISTED_ALL_THE_SAME.issuperset(run.reasons)
    return run.outcome == "complete" or is_nearly


def _read_times(store: Store, account: str, last_look: datetime) -> dict[str, list[datetime]]:
    """Return each conversation's message times; days with too few messages for any risk are not opened."""
    times: dict[str, list[datetime]] = defaultdict(list)
    days = _recent_days(store, account, last_look)
    if sum(days.values()) * SAFETY <= READABLE_COUNT:
        return times
    for day in days:
        content = store.read(RAW_MESSAGE_IDS.name, account, day)
        columns = (content[name].to_pylist() for name in ("conversation_id", "created_at"))
        for conversation_id, created_at in zip(*columns, strict=True):
            times[conversation_id].append(created_at)
    return times


def _recent_days(store: Store, account: str, last_look: datetime) -> dict[date, int]:
    """Return the days that a look back reaches, with their row counts."""
    first = (last_look - LOOKBACK).date()
    reached = [first + timedelta(days=index) for index in range(LOOKBACK.days + 2)]
    held = (store.state.partition(RAW_MESSAGE_IDS.name, account, day) for day in reached)
    return {each.date: each.row_count for each in held if each}
