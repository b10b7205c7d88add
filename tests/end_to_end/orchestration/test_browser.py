"""Dagster's page in a browser: open an asset and materialise a partition by clicks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from convo_pipeline.emulator.serve import EmulatorServer
from scripts.screenshots import CHROMIUM, FLAGS, PATIENCE_MS, choose_account, choose_day
from tests.support.inbox_worlds import (
    TOKENS,
    Days,
    message_counts,
    small_world,
    three_days,
    write_config,
)
from tests.support.web_server import Web, dagster_dev, wait_for

ACCOUNT = "bikes-messenger"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, days: Days) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("browser")
    with EmulatorServer(small_world(days)) as server:
        environ = {"CONVO_CONFIG": str(write_config(folder, server, days.start)), **TOKENS}
        with dagster_dev(folder / "home", environ) as web:
            yield web


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def test_a_partition_is_materialised_by_clicks(
    web: Web, page: Page, days: Days, tmp_path: Path
) -> None:
    key = f"{ACCOUNT}|{days[1]}"
    page.goto(f"{web.url}/assets/raw_conversations?view=partitions", wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize").first.click()
    choose_account(page, ACCOUNT)
    choose_day(page, str(days[1]))
    page.get_by_role("button", name="Launch").last.click()
    wait_for(lambda: key in web.row_counts("raw_message_details"))
    assert web.row_counts("raw_message_details")[key] == message_counts(days)[key]
    wait_for(lambda: key in web.row_counts("messages"))
    page.screenshot(path=str(tmp_path / "partitions.png"))


def test_the_graph_shows_three_layers(web: Web, page: Page, tmp_path: Path) -> None:
    page.goto(f"{web.url}/asset-groups", wait_until="domcontentloaded")
    for name in ("raw", "normalised", "marts"):
        page.get_by_text(name, exact=True).first.wait_for()
    page.screenshot(path=str(tmp_path / "graph.png"))
