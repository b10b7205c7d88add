"""Values beyond the limits: what is stored can be read, erased, exported and verified."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from convo_pipeline import connect
from convo_pipeline.derive.day import stale_days
from convo_pipeline.emulator.calls import Call, EmulatedResponse
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.lake.store import Store
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.privacy.export import export_tables
from convo_pipeline.privacy.forget import forget
from convo_pipeline.upkeep.verify import verify
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, TOKEN_VARIABLE, Inboxes, date, settings_for, stopped_clock

ADA, BOB, SHOP = "9990000000000101", "9990000000000202", "2222222222"
VALUES = {
    "600 levels": "[" * 600 + "]" * 600,
    "250 levels": "[" * 240 + "]" * 240,
    "5,000 objects": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "100,000 levels with a name": "[" * 100_000 + f'"Ada {ADA}"' + "]" * 100_000,
    "5,000 digits": "9" * 5_000,
    "an infinite number": "1e999",
    "a negative infinite number": "-1e999",
    "9 MB of text": json.dumps("Ada " * 2_250_000),
    "2,000 keys": json.dumps({f"k{index}": index for index in range(2_000)}),
    "half a pair": '"\\ud83d"',
    "a long id": json.dumps("x" * 5_000),
}
TIME = "2026-03-09T10:00:00+0000"


def message(person: str, number: int, extra: str = "") -> str:
    sender = f'{{"id": "{person}", "username": "ada_lovelace"}}'
    return (
        f'{{"id": "m_{person}_{number}", "created_time": "{TIME}", "from": {sender},'
        f' "to": {{"data": [{{"id": "{SHOP}"}}]}}, "message": "hello {number}"{extra}}}'
    )


def conversation(person: str, messages: list[str], extra: str = "") -> str:
    people = f'{{"data": [{{"id": "{person}"}}, {{"id": "{SHOP}"}}]}}'
    return (
        f'{{"id": "t_{person}", "updated_time": "{TIME}", "participants": {people},'
        f' "messages": {{"data": [{", ".join(messages)}]}}{extra}}}'
    )


class TextApi:
    """Answers each listing with exact JSON text."""

    def __init__(self, rows: list[str]) -> None:
        self.rows = rows

    def answer(self, call: Call) -> EmulatedResponse:
        is_listing = call.path.endswith("/conversations")
        text = f'{{"data": [{", ".join(self.rows)}]}}'
        if not is_listing:
            text = '{"error": {"code": 100, "error_subcode": 33, "message": "no"}}'
        headers = {"Content-Type": "application/json"}
        return EmulatedResponse(200 if is_listing else 400, None, headers, text.encode())


PLACES = ("message", "conversation")
CASES = [
    pytest.param(name, place, marks=() if index % 2 == PLACES.index(place) else pytest.mark.slow)
    for index, name in enumerate(VALUES)
    for place in PLACES
]
"""The fast tests have each value in one of the places."""


@pytest.mark.parametrize(("name", "place"), CASES)
def test_what_is_stored_can_be_read_erased_exported_and_verified(
    memory_path: Path, name: str, place: str
) -> None:
    extra = f', "mentions": {VALUES[name]}'
    is_message = place != "conversation"
    ada = [message(ADA, 1), message(ADA, 2, extra if is_message else ""), message(ADA, 3)]
    rows = [
        conversation(ADA, ada, "" if is_message else extra),
        conversation(BOB, [message(BOB, 1)]),
    ]
    world = World(VirtualClock(NOW))
    account = world.add_account("shop", SHOP, "messenger")
    with EmulatorServer(world, api=TextApi(rows)) as server:
        settings = settings_for([account], server.base_url, memory_path / "lake", date(2026, 3, 1))
        with closing(Store(settings.store, stopped_clock(world.clock))) as store:
            inboxes = Inboxes(server, settings, store, {TOKEN_VARIABLE: EMULATOR_TOKEN})
            for _ in range(2):
                [report] = inboxes.extract()
                assert (report.outcome, report.reasons) == ("complete", ()), report
            inboxes.derive()
            found = {row["message_id"]: row["text"] for row in inboxes.rows("messages")}
            wanted = {f"m_{ADA}_{number}": f"hello {number}" for number in (1, 2, 3)}
            assert found == wanted | {f"m_{BOB}_1": "hello 1"}
            assert report.counts["rejected"] == len(inboxes.rows("raw_rejects"))
            assert verify(store, stale_days=stale_days).is_sound
            with connect(settings.store.root) as connection:
                connection.sql("select count(payload) from raw_rejects").fetchall()
            secret = {"SECRET": "0123456789abcdef" * 2}
            keyed = settings.model_copy(
                update={"export": settings.export.model_copy(update={"secret_env": "SECRET"})}
            )
            target = memory_path / "export"
            export_tables(keyed, store, ["shop"], target, "csv", secret, with_text=True)
            deployment = Deployment(settings, clock=stopped_clock(world.clock))
            assert run_upkeep(deployment, print) == []
            receipt = forget(settings, store, "shop", ADA, NOW)
            assert receipt is not None
            assert find_texts(memory_path / "lake", [ADA, "Ada "], "shop") == []
            inboxes.extract()
            inboxes.derive()
            assert find_texts(memory_path / "lake", [ADA, "Ada "], "shop") == []
            assert [row["message_id"] for row in inboxes.rows("messages")] == [f"m_{BOB}_1"]
            assert verify(store, stale_days=stale_days).is_sound
