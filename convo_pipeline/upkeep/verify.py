"""Verify the lake: read every file again and report what is wrong with it. Changes nothing.

It checks hashes, schemas, keys, dates and whether the tables of a day agree, and the files beside
the partitions: compacted months, receipts, retention limits, quarantined files and `state.db`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convo_pipeline.derive.day import kept_days
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake import parquet
from convo_pipeline.lake.first_days import RETENTION_FILE, first_complete_day, read_first_days
from convo_pipeline.lake.ledger import read_runs
from convo_pipeline.lake.segments import (
    COMPACT,
    INDEX_FILE,
    Segment,
    month_of,
    read_index,
    segment_parts,
)
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import RECEIPTS, read_suppression
from convo_pipeline.schema import (
    DETAIL_STATUSES,
    MESSAGES,
    RAW_MESSAGE_IDS,
    RUNS,
    SCHEMA_VERSION,
    TABLES,
    Table,
)
from convo_pipeline.state.records import RUN_PARTS, balance
from convo_pipeline.upkeep.rebuild import CERTAIN_SOURCES

FINDING_KINDS = {
    "damaged": "the file changed after it was written: restore it from a backup and run"
    " `convo-pipeline verify --rebuild-state`; or make a derived table again with `convo-pipeline"
    " normalize`, and fetch a raw table again with `convo-pipeline extract --full`, then"
    " `convo-pipeline extract`",
    "restored": "a complete file, but not the version that was written last: the file or the state"
    " comes from a backup; the next run accepts it and fetches its day again",
    "unreadable": "a file or folder cannot be opened, so nothing is known of its rows: replace a"
    " link, pipe or device by the real file, correct the permissions, or wait for the storage",
    "missing": "the state lists a file that does not exist: restore it, or run `extract` again",
    "unrecorded": "the state does not list the file: run `convo-pipeline verify --rebuild-state`",
    "schema": "the file's columns are not those of the table",
    "older": "written by an earlier version: the next write or `convo-pipeline normalize` upgrades"
    " it",
    "newer": "written by a newer version: update before you write",
    "key": "a key occurs twice, or the rows are not sorted by their key",
    "date": "a message is stored under a date that is not its own, or under two dates",
    "twin": "a message is stored in two conversations, because a response answered another request:"
    " run `convo-pipeline extract --full`; it removes the copy that is in no list any more",
    "balance": "the tables of one day do not agree in their counts",
    "stale": "the derived tables were made from other raw tables: run `convo-pipeline normalize`",
    "kept": "raw rows were lost, so the derived tables of the day stay as they are: restore the raw"
    " files, or accept the loss with `convo-pipeline normalize --accept-loss`",
    "ledger": "the counts of a run do not agree",
    "compaction": "a compacted file is not what was written: run `convo-pipeline compact`",
    "spool": "a record of an interrupted run is damaged: the next run stores the other records and"
    " fetches its data again",
    "erasure": "a receipt or its key is lost or damaged: restore both from your backup; until then"
    " no run of the account stores anything",
    "retention": "the first kept days of the tables cannot be read: run `convo-pipeline expire`",
    "state": "`state.db` is damaged: move it away with its -wal and -shm, and run `convo-pipeline"
    " verify --rebuild-state`",
    "quarantine": "a file was damaged and quarantined, or lost, and its day is not complete again:"
    " restore it from a backup and run `convo-pipeline verify --rebuild-state`, or let the next"
    " run make its day again",
    "set aside": "a quarantined file whose day was made again as far as possible: it stays until"
    " you delete it",
    "foreign": "not a file of the lake: it is never read and never deleted",
    "unlisted": "the bucket has the file but does not list it yet: until then queries lack its day"
    " and `--rebuild-state` misses it; wait, then verify again",
}
"""Kinds of findings, and what each means and what to do."""
NOTICES = frozenset({"older", "foreign", "set aside", "unlisted"})
"""Kinds that are no damage."""
_COMPARABLE = NOTICES | {"date", "key", "twin"}
"""Kinds after which derived tables can still be compared with the raw ones."""
CHILD_COUNTS = {
    "attachments": "attachment_count",
    "shares": "share_count",
    "reactions": "reaction_count",
}
"""Child tables of `messages`, and the column of `messages` that counts their rows."""


@dataclass(frozen=True)
class VerifyFinding:
    """One thing that is wrong: its kind, the file or day, and what was found there."""

    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class Verification:
    """The result of a verification."""

    file_count: int
    row_count: int
    byte_count: int
    findings: tuple[VerifyFinding, ...]
    is_quick: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged, missing or in disagreement."""
        return all(finding.kind in NOTICES for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self) | {
            "is_sound": self.is_sound,
            "findings": [asdict(finding) for finding in self.findings],
        }


def verify(
    store: Store,
    *,
    is_quick: bool = False,
    stale_days: Callable[[Store, str], Iterable[date]] | None = None,
    damaged_records: Callable[[Path], Iterable[Path]] = lambda state_path: (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check every file on disk or in the state; `is_quick` compares names and sizes only.

    `stale_days` returns the days of an account whose derived tables are out of date.
    `damaged_records` returns the damaged spool records below the state folder.
    """
    verifier = _Verifier(store, is_quick)
    for text in () if is_quick else store.state.database.defects():
        verifier.add("state", store.state.database.location, text)
    try:
        for finding in check_side_files(store, is_quick=is_quick):
            verifier.add(finding.kind, finding.where, finding.text)
    except StoreError as error:
        verifier.add_unreadable(COMPACT, error)
    for path in () if is_quick else damaged_records(store.state_path):
        verifier.add("spool", str(path), "its bytes have another hash than its name says")
    on_disk = {
        (account, day, table.name)
        for table, account, day in store.data_files(verifier.add_unreadable)
    }
    in_state = {(record.account, record.date, record.table) for record in store.state.partitions()}
    partitions = sorted(on_disk | in_state)
    for account, account_partitions in groupby(partitions, lambda partition: partition[0]):
        days = [
            (day, [_table(name) for _, _, name in group])
            for day, group in groupby(account_partitions, lambda partition: partition[1])
        ]
        if is_quick:
            for day, tables in days:
                for table in tables:
                    verifier.compare_size(table, account, day)
        else:
            verifier.verify_account(account, days, stale_days)
        if on_progress:
            on_progress(verifier.file_count, len(partitions))
    verifier.report_other_files()
    return verifier.result()


class _Verifier:
    """Checks the partitions of a store and collects counts and findings."""

    def __init__(self, store: Store, is_quick: bool) -> None:
        self._store, self._is_quick = store, is_quick
        self.file_count = self._row_count = self._byte_count = 0
        self._findings: list[VerifyFinding] = []
        self._first_complete_day: date | None
        try:
            self._first_complete_day = first_complete_day(store)
        except StoreError:  # The retention file is damaged, so no day can be judged.
            self._first_complete_day = None

    def add(self, kind: str, where: str, text: str) -> None:
        self._findings.append(VerifyFinding(kind, where, text))

    def add_unreadable(self, where: str, error: StoreError) -> None:
        """Add a finding about a file or folder that cannot be opened."""
        self.add("unreadable", where, str(error))

    def result(self) -> Verification:
        findings = sorted(set(self._findings), key=lambda each: (each.where, each.kind, each.text))
        counts = self.file_count, self._row_count, self._byte_count
        return Verification(*counts, tuple(findings), self._is_quick)

    def compare_size(self, table: Table, account: str, day: date) -> None:
        """Check that a partition's file and its record exist and agree in size."""
        where = _where(table, account, day)
        try:
            byte_count, record = self._store.partitions.measure(table, account, day)
        except StoreError as error:
            self.add_unreadable(where, error)
            return
        if byte_count is None:
            self.add("missing", where, "there is no file")
            return
        self._count_file(table, account, day, byte_count)
        if record is None:
            self.add("unrecorded", where, "there is a file")
        elif record.next_sha256 is None and byte_count != record.byte_count:
            self.add("damaged", where, f"{byte_count} bytes instead of {record.byte_count}")

    def verify_account(
        self,
        account: str,
        days: list[tuple[date, list[Table]]],
        stale_days: Callable[[Store, str], Iterable[date]] | None,
    ) -> None:
        """Check all partitions of an account, and that they agree; the ledger's account is ""."""
        placements = self._store.state.placements(account)
        first_day, known_findings = self._first_complete_day, len(self._findings)
        keys: list[pa.Table] = []
        disagreements: dict[date, list[str]] = {}
        for day, tables in days:
            contents = {table.name: self._verify_file(table, account, day) for table in tables}
            runs = contents.get(RUNS.name)
            if runs is not None:
                self._check_runs(runs, _where(RUNS, account, day))
            rows = {name: content for name, content in contents.items() if content is not None}
            if not account or len(rows) < len(contents):
                continue
            if RAW_MESSAGE_IDS.name in rows:
                ids = rows[RAW_MESSAGE_IDS.name]
                self._check_dates(ids, day, placements, f"account={account}/date={day}")
                keys.append(ids.select(list(RAW_MESSAGE_IDS.key)))
            is_complete = first_day is not None and day >= first_day
            disagreements[day] = check_balances(rows) if is_complete else []
        if keys:
            all_keys = pa.concat_tables(keys)
            distinct_keys = all_keys.group_by(list(RAW_MESSAGE_IDS.key)).aggregate([])
            where = f"account={account}"
            if count := all_keys.num_rows - distinct_keys.num_rows:
                self.add("date", where, f"{count} messages are stored under two dates")
            message_count = pc.count_distinct(distinct_keys["message_id"]).as_py()
            if count := distinct_keys.num_rows - message_count:
                self.add("twin", where, f"{count} messages are stored in two conversations")
        is_comparable = all(each.kind in _COMPARABLE for each in self._findings[known_findings:])
        if account and stale_days and first_day is not None and is_comparable:
            for day in kept_days(self._store, account):
                disagreements.pop(day, None)
                where = f"account={account}/date={day}"
                self.add("kept", where, "the raw tables hold less than the derived ones")
            stale = set(stale_days(self._store, account))
            for day in sorted(disagreements.keys() | stale):
                where = f"account={account}/date={day}"
                if day in stale:
                    self.add("stale", where, "the derived tables were made from other raw tables")
                else:
                    for text in disagreements[day]:
                        self.add("balance", where, text)

    def _count_file(self, table: Table, account: str, day: date, byte_count: int) -> None:
        self.file_count += 1
        self._byte_count += byte_count
        if self._store.partitions.is_unlisted(table, account, day):
            where = _where(table, account, day)
            self.add("unlisted", where, "the bucket has it and does not list it")

    def _verify_file(self, table: Table, account: str, day: date) -> pa.Table | None:
        """Check one file; return its rows, or None if they cannot be trusted."""
        where = _where(table, account, day)
        try:
            content, record = self._store.partitions.inspect(table, account, day)
        except StoreError as error:
            self.add_unreadable(where, error)
            return None
        if content is None:
            if record is not None and record.next_sha256 != "":
                self.add("missing", where, f"it had {record.row_count} rows")
            return None
        self._count_file(table, account, day, len(content))
        if self._store.partitions.belongs_elsewhere(parquet.read_label(content), account, day):
            self.add("damaged", where, "it is the file of another account or day")
            return None
        if record is None:
            self.add("unrecorded", where, f"{len(content)} bytes")
        elif hashlib.sha256(content).hexdigest() not in (record.sha256, record.next_sha256):
            kind = "restored" if parquet.is_as_written(table, content) else "damaged"
            self.add(kind, where, f"its hash is not {record.sha256[:8]}…")
            return None
        try:
            decoded = parquet.decode(table, content, where)
        except CorruptError as error:
            self.add("damaged", where, str(error))
            return None
        if decoded.schema_version != SCHEMA_VERSION:
            kind = "older" if decoded.schema_version < SCHEMA_VERSION else "newer"
            self.add(kind, where, f"version {decoded.schema_version}")
        elif decoded.schema_error or not decoded.has_current_schema:
            self.add("schema", where, str(decoded.schema_error or "columns or types differ"))
        if decoded.schema_error:
            return None
        rows = decoded.rows
        self._row_count += rows.num_rows
        if record is not None and record.next_sha256 is None and record.row_count != rows.num_rows:
            self.add("damaged", where, f"{rows.num_rows} rows instead of {record.row_count}")
        if not parquet.is_sorted(table, rows):
            self.add("key", where, "the rows are not sorted by their key")
        elif parquet.has_repeated_key(table, rows):
            self.add("key", where, "a key occurs twice")
        return rows

    def _check_dates(
        self, ids: pa.Table, day: date, placements: Mapping[tuple[str, str], date], where: str
    ) -> None:
        """Check that each message with a certain date is stored under it or has a placement."""
        is_certain = pc.is_in(ids["created_at_source"], value_set=pa.array(CERTAIN_SOURCES))
        is_other_day = pc.not_equal(pc.cast(ids["created_at"], pa.date32()), day)
        misplaced = _keys(ids.filter(pc.and_(is_certain, is_other_day)))
        count = sum(placements.get(key) != day for key in misplaced)
        if count:
            self.add("date", where, f"{count} messages were sent on another day")

    def _check_runs(self, runs: pa.Table, where: str) -> None:
        """Check the counts of each run in the ledger."""
        for run in read_runs(runs):
            counts = run.counts or {}
            for name, difference in balance(counts).items():
                words = name.replace("_", " ")
                if difference and name in RUN_PARTS:
                    total = counts.get(name, 0)
                    text = f"{total} {words}, {total - difference} accounted for"
                else:
                    text = f"{difference} {words}"
                if difference:
                    self.add("ledger", where, f"run {run.run_id} of {run.account}: {text}")

    def report_other_files(self) -> None:
        """Report quarantined, lost and foreign files."""
        suspects = {
            path: (_table(name), account, day)
            for name, account, day, path in self._store.state.suspect_files()
        }
        quarantined: dict[str, tuple[Table, str, date]] = {}
        for table in (*TABLES.values(), RUNS):
            try:
                quarantined |= {
                    "/".join(parts): (table, account, day)
                    for _, account, day, parts in self._store.set_aside_files(tables=[table])
                }
                for parts in self._store.foreign_files([table]):
                    self.add("foreign", "/".join(parts), "not a file of the lake")
            except StoreError as error:
                self.add_unreadable(table.name, error)
        for path, partition in (quarantined | suspects).items():
            is_file = path in quarantined
            text = f"quarantined from {_where(*partition)}" if is_file else "rows of it were lost"
            self.add("quarantine" if path in suspects else "set aside", path, text)


def check_balances(tables: Mapping[str, pa.Table]) -> list[str]:
    """Return the disagreements between the tables of one account and day; missing ones are empty.

    Pure: tables in, sentences out.
    """
    rows = {name: tables.get(name, table.schema.empty_table()) for name, table in TABLES.items()}
    return [*_compare_messages(rows), *_compare_conversations(rows), *_compare_coverage(rows)]


def _compare_messages(rows: Mapping[str, pa.Table]) -> Iterator[str]:
    """Compare `messages` with the raw tables and with the tables of its parts."""
    messages = rows["messages"]
    keys = set(_keys(messages))
    raw_keys = {*_keys(rows["raw_message_ids"]), *_keys(rows["raw_message_details"])}
    if missing := raw_keys - keys:
        yield f"messages lacks {len(missing)} of {len(raw_keys)} ids of the raw tables"
    if extra := keys - raw_keys:
        yield f"messages has {len(extra)} ids that no raw table has"
    for name, count_name in CHILD_COUNTS.items():
        row_count, expected = rows[name].num_rows, pc.sum(messages[count_name]).as_py() or 0
        if row_count != expected:
            yield f"{name} has {row_count} rows, messages.{count_name} adds up to {expected}"
        if not keys.issuperset(_keys(rows[name])):
            yield f"{name} has rows of messages that are not there"


def _compare_conversations(rows: Mapping[str, pa.Table]) -> Iterator[str]:
    conversations, message_count = rows["conversation_days"], rows["messages"].num_rows
    counted = pc.sum(conversations["message_count"]).as_py() or 0
    if counted != message_count:
        yield f"conversation_days counts {counted} messages, messages has {message_count}"
    known = set(conversations["conversation_id"].to_pylist())
    for name in ("raw_conversations", "messages", "participant_days"):
        if missing := set(rows[name]["conversation_id"].to_pylist()) - known:
            yield f"{name} has {len(missing)} conversations that conversation_days lacks"


def _compare_coverage(rows: Mapping[str, pa.Table]) -> Iterator[str]:
    if not rows["coverage"].num_rows:
        if rows["messages"].num_rows:
            yield "coverage has no row"
        return
    coverage = rows["coverage"].to_pylist()[0]
    messages = rows["messages"]
    statuses, directions = (messages[name].to_pylist() for name in ("detail_status", "direction"))
    expected = {status: statuses.count(status) for status in DETAIL_STATUSES}
    expected |= {"ids_listed": len(statuses), "rejected": rows["raw_rejects"].num_rows}
    pairs = list(zip(statuses, directions, strict=True))
    expected |= {"unknown_direction_count": pairs.count(("detailed", None))}
    for name, count in expected.items():
        if coverage[name] != count:
            yield f"coverage.{name} is {coverage[name]}, the tables have {count}"


def _keys(rows: pa.Table) -> list[tuple[str, str]]:
    return list(zip(*(rows[name].to_pylist() for name in MESSAGES.key), strict=True))


def check_side_files(store: Store, *, is_quick: bool) -> Iterator[VerifyFinding]:
    """Yield what is wrong beside the partitions; `is_quick` compares sizes of compactions only."""
    for table in store.backend.list_names((COMPACT,)):
        if table in TABLES:
            try:
                yield from _check_compaction(store, table, is_quick=is_quick)
            except StoreError as error:
                yield VerifyFinding("unreadable", f"{COMPACT}/{table}", str(error))
    if is_quick:
        return
    for name in store.backend.list_names((RECEIPTS,)):
        try:
            read_suppression(store, name.removeprefix("account="))
        except StoreError as error:
            yield VerifyFinding("erasure", f"{RECEIPTS}/{name}", str(error))
    try:
        read_first_days(store)
    except StoreError as error:
        yield VerifyFinding("retention", RETENTION_FILE[0], str(error))


def _check_compaction(store: Store, table: str, *, is_quick: bool) -> Iterator[VerifyFinding]:
    """Check a table's compacted files and their index."""
    segments, _ = read_index(store.backend, table)
    index = "/".join(segment_parts(table, INDEX_FILE))
    names = store.backend.list_names((COMPACT, table))
    file_count = sum(name.endswith(".parquet") for name in names)
    if file_count and not segments:
        text = f"it names none of the {file_count} files beside it"
        yield VerifyFinding("compaction", index, text)
    sources = {piece.key: piece.source for segment in segments for piece in segment.pieces}
    for line in () if store.backend.is_shared else store.state.compactions():
        if line.table == table and sources.get((line.account, line.month)) != line.source:
            text = f"it does not name {line.month} of {line.account} as it was made"
            yield VerifyFinding("compaction", index, text)
    for segment in segments:
        problem = _check_segment(store, table, segment, is_quick=is_quick)
        if problem:
            where = "/".join(segment_parts(table, segment.name))
            yield VerifyFinding("compaction", where, problem)


def _check_segment(store: Store, table: str, segment: Segment, *, is_quick: bool) -> str | None:
    """Return what is wrong with a compacted file, or None."""
    parts = segment_parts(table, segment.name)
    version = store.backend.version(parts)
    if version is None:
        return "there is no file"
    if version.byte_count != segment.byte_count:
        return f"{version.byte_count} bytes instead of {segment.byte_count}"
    if is_quick:
        return None
    content, _ = store.backend.read(parts) or (b"", None)
    if not segment.matches(content):
        return f"its hash is not {segment.sha256[:8]}…"
    days = pq.read_table(pa.BufferReader(content), columns=["account", "date"])
    days = days.group_by(["account", "date"]).aggregate([])
    months = map(month_of, pc.cast(days["date"], pa.date32()).to_pylist())
    day_counts = dict(Counter(zip(days["account"].to_pylist(), months, strict=True)))
    if day_counts != {piece.key: piece.day_count for piece in segment.pieces}:
        return "it has other months or days than the index says"
    return None


def _table(name: str) -> Table:
    return RUNS if name == RUNS.name else TABLES[name]


def _where(table: Table, account: str, day: date) -> str:
    folder = f"/account={account}" if table is not RUNS else ""
    return f"{table.name}{folder}/date={day}"
