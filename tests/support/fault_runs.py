"""Run one listing of an emulated inbox with faults, and return its results."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.secrets import Credentials
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.fault import Fault
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import Account, World
from convo_pipeline.errors import ConvoError
from convo_pipeline.graph.client import Endpoint, GraphClient
from convo_pipeline.graph.listing import ListedPage, Listing, ListingSummary
from convo_pipeline.graph.page_size import PageSizePolicy
from convo_pipeline.graph.rate_limit import NO_LIMIT, CallBudget

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
PASSING = [
    ("A4", "reset"), ("A5", "reset_mid_body"), ("A5", "short_body"), ("A6", "no_length"),
    ("A6", "truncated_json"), ("A7", "endless_chunks"), ("A8", "cut_at_edge"), ("A9", "gzip_cut"),
    ("A9", "gzip_bad_crc"), ("A9", "gzip_garbage"), ("A11", "html_200"), ("A12", "empty_body"),
    ("A12", "no_content"), ("A13", "bad_utf8"), ("A13", "latin1"), ("A14", "nan"),
    ("A14", "duplicate_keys"), ("A14", "deep_nesting"), ("A15", "server_error"),
    ("A15", "transient"), ("A15", "unknown_error"),
]  # fmt: skip
"""Faults of HTTP and the network that a retry repairs."""


def make_inbox(conversations: int = 130, messages: int = 2, platform: str = "instagram") -> Account:
    """An account whose conversations were active one every ten minutes, the newest an hour ago."""
    account = World(VirtualClock(NOW)).add_account("bakery", "1000000000000017", platform)
    for number in range(conversations):
        conversation = account.add_conversation(f"Ada {number}")
        conversation.add_messages(messages, NOW - timedelta(minutes=60 + 10 * number), 1.0)
    return account


@dataclass
class Outcome:
    """What one listing brought and cost."""

    account: Account
    server: EmulatorServer
    client: GraphClient
    summary: ListingSummary
    pages: list[ListedPage]
    error: ConvoError | None
    sleeps: list[float] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, object]]:
        rows = [row.to_json() for page in self.pages for row in page.rows]
        return [row for row in rows if isinstance(row, dict)]

    @property
    def ids(self) -> list[object]:
        return [row.get("id") for row in self.rows]

    @property
    def is_complete(self) -> bool:
        """Every conversation was listed once or more, with its messages, and nothing went wrong."""
        with_messages = {row.get("id") for row in self.rows if "messages" in row}
        return (
            with_messages == set(self.account.conversations)
            and self.error is None
            and not self.summary.cuts
        )


def list_inbox(
    faults: Sequence[Fault | str] = (),
    *,
    account: Account | None = None,
    switches: Switches | None = None,
    since: datetime = NOW - timedelta(days=365),
    timeout_seconds: float = 5.0,
    tls: tuple[str, str] | None = None,
    calls: int = 500,
) -> Outcome:
    """List the whole inbox once; sleeping lets the emulator's time pass instead."""
    account = account or make_inbox()
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        account.world.clock.advance(seconds)

    clock = Clock(account.world.clock.now, lambda: time.monotonic() + sum(sleeps), sleep)
    with EmulatorServer(account.world, switches, faults=faults, tls=tls) as server:
        endpoint = Endpoint(
            server.base_url,
            "v26.0",
            account.page_id,
            account.platform,
            timeout_seconds=timeout_seconds,
        )
        credentials = Credentials(EMULATOR_TOKEN)
        with GraphClient(
            endpoint, credentials, NO_LIMIT, budget=CallBudget(calls), clock=clock
        ) as client:
            policy = PageSizePolicy(account.platform, clock.now().date())
            listing = Listing(client, policy, since=since)
            pages: list[ListedPage] = []
            error: ConvoError | None = None
            try:
                pages.extend(listing.pages())
            except ConvoError as caught:
                error = caught
            return Outcome(account, server, client, listing.summary, pages, error, sleeps)
