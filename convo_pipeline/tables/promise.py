"""What an account's runs promise. A value; who reads it from the run ledger is `state/state.py`."""

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class Promise:
    """Everything that was sent from the UTC day `since` up to `until` is held, each message or at least its id.

    Older messages are held only where they came along with newer ones: whatever is counted of them is too small.
    """

    since: date
    until: datetime
