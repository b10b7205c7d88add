"""Interface of the storage backends, a local folder or a bucket: files by name, no tables.

A file is named by its parts below the root: `("messages", "account=a", "date=2026-01-05",
"data.parquet")`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from convo_pipeline.errors import CorruptError

Parts = Sequence[str]
Check = Callable[[bytes, str], None]
"""Checks the bytes, as read back, and their name before they are published; raises to stop it."""


@dataclass(frozen=True)
class FileVersion:
    """Size and identity of one version of a file."""

    byte_count: int
    etag: str = ""
    """For conditional writes. Empty in a local folder, where a lock protects the file."""
    sha256: str | None = None
    """Hash of the bytes as the writer stored it; None if the backend stores none."""


class StoredFile(NamedTuple):
    """The bytes of a file and their version."""

    content: bytes
    version: FileVersion


class StorageBackend(Protocol):
    """The files below one root.

    `replace`, `remove` and `set_aside` change only the version that the caller expects. They raise
    ConflictError, and change nothing, if another version is there.
    """

    is_shared: bool
    """Whether other machines write here too. Then listings and the state can be out of date."""

    def location(self, parts: Parts = ()) -> str:
        """Return the path or URL of a file."""

    def read(self, parts: Parts) -> StoredFile | None:
        """Return a file's bytes and version; None if there is no file."""

    def version(self, parts: Parts) -> FileVersion | None:
        """Return a file's version without its bytes; None if there is no file."""

    def replace(
        self, parts: Parts, content: bytes, expected: FileVersion | None, check: Check
    ) -> FileVersion:
        """Replace a file in one step, or create it if none is expected; return the new version."""

    def remove(self, parts: Parts, expected: FileVersion) -> None:
        """Remove a file."""

    def set_aside(self, parts: Parts, target: Parts, expected: FileVersion) -> str:
        """Move a file to another name; return its new location."""

    def rename_folder(self, parts: Parts, new_name: str) -> None:
        """Rename a folder; call it again after an interruption."""

    def remove_folder(self, parts: Parts) -> None:
        """Remove a folder and all its files, whatever their versions are."""

    def delete_old_versions(self, parts: Parts) -> None:
        """Delete versions of files below a folder that the backend keeps after a change."""

    def list_names(self, parts: Parts = ()) -> list[str]:
        """Return the sorted names in a folder; none if there is no folder."""

    def list_files(self, parts: Parts = ()) -> Iterator[tuple[str, ...]]:
        """Yield the parts of every file below a folder."""

    def folders_with(self, parts: Parts, name: str) -> Mapping[str, FileVersion]:
        """Return the subfolders that contain a file of this name, sorted, with its version."""

    def check_writable(self, needed_bytes: int) -> None:
        """Raise StoreError with the reason if the root cannot be written."""

    def remove_stale_files(self, before: datetime) -> int:
        """Remove what killed writers left behind before a time; return the number of files."""

    def close(self) -> None:
        """Close connections."""


def write_file(backend: StorageBackend, parts: Parts, content: bytes) -> None:
    """Replace whatever version of a file is there, or create it."""
    write_version(backend, parts, content, backend.version(parts))


def write_version(
    backend: StorageBackend, parts: Parts, content: bytes, expected: FileVersion | None
) -> None:
    """Replace the expected version of a file; raise CorruptError if other bytes are read back."""

    def check(read_back: bytes, name: str) -> None:
        if read_back != content:
            raise CorruptError(f"{name} read back differs from what was written")

    backend.replace(parts, content, expected, check)


def remove_file(backend: StorageBackend, parts: Parts) -> None:
    """Remove a file if there is one."""
    version = backend.version(parts)
    if version:
        backend.remove(parts, version)
