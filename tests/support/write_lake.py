"""Write the small lake of the schema as it is: `python -m tests.support.write_lake`, before SCHEMA_VERSION is raised.

It goes to `tests/lakes/version_N`, and stays there as an older lake that every later version must read, write to and
derive anew (`test_schema_versions.py`). One conversation of one day: a text, our answer, a picture, and a message that was
unsent and whose content has not been removed yet; a run that promised the day; all that is derived from it.
"""

import shutil
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
from convo_pipeline.lake.ledger import export_runs
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.identity import AccountIdentity
from convo_pipeline.state.records import Run
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
        ids.append(key | {"created_at_source": "message", "tie_rank": 0} | unsent)
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
    target = LAKES / f"version_{schema.SCHEMA_VERSION}"
    shutil.rmtree(target, ignore_errors=True)
    write_lake(target)
