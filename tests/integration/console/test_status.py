"""`status` reads stored data only; each line comes from an emulated inbox in that state."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from convo_pipeline.base.json_text import dump_json
from convo_pipeline.console.status import (
    AccountStatus,
    Status,
    describe_status,
    read_status,
    show_status,
)
from convo_pipeline.graph.rate_limit import SqliteLimiter
from convo_pipeline.reasons import REASONS, describe_outcome
from convo_pipeline.state.records import ConversationState, Run
from tests.support.inboxes import Inboxes, serve, small_world

STATUS_KEYS = {
    "at",
    "accounts",
    "next_capture_at",
    "problems",
    "next_night_at",
    "covered_since",
    "lost_since",
    "is_fine",
}
ACCOUNT_KEYS = {
    "has_refused",
    "open_since",
    "unsure_direction_count",
    "account",
    "platform",
    "last_complete_at",
    "last_run_at",
    "running_since",
    "last_outcome",
    "last_reasons",
    "last_error",
    "listed_count",
    "detailed_count",
    "open_count",
    "lost",
    "lost_conversation_count",
    "capture_proposal",
    "at_risk_count",
    "most_expected",
    "look_due_at",
    "due_conversation_count",
    "open_spool_count",
    "underived_day_count",
    "quarantine_count",
    "kept_day_count",
    "missed_count",
    "note",
    "token_warnings",
    "blocked_until",
    "is_late",
    "is_night_late",
    "is_derivation_late",
    "problem",
    "share_detailed",
    "attention",
}
LOST = (
    "content lost: 12 messages in 2 conversations since yesterday"
    " (12 no longer among the newest 20)"
)
EVENING = datetime(2026, 3, 10, 12, 15, tzinfo=UTC)


@pytest.fixture
def inboxes(tmp_path: Path) -> Iterator[Inboxes]:
    world = small_world()
    for account in world.accounts.values():
        for number in range(2):
            account.add_conversation(f"Person {number}").add_messages(
                2, world.clock.now() - timedelta(hours=3)
            )
    with serve(tmp_path, world) as inboxes:
        yield inboxes


def status_of(inboxes: Inboxes) -> Status:
    calls = len(inboxes.server.log)
    found = read_status(inboxes.settings, inboxes.names, inboxes.clock.now())
    assert len(inboxes.server.log) == calls
    return found


def shown(status: Status, form: str = "table") -> str:
    if form == "json":
        return dump_json(describe_status(status)).decode()
    console = Console(file=StringIO(), width=80)
    show_status(status, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def attention(inboxes: Inboxes) -> dict[str, list[str]]:
    return {each.account: each.attention for each in status_of(inboxes).accounts}


def test_status_creates_no_file_before_the_first_extract(inboxes: Inboxes, tmp_path: Path) -> None:
    assert attention(inboxes) == {
        name: ["never extracted. To do: run `convo-pipeline extract`"] for name in inboxes.names
    }
    assert list(tmp_path.iterdir()) == []


def test_complete_accounts_need_no_attention(inboxes: Inboxes) -> None:
    inboxes.extract_whole()
    status = status_of(inboxes)
    assert status.is_fine
    assert [
        (each.listed_count, each.share_detailed, each.last_outcome) for each in status.accounts
    ] == [
        (4, 1.0, "complete"),
        (4, 1.0, "complete"),
    ]
    assert (status.next_capture_at, status.next_night_at) == (
        EVENING,
        datetime(2026, 3, 11, 0, 15, tzinfo=UTC),
    )


def test_messages_lost_after_the_first_run_are_counted_and_older_ones_are_not(
    inboxes: Inboxes,
) -> None:
    busy, quiet = inboxes.world.accounts["insta"].conversations.values()
    old = inboxes.world.accounts["insta"].add_conversation("Deep")
    old.add_messages(30, inboxes.clock.now() - timedelta(hours=5), step_seconds=60)
    inboxes.extract_whole()
    assert status_of(inboxes).is_fine
    inboxes.clock.advance(900)
    busy.add_messages(25, inboxes.clock.now() - timedelta(minutes=10), step_seconds=10)
    quiet.add_messages(27, inboxes.clock.now() - timedelta(minutes=10), step_seconds=10)
    inboxes.extract_whole()
    lost, risk = attention(inboxes)["insta"]
    assert lost.partition(". ")[0] == LOST
    assert lost.endswith("set `schedule.capture_minutes = 3` or less, which would have been enough")
    assert risk.startswith(
        "2 conversations may receive up to 54 messages before the next capture;"
        " extra capture due 2026"
    )
    inboxes.clock.advance(2 * 86_400)
    assert [line for line in attention(inboxes)["insta"] if "content lost" in line] == []


def test_lost_messages_of_a_day_that_is_not_normalised_are_counted(
    inboxes: Inboxes,
) -> None:
    inboxes.extract_whole()
    inboxes.clock.advance(900)
    busy, quiet = inboxes.world.accounts["insta"].conversations.values()
    for conversation, count in ((busy, 25), (quiet, 27)):
        conversation.add_messages(
            count, inboxes.clock.now() - timedelta(minutes=10), step_seconds=10
        )
    inboxes.extract()
    insta, mess = status_of(inboxes).accounts
    assert (insta.underived_day_count, insta.listed_count, insta.detailed_count) == (1, 56, 44)
    assert insta.attention[0].partition(". ")[0] == LOST
    assert "insta: 1 day not normalised yet" in shown(status_of(inboxes))
    assert (mess.underived_day_count, mess.listed_count) == (0, 4)
    inboxes.derive()
    assert status_of(inboxes).accounts[0] == replace(insta, underived_day_count=0)


def test_captures_do_not_hide_a_missing_nightly_run(inboxes: Inboxes) -> None:
    inboxes.extract_whole()
    inboxes.clock.advance(27 * 3600)
    today = inboxes.clock.now().date()
    inboxes.extract(today, mode="capture")
    overdue = REASONS["night_late"].explain()
    assert [overdue in lines for lines in attention(inboxes).values()] == [True, True]
    inboxes.extract(today - timedelta(days=1), mode="nightly")
    assert [overdue in lines for lines in attention(inboxes).values()] == [False, False]


def test_late_blocked_unread_and_failed_accounts_have_a_line_each(inboxes: Inboxes) -> None:
    inboxes.extract_whole()
    inboxes.clock.advance(27 * 3600)
    inboxes.environ["INBOX_TOKEN"] = "EAAwrongwrongwrongwrong"
    inboxes.extract(accounts=["mess"])
    inboxes.store.state.save_conversations(
        "mess",
        [
            ConversationState("t_1", due_reason="unreachable"),
            ConversationState("t_2", due_reason="refused"),
        ],
    )
    client = Client(inboxes)
    client.limiter.block(3600)
    error = str(getattr(inboxes.store.state.last_ended("mess"), "error", None))
    assert attention(inboxes) == {
        "insta": [REASONS["late"].explain()],
        "mess": [
            f"last run {describe_outcome('failed', ['token'], error)}",
            REASONS["late"].explain(),
            "0 messages and 1 conversation not read yet. Nothing to do: the next run reads again;"
            " or run `convo-pipeline extract mess`",
            REASONS["blocked"].explain(details={"until": "2026-03-11 16:00 UTC"}),
        ],
    }
    client.limiter.close()


def test_the_remedy_for_unread_messages_names_account_and_day(inboxes: Inboxes) -> None:
    inboxes.extract_whole()
    account = AccountStatus(
        "mess", "messenger", last_outcome="complete", open_count=3, open_since=date(2026, 3, 8)
    )
    assert account.attention == [
        "3 messages and 0 conversations not read yet. Nothing to do: the next run reads again; or"
        " run `convo-pipeline extract mess --since 2026-03-08`"
    ]


class Client:
    """The rate limiter of the account's own calls."""

    def __init__(self, inboxes: Inboxes) -> None:
        from tests.support.inboxes import stopped_clock

        host = inboxes.server.base_url.removeprefix("http://")
        path = inboxes.store.state.path
        self.limiter = SqliteLimiter(
            path, (host, "2222222222", "messenger"), clock=stopped_clock(inboxes.clock)
        )  # type: ignore[arg-type]


def test_an_active_run_needs_no_attention_and_hides_no_failure(inboxes: Inboxes) -> None:
    running = Run("r_now", "insta", "capture", inboxes.clock.now() + timedelta(minutes=10))
    inboxes.store.state.save_run(running)
    assert attention(inboxes)["insta"] == []
    inboxes.extract_whole()
    assert attention(inboxes)["insta"] == []
    text = " ".join(shown(status_of(inboxes)).split())
    assert (
        "insta: a run is active since 2026-03-10 12:10 UTC, or was killed;"
        " the next run stores what it had read" in text
    )
    at = inboxes.clock.now() + timedelta(minutes=5)
    failed = replace(running, run_id="r_bad", started_at=at, outcome="failed", reasons=("token",))
    inboxes.store.state.save_run(failed)
    assert attention(inboxes)["insta"] == [f"last run {describe_outcome('failed', ['token'])}"]


def test_days_that_are_not_normalised_need_attention_after_an_hour(inboxes: Inboxes) -> None:
    inboxes.extract()
    assert attention(inboxes) == {"insta": [], "mess": []}
    inboxes.clock.advance(3700)
    line = REASONS["derivation_late"].explain(details={"days": "1 day"})
    assert attention(inboxes) == {"insta": [line], "mess": [line]}
    inboxes.store.state.save_run(Run("r_now", "insta", "capture", inboxes.clock.now()))
    assert attention(inboxes) == {"insta": [], "mess": [line]}
    inboxes.derive()
    assert attention(inboxes) == {"insta": [], "mess": []}


def test_an_unreadable_account_does_not_hide_the_other_one(inboxes: Inboxes) -> None:
    inboxes.extract_whole()
    inboxes.store.path("coverage", "insta", inboxes.clock.now().date()).write_bytes(
        b"PAR1 not a table"
    )
    insta, mess = status_of(inboxes).accounts
    assert "coverage" in str(insta.problem)
    assert mess.attention == []


def test_the_table_fits_80_columns_and_json_has_the_same_data() -> None:
    worst = AccountStatus(
        account="a" * 63,
        platform="instagram",
        last_complete_at=EVENING,
        last_outcome="complete",
        listed_count=1_000_000,
        detailed_count=999_999,
        open_count=10_000,
        lost={"beyond_20": 10_000, "gone": 2},
        lost_conversation_count=200,
        at_risk_count=12,
        most_expected=400,
        look_due_at=EVENING,
        open_spool_count=2,
        underived_day_count=31,
    )
    status = Status(EVENING, (worst,), EVENING, EVENING)
    text = shown(status)
    assert max(map(len, text.splitlines())) <= 80
    assert "10,002 messages in 200 conversations" in " ".join(text.split())
    assert text.splitlines()[-1] == "need attention: 1 of 1 account"
    (row,) = [line.split() for line in text.splitlines() if line.split()[-1:] == ["10,000"]]
    assert row[1:] == ["2026-03-10", "12:15", "100.0%", "10,002", "12", "10,000"]
    document = json.loads(shown(status, "json"))
    assert document["is_fine"] is False
    assert document["next_night_at"] == "2026-03-10T12:15:00+00:00"
    assert (
        "7 days: share of messages with content, 2026-03-04 to 2026-03-10;"
        " lost: since 2026-03-09 (UTC)" in " ".join(text.split())
    )
    assert (document["covered_since"], document["lost_since"]) == (
        "2026-03-04",
        "2026-03-09T00:00:00+00:00",
    )
    (account,) = document["accounts"]
    assert set(document) == STATUS_KEYS, "monitors read these keys: add some, never rename one"
    assert set(account) == ACCOUNT_KEYS, "monitors read these keys: add some, never rename one"
    assert (account["lost"], account["share_detailed"]) == (
        {"beyond_20": 10_000, "gone": 2},
        0.999999,
    )
    assert account["attention"] == worst.attention


def test_missed_messages_need_attention_until_a_sweep_finds_none(inboxes: Inboxes) -> None:
    inboxes.extract_whole()
    inboxes.store.shrink(
        "raw_message_ids", "insta", inboxes.clock.now().date(), lambda rows: rows.slice(3)
    )
    inboxes.clock.advance(3600)
    inboxes.extract(mode="full")
    inboxes.derive()
    line = REASONS["missed"].explain(details={"messages": "3 messages"})
    assert attention(inboxes) == {"insta": [line], "mess": []}
    inboxes.clock.advance(3600)
    inboxes.extract(mode="full")
    assert attention(inboxes) == {"insta": [], "mess": []}
