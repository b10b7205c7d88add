"""Storage backend in a container of Azure Blob Storage, with conditional writes and removals.

The account and its credentials come from the variables of the Azure command line. Without a key,
`DefaultAzureCredential` finds a managed identity or a login. Only this module imports `azure`.
"""

import os
from collections.abc import Iterator
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobPrefix, ContainerClient, ExponentialRetry

from convo_pipeline.errors import StoreError
from convo_pipeline.storage.backend import FileVersion, StoredFile
from convo_pipeline.storage.objects import SHA256_KEY, ObjectStore

CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
ACCOUNT = "AZURE_STORAGE_ACCOUNT"
KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN")
FOLDER_MARK = "hdi_isfolder"
"""Metadata key of the folders that an account with a hierarchical namespace lists as objects."""
ADVICE = {
    "ContainerNotFound": "there is no such container: create it, or correct store.root",
    "InvalidResourceName": "this is no container name: correct store.root",
    "AuthenticationFailed": f"access denied: check {CONNECTION_STRING}, {' and '.join(KEYS)}",
    "AuthorizationFailure": f"access denied: check {CONNECTION_STRING}, {' and '.join(KEYS)}",
}
ROLE = "access denied: give this identity the role Storage Blob Data Contributor on the container"


class AzureContainer(ObjectStore):
    """The objects below one `az://container/prefix`."""

    kind = "Azure"
    stale_etag = '"0x0"'
    any_error = (AzureError,)
    no_response = (ServiceRequestError, ServiceResponseError)
    cut_body = (*no_response, IncompleteReadError)

    def _make_client(self) -> Any:
        options: dict[str, Any] = {
            "retry_policy": ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=3),
            "connection_timeout": min(10.0, self._timeout_seconds),
            "read_timeout": self._timeout_seconds,
        }
        connection = os.environ.get(CONNECTION_STRING)
        try:
            if connection:
                return ContainerClient.from_connection_string(connection, self.name, **options)
            account = os.environ.get(ACCOUNT)
            if not (account or self._endpoint_url):
                raise StoreError(f"no Azure account: set {ACCOUNT} or {CONNECTION_STRING}")
            address = self._endpoint_url or f"https://{account}.blob.core.windows.net"
            given = next(filter(None, map(os.environ.get, KEYS)), None)
            credential = given or DefaultAzureCredential()
            return ContainerClient(address, self.name, credential=credential, **options)
        except ValueError:  # its text can repeat the key
            raise StoreError(f"{CONNECTION_STRING} or store.endpoint_url is not valid") from None

    def _get(self, key: str, etag: str | None) -> StoredFile:
        stream = self.client.download_blob(key, **_if_match(etag))
        return StoredFile(stream.readall(), _version(stream.properties))

    def _head(self, key: str) -> FileVersion:
        return _version(self.client.get_blob_client(key).get_blob_properties())

    def _put(self, key: str, content: bytes, sha256: str, etag: str | None) -> str:
        condition = _if_match(etag) | {"overwrite": etag is not None}
        written = self.client.get_blob_client(key).upload_blob(
            content, metadata={SHA256_KEY: sha256}, validate_content=True, **condition
        )
        self._keeps_versions |= bool(written.get("version_id"))
        return _quoted(written["etag"])

    def _delete(self, key: str, etag: str | None) -> None:
        self.client.delete_blob(key, **_if_match(etag))

    def _list(self, prefix: str, first: str) -> Iterator[tuple[str, FileVersion]]:
        """Yield the objects from the prefix on: Azure's listing has no other start."""
        for blob in self.client.list_blobs(name_starts_with=prefix, include=["metadata"]):
            if FOLDER_MARK not in (blob.metadata or {}):
                yield blob.name, _version(blob)

    def _list_level(self, prefix: str) -> Iterator[str]:
        for blob in self.client.walk_blobs(prefix, delimiter="/", include=["metadata"]):
            if isinstance(blob, BlobPrefix) or FOLDER_MARK not in (blob.metadata or {}):
                yield blob.name

    def _delete_old(self, prefix: str) -> None:
        if not self._keeps_versions:
            return
        for blob in self.client.list_blobs(name_starts_with=prefix, include=["versions"]):
            if blob.version_id and not blob.is_current_version:
                self.client.delete_blob(blob.name, version_id=blob.version_id)

    def _status(self, error: Exception) -> int:
        return int(error.status_code or 0) if isinstance(error, HttpResponseError) else 0

    def _is_bucket_missing(self, error: Exception) -> bool:
        return _code(error) == "ContainerNotFound"

    def _advice(self, error: Exception) -> str:
        if isinstance(error, self.cut_body):
            name = type(error).__name__
            return (
                f"the store does not answer ({name}): check {ACCOUNT}, store.endpoint_url and the"
                " network"
            )
        code, status = _code(error), self._status(error)
        if code in ADVICE:
            return ADVICE[code]
        if isinstance(error, ClientAuthenticationError) and not status:
            return f"no Azure credentials: set {CONNECTION_STRING} or {KEYS[0]}, or log in"
        if status in (401, 403):
            return ROLE
        return f"the store refused, {code or type(error).__name__}, HTTP {status}"


def _if_match(etag: str | None) -> dict[str, Any]:
    return {} if etag is None else {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def _quoted(etag: str) -> str:
    """Return an ETag as in a header. A listing leaves out the quotes."""
    return '"{}"'.format(etag.strip('"'))


def _version(blob: Any) -> FileVersion:
    return FileVersion(blob.size, _quoted(blob.etag), (blob.metadata or {}).get(SHA256_KEY))


def _code(error: Exception) -> str:
    """Return the store's error code; the library gives some as text and some as an enum."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))
