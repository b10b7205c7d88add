"""Public API for a Dagster project: definitions to mount, a component, a resource for readers."""

from convo_pipeline.dagster.component import ConvoComponent
from convo_pipeline.dagster.mount import build_defs
from convo_pipeline.dagster.resource import ConvoLake

__all__ = ["ConvoComponent", "ConvoLake", "build_defs"]
