"""Sensor: post each failed run to a webhook, with its accounts and what to do.

It is off unless configured. It sends the failed steps' texts: account names and remedies, no
secret and no message.
A job that fails again for the same accounts and reasons is posted once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import requests

from convo_pipeline.base.secrets import redact
from convo_pipeline.errors import ConvoError, SettingsError
from convo_pipeline.orchestration.asset_events import ACCOUNTS_METADATA, error_chain
from convo_pipeline.orchestration.deployment import Deployment

INTERVAL_SECONDS, TIMEOUT_SECONDS = 30, 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
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


def read_webhook(variable: str, environ: Mapping[str, str]) -> str:
    """Return the address in a variable; a SettingsError names the variable, never its value."""
    url = environ.get(variable, "").strip()
    if not url:
        raise SettingsError(f"alerts.webhook_env: the environment variable {variable} is not set")
    try:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        is_safe = is_safe and bool(parts.hostname)
    except ValueError:
        is_safe = False
    if not is_safe or not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(f"alerts.webhook_env: {variable} must hold an https address")
    return url


def post_json(
    url: str, document: Mapping[str, object], timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Send the document once; a ConvoError describes the failure without the secret address.

    Like the Graph client it follows no redirect and uses no proxy variable.
    """
    with requests.Session() as session:
        session.trust_env = False
        session.headers["User-Agent"] = "convo-pipeline"
        try:
            with session.post(
                url, json=document, timeout=timeout_seconds, allow_redirects=False, stream=True
            ) as response:
                status = response.status_code
        except (requests.RequestException, ValueError) as error:
            kind = type(error).__name__
            raise ConvoError(f"the webhook could not be reached ({kind})") from None
    if status >= 300:
        raise ConvoError(f"the webhook answered {status}")
