"""Sample bodies of Meta's API go over HTTP, through the client, into `messages`.

The bodies come from `tests/samples/`, not from the emulator. The rows must equal the rows that
`tests/unit/tables/test_samples.py` states whole for the same bodies.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.case_runs import CaseRun, serve_case
from tests.support.raw_days import OWN_IDS, PAGE_ID, read_sample
from tests.unit.tables.test_samples import normalise

NOW = datetime(2026, 2, 19, 9, 30, tzinfo=UTC)
SEEN_AT = ("first_seen_at", "changed_at")
CHILDREN = ("attachments", "shares", "reactions")
MESSAGES = {
    5: "instagram", 6: "instagram", 7: "instagram", 8: "instagram", 9: "instagram", 10: "instagram",
    12: "messenger", 13: "messenger", 14: "messenger", 15: "instagram", 16: "messenger",
}  # fmt: skip


def inbox(platform: str, *messages: dict[str, Any], **others: object) -> dict[str, Any]:
    """Declare an inbox of one conversation that holds these messages."""
    conversation = {
        "id": "c1",
        "updated_time": "2026-02-19T08:57:24+0000",
        "messages": [{"created_time": "2026-02-19T08:57:24+0000"} | each for each in messages],
    }
    return {
        "platform": platform, "page_id": PAGE_ID, "own_id": OWN_IDS[platform],
        "conversations": [conversation],
    } | others  # fmt: skip


def rows_of(run: CaseRun, table: str) -> list[dict[str, Any]]:
    left_out = (*SEEN_AT, "created_at_local", "local_date")  # the view adds the local time
    names = ", ".join(left_out) if table == "messages" else ""
    exclude = f"account, date{', ' + names if names else ''}"
    frame = run.sql(f"select * exclude ({exclude}) from {table} order by all")
    columns = [row[0] for row in run.sql(f"describe select * exclude ({exclude}) from {table}")]
    return [dict(zip(columns, row, strict=True)) for row in frame]


def without_seen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in SEEN_AT} for row in rows]


@pytest.mark.parametrize("number", MESSAGES)
def test_a_sampled_message_becomes_the_row_that_its_body_states(
    number: int, tmp_path: Path
) -> None:
    platform, body = MESSAGES[number], read_sample(number)
    with serve_case(inbox(platform, body), tmp_path, NOW) as run:
        report = run.extract()
        assert (report.outcome, report.reasons) == ("complete", ())
        expected = normalise(platform, body)
        assert rows_of(run, "messages") == without_seen(expected["messages"])
        for table in CHILDREN:
            assert rows_of(run, table) == expected[table]


def test_sampled_attachments_of_every_kind_arrive_with_their_message(tmp_path: Path) -> None:
    gif, file, video = read_sample(11)
    body = {"id": "m1", "message": "", "attachments": {"data": [gif, file, video]}}
    with serve_case(inbox("messenger", body), tmp_path, NOW) as run:
        assert run.extract().outcome == "complete"
        assert rows_of(run, "attachments") == normalise("messenger", body)["attachments"]


def test_a_sampled_conversation_arrives_with_its_people_and_messages(tmp_path: Path) -> None:
    conversation = read_sample(2)
    world = inbox("messenger") | {
        "conversations": [conversation | {"messages": conversation["messages"]["data"]}]
    }
    with serve_case(world, tmp_path, NOW) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select direction, text from messages order by created_at desc") == [
            ("inbound", ""),
            ("outbound", "Merci 🧁"),
        ]
        assert run.sql("select distinct name from participants order by 1") == [
            ("Ada Invented",),
            ("Example Bakery",),
        ]


def test_sampled_ids_without_details_are_asked_for_one_by_one(tmp_path: Path) -> None:
    bare = read_sample(4)["messages"]["data"]
    deleted = {"status": 400, "body": read_sample(17)}
    world = inbox("instagram", *bare, message_errors={row["id"]: deleted for row in bare})
    with serve_case(world, tmp_path, NOW) as run:
        run.extract()
        rows = run.sql("select message_id, detail_status, text from messages order by 1")
        assert sorted(message_id for message_id, *_ in rows) == sorted(row["id"] for row in bare)
        assert {text for *_, text in rows} == {None}


@pytest.mark.parametrize("number", [1, 3])
def test_a_sampled_listing_is_read_to_its_last_page(number: int, tmp_path: Path) -> None:
    listing = read_sample(number)
    platform = "instagram" if number == 3 else "messenger"
    answer = {"path": f"{PAGE_ID}/conversations", "body": listing, "times": 1}
    with serve_case(inbox(platform, answers=[answer]), tmp_path, NOW) as run:
        run.extract()
        asked = [call.parameters.get("after") for call in run.api.calls]
        listed = {row["id"] for row in listing["data"]}
        assert ("QVFIUinventedAfterCursorZD" in asked) == ("next" in listing["paging"])
        assert listed <= {path.partition("/")[0] for path in run.paths()}


def test_an_empty_page_that_has_a_next_page_does_not_end_the_listing(tmp_path: Path) -> None:
    body = read_sample(5)
    answer = {"path": f"{PAGE_ID}/conversations", "body": read_sample(35), "times": 1}
    world = inbox("instagram", body, answers=[answer])
    with serve_case(world, tmp_path, NOW) as run:
        run.extract()
        assert "QVFIUinventedAfterCursorZD" in [
            call.parameters.get("after") for call in run.api.calls
        ]


ERRORS = {
    18: ("failed", "permission"),
    19: ("incomplete", "throttled"),
    20: ("incomplete", "throttled"),
    21: ("failed", "answer"),
    22: ("failed", "answer"),
    23: ("failed", "token"),
    24: ("failed", "permission"),
    34: ("failed", "answer"),
}


@pytest.mark.parametrize("number", ERRORS)
def test_a_sampled_error_of_the_listing_has_its_reason(number: int, tmp_path: Path) -> None:
    answer = {"path": f"{PAGE_ID}/conversations", "body": read_sample(number), "status": 400}
    with serve_case(inbox("instagram", read_sample(5), answers=[answer]), tmp_path, NOW) as run:
        report = run.extract()
        assert (report.outcome, *report.reasons) == ERRORS[number]
        assert run.api.calls
