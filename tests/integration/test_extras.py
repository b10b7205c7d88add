"""Without an extra, the program works but for what needs it, and then it names the extra."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

EXTRAS = {
    "azure": ("azure",),
    "gcs": ("google.api_core", "google.auth", "google.cloud"),
    "delta": ("deltalake",),
    "iceberg": ("pyiceberg",),
    "s3": ("boto3", "botocore"),
    "demo": ("faker", "starlette", "uvicorn"),
    "plots": ("matplotlib", "PIL"),
    "scale": ("psycopg", "prometheus_client"),
    "web": ("dagster_webserver",),
}
RUN = (
    "import sys; sys.modules.update(dict.fromkeys({missing!r}));"
    "from convo_pipeline.cli import main; main({arguments!r})"
)


def run(
    folder: Path, *arguments: str, without: tuple[str, ...]
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process that cannot import the packages of these extras."""
    missing = [name for extra in without for name in EXTRAS[extra]]
    code = RUN.format(missing=missing, arguments=arguments)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    account = (
        '[[accounts]]\nname = "bakery"\npage_id = "1234567890"\nplatform = "instagram"\n'
        'token_env = "T"\nstart_date = "2026-01-01"\n'
    )
    (tmp_path / "convo.toml").write_text(account)
    for name, scheme in (("bucket", "s3"), ("google", "gs"), ("microsoft", "az")):
        (tmp_path / f"{name}.toml").write_text(
            f'[store]\nroot = "{scheme}://bucket/inbox"\nstate_dir = "state"\n{account}'
        )
    (tmp_path / "shared.toml").write_text(
        '[store]\nroot = "s3://bucket/inbox"\nstate_dir = "state"\n'
        f'state_url = "postgresql://127.0.0.1/none"\n{account}'
    )
    (tmp_path / "emulated.toml").write_text(f'[graph]\nbase_url = "emulator"\n{account}')
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "extra", "package"),
    [
        (("--config", "bucket.toml", "verify"), "s3", "boto3"),
        (("--config", "bucket.toml", "query", "select 1"), "s3", "boto3"),
        (("--config", "google.toml", "verify"), "gcs", "google"),
        (("--config", "microsoft.toml", "query", "select 1"), "azure", "azure"),
        (("--config", "shared.toml", "status"), "scale", "psycopg"),
        (("metrics",), "scale", "prometheus_client"),
        (("--config", "emulated.toml", "check"), "demo", ""),
        (("emulator",), "demo", ""),
        (("demo",), "demo", ""),
    ],
)
def test_a_command_names_the_missing_extra(
    folder: Path, arguments: tuple[str, ...], extra: str, package: str
) -> None:
    done = run(folder, *arguments, without=(extra,))
    assert done.returncode == 2, done.stderr
    assert f"the package {package}" in done.stderr
    assert f'pip install "convo-pipeline[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("status",), ("check",), ("query", "--help")]
)
def test_a_command_without_extras_needs_none(folder: Path, arguments: tuple[str, ...]) -> None:
    done = run(folder, *arguments, without=tuple(EXTRAS))
    assert done.returncode in (0, 1), done.stderr
    assert "convo-pipeline[" not in done.stderr


@pytest.mark.slow
def test_runs_without_plots_say_how_to_get_pictures(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--root", "demo", without=("plots", "web", "s3"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "messages").is_dir()


def test_the_package_and_its_definitions_import_without_extras() -> None:
    missing = [name for names in EXTRAS.values() for name in names]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import convo_pipeline;"
        "from convo_pipeline.definitions import defs;"
        "print(len(list(defs.resolve_all_asset_specs())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10
