"""The client against a scripted server: requests, accepted responses, errors of failures."""

import gzip
import hashlib
import hmac
import math
import pickle
import socket
import struct
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline import errors
from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import Credentials
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.rate_limit import NO_LIMIT, CallBudget, LimitKey, SqliteLimiter
from convo_pipeline.graph.responses import (
    ConversationPage,
    ConversationRow,
    GraphResponse,
    Identity,
    Page,
)
from convo_pipeline.graph.retry import WaitBudget
from tests.support.graph_server import DATE, Call, Reply, drip, page, refusal, serving, write

TOKEN = "EAAcanaryTOKENcanaryTOKEN12345"
SECRET = "canary-app-secret"
FIELD = "canary" + "_field"
SERVER_TIME = datetime(2026, 2, 19, 9, tzinfo=UTC)
ROW = {"id": "t_1", "updated_time": "2026-02-19T08:57:24+0000"}


class Sleeps(list[float]):
    """Records pauses instead of sleeping."""

    def clock(self) -> Clock:
        return Clock(
            now=lambda: SERVER_TIME + timedelta(seconds=sum(self)),
            monotonic_seconds=lambda: time.monotonic() + sum(self),
            sleep=self.append,
        )


def client_of(
    url: str,
    sleeps: Sleeps | None = None,
    *,
    app_secret: str | None = None,
    calls: int = 100,
    **endpoint: Any,
) -> GraphClient:
    settings = {
        "version": "v26.0",
        "page_id": "17",
        "platform": "messenger",
        "timeout_seconds": 5.0,
    } | endpoint
    return GraphClient(
        Endpoint(url, **settings),
        Credentials(TOKEN, app_secret),
        NO_LIMIT,
        budget=CallBudget(calls),
        clock=(Sleeps() if sleeps is None else sleeps).clock(),
        draw=lambda: 0.0,
    )


def test_listing_sends_its_parameters() -> None:
    with serving([page([ROW], "C1")]) as server, client_of(server.url) as client:
        conversations = client.fetch_conversations(
            "id,updated_time", 50, after="C0", folder="other"
        )
    row = ConversationRow(ROW, Page((), None, SERVER_TIME))
    assert conversations == ConversationPage((row,), "C1", SERVER_TIME)
    assert server.calls[0].raw_path == "/v26.0/17/conversations"
    assert server.calls[0].parameters == {
        "platform": "messenger",
        "fields": "id,updated_time",
        "limit": "50",
        "after": "C0",
        "folder": "other",
    }
    assert server.calls[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert client.calls == Counter(listing=1)


def test_token_in_the_query_if_configured() -> None:
    with serving([page([])]) as server, client_of(server.url, token_in="query") as client:
        client.fetch_messages("t_1", "id", 10)
    assert server.calls[0].parameters["access_token"] == TOKEN
    assert "authorization" not in server.calls[0].headers


def test_s4_app_secret_proof_is_an_hmac_of_the_token() -> None:
    with serving([page([])]) as server, client_of(server.url, app_secret=SECRET) as client:
        client.fetch_messages("t_1", "id", 10)
    expected = hmac.new(SECRET.encode(), TOKEN.encode(), hashlib.sha256).hexdigest()
    assert server.calls[0].parameters["appsecret_proof"] == expected


@pytest.mark.parametrize(
    "hostile", ["a/b", "a+b=/:c", "../x", "x?fields=y", "a%2Fb", "ü#", "a b", "..x"]
)
def test_id_is_one_segment_of_the_path(hostile: str) -> None:
    from urllib.parse import unquote

    with serving([Reply({"id": hostile})]) as server, client_of(server.url) as client:
        client.fetch_message(hostile, "id")
    segments = server.calls[0].raw_path.split("/")
    assert [unquote(segment) for segment in segments] == ["", "v26.0", hostile]


@pytest.mark.parametrize("hostile", ["", ".", ".."])
def test_impossible_id_costs_no_call(hostile: str) -> None:
    with serving([page([])]) as server, client_of(server.url) as client:
        with pytest.raises(errors.PayloadError):
            client.fetch_messages(hostile, "id", 10)
        assert server.calls == []


def test_response_has_server_time_size_and_version() -> None:
    reply = Reply({"id": "m_1"}, headers={"Facebook-API-Version": "v21.0"})
    with serving([reply]) as server, client_of(server.url) as client:
        answer = client.fetch_message("m_1", "id")
    assert answer == GraphResponse({"id": "m_1"}, SERVER_TIME, len(reply.bytes), "v21.0")
    assert client.version == "v21.0"


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        (
            {"page_id": "17", "platform": "instagram"},
            {"id": "17", "instagram_business_account": {"id": 178, "username": "b"}},
            Identity("178", "b"),
        ),
        ({"page_id": "17", "platform": "instagram"}, {"id": "17"}, Identity()),
        (
            {"page_id": "me", "platform": "instagram"},
            {"user_id": "178", "username": "b", "id": "9"},
            Identity("178", "b"),
        ),
    ],
)
def test_identity_is_read_from_the_page_or_from_me(
    endpoint: Any, body: Any, expected: Identity
) -> None:
    with serving([Reply(body)]) as server, client_of(server.url, **endpoint) as client:
        assert client.fetch_identity() == expected
    assert "username" in server.calls[0].parameters["fields"]


def test_messenger_identity_costs_no_call() -> None:
    with serving([page([])]) as server, client_of(server.url) as client:
        assert client.fetch_identity() == Identity("17")
        assert server.calls == []


@pytest.mark.parametrize(
    "body", [{"data": [{"id": "t_1"}]}, {"id": "t_1"}, {"data": {"id": "t_1"}}]
)
def test_search_by_user_accepts_a_list_or_an_object(body: Any) -> None:
    with serving([Reply(body)]) as server, client_of(server.url) as client:
        assert client.fetch_conversations("id", 1, user_id="99").rows[0].payload == {"id": "t_1"}
    assert server.calls[0].parameters["user_id"] == "99"
    assert client.calls == Counter(find=1)


def test_error_with_http_200_is_an_error() -> None:
    with serving([refusal(190, 463, status=200)]) as server, client_of(server.url) as client:
        with pytest.raises(errors.TokenError) as caught:
            client.fetch_messages("t_1", "id", 10)
    assert caught.value.fault == errors.GraphFault(190, 463, 200, "Atrace1", "t_1/messages")


def test_no_call_after_a_token_error() -> None:
    with serving([refusal(190)]) as server, client_of(server.url) as client:
        for _ in range(3):
            with pytest.raises(errors.TokenError):
                client.fetch_messages("t_1", "id", 10)
        assert len(server.calls) == 1


def test_backoff_grows() -> None:
    sleeps = Sleeps()
    with (
        serving([refusal(2, status=500), Reply(content=b"<html>"), page([ROW])]) as server,
        client_of(server.url, sleeps) as client,
    ):
        assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
    assert sleeps == [0.5, 1.0]
    assert (client.retried, client.refused, client.calls["edge"]) == (2, 2, 3)


BROKEN = {
    "html": Reply(content=b"<html>secret text</html>"),
    "empty": Reply(content=b""),
    "no content": Reply(content=b"", status=204),
    "latin-1": Reply(content='{"data": ["ü"]}'.encode("latin-1")),
    "nan": Reply(content=b'{"data": [NaN]}'),
    "deep": Reply(content=b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "no data": Reply({"paging": {}}),
    "a string": Reply("data"),
    "cut json": Reply(content=b'{"data": [{"id"'),
    "no cursor": Reply({"data": [], "paging": {"next": "https://x/?until=5"}}),
    "gzip garbage": Reply(content=b"xxxxxxx", headers={"Content-Encoding": "gzip"}),
    "cut gzip": Reply(
        content=gzip.compress(b'{"data": []}' * 9)[:-20], headers={"Content-Encoding": "gzip"}
    ),
    "500": Reply(content=b"oops", status=500),
    "404 page": Reply(content=b"not here", status=404),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_body_is_retried_and_then_unreachable(name: str) -> None:
    sleeps = Sleeps()
    with serving([BROKEN[name]]) as server, client_of(server.url, sleeps) as client:
        with pytest.raises(errors.UnreachableError) as caught:
            client.fetch_messages("t_1", "id", 10)
    assert (len(server.calls), len(sleeps)) == (5, 4)
    assert "secret text" not in str(caught.value)


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def half(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    write(handler, Reply({"data": []}), length=500)


def endless_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.send_response_only(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b'c\r\n{"data": []}\r\n')


def no_length(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.send_response_only(200)
    handler.end_headers()
    handler.wfile.write(b'{"data": [{"id": ')


@pytest.mark.parametrize("act", [reset, half, endless_chunks, no_length])
def test_broken_connection_is_retried(act: Any) -> None:
    with serving([Reply(act=act), page([ROW])]) as server, client_of(server.url) as client:
        assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
    assert client.retried == 1


REFUSED_IDENTITIES = [refusal(code) for code in (1, 2, -1, 10, 100, 551, 2635, 99999)] + [
    refusal(100, 33),
    Reply(content=b"<html>"),
    Reply(content=b"oops", status=502),
    Reply([]),
    Reply({"id": 5}),
]


@pytest.mark.parametrize("reply", REFUSED_IDENTITIES)
def test_refused_identity_is_unknown(reply: Reply) -> None:
    with serving([reply]) as server, client_of(server.url, platform="instagram") as client:
        assert client.fetch_identity() == Identity()


def test_identity_raises_what_stops_the_account() -> None:
    usage = '{"17": [{"estimated_time_to_regain_access": 19}]}'
    script = [
        refusal(80002, X_Business_Use_Case_Usage=usage),
        *[Reply(act=reset)] * 5,
        refusal(190),
    ]
    with serving(script) as server, client_of(server.url, platform="instagram") as client:
        for kind in (errors.ThrottledError, errors.UnreachableError, errors.TokenError):
            with pytest.raises(kind):
                client.fetch_identity()


@pytest.mark.parametrize("act", [drip(0.05), drip(0.05, in_headers=True)])
def test_slow_response_ends_at_the_deadline(act: Any) -> None:
    with (
        serving([Reply(act=act), page([ROW])]) as server,
        client_of(server.url, timeout_seconds=0.6) as client,
    ):
        assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
    assert client.retried == 1


def test_slow_heavy_page_is_too_much_data() -> None:
    with (
        serving([Reply(act=drip(0.05))]) as server,
        client_of(server.url, timeout_seconds=0.4) as client,
    ):
        with pytest.raises(errors.TooMuchDataError):
            client.fetch_conversations("id,messages.limit(20){id}", 50)
    assert len(server.calls) == 1


def test_code_1_is_retried_only_for_small_requests() -> None:
    with serving([refusal(1, status=500)]) as server, client_of(server.url) as client:
        with pytest.raises(errors.TooMuchDataError):
            client.fetch_conversations("id,messages.limit(20){id}", 50)
        with pytest.raises(errors.TooMuchDataError):
            client.fetch_messages("t_1", "id", 100)
        assert len(server.calls) == 2
        with pytest.raises(errors.RetryableError):
            client.fetch_messages("t_1", "id", 10)
        assert len(server.calls) == 5


def test_unknown_field_is_named() -> None:
    text = "(#100) Tried accessing nonexisting field (sticker) on node type (Message)"
    with serving([refusal(100, message=text)]) as server, client_of(server.url) as client:
        with pytest.raises(errors.UnknownFieldError) as caught:
            client.fetch_messages("t_1", "id,sticker", 10)
    assert caught.value.field == "sticker"


def test_throttle_waits_as_long_as_meta_says() -> None:
    sleeps = Sleeps()
    usage = (
        '{"17": [{"type": "messenger", "call_count": 100, "estimated_time_to_regain_access": 1}]}'
    )
    script = [
        refusal(613, 2534040),
        Reply(content=b"", status=429, headers={"Retry-After": "7"}),
        refusal(80006, X_Business_Use_Case_Usage=usage),
        page([ROW]),
    ]
    with serving(script) as server, client_of(server.url, sleeps) as client:
        assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
    assert sleeps == [4.0, 7.0, 60.0]
    assert client.throttled_seconds == 71.0


def test_throttle_waits_of_a_run_are_limited() -> None:
    sleeps = Sleeps()
    limited = Reply(content=b"", status=429, headers={"Retry-After": "50"})
    script = [limited, page([ROW]), limited, page([ROW]), limited]
    with serving(script) as server, client_of(server.url, sleeps) as client:
        for _ in range(2):
            assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
        with pytest.raises(errors.ThrottledError, match=r"throttled until 20..-..-..T") as caught:
            client.fetch_messages("t_1", "id", 10)
    assert (sleeps, caught.value.wait_seconds) == ([50.0, 50.0], 50.0)


def test_backoff_without_success_is_limited() -> None:
    sleeps, failed = Sleeps(), Reply({"error": {"code": 2, "message": "x"}}, status=500)
    with serving([failed] * (16 * 5 + 4) + [page([ROW]), failed, page([ROW])]) as server:
        with client_of(server.url, sleeps, calls=200) as client:
            for _ in range(20):
                with pytest.raises(errors.RetryableError):
                    client.fetch_messages("t_1", "id", 10)
            assert (len(server.calls), sum(sleeps)) == (16 * 5 + 4, 120.0)
            for _ in range(2):
                assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
            assert sum(sleeps) == 120.5


def test_blocks_of_other_processes_count_in_the_limit(
    tmp_path: Path,
) -> None:
    sleeps = Sleeps()
    clock = sleeps.clock()
    clock = replace(clock, now=lambda: SERVER_TIME + timedelta(seconds=sum(sleeps)))
    other, mine = (
        SqliteLimiter(tmp_path / "s.db", LimitKey("host", "17", "messenger"), 1000, clock)
        for _ in range(2)
    )
    with serving([page([ROW])]) as server:
        endpoint, budget = Endpoint(server.url, "v26.0", "17", "messenger"), CallBudget(9)
        with GraphClient(endpoint, Credentials(TOKEN), mine, budget=budget, clock=clock) as client:
            for _ in range(2):
                other.block(55)
                assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
            other.block(11)
            with pytest.raises(errors.ThrottledError):
                client.fetch_messages("t_1", "id", 10)
    assert 109 < sum(sleeps) < 111


def test_at_most_four_parallel_calls_and_one_after_a_throttle() -> None:
    running: list[int] = [0]
    lock = threading.Lock()
    barrier = threading.Barrier(4, timeout=60)

    def reply_after(wait: Callable[[], object]) -> Reply:
        def act(handler: BaseHTTPRequestHandler) -> None:
            with lock:
                running.append(running[-1] + 1)
            wait()
            with lock:
                running.append(running[-1] - 1)
            write(handler, page([ROW]))

        return Reply(act=act)

    def most_parallel(client: GraphClient, count: int) -> int:
        running[:] = [0]
        with ThreadPoolExecutor(8) as pool:
            pages = pool.map(lambda _: client.fetch_messages("t_1", "id", 10), range(count))
            assert len(list(pages)) == count
        return max(running)

    with serving([reply_after(barrier.wait)]) as server, client_of(server.url) as client:
        assert most_parallel(client, 16) == 4
        one_by_one = reply_after(lambda: time.sleep(0.03))
        server.script = [refusal(613)] * (len(server.calls) + 1) + [one_by_one]
        client.fetch_messages("t_1", "id", 10)
        assert most_parallel(client, 8) == 1


def test_long_throttle_is_raised_with_its_end() -> None:
    sleeps = Sleeps()
    usage = (
        '{"17": [{"type": "messenger", "call_count": 100, "estimated_time_to_regain_access": 19}]}'
    )
    with (
        serving([refusal(80006, X_Business_Use_Case_Usage=usage)]) as server,
        client_of(server.url, sleeps) as client,
    ):
        with pytest.raises(errors.ThrottledError) as caught:
            client.fetch_messages("t_1", "id", 10)
    assert caught.value.wait_seconds == 1140.0
    assert caught.value.resume_at == SERVER_TIME + timedelta(seconds=1140)
    assert sleeps == []


def test_block_of_another_process_costs_no_call(tmp_path: Path) -> None:
    key = LimitKey("host", "17", "instagram")
    SqliteLimiter(tmp_path / "state.db", key).block(600)
    with serving([page([])]) as server:
        limiter = SqliteLimiter(tmp_path / "state.db", key._replace(platform="messenger"))
        endpoint, budget = Endpoint(server.url, "v26.0", "17", "messenger"), CallBudget(9)
        with GraphClient(endpoint, Credentials(TOKEN), limiter, budget=budget) as client:
            with pytest.raises(errors.ThrottledError) as caught:
                client.fetch_messages("t_1", "id", 10)
            assert (server.calls, client.calls, budget.remaining) == ([], Counter(), 9)
    assert caught.value.resume_at is not None


@pytest.mark.hunt
@pytest.mark.timeout(900)
def test_server_sees_at_most_two_calls_a_second(tmp_path: Path, long_run: bool) -> None:
    stamps: list[float] = []

    def script(call: Call) -> Reply:
        stamps.append(time.monotonic())
        return page([])

    def work(url: str, until: float) -> None:
        limiter = SqliteLimiter(tmp_path / "state.db", LimitKey("host", "17", "messenger"))
        with GraphClient(
            Endpoint(url, "v26.0", "17", "messenger"),
            Credentials(TOKEN),
            limiter,
            budget=CallBudget(10**6),
        ) as client:
            while time.monotonic() < until:
                client.fetch_messages("t_1", "id", 10)

    with serving(script) as server, ThreadPoolExecutor(4) as pool:
        until = time.monotonic() + (600 if long_run else 15)
        list(pool.map(work, [server.url] * 4, [until] * 4))
    stamps.sort()
    crowded = sum(third - first <= 1 for first, third in zip(stamps, stamps[2:], strict=False))
    assert crowded <= math.ceil(len(stamps) / 1000)  # what is sent in time may come late


def test_retry_after_of_a_busy_server_is_obeyed() -> None:
    sleeps = Sleeps()
    with (
        serving(
            [Reply(content=b"busy", status=503, headers={"Retry-After": "9"}), page([])]
        ) as server,
        client_of(server.url, sleeps) as client,
    ):
        client.fetch_messages("t_1", "id", 10)
    assert sleeps == [9.0]


def test_s5_redirect_is_not_followed() -> None:
    with serving([page([])]) as elsewhere:
        reply = Reply(content=b"", status=302, headers={"Location": elsewhere.url + "/steal"})
        with serving([reply]) as server, client_of(server.url) as client:
            with pytest.raises(errors.GraphError, match="redirects"):
                client.fetch_messages("t_1", "id", 10)
            assert len(server.calls) == 1
        assert elsewhere.calls == []


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving([page([])]) as proxy, serving([page([ROW])]) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with client_of(server.url) as client:
            assert client.fetch_messages("t_1", "id", 10).rows == (ROW,)
        assert proxy.calls == []


@pytest.mark.parametrize("packed", [True, False])
def test_too_large_response_is_refused(packed: bool) -> None:
    content = b'{"data": [' + b" " * (65 * 1024 * 1024)
    reply = (
        Reply(content=gzip.compress(content, 1), headers={"Content-Encoding": "gzip"})
        if packed
        else Reply(content=content)
    )
    with serving([reply]) as server, client_of(server.url, timeout_seconds=20) as client:
        with pytest.raises(errors.GraphError, match="larger than"):
            client.fetch_messages("t_1", "id", 10)
    assert len(server.calls) == 1


def test_gzip_response_is_read() -> None:
    reply = Reply(
        content=gzip.compress(b'{"data": [{"id": "1"}]}'), headers={"Content-Encoding": "gzip"}
    )
    with serving([reply]) as server, client_of(server.url) as client:
        assert client.fetch_messages("t_1", "id", 10).rows == ({"id": "1"},)


def test_s21_budget_stops_the_account() -> None:
    with serving([page([])]) as server, client_of(server.url, calls=2) as client:
        client.fetch_messages("t_1", "id", 10)
        client.fetch_messages("t_1", "id", 10)
        with pytest.raises(errors.BudgetError, match="2 calls"):
            client.fetch_messages("t_1", "id", 10)
        assert len(server.calls) == 2


def test_closed_port_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        host = url.removeprefix("http://")
        with (
            client_of(url) as client,
            pytest.raises(errors.UnreachableError, match=f"cannot connect to {host}: "),
        ):
            client.fetch_messages("t_1", "id", 10)
        assert client.calls["edge"] == 5


ALL_FAILURES = [
    *BROKEN.values(),
    refusal(190),
    refusal(1),
    refusal(100, 33),
    refusal(613),
    Reply(act=reset),
    Reply(act=half),
]


@pytest.mark.parametrize("reply", ALL_FAILURES)
def test_error_shows_no_token_and_no_query(reply: Reply) -> None:
    with (
        serving([reply]) as server,
        client_of(server.url, token_in="query", app_secret=SECRET) as client,
    ):
        with pytest.raises(errors.GraphError) as caught:
            client.fetch_messages("t_1", f"id,{FIELD}", 20)
    text = (
        "".join(traceback.format_exception(caught.value))
        + repr(caught.value)
        + repr(caught.value.__context__)
    )
    text += repr(pickle.loads(pickle.dumps(caught.value))) + repr(client.__dict__["endpoint"])
    assert caught.value.__context__ is None
    assert not [word for word in (TOKEN, SECRET, "appsecret_proof=", FIELD) if word in text]


def test_threads_share_connections_and_counters() -> None:
    with (
        serving(lambda call: page([{"path": call.raw_path}])) as server,
        client_of(server.url) as client,
    ):
        with ThreadPoolExecutor(4) as pool:
            pages = list(pool.map(lambda n: client.fetch_messages(f"t_{n}", "id", 10), range(60)))
    assert [p.rows for p in pages] == [({"path": f"/v26.0/t_{n}/messages"},) for n in range(60)]
    assert client.calls == Counter(edge=60)


def test_own_clock_replaces_an_unreadable_date() -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    with serving([Reply({"data": []}, headers={"Date": "soon"})]) as server:
        client = GraphClient(
            Endpoint(server.url, "v26.0", "17", "messenger"),
            Credentials(TOKEN),
            NO_LIMIT,
            budget=CallBudget(9),
            clock=Clock(now=lambda: moment),
        )
        with client:
            assert client.fetch_messages("t_1", "id", 10).server_time == moment
    assert DATE != "soon"


def test_a19_usage_header_slows_calls_down() -> None:
    class Noting:
        def __init__(self) -> None:
            self.percents: list[float] = []
            self.steps: list[str] = []

        def acquire(self, budget: WaitBudget | None = None) -> float:
            self.steps.append("acquire")
            return 0.0

        def correct(self) -> None:
            self.steps.append("sent")

        def block(self, seconds: float) -> None: ...

        def slow_down(self, percent: float) -> None:
            self.percents.append(percent)

    headers = [{"X-App-Usage": '{"call_count":95,"total_time":1}'}, {"X-App-Usage": "broken"}, {}]
    with serving([Reply({"data": []}, headers=h) for h in headers]) as server:
        limiter = Noting()
        with GraphClient(
            Endpoint(server.url, "v26.0", "17", "messenger"),
            Credentials(TOKEN),
            limiter,
            budget=CallBudget(9),
        ) as client:
            for _ in headers:
                client.fetch_messages("t_1", "id", 10)
    assert limiter.percents == [95.0]
    assert limiter.steps == ["acquire", "sent"] * 3


def test_address_in_next_is_not_used() -> None:
    def script(call: Call) -> Reply:
        return page([ROW], None if call.parameters.get("after") else "C1")

    with serving(script) as server, client_of(server.url) as client:
        first = client.fetch_conversations("id", 5)
        client.fetch_conversations("id", 5, after=first.after)
    assert [call.parameters.get("after") for call in server.calls] == [None, "C1"]
    assert {call.raw_path for call in server.calls} == {"/v26.0/17/conversations"}
