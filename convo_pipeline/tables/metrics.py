"""Each day of an account in figures: volume, first responses, backlog, Meta's responsiveness rule.

Pure: message rows of the days around in, one row a day out; the definitions are in docs/metrics.md. A day's row depends
on the messages from `LOOKBACK_DAYS` before it to `LOOKAHEAD_DAYS` after it and on nothing else, however many days are
made at once. It works on arrays, one pass over all messages, and knows no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.schema import ACCOUNT_DAYS

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

MEDIA = ("image", "video", "audio", "file", "sticker")
STORIES = ("story_reply", "story_mention")
CONTENT_GROUPS = {"text_count": ("text",), "media_count": MEDIA, "share_count": ("share",), "story_count": STORIES}

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_UNKNOWN, _INBOUND, _OUTBOUND = 0, 1, 2

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def needed_days(day: date) -> tuple[date, date]:
    """Return the half-open range of days whose messages a day's row is made of."""
    return day - timedelta(days=LOOKBACK_DAYS), day + timedelta(days=LOOKAHEAD_DAYS + 1)


def changed_days(day: date) -> tuple[date, date]:
    """Return the half-open range of days whose rows may change when a day's messages do."""
    return day - timedelta(days=LOOKAHEAD_DAYS), day + timedelta(days=LOOKBACK_DAYS + 1)


def account_days(
    messages: pa.Table, days: Sequence[date], *, first_day: date | None = None, session_gap_hours: float = 24
) -> dict[date, pa.Table]:
    """Return one row for each of `days` that has a message, as a table of ACCOUNT_DAYS by date.

    `messages` holds one account's rows of `COLUMNS` for all the days that `needed_days` names for each of `days`.
    `first_day` is the first day the account holds at all (else the first of `messages`).
    """
    if not len(messages):
        return {}
    thread = _Threads(messages, round(session_gap_hours * 3600 * _SECOND))
    first = int(thread.day.min()) if first_day is None else _day_number(first_day)
    figures = _Figures(thread, first)
    return {day: figures.row(_day_number(day)) for day in sorted(set(days)) if figures.has(_day_number(day))}


@dataclass(frozen=True)
class FirstResponses:
    """How the sessions of some days were answered: the waits in seconds, and how many had no answer or an unknown one."""

    seconds: npt.NDArray[np.float64]
    unanswered_count: int
    unknown_count: int


def first_responses(messages: pa.Table, days: Sequence[date], *, session_gap_hours: float = 24) -> FirstResponses:
    """Return every first response behind the days' medians; `messages` as for `account_days`."""
    if not len(messages):
        return FirstResponses(np.empty(0), 0, 0)
    thread = _Threads(messages, round(session_gap_hours * 3600 * _SECOND))
    found = _Figures(thread, int(thread.day.min())).first_responses
    is_asked = np.isin(found.day, [_day_number(day) for day in days])
    is_judged, is_answered = found.is_judged & is_asked, found.is_answered & is_asked
    unanswered_count = int((is_judged & ~is_answered).sum())
    return FirstResponses(found.seconds[is_answered], unanswered_count, int((is_asked & ~is_judged).sum()))


def _day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


class _Threads:
    """Messages by conversation in order, each with what is before and after it, as columns."""

    def __init__(self, messages: pa.Table, gap: int) -> None:
        order = _order(messages)
        rows = messages.select([name for name in COLUMNS if name not in ("message_id", "text")]).take(order)
        self.count = len(rows)
        self.conversation = _codes(rows["conversation_id"])
        self.at = _integers(rows["created_at"])
        self.day = self.at // _DAY
        self.direction = _directions(rows["direction"])
        self.content_type = rows["content_type"]
        self.reactions = _integers(pc.fill_null(rows["reaction_count"], 0))
        self.index = np.arange(self.count)

        begins = _changes(self.conversation)
        self.conversation_end = _last_of(begins)
        self.session_begins = begins | (np.diff(self.at, prepend=self.at[:1]) >= gap)
        self.is_inbound = self.direction == _INBOUND
        self.is_unknown = self.direction == _UNKNOWN
        self.is_automated = self._is_fast() | self._is_repeated(messages["text"].take(order))
        self.is_human = (self.direction == _OUTBOUND) & ~self.is_automated
        self.next_human = self._next(self.is_human)
        self.next_unknown = self._next(self.is_unknown)

    def _is_fast(self) -> Flags:
        """Ours, at once after the customer began to write."""
        follows_inbound = np.concatenate(([False], self.is_inbound[:-1])) & ~self.session_begins
        turn_begins = self.is_inbound & ~follows_inbound
        began_at = self.at[np.maximum(self.last(turn_begins), 0)]
        is_soon = self.at - began_at <= AUTOMATED_REPLY_SECONDS * _SECOND
        is_fast: Flags = (self.direction == _OUTBOUND) & follows_inbound & is_soon
        return is_fast

    def _is_repeated(self, text: pa.ChunkedArray) -> Flags:
        """Ours, the same long text as in several conversations of the day."""
        is_long = pc.fill_null(pc.greater_equal(pc.utf8_length(text), REPEATED_TEXT_CHARACTERS), False)
        rows = np.flatnonzero((self.direction == _OUTBOUND) & _flags(is_long))
        codes = _codes(text.take(pa.array(rows)))
        sent = _dense(self.day[rows] * (codes.max(initial=0) + 1) + codes)
        pairs = np.unique(sent * (self.conversation.max() + 1) + self.conversation[rows])
        conversations = np.bincount(pairs // (self.conversation.max() + 1), minlength=sent.max(initial=-1) + 1)
        flags = np.zeros(self.count, dtype=bool)
        flags[rows] = conversations[sent] >= REPEATED_TEXT_CONVERSATIONS
        return flags

    def last(self, flags: Flags) -> Ints:
        """Index of the newest flagged row up to and including each row, over all conversations; -1 for none."""
        return np.maximum.accumulate(np.where(flags, self.index, -1))

    def _next(self, flags: Flags) -> Ints:
        """Index of the next flagged row of the conversation at or after each row; `count` for none."""
        found = np.minimum.accumulate(np.where(flags, self.index, self.count)[::-1])[::-1]
        return np.where(found <= self.conversation_end, found, self.count)

    def answers(self, rows: Ints, until: Ints) -> "_Answers":
        """What came after each of `rows` and before its `until`."""
        at = np.append(self.at, np.iinfo(np.int64).max)
        human, unknown = self.next_human[rows], self.next_unknown[rows]
        human = np.where(at[human] < until, human, self.count)
        unknown = np.where(at[unknown] < until, unknown, self.count)
        is_answered = human < unknown
        is_judged = is_answered | (unknown == self.count)
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
        span = slice(np.searchsorted(self.day, first), np.searchsorted(self.day, last, side="right"))
        return _Answers(self.day[span], self.is_judged[span], self.is_answered[span], self.seconds[span])

    def sorted(self) -> "_Answers":
        order = np.argsort(self.day, kind="stable")
        return _Answers(self.day[order], self.is_judged[order], self.is_answered[order], self.seconds[order])

    def share(self, seconds: float) -> float | None:
        judged = int(self.is_judged.sum())
        return float((self.seconds <= seconds).sum() / judged) if judged else None

    def quantile(self, share: float) -> float | None:
        return float(np.quantile(self.seconds[self.is_answered], share)) if self.is_answered.any() else None


class _Figures:
    """Every figure of every day between the first and the last message."""

    def __init__(self, thread: _Threads, first_day: int) -> None:
        self._thread = thread
        self._first_day = first_day
        self._origin = int(thread.day.min())
        self._length = int(thread.day.max()) - self._origin + 1
        self._counts = self._count_messages() | self._count_customers() | self._count_waiting()
        self.first_responses = self._find_first_responses().sorted()
        self._daily_responses = self._find_daily_responses().sorted()

    def has(self, day: int) -> bool:
        index = day - self._origin
        return 0 <= index < self._length and bool(self._counts["active_conversation_count"][index])

    def row(self, day: int) -> pa.Table:
        """Return the day's row."""
        counts = {name: int(found[day - self._origin]) for name, found in self._counts.items()}
        sessions = self.first_responses.between(day, day)
        week = self._daily_responses.between(day - RESPONSIVENESS_DAYS + 1, day)
        values = counts | _first_response_figures(sessions) | _responsiveness(week)
        values["returning_customer_count"] = counts["active_customer_count"] - counts["new_customer_count"]
        values["history_days"] = max(0, min(LOOKBACK_DAYS, day - self._first_day))
        values["is_lower_bound"] = counts["unknown_count"] + counts["unsure_backlog_count"] > 0
        return pa.Table.from_pylist([values], schema=ACCOUNT_DAYS.schema)

    def _per_day(self, flags: Flags) -> Ints:
        return np.bincount(self._thread.day[flags] - self._origin, minlength=self._length)

    def _count_messages(self) -> dict[str, Ints]:
        thread = self._thread
        groups = {
            name: _flags(pc.is_in(thread.content_type, pa.array(kinds))) for name, kinds in CONTENT_GROUPS.items()
        }
        groups["other_count"] = ~np.logical_or.reduce(list(groups.values()))
        reactions = np.bincount(thread.day - self._origin, weights=thread.reactions, minlength=self._length)
        return {
            "inbound_count": self._per_day(thread.is_inbound),
            "outbound_count": self._per_day(thread.direction == _OUTBOUND),
            "automated_count": self._per_day(thread.is_automated),
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
        before = np.concatenate((thread.at[:1], thread.at[:-1]))
        is_new = _changes(thread.conversation) | (before < (thread.day - LOOKBACK_DAYS) * _DAY)
        return {
            "active_conversation_count": self._per_day(begins),
            "active_customer_count": self._per_day(wrote),
            "new_customer_count": self._per_day(wrote & is_new),
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
            return np.cumsum(steps - np.bincount(until[flags], minlength=self._length + 1))[: self._length]

        waiting, unsure = count(thread.is_inbound[spoken]), count(thread.is_unknown[spoken])
        return {"backlog_count": waiting, "unsure_backlog_count": unsure}

    def _find_first_responses(self) -> _Answers:
        thread = self._thread
        rows, begin = self._is_first_inbound_of(thread.session_begins)
        last_unknown = thread.last(thread.is_unknown)[rows]
        window = (thread.day[rows] - LOOKBACK_DAYS) * _DAY
        is_unsure = (last_unknown >= begin[rows]) & (thread.at[last_unknown] >= window)
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
    return _Answers(answers.day, is_judged, is_answered, np.where(is_answered, answers.seconds, np.nan))


def _first_response_figures(sessions: _Answers) -> dict[str, Any]:
    return {
        "session_count": len(sessions.day),
        "judged_session_count": int(sessions.is_judged.sum()),
        "answered_session_count": int(sessions.is_answered.sum()),
        "median_first_response_seconds": sessions.quantile(0.5),
        "p90_first_response_seconds": sessions.quantile(0.9),
        "share_answered_1h": sessions.share(3600),
        "share_answered_24h": sessions.share(86_400),
    }


def _responsiveness(week: _Answers) -> dict[str, Any]:
    rate, seconds = week.share(np.inf), week.quantile(0.5)
    is_responsive = None if rate is None else rate >= RESPONSIVE_RATE and (seconds or 0) <= RESPONSIVE_SECONDS
    return {
        "responsiveness_rate": rate,
        "responsiveness_seconds": seconds,
        "is_very_responsive": is_responsive,
        "responsiveness_version": RESPONSIVENESS_VERSION,
    }


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
    return _integers(pc.fill_null(pc.index_in(column, pa.array([None, "inbound", "outbound"])), _UNKNOWN))


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
