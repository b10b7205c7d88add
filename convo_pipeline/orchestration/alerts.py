"""Sensor: post each failed run to a webhook, with its accounts and what to do.

It is off unless configured. It sends the failed steps' texts: account names and remedies, no
secret and no message.
A job that fails again for the same accounts and reasons is posted once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from convo_pipeline.base.secrets import redact
from convo_pipeline.orchestration.asset_events import ACCOUNTS_METADATA, error_chain
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.webhook import post_json, read_webhook

INTERVAL_SECONDS = 30
WHAT_NEXT = (
    "`convo-pipeline check` tests each account's access; `convo-pipeline status` shows each account"
)
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_CODE = re.compile(r"no code|code \d+(?:/\d+)?")


@dataclass(frozen=True)
class RunFailure:
    """The accounts that failed in one run, and a line with reason and remedy for each."""

    accounts: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """Accounts and error codes: equal for failures that differ only in times and trace ids.

        >>> lines = ("code 190/460, trace A1", "code 190/460, trace B2", "code 190/463")
        >>> first, again, other = (RunFailure(("bakery",), (line,)).fingerprint for line in lines)
        >>> first == again, first == other
        (True, False)
        """
        return (self.accounts, *(tuple(_CODE.findall(line)) or line for line in self.lines))


def build_alert(deployment: Deployment) -> dg.SensorDefinition:
    """Build the sensor; it is on by default where `alerts.webhook_env` names a variable."""
    variable = deployment.settings.alerts.webhook_env
    status = dg.DefaultSensorStatus.RUNNING if variable else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name="alert",
        default_status=status,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description="Posts failed runs to the webhook that alerts.webhook_env names.",
    )
    def alert(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if not variable:
            return dg.SkipReason("alerts.webhook_env names no variable")
        run = context.dagster_run
        failure = read_failure(context.instance, run.run_id)
        if _is_repeated(context.instance, run, failure):
            return dg.SkipReason("the run before failed for the same accounts and reasons")
        post_json(read_webhook(variable, deployment.environ), _document(run, failure))
        return None

    return alert


def _document(run: dg.DagsterRun, failure: RunFailure) -> dict[str, object]:
    """Return the JSON document; `text` alone is complete, for chats that show only that."""
    accounts = ", ".join(failure.accounts) or "no account is named"
    lines = [redact(line) for line in failure.lines]
    text = [f"convo-pipeline: {run.job_name} failed: {accounts}", *lines, WHAT_NEXT]
    return {
        "text": "\n".join(text),
        "job": run.job_name,
        "run_id": run.run_id,
        "accounts": list(failure.accounts),
        "what_to_do": lines,
    }


def read_failure(instance: dg.DagsterInstance, run_id: str) -> RunFailure:
    """Read the failed steps of a run. An unexpected error is named by its class alone."""
    accounts: list[str] = []
    lines: list[str] = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.get_dagster_event()
        failure = event.step_failure_data.user_failure_data
        description = (failure and failure.description) or ""
        if failure and ACCOUNTS_METADATA in failure.metadata:
            names: Any = failure.metadata[ACCOUNTS_METADATA].value
            accounts += names
            lines += description.splitlines()[1:]
        else:
            errors = error_chain(event)
            kind = (errors and errors[-1].cls_name) or "a step failed"
            lines.append(description or f"unexpected: {kind}; see the run in Dagster")
    return RunFailure(
        tuple(dict.fromkeys(accounts)),
        tuple(lines or ["the run ended before a step began: see Dagster"]),
    )


def _is_repeated(instance: dg.DagsterInstance, run: dg.DagsterRun, failure: RunFailure) -> bool:
    """Whether the job's run before this one failed for the same accounts and reasons."""
    ended: Sequence[dg.DagsterRun] = instance.get_runs(
        dg.RunsFilter(job_name=run.job_name, statuses=ENDED), limit=20
    )
    ids = [other.run_id for other in ended]
    before = ended[ids.index(run.run_id) + 1 :][:1] if run.run_id in ids else []
    return any(
        earlier.status == dg.DagsterRunStatus.FAILURE
        and read_failure(instance, earlier.run_id).fingerprint == failure.fingerprint
        for earlier in before
    )
