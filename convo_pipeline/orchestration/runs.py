"""Run the steps for the command line: directly, or recorded in Dagster where `DAGSTER_HOME` is set.

Both ways store the same tables. Dagster is imported only to record.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from convo_pipeline.base.cancellation import interrupted_by_sigterm
from convo_pipeline.derive.rederive import Scope
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.extract.report import AccountReport, Mode
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.steps import run_extract, run_normalise

HOME_VARIABLE = "DAGSTER_HOME"
Step = Literal["extract", "normalise"]
EXTRACT: Step = "extract"
NORMALISE: Step = "normalise"
STEPS = (EXTRACT, NORMALISE)


@dataclass(frozen=True)
class RunResult:
    """The accounts' reports, and one line for each failure that no report names."""

    reports: tuple[AccountReport, ...]
    failures: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every account is complete and every step succeeded."""
        return not self.failures and all(each.outcome == "complete" for each in self.reports)

    def to_json(self) -> dict[str, object]:
        """Return outcome, reasons, calls and counts of each account, and the failures."""
        accounts = [
            {
                "account": report.account,
                "outcome": report.outcome,
                "reasons": report.reasons,
                "error": report.error,
                "calls": report.figures.to_json(),
                "counts": report.counts,
                "changed_partitions": sum(commit.is_changed for commit in report.commits),
            }
            for report in self.reports
        ]
        return {
            "accounts": accounts,
            "failures": self.failures,
            "is_complete": self.is_complete,
        }


def run_steps(
    deployment: Deployment,
    windows: Mapping[str, Window],
    steps: Sequence[Step] = STEPS,
    mode: Mode = "window",
    scope: Scope = "changed",
) -> RunResult:
    """Run the steps over each account's window; normalise runs after a failed extract too.

    The mode `full` is a sweep. `scope` says which of the days are derived. Ctrl-C and SIGTERM raise
    KeyboardInterrupt.
    """
    if deployment.environ.get(HOME_VARIABLE, "").strip():
        from convo_pipeline.orchestration.instance import open_instance
        from convo_pipeline.orchestration.recorded_runs import run_jobs

        with open_instance(deployment.environ) as instance:
            return run_jobs(deployment, windows, instance, steps, mode, scope)
    with interrupted_by_sigterm():
        return _run_directly(deployment, windows, steps, mode, scope)


def _run_directly(
    deployment: Deployment,
    windows: Mapping[str, Window],
    steps: Sequence[Step],
    mode: Mode,
    scope: Scope,
) -> RunResult:
    reports: list[AccountReport] = []
    failures: list[str] = []
    here = replace(deployment, on_reports=reports.extend, interface="command_line")
    days = {account: window.days for account, window in windows.items()}
    for step in steps:
        try:
            with closing(Store(here.settings.store, here.clock)) as store:
                if step == EXTRACT:
                    failed = run_extract(here, store, days, _ignore, mode).failures
                else:
                    failed = run_normalise(here, store, days, scope).failures
        except (StoreError, SettingsError) as error:
            failures.append(str(error))
            break
        reported = {each.account for each in reports if each.outcome != "complete"}
        failures += [
            line
            for account, line in sorted(failed.items())
            if step == NORMALISE or account not in reported
        ]
    return RunResult(tuple(reports), tuple(dict.fromkeys(failures)))


def _ignore(line: str) -> None:
    """Log nothing: the command prints a summary of the reports."""
