"""`metrics` gives Prometheus figures of each account, as a file and over HTTP."""

from datetime import timedelta
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from convo_pipeline.base.clock import Clock
from convo_pipeline.console.metrics import ACCOUNT_GAUGES, format_metrics, start_metrics_server
from convo_pipeline.graph.client import Endpoint
from convo_pipeline.settings import Settings
from convo_pipeline.state.access import open_limiter
from tests.support.inboxes import NOW, serve, small_world, stopped_clock

Figures = dict[str, dict[str, float]]


def read_figures(text: str) -> Figures:
    """Return the value of each figure by account; "" is the account of figures without one."""
    return {
        family.name: {each.labels.get("account", ""): each.value for each in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_figures_of_each_account_are_read_over_http(tmp_path: Path) -> None:
    world = small_world()
    ada = world.accounts["insta"].add_conversation("Ada")
    ada.add_messages(19, NOW - timedelta(minutes=10), step_seconds=20)
    with serve(tmp_path, world) as inboxes:
        inboxes.extract()
        clock = stopped_clock(inboxes.clock)
        account = inboxes.settings.account("mess")
        key = Endpoint.of(inboxes.settings, account).limit_key
        open_limiter(inboxes.store.state.database, key, 1.8, clock).block(600)
        server, thread = start_metrics_server(inboxes.settings, clock, "127.0.0.1", 0)
        response = requests.get(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30)
        server.shutdown()
        thread.join()
        server.server_close()
        calls = dict.fromkeys(inboxes.names, 0)
        for call in inboxes.server.log:
            calls[str(call.account)] += 1
    figures = read_figures(response.text)
    assert set(figures) == {"convo_accounts", "convo_lock_waits", *ACCOUNT_GAUGES}
    assert figures["convo_accounts"] == {"": 2}
    assert figures["convo_lock_waits"] == {"": 0}
    assert figures["convo_calls_last_day"] == calls
    assert figures["convo_at_risk_conversations"] == {"insta": 1, "mess": 0}
    assert figures["convo_blocked_seconds"] == {"insta": 0, "mess": 600}
    assert figures["convo_failed_runs_last_day"] == {"insta": 0, "mess": 0}
    complete_at = figures["convo_last_complete_timestamp_seconds"]
    assert complete_at == dict.fromkeys(inboxes.names, NOW.timestamp())


def test_figures_before_the_first_run_create_no_file(tmp_path: Path) -> None:
    settings = Settings(store={"root": str(tmp_path / "lake")})  # type: ignore[arg-type]
    assert read_figures(format_metrics(settings, Clock())) == {"convo_accounts": {"": 0}}
    assert list(tmp_path.iterdir()) == []
