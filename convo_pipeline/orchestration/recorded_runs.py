"""Run the jobs in this process and record them in a Dagster instance."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace

import dagster as dg

from convo_pipeline.derive.rederive import Scope
from convo_pipeline.errors import ConvoError
from convo_pipeline.extract.report import AccountReport, Mode
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import ACCOUNTS_METADATA, error_chain
from convo_pipeline.orchestration.assets import extract_run_config, normalise_run_config
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import EXTRACT_JOB, NORMALISE_JOB, Names
from convo_pipeline.orchestration.partitions import (
    ONE_DAY,
    Window,
    accounts_by_window,
    neighbours,
    range_tags,
)
from convo_pipeline.orchestration.runs import EXTRACT, STEPS, RunResult, Step
from convo_pipeline.orchestration.steps import DERIVED, RAW

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
JOBS: Mapping[Step, str] = {"extract": EXTRACT_JOB, "normalise": NORMALISE_JOB}


def run_jobs(
    deployment: Deployment,
    windows: Mapping[str, Window],
    instance: dg.DagsterInstance,
    steps: Sequence[Step] = STEPS,
    mode: Mode = "window",
    scope: Scope = "changed",
) -> RunResult:
    """Run the steps' jobs one after the other; normalise runs after a failed extract too.

    Each job runs once for each window and group of accounts that are neighbours in `convo.toml`.
    Ctrl-C raises KeyboardInterrupt: Dagster itself would continue with the next job.
    """
    reports: list[AccountReport] = []
    names = Names(deployment.settings.dagster.key_prefix)
    definitions = build_definitions(
        replace(deployment, names=names, on_reports=reports.extend, interface="command_line")
    )
    failures: list[str] = []
    for step in steps:
        wanted = windows if step == EXTRACT else _stored_windows(deployment, windows)
        step_config = (
            extract_run_config(names, mode)
            if step == EXTRACT
            else normalise_run_config(names, scope)
        )
        for window, accounts in accounts_by_window(wanted).items():
            for neighbouring in neighbours(deployment.settings, accounts):
                job = definitions.resolve_job_def(names.of(JOBS[step]))
                result = job.execute_in_process(
                    instance=instance,
                    raise_on_error=False,
                    tags=range_tags(neighbouring, window),
                    run_config=QUIET | step_config,
                )
                incomplete = [each.account for each in reports if each.outcome != "complete"]
                failures += _read_failures(result, incomplete if step == EXTRACT else ())
    return RunResult(tuple(reports), tuple(dict.fromkeys(failures)))


def _stored_windows(deployment: Deployment, windows: Mapping[str, Window]) -> Mapping[str, Window]:
    """Shorten each window to the days from the first to the last with stored rows.

    Dagster records an event for each day and table of a run, also for days without messages.
    Accounts that share a window share the shortened one, and so one run. A window without stored
    rows stays, so that a problem of its files is reported.
    """
    shortened = dict(windows)
    with suppress(ConvoError), closing(Store(deployment.settings.store)) as store:
        for window, accounts in accounts_by_window(windows).items():
            days = {
                day
                for account in accounts
                for table in (*RAW, *DERIVED)
                for day in store.days(table, account)
                if window.since <= day < window.until
            }
            if days:
                shared = Window(min(days), max(days) + ONE_DAY)
                shortened |= dict.fromkeys(accounts, shared)
    return shortened


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
