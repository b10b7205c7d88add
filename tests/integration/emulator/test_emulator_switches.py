"""Each switch changes responses, and the covering set has every pair of values."""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import SHAPES, Switches, covering_switches, every_combination
from convo_pipeline.emulator.world import World
from tests.support.paths import DOCS

START = datetime(2026, 2, 19, 12, tzinfo=UTC)


def make_world() -> World:
    world = World(VirtualClock(START))
    shop = world.add_account("shop", "111", "instagram", own_id="17840", username="shop")
    page = world.add_account("page", "111", "messenger", title="Page")
    for account in (shop, page):
        conversation = account.add_conversation("Ada Invented", "42")
        conversation.add_messages(22, START - timedelta(hours=1))
        conversation.add_message(
            "ünï/code", START, reactions=[{"reaction": "❤️", "users": [{"id": "42"}]}]
        )
        conversation.add_message("", START, is_unsupported=True)
        conversation.add_message("", START, sticker="https://scontent.xx.fbcdn.net/v/s/77.png")
        conversation.add_message(
            "", START, shares=[{"link": "https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id=1"}]
        )
    return world


def rows(
    platform: str = "instagram", fields: str = "message", **switches: Any
) -> list[dict[str, Any]]:
    (row,) = ask(
        "111/conversations", f"messages.limit(50){{{fields}}}", platform=platform, **switches
    ).json()["data"]
    found: list[dict[str, Any]] = row["messages"]["data"]
    return found


def ask(path: str, fields: str, platform: str = "instagram", **switches: Any) -> requests.Response:
    with EmulatorServer(make_world(), Switches(**switches)) as server:
        query = {"access_token": EMULATOR_TOKEN, "platform": platform, "fields": fields}
        return requests.get(f"{server.base_url}/v26.0/{path}", params=query, timeout=60)


@pytest.mark.parametrize("platform", ["instagram", "messenger"])
def test_rows_beyond_20_are_without_content_errors_or_complete(platform: str) -> None:
    found = {}
    for mode in ("omit_fields", "error_row", "full"):
        found[mode] = rows(platform, **{f"old_rows_{platform}": mode})
    assert set(found["omit_fields"][20]) == {"id"}
    assert found["error_row"][20]["error"]["code"] == 9000001
    assert found["full"][20]["message"] == "message 6"
    assert found["omit_fields"][:20] == found["error_row"][:20] == found["full"][:20]


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, "2026-02-19T12:00:00+0000"),
        ({"time_offset": "+00:00"}, "2026-02-19T12:00:00+00:00"),
        ({"time_offset": "Z"}, "2026-02-19T12:00:00Z"),
        ({"time_format": "unix"}, 1771502400),
        ({"time_format": "unix_string"}, "1771502400"),
        ({"time_format": "ms"}, 1771502400000),
    ],
)
def test_times_have_the_chosen_format(switches: dict[str, Any], expected: object) -> None:
    assert rows(fields="created_time", **switches)[0]["created_time"] == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("data", {"data": [{"reaction": "❤️", "users": [{"id": "42"}]}]}),
        ("list", [{"reaction": "❤️", "users": [{"id": "42"}]}]),
        ("object", {"reaction": "❤️", "users": [{"id": "42"}]}),
    ],
)
def test_reactions_have_the_chosen_shape(shape: str, expected: object) -> None:
    assert rows(fields="reactions", reactions_shape=shape)[3]["reactions"] == expected


def test_is_unsupported_is_a_boolean_or_a_text() -> None:
    assert rows(fields="is_unsupported")[2]["is_unsupported"] is True
    assert (
        rows(fields="is_unsupported", is_unsupported_type="string")[2]["is_unsupported"] == "true"
    )


def test_single_entry_can_replace_a_list() -> None:
    page = ask(
        "111/conversations", "participants,messages.limit(1){to}", data_shape="object_if_single"
    ).json()
    assert page["data"]["messages"]["data"]["to"]["data"] == {"username": "shop", "id": "17840"}
    assert len(page["data"]["participants"]["data"]) == 2


def test_stickers_are_a_link_an_attachment_or_both() -> None:
    keys = {
        shape: {"sticker", "attachments"}
        & set(rows("messenger", "sticker,attachments", sticker_shape=shape)[1])
        for shape in ("url", "attachment", "both")
    }
    assert keys == {
        "url": {"sticker"},
        "attachment": {"attachments"},
        "both": {"sticker", "attachments"},
    }
    in_image = rows("messenger", "sticker,attachments", sticker_shape="image")[1]
    assert in_image["attachments"]["data"][0]["image_data"]["sticker_id"] == "77"


@pytest.mark.parametrize(
    ("mode", "is_own_id", "has_username"),
    [
        ("given", True, True),
        ("app_scoped", False, True),
        ("unknown_id", False, False),
        ("username_only", None, True),
    ],
)
def test_own_id_can_be_another_id_or_a_name(
    mode: str, is_own_id: bool | None, has_username: bool
) -> None:
    page = ask("111", "instagram_business_account{id,username}", own_id=mode).json()
    for user in (
        page["instagram_business_account"],
        ask("me", "user_id,username", own_id=mode).json(),
    ):
        assert user.get("username") == ("shop" if has_username else None)
        assert (user["id"] == "17840" if "id" in user else None) is is_own_id


def test_own_id_can_be_in_a_list_or_need_fewer_fields() -> None:
    listed = ask("me", "user_id,username", own_id="enveloped").json()
    assert listed == {"data": [{"id": "17840", "user_id": "17840", "username": "shop"}]}
    refused = ask("me", "user_id,username", own_id="field_refused").json()
    assert refused["error"]["code"] == 100
    assert ask("me", "id,username", own_id="field_refused").json()["id"] == "17840"
    linked = "instagram_business_account"
    assert ask("111", f"{linked}{{id,username}}", own_id="field_refused").status_code == 400
    assert ask("111", linked, own_id="field_refused").json()[linked]["id"] == "17840"


def test_own_id_can_be_refused() -> None:
    assert ask("111", "instagram_business_account{id}", own_id="refused").json() == {"id": "111"}
    assert ask("me", "user_id,username", own_id="refused").json()["error"]["code"] == 10


def test_participants_have_the_chosen_order() -> None:
    orders = []
    for order in ("customer_first", "account_first"):
        (row,) = ask("111/conversations", "participants", participants=order).json()["data"]
        orders.append([person["id"] for person in row["participants"]["data"]])
    assert orders == [["42", "17840"], ["17840", "42"]]


def test_participants_can_lack_names_the_customer_or_everything() -> None:
    found = {}
    for shape in ("ids_only", "account_only", "absent"):
        (row,) = ask("111/conversations", "participants", participants=shape).json()["data"]
        found[shape] = row.get("participants")
    assert found == {
        "ids_only": {"data": [{"id": "42"}, {"id": "17840"}]},
        "account_only": {"data": [{"username": "shop", "id": "17840"}]},
        "absent": None,
    }


NESTED_LISTS: dict[str, list[Any]] = {
    "attachments": [{"id": str(number)} for number in range(5)],
    "shares": [{"link": str(number)} for number in range(5)],
    "reactions": [{"reaction": str(number)} for number in range(5)],
    "tags": ["a", "b", "c", "d", "e"],
    "to": [{"id": str(number)} for number in range(5)],
}


@pytest.mark.parametrize("name", [*NESTED_LISTS, "participants"])
@pytest.mark.parametrize("inner_next", ["phantom", "absent", "everywhere"])
def test_nested_lists_are_cut_and_read_on_by_their_cursors(name: str, inner_next: Any) -> None:
    world = World(VirtualClock(START))
    shop = world.add_account("shop", "111", "instagram")
    talk = shop.add_conversation(people=[{"id": str(number)} for number in range(4)])
    message = talk.add_message("x", START, **NESTED_LISTS)
    path = talk.conversation_id if name == "participants" else message.message_id
    with EmulatorServer(world, Switches(inner_limit=2, inner_next=inner_next)) as server:

        def get(path: str, **query: str) -> Any:
            query = {"access_token": EMULATOR_TOKEN, **query}
            return requests.get(f"{server.base_url}/{path}", params=query, timeout=60).json()

        pages = [get(path, fields=name)[name]]
        while "next" in pages[-1].get("paging", {}):
            assert f"{path}/{name}?" in pages[-1]["paging"]["next"]
            pages.append(get(f"{path}/{name}", after=pages[-1]["paging"]["cursors"]["after"]))
    is_phantom = inner_next == "everywhere" or (inner_next == "phantom" and name == "shares")
    assert [len(page["data"]) for page in pages] == [2, 2, 1] + [0] * is_phantom
    assert pages[0]["paging"]["cursors"] == {"before": "MAZDZD", "after": "MQZDZD"}


def test_json_is_escaped_or_plain() -> None:
    assert b"\\u00fcn\\u00ef\\/code" in ask("111/conversations", "messages{message}").content
    assert (
        "ünï/code".encode()
        in ask("111/conversations", "messages{message}", json_escapes="plain").content
    )


def test_errors_can_be_localised_and_have_any_status() -> None:
    plain = ask("999", "id")
    odd = ask("999", "id", localised=True, error_statuses=((100, 404),))
    hidden = ask("999", "id", errors_as_200=True)
    assert [answer.status_code for answer in (plain, odd, hidden)] == [400, 404, 200]
    assert (
        odd.json()["error"]["message"]
        != plain.json()["error"]["message"]
        == hidden.json()["error"]["message"]
    )


def test_hostile_ids_are_shown_and_found() -> None:
    with EmulatorServer(make_world(), Switches(id_alphabet="hostile")) as server:
        query = {
            "access_token": EMULATOR_TOKEN,
            "platform": "instagram",
            "fields": "messages.limit(1)",
        }
        (row,) = requests.get(
            f"{server.base_url}/111/conversations", params=query, timeout=60
        ).json()["data"]
        (message,) = row["messages"]["data"]
        path = requests.utils.quote(message["id"], safe="")
        answer = requests.get(
            f"{server.base_url}/{path}", params=query | {"fields": "id"}, timeout=60
        )
    assert message["id"].endswith("+/=:-_")
    assert answer.json() == {"id": message["id"]}


def test_unsent_rows_can_keep_their_place() -> None:
    for mode, count in (("removed", 1), ("kept", 2)):
        world = World(VirtualClock(START))
        conversation = world.add_account("shop", "111", "instagram").add_conversation()
        conversation.add_messages(2, START - timedelta(minutes=5))
        conversation.messages[1].unsend()
        with EmulatorServer(world, Switches(unsent_rows=mode)) as server:  # type: ignore[arg-type]
            url = f"{server.base_url}/{conversation.conversation_id}/messages"
            query = {"access_token": EMULATOR_TOKEN, "fields": "id,message"}
            found = requests.get(url, params=query, timeout=60).json()["data"]
        assert [("message" in row) for row in found] == [False, True][2 - count :]


def test_deleted_message_can_have_the_error_of_a_missing_object() -> None:
    world = make_world()
    old = world.accounts["shop"].conversations
    message_id = next(iter(old.values())).messages[0].message_id
    with EmulatorServer(world, Switches(refused_as="100/33")) as server:
        answer = requests.get(
            f"{server.base_url}/{message_id}?access_token={EMULATOR_TOKEN}", timeout=60
        ).json()
    assert (answer["error"]["code"], answer["error"]["error_subcode"]) == (100, 33)


def test_any_field_can_be_refused() -> None:
    answer = ask("111/conversations", "messages{reply_to}", refused_fields=frozenset(["reply_to"]))
    assert "nonexisting field (reply_to)" in answer.json()["error"]["message"]


def test_covering_set_is_small_and_has_every_pair() -> None:
    chosen = covering_switches()
    assert chosen[0] == Switches()
    assert len(chosen) <= 50
    for left, right in itertools.combinations(SHAPES, 2):
        met = {(getattr(each, left), getattr(each, right)) for each in chosen}
        assert met == set(itertools.product(SHAPES[left], SHAPES[right]))


def test_every_combination_of_some_switches() -> None:
    chosen = list(every_combination(["own_id", "time_format"]))
    assert len(set(chosen)) == 28


def test_every_switch_is_documented() -> None:
    lines = (DOCS / "emulator.md").read_text().splitlines()
    for each in dataclasses.fields(Switches):
        default = "none" if isinstance(each.default, frozenset) else each.default
        values = ", ".join(f"`{value}`" for value in SHAPES.get(each.name, ()))
        assert f"| `{each.name}` | `{default}` | {values} |" in lines
