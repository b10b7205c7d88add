"""Whole inboxes as users reported them: HTTP, lake, tables, commands (`tests/cases/`)."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convo_pipeline.lake.store import Store
from convo_pipeline.state.records import AccountIdentity
from tests.support.case_runs import ACCOUNT, CaseRun, read_case, serve_case

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


def people(*ids: str) -> dict[str, Any]:
    return {"data": [{"id": each, "username": f"user{each}"} for each in ids]}


def message(message_id: str, sender: str | None, *recipients: str) -> dict[str, Any]:
    own: dict[str, Any] = {"id": message_id, "created_time": "@-10m", "message": "hi"}
    if sender:
        own["from"] = {"id": sender, "username": f"user{sender}"}
    return own | ({"to": people(*recipients)} if recipients else {})


def instagram(*conversations: dict[str, Any], **others: object) -> dict[str, Any]:
    listed = [
        {"id": f"c{index}", "updated_time": "@-10m", **each}
        for index, each in enumerate(conversations)
    ]
    return {"platform": "instagram", "page_id": "me", "conversations": listed, **others}


REFUSED = {
    "path": "me",
    "status": 403,
    "body": {"error": {"code": 10, "message": "no", "type": "OAuthException"}},
}


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
