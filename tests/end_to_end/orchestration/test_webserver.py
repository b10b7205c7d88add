"""Dagster's web server and daemon, with the queries of its page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.orchestration.partitions import ONE_DAY, Window
from convo_pipeline.query.connection import connect
from tests.support.canaries import add_canary_to_each_field, add_canary_to_each_response
from tests.support.inbox_worlds import (
    TOKENS,
    Days,
    message_counts,
    small_world,
    three_days,
    write_config,
)
from tests.support.shifted_clock import SharedClock
from tests.support.web_server import RUNS, Web, dagster_dev, wait_for

BAKERY, BIKES = "bakery-instagram", "bikes-messenger"
RAW = ["raw_conversations", "raw_message_ids", "raw_message_details", "raw_rejects"]
DERIVED = [
    "conversation_days",
    "participant_days",
    "messages",
    "attachments",
    "shares",
    "reactions",
]
DERIVED += ["coverage", "account_days"]
WRONG_TOKEN, TEXT = "EAAwrongwrongwrongwrong", "canary4f1c" + "09e2b7"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


def canary_world(days: Days) -> World:
    """Put a unique text into each field of every message, and into the names of the people."""
    world = small_world(days)
    for account in world.accounts.values():
        for conversation in account.conversations.values():
            for key in conversation.people[0].keys() & {"name", "username", "email"}:
                conversation.people[0][key] = TEXT
            for message in conversation.messages:
                add_canary_to_each_field(message, TEXT)
    return world


@pytest.fixture(scope="module")
def days() -> Days:
    return three_days()


@pytest.fixture(scope="module")
def keys(days: Days) -> list[str]:
    """Return the partitions of the backfill: both accounts on the first day."""
    return [f"{account}|{days[0]}" for account in (BAKERY, BIKES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def web(folder: Path, days: Days, keys: list[str]) -> Iterator[Web]:
    """Serve a backfill with a wrong token of the Messenger account, on a fast clock."""
    tokens = {**TOKENS, "BIKES_MESSENGER_TOKEN": WRONG_TOKEN}
    clock = SharedClock(folder / "ahead")
    faults = [add_canary_to_each_response(TEXT, every=1_000)]
    with EmulatorServer(canary_world(days), faults=faults) as server:
        environ = {
            "CONVO_CONFIG": str(write_config(folder, server, days.start)),
            **tokens,
            **clock.environ,
        }
        with dagster_dev(folder / "home", environ) as web, clock.fast():
            web.backfill(RAW, keys)
            yield web


def test_the_page_materialises_a_partition_of_every_table(web: Web, days: Days) -> None:
    key = f"{BAKERY}|{days[2]}"
    assert web.end_of(web.launch([*RAW, *DERIVED], key)) == "SUCCESS"
    assert web.row_counts("messages")[key] == message_counts(days)[key]
    assert web.row_counts("coverage")[key] == 1


def test_a_backfill_with_a_refused_account_is_normalised(
    web: Web, days: Days, keys: list[str]
) -> None:
    good, bad = keys
    wait_for(lambda: web.asset("raw_message_ids")["partitionStats"]["numFailed"] == 1)
    for table in RAW:
        counts = web.row_counts(table)
        assert good in counts
        assert bad not in counts
    wait_for(lambda: good in web.row_counts("messages"))
    counts = web.row_counts("messages")
    assert counts[good] == message_counts(days)[good]
    assert bad not in counts, "a day that was not read is not green"


def test_a_backfill_of_missing_days_reads_exactly_them(web: Web, days: Days) -> None:
    """Some days between the missing ones are green: no run of the backfill includes them."""

    def green() -> list[str]:
        events = web.asset("raw_message_ids")["assetMaterializations"]
        return [event["partition"] for event in events if BAKERY in event["partition"]]

    wait_for(lambda: f"{BAKERY}|{days[0]}" in green())
    before = green()
    window = Window(days.start, days.today + ONE_DAY)
    missing = {f"{BAKERY}|{day}" for day in window.days} - set(before)
    assert missing, "the messages of other days are stored, but no run has read them"
    web.backfill(RAW, sorted(missing))
    wait_for(lambda: missing <= set(green()))
    assert sorted(green()) == sorted([*before, *missing])
    runs = [dict(map(dict.values, run["tags"])) for run in web.ask(RUNS)["results"]]
    told = [tags["convo/days"] for tags in runs if "dagster/backfill" in tags]
    assert len(told) >= 3, "each run of a backfill tells its days"


def test_s1_no_response_of_the_web_server_holds_a_token_or_a_text(
    web: Web, folder: Path, days: Days, keys: list[str]
) -> None:
    """Request assets, checks, events and output of every run, those of other tests too.

    The text is in every field of every response of the API.
    """
    good, _ = keys
    wait_for(lambda: web.asset("raw_message_ids")["partitionStats"]["numFailed"] == 1)
    wait_for(lambda: good in web.row_counts("messages"))
    web.ask_everything()
    said = b"\n".join(web.responses)
    assert f"{BIKES}: failed: the token is invalid".encode() in said, "failed runs must be included"
    assert [
        secret
        for secret in (WRONG_TOKEN, EMULATOR_TOKEN, TEXT, "access_token=")
        if secret.encode() in said
    ] == []
    with connect(folder / "lake") as con:
        (held_count,) = con.execute(
            f"select count(*) from messages where text like '{TEXT}%'"
        ).fetchone()
    assert held_count >= message_counts(days)[good]
