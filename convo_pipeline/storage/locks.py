"""Locks between processes: files under the state's folder, freed by the kernel when their holder dies."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from convo_pipeline.errors import BusyError
from convo_pipeline.storage.layout import check_account
from convo_pipeline.storage.local import PRIVATE_FILE, make_private_folders, refusal

LOCK_COUNT = 256
"""Partitions share this many lock files; a commit holds one at a time, so there is no deadlock."""
POLL_SECONDS = 0.003
FOREVER = -1.0


class Locks:
    """The lock files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def account(self, account: str, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the account's extract lock; a BusyError says that another process has it."""
        with self._hold(f"account-{check_account(account)}", wait_seconds):
            yield

    @contextmanager
    def derivation(self, account: str) -> Iterator[None]:
        """Hold what stands between whoever copies an account's rows into other files and whoever erases them."""
        with self._hold(f"derive-{check_account(account)}", FOREVER):
            yield

    @contextmanager
    def compaction(self) -> Iterator[None]:
        """Hold what lets one process at a time write or clean compacted files."""
        with self._hold("compaction", FOREVER):
            yield

    @contextmanager
    def partition(self, parts: Sequence[str]) -> Iterator[None]:
        """Hold what stands between two writers of a partition's file."""
        stripe = hashlib.sha256("/".join(parts).encode()).digest()[0] % LOCK_COUNT
        with self._hold(f"partition-{stripe:02x}", FOREVER):
            yield

    @contextmanager
    def _hold(self, name: str, wait_seconds: float) -> Iterator[None]:
        path = self._folder / f"{name}.lock"
        lock = FileLock(path, mode=PRIVATE_FILE)
        try:
            make_private_folders(path.parent)
            lock.acquire(timeout=wait_seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            raise BusyError(
                f"{name.replace('-', ' ', 1)} is busy: another process holds {path}"
            ) from None
        except OSError as error:
            raise refusal(path, "lock", error) from None
        try:
            yield
        finally:
            lock.release()
