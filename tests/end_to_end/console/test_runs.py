"""The command line runs the steps directly or records them in Dagster: same tables, no imports."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline import schema
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.instance import make_home, open_home
from convo_pipeline.orchestration.partitions import Window
from convo_pipeline.orchestration.runs import HOME_VARIABLE, RunResult, run_steps
from convo_pipeline.settings import DagsterSettings, StoreSettings
from tests.support.inboxes import (
    NOW,
    START,
    TOKEN_VARIABLE,
    Inboxes,
    serve,
    small_world,
    stopped_clock,
)
from tests.support.paths import ROOT

WINDOW = Window(START, NOW.date() + timedelta(days=1))
IMPORTED = """
import json, sys
from convo_pipeline.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(json.dumps({"code": end.code, "modules": sorted(sys.modules)}))
"""
HEAVY = {"dagster", "pandas", "duckdb", "matplotlib", "boto3", "uvicorn", "faker"}


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    world = small_world()
    for name, account in world.accounts.items():
        for number in range(4):
            person = account.add_conversation(f"{name} {number}")
            person.add_messages(30, NOW - timedelta(days=2 * number, hours=1))
    with serve(tmp_path, world) as inboxes:
        yield inboxes


def run_into(inboxes: Inboxes, root: Path, **environ: str) -> RunResult:
    """Run both steps into an empty lake, with a clock that stands still."""
    settings = inboxes.settings.model_copy(update={"store": StoreSettings(root=str(root))})
    deployment = Deployment(
        settings, environ={**inboxes.environ, **environ}, clock=stopped_clock(inboxes.clock)
    )
    return run_steps(deployment, dict.fromkeys(inboxes.names, WINDOW))


def table_files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for table in schema.TABLES
        for path in (root / table).rglob("*.parquet")
    }


def outcomes(result: RunResult) -> list[str]:
    return [report.outcome for report in result.reports]


def test_direct_and_recorded_runs_store_the_same_bytes(inboxes: Inboxes, tmp_path: Path) -> None:
    """The recorded run uses the keys of `[dagster] key_prefix`, and no others."""
    prefix = DagsterSettings(key_prefix=("my-shop", "inbox"))
    prefixed = inboxes.settings.model_copy(update={"dagster": prefix})
    inboxes = replace(inboxes, settings=prefixed)
    home = make_home(tmp_path / "home")
    direct = run_into(inboxes, tmp_path / "direct")
    recorded = run_into(inboxes, tmp_path / "recorded", **{HOME_VARIABLE: str(home)})
    assert (outcomes(direct), direct.failures) == (["complete"] * 2, ())
    assert (outcomes(recorded), recorded.failures) == (["complete"] * 2, ())
    files = table_files(tmp_path / "direct")
    assert {path.split("/")[0] for path in files} >= {"raw_message_details", "account_days"}
    assert files == table_files(tmp_path / "recorded")
    with open_home(home) as instance:
        jobs = [run.job_name for run in instance.get_runs()]
        keys = set(instance.all_asset_keys())
        assert instance.get_materialized_partitions(dg.AssetKey(["my-shop", "inbox", "messages"]))
    assert jobs == ["my_shop_inbox_normalise_job", "my_shop_inbox_extract_job"]
    assert keys == {
        dg.AssetKey(["my-shop", "inbox", name]) for name in (*schema.TABLES, "overview")
    }


def test_direct_and_recorded_runs_name_the_same_problems(inboxes: Inboxes, tmp_path: Path) -> None:
    refused = replace(inboxes, environ={TOKEN_VARIABLE: "EAAwrongwrongwrongwrong"})
    home = make_home(tmp_path / "home")
    direct = run_into(refused, tmp_path / "direct")
    recorded = run_into(refused, tmp_path / "recorded", **{HOME_VARIABLE: str(home)})
    assert outcomes(direct) == outcomes(recorded) == ["failed", "failed"]
    assert direct.failures == recorded.failures
    (tmp_path / "file").write_text("in the way")
    direct = run_into(inboxes, tmp_path / "file" / "lake")
    recorded = run_into(inboxes, tmp_path / "file" / "lake", **{HOME_VARIABLE: str(home)})
    (line,) = direct.failures
    assert line == recorded.failures[0]
    assert str(tmp_path / "file") in line


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Inboxes]:
    """Inboxes at the present time whose newest message is five days old."""
    now = datetime.now(UTC)
    world = World(VirtualClock(now))
    for name, page_id in (("insta", "1111111111"), ("mess", "2222222222")):
        account = world.add_account(name, page_id, "instagram" if name == "insta" else "messenger")
        account.add_conversation(name).add_messages(3, now - timedelta(days=5))
    with serve(tmp_path, world, start=now.date() - timedelta(days=9)) as inboxes:
        yield inboxes


def test_an_idle_extract_without_dagster_home_imports_no_large_library(
    quiet: Inboxes, tmp_path: Path
) -> None:
    inboxes, start = quiet, quiet.settings.accounts[0].start_date
    config = tmp_path / "convo.toml"
    accounts = "".join(
        f'[[accounts]]\nname = "{account.name}"\npage_id = "{account.page_id}"\n'
        f'platform = "{account.platform}"\ntoken_env = "{TOKEN_VARIABLE}"\n'
        f'start_date = "{start}"\n'
        for account in inboxes.settings.accounts
    )
    config.write_text(
        f'[graph]\nbase_url = "{inboxes.server.base_url}"\ncalls_per_second = 1000\n'
        f'[store]\nroot = "{tmp_path / "lake"}"\n{accounts}'
    )
    arguments = ["--config", str(config), "extract", "--since", str(start)]
    environ = {**os.environ, **inboxes.environ}
    environ.pop(HOME_VARIABLE, None)
    for is_idle in (False, True):
        command = [sys.executable, "-c", IMPORTED, *arguments]
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        end = json.loads(done.stdout.splitlines()[-1])
        assert end["code"] == 0, done.stderr
        assert not is_idle or HEAVY.intersection(end["modules"]) == set()


def test_help_imports_no_library_but_click() -> None:
    command = [sys.executable, "-c", IMPORTED, "extract", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])["modules"]
    assert {"pydantic", "rich", "pyarrow", "numpy", "requests", *HEAVY}.isdisjoint(modules)


def test_extract_all_prints_before_it_imports_libraries(tmp_path: Path) -> None:
    """Without requests the command fails, but its first line is there."""
    code = "import sys; sys.modules['requests'] = None; from convo_pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "extract", "--all", "--root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert done.stderr.splitlines()[0] == "accounts to estimate, with a few calls each: 2"
