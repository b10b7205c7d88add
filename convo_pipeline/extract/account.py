"""Run the extraction of one account.

Take the lock, store what a killed run left, call the API, store the results, record the run.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import read_credentials, redact
from convo_pipeline.base.times import DAY_US, day_of, day_start_us, from_us, to_us
from convo_pipeline.errors import (
    BusyError,
    ConvoError,
    CorruptError,
    GraphError,
    SettingsError,
    StoppedError,
    StoreError,
    ThrottledError,
)
from convo_pipeline.extract.conversation import AccountControl, ConversationReader
from convo_pipeline.extract.inbox import (
    InboxReader,
    InboxResult,
    StoredConversations,
)
from convo_pipeline.extract.load import LoadResult, load_run_data, load_spool
from convo_pipeline.extract.nested_lists import NestedLists
from convo_pipeline.extract.newest20_probe import Newest20Probe, is_absent
from convo_pipeline.extract.report import (
    AccountReport,
    CallFigures,
    Mode,
    Progress,
    describe_refused,
    guide_calls,
    list_refused,
    listing_details,
    refusals,
)
from convo_pipeline.extract.run_data import ROWS_PER_FILE, RunData
from convo_pipeline.extract.spool import OwnIdentity, SharedSpools, Spool, left_spools
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.codes import NO_CONVERSATION, is_unspecific_100
from convo_pipeline.graph.listing import MARGIN, Listing, ListingSummary
from convo_pipeline.graph.page_size import PageSizePolicy
from convo_pipeline.graph.rate_limit import CallBudget
from convo_pipeline.graph.responses import Identity
from convo_pipeline.graph.shapes import Census
from convo_pipeline.lake.accounts import describe_account
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.salvage import damaged_days, damaged_files, salvage_days
from convo_pipeline.lake.store import Store
from convo_pipeline.reasons import locate_error, reason_of
from convo_pipeline.schema import RAW, TABLES
from convo_pipeline.settings import AccountSettings, Settings
from convo_pipeline.state.access import open_limiter
from convo_pipeline.state.records import (
    AccountIdentity,
    ObjectRefusal,
    Run,
    balance,
    check_identity,
    read_refusals,
    write_refusals,
)
from convo_pipeline.tables.complete_range import CompleteRange

ONE_DAY = timedelta(days=1)
WAIT_STEP_SECONDS = 1.0
OBSOLETE_MEMORY = frozenset({"ladder", "edge_place", "suspects", "phantom_lists"})
"""What earlier versions kept in an account's memory; removed, as it may name people."""


@dataclass
class AccountRun:
    """One account in one run.

    `loads` stores results in few threads of its own: each holds the rows of a day, and Arrow keeps
    some 10 MB for every thread that ever used it.
    """

    settings: Settings
    store: Store
    account: AccountSettings
    since: date
    until: date
    mode: Mode
    run_id: str
    on_progress: Callable[[Progress], None]
    environ: Mapping[str, str]
    clock: Clock
    loads: Executor | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)
    rows_per_file: int = ROWS_PER_FILE
    """Messages that the run keeps in memory before it writes them to a scratch file."""
    wait_seconds: float = 0.0
    """How long the run waits while another run works on the account."""
    found_ids: list[str] = field(default_factory=list)
    """Ids of the conversations that `find` found."""

    def report(self, user_id: str | None = None, earlier: Sequence[Commit] = ()) -> AccountReport:
        """Run the account. Every error is in the report and stops no other account.

        `earlier` are the commits of a first try in the same run. The ledger keeps the last line.
        """
        try:
            with self._lock_account():
                report = self._run(user_id)
                report = replace(report, commits=(*earlier, *report.commits))
                self._save_ledger(report)
                return report
        except BusyError as error:
            return AccountReport(self.account.name, "busy", ("busy",), str(error))
        except Exception as error:
            return self._failed(error)

    @contextmanager
    def _lock_account(self) -> Iterator[None]:
        """Lock the account; raise BusyError if another run works on it longer than the wait.

        The lock's own wait cannot be cancelled.
        """
        waited_seconds = 0.0
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.store.lock_account(self.account.name))
                    break
                except BusyError:
                    if waited_seconds >= self.wait_seconds:
                        raise
                    self.clock.sleep(WAIT_STEP_SECONDS)
                    waited_seconds += WAIT_STEP_SECONDS
            yield

    def save_identity(self) -> None:
        """Save whose inbox the account's name stands for; StoreError if it is another inbox."""
        self.store.state.set_identity(self._identity(Identity()))

    def check_identity(self, asked: Identity) -> None:
        """Raise StoreError if the fetched id shows that the name stands for another inbox."""
        check_identity(self._identity(asked), self.store.state.identities())

    def _identity(self, own: Identity) -> AccountIdentity:
        name, page_id, platform = self.account.name, self.account.page_id, self.account.platform
        source = "asked" if own.own_id else None
        return AccountIdentity(name, page_id, platform, own.own_id, own.own_username, source)

    def _run(self, user_id: str | None) -> AccountReport:
        results: list[LoadResult] = []
        try:
            self.cancellation.check()
            self.save_identity()
            results.append(self._repair_files())
            for spool in left_spools(
                self.store.state_path, self.account.name, SharedSpools.of(self.store)
            ):
                results.append(self._load(spool))
            return self._fetch_and_load(results, user_id)
        except Exception as error:
            commits = tuple(commit for result in results for commit in result.commits)
            counts = sum((result.counts for result in results), Counter[str]())
            return replace(
                self._failed(error), commits=commits, counts=dict(sorted(counts.items()))
            )

    def _repair_files(self) -> LoadResult:
        """Find damaged raw files and recover their rows, before the run relies on them.

        A capture and a `find` are short, so they check no files.
        """
        name = self.account.name
        is_short = self.mode in ("capture", "find")
        damaged = [] if is_short else self.store.partitions.check_files(RAW, name)
        commits = salvage_days(self.store, name, damaged_days(self.store, name))
        return LoadResult(commits=commits, quarantined=damaged)

    def _failed(self, error: Exception) -> AccountReport:
        """Report an error before the responses were stored; they wait in the spool."""
        if isinstance(error, SettingsError | StoppedError | StoreError):
            return AccountReport(self.account.name, "failed", (reason_of(error),), str(error))
        reason = "defect" if isinstance(error, ConvoError) else reason_of(error)
        return AccountReport(self.account.name, "failed", (reason,), locate_error(error))

    def _fetch_and_load(self, results: list[LoadResult], user_id: str | None) -> AccountReport:
        with open_client(
            self.settings, self.store, self.account, self.environ, self.clock, self.cancellation
        ) as client:
            spool = Spool.create(
                self.store.state_path,
                self.account.name,
                self.run_id,
                SharedSpools.of(self.store),
            )
            calls = AccountCalls(
                self, client, RunData.create(self.store, self.account, spool, self.rows_per_file)
            )
            calls.fetch(user_id)
            calls.data.flush()
            try:
                data = calls.data if calls.data.is_complete else None
                results.append(self._load(spool, data))
            except StoppedError as error:
                calls.end(error)
            else:
                calls.save_memory()
                results.append(LoadResult(commits=calls.settle_damaged_files()))
            return calls.report(results)

    def _load(self, spool: Spool, data: RunData | None = None) -> LoadResult:
        """Store the data of a spool, read from it unless given; then delete the spool."""

        def load() -> LoadResult:
            self.cancellation.check()
            if data:
                return load_run_data(self.store, self.account, data, self.cancellation)
            return load_spool(self.store, self.account, spool, self.cancellation)

        result = self.loads.submit(load).result() if self.loads else load()
        spool.delete()
        self.on_progress(Progress(self.account.name, "partitions", len(result.commits)))
        return result

    def _save_ledger(self, report: AccountReport) -> None:
        self.store.state.save_run(
            Run(
                run_id=self.run_id,
                account=self.account.name,
                kind=self.mode,
                started_at=report.started_at or self.clock.now(),
                since=self.since,
                until=self.until,
                ended_at=self.clock.now(),
                outcome=report.outcome,
                reasons=report.reasons,
                error=report.error,
                calls=report.calls,
                counts=report.counts,
                report=report.report,
                settings=describe_account(self.settings, self.store, self.account),
            )
        )


def open_client(
    settings: Settings,
    store: Store,
    account: AccountSettings,
    environ: Mapping[str, str],
    clock: Clock,
    cancellation: Cancellation | None = None,
) -> GraphClient:
    """Return the API client of one account's run, with its rate limit and its budget.

    SettingsError if the token cannot be read from its variable or file. `clock` must be a clock
    that the cancellation watches, so that waiting ends with the run.
    """
    graph, endpoint = settings.graph, Endpoint.of(settings, account)
    read_again = partial(read_credentials, account, environ)
    limiter = open_limiter(store.state.database, endpoint.limit_key, graph.calls_per_second, clock)
    return GraphClient(
        endpoint,
        read_again(),
        limiter,
        budget=CallBudget(graph.calls_per_run),
        clock=clock,
        cancellation=cancellation,
        read_credentials=read_again,
    )


@dataclass(frozen=True)
class Plan:
    """How far a run reads: the listing down to `listed_since`, each conversation to `since`.

    The listing itself goes a `MARGIN` further than `listed_since`.
    """

    since: date
    listed_since: datetime
    is_incremental: bool


def plan_run(
    mode: Mode,
    since: date,
    now: datetime,
    complete_range: CompleteRange | None,
    recheck_days: int,
) -> Plan:
    """Plan how far a run lists, given what earlier runs read to the end.

    >>> from datetime import UTC
    >>> now = datetime(2026, 3, 9, tzinfo=UTC)
    >>> complete = CompleteRange(date(2026, 1, 1), datetime(2026, 3, 8, 12, tzinfo=UTC))
    >>> plan_run("window", date(2026, 3, 8), now, complete, 2).listed_since.isoformat()
    '2026-03-08T12:00:00+00:00'
    >>> plan_run("window", date(2025, 12, 1), now, complete, 2).listed_since.isoformat()
    '2025-12-01T00:00:00+00:00'
    """
    if mode == "capture":
        since = complete_range.since if complete_range else (now - ONE_DAY).date()
    start = from_us(day_start_us(since))
    if complete_range is None or complete_range.since > since:
        return Plan(since, start, is_incremental=False)
    listed_since = complete_range.until
    if mode == "full":
        return Plan(since, min(start, listed_since), is_incremental=False)
    if mode == "nightly":
        listed_since = min(listed_since, now - recheck_days * ONE_DAY)
    return Plan(since, listed_since, is_incremental=True)


class AccountCalls:
    """The API calls of one account's run, and what the next run has to know of them."""

    def __init__(self, run: AccountRun, client: GraphClient, data: RunData) -> None:
        self.data = data
        self._run = run
        self._client = client
        self._state = run.store.state
        self._name = run.account.name
        self._memory = self._state.memory(self._name)
        self._complete_range, now = _read_complete_range(self._memory), run.clock.now()
        self._damaged = damaged_files(run.store, self._name)
        since = max(
            min(run.since, *(day for _, _, day, _ in self._damaged), run.until),
            run.account.start_date,
        )
        if self._complete_range:
            client.server_clock.known_until = self._complete_range.until
            if self._complete_range.until > now + ONE_DAY:
                # a clock is or was wrong: read everything again that counted as read
                since, self._complete_range = min(since, self._complete_range.since), None
        self._plan = plan_run(
            run.mode,
            since,
            now,
            self._complete_range,
            run.settings.schedule.recheck_days,
        )
        self._complete_since = self._plan.since
        if self._complete_range:
            self._complete_since = min(self._plan.since, self._complete_range.since)
        self._page_sizes = PageSizePolicy(
            run.account.platform, now.date(), self._memory.get("page_size")
        )
        self._lists = NestedLists()
        self._result = InboxResult()
        self._reader: InboxReader | None = None
        self._listing: Listing | None = None
        self._started_seconds = time.monotonic()

    def fetch(self, user_id: str | None) -> None:
        """Make the calls; an error that ends them is kept for the report."""
        try:
            self._fetch_identity()
        except ConvoError as error:
            self._result = InboxResult({reason_of(error)}, error)
            return
        if self._run.mode == "full" and self._complete_range:
            until = self._complete_range.until - MARGIN
            self.data.append(replace(self._complete_range, until=until))
        reader = self._reader = self._make_reader()
        if user_id is not None:
            self._result = self._find(reader, user_id)
            return
        self._listing = Listing(
            self._client,
            self._page_sizes,
            since=self._plan.listed_since,
            folders=self._run.account.folders,
            is_known=reader.adds_nothing,
        )
        self._result = reader.read(self._listing)

    def end(self, error: StoppedError) -> None:
        """Record that the run was cancelled before its responses were stored."""
        self._result.reasons.add(reason_of(error))
        self._result.error = self._result.error or error

    def save_memory(self) -> None:
        """Save what the next run may rely on, after everything is stored."""
        summary, unreadable = self._summary, set(self._page_sizes.unreadable)
        if summary is not None and self._run.mode == "full":
            unreadable = set(summary.unreadable)
        unreadable = set(filter(self.data.suppression_filter.keeps, unreadable))
        memory = {key: self._memory[key] for key in self._memory.keys() - OBSOLETE_MEMORY}
        memory["page_size"] = self._page_sizes.to_json(unreadable)
        memory["refused"] = write_refusals(self._refusals)
        is_whole = summary is not None and self._result.error is None and not summary.cuts
        until = self._find_position()
        if is_whole and until is not None:
            since = self._complete_since.isoformat()
            memory["coverage"] = {"since": since, "t0_us": to_us(until)}
        self._state.save_memory(self._name, memory)
        census = Census.from_json(self._state.census(self._name))
        if census.merge(self._client.census) or self._run.mode != "capture":
            self._state.save_census(self._name, census.to_json())

    def _find_position(self) -> datetime | None:
        """Return until when the inbox was read; None if the saved position has to stay.

        If the clocks differ, the position moves only to a time that no witness contradicts.
        """
        listed_at, earlier = self._client.listed_at, self._complete_range
        if listed_at is None or listed_at.bound is None:
            return None
        if earlier is None:
            return None if listed_at.is_doubtful else listed_at.bound
        return max(listed_at.bound, earlier.until) if listed_at.dispute else listed_at.bound

    def settle_damaged_files(self) -> list[Commit]:
        """Clear the files that were damaged before this run, if it read all of their days again.

        Before that, recover once more the rows that other copies hold; return these commits. A file
        that became damaged during the run waits for the next run.
        """
        if damaged_files(self._run.store, self._name) - self._damaged:
            self._state.reset_progress(self._name)
            return []
        complete_range = _read_complete_range(self._state.memory(self._name))
        if complete_range is None or self._result.reasons:
            return []
        read_again = [
            (day, path) for _, _, day, path in self._damaged if day >= complete_range.since
        ]
        commits = salvage_days(self._run.store, self._name, {day for day, _ in read_again})
        for _, path in read_again:
            self._state.remove_suspect(path)
        return commits

    def report(self, results: list[LoadResult]) -> AccountReport:
        """Return the report of the calls and of what was stored."""
        summary, error = self._summary, self._result.error
        reasons = {*self._result.reasons, *(summary.cuts if summary else ())}
        if any(result.quarantined for result in results):
            reasons.add("quarantined")
        listed_at, doubt = self._client.listed_at, ""
        end = from_us(day_start_us(self._run.until))
        if listed_at and (listed_at.is_doubtful or listed_at.may_precede(end)):
            doubt = listed_at.dispute
            reasons.add("clock")
        counts = Counter(self._result.counts)
        for result in results:
            counts.update(result.counts)
            counts["brought_along"] += sum(
                count
                for day, count in result.ids_by_day.items()
                if not self._run.since <= day < self._run.until
            )
        balances = balance(counts)
        if any(balances.values()):
            reasons.add("unbalanced")
        is_partly_done = (
            counts["conversations_listed"]
            or isinstance(error, ThrottledError)
            or reasons <= {"conversation_refused"}
        )
        client = self._client
        refused = describe_refused(self._refusals) if reasons and self._refusals else None
        figures = CallFigures(
            sum(client.calls.values()), guide_calls(counts), client.refused, client.retried
        )
        return AccountReport(
            account=self._name,
            outcome="complete" if not reasons else "incomplete" if is_partly_done else "failed",
            reasons=tuple(sorted(reasons)),
            error=redact(str(error or doubt), client.secrets) if error or doubt else refused,
            commits=tuple(commit for result in results for commit in result.commits),
            calls=dict(sorted(client.calls.items())),
            counts=dict(sorted(counts.items())),
            started_at=listed_at.at if listed_at and summary else None,
            figures=figures,
            report=self._details(results) | {"calls": figures.to_json(), "balance": balances},
        )

    def _details(self, results: list[LoadResult]) -> dict[str, object]:
        error, summary = self._result.error, self._summary
        resume_at = error.resume_at if isinstance(error, ThrottledError) else None
        return {
            "listed_since": self._plan.listed_since.isoformat(),
            "is_incremental": self._plan.is_incremental,
            "throttled_seconds": round(self._client.throttled_seconds, 3),
            "throttled_until": resume_at.isoformat() if resume_at else None,
            "unchecked_answers": self._client.unchecked,
            "version": self._client.version,
            "clocks": self._describe_clocks(),
            "wrong_dates": self._client.server_clock.outlier_count,
            "listing": listing_details(summary) if summary else None,
            "failed": refusals(self._result.failures),
            "refused": list_refused(self._refusals),
            "quarantined": [text for result in results for text in result.quarantined],
            "seconds": round(time.monotonic() - self._started_seconds, 3),
        }

    def _describe_clocks(self) -> str:
        """Return how the clocks of the run differ; an empty text if they agree."""
        listed_at, count = self._client.listed_at, self._client.server_clock.outlier_count
        if listed_at and listed_at.dispute:
            return listed_at.dispute
        return f"{count:,} responses have another time than the rest of the run" if count else ""

    @property
    def _refusals(self) -> dict[str, ObjectRefusal]:
        """What the API refuses, without conversations of erased people."""
        if self._reader is None:
            return read_refusals(self._memory)
        keeps = self.data.suppression_filter.keeps
        return {key: each for key, each in self._reader.result.refusals.items() if keeps(key)}

    @property
    def _summary(self) -> ListingSummary | None:
        """What the listing did, without conversations of erased people; None without a listing."""
        if self._listing is None:
            return None
        summary, keeps = self._listing.summary, self.data.suppression_filter.keeps
        return replace(
            summary,
            moving=frozenset(filter(keeps, summary.moving)),
            unreadable={key: error for key, error in summary.unreadable.items() if keeps(key)},
        )

    def _fetch_identity(self) -> None:
        """Fetch the account's own id every night, and once a day while it is not known."""
        stored = self._state.identity(self._name)
        is_asked = stored is not None and stored.own_id_source == "asked"
        asked_us, now_us = self._memory.get("identity_asked_us"), to_us(self._run.clock.now())
        # a clock that was set back does not delay it
        is_due = not isinstance(asked_us, int) or not 0 <= now_us - asked_us < DAY_US
        if self._run.mode in ("nightly", "full") or (not is_asked and is_due):
            asked = self._client.fetch_identity()
            self._run.check_identity(asked)
            self._memory["identity_asked_us"] = now_us
            if asked.own_id or asked.own_username:
                source = "asked" if asked.own_id else None
                self.data.append(OwnIdentity(asked.own_id, asked.own_username, source))
                return
        if stored:
            self.data.append(OwnIdentity(stored.own_id, stored.own_username, stored.own_id_source))

    def _find(self, reader: InboxReader, user_id: str) -> InboxResult:
        try:
            page = self._client.fetch_conversations("id", 1, user_id=user_id)
        except ConvoError as error:
            if isinstance(error, GraphError) and self._concerns_person(error):
                return InboxResult()
            return InboxResult({reason_of(error)}, error)
        ids = (row.conversation_id for row in page.rows)
        self._run.found_ids += [conversation_id for conversation_id in ids if conversation_id]
        for conversation_id in self._run.found_ids:
            reader.revisit(conversation_id)
        return reader.result

    def _concerns_person(self, error: GraphError) -> bool:
        """Whether a search failed because of its person: the inbox itself is readable."""
        if (error.fault.code, error.fault.subcode) == NO_CONVERSATION:
            return True
        if not (is_absent(error) or is_unspecific_100(error)):
            return False
        try:
            self._client.fetch_conversations("id", 1)
        except ConvoError:
            return False
        return True

    def _make_reader(self) -> InboxReader:
        """Return the reader of the inbox.

        A full run reads all conversations again for edits and reactions, a nightly run those that
        were active since `listed_since`.
        """
        mode, trusted_before_us, reread_since_us = self._run.mode, None, None
        if self._complete_range:
            trusted_before_us = to_us(self._complete_range.until - MARGIN)
        if mode == "full":
            reread_since_us = 0
        elif mode == "nightly":
            reread_since_us = to_us(self._plan.listed_since)
        conversation_reader = ConversationReader(
            self._client,
            self.data,
            self._run.account.platform,
            Newest20Probe(),
            self._page_sizes,
            self._lists,
            AccountControl(self._client),
            find_details=self._find_details,
            is_stored=self._is_stored,
            on_messages=lambda count: self._show_progress("messages", count),
        )
        return InboxReader(
            self._client,
            conversation_reader,
            self.data,
            StoredConversations(
                self._state.conversations(self._name),
                read_refusals(self._memory),
                self._run.clock.now().date(),
                reread_since_us,
                trusted_before_us,
                is_sweep=mode == "full",
            ),
            since_us=day_start_us(self._complete_since),
            on_conversations=lambda count: self._show_progress("conversations", count),
        )

    def _show_progress(self, step: str, count: int) -> None:
        self._run.on_progress(Progress(self._name, step, count))

    def _find_details(
        self, conversation_id: str, message_id: str, created_us: int
    ) -> list[tuple[str, str | None]]:
        """Return the stored `detail_status` and payload of a message."""
        rows = self._read_message("raw_message_details", conversation_id, message_id, created_us)
        statuses, payloads = (rows[name].to_pylist() for name in ("detail_status", "payload"))
        return list(zip(statuses, payloads, strict=True))

    def _is_stored(self, conversation_id: str, message_id: str, created_us: int) -> bool:
        rows = self._read_message("raw_message_ids", conversation_id, message_id, created_us)
        return len(rows) > 0

    def _read_message(
        self, table: str, conversation_id: str, message_id: str, created_us: int
    ) -> pa.Table:
        """Return the rows of one message in a raw table; none if the file is damaged."""
        try:
            rows = self._run.store.read(table, self._name, day_of(created_us))
        except CorruptError:
            rows = TABLES[table].schema.empty_table()
        return rows.filter(
            (pc.field("conversation_id") == conversation_id)
            & (pc.field("message_id") == message_id)
        )


def _read_complete_range(memory: Mapping[str, object]) -> CompleteRange | None:
    """Return what earlier runs of the account read to the end."""
    saved = memory.get("coverage")
    if not isinstance(saved, dict):
        return None
    return CompleteRange(date.fromisoformat(saved["since"]), from_us(int(saved["t0_us"])))
