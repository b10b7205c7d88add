"""What the API said, on disk before anything is done with it: one fsynced file per call.

A spool is the journal of one account's run. Its records are everything the store step needs, so a killed
run loses at most the call in flight: the next run stores what the spool holds before it calls anybody.
It knows files and JSON; it does not know what a record means (`rows` does). `paging` and with it every token
is cut out before a record is written. Files are 0600, folders 0700, and no name ends in `.parquet`. A record's name
holds a hash of its bytes, so that damage is found.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from convo_pipeline.base.json_text import load_json
from convo_pipeline.base.threads import PARSE_LOCK
from convo_pipeline.errors import PayloadError, StoreError
from convo_pipeline.extract.paging import dump_without_paging
from convo_pipeline.storage.local import LocalFolder, storage_error

SPOOL = "spool"
MAX_AGE = timedelta(days=7)
Record = dict[str, object]


@dataclass
class Spool:
    """The open spool of one account's run; `append` may be called from several threads."""

    folder: Path
    damaged: list[str] = field(default_factory=list)
    """Records that could not be read when all were read last."""
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def create(cls, state_path: Path, account: str, run_id: str) -> "Spool":
        return cls(LocalFolder(state_path).make_folder((SPOOL, account, run_id)))

    def append(self, record: Record) -> None:
        """Write one record durably; it is there after a crash, or it is not there at all."""
        with PARSE_LOCK:
            content = _dump(record)
            digest = _digest(content)
        with self._lock:
            self._count += 1
            name = f"{self._count:08d}-{digest}"
        staged = self.folder / f"{name}.tmp"
        try:
            with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staged.rename(self.folder / f"{name}.json")
            _sync_folder(self.folder)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise StoreError(f"cannot write the spool {self.folder}: {error.strerror}") from None

    def __iter__(self) -> Iterator[Record]:
        """Yield the records as they came; one that is damaged is left out and noted."""
        self.damaged.clear()
        for file in sorted(self.folder.glob("*.json")):
            record = _read(file)
            if record is None:
                self.damaged.append(file.name)
            else:
                yield record

    def delete(self) -> None:
        """Remove the spool; what it held is stored."""
        shutil.rmtree(self.folder)


def _dump(record: Record) -> bytes:
    try:
        return dump_without_paging(record)
    except RecursionError:
        raise PayloadError("an answer is nested too deeply to be kept") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _is_as_written(file: Path, content: bytes) -> bool:
    """Say whether a record has the hash that its name holds; an older one's name holds none."""
    return file.stem.partition("-")[2] in ("", _digest(content))


def _read(file: Path) -> Record | None:
    """Return a record, None if its bytes are not those that were written."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise storage_error(file, "read", error) from None
    try:
        record = load_json(content) if _is_as_written(file, content) else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def left_spools(state_path: Path, account: str) -> list[Spool]:
    """Return the spools that earlier runs of the account left behind, oldest first."""
    return [Spool(run) for run in _runs(state_path, account)]


def find_damaged_records(state_path: Path) -> list[Path]:
    """Return the records of all spools whose bytes are not those that were written, below `state_path`, sorted.

    They are hashed, never read as data. A run that is under way may remove a spool meanwhile: then it is stored.
    """
    found: list[Path] = []
    for account in LocalFolder(state_path).list_names((SPOOL,)):
        for run in _runs(state_path, account):
            for file in sorted(run.glob("*.json")):
                with suppress(FileNotFoundError):
                    found += (
                        []
                        if _is_as_written(file, file.read_bytes())
                        else [file.relative_to(state_path)]
                    )
    return found


def delete_old_spools(state_path: Path, now: datetime, accounts: Collection[str] = ()) -> int:
    """Remove spools older than seven days of all but these accounts; return how many.

    Whatever keeps a spool from being stored, it may be the only copy of what left the newest 20: it waits for its account.
    """
    limit = (now - MAX_AGE).timestamp()
    old: list[Path] = []
    with suppress(StoreError):  # a link: whoever opens that spool says so
        for account in sorted(
            set(LocalFolder(state_path).list_names((SPOOL,))).difference(accounts)
        ):
            with suppress(StoreError):
                old += [run for run in _runs(state_path, account) if run.stat().st_mtime < limit]
    for run in old:
        shutil.rmtree(run)
    return len(old)


def _runs(state_path: Path, account: str) -> list[Path]:
    """Return the folders of an account's runs, oldest first; a StoreError says that one is a symbolic link."""
    folder = LocalFolder(state_path)
    runs = (folder.path((SPOOL, account, run)) for run in folder.list_names((SPOOL, account)))
    return [run for run in runs if run.is_dir()]
