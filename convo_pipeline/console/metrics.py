"""Command `metrics`: figures for Prometheus from stored data. It makes no API calls."""

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from threading import Thread
from wsgiref.simple_server import WSGIServer

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.extras import needs_extra
from convo_pipeline.errors import SettingsError
from convo_pipeline.extract.risk import find_risks
from convo_pipeline.graph.client import Endpoint
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import AccountSettings, Settings
from convo_pipeline.state.access import blocked_until, count_lock_waits, has_state

with needs_extra("scale"):
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector

DAY = timedelta(days=1)
LABELS = ("account", "platform")
ACCOUNT_GAUGES = {
    "convo_calls_last_day": "API calls of the runs that began in the last 24 hours.",
    "convo_throttled_seconds_last_day": "Seconds that these runs waited after throttle errors.",
    "convo_failed_runs_last_day": "Runs of the last 24 hours that did not end as complete.",
    "convo_last_complete_timestamp_seconds": "Start of the last complete run; 0 if there is none.",
    "convo_at_risk_conversations": "Conversations that may lose messages before the next capture.",
    "convo_blocked_seconds": "Seconds until the account may be called again.",
}
"""The figures of an account: name and meaning."""


class StateCollector(Collector):
    """Reads the figures at every scrape."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield each figure of all accounts. Nothing is created if nothing was extracted yet."""
        accounts, now = self._settings.accounts, self._clock.now()
        total = GaugeMetricFamily("convo_accounts", "Accounts of the configuration.")
        total.add_metric((), len(accounts))
        yield total
        if not has_state(self._settings.store):
            return
        families = {
            name: GaugeMetricFamily(name, text, labels=LABELS)
            for name, text in ACCOUNT_GAUGES.items()
        }
        with closing(Store(self._settings.store)) as store:
            for account in accounts:
                values = self._read_account(store, account, now)
                for family, value in zip(families.values(), values, strict=True):
                    family.add_metric((account.name, account.platform), value)
            waits = GaugeMetricFamily(
                "convo_lock_waits", "Connections that wait for a lock in PostgreSQL; 0 in SQLite."
            )
            waits.add_metric((), count_lock_waits(store.state.database))
        yield from families.values()
        yield waits

    def _read_account(
        self, store: Store, account: AccountSettings, now: datetime
    ) -> tuple[float, ...]:
        """Return the account's figures in the order of `ACCOUNT_GAUGES`."""
        runs = store.state.runs_since(account.name, now - DAY)
        complete = store.state.last_complete(account.name)
        key = Endpoint.of(self._settings, account).limit_key
        blocked = blocked_until(store.state.database, key, now)
        throttled = (run.report or {} for run in runs)
        return (
            sum(sum((run.calls or {}).values()) for run in runs),
            sum(float(str(report.get("throttled_seconds") or 0)) for report in throttled),
            sum(run.outcome not in ("complete", "running", "busy") for run in runs),
            complete.started_at.timestamp() if complete else 0.0,
            len(find_risks(self._settings, store, account.name).risks),
            (blocked - now).total_seconds() if blocked else 0.0,
        )


def format_metrics(settings: Settings, clock: Clock) -> str:
    """Return the figures in Prometheus' text format."""
    return generate_latest(_register(settings, clock)).decode()


def start_metrics_server(
    settings: Settings, clock: Clock, host: str, port: int
) -> tuple[WSGIServer, Thread]:
    """Serve the figures in a thread; port 0 takes a free one.

    Raise SettingsError if the address cannot be used.
    """
    try:
        return start_http_server(port, host, _register(settings, clock))
    except OSError as error:
        raise SettingsError(f"--listen {host}:{port}: {error.strerror}") from None


def _register(settings: Settings, clock: Clock) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(StateCollector(settings, clock))
    return registry
