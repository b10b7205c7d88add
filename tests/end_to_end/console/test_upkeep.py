"""Commands `verify`, `rename`, `forget`, `expire` and `compact`: output and exit codes."""

import json
import shutil
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from convo_pipeline.base.clock import Clock
from convo_pipeline.cli import main
from convo_pipeline.console.arguments import CommandContext
from convo_pipeline.derive.day import derive_day
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.spool import Spool
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import StoreSettings
from tests.support.inboxes import NOW, serve
from tests.support.spools import append_json

DAY = date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A lake with one message."""
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    row = {
        "conversation_id": "c",
        "message_id": "m",
        "created_at": NOON,
        "created_at_source": "message",
    }
    rows = pa.Table.from_pylist(
        [row | {"order_in_second": 0, "first_seen_at": NOON}], schema=RAW_MESSAGE_IDS.schema
    )
    store.merge("raw_message_ids", "bakery", DAY, rows)
    derive_day(store, "bakery", DAY)
    store.close()
    return tmp_path / "lake"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_verify_prints_what_it_read(root: Path) -> None:
    result = invoke("verify", "--root", str(root))
    assert (result.exit_code, result.stdout.split(":")[0]) == (0, "sound")
    assert "4 files" in result.stdout
    assert "(names and sizes only)" in invoke("verify", "--root", str(root), "--quick").stdout


def test_verify_names_damage_and_remedy_and_exits_with_1(root: Path) -> None:
    path = next(root.glob("messages/*/*/data.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    result = invoke("verify", "--root", str(root))
    assert result.exit_code == 1
    assert "messages/account=bakery/date=2026-01-05" in result.stdout
    assert "restore it from a backup and run" in " ".join(result.stdout.split())


def test_verify_shows_whole_paths_on_a_narrow_terminal(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = next(root.glob("messages/*/*/data.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    shown = invoke("verify", "--root", str(root)).stdout
    assert max(map(len, shown.splitlines())) <= 60
    cells = [line[9:33].strip() for line in shown.splitlines()[1:3]]
    assert "".join(cells) == "messages/account=bakery/date=2026-01-05"


def test_verify_names_a_damaged_spool_record_without_its_content(root: Path) -> None:
    spool = Spool.create(root / ".state", "bakery", "run")
    for text in ("a word of Ada's", "another"):
        append_json(spool, {"kind": "edge", "conversation_id": "c", "rows": [{"text": text}]})
    assert invoke("verify", "--root", str(root)).exit_code == 0
    record = min(spool.folder.iterdir())
    record.write_bytes(record.read_bytes().replace(b"word", b"wordy"))
    result = invoke("verify", "--root", str(root), "--json")
    (finding,) = json.loads(result.stdout)["findings"]
    assert (result.exit_code, finding["kind"], finding["where"]) == (
        1,
        "spool",
        f"spool/bakery/run/{record.name}",
    )
    assert "Ada" not in result.stdout
    assert "fetches its data again" in " ".join(
        invoke("verify", "--root", str(root)).stdout.split()
    )


def test_rebuild_state_accepts_a_restored_backup(root: Path) -> None:
    for path in (root / ".state").glob("state.db*"):
        path.unlink()
    assert "--rebuild-state" in invoke("verify", "--root", str(root)).stdout
    assert invoke("verify", "--root", str(root), "--rebuild-state").exit_code == 0


def test_verify_prints_json(root: Path) -> None:
    (root / "messages" / "notes.txt").write_text("mine")
    verdict = json.loads(invoke("verify", "--root", str(root), "--json").stdout)
    assert (verdict["is_sound"], [finding["kind"] for finding in verdict["findings"]]) == (
        True,
        ["foreign"],
    )


@pytest.mark.parametrize("command", [("verify",), ("rename", "bakery", "cafe")])
def test_a_missing_folder_is_not_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = invoke(*command, "--root", str(tmp_path / "typo"))
    assert (result.exit_code, (tmp_path / "typo").exists()) == (1, False)
    assert "the folder does not exist" in result.stderr


def test_rename_moves_the_account_and_prints_the_next_step(root: Path) -> None:
    result = invoke("rename", "bakery", "cafe", "--root", str(root))
    assert result.exit_code == 0
    assert "change its name in the configuration too" in result.stderr
    assert sorted(path.name for path in root.glob("messages/*")) == ["account=cafe"]
    assert invoke("verify", "--root", str(root)).exit_code == 0


ADA = "9990000000000101"
SECRET = "a secret of Ada's"
CONFIG = """
[graph]
base_url = "{url}"
[store]
root = "{root}"
[retention]
messages = 20
[[accounts]]
name = "insta"
page_id = "1111111111"
platform = "instagram"
token_env = "INBOX_TOKEN"
start_date = "2026-01-20"
"""


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of one account: Ada and Bob, in January and in March."""
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    for name, person, text in (("Ada", ADA, SECRET), ("Bob", "9990000000000202", "hello")):
        conversation = account.add_conversation(name, person)
        for at in (NOW - timedelta(days=45), NOW - timedelta(days=1)):
            conversation.add_message(text, at)
    for days in (2, 3):
        conversation.add_message("hello", NOW - timedelta(days=days))
    root = tmp_path_factory.mktemp("extracted") / "lake"
    with serve(root, world, start=date(2026, 1, 20)) as inboxes:
        inboxes.extract_whole(date(2026, 1, 20))
    return root


@pytest.fixture
def config(tmp_path: Path, extracted: Path) -> Path:
    """A configuration of a copy of those tables. New files are readable by everybody."""
    shutil.copytree(extracted, tmp_path / "lake")
    file = tmp_path / "convo.toml"
    file.write_text(CONFIG.format(url="http://127.0.0.1:9", root=tmp_path / "lake"))
    return file


def run(config: Path, *arguments: str, answer: str = "") -> Result:
    context = CommandContext(str(config), Clock(now=lambda: NOW, sleep=lambda seconds: None))
    return CliRunner().invoke(main, arguments, obj=context, input=answer, catch_exceptions=False)


def files_with(root: Path, text: str) -> list[str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return [
        path.name for path in files if text.encode() in path.read_bytes() or text in shown(path)
    ]


def shown(path: Path) -> str:
    return str(pq.ParquetFile(path).read().to_pylist()) if path.suffix == ".parquet" else ""


def test_forget_changes_nothing_without_confirmation(config: Path) -> None:
    before = files_with(config.parent, ADA)
    result = run(config, "forget", "insta", ADA, answer="n\n")
    assert result.exit_code == 3
    assert "insta: erase 1 conversation and 2 messages for good? [y/N]" in result.stderr
    assert result.stderr.endswith("insta: nothing was erased\n")
    assert files_with(config.parent, ADA) == before != []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("forget", "insta", "{ada}"), "insta: erase 1 conversation and 2 messages: not done"),
        (("rename", "insta", "insta-2"), "insta would be renamed to insta-2 in 7 tables: "),
        (("compact",), "months to be compacted: "),
    ],
)
def test_a_dry_run_changes_nothing(config: Path, arguments: tuple[str, ...], line: str) -> None:
    words = [word.format(ada=ADA) for word in arguments]
    run(config, "verify")
    before = tables_of(config)
    result = run(config, *words, "--dry-run")
    assert (result.exit_code, result.stdout.startswith(line)) == (0, True), result.output
    assert tables_of(config) == before
    assert json.loads(run(config, *words, "--dry-run", "--json").stdout)
    done = run(config, *words, *(["--yes"] if words[0] == "forget" else []))
    assert done.exit_code == 0
    assert tables_of(config) != before


def tables_of(config: Path) -> dict[str, bytes]:
    """Return the content of each Parquet file."""
    return {str(path): path.read_bytes() for path in config.parent.rglob("*.parquet")}


def test_an_erasure_without_an_answer_names_the_option(config: Path) -> None:
    result = run(config, "forget", "insta", ADA)
    assert result.exit_code == 2
    assert result.stderr.endswith("main: no answer; without a terminal add --yes\n")


def test_forget_prints_a_receipt_and_leaves_no_bytes(config: Path) -> None:
    result = run(config, "forget", "insta", ADA, answer="y\n")
    assert (result.exit_code, result.stdout.split(";")[0]) == (0, "erased from insta")
    assert "raw_message_ids 2" in result.stdout
    (receipt,) = (config.parent / "lake").glob(".forgotten/account=insta/*.json")
    assert result.stdout.rstrip().endswith(f"receipt {receipt.stem[:32]}")
    assert (files_with(config.parent, ADA), files_with(config.parent, SECRET)) == ([], [])
    assert run(config, "verify").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nobody", ADA), 1, 'there is no account "nobody"'),
        (("insta", "12345"), 3, "insta: nothing was erased"),
        (("insta", "1111111111"), 1, "1111111111 is the account itself"),
    ],
)
def test_forget_names_what_is_wrong(
    config: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run(config, "forget", *arguments, "--yes")
    assert (result.exit_code, message in result.stderr, result.stdout) == (code, True, "")


def test_forget_needs_a_person_or_again(config: Path) -> None:
    assert (
        run(config, "forget", "insta").exit_code,
        run(config, "forget", "insta", "--again").output,
    ) == (2, "")


def test_an_unknown_deletion_code_is_exit_code_3(config: Path) -> None:
    result = run(config, "deletion", "status", "unknown")
    assert (result.exit_code, result.stderr) == (3, "there is no request with this code\n")


def test_expire_lists_days_in_a_dry_run_and_then_removes_them(config: Path) -> None:
    first = config.parent / "lake" / "messages" / "account=insta"
    before = sorted(path.name for path in first.iterdir())
    told = run(config, "expire", "--dry-run")
    assert (told.exit_code, sorted(path.name for path in first.iterdir())) == (0, before)
    assert "1 partition would be removed" in told.stdout
    assert "messages  insta    1     2026-01-24  2026-01-24  2" in told.stdout
    assert "1 partition removed" in run(config, "expire").stdout
    left = [f"date=2026-03-0{day}" for day in (7, 8, 9)]
    assert sorted(path.name for path in first.iterdir()) == left
    assert "0 partitions would be removed" in run(config, "expire", "--dry-run").stdout
    assert run(config, "verify").exit_code == 0


def test_expire_without_a_limit_is_wrong_usage(config: Path) -> None:
    config.write_text(config.read_text().replace("[retention]\nmessages = 20\n", ""))
    assert run(config, "expire").stdout == "0 partitions removed\n0 unsent messages redacted\n"
    config.write_text(config.read_text() + '[retention]\non_deleted = "keep"\n')
    result = run(config, "expire")
    assert (result.exit_code, "every row is kept" in result.stderr) == (2, True)


def test_compact_counts_new_months_only(config: Path) -> None:
    made = run(config, "compact")
    assert (made.exit_code, run(config, "compact").stdout) == (0, "months compacted: 0\n")
    count = len(list((config.parent / "lake" / ".compact").rglob("*.parquet")))
    assert (made.stdout, count > 3) == (f"months compacted: {count}\n", True)


def test_upkeep_writes_files_for_the_owner_only(config: Path) -> None:
    lake = config.parent / "lake"
    for arguments in (
        ("compact",),
        ("forget", "insta", ADA, "--yes"),
        ("expire",),
        ("verify", "--rebuild-state"),
    ):
        assert run(config, *arguments).exit_code == 0
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in lake.rglob("*")}
    assert {
        path.name for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)
    } == set()
