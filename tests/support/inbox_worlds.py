"""Small worlds for tests of whole runs: three days, two accounts, few messages."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.world import World
from convo_pipeline.settings import Settings, StoreSettings, parse_settings

PAGES = (
    ("bakery-instagram", "1234567890", "instagram"),
    ("bikes-messenger", "9876543210", "messenger"),
)
CONFIG = """
[graph]
base_url = "{url}"
calls_per_second = 1000
[store]
root = "{root}"
"""
ACCOUNT = """
[[accounts]]
name = "{name}"
page_id = "{page_id}"
platform = "{platform}"
token_env = "{token_env}"
start_date = "{start}"
"""
TOKENS = {"BAKERY_INSTAGRAM_TOKEN": EMULATOR_TOKEN, "BIKES_MESSENGER_TOKEN": EMULATOR_TOKEN}


@dataclass(frozen=True)
class Days:
    """The three days before today, each with messages."""

    today: date

    @property
    def start(self) -> date:
        return self.today - timedelta(days=5)

    def __getitem__(self, number: int) -> date:
        return self.today - timedelta(days=3 - number)


def three_days() -> Days:
    return Days(datetime.now(UTC).date())


def small_world(days: Days) -> World:
    """Return a world where day n has n + 1 new conversations in each account.

    A conversation has two messages on Instagram, three on Messenger.
    """
    world = World()
    for name, page_id, platform in PAGES:
        account = world.add_account(name, page_id, platform)
        each = 2 if platform == "instagram" else 3
        for number in range(3):
            for index in range(number + 1):
                conversation = account.add_conversation(f"Ada {number}{index}")
                noon = datetime.combine(days[number], time(12, index), tzinfo=UTC)
                conversation.add_messages(each, noon, step_seconds=10)
    return world


def is_at_work(settings: StoreSettings, account: str) -> bool:
    """Return whether a run holds the account's lock.

    The lock is looked up, not tried, so that a run that starts now does not find it taken.
    """
    file = settings.state_path / "locks" / f"account-{account}.lock"
    if not file.exists():
        return False
    inode = str(file.stat().st_ino)
    held = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(inode == fields[5].rpartition(":")[2] for fields in held if fields[1] == "FLOCK")


def message_counts(days: Days) -> dict[str, int]:
    """Rows of `messages` per partition key."""
    return {
        f"{name}|{days[number]}": (number + 1) * each
        for (name, _, _), each in zip(PAGES, (2, 3), strict=True)
        for number in range(3)
    }


def write_config(
    folder: Path, server: EmulatorServer, start: date, root: Path | None = None
) -> Path:
    """Write a configuration whose accounts the server answers."""
    text = CONFIG.format(url=server.base_url, root=root or folder / "lake")
    for name, page_id, platform in PAGES:
        token_env = name.upper().replace("-", "_") + "_TOKEN"
        text += ACCOUNT.format(
            name=name, page_id=page_id, platform=platform, token_env=token_env, start=start
        )
    file = folder / "convo.toml"
    file.write_text(text)
    return file


def small_settings(folder: Path, server: EmulatorServer, start: date) -> Settings:
    return parse_settings(write_config(folder, server, start).read_bytes())
