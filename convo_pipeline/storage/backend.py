"""What a store needs of the place its files are in: a local folder or a bucket. Names and bytes, no tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from convo_pipeline.errors import CorruptError


@dataclass(frozen=True)
class FileVersion:
    """What a place says of a file without its bytes."""

    byte_count: int
    etag: str = ""
    """Which version it is, for conditional writes; empty where a lock guards the file."""
    sha256: str | None = None
    """What its writer said that its bytes hash to; None where no writer says so."""


class StorageBackend(Protocol):
    """The files below one root, by their parts."""

    is_shared: bool
    """Whether other machines write here too, so that what is known of a file may be out of date."""

    def location(self, parts: Sequence[str] = ()) -> str:
        """Return a file's path or address, for people."""

    def read(self, parts: Sequence[str]) -> tuple[bytes, FileVersion] | None:
        """Return a file's bytes and their mark, None where there is none."""

    def version(self, parts: Sequence[str]) -> FileVersion | None:
        """Return a file's mark without reading it, None where there is none."""

    def replace(
        self,
        parts: Sequence[str],
        content: bytes,
        held: FileVersion | None,
        check: Callable[[bytes, str], None],
    ) -> FileVersion:
        """Put bytes in place of the version that is held, all or nothing; `check` sees what is about to be there.

        A ConflictError says that another version is there; then nothing was written.
        """

    def remove(self, parts: Sequence[str], held: FileVersion) -> None:
        """Remove the version that is held; a ConflictError says that another one is there."""

    def set_aside(self, parts: Sequence[str], new_name: str, held: FileVersion) -> str:
        """Keep the version that is held under another name in its own folder; return its location."""

    def rename_folder(self, parts: Sequence[str], new_name: str) -> None:
        """Give a folder another name; cut off half-way, it is simply done again."""

    def delete_old_versions(self, parts: Sequence[str]) -> None:
        """Remove for good what the place itself keeps of files below a folder that were overwritten or removed."""

    def list_names(self, parts: Sequence[str] = ()) -> list[str]:
        """Return the sorted names in a folder; none if it is not there."""

    def list_files(self, parts: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
        """Yield everything below a folder that is no folder."""

    def folders_with(self, parts: Sequence[str], name: str) -> Mapping[str, FileVersion]:
        """Return the folders in a folder that hold a file of this name, sorted, with its mark."""

    def check_writable(self, needed_bytes: int) -> None:
        """Raise a StoreError that says what keeps us from writing here, before any work is done."""

    def remove_stale_files(self, before: datetime) -> int:
        """Remove what killed writers left behind before then; return how many files."""

    def close(self) -> None:
        """Let go of connections."""


def write_file(place: StorageBackend, parts: Sequence[str], content: bytes) -> None:
    """Put bytes in place of whatever is there; a CorruptError says that they did not arrive."""
    write_version(place, parts, content, place.version(parts))


def write_version(
    place: StorageBackend, parts: Sequence[str], content: bytes, held: FileVersion | None
) -> None:
    """Put bytes in place of the version that is held; a ConflictError says that another one is there."""

    def check(read_back: bytes, name: str) -> None:
        if read_back != content:
            raise CorruptError(f"{name} read back differs from what was written")

    place.replace(parts, content, held, check)


def remove_file(place: StorageBackend, parts: Sequence[str]) -> None:
    """Remove a file, if it is there."""
    mark = place.version(parts)
    if mark:
        place.remove(parts, mark)
