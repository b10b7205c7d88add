"""SQL of the response time views `message_order`, `response_turns` and `sessions`.

docs/metrics.md has the definitions, their sources and worked examples. If the details of a message
could not be read, its direction is unknown. Figures that it could change are null or marked
`is_lower_bound`. This module runs no query.
"""

from convo_pipeline.query.reply_rules import REPEATED_TEXTS, rule_statements, session_gap
from convo_pipeline.query.sources import quote
from convo_pipeline.settings import AccountSettings, Settings, parse_business_hours

_BUSINESS_CLOCK = """
CREATE MACRO internal.business_clock(wall, opens, closes, weekdays) AS
    ((date_diff('day', DATE '1970-01-05', wall::DATE) - (isodow(wall) - 1)) // 7 * len(weekdays)
        + len(list_filter(weekdays, lambda weekday: weekday < isodow(wall) - 1))) * (closes - opens)
    + if(
        list_contains(weekdays, isodow(wall) - 1),
        greatest(0, least(epoch(wall::TIME), closes) - opens),
        0
    )
"""
"""Returns the open seconds from Monday 1970-01-05 to a local time.

The difference of two values is the business time between them.
"""

_BUSINESS_SECONDS = """
CREATE MACRO internal.business_seconds(since, until, zone, opens, closes, weekdays) AS
    greatest(
        0,
        internal.business_clock(timezone(coalesce(zone, 'UTC'), until), opens, closes, weekdays)
        - internal.business_clock(timezone(coalesce(zone, 'UTC'), since), opens, closes, weekdays)
    )::DOUBLE
    + if(weekdays IS NULL OR until IS NULL, NULL, 0)
"""
_SECONDS = (
    "CREATE MACRO internal.seconds(since, until) AS (epoch_us(until) - epoch_us(since)) / 1000000"
)

MESSAGE_ORDER = f"""
WITH with_position AS (
    SELECT
        account, date, conversation_id, message_id, created_at, direction, text,
        row_number() OVER thread AS position,
        lag(direction) OVER thread AS previous,
        lead(direction) OVER thread AS next,
        internal.begins_session(created_at, lag(created_at) OVER thread) AS begins_session,
        internal.begins_session(lead(created_at) OVER thread, created_at) AS ends_session
    FROM messages
    WINDOW thread AS (
        PARTITION BY account, conversation_id ORDER BY created_at, order_in_second, message_id
    )
),
with_begins AS (
    SELECT
        *,
        internal.begins_turn(direction, previous, begins_session) AS begins_turn,
        internal.begins_stretch(direction, previous, begins_session) AS begins_stretch,
        internal.may_begin_turn(direction, previous, begins_session) AS may_begin_turn
    FROM with_position
),
numbered AS (
    SELECT
        *,
        sum(begins_session::INT) OVER so_far AS session_number,
        sum(begins_turn::INT) OVER so_far AS turn_number,
        max(created_at) FILTER (begins_stretch) OVER so_far AS stretch_began_at,
        max(created_at) FILTER (may_begin_turn) OVER so_far AS turn_began_by
    FROM with_begins
    WINDOW so_far AS (
        PARTITION BY account, conversation_id ORDER BY position ROWS UNBOUNDED PRECEDING
    )
),
timed AS (
    SELECT *, max(stretch_began_at) FILTER (direction = 'inbound') OVER so_far AS turn_began_after
    FROM numbered
    WINDOW so_far AS (
        PARTITION BY account, conversation_id ORDER BY position ROWS UNBOUNDED PRECEDING
    )
),
repeated AS ({REPEATED_TEXTS.format(keys="account, date")}),
classified AS (
    SELECT
        n.*,
        CASE
            WHEN direction IS DISTINCT FROM 'outbound' THEN NULL
            WHEN internal.is_fast_reply(created_at, turn_began_after) THEN 'fast_reply'
            WHEN r.text IS NOT NULL THEN 'repeated_text'
        END AS automated_reason,
        internal.is_fast_reply(created_at, turn_began_by) AS may_be_fast
    FROM timed AS n
    LEFT JOIN repeated AS r ON r.account = n.account AND r.date = n.date AND r.text = n.text
)
SELECT
    account, date, conversation_id, message_id, created_at, direction, position,
    session_number::BIGINT AS session_number,
    if(direction = 'inbound', turn_number::BIGINT, NULL) AS turn_number,
    CASE WHEN direction = 'outbound' AND (automated_reason IS NOT NULL OR NOT may_be_fast)
        THEN automated_reason IS NOT NULL END AS is_likely_automated,
    automated_reason,
    position > 1 AND NOT begins_session AND previous IS NULL AS follows_unknown,
    NOT ends_session AND next IS NULL AS precedes_unknown
FROM classified
"""  # noqa: S608 - constants

_FOLLOWED = """
WITH looked_ahead AS (
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
        max(created_at) OVER later AS newest_at
    FROM message_order
    WINDOW later AS (
        PARTITION BY account, conversation_id
        ORDER BY position ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
    )
)
SELECT
    *,
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
FROM looked_ahead
"""
"""Every message with the next messages of ours.

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
    greatest(since, first_date, complete_from)::TIMESTAMPTZ + {gap} AS known_from,
    known_until
FROM complete_ranges JOIN first_days USING (account) LEFT JOIN refusals USING (account)
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
    t.started_at, timezone(coalesce(c.timezone, 'UTC'), t.started_at) AS started_at_local,
    t.ended_at, t.inbound_count,
    CASE t.human_response WHEN 'known' THEN true WHEN 'none' THEN false END AS is_answered,
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
LEFT JOIN internal.accounts AS c ON c.account = t.account
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
        min(next_human_at) FILTER (direction = 'inbound') AS next_human_at,
        max(next_human_at) FILTER (direction = 'inbound') AS last_human_response_at,
        greatest(max(newest_at), max(created_at)) AS newest_at,
        arg_min(human_response, position) FILTER (direction = 'inbound') AS first_human_response,
        arg_max(human_response, position) FILTER (direction = 'inbound') AS last_human_response,
        min(created_at) FILTER (direction = 'inbound' AND human_response = 'none')
            AS unanswered_since,
        count(*) FILTER (is_likely_automated = false AND position > first_inbound)
            AS reply_count,
        max(created_at) FILTER (is_likely_automated = false) AS last_human_at,
        max(position) FILTER (is_likely_automated = false)
            > max(position) FILTER (direction = 'inbound') AS ends_with_reply
    FROM with_position GROUP BY account, conversation_id, session_number, first_inbound
),
classified AS (
    SELECT
        *,
        CASE
            WHEN first_human_response = 'known' AND NOT is_first_inbound_unsure THEN next_human_at
        END AS first_response_at,
        unknown_count = 0 AND inbound_count > 0 AS is_measurable
    FROM grouped
)
SELECT
    j.account, j.started_at::DATE AS date, j.conversation_id, j.session_number,
    j.started_at, timezone(coalesce(c.timezone, 'UTC'), j.started_at) AS started_at_local,
    j.ended_at, j.opener, j.message_count, j.inbound_count, j.outbound_count, j.automated_count,
    j.unknown_count, j.turn_count,
    j.first_inbound_at, j.first_response_at,
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
    CASE last_human_response WHEN 'none' THEN true WHEN 'known' THEN false END AS is_unanswered,
    j.unanswered_since,
    j.unknown_count > 0 OR coalesce(
        j.started_at < k.known_from
            OR j.ended_at + {gap} > k.known_until
            OR (j.inbound_count > 0 AND j.newest_at > k.known_until
                AND (j.last_human_response <> 'known' OR j.last_human_response_at > k.known_until)),
        true
    ) AS is_lower_bound
FROM classified AS j
LEFT JOIN internal.known AS k ON k.account = j.account
LEFT JOIN internal.accounts AS c ON c.account = j.account
"""


def response_time_statements(settings: Settings) -> list[str]:
    """Return the statements that create the views, in order."""
    gap = session_gap(settings.metrics.session_gap_hours)
    return [
        *rule_statements(settings.metrics.session_gap_hours),
        _SECONDS,
        _BUSINESS_CLOCK,
        _BUSINESS_SECONDS,
        f"CREATE VIEW internal.accounts AS {_accounts(settings)}",
        f"CREATE VIEW message_order AS {MESSAGE_ORDER}",
        f"CREATE VIEW internal.followed AS {_FOLLOWED}",
        f"CREATE VIEW internal.known AS {_KNOWN.format(gap=gap)}",
        f"CREATE VIEW response_turns AS {RESPONSE_TURNS}",
        f"CREATE VIEW sessions AS {SESSIONS.format(gap=gap)}",
    ]


def _accounts(settings: Settings) -> str:
    """Return the SELECT of each configured account's time zone and business hours."""
    rows = [_account_row(account) for account in settings.accounts]
    no_account = "(NULL::VARCHAR, NULL::VARCHAR, NULL::BIGINT, NULL::BIGINT, NULL::BIGINT[])"
    values = ", ".join([no_account, *rows])
    columns = "account, timezone, opens, closes, weekdays"
    source = f"(VALUES {values}) AS accounts ({columns})"
    return f"SELECT * FROM {source} WHERE account IS NOT NULL"  # noqa: S608 - quoted


def _account_row(account: AccountSettings) -> str:
    hours = (
        parse_business_hours(account.business_hours)
        if account.business_hours
        else ("NULL", "NULL", "NULL")
    )
    return f"({quote(account.name)}, {quote(account.timezone)}, {hours[0]}, {hours[1]}, {hours[2]})"
