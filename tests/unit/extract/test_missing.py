"""`extract.missing`: missing, deleted and returned messages, and messages that runs missed."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from convo_pipeline.base.times import to_us
from convo_pipeline.extract.missing import PageSpan, count_missed, page_span, update_missing
from convo_pipeline.extract.observations import (
    ConversationObservation,
    MessageObservation,
    Reject,
)
from convo_pipeline.schema import RAW_MESSAGE_IDS
from convo_pipeline.state.records import ConversationState
from convo_pipeline.tables.complete_range import CompleteRange

SENT = datetime(2026, 3, 3, 9, tzinfo=UTC)
MISSING = datetime(2026, 3, 4, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def id_row(message_id: str, **changes: object) -> dict[str, object]:
    row = {
        "conversation_id": "c",
        "message_id": message_id,
        "created_at": SENT,
        "created_at_source": "message",
        "order_in_second": 0,
        "first_seen_at": SENT,
    }
    return dict.fromkeys(RAW_MESSAGE_IDS.column_names) | row | changes


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=RAW_MESSAGE_IDS.schema)


def span(
    oldest: datetime = SENT - SECOND,
    newest: datetime = SENT + SECOND,
    at: datetime = MISSING + HOUR,
) -> PageSpan:
    return PageSpan(to_us(oldest), to_us(newest), to_us(at))


def update(
    stored: dict[str, object], *spans: PageSpan, observed: pa.Table | None = None
) -> tuple[object, object] | None:
    """Return `deleted_at` and `returned_at` of a stored row after a run; None without a change."""
    changed = update_missing(table(stored), observed or table(), {"c": spans})
    if changed is None:
        return None
    [row] = changed.to_pylist()
    return row["deleted_at"], row["returned_at"]


def test_a_page_around_a_missing_message_proves_its_deletion() -> None:
    missing = id_row("m", missing_at=MISSING)
    assert update(missing, span()) == (MISSING + HOUR, None)
    later = span(at=MISSING + 3 * HOUR)
    assert update(missing, later, span()) == (MISSING + HOUR, None), "the earliest proof counts"


@pytest.mark.parametrize(
    "page",
    [
        span(at=MISSING + HOUR - SECOND),
        span(oldest=SENT),
        span(newest=SENT),
        span(oldest=SENT - 2 * SECOND, newest=SENT - SECOND),
    ],
    ids=["too_early", "starts_at_it", "ends_at_it", "older"],
)
def test_other_pages_prove_nothing(page: PageSpan) -> None:
    assert update(id_row("m", missing_at=MISSING), page) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"missing_at": None},
        {"returned_at": MISSING},
        {"deleted_at": MISSING},
        {"created_at_source": "listing"},
        {"conversation_id": "other"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_only_missing_messages_with_a_time_become_deleted(changes: dict[str, object]) -> None:
    assert update(id_row("m", **{"missing_at": MISSING, **changes}), span()) is None


@pytest.mark.parametrize("deleted_at", [None, MISSING + HOUR])
def test_a_missing_message_that_is_listed_again_returned(deleted_at: datetime | None) -> None:
    missing = id_row("m", missing_at=MISSING, deleted_at=deleted_at)
    seen_at = MISSING + 2 * HOUR
    observed = table(id_row("m", first_seen_at=MISSING), id_row("m", first_seen_at=seen_at))
    assert update(missing, span(), observed=observed) == (deleted_at, seen_at)


def test_a_listing_at_the_time_of_the_absence_is_no_return() -> None:
    missing = id_row("m", missing_at=MISSING)
    observed = table(id_row("m", first_seen_at=MISSING))
    assert update(missing, span(), observed=observed) is None


def test_another_message_is_no_return() -> None:
    missing = id_row("m", missing_at=MISSING)
    observed = table(id_row("other", first_seen_at=MISSING + 2 * HOUR))
    assert update(missing, span(), observed=observed) == (MISSING + HOUR, None)


def observation(seconds: int, source: str = "message") -> MessageObservation:
    return MessageObservation(
        "c", str(seconds), seconds * 1_000_000, source, 1, 0, "detailed", None, None, None, None
    )


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [observation(9)],
        [observation(9), observation(7, "listing")],
        [observation(7), observation(9)],
        [observation(9), Reject("digest", "no id", "{}", 0), observation(7)],
    ],
    ids=["empty", "one_row", "estimated_time", "wrong_order", "reject"],
)
def test_a_page_that_may_hide_a_message_has_no_span(
    rows: list[MessageObservation | Reject],
) -> None:
    assert page_span(rows, 0) is None


def test_a_page_spans_its_oldest_to_its_newest_message() -> None:
    rows: list[MessageObservation | Reject] = [observation(9), observation(8), observation(7)]
    assert page_span(rows, 5) == PageSpan(7_000_000, 9_000_000, 5)


RANGE = CompleteRange(date(2026, 3, 2), datetime(2026, 3, 5, tzinfo=UTC))
START_US, UNTIL_US = to_us(datetime(2026, 3, 2, tzinfo=UTC)), to_us(RANGE.until)
SENT_US = to_us(SENT)


def missed(
    created_us: int = SENT_US,
    updated_us: int | None = SENT_US,
    state: ConversationState | None = None,
) -> int:
    columns = {
        "conversation_id": ["c"] * 2,
        "message_id": ["m"] * 2,
        "created_us": [created_us] * 2,
    }
    listed = ConversationObservation("c", None, updated_us, 0, None, None)
    return count_missed(RANGE, pa.table(columns), {"c": state} if state else {}, {"c": listed})


def test_a_message_in_the_complete_range_is_missed_once() -> None:
    assert missed() == 1
    assert missed(START_US) == 1
    assert missed(UNTIL_US - 1, UNTIL_US - 1) == 1


@pytest.mark.parametrize(
    ("created_us", "updated_us"),
    [
        (START_US - 1, SENT_US),
        (UNTIL_US, SENT_US),
        (SENT_US, UNTIL_US),
        (SENT_US, None),
    ],
    ids=["before", "after", "active_after", "no_activity_time"],
)
def test_a_message_outside_the_complete_range_is_not_missed(
    created_us: int, updated_us: int | None
) -> None:
    assert missed(created_us, updated_us) == 0


def state(complete_since_us: int | None, updated_us: int | None) -> ConversationState:
    return ConversationState("c", updated_us, "m9", complete_since_us)


@pytest.mark.parametrize(
    ("known", "count"),
    [
        (state(SENT_US - 1, SENT_US + 1), 1),
        (state(SENT_US, SENT_US + 1), 0),
        (state(SENT_US - 1, SENT_US), 0),
        (state(None, SENT_US + 1), 0),
        (state(SENT_US - 1, None), 0),
        (ConversationState("c", SENT_US + 1, "m9", SENT_US - 1, "answer"), 0),
    ],
    ids=["inside", "at_start", "at_end", "never_complete", "no_time", "due"],
)
def test_a_message_within_a_complete_conversation_is_missed(
    known: ConversationState, count: int
) -> None:
    assert missed(updated_us=None, state=known) == count


def test_a_due_conversation_has_no_missed_message() -> None:
    assert missed(state=ConversationState("c", due_reason="refused")) == 0
