"""Measure the peak memory of a whole run: 100,000 and 1,000,000 messages, and a single large day.

    python -m benchmarks.memory [--scale 1.0]

Each figure is the largest resident size of a separate process. `--scale` makes all inboxes smaller.
"""

import argparse
from dataclasses import dataclass

from benchmarks.bulk import measure
from benchmarks.inbox_server import inbox_server

MESSAGES_EACH = 20


@dataclass(frozen=True)
class Inbox:
    """An inbox, and the peak memory that reading it may need."""

    messages: int
    days: float
    limit_mb: int


INBOXES = (Inbox(100_000, 9, 600), Inbox(1_000_000, 90, 600), Inbox(200_000, 1, 1_000))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    scale = parser.parse_args().scale
    for inbox in INBOXES:
        conversations = int(inbox.messages * scale) // MESSAGES_EACH
        with inbox_server(conversations, MESSAGES_EACH, inbox.days) as server:
            _, _, peak, printed = measure("pipeline", server.base_url, inbox.days)
        print(
            f"{conversations * MESSAGES_EACH:>9,} messages over {inbox.days:g} days:"
            f" peak {peak:.0f} MB (goal <= {inbox.limit_mb} MB); {printed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
