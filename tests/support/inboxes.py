"""An emulated inbox and a store for it: what the tests of the whole chain stand on."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from convo_pipeline.base.clock import Clock
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.emulator.clock import VirtualClock
from convo_pipeline.emulator.serve import EMULATOR_TOKEN, EmulatorServer
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import Account, World
from convo_pipeline.extract.run import AccountReport, Progress, extract
from convo_pipeline.lake.partitions import Commit
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import Settings, parse_settings

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
START = date(2026, 3, 1)
TOKEN_VARIABLE = "INBOX_TOKEN"


def stopped_clock(clock: VirtualClock) -> Clock:
    """A client's clock that shows the server's time and sleeps without waiting."""
    return Clock(now=clock.now, sleep=lambda seconds: None)


@dataclass
class Inboxes:
    """A running emulator, settings that point to it, and an empty store."""

    server: EmulatorServer
    settings: Settings
    store: Store
    environ: dict[str, str]

    @property
    def world(self) -> World:
        return self.server.world

    @property
    def clock(self) -> VirtualClock:
        return self.world.clock

    @property
    def names(self) -> list[str]:
        return [account.name for account in self.settings.accounts]

    def extract(
        self,
        since: date = START,
        until: date | None = None,
        accounts: Iterable[str] = (),
        mode: str = "window",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> list[AccountReport]:
        """Extract; by default all accounts from the start to today."""
        return extract(
            self.settings,
            self.store,
            list(accounts) or self.names,
            since,
            until or self.clock.now().date() + timedelta(days=1),
            mode=mode,  # type: ignore[arg-type]
            on_progress=on_progress,
            environ=self.environ,
            clock=stopped_clock(self.clock),
        )

    def extract_whole(self, since: date = START) -> list[AccountReport]:
        """Extract all and derive; every account must be complete."""
        reports = self.extract(since)
        assert [(report.outcome, report.reasons, report.error) for report in reports] == [
            ("complete", (), None)
        ] * len(reports)
        self.derive()
        return reports

    def derive(self) -> list[Commit]:
        return [
            commit
            for name in self.names
            for day in stale_days(self.store, name)
            for commit in derive_day(self.store, name, day)
        ]

    def rows(self, table: str, account: str | None = None) -> list[dict[str, object]]:
        """All rows of a table, with account and date."""
        found = []
        for name in [account] if account else self.names:
            for day in self.store.days(table, name):
                content: pa.Table = self.store.read(table, name, day)
                found += [{"account": name, "date": day, **row} for row in content.to_pylist()]
        return found

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Every table file: its bytes and when it was written, by its path below the root."""
        root = Path(self.store.root)
        paths = root.glob("*/account=*/date=*/data.parquet")
        return {
            str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in paths
        }


def small_world() -> World:
    """Two empty accounts, the clock stopped at NOW."""
    world = World(VirtualClock(NOW))
    world.add_account("insta", "1111111111", "instagram")
    world.add_account("mess", "2222222222", "messenger")
    return world


@contextmanager
def serve(
    root: Path,
    world: World,
    switches: Switches | None = None,
    *,
    start: date = START,
    **graph: object,
) -> Iterator[Inboxes]:
    """Serve a world; its accounts become the settings'."""
    with EmulatorServer(world, switches) as server:
        settings = settings_for(world.accounts.values(), server.base_url, root, start, **graph)
        store = Store(settings.store, stopped_clock(world.clock))
        try:
            yield Inboxes(server, settings, store, {TOKEN_VARIABLE: EMULATOR_TOKEN})
        finally:
            store.close()


def settings_for(
    accounts: Iterable[Account],
    base_url: str,
    root: Path,
    start: date = START,
    *,
    node: str | None = None,
    **graph: object,
) -> Settings:
    """Return settings of accounts; `node` replaces their Page's ids, as `me` does."""
    entries = "\n".join(
        f'[[accounts]]\nname = "{account.name}"\npage_id = "{node or account.page_id}"\n'
        f'platform = "{account.platform}"\ntoken_env = "{TOKEN_VARIABLE}"\nstart_date = "{start}"\n'
        for account in accounts
    )
    options = {"base_url": base_url, "calls_per_second": 1000, **graph}
    lines = "\n".join(
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
        for key, value in options.items()
    )
    return parse_settings(f'[graph]\n{lines}\n[store]\nroot = "{root}"\n{entries}'.encode())


def reopened(inboxes: Inboxes, root: Path) -> Inboxes:
    """The same server with an empty store at another root."""
    settings = inboxes.settings.model_copy(
        update={
            "store": inboxes.settings.store.model_copy(update={"root": str(root), "state_dir": ""})
        }
    )
    return replace(
        inboxes, settings=settings, store=Store(settings.store, stopped_clock(inboxes.clock))
    )
