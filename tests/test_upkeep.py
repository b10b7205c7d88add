"""`verify` and `rename` as a person meets them."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from convo_pipeline.cli import main
from convo_pipeline.derive import derive_day
from convo_pipeline.lake.files import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import StoreSettings

DAY = date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A lake with one message."""
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    row = {"conversation_id": "c", "message_id": "m", "created_at": NOON, "created_at_source": "message"}
    rows = pa.Table.from_pylist([row | {"tie_rank": 0, "first_seen_at": NOON}], schema=RAW_MESSAGE_IDS.schema)
    store.merge("raw_message_ids", "bakery", DAY, rows)
    derive_day(store, "bakery", DAY)
    store.close()
    return tmp_path / "lake"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_verify_says_that_a_lake_is_sound_and_what_it_read(root: Path) -> None:
    result = invoke("verify", "--root", str(root))
    assert (result.exit_code, result.stdout.split(":")[0]) == (0, "sound")
    assert "4 files" in result.stdout
    assert "(names and sizes only)" in invoke("verify", "--root", str(root), "--quick").stdout


def test_verify_names_what_is_off_and_what_to_do_and_exits_with_one(root: Path) -> None:
    path = next(root.glob("messages/*/*/data.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    result = invoke("verify", "--root", str(root))
    assert result.exit_code == 1
    assert "messages/account=bakery/date=2026-01-05" in result.stdout
    assert "restore it, or let the next run set it aside" in " ".join(result.stdout.split())


def test_verify_believes_a_backup_that_was_put_back_when_told_to(root: Path) -> None:
    for path in (root / ".state").glob("state.db*"):
        path.unlink()
    assert "--rebuild-state" in invoke("verify", "--root", str(root)).stdout
    assert invoke("verify", "--root", str(root), "--rebuild-state").exit_code == 0


def test_verify_speaks_json(root: Path) -> None:
    (root / "messages" / "notes.txt").write_text("mine")
    verdict = json.loads(invoke("verify", "--root", str(root), "--format", "json").stdout)
    assert (verdict["is_sound"], [finding["kind"] for finding in verdict["findings"]]) == (True, ["foreign"])


@pytest.mark.parametrize("command", [("verify",), ("rename", "bakery", "cafe")])
def test_a_lake_that_is_not_there_is_not_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = invoke(*command, "--root", str(tmp_path / "typo"))
    assert (result.exit_code, (tmp_path / "typo").exists()) == (1, False)
    assert "the folder does not exist" in result.stderr


def test_rename_moves_the_account_and_says_what_is_left_to_do(root: Path) -> None:
    result = invoke("rename", "bakery", "cafe", "--root", str(root))
    assert result.exit_code == 0
    assert "change its name in the configuration too" in result.stderr
    assert sorted(path.name for path in root.glob("messages/*")) == ["account=cafe"]
    assert invoke("verify", "--root", str(root)).exit_code == 0
