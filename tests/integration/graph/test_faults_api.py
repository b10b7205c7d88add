"""Faults B1 to B30 of the API's semantics: what one listing of the emulator returns.

The tests of extraction check what is stored of the rows (B11 to B14, B16 to B25, B28, B29).
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from convo_pipeline import errors
from convo_pipeline.base.secrets import Credentials
from convo_pipeline.emulator.faults import make_fault
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches, covering_switches
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.rate_limit import NO_LIMIT, CallBudget
from tests.support.fault_runs import NOW, list_inbox, make_inbox

ITEM_CURSORS = Switches(cursor_kind="item")
UNTOUCHED_ROWS = [
    ("B10", "flood"),
    ("B16", "mixed_times"),
    ("B18", "unknown_fields"),
    ("B20", "missing_keys"),
    ("B21", "huge_message"),
    ("B22", "control_characters"),
    ("B23", "lone_surrogate"),
    ("B25", "long_numbers"),
    ("B26", "foreign_next"),
    ("B27", "altered_next"),
    ("B28", "twin_ids"),
    ("B29", "edit"),
]
DENIED = ["permission_10", "permission_200", "access_switched_off", "permission_230"]


@pytest.mark.parametrize("name", ["cursor_loop", "cursor_repeated"])
def test_b1_cursor_loop_is_cut_after_one_restart(name: str) -> None:
    outcome = list_inbox(
        [make_fault(name, times=None if name == "cursor_loop" else 10_000)], account=make_inbox(230)
    )
    assert (outcome.summary.cuts, outcome.summary.restarts, outcome.error) == (
        ("cursor_loop",),
        1,
        None,
    )
    assert outcome.client.calls["listing"] <= 20


def test_b1_passing_cursor_loop_loses_nothing() -> None:
    outcome = list_inbox(
        [make_fault("cursor_repeated", times=1, after_calls=1)], account=make_inbox(230)
    )
    assert outcome.is_complete
    assert outcome.summary.restarts == 1


def test_b2_empty_pages_are_passed() -> None:
    fault = make_fault("empty_page", times=5)
    assert list_inbox([fault]).is_complete
    assert fault.fired == 5


def test_b2_endless_empty_pages_are_cut() -> None:
    outcome = list_inbox([make_fault("empty_page", times=10_000)], account=make_inbox(5))
    assert outcome.summary.cuts == ("empty_pages",)
    assert outcome.client.calls["listing"] <= 50


@pytest.mark.parametrize(
    ("number", "name"), [("B3", "short_page"), ("B4", "duplicates"), ("B5", "shuffled")]
)
def test_b3_b4_b5_irregular_pages_lose_and_repeat_nothing(number: str, name: str) -> None:
    fault = make_fault(name)
    outcome = list_inbox([fault])
    assert (outcome.is_complete, fault.fired) == (True, outcome.client.calls["listing"])
    assert len(outcome.ids) == len(set(outcome.ids))


def test_b5_shuffled_listing_reaches_its_bound() -> None:
    since = NOW - timedelta(hours=20)
    outcome = list_inbox(["shuffled"], since=since, account=make_inbox(400))
    due = {
        c.conversation_id
        for c in outcome.account.conversations.values()
        if c.messages[-1].created_at >= since
    }
    assert due <= set(outcome.ids)
    assert outcome.summary.inversions > 0
    assert outcome.client.calls["listing"] < 8


@pytest.mark.parametrize("cursor_kind", ["keyset", "item"])
def test_b6_moved_conversation_is_read_again_or_next_run(cursor_kind: str) -> None:
    switches = replace(Switches(), cursor_kind=cursor_kind)
    outcome = list_inbox(["bump"], switches=switches)
    assert set(outcome.ids) == set(outcome.account.conversations)
    assert outcome.summary.passes >= 3
    assert outcome.summary.started_at is not None
    later = list_inbox(account=outcome.account, switches=switches, since=outcome.summary.started_at)
    newest = {row["id"]: _newest_id(row) for row in [*outcome.rows, *later.rows]}
    now_us = outcome.account.world.clock.now_us()
    truth = {
        c.conversation_id: c.rows(now_us, keep_unsent=False)[0]
        for c in outcome.account.conversations.values()
    }
    assert newest == {
        conversation_id: message.message_id for conversation_id, message in truth.items()
    }


def _newest_id(row: dict[str, Any]) -> object:
    return row["messages"]["data"][0]["id"]


@pytest.mark.parametrize(("calls", "restarts"), [(1, 1), (3, 2), (5, 3)])
def test_b7_expired_cursor_loses_nothing(calls: int, restarts: int) -> None:
    outcome = list_inbox([make_fault("dead_cursor", times=calls, after_calls=1)])
    assert outcome.is_complete
    assert (outcome.summary.restarts, len(outcome.ids)) == (restarts, 130)


def test_b8_deletions_lose_nothing_else() -> None:
    outcome = list_inbox(["vanish_head"])
    visible = {
        c.conversation_id for c in outcome.account.conversations.values() if not c.is_vanished
    }
    assert visible <= set(outcome.ids)


@pytest.mark.parametrize(("number", "name"), UNTOUCHED_ROWS)
def test_faulty_content_is_listed(number: str, name: str) -> None:
    fault = make_fault(name)
    outcome = list_inbox([fault])
    assert fault.fired
    assert outcome.is_complete
    assert (outcome.summary.restarts, outcome.server.foreign_calls) == (0, [])


def test_b12_to_b14_missing_conversation_is_a_missing_error() -> None:
    account = make_inbox(3)
    with EmulatorServer(account.world, faults=["edge_missing"]) as server:
        endpoint = Endpoint(server.base_url, "v26.0", account.page_id, account.platform)
        with GraphClient(
            endpoint, Credentials(EMULATOR_TOKEN), NO_LIMIT, budget=CallBudget(9)
        ) as client:
            with pytest.raises(errors.MissingError):
                client.fetch_messages(next(iter(account.conversations)), "id", 20)
            assert client.calls["edge"] == 1


@pytest.mark.parametrize(
    ("seconds", "expected"), [(240, 240), (-240, -240), (600, 0), (-600, -600), (90_000, 0)]
)
def test_b15_server_clock_counts_up_to_five_minutes(seconds: int, expected: int) -> None:
    """If the clocks differ more, the earlier one counts: no message is left out by it."""
    outcome = list_inbox([f"clock_skew:{seconds}"])
    assert outcome.is_complete
    assert outcome.summary.started_at == NOW + timedelta(seconds=expected)


@pytest.mark.parametrize(
    ("number", "name"),
    [("B17", "impossible_times"), ("B19", "type_changes"), ("B20", "missing_id")],
)
def test_b17_b19_b20_malformed_rows_are_listed(number: str, name: str) -> None:
    fault = make_fault(name)
    outcome = list_inbox([fault])
    assert (outcome.error, outcome.summary.cuts, fault.fired) == (
        None,
        (),
        outcome.client.calls["listing"],
    )
    assert len(outcome.rows) >= 130
    assert outcome.client.calls["listing"] <= 14


def test_b21_ten_thousand_attachments_are_one_row() -> None:
    outcome = list_inbox(["many_attachments"], account=make_inbox(3))
    assert outcome.is_complete


def test_b24_hostile_ids_are_requested_unchanged() -> None:
    account = make_inbox(5)
    with EmulatorServer(account.world, faults=["hostile_ids"]) as server:
        endpoint = Endpoint(server.base_url, "v26.0", account.page_id, account.platform)
        with GraphClient(
            endpoint, Credentials(EMULATOR_TOKEN), NO_LIMIT, budget=CallBudget(99)
        ) as client:
            rows = client.fetch_conversations("id", 50).rows
            ids = [row.payload["id"] for row in rows if isinstance(row.payload, dict)]
            found = [client.fetch_conversation(each, "id").rows for each in ids]
    assert [row.payload for (row,) in found] == [{"id": each} for each in ids]
    assert len(set(ids)) == 5


@pytest.mark.parametrize("name", DENIED)
def test_b30_missing_permission_is_not_retried(name: str) -> None:
    outcome = list_inbox([name])
    assert isinstance(outcome.error, errors.AccessDeniedError)
    # the second call is the control without messages: the inbox itself is refused
    assert (len(outcome.server.log), outcome.sleeps) == (2, [])


def test_b30_token_error_keeps_earlier_pages() -> None:
    outcome = list_inbox(["token_dies:2"])
    assert isinstance(outcome.error, errors.TokenError)
    assert (len(outcome.ids), len(outcome.server.log)) == (100, 3)


def test_b30_served_version_is_recorded() -> None:
    outcome = list_inbox(["version_upgraded"])
    assert outcome.is_complete
    assert outcome.client.version == "v27.0"


def test_b30_retired_version_stops_the_account() -> None:
    outcome = list_inbox(["retired_version"])
    assert isinstance(outcome.error, errors.VersionError)
    assert "set graph.version" in str(outcome.error)
    assert len(outcome.server.log) == 1


@pytest.mark.parametrize("rows", [1000, 500, 200, 100, 40])
def test_heavy_pages_get_smaller_and_lose_nothing(rows: int) -> None:
    outcome = list_inbox([f"reduce_above:{rows}"], account=make_inbox(100))
    assert outcome.is_complete
    floor = 3 * 1000 / rows
    assert outcome.client.calls["listing"] <= 1.6 * floor + 12


def test_listing_goes_light_if_nesting_is_refused() -> None:
    outcome = list_inbox(["reduce_above:5"], account=make_inbox(80))
    assert set(outcome.ids) == set(outcome.account.conversations)
    assert outcome.summary.mode == "light"
    assert outcome.client.calls["listing"] <= 80 / 5 + 40


@pytest.mark.parametrize("position", [1, 2, 49, 50, 51, 130])
def test_unreadable_conversation_costs_only_itself(position: int) -> None:
    account = make_inbox()
    list(account.conversations.values())[position - 1].make_unreadable()
    outcome = list_inbox(account=account)
    unreadable = {c.conversation_id for c in outcome.account.conversations.values() if c.refusal}
    assert set(outcome.summary.unreadable) == unreadable
    assert {row["id"] for row in outcome.rows if "messages" in row} == set(
        outcome.account.conversations
    ) - unreadable
    assert set(outcome.ids) == set(outcome.account.conversations)
    assert outcome.client.calls["listing"] <= 22


@pytest.mark.parametrize(
    "field", ["reactions", "story", "is_unsupported", "shares", "participants"]
)
@pytest.mark.parametrize("localised", [False, True])
def test_nonexisting_field_is_left_out_alone(field: str, localised: bool) -> None:
    outcome = list_inbox(
        [f"nonexisting:{field}"], switches=replace(Switches(), localised=localised)
    )
    assert outcome.is_complete
    names = outcome.summary.dropped_fields
    assert names == {field} or (
        field == "shares" and {name.partition(".")[0] for name in names} == {"shares"}
    )


@pytest.mark.parametrize("platform", ["instagram", "messenger"])
@pytest.mark.parametrize("switches", covering_switches(), ids=lambda switches: "")
def test_every_api_shape_is_listed(switches: Switches, platform: str) -> None:
    outcome = list_inbox(switches=switches, account=make_inbox(60, platform=platform))
    assert (outcome.error, outcome.summary.cuts) == (None, ())
    assert len(set(outcome.ids)) == 60
    assert all(row["messages"]["data"] for row in outcome.rows)


def test_listing_without_updated_time_uses_the_newest_message() -> None:
    since = NOW - timedelta(hours=5)
    outcome = list_inbox(
        switches=Switches(has_updated_time=False), since=since, account=make_inbox(400)
    )
    assert outcome.client.calls["listing"] <= 4
    assert len(outcome.ids) >= 30


def test_offset_cursors_are_followed() -> None:
    assert list_inbox(switches=Switches(cursor_kind="offset")).is_complete
    assert list_inbox(switches=ITEM_CURSORS).is_complete
