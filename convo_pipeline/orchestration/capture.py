"""A capture: fetch what is new, often, before messages leave the newest 20.

It lists down to the last capture and derives the days that changed. It completes no day: that is
the work of the nightly run. An account that another run works on is left to that run.
"""

import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from convo_pipeline.extract.report import AccountReport, figures_in
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import open_store, problem_failure, step_failure
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.metadata import changed_metadata, commit_metadata, read_totals
from convo_pipeline.orchestration.names import CAPTURE_JOB, Names
from convo_pipeline.orchestration.partitions import (
    ONE_DAY,
    Window,
    since_start,
    tagged_accounts,
)
from convo_pipeline.orchestration.pictures import PICTURED
from convo_pipeline.orchestration.steps import (
    Log,
    StepResult,
    derive,
    derive_figures,
    describe_failure,
    extract_days,
    hold_run,
)

IDLE_TAG = "convo/idle"
"""Tag of capture runs that found nothing new; they are deleted after a week."""
IDLE_RUNS_KEPT_DAYS = 7
MOST_PRUNED = 200
AssetChange = dg.AssetMaterialization | dg.AssetObservation


def build_capture_job(deployment: Deployment) -> dg.JobDefinition:
    """Build the job that reads what is new and reports only the partitions that changed.

    It is an op and no asset run: a capture without news writes only a dozen events.
    """

    names = deployment.names

    @dg.op(name=names.of("capture"))
    def capture(context: dg.OpExecutionContext) -> None:
        """Read all accounts, or those in the run's tag, once; derive what changed."""
        if deployment.problem:
            raise problem_failure(deployment.problem)
        accounts = tagged_accounts(context.run.tags.items())
        with hold_run(deployment, context.run_id):
            result = run_capture(deployment, context.log.info, accounts)
            if not result.unrequested and not result.failures:
                context.instance.add_run_tags(context.run_id, {IDLE_TAG: "true"})
            kept_since = deployment.clock.now() - timedelta(days=IDLE_RUNS_KEPT_DAYS)
            prune_idle_runs(context.instance, names, kept_since)
            if result.unrequested:
                with open_store(deployment) as store:
                    for change in asset_changes(deployment, store, result):
                        context.log_event(change)
        if result.failures:
            raise step_failure(result)

    @dg.job(
        name=names.of(CAPTURE_JOB),
        description="Fetch new messages before they leave the newest 20.",
        executor_def=dg.in_process_executor,
    )
    def capture_job() -> None:
        capture()

    return capture_job


def run_capture(deployment: Deployment, log: Log, names: Sequence[str] = ()) -> StepResult:
    """Capture these accounts, or all, and derive the days that changed."""
    result = StepResult(deployment.interface)
    accounts = [
        account for account in deployment.settings.accounts if not names or account.name in names
    ]
    window = capture_window(deployment.clock.now(), deployment.settings.schedule.capture_minutes)
    with open_store(deployment) as store:
        days = since_start(accounts, {account.name: window.days for account in accounts})
        reports = extract_days(deployment, store, days, "capture")
        for report in reports:
            if report.outcome == "failed":
                result.failures[report.account] = describe_failure(deployment, report)
            _derive_changes(deployment, store, report, result)
    busy_count = sum(report.outcome == "busy" for report in reports)
    cost = figures_in(reports)
    log(
        f"{len(reports) - busy_count} accounts read with {cost.used:,} calls "
        f"({cost.refused:,} refused), {busy_count} left to another run, "
        f"{len(commit_metadata(result))} partitions changed, {len(result.failures)} failed"
    )
    return result


def capture_window(now: datetime, capture_minutes: int) -> Window:
    """Return today and, just after midnight, yesterday: the last capture did not see its end."""
    margin = timedelta(minutes=2 * max(capture_minutes, 1))
    return Window((now - margin).date(), now.date() + ONE_DAY)


def _derive_changes(
    deployment: Deployment, store: Store, report: AccountReport, result: StepResult
) -> None:
    commits = [commit for commit in report.commits if commit.is_changed]
    for day in sorted({commit.date for commit in commits}):
        commits += derive(store, report.account, day, result)
    if commits:
        commits += derive_figures(deployment, store, report.account, result) or ()
    result.add_commits(commits)


def asset_changes(
    deployment: Deployment, store: Store, result: StepResult
) -> Iterator[AssetChange]:
    """Yield an event for each changed partition of a shown table.

    A capture reads no whole day: its partitions are observed, unless a complete run has read their
    day. An asset's page shows its newest materialisation: pictured tables are always observed.
    """
    names = deployment.names
    totals = read_totals(deployment.settings, store, result)
    read, unread = changed_metadata(deployment.settings, store, result, totals)
    for (table, key), metadata in {**read, **unread}.items():
        if table in names.shown:
            is_new = (table, key) in read and table not in PICTURED
            event = dg.AssetMaterialization if is_new else dg.AssetObservation
            yield event(names.asset_key(table), partition=key, metadata=dict(metadata))


def prune_idle_runs(instance: dg.DagsterInstance, names: Names, before: datetime) -> int:
    """Delete capture runs before a time that found nothing new, with their files; return how many.

    Runs that logged an event of a partition stay.
    """
    idle = dg.RunsFilter(
        job_name=names.of(CAPTURE_JOB), tags={IDLE_TAG: "true"}, created_before=before
    )
    run_ids = [run.run_id for run in instance.get_runs(idle, limit=MOST_PRUNED)]
    for run_id in run_ids:
        instance.delete_run(run_id)
        if not instance.is_ephemeral:
            home = Path(instance.root_directory)
            shutil.rmtree(home / "storage" / run_id, ignore_errors=True)
            for path in (home / "history" / "runs").glob(f"{run_id}.db*"):
                path.unlink(missing_ok=True)
    return len(run_ids)
