"""Runs through Dagster, HTTP and disk: materialised and failed partitions, and row counts."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from convo_pipeline import schema
from convo_pipeline.derive.day import derive_day
from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.extract.run import Progress, extract
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.assets import partitions_of
from convo_pipeline.orchestration.capture import prune_idle_runs
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import make_home
from convo_pipeline.orchestration.names import EXTRACT_JOB, NORMALISE_JOB, UNPREFIXED
from convo_pipeline.orchestration.partitions import DESCRIBING_TAGS, Window, range_tags
from convo_pipeline.orchestration.recorded_runs import QUIET, run_jobs
from convo_pipeline.orchestration.steps import BEFORE_START, UNREAD
from convo_pipeline.reasons import REASONS
from convo_pipeline.settings import Settings
from tests.support.inbox_runs import definitions_of
from tests.support.inbox_worlds import (
    TOKENS,
    Days,
    message_counts,
    small_settings,
    small_world,
    three_days,
)
from tests.support.paths import PACKAGE

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
ALL = [BAKERY, BIKES]
RAW = [table.name for table in schema.RAW]
DERIVED = [table.name for table in schema.DERIVED]


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture
def server(days: Days) -> Iterator[EmulatorServer]:
    with EmulatorServer(small_world(days)) as server:
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def settings(tmp_path: Path, server: EmulatorServer, days: Days) -> Settings:
    return small_settings(tmp_path, server, days.start)


@pytest.fixture
def deployment(settings: Settings) -> Deployment:
    return Deployment(settings, environ=TOKENS)


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, days: Days
) -> Iterator[tuple[Deployment, dg.DagsterInstance]]:
    """Extract and normalise both accounts, for tests that change nothing."""
    with EmulatorServer(small_world(days)) as server, dg.DagsterInstance.ephemeral() as instance:
        settings = small_settings(tmp_path_factory.mktemp("whole"), server, days.start)
        deployment = Deployment(settings, environ=TOKENS)
        for job in (EXTRACT_JOB, NORMALISE_JOB):
            assert run(deployment, instance, job, ALL, Window(days[0], days.today)).success
        yield deployment, instance


def run(
    deployment: Deployment,
    instance: dg.DagsterInstance,
    job: str,
    accounts: list[str],
    window: Window,
) -> dg.ExecuteInProcessResult:
    definitions = definitions_of(deployment)
    tags = range_tags(accounts, window)
    return definitions.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, tags=tags, run_config=QUIET
    )


def counts(instance: dg.DagsterInstance, table: str) -> dict[str, int]:
    """Return the row count of each materialised partition, as the page shows it."""
    records = instance.fetch_materializations(dg.AssetKey(table), limit=1000).records
    newest_first = [record.asset_materialization for record in records]
    return {
        str(event.partition): int(str(event.metadata["dagster/partition_row_count"].value))
        for event in reversed(newest_first)
        if event is not None
    }


def observed(instance: dg.DagsterInstance, table: str) -> dict[str, tuple[object, object]]:
    """Return row count and note of each partition that was only observed."""
    records = instance.fetch_observations(dg.AssetKey(table), limit=1000).records
    events = [record.asset_observation for record in reversed(records)]
    return {
        str(event.partition): tuple(
            event.metadata[name].value if name in event.metadata else None
            for name in ("dagster/partition_row_count", "note")
        )
        for event in events
        if event is not None
    }  # type: ignore[return-value]


def fill(settings: Settings, store: Store, days: Days) -> None:
    """Extract both accounts without Dagster."""
    reports = extract(settings, store, ALL, days[0], days.today, environ=TOKENS)
    assert [report.outcome for report in reports] == ["complete", "complete"]


def status(
    deployment: Deployment, instance: dg.DagsterInstance, table: str
) -> tuple[set[str], set[str]]:
    """Return the materialised and the failed partitions."""
    partitions = partitions_of(deployment.settings)
    found = instance.get_status_by_partition(
        dg.AssetKey(table), partitions.get_partition_keys(), partitions
    )
    assert found is not None
    words = {key: word.value for key, word in found.items() if word is not None}
    return {key for key, word in words.items() if word == "MATERIALIZED"}, {
        key for key, word in words.items() if word == "FAILED"
    }


def failure(result: dg.ExecuteInProcessResult) -> tuple[str, list[str]]:
    """Return the text of the failed step, and the accounts that it names."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert told is not None
    return told.description or "", list(told.metadata["accounts"].value)  # type: ignore[call-overload]


def files(settings: Settings) -> dict[str, tuple[int, int]]:
    """Return every Parquet file of the tables with its time of change and inode."""
    root = Path(settings.store.root)
    found = [path for table in schema.TABLES for path in sorted((root / table).rglob("*.parquet"))]
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in found
    }


def test_one_partition_is_materialised_with_its_row_count(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    window = Window(days[1], days[2])
    assert run(deployment, instance, EXTRACT_JOB, [BAKERY], window).success
    assert run(deployment, instance, NORMALISE_JOB, [BAKERY], window).success
    key = f"{BAKERY}|{days[1]}"
    assert counts(instance, "raw_message_details")[key] == 4
    assert counts(instance, "messages")[key] == 4
    assert counts(instance, "conversation_days")[key] == 2
    assert counts(instance, "coverage")[key] == 1


def test_a_range_is_every_account_and_day(
    whole: tuple[Deployment, dg.DagsterInstance], days: Days
) -> None:
    deployment, instance = whole
    assert counts(instance, "messages") == message_counts(days)
    for table in (*RAW, *DERIVED):
        assert status(deployment, instance, table) == (set(message_counts(days)), set())
    newest = instance.get_latest_materialization_event(dg.AssetKey("messages"))
    assert newest is not None
    assert newest.asset_materialization is not None
    total = newest.asset_materialization.metadata["dagster/row_count"].value
    assert total == sum(message_counts(days).values()), "the asset shows the rows of the table"


def test_the_launchpad_offers_modes_and_names_them_for_a_wrong_one(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    """The mode `all` reads from the start date: one selected day stores the earlier ones too."""
    job = definitions_of(deployment).resolve_job_def(EXTRACT_JOB)
    tags = range_tags([BAKERY], Window(days[1], days[2]))
    config = {"ops": {"extract": {"config": {"mode": "all", "calls_per_second": 500.0}}}}
    result = job.execute_in_process(instance=instance, tags=tags, run_config=QUIET | config)
    assert result.success
    stored = {f"{BAKERY}|{day}" for day in (days[0], days[1])}
    assert set(counts(instance, "raw_message_ids")) >= stored
    wrong = {"ops": {"extract": {"config": {"mode": "everything"}}}}
    with pytest.raises(
        dg.DagsterInvalidConfigError, match="ModeChoice_selected_all_nightly_full got everything"
    ):
        job.execute_in_process(instance=instance, tags=tags, run_config=QUIET | wrong)


def test_days_that_no_run_has_read_stay_missing(
    deployment: Deployment, instance: dg.DagsterInstance, server: EmulatorServer, days: Days
) -> None:
    """Today's run stores older messages too: their days are observed, and missing until read."""
    for conversation in list(server.world.accounts[BAKERY].conversations.values())[:1]:
        conversation.add_message("one more today")
    today = Window(days.today, days.today.fromordinal(days.today.toordinal() + 1))
    for job in (EXTRACT_JOB, NORMALISE_JOB):
        assert run(deployment, instance, job, [BAKERY], today).success
    for table in ("raw_message_ids", "messages", "coverage"):
        assert status(deployment, instance, table) == ({f"{BAKERY}|{days.today}"}, set())
        assert observed(instance, table)[f"{BAKERY}|{days[0]}"][1] == UNREAD
    assert counts(instance, "messages") == {f"{BAKERY}|{days.today}": 1}
    assert observed(instance, "messages")[f"{BAKERY}|{days[0]}"] == (2, UNREAD)
    unread = run(deployment, instance, NORMALISE_JOB, [BAKERY], Window(days[0], days[1]))
    assert unread.success, "its tables are derived, but the day stays missing"
    assert status(deployment, instance, "messages")[0] == {f"{BAKERY}|{days.today}"}
    logs = [entry.user_message for entry in instance.all_logs(unread.run_id)]
    assert sum(f"not read yet, so not green: {BAKERY}|{days[0]}" in line for line in logs) == 1
    missing = Window(days[0], days.today)
    for job in (EXTRACT_JOB, NORMALISE_JOB):
        assert run(deployment, instance, job, [BAKERY], missing).success
    every_day = {f"{BAKERY}|{day}" for day in (*missing.days, days.today)}
    for table in (*RAW, *DERIVED):
        assert status(deployment, instance, table) == (every_day, set())


def test_a_night_that_catches_up_makes_the_missing_days_green(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    """The first night failed. The next one reads its days too, beyond the days of the run."""
    broken = replace(deployment, environ=dict.fromkeys(TOKENS, "EAAwrongwrongwrongwrong"))
    night = Window(days[0], days[2])
    assert not run(broken, instance, EXTRACT_JOB, [BIKES], night).success
    assert run(broken, instance, NORMALISE_JOB, [BIKES], night).success
    assert status(deployment, instance, "messages") == (set(), set())
    windows = {BIKES: Window(days[2], days.today)}
    assert run_jobs(deployment, windows, instance, mode="nightly").is_complete
    every_day = {f"{BIKES}|{day}" for day in Window(days.start, days.today).days}
    for table in (*RAW, *DERIVED):
        assert status(deployment, instance, table) == (every_day, set())


def test_a_refused_account_fails_alone(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    window = Window(days[0], days[2])
    broken = replace(
        deployment, environ={**TOKENS, "BIKES_MESSENGER_TOKEN": "EAAwrongwrongwrongwrong"}
    )
    result = run(broken, instance, EXTRACT_JOB, ALL, window)
    assert not result.success
    text, accounts = failure(result)
    assert accounts == [BIKES]
    head, line = text.splitlines()
    assert head.endswith(" partitions were stored; 1 of 2 accounts are complete")
    assert line.startswith(f"{BIKES}: failed: the token is invalid, expired or revoked")
    assert line.endswith("then materialize the failed and missing partitions")
    assert "EAAwrong" not in str([event.message for event in result.all_events])
    logs = instance.all_logs(result.run_id)
    ours = [entry for entry in logs if not entry.is_dagster_event]
    assert [(entry.level, entry.user_message.split(",")[0]) for entry in ours] == [
        (logging.INFO, f"{BAKERY}: complete")
    ], "no failure is logged as information"
    assert "mismatch" not in str([entry.user_message for entry in logs])
    good, bad = ({f"{account}|{days[number]}" for number in (0, 1)} for account in ALL)
    for table in RAW:
        green, red = status(deployment, instance, table)
        assert red == bad
        assert good <= green


def test_the_failure_counts_what_an_incomplete_account_stored(
    deployment: Deployment, instance: dg.DagsterInstance, server: EmulatorServer, days: Days
) -> None:
    """The page must not read `nothing was stored` above rows of the same run."""
    bad, *_ = server.world.accounts[BIKES].conversations.values()
    bad.make_unreadable()
    result = run(deployment, instance, EXTRACT_JOB, [BIKES], Window(days[0], days.today))
    head, line = failure(result)[0].splitlines()
    with closing(Store(deployment.settings.store)) as store:
        stored_count = len(store.state.partitions(BIKES))
    assert stored_count > 0
    assert head == f"not complete: {BIKES}; {stored_count} partitions were stored"
    assert line == (
        f"{BIKES}: incomplete: one or more conversations could not be read. Nothing to do: "
        + REASONS["conversation_failed"].remedy_for()
    )


def test_a_defect_in_a_run_fails_its_account_alone(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    def stumble(progress: Progress) -> None:
        if progress.account == BIKES:
            raise RuntimeError(f"{TOKENS['BIKES_MESSENGER_TOKEN']} said hello")

    told = replace(deployment, on_progress=stumble)
    result = run_jobs(told, dict.fromkeys(ALL, Window(days[0], days[2])), instance)
    assert [report.outcome for report in result.reports] == ["complete", "failed"]
    (normalise_line,) = result.failures
    assert normalise_line.startswith(f"{BIKES}:")
    assert (
        "a defect of this program (RuntimeError in convo_pipeline/orchestration/" in normalise_line
    )
    assert "report this error" in normalise_line
    assert str(result.reports[1].error).startswith("RuntimeError in convo_pipeline/extract/")
    assert "said hello" not in str(
        [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id)]
    )
    green, red = status(deployment, instance, "raw_message_ids")
    assert (red, {f"{BAKERY}|{days[number]}" for number in (0, 1)} <= green) == (
        {f"{BIKES}|{days[number]}" for number in (0, 1)},
        True,
    )


def test_a_defect_in_derivation_fails_its_account_alone(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings, days: Days
) -> None:
    """The state has a row with an unreadable date."""
    window = Window(days[0], days.today)
    with closing(Store(settings.store)) as store:
        fill(settings, store, days)
        store.state.mark_suspect("messages", BIKES, "no date, said the customer", "nowhere")  # type: ignore[arg-type]
    text, accounts = failure(run(deployment, instance, NORMALISE_JOB, ALL, window))
    assert (
        accounts,
        "a defect of this program (ValueError in convo_pipeline/state/state.py" in text,
    ) == ([BIKES], True)
    assert "said the customer" not in str(
        [entry for each in instance.get_runs() for entry in instance.all_logs(each.run_id)]
    )
    good, bad = ({f"{account}|{days[number]}" for number in range(3)} for account in ALL)
    for table in ("messages", "coverage", "account_days"):
        assert status(deployment, instance, table) == (good, bad)


def test_failed_figures_leave_other_tables_materialised(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings, days: Days
) -> None:
    """A day before the requested ones is damaged, its size unchanged; the figures need it."""
    with closing(Store(settings.store)) as store:
        fill(settings, store, days)
        derive_day(store, BIKES, days[0])
    path = (
        Path(settings.store.root)
        / "messages"
        / f"account={BIKES}"
        / f"date={days[0]}"
        / "data.parquet"
    )
    path.write_bytes(b"x" * path.stat().st_size)
    asked = {account: {f"{account}|{days[number]}" for number in (1, 2)} for account in ALL}
    text, accounts = failure(
        run(deployment, instance, NORMALISE_JOB, ALL, Window(days[1], days.today))
    )
    assert (accounts, "is damaged and was set aside" in text) == ([BIKES], True)
    green, red = status(deployment, instance, "account_days")
    assert (red, asked[BAKERY] <= green) == (asked[BIKES], True)
    green, red = status(deployment, instance, "messages")
    assert (red, asked[BAKERY] | asked[BIKES] <= green) == (set(), True)


@pytest.mark.slow
def test_normalise_follows_a_partial_failure_and_a_retry_repairs_it(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    window = Window(days[0], days.today)
    without = {name: token for name, token in TOKENS.items() if name != "BIKES_MESSENGER_TOKEN"}
    text, _ = failure(run(replace(deployment, environ=without), instance, EXTRACT_JOB, ALL, window))
    assert "BIKES_MESSENGER_TOKEN is not set" in text
    assert run(deployment, instance, NORMALISE_JOB, ALL, window).success
    expected = message_counts(days)
    assert counts(instance, "messages") == {key: n for key, n in expected.items() if BAKERY in key}
    assert run(deployment, instance, EXTRACT_JOB, [BIKES], window).success
    assert run(deployment, instance, NORMALISE_JOB, [BIKES], window).success
    assert counts(instance, "messages") == expected
    assert status(deployment, instance, "raw_message_ids") == (set(expected), set())


def test_metadata_show_calls_and_missed_messages(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings, days: Days
) -> None:
    window = Window(days[0], days.today)
    run(deployment, instance, EXTRACT_JOB, ALL, window)
    first = cost(instance)
    assert (first["calls"], first["calls_refused"], "missed_before" in first) == (3, 0, False)
    assert (
        first["calls_saved"]
        == first["by_account"][0].data["saved"] + first["by_account"][1].data["saved"]
        > 30
    )
    with closing(Store(settings.store)) as store:
        store.shrink("raw_message_ids", BIKES, days[1], lambda rows: rows.slice(1))
    run_jobs(deployment, dict.fromkeys(ALL, window), instance, ["extract"], "full")
    swept = cost(instance)
    assert swept["missed_before"] == 1
    assert [row.data["missed before"] for row in swept["by_account"]] == [0, 1]


def cost(instance: dg.DagsterInstance) -> dict[str, Any]:
    """Return the metadata of the newest event that shows the calls of its run."""
    for record in instance.fetch_materializations(
        dg.AssetKey("raw_message_ids"), limit=100
    ).records:
        event = record.asset_materialization
        if event is not None and "calls" in event.metadata:
            values = {name: entry.value for name, entry in event.metadata.items()}
            return values | {"by_account": event.metadata["by_account"].records}  # type: ignore[attr-defined]
    raise AssertionError("no event tells what the run cost")


def test_c20_a_rerun_without_news_rewrites_no_file(
    whole: tuple[Deployment, dg.DagsterInstance], days: Days
) -> None:
    deployment, instance = whole
    before = files(deployment.settings)
    assert before
    for job in (EXTRACT_JOB, NORMALISE_JOB):
        assert run(deployment, instance, job, ALL, Window(days[0], days.today)).success
    assert files(deployment.settings) == before


def test_one_run_materialises_all_tables_of_a_partition(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    key = f"{BIKES}|{days[2]}"
    job = definitions_of(deployment).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, run_config=QUIET, partition_key=key)
    assert result.success
    started = instance.get_run_by_id(result.run_id)
    assert started is not None
    assert {started.tags[tag] for tag in DESCRIBING_TAGS} == {BIKES, str(days[2])}, (
        "the list of runs tells account and day"
    )
    logs = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "mismatch" not in str(logs)
    assert {
        table: counts(instance, table)[key]
        for table in ("raw_conversations", "messages", "coverage")
    } == {"raw_conversations": 3, "messages": 9, "coverage": 1}


def test_a_subset_of_tables_can_be_materialised(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    key = f"{BIKES}|{days[0]}"
    job = definitions_of(deployment).resolve_implicit_global_asset_job_def()
    for table in ("raw_conversations", "messages"):
        subset = job.get_subset(asset_selection={dg.AssetKey(table)})
        assert subset.execute_in_process(
            instance=instance, run_config=QUIET, partition_key=key
        ).success
    assert counts(instance, "messages")[key] == 3
    assert counts(instance, "raw_message_details")[key] == 3


def test_days_before_the_start_date_are_not_requested(
    deployment: Deployment, instance: dg.DagsterInstance, days: Days
) -> None:
    bakery, bikes = deployment.settings.accounts
    later = bakery.model_copy(update={"start_date": days[2]})
    settings = deployment.settings.model_copy(update={"accounts": (later, bikes)})
    late = replace(deployment, settings=settings)
    assert run(late, instance, EXTRACT_JOB, ALL, Window(days[1], days.today)).success
    assert counts(instance, "raw_message_ids") == {
        f"{BIKES}|{days[1]}": 6,
        f"{BIKES}|{days[2]}": 9,
        f"{BAKERY}|{days[1]}": 0,
        f"{BAKERY}|{days[2]}": 6,
    }
    assert observed(instance, "raw_message_ids") == {f"{BIKES}|{days[0]}": (3, UNREAD)}
    records = instance.fetch_materializations(dg.AssetKey("raw_message_ids"), limit=1000).records
    notes = {
        record.partition_key: record.asset_materialization.metadata["note"].value
        for record in records
        if record.asset_materialization and "note" in record.asset_materialization.metadata
    }
    assert notes == {f"{BAKERY}|{days[1]}": BEFORE_START}
    result = run(late, instance, EXTRACT_JOB, [BAKERY], Window(days[0], days[1]))
    assert not result.success


def test_a_damaged_file_fails_its_account_alone(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings, days: Days
) -> None:
    window = Window(days[0], days.today)
    with closing(Store(settings.store)) as store:
        fill(settings, store, days)
    place = (
        Path(settings.store.root) / "raw_message_details" / f"account={BIKES}" / f"date={days[1]}"
    )
    (place / "data.parquet").write_bytes(b"not parquet")
    result = run(deployment, instance, NORMALISE_JOB, ALL, window)
    text, accounts = failure(result)
    assert accounts == [BIKES]
    assert str(days[1]) in text
    green, red = status(deployment, instance, "messages")
    assert red == {f"{BIKES}|{days[1]}"}
    assert green == set(message_counts(days)) - red


def test_an_unwritable_root_is_named_in_the_error(
    deployment: Deployment, instance: dg.DagsterInstance, tmp_path: Path, days: Days
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = deployment.settings.store.model_copy(update={"root": str(tmp_path / "file" / "lake")})
    settings = deployment.settings.model_copy(update={"store": store})
    result = run(
        replace(deployment, settings=settings),
        instance,
        EXTRACT_JOB,
        [BAKERY],
        Window(days[0], days[1]),
    )
    (event,) = [event for event in result.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert told is not None
    assert str(tmp_path / "file") in (told.description or "")


def test_a_capture_reports_only_changed_partitions(
    deployment: Deployment, instance: dg.DagsterInstance, server: EmulatorServer, days: Days
) -> None:
    """A capture reads no whole day: its partitions are observed and stay missing."""
    job = definitions_of(deployment).resolve_job_def("capture_job")
    assert job.execute_in_process(instance=instance, run_config=QUIET).success
    conversation = next(iter(server.world.accounts[BIKES].conversations.values()))
    assert changed_partitions(job.execute_in_process(instance=instance, run_config=QUIET)) == []
    conversation.add_message("are you still open?")
    changed = changed_partitions(job.execute_in_process(instance=instance, run_config=QUIET))
    assert {key for _, key in changed} == {f"{BIKES}|{days.today}"}
    assert {"raw_message_details", "messages", "coverage"} <= {table for table, _ in changed}
    for table in (*RAW, *DERIVED):
        assert counts(instance, table) == {}


def changed_partitions(result: dg.ExecuteInProcessResult) -> list[tuple[str, str]]:
    """Return table and partition of the observations of a run; it has no materialisation."""
    assert not any(event.is_step_materialization for event in result.all_events)
    seen = [
        event.asset_observation_data.asset_observation
        for event in result.all_events
        if event.is_asset_observation
    ]
    return [(each.asset_key.to_user_string(), str(each.partition)) for each in seen]


@pytest.mark.slow
def test_idle_captures_are_deleted_with_their_files(
    deployment: Deployment, tmp_path: Path, days: Days
) -> None:
    home = make_home(tmp_path / "home")
    job = definitions_of(deployment).resolve_job_def("capture_job")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        first, second = (
            job.execute_in_process(instance=instance, run_config=QUIET).run_id for _ in range(2)
        )
        assert prune_idle_runs(instance, UNPREFIXED, datetime.now(UTC) - timedelta(days=1)) == 0
        assert prune_idle_runs(instance, UNPREFIXED, datetime.now(UTC) + timedelta(days=1)) == 1
        assert [run.run_id for run in instance.get_runs()] == [first]
        assert [path for path in home.rglob("*") if second in path.name] == []
        assert observed(instance, "messages")[f"{BIKES}|{days[2]}"] == (9, UNREAD)


def test_a_capture_skips_a_locked_account_and_fails_for_a_refused_one(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings
) -> None:
    broken = replace(
        deployment, environ={**TOKENS, "BIKES_MESSENGER_TOKEN": "EAAwrongwrongwrongwrong"}
    )
    job = definitions_of(broken).resolve_job_def("capture_job")
    with closing(Store(settings.store)) as store, store.lock_account(BIKES):
        assert job.execute_in_process(
            instance=instance, run_config=QUIET, raise_on_error=False
        ).success
    text, accounts = failure(
        job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)
    )
    assert accounts == [BIKES]
    assert BAKERY not in text


def test_no_module_with_assets_postpones_its_annotations() -> None:
    folder = PACKAGE
    for file in [*(folder / "orchestration").glob("*.py"), folder / "definitions.py"]:
        assert "import annotations" not in file.read_text().replace(
            "No `from __future__ import annotations`", ""
        )
