"""Paths of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "convo_pipeline"
DOCS = ROOT / "docs"
NOTEBOOKS = ROOT / "notebooks"
TESTS = ROOT / "tests"
SAMPLES = TESTS / "samples"
LAKES = TESTS / "lakes"
