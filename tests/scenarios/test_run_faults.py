"""Whole runs on a failing machine: full, read-only or broken disks, kills, concurrent runs."""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.world import World
from convo_pipeline.errors import BusyError, StoreError
from convo_pipeline.extract.spool import left_spools
from convo_pipeline.lake.compact import compact
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.forget import forget
from convo_pipeline.settings import StoreSettings
from convo_pipeline.storage import local as folder_module
from convo_pipeline.upkeep.rename import rename_account
from convo_pipeline.upkeep.verify import verify
from tests.scenarios.test_kills import FaultyOs, run_child, storage_error, void
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, Inboxes, reopened, serve

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
TODAY = NOW.date()


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inboxes]:
    """One account with one long and two short conversations, on three days."""
    world = World(VirtualClock(NOW))
    account = world.add_account("insta", "1111111111", "instagram")
    for guest, count, days in (("Ada", 30, 2), ("Bob", 3, 1), ("Eve", 4, 0)):
        account.add_conversation(guest).add_messages(count, NOW - timedelta(days=days, hours=2))
    with serve(tmp_path_factory.mktemp("inbox") / "lake", world) as inboxes:
        yield inboxes


def check_whole(inboxes: Inboxes) -> None:
    """Run once more, then check that nothing is missing, left over or wrong."""
    inboxes.extract_whole()
    found = {row["message_id"] for row in inboxes.rows("messages")}
    conversations = inboxes.world.accounts["insta"].conversations.values()
    assert found == {
        message.message_id for conversation in conversations for message in conversation.messages
    }
    assert left_spools(inboxes.store.state_path, "insta") == []
    assert verify(inboxes.store, stale_days=stale_days).findings == ()
    inboxes.store.close()


# every file-system call of a run


def run_with_faulty_os(
    inboxes: Inboxes, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[int, str], None]
) -> int:
    """Run with a faulty `os` for the spool and the lake; return the number of its calls."""
    fake = FaultyOs(trouble)
    monkeypatch.setattr(folder_module, "os", fake)
    try:
        inboxes.extract()
        inboxes.derive()
    finally:
        monkeypatch.setattr(folder_module, "os", os)
        inboxes.store.close()
    return len(fake.log)


def fault_at(now: int, name: str, place: int, number: int | None) -> None:
    """Kill the process at one call, or raise if there is an error number."""
    if now == place and number is None:
        os.kill(os.getpid(), signal.SIGKILL)
    elif now == place and number is not None:
        raise OSError(number, os.strerror(number))


@pytest.mark.hunt
@pytest.mark.timeout(7200)
def test_the_next_run_completes_a_run_killed_at_any_file_system_call(
    tmp_path: Path, inbox: Inboxes, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    """Each response is written before the next call, so these moments include all calls."""
    total = run_with_faulty_os(
        reopened(inbox, tmp_path / "clean"), monkeypatch, lambda now, name: None
    )
    troubles = itertools.cycle((None, errno.EIO, errno.ENOSPC))
    cases = list(zip(range(1, total + 1), troubles, strict=False))
    chosen = cases if long_run else random.Random(20260301).sample(cases, 6)
    for case, (place, number) in enumerate(chosen):
        inboxes = reopened(inbox, tmp_path / str(case))
        work = partial(
            run_with_faulty_os, inboxes, monkeypatch, partial(fault_at, place=place, number=number)
        )
        if number is None:
            assert run_child(lambda: void(work())) == -signal.SIGKILL  # noqa: B023
        else:
            error = storage_error(lambda: void(work()))  # noqa: B023
            assert error is None or os.strerror(number) in error
        check_whole(reopened(inbox, tmp_path / str(case)))
        shutil.rmtree(tmp_path / str(case))
    print(f"{total} file-system calls per run; {len(chosen)} of them killed or failed")


# disks


DISK_SCRIPT = """
set -e
mount -t tmpfs -o size=1m,mode=700 tmpfs {disk}
{python} {script} {disk}/lake
mount -o remount,ro {disk}
{python} {script} {disk}/lake
"""
EXTRACT_SCRIPT = """
import sys
from datetime import date
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.run import extract
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import parse_settings
settings = parse_settings({settings!r}.replace("ROOT", sys.argv[1]).encode())
try:
    days = date(2026, 3, 1), date(2026, 3, 2)
    extract(settings, Store(settings.store), ["insta"], *days, mode="window", environ={{"T": "x"}})
    sys.exit("a full disk was not noticed")
except StoreError as error:
    print(error)
"""
SETTINGS = """
[graph]
base_url = "{url}"
[store]
root = "ROOT"
[[accounts]]
name = "insta"
page_id = "1111111111"
platform = "instagram"
token_env = "T"
start_date = "2026-03-01"
"""


def test_c7_c8_a_full_or_read_only_disk_stops_the_run_before_its_first_call(
    tmp_path: Path, inbox: Inboxes
) -> None:
    """A real file system of one MiB, then the same one mounted read-only."""
    call_count = len(inbox.server.log)
    disk, script = tmp_path / "disk", tmp_path / "extract.py"
    disk.mkdir()
    script.write_text(EXTRACT_SCRIPT.format(settings=SETTINGS.format(url=inbox.server.base_url)))
    code = DISK_SCRIPT.format(disk=disk, python=sys.executable, script=script)
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", code], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr and done.returncode:
        pytest.skip("no private mounts here")
    assert done.returncode == 0, done.stdout + done.stderr
    full, read_only = done.stdout.splitlines()
    assert (
        full == f"the disk of {disk}/lake is full: 1.0 MiB free, 64.0 MiB needed, 63.0 MiB missing"
    )
    assert read_only.endswith("Read-only file system")
    assert len(inbox.server.log) == call_count


# concurrent runs


def start(work: Callable[[], object]) -> int:
    """Start work in a forked child; return its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BusyError:
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def test_c10_concurrent_runs_over_the_same_days_store_the_union(
    tmp_path: Path, inbox: Inboxes
) -> None:
    def own() -> Inboxes:
        return reopened(inbox, tmp_path)

    def derive_often() -> None:
        store = own().store
        for _ in range(5):
            for day in stale_days(store, "insta"):
                derive_day(store, "insta", day)
            compact(store, TODAY + timedelta(days=40))
            verify(store)

    works: list[Callable[[], object]] = [
        lambda: own().extract(),
        lambda: own().extract(TODAY - timedelta(days=1), mode="nightly"),
        lambda: own().extract(TODAY, mode="capture"),
        derive_often,
    ]
    children = [start(work) for work in works for _ in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * len(children)
    check_whole(own())


def until_free(work: Callable[[], object]) -> None:
    """Repeat work until no other process is in its way."""
    while True:
        try:
            work()
            return
        except StoreError:
            time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_c10_forget_and_rename_among_concurrent_runs(
    tmp_path: Path, inbox: Inboxes, seed: int
) -> None:
    """No data of the erased person is left, and all messages of other people are stored."""
    rng = random.Random(seed)
    kept, erased = set(), set()
    for guest in inbox.world.accounts["insta"].conversations.values():
        is_bob = len(guest.messages) == 3
        (erased if is_bob else kept).update(message.message_id for message in guest.messages)
        if is_bob:
            bob = guest.people[0]["id"]

    def read(mode: str) -> None:
        time.sleep(rng.random() / 2)
        for _ in range(3):
            (report,) = reopened(inbox, tmp_path).extract(mode=mode)
            assert report.reasons in ((), ("busy",), ("store",)), report  # "store": renamed

    def forget_bob() -> None:
        own = reopened(inbox, tmp_path)

        def work() -> None:
            if forget(own.settings, own.store, "insta", bob, NOW) is None:
                raise StoreError("not stored yet")

        until_free(work)

    def rename_often() -> None:
        store = reopened(inbox, tmp_path).store
        for old, new in [("insta", "other"), ("other", "insta")] * 3:
            time.sleep(rng.random() / 3)
            until_free(partial(rename_account, store, old, new))

    reopened(inbox, tmp_path).extract(TODAY)
    works = [partial(read, mode) for mode in ("window", "nightly", "capture")]
    children = [start(work) for work in rng.sample([*works, forget_bob, rename_often], 5)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    own = reopened(inbox, tmp_path)
    own.extract_whole()
    assert codes == [0] * len(children)
    assert find_texts(tmp_path, {bob, *erased}) == []
    assert {row["message_id"] for row in own.rows("messages")} == kept
    assert verify(own.store, stale_days=stale_days).findings == ()
    own.store.close()


def test_c11_the_lock_of_a_killed_run_is_free_at_once(tmp_path: Path) -> None:
    store = Store(StoreSettings(root=str(tmp_path)))
    reader, writer = os.pipe()

    def hold() -> None:
        with Store(StoreSettings(root=str(tmp_path))).lock_account("insta"):
            os.write(writer, b"lock")
            time.sleep(600)

    child = start(hold)
    assert os.read(reader, 4) == b"lock"
    with pytest.raises(BusyError, match="account insta is busy"), store.lock_account("insta"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with store.lock_account("insta"):
        pass
    store.close()
