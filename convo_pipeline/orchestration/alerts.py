"""Tell a webhook that a run failed: which accounts, and what a person should do. Off unless it is configured.

What is sent is what the failed step told Dagster: names of accounts and remedies, no secrets and no content.
A job that goes on failing for the same accounts and the same reason is told once, until it fails otherwise or has
succeeded between.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from convo_pipeline.base.secrets import redact
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.webhook import post_json, read_webhook

LOOK_SECONDS = 30
WHAT_NEXT = "convo-pipeline check says what to do about a refusal, convo-pipeline status how each account is"
_CODE = re.compile(r"no code|code \d+(?:/\d+)?")
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


@dataclass(frozen=True)
class RunFailure:
    """What the failed steps of one run said."""

    accounts: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def trouble(self) -> tuple[object, ...]:
        """Whose trouble it is and of what kind: the same again is no news, whatever its times and trace ids are.

        >>> lines = ("bakery: code 190/460, trace A1", "bakery: code 190/460, trace B2", "bakery: code 190/463")
        >>> first, again, other = (RunFailure(("bakery",), (line,)).trouble for line in lines)
        >>> first == again, first == other
        (True, False)
        """
        return (self.accounts, *(tuple(_CODE.findall(line)) or line for line in self.lines))


def build_alert(deployment: Deployment) -> dg.SensorDefinition:
    """Build the sensor; it runs by itself where `alerts.webhook_env` names a variable."""
    variable = deployment.settings.alerts.webhook_env
    status = dg.DefaultSensorStatus.RUNNING if variable else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name="alert",
        default_status=status,
        minimum_interval_seconds=LOOK_SECONDS,
        description="Posts failed runs to the webhook whose variable alerts.webhook_env names; off without one.",
    )
    def alert(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if not variable:
            return dg.SkipReason("alerts.webhook_env names no variable")
        run = context.dagster_run
        told = read_failure(context.instance, run.run_id)
        if is_known(context.instance, run, told):
            return dg.SkipReason(
                "the run before failed for the same accounts and reason: told already"
            )
        post_json(read_webhook(variable, deployment.environ), describe(run, told))
        return None

    return alert


def describe(run: dg.DagsterRun, told: RunFailure) -> dict[str, object]:
    """Make the document: `text` alone says everything, for chats that show only that."""
    who = ", ".join(told.accounts) or "no account by name"
    lines = [redact(line) for line in told.lines]
    return {
        "text": "\n".join([f"convo-pipeline: {run.job_name} failed: {who}", *lines, WHAT_NEXT]),
        "job": run.job_name,
        "run_id": run.run_id,
        "accounts": list(told.accounts),
        "what_to_do": lines,
    }


def read_failure(instance: dg.DagsterInstance, run_id: str) -> RunFailure:
    """Read what the failed steps of a run told a person; an unexpected error is named by its kind alone."""
    accounts: list[str] = []
    lines: list[str] = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data = entry.get_dagster_event().step_failure_data
        told = data.user_failure_data
        names = told.metadata["accounts"].value if told and "accounts" in told.metadata else None
        if told and isinstance(names, list | tuple):
            accounts += map(str, names)
            lines += (told.description or "").splitlines()[1:]
        else:
            lines.append((told and told.description) or _unexpected(data.error))
    return RunFailure(
        tuple(dict.fromkeys(accounts)),
        tuple(lines or ["the run ended before a step began: see Dagster"]),
    )


def _unexpected(error: object) -> str:
    while getattr(error, "cause", None) is not None:
        error = error.cause  # type: ignore[attr-defined]
    return (
        f"unexpected: {getattr(error, 'cls_name', None) or 'a step failed'}; see the run in Dagster"
    )


def is_known(instance: dg.DagsterInstance, run: dg.DagsterRun, told: RunFailure) -> bool:
    """Whether the job's run before this one failed for the same accounts and reason."""
    ended: Sequence[dg.DagsterRun] = instance.get_runs(
        dg.RunsFilter(job_name=run.job_name, statuses=ENDED), limit=20
    )
    ids = [each.run_id for each in ended]
    before = ended[ids.index(run.run_id) + 1 :][:1] if run.run_id in ids else []
    return any(
        each.status == dg.DagsterRunStatus.FAILURE
        and read_failure(instance, each.run_id).trouble == told.trouble
        for each in before
    )
