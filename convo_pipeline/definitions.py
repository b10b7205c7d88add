"""The Dagster code location: `dagster dev` in the repository's root loads `defs` from here."""

import os

from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import read_deployment
from convo_pipeline.orchestration.instance import silence_home
from convo_pipeline.storage.local import PRIVATE_UMASK

os.umask(PRIVATE_UMASK)
silence_home(os.environ)
defs = build_definitions(read_deployment())
