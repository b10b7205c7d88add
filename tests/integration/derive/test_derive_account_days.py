"""Deriving `account_days` in a lake: stale days are derived again, other days stay."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

import convo_pipeline
from convo_pipeline.derive import account_days
from convo_pipeline.derive.account_days import derive_account_days, stale_account_days
from convo_pipeline.lake.store import Store
from convo_pipeline.query.reply_rules import ReplyRules
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import Run
from tests.support.metric_worlds import Message, as_table, random_world

FIRST, SECOND, LATE = date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(StoreSettings(root=str(tmp_path)))) as store:
        yield store


def say(day: date, direction: str, hour: int = 12) -> Message:
    moment = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    return Message("bakery", "anna", f"m-{moment.isoformat()}", moment, direction, "hello")


def put(store: Store, day: date, messages: Sequence[Message]) -> None:
    source = ",".join(sorted(message.message_id for message in messages))
    store.replace("messages", "bakery", day, as_table(messages), source)


def read(store: Store, columns: str) -> list[tuple[object, ...]]:
    with convo_pipeline.connect(store.root) as con:
        query = f"SELECT {columns} FROM account_days ORDER BY date"
        return [tuple(row) for row in con.sql(query).fetchall()]


def test_late_response_makes_the_day_of_its_question_stale(store: Store) -> None:
    columns = "date, answered_session_count, backlog_count"
    put(store, FIRST, [say(FIRST, "inbound")])
    assert stale_account_days(store, "bakery") == [FIRST]
    derive_account_days(store, "bakery")
    assert read(store, columns) == [(FIRST, 0, 1)]
    put(store, SECOND, [say(SECOND, "outbound")])
    assert stale_account_days(store, "bakery") == [FIRST, SECOND]
    assert [commit.is_changed for commit in derive_account_days(store, "bakery")] == [True, True]
    assert read(store, columns) == [(FIRST, 1, 1), (SECOND, 0, 0)]
    assert stale_account_days(store, "bakery") == []


def test_distant_message_makes_no_day_stale(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound")])
    derive_account_days(store, "bakery")
    put(store, LATE, [say(LATE, "inbound")])
    assert stale_account_days(store, "bakery") == [LATE]


def test_day_that_lost_its_messages_loses_its_row(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound")])
    put(store, LATE, [say(LATE, "inbound")])
    derive_account_days(store, "bakery")
    put(store, LATE, [])
    assert stale_account_days(store, "bakery") == [LATE]
    derive_account_days(store, "bakery")
    assert read(store, "date") == [(FIRST,)]


def test_other_session_gap_makes_every_day_stale(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound"), say(FIRST, "inbound", 20)])
    derive_account_days(store, "bakery")
    assert stale_account_days(store, "bakery", rules=ReplyRules(6)) == [FIRST]


def test_complete_run_makes_a_day_stale_until_its_responses_are_final(store: Store) -> None:
    columns = "is_complete, is_lower_bound, share_answered_24h, is_final"
    put(store, FIRST, [say(FIRST, "inbound")])
    derive_account_days(store, "bakery")
    assert read(store, columns) == [(False, True, None, False)]
    for number, (started_at, expected) in enumerate(
        (
            (datetime(2026, 3, 1, 18, tzinfo=UTC), (True, True, None, False)),
            (datetime(2026, 3, 2, 0, 15, tzinfo=UTC), (True, False, None, False)),
            (datetime(2026, 3, 3, 1, tzinfo=UTC), (True, False, 0.0, False)),
            (datetime(2026, 3, 9, tzinfo=UTC), (True, False, 0.0, True)),
        )
    ):
        since = date(2026, 2, 1)
        store.state.save_run(
            Run(f"r{number}", "bakery", "nightly", started_at, since, FIRST, outcome="complete")
        )
        put(store, since, [say(since, "outbound")])
        assert FIRST in stale_account_days(store, "bakery")
        derive_account_days(store, "bakery")
        assert read(store, columns)[-1] == expected
        assert stale_account_days(store, "bakery") == []


def test_rows_do_not_depend_on_the_size_of_a_batch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    world = random_world(5, 100, since, timedelta(days=60), accounts=1)
    all_days = [since.date() + timedelta(days=index) for index in range(60)]
    for day in all_days:
        put(store, day, [message for message in world if message.created_at.date() == day])
    days = all_days[9::15]
    at_once = derive_account_days(store, "bakery", days)
    assert [commit.date for commit in at_once] == days
    for most_messages in (0, len(world) * 2 // 3):
        monkeypatch.setattr(account_days, "BATCH_MESSAGES", most_messages)
        commits = derive_account_days(store, "bakery", reversed(days))
        assert [(each.date, each.is_changed) for each in commits] == [(day, False) for day in days]
