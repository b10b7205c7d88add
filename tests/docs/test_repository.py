"""No tracked file contains a secret, and git ignores files with secrets or data."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.byte_grep import unpacked
from tests.support.paths import ROOT

SECRETS = {
    "a token of Meta's": r"\b(?:EAA|IGAA|IGQ)[A-Za-z0-9_-]{16,}",
    "an app access token": r"\b[0-9]{14,17}\|[A-Za-z0-9_-]{20,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a token of GitHub's": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}",
    "a token of Slack's": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "an app secret": r"(?i)(?:app_secret|client_secret)[\"']?\s*[:=]\s*[\"']?[0-9a-f]{32}\b",
    "a password in an address": r"\b[a-z][a-z0-9+]*://[^\s/:@\"'`<>{}]+:[^\s/@\"'`<>{}]{3,}@",
}
INVENTED = re.compile(r"(?i)emulator|wrong|canary|expired|example|invented")
"""Invented secrets of tests and the emulator contain one of these words."""


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name]


def content_of(path: Path) -> bytes:
    """Return a file's bytes; of Parquet the rows, because its base64 schema matches by chance."""
    return unpacked(path) or path.read_bytes()


def find_secrets(text: str) -> list[str]:
    """Return the kinds of secrets in a text."""
    return [
        kind
        for kind, shape in SECRETS.items()
        if any(not INVENTED.search(match[0]) for match in re.finditer(shape, text))
    ]


def test_s20_no_tracked_file_holds_a_secret() -> None:
    files = tracked()
    assert len(files) > 100
    secrets = {}
    for path in files:
        if path.is_file() and (kinds := find_secrets(content_of(path).decode("utf-8", "replace"))):
            secrets[str(path.relative_to(ROOT))] = kinds
    assert secrets == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("token = 'EAA" + "Bq1x" * 8 + "'", "a token of Meta's"),
        ("IGAA" + "x7Yz" * 6, "a token of Meta's"),
        ("1" * 15 + "|" + "abcdefghij" * 3, "an app access token"),
        ("AKIA" + "Q2W3" * 4, "a key of AWS"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "a private key"),
        ("ghp_" + "a1" * 18, "a token of GitHub's"),
        ("xoxb-" + "1234567890-abc", "a token of Slack's"),
        ('app_secret = "' + "0f" * 16 + '"', "an app secret"),
        ("postgres://me:" + "hunter2@host", "a password in an address"),
    ],
)
def test_secret_scan_finds_each_kind(text: str, kind: str) -> None:
    assert find_secrets(text) == [kind]


@pytest.mark.parametrize(
    "name",
    [".env", "docs/.env", "data/lake/messages/x.parquet", "data/.state/forget.key", ".dagster/x"],
)
def test_s20_git_ignores_secrets_and_data(name: str) -> None:
    done = subprocess.run(
        ["git", "check-ignore", "--quiet", "--no-index", name], cwd=ROOT, check=False
    )
    assert done.returncode == 0


def test_s20_no_environment_file_is_tracked() -> None:
    assert [
        path.name
        for path in tracked()
        if path.name.startswith(".env") or path.suffix in (".pem", ".key", ".p12")
    ] == []
