"""Storage backend in a local folder: durable atomic writes, private modes, no symbolic links."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from convo_pipeline.errors import StoreError
from convo_pipeline.storage.backend import Check, FileVersion, Parts, StoredFile

STAGING = ".staging"
NEEDED_BYTES = 64 * 1024 * 1024
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
SAFE_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags that follow no link and do not wait for the other end of a pipe."""
"""For processes whose files are written by libraries: Dagster's runs and logs, exports."""


_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "named pipe (FIFO)",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "folder in the place of a file",
}


class LocalFolder:
    """The files below one root; only their owner can read them.

    A writer holds the file's lock, so the expected version of a write is not compared.
    """

    is_shared = False

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def location(self, parts: Parts = ()) -> str:
        return str(self.root.joinpath(*parts))

    def read(self, parts: Parts) -> StoredFile | None:
        content = self.read_bytes(parts)
        return None if content is None else StoredFile(content, FileVersion(len(content)))

    def read_bytes(self, parts: Parts) -> bytes | None:
        """Return a file's bytes; None if there is no file."""
        path = self.path(parts)
        try:
            return _read_whole(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, "read", error) from None

    def version(self, parts: Parts) -> FileVersion | None:
        path = self.path(parts)
        status = _status(path)
        if status is None:
            return None
        check_is_file(path, status)
        return FileVersion(status.st_size)

    def replace(
        self, parts: Parts, content: bytes, expected: FileVersion | None, check: Check
    ) -> FileVersion:
        staged, read_back = self.stage(parts, content)
        try:
            check(read_back, str(staged))
        except BaseException:
            self.discard(staged)
            raise
        self.publish(staged, parts)
        return FileVersion(len(content))

    def stage(self, parts: Parts, content: bytes) -> tuple[Path, bytes]:
        """Write and sync a staged file; return its path and its bytes as read back.

        The name depends on `parts` alone. So the next writer of the file overwrites what a killed
        one left.
        """
        staged = self.path((STAGING, staged_name(parts)))
        try:
            self._make_folders((STAGING,))
            write_synced(staged, content)
            return staged, _read_whole(staged)
        except OSError as error:
            self.discard(staged)
            raise storage_error(staged, "write", error) from None

    def publish(self, staged: Path, parts: Parts) -> None:
        """Move a staged file to its place in one step, and sync the folders."""
        try:
            path = self.path(parts)
            is_new = self.version(parts) is None
            self._make_folders(parts[:-1])
            os.replace(staged, path)
            self._sync_folders(path.parent, is_new)
        except OSError as error:
            self.discard(staged)
            raise storage_error(self.root.joinpath(*parts), "replace", error) from None
        except StoreError:
            self.discard(staged)
            raise

    def discard(self, staged: Path) -> None:
        """Remove a staged file if there is one."""
        with suppress(OSError):
            os.unlink(staged)

    def discard_staged(self, parts: Parts) -> None:
        """Remove the staged file of a writer that was killed."""
        self.discard(self.path((STAGING, staged_name(parts))))

    def make_folder(self, parts: Parts) -> Path:
        """Make and sync a folder; return its path."""
        path = self.path(parts)
        try:
            self._make_folders(parts)
            self._sync_folders(path, is_new=True)
        except OSError as error:
            raise storage_error(path, "write", error) from None
        return path

    def remove(self, parts: Parts, expected: FileVersion | None = None) -> None:
        """Remove a file and the folders that become empty."""
        path = self.path(parts)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            sync_folder(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(path, "remove", error) from None
        self.remove_empty_folders(parts[:-1])

    def remove_empty_folders(self, parts: Parts) -> None:
        """Remove a folder and the folders above it that are empty."""
        folder = self.path(parts)
        with suppress(OSError):  # not empty
            while folder != self.root:
                os.rmdir(folder)
                folder = folder.parent

    def set_aside(self, parts: Parts, target: Parts, expected: FileVersion | None = None) -> str:
        path, target_path = self.path(parts), self.path(target)
        try:
            self._make_folders(target[:-1])
            os.replace(path, target_path)
            self._sync_folders(target_path.parent, is_new=True)
            sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, "rename", error) from None
        return str(target_path)

    def rename_folder(self, parts: Parts, new_name: str) -> None:
        """Rename a folder in one step; move its entries one by one if the new name exists.

        Raise StoreError, before anything moves, if an entry has the same name in both folders.
        """
        target = (*parts[:-1], new_name)
        names, target_names = self.list_names(parts), self.list_names(target)
        if not target_names:
            self.set_aside(parts, target)
            return
        if both := sorted(set(names).intersection(target_names)):
            raise StoreError(
                f"{self.location(parts)} and {self.location(target)} both contain {both[0]}: move"
                " one of the two away, then run the same command again"
            )
        path, target_path = self.path(parts), self.path(target)
        try:
            for name in names:
                os.replace(os.path.join(path, name), os.path.join(target_path, name))
            sync_folder(target_path)
            os.rmdir(path)
            sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, "rename", error) from None

    def remove_folder(self, parts: Parts) -> None:
        path = self.path(parts)
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise storage_error(path, "remove", error) from None

    def delete_old_versions(self, parts: Parts) -> None:
        """Do nothing: a disk keeps no old versions."""

    def list_names(self, parts: Parts = ()) -> list[str]:
        path = self.path(parts)
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(path, "list", error) from None

    def list_files(self, parts: Parts = ()) -> Iterator[tuple[str, ...]]:
        """Yield the parts of every file and link below a folder."""
        for name in self.list_names(parts):
            inner = (*parts, name)
            status = _status(self.root.joinpath(*inner))
            if status and stat.S_ISDIR(status.st_mode):
                yield from self.list_files(inner)
            else:
                yield inner

    def folders_with(self, parts: Parts, name: str) -> dict[str, FileVersion]:
        """Return the subfolders that contain this name, also as a link, pipe or folder.

        So such a name is never skipped: `read` raises a StoreError for it.
        """
        root = os.path.join(self.root, *parts)
        statuses = (
            (folder, _status(os.path.join(root, folder, name))) for folder in self.list_names(parts)
        )
        return {folder: FileVersion(status.st_size) for folder, status in statuses if status}

    def check_writable(self, needed_bytes: int = NEEDED_BYTES) -> None:
        """Raise StoreError if the folder cannot be written or lacks space."""
        probe = self.root / STAGING / f"probe-{os.getpid()}.tmp"
        try:
            self._make_folders((STAGING,))
            write_synced(probe, b"probe")
            space = os.statvfs(self.root)
        except OSError as error:
            raise storage_error(self.root, "write", error) from None
        finally:
            self.discard(probe)
        check_space(self.root, space.f_bavail * space.f_frsize, needed_bytes)

    def remove_stale_files(self, before: datetime) -> int:
        """Remove staged files that were last changed before a time; return their number."""
        count = 0
        for name in self.list_names((STAGING,)):
            if not name.endswith(".tmp"):
                continue
            staged = self.path((STAGING, name))
            status = _status(staged)
            if status and status.st_mtime < before.timestamp():
                self.discard(staged)
                count += 1
        return count

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def path(self, parts: Parts) -> Path:
        """Return the path; raise StoreError for a name that leaves the root, a link or a pipe."""
        path = os.fspath(self.root)  # a str, because joining a Path costs more than lstat
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\0" in part:
                raise StoreError(f"{part!r} is no name of a file or folder in {self.root}")
            path = os.path.join(path, part)
            status = _status(path)
            if status and not stat.S_ISDIR(status.st_mode):
                check_is_file(path, status)
        return Path(path)

    def _make_folders(self, parts: Parts) -> None:
        make_private_folders(self.root)
        path = self.root
        for part in parts:
            path = path / part
            with suppress(FileExistsError):
                os.mkdir(path, PRIVATE_FOLDER)

    def _sync_folders(self, path: Path, is_new: bool) -> None:
        """Sync a folder; for a new file also its parents, as a killed writer may not have."""
        sync_folder(path)
        while is_new and path != self.root:
            path = path.parent
            sync_folder(path)


def staged_name(parts: Parts) -> str:
    """Return the name of the staged file of a file."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32] + ".tmp"


def check_space(path: Path, free_bytes: int, needed_bytes: int) -> None:
    """Raise StoreError, which says how much space is missing, if there is too little."""
    if free_bytes < needed_bytes:
        free, needed, missing = (
            f"{count / 2**20:.1f} MiB"
            for count in (free_bytes, needed_bytes, needed_bytes - free_bytes)
        )
        raise StoreError(
            f"the disk of {path} is full: {free} free, {needed} needed, {missing} missing"
        )


def make_private_folders(path: Path) -> None:
    """Make a folder and its missing parents, private and synced."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder, PRIVATE_FOLDER)
            sync_folder(folder.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a private file and sync it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFE_OPEN
    descriptor = os.open(path, flags, PRIVATE_FILE)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_whole(path: Path) -> bytes:
    """Return a file's bytes; raise OSError for a symbolic link, StoreError for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | SAFE_OPEN)
    try:
        status = os.fstat(descriptor)
        check_is_file(path, status)
        size, parts = status.st_size, []
        while part := os.read(descriptor, size + 1):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder, so that they survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_is_file(path: str | Path, status: os.stat_result) -> None:
    """Raise StoreError, which names the kind, for a link, pipe, socket, device or folder."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind:
        raise StoreError(
            f"{path} is a {kind}, which the lake does not open: replace it by the real file or"
            " folder"
        )


def storage_error(path: Path, action: str, error: OSError) -> StoreError:
    """Return a StoreError with the path and the reason of an OSError."""
    if error.errno == errno.ELOOP:
        return StoreError(
            f"{path} is a symbolic link, which the lake does not open: replace it by the real file"
            " or folder"
        )
    return StoreError(f"cannot {action} {path}: {error.strerror or type(error).__name__}")


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(Path(path), "look at", error) from None
