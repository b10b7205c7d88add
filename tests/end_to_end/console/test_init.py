"""Command `init`: the files that a new project starts from."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from convo_pipeline.cli import main
from convo_pipeline.settings import read_settings
from tests.support.paths import ROOT

PACKAGED = {"workspace.yaml", "dagster.yaml", "notebooks", "docs"}


def init(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["init", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "convo.toml"
    }


def shipped_files() -> dict[str, bytes]:
    found = {name: (ROOT / name).read_bytes() for name in ("workspace.yaml", "dagster.yaml")}
    for name in ("notebooks", "docs"):
        found |= {f"{name}/{path}": content for path, content in files_in(ROOT / name).items()}
    return {path: content for path, content in found.items() if "ipynb_checkpoints" not in path}


def test_a_folder_gets_the_files_of_the_repository(tmp_path: Path) -> None:
    output = init(str(tmp_path / "new" / "inbox"))
    folder = tmp_path / "new" / "inbox"
    assert {path.name for path in folder.iterdir()} == {*PACKAGED, "convo.toml"}
    assert files_in(folder) == shipped_files()
    assert [account.name for account in read_settings(folder / "convo.toml").accounts] == [
        "my-page"
    ]
    assert output.count("written") == 5


def test_existing_files_stay(tmp_path: Path) -> None:
    kept = {"convo.toml": "[store]\n", "workspace.yaml": "load_from: []\n"}
    for name, text in kept.items():
        (tmp_path / name).write_text(text)
    output = init(str(tmp_path))
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    assert (tmp_path / "dagster.yaml").is_file()
    assert output.count("exists already: it was not changed") == 2


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["init", str(tmp_path / "file" / "inbox")])
    assert done.exit_code == 2
    assert "Not a directory" in done.output
    assert "Traceback" not in done.output
