"""Dagster's definitions for tests that start many runs of one deployment."""

import dagster as dg

from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment

_built: list[tuple[Deployment, dg.Definitions]] = []


def definitions_of(deployment: Deployment) -> dg.Definitions:
    """Build a deployment's definitions once, as a code location does."""
    if not _built or _built[0][0] is not deployment:
        _built[:] = [(deployment, build_definitions(deployment))]
    return _built[0][1]
