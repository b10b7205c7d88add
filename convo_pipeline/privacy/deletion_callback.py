"""Meta's data deletion callback as a WSGI application; the operator's own server adds TLS.

POST takes Meta's `signed_request`. GET with `?code=` returns the status of a request as text. A
POST is answered as soon as the request is stored, and the person is erased after that. The
application logs nothing of a request, because its input names a person. Only a defect is logged,
with its class and place.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from itertools import islice
from socketserver import ThreadingMixIn
from typing import TextIO
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from convo_pipeline.base.clock import SYSTEM_CLOCK, Clock
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.errors import ConvoError, PayloadError, SettingsError
from convo_pipeline.lake.store import Store
from convo_pipeline.privacy.deletion import (
    MOST_CHARACTERS,
    DeletionRequest,
    callback_response,
    describe_request,
    finish_request_soon,
    read_app_secret,
    read_request,
    read_status_url,
    receive_request,
)
from convo_pipeline.reasons import locate_error
from convo_pipeline.settings import Settings, read_settings

HOST = "127.0.0.1"
MOST_BYTES = 64 * 1024
"""Size of the largest form that is read."""
MOST_LINES = 100
"""Lines of a request that are read and discarded before it is refused."""
JSON, TEXT = "application/json", "text/plain; charset=utf-8"
WsgiResponse = tuple[str, str, bytes]
"""Status line, content type and body."""


def deletion_callback(config: str | None = None) -> WSGIApplication:
    """Return the application for a configuration file; a SettingsError says what is missing."""
    return make_application(read_settings(config), os.environ)


def make_application(
    settings: Settings, environ: Mapping[str, str], clock: Clock = SYSTEM_CLOCK
) -> WSGIApplication:
    """Return the application; it reads the app's secret from `environ` for each request."""
    read_app_secret(settings, environ)
    read_status_url(settings)
    callback = _Callback(settings, environ, clock)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        (status, content_type, body), request = callback.respond(environ)
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start_response(status, headers)
        return _Body(body, (lambda: callback.finish(request)) if request else None)

    return application


class _Body:
    """A response body with an action after it was sent: servers then call `close` (PEP 3333)."""

    def __init__(self, content: bytes, after_sending: Callable[[], None] | None) -> None:
        self._content, self._after_sending = content, after_sending

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    def close(self) -> None:
        action, self._after_sending = self._after_sending, None
        if action:
            action()


class _Callback:
    """Responses to requests; opens the lake for each one, because each can be in its own thread."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], clock: Clock) -> None:
        self._settings, self._environ, self._clock = settings, environ, clock

    def respond(self, environ: WSGIEnvironment) -> tuple[WsgiResponse, DeletionRequest | None]:
        """Return the response, and the request to finish after it."""
        method = environ["REQUEST_METHOD"]
        try:
            if method == "POST":
                text = _read_form(environ).get("signed_request", [""])[0]
                with self._open_store() as store:
                    request = receive_request(
                        self._settings, store, text, self._environ, self._clock.now()
                    )
                return ("200 OK", JSON, callback_response(self._settings, request)), request
            if method in ("GET", "HEAD"):
                query = environ.get("QUERY_STRING", "")
                if len(query) > MOST_CHARACTERS:
                    raise PayloadError("the query is too long")
                code = parse_qs(query).get("code", [""])[0]
                with self._open_store() as store:
                    found = read_request(store, code)
                page = describe_request(found) if found else "There is no request with this code.\n"
                status = "200 OK" if found else "404 Not Found"
                return (status, TEXT, b"" if method == "HEAD" else page.encode()), None
        except PayloadError as error:
            return _error_response("400 Bad Request", str(error)), None
        except ConvoError:
            reason = "this cannot be stored now; send it again"
            return _error_response("503 Service Unavailable", reason), None
        except Exception as error:
            _log_defect(error)
            return _error_response("500 Internal Server Error", "a defect of this program"), None
        reason = "POST a signed_request, or GET with a code"
        return _error_response("405 Method Not Allowed", reason), None

    def finish(self, request: DeletionRequest) -> None:
        """Erase the person; the nightly upkeep does what is not possible now."""
        try:
            with suppress(ConvoError), self._open_store() as store:
                finish_request_soon(self._settings, store, request, self._clock)
        except Exception as error:
            _log_defect(error)

    @contextmanager
    def _open_store(self) -> Iterator[Store]:
        with closing(Store(self._settings.store, self._clock)) as store:
            yield store


def _log_defect(error: Exception) -> None:
    sys.stderr.write(f"deletion callback: {locate_error(error)}\n")


def _error_response(status: str, text: str) -> WsgiResponse:
    return status, JSON, dump_json({"error": text})


def _read_form(environ: WSGIEnvironment) -> dict[str, list[str]]:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 9 or int(length) > MOST_BYTES:
        raise PayloadError("this is no form of a deletion request")
    try:
        body: bytes = environ["wsgi.input"].read(int(length))
        return parse_qs(body.decode("ascii"))
    except (ValueError, OSError):  # OSError: the connection ended or was silent too long.
        raise PayloadError("this is no form of a deletion request") from None


class _Server(ThreadingMixIn, WSGIServer):
    """A server with a thread per request, so that an erasure does not block the next request."""

    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing about a connection that ended or was silent too long."""


class _SilentHandler(WSGIRequestHandler):
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the request line and errors can name a person's request."""

    def get_stderr(self) -> TextIO:
        """Discard the tracebacks of connections that end while a response is sent."""
        return io.StringIO()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request line of more than 64 KiB by 400, after reading what the client sends."""
        if code == HTTPStatus.REQUEST_URI_TOO_LONG:
            code, message = HTTPStatus.BAD_REQUEST, None
            with suppress(OSError):
                lines = iter(lambda: self.rfile.readline(MOST_BYTES), b"")
                next((line for line in islice(lines, MOST_LINES) if not line.strip()), None)
        super().send_error(code, message, explain)


def make_callback_server(application: WSGIApplication, port: int) -> WSGIServer:
    """Return a server that listens on 127.0.0.1 only; port 0 takes a free port.

    Raise SettingsError if the port is taken.
    """
    try:
        return make_server(
            HOST, port, application, server_class=_Server, handler_class=_SilentHandler
        )
    except OSError as error:
        raise SettingsError(f"--port {port}: {error.strerror}") from None
