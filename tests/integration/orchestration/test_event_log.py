"""The event log with kept connections is Dagster's own on disk."""

import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from convo_pipeline.orchestration.event_log import KeptEventLog
from convo_pipeline.orchestration.instance import make_home, open_home

KEY = dg.AssetKey("messages")
TIMES_OF_INSERTION = ("create_timestamp", "migration_completed")


def store(instance: dg.DagsterInstance, partition: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(KEY, partition=partition, metadata={"rows": 1})
    )


def test_both_storages_read_the_same_files(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    with open_home(home) as kept, dg.DagsterInstance.from_config(str(home)) as stock:
        for number, instance in enumerate((kept, stock, kept, stock)):
            store(instance, f"bakery|2026-03-0{number + 1}")
        assert kept.get_materialized_partitions(KEY) == stock.get_materialized_partitions(KEY)
        assert len(stock.get_materialized_partitions(KEY)) == 4


@dg.multi_asset(
    specs=[dg.AssetSpec("messages"), dg.AssetSpec("shares")],
    check_specs=[dg.AssetCheckSpec("is_whole", asset="messages")],
    partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]),
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def tables(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
    """Write each kind of event that a run of ours writes."""
    context.log_event(dg.AssetObservation("shares", partition="a", tags={"day": "1"}))
    yield dg.MaterializeResult(asset_key="messages", metadata={"rows": 1})
    yield dg.AssetCheckResult(asset_key="messages", check_name="is_whole", passed=True)
    yield dg.MaterializeResult(asset_key="shares")


def read_tables(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of the index and of the runs, without the times of insertion."""
    rows: dict[str, list[tuple[object, ...]]] = {}
    for path in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (name,) in names.fetchall():
                table = connection.execute(f"SELECT * FROM {name}")
                columns = [column[0] for column in table.description]
                kept = [i for i, each in enumerate(columns) if each not in TIMES_OF_INSERTION]
                is_cache = name in ("asset_keys", "asset_check_executions")
                kept = kept[1:] if is_cache else kept  # failed insertions of Dagster use up ids
                rows[f"{path.stem}.{name}"] = sorted(
                    (tuple(row[i] for i in kept) for row in table.fetchall()), key=str
                )
    return rows


def test_a_batch_writes_the_rows_of_dagsters_own_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    with open_home(make_home(tmp_path / "ours")) as instance:
        result = dg.materialize([tables], instance=instance, tags=tags)
        events = instance.all_logs(result.run_id)
    assert "Falling back to storing multiple single-event" not in capsys.readouterr().err
    stock = SqliteEventLogStorage(str(tmp_path / "stock"))
    for event in events:
        stock.store_event(event)
    assert read_tables(tmp_path / "ours" / "history" / "runs") == read_tables(tmp_path / "stock")


def test_connections_stay_open_until_the_instance_closes(tmp_path: Path) -> None:
    with open_home(make_home(tmp_path)) as instance:
        log = instance.event_log_storage
        assert isinstance(log, KeptEventLog)
        store(instance, "bakery|2026-03-01")
        before = dict(log._engines)
        store(instance, "bakery|2026-03-02")
        assert log._engines == before
    assert log._engines == {}


def test_only_the_index_and_the_last_run_stay_open(tmp_path: Path) -> None:
    with open_home(make_home(tmp_path)) as instance:
        log = instance.event_log_storage
        assert isinstance(log, KeptEventLog)
        for run_id in ("first", "second", "third"):
            log.get_logs_for_run(run_id)
        assert set(log._engines) <= {"index", "third"}


def test_a_home_with_another_storage_keeps_it(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    configured = (
        "module: dagster._core.storage.event_log\n  class: ConsolidatedSqliteEventLogStorage\n"
    )
    (home / "dagster.yaml").write_text(
        f"event_log_storage:\n  {configured}  config:\n    base_dir: {home}/events\n"
    )
    with open_home(home) as instance:
        assert type(instance.event_log_storage).__name__ == "ConsolidatedSqliteEventLogStorage"
