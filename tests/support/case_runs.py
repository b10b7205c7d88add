"""Run the whole chain and the commands against one declared inbox (`case_server`)."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from convo_pipeline.base.clock import Clock
from convo_pipeline.cli import main
from convo_pipeline.derive.day import derive_day, stale_days
from convo_pipeline.extract.run import AccountReport, extract
from convo_pipeline.lake.store import Store
from convo_pipeline.query.connection import Connection, connect
from convo_pipeline.settings import Settings, parse_settings
from tests.support.case_server import CaseApi
from tests.support.graph_server import serving
from tests.support.paths import TESTS

ACCOUNT = "acc"
TOKEN_VARIABLE = "CASE_TOKEN"
CASES = {path.name[:2]: path for path in sorted((TESTS / "cases").glob("*.json"))}


def read_case(number: str) -> dict[str, Any]:
    return json.loads(CASES[number].read_text("utf-8"))


@dataclass
class CaseRun:
    """A served inbox, its lake and its configuration file."""

    api: CaseApi
    config: Path
    settings: Settings
    reports: list[AccountReport] = field(default_factory=list)
    on_time: Callable[[], None] = lambda: None
    """Called whenever the client reads its clock."""
    store_class: type[Store] = Store
    opened: ExitStack = field(default_factory=ExitStack)

    def extract(self, mode: str = "window") -> AccountReport:
        """Extract from the start to today and derive; the clock does not wait."""

        def now() -> datetime:
            self.on_time()
            return self.api.now

        clock = Clock(now=now, sleep=lambda seconds: None)
        store = self.store_class(self.settings.store, clock)
        try:
            until = self.api.now.date() + timedelta(days=1)
            start = self.settings.accounts[0].start_date
            (report,) = extract(
                self.settings,
                store,
                [ACCOUNT],
                start,
                until,
                mode=mode,  # type: ignore[arg-type]
                environ={TOKEN_VARIABLE: "EAAInvented"},
                clock=clock,
            )
            for day in stale_days(store, ACCOUNT):
                derive_day(store, ACCOUNT, day)
        finally:
            store.close()
        self.reports.append(report)
        return report

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self._connection.sql(statement).fetchall()

    @cached_property
    def _connection(self) -> Connection:
        return self.opened.enter_context(connect(self.settings.store.root))

    def run(self, *words: str) -> Result:
        """Run a command as a user types it."""
        return CliRunner().invoke(
            main, ["--config", str(self.config), *words], env={TOKEN_VARIABLE: "EAAInvented"}
        )

    def paths(self) -> list[str]:
        """Return the path of every call so far."""
        return [self.api.path(call) for call in self.api.calls]


@contextmanager
def serve_case(
    world: Mapping[str, Any], folder: Path, now: datetime | None = None
) -> Iterator[CaseRun]:
    """Serve a declared inbox to one account."""
    api = CaseApi(world, now or datetime.now(UTC))
    with serving(api) as server:
        start = (api.now - timedelta(days=5)).date()
        text = (
            f'[graph]\nbase_url = "{server.url}"\ncalls_per_second = 1000\n'
            f'[store]\nroot = "{folder / "lake"}"\nstate_dir = "{folder / "state"}"\n'
            f'[[accounts]]\nname = "{ACCOUNT}"\npage_id = "{world["page_id"]}"\n'
            f'platform = "{world["platform"]}"\ntoken_env = "{TOKEN_VARIABLE}"\n'
            f'start_date = "{start}"\n'
        )
        config = folder / "convo.toml"
        config.write_text(text)
        run = CaseRun(api, config, parse_settings(text.encode()))
        with run.opened:
            yield run
