"""Storage backend in a bucket of Google Cloud Storage, with conditional writes and removals.

Google numbers the versions of an object: its generation is our ETag. Credentials are Google's
application default credentials. Only this module imports `google`.
"""

from collections.abc import Iterator
from typing import Any

from google.api_core.exceptions import (
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    RetryError,
)
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from convo_pipeline.errors import StoreError
from convo_pipeline.storage.backend import FileVersion, StoredFile
from convo_pipeline.storage.objects import READ_TRIES, SHA256_KEY, ObjectStore

FIELDS = "items(name,generation,size,metadata),nextPageToken"
DENIED = "access denied: give this identity the role Storage Object User on the bucket"


class GoogleBucket(ObjectStore):
    """The objects below one `gs://bucket/prefix`."""

    kind = "Google"
    stale_etag = "1"
    no_response = (RetryError, OSError)  # requests' errors are OSErrors
    cut_body = (*no_response, DataCorruption)
    any_error = (GoogleAPICallError, InvalidResponse, GoogleAuthError, *cut_body)

    def _make_client(self) -> Any:
        options = {"api_endpoint": self._endpoint_url} if self._endpoint_url else None
        try:
            return storage.Client(client_options=options)
        except GoogleAuthError as error:
            raise StoreError(f"cannot open {self.url}: {self._advice(error)}") from None

    @property
    def _options(self) -> dict[str, Any]:
        """Time limits of each request. Every write has a condition, so it can be sent again."""
        seconds = self._timeout_seconds
        return {
            "timeout": (min(10.0, seconds), seconds),
            "retry": DEFAULT_RETRY.with_timeout(seconds),
        }

    def _blob(self, key: str) -> Any:
        return self.client.bucket(self.name).blob(key)

    def _get(self, key: str, etag: str | None) -> StoredFile:
        """Return an object. Its metadata and its bytes are two requests, so it can change between.

        Then an unconditional read begins again.
        """
        condition = {} if etag is None else {"if_generation_match": int(etag)}
        for tries_left in reversed(range(READ_TRIES)):
            blob = self._blob(key)  # one that was loaded asks for its old version again
            blob.reload(**condition, **self._options)
            version = _version(blob)
            try:
                content = blob.download_as_bytes(
                    if_generation_match=int(version.etag), **self._options
                )
                return StoredFile(content, version)
            except (NotFound, PreconditionFailed):  # the version was replaced or removed
                if etag is not None or not tries_left:
                    raise PreconditionFailed("the object changed while it was read") from None
        raise AssertionError("unreachable")

    def _head(self, key: str) -> FileVersion:
        blob = self._blob(key)
        blob.reload(**self._options)
        return _version(blob)

    def _put(self, key: str, content: bytes, sha256: str, etag: str | None) -> str:
        blob = self._blob(key)
        blob.metadata = {SHA256_KEY: sha256}
        generation = 0 if etag is None else int(etag)
        blob.upload_from_string(
            content, if_generation_match=generation, checksum="crc32c", **self._options
        )
        return str(blob.generation)

    def _delete(self, key: str, etag: str | None) -> None:
        condition = {} if etag is None else {"if_generation_match": int(etag)}
        self._blob(key).delete(**condition, **self._options)

    def _list(self, prefix: str, first: str) -> Iterator[tuple[str, FileVersion]]:
        pages = self.client.list_blobs(
            self.name,
            prefix=prefix,
            start_offset=first if first > prefix else None,
            fields=FIELDS,
            **self._options,
        )
        return ((blob.name, _version(blob)) for blob in pages)

    def _list_level(self, prefix: str) -> Iterator[str]:
        pages = self.client.list_blobs(self.name, prefix=prefix, delimiter="/", **self._options)
        yield from (blob.name for blob in pages)
        yield from pages.prefixes  # filled while the pages are read

    def _delete_old(self, prefix: str) -> None:
        pages = self.client.list_blobs(self.name, prefix=prefix, versions=True, **self._options)
        for blob in pages:
            if blob.time_deleted:
                blob.delete(**self._options)

    def _status(self, error: Exception) -> int:
        if isinstance(error, InvalidResponse):
            return int(error.response.status_code)
        return int(error.code or 0) if isinstance(error, GoogleAPICallError) else 0

    def _is_bucket_missing(self, error: Exception) -> bool:
        """Return whether the store names the bucket in a 404. It names a missing object too."""
        return self._status(error) == 404 and "bucket does not exist" in str(error)

    def _advice(self, error: Exception) -> str:
        status = self._status(error)
        if isinstance(error, DefaultCredentialsError):
            return (
                "no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS, or log in with"
                " `gcloud auth application-default login`"
            )
        if isinstance(error, GoogleAuthError):
            return f"Google refuses the credentials ({type(error).__name__})"
        if isinstance(error, self.cut_body):
            name = type(error).__name__
            return f"the store does not answer ({name}): check store.endpoint_url and the network"
        if status == 404:
            return "there is no such bucket: create it, or correct store.root"
        if status in (401, 403):
            return DENIED
        return f"the store refused, HTTP {status}"


def _version(blob: Any) -> FileVersion:
    return FileVersion(blob.size, str(blob.generation), (blob.metadata or {}).get(SHA256_KEY))
