"""The jobs: extract asks, normalise follows, capture looks often and writes little.

Extract and normalise are apart because a failed step skips everything below it, for the good accounts too.
"""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from convo_pipeline.orchestration.asset_events import failure
from convo_pipeline.orchestration.assets import DERIVED, RAW
from convo_pipeline.orchestration.capture import accounts_asked, run_capture, tell_changes
from convo_pipeline.orchestration.deployment import Deployment

EXTRACT_JOB = "extract_job"
NORMALISE_JOB = "normalise_job"
CAPTURE_JOB = "capture_job"
IDLE_TAG = "convo/idle"
"""On capture runs that found nothing: their history is worth a week, their disk space is not worth more."""
IDLE_RUNS_KEPT_DAYS = 7
MOST_PRUNED = 200

extract_job = dg.define_asset_job(
    EXTRACT_JOB,
    selection=list(RAW),
    description="Ask the API: the raw tables of a range of accounts × days.",
)
normalise_job = dg.define_asset_job(
    NORMALISE_JOB,
    selection=list(DERIVED),
    description="Make every other table agree with the raw ones. Starts by itself when an extract ends, well or not.",
)


def build_capture_job(deployment: Deployment) -> dg.JobDefinition:
    """Build the job that asks all accounts for what is new and logs only partitions that changed.

    An op, not an asset run: an idle look is a dozen events however many accounts there are.
    """

    @dg.op(name="capture")
    def capture(context: dg.OpExecutionContext) -> None:
        """Ask every account once, or those the run names; merge, normalise what changed; fail at the end if one failed."""
        outcome = run_capture(
            deployment, context.log.info, accounts_asked(context.run.tags.items())
        )
        if not outcome.extra and not outcome.failures:
            context.instance.add_run_tags(context.run_id, {IDLE_TAG: "true"})
        prune_idle_runs(
            context.instance, deployment.clock.now() - timedelta(days=IDLE_RUNS_KEPT_DAYS)
        )
        for change in tell_changes(deployment, context.instance, outcome):
            context.log_event(change)
        if outcome.failures:
            raise failure(outcome)

    @dg.job(name=CAPTURE_JOB, description="Look for new messages before they leave the newest 20.")
    def capture_job() -> None:
        capture()

    return capture_job


def prune_idle_runs(instance: dg.DagsterInstance, before: datetime) -> int:
    """Delete captures that found nothing before a time, with all they left on disk; say how many.

    A run that logged a materialisation is never deleted: its partitions would look as if they were missing.
    """
    idle = dg.RunsFilter(job_name=CAPTURE_JOB, tags={IDLE_TAG: "true"}, created_before=before)
    run_ids = [run.run_id for run in instance.get_runs(idle, limit=MOST_PRUNED)]
    for run_id in run_ids:
        instance.delete_run(run_id)
        for path in _left_behind(instance, run_id):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return len(run_ids)


def _left_behind(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """Find the log folder and the event file of a deleted run, where the instance is a folder."""
    if instance.is_ephemeral:
        return []
    home = Path(instance.root_directory)
    candidates = [home / "storage" / run_id, *(home / "history" / "runs").glob(f"{run_id}.db*")]
    return [path for path in candidates if path.exists()]
