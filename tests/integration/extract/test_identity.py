"""The account's own id: when it is fetched, and how it is inferred."""

from datetime import timedelta
from pathlib import Path

import pytest

from convo_pipeline.emulator.fault import Fault, FaultKind
from convo_pipeline.emulator.refusals import Refusal
from convo_pipeline.extract.report import AccountReport
from tests.support.inboxes import NOW, Inboxes, serve, small_world

HOUR = timedelta(hours=1)


def refused_identity(code: int) -> Fault:
    """Return a fault that refuses the account's own id."""
    return Fault(
        FaultKind(
            "identity_refused",
            "",
            "",
            refuse=lambda context: Refusal(code, "no"),
            kinds=("other",),
        )
    )


def run(inboxes: Inboxes, mode: str = "window") -> AccountReport:
    [report] = inboxes.extract(accounts=["insta"], mode=mode)
    return report


@pytest.mark.parametrize("code", [1, 10, 100, 99999])
def test_an_identity_that_the_api_refuses_is_inferred(tmp_path: Path, code: int) -> None:
    world = small_world()
    for number in range(3):
        world.accounts["insta"].add_conversation(f"C {number}").add_messages(
            3, NOW - (2 + number) * HOUR, 1.0
        )
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(refused_identity(code))
        assert (run(inboxes).outcome, run(inboxes, "nightly").outcome) == ("complete", "complete")
        inboxes.derive()
        assert {row["direction"] for row in inboxes.rows("messages")} == {"inbound", "outbound"}


def test_a_capture_fetches_an_unknown_identity_once_a_day(tmp_path: Path) -> None:
    world = small_world()
    world.accounts["insta"].add_conversation().add_messages(3, NOW - HOUR, 1.0)
    with serve(tmp_path, world) as inboxes:
        inboxes.server.set_faults(refused_identity(10))
        assert run(inboxes).calls == {"identity": 1, "listing": 1}
        inboxes.clock.advance(900)
        assert run(inboxes, "capture").calls == {"listing": 1}
        inboxes.clock.advance(86_400)
        assert run(inboxes, "capture").calls == {"identity": 1, "listing": 1}
        inboxes.server.set_faults()
        inboxes.clock.advance(86_400)
        assert [
            run(inboxes, "capture").calls["listing"],
            inboxes.store.state.identity("insta").own_id_source,
        ] == [
            1,
            "asked",
        ]
        inboxes.clock.advance(86_400)
        assert run(inboxes, "capture").calls == {"listing": 1}
