"""The rules for sessions, turns, automated replies and business time, as SQL.

docs/metrics.md defines them. The views of `response_times` and the query of `account_days` use
these macros.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Self

from convo_pipeline.query.accounts import account_row
from convo_pipeline.settings import Settings, parse_business_hours

LOOKBACK_DAYS = 28
"""A customer waits for at most so many days. A later message is a new question."""


@dataclass(frozen=True)
class ReplyRules:
    """The settings of one account that its figures depend on; see `[metrics]`."""

    session_gap_hours: float = 24
    automated_reply_seconds: float = 5
    presence_minutes: float = 60
    timezone: str | None = None
    business_hours: str | None = None

    @classmethod
    def of(cls, settings: Settings, name: str, stored: Mapping[str, Any] | None = None) -> Self:
        """Return the rules of an account.

        `stored` are the settings that the lake holds of an account without configuration.
        """
        configured = [settings.describe(each) for each in settings.accounts if each.name == name]
        row = account_row(name, configured[0] if configured else stored or {}, settings.metrics)
        return cls(**{each.name: row[each.name] for each in fields(cls)})

    @property
    def session_gap(self) -> timedelta:
        return timedelta(hours=self.session_gap_hours)

    def parameters(self) -> dict[str, object]:
        """Return the values of the rules as parameters of a query."""
        opens, closes, weekdays = (
            parse_business_hours(self.business_hours) if self.business_hours else (None, None, None)
        )
        return {
            "gap": self.session_gap,
            "quick": timedelta(seconds=self.automated_reply_seconds) or None,
            "presence": timedelta(minutes=self.presence_minutes),
            "zone": self.timezone,
            "opens": opens,
            "closes": closes,
            "weekdays": weekdays,
        }


DEFAULT_RULES = ReplyRules()
RULES = (
    "CREATE SCHEMA IF NOT EXISTS internal",
    """CREATE MACRO internal.begins_session(created_at, previous_at, gap) AS
        coalesce(created_at - previous_at >= gap, true)""",
    """CREATE MACRO internal.begins_turn(direction, previous, begins_session) AS
        coalesce(direction = 'inbound', false)
            AND (previous IS DISTINCT FROM 'inbound' OR begins_session)""",
    """CREATE MACRO internal.begins_stretch(direction, previous, begins_session) AS
        direction IS DISTINCT FROM 'outbound' AND (previous = 'outbound' OR begins_session)""",
    """CREATE MACRO internal.is_quick(created_at, asked_at, quick) AS
        coalesce(created_at - asked_at <= quick, false)""",
    """CREATE MACRO internal.reply_kind(
        created_at, turn_began_at, inbound_at, unread_at, presence_at, quick, presence
    ) AS CASE
        WHEN NOT internal.is_quick(created_at, greatest(inbound_at, unread_at), quick) THEN 'human'
        WHEN coalesce(created_at - presence_at <= presence, false) THEN 'human'
        WHEN internal.is_quick(created_at, turn_began_at, quick)
            AND NOT coalesce(created_at - unread_at <= presence + quick, false) THEN 'automated'
        ELSE 'unsure'
    END""",
    """CREATE MACRO internal.local_time(moment, zone) AS timezone(zone, moment)""",
    """CREATE MACRO internal.is_open(wall, opens, closes, weekdays) AS
        list_contains(weekdays, isodow(wall) - 1)
            AND epoch(wall::TIME) >= opens AND epoch(wall::TIME) < closes""",
    """CREATE MACRO internal.open_microseconds(since, until, zone, opens, closes, day) AS
        greatest(0,
            least(epoch_us(until), epoch_us(timezone(zone, day + to_seconds(closes))))
            - greatest(epoch_us(since), epoch_us(timezone(zone, day + to_seconds(opens)))))""",
    """CREATE MACRO internal.business_seconds(since, until, zone, opens, closes, weekdays) AS
        if(weekdays IS NULL OR zone IS NULL OR since IS NULL OR until IS NULL, NULL,
            coalesce(list_sum(list_transform(
                list_filter(
                    generate_series(
                        timezone(zone, since)::DATE::TIMESTAMP,
                        timezone(zone, until)::DATE::TIMESTAMP,
                        INTERVAL 1 DAY
                    ),
                    lambda day: list_contains(weekdays, isodow(day) - 1)
                ),
                lambda day: internal.open_microseconds(since, until, zone, opens, closes, day)
            )), 0) / 1000000)""",
    """CREATE MACRO internal.seconds(since, until) AS
        (epoch_us(until) - epoch_us(since)) / 1000000""",
)
"""The statements that create the macros, in the schema `internal`.

`reply_kind` judges a message of ours. It is `automated` if it follows the customer's turn within
the time `quick`, and if no person of ours wrote within the time `presence`. It is `unsure` if it
quickly follows a later message of the turn, or if an unread message could change the result.
`turn_began_at` is the earliest possible start of the turn. `presence_at` is the newest message of
ours that was not quick. A null `quick` switches the detection off.

`business_seconds` counts elapsed time: an hour that a change of clocks repeats counts twice.
"""
