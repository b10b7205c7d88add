"""The emulator's responses have the shapes of the sample files."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.content import default_world
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from tests.support.paths import SAMPLES

START = datetime(2026, 2, 19, 12, tzinfo=UTC)
PAGES = {"instagram": "1234567890", "messenger": "9876543210"}
SHARES = "shares{id,link,name,description,picture,type,url,title,template}"


def body(name: str) -> Any:
    (found,) = SAMPLES.glob(f"{name}_*.json")
    return json.loads(found.read_text())["body"]


def shape(value: Any) -> Any:
    """Return the keys and types of a value; of a list, those of its first entry."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def ask(server: EmulatorServer, path: str, **params: Any) -> Any:
    query = params | {"access_token": EMULATOR_TOKEN}
    return requests.get(f"{server.base_url}/v26.0/{path}", params=query, timeout=60).json()


@pytest.fixture(scope="module")
def server() -> Iterator[EmulatorServer]:
    with EmulatorServer(default_world(VirtualClock(START), history_days=10)) as running:
        yield running


def shapes(server: EmulatorServer, platform: str, keys: set[str]) -> list[Any]:
    """Return the shapes of all readable messages of a week, with the sample's keys."""
    fields = ",".join(SHARES if key == "shares" else key for key in sorted(keys))
    page = ask(
        server,
        f"{PAGES[platform]}/conversations",
        platform=platform,
        fields=f"messages.limit(50){{{fields}}}",
        limit=200,
    )
    rows = [row for conversation in page["data"] for row in conversation["messages"]["data"]]
    return [shape(row) for row in rows]


@pytest.mark.parametrize(
    ("platform", "sample"),
    [
        ("instagram", body("05")),
        ("instagram", body("06")),
        ("instagram", body("07")),
        ("instagram", body("08")),
        ("instagram", body("09") | {"reactions": None}),
        ("instagram", {key: value for key, value in body("09").items() if key != "attachments"}),
        ("instagram", body("10")),
        ("instagram", body("15")),
        ("messenger", body("02")["messages"]["data"][0]),
        ("messenger", body("02")["messages"]["data"][1]),
        ("messenger", body("11")[0]),
        ("messenger", body("11")[1]),
        ("messenger", body("11")[2]),
        ("messenger", body("12")),
        ("messenger", body("13")),
        ("messenger", body("14")),
        ("messenger", body("16")),
    ],
)
def test_each_sample_message_shape_occurs_within_a_week(
    server: EmulatorServer, platform: str, sample: dict[str, Any]
) -> None:
    wanted = {key: value for key, value in sample.items() if value is not None}
    found = shapes(server, platform, set(wanted))
    expected = shape(wanted)
    if "shares" in expected:
        expected["shares"].pop("paging", None)
        for each in found:
            each.get("shares", {}).pop("paging", None)
    assert expected in found


def test_next_of_shares_leads_to_an_empty_page(
    server: EmulatorServer,
) -> None:
    sample = body("06")["shares"]["paging"]
    page = ask(
        server,
        f"{PAGES['instagram']}/conversations",
        platform="instagram",
        fields="messages{shares{link}}",
        limit=200,
    )
    rows = [
        row
        for conversation in page["data"]
        for row in conversation["messages"]["data"]
        if "shares" in row
    ]
    paging = rows[0]["shares"]["paging"]
    assert paging["cursors"] == sample["cursors"]
    theirs, ours = urlsplit(sample["next"]), urlsplit(paging["next"])
    assert parse_qs(ours.query).keys() == parse_qs(theirs.query).keys()
    assert requests.get(paging["next"], timeout=60).json() == {"data": []}


@pytest.mark.parametrize(("platform", "sample"), [("messenger", "01"), ("instagram", "03")])
def test_listing_has_the_sample_shape(server: EmulatorServer, platform: str, sample: str) -> None:
    wanted = body(sample)
    page = ask(
        server,
        f"{PAGES[platform]}/conversations",
        platform=platform,
        limit=25 if sample == "01" else 200,
    )
    assert shape(page["data"]) == shape(wanted["data"])
    assert shape(page["paging"]) == shape(wanted["paging"])
    if sample == "01":
        asked = parse_qs(urlsplit(wanted["paging"]["next"]).query)
        assert parse_qs(urlsplit(page["paging"]["next"]).query).keys() == asked.keys()


def test_messenger_conversation_has_the_sample_keys(server: EmulatorServer) -> None:
    wanted = body("02")
    page = ask(server, f"{PAGES['messenger']}/conversations", fields=",".join(wanted))
    for row in page["data"]:
        assert set(row) == set(wanted)
        assert shape(row["participants"]) == shape(wanted["participants"])
        assert shape(row["updated_time"]) == "str"


def test_default_messages_have_the_sample_shape(
    server: EmulatorServer,
) -> None:
    wanted = body("04")
    listing = ask(server, f"{PAGES['instagram']}/conversations", platform="instagram", limit=200)
    answers = [ask(server, row["id"], fields="messages") for row in listing["data"]]
    deep = next(answer for answer in answers if "next" in answer["messages"]["paging"])
    assert shape(deep) == shape(wanted)
    next_query = parse_qs(urlsplit(deep["messages"]["paging"]["next"]).query)
    assert (
        next_query.keys() == parse_qs(urlsplit(wanted["messages"]["paging"]["next"]).query).keys()
    )
    assert next_query["limit"] == ["25"]


def test_instagram_ids_decode_to_the_sample_form(server: EmulatorServer) -> None:
    wanted = body("04")
    listing = ask(
        server,
        f"{PAGES['instagram']}/conversations",
        platform="instagram",
        fields="messages",
        limit=1,
    )
    (row,) = listing["data"]
    assert row["id"].startswith(wanted["id"][:32])
    assert len(row["id"]) == len(wanted["id"])
    message_id = row["messages"]["data"][0]["id"]
    assert message_id.startswith(wanted["messages"]["data"][0]["id"][:36])
    assert abs(len(message_id) - len(wanted["messages"]["data"][0]["id"])) <= 4


def test_conversation_routing_adds_is_owner() -> None:
    world = default_world(VirtualClock(START), history_days=3)
    with EmulatorServer(world, Switches(conversation_routing=True)) as server:
        page = ask(
            server, f"{PAGES['messenger']}/conversations", fields="is_owner,messages", limit=1
        )
    assert set(page["data"][0]) == set(body("32")["data"][0])
    assert page["data"][0]["is_owner"] is True


def test_debug_token_has_the_sample_shape(server: EmulatorServer) -> None:
    assert shape(ask(server, "debug_token", input_token=EMULATOR_TOKEN)) == shape(body("33"))


def test_errors_have_the_sample_shape(server: EmulatorServer) -> None:
    missing = ask(server, "999")
    unknown = ask(server, "me/nope")
    assert missing["error"]["message"] == body("18")["error"]["message"]
    assert shape(missing) == shape(body("18"))
    assert shape(unknown) == shape(body("34"))
    assert unknown["error"]["message"] == body("34")["error"]["message"]


def test_rate_limit_and_old_message_errors_equal_the_samples() -> None:
    world = default_world(VirtualClock(START), history_days=30)
    old = next(
        true
        for true in world.truth()
        if true.account == "bakery-instagram" and true.rank > 20 and true.is_visible
    )
    with EmulatorServer(world, Switches(limiter="sliding_window", calls_per_second=0.1)) as server:
        refused = ask(server, old.message_id)
        ask(server, old.message_id)
        limited = ask(server, old.message_id)
    for answer, sample in ((refused, body("17")), (limited, body("19"))):
        assert answer["error"] | {"fbtrace_id": ""} == sample["error"] | {"fbtrace_id": ""}


def test_ids_response_has_the_sample_shape(server: EmulatorServer) -> None:
    listing = ask(
        server,
        f"{PAGES['instagram']}/conversations",
        platform="instagram",
        fields="messages",
        limit=1,
    )
    message_id = listing["data"][0]["messages"]["data"][0]["id"]
    answer = ask(server, "", ids=message_id, fields="id,created_time,message")
    assert set(answer) == {message_id}
    assert shape(answer[message_id]) == shape(next(iter(body("26").values())))
