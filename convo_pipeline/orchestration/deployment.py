"""The settings and the environment from which every asset, job and schedule is built."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.errors import SettingsError
from convo_pipeline.extract.report import AccountReport, Progress
from convo_pipeline.orchestration.names import UNPREFIXED, Names
from convo_pipeline.reasons import Interface
from convo_pipeline.settings import Settings, find_settings_file, read_settings, read_valid_sections


@dataclass(frozen=True)
class Deployment:
    """Settings, environment and clock; `problem` is the reason why there are no accounts."""

    settings: Settings
    problem: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = SYSTEM_CLOCK
    interface: Interface = "page"
    """Where a person reads the remedies of failures."""
    names: Names = UNPREFIXED
    wait_seconds: float = 0.0
    """How long an extraction waits for an account that another run works on."""
    on_progress: Callable[[Progress], None] | None = None
    on_reports: Callable[[Sequence[AccountReport]], None] | None = None


def read_function(key: str, name: str) -> Callable[..., Any]:
    """Return the function that a setting names as `module:function`; SettingsError without it."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # the module is the user's
        raise SettingsError(
            f"{key}: cannot import {name} ({type(error).__name__}: {error}); install its package"
        ) from None
    if not callable(found):
        raise SettingsError(f"{key}: {name} is no function")
    return cast(Callable[..., Any], found)


def read_deployment(
    environ: Mapping[str, str] = os.environ,
    config: str | os.PathLike[str] | None = None,
    key_prefix: Sequence[str] | None = None,
) -> Deployment:
    """Read the configuration; a wrong or missing one becomes a `problem` without accounts.

    Its valid sections are used: so the failed run is told to the receivers of `[alerts]`.
    `key_prefix` replaces that of the configuration.
    """
    settings, problem = Settings(), None
    try:
        settings = read_settings(config, environ)
        if not settings.accounts:
            problem = f"{find_settings_file(config, environ)}: no [[accounts]] yet"
        if settings.dagster.translation:
            read_function("dagster.translation", settings.dagster.translation)
    except SettingsError as error:
        settings, problem = read_valid_sections(config, environ), str(error)
    prefix = settings.dagster.key_prefix if key_prefix is None else key_prefix
    return Deployment(settings, problem=problem, environ=environ, names=Names(tuple(prefix)))
