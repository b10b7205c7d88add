"""Seeded scenarios of one account: a random inbox, random faults, several runs, and kills.

`simulate(seed, folder)` returns the errors of a scenario, none if all is well. After each run
`Oracle` compares the raw tables and the ledger with the emulator's messages. A seed fixes the plan.
It does not fix the order in which threads receive the responses for four conversations.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.json_text import load_json
from convo_pipeline.derive.day import current_coverage, derive_day, stale_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.fault import Fault
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import SHAPES, Switches
from convo_pipeline.emulator.value_faults import HOSTILE
from convo_pipeline.emulator.view import show_id
from convo_pipeline.emulator.world import Account, Conversation, Message, TrueMessage, World
from convo_pipeline.extract.run import AccountReport, extract
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.reasons import RUN_REASONS
from convo_pipeline.settings import Settings
from convo_pipeline.upkeep.verify import verify
from tests.support.inboxes import NOW, START, TOKEN_VARIABLE, settings_for

ONE_DAY = timedelta(days=1)
LARGE_SHARE = 0.12
"""Share of scenarios with many conversations, days and runs.

A small scenario costs a third and shows most bugs too.
"""
DERIVED_SHARE = 0.3
"""Share of scenarios that are derived at the end, which costs half as much as the scenario.

All scenarios are derived in which the API does not simply give the account's own id.
"""
OWN_ID_SHARE = 0.3
"""Share of scenarios whose own id is drawn once more: it decides all directions."""
VERIFIED_SHARE = 0.1
"""Share of the derived scenarios whose files are verified."""
RESULTS = ("unchanged", "fetched", "failed", "vanished", "refused", "pending")
"""Results of listed conversations; their counts add up."""
Key = tuple[str, str]
Row = dict[str, object]

PASSING = (
    "reset", "reset_mid_body", "short_body", "no_length", "truncated_json", "endless_chunks",
    "cut_at_edge", "gzip_cut", "gzip_bad_crc", "gzip_garbage", "html_200", "empty_body",
    "no_content", "bad_utf8", "nan", "duplicate_keys", "server_error", "transient", "unknown_error",
    "too_many_requests", "throttle_613", "throttle_4", "throttle_17", "throttle_32", "throttle_341",
    "retry_after_seconds", "dead_cursor", "cursor_repeated", "empty_page", "redirect", "latin1",
    "deep_nesting", "retry_after_date",
)  # fmt: skip
"""Faults of a number of calls."""
LASTING = (
    "gzip_no_trailer", "byte_order_mark", "high_usage", "malformed_usage", "business_80006",
    "reduce_above", "unreadable", "unreadable", "refused_objects", "refused_objects",
    "later_pages_refused", "nested_error", "hollow_rows", "rare_media", "missing_from",
    "nonexisting", "cursor_loop", "short_page", "duplicates",
    "shuffled", "bump", "vanish_head", "message_midread", "flood", "old_page_refused", "unsend",
    "vanish", "edge_missing", "edge_empty", "nested_missing", "clock_skew", "mixed_times",
    "impossible_times", "unknown_fields", "type_changes", "missing_keys", "missing_id",
    "control_characters", "lone_surrogate", "long_numbers", "foreign_next", "altered_next",
    "twin_ids", "edit", "token_dies", "permission_10", "throttle_as_missing", "version_upgraded",
    "nested_refused", "hostile_ids", "permission_200", "permission_230",
    "access_switched_off", "token_revoked", "retired_version", "business_80001", "business_80002",
    "huge_message", "many_attachments",
)  # fmt: skip
"""Faults with a probability; faults that cost real time or memory are left out."""
CHANGE_TIMES = frozenset({"mixed_times", "impossible_times", "missing_keys"})
CHANGE_TEXTS = frozenset(
    {
        "control_characters",
        "lone_surrogate",
        "type_changes",
        "missing_keys",
        "huge_message",
        "many_attachments",
    }
)
HIDE_ROWS = frozenset({"edge_empty"})
"""Faults whose responses look like the end of the messages; no client can tell the difference."""
CHANGE_IDS = frozenset({"hostile_ids"})
"""Faults after which messages have other ids."""
ERRORS = (
    "1", "1", "2", "10", "10/2018336", "200", "100", "100/33", "100/2534001", "100/2018001", "230",
    "368", "551", "803", "9000001", "1234567", "http403", "http404", "http500",
)  # fmt: skip
"""Errors with which one conversation or message is refused."""
PASSING_CODES = frozenset({1, 2})
"""Codes that may pass: a conversation that is refused with one is requested in every run."""
READ_TO_THE_END = frozenset(
    {"conversation_failed", "conversation_refused", "message_failed", "clock"}
)
"""Reasons of runs that requested everything; other reasons end a run early."""
REPAIRS_OF_RENAMED = 5
"""Number of runs until ids that the API does not know any more count as vanished."""
CHANGE_PEOPLE = frozenset({"long_numbers", "type_changes"})
"""Faults that change the ids of senders, so that no client can know who wrote."""
HIDE_PEOPLE = CHANGE_PEOPLE | {"missing_from", "hollow_rows", "missing_keys", "nonexisting"}
"""Faults after which a message can lack its sender."""
CHANGE_MEDIA = frozenset({"rare_media", "many_attachments", "type_changes", "nonexisting"})
ARGUMENTS = {
    "unreadable": ERRORS,
    "refused_objects": ERRORS,
    "later_pages_refused": ERRORS,
    "nested_error": ERRORS,
    "huge_message": ("20000",),
    "many_attachments": ("40",),
    "business_80001": ("1", "19"),
    "business_80002": ("1", "19"),
    "reduce_above": ("0", "5", "20", "100"),
    "flood": ("3", "25"),
    "token_dies": ("0", "1", "2", "4"),
    "business_80006": ("1", "19"),
    "clock_skew": ("600", "-600"),
    "nonexisting": ("reactions", "link", "participants", "messages"),
}


class KilledError(BaseException):
    """The process was killed."""


class DyingStore(Store):
    """A store whose process is killed before one of its commits."""

    commits_left: int | None = None

    def merge(self, table: str, account: str, day: date, incoming: pa.Table) -> Commit:
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left < 0:
                raise KilledError
        return super().merge(table, account, day, incoming)


@dataclass
class Ticking:
    """A clock that advances with every call, and kills the process after a number of calls."""

    world: VirtualClock
    step_seconds: float
    calls_left: int | None = None
    elapsed_seconds: float = 1_000_000.0

    def monotonic_seconds(self) -> float:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise KilledError
        self.elapsed_seconds += 0.01
        self.world.advance(self.step_seconds)
        return self.elapsed_seconds

    def sleep(self, seconds: float) -> None:
        self.elapsed_seconds += seconds
        self.world.advance(seconds + 0.001)

    def clock(self) -> Clock:
        return Clock(self.world.now, self.monotonic_seconds, self.sleep)


@dataclass(frozen=True)
class RunPlan:
    """One run: its mode, first day, faults and kills."""

    mode: str
    since: date
    faults: tuple[str, ...] = ()
    calls_per_run: int = 20_000
    kill_after_calls: int | None = None
    kill_after_commits: int | None = None


@dataclass
class Oracle:
    """Compare the tables with the emulator's messages after every run."""

    scenario: "Scenario"
    stored_rows: dict[Key, tuple[date, Row]] = field(default_factory=dict)
    texts: dict[Key, set[object]] = field(default_factory=dict)
    could_be_listed: set[Key] = field(default_factory=set)
    """Every message that could be listed at the start of a complete run."""
    last_run_at: datetime = NOW
    """End of the last run."""
    complete_since: date | None = None
    faults_so_far: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def note_texts(self) -> None:
        """Record each text that a message has had."""
        for key, message in self.scenario.messages():
            self.texts.setdefault(key, set()).add(message.payload.get("message"))

    def check(self, plan: RunPlan, report: AccountReport | None, before: set[Key]) -> None:
        """Compare tables and report with the messages; `before` could be listed at the start."""
        self.note_texts()
        self.faults_so_far |= {fault.partition(":")[0] for fault in plan.faults}
        rows = self._read_rows(is_cut=report is None)
        self._check_nothing_lost(rows)
        if report is not None and report.missed and not self._is_blind:
            self._check_missed(report.missed, rows)
        self.stored_rows = rows
        before = before & {self.scenario.key(message) for message in self.scenario.truth()}
        if report is not None and report.outcome == "complete":
            self.could_be_listed |= before
        self.last_run_at = self.scenario.world.clock.now()
        if report is None:
            return
        self._check_ledger(report)
        self._check_named(plan, report, before, rows)
        if report.outcome == "complete":
            self._check_complete(plan, report, before, rows)
        self._check_details(rows)

    def _add_error(self, text: str) -> None:
        self.errors.append(text)

    def _read_rows(self, *, is_cut: bool) -> dict[Key, tuple[date, Row]]:
        rows: dict[Key, tuple[date, Row]] = {}
        ids: dict[Key, date] = {}
        for day in self.scenario.store.days("raw_message_ids", "shop"):
            columns = self.scenario.store.read("raw_message_ids", "shop", day)
            for key in zip(
                columns["conversation_id"].to_pylist(),
                columns["message_id"].to_pylist(),
                strict=True,
            ):
                if key in ids:
                    self._add_error(f"stored on {ids[key]} and {day}: {_short(key)}")
                ids[key] = day
        for day in self.scenario.store.days("raw_message_details", "shop"):
            details = self.scenario.store.read("raw_message_details", "shop", day)
            for row in details.select(
                ["conversation_id", "message_id", "detail_status", "payload"]
            ).to_pylist():
                key = (row["conversation_id"], row["message_id"])
                if key in rows:
                    self._add_error(f"detailed on {rows[key][0]} and {day}: {_short(key)}")
                rows[key] = (day, row)
        if not is_cut and (
            rows.keys() != ids.keys() or any(ids[key] != day for key, (day, _) in rows.items())
        ):
            self._add_error("raw_message_ids and raw_message_details differ")
        return rows

    def _check_nothing_lost(self, rows: dict[Key, tuple[date, Row]]) -> None:
        for key, (day, before) in self.stored_rows.items():
            if key not in rows:
                self._add_error(f"lost row {_short(key)}")
                continue
            now_day, now = rows[key]
            if now_day != day:
                self._add_error(f"moved from {day} to {now_day}: {_short(key)}")
            if before["detail_status"] == "detailed" and now["detail_status"] != "detailed":
                self._add_error(f"content became {now['detail_status']}: {_short(key)}")
            if _text(before) and not _text(now) and not self.faults_so_far & CHANGE_TEXTS:
                self._add_error(f"text erased: {_short(key)}")

    def _check_missed(self, missed_count: int, rows: dict[Key, tuple[date, Row]]) -> None:
        """Check that a sweep counts only messages that earlier runs could not list."""
        sent_at = {key: message.created_at for key, message in self.scenario.messages()}
        unseen = [
            key
            for key in rows.keys() - self.stored_rows.keys() - self.could_be_listed
            if key in sent_at
        ]
        late_count = sum(sent_at[key] <= self.last_run_at for key in unseen)
        if missed_count > late_count and not self.faults_so_far & {"missing_id", *CHANGE_TIMES}:
            self._add_error(
                f"{missed_count} messages counted as missed, {late_count} appeared late"
            )

    def _check_ledger(self, report: AccountReport) -> None:
        counts = Counter(dict(report.counts))
        if counts["ids_listed"] != sum(
            counts[name] for name in ("detailed", "beyond_20", "gone", "failed", "pending")
        ):
            self._add_error(f"ids do not balance: {dict(counts)}")
        if counts["conversations_listed"] != sum(
            counts[f"conversations_{result}"] for result in RESULTS
        ):
            self._add_error(f"conversations do not balance: {dict(counts)}")
        if report.outcome == "complete" and (
            counts["conversations_pending"] or counts["conversations_failed"]
        ):
            self._add_error(f"complete with {dict(counts)}")
        if (report.outcome == "complete") != (not report.reasons) or not set(
            report.reasons
        ) <= RUN_REASONS:
            self._add_error(f"{report.outcome} for {report.reasons}")
        lines = [
            (run.outcome, run.reasons, dict(run.counts or {}))
            for run in self.scenario.store.state.runs("shop")
        ]
        if (report.outcome, report.reasons, dict(report.counts)) not in lines:
            self._add_error("the ledger differs from the report")

    def _check_named(
        self,
        plan: RunPlan,
        report: AccountReport,
        before: set[Key],
        rows: dict[Key, tuple[date, Row]],
    ) -> None:
        """Check that a run names each refused conversation whose messages are not stored.

        Coverage and status never show 100 % then.
        """
        if plan.mode == "capture" or not set(report.reasons) <= READ_TO_THE_END or self._is_blind:
            return
        refused: Any = report.report.get("refused", {})
        names = {entry["conversation_id"] for entry in refused.get("first", ())}
        unread: set[str] = set()
        for message in self.scenario.truth():
            key = self.scenario.key(message)
            is_wanted = key in before and message.created_at.date() >= plan.since
            is_refused = self.scenario.is_refused_for_good(message.conversation_id)
            if is_wanted and is_refused and key not in rows:
                unread.add(key[0])
                if key[0] not in names:
                    self._add_error(f"refused, but not named: {_short(key)}")
        self._check_visible(unread)

    def _check_visible(self, unread: set[str]) -> None:
        """Check that coverage and status show these conversations, which are not read."""
        store = self.scenario.store
        for day in store.days("raw_conversations", "shop") if unread else ():
            stored = store.read("raw_conversations", "shop", day)["conversation_id"].to_pylist()
            [row] = current_coverage(store, "shop", day).to_pylist()
            is_shown = row["incomplete_conversation_count"] and row["share_detailed"] != 1
            if not unread.isdisjoint(stored) and is_shown:
                unread = unread.difference(stored)
            if not unread:
                break
        self.errors += [f"not in coverage: {conversation_id[-12:]}" for conversation_id in unread]

    def _check_complete(
        self,
        plan: RunPlan,
        report: AccountReport,
        before: set[Key],
        rows: dict[Key, tuple[date, Row]],
    ) -> None:
        """Check that a complete run stored each message once, with content if readable."""
        asked = plan.since
        if plan.mode == "capture":
            asked = self.complete_since or date.fromisoformat(
                str(report.report["listed_since"])[:10]
            )
        complete_since = min(asked, self.complete_since or asked)
        if not report.report["clocks"]:  # else the run need not save what it read to the end
            self.complete_since = complete_since
        if self._is_blind:
            return
        true = {
            self.scenario.key(message): message
            for message in self.scenario.truth()
            if self.scenario.key(message) in before
        }
        rejected = sum(
            self.scenario.store.read("raw_rejects", "shop", day).num_rows
            for day in self.scenario.store.days("raw_rejects", "shop")
        )
        missing: dict[str, datetime] = {}
        for key, message in true.items():
            day = message.created_at.date()
            if day < complete_since:
                continue
            if key not in rows:
                text = f"missing: {_short(key)} of {message.created_at}, rank {message.rank}"
                missing[text] = message.created_at.replace(microsecond=0)
                continue
            stored_day, row = rows[key]
            if stored_day != day and not self.faults_so_far & CHANGE_TIMES:
                self._add_error(f"{_short(key)} of {day} is stored on {stored_day}")
            is_settled = key[0] not in self.scenario.with_unsent and message.is_readable
            is_disguised = (
                row["detail_status"] == "gone" and "throttle_as_missing" in self.faults_so_far
            )
            if is_settled and not is_disguised and row["detail_status"] != "detailed":
                self._add_error(
                    f"complete, rank {message.rank}, and {row['detail_status']}: {_short(key)}"
                )
        if len(set(missing.values())) > rejected:  # without an id, bare rows of one second are one
            self.errors += missing

    @property
    def _is_blind(self) -> bool:
        """Return whether something happened that no client can see."""
        is_offset_moved = self.scenario.switches.cursor_kind == "offset" and (
            self.faults_so_far & {"vanish_head", "unsend", "vanish"} or self.scenario.with_unsent
        )
        return bool(self.faults_so_far & (HIDE_ROWS | CHANGE_IDS) or is_offset_moved)

    def _check_details(self, rows: dict[Key, tuple[date, Row]]) -> None:
        """Check the reason of each row without content, and that every content is a real text."""
        true = {self.scenario.key(message): message for message in self.scenario.truth()}
        for key, (_, row) in rows.items():
            status, message = row["detail_status"], true.get(key)
            if status == "detailed":
                self._check_text(key, row)
            if message is None or key[0] in self.scenario.with_unsent or self._is_blind:
                continue
            if status == "gone" and "throttle_as_missing" not in self.faults_so_far:
                self._add_error(f"wrongly gone: {_short(key)}")
            if (
                status == "beyond_20"
                and message.rank <= 20
                and not self.faults_so_far & {"duplicates"}
            ):
                self._add_error(f"wrongly beyond 20, rank {message.rank}: {_short(key)}")

    def _check_text(self, key: Key, row: Row) -> None:
        text = _text(row)
        was_edited = isinstance(text, str) and text.startswith(
            ("edited ", "twin", "flood", "and another", "one more")
        )
        conversation_id, message_id = (part.replace(HOSTILE, "") for part in key)
        texts = self.texts.get((conversation_id, message_id), ())
        if self.faults_so_far & CHANGE_TEXTS or was_edited or text in texts:
            return
        self._add_error(f"unknown text: {_short(key)} {text!r}")

    def check_derived(self, rows: list[Row]) -> None:
        """Check that no direction is wrong, and that no list of media is cut without a problem."""
        messages = dict(self.scenario.messages())
        own = self.scenario.account.person()["id"]
        nameless = sum(
            row["direction"] is None and row["detail_status"] == "detailed" for row in rows
        )
        counted = sum(
            row["unknown_direction_count"] or 0
            for day in self.scenario.store.days("coverage", "shop")
            for row in self.scenario.store.read("coverage", "shop", day).to_pylist()
        )
        if counted != nameless:
            self._add_error(f"coverage counts {counted} of {nameless} messages without direction")
        is_certain = self.scenario.switches.own_id == "given" and not (
            self.faults_so_far & HIDE_PEOPLE
        )
        # a cut list of recipients can lack the account: then the evidence is thin
        doubtful = sum(
            row["direction"] is None
            and row["detail_status"] == "detailed"
            and row["problem"] != "list_cut"
            for row in rows
        )
        if doubtful and is_certain:
            self._add_error(f"{doubtful} messages without direction, although the own id is given")
        for row in rows:
            key = (str(row["conversation_id"]), str(row["message_id"]))
            message = messages.get(key)
            if message is None:
                continue
            true = "outbound" if message.payload["from"]["id"] == own else "inbound"
            is_known = not self.faults_so_far & CHANGE_PEOPLE
            if is_known and row["direction"] not in (None, true):
                self._add_error(f"{row['direction']} instead of {true}: {_short(key)}")
            if row["detail_status"] != "detailed" or self.faults_so_far & CHANGE_MEDIA:
                continue
            for name, column in (("attachments", "attachment_count"), ("shares", "share_count")):
                true_count, count = len(message.payload.get(name, ())), row[column]
                if count not in (true_count, None) and row["problem"] is None:
                    self._add_error(f"{count} of {true_count} {name}: {_short(key)}")

    def check_end(self, report: AccountReport, *, is_full: bool) -> None:
        """Check that the last run, without faults, repaired everything."""
        switches, platform = self.scenario.switches, self.scenario.account.platform
        are_lists_refused = switches.old_nodes(platform) == "refused" and (
            switches.old_rows(platform) == "full"
        )  # old rows are whole, but their nested lists can never be read on
        if report.outcome != "complete" and not (
            are_lists_refused and set(report.reasons) <= {"message_failed", "conversation_refused"}
        ):
            self._add_error(f"not repaired: {report.outcome} {report.reasons} {report.error}")
            return
        for message in self.scenario.truth() if is_full else ():
            key = self.scenario.key(message)
            if message.created_at.date() < START:
                continue
            if key not in self.stored_rows:
                self._add_error(f"a sweep did not find {_short(key)}, rank {message.rank}")
                continue
            if not message.is_readable:
                continue
            row = self.stored_rows[key][1]
            now = self.scenario.find(message).payload.get("message")
            if row["detail_status"] != "detailed" or _text(row) != now:
                self._add_error(
                    f"outdated: {_short(key)} {row['detail_status']} {_text(row)!r} {now!r}"
                )


class Scenario:
    """One account's inbox, the plan of its runs, and its lake."""

    is_healing = False
    """Whether the last run began, without faults."""
    rest_seconds = 3600.0
    """Time without changes before the last run, which repairs everything."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.world = World(VirtualClock(NOW))
        platform = self.rng.choice(("instagram", "messenger"))
        self.account: Account = self.world.add_account("shop", "1111111111", platform)
        self.switches = _random_switches(self.rng)
        self.node = self.rng.choice(("me", None)) if platform == "instagram" else None
        """`me` if the account uses Instagram Login, else None for the Page."""
        self.has_one_customer = self.rng.random() < 0.1
        """Whether the same customer takes part in every conversation."""
        self.with_unsent: set[str] = set()
        self._text_count = 0
        self.is_large = self.rng.random() < LARGE_SHARE
        for _ in range(self.rng.choice((0, 1, 2, 3, 5, 8) if self.is_large else (1, 1, 1, 2, 3))):
            self._open_conversation()
        self.plans = self._plan_runs()
        self.oracle = Oracle(self)
        self._server: EmulatorServer
        self._settings: Settings
        self.store: DyingStore

    def run_all(self) -> list[str]:
        """Run the whole scenario and return its errors."""
        with EmulatorServer(self.world, self.switches, seed=self.rng.randrange(99)) as self._server:
            self._settings = settings_for(
                [self.account],
                self._server.base_url,
                self.folder,
                node=self.node,
                timeout_seconds=5,
            )
            with self._opened():
                for number, plan in enumerate(self.plans):
                    if number:
                        self._change_inbox()
                    self._run(plan)
                self._server.set_faults()
                self.world.clock.advance(self.rest_seconds)
                for conversation in self.account.conversations.values():
                    conversation.make_unreadable(None)
                self.is_healing = True
                healing = RunPlan(self.rng.choice(("full", "full", "window")), START)
                report = self._run(healing)
                assert report is not None
                is_vanished = any(
                    conversation.is_vanished for conversation in self.account.conversations.values()
                )
                is_renamed = bool(self.oracle.faults_so_far & CHANGE_IDS)
                if {"conversation_failed", "conversation_refused"} & set(report.reasons):
                    healing = replace(healing, mode="full")  # it does not wait for the next request
                for number in range(REPAIRS_OF_RENAMED if is_renamed else 1):
                    is_first = number == 0 and (is_vanished or is_renamed)
                    if is_first or set(report.reasons) & {"empty_edge", "conversation_refused"}:
                        report = self._run(healing)
                        assert report is not None
                self.oracle.check_end(report, is_full=self._last_mode == "full")
                is_own_id_odd = self.switches.own_id != "given"
                if is_own_id_odd or self.rng.random() < DERIVED_SHARE:
                    self._derive(is_verified=self.rng.random() < VERIFIED_SHARE)
        return self.oracle.errors

    @contextmanager
    def _opened(self) -> Iterator[None]:
        self.store = DyingStore(self._settings.store, Clock(self.world.clock.now))
        try:
            yield
        finally:
            self.store.close()

    def _run(self, plan: RunPlan) -> AccountReport | None:
        self._last_mode = plan.mode
        self.oracle.note_texts()
        before = {self.key(message) for message in self.truth()}
        self._server.set_faults(*self._faults(plan))
        ticking = Ticking(
            self.world.clock, self.rng.choice((0.0, 0.0, 0.2, 3.0)), plan.kill_after_calls
        )
        graph = self._settings.graph.model_copy(update={"calls_per_run": plan.calls_per_run})
        settings = self._settings.model_copy(update={"graph": graph})
        self.store.commits_left = plan.kill_after_commits
        until = self.world.clock.now().date() + ONE_DAY
        report: AccountReport | None = None
        try:
            [report] = extract(
                settings,
                self.store,
                ["shop"],
                plan.since,
                until,
                mode=plan.mode,  # type: ignore[arg-type]
                environ={TOKEN_VARIABLE: EMULATOR_TOKEN},
                clock=self._clock(ticking),
            )
        except KilledError:
            self.store.close()
            self.store = DyingStore(self._settings.store, Clock(self.world.clock.now))
        self._note_unsent()
        self.store.commits_left = None
        self.oracle.check(plan, report, before)
        return report

    def _faults(self, plan: RunPlan) -> list[Fault]:
        return [make_drawn_fault(text) for text in plan.faults]

    def _clock(self, ticking: Ticking) -> Clock:
        return ticking.clock()

    def _derive(self, *, is_verified: bool) -> None:
        for day in stale_days(self.store, "shop"):
            derive_day(self.store, "shop", day)
        if is_verified:
            known = {"date", *(("twin",) if "twin_ids" in self.oracle.faults_so_far else ())}
            findings = verify(self.store, stale_days=stale_days).findings
            self.oracle.errors += [
                f"verify: {finding}" for finding in findings if finding.kind not in known
            ]
        rows: list[Row] = [
            row
            for day in self.store.days("messages", "shop")
            for row in self.store.read("messages", "shop", day).to_pylist()
        ]
        message_counts = Counter((row["conversation_id"], row["message_id"]) for row in rows)
        if set(message_counts) != set(self.oracle.stored_rows) or set(message_counts.values()) - {
            1
        }:
            self.oracle.errors.append("messages is not raw_message_ids")
        self.oracle.check_derived(rows)

    # the true messages

    def key(self, message: TrueMessage) -> Key:
        return show_id(message.conversation_id, self.switches), show_id(
            message.message_id, self.switches
        )

    def truth(self) -> list[TrueMessage]:
        """Return every message that can be listed now."""
        kept = self.switches.unsent_rows == "kept"
        readable = 20
        true = self.world.truth(readable, keep_unsent=kept)
        return [message for message in true if message.is_visible]

    def is_refused_for_good(self, conversation_id: str) -> bool:
        refusal = self.account.conversations[conversation_id].refusal
        return (
            refusal is not None
            and refusal.code not in PASSING_CODES
            and (refusal.status or 400) < 500
        )

    def messages(self) -> Iterator[tuple[Key, Message]]:
        for conversation in self.account.conversations.values():
            for message in conversation.messages:
                yield (
                    (
                        show_id(conversation.conversation_id, self.switches),
                        show_id(message.message_id, self.switches),
                    ),
                    message,
                )

    def find(self, true: TrueMessage) -> Message:
        conversation = self.account.conversations[true.conversation_id]
        return next(
            message for message in conversation.messages if message.message_id == true.message_id
        )

    def _note_unsent(self) -> None:
        now_us = self.world.clock.now_us()
        self.with_unsent |= {
            show_id(conversation.conversation_id, self.switches)
            for conversation in self.account.conversations.values()
            if any(message.is_unsent(now_us) for message in conversation.messages)
        }

    # events

    def _plan_runs(self) -> list[RunPlan]:
        return [
            self._plan_run(number)
            for number in range(self.rng.choice((1, 2, 2, 3) if self.is_large else (1, 1, 1, 2)))
        ]

    def _plan_run(self, number: int) -> RunPlan:
        rng = self.rng
        mode = rng.choice(("window", "window", "nightly", "capture", "full"))
        since = START + ONE_DAY * rng.choice((0, 0, 7, 9))
        plan = RunPlan(
            mode, since, tuple(self._random_fault() for _ in range(rng.choice((0, 1, 1, 2, 3))))
        )
        kind_of_end = rng.random()
        if kind_of_end < 0.1:
            return replace(plan, kill_after_calls=rng.randrange(1, 25))
        if kind_of_end < 0.2:
            return replace(plan, kill_after_commits=rng.randrange(6))
        return replace(plan, calls_per_run=rng.choice((1, 2, 4, 7))) if kind_of_end < 0.3 else plan

    def _random_fault(self) -> str:
        if self.rng.random() < 0.4:
            return f"{self.rng.choice(PASSING)}:{self.rng.choice((1, 2, 9))}:0.5"
        name = self.rng.choice(LASTING)
        chance = self.rng.choice(("", ":0.5")) if name not in ("token_dies", "reduce_above") else ""
        return name + (f":{self.rng.choice(ARGUMENTS[name])}" if name in ARGUMENTS else "") + chance

    def _change_inbox(self) -> None:
        """Change the inbox between two runs: new messages, edits, reactions, deletions."""
        rng = self.rng
        self.world.clock.advance(rng.choice((0.4, 30, 700, 700, 7_200, 100_000)))
        for conversation in list(self.account.conversations.values()):
            if rng.random() < 0.5:
                self._write(conversation, rng.choice((1, 1, 2, 6, 24, 45)))
            if rng.random() < 0.3 and conversation.messages:
                self._change_message(rng.choice(conversation.messages))
            if rng.random() < 0.05:
                conversation.vanish()
            if rng.random() < 0.15:
                conversation.make_unreadable(rng.choice((None, None, *ERRORS)))
        if rng.random() < 0.4:
            self._open_conversation()

    def _change_message(self, message: Message) -> None:
        event = self.rng.random()
        if event < 0.4:
            message.edit(self._text())
        elif event < 0.7:
            message.react("❤️")
        else:
            message.unsend()
            self._note_unsent()

    def _open_conversation(self) -> None:
        rng, number = self.rng, len(self.account.conversations)
        customer = 0 if self.has_one_customer else number
        people = [self.account.describe_customer(f"Ada {customer}", str(990 + customer))]
        if rng.random() < 0.15:
            people += [
                self.account.describe_customer(f"Bo {number}", "0123"),
                self.account.describe_customer("Cy", "7"),
            ]
        hostile = (
            f"{number}/|=..%*?[]'\"\\ é#&+{'x' * rng.choice((0, 200))}"
            if rng.random() < 0.1
            else None
        )
        conversation = self.account.add_conversation(
            f"Ada {number}", people=people, conversation_id=hostile
        )
        now = self.world.clock.now()
        ages = (
            (5, 3_000, 3_000, 90_000, 200_000)
            if self.is_large
            else (5, 3_000, 3_000, 3_000, 3_000, 90_000)
        )
        self._write(
            conversation,
            rng.choice((0, 1, 2, 3, 5, 19, 20, 21, 22, 45)),
            now - timedelta(seconds=rng.choice(ages)),
        )

    def _write(self, conversation: Conversation, count: int, start: datetime | None = None) -> None:
        """Add messages up to about now: some in one second, some slightly in the future."""
        rng, now = self.rng, self.world.clock.now()
        last = conversation.messages[-1].created_at if conversation.messages else now - ONE_DAY * 2
        moment = max(last, start or now - timedelta(seconds=rng.choice((0, 20, 600))))
        for _ in range(count):
            moment = min(
                moment + timedelta(seconds=rng.choice((0, 0.25, 1, 40, 400))),
                max(now + timedelta(seconds=8), last),
            )
            self._add_message(conversation, moment)

    def _add_message(self, conversation: Conversation, moment: datetime) -> None:
        """Add a message of anybody in the conversation, sometimes with media."""
        rng, own = self.rng, self.account.person()
        sender = own if rng.random() < 0.5 else rng.choice(conversation.people)
        others = [person for person in (*conversation.people, own) if person is not sender]
        fields: dict[str, object] = {"from": dict(sender), "to": [dict(each) for each in others]}
        if rng.random() < 0.1:
            name, count = rng.choice(("attachments", "shares")), rng.choice((1, 2, 3, 5, 27))
            link = {"attachments": "file_url", "shares": "link"}[name]
            fields[name] = [{"id": str(n), link: f"https://example.org/{n}"} for n in range(count)]
        conversation.add_message(self._text(), moment, **fields)

    def _text(self) -> str:
        self._text_count += 1
        return f"text {self._text_count}"


def simulate(seed: int, folder: Path) -> list[str]:
    """Run the scenario of a seed and return its errors."""
    return Scenario(seed, folder).run_all()


def _random_switches(rng: random.Random) -> Switches:
    chosen = {name: rng.choice(values) for name, values in SHAPES.items() if rng.random() < 0.3}
    if rng.random() < OWN_ID_SHARE:
        chosen["own_id"] = rng.choice(SHAPES["own_id"])
    return Switches(**chosen)  # type: ignore[arg-type]


def make_drawn_fault(text: str) -> Fault:
    """Return the fault of a plan's text."""
    name, *rest = text.split(":")
    probability = float(rest.pop()) if rest and "." in rest[-1] else 1.0
    return make_fault(name, rest[0] if rest else None, probability)


def _text(row: Row) -> object:
    payload = row["payload"]
    return _text_in(payload) if isinstance(payload, str) else None


@lru_cache(maxsize=4096)
def _text_in(payload: str) -> object:
    value = load_json(payload)
    return value.get("message") if isinstance(value, dict) else None


def _short(key: Key) -> str:
    return f"{key[0][-12:]}/{key[1][-16:]}"
