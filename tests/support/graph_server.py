"""A scripted Graph server on a loopback port: each request gets the next reply of a script."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

DATE = "Thu, 19 Feb 2026 09:00:00 GMT"


@dataclass(frozen=True)
class Call:
    """One request as the server saw it; `raw_path` is percent-encoded."""

    raw_path: str
    parameters: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """One response; `act` may write to the socket itself instead."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    act: Callable[[BaseHTTPRequestHandler], None] | None = None

    @property
    def bytes(self) -> bytes:
        return self.content if self.content is not None else json.dumps(self.body).encode()


Script = list[Reply] | Callable[[Call], Reply]


class GraphServer:
    """Replies from a list, whose last reply repeats, or from a function of the call."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        call = Call(parts.path, parameters, {k.lower(): v for k, v in handler.headers.items()})
        with self._lock:
            self.calls.append(call)
            reply = (
                self.script(call)
                if callable(self.script)
                else self.script[min(len(self.calls), len(self.script)) - 1]
            )
        if reply.act is not None:
            reply.act(handler)
            return
        write(handler, reply)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def write(handler: BaseHTTPRequestHandler, reply: Reply, length: int | None = None) -> None:
    """Write a reply with the date `DATE`."""
    handler.send_response_only(reply.status)
    headers = {"Date": DATE, "Content-Type": "application/json"} | reply.headers
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(reply.bytes) if length is None else length))
    handler.end_headers()
    handler.wfile.write(reply.bytes)
    handler.wfile.flush()


def drip(seconds: float, *, in_headers: bool = False) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send a valid empty list, one byte of its body or headers after each pause.

    A client without a deadline for the whole response would accept it.
    """
    body = b'{"data": []}' + b" " * 1000
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX: {'y' * 1000}\r\n\r\n".encode()

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        whole, slow = (b"", head + body) if in_headers else (head, body)
        handler.wfile.write(whole)
        for byte in slow:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(seconds)

    return act


@contextmanager
def serving(script: Script) -> Iterator[GraphServer]:
    server = GraphServer(script)
    try:
        yield server
    finally:
        server.close()


def page(rows: list[object], after: str | None = None) -> Reply:
    """Return a list response; with `after` it has a `next`, which points to another server."""
    paging: dict[str, object] = {"cursors": {"before": "B", "after": after or "LAST"}}
    if after:
        paging["next"] = "https://evil.example/v1/x?access_token=canary"
    return Reply({"data": rows, "paging": paging})


def refusal(
    code: int, subcode: int | None = None, status: int = 400, message: str = "x", **headers: str
) -> Reply:
    error: dict[str, object] = {
        "message": message,
        "type": "OAuthException",
        "code": code,
        "fbtrace_id": "Atrace1",
    }
    if subcode is not None:
        error["error_subcode"] = subcode
    return Reply(
        {"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()}
    )
