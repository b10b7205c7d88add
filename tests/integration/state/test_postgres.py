"""What only the state in PostgreSQL has: sessions, secrets in addresses, versions."""

import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from convo_pipeline.base.clock import Clock
from convo_pipeline.errors import BusyError, StoreError, ThrottledError
from convo_pipeline.graph.rate_limit import LimitKey
from convo_pipeline.state.access import blocked_until
from convo_pipeline.state.postgres import PostgresDatabase
from convo_pipeline.state.postgres_limiter import PostgresLimiter
from convo_pipeline.state.postgres_locks import PostgresLocks
from convo_pipeline.state.state import State
from tests.support.postgres_server import PostgresServer

KEY = LimitKey("graph.facebook.com", "17", "instagram")
pytestmark = pytest.mark.slow


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_url()


@pytest.fixture
def database(url: str) -> Iterator[PostgresDatabase]:
    database = PostgresDatabase(url)
    yield database
    database.close()


def test_a_session_that_the_server_ended_is_opened_again(
    postgres: PostgresServer, database: PostgresDatabase
) -> None:
    state = State(database)
    state.save_memory("bakery", {"page_size": 25})
    postgres.cut_sessions()
    assert state.memory("bakery") == {"page_size": 25}
    postgres.cut_sessions()
    state.save_memory("bakery", {"page_size": 50})
    postgres.stop()
    with pytest.raises(StoreError, match=r"postgresql://127.0.0.1:\d+/postgres: "):
        state.memory("bakery")
    postgres.start()
    assert state.memory("bakery") == {"page_size": 50}


def test_a_cut_transaction_changes_nothing(
    postgres: PostgresServer, database: PostgresDatabase
) -> None:
    state = State(database)
    state.save_memory("bakery", {})

    def delete_all() -> None:
        with database.transaction() as transaction:
            transaction.execute("DELETE FROM memories")
            postgres.cut_sessions()
            transaction.execute("SELECT 1")

    with pytest.raises(StoreError):
        delete_all()
    assert state.census("bakery") == {}
    assert database.select("SELECT account FROM memories") == [("bakery",)]


def test_no_error_shows_the_password(postgres: PostgresServer) -> None:
    secret = "not-to-be-shown"
    for address in (
        f"postgresql+psycopg://nobody:{secret}@127.0.0.1:{postgres.port}/none",
        f"postgresql+psycopg://nobody:{secret}@127.0.0.1:1/none",
        f"postgresql+psycopg://nobody:{secret}@127.0.0.1:x/none",
        f"postgresql+psycopg://nobody:{secret}@127.0.0.1/none?{secret}=1",
    ):
        with pytest.raises(StoreError) as caught:
            PostgresDatabase(address).select("SELECT 1")
        assert secret not in str(caught.value)


def test_a_state_of_a_newer_version_is_refused(database: PostgresDatabase) -> None:
    with database.transaction() as transaction:
        transaction.execute("UPDATE lake_version SET version = 99")
    database.close()
    with pytest.raises(StoreError, match="written by a newer convo-pipeline"):
        database.select("SELECT 1")


def test_many_sessions_can_create_the_tables_at_once(url: str) -> None:
    errors: list[Exception] = []

    def save(number: int) -> None:
        state = State(PostgresDatabase(url))
        try:
            state.save_memory(f"shop{number}", {})
        except Exception as error:
            errors.append(error)
        state.close()

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = State(PostgresDatabase(url))
    assert (errors, len(state.database.select("SELECT * FROM memories"))) == ([], 8)
    assert state.database.select("SELECT version FROM lake_version") == [(3,)]
    state.close()


def test_an_account_has_one_holder_on_all_machines(url: str, tmp_path: Path) -> None:
    one, two = PostgresDatabase(url), PostgresDatabase(url)
    locks = PostgresLocks(tmp_path, one)
    with locks.account("bakery"), locks.account("cafe"):
        for other in (locks, PostgresLocks(tmp_path, two)):
            with pytest.raises(BusyError, match="account bakery is busy"), other.account("bakery"):
                pass
        waiter = threading.Thread(target=hold_derivation, args=(two, tmp_path))
        with locks.derivation("bakery"):
            waiter.start()
    waiter.join()
    with PostgresLocks(tmp_path, two).account("bakery"):
        pass
    one.close()
    two.close()


def hold_derivation(database: PostgresDatabase, folder: Path) -> None:
    with PostgresLocks(folder, database).derivation("bakery"):
        pass


def test_a_holder_without_its_session_takes_no_slot_and_writes_nothing(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    one, two = PostgresDatabase(url), PostgresDatabase(url)
    limiter, lost = PostgresLimiter(one, KEY), "was lost, and with it the locks"
    with PostgresLocks(tmp_path, one).account("bakery"):
        limiter.acquire()
        postgres.cut_sessions()
        for _ in range(2):
            with pytest.raises(StoreError):
                limiter.acquire()
        with pytest.raises(StoreError, match=lost):
            State(one).save_memory("bakery", {})
        with PostgresLocks(tmp_path, two).account("bakery"):
            pass
        with pytest.raises(StoreError, match=lost), PostgresLocks(tmp_path, one).account("cafe"):
            pass
    with PostgresLocks(tmp_path, one).account("bakery"):
        limiter.acquire()
    one.close()
    two.close()


HOLDER = """
import sys, time
from pathlib import Path
from convo_pipeline.state.postgres import PostgresDatabase
from convo_pipeline.state.postgres_locks import PostgresLocks
locks = PostgresLocks(Path(sys.argv[2]), PostgresDatabase(sys.argv[1]))
with locks.run("r1"), locks.account("bakery"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_frees_its_locks(url: str, tmp_path: Path) -> None:
    database = PostgresDatabase(url)
    locks = PostgresLocks(tmp_path, database)
    command = [sys.executable, "-c", HOLDER, url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert locks.is_run_dead("r1") is False
        with pytest.raises(BusyError), locks.account("bakery"):
            pass
        holder.kill()
    with locks.account("bakery", wait_seconds=60):
        pass
    with database.transaction() as rows:
        rows.execute("UPDATE live_runs SET seen_at = seen_at - interval '46 seconds'")
    assert (locks.is_run_dead("r1"), locks.is_run_dead("other")) == (False, None)
    assert locks.is_run_dead("r1") is False
    with database.transaction() as rows:
        rows.execute("UPDATE live_runs SET suspected_at = suspected_at - interval '46 seconds'")
    assert locks.is_run_dead("r1") is True
    with database.transaction() as rows:
        rows.execute("UPDATE live_runs SET seen_at = seen_at - interval '3 days'")
    locks.remove_stale_runs()
    assert locks.is_run_dead("r1") is None
    with locks.run("r2"):
        assert locks.is_run_dead("r2") is False
    assert locks.is_run_dead("r2") is None
    database.close()


def test_a_run_that_lost_only_its_session_lives(
    postgres: PostgresServer, url: str, tmp_path: Path
) -> None:
    """Its row is renewed on a new connection, which also withdraws the suspicion."""
    database, other = PostgresDatabase(url), PostgresDatabase(url)
    locks = PostgresLocks(tmp_path, database)
    with PostgresLocks(tmp_path, other, renewal_seconds=0.05).run("r1"):
        postgres.cut_sessions()
        with database.transaction() as rows:
            rows.execute(
                "UPDATE live_runs SET seen_at = seen_at - interval '1 hour',"
                " suspected_at = seen_at - interval '1 hour'"
            )
        while database.select("SELECT 1 FROM live_runs WHERE suspected_at IS NOT NULL"):
            time.sleep(0.01)
        assert locks.is_run_dead("r1") is False
    database.close()
    other.close()


def test_a_pooler_is_refused(postgres: PostgresServer, url: str) -> None:
    """A pooler answers with a process id of its own."""
    with change_backend_pid(postgres.port) as port:
        database = PostgresDatabase(url.replace(f":{postgres.port}/", f":{port}/"))
        with pytest.raises(StoreError, match="is a pooler such as PgBouncer"):
            database.select("SELECT 1")


@contextmanager
def change_backend_pid(port: int) -> Iterator[int]:
    """Serve one connection to PostgreSQL with another process id in its greeting."""

    def copy(source: socket.socket, target: socket.socket, *, changes: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if changes and (start := content.find(b"K\x00\x00\x00\x0c")) >= 0:
                    content = content[: start + 5] + b"\x00\x00\x00\x01" + content[start + 9 :]
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=copy, args=(server, client), kwargs={"changes": True})
            back.start()
            copy(client, server, changes=False)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def stamp_calls(url: str, seconds: float, results: "multiprocessing.Queue[list[float]]") -> None:
    database = PostgresDatabase(url)
    limiter, stamps, until = (
        PostgresLimiter(database, KEY),
        list[float](),
        time.monotonic() + seconds,
    )
    while time.monotonic() < until:
        limiter.acquire()
        stamps.append(time.monotonic())
    results.put(stamps)
    database.close()


def test_four_processes_never_send_three_calls_in_a_second(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[float]] = context.Queue()
    workers = [context.Process(target=stamp_calls, args=(url, 10, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    stamps = sorted(stamp for _ in workers for stamp in results.get(timeout=120))
    for worker in workers:
        worker.join()
    crowded = sum(third - first <= 1.0 for first, third in zip(stamps, stamps[2:], strict=False))
    assert crowded == 0
    assert (len(stamps) - 1) / (stamps[-1] - stamps[0]) >= 1.7


def test_a_database_clock_that_is_set_back_lets_no_call_through(
    database: PostgresDatabase,
) -> None:
    limiter = PostgresLimiter(database, KEY)
    limiter.acquire()
    with database.transaction() as rows:
        rows.execute(
            "UPDATE rate_limits SET last_sent = last_sent + 0.8, next_slot = next_slot + 0.8"
        )
    began = time.monotonic()
    limiter.acquire()
    assert time.monotonic() - began >= 0.8


def test_a_late_caller_moves_its_stamp(database: PostgresDatabase) -> None:
    times = iter([0.0, 0.0, 9.0, 9.0, 9.0, 9.0])
    limiter = PostgresLimiter(database, KEY, clock=Clock(monotonic_seconds=lambda: next(times)))
    sql = "SELECT extract(epoch FROM clock_timestamp())"
    ((before,),) = database.select(sql)
    limiter.acquire()
    ((last_sent,),) = database.select("SELECT last_sent FROM rate_limits")
    assert last_sent >= before
    assert next(times, None) is None


def test_a_block_holds_on_all_machines(url: str) -> None:
    one, two = PostgresDatabase(url), PostgresDatabase(url)
    PostgresLimiter(one, KEY).block(600)
    PostgresLimiter(one, KEY).block(1)
    with pytest.raises(ThrottledError):
        PostgresLimiter(two, KEY._replace(platform="messenger")).acquire()
    now = datetime.now(UTC)
    until = blocked_until(two, KEY, now)
    assert until is not None
    assert 590 < (until - now).total_seconds() <= 600
    assert blocked_until(two, KEY._replace(page_id="18"), now) is None
    one.close()
    two.close()


def test_an_erasure_leaves_nothing_in_the_files_of_the_tables(
    postgres: PostgresServer, database: PostgresDatabase
) -> None:
    state = State(database)
    state.save_memory("bakery", {"known": "AdaLovelace"})
    state.forget("bakery", [], [], (), lambda text: text.replace("AdaLovelace", "x"))
    database.wipe_free_pages()
    postgres.execute("CHECKPOINT")
    found = [
        path.name
        for path in (postgres.folder / "data" / "base").rglob("*")
        if path.is_file() and b"AdaLovelace" in path.read_bytes()
    ]
    assert found == []
