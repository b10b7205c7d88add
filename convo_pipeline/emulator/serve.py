"""The emulator over real HTTP on 127.0.0.1: `EmulatorServer` for tests and the demo, `serve_forever` for people.

What it is not: see `docs/emulator.md`. It shares no code with the client it is there to try.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from convo_pipeline.emulator.api import GraphApi, http_date, write_json
from convo_pipeline.emulator.calls import Answer, Call, CallLog, Seen, public_params, read_query
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import EMULATOR_TOKEN, World

__all__ = ["EMULATOR_TOKEN", "EmulatorServer", "serve_forever"]
HOST = "127.0.0.1"
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


class EmulatorServer:
    """A Graph API in a thread of this process.

    >>> import requests
    >>> with EmulatorServer(World()) as server:
    ...     requests.get(f"{server.base_url}/v26.0/1/conversations", timeout=5).status_code
    400
    """

    def __init__(
        self,
        world: World | None = None,
        switches: Switches | None = None,
        *,
        clock: VirtualClock | None = None,
        seed: int = 7,
        port: int = 0,
        latency_seconds: float = 0.0,
    ) -> None:
        self.world = world or default_world(clock, seed)
        self.clock = self.world.clock
        self.switches = switches or Switches()
        self.log = CallLog()
        self.latency_seconds = latency_seconds
        self.api = GraphApi(self.world, self.switches)
        self._asked_port = port
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._number = 0

    @property
    def port(self) -> int:
        if self._socket is None:
            raise RuntimeError("the emulator is not running")
        return int(self._socket.getsockname()[1])

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> Self:
        """Bind, then serve in a thread; returns once calls are answered."""
        self._socket = _bind(self._asked_port)
        self._server = _make_server(self._app())
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="emulator", daemon=True)
        self._thread.start()
        self._server.is_ready.wait(10)
        return self

    def stop(self) -> None:
        """Stop at once; calls in flight are dropped."""
        if self._server and self._thread:
            self._server.finish()
            self._thread.join(10)
        if self._socket:
            self._socket.close()
        self._server = self._thread = self._socket = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._handle, methods=METHODS)])

    async def _handle(self, request: Request) -> Response:
        at = time.monotonic()
        call = await self._read(request)
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        with self.world.lock:
            answer = self.api.answer(call)
            content = write_json(answer.body, self.switches)
            headers = answer.headers | {"Date": http_date(self.world)}
        self._note(call, answer, at)
        return Response(content, answer.status, headers)

    async def _read(self, request: Request) -> Call:
        self._number += 1
        params = read_query(request.url.query)
        if request.method == "POST":
            params |= read_query((await request.body()).decode("utf-8", "replace"))
        base_url = f"http://{request.headers.get('host', HOST)}"
        path = request.scope["raw_path"].decode("ascii").split("?")[0]
        return Call(request.method, path, params, request.headers, base_url, self._number)

    def _note(self, call: Call, answer: Answer, at: float) -> None:
        error = answer.body.get("error") if isinstance(answer.body, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        self.log.append(
            Seen(
                number=call.number,
                at=at,
                method=call.method,
                path=call.path,
                params=public_params(call.params),
                status=answer.status,
                kind=call.kind,
                account=call.account,
                token_in=call.token_in,
                code=code,
            )
        )


def serve_forever(
    world: World | None = None,
    switches: Switches | None = None,
    *,
    port: int = 0,
    seed: int = 7,
    on_start: Callable[[EmulatorServer], None] | None = None,
    **options: Any,
) -> None:
    """Serve until Ctrl-C, within the platform's 2 calls a second unless `switches` say otherwise."""
    chosen = switches or Switches(limiter="sliding_window")
    with EmulatorServer(world, chosen, port=port, seed=seed, **options) as server:
        if on_start:
            on_start(server)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


class _Server(uvicorn.Server):
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


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(512)
    return listener


def _make_server(app: Starlette) -> _Server:
    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    config = uvicorn.Config(
        outer,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
    )
    return _Server(config)
