"""Responses that break HTTP or arrive late, from a server that writes exact bytes."""

import json
import logging
import resource
import socket
import time

import pytest

from convo_pipeline import errors
from tests.integration.graph.test_client import Sleeps, client_of
from tests.support.raw_server import raw_serving, whole

MEGABYTE = 1 << 20


def messages_of(request: str) -> bytes:
    """Return one message that names the conversation of the request."""
    node = request.split("/")[2]
    return json.dumps({"data": [{"id": f"m_of_{node}"}]}).encode()


def fetch(url: str, *nodes: str) -> list[object]:
    """Fetch one page of each conversation on one client; return the ids of its messages."""
    with client_of(url) as client:
        pages = [client.fetch_messages(node, "id", 5) for node in nodes]
    return [[row["id"] for row in page.rows if isinstance(row, dict)] for page in pages]


NODES = ("t_1", "t_2", "t_3")
EXPECTED = [["m_of_t_1"], ["m_of_t_2"], ["m_of_t_3"]]


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        ("100 Continue", 0.0),
        ("102 Processing", 0.0),
        ("103 Early Hints", 0.0),
        ("103 Early Hints", 1.2),
        ("199 X", 0.0),
    ],
)
def test_interim_response_is_skipped(status: str, seconds: float) -> None:
    def answer(request: str, connection: socket.socket) -> None:
        interim = f"HTTP/1.1 {status}\r\nLink: </x>; rel=preload\r\n\r\n".encode()
        connection.sendall(interim * 2)
        time.sleep(seconds if "t_1" in request else 0)
        connection.sendall(whole(messages_of(request)))

    with raw_serving(answer) as server:
        assert fetch(server.url, *NODES) == EXPECTED
    assert server.connections == 1


@pytest.mark.parametrize(
    "surplus",
    [b"x", b"\r\n", whole(b'{"data": [{"id": "stray"}]}'), b"HTTP/1.1 103 Early Hints\r\n\r\n"],
)
def test_bytes_after_a_response_close_the_connection(surplus: bytes) -> None:
    def answer(request: str, connection: socket.socket) -> None:
        connection.sendall(whole(messages_of(request)) + surplus)

    with raw_serving(answer) as server:
        assert fetch(server.url, *NODES) == EXPECTED
    assert server.connections == len(server.requests) == 3


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: {0}\r\nContent-Length: {0}\r\n",
        "Content-Length: {0}\r\nTransfer-Encoding: identity\r\n",
    ],
)
def test_doubtful_length_closes_the_connection(head: str) -> None:
    def answer(request: str, connection: socket.socket) -> None:
        body = messages_of(request)
        lines = head.format(len(body))
        connection.sendall(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body)

    with raw_serving(answer) as server:
        assert fetch(server.url, *NODES) == EXPECTED
    assert server.connections == 3


@pytest.mark.parametrize("kind", ["conversation", "message", "edge"])
def test_late_response_of_another_request_is_refused(kind: str) -> None:
    """A surplus response that arrives after the next request was sent has the wrong id."""

    def answer(request: str, connection: socket.socket) -> None:
        node = request.split("/")[2].partition("?")[0]
        body: dict[str, object] = {"id": node, "message": f"of {node}"}
        if kind == "edge":
            url = f"https://graph.example/v26.0/{node}/messages?after=x"
            rows = [{"id": f"m_of_{node}"}]
            body = {"data": rows, "paging": {"next": url, "cursors": {"after": "x"}}}
        content = whole(json.dumps(body).encode())
        if len(server.requests) == 1:
            connection.sendall(content)
            surplus.append(content)
            return
        while surplus:
            connection.sendall(surplus.pop())
        connection.sendall(content)

    surplus: list[bytes] = []
    sleeps = Sleeps()
    with raw_serving(answer) as server, client_of(server.url, sleeps) as client:
        for node in ("1", "2", "3"):
            if kind == "edge":
                assert client.fetch_messages(node, "id", 5).rows == ({"id": f"m_of_{node}"},)
            elif kind == "message":
                body = client.fetch_message(node, "message").body
                assert body == {"id": node, "message": f"of {node}"}
            else:
                [row] = client.fetch_conversation(node, "id").rows
                assert row.conversation_id == node
    assert client.retried == 1


def test_api_that_returns_other_ids_costs_one_retry() -> None:
    """On a connection of its own, a response is the one of its request, whatever its id is."""

    def answer(request: str, connection: socket.socket) -> None:
        node = request.split("/")[2].partition("?")[0]
        connection.sendall(whole(json.dumps({"id": f"x_{node}", "message": "hi"}).encode()))

    with raw_serving(answer) as server, client_of(server.url) as client:
        bodies = [client.fetch_message(node, "message").body for node in ("1", "2", "3", "4")]
    assert bodies == [{"id": f"x_{n}", "message": "hi"} for n in (1, 2, 3, 4)]
    assert client.retried <= 1


@pytest.mark.parametrize("encoding", ["", "Content-Encoding: gzip\r\n"])
@pytest.mark.parametrize(
    "location",
    ["", "http://[bad", "https://evil.example/\xff\xfe", "//[", "http://127.0.0.1:1/"],
)
def test_body_of_a_redirect_is_not_read(encoding: str, location: str) -> None:
    def answer(request: str, connection: socket.socket) -> None:
        head = f"HTTP/1.1 302 Found\r\n{encoding}Content-Length: {400 * MEGABYTE}\r\n"
        head += f"Location: {location}\r\n\r\n" if location else "\r\n"
        connection.sendall(head.encode("latin-1"))
        for _ in range(400):
            connection.sendall(b"x" * MEGABYTE)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raw_serving(answer) as server, client_of(server.url) as client:
        with pytest.raises(errors.GraphError, match="redirects are not followed"):
            client.fetch_messages("t_1", "id", 5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabcde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-11/90\r\nContent-Length: 12\r\n"
        b'\r\n{"data": []}',
        b'HTTP/1.1 203 Other\r\nContent-Length: 12\r\n\r\n{"data": []}',
    ],
)
def test_broken_response_is_unreachable_and_not_a_defect(head: bytes) -> None:
    def answer(request: str, connection: socket.socket) -> None:
        connection.sendall(head)
        connection.shutdown(socket.SHUT_RDWR)

    with raw_serving(answer) as server, client_of(server.url) as client:
        with pytest.raises(errors.UnreachableError) as caught:
            client.fetch_messages("t_1", "id", 5)
    assert str(caught.value).isprintable()
    assert len(server.requests) > 1


HOSTILE_DATES = [
    "Fri, 31 Dec 9999 23:59:59 -1200",
    "Mon, 01 Jan 0001 00:00:00 +1400",
    "Sat, 00 Xyz 0000 99:99:99 +9999",
    "Fri, 01 Jan 1999 00:00:00 GMT",
    "\x1b]52;c;aGk=\x07",
    "9" * 5000,
    "-1",
    "1e309",
    "NaN",
]


@pytest.mark.parametrize("value", HOSTILE_DATES)
@pytest.mark.parametrize("name", ["Date", "Retry-After", "Age", "Expires", "Last-Modified"])
def test_hostile_date_is_no_defect(name: str, value: str) -> None:
    def answer(request: str, connection: socket.socket) -> None:
        status = "200 OK" if len(server.requests) > 1 else "429 Too Many Requests"
        connection.sendall(whole(messages_of(request), status, f"{name}: {value}\r\n"))

    sleeps = Sleeps()
    with raw_serving(answer) as server, client_of(server.url, sleeps) as client:
        if name == "Retry-After" and value.startswith(("Fri, 31 Dec", "9")) and "-" not in value:
            with pytest.raises(errors.ThrottledError) as caught:
                client.fetch_messages("t_1", "id", 5)
            assert caught.value.wait_seconds == 24 * 3600
        else:
            assert client.fetch_messages("t_1", "id", 5).rows == ({"id": "m_of_t_1"},)


@pytest.mark.parametrize("minutes", ["1e308", "1e400", "9" * 400, "-1e308", '"19"', "0.5", "[1]"])
def test_hostile_wait_is_no_defect(minutes: str) -> None:
    usage = '{"17": [{"estimated_time_to_regain_access": ' + minutes + "}]}"

    def answer(request: str, connection: socket.socket) -> None:
        body = b'{"error": {"code": 80006, "message": "x"}}'
        headers = f"X-Business-Use-Case-Usage: {usage}\r\n"
        connection.sendall(whole(body, "400 Bad Request", headers))

    with raw_serving(answer) as server, client_of(server.url) as client:
        with pytest.raises(errors.ThrottledError) as caught:
            client.fetch_messages("t_1", "id", 5)
    assert caught.value.wait_seconds is not None
    assert caught.value.wait_seconds <= 24 * 3600


def test_headers_reach_no_log_raw(caplog: pytest.LogCaptureFixture) -> None:
    """A version header with terminal sequences, and lines that are no headers."""
    hostile = "\x1b]0;title\x07\x9bred"

    def answer(request: str, connection: socket.socket) -> None:
        headers = f"Facebook-API-Version: {hostile}\r\nno header {hostile}\r\nX-App-Usage: {{\r\n"
        connection.sendall(whole(messages_of(request), headers=headers))

    caplog.set_level(logging.DEBUG)
    with raw_serving(answer) as server, client_of(server.url, token_in="query") as client:
        client.fetch_messages("t_1", "id", 5)
    assert client.version is None
    text = "\n".join(
        logging.Formatter().format(record)
        for record in caplog.records
        if record.name.startswith(("urllib3", "convo_pipeline"))
    )
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "canaryTOKEN" not in text


@pytest.mark.parametrize("date", ["Fri, 01 Jan 1999 00:00:00 GMT", "Wed, 19 Feb 2036 09:00:00 GMT"])
def test_wrong_date_makes_no_long_wait(date: str) -> None:
    """A date in Retry-After counts from the machine's time if the Date header is far from it."""

    def answer(request: str, connection: socket.socket) -> None:
        status = "200 OK" if len(server.requests) > 1 else "429 Too Many Requests"
        headers = f"Date: {date}\r\nRetry-After: Thu, 19 Feb 2026 09:00:30 GMT\r\n"
        connection.sendall(whole(messages_of(request), status, headers))

    sleeps = Sleeps()
    with raw_serving(answer) as server, client_of(server.url, sleeps) as client:
        assert client.fetch_messages("t_1", "id", 5).rows == ({"id": "m_of_t_1"},)
    assert sum(sleeps) == pytest.approx(30, abs=1)
