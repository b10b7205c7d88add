"""All Dagster definitions of one deployment: assets, checks, jobs, schedules, sensors."""

from collections.abc import Collection
from dataclasses import replace

import dagster as dg

from convo_pipeline.orchestration.alerts import build_alert
from convo_pipeline.orchestration.assets import (
    AssetJob,
    Translation,
    build_extract,
    build_extract_job,
    build_normalise,
    build_normalise_job,
    build_problem,
    build_problem_job,
    build_problem_sensor,
    partitions_of,
    shown_tables,
    table_specs,
)
from convo_pipeline.orchestration.capture import build_capture_job
from convo_pipeline.orchestration.dead_runs import build_dead_runs
from convo_pipeline.orchestration.deployment import Deployment, read_function
from convo_pipeline.orchestration.early_capture import build_early_capture
from convo_pipeline.orchestration.lineage import describe_inboxes
from convo_pipeline.orchestration.overview import build_overview
from convo_pipeline.orchestration.schedules import (
    build_capture_schedule,
    build_followers,
    build_nightly,
    build_sweep,
)
from convo_pipeline.orchestration.upkeep import build_upkeep_job, build_upkeep_schedule


def build_definitions(
    deployment: Deployment,
    *,
    group_name: str | None = None,
    include: Collection[str] | None = None,
    translation: Translation | None = None,
    has_schedules: bool = True,
) -> dg.Definitions:
    """Build the definitions, without an executor: they can be merged into a code location.

    Without accounts they load too, and show why there are none.
    """
    names = deployment.names
    configured = deployment.settings.dagster.translation
    if configured and not deployment.problem:
        translation = _both(read_function("dagster.translation", configured), translation)
    if include is not None:
        names = replace(names, shown=shown_tables(include))
    deployment = replace(deployment, names=names)
    specs = table_specs(deployment, group_name, translation)
    if translation is not None:
        names = replace(names, translated={table: spec.key for table, spec in specs.items()})
    deployment = replace(deployment, names=names)
    partitions = partitions_of(deployment.settings)
    extract_job, normalise_job = build_extract_job(names), build_normalise_job(names)
    capture_job, upkeep_job = build_capture_job(deployment), build_upkeep_job(deployment)
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [
        describe_inboxes(deployment, group_name),
        build_extract(deployment, partitions, specs),
        build_normalise(deployment, partitions, specs),
    ]
    if names.has_overview and not deployment.problem:
        assets.append(build_overview(deployment, group_name))
    jobs: list[AssetJob | dg.JobDefinition] = [extract_job, normalise_job, capture_job, upkeep_job]
    nightly_job = extract_job
    sensors = [
        *build_followers(names, normalise_job),
        build_early_capture(deployment, capture_job),
        build_dead_runs(deployment),
        build_alert(deployment),
    ]
    if deployment.problem:
        assets.append(build_problem(names, deployment.problem, group_name))
        nightly_job = build_problem_job(names)
        jobs.append(nightly_job)
        sensors.append(build_problem_sensor(names, deployment.problem, nightly_job))
    return dg.Definitions(
        assets=assets,
        jobs=jobs,
        schedules=_build_schedules(deployment, nightly_job, capture_job, upkeep_job)
        if has_schedules
        else [],
        sensors=sensors,
    )


def _both(first: Translation, second: Translation | None) -> Translation:
    return (lambda spec, table: second(first(spec, table), table)) if second else first


def _build_schedules(
    deployment: Deployment,
    extract_job: AssetJob,
    capture_job: dg.JobDefinition,
    upkeep_job: dg.JobDefinition,
) -> list[dg.ScheduleDefinition]:
    schedules = [
        build_nightly(deployment, extract_job),
        build_sweep(deployment, extract_job),
        build_upkeep_schedule(deployment, upkeep_job),
    ]
    cron = deployment.settings.schedule.capture
    if cron:
        schedules.append(build_capture_schedule(deployment, cron, capture_job))
    return schedules
