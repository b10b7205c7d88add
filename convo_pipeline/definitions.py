"""The Dagster code location of a separate deployment: `dagster dev -m convo_pipeline.definitions`.

Its runs need no process for each step. An own code location uses `convo_pipeline.dagster`.
"""

import os

import dagster as dg

from convo_pipeline.dagster import build_defs
from convo_pipeline.orchestration.instance import silence_home

silence_home(os.environ)
defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
