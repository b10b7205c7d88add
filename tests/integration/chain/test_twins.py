"""A message that is stored in two conversations: found by `verify`, removed by a reread."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.chain.test_refused_objects import inbox, next_day
from tests.support.case_runs import CaseRun, serve_case
from tests.support.simulation import DyingStore, KilledError

QUERY = "select conversation_id, count(*) from messages group by all order by 1"


def mixed_up(world: dict[str, Any]) -> dict[str, Any]:
    """Answer the first request for older messages of t_1 with those of t_0."""
    rows = world["conversations"][0]["messages"][20:]
    world["answers"].append({"path": "t_1/messages", "body": {"data": rows}, "times": 1})
    return world


def stored(run: CaseRun) -> list[Any]:
    return run.sql(QUERY)


def test_a_message_in_two_conversations_is_found_and_removed_by_a_sweep(tmp_path: Path) -> None:
    with serve_case(mixed_up(inbox(3)), tmp_path) as run:
        run.extract()
        assert stored(run) == [("t_0", 25), ("t_1", 25), ("t_2", 25)]
        found = run.run("verify")
        assert found.exit_code == 1
        assert "5 messages are stored in two conversations" in found.output.replace("\n", " ")
        report, _ = next_day(run, "full")
        assert report.counts["twins_removed"] == 5
        assert stored(run) == [("t_0", 25), ("t_1", 25), ("t_2", 25)]
        owners = "select distinct conversation_id from messages where message_id like 'm1_%'"
        assert run.sql(owners) == [("t_1",)]
        assert "two conversations" not in run.run("verify").output
        assert run.run("verify").exit_code == 0


def test_a_message_that_is_listed_in_two_conversations_stays(tmp_path: Path) -> None:
    world = inbox(2, messages=3)
    world["conversations"][1]["messages"].append(world["conversations"][0]["messages"][2])
    with serve_case(world, tmp_path) as run:
        run.extract()
        before = stored(run)
        report, _ = next_day(run, "full")
        assert report.counts.get("twins_removed", 0) == 0
        assert stored(run) == before == [("t_0", 3), ("t_1", 4)]


class KilledStore(DyingStore):
    """A store whose process is killed before its first commit."""

    commits_left = 0


def test_forget_removes_the_twins_of_a_killed_sweep(tmp_path: Path) -> None:
    """It loads the log of the killed run first, and that removes rows."""
    with serve_case(mixed_up(inbox(3)), tmp_path) as run:
        run.extract()
        run.store_class = KilledStore
        with pytest.raises(KilledError):
            next_day(run, "full")
        result = run.run("forget", "acc", "9990", "--yes")
        assert (result.exit_code, stored(run)) == (0, [("t_1", 25), ("t_2", 25)])


def test_a_copy_is_not_removed_where_its_conversation_was_not_read(tmp_path: Path) -> None:
    with serve_case(mixed_up(inbox(3)), tmp_path) as run:
        run.extract()
        run.api.world["conversations"].pop(1)
        run.api.conversations.pop("t_1")
        next_day(run, "full")
        assert ("t_1", 25) in stored(run)
