"""Command `export`: write the derived tables with pseudonyms instead of ids and names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from convo_pipeline.console.upkeep import open_lake
from convo_pipeline.privacy import export
from convo_pipeline.settings import Settings


def export_tables(
    settings: Settings,
    accounts: Sequence[str],
    to: Path,
    form: str,
    environ: Mapping[str, str],
    *,
    with_text: bool,
) -> dict[str, int]:
    """Write one file per table into the folder `to`; return the number of rows of each table."""
    with open_lake(settings.store) as store:
        return export.export_tables(
            settings, store, accounts, to, form, environ, with_text=with_text
        )
