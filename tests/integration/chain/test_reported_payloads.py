"""Payloads as users reported them, over HTTP into the tables: API shapes and webhook shapes."""

import json
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.tables.media import ATTACHMENT_NAMES
from convo_pipeline.tables.messages import RARE_NAMES, read_message
from tests.support.case_runs import CASES, read_case, serve_case


@pytest.mark.parametrize("number", [key for key in CASES if read_case(key)["kind"] == "payload"])
def test_a_reported_payload_becomes_the_right_columns(number: str, tmp_path: Path) -> None:
    case = read_case(number)
    sender = case["payload"]["from"]
    page = case["payload"]["to"]["data"][0]
    conversation = {
        "id": "t_1", "updated_time": case["payload"]["created_time"],
        "participants": {"data": [sender, page]}, "messages": [case["payload"]],
    }  # fmt: skip
    world = {
        "platform": "instagram" if "story" in case["payload"] else "messenger",
        "page_id": page["id"], "own_id": page["id"], "conversations": [conversation],
    }  # fmt: skip
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        tables = {
            name: [
                json.loads(line)
                for (line,) in run.sql(f"select to_json({name})::text from {name} order by all")
            ]
            for name in ("messages", "attachments", "shares", "reactions")
        }
    found = {}
    for key in case["check"]:
        table, _, rest = key.partition(".")
        if rest:
            position, _, column = rest.partition(".")
            rows = tables[table]
            found[key] = rows[int(position)].get(column) if int(position) < len(rows) else None
        else:
            found[key] = tables["messages"][0].get(key)
    for key, right in case["check"].items():
        assert found[key] in (right if isinstance(right, list) else [right]), key


def first_attachment(*attachments: dict[str, Any], text: str = "") -> dict[str, Any]:
    """Return the content type and the first attachment's columns of a message."""
    payload = {"id": "m", "message": text, "attachments": {"data": list(attachments)}}
    row, _, children = read_message(json.dumps(payload))
    names = ("position", *ATTACHMENT_NAMES[1:])
    return dict(zip(names, children["attachments"][0], strict=True)) | {"content_type": row[-1]}


URL = "https://cdn.example/x"
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "audio with its duration under another name": (
        {"audio_data": {"url": URL, "duration": 4.5}},
        {"content_type": "audio", "kind": "audio", "url": URL, "duration_seconds": 4.5},
    ),
    "video whose type and data agree": (
        {"type": "video", "video_data": {"url": URL, "length": 2}},
        {"content_type": "video", "url": URL, "duration_seconds": 2.0},
    ),
    "GIF with a WebP address only": (
        {"mime_type": "image/gif", "image_data": {"animated_webp_url": URL}},
        {"content_type": "image", "url": URL},
    ),
    "reel in the webhook's shape": (
        {"type": "ig_reel", "payload": {"url": URL, "title": "Reel", "reel_video_id": 17}},
        {
            "content_type": "share",
            "kind": "share",
            "url": URL,
            "title": "Reel",
            "attachment_id": "17",
        },
    ),
    "Instagram post in the webhook's shape": (
        {"type": "ig_post", "payload": {"url": URL, "ig_post_media_id": "9"}},
        {"content_type": "share", "url": URL, "attachment_id": "9"},
    ),
    "sticker in the webhook's shape": (
        {"type": "image", "payload": {"url": URL, "sticker_id": 369239263222822}},
        {"content_type": "sticker", "is_sticker": True, "sticker_id": "369239263222822"},
    ),
    "story mention in the webhook's shape": (
        {"type": "story_mention", "payload": {"url": URL}},
        {"content_type": "story_mention", "kind": "story_mention", "url": URL},
    ),
    "shared story": (
        {"type": "ig_story", "payload": {"story_media_id": "5", "story_media_url": URL}},
        {"content_type": "share", "kind": "story", "url": URL, "attachment_id": "5"},
    ),
    "view-once media": (
        {"type": "ephemeral"},
        {"content_type": "unavailable", "kind": "unavailable", "url": None},
    ),
    "location": (
        {"type": "location", "payload": {"coordinates": {"lat": 1.5, "long": 2.5}}},
        {"content_type": "other", "kind": "location"},
    ),
    "link preview whose payload is a text": (
        {"type": "fallback", "title": "Shop", "url": URL, "payload": "text"},
        {"content_type": "share", "kind": "link_preview", "title": "Shop", "url": URL},
    ),
    "link preview whose payload is an object": (
        {"type": "fallback", "payload": {"title": "Shop", "url": URL}},
        {"content_type": "share", "kind": "link_preview", "title": "Shop", "url": URL},
    ),
    "media of a type that Meta does not name": (
        {"type": "unsupported_type", "payload": {"url": URL}},
        {"content_type": "file", "kind": "file", "url": URL},
    ),
    "media without a family": (
        {"type": "media", "payload": {"url": URL}},
        {"content_type": "file", "kind": "file", "url": URL},
    ),
    "video in the webhook's shape": (
        {"type": "video", "payload": {"url": URL}},
        {"content_type": "video", "kind": "video", "url": URL},
    ),
    "audio in the webhook's shape": (
        {"type": "audio", "payload": {"url": URL}},
        {"content_type": "audio", "kind": "audio", "url": URL},
    ),
    "file in the webhook's shape": (
        {"type": "file", "payload": {"url": URL}},
        {"content_type": "file", "kind": "file", "url": URL},
    ),
    "sticker type in the webhook's shape": (
        {"type": "sticker", "payload": {"url": URL, "sticker_id": "369239263222822"}},
        {"content_type": "sticker", "kind": "sticker", "sticker_id": "369239263222822"},
    ),
    "Facebook reel": (
        {"type": "reel", "payload": {"url": URL, "title": "Reel", "reel_video_id": 2**60}},
        {"content_type": "share", "url": URL, "title": "Reel", "attachment_id": str(2**60)},
    ),
    "Facebook post": (
        {"type": "post", "payload": {"url": URL, "title": "Post", "id": 2**60}},
        {"content_type": "share", "url": URL, "title": "Post", "attachment_id": str(2**60)},
    ),
    "share of an older version": (
        {"type": "share", "payload": {"url": URL}},
        {"content_type": "share", "kind": "share", "url": URL},
    ),
    "story of another key": (
        {"type": "story", "payload": {"story_media_id": "5", "story_media_url": URL}},
        {"content_type": "share", "kind": "story", "url": URL, "attachment_id": "5"},
    ),
    "link preview with a null payload": (
        {"type": "fallback", "payload": None, "title": "Shop", "url": URL},
        {"kind": "link_preview", "title": "Shop", "url": URL},
    ),
    "link preview without anything": (
        {"type": "fallback"},
        {"content_type": "share", "kind": "link_preview", "title": None, "url": None},
    ),
    "pinned location": (
        {"type": "location", "title": "Pin", "url": URL, "payload": {"coordinates": {"lat": 1}}},
        {"kind": "location", "title": "Pin", "url": URL},
    ),
    "product": (
        {
            "type": "template",
            "payload": {"product": {"elements": [{"id": "1", "title": "Cake", "image_url": URL}]}},
        },
        {"content_type": "template", "kind": "template", "title": "Cake", "url": URL},
    ),
    "buttons": (
        {"type": "template", "payload": {"template_type": "button", "text": "Choose"}},
        {"content_type": "template", "kind": "template", "title": "Choose"},
    ),
    "cards": (
        {
            "type": "template",
            "payload": {"template_type": "generic", "elements": [{"title": "A", "image_url": URL}]},
        },
        {"content_type": "template", "title": "A", "url": URL},
    ),
    "empty template of a shared comment": (
        {"type": "template", "payload": {"generic": []}},
        {"content_type": "template", "kind": "template", "title": None, "url": None},
    ),
    "appointment": (
        {"type": "appointment_booking", "payload": {"title": "Visit", "booking_id": "1"}},
        {"content_type": "template", "kind": "appointment", "title": "Visit"},
    ),
    "type in capital letters": (
        {"type": "IMAGE", "payload": {"url": URL}},
        {"content_type": "image", "kind": "image", "url": URL, "extra": None},
    ),
    "MIME type in capital letters": (
        {"mime_type": "IMAGE/PNG", "file_url": URL},
        {"content_type": "image", "url": URL},
    ),
    "address in the place of the payload": (
        {"type": "video", "payload": URL},
        {"content_type": "video", "url": URL, "extra": None},
    ),
    "address in the place of the data": (
        {"image_data": URL},
        {"content_type": "image", "url": URL, "extra": None},
    ),
    "duration in the payload": (
        {"type": "audio", "payload": {"url": URL, "duration": 3}},
        {"content_type": "audio", "url": URL, "duration_seconds": 3.0, "extra": None},
    ),
    "duration beside the file": (
        {"mime_type": "audio/mpeg", "file_url": URL, "duration": "3.5", "size": "12"},
        {"content_type": "audio", "duration_seconds": 3.5, "size_bytes": 12, "extra": None},
    ),
    "media template": (
        {
            "type": "template",
            "payload": {
                "template_type": "media",
                "elements": [{"media_type": "image", "url": URL}],
            },
        },
        {"content_type": "template", "url": URL},
    ),
    "cards in an object": (
        {
            "type": "template",
            "payload": {"generic": {"elements": [{"title": "A", "image_url": URL}]}},
        },
        {"content_type": "template", "title": "A", "url": URL},
    ),
    "type that nobody documents": (
        {"type": "hologram", "payload": {"url": URL}},
        {"content_type": "other", "kind": "other", "url": URL, "extra": '{"type":"hologram"}'},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_attachment_shape_has_its_kind_and_address(name: str) -> None:
    attachment, right = SHAPES[name]
    found = first_attachment(attachment)
    assert {key: found[key] for key in right} == right


def test_a_text_with_a_link_preview_is_a_text() -> None:
    preview = {"type": "fallback", "title": "Shop", "url": URL}
    assert first_attachment(preview, text="look: https://x.example")["content_type"] == "text"


@pytest.mark.parametrize(
    ("story", "text", "right"),
    [
        ({"id": "1", "link": URL}, "love it", ("story_reply", "unknown", "1", URL)),
        ({"id": "1", "link": URL}, "", ("other", "unknown", "1", URL)),
        ({"url": URL}, "", ("other", "unknown", None, URL)),
        ({"mention": {"id": "1", "link": URL}}, "", ("story_mention", "mention", "1", URL)),
    ],
)
def test_a_story_has_its_id_and_link_in_every_shape(
    story: dict[str, Any], text: str, right: tuple[str, ...]
) -> None:
    row, rare, _ = read_message(json.dumps({"id": "m", "message": text, "story": story}))
    names = dict(zip(RARE_NAMES, rare, strict=True))
    assert (row[-1], names["story_kind"], names["story_id"], names["story_url"]) == right


@pytest.mark.parametrize(
    ("story", "right"),
    [
        ({"id": "1", "url": URL}, ("story_reply", "reply_to", "1", URL)),
        ({"id": 1, "link": URL, "link_sticker_url": URL}, ("story_reply", "reply_to", "1", URL)),
        ({}, ("story_reply", "reply_to", None, None)),
    ],
)
def test_a_story_in_the_webhooks_shape_is_a_story_reply(
    story: dict[str, Any], right: tuple[str, ...]
) -> None:
    payload = {"id": "m", "message": "love it", "reply_to": {"story": story}}
    row, rare, _ = read_message(json.dumps(payload))
    names = dict(zip(RARE_NAMES, rare, strict=True))
    assert (row[-1], names["story_kind"], names["story_id"], names["story_url"]) == right
    assert names["reply_to_message_id"] is None


@pytest.mark.parametrize(
    ("share", "right"),
    [
        (
            {"type": "ig_post", "payload": {"url": URL, "title": "T", "ig_post_media_id": "9"}},
            ("9", "ig_post", URL, "T"),
        ),
        ({"type": "reel", "id": "1", "url": URL, "title": "T"}, ("1", "reel", URL, "T")),
        ({"link": URL, "name": None, "payload": "x"}, (None, None, URL, None)),
    ],
)
def test_a_share_has_its_id_type_link_and_name_in_every_shape(
    share: dict[str, Any], right: tuple[str | None, ...]
) -> None:
    payload = {"id": "m", "message": "", "shares": {"data": [share]}}
    row, _, children = read_message(json.dumps(payload))
    assert children["shares"][0][1:5] == right
    assert row[-1] == "share"


@pytest.mark.parametrize(
    ("reactions", "right"),
    [
        ({"data": [{"reaction": "love", "users": [{"id": "1", "username": "a"}]}]}, "love"),
        ({"reaction": "love", "users": {"data": [{"id": "1", "username": "a"}]}}, "love"),
        ([{"emoji": "\u2764", "users": [{"id": 1, "name": "a"}]}], "\u2764"),
    ],
)
def test_a_reaction_has_its_person_in_every_shape(reactions: object, right: str) -> None:
    _, _, children = read_message(json.dumps({"id": "m", "message": "x", "reactions": reactions}))
    assert children["reactions"] == [("1", right, "a")]


@pytest.mark.parametrize("quoted", ["m_5", {"mid": "m_5"}, {"id": "m_5", "is_self_reply": True}])
def test_a_quoted_message_is_known_in_every_shape(quoted: object) -> None:
    _, rare, _ = read_message(json.dumps({"id": "m", "message": "x", "reply_to": quoted}))
    names = dict(zip(RARE_NAMES, rare, strict=True))
    assert (names["reply_to_message_id"], names["problem"]) == ("m_5", None)


@pytest.mark.parametrize("keys", [{"sticker": {"id": "3", "url": URL}}, {"sticker_id": 3692}])
def test_a_sticker_is_one_in_every_shape(keys: dict[str, Any]) -> None:
    row, rare, _ = read_message(json.dumps({"id": "m", "message": ""} | keys))
    url = dict(zip(RARE_NAMES, rare, strict=True))["sticker_url"]
    assert (row[-1], url) == ("sticker", URL if "sticker" in keys else None)


@pytest.mark.parametrize("sticker", [URL, None])
def test_a_sticker_address_makes_a_sticker(sticker: str | None) -> None:
    row, _, _ = read_message(json.dumps({"id": "m", "message": "", "sticker": sticker}))
    assert row[-1] == ("sticker" if sticker else "empty")
