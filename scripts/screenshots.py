"""Take the pictures of the documentation from the demo's Dagster page, in a headless Chromium.

    python scripts/screenshots.py            # into docs/images/
    python scripts/screenshots.py FOLDER

It runs `convo-pipeline demo --ui` in a temporary folder, clicks through the page and saves what it
shows: also a wrong option, a terminated run, a failed run and a wrong configuration. It needs the
development dependencies and Chromium or Chrome on PATH.
"""

import io
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from convo_pipeline.settings import CONFIG_FILE

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
WIDTH, HEIGHT, TALL = 1440, 900, 1330
ACCOUNT, PICTURED = "bikes-messenger", "bakery-instagram"
PATIENCE_MS = 90_000
MOST_BYTES = 150_000
MATERIALISED = """
query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
  assetMaterializations(limit: 200) { partition timestamp metadataEntries { label } } } } }"""

HIDE_FOLDERS = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) walker.currentNode.data = walker.currentNode.data.replace(
    /(^|[\s"'(]|file:\/\/)\/(?:[\w.@+-]+\/)+/g, "$1…/");
}"""
LOCATIONS = (
    """{ workspaceOrError { ... on Workspace { locationEntries { name updatedTimestamp } } } }"""
)
LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
LOG = """
query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  ... on MessageEvent { eventType } } } } }"""


def main() -> None:
    folder = (
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).resolve().parent.parent / "docs" / "images"
    )
    with tempfile.TemporaryDirectory() as root, demo_ui(Path(root)) as url:
        for path in take_screenshots(url, Path(root) / CONFIG_FILE, folder):
            print(f"{path}  {path.stat().st_size:,} bytes")


@contextmanager
def demo_ui(root: Path) -> Iterator[str]:
    """Run the demo with its page in this block; yield the page's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "convo_pipeline.cli",
        "demo",
        "--root",
        str(root),
        "--ui",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        assert process.stdout is not None
        if not any(url in line for line in process.stdout):
            raise RuntimeError("the demo ended before its page was up")
        wait_for(lambda: is_up(url))
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/server_info", timeout=10).ok
    except requests.ConnectionError:
        return False


def wait_for(check: Callable[[], Any], seconds: float = 180) -> Any:
    """Call until the result is true."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.5)
    return result


def take_screenshots(url: str, config: Path, folder: Path) -> list[Path]:
    """Click through the page and write the pictures; return their paths.

    `config` is the configuration of the page; it is changed and restored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        try:
            return list(_tour(page, url, config, folder))
        finally:
            browser.close()


def _tour(page: Page, url: str, config: Path, folder: Path) -> Iterator[Path]:
    yield from _show_graph(page, url, folder)
    yield _show_overview(page, url, folder / "overview.png")
    today = datetime.now(UTC).date()
    for asset in ("account_days", "coverage"):
        drawn = materialised(url, asset, with_label="pictures")
        key = max(key for key in drawn if key.startswith(f"{PICTURED}|"))
        yield _show_pictures(page, url, folder / f"{asset}.png", asset, key)
    yield from _materialise(page, url, folder, (today - timedelta(days=8)).isoformat())
    yield from _show_checks(page, url, folder)
    yield _show_launchpad(page, url, folder / "launchpad.png")
    yield _show_automation(page, url, folder / "automation.png")
    key = f"{ACCOUNT}|{today - timedelta(days=2)}"
    yield _terminate(page, url, folder / "terminated_run.png", key)
    text = config.read_text("utf-8")
    try:
        name = f'name = "{ACCOUNT}"\n'
        unreachable = text.replace(name, f'{name}base_url = "http://127.0.0.1:9"\n')
        reload_definitions(page, url, config, unreachable)
        yield _fail(page, url, folder / "failed_run.png", key)
        reload_definitions(page, url, config, text.replace("Europe/Lisbon", "Europe/Lisbonn"))
        yield _show_configuration(page, url, folder / "configuration.png")
    finally:
        reload_definitions(page, url, config, text)


def _show_graph(page: Page, url: str, folder: Path) -> Iterator[Path]:
    """Open the groups and fit the graph to the page."""
    page.goto(f"{url}/asset-groups", wait_until="domcontentloaded")
    page.get_by_text("normalised", exact=True).first.wait_for()
    page.wait_for_timeout(5000)
    page.keyboard.press("Alt+KeyE")
    page.wait_for_timeout(3000)
    page.get_by_role("button", name="Hide navigation").click()
    page.set_viewport_size({"width": WIDTH, "height": TALL})
    page.reload(wait_until="domcontentloaded")
    page.get_by_text("account_days", exact=True).first.wait_for()
    page.wait_for_timeout(3000)
    page.get_by_placeholder("Jump to").locator("xpath=following::button[1]").click()
    page.wait_for_timeout(3000)
    page.mouse.dblclick(200, 300)
    page.wait_for_timeout(3000)
    page.mouse.move(200, 300)
    page.mouse.down()
    page.mouse.move(200, 385, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)
    yield save(page, folder / "graph.png")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def _materialise(page: Page, url: str, folder: Path, day: str) -> Iterator[Path]:
    """Materialise one day of one account in the dialog, and wait until every table shows it."""
    page.goto(f"{url}/assets/raw_conversations?view=partitions", wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize").first.click()
    choose_account(page, ACCOUNT)
    choose_day(page, day)
    yield save(page, folder / "materialise.png")
    key, before = f"{ACCOUNT}|{day}", materialised(url, "account_days")
    page.get_by_role("button", name="Launch").last.click()
    wait_for(lambda: materialised(url, "account_days").get(key, "") > before.get(key, ""))
    page.goto(
        f"{url}/assets/messages?view=partitions&partition={quote(key)}",
        wait_until="domcontentloaded",
    )
    page.get_by_text("Failed").first.wait_for()
    page.wait_for_timeout(4000)
    yield save(page, folder / "partitions.png")


def choose_account(page: Page, account: str) -> None:
    """Select one account in the dialog's list, then close the list."""
    page.get_by_text("Select a partition or create one").last.click()
    box = page.get_by_placeholder("Filter partitions")
    box.fill(account)
    page.wait_for_timeout(700)
    menu = box.locator("xpath=ancestor::*[.//*[@role='menuitem']][1]").get_by_role("menuitem")
    menu.filter(has_text=account).last.locator("label, input").first.click(force=True)
    page.get_by_text("Launch runs to materialize").click()


def choose_day(page: Page, day: str) -> None:
    """Write one day into the dialog's range."""
    field = page.get_by_placeholder("ex: ").last
    field.click()
    field.fill(day)
    field.press("Enter")
    page.wait_for_timeout(700)


def materialised(url: str, asset: str, with_label: str | None = None) -> dict[str, str]:
    """Return when each partition of an asset was last materialised, or last with this metadata."""
    events = ask(url, MATERIALISED, path=[asset])["assetNodeOrError"]["assetMaterializations"]
    return {
        event["partition"]: event["timestamp"]
        for event in reversed(events)
        if with_label in (None, *(entry["label"] for entry in event["metadataEntries"]))
    }


def _show_pictures(page: Page, url: str, path: Path, asset: str, key: str) -> Path:
    """Open the pictures on the newest day of the demo's week."""
    page.set_viewport_size({"width": WIDTH, "height": TALL if asset == "account_days" else HEIGHT})
    page.goto(
        f"{url}/assets/{asset}?view=partitions&partition={quote(key)}",
        wait_until="domcontentloaded",
    )
    page.get_by_text("Show Markdown").first.click()
    page.locator("img[src^='data:image/png']").first.wait_for()
    page.wait_for_timeout(2000)
    saved = save(page, path)
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    return saved


def _show_checks(page: Page, url: str, folder: Path) -> Iterator[Path]:
    page.goto(
        f"{url}/assets/coverage?view=checks&checkDetail=enough_is_detailed",
        wait_until="domcontentloaded",
    )
    page.get_by_text("nothing_open").first.wait_for()
    page.wait_for_timeout(4000)
    yield save(page, folder / "checks.png")


def _show_overview(page: Page, url: str, path: Path) -> Path:
    with _tall(page):
        page.goto(f"{url}/assets/overview", wait_until="domcontentloaded")
        page.get_by_text("Show Markdown").first.click()
        page.locator("img[src^='data:image/png']").first.wait_for()
        page.wait_for_timeout(2000)
        return save(page, path)


def _show_launchpad(page: Page, url: str, path: Path) -> Path:
    """Write a mode that does not exist."""
    page.goto(f"{url}/assets/raw_conversations", wait_until="domcontentloaded")
    open_launchpad(page)
    page.get_by_text("No errors").wait_for()
    write_mode(page, "fulll")
    page.get_by_text("got fulll").first.wait_for()
    page.wait_for_timeout(1000)
    return save(page, path)


def open_launchpad(page: Page) -> None:
    """Open the launchpad from the menu beside *Materialize*."""
    button = page.get_by_role("button", name="Materialize").first
    button.wait_for()
    button.locator("xpath=following::button[1]").click()
    page.get_by_role("menuitem").filter(has_text="Open launchpad").click()


def write_mode(page: Page, mode: str) -> None:
    """Replace the mode in the launchpad's editor."""
    line = page.locator(".CodeMirror-line", has_text="mode:")
    line.click()
    page.keyboard.press("End")
    for _ in line.inner_text().partition("mode: ")[2]:
        page.keyboard.press("Backspace")
    page.keyboard.type(mode)
    page.keyboard.press("Escape")  # the list of completions


def _show_automation(page: Page, url: str, path: Path) -> Path:
    page.goto(f"{url}/automation", wait_until="domcontentloaded")
    page.get_by_text("capture_sooner").first.wait_for()
    page.wait_for_timeout(4000)
    return save(page, path)


def _terminate(page: Page, url: str, path: Path, key: str) -> Path:
    """Start a slow run, terminate it on its page and wait for the line that says what is kept."""
    config = {"ops": {"extract": {"config": {"mode": "full", "calls_per_second": 0.1}}}}
    run_id = launch(url, key, config)
    wait_for(lambda: "STEP_START" in log_of(url, run_id))
    page.goto(f"{url}/runs/{run_id}", wait_until="domcontentloaded")
    page.get_by_role("button", name="Terminate").first.click()
    page.get_by_role("button", name="Terminate").last.click()
    wait_for(lambda: "RUN_CANCELED" in log_of(url, run_id))
    return _show_run(page, url, run_id, path)


def _fail(page: Page, url: str, path: Path, key: str) -> Path:
    """Start a run whose account is at a server that does not exist."""
    run_id = launch(url, key, {})
    wait_for(lambda: "RUN_FAILURE" in log_of(url, run_id))
    return _show_run(page, url, run_id, path)


def _show_run(page: Page, url: str, run_id: str, path: Path) -> Path:
    with _tall(page):
        page.goto(f"{url}/runs/{run_id}", wait_until="domcontentloaded")
        page.get_by_text("ENGINE_EVENT").first.wait_for()
        page.wait_for_timeout(5000)
        return save(page, path)


@contextmanager
def _tall(page: Page) -> Iterator[None]:
    """Make the page tall, so that one picture holds it."""
    page.set_viewport_size({"width": WIDTH, "height": TALL})
    try:
        yield
    finally:
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})


def _show_configuration(page: Page, url: str, path: Path) -> Path:
    """Wait for the run that the sensor starts, then show the asset."""
    page.goto(f"{url}/assets/configuration", wait_until="domcontentloaded")
    page.get_by_text("must be a time zone name").first.wait_for()
    page.get_by_text("Failed").first.wait_for()
    page.wait_for_timeout(2000)
    return save(page, path)


def reload_definitions(page: Page, url: str, config: Path, text: str) -> None:
    """Write the configuration, click *Reload* and wait until it is loaded."""
    before = ask(url, LOCATIONS)
    config.write_text(text, encoding="utf-8")
    page.goto(f"{url}/deployment/locations", wait_until="domcontentloaded")
    page.get_by_role("button", name="Reload all").click()
    wait_for(lambda: ask(url, LOCATIONS) != before)


def ask(url: str, query: str, **variables: Any) -> Any:
    """Return the data of a GraphQL response."""
    body = {"query": query, "variables": variables}
    return requests.post(f"{url}/graphql", json=body, timeout=60).json()["data"]


def launch(url: str, key: str, config: dict[str, Any]) -> str:
    """Start a run of the raw tables for one partition; return its id."""
    (location,) = ask(url, LOCATIONS)["workspaceOrError"]["locationEntries"]
    selector = {
        "repositoryLocationName": location["name"],
        "repositoryName": "__repository__",
        "jobName": "extract_job",
    }
    tags = [{"key": "dagster/partition", "value": key}]
    params = {"selector": selector, "runConfigData": config, "executionMetadata": {"tags": tags}}
    return str(ask(url, LAUNCH, params=params)["launchRun"]["run"]["runId"])


def log_of(url: str, run_id: str) -> set[str | None]:
    """Return the types of the events of a run."""
    events = ask(url, LOG, id=run_id)["logsForRun"]["events"]
    return {event.get("eventType") for event in events}


def save(page: Page, path: Path) -> Path:
    """Save the page as a PNG of few colours, without the folders of this machine."""
    page.evaluate(HIDE_FOLDERS)
    image = Image.open(io.BytesIO(page.screenshot()))
    for colour_count in (256, 96, 32):
        image.convert("RGB").quantize(colour_count, dither=Image.Dither.NONE).save(
            path, "PNG", optimize=True
        )
        if path.stat().st_size <= MOST_BYTES:
            break
    return path


if __name__ == "__main__":
    main()
