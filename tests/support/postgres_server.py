"""A real PostgreSQL server on loopback, with one schema for each test."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

PROGRAMS = [*map(Path, os.environ.get("PATH", "").split(":"))]
SERVER_USER = 65534
"""PostgreSQL does not run as root: `nobody` runs it then."""
CONFIGURATION = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
fsync = off
full_page_writes = off
max_connections = 200
shared_buffers = 32MB
"""


def find_program(name: str) -> Path:
    """Return a program of PostgreSQL; skip the test without one."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in (*installed, *PROGRAMS):
        if (folder / name).is_file():
            return folder / name
    pytest.skip("PostgreSQL is not installed: apt-get install postgresql")


class PostgresServer:
    """A running server. Its files are removed at the end."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._names = (f"lake{number}" for number in itertools.count(1))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_program("postgres"), "-D", self.folder / "data"],
                stdout=log,
                stderr=log,
                **_as_user(),
            )
        while True:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.address).close()
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once; sessions are cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        """Run one statement as the owner of the server."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def new_url(self) -> str:
        """Create a schema; return its address for `state_url`."""
        name = next(self._names)
        self.execute(f"CREATE SCHEMA {name}")
        address = self.address.replace("postgresql:", "postgresql+psycopg:")
        return f"{address}?options=-csearch_path%3D{name}"

    def cut_sessions(self) -> None:
        """End all sessions of clients, as a failover does."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """Run a server of one's own; skip the test where PostgreSQL is missing."""
    initdb = find_program("initdb")
    folder = Path(tempfile.mkdtemp(prefix="convo-postgres-"))
    try:
        if os.getuid() == 0:
            os.chown(folder, SERVER_USER, SERVER_USER)
        options = ["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]
        subprocess.run(
            [initdb, "-D", folder / "data", *options],
            check=True,
            capture_output=True,
            **_as_user(),
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION.format(port=port))
        server = PostgresServer(folder, port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _as_user() -> dict[str, object]:
    root = {"user": SERVER_USER, "group": SERVER_USER, "extra_groups": []}
    return {"cwd": "/", **(root if os.getuid() == 0 else {})}
