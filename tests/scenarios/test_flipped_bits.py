"""After a flipped bit in any file, the next runs or the commands that `verify` names cure the lake.

The bit is at a random place of a random file of each kind: raw, derived and ledger tables,
compacted months and their index, receipts, the key, the retention limits, the state, a spool.
"""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.emulator.serve import EmulatorServer
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.schema import DERIVED, RAW
from tests.scenarios.test_command_pairs import (
    OLD,
    OTHER,
    RETENTION,
    Lake,
    assert_no_defect,
    copy_of,
    message_count,
    sender_of,
)
from tests.support.inbox_worlds import Days, small_world, write_config
from tests.support.kills import run_killed

pytestmark = [
    pytest.mark.hunt,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
PATTERNS = {
    "raw": [f"{table.name}/account=*/date=*/data.parquet" for table in RAW],
    "derived": [f"{table.name}/account=*/date=*/data.parquet" for table in DERIVED],
    "ledger": ["runs/date=*/data.parquet"],
    "compaction": [".compact/*/*.parquet"],
    "index": [".compact/*/index.json"],
    "retention": [".retention.json"],
    "receipt": [".forgotten/*/*.json"],
    "key": [".state/forget.key"],
    "state": [".state/state.db"],
    "spool": [".state/spool/**/*"],
}
_COMMAND = re.compile(r"`convo-pipeline ((?:extract|normalize|verify|compact|expire)[^`]*)`")
MOST_STEPS = 5


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A lake with an erased person, compacted months, a retention limit and a killed run."""
    folder = tmp_path_factory.mktemp("bits")
    days = Days(datetime.now(UTC).date() - timedelta(days=40))
    with EmulatorServer(small_world(days)) as server:
        text = write_config(folder, server, days.start).read_text() + RETENTION
        (folder / f"{OLD}.toml").write_text(text.replace("= 43", "= 4000"))
        lake = Lake(folder, "")
        done = lake.invoke(f"extract --since {days.start} --until {days[2]}")
        assert done.exit_code == 0, done.output
        lake = Lake(folder, sender_of(folder / "lake", OTHER))
        for command in (
            f"forget {OTHER} PERSON --yes",
            "expire --trust-clock",
            "compact",
            "verify",
        ):
            done = lake.invoke(command)
            assert done.exit_code == 0, (command, done.output)
        spools = folder / "lake/.state/spool"
        at_call = 1
        while not any(path.is_file() and path.stat().st_size for path in spools.rglob("*")):
            assert not run_killed(lambda: lake.invoke("extract --full"), at_call)
            at_call += 1
        yield lake


def flip(path: Path, source: random.Random) -> str:
    """Flip one bit of a file; return where."""
    content = bytearray(path.read_bytes())
    at, bit = source.randrange(len(content)), source.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"{path.name}: byte {at} of {len(content)}, bit {bit}"


def cure(lake: Lake, restore: Callable[[], object], history: list[str]) -> None:
    """Run what runs every night, then what `verify` names, until the lake is sound."""
    for _ in range(MOST_STEPS):
        results = []
        for command in ("extract --all", "normalize", "verify"):
            history.append(command)
            results.append(lake.invoke(command))
            assert_no_defect(results[-1], history)
        if all(result.exit_code == 0 for result in results):
            return
        output = " ".join(" ".join(result.output.split()) for result in results)
        history.append(output)
        if "backup" in output and ("receipt" in output or "forget.key" in output):
            restore()
        if "move it away" in output:
            for file in (lake.folder / "lake/.state").glob("state.db*"):
                file.rename(file.with_name(f"old-{file.name}"))
        named = dict.fromkeys(_COMMAND.findall(output))
        for command in [*filter(lambda it: "rebuild" not in it, named)] or list(named):
            history.append(command)
            assert_no_defect(lake.invoke(command), history)
    raise AssertionError(history)


def rows(lake: Lake) -> dict[str, int]:
    return {name: message_count(lake, name) for name in (OLD, OTHER)}


def test_a_flipped_bit_in_any_file_is_cured(template: Lake, tmp_path: Path, long_run: bool) -> None:
    """With --long it flips 40 bits in each kind of file and prints one line for each."""
    source = random.Random(20261130)
    whole = copy_of(template, tmp_path / "whole")
    assert whole.invoke("extract --all").exit_code == 0
    expected = rows(whole)
    for number in range(40 if long_run else 2):
        for kind, patterns in PATTERNS.items():
            lake = copy_of(template, tmp_path / f"{kind}-{number}")
            root = lake.folder / "lake"
            paths = sorted({path for pattern in patterns for path in root.glob(pattern)})
            path = source.choice([path for path in paths if path.is_file() and path.stat().st_size])
            content = path.read_bytes()
            history = [kind, str(path.relative_to(root)), flip(path, source)]
            cure(lake, lambda path=path, content=content: path.write_bytes(content), history)
            assert rows(lake) == expected, history
            assert not any(left_spools(root / ".state", name) for name in (OLD, OTHER)), history
            print(number, kind, *history[1:3])
            shutil.rmtree(lake.folder)
