"""Raw partitions for tests: a few payloads become the raw tables they would be in."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.tables.normalize import RawDay
from tests.support.paths import SAMPLES

AT = datetime(2026, 2, 19, 8, 57, 24, tzinfo=UTC)
SEEN = datetime(2026, 2, 19, 9, 0, 0, tzinfo=UTC)
PAGE_ID = "999000000000001"
OWN_IDS = {"instagram": "17841499990000001", "messenger": None}
ASKED = json.dumps(
    dict.fromkeys(
        ("attachments", "from", "is_unsupported", "message", "reactions", "shares", "to"),
        1771491600000000,
    )
)


def read_sample(number: int) -> Any:
    """Return the body of the sample of that number."""
    (path,) = SAMPLES.glob(f"{number:02d}_*.json")
    return json.loads(path.read_text("utf-8"))["body"]


def table(declared: schema.Table, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Return rows as a table of the declared schema; what they leave out is null."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=declared.schema)


def id_row(message_id: str, conversation_id: str = "c1", **others: object) -> dict[str, object]:
    return {
        "conversation_id": conversation_id, "message_id": message_id, "created_at": AT,
        "created_at_source": "message", "order_in_second": 0, "first_seen_at": SEEN,
    } | others  # fmt: skip


def detail_row(
    message_id: str, payload: object, conversation_id: str = "c1", **others: object
) -> dict[str, object]:
    text = payload if isinstance(payload, str) or payload is None else dump_json(payload).decode()
    return {
        "conversation_id": conversation_id, "message_id": message_id, "created_at": AT,
        "detail_status": "detailed", "fields": ASKED, "payload": text, "first_seen_at": SEEN,
        "changed_at": SEEN,
    } | others  # fmt: skip


def conversation_row(
    platform: str, payload: object = None, conversation_id: str = "c1", **others: object
) -> dict[str, object]:
    return {
        "conversation_id": conversation_id, "platform": platform, "page_id": PAGE_ID,
        "own_id": OWN_IDS[platform], "first_seen_at": SEEN, "changed_at": SEEN,
        "payload": None if payload is None else dump_json(payload).decode(),
    } | others  # fmt: skip


def raw_day(
    platform: str,
    ids: Sequence[Mapping[str, object]] = (),
    details: Sequence[Mapping[str, object]] = (),
    conversations: Sequence[Mapping[str, object]] | None = None,
) -> RawDay:
    """Return a partition; without conversations it has one, of which nothing is known."""
    return RawDay(
        platform,
        PAGE_ID,
        table(
            schema.RAW_CONVERSATIONS,
            [conversation_row(platform)] if conversations is None else conversations,
        ),
        table(schema.RAW_MESSAGE_IDS, ids),
        table(schema.RAW_MESSAGE_DETAILS, details),
    )


def day_of(*payloads: object, platform: str = "instagram") -> RawDay:
    """Return a partition of these payloads, with the ids m0, m1 and so on."""
    ids = [id_row(f"m{number}") for number in range(len(payloads))]
    details = [detail_row(f"m{number}", payload) for number, payload in enumerate(payloads)]
    return raw_day(platform, ids, details)
