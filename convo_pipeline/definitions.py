"""The Dagster code location: `dagster dev` in the repository's root loads `defs` from here."""

import os

from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import read_deployment
from convo_pipeline.storage.local import PRIVATE_UMASK

os.umask(PRIVATE_UMASK)
defs = build_definitions(read_deployment())
