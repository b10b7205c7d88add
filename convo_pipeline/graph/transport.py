"""Send one HTTP request and read the whole response, with one deadline and a size limit.

In this folder only this module uses requests and urllib3. Rules:
- redirects are not followed, their bodies are not read, and no address from a response is used;
- interim responses (1xx) are skipped, and a connection with anything unexpected is closed, so that
  no response is taken for the one of another request;
- proxies, .netrc and CA bundles of the environment are ignored (`Session.trust_env` is False);
- certificates are always verified, and a wrong one is not retried;
- one deadline for the whole response, and a limit on its decompressed bytes;
- no cookies are kept;
- an error contains no query, no body and no token.
"""

import http.client
import io
import logging
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
import urllib3
import urllib3.connection
from requests.adapters import HTTPAdapter

from convo_pipeline.base.cancellation import CHECK_SECONDS, Cancellation
from convo_pipeline.base.secrets import RedactingFilter
from convo_pipeline.errors import (
    ConvoError,
    GraphError,
    GraphFault,
    TooMuchDataError,
    UnreachableError,
)

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MAX_CONNECT_SECONDS = 8.0
"""Nothing checks for cancellation while a connection is opened, and a cancelled run has to end
within ten seconds."""
_CHUNK_BYTES = 1 << 18
_GZIP = 16 + zlib.MAX_WBITS
_LOG_FILTER = RedactingFilter()
_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.response")
_TRANSPORT_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    zlib.error,
)
_CONNECT_ERRORS = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
)


class _Sending(threading.local):
    """What this thread calls when its request was sent."""

    def __init__(self) -> None:
        self.on_sent: Callable[[], None] | None = None

    @contextmanager
    def reports_to(self, on_sent: Callable[[], None]) -> Iterator[None]:
        self.on_sent = on_sent
        try:
            yield
        finally:
            self.on_sent = None


_SENDING = _Sending()


@dataclass(frozen=True)
class HttpResponse:
    """A whole response.

    `content` is None if it was larger than the limit, and empty for a status between 300 and 399.
    `has_checksum` is False if a gzip body ended before its checksum. `is_first` is True for the
    first response of a connection, which cannot be the late response of another request.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes | None
    has_checksum: bool
    is_first: bool


class HttpTransport:
    """Sends requests to one server; safe for threads, which share its connections."""

    def __init__(
        self,
        timeout_seconds: float,
        connections: int,
        cancellation: Cancellation,
    ) -> None:
        """`timeout_seconds` limits connecting and the response together."""
        connect_seconds = min(MAX_CONNECT_SECONDS, timeout_seconds / 2)
        self._timeout = (connect_seconds, timeout_seconds - connect_seconds)
        self._connections = connections
        self._cancellation = cancellation
        self._session = self._open_session()
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_LOG_FILTER)

    def _open_session(self) -> requests.Session:
        session = _Session()
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers.update(
            {
                "User-Agent": "convo-pipeline",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            }
        )
        adapter = _DeadlineAdapter(self._connections, self._cancellation)
        for scheme in ("https://", "http://"):
            session.mount(scheme, adapter)
        return session

    def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        self._session.close()

    def get(
        self,
        url: str,
        parameters: Mapping[str, str],
        *,
        headers: Mapping[str, str],
        path: str,
        is_heavy: bool,
        is_alone: bool = False,
        on_sent: Callable[[], None] = lambda: None,
    ) -> HttpResponse:
        """Send one request and read its response; `is_alone` opens a connection for it alone.

        `on_sent` is called when the request was sent, before its response is read.

        Raises UnreachableError for every failure below HTTP and for a response that breaks HTTP,
        TooMuchDataError if a heavy request exceeds the deadline, and GraphError for a wrong
        certificate. `path` is named in the error.
        """
        try:
            with ExitStack() as stack, _SENDING.reports_to(on_sent):
                own = stack.enter_context(self._open_session()) if is_alone else None
                response = stack.enter_context(
                    (own or self._session).get(
                        f"{url}?{urlencode(parameters)}",
                        headers=headers,
                        stream=True,
                        allow_redirects=False,
                        timeout=self._timeout,
                    )
                )
                is_redirect = 300 <= response.status_code < 400
                chunks = response.raw.stream(_CHUNK_BYTES, decode_content=False)
                encoding = response.headers.get("Content-Encoding", "")
                content, has_checksum = read_body(
                    () if is_redirect else chunks, encoding, MAX_RESPONSE_BYTES
                )
                is_first = getattr(response.raw._original_response, "is_first", False)
                return HttpResponse(
                    response.status_code, response.headers, content, has_checksum, is_first
                )
        except (ConvoError, MemoryError):
            raise
        except Exception as error:  # the libraries raise many classes for a broken response
            failure = _read_failure(error, urlsplit(url).netloc, path, is_heavy)
        raise failure  # outside of `except`, because the cause holds the address with its query

    def post_json(self, url: str, document: Mapping[str, object]) -> int:
        """Send a JSON document and return the status of the response, whose body is not read.

        Raises GraphError for every failure below HTTP. It names the host only, because the
        address may be a secret.
        """
        host = urlsplit(url).hostname or ""
        try:
            with self._session.post(
                url, json=document, stream=True, allow_redirects=False, timeout=self._timeout
            ) as response:
                return response.status_code
        except (ConvoError, MemoryError):
            raise
        except Exception as error:
            failure = _read_failure(error, host, "", is_heavy=False)
        raise failure


def read_body(chunks: Iterable[bytes], encoding: str, max_bytes: int) -> tuple[bytes | None, bool]:
    """Join a body's chunks, decompressed if they are gzip; return whether it had its checksum.

    The body is None if it is larger than `max_bytes`. Raises zlib.error for broken gzip. A gzip
    body without its trailer is accepted: its JSON shows whether it is complete.

    >>> import gzip
    >>> packed = gzip.compress(b"{}")
    >>> read_body([packed[:5], packed[5:]], "gzip", 100), read_body([packed[:-8]], "gzip", 100)
    ((b'{}', True), (b'{}', False))
    """
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        return _join(chunks, max_bytes), True
    decompressor = zlib.decompressobj(_GZIP)
    content = _join(_decompress(decompressor, chunks, max_bytes), max_bytes)
    return content, content is None or decompressor.eof


def _decompress(
    decompressor: "zlib._Decompress", chunks: Iterable[bytes], max_bytes: int
) -> Iterator[bytes]:
    """Yield parts of at most the limit's size: a compressed kilobyte may hold a megabyte."""
    for chunk in chunks:
        while chunk and not decompressor.eof:
            yield decompressor.decompress(chunk, max_bytes + 1)
            chunk = decompressor.unconsumed_tail


def _join(chunks: Iterable[bytes], max_bytes: int) -> bytes | None:
    parts: list[bytes] = []
    byte_count = 0
    for chunk in chunks:
        byte_count += len(chunk)
        if byte_count > max_bytes:
            return None
        parts.append(chunk)
    return b"".join(parts)


def _read_failure(error: Exception, host: str, path: str, is_heavy: bool) -> GraphError:
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return GraphError(GraphFault(path=path, reason="the server's certificate is not trusted"))
    if not any(isinstance(cause, _TRANSPORT_ERRORS) for cause in causes):
        reason = f"the response is not valid HTTP ({type(error).__name__})"
        return UnreachableError(GraphFault(path=path, reason=reason))
    timeouts = requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError
    if isinstance(error, timeouts):
        kind = TooMuchDataError if is_heavy else UnreachableError
        return kind(GraphFault(path=path, reason="the response took too long"))
    reason = f"the response ended early ({type(error).__name__})"
    if any(isinstance(cause, _CONNECT_ERRORS) for cause in causes):
        details = (cause.strerror for cause in causes if isinstance(cause, OSError))
        detail = next(filter(None, details), "timeout").lower()
        reason = f"cannot connect to {host}: {detail}"
    return UnreachableError(GraphFault(path=path, reason=reason))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, which urllib3 keeps in attributes and arguments."""
    while error is not None:
        yield error
        yield from (part for part in error.args if isinstance(part, BaseException))
        reasons = (getattr(each, "reason", None) for each in (error, *error.args))
        reason = next((each for each in reasons if isinstance(each, BaseException)), None)
        error = reason or error.__cause__ or error.__context__


class _Session(requests.Session):
    """A session that ignores redirects: requests reads their bodies and fails at odd addresses."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _DeadlineAdapter(HTTPAdapter):
    """Uses connections whose read timeout is a deadline for the whole response.

    A server that sends one byte a second never exceeds a socket timeout (slow loris). Here status
    line, headers and body share one deadline, and a cancelled run stops waiting for them.
    """

    def __init__(self, connections: int, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *arguments: object, **named: object) -> None:
        super().init_poolmanager(*arguments, **named)  # type: ignore[arg-type]
        self.poolmanager.pool_classes_by_scheme = _make_pool_classes(self._cancellation)


def _make_pool_classes(cancellation: Cancellation) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    used_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    class DeadlineResponse(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
            if _SENDING.on_sent:
                _SENDING.on_sent()
            self.is_first = sock not in used_sockets
            used_sockets.add(sock)
            timeout_seconds = sock.gettimeout()
            if timeout_seconds is None:
                raise ValueError("a connection with a deadline needs a timeout")
            reader = _DeadlineReader(sock, time.monotonic() + timeout_seconds, cancellation)
            super().__init__(_SocketReader(reader), *arguments, **named)  # type: ignore[arg-type]

        def begin(self) -> None:
            """Read status and headers of the final response.

            `http.client` takes an interim response other than 100 for the final one.
            """
            super().begin()
            while 100 <= self.status < 200 and self.status != http.client.SWITCHING_PROTOCOLS:
                self.headers = self.msg = None  # type: ignore[assignment]
                super().begin()
            if not _is_usual(self.status, self.headers):
                self.will_close = True

    class HttpConnection(urllib3.connection.HTTPConnection):
        response_class = DeadlineResponse

    class HttpsConnection(urllib3.connection.HTTPSConnection):
        response_class = DeadlineResponse

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    return {"http": HttpPool, "https": HttpsPool}


def _is_usual(status: int, headers: Message) -> bool:
    """Whether status and headers leave no doubt about where the response ends."""
    framing = [*headers.get_all("Content-Length", []), *headers.get_all("Transfer-Encoding", [])]
    return (status == http.client.OK or status >= 400) and len(framing) == 1


class _SocketReader:
    """Looks like a socket to `http.client`, which only calls `makefile`."""

    def __init__(self, reader: "_DeadlineReader") -> None:
        self._reader = reader

    def makefile(self, mode: str) -> io.BufferedReader:
        return _ResponseFile(self._reader, 1 << 16)


class _ResponseFile(io.BufferedReader):
    """Reads one response; closes the connection if more bytes arrived than the response has."""

    raw: "_DeadlineReader"

    def close(self) -> None:
        if not self.closed:
            self.raw.stop()
            if self.peek(1):
                self.raw.shut_down()
        super().close()


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until the deadline or until the run is cancelled."""

    def __init__(
        self, connection: socket.socket, deadline_seconds: float, cancellation: Cancellation
    ) -> None:
        self._socket = connection
        self._file = connection.makefile("rb", buffering=0)  # keeps the socket open
        self._deadline_seconds = deadline_seconds
        self._cancellation = cancellation
        self._is_stopped = False

    def readable(self) -> bool:
        return True

    def stop(self) -> None:
        """Return no further bytes."""
        self._is_stopped = True

    def shut_down(self) -> None:
        """End the connection: the next request opens a new one."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def readinto(self, buffer: Any) -> int | None:
        while not self._is_stopped:
            self._cancellation.check()
            remaining_seconds = self._deadline_seconds - time.monotonic()
            if remaining_seconds <= 0:
                raise TimeoutError("the whole response took too long")
            self._socket.settimeout(min(remaining_seconds, CHECK_SECONDS))
            with suppress(TimeoutError):
                return self._socket.recv_into(buffer)
        return None

    def close(self) -> None:
        self._file.close()
        super().close()
