"""Write two small lakes in the current schema: `python -m tests.support.write_lake`.

Run it before SCHEMA_VERSION is raised. `test_schema_versions.py` checks that later versions read,
upgrade and continue both lakes.

- `tests/lakes/version_N`: one conversation on one day with four messages: a text, a reply, a
  picture, and an unsent message whose content is still stored; one complete run; all derived
  tables. It has no state.
- `tests/lakes/killed_run_version_N`: a lake with its `.state` folder. One run ended. A second run
  was killed while it stored its results: its write-ahead log is left, and one file is replaced
  but not recorded.
"""

import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.derive.account_days import derive_account_days
from convo_pipeline.derive.day import derive_day
from convo_pipeline.emulator.world import World
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import AccountIdentity, Partition, Run
from convo_pipeline.state.state import State
from tests.support.inboxes import Inboxes, serve, small_world
from tests.support.paths import LAKES

ACCOUNT, DAY = "insta", date(2026, 3, 3)
SENT_AT = datetime(2026, 3, 3, 9, tzinfo=UTC)
SEEN_AT = SENT_AT + timedelta(days=7)
US, ADA = (
    {"id": "17841401111111111", "username": "insta"},
    {"id": "9990000000000101", "username": "ada"},
)
TEXTS = {"m1": "hello", "m2": "we answer", "m3": "", "m4": "taken back"}
FIELDS = (
    "attachments",
    "created_time",
    "from",
    "id",
    "is_unsupported",
    "message",
    "reactions",
    "shares",
    "to",
)
Row = dict[str, object]


def write_lake(root: Path) -> None:
    """Write the lake below a folder by this version's own code."""
    with (
        tempfile.TemporaryDirectory() as state,
        closing(Store(StoreSettings(root=str(root), state_dir=state))) as store,
    ):
        store.state.set_identity(
            AccountIdentity(ACCOUNT, "1111111111", "instagram", US["id"], US["username"])
        )
        run = Run(
            "r1",
            ACCOUNT,
            "window",
            SEEN_AT,
            DAY,
            SEEN_AT.date(),
            SEEN_AT + timedelta(minutes=1),
            "complete",
        )
        store.state.save_run(run)
        export_runs(store, run.run_id)
        for table, rows in raw_rows().items():
            store.merge(table, ACCOUNT, DAY, _table(schema.TABLES[table], rows))
        derive_day(store, ACCOUNT, DAY)
        derive_account_days(store, ACCOUNT)


def write_killed_run(root: Path) -> None:
    """Write a lake with its state, as a run leaves it that is killed while it stores results."""
    world = small_world()
    add_first_messages(world)
    with serve(root, world) as inboxes:
        inboxes.extract_whole()
        derive_account_days(inboxes.store, ACCOUNT)
        add_later_messages(world)
        inboxes.store.close()
        child = os.fork()
        if child == 0:
            _extract_until_killed(inboxes)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    with closing(sqlite3.connect(root / ".state" / "state.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    shutil.rmtree(root / ".state" / "locks")


def add_first_messages(world: World) -> None:
    """Add what the first run reads: 3 messages of one conversation, 25 of another."""
    account = world.accounts[ACCOUNT]
    _add_messages(
        world, account.add_conversation("Ada", conversation_id="c1").conversation_id, 3, 3
    )
    _add_messages(
        world, account.add_conversation("Bob", conversation_id="c2").conversation_id, 25, 8
    )


def add_later_messages(world: World) -> None:
    """Add what the killed run reads: 2 newer messages and a new conversation."""
    _add_messages(world, "c1", 2, 9)
    world.accounts[ACCOUNT].add_conversation("Eve", conversation_id="c3")
    _add_messages(world, "c3", 4, 8)


def _add_messages(world: World, conversation_id: str, count: int, day: int) -> None:
    conversation = world.accounts[ACCOUNT].conversations[conversation_id]
    for number in range(count):
        sent_at = datetime(2026, 3, day, 9, number, tzinfo=UTC)
        message_id = f"{conversation_id}-{day}-{number:02}"
        conversation.add_message(
            f"text {message_id}", sent_at, is_ours=number % 2 == 1, message_id=message_id
        )


def _extract_until_killed(inboxes: Inboxes) -> None:
    """Extract; kill the process when the third file is replaced but not recorded."""
    record, commits = State.record, []

    def record_twice(state: State, partition: Partition) -> None:
        commits.append(partition)
        if len(commits) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        record(state, partition)

    State.record = record_twice  # type: ignore[method-assign]
    inboxes.extract(accounts=[ACCOUNT])


def raw_rows() -> dict[str, list[Row]]:
    """Return the rows of the raw tables."""
    people = {"participants": {"data": [ADA, US]}}
    asked_us = int(SEEN_AT.timestamp()) * 1_000_000
    seen = {"conversation_id": "c1", "first_seen_at": SEEN_AT, "changed_at": SEEN_AT}
    own = {
        "platform": "instagram",
        "page_id": "1111111111",
        "own_id": US["id"],
        "own_username": US["username"],
    }
    conversation = (
        seen | own | {"fields": _json({"participants": asked_us}), "payload": _json(people)}
    )
    ids, details = [], []
    for hours, (message_id, text) in enumerate(TEXTS.items()):
        key = seen | {"message_id": message_id, "created_at": SENT_AT + timedelta(hours=hours)}
        unsent = (
            {"missing_at": SEEN_AT, "deleted_at": SEEN_AT + timedelta(hours=2)}
            if message_id == "m4"
            else {}
        )
        ids.append(key | {"created_at_source": "message", "order_in_second": 0} | unsent)
        sender, other = (US, ADA) if message_id == "m2" else (ADA, US)
        payload: Row = {"from": sender, "id": message_id, "message": text, "to": {"data": [other]}}
        payload |= {"created_time": f"{key['created_at']:%Y-%m-%dT%H:%M:%S+0000}"}
        payload |= (
            {"attachments": {"data": [{"id": "5", "name": "a picture"}]}}
            if message_id == "m3"
            else {}
        )
        fields = _json(dict.fromkeys(FIELDS, asked_us))
        details.append(
            key
            | {
                "detail_status": "detailed",
                "rank_when_asked": 4 - hours,
                "fields": fields,
                "payload": _json(payload),
            }
        )
    return {
        "raw_conversations": [conversation],
        "raw_message_ids": ids,
        "raw_message_details": details,
    }


def _table(table: schema.Table, rows: list[Row]) -> pa.Table:
    """Return rows as a table; what its version does not know is left out."""
    return pa.Table.from_pylist([_known(table, row) for row in rows], schema=table.schema)


def _known(table: schema.Table, row: Mapping[str, object]) -> Row:
    return {name: row[name] for name in table.column_names if name in row}


def _json(value: object) -> str:
    return dump_json(value).decode()


if __name__ == "__main__":
    for name, write in (("version", write_lake), ("killed_run_version", write_killed_run)):
        target = LAKES / f"{name}_{schema.SCHEMA_VERSION}"
        shutil.rmtree(target, ignore_errors=True)
        write(target)
