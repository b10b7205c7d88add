"""Sensor: tell each failed run to the receivers of `[alerts]`, until each of them answered.

It is off unless configured. It sends the failed steps' texts: account names and remedies, no
secret and no message. An alert waits in `orchestration.outbox` until its receivers answered, and is
sent again at growing intervals.
A job that fails again for the same accounts and reasons is told once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import dagster as dg

from convo_pipeline.base.secrets import redact
from convo_pipeline.errors import ConvoError
from convo_pipeline.orchestration.asset_events import ACCOUNTS_METADATA, error_chain
from convo_pipeline.orchestration.dead_runs import DIED_TAG
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import STEPS, is_ours
from convo_pipeline.orchestration.outbox import KEPT_TOLD, Alert, Outbox
from convo_pipeline.orchestration.partitions import (
    PARTITION,
    RANGE_END,
    RANGE_START,
    SHARD_TAG,
    split_key,
    tagged_accounts,
)
from convo_pipeline.orchestration.receivers import receivers_of, send
from convo_pipeline.reasons import REASONS
from convo_pipeline.settings import Settings

INTERVAL_SECONDS = 30
MOST_SECONDS = 30.0
"""Time for sending in one evaluation: Dagster ends a sensor after a minute."""
MOST_FAILURES = 100
"""Failed runs that one evaluation reads; the next one reads the others."""
MOST_LINES, MOST_LETTERS = 20, 500
"""Lines of one alert, and letters of a line."""
MOST_ACCOUNTS = 1_000
"""Accounts of one alert: receivers refuse large documents."""
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
    """Build the sensor; it is on by default where `[alerts]` names a receiver."""
    receivers = receivers_of(deployment.settings.alerts)
    status = dg.DefaultSensorStatus.RUNNING if receivers else dg.DefaultSensorStatus.STOPPED
    outbox = Outbox(deployment.settings.store.state_path)

    @dg.sensor(
        name=deployment.names.of("alert"),
        default_status=status,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description="Tells failed runs to the receivers of [alerts], until they answer.",
    )
    def alert(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if not receivers:
            return dg.SkipReason("[alerts] names no receiver")
        noted = _note_failures(deployment, outbox, context)
        told, errors = deliver(deployment, outbox)
        outbox.remove_told(deployment.clock.now() - KEPT_TOLD)
        damaged = [f"{location} is damaged: delete it" for location in outbox.damaged()]
        texts = [f"{noted} new", f"{told} told", *errors, *damaged]
        return dg.SkipReason(", ".join(texts))

    return alert


def _note_failures(
    deployment: Deployment, outbox: Outbox, context: dg.SensorEvaluationContext
) -> int:
    """Write the alerts of runs that failed since the last evaluation; return how many are new.

    The first evaluation only notes where it begins: old failures are not told.
    """
    instance = context.instance
    if context.cursor is None:
        newest = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1)
        context.update_cursor(str(max((each.storage_id for each in newest.records), default=0)))
        return 0
    failures = dg.RunStatusChangeRecordsFilter(
        dg.DagsterEventType.RUN_FAILURE, after_storage_id=int(context.cursor)
    )
    count, origin = 0, context.code_location_origin
    location = origin.location_name if origin else None
    for record in instance.fetch_run_status_changes(
        failures, limit=MOST_FAILURES, ascending=True
    ).records:
        run = instance.get_run_by_id(record.run_id)
        if run is not None and is_ours(deployment.names, instance, run, location):
            count += note_failure(deployment, outbox, instance, run)
        context.update_cursor(str(record.storage_id))
    return count


def note_failure(
    deployment: Deployment, outbox: Outbox, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> bool:
    """Write the alert of a failed run, unless the same one waits or was told; whether it is new."""
    failure, now = read_failure(deployment, instance, run), deployment.clock.now()
    if failure is None:
        return False
    alert = Alert(
        job=run.job_name,
        run_id=run.run_id,
        accounts=failure.accounts,
        lines=failure.lines,
        fingerprint=repr(failure.fingerprint),
        failed_at=now,
        next_try_at=now,
        pending=receivers_of(deployment.settings.alerts),
    )
    earlier = outbox.find(alert.name)
    if earlier is not None:
        is_waiting, is_same_run = bool(earlier.pending), earlier.run_id == run.run_id
        if is_waiting or is_same_run or _is_repeated(deployment, instance, run, failure):
            return False
    outbox.save(alert)
    return True


def deliver(deployment: Deployment, outbox: Outbox) -> tuple[int, list[str]]:
    """Send the alerts that are due; return how many were told, and what failed.

    A receiver that fails gets no other alert in this evaluation.
    """
    clock, settings = deployment.clock, deployment.settings
    deadline = clock.monotonic_seconds() + MOST_SECONDS
    errors: dict[str, str] = {}
    told = 0
    for alert in outbox.undelivered():
        now = clock.now()
        is_due = alert.next_try_at <= now or alert.failed_at > now  # the clock was set back
        if not is_due or clock.monotonic_seconds() > deadline:
            continue
        tried = [name for name in alert.pending if name not in errors]
        configured = receivers_of(settings.alerts)
        for receiver in tried:
            try:
                if receiver in configured:
                    send(settings.alerts, receiver, document_of(alert), deployment.environ)
            except ConvoError as error:
                errors[receiver] = str(error)
        if tried:
            left = [name for name in alert.pending if name in errors]
            why = "; ".join(errors[name] for name in left)
            outbox.save(alert.after_try(left, why, now))
            told += not left
    return told, [f"not delivered: {error}" for error in dict.fromkeys(errors.values())]


def document_of(alert: Alert) -> dict[str, object]:
    """Return the JSON document; `text` alone is complete, for chats that show only that."""
    accounts = _names(alert.accounts)
    lines = [_clean(line) for line in alert.lines[:MOST_LINES]]
    if len(alert.lines) > MOST_LINES:
        lines.append(f"and {len(alert.lines) - MOST_LINES:,} more")
    text = [f"convo-pipeline: {_clean(alert.job)} failed: {accounts}", *lines, WHAT_NEXT]
    return {
        "text": "\n".join(text),
        "job": _clean(alert.job),
        "run_id": alert.run_id,
        "failed_at": f"{alert.failed_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "accounts": list(map(_clean, alert.accounts[:MOST_ACCOUNTS])),
        "account_count": len(alert.accounts),
        "what_to_do": lines,
    }


def _names(accounts: Sequence[str]) -> str:
    shown = ", ".join(map(_clean, accounts[:MOST_LINES])) or "no account is named"
    more = len(accounts) - MOST_LINES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _clean(text: str) -> str:
    """Return a text for a chat: without secrets, control characters and marks that call people.

    >>> _clean("a\\n<!channel> access_token=abc")
    'a (!channel) access_token=***'
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in redact(text))
    shown = printable.replace("<", "(").replace(">", ")")
    return shown if len(shown) <= MOST_LETTERS else f"{shown[: MOST_LETTERS - 1]}…"


def read_failure(
    deployment: Deployment, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> RunFailure | None:
    """Read our failed steps of a run. An unexpected error is named by its class alone.

    A run that ended without a failed step names the accounts that it was started for. None if only
    steps of the user failed, in a job that also contains steps of ours.
    """
    accounts: list[str] = []
    lines: list[str] = []
    our_steps = set(map(deployment.names.of, STEPS))
    logs = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [entry.get_dagster_event() for entry in logs]
    if events and our_steps.isdisjoint(event.step_key for event in events):
        return None
    for event in events:
        if event.step_key not in our_steps:
            continue
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
    if not lines:
        reason = "run_died" if DIED_TAG in run.tags else "run_not_begun"
        lines.append(REASONS[reason].explain("page"))
    names = accounts or accounts_of(run, deployment.settings)
    return RunFailure(tuple(dict.fromkeys(names)), tuple(lines))


def accounts_of(run: dg.DagsterRun, settings: Settings) -> list[str]:
    """Return the accounts that a run was started for: those of its tags, else all."""
    names = [account.name for account in settings.accounts]
    key = run.tags.get(PARTITION)
    first, last = run.tags.get(RANGE_START, key), run.tags.get(RANGE_END, key)
    if first and last:
        ends = [split_key(each)[0] for each in (first, last)]
        if all(end in names for end in ends):
            return names[names.index(ends[0]) : names.index(ends[1]) + 1]
        return ends
    return tagged_accounts(run.tags.items()) or names


def _is_repeated(
    deployment: Deployment, instance: dg.DagsterInstance, run: dg.DagsterRun, failure: RunFailure
) -> bool:
    """Whether the job's run before this one failed for the same accounts and reasons.

    A run of a shard is compared with the shard's last run.
    """
    shard = {tag: run.tags[tag] for tag in (SHARD_TAG,) if tag in run.tags}
    ended: Sequence[dg.DagsterRun] = instance.get_runs(
        dg.RunsFilter(job_name=run.job_name, statuses=ENDED, tags=shard), limit=20
    )
    ids = [other.run_id for other in ended]
    before = ended[ids.index(run.run_id) + 1 :][:1] if run.run_id in ids else []
    return any(
        earlier.status == dg.DagsterRunStatus.FAILURE
        and (told := read_failure(deployment, instance, earlier)) is not None
        and told.fingerprint == failure.fingerprint
        for earlier in before
    )
