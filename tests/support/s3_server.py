"""A real S3 API on a real socket, and a proxy that loses responses, waits or drops conditions."""

import logging
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEEXAMPLE12",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-text-may-show",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}
CONDITIONS = ("if-match", "if-none-match")


class S3Server:
    """An S3 server, and a client for direct access."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.client = client(self.url)

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def objects(self, bucket: str) -> dict[str, str]:
        """Return every object's ETag and time by key, without the preflight's probe."""
        listed = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {
            each["Key"]: f"{each['ETag']} {each['LastModified']}"
            for each in listed
            if ".preflight" not in each["Key"]
        }


def client(url: str) -> Any:
    keys = {
        "aws_access_key_id": "looker",
        "aws_secret_access_key": "looker",
        "region_name": "us-east-1",
    }
    session = boto3.session.Session()
    return session.client("s3", endpoint_url=url, **keys)  # type: ignore[call-overload]


@contextmanager
def serve_s3() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    found = S3Server(server.get_host_and_port())
    try:
        yield found
    finally:
        found.client.close()
        server.stop()


@contextmanager
def serve_s3_process() -> Iterator[S3Server]:
    """Run the server in a process of its own: it does not delay the threads of the test."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()[:2]
    command = [sys.executable, "-m", "moto.server", "-H", address[0], "-p", str(address[1])]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            while True:
                with suppress(OSError):
                    socket.create_connection(address).close()
                    break
                assert process.poll() is None, "the S3 server did not start"
                time.sleep(0.05)
            server = S3Server(address)
            yield server
            server.client.close()
        finally:
            process.kill()


def copy_bucket(server: S3Server, name: str) -> str:
    """Copy a bucket; return the name of the copy."""
    twin = f"{name}-before"
    server.client.create_bucket(Bucket=twin)
    for key in server.objects(name):
        server.client.copy_object(Bucket=twin, Key=key, CopySource={"Bucket": name, "Key": key})
    return twin


class Fault:
    """What the proxy does to the next matching requests; it records all requests."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.left = 0
        self.method = "PUT"
        self.ending = "data.parquet"
        self.wait_seconds = 0.0
        self.is_cut = False
        self.is_garbled = False
        """Whether a lost response over TLS arrives by half, then bytes that no key fits."""
        """Whether a lost response arrives by half: the connection is reset in its body."""
        self.drops_conditions = False
        self.before: Callable[[], None] | None = None
        self.listed: tuple[str, str] | None = None

    def list_from(self, bucket: str, twin: str) -> None:
        """Serve the listings of a copy from now on: late listings."""
        self.listed = (f"/{bucket}?", f"/{twin}?")

    def lose_answers(self, count: int, method: str = "PUT", wait_seconds: float = 0.0) -> None:
        """Do the next requests, wait, and cut the connection without a response."""
        self.left, self.method, self.wait_seconds = count, method, wait_seconds

    def do_before(self, ending: str, action: Callable[[], None], method: str = "PUT") -> None:
        """Call a function before the next such request."""
        self.ending, self.before, self.method = ending, action, method

    def matches(self, method: str, path: str) -> bool:
        return method == self.method and path.split("?")[0].endswith(self.ending)


class ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: tuple[str, int]
    fault: Fault

    def forward(self) -> None:
        fault = self.fault
        path = unquote(self.path)
        fault.seen.append((self.command, path))
        is_meant = fault.matches(self.command, path)
        if is_meant and fault.before:
            action, fault.before = fault.before, None
            action()
        answer = self.ask()
        if is_meant and fault.left:
            fault.left -= 1
            time.sleep(fault.wait_seconds)
            self.close_connection = True
            if fault.is_garbled:
                self._send(*answer, share=0.5)
                os.write(self.connection.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
            elif fault.is_cut:
                self._send(*answer, share=0.5)
                reset = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            return
        self._send(*answer)

    def _send(
        self, status: int, headers: list[tuple[str, str]], content: bytes, share: float = 1
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in (
                "transfer-encoding",
                "connection",
                "content-length",
                "date",
                "server",
            ):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get(
            "content-length", str(len(content))
        )
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content[: int(len(content) * share)])
        self.wfile.flush()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

    def ask(self) -> tuple[int, list[tuple[str, str]], bytes]:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        dropped = CONDITIONS if self.fault.drops_conditions else ()
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in (*dropped, "expect")
        }
        connection = HTTPConnection(*self.target)
        try:
            path = self.path
            if self.fault.listed and self.command == "GET" and "list-type=2" in path:
                path = path.replace(*self.fault.listed, 1)
            connection.request(self.command, path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class Proxy:
    """A proxy of a server that can fail. With a certificate and its key it uses TLS."""

    def __init__(
        self,
        address: tuple[str, int],
        certificate: tuple[str, str] | None = None,
        handler_class: type["ProxyHandler"] | None = None,
    ) -> None:
        self.fault = Fault()
        bases = (handler_class or ProxyHandler,)
        handler = type("Handler", bases, {"target": address, "fault": self.fault})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._server.server_address[1]

    @property
    def url(self) -> str:
        return "{}://{}:{}".format(self._scheme, *self.address)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
