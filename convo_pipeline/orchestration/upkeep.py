"""The nightly upkeep: finish erasures, apply retention, check and compact files.

Its only API calls read when the tokens end, one call for each token.

With `[schedule] accounts_per_run` it is divided: a run for each shard of accounts, and one for what
belongs to all of them. Each is red or green by itself.
"""

from collections.abc import Callable, Collection
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
from convo_pipeline.orchestration.partitions import (
    ACCOUNTS_TAG,
    SHARD_TAG,
    shard_tags,
    shards_of,
    tagged_accounts,
)
from convo_pipeline.orchestration.steps import Log, hold_run
from convo_pipeline.privacy.deletion import finish_open_requests
from convo_pipeline.privacy.forget import resume_erasures
from convo_pipeline.privacy.retention import expire_by_clock
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.reasons import describe_error
from convo_pipeline.state.access import has_state
from convo_pipeline.upkeep.scrub import scrub
from convo_pipeline.upkeep.token_ends import read_token_ends

SHARED_PART = "upkeep of all"
"""Value of the tag `convo/shard` of the run for what belongs to all accounts."""
DESCRIPTION = (
    "Remove unsent messages and days older than [retention] allows, check a share of the files for"
    " damage, read when tokens end, compact closed months."
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
        tags = context.run.tags
        with hold_run(deployment, context.run_id):
            failures = run_upkeep(
                deployment,
                context.log.info,
                tagged_accounts(tags.items()),
                is_shared_part=tags.get(SHARD_TAG) == SHARED_PART,
            )
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

    @dg.schedule(
        name=deployment.names.of("upkeep"),
        job=upkeep_job,
        cron_schedule=deployment.settings.schedule.upkeep,
        execution_timezone="UTC",
        description=f"{DESCRIPTION} Turn it on here.",
    )
    def upkeep(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        shards = shards_of(deployment.settings)
        if deployment.problem or len(shards) == 1:
            return [dg.RunRequest()]
        at = f"{context.scheduled_execution_time:%Y%m%dT%H%M}"
        return [
            dg.RunRequest(
                run_key=f"upkeep {number} {at}",
                tags={ACCOUNTS_TAG: ",".join(names), **shard_tags(shards, number, "upkeep")},
            )
            for number, names in enumerate(shards, start=1)
        ] + [dg.RunRequest(run_key=f"{SHARED_PART} {at}", tags={SHARD_TAG: SHARED_PART})]

    return upkeep


def run_upkeep(
    deployment: Deployment,
    log: Log,
    names: Collection[str] = (),
    is_shared_part: bool = False,
) -> list[str]:
    """Run every step and return the errors; do nothing if there are no tables yet.

    With `names` only the steps of these accounts run. `is_shared_part` runs the steps that concern
    all accounts together, and those of accounts that were removed from the configuration.
    """
    settings, now = deployment.settings, deployment.clock.now()
    if not settings.store.is_remote and not Path(settings.store.root).is_dir():
        return []
    today = now.astimezone(UTC).date()
    configured, failures = {account.name for account in settings.accounts}, []

    def is_chosen(account: str) -> bool:
        if is_shared_part:
            return account not in configured
        return not names or account in names

    with closing(Store(settings.store, deployment.clock)) as store:
        steps: dict[str, Callable[[], int]] = {
            "erasures finished": lambda: len(resume_erasures(settings, store, now, is_chosen)),
            "unsent messages removed": lambda: sum(
                len(each.messages) for each in remove_unsent(settings, store, now, is_chosen)
            ),
            "tokens read": lambda: read_token_ends(
                settings, store, deployment.environ, deployment.clock, is_chosen
            ),
            "files checked": lambda: scrub(store, today, settings, is_chosen),
        }
        shared_steps: dict[str, Callable[[], int]] = {
            "deletion requests finished": lambda: len(finish_open_requests(settings, store, now)),
            "old spools removed": lambda: delete_old_spools(
                store.state_path, now, configured, SharedSpools.of(store)
            ),
            "partitions expired": lambda: len(
                expire_by_clock(store, settings.retention.limits, now)
            ),
            "months compacted": lambda: len(compact(store, today)),
        }
        for name, step in (steps | ({} if names else shared_steps)).items():
            try:
                log(f"{name}: {step()}")
            except Exception as error:  # a defect in one step must not stop the others
                failures.append(f"{name}: {describe_error(error, deployment.interface)}")
    return failures
