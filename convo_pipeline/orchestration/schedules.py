"""Schedules of extract, sweep and capture, and sensors that normalise after an extract.

Schedules are off until a person turns them on: a clone on trial must not call an API at night.
The sensors are on: they make no API calls.
"""

from datetime import UTC

import dagster as dg

from convo_pipeline.extract.report import Mode
from convo_pipeline.orchestration.assets import (
    AssetJob,
    extract_run_config,
    normalise_run_config,
)
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import EXTRACT_JOB, Names
from convo_pipeline.orchestration.nights import MOST_DAYS_BACK, recheck_window, sweep_window
from convo_pipeline.orchestration.partitions import (
    ACCOUNTS_TAG,
    DESCRIBING_TAGS,
    PARTITION,
    RANGE_END,
    RANGE_START,
    Window,
    range_tags,
    shard_tags,
    shards_of,
)
from convo_pipeline.orchestration.steps import DERIVED, RAW
from convo_pipeline.settings import next_time

FOLLOW_SECONDS = 15


def build_nightly(deployment: Deployment, extract_job: AssetJob) -> dg.ScheduleDefinition:
    """Build the schedule of the nightly run of all accounts."""
    settings = deployment.settings

    @dg.schedule(
        name=deployment.names.of("nightly"),
        job=extract_job,
        cron_schedule=settings.schedule.nightly,
        execution_timezone="UTC",
        description="Extract all accounts up to yesterday (UTC), and the days that an account"
        " lacks. Turn it on here.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        today = context.scheduled_execution_time.astimezone(UTC).date()
        return _request_all(deployment, recheck_window(settings, today), "nightly")

    return nightly


def build_sweep(deployment: Deployment, extract_job: AssetJob) -> dg.ScheduleDefinition:
    """Build the schedule of the sweep: it fetches everything again and counts missed messages."""

    @dg.schedule(
        name=deployment.names.of("sweep"),
        job=extract_job,
        cron_schedule=deployment.settings.schedule.sweep,
        execution_timezone="UTC",
        description=f"Fetch the last {MOST_DAYS_BACK} days of all accounts again and report what"
        " earlier runs missed. Turn it on here.",
    )
    def sweep(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        today = context.scheduled_execution_time.astimezone(UTC).date()
        return _request_all(deployment, sweep_window(deployment.settings, today), "full")

    return sweep


def _request_all(
    deployment: Deployment, window: Window | None, mode: Mode
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request one run for each shard of the accounts, or skip if there is no day to extract.

    While the configuration is wrong, the requested run fails with the problem.
    """
    if deployment.problem:
        return [dg.RunRequest()]
    if window is None:
        return dg.SkipReason("no account has a complete day yet")
    shards = shards_of(deployment.settings)
    return [
        dg.RunRequest(
            run_key=f"{mode} {number} {window.until}" if len(shards) > 1 else None,
            tags={
                **range_tags(accounts, window),
                **shard_tags(shards, number, "nightly" if mode == "nightly" else "sweep"),
            },
            run_config=extract_run_config(deployment.names, mode),
        )
        for number, accounts in enumerate(shards, start=1)
    ]


def build_capture_schedule(
    deployment: Deployment, cron: str, capture_job: dg.JobDefinition
) -> dg.ScheduleDefinition:
    """Build the schedule of captures.

    After a pause of the daemon, Dagster requests several missed captures: only the last runs.
    """

    @dg.schedule(
        name=deployment.names.of("capture"),
        job=capture_job,
        cron_schedule=cron,
        execution_timezone="UTC",
        description="Fetch new messages before they leave the newest 20. Turn it on here.",
    )
    def capture(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        if deployment.problem:
            return dg.SkipReason(deployment.problem)
        newer = next_time(cron, context.scheduled_execution_time.astimezone(UTC))
        if newer <= deployment.clock.now():
            return dg.SkipReason(
                f"missed while the daemon was not running; the capture of {newer:%H:%M} UTC is due"
            )
        shards = shards_of(deployment.settings)
        if len(shards) == 1:
            return [dg.RunRequest()]
        return [
            dg.RunRequest(
                run_key=f"capture {number} {context.scheduled_execution_time:%Y%m%dT%H%M}",
                tags={ACCOUNTS_TAG: ",".join(names), **shard_tags(shards, number, "capture")},
            )
            for number, names in enumerate(shards, start=1)
        ]

    return capture


def build_followers(names: Names, normalise_job: AssetJob) -> list[dg.SensorDefinition]:
    """Build the sensors that normalise after every extract run, successful or failed."""
    return [
        _build_follower(names, normalise_job, "success", dg.DagsterRunStatus.SUCCESS),
        _build_follower(names, normalise_job, "failure", dg.DagsterRunStatus.FAILURE),
    ]


def _build_follower(
    names: Names, normalise_job: AssetJob, word: str, status: dg.DagsterRunStatus
) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        name=names.of(f"normalise_after_{word}"),
        run_status=status,
        request_job=normalise_job,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=FOLLOW_SECONDS,
        description=f"Normalises what an extract run stored, after its {word}.",
    )
    def follow(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
        return follow_up(names, context.instance, context.dagster_run)

    return follow


def follow_up(
    names: Names, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> dg.RunRequest | dg.SkipReason:
    """Request the normalise run of an extract run's partitions; skip other runs.

    A job of the user that contains raw tables counts as an extract run.
    """
    tables = names.tables_of(instance, run)
    if not names.is_job(run, EXTRACT_JOB) and tables.isdisjoint(RAW):
        return dg.SkipReason(f"{run.job_name} extracted nothing")
    if run.is_success and tables.issuperset(names.shown.intersection(DERIVED)):
        return dg.SkipReason("the run normalised what it extracted")
    key = run.tags.get(PARTITION)
    start, end = run.tags.get(RANGE_START, key), run.tags.get(RANGE_END, key)
    if start is None or end is None:
        return dg.SkipReason("the run had no partition")
    kept = {tag: run.tags[tag] for tag in DESCRIBING_TAGS if tag in run.tags}
    return dg.RunRequest(
        run_key=run.run_id,
        tags={RANGE_START: start, RANGE_END: end, **kept},
        run_config=normalise_run_config(names, "changed"),
    )
