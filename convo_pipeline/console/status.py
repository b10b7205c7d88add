"""Command `status`: the state of each account from stored data, without API calls.

A message is lost if it was sent after the account's first run and the API no longer returns its
content. Days whose raw tables are newer than their derived tables are counted from the raw tables,
so a late or failed normalise run hides nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from rich import box
from rich.console import Console
from rich.table import Table

from convo_pipeline.console.results import counted
from convo_pipeline.derive.day import (
    count_unsure_directions,
    current_coverage,
    is_derived,
    kept_days,
)
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.report import AccountReport
from convo_pipeline.extract.risk import find_risks, propose_minutes
from convo_pipeline.extract.spool import count_left_spools
from convo_pipeline.graph.client import Endpoint
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.outbox import Outbox
from convo_pipeline.reasons import REASONS, describe_outcome
from convo_pipeline.schema import COVERAGE, RAW, RAW_MESSAGE_DETAILS
from convo_pipeline.settings import AccountSettings, Settings, next_time
from convo_pipeline.state.access import blocked_until, has_state
from convo_pipeline.state.records import REFUSED, WHOLE_DAYS, Run

COVERAGE_DAYS = 7
LOST_DAYS = 31
"""Runs read at most this many days back, so no older message becomes lost."""
LATE_AFTER = timedelta(hours=26)
"""One nightly run is missing if no run was complete for a day and two hours."""
DERIVED_WITHIN = timedelta(hours=1)
"""Days should be derived this long after a nightly run; the follow-up run starts in a minute."""
EXPIRES_SOON = timedelta(days=14)
"""How long before its end a token is a warning."""
LOST_WORDS = {
    "beyond_20": "no longer among the newest 20",
    "gone": "deleted or hidden before they were read",
}


@dataclass(frozen=True)
class AccountStatus:
    """One account at one moment; times in UTC. `--json` prints these fields."""

    account: str
    platform: str
    last_complete_at: datetime | None = None
    last_run_at: datetime | None = None
    running_since: datetime | None = None
    """Start of the newest run if it is active or was killed; `last_outcome` is an earlier run's."""
    last_outcome: str | None = None
    last_reasons: tuple[str, ...] = ()
    last_error: str | None = None
    note: str = ""
    """What the last run noticed and no person has to repair at once."""
    listed_count: int = 0
    detailed_count: int = 0
    open_count: int = 0
    open_since: date | None = None
    """The first of the recent days with messages that are not read yet."""
    unsure_direction_count: int = 0
    """Messages of recent days that have a sender and no direction."""
    lost: Mapping[str, int] = field(default_factory=dict)
    lost_conversation_count: int = 0
    capture_proposal: str = ""
    """Which `capture_minutes` would have been enough for the lost messages."""
    at_risk_count: int = 0
    most_expected: int = 0
    look_due_at: datetime | None = None
    due_conversation_count: int = 0
    has_refused: bool = False
    """Whether the API refuses the older messages of a conversation."""
    open_spool_count: int = 0
    token_warnings: tuple[str, ...] = ()
    """Whether the token or its access to data ends within two weeks, as of the last `check`."""
    underived_day_count: int = 0
    """Recent days whose derived tables are missing or older than their raw tables."""
    quarantine_count: int = 0
    kept_day_count: int = 0
    missed_count: int = 0
    """Messages that the last sweep found and earlier runs had missed."""
    blocked_until: datetime | None = None
    is_late: bool = False
    is_night_late: bool = False
    """No run that reads whole days was complete for 26 hours; captures do not count."""
    is_derivation_late: bool = False
    """Days wait to be derived, no run is active, and the last nightly run ended an hour ago."""
    problem: str | None = None
    """Why the tables of this account cannot be read."""

    @property
    def share_detailed(self) -> float | None:
        """Share of the week's messages with content; None, not 1, if more messages may exist."""
        if not self.listed_count or (self.has_refused and self.detailed_count == self.listed_count):
            return None
        return self.detailed_count / self.listed_count

    @property
    def attention(self) -> list[str]:
        """What needs a person's attention, with its remedy; empty if all is well."""
        return list(_attention_lines(self))


@dataclass(frozen=True)
class Status:
    """All accounts, and the next scheduled runs if the schedules are on."""

    at: datetime
    accounts: tuple[AccountStatus, ...]
    next_capture_at: datetime | None
    next_night_at: datetime | None
    problems: tuple[str, ...] = ()
    """What concerns no single account, such as alerts that no receiver accepted."""

    @property
    def covered_since(self) -> date:
        """The first UTC day of the coverage counts; today is the last."""
        return _last_days(self.at.date(), COVERAGE_DAYS)[-1]

    @property
    def lost_since(self) -> datetime:
        """Messages count as lost if they were found lost after this time."""
        return start_of_yesterday(self.at.date())

    @property
    def is_fine(self) -> bool:
        return not self.problems and not any(account.attention for account in self.accounts)


def read_status(settings: Settings, names: Sequence[str], now: datetime) -> Status:
    """Read the status of these accounts; creates no file if nothing was extracted yet."""
    chosen = [account for account in settings.accounts if account.name in names]
    schedule = settings.schedule
    return Status(
        now,
        tuple(_read_accounts(settings, chosen, now)),
        next_time(schedule.capture, now) if schedule.capture else None,
        next_time(schedule.nightly, now),
        tuple(_find_undelivered(settings)),
    )


def _find_undelivered(settings: Settings) -> Iterator[str]:
    """Yield a line if alerts wait for a receiver that did not accept them."""
    outbox = Outbox(settings.store.state_path)
    failed = [alert for alert in outbox.undelivered() if alert.try_count]
    yield from (f"alerts: {location} is damaged: delete it" for location in outbox.damaged())
    if failed:
        yield _explain(
            "alert_undelivered",
            alerts=counted(len(failed), "alert"),
            since=_format_time(failed[0].failed_at),
            error=failed[-1].error,
        )


def _read_accounts(
    settings: Settings, chosen: Sequence[AccountSettings], now: datetime
) -> Iterator[AccountStatus]:
    if not has_state(settings.store):
        yield from (AccountStatus(account.name, account.platform) for account in chosen)
        return
    with closing(Store(settings.store)) as store:
        for account in chosen:
            try:
                yield _read_account(settings, store, account, now)
            except StoreError as error:
                yield AccountStatus(account.name, account.platform, problem=str(error))


def _read_account(
    settings: Settings, store: Store, account: AccountSettings, now: datetime
) -> AccountStatus:
    name, state, today = account.name, store.state, now.date()
    newest: Run | None = next(iter(state.runs(name, limit=1)), None)
    last, complete = state.last_ended(name), state.last_complete(name)
    nights = [run for kind in WHOLE_DAYS if (run := state.last_complete(name, kind))]
    running_since = newest.started_at if newest and newest.outcome == "running" else None
    coverage = read_coverage(store, name, today)
    week: Counter[str] = Counter()
    for day in _last_days(today, COVERAGE_DAYS):
        counts = coverage.get(day, {})
        week.update({key: count for key, count in counts.items() if key != "share_detailed"})
    open_days = [day for day, counts in coverage.items() if counts["pending"] or counts["failed"]]
    lost = find_lost(store, name, today, coverage)
    conversations = state.conversations(name).values()
    risks = find_risks(settings, store, name)
    underived_day_count = sum(not is_derived(store, name, day) for day in coverage)
    return AccountStatus(
        account=name,
        platform=account.platform,
        last_complete_at=complete.started_at if complete else None,
        last_run_at=newest.started_at if newest else None,
        running_since=running_since,
        last_outcome=last.outcome if last else None,
        last_reasons=last.reasons if last else (),
        last_error=last.error if last else None,
        note=note_of(last) if last else "",
        listed_count=week["ids_listed"],
        detailed_count=week["detailed"],
        open_count=week["pending"] + week["failed"],
        open_since=min(open_days, default=None),
        unsure_direction_count=count_unsure_in(store, name, coverage),
        lost=dict(Counter(reason for _, reason in lost)),
        capture_proposal=_propose(store, name, coverage, lost),
        lost_conversation_count=len({conversation_id for conversation_id, _ in lost}),
        at_risk_count=len(risks.risks),
        most_expected=max((risk.expected_count for risk in risks.risks), default=0),
        look_due_at=risks.due_at,
        due_conversation_count=sum(each.is_due for each in conversations),
        has_refused=any(each.due_reason == REFUSED for each in conversations),
        open_spool_count=count_left_spools(store, name),
        token_warnings=tuple(
            _explain_end(account, day, reason)
            for day, reason in sorted(state.token_ends(name).items())
            if day <= (now + EXPIRES_SOON).date()
            and not (complete and complete.started_at.date() > day)
        ),
        underived_day_count=underived_day_count,
        quarantine_count=len(state.suspect_files(name)),
        kept_day_count=len(kept_days(store, name)),
        missed_count=(state.last_full_run(name) or (None, 0))[1],
        blocked_until=blocked_until(state.database, Endpoint.of(settings, account).limit_key, now),
        is_late=_is_late(complete, now),
        is_night_late=all(_is_late(run, now) for run in nights),
        is_derivation_late=underived_day_count > 0
        and running_since is None
        and all(now - (run.ended_at or run.started_at) > DERIVED_WITHIN for run in nights),
    )


def note_of(run: Run | AccountReport) -> str:
    """Return what a run noticed although it is complete; an empty text if it noticed nothing."""
    clocks = differing_clocks(run)
    return _explain("clocks_differ", clocks=clocks) if clocks else ""


def differing_clocks(run: Run | AccountReport) -> str:
    """Return how the clocks of a complete run differ; an empty text if they agree."""
    clocks = (run.report or {}).get("clocks")
    return clocks if run.outcome == "complete" and isinstance(clocks, str) else ""


def read_coverage(store: Store, account: str, today: date) -> dict[date, Mapping[str, int]]:
    """Return the coverage of each recent day that has stored rows, newest first."""
    days = {day for table in (*RAW, COVERAGE) for day in store.days(table.name, account)}
    recent = sorted(days.intersection(_last_days(today, LOST_DAYS)), reverse=True)
    rows = {day: current_coverage(store, account, day).to_pylist() for day in recent}
    return {day: day_rows[0] for day, day_rows in rows.items() if day_rows}


def count_unsure_in(store: Store, account: str, coverage: Mapping[date, Mapping[str, int]]) -> int:
    """Return how many messages of these days have a sender and no direction."""
    return sum(
        count_unsure_directions(store, account, day)
        for day, counts in coverage.items()
        if counts["unknown_direction_count"]
    )


def find_lost(
    store: Store, account: str, today: date, coverage: Mapping[date, Mapping[str, int]]
) -> list[tuple[str, str]]:
    """Return (conversation_id, reason) of each message that was found lost since yesterday.

    Only the days whose `coverage` counts lost messages are read. A message that was read before it
    was unsent is not lost.
    """
    first_run_at, since = store.state.first_run_at(account), start_of_yesterday(today)
    if first_run_at is None:
        return []
    lost: list[tuple[str, str]] = []
    columns = ["conversation_id", "detail_status", "created_at", "changed_at"]
    for day, counts in coverage.items():
        if day < first_run_at.date() or not any(counts[reason] for reason in LOST_WORDS):
            continue
        details = store.read(RAW_MESSAGE_DETAILS.name, account, day)
        for row in details.select([*columns, "gone_at", "redacted_at"]).to_pylist():
            reason = row["detail_status"]
            is_lost = reason in LOST_WORDS and row["redacted_at"] is None
            if (
                is_lost
                and row["created_at"] >= first_run_at
                and (row["gone_at"] or row["changed_at"]) >= since
            ):
                lost.append((row["conversation_id"], reason))
    return lost


def _propose(
    store: Store,
    account: str,
    coverage: Mapping[date, Mapping[str, int]],
    lost: Sequence[tuple[str, str]],
) -> str:
    first_run_at = store.state.first_run_at(account)
    if not lost or first_run_at is None:
        return ""
    days = [day for day in coverage if day >= first_run_at.date() and coverage[day]["beyond_20"]]
    return propose_minutes(store, account, days, {conversation_id for conversation_id, _ in lost})


def start_of_yesterday(today: date) -> datetime:
    """Return the UTC midnight at the start of the day before."""
    return datetime.combine(today - timedelta(days=1), time(), UTC)


def _is_late(run: Run | None, now: datetime) -> bool:
    return run is None or now - run.started_at > LATE_AFTER


def _last_days(today: date, count: int) -> list[date]:
    return [today - timedelta(days=index) for index in range(count)]


def _attention_lines(status: AccountStatus) -> Iterator[str]:
    has_ended = status.last_outcome is not None
    if status.problem:
        yield status.problem
    elif not has_ended and status.running_since is None:
        yield _explain("never_extracted")
    elif status.last_outcome not in (None, "complete", "busy"):
        text = describe_outcome(status.last_outcome or "", status.last_reasons, status.last_error)
        yield f"last run {text}"
    if has_ended and status.is_late:
        yield _explain("late")
    elif has_ended and status.is_night_late:
        yield _explain("night_late")
    if status.is_derivation_late:
        yield _explain("derivation_late", days=counted(status.underived_day_count, "day"))
    if status.lost:
        count = counted(sum(status.lost.values()), "message")
        conversations = counted(status.lost_conversation_count, "conversation")
        causes = ", ".join(f"{n:,} {LOST_WORDS[cause]}" for cause, n in sorted(status.lost.items()))
        what = f"{count} in {conversations} since yesterday ({causes})"
        yield _explain("lost", what=what, proposal=status.capture_proposal)
    if status.at_risk_count:
        yield _explain(
            "at_risk",
            conversations=counted(status.at_risk_count, "conversation"),
            count=f"{status.most_expected:,}",
            due=_format_time(status.look_due_at),
        )
    if status.open_count or status.due_conversation_count:
        messages = counted(status.open_count, "message")
        conversations = counted(status.due_conversation_count, "conversation")
        since = f" --since {status.open_since}" if status.open_since else ""
        read_again = f"run `convo-pipeline extract {status.account}{since}`"
        yield _explain("unread", what=f"{messages} and {conversations}", read_again=read_again)
    if status.unsure_direction_count:
        messages = counted(status.unsure_direction_count, "message")
        yield _explain("directions_unknown", what=messages)
    yield from status.token_warnings
    if status.blocked_until:
        yield _explain("blocked", until=_format_time(status.blocked_until))
    if status.missed_count:
        yield _explain("missed", messages=counted(status.missed_count, "message"))
    if status.quarantine_count:
        yield _explain("damaged_files", files=counted(status.quarantine_count, "file"))
    if status.kept_day_count:
        yield _explain("raw_rows_lost", days=counted(status.kept_day_count, "day"))


def _explain_end(account: AccountSettings, day: date, reason: str) -> str:
    text = _explain(reason, date=str(day), variable=account.token_name)
    return f"{text}; then run `convo-pipeline check`, which reads the new date"


def _explain(name: str, **details: str) -> str:
    return REASONS[name].explain(details=details)


def _format_time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


def describe_status(status: Status) -> dict[str, object]:
    """Return the status as a JSON document; times are UTC."""
    document = {**asdict(status), "is_fine": status.is_fine}
    document |= {"covered_since": status.covered_since, "lost_since": status.lost_since}
    document["accounts"] = [
        {**asdict(each), "share_detailed": each.share_detailed, "attention": each.attention}
        for each in status.accounts
    ]
    return document


def show_status(status: Status, console: Console) -> None:
    """Print one row per account, then what needs attention."""
    console.print(_table(status))
    for account in status.accounts:
        notes = [*account.attention, *([account.note] if account.note else [])]
        if account.running_since or account.open_spool_count:
            since = f" since {_format_time(account.running_since)}" if account.running_since else ""
            notes.append(
                f"a run is active{since}, or was killed; the next run stores what it had read"
            )
        if account.underived_day_count and not account.is_derivation_late:
            days = counted(account.underived_day_count, "day")
            notes.append(f"{days} not normalised yet; the next normalise run does it")
        for note in notes:
            console.print(f"{account.account}: {note}", markup=False, highlight=False)
    for problem in status.problems:
        console.print(problem, markup=False, highlight=False)
    capture = _format_time(status.next_capture_at) if status.next_capture_at else "off"
    night = _format_time(status.next_night_at)
    console.print(
        f"7 days: share of messages with content, {status.covered_since} to {status.at.date()};"
        f" lost: since {status.lost_since.date()} (UTC)\n"
        f"next runs, if on in Dagster: capture {capture}; night {night}",
        style="dim",
        highlight=False,
    )
    total = counted(len(status.accounts), "account")
    count = sum(bool(account.attention) for account in status.accounts)
    console.print(f"need attention: {count:,} of {total}", style="bold", highlight=False)


def _table(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("account", overflow="fold", max_width=30)
    table.add_column("complete (UTC)", no_wrap=True)
    for name in ("7 days", "lost", "at risk", "waiting"):
        table.add_column(name, justify="right", no_wrap=True)
    for account in status.accounts:
        complete_at, share = account.last_complete_at, account.share_detailed
        table.add_row(
            account.account,
            f"{complete_at:%Y-%m-%d %H:%M}" if complete_at else "never",
            "–" if share is None else f"{share:.1%}",
            f"{sum(account.lost.values()):,}",
            f"{account.at_risk_count:,}",
            f"{account.open_count:,}",
            style="yellow" if account.attention else "",
        )
    return table
