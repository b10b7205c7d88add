"""Run the jobs in this process and record them in a Dagster instance, as the command line does."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import dagster as dg

from convo_pipeline.derive.rederive import Scope
from convo_pipeline.extract.run import AccountReport, Mode
from convo_pipeline.orchestration.asset_events import ACCOUNTS_METADATA, error_chain
from convo_pipeline.orchestration.assets import EXTRACT_JOB, MODE_TAG, NORMALISE_JOB, SCOPE_TAG
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.partitions import Window, neighbours, range_tags

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class RunResult:
    """The accounts' reports, and one line for each failure that no report names."""

    reports: tuple[AccountReport, ...]
    failures: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every account is complete and every job succeeded."""
        return not self.failures and all(each.outcome == "complete" for each in self.reports)


def run_jobs(
    deployment: Deployment,
    accounts: Sequence[str],
    window: Window,
    instance: dg.DagsterInstance,
    jobs: Sequence[str] = (EXTRACT_JOB, NORMALISE_JOB),
    mode: Mode = "window",
    scope: Scope = "asked",
) -> RunResult:
    """Run the jobs one after the other; normalise runs after a failed extract too.

    The mode `full` is a sweep. `scope` says which of the days are derived.
    Ctrl-C raises KeyboardInterrupt: Dagster itself would continue with the next job.
    """
    reports: list[AccountReport] = []
    definitions = build_definitions(
        replace(deployment, on_reports=reports.extend, interface="command_line")
    )
    failures: list[str] = []
    for job in jobs:
        for neighbouring in neighbours(deployment.settings, accounts):
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                raise_on_error=False,
                tags=range_tags(neighbouring, window) | {MODE_TAG: mode, SCOPE_TAG: scope},
                run_config=QUIET,
            )
            incomplete = [each.account for each in reports if each.outcome != "complete"]
            failures += _read_failures(result, incomplete if job == EXTRACT_JOB else ())
    return RunResult(tuple(reports), tuple(dict.fromkeys(failures)))


def _read_failures(result: dg.ExecuteInProcessResult, reported: Collection[str]) -> list[str]:
    """Return the lines of the failed steps, without reported accounts.

    Ctrl-C raises KeyboardInterrupt: Dagster records it as the failure of a step.
    """
    lines: list[str] = []
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        failure, errors = event.step_failure_data.user_failure_data, error_chain(event)
        if any(error.cls_name == "DagsterExecutionInterruptedError" for error in errors):
            raise KeyboardInterrupt
        if failure and ACCOUNTS_METADATA in failure.metadata:
            account_lines = (failure.description or "").splitlines()[1:]
            lines += [line for line in account_lines if line.split(":")[0] not in reported]
        elif failure and failure.description:
            lines += failure.description.strip().splitlines()
        else:
            lines.append(f"unexpected: {errors[-1].message.strip()}" if errors else "a step failed")
    return lines
