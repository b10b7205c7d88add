"""Storage backend in an S3 bucket: conditional writes, no locks, no renames, no multipart uploads.

A write names the version that it replaces (`If-Match`), or that there is none (`If-None-Match: *`).
So two machines never overwrite each other. Each object stores the SHA-256 of its bytes. It decides
whether a PUT without a response was done, and it shows damage to a reader. Listings find files;
they are never the truth. Credentials are those of every AWS tool. Only this module imports boto3.
"""

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import (
    ConnectionError as UnreachableStoreError,
)
from urllib3.exceptions import HTTPError as BodyError

from convo_pipeline.errors import ConflictError, StoreError
from convo_pipeline.storage.backend import Check, FileVersion, Parts, StoredFile

MOST_BYTES = 5 * 2**30
"""The limit of one PUT. Partitions are far smaller."""
SHA256_KEY = "sha256"
"""Metadata key of an object's SHA-256."""
PROBE = (".preflight",)
READ_TRIES = 3
CONNECTIONS = 32
RENAME_THREADS = 8
NEXT_PAGE = {
    "ContinuationToken": "NextContinuationToken",
    "KeyMarker": "NextKeyMarker",
    "VersionIdMarker": "NextVersionIdMarker",
}
"""Parameters of a listing's next page, and the keys of the last response that hold their values."""
CHANGED = (404, 409, 412)
"""HTTP statuses of a failed condition. 404: If-Match on a key that was removed."""
ANY_ERROR = (BotoCoreError, ClientError)
NO_RESPONSE = (HTTPClientError, UnreachableStoreError)
CUT_BODY = (*NO_RESPONSE, IncompleteReadError, BodyError, OSError)
"""Errors in a response's body. botocore passes a TLS error of its stream on as it is."""
ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct store.root",
    "InvalidBucketName": "this is no bucket name: correct store.root",
    "AccessDenied": "access denied: allow s3:ListBucket on the bucket and s3:GetObject,"
    " s3:PutObject and s3:DeleteObject below the prefix",
    "InvalidAccessKeyId": "the store does not know the access key: check AWS_ACCESS_KEY_ID or"
    " AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret does not fit the access key: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the AWS session has expired: log in again",
    "InvalidToken": "the AWS session token is not valid: check AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "RequestTimeTooSkewed": "this machine's clock is wrong: the store refuses its signatures",
}
CODE_OF_STATUS = {401: "InvalidAccessKeyId", 403: "AccessDenied", 301: "PermanentRedirect"}


class S3Bucket:
    """The objects below one `s3://bucket/prefix`."""

    is_shared = True

    def __init__(self, url: str, endpoint_url: str = "", *, timeout_seconds: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.name, _, self.prefix = self.url.removeprefix("s3://").partition("/")
        self._endpoint_url = endpoint_url or None
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._owner_pid = 0
        self._keeps_versions = False
        """Whether a response named a version: the bucket keeps old versions, or once did."""

    def location(self, parts: Parts = ()) -> str:
        return "/".join((self.url, *parts))

    def read(self, parts: Parts) -> StoredFile | None:
        return self._read(parts, {})

    def read_version(self, parts: Parts, etag: str) -> StoredFile:
        """Return the bytes of one version; raise ConflictError if it was replaced or removed."""
        file = self._read(parts, {"IfMatch": etag})
        if file is None:
            raise ConflictError(f"{self.location(parts)} was removed")
        return file

    def version(self, parts: Parts) -> FileVersion | None:
        try:
            return _version(self._call("head_object", Key=self._key(parts)))
        except ANY_ERROR as error:
            if _status(error) == 404:
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
        try:
            return FileVersion(len(content), self._put(parts, content, sha256, expected), sha256)
        except ANY_ERROR as error:
            version = self.version(parts) if _may_be_done(error) else None
            if version is not None and version.sha256 == sha256:
                return version
            raise self._error("write", parts, error) from None

    def remove(self, parts: Parts, expected: FileVersion) -> None:
        try:
            self._call("delete_object", Key=self._key(parts), IfMatch=expected.etag)
        except ANY_ERROR as error:
            if not _may_be_done(error) or self.version(parts) is not None:
                raise self._error("remove", parts, error) from None

    def set_aside(self, parts: Parts, target: Parts, expected: FileVersion) -> str:
        """Copy an object to another name, then remove it; return the new location."""
        source = {"Bucket": self.name, "Key": self._key(parts)}
        condition = {"CopySource": source, "CopySourceIfMatch": expected.etag}
        try:
            self._call("copy_object", Key=self._key(target), **condition)
        except ANY_ERROR as error:
            raise self._error("set aside", parts, error) from None
        self.remove(parts, expected)
        return self.location(target)

    def rename_folder(self, parts: Parts, new_name: str) -> None:
        """Copy each object of a folder to its new name, then remove it.

        Raise StoreError if another object has the new name.
        """

        def move(inner: tuple[str, ...]) -> None:
            self._move(inner, (*parts[:-1], new_name, *inner[len(parts) :]))

        with ThreadPoolExecutor(RENAME_THREADS) as pool:
            list(pool.map(move, list(self.list_files(parts))))

    def remove_folder(self, parts: Parts) -> None:
        def remove(inner: tuple[str, ...]) -> None:
            self._call("delete_object", Key=self._key(inner))

        try:
            with ThreadPoolExecutor(RENAME_THREADS) as pool:
                list(pool.map(remove, list(self.list_files(parts))))
        except ANY_ERROR as error:
            raise self._error("remove", parts, error) from None

    def delete_old_versions(self, parts: Parts) -> None:
        if not self._keeps_versions:
            return
        try:
            for page in self._pages("list_object_versions", Prefix=self._folder_key(parts)):
                for old in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    if not old["IsLatest"]:
                        self._call("delete_object", Key=old["Key"], VersionId=old["VersionId"])
        except ANY_ERROR as error:
            if _status(error) == 501:
                return  # a store that names versions but keeps none of them
            raise StoreError(
                f"cannot delete old versions of {self.location(parts)}: {_advice(error)}; the"
                " bucket keeps old versions: allow s3:ListBucketVersions and s3:DeleteObjectVersion"
            ) from None

    def list_names(self, parts: Parts = ()) -> list[str]:
        prefix = self._folder_key(parts)
        names = set()
        for page in self._list(parts, Prefix=prefix, Delimiter="/"):
            names |= {it["Prefix"][len(prefix) : -1] for it in page.get("CommonPrefixes", ())}
            names |= {it["Key"][len(prefix) :] for it in page.get("Contents", ())}
        return sorted(names - {""})

    def list_files(self, parts: Parts = ()) -> Iterator[tuple[str, ...]]:
        return (inner for inner, _ in self.list_versions(parts))

    def list_versions(self, parts: Parts = ()) -> Iterator[tuple[tuple[str, ...], FileVersion]]:
        """Yield the parts and the version of every object below a folder, as listed."""
        start = len(self._folder_key())
        for page in self._list(parts, Prefix=self._folder_key(parts)):
            for listed in page.get("Contents", ()):
                version = FileVersion(listed["Size"], listed["ETag"])
                yield tuple(listed["Key"][start:].split("/")), version

    def folders_with(self, parts: Parts, name: str) -> dict[str, FileVersion]:
        depth = len(parts)
        return {
            inner[depth]: version
            for inner, version in self.list_versions(parts)
            if len(inner) == depth + 2 and inner[-1] == name and inner[depth]
        }

    def check_readable(self) -> None:
        """Raise StoreError if the bucket cannot be listed."""
        next(self._list((), Prefix=self._folder_key(), MaxKeys=1))

    def check_writable(self, needed_bytes: int) -> None:
        """Raise StoreError if the bucket cannot be listed or written, or ignores conditions."""
        self.check_readable()
        stale = FileVersion(0, '"00000000000000000000000000000000"')
        try:
            self._is_put(None)  # afterwards the probe is there, so both conditions must fail
            is_ignored = self._is_put(None) or self._is_put(stale)
        except ANY_ERROR as error:
            is_unknown = _code(error) in ("NotImplemented", "InvalidArgument")
            if not is_unknown and _status(error) != 501:
                raise self._error("write", PROBE, error) from None
            is_ignored = True
        if is_ignored:
            raise StoreError(
                f"{self.url}: this S3 store ignores conditional writes (If-Match, If-None-Match), "
                " so two writers could overwrite each other unseen: use a store that has them, or a"
                " local folder"
            )
        self.read(PROBE)

    def remove_stale_files(self, before: datetime) -> int:
        """Return 0: a PUT leaves no partial files."""
        return 0

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            if self._client is not None and self._owner_pid == os.getpid():
                self._client.close()
            self._client = None

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

    def _read(self, parts: Parts, condition: dict[str, str]) -> StoredFile | None:
        for attempt in range(1, READ_TRIES + 1):
            try:
                response = self._call("get_object", Key=self._key(parts), **condition)
                # `with response["Body"]` gives the raw stream, whose errors are not botocore's.
                with closing(response["Body"]) as body:
                    return StoredFile(body.read(), _version(response))
            except CUT_BODY as error:
                if attempt == READ_TRIES:
                    raise self._error("read", parts, error) from None
            except ANY_ERROR as error:
                if _status(error) == 404 and _code(error) != "NoSuchBucket":
                    return None
                raise self._error("read", parts, error) from None
        raise AssertionError("unreachable")

    def _put(self, parts: Parts, content: bytes, sha256: str, expected: FileVersion | None) -> str:
        """Write an object under a condition; return its ETag."""
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        response = self._call(
            "put_object",
            Key=self._key(parts),
            Body=content,
            ContentMD5=base64.b64encode(md5).decode(),
            Metadata={SHA256_KEY: sha256},
            **({"IfMatch": expected.etag} if expected else {"IfNoneMatch": "*"}),
        )
        return str(response["ETag"])

    def _is_put(self, expected: FileVersion | None) -> bool:
        """Write the probe; return whether the condition held."""
        try:
            self._put(PROBE, b"probe", hashlib.sha256(b"probe").hexdigest(), expected)
        except ClientError as error:
            if not _is_conflict(error):
                raise
            return False
        return True

    def _error(self, action: str, parts: Parts, error: Exception) -> StoreError:
        if _is_conflict(error):
            return ConflictError(
                f"{self.location(parts)} was changed by another writer at the same time"
            )
        return StoreError(f"cannot {action} {self.location(parts)}: {_advice(error)}")

    def _list(self, parts: Parts, **options: Any) -> Iterator[Any]:
        try:
            yield from self._pages("list_objects_v2", **options)
        except ANY_ERROR as error:
            raise self._error("list", parts, error) from None

    def _pages(self, operation: str, **options: Any) -> Iterator[Any]:
        """Yield the pages of a listing of objects or versions."""
        token: dict[str, str] = {}
        while True:
            page = self._call(operation, **options, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {ours: page[theirs] for ours, theirs in NEXT_PAGE.items() if theirs in page}

    def _call(self, operation: str, **arguments: Any) -> Any:
        with self._lock:
            if self._client is None or self._owner_pid != os.getpid():  # after a fork too
                self._client = _make_client(self._endpoint_url, self._timeout_seconds)
                self._owner_pid = os.getpid()
            client = self._client
        response = getattr(client, operation)(Bucket=self.name, **arguments)
        self._keeps_versions |= "VersionId" in response
        return response

    def _folder_key(self, parts: Parts = ()) -> str:
        return "".join(f"{part}/" for part in (self.prefix, *parts) if part)

    def _key(self, parts: Parts) -> str:
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\0" in part:
                raise StoreError(f"{part!r} is no name of a file or folder in {self.url}")
        return self._folder_key(parts[:-1]) + parts[-1]


def _make_client(endpoint_url: str | None, timeout_seconds: float) -> Any:
    core = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=core)
    core.register_component("data_loader", _data_loader())
    config = Config(
        connect_timeout=min(10.0, timeout_seconds),
        read_timeout=timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",  # every S3 store checks Content-MD5 instead
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint_url else None,
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)


@cache
def _data_loader() -> Any:
    """Return a loader that caches the service description: 90 % of the time to make a client."""
    return botocore.session.get_session().get_component("data_loader")


def _version(response: Any) -> FileVersion:
    sha256 = response.get("Metadata", {}).get(SHA256_KEY)
    return FileVersion(response["ContentLength"], response["ETag"], sha256)


def _status(error: Exception) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _code(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_conflict(error: Exception) -> bool:
    return _status(error) in CHANGED and _code(error) != "NoSuchBucket"


def _may_be_done(error: Exception) -> bool:
    """Return whether the store may have done the write in spite of the error."""
    return _is_conflict(error) or _status(error) >= 500 or isinstance(error, NO_RESPONSE)


def _advice(error: Exception) -> str:
    """Say what to do. Leave out the store's message: it can repeat keys and signatures."""
    if isinstance(error, ClientError):
        code, status = _code(error), _status(error)
        advice = ADVICE.get(code) or ADVICE.get(CODE_OF_STATUS.get(status, ""))
        return advice or f"the store refused, {code}, HTTP {status}"
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, ProfileNotFound):
        return "there is no such AWS profile: correct AWS_PROFILE"
    if isinstance(error, CUT_BODY):
        name = type(error).__name__
        return f"the store does not answer ({name}): check store.endpoint_url and the network"
    return type(error).__name__
