"""The event log with kept connections is Dagster's own on disk."""

from pathlib import Path

import dagster as dg

from convo_pipeline.orchestration.event_log import KeptEventLog
from convo_pipeline.orchestration.instance import make_home, open_home

KEY = dg.AssetKey("messages")


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
