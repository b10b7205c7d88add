"""The settings and the environment from which every asset, job and schedule is built."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import SettingsError
from convo_pipeline.extract.report import AccountReport, Progress
from convo_pipeline.reasons import Interface
from convo_pipeline.settings import Settings, find_settings_file, read_settings


@dataclass(frozen=True)
class Deployment:
    """Settings, environment and clock; `problem` is the reason why there are no accounts."""

    settings: Settings
    problem: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = SYSTEM_CLOCK
    interface: Interface = "page"
    """Where a person reads the remedies of failures."""
    on_progress: Callable[[Progress], None] | None = None
    on_reports: Callable[[Sequence[AccountReport]], None] | None = None


def read_deployment(environ: Mapping[str, str] = os.environ) -> Deployment:
    """Read the configuration; a wrong or missing one becomes a `problem` without accounts."""
    try:
        settings = read_settings(environ=environ)
    except SettingsError as error:
        return Deployment(Settings(), problem=str(error), environ=environ)
    problem = (
        None if settings.accounts else f"{find_settings_file(environ=environ)}: no [[accounts]] yet"
    )
    return Deployment(settings, problem=problem, environ=environ)
