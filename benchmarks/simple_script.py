"""Baseline of the benchmarks: a short script that reads an inbox as fast as it can.

One thread, nested expansion, orjson, an explicit Arrow schema, one Parquet file. It has no ledger,
no merge and no recovery.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import requests

FIELDS = (
    "id,created_time,from,to,message,attachments,shares{link,name},sticker,reactions,reply_to,tags"
)
SCHEMA = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("message_id", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("sender_id", pa.string()),
        ("sender_name", pa.string()),
        ("text", pa.string()),
        ("payload", pa.string()),
    ]
)


@dataclass
class Script:
    """One run of the script; `calls` counts its requests, `pause` waits before each."""

    base_url: str
    page_id: str
    platform: str
    token: str
    since: datetime | None = None
    pause: Callable[[], None] | None = None
    calls: int = 0
    columns: list[list[object]] = field(default_factory=lambda: [[] for _ in SCHEMA])

    def run(self, output: Path) -> int:
        """Read the inbox back to `since`, write one file, and return the number of messages."""
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {self.token}"
        fields = f"id,updated_time,participants,messages.limit(20){{{FIELDS}}}"
        after = None
        while True:
            page = self._get(
                f"{self.page_id}/conversations",
                platform=self.platform,
                fields=fields,
                limit=50,
                after=after,
            )
            for conversation in page["data"]:
                self._take_conversation(conversation)
            after = self._cursor(page)
            if after is None or self._is_old(page["data"][-1]["updated_time"]):
                break
        pq.write_table(
            pa.Table.from_arrays(
                [
                    pa.array(values, column.type)
                    for values, column in zip(self.columns, SCHEMA, strict=True)
                ],
                schema=SCHEMA,
            ),
            output,
            compression="zstd",
        )
        return len(self.columns[0])

    def _take_conversation(self, conversation: dict) -> None:
        nested = conversation["messages"]
        while True:
            rows = nested["data"]
            self._take_messages(conversation["id"], rows)
            after = self._cursor(nested)
            if after is None or not rows or self._is_old(rows[-1]["created_time"]):
                return
            nested = self._get(
                f"{conversation['id']}/messages", fields=FIELDS, limit=100, after=after
            )

    def _take_messages(self, conversation_id: str, rows: list[dict]) -> None:
        conversation_ids, ids, times, sender_ids, sender_names, texts, payloads = self.columns
        for row in rows:
            sender = row.get("from") or {}
            conversation_ids.append(conversation_id)
            ids.append(row["id"])
            times.append(datetime.fromisoformat(row["created_time"]))
            sender_ids.append(sender.get("id"))
            sender_names.append(sender.get("name") or sender.get("username"))
            texts.append(row.get("message"))
            payloads.append(orjson.dumps(row).decode())

    def _is_old(self, time: str) -> bool:
        return self.since is not None and datetime.fromisoformat(time) < self.since

    def _cursor(self, page: dict) -> str | None:
        paging = page.get("paging") or {}
        return paging["cursors"]["after"] if "next" in paging else None

    def _get(self, path: str, **params: object) -> dict:
        if self.pause is not None:
            self.pause()
        self.calls += 1
        response = self._session.get(
            f"{self.base_url}/v26.0/{path}",
            params={name: value for name, value in params.items() if value},
            timeout=60,
        )
        response.raise_for_status()
        return orjson.loads(response.content)
