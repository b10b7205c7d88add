"""How the accounts are, from the state and the lake alone: last complete run, coverage, what was lost, what comes next.

It calls nobody. "Lost" is what could have been read and was not: messages sent after the account's first run that the
API gives no content of. What was out of reach before that first run was nobody's to lose. Days whose raw rows are
newer than their derived tables are counted from the raw rows, so a late or failed normalise run hides nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from rich import box
from rich.console import Console
from rich.table import Table

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.console.results import counted
from convo_pipeline.derive.day import current_coverage, is_derived, kept_days
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.risk import find_risks
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.graph.client import Endpoint
from convo_pipeline.graph.rate_limit import read_block
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import COVERAGE, RAW, RAW_MESSAGE_DETAILS
from convo_pipeline.settings import AccountSettings, Settings, next_time
from convo_pipeline.state.database import STATE_FILE
from convo_pipeline.state.records import Run

COVERAGE_DAYS = 7
LOST_DAYS = 31
"""A run reaches at most so far back by itself, so nothing older becomes lost."""
LATE_AFTER = timedelta(hours=26)
"""A night and two hours without a complete run is one night missed."""
DERIVED_WITHIN = timedelta(hours=1)
"""So long after a night's end its days should be normalised: the follow-up run begins within a minute."""
NIGHT_KINDS = ("nightly", "window", "full")
"""Runs that promise whole days, as the nightly one does; a capture promises none."""
LOST_WORDS = {
    "beyond_20": "left the newest 20 unread",
    "gone": "deleted or hidden before they were read",
}


@dataclass(frozen=True)
class AccountStatus:
    """One account at a moment; counts of ids, times in UTC."""

    account: str
    platform: str
    last_complete_at: datetime | None = None
    last_run_at: datetime | None = None
    running_since: datetime | None = None
    """When the newest run began, if it is under way or was killed; the last outcome is of the one that ended before."""
    last_outcome: str | None = None
    last_reasons: tuple[str, ...] = ()
    listed_count: int = 0
    detailed_count: int = 0
    open_count: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    lost_conversation_count: int = 0
    at_risk_count: int = 0
    most_expected: int = 0
    look_due_at: datetime | None = None
    due_conversation_count: int = 0
    open_spool_count: int = 0
    underived_day_count: int = 0
    """Of the days counted: so many are in the raw tables and not yet, or not as they are now, in the others."""
    quarantine_count: int = 0
    kept_day_count: int = 0
    missed_count: int = 0
    """What the last sweep found that runs before it had missed."""
    blocked_until: datetime | None = None
    is_late: bool = False
    is_night_late: bool = False
    """No complete run promised whole days for a night and two hours, whatever captures did."""
    is_derivation_late: bool = False
    """Days wait to be normalised, no run is under way, and the last night ended more than an hour ago."""
    problem: str | None = None
    """Why the lake could not be read for this account."""

    @property
    def share_detailed(self) -> float | None:
        return self.detailed_count / self.listed_count if self.listed_count else None

    @property
    def attention(self) -> list[str]:
        """What a person should look at, one sentence each; empty if all is well."""
        return list(_sentences(self))


@dataclass(frozen=True)
class Status:
    """All accounts, and when what runs next (if its schedule is turned on)."""

    at: datetime
    accounts: tuple[AccountStatus, ...]
    next_capture_at: datetime | None
    next_night_at: datetime | None

    @property
    def covered_since(self) -> date:
        """The first of the UTC days whose messages the coverage counts; today is the last."""
        return _last_days(self.at.date(), COVERAGE_DAYS)[-1]

    @property
    def lost_since(self) -> datetime:
        """From when on a message must have been found out of reach to be counted as lost."""
        return start_of_yesterday(self.at.date())

    @property
    def is_fine(self) -> bool:
        return not any(account.attention for account in self.accounts)


def read_status(settings: Settings, names: Sequence[str], now: datetime) -> Status:
    """Read the status of these accounts; makes no file where nothing was extracted yet."""
    chosen = [account for account in settings.accounts if account.name in names]
    capture = settings.schedule.capture
    return Status(
        now,
        tuple(_read_accounts(settings, chosen, now)),
        next_time(capture, now) if capture else None,
        next_time(settings.schedule.nightly, now),
    )


def _read_accounts(
    settings: Settings, chosen: Sequence[AccountSettings], now: datetime
) -> Iterator[AccountStatus]:
    if not (settings.store.state_path / STATE_FILE).is_file():
        yield from (AccountStatus(account.name, account.platform) for account in chosen)
        return
    with closing(Store(settings.store)) as store:
        for account in chosen:
            try:
                yield read_account(settings, store, account, now)
            except StoreError as error:
                yield AccountStatus(account.name, account.platform, problem=str(error))


def read_account(
    settings: Settings, store: Store, account: AccountSettings, now: datetime
) -> AccountStatus:
    """Read the status of one account."""
    name, state = account.name, store.state
    newest: Run | None = next(iter(state.runs(name, limit=1)), None)
    last = state.last_ended(name)
    complete = state.last_complete(name)
    today = now.date()
    rows = _read_coverage(store, name, today)
    week = _add_up(rows, _last_days(today, COVERAGE_DAYS))
    lost = find_lost(store, name, today, rows)
    _, missed_count = state.last_full_run(name) or (None, 0)
    risks = find_risks(settings, store, name)
    key = Endpoint.of(settings, account).limit_key
    is_running = newest is not None and newest.outcome == "running"
    nights = [run for kind in NIGHT_KINDS if (run := state.last_complete(name, kind))]
    underived_count = sum(not is_derived(store, name, day) for day in rows)
    return AccountStatus(
        account=name,
        platform=account.platform,
        last_complete_at=complete.started_at if complete else None,
        last_run_at=newest.started_at if newest else None,
        running_since=newest.started_at if newest and is_running else None,
        last_outcome=last.outcome if last else None,
        last_reasons=last.reasons if last else (),
        listed_count=week["ids_listed"],
        detailed_count=week["detailed"],
        open_count=week["pending"] + week["failed"],
        lost=dict(Counter(reason for _, reason in lost)),
        lost_conversation_count=len({conversation_id for conversation_id, _ in lost}),
        at_risk_count=len(risks.risks),
        most_expected=max((risk.expected_count for risk in risks.risks), default=0),
        look_due_at=risks.due_at,
        due_conversation_count=sum(each.is_due for each in state.conversations(name).values()),
        open_spool_count=len(left_spools(store.state_path, name)),
        underived_day_count=underived_count,
        quarantine_count=len(state.suspect_files(name)),
        kept_day_count=len(kept_days(store, name)),
        missed_count=missed_count,
        blocked_until=read_block(state.path, key, now),
        is_late=_is_late(complete, now),
        is_night_late=all(_is_late(run, now) for run in nights),
        is_derivation_late=underived_count > 0
        and not is_running
        and all(now - (run.ended_at or run.started_at) > DERIVED_WITHIN for run in nights),
    )


def _read_coverage(store: Store, account: str, today: date) -> dict[date, Mapping[str, int]]:
    """Return the coverage of every recent day that has one, today included; days that hold nothing are not looked at."""
    held = {day for table in (*RAW, COVERAGE) for day in store.days(table.name, account)}
    recent = held.intersection(_last_days(today, LOST_DAYS))
    found = {
        day: current_coverage(store, account, day).to_pylist()
        for day in sorted(recent, reverse=True)
    }
    return {day: rows[0] for day, rows in found.items() if rows}


def _add_up(rows: Mapping[date, Mapping[str, int]], days: Sequence[date]) -> Counter[str]:
    total: Counter[str] = Counter()
    for day in days:
        total.update(
            {name: value for name, value in rows.get(day, {}).items() if name != "share_detailed"}
        )
    return total


def find_lost(
    store: Store, account: str, today: date, rows: Mapping[date, Mapping[str, int]]
) -> list[tuple[str, str]]:
    """Return (conversation_id, reason) of every message sent under our eyes that was found out of reach since yesterday.

    `rows` is the coverage by day: only days that lack something are opened.
    """
    first_run_at = store.state.first_run_at(account)
    if first_run_at is None:
        return []
    lost: list[tuple[str, str]] = []
    for day, row in rows.items():
        if day >= first_run_at.date() and any(row[reason] for reason in LOST_WORDS):
            lost += _lost_of(store, account, day, first_run_at, start_of_yesterday(today))
    return lost


def start_of_yesterday(today: date) -> datetime:
    """Return the UTC midnight with which the day before began."""
    return datetime.combine(today - timedelta(days=1), time(), UTC)


def _lost_of(
    store: Store, account: str, day: date, first_run_at: datetime, since: datetime
) -> Iterator[tuple[str, str]]:
    """Yield what was lost of a day; what was read and then unsent was not lost."""
    columns = [
        "conversation_id",
        "detail_status",
        "created_at",
        "changed_at",
        "gone_at",
        "redacted_at",
    ]
    for row in store.read(RAW_MESSAGE_DETAILS.name, account, day).select(columns).to_pylist():
        is_lost = row["detail_status"] in LOST_WORDS and row["redacted_at"] is None
        is_ours = is_lost and row["created_at"] >= first_run_at
        if is_ours and (row["gone_at"] or row["changed_at"]) >= since:
            yield row["conversation_id"], row["detail_status"]


def _is_late(run: Run | None, now: datetime) -> bool:
    return run is None or now - run.started_at > LATE_AFTER


def _last_days(today: date, count: int) -> list[date]:
    return [today - timedelta(days=index) for index in range(count)]


def _sentences(status: AccountStatus) -> Iterator[str]:
    if status.problem:
        yield status.problem
    elif status.last_outcome is None and status.running_since is None:
        yield "never extracted: run convo-pipeline extract"
    elif status.last_outcome not in (None, "complete", "busy"):
        yield f"last run {status.last_outcome}: {', '.join(status.last_reasons)}; convo-pipeline check says what to do"
    if status.last_outcome is not None and status.is_late:
        yield "no complete run for more than a day: is the nightly schedule on?"
    elif status.last_outcome is not None and status.is_night_late:
        yield "a night is overdue: captures run, but no run promised whole days for more than a day; is nightly on?"
    if status.is_derivation_late:
        days = counted(status.underived_day_count, "day")
        yield f"{days} not normalised for more than an hour: does the daemon run? convo-pipeline normalize does it"
    if status.lost:
        yield f"lost since yesterday: {_lost_words(status)}"
    if status.at_risk_count:
        yield (
            f"about to be lost: {counted(status.at_risk_count, 'conversation')} may collect up to "
            f"{status.most_expected} messages before the next look; due {_clock(status.look_due_at)}"
        )
    if status.open_count or status.due_conversation_count:
        yield (
            f"still to be read: {counted(status.open_count, 'message')}, "
            f"{counted(status.due_conversation_count, 'conversation')}; the next run asks again"
        )
    if status.blocked_until:
        yield f"blocked by the rate limit until {_clock(status.blocked_until)}: wait, no run calls before"
    if status.missed_count:
        yield (
            f"the last sweep found {counted(status.missed_count, 'message')} that runs before it had missed; they are"
            " stored now: sweep again, and report it if that finds more"
        )
    if status.quarantine_count:
        yield f"{counted(status.quarantine_count, 'damaged file')} set aside: run convo-pipeline verify"
    if status.kept_day_count:
        days = counted(status.kept_day_count, "day")
        yield f"raw rows were lost; {days} cannot be derived again: run convo-pipeline verify"


def _lost_words(status: AccountStatus) -> str:
    total = sum(status.lost.values())
    reasons = ", ".join(
        f"{count} {LOST_WORDS[reason]}" for reason, count in sorted(status.lost.items())
    )
    return f"{total:,} in {counted(status.lost_conversation_count, 'conversation')} ({reasons})"


def _clock(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


def show_status(status: Status, form: str, console: Console) -> None:
    """Print the status: one row an account, then what needs a look; or JSON."""
    if form == "json":
        console.file.write(dump_json(as_dict(status)).decode() + "\n")
        return
    console.print(_table(status))
    for account in status.accounts:
        for sentence in account.attention:
            console.print(f"{account.account}: {sentence}", markup=False, highlight=False)
        if account.running_since or account.open_spool_count:
            since = f" since {_clock(account.running_since)}" if account.running_since else ""
            console.print(
                f"{account.account}: a run is under way{since}, or was killed and the next one stores what it left"
            )
        if account.underived_day_count and not account.is_derivation_late:
            days = counted(account.underived_day_count, "day")
            console.print(
                f"{account.account}: {days} counted here and not yet normalised: the next normalise run does it"
            )
    first, lost = status.covered_since, status.lost_since.date()
    console.print(
        f"{COVERAGE_DAYS} days: ids of {first} to {status.at.date()} that have content; lost: since {lost} (UTC)",
        style="dim", highlight=False,
    )  # fmt: skip
    capture = (
        f"capture {_clock(status.next_capture_at)}" if status.next_capture_at else "no captures"
    )
    console.print(
        f"next, if turned on in Dagster: {capture}; night {_clock(status.next_night_at)}",
        style="dim",
    )
    console.print(_summary(status), style="bold", highlight=False)


def _summary(status: Status) -> str:
    """Say last, below what may be many lines, how many accounts there is anything to say of."""
    count, total = (
        sum(bool(each.attention) for each in status.accounts),
        counted(len(status.accounts), "account"),
    )
    return f"{count:,} of {total} to look at" if count else f"{total}, nothing to look at"


def _table(status: Status) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("account", overflow="fold", max_width=30)
    table.add_column("complete (UTC)", no_wrap=True)
    for name in ("7 days", "lost", "at risk", "waiting"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in status.accounts:
        table.add_row(
            each.account,
            f"{each.last_complete_at:%Y-%m-%d %H:%M}" if each.last_complete_at else "never",
            "–" if each.share_detailed is None else f"{each.share_detailed:.1%}",
            f"{sum(each.lost.values()):,}",
            f"{each.at_risk_count:,}",
            f"{each.open_count:,}",
            style="yellow" if each.attention else "",
        )
    return table


def as_dict(status: Status) -> dict[str, object]:
    """Return the status as JSON knows it: times in ISO 8601, what needs a look as sentences."""
    accounts = [
        {**asdict(each), "share_detailed": each.share_detailed, "attention": each.attention}
        for each in status.accounts
    ]
    scope = {"covered_since": status.covered_since, "lost_since": status.lost_since}
    document = {**asdict(status), **scope, "accounts": accounts, "is_fine": status.is_fine}
    plain = _plain(document)
    assert isinstance(plain, dict)
    return plain


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
