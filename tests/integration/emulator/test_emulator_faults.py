"""Each fault of the catalogue changes responses as its summary says, over HTTP."""

import contextlib
import gzip
import json
import random
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.faults import FAULTS, FaultError, make_fault, parse_fault
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.value_faults import HOSTILE
from convo_pipeline.emulator.world import World
from tests.support.certificates import write_certificate
from tests.support.paths import DOCS

START = datetime(2026, 2, 19, 12, tzinfo=UTC)
HEADER = {"Authorization": f"Bearer {EMULATOR_TOKEN}", "Connection": "close"}
PAGE = DOCS / "emulator.md"
NESTED = "id,updated_time,messages.limit(20){id,created_time,from,to,message,reactions}"
OF_CLIENT = {"A22", "A25"}
"""Faults on the client's own side: name lookup, proxies."""


def make_world(conversations: int = 12, messages: int = 25) -> World:
    world = World(VirtualClock(START))
    shop = world.add_account("shop", "111", "instagram", own_id="17840", username="shop")
    for number in range(conversations):
        start = START - timedelta(hours=number + 2)
        shop.add_conversation(f"Person {number}").add_messages(messages, start)
    return world


def serve(*faults: Any, world: World | None = None, **switches: Any) -> EmulatorServer:
    return EmulatorServer(world or make_world(), Switches(**switches), faults=faults)


def ask(
    server: EmulatorServer, path: str = "111/conversations", timeout: float = 60, **params: Any
) -> requests.Response:
    query = {"platform": "instagram", "fields": NESTED, "limit": 3} | params
    url = f"{server.base_url}/v26.0/{path}"
    return requests.get(url, params=query, headers=HEADER, timeout=timeout, allow_redirects=False)


def listed(server: EmulatorServer, pages: int = 20, **params: Any) -> list[list[str]]:
    """Return the ids on each page, read by following `next`."""
    found, after = [], {}
    while len(found) < pages:
        page = ask(server, fields="id", **params, **after).json()
        found.append([row["id"] for row in page["data"]])
        if "next" not in page.get("paging", {}):
            break
        after = {"after": page["paging"]["cursors"]["after"]}
    return found


def all_ids(server: EmulatorServer) -> set[str]:
    return {found for page in listed(server) for found in page}


def first_messages(answer: requests.Response) -> list[dict[str, Any]]:
    return [
        row for conversation in answer.json()["data"] for row in conversation["messages"]["data"]
    ]


def error_of(answer: requests.Response) -> tuple[int, int, int | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("error_subcode")


# How faults are named and drawn


def test_fault_catalogue_is_complete() -> None:
    assert {kind.name for kind in FAULTS.values()} == set(FAULTS)
    numbers = {kind.number for kind in FAULTS.values()} | OF_CLIENT | {"A23"}
    assert numbers - {"B0"} == {f"A{n}" for n in range(1, 26)} | {f"B{n}" for n in range(1, 32)}


def test_every_fault_has_a_summary_and_an_argument() -> None:
    for kind in FAULTS.values():
        assert kind.summary
        assert kind.default or kind.takes in ("times", "nothing")


def test_every_fault_is_documented() -> None:
    named = set(re.findall(r"^\| (?:[AB]\d+) \| `([a-z0-9_]+)`", PAGE.read_text(), re.M))
    assert named == set(FAULTS)


@pytest.mark.parametrize(
    ("text", "argument", "probability", "times"),
    [
        ("slow_loris", "0.2", 1.0, None),
        ("slow_loris:0.1", "0.2", 0.1, None),
        ("slow_loris:1:0.5", "1", 0.5, None),
        ("server_error", "3", 1.0, 3),
        ("server_error:7", "7", 1.0, 7),
        ("server_error:0.25", "3", 0.25, None),
        ("token_dies:5", "5", 1.0, None),
        ("nonexisting:shares", "shares", 1.0, None),
        ("clock_skew:-600", "-600", 1.0, None),
        ("reset", "", 1.0, None),
    ],
)
def test_fault_text_is_parsed(
    text: str, argument: str, probability: float, times: int | None
) -> None:
    fault = parse_fault(text)
    assert (fault.argument, fault.probability, fault.times) == (argument, probability, times)


@pytest.mark.parametrize(
    "text", ["nonsense", "reset:1:2:3", "token_dies:5:often", "", "server_error:often"]
)
def test_wrong_fault_text_is_refused(text: str) -> None:
    with pytest.raises(FaultError):
        parse_fault(text)


def test_faults_are_seeded() -> None:
    def draw(seed: int) -> list[int]:
        with EmulatorServer(make_world(1), faults=["html_200:0.5"], seed=seed) as server:
            return [len(ask(server).content) for _ in range(12)]

    assert draw(1) == draw(1) != draw(2)


def test_faults_respect_times_and_after_calls() -> None:
    with serve(make_fault("html_200", times=1, after_calls=2)) as server:
        assert [ask(server).content[:1] for _ in range(4)] == [b"{", b"{", b"<", b"{"]


def test_several_faults_combine() -> None:
    with serve("lone_surrogate", "byte_order_mark", "clock_skew:60") as server:
        answer = ask(server)
    assert answer.content.startswith(b"\xef\xbb\xbf{")
    assert b"\\ud83d" in answer.content
    assert answer.headers["Date"] == "Thu, 19 Feb 2026 12:01:00 GMT"


def test_faults_can_be_removed_from_a_running_server() -> None:
    with serve("html_200") as server:
        server.set_faults("empty_body")
        assert ask(server).content == b""
        server.set_faults()
        assert ask(server).json()["data"]


# A: the network


def test_connect_timeout_accepts_no_connection() -> None:
    with serve("connect_timeout") as server, pytest.raises(requests.ConnectTimeout):
        ask(server, timeout=0.3)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("read_timeout", requests.ReadTimeout),
        ("reset", requests.ConnectionError),
        ("reset_mid_body", requests.exceptions.ChunkedEncodingError),
        ("short_body", requests.exceptions.ChunkedEncodingError),
        ("endless_chunks", requests.exceptions.ChunkedEncodingError),
        ("gzip_bad_crc", requests.exceptions.ContentDecodingError),
        ("gzip_garbage", requests.exceptions.ContentDecodingError),
    ],
)
def test_connection_faults_raise_errors(fault: str, error: type[Exception]) -> None:
    with serve(fault) as server, pytest.raises(error):
        ask(server, timeout=1 if error is requests.ReadTimeout else 20)


def test_server_survives_a_reset_after_an_empty_response() -> None:
    with serve("redirect", "reset_mid_body") as server:
        assert ask(server).status_code == 302
        time.sleep(0.2)  # longer than the fault waits
        assert ask(server).status_code == 302


@pytest.mark.parametrize(
    "fault", ["no_length", "truncated_json", "gzip_cut", "bad_utf8", "html_200", "latin1"]
)
def test_broken_bodies_are_not_json(fault: str) -> None:
    with serve(fault) as server:
        answer = ask(server)
    assert answer.status_code == 200
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError and JSONDecodeError alike
        json.loads(answer.content)


def test_slow_loris_takes_longer_than_a_read_timeout() -> None:
    """A read timeout limits the time between two bytes, not the whole response."""
    timeout = 1.0
    with serve("slow_loris:0.15:1.0") as server:
        started = time.monotonic()
        answer = ask(server, "111", timeout=timeout, fields="id")
        assert json.loads(answer.content) == {"id": "111"}
    assert time.monotonic() - started > timeout


def test_latency_delays_a_complete_response() -> None:
    with serve("latency:0.2:1.0") as server:
        assert ask(server).json()["data"]


def test_cut_at_edge_is_valid_json_without_data() -> None:
    with serve("cut_at_edge") as server:
        assert ask(server).json() == {"paging": {}}


def test_gzip_without_a_trailer_can_be_decompressed() -> None:
    with serve("gzip_no_trailer") as server:
        raw = requests.get(
            f"{server.base_url}/111", headers=HEADER, timeout=60, stream=True
        ).raw.read(decode_content=False)
    with pytest.raises(EOFError):
        gzip.decompress(raw)
    assert json.loads(zlib.decompressobj(31).decompress(raw))["id"] == "111"


def test_empty_responses_are_empty() -> None:
    with serve("empty_body") as server:
        assert (ask(server).status_code, ask(server).content) == (200, b"")
    with serve("no_content") as server:
        assert (ask(server).status_code, ask(server).content) == (204, b"")


def test_json_faults_change_the_json() -> None:
    with serve("nan") as server:
        assert ask(server).content.startswith(b'{"score":NaN,"limit":Infinity,')
    with serve("byte_order_mark") as server:
        assert ask(server).content.startswith(b"\xef\xbb\xbf{")
    with serve("duplicate_keys") as server:
        assert ask(server).content.count(b'"data":[') > ask(server, fields="id").content.count(
            b'"data":['
        )
    with serve("deep_nesting") as server:
        assert ask(server).content.count(b"[") > 100_000


def test_server_errors_end_after_the_burst() -> None:
    with serve("server_error:4") as server:
        assert [ask(server).status_code for _ in range(5)] == [503, 500, 502, 504, 200]


def test_retry_after_is_a_number_or_a_date() -> None:
    with serve("retry_after_seconds") as server:
        assert (ask(server).headers["Retry-After"], ask(server).status_code) == ("2", 200)
    with serve("retry_after_date") as server:
        assert ask(server).headers["Retry-After"] == "Thu, 19 Feb 2026 12:00:02 GMT"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("transient", (500, 2, None)),
        ("unknown_error", (500, 1, 99)),
        ("throttle_613", (400, 613, 2534040)),
        ("throttle_4", (400, 4, None)),
        ("throttle_17", (200, 17, 2446079)),
        ("throttle_32", (400, 32, None)),
        ("throttle_341", (400, 341, None)),
        ("business_80001", (400, 80001, None)),
        ("business_80002", (400, 80002, None)),
        ("business_80006", (400, 80006, None)),
        ("reduce_above:59", (500, 1, None)),
        ("nested_refused", (500, 1, None)),
        ("unreadable", (500, 1, None)),
        ("unreadable:10/2018336", (403, 10, 2018336)),
        ("unreadable:100/2534001", (400, 100, 2534001)),
        ("nonexisting:reactions", (400, 100, None)),
        ("permission_10", (403, 10, None)),
        ("permission_200", (403, 200, None)),
        ("access_switched_off", (403, 200, 2534041)),
        ("permission_230", (403, 230, None)),
        ("token_dies:0", (400, 190, 463)),
        ("token_revoked", (400, 190, 460)),
        ("retired_version", (400, 2635, None)),
    ],
)
def test_refusals_have_their_codes(fault: str, expected: tuple[int, int, int | None]) -> None:
    with serve(fault) as server:
        assert error_of(ask(server)) == expected
        assert server.log[0].code == expected[1]


def test_429_has_no_usage_headers() -> None:
    with serve("too_many_requests:1") as server:
        answer = ask(server)
        assert (answer.status_code, "Retry-After" in answer.headers) == (429, False)
        assert ask(server).status_code == 200


def test_business_limit_names_its_minutes_and_ends() -> None:
    with serve("business_80006:19") as server:
        usage = json.loads(ask(server).headers["X-Business-Use-Case-Usage"])
        server.clock.advance(18 * 60)
        still = ask(server).status_code
        server.clock.advance(61)
        assert (still, ask(server).status_code) == (400, 200)
    assert usage["111"][0]["estimated_time_to_regain_access"] == 19


def test_usage_headers_are_high_or_malformed() -> None:
    with serve("high_usage:95") as server:
        assert json.loads(ask(server).headers["X-App-Usage"])["call_count"] == 95
    with serve("malformed_usage") as server:
        assert len({ask(server).headers["X-App-Usage"] for _ in range(10)}) > 2


def test_redirect_leads_to_the_foreign_host() -> None:
    with serve("redirect") as server:
        answer = ask(server)
        assert answer.status_code == 302
        assert server.foreign_calls == []
        requests.get(answer.headers["Location"], timeout=60)
        assert server.foreign_calls == ["/v26.0/111/conversations"]


def test_giant_bodies_are_valid() -> None:
    with serve("giant_body:3") as server:
        answer = ask(server)
        assert len(answer.content) == 3 << 20
        assert answer.json()["data"]
    with serve("zip_bomb:8") as server:
        answer = requests.get(f"{server.base_url}/111", headers=HEADER, timeout=60)
        assert int(answer.headers["Content-Length"]) < 20_000
        assert len(answer.content) > 8 << 20


def test_giant_body_stops_when_the_client_disconnects() -> None:
    """Sending the whole body would exceed the test's time limit."""
    with serve("giant_body:100000") as server:
        answer = requests.get(f"{server.base_url}/111", headers=HEADER, timeout=60, stream=True)
        assert int(answer.headers["Content-Length"]) > 100_000_000_000
        answer.close()


def test_unknown_certificate_is_refused(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    with EmulatorServer(make_world(1), tls=files) as server:
        with pytest.raises(requests.exceptions.SSLError):
            ask(server)
        known = requests.get(f"{server.base_url}/111", headers=HEADER, timeout=60, verify=files[0])
    assert known.status_code == 200


# B: paging


def test_cursor_loops_never_end() -> None:
    with serve("cursor_loop:2") as server:
        pages = listed(server, pages=9)
    assert len(pages) == 9
    assert pages[3] == pages[1]
    with serve("cursor_repeated") as server:
        pages = listed(server, pages=6)
    assert pages[1] == pages[2] == pages[5]


@pytest.mark.parametrize("kind", ["keyset", "item", "offset"])
def test_empty_page_with_a_next_loses_no_rows(kind: str) -> None:
    with serve("empty_page:2", cursor_kind=kind) as server:
        pages = listed(server)
    assert pages[:2] == [[], []]
    assert [len(page) for page in pages[2:]] == [3, 3, 3, 3]
    with serve("empty_page:0.5", cursor_kind=kind) as server:
        assert len(all_ids(server)) == 12


def test_short_pages_lose_no_rows() -> None:
    with serve("short_page") as server:
        pages = listed(server, limit=5)
    assert {len(page) for page in pages} == {2}
    assert len({found for page in pages for found in page}) == 12


def test_duplicates_repeat_rows_within_and_across_pages() -> None:
    with serve("duplicates") as server:
        pages = listed(server)
    assert pages[1][0] == pages[0][2]
    assert pages[0][-1] == pages[0][0]
    assert len({found for page in pages for found in page}) == 12


def test_shuffled_rows_are_complete() -> None:
    with serve("shuffled") as server, serve(world=server.world) as calm:
        shuffled, ordered = listed(server, limit=12)[0], listed(calm, limit=12)[0]
    assert shuffled != ordered
    assert sorted(shuffled) == sorted(ordered)


def test_simple_reader_misses_a_bumped_conversation() -> None:
    with serve("bump") as server:
        seen = all_ids(server)
    assert 0 < len(seen) < 12


def test_deleted_first_row_shifts_offset_pages() -> None:
    with serve("vanish_head", cursor_kind="offset") as server:
        assert len(all_ids(server)) < 12


def test_dead_cursor_is_refused_once() -> None:
    with serve("dead_cursor") as server:
        after = ask(server).json()["paging"]["cursors"]["after"]
        assert error_of(ask(server, after="x"))[1] == 100
        assert ask(server, after=after).status_code == 200


def test_next_can_point_to_another_host_or_path() -> None:
    with serve("foreign_next") as server:
        links = {ask(server).json()["paging"]["next"].split("/v26.0")[0] for _ in range(20)}
        assert server.base_url not in links
        assert len(links) > 3
    with serve("altered_next") as server:
        assert "/v1.0/../me/accounts?fields=id&limit=1" in ask(server).json()["paging"]["next"]


# B: a world that moves


def test_world_faults_change_the_inbox() -> None:
    def count(server: EmulatorServer) -> int:
        return sum(1 for _ in server.world.truth())

    with serve("message_midread") as server:
        conversation = ask(server).json()["data"][0]["id"]
        before = count(server)
        rows = ask(server, f"{conversation}/messages", fields="message").json()["data"]
        assert (count(server), rows[0]["message"]) == (before + 1, "and another one")
    with serve("flood:45") as server:
        rows = first_messages(ask(server, limit=1))
        assert [row["message"] for row in rows] == [f"flood {n}" for n in range(44, 24, -1)]
        assert count(server) == 12 * 25 + 45
    with serve("unsend") as server:
        message_id = first_messages(ask(server))[5]["id"]
        assert error_of(ask(server, message_id, fields="message"))[1] == 9000001
        assert sum(true.is_unsent for true in server.world.truth(keep_unsent=True)) == 1
    with serve("vanish") as server:
        conversation = ask(server).json()["data"][0]["id"]
        assert error_of(ask(server, conversation)) == (400, 100, 33)
    with serve("edit") as server:
        texts = [first_messages(ask(server))[0]["message"] for _ in range(2)]
        assert texts == ["edited 1", "edited 2"]


def test_edges_can_be_missing_or_empty() -> None:
    for fault, check in (
        ("edge_missing", lambda answer: error_of(answer) == (400, 100, 33)),
        ("edge_empty", lambda answer: answer.json() == {"data": []}),
    ):
        with serve(fault) as server:
            conversation = ask(server).json()["data"][0]["id"]
            assert check(ask(server, f"{conversation}/messages", fields="id"))
    with serve("nested_missing") as server:
        assert all("messages" not in row for row in ask(server).json()["data"])


def test_twin_messages_share_an_id() -> None:
    with serve("twin_ids") as server:
        ask(server)
        found = [true.message_id for true in server.world.truth()]
    assert len(found) - len(set(found)) == 1


def test_unreadable_conversation_fails_every_page_with_its_content() -> None:
    world = make_world()
    with serve("unreadable", world=world) as server:
        assert error_of(ask(server, limit=2))[1] == 1
        rows = ask(server, limit=12, fields="id").json()["data"]
        assert error_of(ask(server, rows[0]["id"], fields="messages{id}"))[1] == 1
        assert ask(server, rows[1]["id"], fields="messages{id}").status_code == 200
    assert len(rows) == 12


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("10", (403, 10, None)),
        ("100/2018001", (400, 100, 2018001)),
        ("1234567", (400, 1234567, None)),
    ],
)
def test_refused_objects_are_listed_but_each_of_their_calls_is_refused(
    error: str, expected: tuple[int, int, int | None]
) -> None:
    with serve(f"refused_objects:{error}") as server:
        rows = ask(server, limit=12).json()["data"]
        messages = [(row["id"], row["messages"]["data"][0]["id"]) for row in rows]
        found = {
            path: ask(server, path, fields="id")
            for conversation_id, message_id in messages
            for path in (conversation_id, f"{conversation_id}/messages", message_id)
        }
        again = {path: ask(server, path, fields="id").status_code for path in found}
    refused = {path for path, answer in found.items() if answer.status_code != 200}
    assert {error_of(found[path]) for path in refused} == {expected}
    assert {path for path, status in again.items() if status != 200} == refused
    conversations = {path for path in refused if path in dict(messages)}
    assert {f"{path}/messages" for path in conversations} <= refused
    assert 0 < len(conversations) < 12


def test_an_object_can_be_refused_by_an_html_page() -> None:
    world = make_world(1)
    with serve("refused_objects:http404", world=world) as server:
        ids = [true.message_id for true in world.truth(1) if true.is_readable or true.rank < 20]
        answers = [ask(server, message_id, fields="id") for message_id in ids]
    assert {answer.status_code for answer in answers} == {200, 404}
    refused = [answer for answer in answers if answer.status_code == 404]
    assert {answer.headers["Content-Type"] for answer in refused} == {"text/html"}


def test_later_pages_are_refused() -> None:
    with serve("later_pages_refused:100/33", inner_limit=1) as server:
        conversation = ask(server).json()["data"][0]["id"]
        first = ask(server, f"{conversation}/messages", fields="id", limit=5).json()
        after = first["paging"]["cursors"]["after"]
        later = ask(server, f"{conversation}/messages", fields="id", limit=5, after=after)
        people = ask(server, f"{conversation}/participants", fields="id").json()
        after = people["paging"]["cursors"]["after"]
        others = ask(server, f"{conversation}/participants", fields="id", after=after)
    assert len(first["data"]) == 5
    assert error_of(later) == error_of(others) == (400, 100, 33)


def test_an_error_can_replace_nested_messages() -> None:
    with serve("nested_error:2") as server:
        rows = ask(server, limit=12).json()["data"]
        wrong = [row["id"] for row in rows if "error" in row["messages"]]
        edge = ask(server, f"{wrong[0]}/messages", fields="id").json()
    assert 0 < len(wrong) < 12
    assert len(edge["data"]) == 3


def test_hollow_rows_are_whole_by_their_own_id() -> None:
    with serve("hollow_rows") as server:
        hollow = [row for row in first_messages(ask(server)) if "from" not in row]
        whole = ask(server, hollow[0]["id"], fields="id,from,message").json()
    assert hollow[0]["message"] == ""
    assert whole["from"]
    assert whole["message"]


def test_a_fault_refuses_an_unknown_error() -> None:
    with pytest.raises(FaultError, match="takes an error such as 10, 100/33 or http403"):
        make_fault("unreadable", "nonsense")


def test_reduce_above_accepts_smaller_pages() -> None:
    with serve("reduce_above:40") as server:
        assert error_of(ask(server, limit=3))[1] == 1
        assert ask(server, limit=2).status_code == 200
        assert ask(server, limit=40, fields="id").status_code == 200


def test_page_beyond_the_newest_20_can_be_refused() -> None:
    with serve("old_page_refused") as server:
        conversation = ask(server).json()["data"][0]["id"]
        assert (
            error_of(ask(server, f"{conversation}/messages", fields="id,message", limit=25))[1]
            == 9000001
        )
        assert (
            ask(server, f"{conversation}/messages", fields="id,created_time", limit=25).status_code
            == 200
        )


def test_throttling_can_look_like_a_missing_object() -> None:
    with serve("throttle_as_missing") as server:
        conversation = ask(server).json()["data"][0]["id"]
        assert error_of(ask(server, conversation)) == (400, 100, 33)
        assert ask(server, conversation).status_code == 200


# B: values


@pytest.mark.parametrize(
    ("fault", "is_seen"),
    [
        ("mixed_times", lambda row: str(row.get("created_time")).endswith(("Z", "+00:00"))),
        ("impossible_times", lambda row: row["created_time"] in (None, -1, 10**20, "soon")),
        ("unknown_fields", lambda row: row["new_in_2027"] == {"nested": [1, "two", None]}),
        ("type_changes", lambda row: not isinstance(row["message"], str)),
        ("missing_keys", lambda row: "from" not in row),
        ("missing_id", lambda row: "id" not in row),
        ("missing_from", lambda row: "from" not in row),
        ("hollow_rows", lambda row: row.keys() == {"id", "created_time", "message"}),
        ("rare_media", lambda row: row.keys() & {"attachments", "shares", "sticker", "story"}),
        ("huge_message", lambda row: len(row["message"].encode()) > 900_000),
        (
            "many_attachments:10000",
            lambda row: len(row.get("attachments", {"data": []})["data"]) == 10_000,
        ),
        ("control_characters", lambda row: row["message"].startswith("\x00\x01\x1b")),
        ("lone_surrogate", lambda row: row["message"].endswith("\ud83d")),
        ("long_numbers", lambda row: len(row["from"]["id"]) == 20 and row["from"]["id"][0] == "0"),
    ],
)
def test_value_faults_do_not_change_the_world(
    fault: str, is_seen: Callable[[dict[str, Any]], bool]
) -> None:
    with serve(fault) as server, serve(world=server.world) as calm:
        before = ask(calm).json()
        assert any(is_seen(row) for row in first_messages(ask(server)))
        assert ask(calm).json() == before


def test_hostile_ids_find_their_objects() -> None:
    with serve("hostile_ids") as server:
        row = ask(server).json()["data"][0]
        message_id = row["messages"]["data"][0]["id"]
        assert row["id"].endswith(HOSTILE)
        quoted = [requests.utils.quote(each, safe="") for each in (row["id"], message_id)]
        assert ask(server, quoted[0]).json()["id"] == row["id"]
        assert (
            ask(server, f"{quoted[0]}/messages", fields="id").json()["data"][0]["id"] == message_id
        )
        assert ask(server, quoted[1], fields="id").json()["id"] == message_id


def test_unknown_hostile_id_is_refused() -> None:
    with serve() as server:
        refused = ask(server, requests.utils.quote(HOSTILE, safe=""), fields="id")
        assert (refused.status_code, refused.json()["error"]["error_subcode"]) == (400, 33)


def test_version_upgraded_changes_the_header() -> None:
    with serve("version_upgraded") as server:
        assert ask(server).headers["Facebook-API-Version"] == "v27.0"


def test_batch_items_can_be_null() -> None:
    items = json.dumps([{"method": "GET", "relative_url": "111"}] * 3)
    with serve("batch_null") as server:
        form = {"access_token": EMULATOR_TOKEN, "batch": items}
        answer = requests.post(f"{server.base_url}/v26.0/", data=form, timeout=60).json()
    assert [item is None for item in answer] == [False, True, False]


def test_server_stops_during_a_slow_response() -> None:
    """The whole response would exceed the test's time limit."""
    server = serve("slow_loris:1").start()
    with pytest.raises(requests.RequestException):
        ask(server, timeout=0.1)
    server.stop()


def test_command_serves_with_faults() -> None:
    command = [sys.executable, "-m", "convo_pipeline.cli", "emulator", "--fault", "html_200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        answer = requests.get(f"{url}/111", headers=HEADER, timeout=60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert answer.content.startswith(b"<!DOCTYPE html>")


def test_command_lists_faults_if_one_is_unknown() -> None:
    command = [sys.executable, "-m", "convo_pipeline.cli", "emulator", "--fault", "nonsense"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode != 0
    assert 'no fault is called "nonsense"; there are: access_switched_off' in ended.stderr


SLOW = {
    "connect_timeout",
    "read_timeout",
    "slow_loris",
    "giant_body",
    "zip_bomb",
    "deep_nesting",
    "latency",
}
QUERIES: tuple[dict[str, Any], ...] = (
    {},
    {"fields": NESTED, "limit": "x"},
    {"fields": "id,messages{id", "after": "nonsense"},
    {"fields": "message,from", "limit": "0"},
)


@pytest.mark.parametrize("id_alphabet", ["meta", "hostile"])
def test_no_fault_raises_an_exception_in_the_emulator(id_alphabet: Any, long_run: bool) -> None:
    world = make_world(2, 3)
    talk = next(iter(world.accounts["shop"].conversations.values()))
    tail = "%2B%2F%3D%3A-_" if id_alphabet == "hostile" else ""
    ids = [f"{talk.conversation_id}{tail}", f"{talk.messages[-1].message_id}{tail}"]
    paths = [
        "111/conversations",
        *ids,
        f"{ids[0]}/messages",
        f"{ids[1]}/shares",
        "111",
        "me",
        "debug_token",
        "%00/x/y",
    ]
    switches = Switches(
        id_alphabet=id_alphabet, data_shape="object_if_single", cursor_kind="offset"
    )
    rng = random.Random(1)
    with EmulatorServer(world, switches) as server:
        for name in sorted(set(FAULTS) - SLOW):
            server.set_faults(name)
            for path in paths if long_run else rng.sample(paths, 3):
                for query in QUERIES if long_run else rng.sample(QUERIES, 1):
                    with contextlib.suppress(requests.RequestException):
                        ask(server, path, **query)
    assert server.failures == []
