"""A place in a bucket of an S3 store: one conditional PUT a file, no rename, no lock, no multipart upload.

A write names the version it was made from (`If-Match`) or that there must be none (`If-None-Match: *`), so two
machines can never overwrite each other unseen. Every object carries the SHA-256 of its bytes, so a PUT whose answer
was lost is settled by looking, and damage is found by whoever reads. Listing finds files; it is never the truth.
Credentials come from where every AWS tool takes them. The only module that knows boto3.
"""

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

from convo_pipeline.errors import ConflictError, StoreError
from convo_pipeline.storage.backend import FileVersion

MOST_BYTES = 5 * 2**30
"""The most that one PUT may hold. Partitions are far smaller; nothing is ever uploaded in parts."""
SEAL = "sha256"
"""The metadata key of an object's SHA-256."""
PROBE = (".preflight",)
READ_TRIES = 3
CONNECTIONS = 32
MOVERS = 8
NEXT_PAGE = {
    "ContinuationToken": "NextContinuationToken",
    "KeyMarker": "NextKeyMarker",
    "VersionIdMarker": "NextVersionIdMarker",
}
"""How a listing is asked for its next page, by what its last one said."""
CHANGED = (404, 409, 412)
"""What an S3 store answers to a condition that does not hold (404: If-Match on a key that is gone)."""
UNANSWERED = (HTTPClientError, UnreachableStoreError)
ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct store.root",
    "InvalidBucketName": "this is no bucket name: correct store.root",
    "AccessDenied": "access denied: allow s3:ListBucket on the bucket and s3:GetObject, s3:PutObject and"
    " s3:DeleteObject below the prefix",
    "InvalidAccessKeyId": "the store does not know the access key: check AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret does not fit the access key: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the AWS session has expired: log in again",
    "InvalidToken": "the AWS session token is not valid: check AWS_SESSION_TOKEN",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "RequestTimeTooSkewed": "this machine's clock is wrong: the store refuses its signatures",
}
BY_STATUS = {401: "InvalidAccessKeyId", 403: "AccessDenied", 301: "PermanentRedirect"}


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
        """Whether an answer named a version: only a bucket that keeps them, or once did, does so."""

    def location(self, parts: Sequence[str] = ()) -> str:
        """Return an object's address."""
        return "/".join((self.url, *parts))

    def read(self, parts: Sequence[str]) -> tuple[bytes, FileVersion] | None:
        """Return an object's bytes and the mark of these very bytes, None where there is none."""
        return self._read(parts, {})

    def read_version(self, parts: Sequence[str], tag: str) -> tuple[bytes, FileVersion]:
        """Return one version's bytes; a ConflictError says that it is no longer there."""
        found = self._read(parts, {"IfMatch": tag})
        if found is None:
            raise ConflictError(f"{self.location(parts)} was removed")
        return found

    def version(self, parts: Sequence[str]) -> FileVersion | None:
        """Return an object's mark without reading it, None where there is none."""
        try:
            return _mark(self._call("head_object", Key=self._key(parts)))
        except (BotoCoreError, ClientError) as error:
            if _status(error) == 404:
                return None
            raise self._refusal("look at", parts, error) from None

    def replace(
        self,
        parts: Sequence[str],
        content: bytes,
        held: FileVersion | None,
        check: Callable[[bytes, str], None],
    ) -> FileVersion:
        """Put bytes in place of the version that is held; a ConflictError says that another one is there."""
        if len(content) > MOST_BYTES:
            raise StoreError(
                f"{self.location(parts)} would have {len(content)} bytes; one PUT takes {MOST_BYTES}"
            )
        check(content, self.location(parts))
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            return FileVersion(len(content), self._put(parts, content, sha256, held), sha256)
        except (BotoCoreError, ClientError) as error:
            if not _is_doubtful(error):
                raise self._refusal("write", parts, error) from None
            return self._settle(parts, sha256, error)

    def remove(self, parts: Sequence[str], held: FileVersion) -> None:
        """Remove the version that is held; a ConflictError says that another one is there."""
        try:
            self._call("delete_object", Key=self._key(parts), IfMatch=held.etag)
        except (BotoCoreError, ClientError) as error:
            if not _is_doubtful(error):
                raise self._refusal("remove", parts, error) from None
            if self.version(parts) is None:
                return
            raise self._doubt("remove", parts, error) from None

    def set_aside(self, parts: Sequence[str], new_name: str, held: FileVersion) -> str:
        """Keep the version that is held under another name: a copy first, then the removal."""
        target = (*parts[:-1], new_name)
        source = {"Bucket": self.name, "Key": self._key(parts)}
        try:
            self._call(
                "copy_object", Key=self._key(target), CopySource=source, CopySourceIfMatch=held.etag
            )
        except (BotoCoreError, ClientError) as error:
            raise self._doubt("set aside", parts, error) from None
        self.remove(parts, held)
        return self.location(target)

    def rename_folder(self, parts: Sequence[str], new_name: str) -> None:
        """Copy every object below a folder to its new name, where there must be none or the same, then remove it."""

        def move(inner: tuple[str, ...]) -> None:
            self._move(inner, (*parts[:-1], new_name, *inner[len(parts) :]))

        with ThreadPoolExecutor(MOVERS) as pool:
            for _ in pool.map(move, list(self.list_files(parts))):
                pass

    def delete_old_versions(self, parts: Sequence[str]) -> None:
        """Remove every version below a folder but the current ones, where the bucket keeps them."""
        if not self._keeps_versions:
            return
        try:
            for page in self._pages("list_object_versions", Prefix=self._folder_key(parts)):
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    if not each["IsLatest"]:
                        self._call("delete_object", Key=each["Key"], VersionId=each["VersionId"])
        except (BotoCoreError, ClientError) as error:
            if _status(error) == 501:
                return  # a store that names versions but keeps none of them
            hint = "the bucket keeps old versions: allow s3:ListBucketVersions and s3:DeleteObjectVersion"
            raise StoreError(
                f"cannot purge {self.location(parts)}: {_advice(error)}; {hint}"
            ) from None

    def list_names(self, parts: Sequence[str] = ()) -> list[str]:
        """Return the sorted names in a folder."""
        prefix = self._folder_key(parts)
        found = set()
        for page in self._list(parts, Prefix=prefix, Delimiter="/"):
            found |= {
                each["Prefix"][len(prefix) :].rstrip("/") for each in page.get("CommonPrefixes", ())
            }
            found |= {each["Key"][len(prefix) :] for each in page.get("Contents", ())}
        return sorted(found - {""})

    def list_files(self, parts: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
        """Yield the parts of every object below a folder."""
        for inner, _ in self.list_versions(parts):
            yield inner

    def list_versions(
        self, parts: Sequence[str] = ()
    ) -> Iterator[tuple[tuple[str, ...], FileVersion]]:
        """Yield every object below a folder as it is listed, with its mark."""
        start = len(self._folder_key())
        for page in self._list(parts, Prefix=self._folder_key(parts)):
            for each in page.get("Contents", ()):
                yield tuple(each["Key"][start:].split("/")), FileVersion(each["Size"], each["ETag"])

    def folders_with(self, parts: Sequence[str], name: str) -> dict[str, FileVersion]:
        """Return the folders in a folder that hold an object of this name, sorted, with its mark."""
        depth = len(parts)
        return {
            inner[depth]: mark
            for inner, mark in self.list_versions(parts)
            if len(inner) == depth + 2 and inner[-1] == name and inner[depth]
        }

    def check_readable(self) -> None:
        """Raise a StoreError that says what is wrong with the bucket, the way to it or the credentials."""
        next(self._list((), Prefix=self._folder_key(), MaxKeys=1))

    def check_writable(self, needed_bytes: int) -> None:
        """Raise a StoreError unless the bucket can be listed, read and written under conditions that hold."""
        self.check_readable()
        content, sha256 = b"probe", hashlib.sha256(b"probe").hexdigest()
        stale = FileVersion(0, '"00000000000000000000000000000000"')
        try:
            self._is_put(content, sha256, None)
            is_obeyed = not self._is_put(content, sha256, None) and not self._is_put(
                content, sha256, stale
            )
        except (BotoCoreError, ClientError) as error:
            if _code(error) in ("NotImplemented", "InvalidArgument") or _status(error) == 501:
                raise self._unconditional() from None
            raise self._refusal("write", PROBE, error) from None
        if not is_obeyed:
            raise self._unconditional()
        self.read(PROBE)

    def remove_stale_files(self, before: datetime) -> int:
        """Nothing is ever left half-written: an object is there after its PUT, or not at all."""
        return 0

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            if self._client is not None and self._owner_pid == os.getpid():
                self._client.close()
            self._client = None

    def _move(self, parts: tuple[str, ...], target: tuple[str, ...]) -> None:
        """Copy an object and remove it; one that changes in between is copied again."""
        copied: FileVersion | None = None
        for attempt in range(1, READ_TRIES + 1):
            found = self.read(parts)
            if found is None:
                return
            try:
                copied = self._copy(target, *found, copied)
                self.remove(parts, found[1])
                return
            except ConflictError:
                if attempt == READ_TRIES:
                    raise

    def _copy(
        self, target: Sequence[str], content: bytes, mark: FileVersion, copied: FileVersion | None
    ) -> FileVersion:
        """Put bytes where there must be nothing, the copy made before, or these very bytes."""
        held = copied or self.version(target)
        if held and held.sha256 == mark.sha256 == hashlib.sha256(content).hexdigest():
            return held
        if held and not copied:
            raise StoreError(
                f"{self.location(target)} is there already and holds something else: nothing was replaced"
            )
        return self.replace(target, content, held, lambda read_back, name: None)

    def _read(
        self, parts: Sequence[str], condition: dict[str, str]
    ) -> tuple[bytes, FileVersion] | None:
        for attempt in range(1, READ_TRIES + 1):
            try:
                answer = self._call("get_object", Key=self._key(parts), **condition)
                with answer["Body"] as body:
                    return body.read(), _mark(answer)
            except (*UNANSWERED, IncompleteReadError) as error:
                if attempt == READ_TRIES:
                    raise self._refusal("read", parts, error) from None
            except (BotoCoreError, ClientError) as error:
                if _status(error) == 404 and _code(error) != "NoSuchBucket":
                    return None
                raise self._doubt("read", parts, error) from None
        raise AssertionError("unreachable")

    def _put(
        self, parts: Sequence[str], content: bytes, sha256: str, held: FileVersion | None
    ) -> str:
        condition = {"IfMatch": held.etag} if held else {"IfNoneMatch": "*"}
        answer = self._call(
            "put_object",
            Key=self._key(parts),
            Body=content,
            ContentMD5=base64.b64encode(
                hashlib.md5(content, usedforsecurity=False).digest()
            ).decode(),
            Metadata={SEAL: sha256},
            **condition,
        )
        return str(answer["ETag"])

    def _is_put(self, content: bytes, sha256: str, held: FileVersion | None) -> bool:
        """Say whether a probe was accepted."""
        try:
            self._put(PROBE, content, sha256, held)
        except ClientError as error:
            if _status(error) not in CHANGED or _code(error) == "NoSuchBucket":
                raise
            return False
        return True

    def _settle(self, parts: Sequence[str], sha256: str, error: Exception) -> FileVersion:
        """After a PUT of unknown end: what is there decides."""
        found = self.version(parts)
        if found is not None and found.sha256 == sha256:
            return found
        raise self._doubt("write", parts, error) from None

    def _doubt(self, action: str, parts: Sequence[str], error: Exception) -> StoreError:
        if _status(error) in CHANGED and _code(error) != "NoSuchBucket":
            return ConflictError(
                f"{self.location(parts)} was changed by another writer at the same time"
            )
        return self._refusal(action, parts, error)

    def _unconditional(self) -> StoreError:
        return StoreError(
            f"{self.url}: this S3 store ignores conditional writes (If-Match, If-None-Match), so two writers could"
            " overwrite each other unseen: use a store that has them, or a local folder"
        )

    def _refusal(self, action: str, parts: Sequence[str], error: Exception) -> StoreError:
        return StoreError(f"cannot {action} {self.location(parts)}: {_advice(error)}")

    def _list(self, parts: Sequence[str], **options: Any) -> Iterator[Any]:
        try:
            yield from self._pages("list_objects_v2", **options)
        except (BotoCoreError, ClientError) as error:
            raise self._refusal("list", parts, error) from None

    def _pages(self, operation: str, **options: Any) -> Iterator[Any]:
        """Yield the pages of a listing, of objects or of versions."""
        token: dict[str, str] = {}
        while True:
            page = self._call(operation, **options, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {ours: page[theirs] for ours, theirs in NEXT_PAGE.items() if theirs in page}

    def _call(self, operation: str, **arguments: Any) -> Any:
        answer = getattr(self._open(), operation)(Bucket=self.name, **arguments)
        self._keeps_versions |= "VersionId" in answer
        return answer

    def _open(self) -> Any:
        """Return the client; a forked process makes its own."""
        with self._lock:
            if self._client is None or self._owner_pid != os.getpid():
                self._client, self._owner_pid = (
                    _make_client(self._endpoint_url, self._timeout_seconds),
                    os.getpid(),
                )
            return self._client

    def _folder_key(self, parts: Sequence[str] = ()) -> str:
        return "".join(
            f"{part}/" for part in ((self.prefix,) if self.prefix else ()) + tuple(parts)
        )

    def _key(self, parts: Sequence[str]) -> str:
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\0" in part:
                raise StoreError(f"{part!r} is no name of a file or folder in {self.url}")
        return self._folder_key(parts[:-1]) + parts[-1]


def _make_client(endpoint_url: str | None, timeout_seconds: float) -> Any:
    core = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=core)
    core.register_component("data_loader", _descriptions())
    config = Config(
        connect_timeout=min(10.0, timeout_seconds),
        read_timeout=timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 4},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",  # Content-MD5 is sent instead: every S3 store checks it
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint_url else None,
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)


@cache
def _descriptions() -> Any:
    """Return what loads the service's description and keeps it: reading it is nine tenths of making a client."""
    return botocore.session.get_session().get_component("data_loader")


def _mark(answer: Any) -> FileVersion:
    return FileVersion(
        answer["ContentLength"], answer["ETag"], answer.get("Metadata", {}).get(SEAL)
    )


def _status(error: Exception) -> int:
    return (
        int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        if isinstance(error, ClientError)
        else 0
    )


def _code(error: Exception) -> str:
    return (
        str(error.response.get("Error", {}).get("Code", ""))
        if isinstance(error, ClientError)
        else ""
    )


def _is_doubtful(error: Exception) -> bool:
    """Say whether the write may have happened although it was refused or never answered."""
    if isinstance(error, ClientError):
        return (_status(error) in CHANGED or _status(error) >= 500) and _code(
            error
        ) != "NoSuchBucket"
    return isinstance(error, UNANSWERED)


def _advice(error: Exception) -> str:
    """Say what to do, without a word of what was sent: some stores' messages repeat keys and signatures."""
    if isinstance(error, ClientError):
        code, status = _code(error), _status(error)
        return (
            ADVICE.get(code)
            or ADVICE.get(BY_STATUS.get(status, ""))
            or f"the store refused, {code}, HTTP {status}"
        )
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, ProfileNotFound):
        return "there is no such AWS profile: correct AWS_PROFILE"
    if isinstance(error, UNANSWERED):
        return f"the store does not answer ({type(error).__name__}): check store.endpoint_url and the network"
    return type(error).__name__
