"""The code location: its definitions, and that a wrong configuration still loads."""

import importlib
import os
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from convo_pipeline import schema
from convo_pipeline.orchestration.alerts import read_failure
from convo_pipeline.orchestration.assets import extract_run_config, normalise_run_config
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment, read_deployment
from convo_pipeline.orchestration.metadata import preview
from convo_pipeline.orchestration.names import UNPREFIXED
from convo_pipeline.orchestration.nights import nightly_windows
from convo_pipeline.orchestration.partitions import RANGE_END, RANGE_START
from convo_pipeline.orchestration.schedules import follow_up
from convo_pipeline.settings import Settings, parse_settings
from convo_pipeline.state.records import Run
from convo_pipeline.state.state import State

CONFIG = """
[store]
root = "{root}"
[[accounts]]
name = "zoo-instagram"
page_id = "1"
platform = "instagram"
token_env = "ZOO_TOKEN"
start_date = "2026-01-05"
[[accounts]]
name = "ark-messenger"
page_id = "2"
platform = "messenger"
token_env = "ARK_TOKEN"
start_date = "2026-01-01"
"""
RAW = ["raw_conversations", "raw_message_ids", "raw_message_details", "raw_rejects"]
NORMALISED = [
    "conversation_days",
    "participant_days",
    "messages",
    "attachments",
    "shares",
    "reactions",
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse_settings(CONFIG.format(root=tmp_path).encode())


def asset_nodes(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_asset_keys_are_pinned(settings: Settings) -> None:
    nodes = asset_nodes(build_definitions(Deployment(settings)))
    assert sorted(nodes) == sorted(
        [*RAW, *NORMALISED, "coverage", "account_days", "inboxes", "overview"]
    )


def test_raw_assets_are_chained_and_derived_assets_follow(settings: Settings) -> None:
    nodes = asset_nodes(build_definitions(Deployment(settings)))
    deps = {
        name: sorted(dep.asset_key.to_user_string() for dep in node.deps)
        for name, node in nodes.items()
    }
    assert deps == {
        "inboxes": [],
        "raw_conversations": ["inboxes"],
        "raw_message_ids": ["raw_conversations"],
        "raw_message_details": ["raw_message_ids"],
        "raw_rejects": ["inboxes"],
        **{name: ["raw_message_details"] for name in NORMALISED},
        "coverage": ["messages", "raw_rejects"],
        "account_days": ["messages"],
        "overview": ["account_days", "coverage"],
    }


def test_every_asset_has_group_description_and_columns(settings: Settings) -> None:
    nodes = asset_nodes(build_definitions(Deployment(settings)))
    del nodes["inboxes"], nodes["overview"]
    for name, node in nodes.items():
        table = schema.TABLES[name]
        assert node.group_name == table.layer
        assert node.description == table.description
        assert "parquet" in node.kinds
        assert ("pii" in node.tags) == (name not in ("coverage", "account_days"))
        folder = Path(settings.store.root).resolve() / name
        assert node.metadata["dagster/uri"] == folder.as_uri()
        columns = node.metadata["dagster/column_schema"].columns
        assert [column.name for column in columns] == ["account", "date", *table.column_names]
        assert all(column.description for column in columns)


def test_inboxes_are_an_external_asset_with_a_partition_and_a_link_for_each_account(
    settings: Settings,
) -> None:
    definitions = build_definitions(Deployment(settings))
    inboxes = definitions.resolve_assets_def("inboxes")
    assert not inboxes.is_executable
    assert inboxes.partitions_def == dg.StaticPartitionsDefinition(
        ["zoo-instagram", "ark-messenger"]
    )
    description = asset_nodes(definitions)["inboxes"].description or ""
    assert (
        "| zoo-instagram | instagram | [1](https://www.facebook.com/1) | 2026-01-05 | UTC |"
        in description.splitlines()
    )
    graph = definitions.resolve_asset_graph()
    parents = graph.get_parent_partition_keys_for_child(
        "ark-messenger|2026-01-09", dg.AssetKey("inboxes"), dg.AssetKey("raw_conversations")
    )
    assert parents.partitions_subset.get_partition_keys() == {"ark-messenger"}


def test_owners_and_tags_come_from_the_settings(tmp_path: Path) -> None:
    own = '[dagster]\nowners = ["team:crm", "ops@example.org"]\npii_tag = "personal"\n'
    text = CONFIG.format(root=tmp_path) + own
    nodes = asset_nodes(build_definitions(Deployment(parse_settings(text.encode()))))
    assert all(list(node.owners) == ["team:crm", "ops@example.org"] for node in nodes.values())
    tags = {
        name: {key: value for key, value in node.tags.items() if not key.startswith("dagster/")}
        for name, node in nodes.items()
    }
    assert tags["messages"] == tags["inboxes"] == {"personal": "true"}
    assert tags["coverage"] == {}


def test_lineage_follows_translated_keys(settings: Settings) -> None:
    def translate(spec: dg.AssetSpec, table: schema.Table) -> dg.AssetSpec:
        return spec.replace_attributes(key=["crm", table.name])

    nodes = asset_nodes(build_definitions(Deployment(settings), translation=translate))
    lineage = nodes["crm/messages"].metadata["dagster/column_lineage"].deps_by_column
    assert lineage["text"] == [
        dg.TableColumnDep(dg.AssetKey(["crm", "raw_message_details"]), "payload")
    ]


def test_partitions_are_accounts_and_days_since_the_first_start(settings: Settings) -> None:
    partitions = (
        build_definitions(Deployment(settings)).resolve_assets_def("messages").partitions_def
    )
    assert partitions is not None
    keys = set(partitions.get_partition_keys())
    today = datetime.now(UTC).date()
    assert {
        "zoo-instagram|2026-01-01",
        "ark-messenger|2026-01-01",
        f"ark-messenger|{today}",
    } <= keys
    assert len(keys) == 2 * ((today - date(2026, 1, 1)).days + 1)


@pytest.mark.parametrize(
    "text", [None, "not toml", "[graph]\nspeed = 1\n", "[graph]\nversion = 'v26.0'\n"]
)
def test_c14_a_wrong_configuration_loads_and_shows_the_problem(
    text: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "convo.toml"
    if text is not None:
        file.write_text(text)
    deployment = read_deployment({"CONVO_CONFIG": str(file)})
    definitions = build_definitions(deployment)
    dg.Definitions.validate_loadable(definitions)
    assert deployment.problem
    assert str(file) in deployment.problem
    nodes = asset_nodes(definitions)
    assert all(deployment.problem in (node.description or "") for node in nodes.values())
    result = (
        definitions.resolve_implicit_global_asset_job_def()
        .get_subset(asset_selection={dg.AssetKey("configuration")})
        .execute_in_process(raise_on_error=False)
    )
    (event,) = [event for event in result.all_events if event.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert told is not None
    assert told.description == f"{deployment.problem}; then reload the code location"


def test_a_wrong_configuration_is_a_failed_run_and_an_alert(tmp_path: Path) -> None:
    """The nightly schedule starts a run that fails. The valid sections are used."""
    file = tmp_path / "convo.toml"
    file.write_text(
        f'[store]\nroot = "{tmp_path / "lake"}"\n[alerts]\nwebhook_env = "HOOK"\n'
        '[[accounts]]\nname = "bakery"\npage_id = "1"\nplatform = "messenger"\n'
        'token_env = "BAKERY_TOKEN"\nstart_date = "2026-01-01"\ntimezone = "Mars/Base"\n'
    )
    environ = {"CONVO_CONFIG": str(file), "HOOK": "http://127.0.0.1:9/hook"}
    deployment = read_deployment(environ)
    problem = deployment.problem or ""
    assert "timezone" in problem
    repository = build_definitions(deployment).get_repository_def()
    night = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 1, 3, 0, 15, tzinfo=UTC)
    )
    for name in ("nightly", "sweep"):
        schedule = repository.get_schedule_def(name)
        assert schedule.job_name == "configuration_job"
        (request,) = schedule.evaluate_tick(night).run_requests or ()
        assert request.partition_key is None
    told = repository.get_sensor_def("wrong_configuration")
    assert told.default_status is dg.DefaultSensorStatus.RUNNING
    sooner = repository.get_sensor_def("capture_sooner")
    with dg.DagsterInstance.ephemeral() as instance:
        requests = [
            told.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests or ()
            for _ in range(2)
        ]
        assert len({request.run_key for (request,) in requests}) == 1
        tick = sooner.evaluate_tick(dg.build_sensor_context(instance=instance))
        assert tick.skip_message == problem
        for name in ("configuration_job", "upkeep_job", "capture_job"):
            job = repository.get_job(name)
            result = job.execute_in_process(instance=instance, raise_on_error=False)
            assert not result.success
            failure = read_failure(deployment, instance, result.dagster_run)
            assert failure is not None
            assert failure.lines == (f"{problem}; then reload the code location",)
    alert = repository.get_sensor_def("alert")
    assert alert.default_status is dg.DefaultSensorStatus.RUNNING
    assert not (tmp_path / "lake").exists()


def test_nightly_requests_one_run_of_all_accounts(settings: Settings) -> None:
    repository = build_definitions(Deployment(settings)).get_repository_def()
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 1, 3, 0, 15, tzinfo=UTC)
    )
    data = repository.get_schedule_def("nightly").evaluate_tick(context)
    (request,) = data.run_requests
    assert request.tags[RANGE_START] == "zoo-instagram|2026-01-01"
    assert request.tags[RANGE_END] == "ark-messenger|2026-01-02"
    assert request.run_config == {"ops": {"extract": {"config": {"mode": "nightly"}}}}


def test_a_sweep_requests_the_last_thirty_days(settings: Settings) -> None:
    repository = build_definitions(Deployment(settings)).get_repository_def()
    schedule = repository.get_schedule_def("sweep")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    spans = {}
    for day in (
        datetime(2026, 1, 1, 1, 30, tzinfo=UTC),
        datetime(2026, 1, 4, 1, 30, tzinfo=UTC),
        datetime(2026, 6, 7, 1, 30, tzinfo=UTC),
    ):
        data = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=day))
        tags = [request.tags for request in data.run_requests or ()]
        configs = [request.run_config for request in data.run_requests or ()]
        assert all(each == extract_run_config(UNPREFIXED, "full") for each in configs)
        spans[day.date()] = [(each[RANGE_START], each[RANGE_END]) for each in tags]
    assert spans == {
        date(2026, 1, 1): [],
        date(2026, 1, 4): [("zoo-instagram|2026-01-01", "ark-messenger|2026-01-03")],
        date(2026, 6, 7): [("zoo-instagram|2026-05-08", "ark-messenger|2026-06-06")],
    }


def test_each_account_starts_its_night_at_its_oldest_incomplete_day(
    settings: Settings, tmp_path: Path
) -> None:
    """An account without a complete run widens no other account's night."""
    state = State(tmp_path / "state.db")
    today = date(2026, 2, 20)

    def starts() -> dict[str, date]:
        windows = nightly_windows(settings, settings.accounts, today, state)
        assert {window.until for window in windows.values()} == {today}
        return {name: window.since for name, window in windows.items()}

    zoo, ark = "zoo-instagram", "ark-messenger"
    oldest, recheck = date(2026, 1, 21), date(2026, 2, 18)
    assert starts() == {zoo: oldest, ark: oldest}
    until, night = date(2026, 2, 15), datetime(2026, 2, 15, 1, tzinfo=UTC)
    state.save_run(swept(1, zoo, date(2026, 1, 5), until, night))
    assert starts() == {zoo: until, ark: oldest}
    state.save_run(replace(swept(2, zoo, until, today, night), kind="find"))
    state.save_run(replace(swept(3, zoo, until, today, night), kind="capture"))
    assert starts() == {zoo: until, ark: oldest}
    state.save_run(swept(4, zoo, until, today, datetime(2026, 2, 17, 12, tzinfo=UTC)))
    assert starts() == {zoo: date(2026, 2, 17), ark: oldest}
    state.save_run(swept(5, zoo, date(2026, 2, 17), today, datetime(2026, 2, 20, 1, tzinfo=UTC)))
    assert starts() == {zoo: recheck, ark: oldest}
    state.close()


def swept(number: int, account: str, since: date, until: date, started_at: datetime) -> Run:
    return Run(str(number), account, "window", started_at, since, until, started_at, "complete")


def test_nightly_waits_for_the_end_of_the_first_day(settings: Settings) -> None:
    assert nightly_windows(settings, settings.accounts, date(2026, 1, 1), None) == {}


def make_run(
    job: str, status: dg.DagsterRunStatus, assets: list[str] | None, tags: dict[str, str]
) -> dg.DagsterRun:
    selection = frozenset(map(dg.AssetKey, assets)) if assets else None
    return dg.DagsterRun(
        job_name=job, run_id="r1", status=status, asset_selection=selection, tags=tags
    )


ONE = {"dagster/partition": "a|2026-01-01"}
SPAN = {RANGE_START: "a|2026-01-01", RANGE_END: "b|2026-01-03"}
GOOD, BAD = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    ("run", "tags"),
    [
        (make_run("extract_job", GOOD, None, SPAN), SPAN),
        (make_run("extract_job", BAD, None, SPAN), SPAN),
        (
            make_run("__ASSET_JOB", GOOD, RAW, ONE),
            {RANGE_START: "a|2026-01-01", RANGE_END: "a|2026-01-01"},
        ),
        (make_run("__ASSET_JOB", BAD, [*RAW, *NORMALISED, "coverage", "account_days"], SPAN), SPAN),
        (
            make_run("__ASSET_JOB", GOOD, [*RAW, *NORMALISED, "coverage", "account_days"], SPAN),
            None,
        ),
        (make_run("__ASSET_JOB", GOOD, ["messages"], SPAN), None),
        (make_run("normalise_job", GOOD, None, SPAN), None),
        (make_run("capture_job", BAD, None, {}), None),
    ],
)
def test_normalise_follows_every_extract_only(
    run: dg.DagsterRun, tags: dict[str, str] | None
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        answer = follow_up(UNPREFIXED, instance, run)
    if tags is None:
        assert isinstance(answer, dg.SkipReason)
    else:
        assert isinstance(answer, dg.RunRequest)
        assert (answer.run_key, dict(answer.tags)) == ("r1", tags)
        assert answer.run_config == normalise_run_config(UNPREFIXED, "changed")


def test_previews_hold_no_text_name_or_full_id() -> None:
    for table in schema.TABLES.values():
        secret = "secret-of-a-customer@example.org/https"
        row = {
            column.name: secret if column.type in (schema.TEXT,) else None
            for column in table.columns
        }
        harmless = {
            "platform",
            "direction",
            "content_type",
            "detail_status",
            "created_at_source",
            "kind",
            "problem",
        }
        row |= {
            name: "word"
            for name in harmless | {"folder", "story_kind", "share_type", "mime_type"}
            if name in row
        }
        content = pa.Table.from_pylist([row], schema=loose(table))
        assert secret not in str(preview(table, content))


def test_a_preview_shows_times() -> None:
    row = {"message_id": "m1", "created_at": datetime(2026, 11, 29, 8, 30, tzinfo=UTC)}
    rows = pa.Table.from_pylist([row], schema=loose(schema.MESSAGES))
    (record,) = preview(schema.MESSAGES, rows).records
    assert record.data["created_at"] == "2026-11-29 08:30:00"


def loose(table: schema.Table) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in table.schema])


def test_importing_the_code_location_keeps_the_umask() -> None:
    before = os.umask(0o022)
    os.umask(before)
    importlib.reload(importlib.import_module("convo_pipeline.definitions"))
    assert os.umask(before) == before
