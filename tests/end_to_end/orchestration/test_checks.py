"""Asset checks: each fault of a partition is found and named with a remedy."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product

import dagster as dg
import pyarrow as pa
import pytest

from convo_pipeline import schema
from convo_pipeline.base.clock import Clock
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.derive.day import accept_loss, derive_day, wanted_source
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.lake.first_days import RETENTION_FILE
from convo_pipeline.lake.parquet import encode
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.checks import (
    ACCOUNT_CHECKS,
    ALL_CHECKS,
    CHECKS,
    evaluate_checks,
    find_failed_accounts,
)
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import EXTRACT_JOB, NORMALISE_JOB, UNPREFIXED
from convo_pipeline.orchestration.partitions import Window, range_tags
from convo_pipeline.orchestration.recorded_runs import QUIET
from convo_pipeline.reasons import REASONS
from convo_pipeline.state.records import Partition, Run
from tests.support.inbox_runs import definitions_of
from tests.support.inbox_worlds import TOKENS, Days, small_settings, small_world, three_days

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
ALL = [BAKERY, BIKES]
KEYS = {check.key(UNPREFIXED) for check in ALL_CHECKS}


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture
def server(days: Days) -> Iterator[EmulatorServer]:
    with EmulatorServer(small_world(days)) as server:
        yield server


@pytest.fixture
def deployment(
    tmp_path_factory: pytest.TempPathFactory, server: EmulatorServer, days: Days
) -> Deployment:
    return Deployment(
        small_settings(tmp_path_factory.mktemp("lake"), server, days.start), environ=TOKENS
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(
    deployment: Deployment,
    instance: dg.DagsterInstance,
    job: str,
    accounts: list[str],
    window: Window,
) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    """Run a job; return its evaluations by table and check."""
    result = (
        definitions_of(deployment)
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config=QUIET,
            tags=range_tags(accounts, window),
        )
    )
    found = result.get_asset_check_evaluations()
    assert len({(each.asset_key, each.check_name) for each in found}) == len(found), (
        "one evaluation a check and run"
    )
    return {(each.asset_key.to_user_string(), each.check_name): each for each in found}


def ids(day: date, *names: str, conversation_id: str = "t_1") -> pa.Table:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    rows = [
        {
            "conversation_id": conversation_id,
            "message_id": name,
            "created_at": noon,
            "created_at_source": "message",
            "order_in_second": 0,
            "first_seen_at": noon,
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=schema.RAW_MESSAGE_IDS.schema)


def details(day: date, *names: str, status: str = "pending") -> pa.Table:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    rows = [
        {
            "conversation_id": "t_1",
            "message_id": name,
            "created_at": noon,
            "detail_status": status,
            "first_seen_at": noon,
            "changed_at": noon,
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=schema.RAW_MESSAGE_DETAILS.schema)


def conversation(day: date, conversation_id: str = "t_1") -> pa.Table:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    row = {
        "conversation_id": conversation_id,
        "platform": "messenger",
        "page_id": "9876543210",
        "fields": "{}",
        "payload": "{}",
        "first_seen_at": noon,
        "changed_at": noon,
    }
    return pa.Table.from_pylist([row], schema=schema.RAW_CONVERSATIONS.schema)


@pytest.fixture
def lake(deployment: Deployment, days: Days) -> Iterator[Store]:
    """One derived partition with two ids that left the newest 20."""
    with closing(Store(deployment.settings.store)) as store:
        store.merge("raw_conversations", BIKES, days[0], conversation(days[0]))
        store.merge("raw_message_ids", BIKES, days[0], ids(days[0], "m_1", "m_2"))
        store.merge(
            "raw_message_details",
            BIKES,
            days[0],
            details(days[0], "m_1", "m_2", status="beyond_20"),
        )
        derive_day(store, BIKES, days[0])
        derive_account_days(store, BIKES)
        yield store


def red(
    deployment: Deployment, store: Store, instance: dg.DagsterInstance, day: date
) -> dict[tuple[str, str], str]:
    """Return the texts of the checks that fail for one partition."""
    results = evaluate_checks(deployment, store, instance, [f"{BIKES}|{day}"], KEYS)
    return {
        (result.asset_key.to_user_string(), str(result.check_name)): listed(result)
        for result in results
        if result.asset_key and not result.passed
    }


def noted(
    deployment: Deployment, store: Store, instance: dg.DagsterInstance, day: date
) -> dict[str, str]:
    """Return the texts of the checks that pass with a note."""
    results = evaluate_checks(deployment, store, instance, [f"{BIKES}|{day}"], KEYS)
    passed = [result for result in results if result.passed and "notes" in dict(result.metadata)]
    return {str(result.check_name): listed(result) for result in passed}


def listed(result: dg.AssetCheckResult | dg.AssetCheckEvaluation) -> str:
    """Return the lines of a check's list, without the marks of the list."""
    head, empty, *lines = str(result.description).split("\n")
    assert empty == ""
    assert head.endswith("failed") or "with a note" in head
    return "\n".join(line.removeprefix("- ") for line in lines)


def test_every_table_has_key_and_date_checks() -> None:
    checked = {(check.table, check.name) for check in CHECKS}
    for name, table in schema.TABLES.items():
        assert (name, "keys_are_unique") in checked
        assert ((name, "dates_are_in_partition") in checked) == ("created_at" in table.column_names)
    assert len(checked) == len(CHECKS)
    assert not any(check.spec(UNPREFIXED).blocking for check in ALL_CHECKS)


def test_a_complete_lake_passes_every_check(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    window = Window(days[0], days.today)
    found = run(deployment, instance, EXTRACT_JOB, ALL, window) | run(
        deployment, instance, NORMALISE_JOB, ALL, window
    )
    assert {name for name, each in found.items() if not each.passed} == set()
    assert {dg.AssetCheckKey(dg.AssetKey(table), name) for table, name in found} == KEYS
    assert found["messages", "keys_are_unique"].description == "passed (6 days)"
    assert {each.partition for each in found.values()} == {None}


def test_a_run_checks_only_its_own_partition(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    found = run(deployment, instance, EXTRACT_JOB, [BIKES], Window(days[1], days[2]))
    assert {each.description for each in found.values()} == {"passed (1 day)"}


def test_lost_content_warns_with_account_day_and_reason(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    assert red(deployment, lake, instance, days[0]) == {}, "a note needs no action"
    assert noted(deployment, lake, instance, days[0]) == {
        "enough_is_detailed": f"{BIKES}|{days[0]}: content lost: 0% of 2 messages have content (2"
        " had left the newest 20, 0 are gone). Nothing to do: the messages are from before the"
        " account was connected"
    }
    lake.state.save_run(
        Run("r", BIKES, "window", datetime(2026, 1, 1, tzinfo=UTC), outcome="complete")
    )
    assert (
        "make `schedule.capture_minutes` smaller"
        in red(deployment, lake, instance, days[0])["coverage", "enough_is_detailed"]
    )


def test_missing_and_extra_rows_fail(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    rows = lake.read("messages", BIKES, days[0])
    source = str(lake.source("messages", BIKES, days[0]))
    lake.replace("messages", BIKES, days[0], rows.slice(0, 1), source)
    text = red(deployment, lake, instance, days[0])["messages", "every_id_has_a_row"]
    assert text.startswith(
        f"{BIKES}|{days[0]}: 1 ids of raw_message_ids have no row. To do: materialize the"
        " normalised tables"
    )
    strange = [*rows.to_pylist(), rows.to_pylist()[0] | {"message_id": "m_9"}]
    lake.replace(
        "messages",
        BIKES,
        days[0],
        pa.Table.from_pylist(strange, schema=schema.MESSAGES.schema),
        source,
    )
    assert (
        "1 rows are not in raw_message_ids"
        in red(deployment, lake, instance, days[0])["messages", "every_id_has_a_row"]
    )


def test_rows_newer_than_the_derivation_are_not_compared(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    lake.merge("raw_message_ids", BIKES, days[0], ids(days[0], "m_3"))
    assert red(deployment, lake, instance, days[0]) == {}


def test_unknown_ids_fail(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    lake.merge("raw_message_details", BIKES, days[0], details(days[0], "m_7"))
    lake.merge("raw_message_ids", BIKES, days[0], ids(days[0], "m_8", conversation_id="t_unknown"))
    found = red(deployment, lake, instance, days[0])
    assert (
        "1 messages are not in raw_message_ids. To do: run `convo-pipeline verify`"
        in found["raw_message_details", "ids_resolve"]
    )
    assert "1 conversations are not in raw_conversations" in found["raw_message_ids", "ids_resolve"]


def test_a_wrong_date_fails_unless_its_time_is_estimated(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    lake.merge("raw_message_ids", BIKES, days[0], ids(days[1], "m_5"))
    text = red(deployment, lake, instance, days[0])["raw_message_ids", "dates_are_in_partition"]
    assert "1 messages were sent on another day" in text
    lake.state.save_placements(BIKES, {("t_1", "m_5"): days[0]})
    assert ("raw_message_ids", "dates_are_in_partition") not in red(
        deployment, lake, instance, days[0]
    )


def test_wrong_counts_fail(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    row = lake.read("coverage", BIKES, days[0]).to_pylist()[0] | {"ids_listed": 3}
    source = str(lake.source("coverage", BIKES, days[0]))
    lake.replace(
        "coverage",
        BIKES,
        days[0],
        pa.Table.from_pylist([row], schema=schema.COVERAGE.schema),
        source,
    )
    assert (
        "3 ids listed, 2 accounted for, 2 in raw_message_ids"
        in red(deployment, lake, instance, days[0])["coverage", "adds_up"]
    )


def test_days_removed_by_retention_are_not_compared(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    for table in schema.RAW:
        lake.drop(table.name, BIKES, days[0])
    lake.backend.replace(
        RETENTION_FILE,
        f'{{"raw_message_ids": "{days[1]}"}}'.encode(),
        None,
        lambda content, name: None,
    )
    assert red(deployment, lake, instance, days[0]) == {}


def test_every_check_fails_on_its_own_fault(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    """A day with a repeated row, a wrong date, unknown ids and wrong sums; then each remedy."""
    day = days[0]
    raw = [table.name for table in schema.RAW]
    backup = {
        name: lake.path(name, BIKES, day).read_bytes()
        for name in raw
        if lake.path(name, BIKES, day).exists()
    }
    sums = {"ids_listed": 5, "detailed": 1, "pending": 1, "rejected": 1, "share_detailed": 0.2}
    sums |= {"unknown_direction_count": 1, "sender_id": "7"}
    reject = row_of(schema.RAW_REJECTS, day)
    lake.merge(
        "raw_rejects", BIKES, day, pa.Table.from_pylist([reject], schema=schema.RAW_REJECTS.schema)
    )
    derive_day(lake, BIKES, day)
    for name, table in schema.TABLES.items():
        one = row_of(table, day, **sums)
        strange = row_of(
            table, days[1], **sums, conversation_id=f"t_{name}", message_id=f"m_{name}"
        )
        source = "" if table in schema.RAW else wanted_source(lake, BIKES, day)
        content = encode(
            table, pa.Table.from_pylist([one, one, strange], schema=table.schema), source
        )
        path = lake.path(name, BIKES, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        lake.state.save_partition(
            Partition(
                name, BIKES, day, hashlib.sha256(content).hexdigest(), 3, len(content), source
            )
        )
    lake.state.save_run(
        Run(
            "r",
            BIKES,
            "full",
            datetime(2026, 1, 1, tzinfo=UTC),
            outcome="failed",
            error="Refused.",
            counts={"missed": 2},
        )
    )
    found = red(deployment, lake, instance, day)
    assert found.keys() == {(check.table, check.name) for check in (*CHECKS, *ACCOUNT_CHECKS)}
    for (_, name), text in found.items():
        where = (
            f"{BIKES}|{'2026-01-01' if name in ('no_failed_accounts', 'nothing_missed') else day}"
        )
        assert text.startswith(f"{where}: ")
        if name == "nothing_open":
            assert "1 pending messages not read yet" in text
            assert " rejected payloads that this program cannot read. To do: read the table" in text
        assert any(
            word in text
            for word in (
                "materialize",
                "convo-pipeline verify",
                "capture_minutes",
                "before the account was connected",
                "no reason was stored (Refused)",
                "--full",
                "convo-pipeline check",
            )
        )
    for name in raw:  # restored from a backup
        if name in backup:
            write_as_current(lake, name, day, backup[name], 1)
        else:
            lake.drop(name, BIKES, day)
    normalise_again(deployment, instance, day)
    texts = red(deployment, lake, instance, day)
    assert "normalize --accept-loss" in texts["messages", "ids_resolve"]
    accept_loss(lake, BIKES)
    normalise_again(deployment, instance, day)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    lake.state.save_run(Run("r2", BIKES, "full", at, outcome="complete", counts={"missed": 0}))
    assert set(red(deployment, lake, instance, day)) == {("coverage", "enough_is_detailed")}


def row_of(table: schema.Table, day: date, **values: object) -> dict[str, object]:
    """Return a row that fits its table, at noon of a day."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    plain = {
        schema.TEXT: "x",
        schema.TIME: noon,
        schema.COUNT: 0,
        schema.RATIO: 0.0,
        schema.FLAG: False,
    }
    known = {
        "conversation_id": "t_1",
        "message_id": "m_1",
        "created_at_source": "message",
        **values,
    }
    return {
        column.name: known.get(column.name, plain.get(column.type) if column.required else None)
        for column in table.columns
    }


def test_a_damaged_file_fails_with_its_name(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    lake.path("messages", BIKES, days[0]).write_bytes(b"not parquet")
    text = red(deployment, lake, instance, days[0])["messages", "keys_are_unique"]
    assert text.startswith(f"{BIKES}|{days[0]}: ")
    assert "messages/account=bikes-messenger" in text


def test_a_good_run_does_not_hide_another_accounts_problem(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    with closing(Store(deployment.settings.store)) as store:
        store.merge("raw_conversations", BIKES, days[0], conversation(days[0]))
        store.merge("raw_message_ids", BIKES, days[0], ids(days[0], "m_open"))
        store.merge("raw_message_details", BIKES, days[0], details(days[0], "m_open"))
    first, second = Window(days[0], days[1]), Window(days[1], days[2])
    name = ("coverage", "nothing_open")
    text = f"{BIKES}|{days[0]}: {REASONS['unread'].explain('page', {'what': '1 pending messages'})}"
    assert listed(run(deployment, instance, NORMALISE_JOB, [BIKES], first)[name]) == text
    again = run(deployment, instance, NORMALISE_JOB, [BAKERY], second)[name]
    assert (again.passed, listed(again)) == (True, text), "the next run reads it: only a note"
    assert str(again.description).startswith("passed (2 days), 1 with a note\n\n- ")
    with closing(Store(deployment.settings.store)) as store:
        store.merge(
            "raw_message_details", BIKES, days[0], details(days[0], "m_open", status="beyond_20")
        )
        derive_day(store, BIKES, days[0])
    third = run(deployment, instance, NORMALISE_JOB, [BAKERY], second)[name]
    assert (third.passed, "notes" in third.metadata) == (True, False)


def test_missed_messages_fail_until_a_sweep_finds_none(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    window, name = Window(days[0], days[1]), ("coverage", "nothing_missed")
    with closing(Store(deployment.settings.store)) as store:
        for hour, (mode, counts) in enumerate(
            [("full", {"missed": 3}), ("capture", {}), ("full", {"missed": 0})]
        ):
            at = datetime(2026, 1, 1, hour, tzinfo=UTC)
            store.state.save_run(
                Run(f"r{hour}", BIKES, mode, at, outcome="complete", counts=counts)
            )
            found = run(deployment, instance, NORMALISE_JOB, [BAKERY], window)[name]
            assert found.passed == (hour == 2)
            if hour < 2:
                what = REASONS["missed"].describe({"messages": "3 messages"})
                assert listed(found).startswith(f"{BIKES}|2026-01-01: {what}")


def test_a_failed_account_is_named_until_its_run_is_complete(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    window = Window(days[0], days[1])
    broken = replace(
        deployment, environ={**TOKENS, "BIKES_MESSENGER_TOKEN": "EAAwrongwrongwrongwrong"}
    )
    assert run(broken, instance, EXTRACT_JOB, ALL, window)[
        "raw_message_ids", "keys_are_unique"
    ].passed
    found = run(deployment, instance, NORMALISE_JOB, ALL, window)["coverage", "no_failed_accounts"]
    assert not found.passed
    assert listed(found).startswith(f"{BIKES}|{days[0]}: "), "the day that was not read"
    assert "materialize the failed and missing partitions" in str(found.description)
    assert "EAAwrong" not in str(found)
    run(deployment, instance, EXTRACT_JOB, [BIKES], window)
    assert run(deployment, instance, NORMALISE_JOB, [BIKES], window)[
        "coverage", "no_failed_accounts"
    ].passed


def test_an_account_is_named_while_its_last_run_is_not_complete(deployment: Deployment) -> None:
    """The day is the last one that the run had to read. A complete capture hides no failed night.

    A note needs no person; a failure does.
    """
    night = {"since": date(2026, 1, 3), "until": date(2026, 1, 5)}
    throttled = "incomplete: Meta's rate limit stopped the calls. Nothing to do"
    token = "failed: the token is invalid, expired or revoked"
    rows: list[tuple[str, str, tuple[str, ...], str | None, bool]] = [
        ("nightly", "incomplete", ("throttled",), throttled, True),
        ("nightly", "running", (), throttled, True),
        ("nightly", "failed", ("token",), token, False),
        ("capture", "complete", (), token, False),
        ("nightly", "complete", (), None, False),
    ]
    with closing(Store(deployment.settings.store)) as store:
        for hour, (kind, outcome, reasons, expected, is_note) in enumerate(rows):
            at = datetime(2026, 1, 5, hour, tzinfo=UTC)
            store.state.save_run(
                Run(f"r{hour}", BIKES, kind, at, outcome=outcome, reasons=reasons, **night)
            )
            found = find_failed_accounts(store, [BAKERY, BIKES])
            assert list(found) == ([f"{BIKES}|2026-01-04"] if expected else [])
            for finding in found.values():
                assert finding.text.startswith(str(expected))
                assert finding.is_note == is_note


def test_a_check_started_alone_makes_no_calls(
    deployment: Deployment, instance: dg.DagsterInstance, server: EmulatorServer, days: Days
) -> None:
    key = dg.AssetCheckKey(dg.AssetKey("raw_message_ids"), "keys_are_unique")
    job = definitions_of(deployment).resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_selection=set(), asset_check_selection={key})
    result = alone.execute_in_process(instance=instance, run_config=QUIET)
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.metadata["checked_count"].value) == (True, 0)


def test_lost_content_is_not_checked_after_a_month(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    old, recent = days[0] - timedelta(days=40), days[0]
    table = dg.MetadataValue.table(
        [
            dg.TableRecord({"account": BIKES, "date": str(day), "why": "lost"})
            for day in (old, recent)
        ]
    )
    names = ("enough_is_detailed", "nothing_open")
    for name in names:
        evaluation = dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("coverage"),
            check_name=name,
            passed=False,
            metadata={"red": table},
        )
        instance.report_runless_asset_event(evaluation)
    keys = {dg.AssetCheckKey(dg.AssetKey("coverage"), name) for name in names}
    with closing(Store(deployment.settings.store)) as store:
        results = list(evaluate_checks(deployment, store, instance, [], keys))
    counts = {result.check_name: dict(result.metadata)["checked_count"] for result in results}
    assert counts == {
        "enough_is_detailed": dg.MetadataValue.int(1),
        "nothing_open": dg.MetadataValue.int(2),
    }


# each fault: red for the right account and day, and its remedy turns the check green


def write_as_current(store: Store, table: str, day: date, content: bytes, row_count: int) -> None:
    """Write a file that the state takes for the one that was written last."""
    path = store.path(table, BIKES, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    source = "" if schema.TABLES[table].layer == "raw" else wanted_source(store, BIKES, day)
    record = store.state.partition(table, BIKES, day)
    source = record.source if record else source
    sha256 = hashlib.sha256(content).hexdigest()
    store.state.save_partition(
        Partition(table, BIKES, day, sha256, row_count, len(content), source)
    )


def normalise_again(deployment: Deployment, instance: dg.DagsterInstance, day: date) -> None:
    run(deployment, instance, NORMALISE_JOB, [BIKES], Window(day, day + timedelta(days=1)))


def test_a_day_without_its_row_fails_until_it_is_normalised(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    tables = ("coverage", "account_days")
    for table in tables:
        declared, source = schema.TABLES[table], lake.source(table, BIKES, days[0]) or ""
        content = encode(declared, declared.schema.empty_table(), source)
        write_as_current(lake, table, days[0], content, 0)
    found = red(deployment, lake, instance, days[0])
    for table, name in product(tables, ("keys_are_unique", "adds_up")):
        text = found[table, name]
        assert text.startswith(f"{BIKES}|{days[0]}: there is no row for 2 messages")
        assert "materialize the normalised tables of this day" in text
    normalise_again(deployment, instance, days[0])
    assert red(deployment, lake, instance, days[0]) == {}


def test_a_damaged_file_whose_hash_fits_is_no_defect(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    raw = [table.name for table in schema.RAW]
    good = {name: lake.path(name, BIKES, days[0]) for name in raw}
    contents = {name: path.read_bytes() for name, path in good.items() if path.exists()}
    for table in schema.TABLES:
        write_as_current(lake, table, days[0], b"PAR1 no parquet PAR1", 1)
    found = red(deployment, lake, instance, days[0])
    for table in schema.TABLES:
        text = found[table, "keys_are_unique"]
        assert text.startswith(f"{BIKES}|{days[0]}: ")
        assert f"{table}/account={BIKES}/date={days[0]}" in text
        assert "its bytes are as written, so it stays" in text
        assert "defect" not in text
        remedy = (
            "restore the file from a backup" if table in raw else "run `convo-pipeline normalize"
        )
        assert remedy in text
    for table in raw:
        if table in contents:
            write_as_current(lake, table, days[0], contents[table], 1)
        else:
            lake.drop(table, BIKES, days[0])
    normalise_again(deployment, instance, days[0])
    assert red(deployment, lake, instance, days[0]) == {}


def test_a_reject_warns_until_its_message_is_stored(
    deployment: Deployment, lake: Store, instance: dg.DagsterInstance, days: Days
) -> None:
    """The rejected items: a message with an unreadable shape, and one without an id."""

    def add_reject(payload: str) -> None:
        row = row_of(schema.RAW_REJECTS, days[1]) | {"digest": payload, "payload": payload}
        rows = pa.Table.from_pylist([row], schema=schema.RAW_REJECTS.schema)
        lake.merge("raw_rejects", BIKES, days[1], rows)
        derive_day(lake, BIKES, days[1])

    name = ("coverage", "nothing_open")
    add_reject('{"id":"m_7","created_time":5}')
    text = red(deployment, lake, instance, days[1])[name]
    assert text.startswith(f"{BIKES}|{days[1]}: 1 rejected payloads")
    assert "the warning ends when a later run stores the item" in text
    lake.merge("raw_message_details", BIKES, days[0], details(days[0], "m_7", status="detailed"))
    assert name not in red(deployment, lake, instance, days[1])
    add_reject('[{"id":["x"]},7]')
    assert name in red(deployment, lake, instance, days[1])
    later = datetime.now(UTC) + timedelta(days=40)
    old = replace(deployment, clock=Clock(now=lambda: later))
    assert name not in red(old, lake, instance, days[1])
