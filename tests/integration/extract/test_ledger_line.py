"""The ledger line of a run: refused and moving conversations, other days, unbalanced counts."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from convo_pipeline.extract.report import AccountReport
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.state.records import Run
from convo_pipeline.upkeep.verify import verify
from tests.support.inboxes import NOW, START, Inboxes, serve, small_world, stopped_clock

HOUR = timedelta(hours=1)


def run(inboxes: Inboxes, **options: Any) -> AccountReport:
    [report] = inboxes.extract(accounts=["insta"], **options)
    return report


def line(inboxes: Inboxes) -> Run:
    return inboxes.store.state.runs("insta", limit=1)[0]


def test_a_refused_conversation_is_recorded_with_its_error(tmp_path: Path) -> None:
    world = small_world()
    for number in range(3):
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(
            2, NOW - (2 + number) * HOUR, 1.0
        )
    bad = list(world.accounts["insta"].conversations.values())[1]
    bad.make_unreadable(10, 2018336)
    with serve(tmp_path, world) as inboxes:
        assert run(inboxes).reasons == ("conversation_failed",)
        report: Any = line(inboxes).report
    refused = {
        "conversation_id": bad.conversation_id,
        "error": "WithheldError",
        "code": 10,
        "subcode": 2018336,
    }
    assert (
        report["failed"] == report["listing"]["refused_nested"] == {"count": 1, "first": [refused]}
    )


def test_b6_a_conversation_that_still_moves_is_named(tmp_path: Path) -> None:
    world = small_world()
    for number in range(60):
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(
            1, NOW - (2 + number) * HOUR, 1.0
        )
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults("bump")
        run(inboxes)
        listing: Any = (line(inboxes).report or {})["listing"]
    assert (listing["moving"], len(listing["moving_ids"])) == (1, 1)
    assert listing["moving_ids"][0] in world.accounts["insta"].conversations


def test_a10_responses_without_a_checksum_are_accepted_and_counted(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(2, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults("gzip_no_trailer")
        assert run(inboxes).outcome == "complete"
        assert (line(inboxes).report or {})["unchecked_answers"] == 2
        inboxes.server.set_faults()
        inboxes.clock.advance(60)
        run(inboxes, mode="full")
        assert (line(inboxes).report or {})["unchecked_answers"] == 0


def test_messages_of_other_days_are_counted(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(3, NOW - 50 * HOUR, 1.0)
    conversation.add_messages(2, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        assert run(inboxes, since=NOW.date()).counts["brought_along"] == 3
        assert run(inboxes, since=START).counts["brought_along"] == 0


class LosingStore(Store):
    """A store that loses one message id of every merge."""

    def merge(self, table: str, account: str, day: Any, incoming: pa.Table) -> Commit:
        return super().merge(table, account, day, incoming.slice(table == "raw_message_ids"))


def test_a_run_with_unbalanced_rows_is_not_complete(tmp_path: Path) -> None:
    world = small_world()
    conversation = world.accounts["insta"].add_conversation()
    conversation.add_messages(3, NOW - 2 * HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        assert run(inboxes).report["balance"] == {
            "conversations_listed": 0,
            "ids_listed": 0,
            "rows_lost": 0,
        }
        conversation.add_messages(2, NOW - HOUR, 1.0)
        inboxes.clock.advance(60)
        inboxes.store.close()
        inboxes.store = LosingStore(inboxes.settings.store, stopped_clock(inboxes.clock))
        report = run(inboxes)
        rows = {name: count for name, count in report.counts.items() if name.startswith("rows_")}
        assert rows == {"rows_before": 3, "rows_inserted": 2, "rows_after": 4}
        assert (report.outcome, report.reasons) == ("incomplete", ("unbalanced",))
        findings = [
            finding.text for finding in verify(inboxes.store).findings if finding.kind == "ledger"
        ]
        assert findings == [f"run {line(inboxes).run_id} of insta: 1 rows lost"]
