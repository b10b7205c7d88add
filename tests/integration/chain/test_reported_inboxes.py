"""Whole inboxes as users reported them: HTTP, lake, tables, commands (`tests/cases/`)."""

from pathlib import Path
from typing import Any

from tests.support.case_runs import read_case, serve_case

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
