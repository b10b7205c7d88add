"""Storage backend in an S3 bucket: conditional writes, no locks, no renames, no multipart uploads.

A write has the header `If-Match`, or `If-None-Match: *` if there must be no object. Credentials are
those of every AWS tool. Only this module imports boto3.
"""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import closing
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

from convo_pipeline.errors import StoreError
from convo_pipeline.storage.backend import FileVersion, Parts, StoredFile
from convo_pipeline.storage.objects import SHA256_KEY, ObjectStore

CONNECTIONS = 32
NEXT_PAGE = {
    "ContinuationToken": "NextContinuationToken",
    "KeyMarker": "NextKeyMarker",
    "VersionIdMarker": "NextVersionIdMarker",
}
"""Parameters of a listing's next page, and the keys of the last response that hold their values."""
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


class S3Bucket(ObjectStore):
    """The objects below one `s3://bucket/prefix`."""

    kind = "S3"
    stale_etag = '"00000000000000000000000000000000"'
    any_error = (BotoCoreError, ClientError)
    no_response = (HTTPClientError, UnreachableStoreError)
    cut_body = (*no_response, IncompleteReadError, BodyError, OSError)
    """botocore passes a TLS error of its stream on as it is."""

    def set_aside(self, parts: Parts, target: Parts, expected: FileVersion) -> str:
        """Copy an object to another name, with its metadata; then remove it."""
        source = {"Bucket": self.name, "Key": self._key(parts)}
        condition = {"CopySource": source, "CopySourceIfMatch": expected.etag}
        try:
            self._call("copy_object", Key=self._key(target), **condition)
        except self.any_error as error:
            raise self._error("set aside", parts, error) from None
        self.remove(parts, expected)
        return self.location(target)

    def delete_old_versions(self, parts: Parts) -> None:
        if not self._keeps_versions:
            return
        try:
            self._delete_old(self._folder_key(parts))
        except self.any_error as error:
            if self._status(error) == 501:
                return  # a store that names versions but keeps none of them
            raise StoreError(
                f"cannot delete old versions of {self.location(parts)}: {self._advice(error)}; the"
                " bucket keeps old versions: allow s3:ListBucketVersions and s3:DeleteObjectVersion"
            ) from None

    def check_readable(self) -> None:
        try:
            self._call("list_objects_v2", Prefix=self._folder_key(), MaxKeys=1)
        except self.any_error as error:
            raise self._list_error((), error) from None

    def _make_client(self) -> Any:
        return _make_client(self._endpoint_url or None, self._timeout_seconds)

    def _get(self, key: str, etag: str | None) -> StoredFile:
        response = self._call("get_object", Key=key, **_if_match(etag))
        # `with response["Body"]` gives the raw stream, whose errors are not botocore's.
        with closing(response["Body"]) as body:
            return StoredFile(body.read(), _version(response))

    def _head(self, key: str) -> FileVersion:
        return _version(self._call("head_object", Key=key))

    def _put(self, key: str, content: bytes, sha256: str, etag: str | None) -> str:
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        response = self._call(
            "put_object",
            Key=key,
            Body=content,
            ContentMD5=base64.b64encode(md5).decode(),
            Metadata={SHA256_KEY: sha256},
            **(_if_match(etag) or {"IfNoneMatch": "*"}),
        )
        return str(response["ETag"])

    def _delete(self, key: str, etag: str | None) -> None:
        self._call("delete_object", Key=key, **_if_match(etag))

    def _list(self, prefix: str, first: str) -> Iterator[tuple[str, FileVersion]]:
        start = {"StartAfter": first} if first > prefix else {}
        for page in self._pages("list_objects_v2", Prefix=prefix, **start):
            for listed in page.get("Contents", ()):
                yield listed["Key"], FileVersion(listed["Size"], listed["ETag"])

    def _list_level(self, prefix: str) -> Iterator[str]:
        for page in self._pages("list_objects_v2", Prefix=prefix, Delimiter="/"):
            yield from (it["Prefix"] for it in page.get("CommonPrefixes", ()))
            yield from (it["Key"] for it in page.get("Contents", ()))

    def _delete_old(self, prefix: str) -> None:
        for page in self._pages("list_object_versions", Prefix=prefix):
            for old in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if not old["IsLatest"]:
                    self._call("delete_object", Key=old["Key"], VersionId=old["VersionId"])

    def _status(self, error: Exception) -> int:
        if not isinstance(error, ClientError):
            return 0
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])

    def _is_bucket_missing(self, error: Exception) -> bool:
        return _code(error) == "NoSuchBucket"

    def _is_condition_unknown(self, error: Exception) -> bool:
        is_named = _code(error) in ("NotImplemented", "InvalidArgument")
        return is_named or super()._is_condition_unknown(error)

    def _advice(self, error: Exception) -> str:
        if isinstance(error, ClientError):
            code, status = _code(error), self._status(error)
            advice = ADVICE.get(code) or ADVICE.get(CODE_OF_STATUS.get(status, ""))
            return advice or f"the store refused, {code}, HTTP {status}"
        if isinstance(
            error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)
        ):
            return (
                "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                " AWS_PROFILE"
            )
        if isinstance(error, ProfileNotFound):
            return "there is no such AWS profile: correct AWS_PROFILE"
        if isinstance(error, self.cut_body):
            name = type(error).__name__
            return f"the store does not answer ({name}): check store.endpoint_url and the network"
        return type(error).__name__

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
        response = getattr(self.client, operation)(Bucket=self.name, **arguments)
        self._keeps_versions |= "VersionId" in response
        return response


def _if_match(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"IfMatch": etag}


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


def _code(error: Exception) -> str:
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))
