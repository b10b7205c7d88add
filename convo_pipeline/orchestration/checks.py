"""Checks that say what a person should do; none blocks, for a blocked run fails the good accounts too.

A check is part of the step that makes its table and is evaluated once a run, also by a step that then fails. It judges
the run's partitions and those that its last evaluation left red, so that no account's good run hides another one's
trouble: a partition is red until it was judged good itself. An evaluation names account, date and remedy, never a text.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property, partial
from itertools import islice

import dagster as dg
import pyarrow as pa
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus as Status,
)

from convo_pipeline import schema
from convo_pipeline.base.defect import describe_defect
from convo_pipeline.derive.day import derivation_source
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.columns import read_columns
from convo_pipeline.lake.floors import read_floors
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.partitions import key_of, split_key
from convo_pipeline.tables.integrity import count_duplicates, count_orphans, find_misdated
from convo_pipeline.upkeep.rebuild import CERTAIN_SOURCES

MOST_NAMED = 10
MOST_RED = 200
"""Red partitions that one evaluation remembers; the newest days, for they are the ones that can still be mended."""
LEAST_SHARE_DETAILED = 0.9
CARRIED_DAYS = 31
"""How long a day stays red that nobody can mend any more."""
MESSAGE_KEY = ("conversation_id", "message_id")
AGAIN = (
    "materialise the normalised tables of this day again; if it stays, run `convo-pipeline verify`"
)
VERIFY = "run `convo-pipeline verify` and restore this day's file from a backup"
SWEEP_AGAIN = "sweep again, and report it if that finds more (`convo-pipeline extract --full`)"
READ_AGAIN = "materialise the raw tables of this day again"


@dataclass(frozen=True)
class CheckedPartition:
    """One partition as the checks see it: keys, times, counts; every file is read once at most."""

    store: Store
    account: str
    day: date
    _read: dict[str, pa.Table] = field(default_factory=dict)

    def rows(self, name: str) -> pa.Table:
        """Return the columns of a table that checks look at."""
        if name not in self._read:
            table = schema.TABLES[name]
            is_mart = table in (*schema.MARTS, *schema.ACROSS_DAYS)
            looked_at = {*table.key, "created_at", "created_at_source"}
            names = [column for column in table.column_names if is_mart or column in looked_at]
            self._read[name] = read_columns(self.store, table, self.account, self.day, names)
        return self._read[name]

    def is_settled(self) -> bool:
        """Whether the derived tables were made from the raw ones as they are; else the next run judges them."""
        made_from = self.store.source(schema.COVERAGE.name, self.account, self.day)
        return made_from == derivation_source(self.store.raw_digest(self.account, self.day))

    @cached_property
    def _floors(self) -> dict[str, date]:
        return read_floors(self.store)

    def is_held(self, names: Iterable[str]) -> bool:
        """Whether none of these tables has let go of the day by its age."""
        return all(self.day >= self._floors.get(name, date.min) for name in names)


Judge = Callable[[CheckedPartition], str | None]


@dataclass(frozen=True)
class Check:
    """What must be true of each partition of a table, and for how many days a red one is looked at again."""

    table: str
    name: str
    description: str
    judge: Judge
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
    carried_days: int | None = None

    @property
    def key(self) -> dg.AssetCheckKey:
        return dg.AssetCheckKey(dg.AssetKey(self.table), self.name)

    @property
    def spec(self) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(self.name, asset=self.table, description=self.description)


# what can be wrong with one partition


def judge_keys(table: schema.Table, day: CheckedPartition) -> str | None:
    count = count_duplicates(table, day.rows(table.name))
    return f"{count} rows too many for their key: {_mend(table.name)}" if count else None


def judge_dates(table: schema.Table, day: CheckedPartition) -> str | None:
    """A message whose time the API did not say lies where it was first filed; any other on its own day."""
    elsewhere = find_misdated(day.rows(table.name), day.day)
    if not elsewhere.num_rows:
        return None
    placed = day.store.state.placements(day.account)
    ids = day.rows("raw_message_ids").to_pylist()
    guessed = {_message(row) for row in ids if row["created_at_source"] not in CERTAIN_SOURCES}
    wrong = {_message(row) for row in elsewhere.to_pylist()} - guessed
    count = sum(placed.get(key) != day.day for key in wrong)
    return f"{count} messages were sent on another day: {_mend(table.name)}" if count else None


def judge_ids(table: str, known: str, key: Sequence[str], day: CheckedPartition) -> str | None:
    """Every key of `table` has a row in `known`. What points is read before what it points to: writers go the other way."""
    if not day.is_held((table, known)):
        return None
    rows = day.rows(table)
    count = count_orphans(rows, day.rows(known), key)
    return (
        f"{count} {'messages' if len(key) > 1 else 'conversations'} are not in {known}: {_mend(table)}"
        if count
        else None
    )


def judge_completeness(
    table: str, raw: str, key: Sequence[str], day: CheckedPartition
) -> str | None:
    """Every raw id has a row, and no row is without its raw id."""
    if not day.is_held((table, raw)):
        return None
    lacking = count_orphans(day.rows(raw), day.rows(table), key)
    invented = count_orphans(day.rows(table), day.rows(raw), key)
    found = [f"{lacking} ids of {raw} have no row"] * bool(lacking) + [
        f"{invented} rows are not in {raw}"
    ] * bool(invented)
    return f"{', '.join(found)}: {AGAIN}" if found and day.is_settled() else None


def judge_coverage_sum(day: CheckedPartition) -> str | None:
    listed = day.rows("raw_message_ids").num_rows
    is_listed = day.is_held(("coverage", "raw_message_ids")) and day.is_settled()
    for row in day.rows("coverage").to_pylist():
        counted = sum(row[status] for status in schema.DETAIL_STATUSES)
        if row["ids_listed"] != counted or (is_listed and row["ids_listed"] != listed):
            return f"{row['ids_listed']} ids listed, {counted} accounted for, {listed} in raw_message_ids: {AGAIN}"
    return None


def judge_figures_sum(day: CheckedPartition) -> str | None:
    messages = day.rows("messages").num_rows
    is_held = day.is_held(("account_days", "messages"))
    for row in day.rows("account_days").to_pylist():
        counted = sum(row[name] for name in ("inbound_count", "outbound_count", "unknown_count"))
        if is_held and counted != messages:
            return f"{counted} messages counted, {messages} in messages: {AGAIN}"
    return None


def judge_open(day: CheckedPartition) -> str | None:
    """Nothing waits to be read, failed to be read or could not be understood."""
    rows = day.rows("coverage").to_pylist()
    found = [
        f"{row[name]} {name}"
        for row in rows
        for name in ("pending", "failed", "rejected")
        if row[name]
    ]
    if not found:
        return None
    is_waiting, is_rejected = (
        any(row[name] for row in rows for name in names)
        for names in (("pending", "failed"), ("rejected",))
    )
    remedies = [READ_AGAIN] * is_waiting + ["look at raw_rejects"] * is_rejected
    return f"{', '.join(found)}: {'; '.join(remedies)}"


def judge_share(day: CheckedPartition) -> str | None:
    """Enough of the day's messages have their content."""
    for row in day.rows("coverage").to_pylist():
        share = row["share_detailed"]
        if share is not None and share < LEAST_SHARE_DETAILED:
            lost = f"{row['beyond_20']} had left the newest 20, {row['gone']} are gone"
            return f"{share:.0%} of {row['ids_listed']} messages have content ({lost}): {_share_remedy(day)}"
    return None


def _share_remedy(day: CheckedPartition) -> str:
    """What was lost before the account was connected is nobody's to mend; afterwards a shorter interval helps."""
    runs = day.store.state.runs(day.account)
    connected = min((run.started_at.date() for run in runs), default=None)
    if connected is None or day.day < connected:
        return "from before the account was connected: out of reach, nothing to do"
    return "keep the capture on, and capture more often (schedule.capture_minutes)"


def _mend(table: str) -> str:
    return VERIFY if schema.TABLES[table].layer == "raw" else AGAIN


def _message(row: dict[str, object]) -> tuple[str, str]:
    return str(row["conversation_id"]), str(row["message_id"])


# which checks there are


def _every_table() -> Iterator[Check]:
    for table in schema.TABLES.values():
        what = (
            f"Its key, {', '.join(table.key)}, occurs once a day"
            if table.key
            else "There is one row a day"
        )
        yield Check(table.name, "keys_are_unique", f"{what}.", partial(judge_keys, table))
        if "created_at" in table.column_names:
            what = "Every message lies on the UTC day on which it was sent."
            yield Check(table.name, "dates_are_in_partition", what, partial(judge_dates, table))


def _reference(table: str, known: str, key: Sequence[str]) -> Check:
    what = f"Every {'message' if len(key) > 1 else 'conversation'} it names has a row in {known} on the same day."
    return Check(table, "ids_resolve", what, partial(judge_ids, table, known, key))


def _complete(table: str, raw: str, key: Sequence[str]) -> Check:
    what = f"Every id of {raw} has a row, and no row is without one."
    return Check(table, "every_id_has_a_row", what, partial(judge_completeness, table, raw, key))


ADDS_UP, NOTHING_OPEN, ENOUGH_IS_DETAILED, NO_FAILED_ACCOUNTS, NOTHING_MISSED = (
    "adds_up", "nothing_open", "enough_is_detailed", "no_failed_accounts", "nothing_missed",
)  # fmt: skip
WARN = dg.AssetCheckSeverity.WARN
CHECKS = (
    *_every_table(),
    _reference("raw_message_ids", "raw_conversations", ("conversation_id",)),
    _reference("raw_message_details", "raw_message_ids", MESSAGE_KEY),
    _reference("participants", "conversations", ("conversation_id",)),
    _reference("messages", "conversations", ("conversation_id",)),
    *(_reference(table, "messages", MESSAGE_KEY) for table in ("attachments", "shares", "reactions")),
    _complete("messages", "raw_message_ids", MESSAGE_KEY),
    _complete("conversations", "raw_conversations", ("conversation_id",)),
    Check("coverage", ADDS_UP, "Every listed id is counted once, whatever became of it.", judge_coverage_sum),
    Check("account_days", ADDS_UP, "Every message of the day is counted once by its direction.", judge_figures_sum),
    Check("coverage", NOTHING_OPEN, "No id of these days waits to be read, failed to be read or could not be understood.",
          judge_open, WARN),
    Check("coverage", ENOUGH_IS_DETAILED, f"At least {LEAST_SHARE_DETAILED:.0%} of each day's messages have their content.",
          judge_share, WARN, CARRIED_DAYS),
)  # fmt: skip


AFTER_A_RUN = {
    "failed": "put that right, then materialise its failed and missing partitions",
    "incomplete": "what came is kept; the next run goes on from there, or materialise its failed and missing partitions",
}
"""What to do when an account's last run ended so."""


def find_failed_accounts(store: Store, accounts: Iterable[str]) -> dict[str, str]:
    """Name the accounts whose last ended run failed or is incomplete, by the key of that run's day."""
    found: dict[str, str] = {}
    for account in accounts:
        last = store.state.last_ended(account)
        if last is not None and last.outcome in AFTER_A_RUN:
            why = last.error or "; ".join(last.reasons) or last.outcome
            found[key_of(account, last.started_at.date())] = (
                f"{why.rstrip('.')}: {AFTER_A_RUN[last.outcome]}"
            )
    return found


def find_missed(store: Store, accounts: Iterable[str]) -> dict[str, str]:
    """Name the accounts whose last sweep found what earlier runs had missed, by the key of that sweep's day."""
    found: dict[str, str] = {}
    for account in accounts:
        started_at, missed_count = store.state.last_full_run(account) or (None, 0)
        if started_at and missed_count:
            what = (
                f"{missed_count:,} messages had been missed by runs that called themselves complete"
            )
            found[key_of(account, started_at.date())] = (
                f"{what}: they are stored now; {SWEEP_AGAIN}"
            )
    return found


def _of_accounts(name: str, what: str) -> Check:
    return Check("coverage", name, what, lambda day: None, WARN)


ACCOUNT_CHECKS: Mapping[Check, Callable[[Store, Iterable[str]], dict[str, str]]] = {
    _of_accounts(
        NO_FAILED_ACCOUNTS, "The last run of every account was complete."
    ): find_failed_accounts,
    _of_accounts(
        NOTHING_MISSED, "The last sweep of every account found nothing that runs before had missed."
    ): find_missed,
}
"""What must be true of every account, whichever partitions a run has."""


def checks_of(tables: Collection[str]) -> list[Check]:
    """Return the checks of these tables."""
    return [check for check in (*CHECKS, *ACCOUNT_CHECKS) if check.table in tables]


# one evaluation a check and run


def judge(
    deployment: Deployment,
    store: Store,
    instance: dg.DagsterInstance,
    keys: Iterable[str],
    selected: Collection[dg.AssetCheckKey],
) -> Iterator[dg.AssetCheckResult]:
    """Evaluate the selected checks over the run's partitions and those that were red."""
    names = {account.name for account in deployment.settings.accounts}
    since = deployment.clock.now().date() - timedelta(days=CARRIED_DAYS)
    checks = [check for check in CHECKS if check.key in selected]
    asked = set(keys)
    wanted = {check: asked | _still_red(instance, check, names, since) for check in checks}
    red: dict[Check, dict[str, str]] = {check: {} for check in checks}
    for key in sorted(set().union(*wanted.values())):
        found = _judge_day(store, key, [check for check in checks if key in wanted[check]])
        for check, why in found.items():
            red[check][key] = why
    for check in checks:
        yield _result(check, red[check], len(wanted[check]), "days")
    for check, find in ACCOUNT_CHECKS.items():
        if check.key in selected:
            yield _result(check, find(store, sorted(names)), len(names), "accounts")


def _judge_day(store: Store, key: str, checks: Iterable[Check]) -> dict[Check, str]:
    """Judge one partition; no derivation goes on meanwhile."""
    account, day = split_key(key)
    seen = CheckedPartition(store, account, day)
    found: dict[Check, str] = {}
    with store.lock_derivation(account):
        for check in checks:
            try:
                why = check.judge(seen)
            except StoreError as error:
                why = str(error)
            except Exception as error:
                why = describe_defect(error)
            if why:
                found[check] = why
    return found


def _still_red(
    instance: dg.DagsterInstance, check: Check, accounts: Collection[str], since: date
) -> set[str]:
    """Return the partitions that the check's last evaluation left red, of accounts that there still are."""
    history = instance.event_log_storage.get_asset_check_execution_history(
        check.key, limit=1, status={Status.FAILED, Status.SUCCEEDED}
    )
    entries = [record.evaluation.metadata.get("red") for record in history if record.evaluation]
    tables = [entry for entry in entries if isinstance(entry, dg.TableMetadataValue)]
    keys = {
        f"{record.data['account']}|{record.data['date']}"
        for table in tables
        for record in table.records
    }
    places = {key: split_key(key) for key in keys}
    return {
        key for key, (account, day) in places.items()
        if account in accounts and (check.carried_days is None or day >= since)
    }  # fmt: skip


def _result(check: Check, red: dict[str, str], judged_count: int, noun: str) -> dg.AssetCheckResult:
    """Say who is red first, then why and what to do; numbers become plots."""
    shown = [f"{key}: {why}" for key, why in islice(sorted(red.items()), MOST_NAMED)]
    more = f"; and {len(red) - MOST_NAMED} more" if len(red) > MOST_NAMED else ""
    metadata: dict[str, dg.MetadataValue] = {
        "red_count": dg.MetadataValue.int(len(red)),
        "judged_count": dg.MetadataValue.int(judged_count),
    }
    if red:
        metadata = {"red": _red_table(red), **metadata}
    return dg.AssetCheckResult(
        asset_key=check.key.asset_key,
        check_name=check.name,
        passed=not red,
        severity=check.severity,
        description="; ".join(shown) + more if red else f"good: {judged_count} {noun} judged",
        metadata=metadata,
    )


def _red_table(red: dict[str, str]) -> dg.TableMetadataValue:
    newest_first = sorted(red, key=lambda key: (split_key(key)[1], key), reverse=True)
    records = [
        dg.TableRecord(
            dict(
                zip(("account", "date", "why"), (*map(str, split_key(key)), red[key]), strict=True)
            )
        )
        for key in newest_first[:MOST_RED]
    ]
    columns = [dg.TableColumn(name) for name in ("account", "date", "why")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=columns))
