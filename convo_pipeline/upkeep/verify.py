"""Re-read the whole lake and say what is off: hashes, schemas, keys, sort, dates, balances. It changes nothing.

It knows the files and the state; whether a derived day is up to date is asked of whoever derives (`stale_days`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.derive.day import kept_days
from convo_pipeline.errors import CorruptError, StoreError
from convo_pipeline.lake import parquet
from convo_pipeline.lake.floors import whole_since
from convo_pipeline.lake.ledger import read_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS, RUNS, SCHEMA_VERSION, TABLES, Table
from convo_pipeline.state.records import Partition
from convo_pipeline.state.run_balance import PARTS, balance
from convo_pipeline.upkeep.balances import check_balances
from convo_pipeline.upkeep.rebuild import CERTAIN_SOURCES
from convo_pipeline.upkeep.side_files import check_side_files

KINDS = {
    "damaged": "the file is not what was written: restore it, or let the next run set it aside and ask again;"
    " if you put a backup back, run `convo-pipeline verify --rebuild-state`",
    "restored": "a whole file, but not the one that was written last: an older backup, or the state is older; the next run"
    " takes it and asks its day again",
    "missing": "the state knows a file that is not there: restore it, or run again",
    "unrecorded": "the state does not know the file: run `convo-pipeline verify --rebuild-state`",
    "schema": "the file's columns are not the table's",
    "older": "written by an earlier version: upgraded on the next write, or by `convo-pipeline normalize`",
    "newer": "written by a newer version: update before writing",
    "key": "a key occurs twice, or the rows are not in its order",
    "date": "a message is filed under another date than its own, or under two",
    "balance": "tables of one day do not add up",
    "stale": "derived tables do not agree with the raw ones: run `convo-pipeline normalize`",
    "kept": "raw rows were lost, so the derived tables of the day stay as they are: restore the raw files, or accept the loss"
    " with `convo-pipeline normalize --accept-loss`",
    "ledger": "a run's counts do not add up",
    "compaction": "a copy of closed months is not what was written: run `convo-pipeline compact`",
    "spool": "an answer of a killed run is not what was written: the next run stores the others and asks again what it held",
    "erasure": "a receipt or its key is lost or damaged: put both back from your backup; until then no run stores anything",
    "retention": "the days that the tables reach back to cannot be read: run `convo-pipeline expire`",
    "state": "`state.db` is damaged: move it away with its -wal and -shm, and run `convo-pipeline verify --rebuild-state`",
    "quarantine": "a file was damaged and set aside, or lost, and its day is not whole again: put a backup in its place and run"
    " `convo-pipeline verify --rebuild-state`, or let the next `extract` (raw tables) or `normalize` make it again",
    "set aside": "a damaged file whose day was made again since, as far as that was possible; kept until you remove it",
    "foreign": "not ours: never read, never deleted",
    "unlisted": "the bucket's listings lag behind its files: what is foreign may be missed, queries show new days later, and"
    " `--rebuild-state` would not find all of them; wait, then verify again",
}
NOTICES = frozenset({"older", "foreign", "set aside", "unlisted"})
"""What is worth telling and no damage."""
READABLE = NOTICES | {"date", "key"}
"""What does not keep derived tables from being compared with the raw ones."""


@dataclass(frozen=True)
class VerifyFinding:
    """One thing that is off: what kind, where, and in one sentence what was found."""

    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class Verification:
    """What was looked at and what was found."""

    file_count: int
    row_count: int
    byte_count: int
    findings: tuple[VerifyFinding, ...]
    is_quick: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged, missing or out of balance."""
        return all(finding.kind in NOTICES for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return asdict(self) | {
            "is_sound": self.is_sound,
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass
class _Tally:
    """What has been looked at so far."""

    file_count: int = 0
    row_count: int = 0
    byte_count: int = 0
    findings: list[VerifyFinding] = field(default_factory=list)

    def add(self, kind: str, where: str, text: str) -> None:
        self.findings.append(VerifyFinding(kind, where, text))


def verify(
    store: Store,
    *,
    is_quick: bool = False,
    stale_days: Callable[[Store, str], Iterable[date]] | None = None,
    damaged_records: Callable[[Path], Iterable[Path]] = lambda state_path: (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Look at every file the disk or the state knows; `is_quick` compares names and sizes alone.

    Whoever derives says which days are out of date, and whoever spools which records, below the state, are damaged.
    """
    places = _places(store)
    tally = _Tally()
    for kind, where, text in check_side_files(store, is_quick=is_quick):
        tally.add(kind, where, text)
    for path in () if is_quick else damaged_records(store.state_path):
        tally.add("spool", str(path), "its bytes have another hash than its name says")
    first_day = _first_balanced_day(store)
    if first_day is None:
        stale_days = None
    for account, account_places in groupby(places, key=lambda place: place[0]):
        days = [
            (day, [place[2] for place in group])
            for day, group in groupby(account_places, lambda place: place[1])
        ]
        for day, tables in days if is_quick else []:
            for table in tables:
                _compare_size(store, table, account, day, tally)
        if not is_quick:
            _verify_account(store, account, days, tally, stale_days, first_day or date.max)
        if on_progress:
            on_progress(tally.file_count, len(places))
    _report_leftovers(store, tally)
    findings = tuple(
        sorted(tally.findings, key=lambda finding: (finding.where, finding.kind, finding.text))
    )
    return Verification(tally.file_count, tally.row_count, tally.byte_count, findings, is_quick)


def _first_balanced_day(store: Store) -> date | None:
    """Return the first day whose tables must add up, None where nobody can tell."""
    try:
        return whole_since(store)
    except StoreError:
        return None


def _places(store: Store) -> list[tuple[str, date, Table]]:
    on_disk = {(account, day, table.name) for table, account, day in store.data_files()}
    known = {(record.account, record.date, record.table) for record in store.state.partitions()}
    return [(account, day, _table(name)) for account, day, name in sorted(on_disk | known)]


def _table(name: str) -> Table:
    return RUNS if name == RUNS.name else TABLES[name]


def _compare_size(store: Store, table: Table, account: str, day: date, tally: _Tally) -> None:
    size, record = store.partitions.measure(table, account, day)
    where = _where(table, account, day)
    tally.file_count += size is not None
    tally.byte_count += size or 0
    if size is None:
        tally.add("missing", where, "there is no file")
    elif record is None:
        tally.add("unrecorded", where, "there is a file")
    elif record.next_sha256 is None and size != record.byte_count:
        tally.add("damaged", where, f"{size} bytes instead of {record.byte_count}")
    if size is not None:
        _check_listed(store, table, account, day, tally)


def _check_listed(store: Store, table: Table, account: str, day: date, tally: _Tally) -> None:
    if store.partitions.is_unlisted(table, account, day):
        tally.add("unlisted", _where(table, account, day), "the bucket has it and does not list it")


def _verify_account(
    store: Store,
    account: str,
    days: list[tuple[date, list[Table]]],
    tally: _Tally,
    stale_days: Callable[[Store, str], Iterable[date]] | None,
    first_day: date,
) -> None:
    placements = store.state.placements(account)
    filed: list[pa.Table] = []
    unbalanced: dict[date, list[str]] = {}
    found_before = len(tally.findings)
    for day, tables in days:
        rows = {table.name: _verify_file(store, table, account, day, tally) for table in tables}
        if RUNS.name in rows:
            _check_runs(rows[RUNS.name], _where(RUNS, account, day), tally)
        if not account or any(content is None for content in rows.values()):
            continue
        ids = rows.get(RAW_MESSAGE_IDS.name)
        if ids is not None:
            _check_dates(ids, day, placements, f"account={account}/date={day}", tally)
            filed.append(ids.select(list(RAW_MESSAGE_IDS.key)))
        whole = {name: rows.get(name, table.schema.empty_table()) for name, table in TABLES.items()}
        unbalanced[day] = check_balances(whole) if day >= first_day else []
    _check_filed_once(filed, account, tally)
    is_readable = all(finding.kind in READABLE for finding in tally.findings[found_before:])
    if account and stale_days and is_readable:
        kept = kept_days(store, account)
        for day in kept:
            unbalanced.pop(day, None)
            tally.add(
                "kept",
                f"account={account}/date={day}",
                "the raw tables hold less than the derived ones",
            )
        _report_derived(account, unbalanced, set(stale_days(store, account)), tally)


def _report_derived(
    account: str, unbalanced: dict[date, list[str]], stale: set[date], tally: _Tally
) -> None:
    """Say which days are out of balance, or not expected to balance as they are out of date."""
    for day in sorted(unbalanced.keys() | stale):
        where = f"account={account}/date={day}"
        if day in stale:
            tally.add(
                "stale", where, "the derived tables were made from other raw tables than these"
            )
            continue
        for text in unbalanced[day]:
            tally.add("balance", where, text)


def _verify_file(
    store: Store, table: Table, account: str, day: date, tally: _Tally
) -> pa.Table | None:
    """Check one file; return its rows, None if they cannot be trusted."""
    where = _where(table, account, day)
    try:
        content, record = store.partitions.inspect(table, account, day)
    except StoreError as error:
        tally.add("damaged", where, str(error))
        return None
    if content is None:
        if record is not None and record.next_sha256 != "":
            tally.add("missing", where, f"it held {record.row_count} rows")
        return None
    tally.file_count += 1
    tally.byte_count += len(content)
    _check_listed(store, table, account, day, tally)
    if store.partitions.is_other_place(parquet.read_place(content), account, day):
        tally.add("damaged", where, "it is the file of another account or day")
        return None
    if not _is_recorded(table, content, record, where, tally):
        return None
    return _check_content(table, content, record, where, tally)


def _is_recorded(
    table: Table, content: bytes, record: Partition | None, where: str, tally: _Tally
) -> bool:
    if record is None:
        tally.add("unrecorded", where, f"{len(content)} bytes")
        return True
    if hashlib.sha256(content).hexdigest() in (record.sha256, record.next_sha256):
        return True
    kind = "restored" if parquet.is_as_written(table, content) else "damaged"
    tally.add(kind, where, f"its hash is not {record.sha256[:8]}…")
    return False


def _check_content(
    table: Table, content: bytes, record: Partition | None, where: str, tally: _Tally
) -> pa.Table | None:
    try:
        decoded = parquet.decode(table, content, where)
    except CorruptError as error:
        tally.add("damaged", where, str(error))
        return None
    if decoded.version != SCHEMA_VERSION:
        tally.add(
            "older" if decoded.version < SCHEMA_VERSION else "newer",
            where,
            f"version {decoded.version}",
        )
    elif decoded.misfit or not decoded.is_exact:
        tally.add("schema", where, str(decoded.misfit or "columns or types differ"))
    if decoded.misfit:
        return None
    rows = decoded.rows
    tally.row_count += rows.num_rows
    if record is not None and record.next_sha256 is None and record.row_count != rows.num_rows:
        tally.add("damaged", where, f"{rows.num_rows} rows instead of {record.row_count}")
    if not parquet.is_sorted(table, rows):
        tally.add("key", where, "the rows are not in the order of their key")
    elif parquet.has_repeated_key(table, rows):
        tally.add("key", where, "a key occurs twice")
    return rows


def _check_dates(
    ids: pa.Table, day: date, placements: dict[tuple[str, str], date], where: str, tally: _Tally
) -> None:
    is_certain = pc.is_in(ids["created_at_source"], value_set=pa.array(CERTAIN_SOURCES))
    is_elsewhere = pc.and_(is_certain, pc.not_equal(pc.cast(ids["created_at"], pa.date32()), day))
    elsewhere = ids.filter(is_elsewhere).select(list(RAW_MESSAGE_IDS.key)).to_pylist()
    count = sum(
        placements.get((row["conversation_id"], row["message_id"])) != day for row in elsewhere
    )
    if count:
        tally.add("date", where, f"{count} messages were sent on another day")


def _check_filed_once(filed: list[pa.Table], account: str, tally: _Tally) -> None:
    if not filed:
        return
    keys = pa.concat_tables(filed)
    distinct = keys.group_by(list(RAW_MESSAGE_IDS.key)).aggregate([]).num_rows
    if distinct != keys.num_rows:
        tally.add(
            "date",
            f"account={account}",
            f"{keys.num_rows - distinct} messages are filed under two dates",
        )


def _check_runs(runs: pa.Table | None, where: str, tally: _Tally) -> None:
    for run in read_runs(runs) if runs is not None else []:
        for text in _unbalanced(run.counts or {}):
            tally.add("ledger", where, f"run {run.run_id} of {run.account}: {text}")


def _unbalanced(counts: Mapping[str, int]) -> Iterator[str]:
    for whole, difference in balance(counts).items():
        if whole in PARTS and difference:
            yield f"{counts.get(whole, 0)} {whole.replace('_', ' ')}, {counts.get(whole, 0) - difference} accounted for"
        elif difference:
            yield f"{difference} {whole.replace('_', ' ')}"


def _report_leftovers(store: Store, tally: _Tally) -> None:
    waiting = {
        path: (_table(name), account, day)
        for name, account, day, path in store.state.suspect_files()
    }
    kept = {
        "/".join(parts): (table, account, day)
        for table, account, day, parts in store.set_aside_files()
    }
    for path, place in (kept | waiting).items():
        found = f"set aside from {_where(*place)}" if path in kept else "rows of it were lost"
        tally.add("quarantine" if path in waiting else "set aside", path, found)
    for foreign in store.foreign_files():
        tally.add("foreign", "/".join(foreign), "not a file of the lake")


def _where(table: Table, account: str, day: date) -> str:
    return (
        f"{table.name}/date={day}"
        if table is RUNS
        else f"{table.name}/account={account}/date={day}"
    )
