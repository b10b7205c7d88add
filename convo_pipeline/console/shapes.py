"""Print which keys, JSON types and enumerated values the stored API payloads have.

The report holds no id, name, text, URL or token, so it can go into a public bug report.
"""

from collections.abc import Sequence
from contextlib import closing

from convo_pipeline.base.json_text import load_json
from convo_pipeline.graph.shapes import Census
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_DETAILS, RAW_REJECTS
from convo_pipeline.settings import StoreSettings

TABLES = {
    RAW_CONVERSATIONS.name: "conversation",
    RAW_MESSAGE_DETAILS.name: "message",
    RAW_REJECTS.name: "reject",
}
"""The raw tables that hold payloads, with the census' word for one payload."""
MAX_PAYLOADS = 20_000
"""Payloads that are counted per table and account, the newest days first."""


def count_shapes(settings: StoreSettings, accounts: Sequence[str]) -> Census:
    """Return the census of the stored payloads of these accounts; makes no API calls."""
    census = Census()
    with closing(Store(settings)) as store:
        for account in accounts:
            for table, endpoint in TABLES.items():
                for payload in _read_payloads(store, table, account):
                    census.add(endpoint, payload)
    return census


def _read_payloads(store: Store, table: str, account: str) -> list[object]:
    payloads: list[object] = []
    for day in reversed(store.days(table, account)):
        texts = store.read(table, account, day)["payload"].drop_null().to_pylist()
        payloads += map(_parse, texts[: MAX_PAYLOADS - len(payloads)])
        if len(payloads) >= MAX_PAYLOADS:
            break
    return payloads


def _parse(text: str) -> object:
    try:
        return load_json(text)
    except ValueError:
        return None
