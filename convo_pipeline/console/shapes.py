"""Show which keys, JSON types and enumerated values the API's responses and stored payloads have.

The report holds no id, name, text, URL or token, so it can go into a public bug report.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing

from convo_pipeline.base.json_text import load_json
from convo_pipeline.graph.shapes import Census
from convo_pipeline.lake.store import Store
from convo_pipeline.schema import RAW_CONVERSATIONS, RAW_MESSAGE_DETAILS, RAW_REJECTS
from convo_pipeline.settings import StoreSettings

TABLES = (RAW_CONVERSATIONS.name, RAW_MESSAGE_DETAILS.name, RAW_REJECTS.name)
"""The raw tables that hold payloads."""
MAX_PAYLOADS = 20_000
"""Payloads that are counted per table and account, the newest days first."""


def count_shapes(settings: StoreSettings, accounts: Sequence[str]) -> Census:
    """Return the census of what runs received and of the stored payloads of these accounts.

    The endpoints are the kinds of calls (`listing`, `edge`, ...) and the raw tables. It makes no
    API calls.
    """
    census = Census()
    with closing(Store(settings)) as store:
        for account in accounts:
            census.merge(Census.from_json(store.state.census(account)))
            for table in TABLES:
                for payload in _read_payloads(store, table, account):
                    census.add(table, payload)
    return census


def _read_payloads(store: Store, table: str, account: str) -> Iterator[object]:
    count = 0
    for day in reversed(store.days(table, account)):
        texts = store.read(table, account, day)["payload"].drop_null().to_pylist()
        for text in texts[: MAX_PAYLOADS - count]:
            try:
                yield load_json(text)
            except ValueError:
                yield None
        count += len(texts)
        if count >= MAX_PAYLOADS:
            return
