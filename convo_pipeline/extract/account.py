"""One account's part of a run: lock, what a killed run left, calls into the spool, spool into tables, ledger line."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.base.clock import Clock
from convo_pipeline.base.json_text import readable_id
from convo_pipeline.base.secrets import Credentials, read_credentials, redact
from convo_pipeline.base.times import DAY_US, day_of, day_start_us, to_us
from convo_pipeline.errors import (
    BusyError,
    ConvoError,
    CorruptError,
    SettingsError,
    StoppedError,
    StoreError,
    ThrottledError,
)
from convo_pipeline.extract.contents import Contents, Journal
from convo_pipeline.extract.conversation import ConversationReader
from convo_pipeline.extract.defect import describe_defect, is_out_of_memory
from convo_pipeline.extract.inbox import Fetched, InboxReader, Known
from convo_pipeline.extract.load import Loaded, load, load_spool
from convo_pipeline.extract.newest20_probe import Newest20Probe
from convo_pipeline.extract.plan import Coverage, Mode, plan_run
from convo_pipeline.extract.report import (
    AccountReport,
    CallFigures,
    Progress,
    guide_calls,
    listing_details,
    refusals,
)
from convo_pipeline.extract.spool import Spool, left_spools
from convo_pipeline.extract.suppression_filter import SuppressionFilter
from convo_pipeline.extract.walk import Held
from convo_pipeline.graph.client import Endpoint, GraphClient, Identity
from convo_pipeline.graph.footing import Footing
from convo_pipeline.graph.ladder import from_json as ladder_from_json
from convo_pipeline.graph.ladder import to_json as ladder_to_json
from convo_pipeline.graph.listing import Listing, ListingSummary
from convo_pipeline.graph.rate_limit import CallBudget, SqliteLimiter
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.salvage import damaged_days, damaged_files, salvage_days
from convo_pipeline.lake.store import Store
from convo_pipeline.reasons import reason_of
from convo_pipeline.schema import RAW, TABLES
from convo_pipeline.settings import AccountSettings, Settings
from convo_pipeline.state.records import AccountIdentity, Run, balance

MOST_SUSPECTS = 100
"""How many conversations are remembered for which a page was refused: each saves a search."""


@dataclass
class AccountRun:
    """One account in one run."""

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
    """Fills tables, for few accounts at a time and in threads of its own: a day's rows stand in memory then, and Arrow
    keeps some 10 MB for every thread that ever used it."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    found: list[str] = field(default_factory=list)
    """Ids of the conversations that `find` met."""

    def report(self, user_id: str | None = None, earlier: Sequence[Commit] = ()) -> AccountReport:
        """Do the account's work; whatever goes wrong, foreseen or not, is in its report and stops no other account.

        `earlier` is what this run stored before, if the account's work is done once more; the ledger keeps the last line.
        """
        try:
            with self.store.lock_account(self.account.name):
                report = self._work(user_id)
                report = replace(report, commits=(*earlier, *report.commits))
                self._save_ledger(report)
                return report
        except BusyError as error:
            return AccountReport(self.account.name, "busy", ("busy",), str(error))
        except Exception as error:
            return self._failed(error)

    def _work(self, user_id: str | None) -> AccountReport:
        left: list[Loaded] = []
        try:
            self._claim_name()
            left.append(Loaded(quarantined=self._look_over(), commits=self._salvage()))
            for spool in left_spools(self.store.state_path, self.account.name):
                left.append(self._load(spool))
            return self._call(read_credentials(self.account, self.environ), left, user_id)
        except Exception as error:
            commits = tuple(commit for loaded in left for commit in loaded.commits)
            counts = sum((loaded.counts for loaded in left), Counter[str]())
            return replace(
                self._failed(error), commits=commits, counts=dict(sorted(counts.items()))
            )

    def _look_over(self) -> list[str]:
        """Note raw files that are not what they were before anything relies on them; a short look leaves that to the night."""
        return (
            []
            if self.mode in ("capture", "find")
            else self.store.partitions.check_files(RAW, self.account.name)
        )

    def _salvage(self) -> list[Commit]:
        """Put back what is still held of damaged raw files: this run may ask their days again and call them whole."""
        return salvage_days(
            self.store, self.account.name, damaged_days(self.store, self.account.name)
        )

    def _failed(self, error: Exception) -> AccountReport:
        """Report what ended the account before its own answers were stored; they are in the spool, for the next run."""
        if isinstance(error, SettingsError):
            return AccountReport(self.account.name, "failed", ("settings",), str(error))
        if isinstance(error, StoppedError):
            return AccountReport(self.account.name, "failed", ("stopped",), str(error))
        if isinstance(error, StoreError):
            return AccountReport(self.account.name, "failed", ("store",), str(error))
        reason = "memory" if is_out_of_memory(error) else "defect"
        return AccountReport(self.account.name, "failed", (reason,), describe_defect(error))

    def _claim_name(self, identity: Identity | None = None) -> None:
        """Refuse, before anything is asked or stored, a name that stands for another inbox."""
        own = identity if identity and identity.own_id else Identity()
        self.store.state.set_identity(
            AccountIdentity(
                self.account.name,
                self.account.page_id,
                self.account.platform,
                own.own_id,
                own.own_username,
                "asked" if own.own_id else None,
            )
        )

    def _call(
        self, credentials: Credentials, left: list[Loaded], user_id: str | None
    ) -> AccountReport:
        with open_client(
            self.settings, self.store, self.account, credentials, self.clock, self.cancellation
        ) as client:
            spool = Spool.create(self.store.state_path, self.account.name, self.run_id)
            journal = Journal(spool, Contents.create(self.store, self.account, spool))
            calls = AccountCalls(self, client, journal)
            calls.fetch(user_id)
            journal.flush()
            try:
                left.append(self._load(spool, journal.contents if journal.is_whole else None))
            except StoppedError as error:
                calls.end(error)
            else:
                calls.remember()
                left.append(Loaded(commits=calls.settle_damage()))
            return calls.report(left, credentials)

    def _load(self, spool: Spool, contents: Contents | None = None) -> Loaded:
        """Store what a spool holds, read from it anew unless its contents are at hand; then the spool can go."""

        def fill() -> Loaded:
            self.cancellation.check()
            if contents:
                return load(self.store, self.account, contents, self.cancellation)
            return load_spool(self.store, self.account, spool, self.cancellation)

        loaded = self.loads.submit(fill).result() if self.loads else fill()
        spool.delete()
        self.on_progress(Progress(self.account.name, "partitions", len(loaded.commits)))
        return loaded

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
            )
        )


def open_client(
    settings: Settings,
    store: Store,
    account: AccountSettings,
    credentials: Credentials,
    clock: Clock,
    cancellation: Cancellation | None = None,
) -> GraphClient:
    """Return the client of one account's run, inside its rate limit and its budget, until the run is ended.

    `clock` is one that `cancellation` watches: the waits of client and limiter end with the run.
    """
    graph, endpoint = settings.graph, Endpoint.of(settings, account)
    lock = store.state.database.lock
    limiter = SqliteLimiter(
        store.state.path, endpoint.limit_key, graph.calls_per_second, clock, lock
    )
    return GraphClient(
        endpoint,
        credentials,
        limiter,
        budget=CallBudget(graph.calls_per_run),
        clock=clock,
        cancellation=cancellation,
    )


class AccountCalls:
    """The calls of one account's run, and what is to be remembered of them."""

    def __init__(self, run: AccountRun, client: GraphClient, journal: Journal) -> None:
        self._journal = journal
        self._run = run
        self._client = client
        self._state = run.store.state
        self._name = run.account.name
        self._memory = self._state.memory(self._name)
        self._covered = Coverage.read(self._memory)
        self._damaged = damaged_files(run.store, self._name)
        since = max(
            min(run.since, *(day for _, _, day, _ in self._damaged), run.until),
            run.account.start_date,
        )
        self._plan = plan_run(
            run.mode, since, run.clock.now(), self._covered, run.settings.schedule.recheck_days
        )
        ladder = self._memory.get("ladder")
        self._rung = ladder_from_json(ladder if isinstance(ladder, str) else None)
        place = self._memory.get("edge_place")
        self._footing = Footing(
            run.account.platform, run.clock.now().date(), place if isinstance(place, int) else 0
        )
        self._suppressor = SuppressionFilter.read(run.store, run.account)
        self._fetched = Fetched()
        self._listing: Listing | None = None
        self._started_seconds = time.monotonic()

    def fetch(self, user_id: str | None) -> None:
        """Make the calls; what ends them early is kept in the report."""
        try:
            self._ask_identity()
        except ConvoError as error:
            self._fetched = Fetched({reason_of(error)}, error)
            return
        if self._run.mode == "full" and self._covered:
            self._claim(self._covered)
        reader = self._reader()
        if user_id is not None:
            self._fetched = self._find(reader, user_id)
            return
        self._listing = Listing(
            self._client,
            self._rung,
            since=self._plan.listed_since,
            folders=self._run.account.folders,
            is_known=reader.adds_nothing,
            suspects=self._suspects(),
            clock=self._run.clock,
        )
        self._fetched = reader.fetch(self._listing)

    def _suspects(self) -> list[str]:
        """Return the conversations for which pages were refused in earlier runs."""
        found = self._memory.get("suspects")
        return found if isinstance(found, list) else []

    def end(self, error: StoppedError) -> None:
        """Note that the run was ended before what came was stored: it stays in the spool."""
        self._fetched.reasons.add(reason_of(error))
        self._fetched.error = self._fetched.error or error

    def _ask_identity(self) -> None:
        """Learn who we are: nightly, and once a day where it is not known yet; where it is not told it is inferred."""
        held = self._state.identity(self._name)
        is_told = held is not None and held.own_id_source == "asked"
        if self._run.mode in ("nightly", "full") or (not is_told and self._is_identity_due()):
            self._run._claim_name(self._client.fetch_identity())
            held = self._state.identity(self._name)
            self._memory["identity_asked_us"] = to_us(self._run.clock.now())
        self._journal.append(
            {
                "kind": "account",
                "own_id": held.own_id if held else None,
                "own_username": held.own_username if held else None,
                "own_id_source": held.own_id_source if held else None,
            }
        )

    def _is_identity_due(self) -> bool:
        """Whether nobody asked since yesterday; a clock that was set back does not put it off."""
        asked_us = self._memory.get("identity_asked_us")
        elapsed_us = to_us(self._run.clock.now()) - asked_us if isinstance(asked_us, int) else None
        return elapsed_us is None or not 0 <= elapsed_us < DAY_US

    def _claim(self, covered: Coverage) -> None:
        """Write down what earlier runs claimed to hold, before it is swept again."""
        self._journal.append(
            {
                "kind": "claim",
                "since_us": day_start_us(covered.since),
                "listed_until_us": to_us(covered.settled_before),
            }
        )

    def _reader(self) -> InboxReader:
        conversations = self._state.conversations(self._name)
        held = {
            key: Held(state.newest_message_id, state.complete_since_us, state.updated_us)
            for key, state in conversations.items()
            if state.complete_since_us is not None
        }
        known = Known(
            held,
            {key: state.updated_us for key, state in conversations.items()},
            {key: state.due_reason for key, state in conversations.items() if state.due_reason},
            reread_since_us=self._reread_since_us(),
            trusted_before_us=to_us(self._covered.settled_before) if self._covered else None,
            is_swept=self._run.mode == "full",
        )
        conversation_reader = ConversationReader(
            self._client,
            self._journal,
            self._run.account.platform,
            Newest20Probe(),
            self._footing,
            held_as=self._held_as,
            is_stored=self._is_stored,
            on_messages=lambda count: self._tell("messages", count),
        )
        return InboxReader(
            self._client,
            conversation_reader,
            self._journal,
            known,
            since_us=day_start_us(
                min(self._plan.since, self._covered.since if self._covered else date.max)
            ),
            rung=self._rung,
            on_conversations=lambda count: self._tell("conversations", count),
            clean=self._suppressor.clean_conversations,
        )

    def _reread_since_us(self) -> int | None:
        """From which last activity on a conversation is read again although nothing in it moved: all of them by `full`."""
        if self._run.mode == "full":
            return 0
        return to_us(self._plan.listed_since) if self._run.mode == "nightly" else None

    def _tell(self, step: str, count: int) -> None:
        self._run.on_progress(Progress(self._name, step, count))

    def _held_as(
        self, conversation_id: str, message_id: str, created_us: int
    ) -> list[tuple[str, int | None]]:
        """Return the message's `detail_status` and error code as they stand in the tables."""
        found = self._stored("raw_message_details", conversation_id, message_id, created_us)
        return list(
            zip(found["detail_status"].to_pylist(), found["error_code"].to_pylist(), strict=True)
        )

    def _is_stored(self, conversation_id: str, message_id: str, created_us: int) -> bool:
        """Whether the message has a row on its day."""
        return len(self._stored("raw_message_ids", conversation_id, message_id, created_us)) > 0

    def _stored(
        self, table: str, conversation_id: str, message_id: str, created_us: int
    ) -> pa.Table:
        """Return what a raw table holds of one message; what is damaged holds nothing."""
        try:
            day = self._run.store.read(table, self._name, day_of(created_us))
        except CorruptError:
            day = TABLES[table].schema.empty_table()
        return day.filter(
            (pc.field("conversation_id") == conversation_id)
            & (pc.field("message_id") == message_id)
        )

    def _find(self, reader: InboxReader, user_id: str) -> Fetched:
        try:
            page = self._client.fetch_conversations("id", 1, user_id=user_id)
        except ConvoError as error:
            return Fetched({reason_of(error)}, error)
        self._run.found += [found for row in page.rows if (found := readable_id(row.payload))]
        for conversation_id in self._run.found:
            reader.revisit(conversation_id)
        return reader.fetched

    @property
    def _summary(self) -> ListingSummary | None:
        """What the listing did, in which nobody is named who was forgotten; None if there was no listing."""
        if self._listing is None:
            return None
        summary, keeps = self._listing.summary, self._suppressor.keeps
        return replace(
            summary,
            moving=frozenset(filter(keeps, summary.moving)),
            poisoned={key: error for key, error in summary.poisoned.items() if keeps(key)},
            suspects=frozenset(filter(keeps, summary.suspects)),
        )

    def remember(self) -> None:
        """Keep, after everything is stored, what the next run may rely on."""
        memory, summary = dict(self._memory), self._summary
        rung = summary.rung if summary else self._rung
        memory |= {
            "ladder": ladder_to_json(self._footing.remembered(rung)),
            "edge_place": self._footing.edge_place,
        }
        if summary is not None:
            suspects = summary.poisoned if self._run.mode == "full" else summary.suspects
            memory["suspects"] = sorted(suspects)[:MOST_SUSPECTS]
            if self._fetched.error is None and summary.started_at is not None and not summary.cuts:
                since = (
                    min(self._plan.since, self._covered.since)
                    if self._covered
                    else self._plan.since
                )
                memory["coverage"] = Coverage(since, to_us(summary.started_at)).to_json()
        self._state.save_memory(self._name, memory)

    def settle_damage(self) -> list[Commit]:
        """Call files whole again that were damaged or lost before this run, if it read all there is of their days since.

        One that was found damaged only while the run was at work waits for the next run. What is still held of the others goes
        back before anybody believes them: return what that changed.
        """
        if damaged_files(self._run.store, self._name) - self._damaged:
            self._state.reset_progress(self._name)
            return []
        covered = Coverage.read(self._state.memory(self._name))
        if covered is None or self._fetched.reasons:
            return []
        asked = [(day, path) for _, _, day, path in self._damaged if day >= covered.since]
        commits = salvage_days(self._run.store, self._name, {day for day, _ in asked})
        for _, path in asked:
            self._state.remove_suspect(path)
        return commits

    def report(self, loads: list[Loaded], credentials: Credentials) -> AccountReport:
        """Return what the run came to."""
        summary = self._summary
        reasons = {*self._fetched.reasons, *(summary.cuts if summary else ())}
        if any(loaded.quarantined for loaded in loads):
            reasons.add("quarantined")
        counts = Counter(self._fetched.counts)
        counts.update(self._suppressor.counts)
        for loaded in loads:
            counts.update(loaded.counts)
            counts["brought_along"] += sum(
                count
                for day, count in loaded.ids_by_day.items()
                if not self._run.since <= day < self._run.until
            )
        balances = balance(counts)
        if any(balances.values()):
            reasons.add("unbalanced")
        error = self._fetched.error
        is_partly_done = counts["conversations_listed"] or isinstance(error, ThrottledError)
        client = self._client
        figures = CallFigures(
            sum(client.calls.values()), guide_calls(counts), client.refused, client.retried
        )
        return AccountReport(
            account=self._name,
            outcome="complete" if not reasons else "incomplete" if is_partly_done else "failed",
            reasons=tuple(sorted(reasons)),
            error=redact(str(error), (credentials.token, credentials.app_secret or ""))
            if error
            else None,
            commits=tuple(commit for loaded in loads for commit in loaded.commits),
            calls=dict(sorted(self._client.calls.items())),
            counts=dict(sorted(counts.items())),
            started_at=summary.started_at if summary else None,
            figures=figures,
            report=self._details(loads)
            | {"calls": asdict(figures) | {"saved": figures.saved}, "balance": balances},
        )

    def _details(self, loads: list[Loaded]) -> dict[str, object]:
        error = self._fetched.error
        resume_at = error.resume_at if isinstance(error, ThrottledError) else None
        return {
            "listed_since": self._plan.listed_since.isoformat(),
            "is_incremental": self._plan.is_incremental,
            "throttled_seconds": round(self._client.throttled_seconds, 3),
            "throttled_until": resume_at.isoformat() if resume_at else None,
            "unchecked_answers": self._client.unchecked,
            "version": self._client.version,
            "listing": listing_details(summary) if (summary := self._summary) else None,
            "failed": refusals(self._fetched.failures),
            "quarantined": [text for loaded in loads for text in loaded.quarantined],
            "seconds": round(time.monotonic() - self._started_seconds, 3),
        }
