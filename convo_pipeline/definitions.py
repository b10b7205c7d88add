"""The Dagster code location: `dagster dev` in the repository's root loads `defs` from here."""

import os

from convo_pipeline.lake.folder import PRIVATE_UMASK
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import read_deployment

os.umask(PRIVATE_UMASK)
defs = build_definitions(read_deployment())
