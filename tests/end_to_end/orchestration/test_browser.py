"""Dagster's page in a browser: what a person sees and clicks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from convo_pipeline.emulator.serve import EmulatorServer
from scripts.screenshots import (
    CHROMIUM,
    FLAGS,
    PATIENCE_MS,
    choose_account,
    choose_day,
    open_launchpad,
    reload_definitions,
    write_mode,
)
from tests.support.inbox_worlds import (
    TOKENS,
    Days,
    message_counts,
    small_world,
    three_days,
    write_config,
)
from tests.support.web_server import Web, dagster_dev, wait_for
from tests.support.webhook import Webhook, serve_webhook

ACCOUNT = "bikes-messenger"
RAW = ["raw_conversations", "raw_message_ids", "raw_message_details", "raw_rejects"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@dataclass(frozen=True)
class Project:
    """The running page, its configuration file and the receiver of its alerts."""

    web: Web
    config: Path
    hook: Webhook


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("browser")
    with EmulatorServer(small_world(days)) as server, serve_webhook() as hook:
        config = write_config(folder, server, days.start)
        with config.open("a") as file:
            file.write('[alerts]\nwebhook_env = "ALERT_HOOK"\n')
        environ = {"CONVO_CONFIG": str(config), "ALERT_HOOK": hook.url, **TOKENS}
        with dagster_dev(folder / "home", environ) as web:
            yield Project(web, config, hook)


@pytest.fixture(scope="module")
def web(project: Project) -> Web:
    return project.web


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def test_a_partition_is_materialised_by_clicks(web: Web, page: Page, days: Days) -> None:
    """Only the day that was read is materialised; the others stay missing."""
    key = f"{ACCOUNT}|{days[1]}"
    page.goto(f"{web.url}/assets/raw_conversations?view=partitions", wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize").first.click()
    choose_account(page, ACCOUNT)
    choose_day(page, str(days[1]))
    page.get_by_role("button", name="Launch").last.click()
    wait_for(lambda: key in web.row_counts("raw_message_details"))
    assert web.row_counts("raw_message_details")[key] == message_counts(days)[key]
    wait_for(lambda: key in web.row_counts("messages"))
    page.goto(f"{web.url}/assets/raw_conversations?view=partitions", wait_until="domcontentloaded")
    for count in ("Materialized (1)", "Missing (11)"):
        page.get_by_text(count).first.wait_for()


def test_the_overview_shows_all_accounts(web: Web, page: Page) -> None:
    assert web.end_of(web.launch(["overview"], "")) == "SUCCESS"
    page.goto(f"{web.url}/assets/overview", wait_until="domcontentloaded")
    page.get_by_text("Show Markdown").first.click()
    page.locator("img[src^='data:image/png']").first.wait_for()
    for name in ("bakery-instagram", ACCOUNT, "days read", "about to be lost"):
        page.get_by_text(name).first.wait_for()


def test_a_failed_run_names_account_host_and_remedy(
    project: Project, page: Page, days: Days
) -> None:
    url, config = project.web.url, project.config.read_text()
    server = 'platform = "messenger"\nbase_url = "http://127.0.0.1:9"'
    unreachable = config.replace('platform = "messenger"', server)
    try:
        reload_definitions(page, url, project.config, unreachable)
        run_id = project.web.launch(RAW, f"{ACCOUNT}|{days[0]}")
        assert project.web.end_of(run_id) == "FAILURE"
    finally:
        reload_definitions(page, url, project.config, config)
    page.goto(f"{url}/runs/{run_id}", wait_until="domcontentloaded")
    for text in (f"not complete: {ACCOUNT}; 0 partitions were stored", "127.0.0.1:9", "To do:"):
        page.get_by_text(text).first.wait_for()


def test_the_graph_shows_three_layers(web: Web, page: Page, tmp_path: Path) -> None:
    page.goto(f"{web.url}/asset-groups", wait_until="domcontentloaded")
    for name in ("inboxes", "raw", "normalised", "marts"):
        page.get_by_text(name, exact=True).first.wait_for()
    page.screenshot(path=str(tmp_path / "graph.png"))


def test_the_catalogue_names_inboxes_columns_code_and_tags(web: Web, page: Page) -> None:
    page.goto(f"{web.url}/assets/inboxes", wait_until="domcontentloaded")
    page.get_by_text("External Asset").wait_for()
    page.get_by_text("bakery-instagram").first.wait_for()
    page.get_by_role("link", name="raw_conversations").wait_for()
    page.goto(f"{web.url}/assets/messages?view=overview", wait_until="domcontentloaded")
    page.get_by_text("pii: true").wait_for()
    page.get_by_text("The recipients' ids.").wait_for()
    link = page.locator("[title='tables/messages.py']").locator("xpath=ancestor::a")
    assert "convo_pipeline/tables/messages.py" in (link.get_attribute("href") or "")


def test_the_launchpad_explains_the_options_and_names_the_right_values(
    web: Web, page: Page
) -> None:
    page.goto(f"{web.url}/assets/raw_conversations", wait_until="domcontentloaded")
    open_launchpad(page)
    page.get_by_text("No errors").wait_for()
    write_mode(page, "fulll")
    page.get_by_text(
        "not in enum type ModeChoice_selected_all_nightly_full got fulll"
    ).first.wait_for()
    page.get_by_text("Calls per second and account in this run.").wait_for()
    page.get_by_text("read everything again and count what earlier runs missed").wait_for()
    write_mode(page, "full")
    page.get_by_text("No errors").wait_for()


def test_a_wrong_time_zone_is_a_failed_run_and_an_alert(project: Project, page: Page) -> None:
    """No schedule is on. The alert and the failed run name the line and what to write."""
    url, config = project.web.url, project.config.read_text()
    wrong = config.replace('platform = "messenger"', 'platform = "messenger"\ntimezone = "Mars"')
    problem = '"bikes-messenger".timezone: must be a time zone name such as "Europe/Berlin"'
    try:
        reload_definitions(page, url, project.config, wrong)
        wait_for(lambda: project.web.runs("configuration_job") == ["FAILURE"])
        page.goto(f"{url}/runs", wait_until="domcontentloaded")
        page.get_by_text("configuration_job").first.wait_for()
        page.get_by_text("Failure", exact=True).first.wait_for()
        page.goto(f"{url}/assets/configuration", wait_until="domcontentloaded")
        page.get_by_text(problem).first.wait_for()
        page.get_by_text("Failed").first.wait_for()
        wait_for(lambda: any(problem in str(each["text"]) for each in project.hook.documents))
    finally:
        reload_definitions(page, url, project.config, config)
