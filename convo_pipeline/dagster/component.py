"""The component for `defs.yaml`: `dg scaffold defs convo_pipeline.dagster.ConvoComponent NAME`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import dagster as dg
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver

from convo_pipeline.console.first_settings import write_first_settings
from convo_pipeline.dagster.mount import build_defs
from convo_pipeline.schema import Table
from convo_pipeline.settings import CONFIG_FILE


class ConvoScaffolder(dg.Scaffolder):
    """Writes `defs.yaml` and a commented configuration beside it."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Write both files into the new folder; its name becomes the prefix of the asset keys."""
        target = request.target_path
        dg.scaffold_component(request, {"config": CONFIG_FILE})
        config = target / CONFIG_FILE
        write_first_settings(config, datetime.now(UTC).date())
        with config.open("a") as file:
            file.write(
                f'\n[dagster]\nkey_prefix = ["{target.name}"]  # put before every asset key\n'
            )


@dg.scaffold_with(ConvoScaffolder)
class ConvoComponent(dg.Component, dg.Model, dg.Resolvable):
    """Messenger and Instagram inboxes as tables: assets, checks, jobs, schedules and sensors."""

    config: str = CONFIG_FILE
    """Path of the configuration; a relative one begins in the folder of `defs.yaml`."""
    key_prefix: str | Sequence[str] | None = None
    """Put before every asset key and every name; without it that of the configuration."""
    group_name: str | None = None
    """The group of all assets; without it each layer is a group."""
    include: Sequence[str] | None = None
    """Tables that are assets; without it all."""
    schedules: bool = True
    """Whether the schedules are defined."""
    translation: (
        Annotated[
            TranslationFn[Table],
            TranslationFnResolver[Table](lambda table: {"table": table}),
        ]
        | None
    ) = None
    """Attributes of single assets. Templates read `{{ table.name }}`, `{{ spec.key }}`."""

    def get_asset_spec(self, spec: dg.AssetSpec, table: Table) -> dg.AssetSpec:
        """Return the asset of a table; a subclass may change it."""
        return self.translation(spec, table) if self.translation else spec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions for the code location."""
        return build_defs(
            context.path / self.config,
            key_prefix=self.key_prefix,
            group_name=self.group_name,
            include=self.include,
            schedules=self.schedules,
            translation=self.get_asset_spec,
        )
