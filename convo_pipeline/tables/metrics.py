"""Each day of an account in figures: volume, first responses, backlog, Meta's responsiveness rule.

Pure: message rows of the days around in, one row a day out; the definitions are in docs/metrics.md. A day's row depends
on the messages from `LOOKBACK_DAYS` before it to `LOOKAHEAD_DAYS` after it, on the complete range and on nothing
else, however many days are made at once. It works on arrays, one pass over all messages, and knows no file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.schema import ACCOUNT_DAYS
from convo_pipeline.tables.complete_range import CompleteRange

LOOKBACK_DAYS = 28
LOOKAHEAD_DAYS = 7
COLUMNS = (
    "conversation_id", "message_id", "created_at", "tie_rank", "direction", "text", "content_type", "reaction_count",
)  # fmt: skip
"""What of `messages` is read."""

AUTOMATED_REPLY_SECONDS = 5
"""A reply this soon after the customer began to write was not typed by a person."""
REPEATED_TEXT_CONVERSATIONS = 5
REPEATED_TEXT_CHARACTERS = 20
"""A text this long sent to this many conversations on one day was not typed for each of them."""
RESPONSIVENESS_VERSION = "meta-badge-2016.1"
RESPONSIVENESS_DAYS = 7
RESPONSIVE_RATE = 0.9
RESPONSIVE_SECONDS = 15 * 60
RIPE_AFTER = (timedelta(0), timedelta(hours=1), timedelta(hours=24), timedelta(days=LOOKAHEAD_DAYS))
"""How long after a day's end it is known: its messages, then its answers within an hour, a day, and at all."""
_OVER, _RIPE_1H, _RIPE_24H, _FINAL = 1, 2, 3, 4

MEDIA = ("image", "video", "audio", "file", "sticker")
STORIES = ("story_reply", "story_mention")
CONTENT_GROUPS = {
    "text_count": ("text",),
    "media_count": MEDIA,
    "share_count": ("share",),
    "story_count": STORIES,
}

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_UNKNOWN, _INBOUND, _OUTBOUND = 0, 1, 2

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def needed_days(day: date, session_gap_hours: float = 24) -> tuple[date, date]:
    """Return the half-open range of days whose messages a day's row is made of.

    Before the days looked back on lies what tells whether the first message there begins anything.
    """
    return day - _reach(session_gap_hours), day + timedelta(days=LOOKAHEAD_DAYS + 1)


def changed_days(day: date, session_gap_hours: float = 24) -> tuple[date, date]:
    """Return the half-open range of days whose rows may change when a day's messages do."""
    return day - timedelta(days=LOOKAHEAD_DAYS), day + _reach(session_gap_hours) + timedelta(days=1)


def _reach(session_gap_hours: float) -> timedelta:
    return timedelta(days=LOOKBACK_DAYS + math.ceil(session_gap_hours / 24))


@dataclass(frozen=True)
class Age:
    """How a day lies to what is promised: the promised days before it, at most 28 (-1: it is not promised itself),
    and how many of `RIPE_AFTER` were over when the account was last asked."""

    promised_days: int
    ripeness: int


def age_of(day: date, complete_range: CompleteRange | None) -> Age:
    """Place a day; without a complete range nothing of it is known to be whole.

    >>> complete_range = CompleteRange(date(2026, 3, 1), datetime(2026, 3, 10, 0, 15, tzinfo=UTC))
    >>> age_of(date(2026, 3, 9), complete_range), age_of(date(2026, 2, 28), complete_range)
    (Age(promised_days=8, ripeness=1), Age(promised_days=-1, ripeness=4))
    """
    if complete_range is None:
        return Age(-1, 0)
    end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    ripeness = sum(end + wait <= complete_range.until for wait in RIPE_AFTER)
    return Age(max(-1, min(LOOKBACK_DAYS, (day - complete_range.since).days)), ripeness)


def account_days(
    messages: pa.Table,
    days: Sequence[date],
    *,
    complete_range: CompleteRange | None,
    session_gap_hours: float = 24,
) -> dict[date, pa.Table]:
    """Return one row for each of `days` that has a message, as a table of ACCOUNT_DAYS by date.

    `messages` holds one account's rows of `COLUMNS` for all the days that `needed_days` names for each of `days`.
    What no run promised, or what may still be answered, is null or marked.
    """
    if not len(messages):
        return {}
    thread = _Threads(messages, round(session_gap_hours * 3600 * _SECOND))
    edge = timedelta(hours=session_gap_hours)
    figures = _Figures(thread, _known_from(complete_range, edge))
    asked = [day for day in sorted(set(days)) if figures.has(_day_number(day))]
    return {day: figures.row(_day_number(day), age_of(day, complete_range), edge) for day in asked}


@dataclass(frozen=True)
class FirstResponses:
    """How the sessions of some days were answered: the waits in seconds, and how many had no answer or an unknown one."""

    seconds: npt.NDArray[np.float64]
    unanswered_count: int
    unknown_count: int


def first_responses(
    messages: pa.Table,
    days: Sequence[date],
    *,
    complete_range: CompleteRange | None,
    session_gap_hours: float = 24,
) -> FirstResponses:
    """Return every first response behind the days' medians; `messages` as for `account_days`."""
    if not len(messages):
        return FirstResponses(np.empty(0), 0, 0)
    thread = _Threads(messages, round(session_gap_hours * 3600 * _SECOND))
    found = _Figures(
        thread, _known_from(complete_range, timedelta(hours=session_gap_hours))
    ).first_responses
    is_asked = np.isin(found.day, [_day_number(day) for day in days])
    is_judged, is_answered = found.is_judged & is_asked, found.is_answered & is_asked
    unanswered_count = int((is_judged & ~is_answered).sum())
    return FirstResponses(
        found.seconds[is_answered], unanswered_count, int((is_asked & ~is_judged).sum())
    )


def _known_from(complete_range: CompleteRange | None, edge: timedelta) -> int:
    """Return the moment, in µs, from which on a session cannot have begun before the promised days."""
    return (
        0
        if complete_range is None
        else _day_number(complete_range.since) * _DAY + edge // timedelta(microseconds=1)
    )


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


class _Threads:
    """Messages by conversation in order, each with what is before and after it, as columns."""

    def __init__(self, messages: pa.Table, gap: int) -> None:
        order = _order(messages)
        rows = messages.select(
            [name for name in COLUMNS if name not in ("message_id", "text")]
        ).take(order)
        self.count = len(rows)
        self.conversation = _codes(rows["conversation_id"])
        self.at = _integers(rows["created_at"])
        self.day = self.at // _DAY
        self.direction = _directions(rows["direction"])
        self.content_type = rows["content_type"]
        self.reactions = _integers(pc.fill_null(rows["reaction_count"], 0))
        self.index = np.arange(self.count)

        begins = _changes(self.conversation)
        self._conversation_begin = self.last(begins)
        self.conversation_end = _last_of(begins)
        self.session_begins = begins | (np.diff(self.at, prepend=self.at[:1]) >= gap)
        self.is_inbound = self.direction == _INBOUND
        self.is_unknown = self.direction == _UNKNOWN
        self.is_outbound = self.direction == _OUTBOUND
        is_fast, may_be_fast = self._find_fast()
        self.is_automated = is_fast | self._is_repeated(messages["text"].take(order))
        self.is_unsure = self.is_unknown | (may_be_fast & ~self.is_automated)
        self.is_human = self.is_outbound & ~self.is_automated & ~self.is_unsure
        self.next_human = self._next(self.is_human)
        self.next_unsure = self._next(self.is_unsure)

    def _find_fast(self) -> tuple[Flags, Flags]:
        """Say which of ours came at once after the customer began to write, and which may have: unread ones may be theirs.

        The customer's turn begins for certain no earlier than the stretch without a message of ours that it is in, and
        at the latest, if unread ones are the customer's or are not, with the newest that no message of theirs precedes.
        """
        before = np.concatenate(([_UNKNOWN], self.direction[:-1]))
        is_begin = ~self.is_outbound & (self.session_begins | (before == _OUTBOUND))
        may_begin = ~self.is_outbound & (self.session_begins | (before != _INBOUND))
        stretch_begin = self._last_own(is_begin)
        asked = self._last_own(self.is_inbound)
        surely = np.where(asked >= 0, stretch_begin[np.maximum(asked, 0)], -1)
        is_fast, may_be_fast = (
            self.is_outbound
            & (since >= 0)
            & (self.at - self.at[np.maximum(since, 0)] <= AUTOMATED_REPLY_SECONDS * _SECOND)
            for since in (surely, self._last_own(may_begin))
        )
        return is_fast, may_be_fast

    def _is_repeated(self, text: pa.ChunkedArray) -> Flags:
        """Ours, the same long text as in several conversations of the day."""
        is_long = pc.fill_null(
            pc.greater_equal(pc.utf8_length(text), REPEATED_TEXT_CHARACTERS), False
        )
        rows = np.flatnonzero(self.is_outbound & _flags(is_long))
        codes = _codes(text.take(pa.array(rows)))
        sent = _dense(self.day[rows] * (codes.max(initial=0) + 1) + codes)
        pairs = np.unique(sent * (self.conversation.max() + 1) + self.conversation[rows])
        conversations = np.bincount(
            pairs // (self.conversation.max() + 1), minlength=sent.max(initial=-1) + 1
        )
        flags = np.zeros(self.count, dtype=bool)
        flags[rows] = conversations[sent] >= REPEATED_TEXT_CONVERSATIONS
        return flags

    def last(self, flags: Flags) -> Ints:
        """Index of the newest flagged row up to and including each row, over all conversations; -1 for none."""
        return np.maximum.accumulate(np.where(flags, self.index, -1))

    def _last_own(self, flags: Flags) -> Ints:
        """Index of the conversation's newest flagged row up to and including each row; -1 for none."""
        found = self.last(flags)
        return np.where(found >= self._conversation_begin, found, -1)

    def _next(self, flags: Flags) -> Ints:
        """Index of the next flagged row of the conversation at or after each row; `count` for none."""
        found = np.minimum.accumulate(np.where(flags, self.index, self.count)[::-1])[::-1]
        return np.where(found <= self.conversation_end, found, self.count)

    def answers(self, rows: Ints, until: Ints) -> "_Answers":
        """What came after each of `rows` and before its `until`."""
        at = np.append(self.at, np.iinfo(np.int64).max)
        human, unsure = self.next_human[rows], self.next_unsure[rows]
        human = np.where(at[human] < until, human, self.count)
        unsure = np.where(at[unsure] < until, unsure, self.count)
        is_answered = human < unsure
        is_judged = is_answered | (unsure == self.count)
        seconds = np.where(is_answered, (at[human] - self.at[rows]) / _SECOND, np.nan)
        return _Answers(self.day[rows], is_judged, is_answered, seconds)


@dataclass(frozen=True)
class _Answers:
    """For some messages: their day, whether it is known if a person answered, whether one did, and after how long."""

    day: Ints
    is_judged: Flags
    is_answered: Flags
    seconds: npt.NDArray[np.float64]

    def between(self, first: int, last: int) -> "_Answers":
        """Those of the days `first` to `last`; the days are sorted."""
        span = slice(
            np.searchsorted(self.day, first), np.searchsorted(self.day, last, side="right")
        )
        return _Answers(
            self.day[span], self.is_judged[span], self.is_answered[span], self.seconds[span]
        )

    def sorted(self) -> "_Answers":
        order = np.argsort(self.day, kind="stable")
        return _Answers(
            self.day[order], self.is_judged[order], self.is_answered[order], self.seconds[order]
        )

    def share(self, seconds: float) -> float | None:
        judged = int(self.is_judged.sum())
        return float((self.seconds <= seconds).sum() / judged) if judged else None

    def quantile(self, share: float) -> float | None:
        return (
            float(np.quantile(self.seconds[self.is_answered], share))
            if self.is_answered.any()
            else None
        )


class _Figures:
    """Every figure of every day between the first and the last message."""

    def __init__(self, thread: _Threads, known_from: int) -> None:
        self._thread = thread
        self._known_from = known_from
        self._origin = int(thread.day.min())
        self._length = int(thread.day.max()) - self._origin + 1
        self._counts = self._count_messages() | self._count_customers() | self._count_waiting()
        self.first_responses = self._find_first_responses().sorted()
        self._daily_responses = self._find_daily_responses().sorted()

    def has(self, day: int) -> bool:
        index = day - self._origin
        return 0 <= index < self._length and bool(self._counts["active_conversation_count"][index])

    def row(self, day: int, age: Age, edge: timedelta) -> pa.Table:
        """Return the day's row; for `edge` after the first promised day began, a session may have begun before it."""
        counts = {name: int(found[day - self._origin]) for name, found in self._counts.items()}
        is_promised, is_over = age.promised_days >= 0, age.ripeness >= _OVER
        sessions = self.first_responses.between(day, day)
        week = self._daily_responses.between(day - RESPONSIVENESS_DAYS + 1, day)
        values = counts | _first_response_figures(sessions, age)
        values |= _responsiveness(
            week,
            self._unsure_in_week(day),
            age.promised_days >= RESPONSIVENESS_DAYS - 1 and is_over,
        )
        values["returning_customer_count"] = (
            counts["active_customer_count"] - counts["new_customer_count"]
        )
        values["history_days"] = max(0, age.promised_days)
        unsure = (
            counts["unknown_count"]
            + counts["unsure_automated_count"]
            + counts["unsure_backlog_count"]
        )
        is_edge = not is_promised or timedelta(days=age.promised_days) < edge
        values["is_lower_bound"] = unsure > 0 or is_edge or not is_over
        values["is_backlog_lower_bound"] = (
            counts["unsure_backlog_count"] > 0 or age.promised_days < LOOKBACK_DAYS
        )
        values["is_promised"] = is_promised
        values["is_over"] = is_over
        values["is_final"] = is_promised and age.ripeness >= _FINAL
        return pa.Table.from_pylist([values], schema=ACCOUNT_DAYS.schema)

    def _unsure_in_week(self, day: int) -> int:
        """Conversations of each day that may hold a customer's new message, all of whose candidates are unread."""
        index = day - self._origin
        return int(
            self._counts["unsure_new_count"][
                max(0, index - RESPONSIVENESS_DAYS + 1) : index + 1
            ].sum()
        )

    def _per_day(self, flags: Flags) -> Ints:
        return np.bincount(self._thread.day[flags] - self._origin, minlength=self._length)

    def _count_messages(self) -> dict[str, Ints]:
        thread = self._thread
        groups = {
            name: _flags(pc.is_in(thread.content_type, pa.array(kinds)))
            for name, kinds in CONTENT_GROUPS.items()
        }
        groups["other_count"] = ~np.logical_or.reduce(list(groups.values()))
        reactions = np.bincount(
            thread.day - self._origin, weights=thread.reactions, minlength=self._length
        )
        return {
            "inbound_count": self._per_day(thread.is_inbound),
            "outbound_count": self._per_day(thread.is_outbound),
            "automated_count": self._per_day(thread.is_automated),
            "unsure_automated_count": self._per_day(thread.is_unsure & thread.is_outbound),
            "unknown_count": self._per_day(thread.is_unknown),
            "reaction_count": reactions.astype(np.int64),
            **{name: self._per_day(flags) for name, flags in groups.items()},
        }

    def _day_begins(self) -> Flags:
        """The first message of each conversation and day."""
        return _changes(self._thread.conversation) | _changes(self._thread.day)

    def _is_first_inbound_of(self, begins: Flags) -> tuple[Ints, Ints]:
        """Rows where the customer first wrote in the stretches that begin there, and each row's stretch's begin."""
        thread = self._thread
        begin = thread.last(begins)
        before = np.concatenate(([-1], thread.last(thread.is_inbound)[:-1]))
        window = (thread.day - LOOKBACK_DAYS) * _DAY
        is_first = thread.is_inbound & ((before < begin) | (thread.at[before] < window))
        return np.flatnonzero(is_first), begin

    def _count_customers(self) -> dict[str, Ints]:
        thread = self._thread
        begins = self._day_begins()
        rows, begin = self._is_first_inbound_of(begins)
        wrote = np.zeros(thread.count, dtype=bool)
        wrote[begin[rows]] = True
        may_have_written = np.zeros(thread.count, dtype=bool)
        may_have_written[begin[thread.is_unknown]] = True
        before = np.concatenate((thread.at[:1], thread.at[:-1]))
        is_new = _changes(thread.conversation) | (before < (thread.day - LOOKBACK_DAYS) * _DAY)
        return {
            "active_conversation_count": self._per_day(begins),
            "active_customer_count": self._per_day(wrote),
            "new_customer_count": self._per_day(wrote & is_new),
            "unsure_new_count": self._per_day(may_have_written & ~wrote),
        }

    def _count_waiting(self) -> dict[str, Ints]:
        """Conversations whose last word of a day, automated ones aside, is the customer's, or is not known."""
        thread = self._thread
        spoken = np.flatnonzero(~thread.is_automated)
        since = thread.day[spoken] - self._origin
        follows = np.append(spoken[1:], -1)
        is_last = np.append(_changes(thread.conversation[spoken])[1:], True)
        until = np.where(is_last, self._length, thread.day[follows] - self._origin)
        until = np.minimum(np.minimum(until, since + LOOKBACK_DAYS + 1), self._length)

        def count(flags: Flags) -> Ints:
            steps = np.bincount(since[flags], minlength=self._length + 1)
            return np.cumsum(steps - np.bincount(until[flags], minlength=self._length + 1))[
                : self._length
            ]

        waiting, unsure = count(thread.is_inbound[spoken]), count(thread.is_unsure[spoken])
        return {"backlog_count": waiting, "unsure_backlog_count": unsure}

    def _find_first_responses(self) -> _Answers:
        thread = self._thread
        rows, begin = self._is_first_inbound_of(thread.session_begins)
        last_unknown = thread.last(thread.is_unknown)[rows]
        window = (thread.day[rows] - LOOKBACK_DAYS) * _DAY
        is_unsure = (last_unknown >= begin[rows]) & (thread.at[last_unknown] >= window)
        began_at = np.maximum(thread.at[begin[rows]], window)
        is_unsure |= (began_at < self._known_from) & (thread.day[rows] * _DAY >= self._known_from)
        answers = thread.answers(rows, (thread.day[rows] + LOOKAHEAD_DAYS + 1) * _DAY)
        return _unjudged(answers, is_unsure)

    def _find_daily_responses(self) -> _Answers:
        thread = self._thread
        rows, begin = self._is_first_inbound_of(self._day_begins())
        is_unsure = thread.last(thread.is_unknown)[rows] >= begin[rows]
        return _unjudged(thread.answers(rows, (thread.day[rows] + 1) * _DAY), is_unsure)


def _unjudged(answers: _Answers, is_unsure: Flags) -> _Answers:
    """Leave out what an unread message before it may have begun."""
    is_judged, is_answered = answers.is_judged & ~is_unsure, answers.is_answered & ~is_unsure
    return _Answers(
        answers.day, is_judged, is_answered, np.where(is_answered, answers.seconds, np.nan)
    )


def _first_response_figures(sessions: _Answers, age: Age) -> dict[str, Any]:
    """Count how the day's sessions were answered; a figure that is wrong, not only small, without all of them is null."""
    is_promised = age.promised_days >= 0
    return {
        "session_count": len(sessions.day),
        "judged_session_count": int(sessions.is_judged.sum()),
        "answered_session_count": int(sessions.is_answered.sum()),
        "median_first_response_seconds": sessions.quantile(0.5) if is_promised else None,
        "p90_first_response_seconds": sessions.quantile(0.9) if is_promised else None,
        "share_answered_1h": sessions.share(3600)
        if is_promised and age.ripeness >= _RIPE_1H
        else None,
        "share_answered_24h": sessions.share(86_400)
        if is_promised and age.ripeness >= _RIPE_24H
        else None,
    }


def _responsiveness(week: _Answers, unsure_new_count: int, is_whole: bool) -> dict[str, Any]:
    """Apply Meta's rule to the new messages of a week; null unless all its days are promised and over."""
    judged_count = int(week.is_judged.sum())
    unsure_count = unsure_new_count + len(week.day) - judged_count
    seconds = week.seconds[week.is_answered]
    return {
        "responsiveness_judged_count": judged_count,
        "responsiveness_unsure_count": unsure_count,
        "responsiveness_rate": week.share(np.inf) if is_whole else None,
        "responsiveness_seconds": week.quantile(0.5) if is_whole else None,
        "is_very_responsive": _is_very_responsive(seconds, judged_count, unsure_count)
        if is_whole
        else None,
        "responsiveness_version": RESPONSIVENESS_VERSION,
    }


def _is_very_responsive(
    seconds: npt.NDArray[np.float64], judged_count: int, unsure_count: int
) -> bool | None:
    """Say whether the badge is earned whatever the unread messages were; None where they decide."""
    count = judged_count + unsure_count
    if not count:
        return None

    def earns(answered_count: int, unsure_seconds: float) -> bool:
        waits = np.append(seconds, np.full(unsure_count, unsure_seconds))
        is_soon = not len(waits) or bool(np.median(waits) <= RESPONSIVE_SECONDS)
        return answered_count / count >= RESPONSIVE_RATE and is_soon

    best, worst = earns(len(seconds) + unsure_count, 0), earns(len(seconds), _DAY / _SECOND)
    return best if best == worst else None


def _order(messages: pa.Table) -> pa.Array:
    """Conversation by conversation, oldest first; ids decide only where time and rank are the same."""
    conversation, at = _codes(messages["conversation_id"]), _integers(messages["created_at"])
    rank = _integers(messages["tie_rank"])
    order = np.lexsort((rank, at, conversation))
    is_tied = ~(_changes(conversation[order]) | _changes(at[order]) | _changes(rank[order]))
    if is_tied.any():
        order = np.lexsort((_ranks(messages["message_id"]), rank, at, conversation))
    return pa.array(order)


def _codes(column: pa.ChunkedArray) -> Ints:
    """A number for each distinct value."""
    return _integers(column.combine_chunks().dictionary_encode().indices)


def _ranks(column: pa.ChunkedArray) -> Ints:
    """A number for each value, in the values' order."""
    return _integers(pc.rank(column.combine_chunks(), tiebreaker="dense"))


def _integers(column: pa.Array | pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()), dtype=np.int64)


def _directions(column: pa.ChunkedArray) -> Ints:
    return _integers(
        pc.fill_null(pc.index_in(column, pa.array([None, "inbound", "outbound"])), _UNKNOWN)
    )


def _flags(column: pa.ChunkedArray) -> Flags:
    return np.asarray(column, dtype=np.bool_)


def _changes(values: npt.NDArray[Any]) -> Flags:
    """Say of each value whether it differs from the one before; the first does."""
    return np.concatenate((np.ones(min(1, len(values)), dtype=bool), values[1:] != values[:-1]))


def _last_of(begins: Flags) -> Ints:
    """The index of the last row of each row's stretch."""
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(begins)) - 1
    return np.repeat(ends, ends - starts + 1)


def _dense(values: Ints) -> Ints:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)
