"""Whole inboxes as users reported them: HTTP, lake, tables, commands (`tests/cases/`)."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.case_runs import ACCOUNT, read_case, serve_case

DIRECTIONS = "select message_id, direction from messages order by 1"
OWN = "17841499990000001"


def world_of(number: str) -> dict[str, Any]:
    world: dict[str, Any] = read_case(number)["world"]
    return world


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
