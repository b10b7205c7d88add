"""`account_days` in a real lake: what is stale is made again, and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

import convo_pipeline
from convo_pipeline.derive.account_days import derive_account_days, stale_account_days
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import StoreSettings
from convo_pipeline.state.records import Run
from tests.support.metric_worlds import Message, as_table

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


def waits(store: Store) -> list[tuple[object, ...]]:
    with convo_pipeline.connect(store.root) as con:
        query = "SELECT date, answered_session_count, backlog_count FROM account_days ORDER BY date"
        return [tuple(row) for row in con.sql(query).fetchall()]


def test_a_late_answer_remakes_the_day_it_answers(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound")])
    assert stale_account_days(store, "bakery") == [FIRST]
    derive_account_days(store, "bakery")
    assert waits(store) == [(FIRST, 0, 1)]
    put(store, SECOND, [say(SECOND, "outbound")])
    assert stale_account_days(store, "bakery") == [FIRST, SECOND]
    assert [commit.is_changed for commit in derive_account_days(store, "bakery")] == [True, True]
    assert waits(store) == [(FIRST, 1, 1), (SECOND, 0, 0)]
    assert stale_account_days(store, "bakery") == []


def test_a_day_out_of_reach_is_left_alone(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound")])
    derive_account_days(store, "bakery")
    put(store, LATE, [say(LATE, "inbound")])
    assert stale_account_days(store, "bakery") == [LATE]


def test_a_day_that_lost_its_messages_loses_its_row(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound")])
    put(store, LATE, [say(LATE, "inbound")])
    derive_account_days(store, "bakery")
    put(store, LATE, [])
    assert stale_account_days(store, "bakery") == [LATE]
    derive_account_days(store, "bakery")
    assert [row[0] for row in waits(store)] == [FIRST]


def test_another_session_gap_makes_every_day_stale(store: Store) -> None:
    put(store, FIRST, [say(FIRST, "inbound"), say(FIRST, "inbound", 20)])
    derive_account_days(store, "bakery")
    assert stale_account_days(store, "bakery", session_gap_hours=6) == [FIRST]


def test_a_day_is_made_again_when_a_run_promises_it_and_when_its_answers_are_over(
    store: Store,
) -> None:
    put(store, FIRST, [say(FIRST, "inbound")])
    derive_account_days(store, "bakery")
    assert marks(store) == [(False, True, None, False)]
    for number, (asked_at, expected) in enumerate(
        (
            (datetime(2026, 3, 1, 18, tzinfo=UTC), (True, True, None, False)),
            (datetime(2026, 3, 2, 0, 15, tzinfo=UTC), (True, False, None, False)),
            (datetime(2026, 3, 3, 1, tzinfo=UTC), (True, False, 0.0, False)),
            (datetime(2026, 3, 9, tzinfo=UTC), (True, False, 0.0, True)),
        )
    ):
        since = date(2026, 2, 1)
        store.state.save_run(
            Run(f"r{number}", "bakery", "nightly", asked_at, since, FIRST, outcome="complete")
        )
        put(store, date(2026, 2, 1), [say(date(2026, 2, 1), "outbound")])
        assert FIRST in stale_account_days(store, "bakery")
        derive_account_days(store, "bakery")
        assert marks(store)[-1] == expected
        assert stale_account_days(store, "bakery") == []


def marks(store: Store) -> list[tuple[object, ...]]:
    with convo_pipeline.connect(store.root) as con:
        query = "SELECT is_promised, is_lower_bound, share_answered_24h, is_final FROM account_days ORDER BY date"
        return [tuple(row) for row in con.sql(query).fetchall()]
