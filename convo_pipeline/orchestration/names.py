"""Names in a code location: keys of our assets; names of our steps, jobs, schedules and sensors.

All of them carry the prefix of the code location, so that they fit between the user's own.
Dagster is imported only where a key is made: the steps of the command line run without it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convo_pipeline.schema import TABLES

if TYPE_CHECKING:
    import dagster as dg

EXTRACT_STEP, NORMALISE_STEP = "extract", "normalise"
EXTRACT_JOB, NORMALISE_JOB = "extract_job", "normalise_job"
CAPTURE_JOB, UPKEEP_JOB = "capture_job", "upkeep_job"
CONFIGURATION, CONFIGURATION_JOB = "configuration", "configuration_job"
"""The asset, step and job that fail while the configuration is wrong."""
CONFIGURATION_SENSOR = "wrong_configuration"
OVERVIEW = "overview"
"""The unpartitioned asset and step that shows all accounts."""
STEPS = (EXTRACT_STEP, NORMALISE_STEP, "capture", "upkeep", CONFIGURATION, OVERVIEW)
JOBS = (EXTRACT_JOB, NORMALISE_JOB, CAPTURE_JOB, UPKEEP_JOB, CONFIGURATION_JOB)


@dataclass(frozen=True)
class Names:
    """How one code location names our definitions, and which tables it shows as assets."""

    key_prefix: tuple[str, ...] = ()
    translated: Mapping[str, "dg.AssetKey"] = field(default_factory=dict)
    """Keys of the tables whose asset was translated; every other key is prefix and table name."""
    shown: frozenset[str] = frozenset(TABLES)
    """The tables that are assets. Events of other tables would make assets that nobody defined."""

    @property
    def has_overview(self) -> bool:
        """Whether the overview is an asset: not if the user chose single tables."""
        return self.shown == frozenset(TABLES)

    def asset_key(self, table: str) -> "dg.AssetKey":
        """Return the asset key of a table.

        >>> Names(("shop", "inbox")).asset_key("messages").to_user_string()
        'shop/inbox/messages'
        """
        import dagster as dg

        return self.translated.get(table) or dg.AssetKey([*self.key_prefix, table])

    def table_of(self, key: "dg.AssetKey") -> str | None:
        """Return the table of an asset key; None if the asset is not ours."""
        tables = self.shown if self.translated else {key.path[-1]} & self.shown
        return next((table for table in tables if self.asset_key(table) == key), None)

    def of(self, name: str) -> str:
        """Return the name of a step, job, schedule or sensor. Dagster allows only word characters.

        >>> Names(("my-shop", "inbox")).of("nightly"), Names().of("nightly")
        ('my_shop_inbox_nightly', 'nightly')
        """
        return re.sub(r"[^A-Za-z0-9_]", "_", "_".join([*self.key_prefix, name]))

    def tables_of(self, instance: "dg.DagsterInstance", run: "dg.DagsterRun") -> set[str]:
        """Return our tables that a run materialises, also in a job of the user."""
        tables = map(self.table_of, run.asset_selection or _planned_keys(instance, run))
        return {table for table in tables if table is not None}

    def is_job(self, run: "dg.DagsterRun", *jobs: str) -> bool:
        """Whether a run is one of these jobs of ours, or of any without `jobs`."""
        return run.job_name in map(self.of, jobs or JOBS)


UNPREFIXED = Names()
"""The names in a code location of its own."""


def _planned_keys(instance: "dg.DagsterInstance", run: "dg.DagsterRun") -> set["dg.AssetKey"]:
    """Return the assets of a run of a whole job, from its execution plan."""
    if run.execution_plan_snapshot_id is None:
        return set()
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    outputs = [
        output.properties
        for step in plan.steps
        if step.key in plan.step_keys_to_execute
        for output in step.outputs
    ]
    return {each.asset_key for each in outputs if each is not None and each.asset_key is not None}


def is_ours(
    names: Names,
    instance: "dg.DagsterInstance",
    run: "dg.DagsterRun",
    location: str | None = None,
) -> bool:
    """Whether a run is a job of ours or materialises tables of ours.

    `location` is the code location of the question: another one may use the same names. A run of
    the command line belongs to no location.
    """
    origin = run.remote_job_origin
    if origin is not None:
        run_location = origin.repository_origin.code_location_origin.location_name
        if location not in (None, run_location):
            return False
    return names.is_job(run) or bool(names.tables_of(instance, run))
