"""Run a night of many accounts on three Celery workers, kill one of them, and print the proof.

    apt-get install redis-server postgresql
    pip install 'convo-pipeline[celery,s3,scale,demo]' and the development dependencies
    python -m scripts.scale_demo [--accounts 60] [--shard 10] [--conversations 120]

Everything runs on this machine and on loopback: PostgreSQL, Redis, an S3 server, the emulator,
Dagster's daemon, and the workers. Each worker has a state folder and a DAGSTER_HOME of its own, as
a machine has. The script fails if a message is missing or a third call falls into a second.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import parse_settings
from tests.support.arrivals import most_calls_in_a_second
from tests.support.postgres_server import PostgresServer, serve_postgres
from tests.support.s3_server import CREDENTIALS, serve_s3_process

HOME = Path(__file__).parents[1] / "deploy" / "celery" / "dagster.yaml"
BIN = Path(sys.executable).parent
WORKERS = ("one", "two", "three")
LATENCY_SECONDS = 0.3
BEGAN, ENDED = "Started execution of step", "accounts complete, "
"""What Dagster and the step write into the log of a worker."""
SAMPLE_SECONDS = 0.2
MOST_SECONDS = 900.0
CONFIG = """
[graph]
base_url = "{url}"
[store]
root = "s3://lake/tables"
state_dir = "{state}"
state_url_env = "STATE_URL"
endpoint_url = "{endpoint}"
[schedule]
accounts_per_run = {shard}
nightly = "* * * * *"
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
    """The servers and processes of the demonstration."""

    folder: Path
    config: str
    environ: dict[str, str]
    emulator: EmulatorServer
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def machine(self, name: str) -> dict[str, str]:
        """Make the folders of a machine; return its environment."""
        home = self.folder / name / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(HOME, home / "dagster.yaml")
        config = self.folder / name / "convo.toml"
        config.write_text(self.config.replace("{state}", str(self.folder / name / "state")))
        return self.environ | {"DAGSTER_HOME": str(home), "CONVO_CONFIG": str(config)}

    def start(self, name: str, *command: str | Path) -> None:
        """Start a process of a machine in a group of its own."""
        environ = self.machine(name)
        with (self.folder / name / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*map(str, command)], env=environ, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kill a process and its children at once, as a power cut does."""
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes.pop(name).wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)


class LockWaits:
    """Samples how many of the state's connections wait for a lock of a table or row."""

    def __init__(self, address: str) -> None:
        self.samples: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, args=(address,))
        self._thread.start()

    def _sample(self, address: str) -> None:
        sql = (
            "SELECT wait_event_type IN ('Lock', 'LWLock'), state = 'active' FROM pg_stat_activity"
            " WHERE application_name = 'convo-pipeline'"
        )
        with psycopg.connect(address, autocommit=True) as connection:
            while not self._ended.wait(SAMPLE_SECONDS):
                for is_waiting, _ in connection.execute(sql.encode()).fetchall():
                    self.samples["waits" if is_waiting else "others"] += 1

    def share(self) -> float:
        """End the sampling; return the share of waiting connections."""
        self._ended.set()
        self._thread.join()
        return self.samples["waits"] / max(1, self.samples.total())


def build_world(account_count: int, conversation_count: int) -> World:
    world, start = World(), datetime.now(UTC) - timedelta(days=3)
    for number in range(account_count):
        account = world.add_account(f"shop{number:02}", f"{2000 + number}", "messenger")
        for each in range(conversation_count):
            conversation = account.add_conversation(f"Ada {each}")
            conversation.add_messages(1, start + timedelta(minutes=each))
    return world


@contextmanager
def serve_redis(folder: Path) -> Iterator[str]:
    """Run Redis; yield its address."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("Redis is not installed: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def missing_messages(fleet: Fleet) -> dict[str, int]:
    """Return how many messages each account lacks, of those that lack some."""
    text = fleet.config.replace("{state}", str(fleet.folder / "reader" / "state"))
    store = Store(parse_settings(text.encode()).store)
    missing = {}
    for account in fleet.emulator.world.accounts.values():
        offered = {it.message_id for each in account.conversations.values() for it in each.messages}
        stored = {
            row["message_id"]
            for day in store.days("raw_message_details", account.name)
            for row in store.read("raw_message_details", account.name, day).to_pylist()
        }
        if offered - stored:
            missing[account.name] = len(offered - stored)
    store.close()
    return missing


def shards(postgres: PostgresServer, status: str) -> set[str]:
    """Return the shards of which Dagster has a nightly run with this status."""
    with suppress(psycopg.Error):  # Dagster has not made its tables yet
        rows = postgres.execute(
            "SELECT value FROM public.run_tags JOIN public.runs USING (run_id)"
            " WHERE key = 'convo/shard' AND pipeline_name = 'extract_job'"
            f" AND status LIKE '{status}'"
        )
        return {str(shard) for (shard,) in rows}
    return set()


def wait_for(what: str, is_true: Callable[[], bool]) -> float:
    """Wait; return the seconds."""
    started = time.monotonic()
    while not is_true():
        if time.monotonic() - started > MOST_SECONDS:
            raise SystemExit(f"not within {MOST_SECONDS:.0f} s: {what}")
        time.sleep(0.5)
    return time.monotonic() - started


def show(started: float, text: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


def run_night(fleet: Fleet, postgres: PostgresServer, broker: str, shard_count: int) -> None:
    """Run the night, kill a worker in it, and print what was seen."""
    started = time.monotonic()
    celery = (BIN / "celery", "-A", "dagster_celery.app", "-b", broker, "--result-backend", broker)
    for name in WORKERS:
        options = (
            "worker",
            "-Q",
            "dagster",
            "-c",
            "1",
            "--prefetch-multiplier=1",
            "-n",
            f"{name}@%h",
        )
        fleet.start(name, *celery, *options)
    workspace = ("-m", "convo_pipeline.definitions")
    environ = fleet.machine("control")
    subprocess.run(
        [BIN / "dagster", "schedule", "start", "nightly", *workspace],
        env=environ,
        check=True,
        capture_output=True,
    )
    fleet.start("control", BIN / "dagster-daemon", "run", *workspace)
    waits = LockWaits(postgres.address)
    wait_for("the runs of the night", lambda: len(shards(postgres, "%")) == shard_count)
    subprocess.run(
        [BIN / "dagster", "schedule", "stop", "nightly", *workspace],
        env=environ,
        check=True,
        capture_output=True,
    )
    wait_for("a worker that extracts", lambda: bool(working(fleet)))
    count = len(fleet.emulator.log)
    wait_for("calls of this worker", lambda: len(fleet.emulator.log) > count)
    victim = working(fleet)[0]
    show(started, f"worker {victim} extracts, after {len(fleet.emulator.log)} calls: kill it")
    fleet.kill(victim)
    killed_at = time.monotonic()
    wait_for("a red run", lambda: bool(shards(postgres, "FAILURE")))
    red_seconds = time.monotonic() - killed_at
    show(started, f"the run of the killed worker is red, {red_seconds:.0f} s after the kill")
    wait_for("all shards green", lambda: len(shards(postgres, "SUCCESS")) == shard_count)
    whole_seconds = time.monotonic() - killed_at
    share = waits.share()
    missing, most = missing_messages(fleet), most_calls_in_a_second(fleet.emulator.log)
    count = len(fleet.emulator.log)
    show(started, f"red and then green: {sorted(shards(postgres, 'FAILURE'))}")
    show(started, f"recovery: all shards green {whole_seconds:.0f} s after the kill")
    show(started, f"calls at the server: {count:,}; most of an account in a second: {most}")
    show(
        started,
        f"waiting for a lock: {share:.1%} of {waits.samples.total():,} samples",
    )
    show(started, f"accounts with missing messages: {len(missing)} {missing or ''}")
    if missing or most > 2 or share >= 0.05 or red_seconds > 180:
        raise SystemExit("a promise was not kept")


def working(fleet: Fleet) -> list[str]:
    """Return the workers that began the step `extract` and did not end it."""
    logs = {name: (fleet.folder / name / "log").read_text() for name in WORKERS}
    return [name for name, log in logs.items() if log.count(BEGAN) > log.count(ENDED)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounts", type=int, default=60)
    parser.add_argument("--shard", type=int, default=10, help="accounts in a run")
    parser.add_argument("--conversations", type=int, default=120, help="of each account")
    arguments = parser.parse_args()
    world = build_world(arguments.accounts, arguments.conversations)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(serve_postgres())
        broker = stack.enter_context(serve_redis(folder))
        s3 = stack.enter_context(serve_s3_process())
        emulator = stack.enter_context(EmulatorServer(world, latency_seconds=LATENCY_SECONDS))
        s3.client.create_bucket(Bucket="lake")
        state_url, dagster_url = postgres.new_url(), postgres.address.replace(":", "+psycopg2:", 1)
        config = CONFIG.format(
            url=emulator.base_url, state="{state}", endpoint=s3.url, shard=arguments.shard
        )
        start = (datetime.now(UTC) - timedelta(days=3)).date()
        for account in world.accounts.values():
            config += ACCOUNT.format(name=account.name, page_id=account.page_id, start=start)
        own = {
            "SHOP_TOKEN": EMULATOR_TOKEN,
            "STATE_URL": state_url,
            "DAGSTER_POSTGRES_URL": dagster_url,
            "CELERY_BROKER_URL": broker,
            "C_FORCE_ROOT": "1",
        }
        os.environ |= CREDENTIALS | {"STATE_URL": state_url}
        fleet = Fleet(folder, config, {**os.environ, **own}, emulator)
        try:
            shard_count = -(-arguments.accounts // arguments.shard)
            run_night(fleet, postgres, broker, shard_count)
        except (SystemExit, subprocess.CalledProcessError) as error:
            for log in sorted(folder.glob("*/log")):
                print(f"--- {log.parent.name}\n{log.read_text()[-3000:]}")
            if isinstance(error, subprocess.CalledProcessError):
                print(error.stderr.decode())
            raise
        finally:
            fleet.stop()


if __name__ == "__main__":
    main()
