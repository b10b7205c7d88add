"""HTTP server of the emulator in a thread, and a port that never accepts connections."""

import asyncio
import socket
import struct
import sys
import threading
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

HOST = "127.0.0.1"
KEEP_ALIVE_SECONDS = 75
LAST_DATA_RECEIVED = 52
"""Offset of the field in the structure `tcp_info`."""


class HttpServer(uvicorn.Server):
    """A server that a thread can start and stop without polling."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None

    async def main_loop(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.is_ready.set()
        await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for task in list(self.server_state.tasks):
            task.cancel()
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def finish(self) -> None:
        if self._loop and self._end:
            self._loop.call_soon_threadsafe(self._end.set)


class RawProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP protocol that gives the app the raw connection, for malformed responses."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        app: ASGIApp = self.app  # type: ignore[has-type]

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "emulator.transport": transport}, receive, send)

        self.app = with_transport


class AlreadySent(Response):
    """A response that was already written to the raw connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["emulator.transport"].close()
        while (await receive())["type"] != "http.disconnect":
            pass


def bind(port: int) -> socket.socket:
    """Return a listener. asyncio sets TCP_NODELAY only if the protocol is named.

    Without TCP_NODELAY the body of a response arrives 40 ms after its headers.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(512)
    return listener


def waited_seconds(connection: socket.socket | None) -> float:
    """Return how long ago the system received the newest bytes of a connection; 0 if unknown.

    The server of a busy machine reads a request long after it arrived. `tcpi_last_data_recv` of
    Linux (`linux/tcp.h`) counts milliseconds.
    """
    if connection is None or not sys.platform.startswith("linux"):
        return 0.0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_DATA_RECEIVED + 4)
    (milliseconds,) = struct.unpack_from("=I", info, LAST_DATA_RECEIVED)
    return float(milliseconds) / 1000


def open_silent_port(port: int = 0) -> tuple[socket.socket, ...]:
    """Return a listener with a full queue, and the sockets that fill it: connects time out."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, port))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return (listener, *fillers)


def make_server(app: Starlette, tls: tuple[str, str] | None = None) -> HttpServer:
    """Return a server without logs; `tls` is (certificate file, key file)."""
    config = uvicorn.Config(
        app,
        http=RawProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    return HttpServer(config)
