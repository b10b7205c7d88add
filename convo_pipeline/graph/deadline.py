"""Connections whose time-out is the time of the whole answer, not of the wait between two bytes.

A server that drips one byte a second passes every socket time-out for ever (slow loris). Here the read time-out that
a connection was given becomes a deadline: status line, headers and body share it.
While an answer is waited for, a look now and then tells whether the run was ended meanwhile.
"""

import http.client
import io
import socket
import time
from contextlib import suppress
from typing import Any

import urllib3
import urllib3.connection

from convo_pipeline.base.cancellation import CHECK_SECONDS, Cancellation


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until the deadline, or the end of the run."""

    def __init__(
        self, connection: socket.socket, deadline_seconds: float, cancellation: Cancellation
    ) -> None:
        self._socket = connection
        self._held_open = connection.makefile("rb", buffering=0)
        self._deadline_seconds = deadline_seconds
        self._cancellation = cancellation

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._cancellation.check()
            left = self._deadline_seconds - time.monotonic()
            if left <= 0:
                raise TimeoutError("the whole answer took too long")
            self._socket.settimeout(min(left, CHECK_SECONDS))
            with suppress(TimeoutError):
                return self._socket.recv_into(buffer)

    def close(self) -> None:
        self._held_open.close()
        super().close()


class _SocketView:
    """Gives `http.client` the reader it asks a socket for."""

    def __init__(
        self, connection: socket.socket, deadline_seconds: float, cancellation: Cancellation
    ) -> None:
        self._reader = _DeadlineReader(connection, deadline_seconds, cancellation)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader, 1 << 16)


def pool_classes(cancellation: Cancellation) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return the pools by scheme whose connections keep a deadline and end with the run."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
            timeout_seconds = sock.gettimeout()
            if timeout_seconds is None:
                raise ValueError("a connection with a deadline needs a time-out")
            view = _SocketView(sock, time.monotonic() + timeout_seconds, cancellation)
            super().__init__(view, *arguments, **named)  # type: ignore[arg-type]

    class HttpConnection(urllib3.connection.HTTPConnection):
        response_class = Response

    class HttpsConnection(urllib3.connection.HTTPSConnection):
        response_class = Response

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    return {"http": HttpPool, "https": HttpsPool}
