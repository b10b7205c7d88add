"""Whole inboxes as users reported them: HTTP, lake, tables, commands (`tests/cases/`)."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.lake.store import Store
from convo_pipeline.state.records import AccountIdentity
from tests.support.case_runs import ACCOUNT, CaseRun, read_case, serve_case
from tests.support.case_worlds import REFUSED, instagram, message, people, refusal

DIRECTIONS = "select message_id, direction from messages order by 1"
OWN = "17841499990000001"


def world_of(number: str) -> dict[str, Any]:
    world: dict[str, Any] = read_case(number)["world"]
    return world


def directions(run: CaseRun) -> dict[str, str | None]:
    return dict(run.sql(DIRECTIONS))


def test_names_are_taken_from_senders_when_participants_have_none(tmp_path: Path) -> None:
    with serve_case(world_of("05"), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select customer_id, customer_username from conversations") == [
            ("9990000000000042", "ada_invented")
        ]
        assert run.sql("select participant_id, username from participants order by 1") == [
            (OWN, "example.bakery"),
            ("9990000000000042", "ada_invented"),
        ]
        assert run.sql("select distinct customer_username from inbox") == [("ada_invented",)]


def test_a_customer_who_is_no_listed_participant_is_the_customer(tmp_path: Path) -> None:
    with serve_case(world_of("07"), tmp_path) as run:
        assert run.extract().outcome == "complete"
        query = "select customer_id, customer_name, participant_count from conversations"
        assert run.sql(query) == [("9990000000000777", "Ada Invented", 2)]
        assert run.sql("select participant_id, name from participants order by 1") == [
            ("100200300", "Example Bakery"),
            ("9990000000000777", "Ada Invented"),
        ]


@pytest.mark.parametrize("number", ["25", "26"])
def test_check_recognises_a_token_that_is_not_the_pages(number: str, tmp_path: Path) -> None:
    with serve_case(world_of(number), tmp_path) as run:
        checked = run.run("check")
        assert checked.exit_code == 1
        assert "/me/accounts" in checked.output
        assert "make a new one" not in checked.output


def test_find_says_that_a_person_has_no_conversation(tmp_path: Path) -> None:
    with serve_case(world_of("27"), tmp_path) as run:
        found = run.run("find", ACCOUNT, "9990000000000999")
        assert found.exit_code == 3
        assert "no conversation with 9990000000000999" in found.output


@pytest.mark.parametrize("user_id", ["", " ", "a b", "7&fields=x"])
def test_find_refuses_what_is_no_id_without_a_call(user_id: str, tmp_path: Path) -> None:
    with serve_case(world_of("27"), tmp_path) as run:
        found = run.run("find", ACCOUNT, user_id)
        assert found.exit_code == 2
        assert run.api.calls == []


@pytest.mark.parametrize("number", ["01", "04"])
def test_the_own_id_is_read_from_every_form_of_the_answer(number: str, tmp_path: Path) -> None:
    with serve_case(world_of(number), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert directions(run) == {"x0a": "inbound", "x0b": "outbound"}
        assert run.sql("select customer_id, customer_username from conversations") == [
            ("9990000000000040", "ada0")
        ]
        checked = run.run("check")
        assert OWN in checked.output
        assert "instagram_business_basic" not in checked.output
        assert "app_secret_env" not in checked.output


def test_an_own_id_that_occurs_in_no_conversation_is_not_trusted(tmp_path: Path) -> None:
    with serve_case(world_of("03"), tmp_path) as run:
        assert run.extract().outcome == "complete"
        counts = "select direction, count(*) from messages group by all order by 1"
        assert run.sql(counts) == [("inbound", 3), ("outbound", 3)]
        assert "26000000000000001" not in str(run.sql("select * from conversations"))


def test_a_listing_under_conversations_is_read_as_a_list(tmp_path: Path) -> None:
    with serve_case(world_of("31"), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select count(*) from messages") == [(2,)]


def test_a_refused_own_id_is_inferred_from_two_conversations(tmp_path: Path) -> None:
    world = instagram(
        {"participants": people("9", "1"), "messages": [message("a", "9", "1")]},
        {"participants": people("9", "2"), "messages": [message("b", "2", "9")]},
        answers=[REFUSED],
    )
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert directions(run) == {"a": "outbound", "b": "inbound"}


def test_thin_evidence_leaves_directions_unknown(tmp_path: Path) -> None:
    world = instagram(
        {"participants": people("9", "1"), "messages": [message("a", "9", "1")]},
        answers=[REFUSED],
    )
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert directions(run) == {"a": None}


def test_an_own_id_in_no_conversation_makes_nothing_inbound(tmp_path: Path) -> None:
    answer = {"path": "me", "body": {"user_id": "77", "username": "nobody.here"}}
    world = instagram(
        {"participants": people("9", "1"), "messages": [message("a", "9", "1")]},
        answers=[answer],
    )
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert directions(run) == {"a": None}


def test_a_wrong_stored_own_id_heals_in_every_stored_day(tmp_path: Path) -> None:
    wrong = {"path": "me", "body": {"user_id": "1", "username": "user1"}, "times": 1}
    right = {"path": "me", "body": {"user_id": "9", "username": "user9"}}
    older = message("a", "9", "1") | {"created_time": "@-2d"}
    world = instagram(
        {"participants": people("9", "1"), "messages": [message("b", "1", "9"), older]},
        answers=[wrong, right],
    )
    with serve_case(world, tmp_path) as run:
        run.extract()
        assert directions(run) == {"a": "inbound", "b": "outbound"}
        with closing(Store(run.settings.store)) as store:
            store.state.set_identity(AccountIdentity(ACCOUNT, "me", "instagram"), is_decided=True)
        run.extract("nightly")
        assert directions(run) == {"a": "outbound", "b": "inbound"}


def test_an_app_scoped_id_stays_untrusted_in_later_runs(tmp_path: Path) -> None:
    with serve_case(world_of("03"), tmp_path) as run:
        run.extract()
        before = directions(run)
        for mode in ("nightly", "capture", "full"):
            run.extract(mode)
            assert directions(run) == before


@pytest.mark.parametrize("wrap", ["data", "conversations"])
def test_a_listing_is_read_under_each_key(wrap: str, tmp_path: Path) -> None:
    world = world_of("31") | {"wrap": wrap}
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select count(*) from messages") == [(2,)]


def test_one_refused_conversation_costs_no_other(tmp_path: Path) -> None:
    with serve_case(world_of("28"), tmp_path) as run:
        report = run.extract()
        assert report.outcome == "incomplete"
        assert run.sql(
            "select conversation_id, count(*) from messages group by all order by 1"
        ) == [
            ("t_0", 2),
            ("t_2", 2),
        ]
        assert "t_1" in str(report.report)


def messenger(count: int, **others: object) -> dict[str, Any]:
    """Declare an inbox of conversations with three messages each, the oldest beyond the listing."""
    page, conversations = {"id": "100200300", "name": "Example Bakery"}, []
    for index in range(count):
        customer = {"id": f"999{index}", "name": f"Ada {index}"}
        messages = [
            {
                "id": f"m{index}_{number}", "created_time": f"@-{10 + index + number}m",
                "from": customer, "to": {"data": [page]}, "message": "hi",
            }
            for number in range(25)
        ]  # fmt: skip
        conversations.append(
            {
                "id": f"t_{index}", "updated_time": f"@-{10 + index}m",
                "participants": {"data": [customer, page]}, "messages": messages,
            }
        )  # fmt: skip
    return {
        "platform": "messenger", "page_id": "100200300", "conversations": conversations, **others,
    }  # fmt: skip


def whole_conversations(run: CaseRun) -> set[str]:
    rows = run.sql("select conversation_id, count(*) from messages group by all")
    return {conversation_id for conversation_id, count in rows if count == 25}


REFUSALS = [
    (10, None, 403),
    (200, None, 403),
    (100, 2534001, 400),
    (100, 33, 404),
    (77777, None, 400),
]


@pytest.mark.parametrize(("code", "subcode", "status"), REFUSALS)
def test_a_conversation_whose_own_calls_are_refused_costs_no_other(
    code: int, subcode: int | None, status: int, tmp_path: Path
) -> None:
    answer = {"path": "t_1/messages", "status": status, "body": refusal(code, subcode)}
    with serve_case(messenger(4, answers=[answer]), tmp_path) as run:
        report = run.extract()
        assert (report.outcome, report.reasons) == ("incomplete", ("conversation_failed",))
        assert whole_conversations(run) == {"t_0", "t_2", "t_3"}
        assert run.sql("select count(*) from messages where conversation_id = 't_1'") == [(20,)]
        assert "t_1" in str(report.report)


@pytest.mark.parametrize(("code", "subcode", "status"), REFUSALS)
def test_a_conversation_that_spoils_its_page_costs_no_other(
    code: int, subcode: int | None, status: int, tmp_path: Path
) -> None:
    poison = {"conversation": "t_1", "status": status, "body": refusal(code, subcode)}
    with serve_case(messenger(4, poison=poison), tmp_path) as run:
        assert run.extract().outcome == "incomplete"
        assert whole_conversations(run) == {"t_0", "t_2", "t_3"}


@pytest.mark.parametrize("field", ["anything", "reactions", "messages"])
def test_a_conversation_that_spoils_its_page_by_a_named_field_costs_no_other(
    field: str, tmp_path: Path
) -> None:
    body = refusal(100)
    body["error"]["message"] = f"(#100) Tried accessing nonexisting field ({field}) on node type"
    with serve_case(messenger(4, poison={"conversation": "t_1", "body": body}), tmp_path) as run:
        assert run.extract().outcome == "incomplete"
        assert whole_conversations(run) == {"t_0", "t_2", "t_3"}


def test_a_hundred_conversations_of_which_twenty_are_refused(tmp_path: Path) -> None:
    answers = [
        {
            "path": f"t_{index}/messages", "status": 403 if index % 10 == 1 else 404,
            "body": refusal(10) if index % 10 == 1 else refusal(100, 33),
        }
        for index in range(100)
        if index % 10 in (1, 2)
    ]  # fmt: skip
    with serve_case(messenger(100, answers=answers), tmp_path) as run:
        report = run.extract()
        assert report.outcome == "incomplete"
        assert len(whole_conversations(run)) == 80
        assert report.report["failed"]


def test_a_refused_inbox_stops_the_account_with_its_reason(tmp_path: Path) -> None:
    answers = [
        {
            "path": "100200300/conversations",
            "fields_lack": "messages",
            "status": 403,
            "body": refusal(10),
        },
        *(
            {"path": f"t_{index}/messages", "status": 403, "body": refusal(10)}
            for index in range(4)
        ),
    ]
    with serve_case(messenger(4, answers=answers), tmp_path) as run:
        report = run.extract()
        assert "permission" in report.reasons


def test_one_refused_message_costs_no_other(tmp_path: Path) -> None:
    world = messenger(2)
    bare = world["conversations"][0]["messages"][3]
    for key in ("from", "to", "message"):
        del bare[key]
    world["message_errors"] = {"m0_3": {"status": 403, "body": refusal(10)}}
    with serve_case(world, tmp_path) as run:
        report = run.extract()
        assert (report.outcome, report.reasons) == ("incomplete", ("message_failed",))
        assert whole_conversations(run) == {"t_0", "t_1"}


def test_a_row_without_sender_and_content_is_asked_for_by_its_id(tmp_path: Path) -> None:
    with serve_case(world_of("23"), tmp_path) as run:
        assert run.extract().outcome == "complete"
        query = (
            "select message_id, detail_status, direction, content_type, sender_id, story_id"
            " from messages order by 1"
        )
        assert run.sql(query) == [
            ("x1a", "detailed", "inbound", "story_reply", "9990000000000042", "17990000000000009"),
            ("x1b", "detailed", "outbound", "text", OWN, None),
        ]


def test_a_nested_error_is_a_conversation_that_was_not_read(tmp_path: Path) -> None:
    query = "select count(*) from messages where conversation_id = 't_100'"
    with serve_case(world_of("30"), tmp_path) as run:
        first = run.extract()
        if not run.sql(query)[0][0]:
            assert first.outcome == "incomplete"
            run.extract()
        assert run.sql(query) == [(2,)]
        assert run.sql("select count(distinct conversation_id), count(*) from messages") == [
            (120, 240)
        ]


@pytest.mark.parametrize("code", [1, 10, 100, 200])
def test_a_nested_error_of_any_code_is_read_by_a_call_of_its_own(code: int, tmp_path: Path) -> None:
    nested = {"conversation": "t_1", "times": 1, "body": refusal(code)}
    with serve_case(messenger(3, nested_error=nested), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert whole_conversations(run) == {"t_0", "t_1", "t_2"}


@pytest.mark.parametrize(
    "empty", [{"message": ""}, {"message": None}, {"attachments": {"data": []}}]
)
def test_an_empty_row_is_never_stored_as_content(empty: dict[str, Any], tmp_path: Path) -> None:
    world = messenger(1)
    row = world["conversations"][0]["messages"][2]
    world["conversations"][0]["messages"][2] = {
        key: row[key] for key in ("id", "created_time")
    } | empty
    with serve_case(world, tmp_path) as run:
        run.extract()
        found = run.sql("select detail_status from messages where message_id = 'm0_2'")
        assert found != [("detailed",)]


def test_participants_that_go_on_are_read_to_their_end(tmp_path: Path) -> None:
    world = world_of("08")
    rest = [{"id": f"70000000000000{number}", "name": f"P{number}"} for number in range(24, 30)]
    world["conversations"][0]["participants_rest"] = rest
    with serve_case(world, tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select participant_count from conversations") == [(31,)]
        sender = "select count(*) from participants where participant_id = '7000000000000029'"
        assert run.sql(sender) == [(1,)]


def test_attachments_that_go_on_are_read_to_their_end(tmp_path: Path) -> None:
    with serve_case(world_of("10"), tmp_path) as run:
        assert run.extract().outcome == "complete"
        assert run.sql("select attachment_count, problem from messages") == [(30, None)]
        assert run.sql("select count(*) from attachments") == [(30,)]
        assert run.run("verify").exit_code == 0
