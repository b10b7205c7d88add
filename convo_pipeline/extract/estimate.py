"""Estimate how many API calls it takes to fetch an account's whole inbox, from one page of it.

The page shows up to 50 conversations, newest first, each with the times of its newest 20 messages.
The API does not tell how many conversations there are. If the page is not the whole inbox, the
estimate assumes the same number per day down to the start date. A conversation is listed once, on
the day of its last activity, so that is rather too many. A conversation with more than 20 messages
needs a call of its own, and more calls if over a hundred are older, which no page shows. That is
rather too few.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.times import SECOND_US, day_start_us, parse_time_us, to_us
from convo_pipeline.errors import TooMuchDataError, UnknownFieldError
from convo_pipeline.extract.account import open_client
from convo_pipeline.graph.client import GraphClient
from convo_pipeline.graph.page_size import LISTING_SIZES
from convo_pipeline.graph.responses import ConversationPage, ConversationRow
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import READABLE_COUNT
from convo_pipeline.settings import AccountSettings, Settings

PAGE = LISTING_SIZES[0].conversations
FIELDS = f"id,updated_time,messages.limit({READABLE_COUNT}){{id,created_time}}"
OTHER_CALLS = 2
"""The account's identity, and the re-listing."""


@dataclass(frozen=True)
class ListedActivity:
    """The last activity of a listed conversation; `has_older`: older messages are wanted too."""

    updated_us: int | None
    has_older: bool


@dataclass(frozen=True)
class Estimate:
    """Conversations and calls; `is_whole`: the page showed all conversations."""

    conversation_count: int
    call_count: int
    is_whole: bool

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.conversation_count + other.conversation_count,
            self.call_count + other.call_count,
            self.is_whole and other.is_whole,
        )


def estimate_calls(
    page: Sequence[ListedActivity], since_us: int, now_us: int, *, is_last: bool
) -> Estimate:
    """Estimate the calls for everything since a time, from the newest page.

    >>> from convo_pipeline.base.times import DAY_US as day
    >>> page = [ListedActivity(9 * day, True), ListedActivity(8 * day, False)]
    >>> estimate_calls(page, 0, 10 * day, is_last=False)
    Estimate(conversation_count=10, call_count=6, is_whole=False)
    """
    times = [listed.updated_us for listed in page if listed.updated_us is not None]
    is_whole = is_last or not times or min(times) < since_us
    wanted = [each for each in page if each.updated_us is None or each.updated_us >= since_us]
    count = len(wanted)
    if not is_whole:
        span_us = max(now_us - min(times), SECOND_US)
        count = max(count, round(count * (now_us - since_us) / span_us))
    share = sum(listed.has_older for listed in wanted) / len(wanted) if wanted else 0.0
    return Estimate(count, math.ceil(count / PAGE) + round(count * share), is_whole)


def fetch_estimate(
    settings: Settings,
    store: Store,
    account: AccountSettings,
    environ: Mapping[str, str],
    clock: Clock,
) -> Estimate:
    """Estimate the calls for everything since the account's start date; one call per folder.

    Raise a ConvoError if a call fails.
    """
    total = Estimate(0, OTHER_CALLS, is_whole=True)
    since_us = day_start_us(account.start_date)
    with open_client(settings, store, account, environ, clock) as client:
        for folder in account.folders:
            page = _fetch_newest(client, folder)
            rows = [row for row in page.rows if isinstance(row.payload, dict)]
            total += estimate_calls(
                [_read_activity(row, since_us) for row in rows],
                since_us,
                to_us(page.server_time),
                is_last=page.after is None,
            )
    return total


def _fetch_newest(client: GraphClient, folder: str) -> ConversationPage:
    """Return the newest page; without messages if they cannot be nested."""
    try:
        return client.fetch_conversations(FIELDS, PAGE, folder=folder)
    except (TooMuchDataError, UnknownFieldError):
        return client.fetch_conversations("id,updated_time", PAGE, folder=folder)


def _read_activity(row: ConversationRow, since_us: int) -> ListedActivity:
    nested = row.messages
    oldest = nested.rows[-1] if nested.rows else None
    oldest_us = parse_time_us(oldest.get("created_time")) if isinstance(oldest, dict) else None
    has_more = nested.after is not None and row.malformed_messages is None
    return ListedActivity(row.updated_us, has_more and (oldest_us is None or oldest_us >= since_us))
