"""The files in `deploy/`: linters and schemas accept them, and they agree with the program."""

import configparser
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dagster._cli
import dagster._daemon.cli
import dagster_webserver.cli
import kubernetes_validate
import pytest
import yaml

from convo_pipeline.cli import main
from convo_pipeline.settings import read_settings
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
WORKERS = DEPLOY / "kubernetes-workers"
SCRIPTS = Path(sys.executable).parent
SERVICES = {"dagster-daemon", "dagster-webserver"}


def run(*command: str) -> str:
    """Run a program of the environment; return its output. It must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_command(words: list[str]) -> None:
    """Parse a command of Dagster without running it; fail on an unknown option."""
    programs: dict[str, click.Command] = {
        "dagster-daemon": dagster._daemon.cli.create_dagster_daemon_cli(),
        "dagster-webserver": dagster_webserver.cli.create_dagster_webserver_cli(),
    }
    name = Path(words[0]).name
    assert (SCRIPTS / name).exists()
    command, words = programs[name], words[1:]
    context = command.make_context(name, words)
    if isinstance(command, click.Group):
        _, subcommand, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert subcommand is not None
        subcommand.make_context(subcommand.name or "", rest, parent=context)


def test_hadolint_accepts_the_dockerfile() -> None:
    run(str(SCRIPTS / "hadolint"), str(DEPLOY / "Dockerfile"))


def test_the_dockerfile_copies_only_tracked_files() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert len(sources) > 5
    assert [source for source in sources if not run("git", "ls-files", source)] == []


def test_the_compose_schema_accepts_the_compose_file() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    run(str(SCRIPTS / "check-jsonschema"), *schema, str(DEPLOY / "compose.yaml"))


def test_the_compose_file_serves_the_page_on_loopback_only() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:3000:3000"]
    assert {service["command"][0] for service in services.values()} == SERVICES
    for service in services.values():
        check_command(service["command"])


def manifests() -> Iterator[dict]:  # type: ignore[type-arg]
    for path in MANIFESTS:
        if path.name != "kustomization.yaml":
            yield yaml.safe_load(path.read_text())


def test_the_schemas_of_kubernetes_accept_the_manifests() -> None:
    assert {manifest["kind"] for manifest in manifests()} == {
        "Deployment",
        "PersistentVolumeClaim",
        "Service",
    }
    for manifest in manifests():
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_the_kustomization_names_every_manifest() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS if path.name != "kustomization.yaml"]


def test_the_pod_runs_both_services_without_privileges() -> None:
    (deployment,) = (each for each in manifests() if each["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert {container["command"][0] for container in spec["containers"]} == SERVICES
    assert deployment["spec"]["replicas"] == 1
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in spec["containers"]:
        check_command(container["command"])
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_example_configuration_of_the_pod_is_valid() -> None:
    settings = read_settings(DEPLOY / "kubernetes/convo.toml")
    assert [account.token_from for account in settings.accounts] == [
        "/run/secrets/convo/meta_token"
    ]


def worker_manifests() -> dict[str, dict[str, Any]]:
    """Return the manifests of many machines by kind and name."""
    found = [yaml.safe_load(path.read_text()) for path in WORKERS.glob("*.yaml")]
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found if "spec" in each}


def test_the_schemas_of_kubernetes_accept_the_manifests_of_many_machines() -> None:
    found = worker_manifests()
    assert sorted(found) == [
        "Deployment convo-control",
        "Deployment convo-workers",
        "Service convo-control",
    ]
    for manifest in found.values():
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    kustomization = yaml.safe_load((WORKERS / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["control.yaml", "service.yaml", "workers.yaml"]
    for file in kustomization["configMapGenerator"][0]["files"]:
        assert (WORKERS / file).is_file()


def test_as_many_runs_as_workers_are_started_and_one_daemon() -> None:
    found = worker_manifests()
    instance = yaml.safe_load((DEPLOY / "celery/dagster.yaml").read_text())
    replicas = found["Deployment convo-workers"]["spec"]["replicas"]
    assert replicas == instance["concurrency"]["runs"]["max_concurrent_runs"]
    control = found["Deployment convo-control"]["spec"]
    assert (control["replicas"], control["strategy"]) == (1, {"type": "Recreate"})
    daemon, page, metrics = control["template"]["spec"]["containers"]
    check_command(daemon["command"])
    check_command(page["command"])
    main.make_context("convo-pipeline", metrics["command"][1:])
    assert read_settings(WORKERS / "convo.toml").store.state_url_env == "STATE_URL"


def test_hadolint_accepts_the_dockerfile_of_the_workers() -> None:
    run(str(SCRIPTS / "hadolint"), str(DEPLOY / "celery/Dockerfile"))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_service_unit_starts_an_installed_program(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    check_command(shlex.split(unit["Service"]["ExecStart"]))
    assert unit["Service"]["UMask"] == "0077"
    assert path.name in (ROOT / "docs/connect.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_accepts_the_service_units(tmp_path: Path) -> None:
    assert len(UNITS) == 2
    for path in UNITS:
        text = path.read_text().replace("/opt/convo-pipeline/.venv/bin", str(SCRIPTS))
        text = text.replace("User=convo\n", "").replace("/opt/convo-pipeline", str(ROOT))
        (tmp_path / path.name).write_text(text)
    files = map(str, sorted(tmp_path.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert [line for line in lines if str(tmp_path) in line or "convo-" in line] == []


def test_the_documentation_is_a_site_without_broken_links(tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(site))
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_pre_commit_runs_the_same_checks_as_the_test_command() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [
        ".venv/bin/ruff format",
        ".venv/bin/ruff check --fix",
        ".venv/bin/mypy",
    ]
