"""The emulator over HTTP, called with plain requests."""

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.emulator.http_server import KEEP_ALIVE_SECONDS
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import Conversation, World

START = datetime(2026, 2, 19, 12, tzinfo=UTC)
BAKERY, BIKES = "1234567890", "9876543210"
HEADER = {"Authorization": f"Bearer {EMULATOR_TOKEN}"}


def ask(server: EmulatorServer, path: str, **params: Any) -> requests.Response:
    return requests.get(
        f"{server.base_url}/v26.0/{path}", params=params, headers=HEADER, timeout=60
    )


def error_of(answer: requests.Response) -> tuple[int, int | None]:
    error = answer.json()["error"]
    return error["code"], error.get("error_subcode")


@pytest.fixture(scope="module")
def server() -> Iterator[EmulatorServer]:
    with EmulatorServer(default_world(VirtualClock(START), history_days=14)) as running:
        yield running


@pytest.fixture
def world() -> World:
    world = World(VirtualClock(START))
    world.add_account("shop", "111", "instagram", own_id="17840", username="shop")
    world.add_account("page", "222", "messenger", title="Page", tokens=("EAApage",))
    return world


def talk(world: World, count: int, account: str = "shop") -> Conversation:
    conversation = world.accounts[account].add_conversation("Ada Invented")
    conversation.add_messages(count, START - timedelta(minutes=count))
    return conversation


def test_servers_stop_without_waiting_for_open_connections(world: World) -> None:
    """The server would keep an idle connection open for 75 seconds."""
    started = time.monotonic()
    with requests.Session() as session:
        for _ in range(5):
            with EmulatorServer(world) as server:
                url = f"{server.base_url}/v26.0/111"
                assert session.get(url, headers=HEADER, timeout=60).status_code == 200
    assert time.monotonic() - started < KEEP_ALIVE_SECONDS


def test_listing_is_sorted_by_activity_and_has_all_pages(server: EmulatorServer) -> None:
    rows: list[dict[str, Any]] = []
    after = {}
    while True:
        page = ask(server, f"{BIKES}/conversations", platform="messenger", limit=7, **after).json()
        rows += page["data"]
        if "next" not in page["paging"]:
            break
        after = {"after": page["paging"]["cursors"]["after"]}
    times = [row["updated_time"] for row in rows]
    assert times == sorted(times, reverse=True)
    visible = {
        true.conversation_id
        for true in server.world.truth()
        if true.account == "bikes-messenger" and true.is_visible
    }
    spam = {
        c.conversation_id
        for c in server.world.accounts["bikes-messenger"].conversations.values()
        if c.folder
    }
    assert {row["id"] for row in rows} == visible - spam
    assert "previous" in page["paging"]


def test_default_fields_and_limit(server: EmulatorServer) -> None:
    page = ask(server, f"{BAKERY}/conversations", platform="instagram").json()
    assert len(page["data"]) == 25
    assert set(page["data"][0]) == {"id", "updated_time"}
    nested = ask(server, page["data"][0]["id"], fields="messages").json()
    assert set(nested["messages"]["data"][0]) == {"id", "created_time"}


def test_next_has_the_token_only_if_the_query_had_it(server: EmulatorServer) -> None:
    by_header = ask(server, f"{BAKERY}/conversations", platform="instagram", limit=1).json()
    by_query = ask(
        server,
        f"{BAKERY}/conversations",
        platform="instagram",
        limit=1,
        access_token=EMULATOR_TOKEN,
    ).json()
    assert EMULATOR_TOKEN not in by_header["paging"]["next"]
    assert f"access_token={EMULATOR_TOKEN}" in by_query["paging"]["next"]


def test_next_leads_to_the_second_page(server: EmulatorServer) -> None:
    first = ask(
        server,
        f"{BAKERY}/conversations",
        platform="instagram",
        limit=2,
        access_token=EMULATOR_TOKEN,
    ).json()
    second = requests.get(first["paging"]["next"], timeout=60).json()
    four = ask(server, f"{BAKERY}/conversations", platform="instagram", limit=4).json()
    assert first["data"] + second["data"] == four["data"]
    back = requests.get(second["paging"]["previous"], timeout=60).json()
    assert back["data"] == first["data"]


@pytest.mark.parametrize("kind", ["keyset", "item", "offset"])
def test_each_kind_of_cursor_reads_all_messages(world: World, kind: Any) -> None:
    conversation = talk(world, 55)
    for _ in range(10):
        conversation.add_message("all in one microsecond")
    with EmulatorServer(world, Switches(cursor_kind=kind)) as server:
        found: list[str] = []
        after = {}
        while True:
            page = ask(server, f"{conversation.conversation_id}/messages", limit=20, **after).json()
            found += [row["id"] for row in page["data"]]
            if "next" not in page["paging"]:
                break
            after = {"after": page["paging"]["cursors"]["after"]}
    assert found == [true.message_id for true in world.truth()]


def test_old_instagram_message_has_no_content_and_is_refused_by_id(world: World) -> None:
    conversation = talk(world, 25)
    with EmulatorServer(world) as server:
        rows = ask(
            server,
            f"{conversation.conversation_id}/messages",
            fields="id,created_time,message",
            limit=25,
        ).json()
        readable = [("message" in row) for row in rows["data"]]
        assert readable == [true.is_readable for true in world.truth()] == [True] * 20 + [False] * 5
        assert ask(server, rows["data"][19]["id"], fields="message").status_code == 200
        refused = ask(server, rows["data"][20]["id"], fields="message")
    assert (refused.status_code, error_of(refused)) == (400, (9000001, None))


def test_old_messenger_message_is_readable_by_default(world: World) -> None:
    conversation = talk(world, 25, "page")
    with EmulatorServer(world) as server:
        rows = ask(
            server,
            f"{conversation.conversation_id}/messages",
            fields="message",
            limit=25,
            access_token="EAApage",
        ).json()["data"]
        oldest = ask(server, rows[24]["id"], fields="message", access_token="EAApage")
    assert [row["message"] for row in rows] == [f"message {n}" for n in range(25, 0, -1)]
    assert oldest.json()["message"] == "message 1"


def test_unsent_message_has_the_error_of_an_old_one(world: World) -> None:
    conversation = talk(world, 3)
    conversation.messages[1].unsend()
    with EmulatorServer(world) as server:
        rows = ask(server, f"{conversation.conversation_id}/messages").json()["data"]
        refused = ask(server, conversation.messages[1].message_id)
    assert len(rows) == 2
    assert error_of(refused) == (9000001, None)


def test_unknown_field_refuses_the_call(server: EmulatorServer) -> None:
    for fields in ("id,nope", "messages{nope}", "messages{shares{nope}}"):
        answer = ask(server, f"{BAKERY}/conversations", platform="instagram", fields=fields)
        assert (answer.status_code, error_of(answer)) == (400, (100, None))
        assert "nonexisting field (nope)" in answer.json()["error"]["message"]
        assert answer.headers["WWW-Authenticate"].startswith(
            'OAuth "Facebook Platform" "invalid_request"'
        )


def test_wrong_field_syntax_is_refused(server: EmulatorServer) -> None:
    assert (
        error_of(
            ask(server, f"{BAKERY}/conversations", platform="instagram", fields="id,messages{id")
        )[0]
        == 2500
    )


def test_user_id_finds_a_person_or_nothing(server: EmulatorServer) -> None:
    fields = "participants,updated_time"
    page = ask(
        server, f"{BAKERY}/conversations", platform="instagram", fields=fields, limit=3
    ).json()
    wanted = page["data"][2]
    customer = wanted["participants"]["data"][0]["id"]
    found = ask(
        server, f"{BAKERY}/conversations", platform="instagram", user_id=customer, fields=fields
    ).json()
    nobody = ask(server, f"{BAKERY}/conversations", platform="instagram", user_id="1").json()
    assert found["data"] == [wanted]
    assert nobody["data"] == []


def test_page_and_instagram_account_show_the_instagram_id(server: EmulatorServer) -> None:
    own = {"id": "17841401234567890", "username": "baeckerei.sauerteig"}
    page = ask(server, BAKERY, fields="instagram_business_account{id,username}").json()
    me = ask(server, "me", fields="user_id,username").json()
    assert page == {"instagram_business_account": own, "id": BAKERY}
    assert me == {"user_id": own["id"], "username": own["username"], "id": own["id"]}


def test_instagram_login_lists_by_me(server: EmulatorServer) -> None:
    by_me = ask(server, "me/conversations", platform="instagram").json()
    by_page = ask(server, f"{BAKERY}/conversations", platform="instagram").json()
    assert by_me == by_page
    failed = ask(server, "me/conversations", platform="instagram", fields="nope").json()
    assert failed["error"]["type"] == "IGApiException"


def test_token_in_query_or_header_is_checked(world: World) -> None:
    talk(world, 1)
    with EmulatorServer(world) as server:
        url = f"{server.base_url}/v26.0/111/conversations?platform=instagram"
        none = requests.get(url, timeout=60)
        wrong = requests.get(url, headers={"Authorization": "Bearer nonsense"}, timeout=60)
        foreign = requests.get(url, params={"access_token": "EAApage"}, timeout=60)
        query = requests.get(url, params={"access_token": EMULATOR_TOKEN}, timeout=60)
        assert [error_of(each)[0] for each in (none, wrong, foreign)] == [104, 190, 100]
        assert query.status_code == 200
        assert [seen.token_in for seen in server.log] == [None, "header", "query", "query"]
        assert "access_token" not in server.log[3].params


def test_app_secret_requires_a_correct_proof(world: World) -> None:
    world.accounts["shop"].app_secret = "s3cret"
    plain = hmac.new(b"s3cret", EMULATOR_TOKEN.encode(), hashlib.sha256).hexdigest()
    stamp = str(int(time.time()))
    timed = hmac.new(b"s3cret", f"{EMULATOR_TOKEN}|{stamp}".encode(), hashlib.sha256).hexdigest()
    with EmulatorServer(world) as server:
        assert error_of(ask(server, "111"))[0] == 100
        assert error_of(ask(server, "111", appsecret_proof="0" * 64))[0] == 100
        assert ask(server, "111", appsecret_proof=plain).status_code == 200
        assert ask(server, "111", appsecret_proof=timed, appsecret_time=stamp).status_code == 200
        assert error_of(ask(server, "111", appsecret_proof=timed, appsecret_time="1"))[0] == 100


def test_media_links_get_a_new_signature_in_each_response(world: World) -> None:
    picture = {
        "id": "1",
        "image_data": {"url": "https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id=5"},
    }
    message = talk(world, 1).add_message("", attachments=[picture])
    with EmulatorServer(world) as server:
        links = []
        for _ in range(2):
            shown = ask(server, message.message_id, fields="attachments").json()
            links.append(shown["attachments"]["data"][0]["image_data"]["url"])
            server.clock.advance(1)
    assert links[0] != links[1]
    assert links[0].split("&")[0] == links[1].split("&")[0] == picture["image_data"]["url"]


def test_retired_version_falls_back_and_the_header_names_the_served_one(
    server: EmulatorServer,
) -> None:
    def version(path: str) -> str:
        return requests.get(f"{server.base_url}{path}", headers=HEADER, timeout=60).headers[
            "Facebook-API-Version"
        ]

    assert [version(f"{v}/{BAKERY}") for v in ("/v26.0", "/v23.0", "/v3.2", "")] == [
        "v26.0",
        "v23.0",
        "v21.0",
        "v26.0",
    ]
    too_new = requests.get(f"{server.base_url}/v99.0/{BAKERY}", headers=HEADER, timeout=60)
    assert error_of(too_new)[0] == 2500


def test_date_header_is_the_virtual_clock(server: EmulatorServer) -> None:
    assert ask(server, BAKERY).headers["Date"] == "Thu, 19 Feb 2026 12:00:00 GMT"


def test_usage_headers_start_after_some_calls(world: World) -> None:
    with EmulatorServer(world, Switches(usage_headers_after=2, calls_per_hour=10)) as server:
        answers = [ask(server, "111/conversations", platform="instagram") for _ in range(3)]
    assert ["X-App-Usage" in answer.headers for answer in answers] == [False, False, True]
    use_case = json.loads(answers[2].headers["X-Business-Use-Case-Usage"])["111"][0]
    assert (
        use_case["type"],
        use_case["call_count"],
        use_case["estimated_time_to_regain_access"],
    ) == (
        "instagram",
        30,
        0,
    )


@pytest.mark.parametrize("kind", ["sliding_window", "token_bucket", "fixed_window"])
def test_third_call_in_a_window_is_refused_per_page_and_platform(world: World, kind: Any) -> None:
    world.add_account("shop-m", "111", "messenger")
    with EmulatorServer(world, Switches(limiter=kind, calls_per_second=0.01)) as server:
        answers = [ask(server, "111/conversations", platform="instagram") for _ in range(3)]
        other = ask(server, "111/conversations", platform="messenger")
        identity = ask(server, "111")
    assert [answer.status_code for answer in (*answers, other, identity)] == [
        200,
        200,
        400,
        200,
        200,
    ]
    assert error_of(answers[2]) == (613, 2534040)


def test_higher_rate_limit_allows_more_calls(world: World) -> None:
    with EmulatorServer(world, Switches(limiter="sliding_window", calls_per_second=50)) as server:
        codes = []
        for _ in range(6):
            codes.append(ask(server, "111/conversations", platform="instagram").status_code)
            time.sleep(0.045)
    assert codes == [200] * 6


def test_ids_returns_a_map_and_one_bad_id_refuses_all(world: World) -> None:
    conversation = talk(world, 22)
    newest, oldest = conversation.messages[-1].message_id, conversation.messages[0].message_id
    with EmulatorServer(world) as server:
        good = ask(server, "", ids=newest, fields="message").json()
        bad = ask(server, "", ids=f"{newest},{oldest}", fields="message")
    assert good == {newest: {"message": "message 22", "id": newest}}
    assert error_of(bad)[0] == 9000001


def test_batch_returns_items_in_order_with_bodies_as_text(world: World) -> None:
    conversation = talk(world, 1)
    items = [
        {"method": "GET", "relative_url": f"{conversation.conversation_id}?fields=id"},
        {"method": "GET", "relative_url": "v26.0/999"},
    ]
    with EmulatorServer(world) as server:
        form = {"access_token": EMULATOR_TOKEN, "batch": json.dumps(items)}
        answer = requests.post(f"{server.base_url}/v26.0/", data=form, timeout=60).json()
        many = {"access_token": EMULATOR_TOKEN, "batch": json.dumps(items * 26)}
        refused = requests.post(f"{server.base_url}/v26.0/", data=many, timeout=60).json()
    assert [item["code"] for item in answer] == [200, 400]
    assert json.loads(answer[0]["body"]) == {"id": conversation.conversation_id}
    assert json.loads(answer[1]["body"])["error"]["error_subcode"] == 33
    assert {"name": "Facebook-API-Version", "value": "v26.0"} in answer[0]["headers"]
    assert refused["error"]["type"] == "GraphBatchException"


def test_folders_are_listed_separately_and_hidden_conversations_never(world: World) -> None:
    page = world.accounts["page"]
    plain, spam, hidden = (page.add_conversation(name) for name in ("A", "B", "C"))
    for conversation in (plain, spam, hidden):
        conversation.add_message("hello")
    spam.move("spam")
    hidden.hide()
    with EmulatorServer(world) as server:

        def listed(**params: str) -> list[str]:
            rows = ask(server, "222/conversations", access_token="EAApage", **params).json()["data"]
            return [row["id"] for row in rows]

        assert listed() == listed(folder="inbox") == [plain.conversation_id]
        assert listed(folder="spam") == [spam.conversation_id]
        gone = ask(server, hidden.conversation_id, access_token="EAApage")
    assert error_of(gone) == (100, 33)


def test_request_idle_for_30_days_is_hidden(world: World) -> None:
    conversation = world.accounts["shop"].add_conversation(is_request=True)
    conversation.add_message("hi", START)
    with EmulatorServer(world) as server:
        assert len(ask(server, "111/conversations", platform="instagram").json()["data"]) == 1
        server.clock.advance(31 * 86_400)
        assert ask(server, "111/conversations", platform="instagram").json()["data"] == []


def test_limit_above_the_maximum_is_reduced(world: World) -> None:
    conversation = talk(world, 130)
    with EmulatorServer(world) as server:
        assert (
            len(ask(server, f"{conversation.conversation_id}/messages", limit=500).json()["data"])
            == 100
        )
        assert (
            error_of(ask(server, f"{conversation.conversation_id}/messages", limit="x"))[0] == 100
        )


def test_item_cursor_of_a_deleted_row_is_refused(world: World) -> None:
    conversations = [talk(world, 1) for _ in range(3)]
    with EmulatorServer(world, Switches(cursor_kind="item")) as server:
        page = ask(server, "111/conversations", platform="instagram", limit=1).json()
        world.accounts["shop"].conversations[page["data"][0]["id"]].vanish()
        after = page["paging"]["cursors"]["after"]
        assert (
            error_of(ask(server, "111/conversations", platform="instagram", after=after))[0] == 100
        )
    assert len(conversations) == 3


def test_encoded_ids_with_slashes_and_plus_signs_are_found(world: World) -> None:
    conversation = world.accounts["shop"].add_conversation(conversation_id="a/b+c=d?e%2F")
    conversation.add_message("hello", message_id="m/1?#")
    with EmulatorServer(world) as server:
        answer = ask(
            server, requests.utils.quote("a/b+c=d?e%2F", safe=""), fields="messages{message}"
        )
        message = ask(server, requests.utils.quote("m/1?#", safe=""))
    assert answer.json()["messages"]["data"] == [{"message": "hello", "id": "m/1?#"}]
    assert message.json()["id"] == "m/1?#"


def test_debug_token_and_permissions_show_scopes(server: EmulatorServer) -> None:
    good = ask(server, "debug_token", input_token=EMULATOR_TOKEN).json()["data"]
    bad = ask(server, "debug_token", input_token="nonsense").json()["data"]
    permissions = ask(server, "me/permissions").json()["data"]
    assert (good["is_valid"], good["expires_at"], bad["is_valid"]) == (True, 0, False)
    assert {"permission": "instagram_manage_messages", "status": "granted"} in permissions


def test_log_counts_calls_by_kind_and_window(world: World) -> None:
    conversation = talk(world, 2)
    with EmulatorServer(world) as server:
        ask(server, "111", fields="id")
        ask(server, "111/conversations", platform="instagram", user_id="1")
        ask(server, "111/conversations", platform="instagram")
        ask(server, conversation.conversation_id)
        ask(server, f"{conversation.conversation_id}/messages")
        ask(server, conversation.messages[0].message_id)
        kinds = ["identity", "find", "listing", "conversation", "edge", "message"]
        assert [call.kind for call in server.log] == kinds
        assert server.log.most_in_one_second("shop", seconds=3600) >= 3
        assert [call.code for call in server.log] == [None] * 6


def test_the_log_has_the_time_when_the_system_received_a_call(world: World) -> None:
    """The server reads the second call only after the first one, which waits for a lock."""
    request = b"GET /v26.0/111/conversations HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with EmulatorServer(world) as server:
        with ExitStack() as stack:
            callers = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(2)
            ]
            with server.world.lock:
                for caller in callers:
                    caller.sendall(request)
                time.sleep(0.1)  # more than the resolution of the system's times
                released_at = time.monotonic()
            for caller in callers:
                assert caller.recv(100)
        assert [call.at < released_at for call in server.log] == [True, True]
