"""A record that cannot be read costs itself: the account goes on, and `forget` covers it."""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.extract.spool import Spool
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.privacy.forget import forget
from tests.integration.chain.test_limits import ADA, BOB, SHOP, TextApi, conversation, message
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, TOKEN_VARIABLE, Inboxes, date, settings_for, stopped_clock


@pytest.fixture
def api() -> TextApi:
    return TextApi([conversation(person, [message(person, 1)]) for person in (ADA, BOB)])


@pytest.fixture
def inboxes(memory_path: Path, api: TextApi) -> Iterator[Inboxes]:
    world = World(VirtualClock(NOW))
    account = world.add_account("shop", SHOP, "messenger")
    with EmulatorServer(world, api=api) as server:
        settings = settings_for([account], server.base_url, memory_path / "lake", date(2026, 3, 1))
        with closing(Store(settings.store, stopped_clock(world.clock))) as store:
            yield Inboxes(server, settings, store, {TOKEN_VARIABLE: EMULATOR_TOKEN})


@pytest.mark.parametrize("digits", [41, 4_300, 5_000, 100_000])
def test_an_id_with_a_number_of_many_digits_is_stored(
    inboxes: Inboxes, api: TextApi, digits: int
) -> None:
    item = base64.b64encode(b"ig_dm_item:1:IGMessageID:1:1:" + b"9" * digits).decode()
    strange = f'{{"id": "{item}", "from": {{"id": "{ADA}"}}, "message": "strange"}}'
    api.rows[0] = conversation(ADA, [strange, message(ADA, 1)])
    for _ in range(2):
        [report] = inboxes.extract()
        assert (report.outcome, report.reasons) == ("complete", ())
    inboxes.derive()
    assert {row["text"] for row in inboxes.rows("messages")} == {"strange", "hello 1"}
    assert forget(inboxes.settings, inboxes.store, "shop", ADA, NOW) is not None
    assert find_texts(Path(inboxes.store.root), [ADA, "strange"], "shop") == []


STRANGE = {
    "unknown kind": {"kind": "later", "at_us": 1, "text": f"words of {ADA}"},
    "no kind": {"at_us": 1, "rows": [{"id": "m_7", "from": {"id": ADA}}]},
    "missing keys": {"kind": "edge", "at_us": 1, "conversation_id": f"t_{ADA}"},
    "other types": {"kind": "listing", "at_us": "x", "conversations": 7, "fields": [ADA]},
    "a late range": {"kind": "claim", "since_us": 10**30, "listed_until_us": 10**30, "x": ADA},
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_record_of_a_killed_run_that_cannot_be_read_is_set_aside(
    inboxes: Inboxes, name: str
) -> None:
    spool = Spool.create(inboxes.store.state_path, "shop", "20260309T000000-killed")
    content = dump_json(STRANGE[name])
    digest = hashlib.sha256(content).hexdigest()[:16]
    (spool.folder / f"00000001-{digest}.json").write_bytes(content)
    [report] = inboxes.extract()
    assert (report.outcome, report.reasons) == ("incomplete", ("quarantined",))
    assert report.counts["rejected"] == 1
    assert "raw_rejects" in str(report.report["quarantined"])
    assert not spool.folder.exists()
    [report] = inboxes.extract()
    assert report.outcome == "complete"
    inboxes.derive()
    assert len(inboxes.rows("raw_rejects")) == 1
    assert forget(inboxes.settings, inboxes.store, "shop", ADA, NOW) is not None
    assert find_texts(Path(inboxes.store.root), [ADA], "shop") == []


def test_upkeep_runs_every_step_whatever_became_of_the_one_before(inboxes: Inboxes) -> None:
    inboxes.extract()
    names: list[str] = []

    def log(text: str) -> None:
        names.append(text.partition(":")[0])
        raise ValueError(f"a defect in {text}")

    clock = stopped_clock(inboxes.clock)
    failures = run_upkeep(Deployment(inboxes.settings, clock=clock), log)
    assert len(failures) == len(names) >= 7
    assert "months compacted" in names
    assert all("a defect of this program (ValueError" in failure for failure in failures)
