"""What every asset, job and schedule is built from: the settings and the world they run in."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import SettingsError
from convo_pipeline.extract.run import AccountReport, Progress
from convo_pipeline.settings import Settings, find_settings_file, read_settings


@dataclass(frozen=True)
class Deployment:
    """Settings, environment and clock; `problem` says why there are no accounts."""

    settings: Settings
    problem: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = SYSTEM_CLOCK
    on_progress: Callable[[Progress], None] | None = None
    on_reports: Callable[[Sequence[AccountReport]], None] | None = None


def read_deployment(environ: Mapping[str, str] = os.environ) -> Deployment:
    """Read the configuration; a wrong or missing one becomes zero accounts and a `problem`, never an exception."""
    try:
        settings = read_settings(environ=environ)
    except SettingsError as error:
        return Deployment(Settings(), problem=str(error), environ=environ)
    problem = (
        None if settings.accounts else f"{find_settings_file(environ=environ)}: no [[accounts]] yet"
    )
    return Deployment(settings, problem=problem, environ=environ)
