"""Who takes part in a conversation: ids and names from participants, senders and recipients."""

from datetime import timedelta
from typing import Any

import pytest

from convo_pipeline.tables.normalize import normalize
from tests.support.raw_days import AT, PAGE_ID, conversation_row, detail_row, id_row, raw_day

ADA, BOB = {"id": "7", "name": "Ada"}, {"id": "8", "name": "Bob"}
PAGE = {"id": PAGE_ID, "name": "Example Bakery"}


def to(*people: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(people)}


def tables(participants: object, *payloads: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Normalise one Messenger conversation; the first message is the newest."""
    times = [AT - timedelta(minutes=index) for index in range(len(payloads))]
    ids = [id_row(f"m{index}", created_at=at) for index, at in enumerate(times)]
    details = [
        detail_row(f"m{index}", payload, created_at=times[index])
        for index, payload in enumerate(payloads)
    ]
    conversation = conversation_row("messenger", {"participants": participants})
    day = raw_day("messenger", ids, details, [conversation])
    return {name: table.to_pylist() for name, table in normalize(day).items()}


def people(participants: object, *payloads: dict[str, Any]) -> dict[str, str | None]:
    rows = tables(participants, *payloads)["participant_days"]
    return {row["participant_id"]: row["name"] for row in rows}


def test_a_name_in_the_list_of_participants_wins() -> None:
    assert people(to(ADA, PAGE), {"from": {"id": "7", "name": "Old"}, "to": to(PAGE)})["7"] == "Ada"


def test_the_newest_name_of_a_sender_wins() -> None:
    new, old = {"from": {"id": "7", "name": "New"}}, {"from": {"id": "7", "name": "Old"}}
    assert people(to({"id": "7"}, PAGE), new, old)["7"] == "New"


def test_a_recipient_who_never_wrote_has_the_name_of_the_recipients_list() -> None:
    assert people(to({"id": "7"}), {"from": PAGE, "to": to(ADA)}) == {
        "7": "Ada",
        PAGE_ID: "Example Bakery",
    }


def test_an_empty_name_is_no_name() -> None:
    unnamed = {"id": "7", "name": "", "username": ""}
    assert people(to(unnamed, PAGE), {"from": PAGE, "to": to(ADA)})["7"] == "Ada"
    assert people(to(unnamed, PAGE), {"from": unnamed}, {"from": ADA})["7"] == "Ada"


@pytest.mark.parametrize("participants", [None, [], {"data": []}, {"error": {"code": 10}}])
def test_a_conversation_without_participants_has_the_people_of_its_messages(
    participants: object,
) -> None:
    found = tables(participants, {"from": ADA, "to": to(PAGE), "message": "hi"})
    assert [row["participant_id"] for row in found["participant_days"]] == ["7", PAGE_ID]
    assert found["conversation_days"][0]["customer_name"] == "Ada"


def test_a_group_has_no_single_customer() -> None:
    found = tables(to(ADA, PAGE), {"from": BOB, "to": to(ADA, PAGE), "message": "hi"})
    assert found["conversation_days"][0]["customer_id"] is None
    assert found["conversation_days"][0]["participant_count"] == 3


@pytest.mark.parametrize(
    ("recipient", "sender", "direction"),
    [(PAGE, "7", "inbound"), (ADA, PAGE_ID, "outbound"), (BOB, None, None)],
)
def test_a_missing_sender_is_the_other_person_of_a_conversation_of_two(
    recipient: dict[str, Any], sender: str | None, direction: str | None
) -> None:
    row = tables(to(ADA, PAGE), {"to": to(recipient), "message": "hi"})["messages"][0]
    assert (row["sender_id"], row["direction"]) == (sender, direction)


def test_a_missing_sender_of_a_group_stays_unknown() -> None:
    row = tables(to(ADA, BOB, PAGE), {"to": to(PAGE), "message": "hi"})["messages"][0]
    assert (row["sender_id"], row["direction"]) == (None, None)


def test_a_resolved_sender_counts_in_the_conversation() -> None:
    found = tables(to(ADA, PAGE), {"to": to(PAGE)}, {"to": to(ADA)}, {"from": ADA, "to": to(PAGE)})
    counts = found["conversation_days"][0]
    assert (counts["inbound_count"], counts["outbound_count"]) == (2, 1)
    assert found["messages"][1]["sender_name"] == "Example Bakery"
