"""All Dagster definitions of one deployment: assets, checks, jobs, schedules, sensors."""

import dagster as dg

from convo_pipeline.orchestration.alerts import build_alert
from convo_pipeline.orchestration.assets import (
    build_extract,
    build_normalise,
    build_problem,
    extract_job,
    normalise_job,
    partitions_of,
)
from convo_pipeline.orchestration.capture import build_capture_job
from convo_pipeline.orchestration.dead_runs import build_dead_runs
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.early_capture import build_early_capture
from convo_pipeline.orchestration.schedules import (
    build_capture_schedule,
    build_followers,
    build_nightly,
    build_sweep,
)
from convo_pipeline.orchestration.upkeep import build_upkeep_schedule


def build_definitions(deployment: Deployment) -> dg.Definitions:
    """Build the code location. Without accounts it loads too, and shows why there are none."""
    partitions = partitions_of(deployment.settings)
    capture_job = build_capture_job(deployment)
    cron = deployment.settings.schedule.capture
    return dg.Definitions(
        assets=[
            build_extract(deployment, partitions),
            build_normalise(deployment, partitions),
            *([build_problem(deployment.problem)] if deployment.problem else []),
        ],
        jobs=[extract_job, normalise_job, capture_job],
        schedules=[
            build_nightly(deployment),
            build_sweep(deployment),
            *([build_capture_schedule(deployment, cron, capture_job)] if cron else []),
            build_upkeep_schedule(deployment),
        ],
        sensors=[
            *build_followers(),
            build_early_capture(deployment, capture_job),
            build_dead_runs(deployment),
            build_alert(deployment),
        ],
        executor=dg.in_process_executor,
    )
