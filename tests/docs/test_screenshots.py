"""The committed pictures, and the script that takes them from Dagster's page."""

from pathlib import Path

import pytest
from PIL import Image

from scripts.screenshots import CHROMIUM, MOST_BYTES, WIDTH, demo_ui, take_screenshots
from tests.support.shown import DOCS

NAMES = [
    "account_days.png",
    "automation.png",
    "checks.png",
    "configuration.png",
    "coverage.png",
    "failed_run.png",
    "graph.png",
    "launchpad.png",
    "materialise.png",
    "overview.png",
    "partitions.png",
    "terminated_run.png",
]
LEAST_BYTES = 10_000
"""An empty page is smaller."""


def check_pictures(folder: Path) -> None:
    """Check that every picture exists, is as wide as the page, is not empty, and is small."""
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    for path in folder.iterdir():
        assert LEAST_BYTES < path.stat().st_size <= MOST_BYTES, path.name
        with Image.open(path) as image:
            assert image.width == WIDTH
            assert 600 <= image.height <= WIDTH
            assert len(image.getcolors(1024) or range(1024)) > 8, path.name


def test_committed_pictures_are_readable_and_small() -> None:
    check_pictures(DOCS / "images")


@pytest.mark.browser
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_tour_takes_every_picture(
    tmp_path: Path,
) -> None:
    with demo_ui(tmp_path / "demo") as url:
        config = tmp_path / "demo" / "convo.toml"
        pictures = take_screenshots(url, config, tmp_path / "images")
    assert sorted(path.name for path in pictures) == NAMES
    check_pictures(tmp_path / "images")
