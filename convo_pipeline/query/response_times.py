"""SQL of the response time views `message_order`, `response_turns`, `sessions` and `local_days`.

docs/metrics.md has the definitions, their sources and worked examples. If the details of a message
could not be read, its direction is unknown. Figures that it could change are null or marked
`is_lower_bound`. This module runs no query.
"""

from convo_pipeline.query.reply_rules import LOOKBACK_DAYS
from convo_pipeline.settings import MetricsSettings

LOOKAHEAD_DAYS = 7
"""A response counts as an answer if it comes within so many days after the day of the question."""

_ACCOUNT_RULES = """
SELECT
    account, timezone, opens, closes, weekdays,
    to_microseconds((session_gap_hours * 3600000000)::BIGINT) AS gap,
    if(
        automated_reply_seconds > 0,
        to_microseconds((automated_reply_seconds * 1000000)::BIGINT),
        NULL
    ) AS quick,
    to_microseconds((presence_minutes * 60000000)::BIGINT) AS presence
FROM internal.accounts
"""

MESSAGE_ORDER = """
WITH with_previous AS (
    SELECT
        m.account, m.date, m.conversation_id, m.message_id, m.created_at, m.direction,
        coalesce(m.direction = 'inbound' AND m.has_own_reaction, false) AS is_acknowledged,
        row_number() OVER thread AS position,
        lag(m.direction) OVER thread AS previous,
        lead(m.direction) OVER thread AS next,
        internal.begins_session(
            m.created_at, lag(m.created_at) OVER thread, {gap}
        ) AS begins_session,
        internal.begins_session(
            lead(m.created_at) OVER thread, m.created_at, {gap}
        ) AS ends_session,
        {quick} AS quick, {presence} AS presence
    FROM messages AS m LEFT JOIN internal.account_rules AS a ON a.account = m.account
    WHERE m.deleted_at IS NULL
    WINDOW thread AS (
        PARTITION BY m.account, m.conversation_id
        ORDER BY m.created_at, m.order_in_second, m.message_id
    )
),
with_begins AS (
    SELECT
        *,
        internal.begins_turn(direction, previous, begins_session) AS begins_turn,
        internal.begins_stretch(direction, previous, begins_session) AS begins_stretch
    FROM with_previous
),
numbered AS (
    SELECT
        *,
        sum(begins_session::INT) OVER so_far AS session_number,
        sum(begins_turn::INT) OVER so_far AS turn_number,
        max(created_at) FILTER (begins_stretch) OVER so_far AS stretch_began_at,
        max(created_at) FILTER (direction = 'inbound') OVER so_far AS inbound_at,
        max(created_at) FILTER (direction IS NULL) OVER so_far AS unread_at
    FROM with_begins
    WINDOW so_far AS (
        PARTITION BY account, conversation_id ORDER BY position ROWS UNBOUNDED PRECEDING
    )
),
timed AS (
    SELECT
        *,
        max(stretch_began_at) FILTER (direction = 'inbound') OVER so_far AS turn_began_at,
        max(created_at) FILTER (
            direction = 'outbound'
                AND NOT internal.is_quick(created_at, greatest(inbound_at, unread_at), quick)
        ) OVER so_far AS presence_at
    FROM numbered
    WINDOW so_far AS (
        PARTITION BY account, conversation_id ORDER BY position ROWS UNBOUNDED PRECEDING
    )
),
judged AS (
    SELECT
        *,
        if(
            direction = 'outbound',
            internal.reply_kind(
                created_at, turn_began_at, inbound_at, unread_at, presence_at, quick, presence
            ),
            NULL
        ) AS reply_kind
    FROM timed
)
SELECT
    account, date, conversation_id, message_id, created_at, direction, position,
    session_number::BIGINT AS session_number,
    if(direction = 'inbound', turn_number::BIGINT, NULL) AS turn_number,
    CASE reply_kind WHEN 'automated' THEN true WHEN 'human' THEN false END AS is_likely_automated,
    if(reply_kind = 'automated', 'quick_reply', NULL) AS automated_reason,
    is_acknowledged,
    position > 1 AND NOT begins_session AND previous IS NULL AS follows_unknown,
    NOT ends_session AND next IS NULL AS precedes_unknown
FROM judged
"""

_FOLLOWED = f"""
WITH looked_around AS (
    SELECT
        *,
        min(position) FILTER (direction = 'outbound') OVER later AS next_outbound,
        min(position) FILTER (is_likely_automated = false) OVER later AS next_human,
        min(position) FILTER (direction IS NULL) OVER later AS next_unknown,
        min(position) FILTER (
            direction IS DISTINCT FROM 'inbound' AND is_likely_automated IS NULL
        ) OVER later AS next_unsure,
        min(created_at) FILTER (direction = 'outbound') OVER later AS next_outbound_at,
        min(created_at) FILTER (is_likely_automated = false) OVER later AS next_human_at,
        min(created_at) FILTER (
            direction IS DISTINCT FROM 'inbound' AND is_likely_automated IS NULL
        ) OVER later AS next_unsure_at,
        max(created_at) OVER later AS newest_at,
        arg_max(
            struct_pack(
                at := created_at,
                state := CASE
                    WHEN direction = 'inbound' AND NOT is_acknowledged THEN 'waiting'
                    WHEN direction = 'inbound' OR is_likely_automated = false THEN 'settled'
                    ELSE 'unsure'
                END
            ),
            position
        ) FILTER (is_likely_automated IS DISTINCT FROM true) OVER earlier AS last_word
    FROM message_order
    WINDOW later AS (
        PARTITION BY account, conversation_id
        ORDER BY position ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
    ),
    earlier AS (
        PARTITION BY account, conversation_id
        ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
)
SELECT
    *,
    min(created_at) FILTER (is_acknowledged) OVER (
        PARTITION BY account, conversation_id, next_human
        ORDER BY position ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
    ) AS acknowledged_at,
    acknowledged_at IS NOT NULL AS is_acknowledged_later,
    if(last_word.at >= date - INTERVAL {LOOKBACK_DAYS} DAY, last_word.state, NULL) AS state_before,
    CASE
        WHEN next_unknown IS NULL AND next_outbound IS NULL THEN 'none'
        WHEN next_unknown IS NULL OR next_outbound < next_unknown THEN 'known'
        ELSE 'unknown'
    END AS response,
    CASE
        WHEN next_unsure IS NULL AND next_human IS NULL THEN 'none'
        WHEN next_unsure IS NULL OR next_human < next_unsure THEN 'known'
        ELSE 'unknown'
    END AS human_response
FROM looked_around
"""  # noqa: S608 - constants
"""Every message with the state of the conversation before it and the next messages of ours.

`acknowledged_at`: time of this or the next message that has our reaction, before our next response.

`state_before` is `waiting` if the newest earlier message that is not automated is the customer's,
`settled` if it is ours or acknowledged, else `unsure`. It is null without one in 28 days.

`response` and `human_response` are `known`, `none` or `unknown`. They are unknown if an unread
message comes first. `human_response` is also unknown if a message that may be automated comes
first.
"""

_KNOWN = """
WITH listings AS (
    SELECT
        account, date, run_id, outcome, since, started_at,
        max(started_at) OVER earlier AS reached_at
    FROM runs
    WHERE (outcome = 'complete'
            OR (outcome = 'incomplete' AND reasons = ['conversation_refused']))
        AND kind <> 'find' AND since IS NOT NULL
    WINDOW earlier AS (
        PARTITION BY account
        ORDER BY started_at, run_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
gaps AS (
    SELECT l.account, max(l.started_at) AS started_at
    FROM (SELECT * FROM listings WHERE since > reached_at::DATE) AS l
    JOIN runs AS r ON r.date = l.date AND r.run_id = l.run_id AND r.account = l.account
    WHERE NOT coalesce((r.report ->> 'is_incremental')::BOOLEAN, false)
    GROUP BY l.account
),
complete_ranges AS (
    SELECT l.account, min(l.since) AS since, max(l.started_at) AS known_until
    FROM listings AS l LEFT JOIN gaps AS b ON b.account = l.account
    WHERE l.started_at >= b.started_at OR b.started_at IS NULL
    GROUP BY l.account
),
refusals AS (
    SELECT n.account, (r.report -> 'refused' ->> 'complete_from')::DATE AS complete_from
    FROM (
        SELECT * FROM listings
        QUALIFY row_number() OVER (PARTITION BY account ORDER BY started_at DESC, run_id DESC) = 1
    ) AS n
    JOIN runs AS r ON r.date = n.date AND r.run_id = n.run_id AND r.account = n.account
    WHERE n.outcome = 'incomplete'
),
first_days AS (SELECT account, min(date) AS first_date FROM messages GROUP BY account)
SELECT
    account,
    greatest(since, first_date, r.complete_from)::TIMESTAMPTZ AS complete_from,
    greatest(since, first_date, r.complete_from)::TIMESTAMPTZ + {gap} AS known_from,
    known_until, {gap} AS gap
FROM complete_ranges JOIN first_days USING (account)
LEFT JOIN refusals AS r USING (account)
LEFT JOIN internal.account_rules AS a USING (account)
"""
"""The complete range of each account, from the ledger.

Before `known_from`, a session may have started before the first complete day, and messages may be
missing. `known_until` is the start of the last complete run. After it, an interrupted run may have
stored a conversation's newest messages without the earlier ones.

Days before `complete_from` may lack messages of a conversation whose older pages are refused.

A gap begins where a run does not continue an earlier run and starts on a later day than that run
reached. Only the range after the last gap counts. `state/state.py` applies the same rule to the
state. The query reads `report` only for runs that may begin a gap.
"""

RESPONSE_TURNS = """
WITH turns AS (
    SELECT
        account, conversation_id, turn_number, session_number, response, human_response,
        min(created_at) AS started_at,
        max(created_at) AS ended_at,
        count(*) AS inbound_count,
        bool_or(follows_unknown OR precedes_unknown) AS touches_unknown,
        arg_max(is_acknowledged_later, position) AS is_acknowledged,
        max(newest_at) AS newest_at,
        CASE WHEN response = 'known' THEN min(next_outbound) END AS response_position,
        CASE WHEN response = 'known' THEN min(next_outbound_at) END AS response_at,
        CASE WHEN human_response = 'known' THEN min(next_human_at) END AS human_response_at
    FROM internal.followed
    WHERE turn_number IS NOT NULL
    GROUP BY account, conversation_id, turn_number, session_number, response, human_response
)
SELECT
    t.account, t.started_at::DATE AS date, t.conversation_id, t.turn_number, t.session_number,
    t.started_at, internal.local_time(t.started_at, c.timezone) AS started_at_local,
    started_at_local::DATE AS local_date,
    internal.is_open(started_at_local, c.opens, c.closes, c.weekdays) AS is_in_business_hours,
    t.ended_at, t.inbound_count,
    CASE t.human_response WHEN 'known' THEN true WHEN 'none' THEN false END AS is_answered,
    t.is_acknowledged,
    t.response_at,
    o.message_id AS response_message_id,
    internal.seconds(t.started_at, t.response_at) AS response_seconds,
    internal.business_seconds(
        t.started_at, t.response_at, c.timezone, c.opens, c.closes, c.weekdays
    ) AS response_business_seconds,
    o.is_likely_automated, o.automated_reason,
    t.human_response_at,
    internal.seconds(t.started_at, t.human_response_at) AS human_response_seconds,
    internal.business_seconds(
        t.started_at, t.human_response_at, c.timezone, c.opens, c.closes, c.weekdays
    ) AS human_response_business_seconds,
    t.touches_unknown OR coalesce(
        t.started_at < k.known_from
            OR greatest(t.ended_at, coalesce(t.human_response_at, t.newest_at)) > k.known_until,
        true
    ) AS is_lower_bound
FROM turns AS t
LEFT JOIN internal.known AS k ON k.account = t.account
LEFT JOIN internal.account_rules AS c ON c.account = t.account
LEFT JOIN message_order AS o
    ON o.account = t.account AND o.conversation_id = t.conversation_id
    AND o.position = t.response_position
"""

SESSIONS = """
WITH with_position AS (
    SELECT
        *,
        min(position) FILTER (direction = 'inbound') OVER (
            PARTITION BY account, conversation_id, session_number
        ) AS first_inbound
    FROM internal.followed
),
grouped AS (
    SELECT
        account, conversation_id, session_number, first_inbound,
        min(created_at) AS started_at,
        max(created_at) AS ended_at,
        count(*) AS message_count,
        count(*) FILTER (direction = 'inbound') AS inbound_count,
        count(*) FILTER (direction = 'outbound') AS outbound_count,
        count(*) FILTER (is_likely_automated) AS automated_count,
        count(*) FILTER (direction IS NULL) AS unknown_count,
        count(DISTINCT turn_number) AS turn_count,
        nullif(arg_min(coalesce(direction, ''), position), '') AS opener,
        min(created_at) FILTER (direction = 'inbound') AS first_inbound_at,
        coalesce(min(position) FILTER (direction IS NULL) < first_inbound, false)
            AS is_first_inbound_unsure,
        nullif(arg_min(coalesce(state_before, ''), position) FILTER (position = first_inbound), '')
            AS state_before,
        min(next_human_at) FILTER (direction = 'inbound') AS next_human_at,
        min(next_unsure_at) FILTER (position = first_inbound) AS next_unsure_at,
        min(acknowledged_at) FILTER (position = first_inbound) AS acknowledged_at,
        max(next_human_at) FILTER (direction = 'inbound') AS last_human_response_at,
        greatest(max(newest_at), max(created_at)) AS newest_at,
        arg_min(human_response, position) FILTER (direction = 'inbound') AS first_human_response,
        arg_max(human_response, position) FILTER (direction = 'inbound') AS last_human_response,
        arg_min(is_acknowledged_later, position) FILTER (direction = 'inbound') AS is_acknowledged,
        arg_max(is_acknowledged_later, position) FILTER (direction = 'inbound') AS is_settled,
        max(position) FILTER (is_acknowledged) AS acknowledged_position,
        count(*) FILTER (is_likely_automated = false AND position > first_inbound)
            AS reply_count,
        max(position) FILTER (is_likely_automated = false) AS last_reply,
        max(created_at) FILTER (is_likely_automated = false) AS last_human_at,
        max(position) FILTER (is_likely_automated = false)
            > max(position) FILTER (direction = 'inbound') AS ends_with_reply,
        list(struct_pack(position, created_at)) FILTER (
            direction = 'inbound' AND human_response = 'none'
        ) AS unanswered
    FROM with_position GROUP BY account, conversation_id, session_number, first_inbound
),
classified AS (
    SELECT
        *,
        inbound_count = 0 OR is_first_inbound_unsure
            OR coalesce(state_before IN ('waiting', 'unsure'), false) AS is_not_first,
        CASE
            WHEN first_human_response = 'known' AND NOT is_first_inbound_unsure
                AND state_before IS DISTINCT FROM 'waiting' THEN next_human_at
        END AS first_response_at,
        unknown_count = 0 AND inbound_count > 0 AS is_measurable,
        first_inbound_at::DATE + INTERVAL {answer_days} DAY AS answer_until,
        coalesce(first_response_at < answer_until, false) AS is_in_time,
        CASE
            WHEN inbound_count = 0 OR last_human_response = 'unknown' THEN NULL
            ELSE last_human_response = 'none' AND NOT is_settled AND NOT (
                state_before IS NOT DISTINCT FROM 'waiting' AND first_human_response = 'none'
                AND acknowledged_position IS NULL
            )
        END AS is_unanswered
    FROM grouped
)
SELECT
    j.account, j.started_at::DATE AS date, j.conversation_id, j.session_number,
    j.started_at, internal.local_time(j.started_at, c.timezone) AS started_at_local,
    internal.local_time(j.first_inbound_at, c.timezone)::DATE AS local_date,
    internal.is_open(
        internal.local_time(j.first_inbound_at, c.timezone), c.opens, c.closes, c.weekdays
    ) AS is_in_business_hours,
    j.ended_at, j.opener, j.message_count, j.inbound_count, j.outbound_count, j.automated_count,
    j.unknown_count, j.turn_count,
    CASE
        WHEN j.inbound_count > 0 AND state_before = 'waiting' THEN true
        WHEN is_not_first THEN NULL
        WHEN state_before IS NOT NULL THEN false
        WHEN k.complete_from <= j.started_at::DATE - INTERVAL {days} DAY THEN false
    END AS is_nudge,
    j.first_inbound_at,
    CASE
        WHEN NOT is_not_first AND first_human_response <> 'unknown'
            THEN first_human_response = 'known'
    END AS is_answered,
    NOT is_not_first
        AND coalesce(j.first_inbound_at::DATE >= k.complete_from, false)
        AND NOT (j.started_at < k.known_from AND j.first_inbound_at::DATE >= k.known_from)
        AND (first_human_response <> 'unknown' OR next_unsure_at >= answer_until)
        AND (is_in_time OR coalesce(acknowledged_at >= answer_until, true)) AS is_measured,
    if(is_measured, is_in_time, NULL) AS is_answered_in_time,
    j.first_response_at,
    internal.seconds(j.first_inbound_at, j.first_response_at) AS first_response_seconds,
    internal.business_seconds(
        j.first_inbound_at, j.first_response_at, c.timezone, c.opens, c.closes, c.weekdays
    ) AS first_response_business_seconds,
    CASE WHEN is_measurable THEN coalesce(reply_count = 1 AND ends_with_reply, false) END
        AS is_one_touch,
    CASE
        WHEN is_measurable AND ends_with_reply
            THEN internal.seconds(first_inbound_at, last_human_at)
    END AS resolution_gap_seconds,
    j.is_acknowledged, j.is_unanswered,
    if(
        is_unanswered,
        list_min(list_transform(
            list_filter(
                unanswered,
                lambda message: message.position > coalesce(acknowledged_position, 0)
            ),
            lambda message: message.created_at
        )),
        NULL
    ) AS unanswered_since,
    j.unknown_count > 0 OR coalesce(
        j.started_at < k.known_from
            OR j.ended_at + k.gap > k.known_until
            OR (j.inbound_count > 0 AND j.newest_at > k.known_until
                AND (j.last_human_response <> 'known' OR j.last_human_response_at > k.known_until)),
        true
    ) AS is_lower_bound
FROM classified AS j
LEFT JOIN internal.known AS k ON k.account = j.account
LEFT JOIN internal.account_rules AS c ON c.account = j.account
"""

LOCAL_DAYS = """
WITH volumes AS (
    SELECT
        m.account, m.local_date,
        count(*) FILTER (m.direction = 'inbound') AS inbound_count,
        count(*) FILTER (m.direction = 'outbound') AS outbound_count,
        count(*) FILTER (o.is_likely_automated) AS automated_count,
        count(*) FILTER (
            o.direction = 'outbound' AND o.is_likely_automated IS NULL
        ) AS unsure_automated_count,
        count(*) FILTER (m.direction IS NULL) AS unknown_count,
        count(DISTINCT m.conversation_id) AS active_conversation_count,
        count(DISTINCT m.conversation_id) FILTER (m.direction = 'inbound') AS active_customer_count
    FROM messages AS m
    LEFT JOIN message_order AS o USING (account, conversation_id, message_id)
    WHERE m.local_date IS NOT NULL
    GROUP BY m.account, m.local_date
),
responses AS (
    SELECT
        account, local_date,
        count(*) AS session_count,
        count(*) FILTER (is_measured) AS measured_session_count,
        count(*) FILTER (is_answered_in_time) AS answered_session_count,
        median(first_response_seconds) FILTER (is_answered_in_time)
            AS median_first_response_seconds,
        count(*) FILTER (is_measured AND is_in_business_hours) AS in_hours_session_count,
        count(*) FILTER (is_measured AND NOT is_in_business_hours) AS out_of_hours_session_count,
        median(first_response_business_seconds) FILTER (
            is_answered_in_time AND is_in_business_hours
        ) AS median_first_response_business_seconds
    FROM sessions WHERE inbound_count > 0 AND is_nudge IS DISTINCT FROM true
    GROUP BY account, local_date
),
days AS (
    SELECT
        v.*,
        c.weekdays IS NOT NULL AS has_hours,
        coalesce(timezone(c.timezone, v.local_date::TIMESTAMP) >= k.complete_from, false)
            AS is_complete,
        coalesce(timezone(c.timezone, v.local_date + INTERVAL 1 DAY) <= k.known_until, false)
            AS has_ended
    FROM volumes AS v
    LEFT JOIN internal.known AS k USING (account)
    LEFT JOIN internal.account_rules AS c USING (account)
)
SELECT
    d.* EXCLUDE (has_hours, is_complete, has_ended),
    coalesce(r.session_count, 0) AS session_count,
    coalesce(r.measured_session_count, 0) AS measured_session_count,
    coalesce(r.answered_session_count, 0) AS answered_session_count,
    if(has_hours, coalesce(r.in_hours_session_count, 0), NULL) AS in_hours_session_count,
    if(has_hours, coalesce(r.out_of_hours_session_count, 0), NULL) AS out_of_hours_session_count,
    if(is_complete, r.median_first_response_seconds, NULL) AS median_first_response_seconds,
    if(is_complete, r.median_first_response_business_seconds, NULL)
        AS median_first_response_business_seconds,
    is_complete, has_ended
FROM days AS d LEFT JOIN responses AS r USING (account, local_date)
"""


def response_time_views(defaults: MetricsSettings) -> list[str]:
    """Return the statements that create the views, in order, after those of `RULES`.

    `defaults` are for accounts whose settings the lake does not have.
    """
    quick = _seconds(defaults.automated_reply_seconds) if defaults.automated_reply_seconds else None
    values = {
        "gap": f"coalesce(a.gap, {_seconds(defaults.session_gap_hours * 3600)})",
        "quick": f"if(a.account IS NULL, {quick or 'NULL::INTERVAL'}, a.quick)",
        "presence": f"coalesce(a.presence, {_seconds(defaults.presence_minutes * 60)})",
    }
    days = {"days": LOOKBACK_DAYS, "answer_days": LOOKAHEAD_DAYS + 1}
    return [
        f"CREATE VIEW internal.account_rules AS {_ACCOUNT_RULES}",
        f"CREATE VIEW message_order AS {MESSAGE_ORDER.format_map(values)}",
        f"CREATE VIEW internal.followed AS {_FOLLOWED}",
        f"CREATE VIEW internal.known AS {_KNOWN.format_map(values)}",
        f"CREATE VIEW response_turns AS {RESPONSE_TURNS}",
        f"CREATE VIEW sessions AS {SESSIONS.format_map(days)}",
        f"CREATE VIEW local_days AS {LOCAL_DAYS}",
    ]


def _seconds(seconds: float) -> str:
    """Return an SQL interval.

    >>> _seconds(1.5)
    'to_microseconds(1500000)'
    """
    return f"to_microseconds({round(seconds * 1_000_000)})"
