"""Serve a large inbox in a separate process, so that its CPU time is not the client's.

with inbox_server(conversations=5_000, messages_each=20, days=90) as server: ...
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bulk_inbox import BulkApi, BulkShape
from convo_pipeline.emulator.serve import EmulatorServer

if TYPE_CHECKING:
    from convo_pipeline.settings import Settings

PAGE_ID = "9876543210"
NO_LIMIT = 10_000
CACHED_BYTES = 64 * 1024 * 1024
"""Cached responses: benchmarks measure the client, not the server."""


@dataclass(frozen=True)
class InboxServer:
    """Address of the server, and CPU seconds of its process."""

    base_url: str
    process_id: int

    def cpu_seconds(self) -> float:
        ticks = Path(f"/proc/{self.process_id}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(ticks[11]) + int(ticks[12])) / 100


@contextmanager
def inbox_server(
    conversations: int,
    messages_each: int,
    days: float,
    latency_seconds: float = 0.0,
    deep_messages: int = 0,
) -> Iterator[InboxServer]:
    """Start the server, yield its address, and stop it.

    Every tenth conversation has `deep_messages` messages, the others have `messages_each`.
    """
    numbers = [
        str(number)
        for number in (conversations, messages_each, days, latency_seconds, deep_messages)
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inbox_server", *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield InboxServer(process.stdout.readline().strip(), process.pid)
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def settings_for(
    base_url: str,
    root: Path,
    start: date,
    names: Sequence[str] = ("bulk",),
    *,
    platform: str = "messenger",
    calls_per_second: float = NO_LIMIT,
    first_page_id: str = PAGE_ID,
) -> "Settings":
    """Return settings for accounts of these names whose page ids count up from the first."""
    from convo_pipeline.settings import parse_settings  # the simple script does not pay for it

    text = (
        f'[graph]\nbase_url = "{base_url}"\ncalls_per_second = {calls_per_second}\n'
        f'[store]\nroot = "{root}"\n'
    )
    for number, name in enumerate(names):
        text += (
            f'[[accounts]]\nname = "{name}"\npage_id = "{int(first_page_id) + number}"\n'
            f'platform = "{platform}"\ntoken_env = "T"\nstart_date = "{start}"\n'
        )
    return parse_settings(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("conversations", "messages_each", "days", "latency_seconds", "deep_messages"):
        parser.add_argument(name, type=float)
    arguments = parser.parse_args()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    shape = BulkShape(
        int(arguments.conversations),
        int(arguments.messages_each),
        arguments.days,
        until=midnight - timedelta(seconds=1),
        deep_messages=int(arguments.deep_messages),
    )
    with EmulatorServer(
        api=BulkApi(shape, CACHED_BYTES), latency_seconds=arguments.latency_seconds
    ) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
