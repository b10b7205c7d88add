"""The jobs: extract asks, normalise follows, capture looks often and writes little.

Extract and normalise are apart because a failed step skips everything below it, for the good accounts too.
"""

import dagster as dg

from convo_pipeline.orchestration.assets import DERIVED, RAW
from convo_pipeline.orchestration.capture import run_capture
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.outcome import failure

EXTRACT_JOB = "extract_job"
NORMALISE_JOB = "normalise_job"
CAPTURE_JOB = "capture_job"

extract_job = dg.define_asset_job(
    EXTRACT_JOB, selection=list(RAW), description="Ask the API: the raw tables of a range of accounts × days."
)
normalise_job = dg.define_asset_job(
    NORMALISE_JOB,
    selection=list(DERIVED),
    description="Make every other table agree with the raw ones. Starts by itself when an extract ends, well or not.",
)


def build_capture_job(deployment: Deployment) -> dg.JobDefinition:
    """Build the job that asks all accounts for what is new and logs only partitions that changed.

    An op, not an asset run: an idle look is a dozen events however many accounts there are.
    """

    @dg.op(name="capture")
    def capture(context: dg.OpExecutionContext) -> None:
        """Ask every account once, merge, normalise what changed; fail at the end if an account failed."""
        outcome = run_capture(deployment, context.log.info)
        for (table, key), metadata in outcome.extra.items():
            context.log_event(dg.AssetMaterialization(table, partition=key, metadata=dict(metadata)))
        if outcome.failures:
            raise failure(outcome)

    @dg.job(name=CAPTURE_JOB, description="Look for new messages before they leave the newest 20.")
    def capture_job() -> None:
        capture()

    return capture_job
