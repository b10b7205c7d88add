"""The jobs of the assets: extract calls the API, normalise derives.

They are two jobs because a failed step skips all steps after it, for the complete accounts too.
"""

import dagster as dg

from convo_pipeline.orchestration.steps import DERIVED, RAW

EXTRACT_JOB = "extract_job"
NORMALISE_JOB = "normalise_job"

extract_job = dg.define_asset_job(
    EXTRACT_JOB,
    selection=list(RAW),
    description="Call the API and store the raw tables of a range of accounts and days.",
)
normalise_job = dg.define_asset_job(
    NORMALISE_JOB,
    selection=list(DERIVED),
    description="Derive all other tables from the raw ones. Starts after every extract run.",
)
