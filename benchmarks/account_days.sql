-- `account_days` written a second time, as plain SQL over the views of connect(): the tests compare the two row by row,
-- the benchmark compares their CPU. The parameters `since` and `until` are what the runs
-- promise, `edge` is the session gap.
WITH steps AS (
    SELECT f.*, m.content_type, m.reaction_count,
        lag(f.created_at) OVER thread AS previous_at,
        row_number() OVER (PARTITION BY f.account, f.conversation_id, f.date ORDER BY f.position) = 1 AS is_day_begin,
        f.direction = 'inbound' AND count(*) FILTER (f.direction = 'inbound') OVER in_session = 1 AS is_first_of_session,
        f.direction = 'inbound' AND count(*) FILTER (f.direction = 'inbound') OVER in_day = 1 AS is_first_of_day,
        count(*) FILTER (f.direction IS NULL) OVER in_session > 0
            OR (f.date::TIMESTAMPTZ >= $since::DATE::TIMESTAMPTZ + $edge::INTERVAL
                AND greatest(min(f.created_at) OVER in_session, f.date::TIMESTAMPTZ - INTERVAL 28 DAY)
                    < $since::DATE::TIMESTAMPTZ + $edge::INTERVAL) AS is_session_unsure,
        count(*) FILTER (f.direction IS NULL) OVER in_day > 0 AS is_day_unsure,
        min(f.created_at) FILTER (f.direction IS DISTINCT FROM 'inbound' AND f.is_likely_automated IS NULL) OVER later AS next_unsure_at
    FROM internal.followed AS f
    JOIN messages AS m ON m.account = f.account AND m.date = f.date
        AND m.conversation_id = f.conversation_id AND m.message_id = f.message_id
    WINDOW
        thread AS (PARTITION BY f.account, f.conversation_id ORDER BY f.position),
        later AS (
            PARTITION BY f.account, f.conversation_id ORDER BY f.position
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ),
        in_session AS (PARTITION BY f.account, f.conversation_id, f.session_number ORDER BY f.position),
        in_day AS (PARTITION BY f.account, f.conversation_id, f.date ORDER BY f.position)
),
volume AS (
    SELECT account, date,
        count(*) FILTER (direction = 'inbound') AS inbound_count,
        count(*) FILTER (direction = 'outbound') AS outbound_count,
        count(*) FILTER (is_likely_automated) AS automated_count,
        count(*) FILTER (direction IS NULL) AS unknown_count,
        count(*) FILTER (direction = 'outbound' AND is_likely_automated IS NULL) AS unsure_automated_count,
        count(DISTINCT conversation_id) AS active_conversation_count,
        count(DISTINCT conversation_id) FILTER (direction = 'inbound') AS active_customer_count,
        count(*) FILTER (content_type = 'text') AS text_count,
        count(*) FILTER (content_type IN ('image', 'video', 'audio', 'file', 'sticker')) AS media_count,
        count(*) FILTER (content_type = 'share') AS share_count,
        count(*) FILTER (content_type IN ('story_reply', 'story_mention')) AS story_count,
        coalesce(sum(reaction_count), 0)::BIGINT AS reaction_count
    FROM steps GROUP BY account, date
),
wrote AS (
    SELECT account, date, conversation_id,
        coalesce(bool_or(direction = 'inbound'), false) AS is_customer,
        bool_or(direction IS NULL) AS has_unread,
        arg_min(coalesce(previous_at, TIMESTAMPTZ '1900-01-01 00:00:00+00'), position)
            < date::TIMESTAMPTZ - INTERVAL 28 DAY AS is_new
    FROM steps GROUP BY account, date, conversation_id
),
customers AS (
    SELECT account, date, count(*) FILTER (is_customer AND is_new) AS new_customer_count,
        count(*) FILTER (has_unread AND NOT is_customer) AS unsure_new_count
    FROM wrote GROUP BY account, date
),
asked AS (
    SELECT 'session' AS kind, is_session_unsure AS is_unsure, date::TIMESTAMPTZ + INTERVAL 8 DAY AS until, *
    FROM steps WHERE is_first_of_session
    UNION ALL
    SELECT 'day' AS kind, is_day_unsure AS is_unsure, date::TIMESTAMPTZ + INTERVAL 1 DAY AS until, *
    FROM steps WHERE is_first_of_day
),
answered AS (
    SELECT
        *,
        coalesce(next_human_at < until AND (next_unsure IS NULL OR next_human < next_unsure), false) AS is_answered
    FROM asked
),
judged AS (
    SELECT account, date, kind,
        NOT coalesce(is_unsure, false) AND (is_answered OR coalesce(next_unsure_at >= until, true)) AS is_judged,
        CASE WHEN is_answered AND NOT coalesce(is_unsure, false) THEN epoch(next_human_at) - epoch(created_at) END AS seconds
    FROM answered
),
responses AS (
    SELECT account, date,
        count(*) AS session_count,
        count(*) FILTER (is_judged) AS judged_session_count,
        count(seconds) AS answered_session_count,
        quantile_cont(seconds, 0.5) AS median_first_response_seconds,
        quantile_cont(seconds, 0.9) AS p90_first_response_seconds,
        count(*) FILTER (seconds <= 3600) / nullif(count(*) FILTER (is_judged), 0) AS share_answered_1h,
        count(*) FILTER (seconds <= 86400) / nullif(count(*) FILTER (is_judged), 0) AS share_answered_24h
    FROM judged WHERE kind = 'session' GROUP BY account, date
),
silent AS (
    SELECT v.account, v.date, sum(c.unsure_new_count) AS unsure_new_count
    FROM volume AS v JOIN customers AS c ON c.account = v.account AND c.date BETWEEN v.date - 6 AND v.date
    GROUP BY v.account, v.date
),
weeks AS (
    SELECT v.account, v.date, any_value(s.unsure_new_count) AS unsure_new_count,
        count(*) FILTER (d.is_judged) AS judged_count,
        count(d.date) AS new_count,
        count(d.seconds) AS answered_count,
        quantile_cont(d.seconds, 0.5) AS median_seconds,
        coalesce(list(d.seconds) FILTER (d.seconds IS NOT NULL), []) AS waits
    FROM volume AS v
    JOIN silent AS s USING (account, date)
    LEFT JOIN judged AS d ON d.kind = 'day' AND d.account = v.account AND d.date BETWEEN v.date - 6 AND v.date
    GROUP BY v.account, v.date
),
bounded AS (
    SELECT *,
        (unsure_new_count + new_count - judged_count)::BIGINT AS unsure_count,
        judged_count + unsure_count AS possible_count,
        list_median(list_concat(waits, list_resize([]::DOUBLE[], unsure_count, 0.0))) AS best_seconds,
        list_median(list_concat(waits, list_resize([]::DOUBLE[], unsure_count, 86400.0))) AS worst_seconds
    FROM weeks
),
responsiveness AS (
    SELECT account, date, judged_count, unsure_count,
        answered_count / nullif(judged_count, 0) AS rate, median_seconds,
        CASE
            WHEN possible_count = 0 THEN NULL
            WHEN (answered_count + unsure_count) / possible_count < 0.9 OR coalesce(best_seconds, 0) > 900 THEN false
            WHEN answered_count / possible_count >= 0.9 AND coalesce(worst_seconds, 0) <= 900 THEN true
        END AS is_very_responsive
    FROM bounded
),
spoken AS (
    SELECT account, date, direction,
        direction IS DISTINCT FROM 'inbound' AND is_likely_automated IS NULL AS is_unsure,
        lead(date) OVER (PARTITION BY account, conversation_id ORDER BY position) AS next_date
    FROM steps WHERE is_likely_automated IS DISTINCT FROM true
),
waiting AS (
    SELECT v.account, v.date,
        count(*) FILTER (s.direction = 'inbound') AS backlog_count,
        count(*) FILTER (s.is_unsure) AS unsure_backlog_count
    FROM volume AS v
    LEFT JOIN spoken AS s ON s.account = v.account AND s.date BETWEEN v.date - 28 AND v.date
        AND coalesce(s.next_date > v.date, true)
    GROUP BY v.account, v.date
),
ages AS (
    SELECT v.account, v.date,
        coalesce(v.date - $since::DATE, -1) AS age,
        coalesce(v.date - $since::DATE >= 0, false) AS is_promised,
        v.date::TIMESTAMPTZ + INTERVAL 1 DAY AS ended_at,
        coalesce($until::TIMESTAMPTZ, TIMESTAMPTZ '1900-01-01 00:00:00+00') AS known_until
    FROM volume AS v
),
aged AS (
    SELECT *,
        ended_at <= known_until AS is_over,
        ended_at + INTERVAL 1 HOUR <= known_until AS is_over_1h,
        ended_at + INTERVAL 24 HOUR <= known_until AS is_over_24h,
        is_promised AND ended_at + INTERVAL 7 DAY <= known_until AS is_final,
        age >= 6 AND is_over AS is_whole_week
    FROM ages
)
SELECT
    v.account, v.date,
    inbound_count, outbound_count, automated_count, unknown_count,
    active_conversation_count, active_customer_count, new_customer_count,
    active_customer_count - new_customer_count AS returning_customer_count,
    greatest(0, least(28, age)) AS history_days,
    coalesce(session_count, 0) AS session_count,
    coalesce(judged_session_count, 0) AS judged_session_count,
    coalesce(answered_session_count, 0) AS answered_session_count,
    if(is_promised, median_first_response_seconds, NULL) AS median_first_response_seconds,
    if(is_promised, p90_first_response_seconds, NULL) AS p90_first_response_seconds,
    if(is_promised AND is_over_1h, share_answered_1h, NULL) AS share_answered_1h,
    if(is_promised AND is_over_24h, share_answered_24h, NULL) AS share_answered_24h,
    backlog_count,
    text_count, media_count, share_count, story_count,
    inbound_count + outbound_count + unknown_count - text_count - media_count - share_count - story_count AS other_count,
    reaction_count,
    judged_count AS responsiveness_judged_count, unsure_count AS responsiveness_unsure_count,
    if(is_whole_week, rate, NULL) AS responsiveness_rate,
    if(is_whole_week, median_seconds, NULL) AS responsiveness_seconds,
    if(is_whole_week, is_very_responsive, NULL) AS is_very_responsive,
    'meta-badge-2016.1' AS responsiveness_version,
    unknown_count + unsure_automated_count + unsure_backlog_count > 0 OR NOT is_over OR NOT is_promised
        OR age * INTERVAL 1 DAY < $edge::INTERVAL AS is_lower_bound,
    unsure_backlog_count > 0 OR age < 28 AS is_backlog_lower_bound,
    is_promised, is_over, is_final
FROM volume AS v
JOIN customers USING (account, date)
JOIN waiting USING (account, date)
JOIN responsiveness USING (account, date)
JOIN aged USING (account, date)
LEFT JOIN responses USING (account, date)
ORDER BY v.account, v.date
