"""The table `internal.accounts`: what the views need to know of each account.

The values come from the lake (`lake/accounts.py`). Settings that the caller passes replace them.
"""

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from convo_pipeline.errors import ConvoError
from convo_pipeline.lake.accounts import Descriptions, parse_accounts
from convo_pipeline.settings import MetricsSettings, Settings, parse_business_hours

SCHEMA = pa.schema(
    [
        ("account", pa.string()),
        ("platform", pa.string()),
        ("page_id", pa.string()),
        ("own_id", pa.string()),
        ("own_username", pa.string()),
        ("timezone", pa.string()),
        ("business_hours", pa.string()),
        ("start_date", pa.string()),
        ("session_gap_hours", pa.float64()),
        ("automated_reply_seconds", pa.float64()),
        ("presence_minutes", pa.float64()),
        ("opens", pa.int64()),
        ("closes", pa.int64()),
        ("weekdays", pa.list_(pa.int64())),
    ]
)
TEXTS = tuple(
    field.name for field in SCHEMA if field.type == pa.string() and field.name != "account"
)


def accounts_table(content: bytes | None, settings: Settings) -> pa.Table:
    """Return one row per account, from the lake's file and from the given settings."""
    stored: Descriptions = parse_accounts(content or b"")
    for account in settings.accounts:
        stored[account.name] = stored.get(account.name, {}) | settings.describe(account)
    rows = [account_row(name, stored[name], settings.metrics) for name in sorted(stored)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def account_row(
    name: str, described: Mapping[str, Any], defaults: MetricsSettings
) -> dict[str, Any]:
    """Return an account's row. A value of another type, such as an unknown time zone, is null."""
    texts = {
        key: value if isinstance(value, str) else None
        for key in TEXTS
        for value in [described.get(key)]
    }
    metrics = described.get("metrics")
    stored = metrics if isinstance(metrics, dict) else {}
    numbers = {
        key: stored[key] if isinstance(stored.get(key), int | float) else default
        for key, default in defaults.model_dump().items()
    }
    if not _is_zone(texts["timezone"]):
        texts["timezone"] = None
    opens, closes, weekdays = _hours(texts["business_hours"])
    hours = {"opens": opens, "closes": closes, "weekdays": weekdays}
    return {"account": name} | texts | numbers | hours


def _is_zone(name: str | None) -> bool:
    try:
        return name is not None and ZoneInfo(name) is not None
    except (KeyError, ValueError, OSError):
        return False


def _hours(text: str | None) -> tuple[int | None, int | None, list[int] | None]:
    try:
        return parse_business_hours(text) if text else (None, None, None)
    except (ValueError, ConvoError):
        return None, None, None
