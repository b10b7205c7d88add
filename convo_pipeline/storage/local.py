"""A local folder that never shows half a file: durable replace, private modes, no symbolic links.

Paths here are parts relative to the root. It knows bytes and names, neither tables nor Parquet.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from convo_pipeline.errors import StoreError
from convo_pipeline.storage.backend import FileVersion

STAGING = ".staging"
NEEDED_BYTES = 64 * 1024 * 1024
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
PRIVATE_UMASK = 0o077
"""For a program that writes by others' hands too: Dagster's runs and logs, an exported file."""


class LocalFolder:
    """The files below one root; everything it writes is readable by its owner alone.

    Whoever writes a file holds its lock, so a mark needs no tag here.
    """

    is_shared = False

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def read_bytes(self, parts: Sequence[str]) -> bytes | None:
        """Return a file's bytes, None where there is none."""
        path = self.path(parts)
        try:
            return read_whole(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(path, "read", error) from None

    def location(self, parts: Sequence[str] = ()) -> str:
        """Return a file's path."""
        return str(self.root.joinpath(*parts))

    def read(self, parts: Sequence[str]) -> tuple[bytes, FileVersion] | None:
        """Return a file's bytes and mark, None where there is none."""
        content = self.read_bytes(parts)
        return None if content is None else (content, FileVersion(len(content)))

    def version(self, parts: Sequence[str]) -> FileVersion | None:
        """Return a file's mark without reading it, None where there is none."""
        byte_count = self.size(parts)
        return None if byte_count is None else FileVersion(byte_count)

    def replace(
        self,
        parts: Sequence[str],
        content: bytes,
        held: FileVersion | None,
        check: Callable[[bytes, str], None],
    ) -> FileVersion:
        """Stage bytes, let `check` see what the disk gives back, and put them in the file's place."""
        staged, read_back = self.stage(parts, content)
        try:
            check(read_back, str(staged))
        except BaseException:
            self.discard(staged)
            raise
        self.publish(staged, parts)
        return FileVersion(len(content))

    def stage(self, parts: Sequence[str], content: bytes) -> tuple[Path, bytes]:
        """Write and sync bytes beside the lake; return where they are and what the disk gives back.

        The name follows from `parts`, so whoever holds the partition's lock overwrites a dead writer's remains.
        """
        staged = self.path((STAGING, staged_name(parts)))
        try:
            self._make_folders((STAGING,))
            write_synced(staged, content)
            return staged, read_whole(staged)
        except OSError as error:
            self.discard(staged)
            raise refusal(staged, "write", error) from None

    def publish(self, staged: Path, parts: Sequence[str]) -> None:
        """Put a staged file in its place in one step, and make that last."""
        try:
            path = self.path(parts)
            is_new = not self.exists(parts)
            self._make_folders(parts[:-1])
            os.replace(staged, path)
            self._sync_folders(path.parent, is_new)
        except OSError as error:
            self.discard(staged)
            raise refusal(self.root.joinpath(*parts), "replace", error) from None
        except StoreError:
            self.discard(staged)
            raise

    def make_folder(self, parts: Sequence[str]) -> Path:
        """Make a folder that outlives a power loss and return its path."""
        path = self.path(parts)
        try:
            self._make_folders(parts)
            self._sync_folders(path, is_new=True)
        except OSError as error:
            raise refusal(path, "write", error) from None
        return path

    def discard(self, staged: Path) -> None:
        """Remove a staged file, if it is there."""
        try:
            os.unlink(staged)
        except OSError:
            return

    def staged_names(self) -> list[str]:
        """Return the names of all staged files."""
        return self.list_names((STAGING,))

    def discard_staged(self, parts: Sequence[str]) -> None:
        """Remove what was staged for a file and never published."""
        self.discard(self.path((STAGING, staged_name(parts))))

    def remove(self, parts: Sequence[str], held: FileVersion | None = None) -> None:
        """Remove a file and the folders it leaves empty."""
        path = self.path(parts)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            sync_folder(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise refusal(path, "remove", error) from None
        self._remove_empty_folders(path.parent)

    def rename(self, parts: Sequence[str], new_name: str) -> Path:
        """Give a file another name in its own folder."""
        path = self.path(parts)
        target = path.with_name(new_name)
        try:
            os.replace(path, target)
            sync_folder(path.parent)
        except OSError as error:
            raise refusal(path, "rename", error) from None
        return target

    def rename_folder(self, parts: Sequence[str], new_name: str) -> None:
        """Give a folder another name."""
        self.rename(parts, new_name)

    def delete_old_versions(self, parts: Sequence[str]) -> None:
        """There is nothing to remove: a disk keeps no versions."""

    def set_aside(self, parts: Sequence[str], new_name: str, held: FileVersion) -> str:
        """Give a file another name in its own folder; return its path."""
        return str(self.rename(parts, new_name))

    def exists(self, parts: Sequence[str]) -> bool:
        return stat.S_ISREG(_mode(self.path(parts)))

    def size(self, parts: Sequence[str]) -> int | None:
        """Return a file's bytes, None where there is none."""
        found = _look(self.path(parts))
        return found.st_size if found and stat.S_ISREG(found.st_mode) else None

    def list_names(self, parts: Sequence[str] = ()) -> list[str]:
        """Return the sorted names in a folder; none if it is not there."""
        path = self.path(parts)
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise refusal(path, "list", error) from None

    def folders_with(self, parts: Sequence[str], name: str) -> dict[str, FileVersion]:
        """Return the folders in a folder that hold a file of this name, sorted, with its mark."""
        marks = (
            (folder, self.version((*parts, folder, name))) for folder in self.list_names(parts)
        )
        return {folder: mark for folder, mark in marks if mark}

    def list_files(self, parts: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
        """Yield everything below a folder that is no folder, links included, as parts."""
        for name in self.list_names(parts):
            inner = (*parts, name)
            if stat.S_ISDIR(_mode(self.root.joinpath(*inner))):
                yield from self.list_files(inner)
            else:
                yield inner

    def check_writable(self, needed_bytes: int = NEEDED_BYTES) -> None:
        """Raise a StoreError unless the folder can be written and has room; it says how much is missing."""
        probe = self.root / STAGING / f"probe-{os.getpid()}.tmp"
        try:
            make_private_folders(self.root)
            self._make_folders((STAGING,))
            write_synced(probe, b"probe")
            space = os.statvfs(self.root)
        except OSError as error:
            raise refusal(self.root, "write", error) from None
        finally:
            self.discard(probe)
        check_room(self.root, space.f_bavail * space.f_frsize, needed_bytes)

    def remove_stale_files(self, before: datetime) -> int:
        """Remove staged files that dead writers left before a time; return how many."""
        staged = [
            self.path((STAGING, name))
            for name in self.list_names((STAGING,))
            if name.endswith(".tmp")
        ]
        abandoned = [path for path in staged if _changed_seconds(path) < before.timestamp()]
        for path in abandoned:
            self.discard(path)
        return len(abandoned)

    def close(self) -> None:
        """Nothing is held open."""

    def path(self, parts: Sequence[str]) -> Path:
        """Return the path; refuse what leaves the root or passes through a symbolic link."""
        path = os.fspath(
            self.root
        )  # text: every access to a file comes by here, and a Path costs more than a look
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\0" in part:
                raise StoreError(f"{part!r} is no name of a file or folder in {self.root}")
            path = os.path.join(path, part)
            if stat.S_ISLNK(_mode(path)):
                raise StoreError(
                    f"{path} is a symbolic link; the lake follows none: replace it by the real folder"
                )
        return Path(path)

    def _make_folders(self, parts: Sequence[str]) -> None:
        make_private_folders(self.root)
        path = self.root
        for part in parts:
            path = path / part
            try:
                os.mkdir(path, PRIVATE_FOLDER)
            except FileExistsError:
                continue

    def _sync_folders(self, path: Path, is_new: bool) -> None:
        """Sync the folder; for a new file all above too, as a killed writer may have left them unsynced."""
        sync_folder(path)
        while is_new and path != self.root:
            path = path.parent
            sync_folder(path)

    def _remove_empty_folders(self, path: Path) -> None:
        while path != self.root:
            try:
                os.rmdir(path)
            except OSError:
                return
            path = path.parent


def staged_name(parts: Sequence[str]) -> str:
    """Return the name under which a file is staged."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32] + ".tmp"


def check_room(path: Path, free_bytes: int, needed_bytes: int) -> None:
    """Raise a StoreError that says how much is missing.

    >>> check_room(Path("/data"), 1024 * 1024, 64 * 1024 * 1024)
    Traceback (most recent call last):
    convo_pipeline.errors.StoreError: the disk of /data is full: 1.0 MiB free, 64.0 MiB needed, 63.0 MiB missing
    """
    if free_bytes >= needed_bytes:
        return
    free, needed, missing = (
        f"{n / 2**20:.1f} MiB" for n in (free_bytes, needed_bytes, needed_bytes - free_bytes)
    )
    raise StoreError(f"the disk of {path} is full: {free} free, {needed} needed, {missing} missing")


def make_private_folders(path: Path) -> None:
    """Create a folder and its missing parents, for the owner alone, so that they outlive a power loss."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        try:
            os.mkdir(folder, PRIVATE_FOLDER)
        except FileExistsError:
            continue
        sync_folder(folder.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a private file from scratch and sync it."""
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE
    )
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path) -> bytes:
    """Return a file's bytes; a symbolic link is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size, parts = os.fstat(descriptor).st_size, []
        while part := os.read(descriptor, size + 1):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refusal(path: Path, action: str, error: OSError) -> StoreError:
    """Return the StoreError for an OSError; it names the path and the reason."""
    if error.errno == errno.ELOOP:
        return StoreError(
            f"{path} is a symbolic link; the lake follows none: replace it by the real file"
        )
    return StoreError(f"cannot {action} {path}: {error.strerror or type(error).__name__}")


def _changed_seconds(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return float("inf")


def _mode(path: str | Path) -> int:
    found = _look(path)
    return found.st_mode if found else 0


def _look(path: str | Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise refusal(Path(path), "look at", error) from None
