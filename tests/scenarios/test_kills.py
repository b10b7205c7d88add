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
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pytest

from convo_pipeline.errors import StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_MESSAGE_IDS, REACTIONS
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.database import Database
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
        "tie_rank": 0,
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


def check_healed(root: Path, step: Step, *, seen: int | None = None) -> None:
    """The reader sees old or new, nothing is taken for damage, one rerun gives the new; then nothing is off."""
    store = open_store(root)
    assert step.rows(store) in ((step.before, step.after) if seen is None else (seen,))
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
    """Take what a call returns and leave it."""


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


class TroubledOs:
    """The `os` that `storage/local.py` sees: counts its calls and makes one of them fail, or kills before it."""

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
def troubled(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[int, str], None]], TroubledOs]]:
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


def test_c1_a_commit_killed_at_any_system_call_is_old_or_new(
    lake: Callable[[], Path],
    step: Step,
    troubled: Install,
    monkeypatch: pytest.MonkeyPatch,
    long_run: bool,
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


def test_c5_c6_an_error_at_any_system_call_is_raised_and_leaves_old_or_new(
    lake: Callable[[], Path],
    step: Step,
    troubled: Install,
    monkeypatch: pytest.MonkeyPatch,
    long_run: bool,
) -> None:
    total = count_calls(lake(), step, troubled, monkeypatch)
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

        troubled(fail)
        store = open_store(root)
        if (error := refused(partial(step.commit, store))) is None:
            assert set(failed) <= {"unlink", "rmdir"}, "an error was swallowed"
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
from tests.scenarios.test_kills import STEPS, open_store
STEPS[{index}].commit(open_store(Path({root!r})))
"""
SYSTEM_CALLS = ("fsync", "fdatasync", "pwrite64", "write", "rename", "mkdir", "openat", "unlink")


def run_strace(root: Path, step: Step, inject: str) -> subprocess.CompletedProcess[str]:
    """Commit in a fresh interpreter under strace, which meddles with calls on our files alone."""
    code = COMMIT_SCRIPT.format(tests=str(ROOT), index=STEPS.index(step), root=str(root))
    call = inject.split("=")[1].split(":")[0]
    only = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *under(root)]
    command = [str(STRACE), *only, "-e", inject]
    return subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


def under(root: Path) -> list[str]:
    """Name the files a commit touches: strace only meddles with calls on these."""
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
mount -t tmpfs -o size=256k tmpfs {disk} && cp -r {template}/. {disk} && head -c 300k /dev/zero > {disk}/filler
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


# A power loss: of what was not synced, any part may be gone.


@dataclass(frozen=True)
class Deed:
    """One thing done to the disk, as far as it decides what a power loss leaves."""

    kind: str
    """write, mkdir, replace, unlink, rmdir; sync (of a file or folder); loose or durable (state.db); done (a commit)."""
    path: Path = Path()
    content: bytes = b""
    """What was written, what took another's place, what the database then held."""


class WatchedOs:
    """The `os` that `storage/local.py` sees, noting what it does to the disk."""

    def __init__(self, deeds: list[Deed]) -> None:
        self._deeds = deeds
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
            self._deeds.append(Deed("write", path, path.read_bytes()))
        os.fsync(descriptor)
        self._deeds.append(Deed("sync", path))

    def mkdir(self, path: Path, *mode: int) -> None:
        os.mkdir(path, *mode)
        self._deeds.append(Deed("mkdir", path))

    def replace(self, source: Path, target: Path) -> None:
        content = Path(source).read_bytes()
        os.replace(source, target)
        self._deeds.append(Deed("replace", target, content))

    def unlink(self, path: Path) -> None:
        os.unlink(path)
        self._deeds.append(Deed("unlink", path))

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)
        self._deeds.append(Deed("rmdir", path))


class WatchedDatabase(Database):
    """The state's database, noting which of its transactions are durable and what it then held."""

    def __init__(self, path: Path, deeds: list[Deed]) -> None:
        super().__init__(path)
        self._deeds = deeds

    @contextmanager
    def transaction(self, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        with super().transaction(is_durable) as connection:
            yield connection
        self._deeds.append(
            Deed("durable" if is_durable else "loose", content=self._open().serialize())
        )


@dataclass(frozen=True)
class Loss:
    """A power loss after so many deeds: which of them it took, and how much of a file that was just being written."""

    done: int
    lost: frozenset[int] = frozenset()
    share: float = 1


def losses_of(deeds: list[Deed]) -> Iterator[Loss]:
    """Yield every point at which the power can go, with everything it can then take."""
    for done in range(len(deeds) + 1):
        loose = [n for n in range(done) if not _is_kept(deeds[:done], n)]
        for count in range(len(loose) + 1):
            for lost in map(frozenset, itertools.combinations(loose, count)):
                if _is_possible(deeds, done, lost):
                    yield Loss(done, lost)
        if done and deeds[done - 1].kind == "write":
            yield from (Loss(done, share=share) for share in (0, 0.5))


def _is_kept(done: list[Deed], n: int) -> bool:
    """A name lasts once its folder is synced; a durable transaction at once, and with it all before."""
    deed = done[n]
    if deed.kind == "loose":
        return any(later.kind == "durable" for later in done[n:])
    if deed.kind in ("sync", "durable", "done", "write"):
        return True
    return any(later.kind == "sync" and later.path == deed.path.parent for later in done[n:])


def _is_possible(deeds: list[Deed], done: int, lost: frozenset[int]) -> bool:
    """The database's log is cut at its end, never in its middle; what is in a folder needs the folder."""
    loose = [n for n in range(done) if deeds[n].kind == "loose"]
    is_cut = all(later in lost for n in loose if n in lost for later in loose if later > n)
    gone = {deeds[n].path for n in lost if deeds[n].kind == "mkdir"}
    within = [
        n
        for n in range(done)
        if deeds[n].kind in ("mkdir", "replace") and gone & set(deeds[n].path.parents)
    ]
    return is_cut and lost.issuperset(within)


def rebuild_disk(root: Path, made_at: Path, deeds: list[Deed], loss: Loss) -> None:
    """Do again, in a copy of the disk as it was before, what the power loss left."""
    database = None
    for n, deed in enumerate(deeds[: loss.done]):
        path = (
            root / deed.path.relative_to(made_at)
            if deed.kind not in ("loose", "durable", "done")
            else root
        )
        if n in loss.lost:
            continue
        if deed.kind == "write":
            is_last = n == loss.done - 1
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(
                deed.content[: int(len(deed.content) * (loss.share if is_last else 1))]
            )
        elif deed.kind == "mkdir":
            path.mkdir(exist_ok=True)
        elif deed.kind == "replace":
            path.write_bytes(deed.content)
            (root / ".staging" / staged_name_of(path.relative_to(root))).unlink(missing_ok=True)
        elif deed.kind == "unlink":
            path.unlink(missing_ok=True)
        elif deed.kind == "rmdir" and not any(path.iterdir()):
            path.rmdir()
        elif deed.kind in ("loose", "durable"):
            database = deed.content
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
"""A table's rows after each commit of a series: created, changed, and what is derived removed and created anew."""


@pytest.mark.parametrize("history", HISTORIES)
def test_c4_a_power_loss_leaves_old_or_new(
    tmp_path: Path, history: str, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    table, counts = HISTORIES[history]
    template, root, deeds = tmp_path / "template", tmp_path / "root", list[Deed]()
    store = open_store(template)
    store.preflight()
    store.close()
    shutil.copytree(template, root)
    store = open_store(root)
    store.state.database = WatchedDatabase(store.state.path, deeds)
    monkeypatch.setattr(folder_module, "os", WatchedOs(deeds))
    for before, after in itertools.pairwise(counts):
        Step("", table, before, after).commit(store)
        deeds.append(Deed("done"))
    store.close()
    monkeypatch.setattr(folder_module, "os", os)
    losses, seen = list(losses_of(deeds)), set()
    for loss in losses if long_run else random.Random(SEED).sample(losses, 25):
        after = tmp_path / "after"
        shutil.copytree(template, after)
        rebuild_disk(after, root, deeds, loss)
        seen.add(fingerprint(after))
        committed = sum(deed.kind == "done" for deed in deeds[: loss.done])
        store = open_store(after)
        held = store.read(table, ACCOUNT, DAY).num_rows
        is_between = loss.done > 0 and deeds[loss.done - 1].kind != "done"
        assert held == counts[committed] or (is_between and held == counts[committed + 1]), (
            loss,
            held,
        )
        store.close()
        check_healed(after, Step("", table, counts[-2], counts[-1]), seen=held)
    print(f"{history}: {len(losses)} power losses, {len(seen)} distinct states of the disk tried")
    assert len(seen) >= (50 if long_run else 10)
