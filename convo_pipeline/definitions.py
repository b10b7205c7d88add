"""The Dagster code location: `dagster dev` in the repository's root loads `defs` from here."""

from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import read_deployment

defs = build_definitions(read_deployment())
