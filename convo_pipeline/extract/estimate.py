"""What fetching an account's whole inbox will cost, told from one page of it.

The page shows up to 50 conversations, the newest first, each with the times of its newest 20 messages. How many there
are behind it is not told by the API: where the page is not the whole inbox, as many a day are expected down to the
start date as the page holds. A conversation is listed once, on the day of its last activity, so that is rather too
many. A conversation that goes on beyond the 20 needs a call of its own, more if it has over a hundred older messages,
which no page tells; that is rather too few.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import read_credentials
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
TIMES = f"id,updated_time,messages.limit({READABLE_COUNT}){{id,created_time}}"
OTHER_CALLS = 2
"""Who we are, and the head of the listing once more."""


@dataclass(frozen=True)
class Seen:
    """A listed conversation: when it was last active, and whether older messages are wanted than came with it."""

    updated_us: int | None
    is_deeper: bool


@dataclass(frozen=True)
class Estimate:
    """How many conversations, and how many calls they take; `is_whole`: the page showed them all."""

    conversation_count: int
    call_count: int
    is_whole: bool

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.conversation_count + other.conversation_count,
            self.call_count + other.call_count,
            self.is_whole and other.is_whole,
        )


NOTHING = Estimate(0, 0, is_whole=True)


def estimate_calls(page: Sequence[Seen], since_us: int, now_us: int, *, is_last: bool) -> Estimate:
    """Work out the calls for everything since a time from the newest page.

    >>> from convo_pipeline.base.times import DAY_US as day
    >>> estimate_calls([Seen(9 * day, True), Seen(8 * day, False)], 0, 10 * day, is_last=False)
    Estimate(conversation_count=10, call_count=6, is_whole=False)
    """
    times = [seen.updated_us for seen in page if seen.updated_us is not None]
    is_whole = is_last or not times or min(times) < since_us
    wanted = [seen for seen in page if seen.updated_us is None or seen.updated_us >= since_us]
    count = len(wanted)
    if not is_whole:
        span_us = max(now_us - min(times), SECOND_US)
        count = max(count, round(count * (now_us - since_us) / span_us))
    deep_share = sum(seen.is_deeper for seen in wanted) / len(wanted) if wanted else 0.0
    return Estimate(count, math.ceil(count / PAGE) + round(count * deep_share), is_whole)


def fetch_estimate(
    settings: Settings,
    store: Store,
    account: AccountSettings,
    environ: Mapping[str, str],
    clock: Clock,
) -> Estimate:
    """Ask for one page a folder and estimate what everything since the start date takes; raises ConvoErrors."""
    total = Estimate(0, OTHER_CALLS, is_whole=True)
    since_us = day_start_us(account.start_date)
    with open_client(settings, store, account, read_credentials(account, environ), clock) as client:
        for folder in account.folders:
            page = _fetch_newest(client, folder)
            seen = [_seen(row, since_us) for row in page.rows if isinstance(row.payload, dict)]
            total += estimate_calls(
                seen, since_us, to_us(page.server_time), is_last=page.after is None
            )
    return total


def _fetch_newest(client: GraphClient, folder: str) -> ConversationPage:
    """Return the newest page; without messages where they cannot be nested."""
    try:
        return client.fetch_conversations(TIMES, PAGE, folder=folder)
    except (TooMuchDataError, UnknownFieldError):
        return client.fetch_conversations("id,updated_time", PAGE, folder=folder)


def _seen(row: ConversationRow, since_us: int) -> Seen:
    nested = row.messages
    oldest = nested.rows[-1] if nested.rows else None
    oldest_us = parse_time_us(oldest.get("created_time")) if isinstance(oldest, dict) else None
    is_deeper = (
        nested.after is not None
        and row.malformed_messages is None
        and (oldest_us is None or oldest_us >= since_us)
    )
    updated_time = row.payload.get("updated_time") if isinstance(row.payload, dict) else None
    return Seen(parse_time_us(updated_time), is_deeper)
