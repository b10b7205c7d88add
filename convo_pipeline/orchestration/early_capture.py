"""Ask an account again sooner while one of its conversations may lose messages, and calm down again.

A sensor that reads only our own state: what the last look brought says when the next one is due (`risk`).
"""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg

from convo_pipeline.errors import StoreError
from convo_pipeline.extract.risk import AccountRisks, find_risks
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.assets import open_store
from convo_pipeline.orchestration.capture import ACCOUNTS_TAG
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.settings import Settings
from convo_pipeline.state.database import STATE_FILE

LOOK_SECONDS = 30
RUN_KEY_TAG = "dagster/run_key"


def build_early_capture(
    deployment: Deployment, capture_job: dg.JobDefinition
) -> dg.SensorDefinition:
    """Build the sensor that requests a capture of the accounts at risk."""

    @dg.sensor(
        name="capture_sooner",
        job=capture_job,
        minimum_interval_seconds=LOOK_SECONDS,
        description="Asks for a capture between two captures while a conversation may outrun the newest 20 messages. "
        "Reads our own state only. Turn it on together with the capture schedule.",
    )
    def capture_sooner(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        settings = deployment.settings
        if not (settings.store.state_path / STATE_FILE).is_file():
            return dg.SkipReason("nothing was extracted yet")
        with open_store(deployment) as store:
            risks = [each for each in all_risks(settings, store) if each.due_at is not None]
        asked = request(risks, deployment.clock.now())
        return (
            asked if isinstance(asked, dg.SkipReason) else again_if_failed(context.instance, asked)
        )

    return capture_sooner


def all_risks(settings: Settings, store: Store) -> list[AccountRisks]:
    """Judge every account; one whose files cannot be read is left to the checks, which name it."""
    found = []
    for account in settings.accounts:
        try:
            found.append(find_risks(settings, store, account.name))
        except StoreError:
            continue
    return found


def request(risks: Sequence[AccountRisks], now: datetime) -> dg.RunRequest | dg.SkipReason:
    """Ask for one run of all accounts that are due; the key holds their last looks, so that each look is followed once."""
    due = [each for each in risks if each.due_at is not None and each.due_at <= now]
    if not due:
        waiting = [
            f"{each.account}: {len(each.risks)} at risk, due {each.due_at:%H:%M:%S} UTC"
            for each in risks
        ]
        return dg.SkipReason("; ".join(waiting) or "no conversation is at risk")
    names = ",".join(each.account for each in due)
    looks = ",".join(f"{each.last_look:%Y%m%dT%H%M%S}" for each in due)
    return dg.RunRequest(run_key=f"{names}@{looks}", tags={ACCOUNTS_TAG: names})


def again_if_failed(instance: dg.DagsterInstance, asked: dg.RunRequest) -> dg.RunRequest:
    """Give a request whose run failed another key, once: it may have died before it looked, and a key is followed once."""
    failed = dg.RunsFilter(
        tags={RUN_KEY_TAG: str(asked.run_key)}, statuses=[dg.DagsterRunStatus.FAILURE]
    )
    if not instance.get_runs(failed, limit=1):
        return asked
    return dg.RunRequest(run_key=f"{asked.run_key}/again", tags=dict(asked.tags))
