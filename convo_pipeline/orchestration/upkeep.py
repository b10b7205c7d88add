"""The nightly upkeep: finish erasures, apply retention, check and compact files. No API calls."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from pathlib import Path

import dagster as dg

from convo_pipeline.extract.spool import SharedSpools, delete_old_spools
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import problem_failure
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import UPKEEP_JOB
from convo_pipeline.orchestration.steps import Log, hold_run
from convo_pipeline.privacy.deletion import finish_open_requests
from convo_pipeline.privacy.forget import resume_erasures
from convo_pipeline.privacy.retention import expire_by_clock
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.reasons import describe_error
from convo_pipeline.state.access import has_state
from convo_pipeline.upkeep.scrub import scrub

DESCRIPTION = (
    "Remove unsent messages and days older than [retention] allows, check a share of the files for"
    " damage, compact closed months."
)


def build_upkeep_job(deployment: Deployment) -> dg.JobDefinition:
    """Build the job; it is an op because it makes no table."""
    names = deployment.names

    @dg.op(name=names.of("upkeep"))
    def upkeep(context: dg.OpExecutionContext) -> None:
        """Run every step, also after a failed one; fail at the end with the errors.

        Without a valid configuration nothing is removed: the accounts are not known.
        """
        if deployment.problem:
            raise problem_failure(deployment.problem)
        settings = deployment.settings.store
        if not settings.state_path.is_dir() and not has_state(settings):
            return
        with hold_run(deployment, context.run_id):
            failures = run_upkeep(deployment, context.log.info)
        if failures:
            raise dg.Failure("\n".join(failures), allow_retries=False)

    @dg.job(name=names.of(UPKEEP_JOB), description=DESCRIPTION, executor_def=dg.in_process_executor)
    def upkeep_job() -> None:
        upkeep()

    return upkeep_job


def build_upkeep_schedule(
    deployment: Deployment, upkeep_job: dg.JobDefinition
) -> dg.ScheduleDefinition:
    """Build the nightly schedule of the upkeep."""
    return dg.ScheduleDefinition(
        name=deployment.names.of("upkeep"),
        job=upkeep_job,
        cron_schedule=deployment.settings.schedule.upkeep,
        execution_timezone="UTC",
        description=f"{DESCRIPTION} Turn it on here.",
    )


def run_upkeep(deployment: Deployment, log: Log) -> list[str]:
    """Run every step and return the errors; do nothing if there are no tables yet."""
    settings, now = deployment.settings, deployment.clock.now()
    if not settings.store.is_remote and not Path(settings.store.root).is_dir():
        return []
    today = now.astimezone(UTC).date()
    failures = []
    with closing(Store(settings.store, deployment.clock)) as store:
        steps: dict[str, Callable[[], int]] = {
            "erasures finished": lambda: len(resume_erasures(settings, store, now)),
            "deletion requests finished": lambda: len(finish_open_requests(settings, store, now)),
            "unsent messages removed": lambda: sum(
                len(each.messages) for each in remove_unsent(settings, store, now)
            ),
            "old spools removed": lambda: delete_old_spools(
                store.state_path,
                now,
                [account.name for account in settings.accounts],
                SharedSpools.of(store),
            ),
            "files checked": lambda: scrub(store, today, settings),
            "partitions expired": lambda: len(
                expire_by_clock(store, settings.retention.limits, now)
            ),
            "months compacted": lambda: len(compact(store, today)),
        }
        for name, step in steps.items():
            try:
                log(f"{name}: {step()}")
            except Exception as error:  # a defect in one step must not stop the others
                failures.append(f"{name}: {describe_error(error, deployment.interface)}")
    return failures
