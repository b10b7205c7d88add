"""Sensor: fail runs whose process is gone, so that they free their place in the queue.

Dagster's own launcher notices a dead process only while the code server that started it lives.
After a power cut, a `kill -9` or a restart the run would stay "started" and hold its place.
Each step of ours holds a lock of the operating system while it works. The kernel frees it when the
process ends, however it ends. The lock needs no clock and no process id.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.names import is_ours
from convo_pipeline.orchestration.steps import run_locks
from convo_pipeline.reasons import REASONS
from convo_pipeline.storage.locks import Locks

INTERVAL_SECONDS = 60
WITHOUT_LOCK = timedelta(minutes=5)
"""A run that has worked for this long without a lock of ours is judged by its process."""
DIED_TAG = "convo/died"
"""Tag of a run that this sensor failed."""
GRPC_TAG = ".dagster/grpc_info"
"""Tag of a run that a code server started; it names the server's host."""
LOCAL = '"host": "localhost"'


def build_dead_runs(deployment: Deployment) -> dg.SensorDefinition:
    """Build the sensor; it is on by default and makes no API calls."""

    @dg.sensor(
        name=deployment.names.of("dead_runs"),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fails runs whose process is gone (power cut, kill, restart), so that they"
        " free their place in the queue. The next run stores what they had read.",
    )
    def dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        origin = context.code_location_origin
        failed = fail_dead_runs(
            deployment, context.instance, origin.location_name if origin else None
        )
        return dg.SkipReason(f"failed: {', '.join(failed)}" if failed else "no run is dead")

    return dead_runs


def fail_dead_runs(
    deployment: Deployment, instance: dg.DagsterInstance, location: str | None = None
) -> list[str]:
    """Fail each started run of ours whose process is gone; return the names of their jobs."""
    with run_locks(deployment) as locks:
        return _fail_dead_runs(deployment, instance, location, locks)


def _fail_dead_runs(
    deployment: Deployment, instance: dg.DagsterInstance, location: str | None, locks: Locks
) -> list[str]:
    now, failed = deployment.clock.now(), []
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    for record in instance.get_run_records(started):
        run = record.dagster_run
        if not is_ours(deployment.names, instance, run, location):
            continue
        if not _is_dead(locks, instance, record, now):
            continue
        run_now = instance.get_run_by_id(run.run_id)
        if run_now is not None and run_now.status == dg.DagsterRunStatus.STARTED:
            instance.add_run_tags(run.run_id, {DIED_TAG: "true"})
            instance.report_run_failed(run_now, REASONS["run_died"].explain("page"))
            failed.append(run.job_name)
        locks.remove_run(run.run_id)
    locks.remove_stale_runs()
    return failed


def _is_dead(
    locks: Locks, instance: dg.DagsterInstance, record: dg.RunRecord, now: datetime
) -> bool:
    """Whether the holder of the run's lock died; without a lock, whether its process is gone."""
    run_id = record.dagster_run.run_id
    is_dead = locks.is_run_dead(run_id)
    if is_dead is not None:
        return is_dead
    code_server = record.dagster_run.tags.get(GRPC_TAG, LOCAL)
    age = now - datetime.fromtimestamp(record.start_time or 0, UTC)
    if LOCAL not in code_server or age < WITHOUT_LOCK:
        return False
    process_ids = _process_ids(instance, run_id)
    return bool(process_ids) and not any(map(_is_python, process_ids))


def _process_ids(instance: dg.DagsterInstance, run_id: str) -> list[int]:
    """Return the ids of the processes that Dagster recorded for a run."""
    found = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        metadata = entry.get_dagster_event().engine_event_data.metadata
        if "pid" in metadata:
            with suppress(ValueError):
                found.append(int(str(metadata["pid"].value)))
    return found


def _is_python(process_id: int) -> bool:
    """Whether a process runs Python. Another program may have got the id of a dead run."""
    if not Path("/proc/self").exists():
        with suppress(ProcessLookupError):
            os.kill(process_id, 0)
            return True
        return False
    with suppress(OSError):
        command = Path(f"/proc/{process_id}/cmdline").read_bytes()  # empty for a zombie
        return b"python" in command or b"dagster" in command or b"convo" in command
    return False
