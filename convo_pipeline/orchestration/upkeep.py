"""The nightly upkeep: finish erasures, remove what was unsent or is too old, look for damage, compact closed months. Calls nobody."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from pathlib import Path

import dagster as dg

from convo_pipeline.errors import ConvoError
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.steps import Log
from convo_pipeline.privacy.deletion import finish_open_requests
from convo_pipeline.privacy.forget import resume_erasures
from convo_pipeline.privacy.retention import expire_by_clock
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.upkeep.scrub import scrub

UPKEEP_JOB = "upkeep_job"


def build_upkeep_job(deployment: Deployment) -> dg.JobDefinition:
    """Build the job; an op, for it makes no table."""

    @dg.op(name="upkeep")
    def upkeep(context: dg.OpExecutionContext) -> None:
        """Do every step, whatever became of the one before; fail at the end with what went wrong."""
        failures = run_upkeep(deployment, context.log.info)
        if failures:
            raise dg.Failure("\n".join(failures), allow_retries=False)

    @dg.job(
        name=UPKEEP_JOB,
        description="Remove what was unsent and what is older than [retention] allows, look for damaged files, compact closed months.",
    )
    def upkeep_job() -> None:
        upkeep()

    return upkeep_job


def build_upkeep_schedule(
    deployment: Deployment, upkeep_job: dg.JobDefinition
) -> dg.ScheduleDefinition:
    """Build its schedule."""
    return dg.ScheduleDefinition(
        name="upkeep",
        job=upkeep_job,
        cron_schedule=deployment.settings.schedule.upkeep,
        execution_timezone="UTC",
        description="Removes what was unsent or is too old, looks for damaged files, compacts closed months. Turn it on here.",
    )


def run_upkeep(deployment: Deployment, log: Log) -> list[str]:
    """Do every step and return what went wrong; a lake that is not there yet needs nothing."""
    settings, now = deployment.settings, deployment.clock.now()
    if not settings.store.is_remote and not Path(settings.store.root).is_dir():
        return []
    today = now.astimezone(UTC).date()
    with closing(Store(settings.store, deployment.clock)) as store:
        steps: dict[str, Callable[[], int]] = {
            "erasures finished": lambda: len(resume_erasures(settings, store, now)),
            "deletion requests finished": lambda: len(finish_open_requests(settings, store, now)),
            "unsent messages removed": lambda: sum(
                len(each.messages) for each in remove_unsent(settings, store, now)
            ),
            "files read and found whole": lambda: scrub(
                store, today, settings.metrics.session_gap_hours
            ),
            "partitions too old, removed": lambda: len(
                expire_by_clock(store, settings.retention.limits, now)
            ),
            "months compacted": lambda: len(compact(store, today)),
        }
        return [failure for name, step in steps.items() if (failure := _try(name, step, log))]


def _try(name: str, step: Callable[[], int], log: Log) -> str | None:
    try:
        log(f"{name}: {step()}")
    except ConvoError as error:
        return f"{name}: {error}"
    return None
