"""Calls of a night against the simple script's: an inbox that was held until yesterday, and what came since.

    python -m benchmarks.calls [--conversations 500] [--messages 5000]

Of the conversations that were active a tenth has 40 new messages, so that their walk is deeper than the 20 that are
nested; below them lie as many that rest. Counted are requests at the server, over real HTTP:

- `night`: the nightly run, which asks who we are, reads the head again and confirms the rule of 20; goal: the script's + 4;
- `idle`: capture and window once more, nothing new: goal <= 3;
- `refused`: the same night from a server that refuses every nested call: goal <= 1.1 calls an active conversation.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from benchmarks.simple_script import Script
from convo_pipeline.base.clock import Clock
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import Account, World
from convo_pipeline.extract.account import Mode
from convo_pipeline.extract.run import AccountReport, extract
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings, parse_settings

EVENING = datetime(2026, 3, 10, 0, 30, tzinfo=UTC)
"""When the inbox was read last."""
MORNING = EVENING + timedelta(days=1)
START = date(2026, 3, 1)
ONE_DAY = timedelta(days=1)
DEEP_MESSAGES = 40
ENVIRON = {"T": EMULATOR_TOKEN}


@dataclass(frozen=True)
class Night:
    """An inbox on the evening and what comes until the morning."""

    conversations: int
    messages: int
    deep_every: int = 10

    def build(self, platform: str) -> World:
        """Return the world on the evening; `fill` lets the night pass."""
        world = World(VirtualClock(EVENING))
        account = world.add_account("night", "1234567890", platform)
        for number in range(2 * self.conversations):
            conversation = account.add_conversation(f"Customer {number}")
            conversation.add_messages(
                4, EVENING - timedelta(days=5) + number * timedelta(seconds=30)
            )
        return world

    def fill(self, world: World) -> None:
        """Let the night's messages come, evenly."""
        gap = ONE_DAY / (self.conversations + 1)
        active = list(world.accounts["night"].conversations.values())[-self.conversations :]
        for number, (conversation, count) in enumerate(zip(active, self._counts(), strict=True)):
            end = EVENING + (number + 1) * gap
            conversation.add_messages(count, end - timedelta(seconds=count), step_seconds=1)
        world.clock.set(MORNING)

    def _counts(self) -> Iterator[int]:
        """Yield how many messages each conversation gets."""
        deep = self.conversations // self.deep_every
        each, more = divmod(self.messages - deep * DEEP_MESSAGES, self.conversations - deep)
        for number in range(self.conversations):
            is_deep = number % self.deep_every == self.deep_every - 1
            yield DEEP_MESSAGES if is_deep else each + (number - number // self.deep_every < more)


@dataclass
class Inbox:
    """A served world and the lake that was made of it so far."""

    server: EmulatorServer
    settings: Settings
    store: Store

    @property
    def account(self) -> Account:
        return self.server.world.accounts["night"]

    def run(self, mode: Mode) -> tuple[int, AccountReport]:
        """Extract; return the calls that reached the server, and the report."""
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
        assert report.outcome == "complete", report
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
    """Serve an inbox whose past is in the lake and whose night is over."""
    with EmulatorServer(night.build(platform)) as server, tempfile.TemporaryDirectory() as root:
        settings = parse_settings(
            f'[graph]\nbase_url = "{server.base_url}"\ncalls_per_second = 10000\n[store]\nroot = "{root}/lake"\n'
            f'[[accounts]]\nname = "night"\npage_id = "{server.world.accounts["night"].page_id}"\n'
            f'platform = "{platform}"\ntoken_env = "T"\nstart_date = "{START}"\n'.encode()
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
            f"{platform} night: {calls} calls, script {script} (goal <= {script + 4}); {dict(report.calls)}"
        )
        served.server.clock.advance(900)
        idle = {mode: served.run(mode)[0] for mode in ("capture", "window")}
        print(
            f"{platform} idle: {idle['capture']} calls of a capture, {idle['window']} of a window (goal <= 3)"
        )
        again, _ = served.run("nightly")
        print(
            f"{platform} nightly again: {again} calls; it reads what was active in the last two days for edits"
        )
    with inbox(night, platform) as served:
        served.server.set_faults("nested_refused")
        calls, report = served.run("nightly")
        each = calls / night.conversations
        print(
            f"{platform} refused: {calls} calls, {each:.3f} a conversation (goal <= 1.1); {dict(report.calls)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--messages", type=int, default=5_000)
    given = parser.parse_args()
    for platform in ("instagram", "messenger"):
        count(Night(given.conversations, given.messages), platform)


if __name__ == "__main__":
    main()
