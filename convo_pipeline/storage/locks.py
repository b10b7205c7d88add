"""Locks between processes: files in the state's folder, which the kernel frees at process end."""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from convo_pipeline.errors import BusyError
from convo_pipeline.storage.backend import Parts
from convo_pipeline.storage.layout import check_account
from convo_pipeline.storage.local import PRIVATE_FILE, make_private_folders, storage_error

PARTITION_LOCK_COUNT = 256
"""Lock files that all partitions share. A commit holds only one, so no deadlock is possible."""
POLL_SECONDS = 0.003
FOREVER = -1.0
STALE_SECONDS = 2 * 86_400
SETTLED_SECONDS = 5.0
"""A run locks its file at once after making it; a free file that is younger proves nothing."""


class Locks:
    """The lock files in one folder. `state/postgres_locks.py` has the locks of many machines."""

    are_shared = False
    """Whether the locks of accounts hold on all machines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def account(self, account: str, wait_seconds: float = 0) -> Iterator[None]:
        """Lock an account for an extraction; raise BusyError if another process holds the lock."""
        with self._lock(f"account-{check_account(account)}", wait_seconds):
            yield

    @contextmanager
    def derivation(self, account: str) -> Iterator[None]:
        """Lock shared by the derivation and the erasure of one account's rows."""
        with self._lock(f"derive-{check_account(account)}", FOREVER):
            yield

    @contextmanager
    def compaction(self) -> Iterator[None]:
        """Lock the compacted files of all tables."""
        with self._lock("compaction", FOREVER):
            yield

    @contextmanager
    def deletions(self) -> Iterator[None]:
        """Lock the requests of Meta's deletion callback: one is finished at a time."""
        with self._lock("deletions", FOREVER):
            yield

    @contextmanager
    def layout(self) -> Iterator[None]:
        """Lock the names of the tables' folders."""
        with self._lock("layout", FOREVER):
            yield

    @contextmanager
    def partition(self, parts: Parts) -> Iterator[None]:
        """Lock a partition's file for a writer."""
        index = hashlib.sha256("/".join(parts).encode()).digest()[0] % PARTITION_LOCK_COUNT
        with self._lock(f"partition-{index:02x}", FOREVER):
            yield

    @contextmanager
    def run(self, run_id: str) -> Iterator[None]:
        """Show that the process of a run of Dagster lives. The file is removed at the end."""
        path = self._run_path(run_id)
        try:
            make_private_folders(path.parent)
            flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, PRIVATE_FILE)
        except OSError as error:
            raise storage_error(path, "lock", error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            self.remove_run(run_id)  # before the lock is free: a free lock is one of a dead process
            os.close(descriptor)

    def is_run_dead(self, run_id: str) -> bool | None:
        """Whether the process that held the lock of a run died; None if there is no lock."""
        try:
            descriptor = os.open(self._run_path(run_id), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            status = os.fstat(descriptor)
            is_removed, age_seconds = status.st_nlink == 0, time.time() - status.st_mtime
            return None if is_removed or age_seconds < SETTLED_SECONDS else True
        finally:
            os.close(descriptor)

    def remove_run(self, run_id: str) -> None:
        """Remove the lock file of a run."""
        with suppress(OSError):
            self._run_path(run_id).unlink()

    def remove_stale_runs(self) -> None:
        """Remove lock files of dead runs that ended otherwise, two days after they began."""
        for path in self._folder.glob("run-*.lock"):
            run_id = path.stem.removeprefix("run-")
            with suppress(OSError):
                is_old = time.time() - path.stat().st_mtime > STALE_SECONDS
                if is_old and self.is_run_dead(run_id):
                    self.remove_run(run_id)

    def _run_path(self, run_id: str) -> Path:
        return self._folder / f"run-{run_id}.lock"

    @contextmanager
    def _lock(self, name: str, wait_seconds: float) -> Iterator[None]:
        """Hold a lock; raise BusyError if another process holds it for so long."""
        path = self._folder / f"{name}.lock"
        lock = FileLock(path, mode=PRIVATE_FILE)
        try:
            make_private_folders(path.parent)
            lock.acquire(timeout=wait_seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            label = name.replace("-", " ", 1)
            raise BusyError(f"{label} is busy: another process holds {path}") from None
        except OSError as error:
            raise storage_error(path, "lock", error) from None
        try:
            yield
        finally:
            lock.release()
