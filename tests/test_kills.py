"""Commits that are killed, refused or cut off by a power loss: the old file or the new one, and one rerun heals.

Three ways to die: SIGKILL at any line of ours (a forked child traces itself), SIGKILL at any call into the operating
system, and by real `strace`. Errors come from the calls themselves, from `strace`, and from a disk that is full.
"""

import errno
import hashlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pytest

from convo_pipeline.errors import StoreError
from convo_pipeline.lake import folder as folder_module
from convo_pipeline.lake.database import Database
from convo_pipeline.lake.files import Store
from convo_pipeline.lake.verify import verify
from convo_pipeline.schema import RAW_MESSAGE_IDS, REACTIONS
from convo_pipeline.settings import StoreSettings

pytestmark = [
    pytest.mark.hunt,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

ACCOUNT, DAY = "bakery", date(2026, 1, 5)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PACKAGE = str(Path(folder_module.__file__).parent.parent)
SEED = 20260105


def ids(count: int) -> pa.Table:
    row = {"conversation_id": "c", "created_at": NOON, "created_at_source": "message", "tie_rank": 0}
    rows = [row | {"message_id": f"m{n:03}", "first_seen_at": NOON} for n in range(count)]
    return pa.Table.from_pylist(rows, schema=RAW_MESSAGE_IDS.schema)


def reactions(count: int) -> pa.Table:
    row = {"conversation_id": "c", "message_id": "m", "reaction": "love", "created_at": NOON}
    return pa.Table.from_pylist([row | {"reactor_id": f"r{n:03}"} for n in range(count)], schema=REACTIONS.schema)


@dataclass(frozen=True)
class Step:
    """One commit on one partition: what is held before, what is written, what must be there after."""

    name: str
    table: str
    before: int
    after: int

    def prepare(self, store: Store) -> None:
        store.merge("raw_message_ids", "other", DAY, ids(1))
        if self.before:
            self._write(store, self.before)

    def commit(self, store: Store) -> None:
        self._write(store, self.after)

    def rows(self, store: Store) -> int:
        held: int = store.read(self.table, ACCOUNT, DAY).num_rows
        return held

    def _write(self, store: Store, count: int) -> None:
        if self.table == "reactions":
            store.replace(self.table, ACCOUNT, DAY, reactions(count), f"digest of {count}")
        else:
            store.merge(self.table, ACCOUNT, DAY, ids(count))


STEPS = (
    Step("first", "raw_message_ids", 0, 5),
    Step("merge", "raw_message_ids", 3, 5),
    Step("replace", "reactions", 3, 5),
    Step("remove", "reactions", 3, 0),
)


def open_store(root: Path) -> Store:
    return Store(StoreSettings(root=str(root)))


@pytest.fixture(params=STEPS, ids=lambda step: step.name)
def step(request: pytest.FixtureRequest) -> Step:
    chosen: Step = request.param
    return chosen


@pytest.fixture
def lake(tmp_path: Path, step: Step) -> Callable[[], Path]:
    """Return a maker of fresh lakes, each as it is before the step."""
    template = tmp_path / "template"
    store = open_store(template)
    step.prepare(store)
    store.close()
    numbers = itertools.count()

    def make() -> Path:
        root = tmp_path / f"lake-{next(numbers)}"
        shutil.copytree(template, root)
        return root

    return make


def check_healed(root: Path, step: Step, *, is_done: bool = False) -> None:
    """The reader sees old or new, nothing is taken for damage, one rerun gives the new; then nothing is off."""
    store = open_store(root)
    seen = step.rows(store)
    assert seen == step.after if is_done else seen in (step.before, step.after)
    step.commit(store)
    assert step.rows(store) == step.after
    assert verify(store).findings == ()
    assert [path.name for path in root.rglob("*.parquet") if path.name != "data.parquet"] == []
    store.close()
    shutil.rmtree(root)


def run_child(work: Callable[[], None]) -> int:
    """Do work in a forked child and return how it ended: 0, 1 for an error, -9 for SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def commit_traced(root: Path, step: Step, kill_at: int | None) -> int:
    """Commit, counting the lines of this package that run; kill ourselves at one of them."""
    store = open_store(root)
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        step.commit(store)
    finally:
        sys.settrace(None)
    return count


def chosen(total: int, rounds: int, long_run: bool) -> list[int]:
    """All places from 1 to `total` in a long run, else a few, always the same."""
    places = list(range(1, total + 1))
    return places if long_run or total <= rounds else sorted(random.Random(SEED).sample(places, rounds))


def test_killed_at_any_line_a_commit_is_old_or_new(lake: Callable[[], Path], step: Step, long_run: bool) -> None:
    total = commit_traced(lake(), step, None)
    for place in chosen(total, 20, long_run):
        root = lake()
        assert run_child(lambda: void(commit_traced(root, step, place))) == -signal.SIGKILL  # noqa: B023
        check_healed(root, step)


def void(_: object) -> None:
    """Take what a call returns and leave it."""


CALLS = ("open", "fsync", "replace", "mkdir", "unlink", "listdir", "lstat", "close")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT)


class TroubledOs:
    """The `os` that `lake/folder.py` sees: counts its calls and makes one of them fail, or kills before it."""

    def __init__(self, trouble: Callable[[int, str], None]) -> None:
        self.log: list[str] = []
        self._trouble = trouble

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.log.append(name)
            self._trouble(len(self.log), name)
            return real(*args, **kwargs)

        return call


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[int, str], None]], TroubledOs]]:
    def install(trouble: Callable[[int, str], None]) -> TroubledOs:
        fake = TroubledOs(trouble)
        monkeypatch.setattr(folder_module, "os", fake)
        return fake

    yield install
    monkeypatch.undo()


Install = Callable[[Callable[[int, str], None]], TroubledOs]


def count_calls(root: Path, step: Step, troubled: Install, monkeypatch: pytest.MonkeyPatch) -> int:
    fake = troubled(lambda place, name: None)
    store = open_store(root)
    step.commit(store)
    store.close()
    monkeypatch.setattr(folder_module, "os", os)
    return len(fake.log)


def test_killed_at_any_system_call_a_commit_is_old_or_new(
    lake: Callable[[], Path], step: Step, troubled: Install, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    total = count_calls(lake(), step, troubled, monkeypatch)
    for place in chosen(total, 10, long_run):
        root = lake()

        def die(now: int, _: str, place: int = place) -> None:
            if now == place:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(root: Path = root, die: Callable[[int, str], None] = die) -> None:
            troubled(die)
            step.commit(open_store(root))

        assert run_child(work) == -signal.SIGKILL
        check_healed(root, step)


def test_an_error_at_any_system_call_is_loud_and_leaves_old_or_new(
    lake: Callable[[], Path], step: Step, troubled: Install, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    total = count_calls(lake(), step, troubled, monkeypatch)
    cases = list(itertools.product(range(1, total + 1), ERRORS))
    for place, number in cases if long_run else random.Random(SEED).sample(cases, min(24, len(cases))):
        root = lake()
        failed: list[str] = []

        def fail(now: int, name: str, place: int = place, number: int = number, failed: list[str] = failed) -> None:
            if now == place:
                failed.append(name)
                raise OSError(number, os.strerror(number))

        troubled(fail)
        store = open_store(root)
        if (error := refused(partial(step.commit, store))) is None:
            assert set(failed) == {"unlink"} or set(failed) == {"close"}, "an error was swallowed"
        else:
            assert os.strerror(number) in error
        store.close()
        monkeypatch.setattr(folder_module, "os", os)
        assert not list((root / ".staging").glob("*")) or failed == ["unlink"]
        check_healed(root, step)


def refused(work: Callable[[], None]) -> str | None:
    """Return the text of the StoreError, None if there was none."""
    try:
        work()
    except StoreError as error:
        return str(error)
    return None


STRACE = shutil.which("strace")
COMMIT_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_kills import STEPS, open_store
STEPS[{index}].commit(open_store(Path({root!r})))
"""
SYSTEM_CALLS = ("fsync", "fdatasync", "pwrite64", "write", "rename", "mkdir", "openat", "unlink")


def run_strace(root: Path, step: Step, inject: str) -> subprocess.CompletedProcess[str]:
    """Commit in a fresh interpreter under strace, which meddles with calls on our files alone."""
    code = COMMIT_SCRIPT.format(tests=str(Path(__file__).parent), index=STEPS.index(step), root=str(root))
    call = inject.split("=")[1].split(":")[0]
    only = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *under(root)]
    command = [str(STRACE), *only, "-e", inject]
    return subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True, check=False)


def under(root: Path) -> list[str]:
    """Name the files a commit touches: strace only meddles with calls on these."""
    partition = root / "raw_message_ids" / f"account={ACCOUNT}" / f"date={DAY}"
    names = [".staging", ".state/state.db", ".state/state.db-wal", ".state/state.db-shm", ".state/locks"]
    staged = root / ".staging" / staged_name()
    paths = [root / name for name in names] + [staged, partition, partition.parent, partition / "data.parquet"]
    return [part for path in paths for part in ("-P", str(path))]


def staged_name() -> str:
    parts = ("raw_message_ids", f"account={ACCOUNT}", f"date={DAY}", "data.parquet")
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32] + ".tmp"


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("step", STEPS[1:2], indirect=True, ids=lambda step: step.name)
def test_killed_by_strace_at_a_real_system_call_a_commit_is_old_or_new(
    lake: Callable[[], Path], step: Step, long_run: bool
) -> None:
    cases = list(itertools.product(SYSTEM_CALLS, range(1, 9)))
    killed = 0
    for call, place in cases if long_run else [("fsync", 1), ("pwrite64", 3), ("rename", 1)]:
        root = lake()
        killed += run_strace(root, step, f"inject={call}:signal=KILL:when={place}").returncode == -signal.SIGKILL
        check_healed(root, step)
    assert killed >= 3


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("step", STEPS[1:2], indirect=True, ids=lambda step: step.name)
def test_a_real_input_output_error_is_loud_and_leaves_old_or_new(
    lake: Callable[[], Path], step: Step, long_run: bool
) -> None:
    cases = list(itertools.product(("fsync", "rename", "write"), ("EIO", "ENOSPC"), range(1, 4)))
    failed = 0
    for call, name, place in cases if long_run else [("fsync", "EIO", 1), ("rename", "ENOSPC", 1)]:
        root = lake()
        failed += "StoreError: " in run_strace(root, step, f"inject={call}:error={name}:when={place}").stderr
        check_healed(root, step)
    assert failed >= 2


FULL_DISK_SCRIPT = """
mount -t tmpfs -o size=256k tmpfs {disk} && cp -r {template}/. {disk} && head -c 300k /dev/zero > {disk}/filler
{python} -c '
import sys
from pathlib import Path
sys.path.insert(0, "{tests}")
from test_kills import STEPS, open_store
from convo_pipeline.errors import StoreError
step, root = STEPS[1], Path("{disk}")
store = open_store(root)
for attempt in (store.preflight, lambda: step.commit(store)):
    try:
        attempt()
        sys.exit("a full disk was not noticed")
    except StoreError as error:
        print(error)
store.close()
(root / "filler").unlink()
store = open_store(root)
assert step.rows(store) == step.before
step.commit(store)
assert step.rows(store) == step.after
'
"""


@pytest.mark.parametrize("step", STEPS[1:2], indirect=True, ids=lambda step: step.name)
def test_a_disk_that_is_really_full_is_named_and_costs_nothing(lake: Callable[[], Path], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = FULL_DISK_SCRIPT.format(disk=disk, template=lake(), python=sys.executable, tests=Path(__file__).parent)
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr and done.returncode:
        pytest.skip("no private mounts here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left on device" in done.stdout or "is full" in done.stdout


# A power loss: of what was not synced, any part may be gone.


@dataclass
class Disk:
    """What was done to the disk, in order, as far as it decides what a power loss leaves."""

    deeds: list[tuple[str, Path]] = field(default_factory=list)
    databases: list[bytes] = field(default_factory=list)

    def note(self, deed: str, path: str | Path) -> None:
        self.deeds.append((deed, Path(path)))


class WatchedOs:
    """The `os` that `lake/folder.py` sees, noting what it does to the disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._names: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, *mode: int) -> int:
        descriptor = os.open(path, flags, *mode)
        self._names[descriptor] = Path(path)
        return descriptor

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        path = self._names[descriptor]
        self._disk.note("sync folder" if path.is_dir() else "sync file", path)

    def mkdir(self, path: Path, *mode: int) -> None:
        os.mkdir(path, *mode)
        self._disk.note("mkdir", path)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)
        self._disk.note("replace", target)


class WatchedDatabase(Database):
    """The state's database, noting which of its transactions are durable and what it then held."""

    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__(path)
        self._disk = disk

    @contextmanager
    def transaction(self, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        with super().transaction(is_durable) as connection:
            yield connection
        self._disk.note("durable database" if is_durable else "loose database", str(len(self._disk.databases)))
        self._disk.databases.append(self.serialize())

    def serialize(self) -> bytes:
        return self._open().serialize()


def lost_states(deeds: list[tuple[str, Path]]) -> Iterator[tuple[int, frozenset[int]]]:
    """Yield (deeds done, which of them the power loss took) for every crash point and every loss it allows."""
    for done in range(len(deeds) + 1):
        loose = [n for n in range(done) if not _is_kept(deeds[:done], n)]
        for count in range(len(loose) + 1):
            for lost in itertools.combinations(loose, count):
                yield done, frozenset(lost)


def _is_kept(done: list[tuple[str, Path]], n: int) -> bool:
    """A name lasts once its folder is synced; a durable transaction at once."""
    deed, path = done[n]
    if deed in ("sync file", "sync folder", "durable database"):
        return True
    if deed == "loose database":
        return any(later == "durable database" for later, _ in done[n:])
    return ("sync folder", path.parent) in done[n:]


@pytest.mark.parametrize("step", STEPS[:3], indirect=True, ids=lambda step: step.name)
def test_a_power_loss_leaves_old_or_new_and_after_success_the_new(
    lake: Callable[[], Path], step: Step, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    root, disk = lake(), Disk()
    store = open_store(root)
    watched = store.state.database = WatchedDatabase(store.state.path, disk)
    old_file, old_database = read_if_any(store.path(step.table, ACCOUNT, DAY)), watched.serialize()
    monkeypatch.setattr(folder_module, "os", WatchedOs(disk))
    step.commit(store)
    store.close()
    monkeypatch.setattr(folder_module, "os", os)
    new_file = store.path(step.table, ACCOUNT, DAY).read_bytes()
    assert is_synced_before_replaced(disk.deeds)
    states = list(lost_states(disk.deeds))
    for done, lost in states if long_run else random.Random(SEED).sample(states, min(24, len(states))):
        kept = [deed for n, deed in enumerate(disk.deeds[:done]) if n not in lost]
        after = lake()
        path = after / store.path(step.table, ACCOUNT, DAY).relative_to(root)
        if is_replaced(kept, lost, disk.deeds, root):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(new_file)
        else:
            assert read_if_any(path) == old_file
        databases = [int(str(target)) for deed, target in kept if deed.endswith("database")]
        write_database(after, disk.databases[databases[-1]] if databases else old_database)
        check_healed(after, step, is_done=done == len(disk.deeds))


def read_if_any(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def is_synced_before_replaced(deeds: list[tuple[str, Path]]) -> bool:
    names = [deed for deed, _ in deeds]
    return names.index("sync file") < names.index("replace")


def is_replaced(kept: list[tuple[str, Path]], lost: frozenset[int], deeds: list[tuple[str, Path]], root: Path) -> bool:
    """The new file is there if its name was kept and no folder above it was lost."""
    target = next((path for deed, path in kept if deed == "replace"), None)
    lost_folders = {deeds[n][1] for n in lost if deeds[n][0] == "mkdir"}
    return target is not None and not lost_folders & set(target.parents)


def write_database(root: Path, content: bytes) -> None:
    for path in (root / ".state").glob("state.db*"):
        path.unlink()
    (root / ".state" / "state.db").write_bytes(content)
