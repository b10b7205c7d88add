"""A spool that a killed run of an earlier version left is stored by this version.

`tests/spools/version_4` was written by a `full` run of the version with that schema. Its two
conversations have 36 messages in all; one of them is unsent. It holds a record of each kind.
"""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.extract.load import load_spool
from convo_pipeline.extract.spool import (
    ListingRecord,
    MessageRecord,
    MessagesRecord,
    OwnIdentity,
    Spool,
    StateRecord,
    decode_record,
    encode_record,
)
from convo_pipeline.tables.complete_range import CompleteRange
from tests.support.inboxes import serve, small_world
from tests.support.paths import TESTS

EARLIER = sorted((TESTS / "spools").iterdir())


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.name)
def test_every_record_is_read_and_written_as_before(path: Path) -> None:
    kinds = set()
    for file in path.iterdir():
        value = load_json(file.read_bytes())
        assert isinstance(value, dict)
        states = value.pop("states", [])
        for each in (value, *states):
            record = decode_record(each)
            kinds.add(type(record))
            assert load_json(dump_json(encode_record(record))) == each
    assert kinds == {
        OwnIdentity, CompleteRange, ListingRecord, MessagesRecord, MessageRecord, StateRecord,
    }  # fmt: skip


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.name)
def test_the_rows_are_those_that_the_earlier_version_stored(tmp_path: Path, path: Path) -> None:
    with serve(tmp_path, small_world()) as inboxes:
        spool = Spool.create(inboxes.store.state_path, "insta", "killed")
        for file in path.iterdir():
            shutil.copy(file, spool.folder)
        result = load_spool(inboxes.store, inboxes.settings.account("insta"), spool)
        assert (spool.damaged, result.quarantined) == ([], [])
        assert result.counts == {
            "ids_listed": 36, "rows_inserted": 36, "rows_before": 0, "rows_after": 36,
            "detailed": 24, "beyond_20": 11, "pending": 1, "missed": 36, "rejected": 0,
        }  # fmt: skip
        assert Counter(result.ids_by_day.values()) == {25: 1, 6: 1, 4: 1, 1: 1}
        states = inboxes.store.state.conversations("insta").values()
        assert [state.complete_since_us for state in states] == [0, 0]
        owners = {row["own_id"] for row in inboxes.rows("raw_conversations", "insta")}
        assert owners == {"17841401111111111"}
