"""Processes as machines: each has its own state folder. They share a bucket and PostgreSQL."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings, parse_settings
from convo_pipeline.state.records import Run
from tests.support.arrivals import most_calls_in_a_second
from tests.support.postgres_server import PostgresServer
from tests.support.s3_server import CREDENTIALS, serve_s3_process

pytestmark = pytest.mark.slow

PROGRAM = "from convo_pipeline.cli import main; main()"
CONFIG = """
[graph]
base_url = "{url}"
[store]
root = "s3://{bucket}/tables"
state_dir = "{state}"
state_url_env = "STATE_URL"
endpoint_url = "{endpoint}"
"""
ACCOUNT = """
[[accounts]]
name = "{name}"
page_id = "{page_id}"
platform = "messenger"
token_env = "SHOP_TOKEN"
start_date = "{start}"
"""


@dataclass
class Fleet:
    """A bucket, a database, an API, and machines that use them."""

    folder: Path
    bucket: str
    endpoint: str
    postgres: PostgresServer
    state_url: str
    server: EmulatorServer
    start: datetime
    machines: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        own = {"SHOP_TOKEN": EMULATOR_TOKEN, "STATE_URL": self.state_url}
        return {**os.environ, **CREDENTIALS, **own}

    def config(self, machine: str) -> Path:
        """Write the settings of a machine, with a state folder of its own."""
        text = CONFIG.format(
            url=self.server.base_url,
            bucket=self.bucket,
            state=self.folder / machine / "state",
            endpoint=self.endpoint,
        )
        for account in self.server.world.accounts.values():
            text += ACCOUNT.format(
                name=account.name, page_id=account.page_id, start=self.start.date()
            )
        (self.folder / machine).mkdir(exist_ok=True)
        file = self.folder / machine / "convo.toml"
        file.write_text(text)
        return file

    def launch(self, machine: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command on a machine."""
        command = [sys.executable, "-c", PROGRAM, *arguments]
        environ = self.environ | {"CONVO_CONFIG": str(self.config(machine))}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True)
        self.machines.append(process)
        return process

    def run(self, machine: str, *arguments: str) -> str:
        """Run a command that must succeed; return what it printed."""
        process = self.launch(machine, *arguments)
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors
        return output + errors

    def open_store(self, machine: str) -> Store:
        settings: Settings = parse_settings(self.config(machine).read_bytes())
        return Store(settings.store)

    def stored_texts(self, account: str = "shop") -> set[str]:
        """Return the ids of the account's messages whose content is stored."""
        store = self.open_store("reader")
        rows = [
            row
            for day in store.days("raw_message_details", account)
            for row in store.read("raw_message_details", account, day).to_pylist()
        ]
        store.close()
        return {row["message_id"] for row in rows}

    def wait_for_calls(self, count: int) -> None:
        while len(self.server.log) < count:
            time.sleep(0.02)


@pytest.fixture
def fleet(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    world, start = World(), datetime.now(UTC) - timedelta(days=4)
    account = world.add_account("shop", "1001", "messenger")
    for number in range(120):
        conversation = account.add_conversation(f"Ada {number}")
        conversation.add_messages(2, start + timedelta(days=1, minutes=number), step_seconds=10)
    url = postgres.new_url()
    for name, value in (CREDENTIALS | {"STATE_URL": url}).items():
        monkeypatch.setenv(name, value)
    with serve_s3_process() as s3, EmulatorServer(world) as server:
        s3.client.create_bucket(Bucket="lake")
        fleet = Fleet(tmp_path, "lake", s3.url, postgres, url, server, start)
        yield fleet
        for process in fleet.machines:
            process.kill()
            process.communicate()


def closest_calls(fleet: Fleet) -> list[tuple[float, str | None]]:
    """Return the shortest times from a call to the second after it, with the account."""
    times: dict[str | None, list[float]] = {}
    for call in fleet.server.log:
        times.setdefault(call.account, []).append(call.at)
    return sorted(
        (round(third - first, 3), account)
        for account, sent in times.items()
        for first, third in zip(sorted(sent), sorted(sent)[2:], strict=False)
    )[:5]


def offered(fleet: Fleet, account: str = "shop") -> set[str]:
    conversations = fleet.server.world.accounts[account].conversations.values()
    return {message.message_id for each in conversations for message in each.messages}


def test_one_of_four_machines_works_on_an_account(fleet: Fleet) -> None:
    processes = [fleet.launch(f"machine{number}", "extract") for number in range(4)]
    outputs = ["".join(process.communicate()) for process in processes]
    busy = [output for output in outputs if "is busy" in output]
    assert (len(busy), sum("complete" in output for output in outputs)) == (3, 1), outputs
    assert fleet.stored_texts() == offered(fleet)
    assert most_calls_in_a_second(fleet.server.log) <= 2
    call_count = len(fleet.server.log)
    fleet.run("machine4", "extract")
    assert len(fleet.server.log) - call_count < call_count


def test_four_machines_read_eight_accounts_at_once(fleet: Fleet) -> None:
    """Each account gets at most two calls a second at the server, and at least 1.7."""
    for number in range(7):
        account = fleet.server.world.add_account(f"shop{number}", f"200{number}", "messenger")
        for each in range(24):
            at = fleet.start + timedelta(days=1, minutes=each)
            account.add_conversation(f"Ada {each}").add_messages(60, at, step_seconds=10)
    processes = [fleet.launch(f"machine{number}", "extract") for number in range(4)]
    outputs = ["".join(process.communicate()) for process in processes]
    rates = {}
    for name in fleet.server.world.accounts:
        stamps = [call.at for call in fleet.server.log if call.account == name]
        rates[name] = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    print(f"a call and the second after it: {closest_calls(fleet)}")
    shown = f"{min(rates.values()):.2f} to {max(rates.values()):.2f}"
    print(f"{len(fleet.server.log)} calls; a second and account: {shown}")
    assert most_calls_in_a_second(fleet.server.log) <= 2, closest_calls(fleet)
    store = fleet.open_store("reader")
    for name in fleet.server.world.accounts:
        outcomes = [run.outcome for run in store.state.runs(name)]
        assert outcomes == ["complete"], (name, outputs)
        assert fleet.stored_texts(name) <= offered(fleet, name)
    store.close()


def test_shards_that_write_the_ledger_together_lose_no_line(fleet: Fleet) -> None:
    stores = [fleet.open_store(f"machine{number}") for number in range(8)]
    began = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def write(number: int) -> None:
        store, run = stores[number % 8], Run(f"r{number:02}", "shop", "nightly", began)
        store.state.save_run(run)
        export_runs(store, run.run_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    rows = stores[0].read("runs", "", began.date()).to_pylist()
    assert [row["run_id"] for row in rows] == [f"r{number:02}" for number in range(64)]
    assert stores[0].state.suspect_files() == []
    for store in stores:
        store.close()


def test_another_machine_stores_what_a_killed_one_read(fleet: Fleet) -> None:
    process = fleet.launch("one", "extract")
    fleet.wait_for_calls(4)
    process.kill()
    process.communicate()
    before = offered(fleet)
    now = datetime.now(UTC)
    for conversation in fleet.server.world.accounts["shop"].conversations.values():
        conversation.add_messages(20, now - timedelta(hours=1), step_seconds=1)
    output = fleet.run("two", "extract", "--since", f"{fleet.start.date()}")
    listed = Counter(call.kind for call in fleet.server.log)
    kept = fleet.stored_texts() & before
    assert len(kept) >= 100, (output, listed)
    store = fleet.open_store("two")
    assert list(store.backend.list_files((".spool",))) == []
    store.close()


def test_a_machine_without_its_session_sends_no_more_calls(fleet: Fleet) -> None:
    process = fleet.launch("one", "extract")
    fleet.wait_for_calls(3)
    fleet.postgres.cut_sessions()
    cut_at = time.monotonic()
    output = "".join(process.communicate())
    assert process.returncode != 0
    assert "was lost, and with it the locks" in output or "terminat" in output, output
    late = [call for call in fleet.server.log if call.at > cut_at + 0.5]
    assert late == []
    fleet.run("two", "extract")
    assert fleet.stored_texts() == offered(fleet)


def test_a_person_erased_on_one_machine_stays_erased_on_all(fleet: Fleet) -> None:
    fleet.run("one", "extract")
    conversation = next(iter(fleet.server.world.accounts["shop"].conversations.values()))
    person = str(conversation.people[0]["id"])
    fleet.server.latency_seconds = 2.0
    extraction = fleet.launch("two", "extract", "--full")
    calls = len(fleet.server.log)
    fleet.wait_for_calls(calls + 2)
    busy = fleet.launch("one", "forget", "shop", person, "--yes")
    output = "".join(busy.communicate())
    assert busy.returncode != 0
    assert "is busy" in output
    fleet.server.latency_seconds = 0.0
    extraction.communicate()
    fleet.run("one", "forget", "shop", person, "--yes")
    fleet.run("two", "extract", "--full")
    theirs = {message.message_id for message in conversation.messages}
    assert fleet.stored_texts() == offered(fleet) - theirs
    schema = fleet.state_url.rpartition("%3D")[2]
    tables = fleet.postgres.execute(
        f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'"
    )
    for (table,) in tables:
        rows = str(fleet.postgres.execute(f"SELECT * FROM {schema}.{table}"))
        assert person not in rows, table
        assert conversation.conversation_id not in rows, table


def test_a_machine_with_a_local_state_is_refused_until_the_state_moved_back(fleet: Fleet) -> None:
    fleet.run("one", "extract")
    call_count, config = len(fleet.server.log), fleet.config("two")
    local = config.read_text().replace('state_url_env = "STATE_URL"', "")
    (fleet.folder / "two" / "local.toml").write_text(local)
    alone = ("--config", str(fleet.folder / "two" / "local.toml"))
    process = fleet.launch("two", *alone, "extract")
    output = "".join(process.communicate())
    assert process.returncode != 0
    assert "is used with a state in PostgreSQL: set state_url_env" in output
    assert len(fleet.server.log) == call_count
    fleet.run("two", "state", "move", "sqlite")
    fleet.run("two", *alone, "extract")
    assert fleet.stored_texts() == offered(fleet)


def test_a_new_machine_reads_no_more_than_the_others(fleet: Fleet) -> None:
    fleet.run("one", "extract")
    counts = []
    for machine in ("one", "two"):
        before = len(fleet.server.log)
        fleet.run(machine, "extract")
        counts.append(len(fleet.server.log) - before)
    assert counts[0] == counts[1] <= 6
