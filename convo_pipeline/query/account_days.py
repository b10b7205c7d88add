"""Compute `account_days` and first responses from messages, in SQL. docs/metrics.md defines them.

The row of a day depends on the messages from `LOOKBACK_DAYS` before it to `LOOKAHEAD_DAYS` after
it, and on the complete range. It does not depend on which other days are computed with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from convo_pipeline.query.engine import run_query
from convo_pipeline.query.reply_rules import DEFAULT_RULES, LOOKBACK_DAYS, RULES, ReplyRules
from convo_pipeline.schema import ACCOUNT_DAYS
from convo_pipeline.tables.complete_range import CompleteRange

LOOKAHEAD_DAYS = 7
COLUMNS = (
    "conversation_id",
    "created_at",
    "order_in_second",
    "direction",
    "content_type",
    "reaction_count",
    "has_own_reaction",
    "deleted_at",
)
"""The columns of `messages` that the query reads."""
RESPONSIVENESS_VERSION = "meta-badge-2016.1"
RESPONSIVENESS_DAYS = 7
RESPONSIVE_RATE = 0.9
RESPONSIVE_SECONDS = 15 * 60
LONGEST_WAIT = timedelta(days=LOOKAHEAD_DAYS + 1)
"""A response to a question counts for less than this time."""
WAITS = (timedelta(0), timedelta(hours=1), timedelta(hours=24), timedelta(days=LOOKAHEAD_DAYS))
"""Waiting times after the end of a day.

After each of them, more of the day is final: its messages, its responses within one hour, its
responses within one day, and all its responses.
"""


def needed_days(day: date, rules: ReplyRules = DEFAULT_RULES) -> tuple[date, date]:
    """Return the half-open range of days whose messages the row of a day depends on.

    It begins one session gap, and one presence time, before the lookback. So the first session and
    the automated replies of the lookback are recognised.
    """
    hours = rules.session_gap_hours + rules.presence_minutes / 60
    lookback = timedelta(days=LOOKBACK_DAYS + math.ceil(hours / 24))
    return day - lookback, day + timedelta(days=LOOKAHEAD_DAYS + 1)


@dataclass(frozen=True)
class DayStatus:
    """Completeness of a day.

    `history_days` is the number of complete days before it, at most 28. It is -1 if the day is not
    complete. `ended_waits` is the number of `WAITS` that had ended when the last complete run
    began.
    """

    history_days: int
    ended_waits: int

    @property
    def is_complete(self) -> bool:
        return self.history_days >= 0

    @property
    def has_ended(self) -> bool:
        return self.ended_waits > 0


def day_status(day: date, complete_range: CompleteRange | None) -> DayStatus:
    """Return the status of a day. Without a complete range no day is complete.

    >>> complete_range = CompleteRange(date(2026, 3, 1), datetime(2026, 3, 10, 0, 15, tzinfo=UTC))
    >>> day_status(date(2026, 3, 9), complete_range)
    DayStatus(history_days=8, ended_waits=1)
    >>> day_status(date(2026, 2, 28), complete_range)
    DayStatus(history_days=-1, ended_waits=4)
    """
    if complete_range is None:
        return DayStatus(-1, 0)
    end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    ended_waits = sum(end + wait <= complete_range.until for wait in WAITS)
    history_days = max(-1, min(LOOKBACK_DAYS, (day - complete_range.since).days))
    return DayStatus(history_days, ended_waits)


def compute_account_days(
    messages: pa.Table,
    days: Sequence[date],
    *,
    complete_range: CompleteRange | None,
    rules: ReplyRules = DEFAULT_RULES,
) -> dict[date, pa.Table]:
    """Return one row for each of `days` that has a message, as a table of ACCOUNT_DAYS by date.

    `messages` has the `COLUMNS` of one account, for all days in the range of `needed_days`.
    The rows of one day and conversation must be in the order of their ids, as in the files.
    """
    rows = _query(_FIGURES, messages, days, complete_range, rules)
    return {row["date"]: pa.Table.from_pylist([row], ACCOUNT_DAYS.schema) for row in rows}


@dataclass(frozen=True)
class FirstResponses:
    """First responses to the sessions of some days.

    `seconds` has the response time of each answered session. `unanswered_count` is the number of
    sessions without a response. `acknowledged_count` is the number of those to which we only
    reacted. `unknown_count` is the number of sessions whose response is unknown, because of an
    unread message. Each session is in one of them.
    """

    seconds: npt.NDArray[np.float64]
    unanswered_count: int
    acknowledged_count: int
    unknown_count: int


def compute_first_responses(
    messages: pa.Table,
    days: Sequence[date],
    *,
    complete_range: CompleteRange | None,
    rules: ReplyRules = DEFAULT_RULES,
) -> FirstResponses:
    """Return the first responses to all sessions of `days`; see `compute_account_days`."""
    (row,) = _query(_FIRST_RESPONSES, messages, days, complete_range, rules)
    counts = (row[f"{name}_count"] for name in ("unanswered", "acknowledged", "unknown"))
    return FirstResponses(np.array(row["waits"]), *counts)


def _query(
    select: str,
    messages: pa.Table,
    days: Sequence[date],
    complete_range: CompleteRange | None,
    rules: ReplyRules,
) -> list[dict[str, Any]]:
    gap = rules.session_gap
    since = date.min if complete_range is None else complete_range.since
    known_from = datetime.combine(since, time(), UTC) + gap
    statuses = [day_status(day, complete_range) for day in days]
    columns = {
        "date": pa.array(days, pa.date32()),
        "history_days": pa.array([status.history_days for status in statuses], pa.int64()),
        "ended_waits": pa.array([status.ended_waits for status in statuses], pa.int64()),
        "is_edge": [timedelta(days=status.history_days) < gap for status in statuses],
    }
    index = messages.schema.get_field_index("created_at")
    created_at = messages["created_at"].cast(pa.timestamp("us"))
    return run_query(
        f"{_RESPONSES}{select}",
        {
            "messages": messages.set_column(index, "created_at", created_at),
            "days": pa.table(columns),
        },
        setup=[*RULES, _KIND, _STATE, _LATEST],
        parameters={"known_from": known_from} | rules.parameters(),
    )


_KIND = "CREATE TYPE kind AS ENUM ('inbound', 'unread', 'automated', 'unsure', 'human')"
"""The kinds of messages.

`unread`: the direction is unknown. `unsure`: it depends on an unread message whether the message is
automated.
"""

_LATEST = """
CREATE MACRO latest(value, condition, begins_conversation) AS last_value(
    CASE WHEN condition THEN value WHEN begins_conversation THEN TIMESTAMP '1970-01-01' END
    IGNORE NULLS
) OVER (ROWS UNBOUNDED PRECEDING)
"""
"""Returns the value of the conversation's newest row, up to this one, that meets the condition.

Without such a row it returns 1970-01-01. DuckDB evaluates windows without PARTITION BY and ORDER BY
in the order of their input, without another sort.
"""

_STATE = "CREATE TYPE state AS ENUM ('none', 'waiting', 'settled', 'unsure')"
"""What the newest message that is not automated says of a conversation.

`waiting`: it is the customer's. `settled`: it is ours, or we reacted to it. `unsure`: it is unread,
or it may be automated.
"""

_RESPONSES = f"""
WITH conversations AS (
    SELECT conversation_id, row_number() OVER () AS conversation  -- sorts faster than the id
    FROM (SELECT DISTINCT conversation_id FROM messages)
),
numbered AS (SELECT *, row_number() OVER () AS row FROM messages),
ordered AS (
    SELECT
        conversation, created_at, direction,
        coalesce(direction = 'inbound' AND has_own_reaction, false) AS is_acknowledged
    FROM numbered AS m
    JOIN conversations USING (conversation_id)
    WHERE deleted_at IS NULL
    ORDER BY conversation, created_at, order_in_second, row
),
with_previous AS (
    SELECT
        conversation, created_at::DATE AS date, created_at, direction, is_acknowledged,
        lag(conversation) OVER () IS DISTINCT FROM conversation AS begins_conversation,
        if(begins_conversation, TIMESTAMP '1970-01-01', lag(created_at) OVER ()) AS previous_at,
        lag(direction) OVER () AS previous
    FROM ordered
),
with_begins AS (
    SELECT
        *,
        previous_at < date AS begins_day,
        begins_conversation OR internal.begins_session(created_at, previous_at, $gap::INTERVAL)
            AS begins_session,
        internal.begins_stretch(direction, previous, begins_session) AS begins_stretch
    FROM with_previous
),
looked_back AS (
    SELECT
        conversation, date, created_at, direction, is_acknowledged, begins_conversation, begins_day,
        latest(previous_at, begins_day, begins_conversation) AS before_day_at,
        latest(created_at, begins_session, begins_conversation) AS session_began_at,
        latest(created_at, begins_stretch, begins_conversation) AS stretch_began_at,
        latest(created_at, direction = 'inbound', begins_conversation) AS inbound_at,
        latest(created_at, direction IS NULL, begins_conversation) AS unread_at
    FROM with_begins
),
looked_back_twice AS (
    SELECT
        *,
        greatest(session_began_at, date - INTERVAL {LOOKBACK_DAYS} DAY) AS began_at,
        latest(stretch_began_at, direction = 'inbound', begins_conversation) AS turn_began_at,
        latest(
            created_at,
            direction = 'outbound'
                AND NOT internal.is_quick(
                    created_at, greatest(inbound_at, unread_at), $quick::INTERVAL
                ),
            begins_conversation
        ) AS presence_at,
        if(begins_conversation, TIMESTAMP '1970-01-01', lag(inbound_at) OVER ()) AS last_inbound_at,
        if(begins_conversation, TIMESTAMP '1970-01-01', lag(unread_at) OVER ()) AS last_unread_at
    FROM looked_back
),
classified AS (
    SELECT
        *,
        CASE
            WHEN direction = 'inbound' THEN 'inbound'::kind
            WHEN direction IS NULL THEN 'unread'::kind
            ELSE internal.reply_kind(
                created_at, turn_began_at, inbound_at, unread_at, presence_at,
                $quick::INTERVAL, $presence::INTERVAL
            )::kind
        END AS kind,
        CASE
            WHEN kind = 'inbound' AND NOT is_acknowledged THEN 'waiting'::state
            WHEN kind IN ('inbound', 'human') THEN 'settled'::state
            WHEN kind <> 'automated' THEN 'unsure'::state
            WHEN begins_conversation THEN 'none'::state
        END AS state
    FROM looked_back_twice
),
with_states AS (
    SELECT
        *,
        last_value(state IGNORE NULLS) OVER (ROWS UNBOUNDED PRECEDING) AS state_after,
        latest(created_at, kind <> 'automated', begins_conversation) AS word_at
    FROM classified
),
with_state_before AS (
    SELECT
        *,
        if(
            begins_conversation OR lag(word_at) OVER () < date - INTERVAL {LOOKBACK_DAYS} DAY,
            'none'::state,
            lag(state_after) OVER ()
        ) AS state_before
    FROM with_states
),
steps AS MATERIALIZED (
    SELECT
        conversation, date, created_at, kind, state, begins_day,
        kind = 'inbound' AND last_inbound_at < date AS is_first_of_day,
        kind = 'inbound' AND last_inbound_at < began_at AND state_before <> 'waiting'
            AS is_first_of_session,
        kind IN ('inbound', 'unread') AND last_inbound_at < date AND last_unread_at < date
            AS may_be_first_of_day,
        last_unread_at >= date AS is_day_unsure,
        last_unread_at >= began_at OR state_before = 'unsure'
            OR (began_at < $known_from::TIMESTAMP AND date >= $known_from::TIMESTAMP)
            AS is_session_unsure,
        before_day_at < date - INTERVAL {LOOKBACK_DAYS} DAY AS is_new_customer,
        kind IN ('human', 'unsure', 'unread') AS is_reply,
        count(*) FILTER (is_reply) OVER (ROWS UNBOUNDED PRECEDING) AS reply_number
    FROM with_state_before
),

questions AS (
    SELECT
        'session' AS subject, date, conversation, created_at, reply_number,
        is_session_unsure AS is_unsure, date + INTERVAL {LOOKAHEAD_DAYS + 1} DAY AS until
    FROM steps WHERE is_first_of_session
    UNION ALL
    SELECT
        'day' AS subject, date, conversation, created_at, reply_number,
        is_day_unsure AS is_unsure, date + INTERVAL 1 DAY AS until
    FROM steps WHERE is_first_of_day
),
acknowledged AS (
    SELECT DISTINCT q.conversation, q.created_at
    FROM questions AS q
    JOIN steps AS s
        ON s.conversation = q.conversation AND s.reply_number = q.reply_number
        AND s.kind = 'inbound' AND s.state = 'settled'
        AND s.created_at >= q.created_at AND s.created_at < q.until
    WHERE q.subject = 'session'
),
responses AS (
    SELECT
        q.subject, q.date,
        if(
            NOT is_unsure AND r.kind = 'human' AND r.created_at < until,
            (epoch_us(r.created_at) - epoch_us(q.created_at)) / 1000000,
            NULL
        ) AS seconds,
        q.subject = 'session' AND NOT is_unsure AND seconds IS NULL
            AND (r.kind = 'human' OR coalesce(r.created_at >= until, true))
            AND a.created_at IS NOT NULL AS is_acknowledged,
        NOT is_unsure AND NOT is_acknowledged
            AND (r.kind = 'human' OR coalesce(r.created_at >= until, true)) AS is_measured,
        timezone('UTC', q.created_at) AS asked_at, timezone('UTC', r.created_at) AS response_at,
        if(
            q.subject = 'session',
            internal.is_open(
                internal.local_time(asked_at, $zone::VARCHAR),
                $opens::BIGINT, $closes::BIGINT, $weekdays::BIGINT[]
            ),
            NULL
        ) AS is_in_hours,
        if(
            is_in_hours AND seconds IS NOT NULL,
            internal.business_seconds(
                asked_at, response_at, $zone::VARCHAR,
                $opens::BIGINT, $closes::BIGINT, $weekdays::BIGINT[]
            ),
            NULL
        ) AS business_seconds
    FROM questions AS q
    LEFT JOIN steps AS r
        ON r.is_reply AND r.reply_number = q.reply_number + 1 AND r.conversation = q.conversation
    LEFT JOIN acknowledged AS a
        ON a.conversation = q.conversation AND a.created_at = q.created_at
)
"""  # noqa: S608 - constants
"""`steps` has the messages in order.

`responses` has the first question of each session, and of each conversation and day, with the time
until the next reply. A session that begins while the customer waits for an earlier response has
none. A human reply is a response. An automated reply is not. After an unread or unsure reply the
response is unknown.
"""

_FIRST_RESPONSES = """
SELECT
    coalesce(list(seconds) FILTER (seconds IS NOT NULL), []) AS waits,
    count(*) FILTER (is_measured) - count(seconds) AS unanswered_count,
    count(*) FILTER (is_acknowledged) AS acknowledged_count,
    count(*) FILTER (NOT is_measured AND NOT is_acknowledged) AS unknown_count
FROM responses SEMI JOIN days USING (date) WHERE subject = 'session'
"""

_FIGURES = f"""
, contents AS (
    SELECT
        created_at::DATE AS date,
        count(*) AS message_count,
        count(*) FILTER (direction = 'inbound') AS inbound_count,
        count(*) FILTER (direction IS NULL) AS unknown_count,
        count(*) FILTER (content_type = 'text') AS text_count,
        count(*) FILTER (content_type IN ('image', 'video', 'audio', 'file', 'sticker'))
            AS media_count,
        count(*) FILTER (content_type = 'share') AS share_count,
        count(*) FILTER (content_type IN ('story_reply', 'story_mention')) AS story_count,
        coalesce(sum(reaction_count), 0) AS reaction_count
    FROM messages GROUP BY ALL
),
volumes AS (
    SELECT
        date,
        count(*) FILTER (kind = 'automated') AS automated_count,
        count(*) FILTER (kind = 'unsure') AS unsure_automated_count,
        count(*) FILTER (begins_day) AS active_conversation_count,
        count(*) FILTER (is_first_of_day) AS active_customer_count,
        count(*) FILTER (is_first_of_day AND is_new_customer) AS new_customer_count,
        count(*) FILTER (may_be_first_of_day) - active_customer_count AS unsure_customer_count
    FROM steps GROUP BY date
),
last_messages AS (
    SELECT
        date, state = 'waiting' AS is_waiting, state = 'unsure' AS is_unsure,
        least(
            date + {LOOKBACK_DAYS + 1},
            if(lead(conversation) OVER () = conversation, lead(date) OVER (), NULL)
        ) AS until
    FROM steps WHERE kind <> 'automated'
),
backlog_changes AS (
    SELECT date, count(*) FILTER (is_waiting) AS waiting, count(*) FILTER (is_unsure) AS unsure
    FROM last_messages GROUP BY date
    UNION ALL
    SELECT until, -count(*) FILTER (is_waiting), -count(*) FILTER (is_unsure)
    FROM last_messages GROUP BY until
    UNION ALL
    SELECT date, 0, 0 FROM days
),
backlogs AS (
    SELECT
        date,
        sum(sum(waiting)) OVER (ORDER BY date) AS backlog_count,
        sum(sum(unsure)) OVER (ORDER BY date) AS unsure_backlog_count
    FROM backlog_changes GROUP BY date
),
sessions AS (
    SELECT
        date,
        count(*) AS session_count,
        count(*) FILTER (is_measured) AS measured_count,
        count(*) FILTER (is_acknowledged) AS acknowledged_count,
        session_count - measured_count - acknowledged_count AS unsure_count,
        count(seconds) AS answered_count,
        coalesce(list(seconds) FILTER (seconds IS NOT NULL), []) AS waits,
        quantile_cont(seconds, 0.5) AS median_seconds,
        quantile_cont(seconds, 0.9) AS p90_seconds,
        count(*) FILTER (seconds <= 3600) AS count_1h,
        count(*) FILTER (seconds <= 86400) AS count_24h,
        count(*) FILTER (is_measured AND is_in_hours) AS in_hours_count,
        count(*) FILTER (is_measured AND NOT is_in_hours) AS out_of_hours_count,
        median(business_seconds) AS median_business_seconds
    FROM responses WHERE subject = 'session' GROUP BY date
),
weeks AS (
    SELECT
        d.date,
        count(r.date) AS new_count,
        count(*) FILTER (r.is_measured) AS measured_count,
        count(r.seconds) AS answered_count,
        median(r.seconds) AS median_seconds,
        coalesce(list(r.seconds) FILTER (r.seconds IS NOT NULL), []) AS waits
    FROM days AS d
    LEFT JOIN responses AS r
        ON r.subject = 'day' AND r.date BETWEEN d.date - {RESPONSIVENESS_DAYS - 1} AND d.date
    GROUP BY d.date
),
unsure_weeks AS (
    SELECT d.date, coalesce(sum(v.unsure_customer_count), 0)::BIGINT AS unsure_customer_count
    FROM days AS d
    LEFT JOIN volumes AS v ON v.date BETWEEN d.date - {RESPONSIVENESS_DAYS - 1} AND d.date
    GROUP BY d.date
),
bounds AS (
    SELECT
        *,
        unsure_customer_count + new_count - measured_count AS unsure_count,
        measured_count + unsure_count AS possible_count,
        list_median(waits || list_resize([]::DOUBLE[], unsure_count, 0.0)) AS least_seconds,
        list_median(waits || list_resize([]::DOUBLE[], unsure_count, 86400.0)) AS most_seconds
    FROM weeks JOIN unsure_weeks USING (date)
),
statuses AS (
    SELECT
        *,
        history_days >= 0 AS is_complete,
        ended_waits >= 1 AS has_ended,
        $zone::VARCHAR IS NOT NULL AND $weekdays::BIGINT[] IS NOT NULL AS has_hours,
        history_days >= 0 AND ended_waits >= 2 AS is_hour_known,
        history_days >= 0 AND ended_waits >= 3 AS is_day_known,
        has_ended AND history_days >= {RESPONSIVENESS_DAYS - 1} AS is_week_known
    FROM days
)
SELECT
    d.date, inbound_count, message_count - inbound_count - unknown_count AS outbound_count,
    coalesce(automated_count, 0) AS automated_count,
    coalesce(unsure_automated_count, 0) AS unsure_automated_count,
    unknown_count,
    coalesce(active_conversation_count, 0) AS active_conversation_count,
    coalesce(active_customer_count, 0) AS active_customer_count,
    coalesce(new_customer_count, 0) AS new_customer_count,
    coalesce(active_customer_count - new_customer_count, 0) AS returning_customer_count,
    greatest(0, history_days) AS history_days,
    coalesce(session_count, 0) AS session_count,
    coalesce(s.measured_count, 0) AS measured_session_count,
    coalesce(s.acknowledged_count, 0) AS acknowledged_session_count,
    coalesce(s.answered_count, 0) AS answered_session_count,
    if(is_complete, s.median_seconds, NULL) AS median_first_response_seconds,
    if(is_complete, list_median(s.waits || list_resize([]::DOUBLE[], s.unsure_count, 0.0)), NULL)
        AS median_first_response_seconds_min,
    if(
        is_complete,
        list_median(
            s.waits || list_resize([]::DOUBLE[], s.unsure_count, {LONGEST_WAIT.total_seconds()})
        ),
        NULL
    ) AS median_first_response_seconds_max,
    if(is_complete, p90_seconds, NULL) AS p90_first_response_seconds,
    if(is_hour_known, count_1h / nullif(s.measured_count, 0), NULL) AS share_answered_1h,
    if(is_hour_known, count_1h / nullif(s.measured_count + s.unsure_count, 0), NULL)
        AS share_answered_1h_min,
    if(
        is_hour_known,
        (count_1h + s.unsure_count) / nullif(s.measured_count + s.unsure_count, 0),
        NULL
    ) AS share_answered_1h_max,
    if(is_day_known, count_24h / nullif(s.measured_count, 0), NULL) AS share_answered_24h,
    if(is_day_known, count_24h / nullif(s.measured_count + s.unsure_count, 0), NULL)
        AS share_answered_24h_min,
    if(
        is_day_known,
        (count_24h + s.unsure_count) / nullif(s.measured_count + s.unsure_count, 0),
        NULL
    ) AS share_answered_24h_max,
    if(has_hours, coalesce(in_hours_count, 0), NULL)
        AS in_hours_session_count,
    if(has_hours, coalesce(out_of_hours_count, 0), NULL)
        AS out_of_hours_session_count,
    if(is_complete, median_business_seconds, NULL) AS median_first_response_business_seconds,
    backlog_count, backlog_count + unsure_backlog_count AS backlog_count_max,
    text_count, media_count, share_count, story_count,
    message_count - text_count - media_count - share_count - story_count AS other_count,
    reaction_count,
    b.measured_count AS responsiveness_measured_count,
    b.unsure_count AS responsiveness_unsure_count,
    if(is_week_known, b.answered_count / nullif(b.measured_count, 0), NULL) AS responsiveness_rate,
    if(is_week_known, b.median_seconds, NULL) AS responsiveness_seconds,
    CASE
        WHEN NOT is_week_known OR possible_count = 0 THEN NULL
        WHEN (b.answered_count + b.unsure_count) / possible_count < {RESPONSIVE_RATE}
            OR least_seconds > {RESPONSIVE_SECONDS} THEN false
        WHEN b.answered_count / possible_count >= {RESPONSIVE_RATE}
            AND coalesce(most_seconds, 0) <= {RESPONSIVE_SECONDS} THEN true
    END AS is_very_responsive,
    '{RESPONSIVENESS_VERSION}' AS responsiveness_version,
    NOT is_complete OR NOT has_ended OR is_edge
        OR unknown_count + coalesce(unsure_automated_count, 0) + unsure_backlog_count > 0
        AS is_lower_bound,
    unsure_backlog_count > 0 OR d.history_days < {LOOKBACK_DAYS} AS is_backlog_lower_bound,
    is_complete, has_ended, is_complete AND ended_waits >= 4 AS is_final
FROM statuses AS d
JOIN contents USING (date)
LEFT JOIN volumes USING (date)
JOIN backlogs USING (date)
JOIN bounds AS b USING (date)
LEFT JOIN sessions AS s USING (date)
ORDER BY d.date
"""  # noqa: S608 - constants
