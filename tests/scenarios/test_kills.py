"""Commits that are killed, that fail, or that a power loss cuts off leave the old or the new file.

Kills are SIGKILL at any line of this package (a forked child traces itself), at any system call of
`storage/local.py`, and by `strace`. Errors come from these calls, `strace` and a full disk.
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
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pytest

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS, REACTIONS
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.database import SqliteDatabase
from convo_pipeline.storage import local as folder_module
from convo_pipeline.upkeep.verify import verify
from tests.support.paths import ROOT

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
    row = {
        "conversation_id": "c",
        "created_at": NOON,
        "created_at_source": "message",
        "order_in_second": 0,
    }
    rows = [row | {"message_id": f"m{n:03}", "first_seen_at": NOON} for n in range(count)]
    return pa.Table.from_pylist(rows, schema=RAW_MESSAGE_IDS.schema)


def reactions(count: int) -> pa.Table:
    row = {"conversation_id": "c", "message_id": "m", "reaction": "love", "created_at": NOON}
    return pa.Table.from_pylist(
        [row | {"reactor_id": f"r{n:03}"} for n in range(count)], schema=REACTIONS.schema
    )


@dataclass(frozen=True)
class Step:
    """One commit to one partition: row counts before and after."""

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
        count: int = store.read(self.table, ACCOUNT, DAY).num_rows
        return count

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
    """Return a function that makes a new lake as it is before the step."""
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


def check_healed(root: Path, step: Step, *, seen: int | None = None) -> None:
    """A reader gets the old or the new rows; one more commit gives the new ones without damage."""
    store = open_store(root)
    assert step.rows(store) in ((step.before, step.after) if seen is None else (seen,))
    step.commit(store)
    assert step.rows(store) == step.after
    assert verify(store).findings == ()
    assert [path.name for path in root.rglob("*.parquet") if path.name != "data.parquet"] == []
    store.close()
    shutil.rmtree(root)


def run_child(work: Callable[[], None]) -> int:
    """Run work in a forked child; return 0, 1 after an error, or -9 after SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def commit_traced(root: Path, step: Step, kill_at: int | None) -> int:
    """Commit and count the executed lines of this package; kill the process at one of them."""
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
    """Return all numbers from 1 to `total` in a long run, else a fixed few."""
    places = list(range(1, total + 1))
    return (
        places
        if long_run or total <= rounds
        else sorted(random.Random(SEED).sample(places, rounds))
    )


def test_c1_a_commit_killed_at_any_line_is_old_or_new(
    lake: Callable[[], Path], step: Step, long_run: bool
) -> None:
    total = commit_traced(lake(), step, None)
    for place in chosen(total, 12, long_run):
        root = lake()
        assert run_child(lambda: void(commit_traced(root, step, place))) == -signal.SIGKILL  # noqa: B023
        check_healed(root, step)


def void(_: object) -> None:
    """Ignore the result of a call."""


CALLS = (
    "open",
    "read",
    "write",
    "fsync",
    "close",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
    "listdir",
    "lstat",
)
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT)


class FaultyOs:
    """The `os` of `storage/local.py`: counts its calls; one of them fails or kills the process."""

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
def install_faulty_os(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[int, str], None]], FaultyOs]]:
    def install(trouble: Callable[[int, str], None]) -> FaultyOs:
        fake = FaultyOs(trouble)
        monkeypatch.setattr(folder_module, "os", fake)
        return fake

    yield install
    monkeypatch.undo()


Install = Callable[[Callable[[int, str], None]], FaultyOs]


def count_calls(
    root: Path, step: Step, install_faulty_os: Install, monkeypatch: pytest.MonkeyPatch
) -> int:
    fake = install_faulty_os(lambda place, name: None)
    store = open_store(root)
    step.commit(store)
    store.close()
    monkeypatch.setattr(folder_module, "os", os)
    return len(fake.log)


def test_c1_a_commit_killed_at_any_system_call_is_old_or_new(
    lake: Callable[[], Path],
    step: Step,
    install_faulty_os: Install,
    monkeypatch: pytest.MonkeyPatch,
    long_run: bool,
) -> None:
    total = count_calls(lake(), step, install_faulty_os, monkeypatch)
    for place in chosen(total, 10, long_run):
        root = lake()

        def die(now: int, _: str, place: int = place) -> None:
            if now == place:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(root: Path = root, die: Callable[[int, str], None] = die) -> None:
            install_faulty_os(die)
            step.commit(open_store(root))

        assert run_child(work) == -signal.SIGKILL
        check_healed(root, step)


def test_c5_c6_an_error_at_any_system_call_is_raised_and_leaves_old_or_new(
    lake: Callable[[], Path],
    step: Step,
    install_faulty_os: Install,
    monkeypatch: pytest.MonkeyPatch,
    long_run: bool,
) -> None:
    total = count_calls(lake(), step, install_faulty_os, monkeypatch)
    cases = list(itertools.product(range(1, total + 1), ERRORS))
    for place, number in (
        cases if long_run else random.Random(SEED).sample(cases, min(24, len(cases)))
    ):
        root = lake()
        failed: list[str] = []

        def fail(
            now: int,
            name: str,
            place: int = place,
            number: int = number,
            failed: list[str] = failed,
        ) -> None:
            if now == place:
                failed.append(name)
                raise OSError(number, os.strerror(number))

        install_faulty_os(fail)
        stores: list[Store] = []

        def open_and_commit(root: Path = root, stores: list[Store] = stores) -> None:
            stores.append(open_store(root))
            step.commit(stores[0])

        if (error := storage_error(open_and_commit)) is None:
            assert set(failed) <= {"unlink", "rmdir"}, "an error was swallowed"
        else:
            assert os.strerror(number) in error
        for store in stores:
            store.close()
        monkeypatch.setattr(folder_module, "os", os)
        assert not list((root / ".staging").glob("*")) or failed == ["unlink"]
        check_healed(root, step)


def storage_error(work: Callable[[], None]) -> str | None:
    """Return the text of the StoreError, None without an error."""
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
from tests.scenarios.test_kills import STEPS, open_store
STEPS[{index}].commit(open_store(Path({root!r})))
"""
SYSTEM_CALLS = ("fsync", "fdatasync", "pwrite64", "write", "rename", "mkdir", "openat", "unlink")


def run_strace(root: Path, step: Step, inject: str) -> subprocess.CompletedProcess[str]:
    """Commit in a new interpreter under strace, which changes only calls on the lake's files."""
    code = COMMIT_SCRIPT.format(tests=str(ROOT), index=STEPS.index(step), root=str(root))
    call = inject.split("=")[1].split(":")[0]
    only = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *under(root)]
    command = [str(STRACE), *only, "-e", inject]
    return subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


def under(root: Path) -> list[str]:
    """Return strace's options for the files that a commit uses."""
    partition = root / "raw_message_ids" / f"account={ACCOUNT}" / f"date={DAY}"
    names = [
        ".staging",
        ".state/state.db",
        ".state/state.db-wal",
        ".state/state.db-shm",
        ".state/locks",
    ]
    staged = root / ".staging" / staged_name()
    paths = [root / name for name in names] + [
        staged,
        partition,
        partition.parent,
        partition / "data.parquet",
    ]
    return [part for path in paths for part in ("-P", str(path))]


def staged_name() -> str:
    parts = ("raw_message_ids", f"account={ACCOUNT}", f"date={DAY}", "data.parquet")
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32] + ".tmp"


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("step", STEPS[1:2], indirect=True, ids=lambda step: step.name)
def test_c1_a_commit_killed_by_strace_is_old_or_new(
    lake: Callable[[], Path], step: Step, long_run: bool
) -> None:
    cases = list(itertools.product(SYSTEM_CALLS, range(1, 9)))
    killed = 0
    for call, place in cases if long_run else [("fsync", 1), ("pwrite64", 3), ("rename", 1)]:
        root = lake()
        killed += (
            run_strace(root, step, f"inject={call}:signal=KILL:when={place}").returncode
            == -signal.SIGKILL
        )
        check_healed(root, step)
    assert killed >= 3


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("step", STEPS[1:2], indirect=True, ids=lambda step: step.name)
def test_c5_c6_a_real_io_error_is_raised_and_leaves_old_or_new(
    lake: Callable[[], Path], step: Step, long_run: bool
) -> None:
    cases = list(itertools.product(("fsync", "rename", "write"), ("EIO", "ENOSPC"), range(1, 4)))
    failed = 0
    for call, name, place in cases if long_run else [("fsync", "EIO", 1), ("rename", "ENOSPC", 1)]:
        root = lake()
        failed += (
            "StoreError: "
            in run_strace(root, step, f"inject={call}:error={name}:when={place}").stderr
        )
        check_healed(root, step)
    assert failed >= 2


FULL_DISK_SCRIPT = """
mount -t tmpfs -o size=256k tmpfs {disk} && cp -r {template}/. {disk}
head -c 300k /dev/zero > {disk}/filler
{python} -c '
import sys
from pathlib import Path
sys.path.insert(0, "{tests}")
from tests.scenarios.test_kills import STEPS, open_store
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
def test_c5_c7_a_full_disk_is_named_and_loses_nothing(
    lake: Callable[[], Path], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = FULL_DISK_SCRIPT.format(disk=disk, template=lake(), python=sys.executable, tests=ROOT)
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr and done.returncode:
        pytest.skip("no private mounts here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left on device" in done.stdout or "is full" in done.stdout


# A power loss may remove any part of what was not synced.


@dataclass(frozen=True)
class DiskChange:
    """One change of the disk that matters for a power loss.

    `kind` is write, mkdir, replace, unlink, rmdir; sync (of a file or folder); loose or durable (a
    transaction of state.db); done (a commit). `content` is the written content, or the database.
    """

    kind: str
    path: Path = Path()
    content: bytes = b""


class RecordingOs:
    """The `os` of `storage/local.py`: records its changes of the disk."""

    def __init__(self, changes: list[DiskChange]) -> None:
        self._deeds = changes
        self._names: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, *mode: int) -> int:
        descriptor = os.open(path, flags, *mode)
        self._names[descriptor] = Path(path)
        return descriptor

    def fsync(self, descriptor: int) -> None:
        path = self._names[descriptor]
        if path.is_file():
            self._deeds.append(DiskChange("write", path, path.read_bytes()))
        os.fsync(descriptor)
        self._deeds.append(DiskChange("sync", path))

    def mkdir(self, path: Path, *mode: int) -> None:
        os.mkdir(path, *mode)
        self._deeds.append(DiskChange("mkdir", path))

    def replace(self, source: Path, target: Path) -> None:
        content = Path(source).read_bytes()
        os.replace(source, target)
        self._deeds.append(DiskChange("replace", target, content))

    def unlink(self, path: Path) -> None:
        os.unlink(path)
        self._deeds.append(DiskChange("unlink", path))

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)
        self._deeds.append(DiskChange("rmdir", path))


class RecordingDatabase(SqliteDatabase):
    """The state's database: records its transactions and its content after each of them."""

    def __init__(self, path: Path, changes: list[DiskChange]) -> None:
        super().__init__(path)
        self._deeds = changes

    @contextmanager
    def transaction(self, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        with super().transaction(is_durable) as connection:
            yield connection
        self._deeds.append(
            DiskChange("durable" if is_durable else "loose", content=self._open().serialize())
        )


@dataclass(frozen=True)
class PowerLoss:
    """A power loss after `done` changes: the lost ones, and the written share of the last file."""

    done: int
    lost: frozenset[int] = frozenset()
    share: float = 1


def power_losses(changes: list[DiskChange]) -> Iterator[PowerLoss]:
    """Yield every moment of a power loss, with every possible set of lost changes."""
    for done in range(len(changes) + 1):
        loose = [n for n in range(done) if not _is_kept(changes[:done], n)]
        for count in range(len(loose) + 1):
            for lost in map(frozenset, itertools.combinations(loose, count)):
                if _is_possible(changes, done, lost):
                    yield PowerLoss(done, lost)
        if done and changes[done - 1].kind == "write":
            yield from (PowerLoss(done, share=share) for share in (0, 0.5))


def _is_kept(done: list[DiskChange], n: int) -> bool:
    """A name is durable once its folder is synced, a transaction with the next durable one."""
    change = done[n]
    if change.kind == "loose":
        return any(later.kind == "durable" for later in done[n:])
    if change.kind in ("sync", "durable", "done", "write"):
        return True
    return any(later.kind == "sync" and later.path == change.path.parent for later in done[n:])


def _is_possible(changes: list[DiskChange], done: int, lost: frozenset[int]) -> bool:
    """The database's log is cut only at its end; a file needs its folder."""
    loose = [n for n in range(done) if changes[n].kind == "loose"]
    is_cut = all(later in lost for n in loose if n in lost for later in loose if later > n)
    gone = {changes[n].path for n in lost if changes[n].kind == "mkdir"}
    within = [
        n
        for n in range(done)
        if changes[n].kind in ("mkdir", "replace") and gone & set(changes[n].path.parents)
    ]
    return is_cut and lost.issuperset(within)


def rebuild_disk(root: Path, made_at: Path, changes: list[DiskChange], loss: PowerLoss) -> None:
    """Repeat the changes that survive the power loss, in a copy of the disk from before."""
    database = None
    for n, change in enumerate(changes[: loss.done]):
        path = (
            root / change.path.relative_to(made_at)
            if change.kind not in ("loose", "durable", "done")
            else root
        )
        if n in loss.lost:
            continue
        if change.kind == "write":
            is_last = n == loss.done - 1
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(
                change.content[: int(len(change.content) * (loss.share if is_last else 1))]
            )
        elif change.kind == "mkdir":
            path.mkdir(exist_ok=True)
        elif change.kind == "replace":
            path.write_bytes(change.content)
            (root / ".staging" / staged_name_of(path.relative_to(root))).unlink(missing_ok=True)
        elif change.kind == "unlink":
            path.unlink(missing_ok=True)
        elif change.kind == "rmdir" and not any(path.iterdir()):
            path.rmdir()
        elif change.kind in ("loose", "durable"):
            database = change.content
    if database is not None:
        for path in (root / ".state").glob("state.db*"):
            path.unlink()
        (root / ".state" / "state.db").write_bytes(database)


def staged_name_of(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:32] + ".tmp"


def fingerprint(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        content = path.read_bytes() if path.is_file() else b"folder"
        digest.update(f"{path.relative_to(root)}:{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


HISTORIES = {
    "raw": ("raw_message_ids", (0, 3, 5, 6, 8, 9, 12, 13, 15, 16)),
    "derived": ("reactions", (0, 4, 2, 0, 3, 6, 0, 1, 0, 2)),
}
"""Row counts of a table after each commit; derived files are removed and created again."""


@pytest.mark.parametrize("history", HISTORIES)
def test_c4_a_power_loss_leaves_old_or_new(
    tmp_path: Path, history: str, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    table, counts = HISTORIES[history]
    template, root, changes = tmp_path / "template", tmp_path / "root", list[DiskChange]()
    store = open_store(template)
    store.preflight()
    store.close()
    shutil.copytree(template, root)
    store = open_store(root)
    store.state.database = RecordingDatabase(store.state.path, changes)
    monkeypatch.setattr(folder_module, "os", RecordingOs(changes))
    for before, after in itertools.pairwise(counts):
        Step("", table, before, after).commit(store)
        changes.append(DiskChange("done"))
    store.close()
    monkeypatch.setattr(folder_module, "os", os)
    losses, seen = list(power_losses(changes)), set()
    for loss in losses if long_run else random.Random(SEED).sample(losses, 25):
        after = tmp_path / "after"
        shutil.copytree(template, after)
        rebuild_disk(after, root, changes, loss)
        seen.add(fingerprint(after))
        committed = sum(change.kind == "done" for change in changes[: loss.done])
        store = open_store(after)
        row_count = store.read(table, ACCOUNT, DAY).num_rows
        is_between = loss.done > 0 and changes[loss.done - 1].kind != "done"
        expected = counts[committed : committed + 1 + is_between]
        assert row_count in expected, (loss, row_count)
        store.close()
        check_healed(after, Step("", table, counts[-2], counts[-1]), seen=row_count)
    print(f"{history}: {len(losses)} power losses, {len(seen)} distinct disk states tried")
    assert len(seen) >= (50 if long_run else 10)
