"""Each fault does on the wire what its line in the catalogue says, seen with plain requests."""

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
"""Faults that only the client's own side can have: name look-up, proxies."""


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
    server: EmulatorServer, path: str = "111/conversations", timeout: float = 5, **params: Any
) -> requests.Response:
    query = {"platform": "instagram", "fields": NESTED, "limit": 3} | params
    url = f"{server.base_url}/v26.0/{path}"
    return requests.get(url, params=query, headers=HEADER, timeout=timeout, allow_redirects=False)


def listed(server: EmulatorServer, pages: int = 20, **params: Any) -> list[list[str]]:
    """The ids on each page, as a simple reader of `next` gets them."""
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


def test_the_catalogue_of_parts_a_and_b_is_whole() -> None:
    assert {kind.name for kind in FAULTS.values()} == set(FAULTS)
    numbers = {kind.number for kind in FAULTS.values()} | OF_CLIENT | {"A23"}
    assert numbers - {"B0"} == {f"A{n}" for n in range(1, 26)} | {f"B{n}" for n in range(1, 31)}


def test_every_fault_has_a_line_and_says_what_its_argument_means() -> None:
    for kind in FAULTS.values():
        assert kind.summary
        assert kind.default or kind.takes in ("times", "nothing")


def test_every_fault_is_in_the_documentation() -> None:
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
def test_text_names_a_fault(
    text: str, argument: str, probability: float, times: int | None
) -> None:
    fault = parse_fault(text)
    assert (fault.argument, fault.probability, fault.times) == (argument, probability, times)


@pytest.mark.parametrize(
    "text", ["nonsense", "reset:1:2:3", "token_dies:5:often", "", "server_error:often"]
)
def test_text_that_names_no_fault_is_refused(text: str) -> None:
    with pytest.raises(FaultError):
        parse_fault(text)


def test_drawing_is_seeded() -> None:
    def draw(seed: int) -> list[int]:
        with EmulatorServer(make_world(1), faults=["html_200:0.5"], seed=seed) as server:
            return [len(ask(server).content) for _ in range(12)]

    assert draw(1) == draw(1) != draw(2)


def test_faults_are_bounded_by_times_and_by_calls_before() -> None:
    with serve(make_fault("html_200", times=1, after_calls=2)) as server:
        assert [ask(server).content[:1] for _ in range(4)] == [b"{", b"{", b"<", b"{"]


def test_several_faults_act_together() -> None:
    with serve("lone_surrogate", "byte_order_mark", "clock_skew:60") as server:
        answer = ask(server)
    assert answer.content.startswith(b"\xef\xbb\xbf{")
    assert b"\\ud83d" in answer.content
    assert answer.headers["Date"] == "Thu, 19 Feb 2026 12:01:00 GMT"


def test_a_server_heals_when_its_faults_are_taken_away() -> None:
    with serve("html_200") as server:
        server.set_faults("empty_body")
        assert ask(server).content == b""
        server.set_faults()
        assert ask(server).json()["data"]


# A: the network


def test_connect_timeout_accepts_nobody() -> None:
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
def test_broken_connections_break(fault: str, error: type[Exception]) -> None:
    with serve(fault) as server, pytest.raises(error):
        ask(server, timeout=1 if error is requests.ReadTimeout else 20)


def test_an_answer_without_a_body_is_over_before_it_is_reset_and_the_server_lives() -> None:
    with serve("redirect", "reset_mid_body") as server:
        assert ask(server).status_code == 302
        time.sleep(0.2)  # longer than the fault waits
        assert ask(server).status_code == 302


@pytest.mark.parametrize(
    "fault", ["no_length", "truncated_json", "gzip_cut", "bad_utf8", "html_200", "latin1"]
)
def test_broken_bodies_are_no_json(fault: str) -> None:
    with serve(fault) as server:
        answer = ask(server)
    assert answer.status_code == 200
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError and JSONDecodeError alike
        json.loads(answer.content)


def test_slow_loris_drips_and_outlasts_a_read_timeout() -> None:
    with serve("slow_loris:0.01:1.0") as server:
        started = time.monotonic()
        answer = ask(server, "111", timeout=0.2, fields="id")
        assert json.loads(answer.content) == {"id": "111"}
    assert time.monotonic() - started > 0.1


def test_latency_delays_a_whole_answer() -> None:
    with serve("latency:0.2:1.0") as server:
        assert ask(server).json()["data"]


def test_a_cut_at_an_edge_is_valid_json_without_data() -> None:
    with serve("cut_at_edge") as server:
        assert ask(server).json() == {"paging": {}}


def test_gzip_without_a_trailer_still_unpacks() -> None:
    with serve("gzip_no_trailer") as server:
        raw = requests.get(
            f"{server.base_url}/111", headers=HEADER, timeout=5, stream=True
        ).raw.read(decode_content=False)
    with pytest.raises(EOFError):
        gzip.decompress(raw)
    assert json.loads(zlib.decompressobj(31).decompress(raw))["id"] == "111"


def test_empty_answers_are_empty() -> None:
    with serve("empty_body") as server:
        assert (ask(server).status_code, ask(server).content) == (200, b"")
    with serve("no_content") as server:
        assert (ask(server).status_code, ask(server).content) == (204, b"")


def test_odd_json_is_odd() -> None:
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


def test_server_errors_come_in_a_burst_and_end() -> None:
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
        ("poisoned", (500, 1, None)),
        ("withheld", (403, 10, 2018336)),
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


def test_429_has_no_headers_to_help() -> None:
    with serve("too_many_requests:1") as server:
        answer = ask(server)
        assert (answer.status_code, "Retry-After" in answer.headers) == (429, False)
        assert ask(server).status_code == 200


def test_a_business_limit_names_its_minutes_and_ends_with_the_clock() -> None:
    with serve("business_80006:19") as server:
        usage = json.loads(ask(server).headers["X-Business-Use-Case-Usage"])
        server.clock.advance(18 * 60)
        still = ask(server).status_code
        server.clock.advance(61)
        assert (still, ask(server).status_code) == (400, 200)
    assert usage["111"][0]["estimated_time_to_regain_access"] == 19


def test_usage_headers_warn_or_cannot_be_read() -> None:
    with serve("high_usage:95") as server:
        assert json.loads(ask(server).headers["X-App-Usage"])["call_count"] == 95
    with serve("malformed_usage") as server:
        assert len({ask(server).headers["X-App-Usage"] for _ in range(10)}) > 2


def test_a_redirect_leads_to_another_host_that_counts_its_visitors() -> None:
    with serve("redirect") as server:
        answer = ask(server)
        assert answer.status_code == 302
        assert server.foreign_calls == []
        requests.get(answer.headers["Location"], timeout=5)
        assert server.foreign_calls == ["/v26.0/111/conversations"]


def test_giant_bodies_are_giant_and_valid() -> None:
    with serve("giant_body:3") as server:
        answer = ask(server)
        assert len(answer.content) == 3 << 20
        assert answer.json()["data"]
    with serve("zip_bomb:8") as server:
        answer = requests.get(f"{server.base_url}/111", headers=HEADER, timeout=5)
        assert int(answer.headers["Content-Length"]) < 20_000
        assert len(answer.content) > 8 << 20


def test_a_giant_body_stops_when_the_reader_leaves() -> None:
    with serve("giant_body:100000") as server:
        answer = requests.get(f"{server.base_url}/111", headers=HEADER, timeout=5, stream=True)
        assert int(answer.headers["Content-Length"]) > 100_000_000_000
        answer.close()
        started = time.monotonic()
    assert time.monotonic() - started < 1


def test_a_certificate_nobody_knows_is_refused(tmp_path: Path) -> None:
    files = write_certificate(tmp_path)
    with EmulatorServer(make_world(1), tls=files) as server:
        with pytest.raises(requests.exceptions.SSLError):
            ask(server)
        known = requests.get(f"{server.base_url}/111", headers=HEADER, timeout=5, verify=files[0])
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
def test_an_empty_page_with_a_next_loses_nothing(kind: str) -> None:
    with serve("empty_page:2", cursor_kind=kind) as server:
        pages = listed(server)
    assert pages[:2] == [[], []]
    assert [len(page) for page in pages[2:]] == [3, 3, 3, 3]
    with serve("empty_page:0.5", cursor_kind=kind) as server:
        assert len(all_ids(server)) == 12


def test_short_pages_lose_nothing() -> None:
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


def test_shuffled_rows_are_the_same_rows() -> None:
    with serve("shuffled") as server, serve(world=server.world) as calm:
        shuffled, ordered = listed(server, limit=12)[0], listed(calm, limit=12)[0]
    assert shuffled != ordered
    assert sorted(shuffled) == sorted(ordered)


def test_a_bumped_conversation_is_missed_by_a_plain_pass() -> None:
    with serve("bump") as server:
        seen = all_ids(server)
    assert 0 < len(seen) < 12


def test_a_deleted_head_shifts_an_offset_list() -> None:
    with serve("vanish_head", cursor_kind="offset") as server:
        assert len(all_ids(server)) < 12


def test_a_dead_cursor_is_refused_once() -> None:
    with serve("dead_cursor") as server:
        after = ask(server).json()["paging"]["cursors"]["after"]
        assert error_of(ask(server, after="x"))[1] == 100
        assert ask(server, after=after).status_code == 200


def test_next_may_point_anywhere() -> None:
    with serve("foreign_next") as server:
        links = {ask(server).json()["paging"]["next"].split("/v26.0")[0] for _ in range(20)}
        assert server.base_url not in links
        assert len(links) > 3
    with serve("altered_next") as server:
        assert "/v1.0/../me/accounts?fields=id&limit=1" in ask(server).json()["paging"]["next"]


# B: a world that moves


def test_the_world_moves_while_it_is_read() -> None:
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


def test_edges_may_be_missing_or_empty() -> None:
    for fault, check in (
        ("edge_missing", lambda answer: error_of(answer) == (400, 100, 33)),
        ("edge_empty", lambda answer: answer.json() == {"data": []}),
    ):
        with serve(fault) as server:
            conversation = ask(server).json()["data"][0]["id"]
            assert check(ask(server, f"{conversation}/messages", fields="id"))
    with serve("nested_missing") as server:
        assert all("messages" not in row for row in ask(server).json()["data"])


def test_twins_share_a_message_id() -> None:
    with serve("twin_ids") as server:
        ask(server)
        found = [true.message_id for true in server.world.truth()]
    assert len(found) - len(set(found)) == 1


def test_a_poisoned_conversation_spoils_every_page_that_holds_its_content() -> None:
    with serve("poisoned:2") as server:
        assert error_of(ask(server, limit=2))[1] == 1
        assert ask(server, limit=1).status_code == 200
        assert len(ask(server, limit=12, fields="id").json()["data"]) == 12
        poisoned = ask(server, limit=2, fields="id").json()["data"][1]["id"]
        assert error_of(ask(server, poisoned, fields="messages{id}"))[1] == 1


def test_less_data_passes_where_more_is_refused() -> None:
    with serve("reduce_above:40") as server:
        assert error_of(ask(server, limit=3))[1] == 1
        assert ask(server, limit=2).status_code == 200
        assert ask(server, limit=40, fields="id").status_code == 200


def test_an_old_page_may_be_refused_as_a_whole() -> None:
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


def test_throttling_may_look_like_a_missing_object() -> None:
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
def test_values_are_spoilt_and_the_world_is_not(
    fault: str, is_seen: Callable[[dict[str, Any]], bool]
) -> None:
    with serve(fault) as server, serve(world=server.world) as calm:
        before = ask(calm).json()
        assert any(is_seen(row) for row in first_messages(ask(server)))
        assert ask(calm).json() == before


def test_hostile_ids_lead_back_to_their_objects() -> None:
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


def test_a_hostile_id_of_nothing_is_refused_and_not_left_unanswered() -> None:
    with serve() as server:
        refused = ask(server, requests.utils.quote(HOSTILE, safe=""), fields="id")
        assert (refused.status_code, refused.json()["error"]["error_subcode"]) == (400, 33)


def test_the_serving_version_may_be_another() -> None:
    with serve("version_upgraded") as server:
        assert ask(server).headers["Facebook-API-Version"] == "v27.0"


def test_batch_items_may_be_null() -> None:
    items = json.dumps([{"method": "GET", "relative_url": "111"}] * 3)
    with serve("batch_null") as server:
        form = {"access_token": EMULATOR_TOKEN, "batch": items}
        answer = requests.post(f"{server.base_url}/v26.0/", data=form, timeout=5).json()
    assert [item is None for item in answer] == [False, True, False]


def test_the_server_stops_at_once_while_it_drips() -> None:
    server = serve("slow_loris:1").start()
    with pytest.raises(requests.RequestException):
        ask(server, timeout=0.1)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 1


def test_the_command_serves_with_faults() -> None:
    command = [sys.executable, "-m", "convo_pipeline.cli", "emulator", "--fault", "html_200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        answer = requests.get(f"{url}/111", headers=HEADER, timeout=5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert answer.content.startswith(b"<!DOCTYPE html>")


def test_the_command_names_the_faults_when_one_is_unknown() -> None:
    command = [sys.executable, "-m", "convo_pipeline.cli", "emulator", "--fault", "nonsense"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
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
def test_no_fault_makes_the_emulator_itself_fail(id_alphabet: Any, long_run: bool) -> None:
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
