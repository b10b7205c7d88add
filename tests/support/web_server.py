"""Start `dagster dev` as a user does, and send the GraphQL queries of its page."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.support.paths import ROOT
from tests.support.shifted_clock import FAST

LOCATION = "convo-pipeline"
PATIENCE_SECONDS = 300
STARTS, NO_HEARTBEAT = 3, "No heartbeat received"
STATUS = """
query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
  partitionStats { numMaterialized numFailed }
  assetMaterializations(limit: 100) {
    partition metadataEntries { label ... on IntMetadataEntry { intValue } } }
  assetPartitionStatuses { ... on MultiPartitionStatuses { ranges {
    primaryDimStartKey primaryDimEndKey
    secondaryDim { ... on DefaultPartitionStatuses {
      materializedPartitions failedPartitions } } } } } } } }"""
LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""
RUNS = """{ runsOrError { ... on Runs { results { runId jobName status tags { key value } } } } }"""
EVENTS = """
query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events { __typename
  ... on MessageEvent { message level stepKey }
  ... on DisplayableEvent { label description metadataEntries { ...entry } }
  ... on ErrorEvent { error { message stack causes { message stack } } }
  ... on ExecutionStepFailureEvent { failureMetadata { metadataEntries { ...entry } } }
  ... on LogsCapturedEvent { fileKey } } } } }
"""
ENTRY = """
fragment entry on MetadataEntry { label description
  ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr }
  ... on JsonMetadataEntry { jsonString }
  ... on TableMetadataEntry { table { records } } }"""
ASSETS = """
{ assetNodes { assetKey { path } description metadataEntries { ...entry }
  assetMaterializations(limit: 100) { description metadataEntries { ...entry } }
  assetObservations(limit: 100) { description metadataEntries { ...entry } }
  assetChecksOrError { ... on AssetChecks { checks { name description
    executionForLatestMaterialization { evaluation {
      description metadataEntries { ...entry } } } } } } } }"""
SENSORS = """
query($selector: RepositorySelector!) { sensorsOrError(repositorySelector: $selector) {
  ... on Sensors { results { name description sensorState { ticks(limit: 20) {
    status skipReason cursor error { message stack } } } } } } }"""
OUTPUT = """query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"""
DETAILS = """
{ runsOrError { ... on Runs { results {
  runId jobName status runConfigYaml tags { key value } } } } }"""
BACKFILL = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""


@dataclass(frozen=True)
class Web:
    """The running web server."""

    url: str
    responses: list[bytes] = field(default_factory=list)
    """Every response that the page received."""
    pid: int = 0
    """Process id of `dagster dev`, which started all other processes."""

    def ask(self, query: str, **variables: Any) -> Any:
        response = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=30
        )
        self.responses.append(response.content)
        body = response.json()
        assert "errors" not in body, body["errors"]
        (result,) = body["data"].values()
        return result

    def asset(self, name: str) -> Any:
        return self.ask(STATUS, path=name.split("/"))

    def row_counts(self, name: str) -> dict[str, int]:
        """Return the row count of each partition's newest materialisation."""
        events = reversed(self.asset(name)["assetMaterializations"])
        return {
            event["partition"]: entry["intValue"]
            for event in events
            for entry in event["metadataEntries"]
            if entry["label"] == "dagster/partition_row_count"
        }

    def launch(self, assets: list[str], partition: str, location: str = LOCATION) -> str:
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": asset.split("/")} for asset in assets],
        }
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        result = self.ask(
            LAUNCH, params={"selector": selector, "executionMetadata": {"tags": tags}}
        )
        assert result["__typename"] == "LaunchRunSuccess", result
        return str(result["run"]["runId"])

    def backfill(self, assets: list[str], partitions: list[str]) -> None:
        params = {
            "assetSelection": [{"path": asset.split("/")} for asset in assets],
            "partitionNames": partitions,
        }
        result = self.ask(BACKFILL, params=params)
        assert result["__typename"] == "LaunchBackfillSuccess", result

    def end_of(self, run_id: str) -> str:
        """Wait for the end of a run and return its status."""
        ended = ("SUCCESS", "FAILURE", "CANCELED")

        def status_at_end() -> str:
            status = str(self.ask(RUN, id=run_id)["status"])
            return status if status in ended else ""

        return str(wait_for(status_at_end))

    def ask_everything(self) -> None:
        """Request everything that the page shows of assets, checks, sensors and runs."""
        self.ask(DETAILS)
        self.ask(ASSETS + ENTRY)
        repository = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
        self.ask(SENSORS, selector=repository)
        for run in self.ask(RUNS)["results"]:
            events = self.ask(EVENTS + ENTRY, id=run["runId"])["events"]
            for file_key in [event["fileKey"] for event in events if "fileKey" in event]:
                self.ask(OUTPUT, key=[run["runId"], "compute_logs", file_key])

    def runs(self, job: str) -> list[str]:
        """Return the status of every run of a job."""
        return [run["status"] for run in self.ask(RUNS)["results"] if run["jobName"] == job]


def wait_for(check: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Call until the result is true; the limit only ends a test that would wait for ever."""
    deadline = time.monotonic() + seconds
    while True:
        if result := check():
            return result
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


@contextmanager
def dagster_dev(
    home: Path,
    environ: Mapping[str, str],
    change: tuple[str, str] = ("", ""),
    arguments: Sequence[str] = (),
) -> Iterator[Web]:
    """Start `dagster dev` in the repository's root with a separate home, and stop it at the end.

    `arguments` name another code location than that of the shipped workspace.yaml. The time limit
    for a run's start is longer, because the shared clock may be fast. `change` replaces one more
    line of the shipped dagster.yaml.
    """
    home.mkdir(exist_ok=True)
    longer = f"start_timeout_seconds: {180 * FAST}"
    config = (ROOT / "dagster.yaml").read_text().replace("start_timeout_seconds: 180", longer)
    (home / "dagster.yaml").write_text(config.replace(*change))
    with serve_page(home, environ, "dagster", "dev", *arguments) as web:
        yield web


@contextmanager
def serve_page(
    home: Path,
    environ: Mapping[str, str],
    module: str,
    *arguments: str,
    python: str = sys.executable,
    folder: Path = ROOT,
) -> Iterator[Web]:
    """Run a module that serves Dagster's page, wait until it responds, and stop it at the end.

    Dagster stops if its code server receives no heartbeat within 45 s, which happens on a busy
    machine. Then it is started again, as a service manager would do.
    """
    for _ in range(STARTS):
        port = free_port()
        with (home / "web.log").open("ab") as log:
            process = subprocess.Popen(
                [python, "-m", module, *arguments, "-h", "127.0.0.1", "-p", str(port)],
                cwd=folder,
                env={**os.environ, "DAGSTER_HOME": str(home), **environ},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        web = Web(f"http://127.0.0.1:{port}", pid=process.pid)
        try:
            wait_for(lambda web=web, process=process: process.poll() is not None or is_up(web))
            if process.poll() is None:
                yield web
                return
        finally:
            end(process)
        assert NO_HEARTBEAT in (home / "web.log").read_text(), "dagster ended"
    raise AssertionError(f"dagster stopped {STARTS} times")


def end(process: "subprocess.Popen[bytes]", seconds: float = 60) -> None:
    """Terminate the process group, and kill it if it does not end in time."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_up(web: Web) -> bool:
    try:
        return requests.get(f"{web.url}/server_info", timeout=5).ok
    except requests.RequestException:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
