"""Serve the emulator over HTTP on 127.0.0.1: `EmulatorServer` in a thread, or `serve_forever`.

Its limits are in `docs/emulator.md`. It shares no code with the client that it tests.
"""

import asyncio
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from email.utils import format_datetime
from typing import Any, Protocol, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from convo_pipeline.emulator.api import GraphApi, write_json
from convo_pipeline.emulator.calls import (
    Call,
    CallLog,
    EmulatedResponse,
    LoggedCall,
    public_params,
    read_query,
)
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.emulator.fault import Fault, RawConnection, kind_of
from convo_pipeline.emulator.faults import (
    FAULTS,
    ActiveFaults,
    FaultError,
    FaultInjector,
    change_body,
    change_content,
    find_replacement,
    prepare,
)
from convo_pipeline.emulator.http_server import (
    HOST,
    AlreadySent,
    HttpServer,
    bind,
    make_server,
    open_silent_port,
    waited_seconds,
)
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import EMULATOR_TOKEN, World

__all__ = ["EMULATOR_TOKEN", "FAULTS", "EmulatorServer", "FaultError", "serve_forever"]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


class Api(Protocol):
    """Interface of an API that the server can serve."""

    def answer(self, call: Call) -> EmulatedResponse: ...


class EmulatorServer:
    """An emulated Graph API in a thread of this process.

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
        api: Api | None = None,
        faults: Sequence[Fault | str] = (),
        tls: tuple[str, str] | None = None,
    ) -> None:
        self.world = world or (World(clock) if api else default_world(clock, seed))
        self.clock = self.world.clock
        self.switches = switches or Switches()
        self.log = CallLog()
        self.failures: list[Exception] = []
        """Exceptions in the emulator; leaving the `with` block raises the first."""
        self.latency_seconds = latency_seconds
        self.api: Api = api or GraphApi(self.world, self.switches)
        self._seed = seed
        self.injector = FaultInjector(faults, self.world, self.switches, seed)
        self.foreign_calls: list[str] = []
        """Paths of calls to the other host; a correct client makes none."""
        self._tls = tls
        self._asked_port = port
        self._foreign: socket.socket | None = None
        self._silent: tuple[socket.socket, ...] = ()
        self._socket: socket.socket | None = None
        self._server: HttpServer | None = None
        self._thread: threading.Thread | None = None
        self._number = 0

    @property
    def port(self) -> int:
        if self._socket is None:
            raise RuntimeError("the emulator is not running")
        return int(self._socket.getsockname()[1])

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{HOST}:{self.port}"

    def start(self) -> Self:
        """Bind the port and serve in a thread; return when the server is ready."""
        if any(fault.kind.name == "connect_timeout" for fault in self.injector.faults):
            self._silent = open_silent_port(self._asked_port)
            self._socket = self._silent[0]
            return self
        self._socket, self._foreign = bind(self._asked_port), bind(0)
        self.injector.foreign_url = f"http://{HOST}:{self._foreign.getsockname()[1]}"
        self._server = make_server(self._app(), self._tls)
        sockets = ([self._socket, self._foreign],)
        self._thread = threading.Thread(
            target=self._server.run, args=sockets, name="emulator", daemon=True
        )
        self._thread.start()
        self._server.is_ready.wait(10)
        return self

    def set_faults(self, *faults: Fault | str) -> None:
        """Replace the faults from the next call on; without arguments, remove all."""
        foreign_url = self.injector.foreign_url
        self.injector = FaultInjector(faults, self.world, self.switches, self._seed, foreign_url)

    def stop(self) -> None:
        """Stop at once and drop open calls."""
        if self._server and self._thread:
            self._server.finish()
            self._thread.join(10)
        for each in (self._socket, self._foreign, *self._silent):
            if each:
                each.close()
        self._server = self._thread = self._socket = self._foreign = None
        self._silent = ()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *rest: object) -> None:
        self.stop()
        if self.failures and kind is None:
            raise self.failures[0]

    def _app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._handle, methods=METHODS)])

    async def _handle(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except Exception as error:
            self.failures.append(error)
            return Response(f"emulator defect: {traceback.format_exc()}", 500)

    async def _answer(self, request: Request) -> Response:
        transport = request.scope["emulator.transport"]
        at = time.monotonic() - waited_seconds(transport.get_extra_info("socket"))
        if self._foreign and request.scope["server"][1] == self._foreign.getsockname()[1]:
            self.foreign_calls.append(request.url.path)
            return Response(b"you should not be here", 200)
        call = await self._read(request)
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        with self.world.lock:
            active = self.injector.choose(call) if self.injector.faults else []
            answer, content = self._make(call, active)
            answer.headers.setdefault("Date", self._date(answer))
        self._note(call, answer, at)
        for kind, context in active:
            if kind.wire:
                wire = RawConnection(request.scope["emulator.transport"], request.receive)
                await kind.wire(context, wire, answer, content)
                return AlreadySent()
        return Response(content, answer.status, answer.headers)

    def _make(self, call: Call, active: ActiveFaults) -> tuple[EmulatedResponse, bytes]:
        """Return the response and its bytes, as the faults change them."""
        prepare(active)
        refusal = find_replacement(active)
        if refusal is None:
            answer = self.api.answer(call)
        else:
            call.kind = kind_of(call)
            answer = (
                refusal
                if isinstance(refusal, EmulatedResponse)
                else GraphApi(self.world, self.switches).refused(call, refusal)
            )
        if answer.content is None:
            answer.body = change_body(active, answer.body) if answer.status == 200 else answer.body
            answer.content = write_json(answer.body, self.switches)
        return answer, change_content(active, answer.content, answer.headers)

    def _date(self, answer: EmulatedResponse) -> str:
        skew = float(answer.headers.pop("x-emulator-skew-seconds", 0))
        return format_datetime(self.world.clock.now() + timedelta(seconds=skew), usegmt=True)

    async def _read(self, request: Request) -> Call:
        self._number += 1
        params = read_query(request.url.query)
        if request.method == "POST":
            params |= read_query((await request.body()).decode("utf-8", "replace"))
        base_url = f"http://{request.headers.get('host', HOST)}"
        path = request.scope["raw_path"].decode("ascii").split("?")[0]
        return Call(request.method, path, params, request.headers, base_url, self._number)

    def _note(self, call: Call, answer: EmulatedResponse, at: float) -> None:
        error = answer.body.get("error") if isinstance(answer.body, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        self.log.append(
            LoggedCall(
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
    """Serve until Ctrl-C; without `switches`, with the rate limit of 2 calls per second."""
    chosen = switches or Switches(limiter="sliding_window")
    with EmulatorServer(world, chosen, port=port, seed=seed, **options) as server:
        if on_start:
            on_start(server)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return
