"""What the storage backends for object stores have in common: conditions, hashes, names.

A write names the version that it replaces, or that there is none. So two machines never overwrite
each other. Each object stores the SHA-256 of its bytes. It decides whether a write without a
response was done, and it shows damage to a reader. Listings find files; they are never the truth.
A subclass sends the requests of one provider with its library.
"""

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, ClassVar

from convo_pipeline.errors import ConflictError, StoreError
from convo_pipeline.storage.backend import Check, FileVersion, Parts, StoredFile

MOST_BYTES = 5 * 2**30
"""The limit of one write. Partitions are far smaller."""
SHA256_KEY = "sha256"
"""Metadata key of an object's SHA-256."""
PROBE = (".preflight",)
READ_TRIES = 3
RENAME_THREADS = 8
CHANGED = (404, 409, 412)
"""HTTP statuses of a failed condition. 404: a version was expected, but there is no object."""
Errors = tuple[type[Exception], ...]


class ObjectStore(ABC):
    """The objects below one `scheme://bucket/prefix`."""

    is_shared = True
    kind: ClassVar[str]
    """The provider, as an error names it."""
    stale_etag: ClassVar[str]
    """A version that no object has, for the test of conditions."""
    any_error: ClassVar[Errors]
    """Errors of the library."""
    no_response: ClassVar[Errors]
    """Errors of a request whose response did not come; the store may have done it."""
    cut_body: ClassVar[Errors]
    """Errors of a response whose body did not come whole, and those of `no_response`."""

    def __init__(self, url: str, endpoint_url: str = "", *, timeout_seconds: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.name, _, self.prefix = self.url.partition("://")[2].partition("/")
        self._endpoint_url = endpoint_url
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._owner_pid = 0
        self._keeps_versions = False
        """Whether a response named a version: the store keeps old versions, or once did."""

    @abstractmethod
    def _make_client(self) -> Any:
        """Return the library's client. It sends no request."""

    @abstractmethod
    def _get(self, key: str, etag: str | None) -> StoredFile:
        """Return an object, or a failed condition if it has not this version."""

    @abstractmethod
    def _head(self, key: str) -> FileVersion:
        """Return an object's version."""

    @abstractmethod
    def _put(self, key: str, content: bytes, sha256: str, etag: str | None) -> str:
        """Write an object if it has this version, without one if there is none; return the new."""

    @abstractmethod
    def _delete(self, key: str, etag: str | None) -> None:
        """Delete an object, with an ETag only this version."""

    @abstractmethod
    def _list(self, prefix: str, first: str) -> Iterator[tuple[str, FileVersion]]:
        """Yield the sorted keys below a prefix, from `first` on if possible, and their versions."""

    @abstractmethod
    def _list_level(self, prefix: str) -> Iterator[str]:
        """Yield the keys directly below a prefix, and its subfolders with a slash at the end."""

    @abstractmethod
    def _delete_old(self, prefix: str) -> None:
        """Delete the versions below a prefix that are not the current ones."""

    @abstractmethod
    def _status(self, error: Exception) -> int:
        """Return the HTTP status of an error; 0 without a response."""

    @abstractmethod
    def _is_bucket_missing(self, error: Exception) -> bool:
        """Return whether the bucket, not the object, is missing."""

    @abstractmethod
    def _advice(self, error: Exception) -> str:
        """Say what to do. Leave out the store's message: it can repeat keys and signatures."""

    def location(self, parts: Parts = ()) -> str:
        return "/".join((self.url, *parts))

    def read(self, parts: Parts) -> StoredFile | None:
        return self._read(parts, None)

    def read_version(self, parts: Parts, etag: str) -> StoredFile:
        """Return the bytes of one version; raise ConflictError if it was replaced or removed."""
        file = self._read(parts, etag)
        if file is None:
            raise ConflictError(f"{self.location(parts)} was removed")
        return file

    def version(self, parts: Parts) -> FileVersion | None:
        try:
            return self._head(self._key(parts))
        except self.any_error as error:
            if self._status(error) == 404:
                return None
            raise self._error("look at", parts, error) from None

    def replace(
        self, parts: Parts, content: bytes, expected: FileVersion | None, check: Check
    ) -> FileVersion:
        name = self.location(parts)
        if len(content) > MOST_BYTES:
            raise StoreError(f"{name} has {len(content)} bytes; one PUT takes {MOST_BYTES}")
        check(content, name)
        sha256 = hashlib.sha256(content).hexdigest()
        etag = expected.etag if expected else None
        try:
            written = self._put(self._key(parts), content, sha256, etag)
            return FileVersion(len(content), written, sha256)
        except self.any_error as error:
            version = self.version(parts) if self._may_be_done(error) else None
            if version is not None and version.sha256 == sha256:
                return version
            raise self._error("write", parts, error) from None

    def remove(self, parts: Parts, expected: FileVersion) -> None:
        try:
            self._delete(self._key(parts), expected.etag)
        except self.any_error as error:
            if not self._may_be_done(error) or self.version(parts) is not None:
                raise self._error("remove", parts, error) from None

    def set_aside(self, parts: Parts, target: Parts, expected: FileVersion) -> str:
        """Copy an object to another name, then remove it; return the new location."""
        file = self.read_version(parts, expected.etag)
        self.replace(target, file.content, self.version(target), lambda content, name: None)
        self.remove(parts, expected)
        return self.location(target)

    def rename_folder(self, parts: Parts, new_name: str) -> None:
        """Copy each object of a folder to its new name, then remove it.

        Raise StoreError if another object has the new name.
        """

        def move(inner: tuple[str, ...]) -> None:
            self._move(inner, (*parts[:-1], new_name, *inner[len(parts) :]))

        self._for_each_file(parts, move)

    def remove_folder(self, parts: Parts) -> None:
        def remove(inner: tuple[str, ...]) -> None:
            try:
                self._delete(self._key(inner), None)
            except self.any_error as error:
                if self._status(error) != 404 or self._is_bucket_missing(error):
                    raise self._error("remove", inner, error) from None

        self._for_each_file(parts, remove)

    def delete_old_versions(self, parts: Parts) -> None:
        try:
            self._delete_old(self._folder_key(parts))
        except self.any_error as error:
            raise StoreError(
                f"cannot delete old versions of {self.location(parts)}: {self._advice(error)}"
            ) from None

    def list_names(self, parts: Parts = ()) -> list[str]:
        prefix = self._folder_key(parts)
        try:
            names = {key[len(prefix) :].removesuffix("/") for key in self._list_level(prefix)}
        except self.any_error as error:
            raise self._list_error(parts, error) from None
        return sorted(names - {""})

    def list_files(self, parts: Parts = ()) -> Iterator[tuple[str, ...]]:
        return (inner for inner, _ in self.list_versions(parts))

    def list_versions(
        self, parts: Parts = (), first: str = "", last: str = ""
    ) -> Iterator[tuple[tuple[str, ...], FileVersion]]:
        """Yield the parts and the version of every object below a folder, as listed.

        Names below the folder are listed from `first` to those that begin with `last`, if given.
        """
        start, folder = len(self._folder_key()), self._folder_key(parts)
        shared = os.path.commonprefix([first, last])  # noqa: RUF071 - characters, not folders
        prefix = folder + (shared if last else "")
        try:
            for key, version in self._list(prefix, folder + first):
                name = key[len(folder) :]
                if last and name[: len(last)] > last:
                    return
                if name >= first:
                    yield tuple(key[start:].split("/")), version
        except self.any_error as error:
            raise self._list_error(parts, error) from None

    def folders_with(self, parts: Parts, name: str) -> dict[str, FileVersion]:
        depth = len(parts)
        return {
            inner[depth]: version
            for inner, version in self.list_versions(parts)
            if len(inner) == depth + 2 and inner[-1] == name and inner[depth]
        }

    def check_readable(self) -> None:
        """Raise StoreError if the bucket cannot be listed."""
        next(self.list_versions(), None)

    def check_writable(self, needed_bytes: int) -> None:
        """Raise StoreError if the bucket cannot be listed or written, or ignores conditions."""
        self.check_readable()
        try:
            self._is_put(None)  # afterwards the probe is there, so both conditions must fail
            is_ignored = self._is_put(None) or self._is_put(self.stale_etag)
        except self.any_error as error:
            if not self._is_condition_unknown(error):
                raise self._error("write", PROBE, error) from None
            is_ignored = True
        if is_ignored:
            raise StoreError(
                f"{self.url}: this {self.kind} store ignores conditional writes (If-Match,"
                " If-None-Match), so two writers could overwrite each other unseen: use a store"
                " that has them, or a local folder"
            )
        self.read(PROBE)

    def remove_stale_files(self, before: datetime) -> int:
        """Return 0: a write leaves no partial files."""
        return 0

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            if self._client is not None and self._owner_pid == os.getpid():
                self._client.close()
            self._client = None

    @property
    def client(self) -> Any:
        """The library's client of this process; a process after a fork gets its own."""
        with self._lock:
            if self._client is None or self._owner_pid != os.getpid():
                self._client = self._make_client()
                self._owner_pid = os.getpid()
            return self._client

    def _for_each_file(self, parts: Parts, act: Callable[[tuple[str, ...]], None]) -> None:
        """Call a function with the parts of every object of a folder, some at a time."""
        with ThreadPoolExecutor(RENAME_THREADS) as pool:
            list(pool.map(act, list(self.list_files(parts))))

    def _move(self, parts: tuple[str, ...], target: tuple[str, ...]) -> None:
        """Copy an object and remove it; copy it again if it changes in between."""
        copied: FileVersion | None = None
        for attempt in range(1, READ_TRIES + 1):
            file = self.read(parts)
            if file is None:
                return
            content, version = file
            existing = copied or self.version(target)
            is_same = existing is not None and (
                existing.sha256 == version.sha256 == hashlib.sha256(content).hexdigest()
            )
            if existing and not copied and not is_same:
                raise StoreError(
                    f"{self.location(target)} is there already and holds something else: nothing"
                    " was replaced"
                )
            try:
                if not is_same:
                    copied = self.replace(target, content, existing, lambda content, name: None)
                self.remove(parts, version)
                return
            except ConflictError:
                if attempt == READ_TRIES:
                    raise

    def _read(self, parts: Parts, etag: str | None) -> StoredFile | None:
        for attempt in range(1, READ_TRIES + 1):
            try:
                return self._get(self._key(parts), etag)
            except self.cut_body as error:
                if attempt == READ_TRIES:
                    raise self._error("read", parts, error) from None
            except self.any_error as error:
                if self._status(error) == 404 and not self._is_bucket_missing(error):
                    return None
                raise self._error("read", parts, error) from None
        raise AssertionError("unreachable")

    def _is_put(self, etag: str | None) -> bool:
        """Write the probe; return whether the condition held."""
        try:
            self._put(self._key(PROBE), b"probe", hashlib.sha256(b"probe").hexdigest(), etag)
        except self.any_error as error:
            if not self._is_conflict(error):
                raise
            return False
        return True

    def _is_condition_unknown(self, error: Exception) -> bool:
        """Return whether the store says that it has no conditional writes."""
        return self._status(error) == 501

    def _is_conflict(self, error: Exception) -> bool:
        return self._status(error) in CHANGED and not self._is_bucket_missing(error)

    def _may_be_done(self, error: Exception) -> bool:
        """Return whether the store may have done the write in spite of the error."""
        is_unclear = self._status(error) >= 500 or isinstance(error, self.no_response)
        return is_unclear or self._is_conflict(error)

    def _error(self, action: str, parts: Parts, error: Exception) -> StoreError:
        if self._is_conflict(error):
            return ConflictError(
                f"{self.location(parts)} was changed by another writer at the same time"
            )
        return StoreError(f"cannot {action} {self.location(parts)}: {self._advice(error)}")

    def _list_error(self, parts: Parts, error: Exception) -> StoreError:
        """Return the error of a listing, which has no condition: 404 concerns the bucket."""
        return StoreError(f"cannot list {self.location(parts)}: {self._advice(error)}")

    def _folder_key(self, parts: Parts = ()) -> str:
        return "".join(f"{part}/" for part in (self.prefix, *parts) if part)

    def _key(self, parts: Parts) -> str:
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\0" in part:
                raise StoreError(f"{part!r} is no name of a file or folder in {self.url}")
        return self._folder_key(parts[:-1]) + parts[-1]
