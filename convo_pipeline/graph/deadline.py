"""Connections whose time-out is the time of the whole answer, not of the wait between two bytes.

A server that drips one byte a second passes every socket time-out for ever (slow loris). Here the read time-out that
a connection was given becomes a deadline: status line, headers and body share it.
"""

import http.client
import io
import socket
import time
from typing import Any

import urllib3
import urllib3.connection


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until the deadline."""

    def __init__(self, connection: socket.socket, deadline_seconds: float) -> None:
        self._socket = connection
        self._raw = connection.makefile("rb", buffering=0)
        self._deadline_seconds = deadline_seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline_seconds - time.monotonic()
        if left <= 0:
            raise TimeoutError("the whole answer took too long")
        self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _SocketView:
    """Gives `http.client` the reader it asks a socket for."""

    def __init__(self, connection: socket.socket, deadline_seconds: float) -> None:
        self._reader = _DeadlineReader(connection, deadline_seconds)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader, 1 << 16)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        timeout_seconds = sock.gettimeout()
        if timeout_seconds is None:
            raise ValueError("a connection with a deadline needs a time-out")
        super().__init__(_SocketView(sock, time.monotonic() + timeout_seconds), *arguments, **named)  # type: ignore[arg-type]


class _HttpConnection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


POOL_CLASSES: dict[str, type[urllib3.HTTPConnectionPool]] = {"http": _HttpPool, "https": _HttpsPool}
