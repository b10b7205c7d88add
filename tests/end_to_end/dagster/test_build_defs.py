"""`build_defs`: definitions that fit into the code location of another project."""

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline import schema
from convo_pipeline.dagster import ConvoLake, build_defs
from convo_pipeline.errors import SettingsError
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import Names, is_ours
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.recorded_runs import run_jobs
from convo_pipeline.query.connection import connect
from convo_pipeline.schema import Table
from convo_pipeline.settings import read_settings

CONFIG = """
[store]
root = "{root}"
[[accounts]]
name = "bakery"
page_id = "1"
platform = "instagram"
token_env = "TOKEN"
start_date = "2026-01-05"
"""
PREFIX = ["my-shop", "inbox"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "convo.toml"
    file.write_text(CONFIG.format(root=tmp_path / "lake"))
    return file


def foreign_project() -> dg.Definitions:
    """Return a project whose names collide with ours where a prefix is missing."""

    @dg.asset
    def messages() -> None: ...

    @dg.asset
    def nightly() -> None: ...

    @dg.op
    def extract() -> None: ...

    @dg.job
    def extract_job() -> None:
        extract()

    @dg.schedule(job=extract_job, cron_schedule="0 0 * * *", name="upkeep")
    def upkeep() -> None: ...

    return dg.Definitions(
        assets=[messages, nightly],
        jobs=[extract_job],
        schedules=[upkeep],
        executor=dg.multiprocess_executor,
    )


def test_everything_has_the_prefix_and_fits_beside_equal_names(config: Path) -> None:
    merged = dg.Definitions.merge(foreign_project(), build_defs(config, key_prefix=PREFIX))
    dg.Definitions.validate_loadable(merged)
    repository = merged.get_repository_def()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    ours = {f"my-shop/inbox/{name}" for name in (*schema.TABLES, "inboxes", "overview")}
    assert keys == {"messages", "nightly"} | ours
    named = {
        *(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        *(schedule.name for schedule in repository.schedule_defs),
        *(sensor.name for sensor in repository.sensor_defs),
    } - {"extract_job", "upkeep"}
    assert {name for name in named if not name.startswith("my_shop_inbox_")} == set()
    assert len(named) == 4 + 4 + 5
    assert repository.asset_graph.asset_check_keys
    assert {key.asset_key.path[0] for key in repository.asset_graph.asset_check_keys} == {"my-shop"}


def test_one_project_mounts_two_configurations(config: Path) -> None:
    merged = dg.Definitions.merge(build_defs(config, key_prefix="a"), build_defs(config))
    dg.Definitions.validate_loadable(merged)
    assert len(list(merged.resolve_all_asset_specs())) == 2 * (len(schema.TABLES) + 2)


def test_it_has_no_executor_and_no_schedules_if_they_are_left_out(config: Path) -> None:
    definitions = build_defs(config, schedules=False)
    assert definitions.executor is None
    repository = definitions.get_repository_def()
    assert list(repository.schedule_defs) == []
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        "extract_job",
        "normalise_job",
        "capture_job",
        "upkeep_job",
    }


def test_included_tables_come_with_the_tables_that_they_follow(config: Path) -> None:
    definitions = build_defs(config, include=["coverage"], group_name="inbox")
    dg.Definitions.validate_loadable(definitions)
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert specs.keys() == {
        "inboxes",
        "raw_conversations",
        "raw_message_ids",
        "raw_message_details",
        "raw_rejects",
        "messages",
        "coverage",
    }
    assert {spec.group_name for spec in specs.values()} == {"inbox"}


@pytest.mark.parametrize(
    ("include", "problem"),
    [(["mesages"], "there is no table 'mesages'"), (["raw_rejects"], "at least one derived table")],
)
def test_a_wrong_include_is_refused(config: Path, include: list[str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        build_defs(config, include=include)


def translate(spec: dg.AssetSpec, table: Table) -> dg.AssetSpec:
    """Move the derived tables to another key, with an owner."""
    if table.layer == "raw":
        return spec
    return spec.replace_attributes(key=["marts", table.name], owners=["team:data"])


def test_a_translation_moves_a_table_and_all_that_refers_to_it(config: Path) -> None:
    definitions = build_defs(config, key_prefix="inbox", translation=translate)
    dg.Definitions.validate_loadable(definitions)
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert specs["marts/messages"].owners == ["team:data"]
    deps = {dep.asset_key.to_user_string() for dep in specs["marts/coverage"].deps}
    assert deps == {"marts/messages", "inbox/raw_rejects"}
    graph = definitions.get_repository_def().asset_graph
    assert {key.asset_key.path[0] for key in graph.asset_check_keys} == {"marts", "inbox"}
    with pytest.raises(SettingsError, match="the same asset key"):
        build_defs(config, translation=lambda spec, _: spec.replace_attributes(key="all"))


@pytest.mark.slow
def test_the_configuration_can_name_the_translation(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded runs of the command line use the translated keys too."""
    (tmp_path / "shop_assets.py").write_text(
        "def translate(spec, table):\n"
        "    return spec.replace_attributes(key=['crm', table.name], owners=['team:crm'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = config.read_text()
    config.write_text(f'{text}\n[dagster]\ntranslation = "shop_assets:translate"\n')
    keys = build_defs(config).resolve_asset_graph().get_all_asset_keys()
    assert dg.AssetKey(["crm", "messages"]) in keys
    assert dg.AssetKey("messages") not in keys
    with dg.instance_for_test() as instance:
        window = Window(date(2026, 1, 5), date(2026, 1, 6))
        deployment = Deployment(read_settings(config), environ={})
        run_jobs(deployment, {"bakery": window}, instance, ("extract",))
        (run,) = instance.get_runs()
        planned = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        records = instance.get_records_for_run(run.run_id, of_type=planned).records
        assert {record.asset_key.path[0] for record in records if record.asset_key} == {"crm"}
    config.write_text(f'{text}\n[dagster]\ntranslation = "shop_assets:missing"\n')
    defs = build_defs(config)
    problem = next(iter(defs.resolve_all_asset_specs())).description or ""
    assert "dagster.translation: cannot import shop_assets:missing" in problem


def test_a_wrong_configuration_leaves_the_other_project_loadable(tmp_path: Path) -> None:
    file = tmp_path / "convo.toml"
    file.write_text('[schedule]\nnightly = "61 * * * *"\n')
    merged = dg.Definitions.merge(foreign_project(), build_defs(file, key_prefix="inbox"))
    dg.Definitions.validate_loadable(merged)
    specs = {spec.key.to_user_string(): spec for spec in merged.resolve_all_asset_specs()}
    assert "schedule.nightly: must be five cron fields" in str(
        specs["inbox/configuration"].description
    )


def test_only_runs_with_our_steps_are_ours(config: Path) -> None:
    """A job of the user that contains a table of ours is ours, another one is not."""
    names = Names(("inbox",))
    ours = build_defs(config, key_prefix="inbox")
    mixed = dg.define_asset_job(
        "mixed", selection=dg.AssetSelection.assets(["inbox", "messages"]), tags={}
    )
    other = dg.define_asset_job("other", selection=dg.AssetSelection.assets("messages"))
    merged = dg.Definitions.merge(
        foreign_project(), ours, dg.Definitions(jobs=[mixed, other], executor=None)
    )
    key = f"bakery|{datetime.now(UTC).date()}"
    with dg.DagsterInstance.ephemeral() as instance:
        found = {}
        for job, tags in (
            ("mixed", {"dagster/partition": key}),
            ("other", {}),
            ("extract_job", {}),
        ):
            result = merged.resolve_job_def(job).execute_in_process(
                instance=instance, tags=tags, raise_on_error=False
            )
            run = instance.get_run_by_id(result.run_id)
            assert run is not None
            found[job] = is_ours(names, instance, run)
    assert found == {"mixed": True, "other": False, "extract_job": False}


def test_the_resource_opens_the_tables(config: Path, tmp_path: Path) -> None:
    (tmp_path / "lake" / ".state").mkdir(parents=True)
    for lake in (ConvoLake(config=str(config)), ConvoLake(root=str(tmp_path / "lake"))):
        with lake.connect() as con, connect(tmp_path / "lake") as direct:
            sql = "select count(*) from messages"
            assert con.execute(sql).fetchone() == direct.execute(sql).fetchone() == (0,)
