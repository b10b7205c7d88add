"""The rules for sessions, turns and automated replies, as SQL. docs/metrics.md defines them.

The views of `response_times` and the query of `account_days` use these macros.
"""

from datetime import timedelta

AUTOMATED_REPLY_SECONDS = 5
"""A reply this soon after the customer began to write is automated."""
REPEATED_TEXT_CONVERSATIONS = 5
REPEATED_TEXT_CHARACTERS = 20
"""A text is automated if it has at least this many characters and was sent to at least this many
conversations on one day."""

REPEATED_TEXTS = f"""
    SELECT {{keys}}, text FROM messages
    WHERE direction = 'outbound' AND length(text) >= {REPEATED_TEXT_CHARACTERS}
    GROUP BY ALL HAVING count(DISTINCT conversation_id) >= {REPEATED_TEXT_CONVERSATIONS}
"""  # noqa: S608 - constants
"""The repeated texts of each day; `keys` are the columns that name the account and the day."""


def rule_statements(session_gap_hours: float) -> list[str]:
    """Return the statements that create the macros, in the schema `internal`.

    A message of unknown direction (null) can be from the customer. So the start of the customer's
    turn has two limits. The earliest is the start of the stretch of messages that are not ours. The
    latest is the newest message that can begin a turn.
    """
    return [
        "CREATE SCHEMA internal",
        f"""CREATE MACRO internal.begins_session(created_at, previous_at) AS
            coalesce(created_at - previous_at >= {session_gap(session_gap_hours)}, true)""",
        """CREATE MACRO internal.begins_turn(direction, previous, begins_session) AS
            coalesce(direction = 'inbound', false)
                AND (previous IS DISTINCT FROM 'inbound' OR begins_session)""",
        """CREATE MACRO internal.may_begin_turn(direction, previous, begins_session) AS
            direction IS DISTINCT FROM 'outbound'
                AND (previous IS DISTINCT FROM 'inbound' OR begins_session)""",
        """CREATE MACRO internal.begins_stretch(direction, previous, begins_session) AS
            direction IS DISTINCT FROM 'outbound' AND (previous = 'outbound' OR begins_session)""",
        f"""CREATE MACRO internal.is_fast_reply(created_at, turn_began_at) AS
            coalesce(created_at - turn_began_at <= to_seconds({AUTOMATED_REPLY_SECONDS}), false)""",
    ]


def session_gap(hours: float) -> str:
    """Return the silence that ends a session, as an SQL interval.

    >>> session_gap(1.5)
    'to_microseconds(5400000000)'
    """
    return f"to_microseconds({timedelta(hours=hours) // timedelta(microseconds=1)})"
