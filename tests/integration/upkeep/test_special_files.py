"""Links, pipes, sockets and folders in the place of files: refused at once and named."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import convo_pipeline
from convo_pipeline.derive.day import stale_days
from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import make_key
from convo_pipeline.query.connection import Connection
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.database import CompactionReader
from convo_pipeline.state.notes import FileNotes
from convo_pipeline.storage import local
from convo_pipeline.upkeep.verify import verify

DAYS = [date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)]
TABLE = "raw_message_ids"


def ids(day: date) -> pa.Table:
    row = {
        "conversation_id": "c",
        "message_id": f"m{day}",
        "created_at": datetime(day.year, day.month, day.day, 12, tzinfo=UTC),
        "created_at_source": "message",
        "order_in_second": 0,
        "first_seen_at": datetime(2026, 1, 9, tzinfo=UTC),
    }
    return pa.Table.from_pylist([row], schema=RAW_MESSAGE_IDS.schema)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(StoreSettings(root=str(tmp_path / "lake")))
    for account in ("bakery", "florist"):
        for day in DAYS:
            store.merge(TABLE, account, day, ids(day))
    yield store
    store.close()


def make_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def make_socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # The name of a socket is limited to about 100 bytes.
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(folder)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "named pipe"),
    "socket": (make_socket, "socket"),
    "link": (make_link, "symbolic link"),
    "folder": (os.mkdir, "folder in the place of a file"),
}


@pytest.fixture(params=SPECIAL)
def special(request: pytest.FixtureRequest) -> tuple[Callable[[Path], None], str]:
    return SPECIAL[request.param]


Special = tuple[Callable[[Path], None], str]


def test_d14_a_special_file_is_refused_by_every_reader_and_writer(
    store: Store, special: Special
) -> None:
    make, word = special
    path = store.path(TABLE, "bakery", DAYS[0])
    path.unlink()
    make(path)
    for action in (
        lambda: store.read(TABLE, "bakery", DAYS[0]),
        lambda: store.merge(TABLE, "bakery", DAYS[0], ids(DAYS[0])),
        lambda: store.drop(TABLE, "bakery", DAYS[0]),
        lambda: store.partitions.check_files([RAW_MESSAGE_IDS], "bakery"),
    ):
        with pytest.raises(StoreError, match=rf"{path} is a {word}"):
            action()
    assert store.days(TABLE, "bakery") == DAYS
    assert store.read(TABLE, "bakery", DAYS[1]).num_rows == 1
    assert store.read(TABLE, "florist", DAYS[0]).num_rows == 1


def test_d14_verify_names_each_special_file_and_checks_all_others(store: Store) -> None:
    for day, (make, _) in zip(DAYS, list(SPECIAL.values())[:3], strict=True):
        path = store.path(TABLE, "bakery", day)
        path.unlink()
        make(path)
    damaged = store.path(TABLE, "florist", DAYS[2])
    damaged.write_bytes(damaged.read_bytes()[:-9])
    for is_quick in (False, True):
        result = verify(store, is_quick=is_quick, stale_days=stale_days)
        assert [(each.kind, each.where) for each in result.findings] == [
            *(("unreadable", f"{TABLE}/account=bakery/date={day}") for day in DAYS),
            ("damaged", f"{TABLE}/account=florist/date={DAYS[2]}"),
        ]
        assert not result.is_sound


@pytest.mark.parametrize("name", ["", "account=bakery", "account=bakery/date=2026-01-05"])
def test_d14_verify_goes_on_after_a_linked_folder(store: Store, tmp_path: Path, name: str) -> None:
    folder = store.root / TABLE / name
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (store.root / "messages").mkdir()
    (store.root / "messages" / "foreign.txt").touch()
    result = verify(store, stale_days=stale_days)
    found = {(each.kind, each.where) for each in result.findings}
    assert any(kind == "unreadable" and where.startswith(TABLE) for kind, where in found)
    assert ("foreign", "messages/foreign.txt") in found
    assert all("symbolic link" in each.text for each in result.findings if each.kind[0] == "u")


@pytest.fixture
def con(store: Store) -> Iterator[Connection]:
    with convo_pipeline.connect(store.root) as con:
        yield con


QUERIES: list[Callable[[Connection], Any]] = [
    lambda con: con.sql(f"SELECT count(*) FROM {TABLE}").fetchall(),
    lambda con: con.execute(f"FROM {TABLE}").fetchall(),
    lambda con: con.table(TABLE).fetchall(),
    lambda con: con.view(TABLE).fetchall(),
    lambda con: con.cursor().execute(f'SELECT 1 FROM "{TABLE}"').fetchall(),
]


@pytest.mark.parametrize("query", QUERIES)
def test_d14_a_query_never_skips_or_follows_a_special_file(
    store: Store, con: Connection, special: Special, query: Callable[[Connection], Any]
) -> None:
    make, word = special
    query(con)
    path = store.path(TABLE, "bakery", DAYS[0])
    path.unlink()
    make(path)
    with pytest.raises(StoreError, match=rf"{path} is a {word}"):
        query(con)
    assert con.sql("SELECT count(*) FROM messages").fetchall() == [(0,)]


@pytest.mark.parametrize("name", ["", "account=bakery", "account=bakery/date=2026-01-05"])
def test_d14_a_query_names_a_linked_folder(
    store: Store, con: Connection, tmp_path: Path, name: str
) -> None:
    folder = store.root / TABLE / name
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a symbolic link"):
        con.sql(f"FROM {TABLE}").fetchall()


def test_d14_a_query_through_a_view_names_a_special_file(store: Store, con: Connection) -> None:
    (store.root / "messages/account=bakery/date=2026-01-05").mkdir(parents=True)
    os.mkfifo(store.path("messages", "bakery", DAYS[0]))
    for view in ("inbox", "response_turns", "sessions"):
        with pytest.raises(StoreError, match=r"messages/account=bakery.* is a named pipe"):
            con.sql(f"FROM {view}").fetchall()


def test_d14_a_pipe_in_the_place_of_the_key_or_the_state_is_named(tmp_path: Path) -> None:
    state_path = tmp_path / "state"
    state_path.mkdir()
    os.mkfifo(state_path / "forget.key")
    with pytest.raises(StoreError, match=r"forget\.key is a named pipe"):
        make_key(FileNotes(state_path))
    os.mkfifo(state_path / "state.db")
    store = Store(StoreSettings(root=str(tmp_path / "lake"), state_dir=str(state_path)))
    with pytest.raises(StoreError, match=r"state\.db is a named pipe"):
        store.state.partitions()
    with pytest.raises(StoreError, match=r"state\.db is a named pipe"):
        CompactionReader(state_path / "state.db").version()


class UnreadableOs:
    """The `os` of `storage/local.py`: one path cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, *mode: int) -> int:
        if str(path) == self._path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return os.open(path, flags, *mode)


def test_a_file_without_read_permission_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.path(TABLE, "bakery", DAYS[0])
    monkeypatch.setattr(local, "os", UnreadableOs(path))
    finding, *others = verify(store).findings
    assert others == []
    assert (finding.kind, finding.text) == ("unreadable", f"cannot read {path}: Permission denied")
    with pytest.raises(StoreError, match="Permission denied"):
        store.read(TABLE, "bakery", DAYS[0])
    assert path.exists()
    assert store.state.suspect_files() == []


QUERY_SCRIPT = """
import sys
import convo_pipeline
from convo_pipeline.errors import StoreError
with convo_pipeline.connect(sys.argv[1]) as con:
    try:
        con.sql("FROM raw_message_ids").fetchall()
    except StoreError as error:
        print(error)
"""


SETPRIV = shutil.which("setpriv")
AS_USER = [str(SETPRIV), "--bounding-set=-dac_override,-dac_read_search"]
"""Root may open every file, except without these two capabilities."""


@pytest.mark.skipif(os.geteuid() == 0 and SETPRIV is None, reason="root may read every file")
def test_a_query_names_a_file_without_read_permission(store: Store) -> None:
    path = store.path(TABLE, "bakery", DAYS[0])
    path.chmod(0)
    command = [sys.executable, "-c", QUERY_SCRIPT, str(store.root)]
    command = [*AS_USER, *command] if os.geteuid() == 0 else command
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"cannot read {path}: Permission denied\n", done.stderr
