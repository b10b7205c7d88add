"""The data deletion callback as a WSGI application, for mounting behind the operator's own TLS.

POST takes Meta's `signed_request`, GET with `?code=` tells a person what became of theirs. It is answered as soon as the
request is noted; the forgetting follows when the answer was sent. It logs nothing: what comes in names a person.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.errors import ConvoError, PayloadError
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.deletion import (
    DeletionRequest,
    callback_response,
    describe,
    finish,
    read_app_secret,
    read_request,
    read_status_url,
    receive,
)
from convo_pipeline.settings import Settings, read_settings

HOST = "127.0.0.1"
MOST_BYTES = 64 * 1024
JSON, TEXT = "application/json", "text/plain; charset=utf-8"
Answer = tuple[str, str, bytes]
"""Status line, content type and body."""


def deletion_callback(config: str | None = None) -> WSGIApplication:
    """Return the application for a configuration; a SettingsError says what it lacks."""
    return make_application(read_settings(config), os.environ)


def make_application(
    settings: Settings, environ: Mapping[str, str], clock: Clock = SYSTEM_CLOCK
) -> WSGIApplication:
    """Return the application; secrets stay in the environment."""
    read_app_secret(settings, environ)
    read_status_url(settings)
    callback = _Callback(settings, environ, clock)

    def application(request: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        (status, kind, body), noted = callback.answer(request)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                   ("X-Content-Type-Options", "nosniff")]  # fmt: skip
        start_response(status, headers)
        return _Body(body, (lambda: callback.finish(noted)) if noted else None)

    return application


class _Body:
    """A body, and what is done once it was sent: servers call `close` then (PEP 3333)."""

    def __init__(self, content: bytes, then: Callable[[], None] | None) -> None:
        self._content, self._then = content, then

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    def close(self) -> None:
        then, self._then = self._then, None
        if then:
            then()


class _Callback:
    """What is answered; the lake is opened for each request, since each may be a thread's of its own."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], clock: Clock) -> None:
        self._settings, self._environ, self._clock = settings, environ, clock

    def answer(self, request: WSGIEnvironment) -> tuple[Answer, DeletionRequest | None]:
        """Return the answer, and the request that is to be finished."""
        try:
            if request["REQUEST_METHOD"] == "POST":
                return self._receive(_read_form(request).get("signed_request", [""])[0])
            if request["REQUEST_METHOD"] in ("GET", "HEAD"):
                code = parse_qs(request.get("QUERY_STRING", "")).get("code", [""])[0]
                return self._tell(code, is_head=request["REQUEST_METHOD"] == "HEAD"), None
        except PayloadError as error:
            return ("400 Bad Request", JSON, dump_json({"error": str(error)})), None
        except ConvoError:
            return (
                "503 Service Unavailable",
                JSON,
                dump_json({"error": "this cannot be noted now; send it again"}),
            ), None
        return (
            "405 Method Not Allowed",
            JSON,
            dump_json({"error": "POST a signed_request, or GET with a code"}),
        ), None

    def finish(self, noted: DeletionRequest) -> None:
        """Forget the person; what cannot be done now is done by the nightly upkeep."""
        with suppress(ConvoError), self._open() as store:
            finish(self._settings, store, noted, self._clock.now())

    def _receive(self, text: str) -> tuple[Answer, DeletionRequest]:
        with self._open() as store:
            noted = receive(self._settings, store, text, self._environ, self._clock.now())
        return ("200 OK", JSON, callback_response(self._settings, noted)), noted

    def _tell(self, code: str, *, is_head: bool) -> Answer:
        with self._open() as store:
            found = read_request(store, code)
        text = describe(found) if found else "There is no request with this code.\n"
        return ("200 OK" if found else "404 Not Found", TEXT, b"" if is_head else text.encode())

    @contextmanager
    def _open(self) -> Iterator[Store]:
        with closing(Store(self._settings.store, self._clock)) as store:
            yield store


def _read_form(request: WSGIEnvironment) -> dict[str, list[str]]:
    length = request.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MOST_BYTES:
        raise PayloadError("this is no form of a deletion request")
    body: bytes = request["wsgi.input"].read(int(length))
    try:
        return parse_qs(body.decode("ascii"))
    except ValueError:
        raise PayloadError("this is no form of a deletion request") from None


class _Server(ThreadingMixIn, WSGIServer):
    """A server that goes on answering while somebody is being forgotten."""

    daemon_threads = False


class _SilentHandler(WSGIRequestHandler):
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a request's line and errors may name a person's request."""


def make_callback_server(application: WSGIApplication, port: int) -> WSGIServer:
    """Return a server on the loopback address alone; port 0 is a free one."""
    return make_server(HOST, port, application, server_class=_Server, handler_class=_SilentHandler)
