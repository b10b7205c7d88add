"""Time range in which all messages of an account are stored."""

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class CompleteRange:
    """The id of each message sent from the UTC day `since` up to `until` is stored.

    Some older messages are stored too: the API returned them together with newer ones. So a count
    of older messages is too small.
    """

    since: date
    until: datetime
