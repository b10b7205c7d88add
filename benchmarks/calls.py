"""Count the calls of a night, compared with the simple script.

    python -m benchmarks.calls [--conversations 500] [--messages 5000]

The inbox was read until the evening. During the night many conversations become active; a tenth of
them gets 40 messages, more than the 20 that are nested. As many older conversations stay idle. The
calls are counted at the server, over HTTP:

- `night`: the nightly run, which also asks for the account's id, lists the first page again and
  tests the rule of the newest 20; goal: the calls of the script + 4;
- `idle`: a capture and a window run when nothing is new; goal: at most 3;
- `refused`: the nightly run if the server refuses all nested calls; goal: at most 1.1 calls per
  active conversation;
- `unreadable`: a full listing with two unreadable conversations, found and then known.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from benchmarks.inbox_server import settings_for
from benchmarks.simple_script import Script
from convo_pipeline.base.clock import Clock
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import Account, World
from convo_pipeline.extract.account import Mode
from convo_pipeline.extract.run import AccountReport, extract
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings

EVENING = datetime(2026, 3, 10, 0, 30, tzinfo=UTC)
"""Time of the last run before the night."""
MORNING = EVENING + timedelta(days=1)
START = date(2026, 3, 1)
ONE_DAY = timedelta(days=1)
DEEP_MESSAGES = 40
ENVIRON = {"T": EMULATOR_TOKEN}


@dataclass(frozen=True)
class Night:
    """An inbox in the evening and its new messages until the morning."""

    conversations: int
    messages: int
    deep_every: int = 10

    def build(self, platform: str) -> World:
        """Return the world in the evening; `fill` adds the night."""
        world = World(VirtualClock(EVENING))
        account = world.add_account("night", "1234567890", platform)
        for number in range(2 * self.conversations):
            conversation = account.add_conversation(f"Customer {number}")
            conversation.add_messages(
                4, EVENING - timedelta(days=5) + number * timedelta(seconds=30)
            )
        return world

    def fill(self, world: World) -> None:
        """Add the night's messages at even intervals."""
        gap = ONE_DAY / (self.conversations + 1)
        active = list(world.accounts["night"].conversations.values())[-self.conversations :]
        for number, (conversation, count) in enumerate(zip(active, self._counts(), strict=True)):
            end = EVENING + (number + 1) * gap
            conversation.add_messages(count, end - timedelta(seconds=count), step_seconds=1)
        world.clock.set(MORNING)

    def _counts(self) -> Iterator[int]:
        """Yield the number of new messages of each conversation."""
        deep = self.conversations // self.deep_every
        count, rest = divmod(self.messages - deep * DEEP_MESSAGES, self.conversations - deep)
        for number in range(self.conversations):
            is_deep = number % self.deep_every == self.deep_every - 1
            is_larger = number - number // self.deep_every < rest
            yield DEEP_MESSAGES if is_deep else count + is_larger


@dataclass
class Inbox:
    """A served world and the lake with its stored messages."""

    server: EmulatorServer
    settings: Settings
    store: Store

    @property
    def account(self) -> Account:
        return self.server.world.accounts["night"]

    def run(self, mode: Mode, *, is_complete: bool = True) -> tuple[int, AccountReport]:
        """Extract; return the number of requests at the server, and the report."""
        before = len(self.server.log)
        clock = Clock(now=self.server.clock.now, sleep=lambda seconds: None)
        until = self.server.clock.now().date() + ONE_DAY
        since = START if mode == "window" else EVENING.date()
        [report] = extract(
            self.settings,
            self.store,
            ["night"],
            since,
            until,
            mode=mode,
            environ=ENVIRON,
            clock=clock,
        )
        assert not is_complete or report.outcome == "complete", report
        return len(self.server.log) - before, report

    def run_script(self, output: Path) -> int:
        script = Script(
            self.server.base_url,
            self.account.page_id,
            self.account.platform,
            EMULATOR_TOKEN,
            EVENING,
        )
        script.run(output)
        return script.calls


@contextmanager
def inbox(night: Night, platform: str) -> Iterator[Inbox]:
    """Serve an inbox after the night; the messages before the night are stored."""
    with EmulatorServer(night.build(platform)) as server, tempfile.TemporaryDirectory() as root:
        settings = settings_for(
            server.base_url,
            Path(root) / "lake",
            START,
            ["night"],
            platform=platform,
            first_page_id=server.world.accounts["night"].page_id,
        )
        store = Store(settings.store, Clock(now=server.clock.now))
        try:
            served = Inbox(server, settings, store)
            served.run("window")
            night.fill(server.world)
            yield served
        finally:
            store.close()


def count(night: Night, platform: str) -> None:
    with inbox(night, platform) as served, tempfile.TemporaryDirectory() as folder:
        script = served.run_script(Path(folder) / "messages.parquet")
        calls, report = served.run("nightly")
        print(
            f"{platform} night: {calls} calls, script {script} (goal <= {script + 4});"
            f" {dict(report.calls)}"
        )
        served.server.clock.advance(900)
        idle = {mode: served.run(mode)[0] for mode in ("capture", "window")}
        print(
            f"{platform} idle: {idle['capture']} calls of a capture,"
            f" {idle['window']} of a window (goal <= 3)"
        )
        again, _ = served.run("nightly")
        print(f"{platform} nightly again: {again} calls; it reads two days again for edits")
    with inbox(night, platform) as served:
        served.server.set_faults("nested_refused")
        calls, report = served.run("nightly")
        share = calls / night.conversations
        print(
            f"{platform} refused: {calls} calls, {share:.3f} a conversation (goal <= 1.1);"
            f" {dict(report.calls)}"
        )
    with inbox(night, platform) as served:
        usual = served.run("full")[1].calls["listing"]
        newest = list(served.account.conversations.values())[::-1]
        for index in (5, 33):
            newest[index].make_unreadable()
        reports = [served.run("full", is_complete=False)[1] for _ in range(2)]
        first, again = (report.calls["listing"] for report in reports)
        print(
            f"{platform} unreadable: {first} listing calls with two unreadable conversations,"
            f" {again} when they are known, {usual} without"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--messages", type=int, default=5_000)
    arguments = parser.parse_args()
    for platform in ("instagram", "messenger"):
        count(Night(arguments.conversations, arguments.messages), platform)


if __name__ == "__main__":
    main()
