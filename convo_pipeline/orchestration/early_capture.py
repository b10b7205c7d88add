"""Sensor: start an extra capture when a conversation may exceed 20 new messages.

It reads only our own state: after each capture, `extract.risk` predicts when the next one is due.
"""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg

from convo_pipeline.errors import StoreError
from convo_pipeline.extract.risk import AccountRisks, find_risks
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.asset_events import open_store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.partitions import ACCOUNTS_TAG
from convo_pipeline.settings import Settings
from convo_pipeline.state.access import has_state

INTERVAL_SECONDS = 30
RUN_KEY_TAG = "dagster/run_key"


def build_early_capture(
    deployment: Deployment, capture_job: dg.JobDefinition
) -> dg.SensorDefinition:
    """Build the sensor; it requests one capture of all accounts that are due."""

    @dg.sensor(
        name=deployment.names.of("capture_sooner"),
        job=capture_job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description="Requests an extra capture while a conversation may exceed 20 new messages. "
        "It makes no API calls. Turn it on together with the capture schedule.",
    )
    def capture_sooner(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        settings = deployment.settings
        if deployment.problem:
            return dg.SkipReason(deployment.problem)
        if not has_state(settings.store):
            return dg.SkipReason("nothing was extracted yet")
        with open_store(deployment) as store:
            risks = _find_all_risks(settings, store)
        request = _request_due(risks, deployment.clock.now())
        if isinstance(request, dg.RunRequest):
            return _retry_once(context.instance, capture_job.name, request)
        return request

    return capture_sooner


def _find_all_risks(settings: Settings, store: Store) -> list[AccountRisks]:
    """Predict for every account; skip one whose files cannot be read: the checks report it."""
    risks = []
    for account in settings.accounts:
        try:
            risks.append(find_risks(settings, store, account.name))
        except StoreError:
            continue
    return risks


def _request_due(risks: Sequence[AccountRisks], now: datetime) -> dg.RunRequest | dg.SkipReason:
    """Request one run of all accounts that are due.

    The run key holds the time of each account's last run: each prediction starts one capture.
    """
    due = [risk for risk in risks if risk.due_at is not None and risk.due_at <= now]
    if not due:
        waiting = [
            f"{risk.account}: {len(risk.risks)} at risk, due {risk.due_at:%H:%M:%S} UTC"
            for risk in risks
            if risk.due_at is not None
        ]
        waiting += [
            f"{risk.account}: the API refuses {len(risk.refused_ids)}, no capture saves them"
            for risk in risks
            if risk.refused_ids
        ]
        return dg.SkipReason("; ".join(waiting) or "no conversation is at risk")
    names = ",".join(risk.account for risk in due)
    times = ",".join(f"{risk.last_listed_at:%Y%m%dT%H%M%S}" for risk in due)
    return dg.RunRequest(run_key=f"{names}@{times}", tags={ACCOUNTS_TAG: names})


def _retry_once(
    instance: dg.DagsterInstance, job_name: str, request: dg.RunRequest
) -> dg.RunRequest:
    """Change the key of a request whose run failed: Dagster starts only one run per key."""
    failed = dg.RunsFilter(
        job_name=job_name,
        tags={RUN_KEY_TAG: str(request.run_key)},
        statuses=[dg.DagsterRunStatus.FAILURE],
    )
    if not instance.get_runs(failed, limit=1):
        return request
    return dg.RunRequest(run_key=f"{request.run_key}/again", tags=dict(request.tags))
