"""A resource with which assets of the user read the tables."""

import dagster as dg
from pydantic import Field

from convo_pipeline.query.connection import Connection, connect
from convo_pipeline.settings import read_settings


class ConvoLake(dg.ConfigurableResource["ConvoLake"]):
    """The tables of one configuration, opened by `connect()`."""

    config: str | None = Field(
        default=None,
        description="Path of the configuration. Default: $CONVO_CONFIG, else ./convo.toml.",
    )
    root: str | None = Field(
        default=None, description="Folder or bucket of the tables, if there is no configuration."
    )

    def connect(self) -> Connection:
        """Return a read-only DuckDB connection with one view per table; use it in a `with`.

        Raises SettingsError if the configuration is wrong, and StoreError if there is no lake.
        """
        if self.root is not None and self.config is None:
            return connect(self.root)
        settings = read_settings(self.config)
        return connect(self.root or settings.store.root, settings=settings)
