"""Asset checks: find partitions that are wrong or incomplete and say what to do. No check blocks.

A check fails only where a person can act. Else it passes with a note.

A blocking check would fail the complete accounts too. A check is evaluated once per run, also if
the step then fails. It reads the run's partitions and those that failed in its last evaluation, so
that a good run of one account does not hide another account's problem. Texts name accounts, dates
and remedies, never a message's text.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property, partial
from typing import NamedTuple

import dagster as dg
import pyarrow as pa
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus as Status,
)

from convo_pipeline import schema
from convo_pipeline.base.json_text import load_json
from convo_pipeline.derive.day import count_unsure_directions, kept_days, wanted_source
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.risk import propose_minutes
from convo_pipeline.graph.shapes import Census
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.first_days import read_first_days
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import Names
from convo_pipeline.orchestration.partitions import ONE_DAY, key_of, split_key
from convo_pipeline.reasons import REASONS, describe_error, describe_outcome
from convo_pipeline.state.records import WHOLE_DAYS, Run
from convo_pipeline.tables.integrity import count_duplicates, count_orphans, find_misdated
from convo_pipeline.tables.payloads import as_text, read_object
from convo_pipeline.upkeep.rebuild import CERTAIN_SOURCES

RED, NOTES = "red", "notes"
"""Metadata keys: the partitions that fail, and those with a note only."""
MOST_NAMED = 10
MOST_REMEMBERED = 200
"""Failed partitions that one evaluation remembers: the newest days, which can still be repaired."""
MOST_KNOWN = 500
"""Unknown shapes that are told once."""
LEAST_SHARE_DETAILED = 0.9
CARRIED_DAYS = 31
"""How long a day with lost content stays failed: no run can repair it."""
MESSAGE_KEY = ("conversation_id", "message_id")


@dataclass(frozen=True)
class CheckedPartition:
    """The rows of one account and day that the checks need; each file is read at most once."""

    store: Store
    account: str
    day: date
    warned_since: date = date.min
    """First day of warnings that no run can repair."""
    _tables: dict[str, pa.Table] = field(default_factory=dict)

    def rows(self, name: str) -> pa.Table:
        """Return a table's keys and times; marts with all columns."""
        if name not in self._tables:
            table = schema.TABLES[name]
            is_mart = table in (*schema.MARTS, *schema.ACROSS_DAYS)
            needed = {*table.key, "created_at", "created_at_source"}
            names = [column for column in table.column_names if is_mart or column in needed]
            self._tables[name] = read_columns(self.store, table, self.account, self.day, names)
        return self._tables[name]

    def is_current(self) -> bool:
        """Whether the derived tables come from the raw tables of now; else the next run checks."""
        source = self.store.source(schema.COVERAGE.name, self.account, self.day)
        return source == wanted_source(self.store, self.account, self.day)

    @cached_property
    def _first_days(self) -> dict[str, date]:
        return read_first_days(self.store)

    def is_kept(self, *names: str) -> bool:
        """Whether retention has removed the day from none of these tables."""
        return all(self.day >= self._first_days.get(name, date.min) for name in names)


class Finding(NamedTuple):
    """What is wrong with a partition or an account and what to do; a note needs no person."""

    text: str
    is_note: bool = False


Findings = Mapping[str, Finding]
"""Findings by partition key."""


def join_findings(findings: Sequence[Finding]) -> Finding | None:
    """Join findings; the result is a note if all are notes. None if there are none."""
    if not findings:
        return None
    texts = "; ".join(finding.text for finding in findings)
    return Finding(texts, all(finding.is_note for finding in findings))


@dataclass(frozen=True)
class Check:
    """What must be true of each partition of a table; `find_problem` returns how it is not.

    `carried_days`: for how many days a failed partition is checked again; None: always.
    """

    table: str
    name: str
    description: str
    find_problem: Callable[[CheckedPartition], Finding | None]
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
    carried_days: int | None = None

    def key(self, names: Names) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(names.asset_key(self.table), self.name)

    def spec(self, names: Names) -> dg.AssetCheckSpec:
        asset = names.asset_key(self.table)
        return dg.AssetCheckSpec(self.name, asset=asset, description=self.description)


# what can be wrong with one partition


def _explain(reason: str, **details: object) -> Finding:
    known = REASONS[reason]
    return Finding(known.explain("page", details), is_note=known.is_self_healing)


def _explain_wrong(table: str, what: str) -> Finding:
    is_raw = schema.TABLES[table].layer == "raw"
    return _explain("raw_table_wrong" if is_raw else "derived_table_wrong", what=what)


def find_repeated_keys(table: schema.Table, partition: CheckedPartition) -> Finding | None:
    count = count_duplicates(table, partition.rows(table.name))
    if count:
        return _explain_wrong(table.name, f"{count} rows too many for their key")
    return None if table.key else find_missing_row(table.name, partition)


def find_missing_row(table: str, partition: CheckedPartition) -> Finding | None:
    """Find a day with messages for which a table with one row per day has none."""
    source = "raw_message_ids" if table == "coverage" else "messages"
    if partition.rows(table).num_rows or not partition.is_kept(table, source):
        return None
    count = partition.rows(source).num_rows
    what = f"there is no row for {count} messages in {source}"
    return _explain_wrong(table, what) if count else None


def find_wrong_dates(table: schema.Table, partition: CheckedPartition) -> Finding | None:
    """Find messages of another day, except those whose time the API did not return."""
    misdated = find_misdated(partition.rows(table.name), partition.day)
    if not misdated.num_rows:
        return None
    placements = partition.store.state.placements(partition.account)
    ids = partition.rows("raw_message_ids").to_pylist()
    estimated = {_key(row) for row in ids if row["created_at_source"] not in CERTAIN_SOURCES}
    certain = {_key(row) for row in misdated.to_pylist()} - estimated
    count = sum(placements.get(key) != partition.day for key in certain)
    what = f"{count} messages were sent on another day"
    return _explain_wrong(table.name, what) if count else None


def _key(row: Mapping[str, object]) -> tuple[str, str]:
    return str(row["conversation_id"]), str(row["message_id"])


def find_unknown_ids(
    table: str, parent: str, key: Sequence[str], partition: CheckedPartition
) -> Finding | None:
    """Find keys of `table` without a row in `parent`.

    It reads `table` first, because runs write `parent` first.
    """
    if not partition.is_kept(table, parent):
        return None
    rows = partition.rows(table)
    count = count_orphans(rows, partition.rows(parent), key)
    noun = "messages" if len(key) > 1 else "conversations"
    return _explain_wrong(table, f"{count} {noun} are not in {parent}") if count else None


def find_missing_rows(
    table: str, raw: str, key: Sequence[str], partition: CheckedPartition
) -> Finding | None:
    if not partition.is_kept(table, raw):
        return None
    missing = count_orphans(partition.rows(raw), partition.rows(table), key)
    extra = count_orphans(partition.rows(table), partition.rows(raw), key)
    parts = [f"{missing} ids of {raw} have no row"] * bool(missing)
    parts += [f"{extra} rows are not in {raw}"] * bool(extra)
    return _explain_wrong(table, ", ".join(parts)) if parts and partition.is_current() else None


def find_wrong_coverage(partition: CheckedPartition) -> Finding | None:
    stored = partition.rows("raw_message_ids").num_rows
    is_comparable = partition.is_kept("coverage", "raw_message_ids") and partition.is_current()
    for row in partition.rows("coverage").to_pylist():
        listed, counted = row["ids_listed"], sum(row[name] for name in schema.DETAIL_STATUSES)
        if listed != counted or (is_comparable and listed != stored):
            what = f"{listed} ids listed, {counted} accounted for, {stored} in raw_message_ids"
            return _explain("derived_table_wrong", what=what)
    return find_missing_row("coverage", partition)


def find_wrong_figures(partition: CheckedPartition) -> Finding | None:
    stored = partition.rows("messages").num_rows
    is_comparable = partition.is_kept("account_days", "messages")
    for row in partition.rows("account_days").to_pylist():
        counted = sum(row[name] for name in ("inbound_count", "outbound_count", "unknown_count"))
        if is_comparable and counted != stored:
            what = f"{counted} messages counted, {stored} in messages"
            return _explain("derived_table_wrong", what=what)
    return find_missing_row("account_days", partition)


def find_unread(partition: CheckedPartition) -> Finding | None:
    found = []
    for row in partition.rows("coverage").to_pylist():
        unread = [f"{row[name]} {name}" for name in ("pending", "failed") if row[name]]
        if unread:
            found.append(_explain("unread", what=f"{', '.join(unread)} messages"))
        rejected_count = count_open_rejects(partition) if row["rejected"] else 0
        if rejected_count:
            found.append(_explain("rejected", what=f"{rejected_count} rejected payloads"))
    return join_findings(found)


def count_open_rejects(partition: CheckedPartition) -> int:
    """Count the rejected items of the last month that no later response has replaced.

    A later response has replaced an item if a conversation or a message with its id is stored.
    """
    store, account, day = partition.store, partition.account, partition.day
    if day < partition.warned_since:
        return 0
    payloads = store.read("raw_rejects", account, day)["payload"].to_pylist()
    open_ids = [as_text((read_object(payload) or {}).get("id")) for payload in payloads]
    for table, column in (
        ("raw_message_details", "message_id"),
        ("raw_conversations", "conversation_id"),
    ):
        first_day = day - timedelta(days=CARRIED_DAYS)
        for stored_day in store.days(table, account):
            if stored_day >= first_day and any(open_ids):
                rows = read_columns(store, schema.TABLES[table], account, stored_day, [column])
                stored = set(rows[column].to_pylist())
                open_ids = [name for name in open_ids if name not in stored]
    return len(open_ids)


def find_lost_content(partition: CheckedPartition) -> Finding | None:
    for row in partition.rows("coverage").to_pylist():
        share = row["share_detailed"]
        if share is not None and share < LEAST_SHARE_DETAILED:
            runs = partition.store.state.runs(partition.account)
            first_run = min((run.started_at.date() for run in runs), default=None)
            is_before = first_run is None or partition.day < first_run
            what = (
                f"{share:.0%} of {row['ids_listed']} messages have content"
                f" ({row['beyond_20']} had left the newest 20, {row['gone']} are gone)"
            )
            if is_before:
                return _explain("lost_before_connection", what=what)
            proposal = propose_minutes(partition.store, partition.account, [partition.day])
            return _explain("lost", what=what, proposal=proposal)
    return None


def find_unknown_directions(partition: CheckedPartition) -> Finding | None:
    """Find messages that have a sender and no direction: a person can act, and all days heal.

    Nobody can act on messages without a sender; `coverage` only counts them.
    """
    rows = partition.rows("coverage").to_pylist()
    if not any(row["unknown_direction_count"] for row in rows):
        return None
    count = count_unsure_directions(partition.store, partition.account, partition.day)
    return _explain("directions_unknown", what=f"{count} messages") if count else None


# the list of checks

WARN = dg.AssetCheckSeverity.WARN


def _each_table() -> Iterator[Check]:
    for table in schema.TABLES.values():
        what = f"The key {', '.join(table.key)} is unique" if table.key else "There is one row"
        find = partial(find_repeated_keys, table)
        yield Check(table.name, "keys_are_unique", f"{what} within a day.", find)
        if "created_at" in table.column_names:
            what = "Every message is stored on the UTC day on which it was sent."
            find = partial(find_wrong_dates, table)
            yield Check(table.name, "dates_are_in_partition", what, find)


def _resolves(table: str, parent: str, key: Sequence[str]) -> Check:
    noun = "message" if len(key) > 1 else "conversation"
    what = f"Every {noun} it names has a row in {parent} on the same day."
    return Check(table, "ids_resolve", what, partial(find_unknown_ids, table, parent, key))


def _is_complete(table: str, raw: str, key: Sequence[str]) -> Check:
    what = f"Every id of {raw} has a row, and every row has an id."
    return Check(table, "every_id_has_a_row", what, partial(find_missing_rows, table, raw, key))


CHECKS = (
    *_each_table(),
    _resolves("raw_message_ids", "raw_conversations", ("conversation_id",)),
    _resolves("raw_message_details", "raw_message_ids", MESSAGE_KEY),
    _resolves("participant_days", "conversation_days", ("conversation_id",)),
    _resolves("messages", "conversation_days", ("conversation_id",)),
    *(
        _resolves(table, "messages", MESSAGE_KEY)
        for table in ("attachments", "shares", "reactions")
    ),
    _is_complete("messages", "raw_message_ids", MESSAGE_KEY),
    _is_complete("conversation_days", "raw_conversations", ("conversation_id",)),
    Check("coverage", "adds_up", "Every listed id is counted once.", find_wrong_coverage),
    Check("account_days", "adds_up", "Every message is counted once.", find_wrong_figures),
    Check(
        "coverage", "nothing_open", "No message is unread, failed or rejected.", find_unread, WARN
    ),
    Check(
        "coverage",
        "enough_is_detailed",
        f"At least {LEAST_SHARE_DETAILED:.0%} of each day's messages have their content.",
        find_lost_content,
        WARN,
        CARRIED_DAYS,
    ),
    Check(
        "coverage",
        "directions_are_known",
        "Every message with a sender has a direction.",
        find_unknown_directions,
        WARN,
        CARRIED_DAYS,
    ),
)


def find_failed_accounts(store: Store, accounts: Iterable[str]) -> dict[str, Finding]:
    """Return why each account's last run, or its last one of whole days, is not complete.

    The key names the last day that the run had to read. A complete capture hides no failed night.
    """
    problems: dict[str, Finding] = {}
    for account in accounts:
        found: dict[Finding, date] = {}
        for run in (store.state.last_ended(account), store.state.last_ended(account, *WHOLE_DAYS)):
            if run is not None and run.outcome in ("failed", "incomplete"):
                why = describe_outcome(run.outcome, run.reasons, run.error, "page")
                known = [REASONS[name] for name in run.reasons if name in REASONS]
                is_note = bool(known) and all(each.is_self_healing for each in known)
                found.setdefault(Finding(why, is_note), _last_day(run))
        joined = join_findings(list(found))
        if joined:
            problems[key_of(account, max(found.values()))] = joined
    return problems


def _last_day(run: Run) -> date:
    """Return the last day that a run had to read."""
    return run.until - ONE_DAY if run.until else run.started_at.date()


def find_missed(store: Store, accounts: Iterable[str]) -> dict[str, Finding]:
    """Return what each account's last sweep found missing, by the key of that sweep's day."""
    problems: dict[str, Finding] = {}
    for account in accounts:
        started_at, count = store.state.last_full_run(account) or (None, 0)
        if started_at and count:
            found = _explain("missed", messages=f"{count:,} messages")
            problems[key_of(account, started_at.date())] = found
    return problems


def find_unknown_shapes(store: Store, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return what the API sent that this version does not know, by partition.

    It comes from the responses that the runs of these accounts counted, and from what the derived
    tables of these partitions keep in `extra`. It holds no personal data.
    """
    found: dict[str, list[str]] = {}
    newest: dict[str, date] = {}
    for account, day in map(split_key, sorted(keys)):
        newest[account] = max(day, newest.get(account, day))
        census = Census()
        try:
            for table in (schema.MESSAGES, schema.ATTACHMENTS, schema.SHARES):
                extras = read_columns(store, table, account, day, ["extra"])["extra"]
                for text in extras.drop_null().to_pylist():
                    census.add(table.name, load_json(text), is_record=True)
        except StoreError:  # the checks of the partition tell a damaged file
            census = Census()
        found[key_of(account, day)] = census.unknown
    for account, day in newest.items():
        found[key_of(account, day)] += Census.from_json(store.state.census(account)).unknown
    return found


def _find_nothing(partition: CheckedPartition) -> None:
    return None


ACCOUNT_CHECKS: Mapping[Check, Callable[[Store, Iterable[str]], dict[str, Finding]]] = {
    Check(
        "coverage",
        "no_failed_accounts",
        "The last run and the last night of every account are complete.",
        _find_nothing,
        WARN,
    ): find_failed_accounts,
    Check(
        "coverage",
        "nothing_missed",
        "The last sweep of every account found nothing that earlier runs had missed.",
        _find_nothing,
        WARN,
    ): find_missed,
}
"""What must be true of every account, for any partitions of a run."""


SHAPES_CHECK = Check(
    "coverage",
    "shapes_are_known",
    "The API sent no key and no value that is new to this version. Each is told once.",
    _find_nothing,
    WARN,
)

ALL_CHECKS = (*CHECKS, *ACCOUNT_CHECKS, SHAPES_CHECK)


def checks_of(tables: Collection[str]) -> list[Check]:
    """Return the checks of these tables."""
    return [check for check in ALL_CHECKS if check.table in tables]


# evaluation


def evaluate_checks(
    deployment: Deployment,
    store: Store,
    instance: dg.DagsterInstance,
    keys: Iterable[str],
    selected: Collection[dg.AssetCheckKey],
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks for the run's partitions and those that failed before."""
    names = deployment.names
    accounts = {account.name for account in deployment.settings.accounts}
    since = deployment.clock.now().date() - timedelta(days=CARRIED_DAYS)
    run_keys = set(keys)
    keys_of_checks = {
        check: run_keys | _read_failed(instance, names, check, accounts, since)
        for check in CHECKS
        if check.key(names) in selected
    }
    problems: dict[Check, dict[str, Finding]] = {check: {} for check in keys_of_checks}
    for key in sorted(set().union(*keys_of_checks.values())):
        checks = [check for check, wanted in keys_of_checks.items() if key in wanted]
        for check, why in _check_partition(store, key, checks, since):
            problems[check][key] = why
    for check, wanted in keys_of_checks.items():
        yield _result(names, check, problems[check], len(wanted), "day")
    for check, find in ACCOUNT_CHECKS.items():
        if check.key(names) in selected:
            problems_by_key = find(store, sorted(accounts))
            yield _result(names, check, problems_by_key, len(accounts), "account")
    if SHAPES_CHECK.key(names) in selected:
        yield _evaluate_shapes(store, instance, names, run_keys)


def _evaluate_shapes(
    store: Store, instance: dg.DagsterInstance, names: Names, keys: Collection[str]
) -> dg.AssetCheckResult:
    """Warn of shapes that no earlier evaluation told. The metadata keeps the told ones."""
    told: set[str] = set()
    for evaluation in _read_last(instance, names, SHAPES_CHECK):
        known = evaluation.metadata.get("known_shapes")
        told.update(map(str, known.data or ()) if isinstance(known, dg.JsonMetadataValue) else ())
    found = find_unknown_shapes(store, keys)
    problems = {}
    for key, shapes in found.items():
        new = sorted(set(shapes) - told)
        if new:
            problems[key] = _explain("new_shapes", what=", ".join(new[:MOST_NAMED]))
    result = _result(names, SHAPES_CHECK, problems, len(keys), "day")
    known_shapes = sorted(told.union(*found.values()))[:MOST_KNOWN]
    unknown_kinds = sum(_count_unknown_kinds(store, key) for key in keys)
    metadata = {
        **result.metadata,
        "known_shapes": dg.MetadataValue.json(known_shapes),
        "unknown_kind_count": dg.MetadataValue.int(unknown_kinds),
    }
    return result._replace(metadata=metadata)


def _count_unknown_kinds(store: Store, key: str) -> int:
    try:
        rows = store.read(schema.COVERAGE.name, *split_key(key))
    except StoreError:
        return 0
    return sum(rows["unknown_kind_count"].to_pylist())


def _check_partition(
    store: Store, key: str, checks: Iterable[Check], warned_since: date
) -> Iterator[tuple[Check, Finding]]:
    """Yield what is wrong with one partition, while the derivation of its account is locked."""
    account, day = split_key(key)
    partition = CheckedPartition(store, account, day, warned_since)
    with store.lock_derivation(account):
        for check in checks:
            try:
                found = check.find_problem(partition)
            except Exception as error:
                found = Finding(describe_error(error, "page"))
            if found and _is_kept(partition, check):
                lost = REASONS["raw_rows_lost"].explain("page", {"days": "1 day"})
                found = Finding(f"{found.text}. {lost}")
            if found:
                yield check, found


def _is_kept(partition: CheckedPartition, check: Check) -> bool:
    """Whether a wrong derived table stays, because deriving it again would remove messages."""
    is_derived = schema.TABLES[check.table].layer != "raw"
    is_wrong = check.severity == dg.AssetCheckSeverity.ERROR
    return (
        is_derived and is_wrong and partition.day in kept_days(partition.store, partition.account)
    )


def _read_failed(
    instance: dg.DagsterInstance,
    names: Names,
    check: Check,
    accounts: Collection[str],
    since: date,
) -> set[str]:
    """Return the partitions of configured accounts that the check's last evaluation names."""
    failed = set()
    for evaluation in _read_last(instance, names, check):
        tables = [evaluation.metadata.get(name) for name in (RED, NOTES)]
        for table in tables:
            for row in table.records if isinstance(table, dg.TableMetadataValue) else ():
                account, day = str(row.data["account"]), date.fromisoformat(str(row.data["date"]))
                if account in accounts and (check.carried_days is None or day >= since):
                    failed.add(key_of(account, day))
    return failed


def _read_last(
    instance: dg.DagsterInstance, names: Names, check: Check
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the check's last evaluation, if there is one."""
    history = instance.event_log_storage.get_asset_check_execution_history(
        check.key(names), limit=1, status={Status.FAILED, Status.SUCCEEDED}
    )
    return (record.evaluation for record in history if record.evaluation)


def _result(
    names: Names, check: Check, findings: Findings, checked_count: int, noun: str
) -> dg.AssetCheckResult:
    """Build the evaluation: a list in Markdown, the newest first; Dagster plots the numbers.

    A check passes if there are only notes: a note needs no action.
    """
    newest_first = sorted(findings, key=lambda key: (split_key(key)[1], key), reverse=True)
    problems = [key for key in newest_first if not findings[key].is_note]
    notes = [key for key in newest_first if findings[key].is_note]
    checked = f"{checked_count:,} {noun}{'' if checked_count == 1 else 's'}"
    head = f"{len(problems):,} of {checked} failed" if problems else f"passed ({checked})"
    if notes:
        head += f", {len(notes):,} with a note"
    lines = [f"- {key}: {findings[key].text}" for key in [*problems, *notes][:MOST_NAMED]]
    if len(findings) > MOST_NAMED:
        lines.append(f"- and {len(findings) - MOST_NAMED:,} more")
    metadata: dict[str, dg.MetadataValue] = {
        name: _table(keys, findings) for name, keys in ((RED, problems), (NOTES, notes)) if keys
    }
    metadata["failed_count"] = dg.MetadataValue.int(len(problems))
    metadata["checked_count"] = dg.MetadataValue.int(checked_count)
    return dg.AssetCheckResult(
        asset_key=names.asset_key(check.table),
        check_name=check.name,
        passed=not problems,
        severity=check.severity,
        description="\n".join([head, "", *lines]) if lines else head,
        metadata=metadata,
    )


def _table(keys: Sequence[str], findings: Findings) -> dg.TableMetadataValue:
    records = []
    for key in keys[:MOST_REMEMBERED]:
        account, day = split_key(key)
        records.append(
            dg.TableRecord({"account": account, "date": str(day), "why": findings[key].text})
        )
    columns = [dg.TableColumn(name) for name in ("account", "date", "why")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))
