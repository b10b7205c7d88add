"""The Dagster instance that records runs: the one in DAGSTER_HOME.

Dagster collects and sends telemetry unless `dagster.yaml` says otherwise. So a folder without this
file gets one, and our own commands collect none, whatever the file says.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from convo_pipeline.errors import SettingsError
from convo_pipeline.orchestration.event_log import with_kept_connections
from convo_pipeline.orchestration.runs import HOME_VARIABLE

EVENT_BATCH_SIZE = "1000"
"""Events of one asset that are written at once."""
SHIPPED_CONFIG = "dagster.yaml"


def open_instance(environ: Mapping[str, str]) -> dg.DagsterInstance:
    """Open the instance in DAGSTER_HOME.

    Raise SettingsError if DAGSTER_HOME is no absolute path of an existing folder.
    """
    home = environ.get(HOME_VARIABLE, "").strip()
    path = Path(home).expanduser()
    if not path.is_absolute():
        raise SettingsError(f"{HOME_VARIABLE} must be an absolute path, not {home}")
    if not path.is_dir():
        raise SettingsError(
            f"{HOME_VARIABLE}: the folder {home} does not exist; make it: mkdir -p {home}"
        )
    return open_home(path)


def open_home(path: Path) -> dg.DagsterInstance:
    """Open the instance of a folder; Dagster's default storage keeps its connections open."""
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", EVENT_BATCH_SIZE)
    home = str(make_home(path))
    ref = InstanceRef.from_dir(home, overrides={"telemetry": {"enabled": False}})
    return dg.DagsterInstance.from_ref(with_kept_connections(ref))


def make_home(path: Path) -> Path:
    """Make a folder for DAGSTER_HOME, with telemetry off; an existing dagster.yaml stays."""
    path.mkdir(parents=True, exist_ok=True)
    if not any((path / name).exists() for name in ("dagster.yaml", "dagster.yml")):
        own, packaged = Path(SHIPPED_CONFIG), files("convo_pipeline") / "project" / SHIPPED_CONFIG
        text = own.read_text() if own.is_file() else packaged.read_text()
        with suppress(OSError), (path / SHIPPED_CONFIG).open("x") as file:
            file.write(text)
    return path.resolve()


def silence_home(environ: Mapping[str, str]) -> None:
    """Give an existing DAGSTER_HOME without dagster.yaml one that switches telemetry off."""
    home = Path(environ.get(HOME_VARIABLE, "").strip())
    if home.is_absolute() and home.is_dir():
        make_home(home)
