"""The range of time of which all messages of an account are stored. A value."""

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class CompleteRange:
    """Every message sent from the UTC day `since` up to `until` is stored, or at least its id.

    Some older messages are stored too: those that the API returned together with newer ones.
    A count of older messages is therefore too small.
    """

    since: date
    until: datetime
