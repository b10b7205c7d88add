"""SQL of the views `inbox`, `conversations` and `participants`.

They join and aggregate the tables. This module runs no query.
"""

from convo_pipeline.query.response_times import response_time_views
from convo_pipeline.query.sources import Source, select_nothing
from convo_pipeline.schema import CONVERSATION_DAYS, MESSAGES, PARTICIPANT_DAYS, Table
from convo_pipeline.settings import MetricsSettings

_SUMS = ("message_count", "inbound_count", "outbound_count", "detailed_count")


def _newest(table: Table, skipped: tuple[str, ...] = ()) -> list[str]:
    """Return one SQL expression per column: its value on the newest day on which it is not null."""
    names = [name for name in table.column_names if name not in (*table.key, *skipped)]
    return [f"arg_max({name}, date) AS {name}" for name in names]


def conversations() -> str:
    """Return SQL with one row per conversation.

    A field has its newest value. The counts cover all days.
    """
    columns = [
        *_newest(CONVERSATION_DAYS, ("first_message_at", "last_message_at", *_SUMS)),
        "min(first_message_at) AS first_message_at",
        "max(last_message_at) AS last_message_at",
        *(f"sum({name})::BIGINT AS {name}" for name in _SUMS),
    ]
    return _latest(CONVERSATION_DAYS, columns)


def participants() -> str:
    """Return SQL with one row per conversation and participant. A field has its newest value."""
    return _latest(PARTICIPANT_DAYS, _newest(PARTICIPANT_DAYS))


def _latest(table: Table, columns: list[str]) -> str:
    key = ", ".join(["account", *table.key])
    values = ", ".join([*columns, "min(date) AS first_date", "max(date) AS last_date"])
    return f"SELECT {key}, {values} FROM {table.name} GROUP BY {key}"  # noqa: S608 - names of the schema


ACCOUNTS = """
SELECT
    account, platform, page_id, own_id, own_username, timezone, business_hours,
    try_cast(start_date AS DATE) AS start_date,
    session_gap_hours, automated_reply_seconds, presence_minutes
FROM internal.accounts
"""
ACCOUNT_HISTORY = """
WITH changes AS (
    SELECT
        account, started_at AS since, settings,
        lag(settings) OVER (PARTITION BY account ORDER BY started_at, run_id) AS previous
    FROM runs WHERE settings <> '{}'
)
SELECT
    account, since, settings ->> 'timezone' AS timezone,
    settings ->> 'business_hours' AS business_hours, settings
FROM changes WHERE settings IS DISTINCT FROM previous
"""

INBOX = """
SELECT
    m.account, m.date, m.created_at, m.direction,
    c.customer_id,
    coalesce(p.name, c.customer_name) AS customer_name,
    coalesce(p.username, c.customer_username) AS customer_username,
    p.email AS customer_email,
    m.text, m.content_type,
    m.* EXCLUDE (account, date, created_at, direction, text, content_type),
    c.page_id, c.folder
FROM messages AS m
LEFT JOIN conversations AS c
    ON c.account = m.account AND c.conversation_id = m.conversation_id
LEFT JOIN participants AS p
    ON p.account = m.account AND p.conversation_id = m.conversation_id
    AND p.participant_id = c.customer_id
"""


def table_select(source: Source, table: Table, *, has_files: bool) -> str:
    """Return SQL of a table's view; `messages` has local times too."""
    select = source.select(table) if has_files else select_nothing(table)
    if table is not MESSAGES:
        return select
    return f"""
        SELECT
            m.*, internal.local_time(m.created_at, a.timezone) AS created_at_local,
            created_at_local::DATE AS local_date
        FROM ({select}) AS m LEFT JOIN internal.accounts AS a ON a.account = m.account
    """  # noqa: S608 - the SELECT of the source


def views() -> dict[str, str]:
    """Return the SQL of every view, by name. A view comes after the views that it reads."""
    return {
        "accounts": ACCOUNTS,
        "account_history": ACCOUNT_HISTORY,
        "conversations": conversations(),
        "participants": participants(),
        "inbox": INBOX,
    }


def joining_statements(defaults: MetricsSettings) -> list[str]:
    """Return the statements that create all views but those of the tables, in order.

    `defaults` are for accounts whose settings the lake does not have.
    """
    statements = [f"CREATE VIEW {name} AS {sql}" for name, sql in views().items()]
    return statements + response_time_views(defaults)
