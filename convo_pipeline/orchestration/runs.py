"""Run the jobs in this process, as the command line does: extract, then normalise, recorded in an instance."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from convo_pipeline.derive.rederive import Scope
from convo_pipeline.extract.run import AccountReport, Mode
from convo_pipeline.orchestration.asset_events import ACCOUNTS_METADATA
from convo_pipeline.orchestration.assets import MODE_TAG, SCOPE_TAG
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.jobs import EXTRACT_JOB, NORMALISE_JOB
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
    """Run the jobs one after the other over accounts × window; a failed extract is normalised all the same.

    `mode` "full" sweeps what is held already, too; `scope` says which of the days are derived.
    Raise KeyboardInterrupt where Ctrl-C ended a job: Dagster itself would go on with the next one.
    """
    reports: list[AccountReport] = []
    definitions = build_definitions(replace(deployment, on_reports=reports.extend))
    failures: list[str] = []
    for job in jobs:
        for stretch in neighbours(deployment.settings, accounts):
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=instance,
                raise_on_error=False,
                tags=range_tags(stretch, window) | {MODE_TAG: mode, SCOPE_TAG: scope},
                run_config=QUIET,
            )
            if _is_interrupted(result):
                raise KeyboardInterrupt
            incomplete = [each.account for each in reports if each.outcome != "complete"]
            failures += _failures(result, incomplete if job == EXTRACT_JOB else ())
    return RunResult(tuple(reports), tuple(dict.fromkeys(failures)))


def _is_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Dagster records Ctrl-C as a step's failure; for us it is the end of the command."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    names = {error.cls_name for error in errors if error} | {
        error.cause.cls_name for error in errors if error and error.cause
    }
    return "DagsterExecutionInterruptedError" in names


def _failures(result: dg.ExecuteInProcessResult, reported: Collection[str]) -> list[str]:
    """Return the texts of failed steps, one line per account; reported accounts are left out."""
    lines: list[str] = []
    for event in result.all_events:
        if event.is_step_failure:
            told = event.step_failure_data.user_failure_data
            text = told.description if told else _root_cause(event.step_failure_data.error)
            text_lines = (text or "a step failed").strip().splitlines()
            if told and ACCOUNTS_METADATA in told.metadata:
                text_lines = [line for line in text_lines[1:] if line.split(":")[0] not in reported]
            lines += text_lines
    return lines


def _root_cause(error: Any) -> str:
    """Name what a step did not expect to happen: a fault of the program or the machine."""
    while error is not None and error.cause is not None:
        error = error.cause
    return "a step failed" if error is None else f"unexpected: {error.message.strip()}"
