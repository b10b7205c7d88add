"""`extract.observations`: what one answer says about conversations and messages."""

import base64
from datetime import UTC, date, datetime

import pytest

from convo_pipeline.base.times import EPOCH, day_start_us, to_us
from convo_pipeline.extract import observations
from convo_pipeline.extract.observations import MessageObservation, Reject
from convo_pipeline.extract.spool import ListingRecord, MessageRecord, MessagesRecord
from convo_pipeline.graph.responses import read_conversation_row

AT_US = to_us(datetime(2026, 3, 1, 12, tzinfo=UTC))
SENT = "2026-02-19T08:57:24+0000"
SENT_US = to_us(datetime(2026, 2, 19, 8, 57, 24, tzinfo=UTC))


def read(
    *entries: object, first_rank: int = 1, updated_us: int | None = None
) -> list[MessageObservation | Reject]:
    fields = ("id", "created_time", "message")
    page = MessagesRecord(AT_US, "c", updated_us, first_rank, fields, entries)
    return observations.read_messages(page)


def instagram_id(sent_us: int) -> str:
    thread_id = "340282366841710301244270000000000000001"
    plain = f"ig_dm_item:1:IGMessageID:17841499990000001:{thread_id}:{sent_us << 64}"
    encoded = base64.b64encode(plain.encode()).decode()
    return encoded.replace("Z", "ZA").replace("=", "ZD").replace("+", "ZB").replace("/", "ZC")


def test_a_row_with_content_is_detailed_and_keeps_its_payload() -> None:
    entry = {"message": "hé", "id": "m", "created_time": SENT}
    assert read(entry) == [
        MessageObservation(
            conversation_id="c",
            message_id="m",
            created_us=SENT_US,
            created_at_source="message",
            rank=1,
            at_us=AT_US,
            detail_status="detailed",
            error_code=None,
            error_subcode=None,
            fields=f'{{"created_time":{AT_US},"id":{AT_US},"message":{AT_US}}}',
            payload=f'{{"created_time":"{SENT}","id":"m","message":"hé"}}'.encode(),
        )
    ]


@pytest.mark.parametrize(("rank", "status"), [(1, "pending"), (20, "pending"), (21, "beyond_20")])
def test_the_status_of_a_bare_row_follows_from_its_rank(rank: int, status: str) -> None:
    [observation] = read({"id": "m", "created_time": SENT}, first_rank=rank)
    assert isinstance(observation, MessageObservation)
    assert (observation.detail_status, observation.payload, observation.fields) == (
        status,
        None,
        None,
    )


@pytest.mark.parametrize(("rank", "status"), [(20, "failed"), (21, "beyond_20")])
def test_a_refused_row_keeps_its_error_codes(rank: int, status: str) -> None:
    [observation] = read(
        {"id": "m", "created_time": SENT, "error": {"code": 9000001}}, first_rank=rank
    )
    assert isinstance(observation, MessageObservation)
    assert (observation.detail_status, observation.error_code, observation.error_subcode) == (
        status,
        9000001,
        None,
    )


def test_only_the_row_without_an_id_is_rejected() -> None:
    found = read({"message": "lost"}, {"id": 7, "created_time": SENT, "message": "kept"}, "noise")
    assert [type(entry) for entry in found] == [Reject, MessageObservation, Reject]
    assert isinstance(found[0], Reject)
    assert found[0].payload == '{"message":"lost"}'
    assert isinstance(found[1], MessageObservation)
    assert found[1].message_id == "7"


def test_a_message_without_a_time_gets_the_one_inside_its_id() -> None:
    message_id = instagram_id(SENT_US + 123_456)
    assert observations.message_id_us(message_id) == SENT_US + 123_456
    assert observations.find_created_us({}, message_id, None, AT_US) == (SENT_US, "message_id")


def test_a_message_without_any_time_gets_the_conversations_or_the_listings() -> None:
    assert observations.find_created_us({}, "m", SENT_US, AT_US) == (SENT_US, "conversation")
    assert observations.find_created_us({}, "m", 0, AT_US)[1] == "listing"
    assert observations.find_created_us({}, "m", None, AT_US) == (
        day_start_us(date(2026, 3, 1)),
        "listing",
    )


@pytest.mark.parametrize(
    "impossible", ["1970-01-01T00:00:00+0000", "9999-12-31T23:59:59+0000", 0, "soon"]
)
def test_an_impossible_time_is_ignored(impossible: object) -> None:
    assert observations.find_created_us({"created_time": impossible}, "m", SENT_US, AT_US) == (
        SENT_US,
        "conversation",
    )


@pytest.mark.parametrize("message_id", ["", "m_abc", "ZZZZ", "===", "é", "aWdfZAG1", "a" * 400])
def test_a_foreign_id_has_no_time_inside(message_id: str) -> None:
    assert observations.message_id_us(message_id) is None


def test_volatile_keys_of_a_conversation_are_left_out() -> None:
    listed = {
        "id": "c",
        "updated_time": SENT,
        "participants": {"data": [{"id": "1"}]},
        "messages": {"data": []},
        "unread_count": 3,
    }
    row = read_conversation_row(listed, EPOCH)
    listing = ListingRecord(AT_US, "", (), ("id", "updated_time", "participants"), (row,))
    observation = observations.read_conversation(row, "c", listing)
    assert observation == observations.ConversationObservation(
        "c",
        None,
        SENT_US,
        AT_US,
        f'{{"participants":{AT_US}}}',
        '{"participants":{"data":[{"id":"1"}]}}',
    )


@pytest.mark.parametrize(
    ("status", "fields", "payload"),
    [("detailed", f'{{"id":{AT_US}}}', b'{"id":"m"}'), ("failed", None, None)],
)
def test_only_a_detailed_message_keeps_fields_and_payload(
    status: str, fields: str | None, payload: bytes | None
) -> None:
    record = MessageRecord(
        "c", "m", SENT_US, "message", 3, AT_US, status, 100, None, ("id",), {"id": "m"}
    )
    assert observations.read_message(record) == MessageObservation(
        "c", "m", SENT_US, "message", 3, AT_US, status, 100, None, fields, payload
    )
