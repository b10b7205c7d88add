"""The script that takes the documentation's pictures, on the real page."""

from pathlib import Path

import pytest
from PIL import Image

from scripts.screenshots import CHROMIUM, MOST_BYTES, WIDTH, demo_ui, take_screenshots
from tests.support.shown import DOCS

NAMES = [
    "account_days.png",
    "checks.png",
    "coverage.png",
    "graph.png",
    "materialise.png",
    "partitions.png",
]
LEAST_BYTES = 10_000
"""A page that shows nothing is smaller."""


def look_at(folder: Path) -> None:
    """Every picture is there, as wide as the page, with something on it, and small."""
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    for path in folder.iterdir():
        assert LEAST_BYTES < path.stat().st_size <= MOST_BYTES, path.name
        with Image.open(path) as image:
            assert image.width == WIDTH
            assert 600 <= image.height <= WIDTH
            assert len(image.getcolors(1024) or range(1024)) > 8, path.name


def test_the_documentations_pictures_are_readable_and_small() -> None:
    look_at(DOCS / "images")


@pytest.mark.browser
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_tour_materialises_a_partition_and_photographs_graph_pictures_and_checks(
    tmp_path: Path,
) -> None:
    with demo_ui(tmp_path / "demo") as url:
        taken = take_screenshots(url, tmp_path / "images")
    assert sorted(path.name for path in taken) == NAMES
    look_at(tmp_path / "images")
