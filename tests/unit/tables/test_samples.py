"""Each sample of a message becomes the rows given here; other samples are pages and errors."""

from datetime import UTC, datetime
from typing import Any

import pytest

from convo_pipeline.tables.normalize import normalize
from tests.support.raw_days import (
    AT,
    OWN_IDS,
    PAGE_ID,
    SEEN,
    conversation_row,
    detail_row,
    id_row,
    raw_day,
    read_sample,
)

Rows = dict[str, list[dict[str, Any]]]
IG_MESSAGE = read_sample(5)["id"]
M_MESSAGE = "m_Inv3ntedMessengerMessageId-AAAA_bbbbCCCCddddEEEEffff0000111122223333"
LOOKASIDE = (
    "https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id=1799000000000000{}&signature=INVENTED"
)
IG_OWN, CUSTOMER, M_CUSTOMER = "17841499990000001", "9990000000000042", "9990000000000777"
FROM_IG = {
    "direction": "inbound",
    "sender_id": CUSTOMER,
    "sender_username": "ada_invented",
    "recipient_ids": [IG_OWN],
}
FROM_M = {
    "direction": "inbound",
    "sender_id": M_CUSTOMER,
    "sender_name": "Ada Invented",
    "recipient_ids": [PAGE_ID],
}


def normalise(platform: str, *messages: dict[str, Any], conversation_id: str = "c1") -> Rows:
    ids = [id_row(message["id"], conversation_id) for message in messages]
    details = [detail_row(message["id"], message, conversation_id) for message in messages]
    raw = raw_day(platform, ids, details, [conversation_row(platform, {}, conversation_id)])
    return {name: table.to_pylist() for name, table in normalize(raw).items()}


def message(platform: str = "instagram", **others: object) -> dict[str, object]:
    return {
        "conversation_id": "c1", "message_id": IG_MESSAGE if platform == "instagram" else M_MESSAGE,
        "platform": platform, "created_at": AT, "order_in_second": 0, "direction": None,
        "sender_id": None,
        "sender_name": None, "sender_username": None, "recipient_ids": None, "text": "",
        "content_type": "text",
        "attachment_count": 0, "share_count": 0, "reaction_count": 0,
        "has_own_reaction": False, "sticker_url": None,
        "story_kind": None,
        "story_id": None, "story_url": None, "reply_to_message_id": None, "is_unsupported": False,
        "tags": None,
        "detail_status": "detailed", "problem": None, "extra": None, "first_seen_at": SEEN,
        "changed_at": SEEN,
        "deleted_at": None,
    } | others  # fmt: skip


def attachment(message_id: str, **others: object) -> dict[str, object]:
    return {
        "conversation_id": "c1", "message_id": message_id, "position": 0, "created_at": AT,
        "attachment_id": None,
        "sticker_id": None, "kind": "image", "mime_type": None, "name": None, "size_bytes": None,
        "url": None,
        "url_expires_at": None, "preview_url": None, "width": None, "height": None,
        "duration_seconds": None,
        "is_sticker": False, "title": None, "extra": None,
    } | others  # fmt: skip


def share(message_id: str, **others: object) -> dict[str, object]:
    return {
        "conversation_id": "c1", "message_id": message_id, "position": 0, "created_at": AT,
        "share_id": None,
        "share_type": None, "link": None, "name": None, "description": None, "extra": None,
    } | others  # fmt: skip


def parts(rows: Rows) -> Rows:
    """Return messages, attachments, shares and reactions."""
    return {name: rows[name] for name in ("messages", "attachments", "shares", "reactions")}


def only(messages: list[dict[str, object]], **others: list[dict[str, object]]) -> Rows:
    return {"messages": messages, "attachments": [], "shares": [], "reactions": []} | others


def test_02_a_whole_messenger_conversation_becomes_conversation_participants_and_messages() -> None:
    body = read_sample(2)
    first, second = body["messages"]["data"]
    conversation_id = body["id"]
    assert conversation_id == "t_999000000000123"
    times = [AT, datetime(2026, 2, 19, 8, 55, tzinfo=UTC)]
    ids = [
        id_row(row["id"], conversation_id, created_at=at)
        for row, at in zip((first, second), times, strict=True)
    ]
    details = [detail_row(row["id"], row, conversation_id) for row in (first, second)]
    payload = {"participants": body["participants"], "link": body["link"]}
    raw = raw_day(
        "messenger", ids, details, [conversation_row("messenger", payload, conversation_id)]
    )
    rows = {name: table.to_pylist() for name, table in normalize(raw).items()}
    key = {"conversation_id": conversation_id}
    sticker = {
        "content_type": "sticker", "tags": ["inbox", "read", "source:chat"],
        "sticker_url": "https://scontent.xx.fbcdn.net/v/t39.1997-6/invented.png?_nc_cat=1&oh=INV&oe=INV",
    }  # fmt: skip
    answer = {
        "direction": "outbound", "sender_id": PAGE_ID, "sender_name": "Example Bakery",
        "recipient_ids": [M_CUSTOMER],
        "text": "Merci 🧁", "tags": ["inbox", "read", "sent", "source:web"], "created_at": times[1],
    }  # fmt: skip
    assert rows == {
        "conversation_days": [
            key | {
                "platform": "messenger", "page_id": PAGE_ID, "folder": None, "participant_count": 2,
                "has_more_participants": False,
                "customer_id": M_CUSTOMER, "customer_name": "Ada Invented",
                "customer_username": None,
                "first_message_at": times[1], "last_message_at": AT, "message_count": 2,
                "inbound_count": 1,
                "outbound_count": 1, "detailed_count": 2,
            }
        ],
        "participant_days": [
            key | {
                "participant_id": PAGE_ID, "name": "Example Bakery", "username": None,
                "email": "999000000000001@facebook.com", "is_account": True,
            },
            key | {
                "participant_id": M_CUSTOMER, "name": "Ada Invented", "username": None,
                "email": "9990000000000777@facebook.com", "is_account": False,
            },
        ],
        "messages": [
            message("messenger", **key, **FROM_M, **sticker),
            message("messenger", **{**key, "message_id": second["id"], **answer}),
        ],
        "attachments": [], "shares": [], "reactions": [],
    }  # fmt: skip


def test_04_listed_messages_without_details_have_rows_without_content() -> None:
    body = read_sample(4)
    conversation_id = body["id"]
    listed = sorted(row["id"] for row in body["messages"]["data"])
    bare = {
        "text": None, "content_type": "unavailable", "attachment_count": None, "share_count": None,
        "reaction_count": None, "has_own_reaction": None, "is_unsupported": None,
        "detail_status": "pending",
    }  # fmt: skip
    raw = raw_day(
        "instagram",
        [id_row(message_id, conversation_id) for message_id in listed],
        conversations=[conversation_row("instagram", None, conversation_id)],
    )
    rows = {name: table.to_pylist() for name, table in normalize(raw).items()}
    assert parts(rows) == only(
        [
            message(**{"conversation_id": conversation_id, "message_id": name, **bare})
            for name in listed
        ]
    )
    assert rows["participant_days"] == []


def test_05_an_instagram_text_that_quotes() -> None:
    quoted = read_sample(5)["reply_to"]["mid"]
    extra = '{"reply_to":{"is_self_reply":false}}'
    text = {"text": "Hi, are you open on Sunday?", "reply_to_message_id": quoted, "extra": extra}
    rows = normalise("instagram", read_sample(5))
    assert parts(rows) == only([message(**FROM_IG, **text)])
    assert rows["participant_days"] == [
        {"conversation_id": "c1", "participant_id": IG_OWN, "name": None,
         "username": "example.bakery", "email": None, "is_account": True},
        {"conversation_id": "c1", "participant_id": CUSTOMER, "name": None,
        "username": "ada_invented",
         "email": None, "is_account": False},
    ]  # fmt: skip


def test_06_a_share_whose_inner_paging_is_ignored() -> None:
    shares = [share(IG_MESSAGE, link=LOOKASIDE.format(1))]
    expected = only([message(**FROM_IG, content_type="share", share_count=1)], shares=shares)
    assert parts(normalise("instagram", read_sample(6))) == expected


def test_07_an_answer_to_a_story() -> None:
    story = {
        "story_kind": "reply_to",
        "story_id": "17990000000000002",
        "story_url": LOOKASIDE.format(2),
    }
    content = {"text": "Lovely shot 👍🏼", "content_type": "story_reply", "recipient_ids": None}
    assert parts(normalise("instagram", read_sample(7))) == only(
        [message(**{**FROM_IG, **content, **story})]
    )


def test_08_a_mention_in_a_story() -> None:
    story = {
        "story_kind": "mention",
        "story_id": "17990000000000003",
        "story_url": LOOKASIDE.format(3),
    }
    expected = only([message(**FROM_IG, **story, content_type="story_mention")])
    assert parts(normalise("instagram", read_sample(8))) == expected


def test_09_an_image_and_a_reaction() -> None:
    image = attachment(
        IG_MESSAGE, attachment_id="999000000000901", url=LOOKASIDE.format(4),
        preview_url=LOOKASIDE.format(4),
        width=1080, height=1350, extra='{"image_data":{"max_height":1350,"max_width":1080}}',
    )  # fmt: skip
    reaction = {
        "conversation_id": "c1", "message_id": IG_MESSAGE, "reactor_id": IG_OWN, "reaction": "❤️",
        "created_at": AT,
        "reactor_username": "example.bakery",
    }  # fmt: skip
    counts = {"attachment_count": 1, "reaction_count": 1, "has_own_reaction": True}
    row = message(**FROM_IG, content_type="image", **counts)
    assert parts(normalise("instagram", read_sample(9))) == only(
        [row], attachments=[image], reactions=[reaction]
    )


@pytest.mark.parametrize("value", [True, "true"])
def test_10_an_unsupported_message_as_bool_and_as_text(value: object) -> None:
    row = message(**FROM_IG, content_type="unsupported", is_unsupported=True)
    assert parts(normalise("instagram", read_sample(10) | {"is_unsupported": value})) == only([row])


def test_11_a_gif_a_file_and_a_video() -> None:
    gif, file, video = read_sample(11)
    video = video | {"id": "m_video"}
    extra = (
        '{"image_data":{"animated_gif_preview_url":"https://cdn.fbsbx.com/inv_ap.gif",'
        '"animated_gif_url":"https://cdn.fbsbx.com/inv_a.gif",'
        '"animated_webp_preview_url":"https://cdn.fbsbx.com/inv_ap.webp",'
        '"animated_webp_url":"https://cdn.fbsbx.com/inv_a.webp","image_type":1,"max_height":150,"max_width":244,'
        '"raw_gif_image":"https://cdn.fbsbx.com/inv_raw.gif","raw_webp_image":"https://cdn.fbsbx.com/inv_raw.webp"}}'
    )
    kinds = {gif["id"]: "image", file["id"]: "file", "m_video": "video"}
    rows = [
        message(
            "messenger", message_id=message_id, text=None, content_type=kind, attachment_count=1
        )
        for message_id, kind in kinds.items()
    ]
    attachments = [
        attachment(
            gif["id"], attachment_id="999000000000101", mime_type="image/gif", name="a.gif",
            extra=extra,
            url="https://cdn.fbsbx.com/inv.gif", preview_url="https://cdn.fbsbx.com/inv_p.gif",
            width=244, height=150,
        ),
        attachment(
            file["id"], attachment_id="999000000000102", kind="file", mime_type="application/pdf",
            name="menu.pdf",
            size_bytes=28824, url="https://cdn.fbsbx.com/inv.pdf",
        ),
        attachment(
            "m_video", attachment_id="999000000000103", kind="video", mime_type="video/mp4",
            name="video-1.mp4",
            size_bytes=1017695, url="https://video.xx.fbcdn.net/inv.mp4", width=1280, height=720,
            preview_url="https://scontent.xx.fbcdn.net/inv.jpg", duration_seconds=5.0,
            extra='{"video_data":{"rotation":0,"video_type":1}}',
        ),
    ]  # fmt: skip
    assert parts(normalise("messenger", gif, file, video)) == only(rows, attachments=attachments)


def test_12_a_shared_link_full_of_nulls() -> None:
    shares = [share(M_MESSAGE, link="https://example.org/sample.png", name="")]
    row = message("messenger", **FROM_M, content_type="share", share_count=1)
    assert parts(normalise("messenger", read_sample(12))) == only([row], shares=shares)


def test_13_a_reel_of_2026() -> None:
    reel = share(
        M_MESSAGE, share_id="17990000000000009", share_type="ig_reel", link=LOOKASIDE.format(9),
        name="Sourdough in 30 seconds",
    )  # fmt: skip
    row = message("messenger", **FROM_M, content_type="share", share_count=1)
    assert parts(normalise("messenger", read_sample(13))) == only([row], shares=[reel])


def test_14_a_generic_template() -> None:
    template = attachment(
        M_MESSAGE, attachment_id="999000000000104", kind="template", url="https://example.org/item.png",
        title="Featured cake",
        extra='{"generic_template":{"cta":{"title":"View","type":"web_url","url":"https://example.org/item"},'
        '"subtitle":"Limited"}}',
    )  # fmt: skip
    row = message("messenger", text=None, content_type="template", attachment_count=1)
    assert parts(normalise("messenger", read_sample(14))) == only([row], attachments=[template])


def test_15_a_shared_product_whose_id_is_hidden() -> None:
    product = share(
        IG_MESSAGE, share_type="product", link="https://example.org/p.png", name="Cake",
        extra='{"price":"$10","retailer_id":"SKU-1"}',
    )  # fmt: skip
    row = message(text=None, content_type="share", share_count=1)
    assert parts(normalise("instagram", read_sample(15))) == only([row], shares=[product])


def test_16_the_placeholder_of_european_privacy_rules() -> None:
    name = (
        "Media not available due to new privacy rules in Europe. "
        "See developer documentation for more info"
    )
    placeholder = attachment(M_MESSAGE, attachment_id="1234", kind="unavailable", name=name)
    row = message("messenger", text=None, content_type="unavailable", attachment_count=1)
    assert parts(normalise("messenger", read_sample(16))) == only([row], attachments=[placeholder])


def test_26_messages_keyed_by_their_ids() -> None:
    texts = {"hello", "bye"}
    rows = normalise("instagram", *read_sample(26).values())
    assert rows["messages"] == [
        message(message_id=body["id"], text=body["message"])
        for body in sorted(read_sample(26).values(), key=lambda body: str(body["id"]))
    ]
    assert {row["text"] for row in rows["messages"]} == texts


def test_samples_use_the_own_ids_of_the_tests() -> None:
    assert OWN_IDS["instagram"] == read_sample(5)["to"]["data"][0]["id"]
