"""Definitions of one configuration for the user's own code location."""

import os
from collections.abc import Collection, Sequence

import dagster as dg

from convo_pipeline.orchestration.assets import Translation
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import read_deployment


def build_defs(
    config: str | os.PathLike[str] | None = None,
    *,
    key_prefix: str | Sequence[str] | None = None,
    group_name: str | None = None,
    include: Collection[str] | None = None,
    schedules: bool = True,
    translation: Translation | None = None,
) -> dg.Definitions:
    """Return assets, checks, jobs, schedules and sensors for `Definitions.merge`.

    `config` is the path of the configuration. Default: $CONVO_CONFIG, else ./convo.toml. A wrong
    configuration loads too: every asset then names the problem.
    `key_prefix` is put before every asset key and, joined by "_", before the names of jobs,
    schedules, sensors and steps. Default: `[dagster] key_prefix` of the configuration, under which
    the command line records its runs too.
    `group_name` is the group of all assets. Default: a group for each layer.
    `include` names the tables that are assets; the tables that they follow are added. All tables
    are stored.
    `schedules=False` leaves the schedules out, for a project that starts the jobs itself.
    `translation` changes single assets: it gets the `AssetSpec` and the `Table` of each asset and
    returns the new specification, also with another key, group, owners or tags.

    There is no executor and no resource among the definitions. Days are UTC. Raises SettingsError
    if `include` names no table or no derived one, or if two tables get the same key.
    """
    prefix = (key_prefix,) if isinstance(key_prefix, str) else key_prefix
    return build_definitions(
        read_deployment(config=config, key_prefix=prefix),
        group_name=group_name,
        include=include,
        translation=translation,
        has_schedules=schedules,
    )
