"""Normalise raw rows into six tables, against a simple loop into one table.

    python benchmarks/normalise.py [--messages 100000] [--rounds 5]

The simple loop parses each payload, appends a row of Python values, makes one DataFrame and writes
one Parquet file, with attachments, shares and reactions as JSON. It merges and checks nothing. Both
read the same Arrow table of raw payloads and write zstd to the same disk, with the same garbage
collector. They run in turns; the figures are medians of CPU seconds of the whole process.
"""

import argparse
import gc
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import orjson
import pandas as pd
import pyarrow as pa

from convo_pipeline import schema
from convo_pipeline.lake.store import Store
from convo_pipeline.settings import StoreSettings
from convo_pipeline.tables.normalize import RawDay, normalize

DAY = date(2026, 2, 19)
START = datetime(2026, 2, 19, tzinfo=UTC)
OWN_ID = "17841499990000001"
FIELDS = (
    "attachments", "from", "id", "message", "reactions", "reply_to", "shares", "story", "tags",
    "to",
)  # fmt: skip
WORDS = [
    "hello",
    "is",
    "the",
    "sourdough",
    "still",
    "warm",
    "today",
    "merci",
    "🧁",
    "schön",
    "könnt",
    "ihr",
    "bis",
    "Sonntag",
    "مرحبا",
    "please",
    "thank",
    "you",
]
COLUMNS = (
    "conversation_id", "message_id", "created_at", "direction", "sender_id", "sender_name",
    "sender_username", "recipient_ids", "text", "content_type", "attachments", "shares",
    "reactions", "sticker_url", "story", "reply_to_message_id", "is_unsupported", "tags",
    "detail_status", "first_seen_at",
)  # fmt: skip


def make_day(message_count: int, seed: int = 7) -> RawDay:
    """Return one day of an Instagram account: 20 messages a conversation, 1 in 8 with media."""
    random = Random(seed)
    conversations, ids, details = [], [], []
    for number in range(message_count):
        conversation_id = f"aWdfZAG06MTpJR01lc3NhZA2VUaHJlYWQ6{number // 20:040d}"
        if number % 20 == 0:
            conversations.append(_conversation(conversation_id, number))
        message_id = f"aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlEOjE3ODQxNDk5OTkwMDAwMDAx{number:080d}"
        created_at = START + timedelta(seconds=number % 86_400)
        ids.append(
            (conversation_id, message_id, created_at, "message", 0, created_at, None, None, None)
        )
        payload = orjson.dumps(
            _message(message_id, created_at, number, random), option=orjson.OPT_SORT_KEYS
        ).decode()
        fields = orjson.dumps(dict.fromkeys(FIELDS, 1771491444000000 + number // 1000)).decode()
        content = ("detailed", number % 20 + 1, None, None, fields, payload)
        times = (created_at, created_at, None, None)
        details.append((conversation_id, message_id, created_at, *content, *times))
    return RawDay(
        "instagram",
        "999000000000001",
        _table(schema.RAW_CONVERSATIONS, conversations),
        _table(schema.RAW_MESSAGE_IDS, ids),
        _table(schema.RAW_MESSAGE_DETAILS, details),
    )


def _table(table: schema.Table, rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [
            pa.array(values, column.type)
            for values, column in zip(columns, table.columns, strict=True)
        ],
        schema=table.schema,
    )


def _conversation(conversation_id: str, number: int) -> tuple[object, ...]:
    people = [
        {"id": _customer_id(number), "username": f"customer_{number // 20}"},
        {"id": OWN_ID, "username": "bakery"},
    ]
    payload = orjson.dumps({"participants": {"data": people}}).decode()
    inbox = ("instagram", "999000000000001", None, OWN_ID, "bakery")
    return (conversation_id, *inbox, '{"participants":1}', payload, START, START)


def _customer_id(number: int) -> str:
    return f"99900000{number // 20:08d}"


def _message(
    message_id: str, created_at: datetime, number: int, random: Random
) -> dict[str, object]:
    people = [
        {"id": _customer_id(number), "username": f"customer_{number // 20}"},
        {"id": OWN_ID, "username": "bakery"},
    ]
    random.shuffle(people)
    message: dict[str, object] = {
        "id": message_id,
        "created_time": created_at.strftime("%Y-%m-%dT%H:%M:%S+0000"),
        "from": people[0],
        "to": {"data": people[1:]},
        "message": " ".join(random.choices(WORDS, k=random.randint(2, 18))),
    }
    link = (
        f"https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id={number:017d}"
        f"&signature={random.getrandbits(256):064x}"
    )
    special = random.randrange(64)
    if special < 4:
        image = {
            "url": link,
            "preview_url": link,
            "width": 1080,
            "height": 1350,
            "max_width": 1080,
            "max_height": 1350,
        }
        message |= {
            "message": "",
            "attachments": {"data": [{"id": str(number), "image_data": image}]},
        }
    elif special < 5:
        message |= {"message": "", "shares": {"data": [{"link": link}]}}
    elif special < 7:
        message["reactions"] = {"data": [{"reaction": "❤️", "users": people[1:]}]}
    elif special < 8:
        message["reply_to"] = {"mid": message_id, "is_self_reply": False}
    return message


def write_six_tables(raw: RawDay, folder: Path) -> None:
    """Normalise and commit, with locks, syncs and reading back."""
    store = Store(StoreSettings(root=str(folder)))
    for name, table in normalize(raw).items():
        store.replace(name, "bakery", DAY, table, "benchmark")
    store.close()


def write_one_table(raw: RawDay, folder: Path) -> None:
    """Write a row of Python values per message, by one DataFrame into one file."""
    rows = []
    names = ("conversation_id", "created_at", "detail_status", "first_seen_at", "payload")
    columns = [raw.message_details[name].to_pylist() for name in names]
    for conversation_id, created_at, detail_status, first_seen_at, payload in zip(
        *columns, strict=True
    ):
        message = orjson.loads(payload)
        sender = message.get("from") or {}
        sender_id = sender.get("id")
        rows.append(
            [
                conversation_id,
                message["id"],
                created_at,
                "outbound" if sender_id == OWN_ID else "inbound",
                sender_id,
                sender.get("name"),
                sender.get("username"),
                [person["id"] for person in message.get("to", {}).get("data", [])],
                message.get("message"),
                _simple_content_type(message),
                _json(message.get("attachments")),
                _json(message.get("shares")),
                _json(message.get("reactions")),
                message.get("sticker"),
                _json(message.get("story")),
                (message.get("reply_to") or {}).get("mid"),
                bool(message.get("is_unsupported")),
                [tag["name"] for tag in message.get("tags", {}).get("data", [])],
                detail_status,
                first_seen_at,
            ]
        )
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(
        folder / "messages.parquet", compression="zstd", index=False
    )


def _simple_content_type(message: dict[str, object]) -> str:
    for key in ("attachments", "shares", "sticker", "story"):
        if key in message:
            return key
    return "text" if message.get("message") else "empty"


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def cpu_seconds(write: Callable[[RawDay, Path], None], raw: RawDay) -> tuple[float, float]:
    """Return CPU and wall seconds of one run in a new folder."""
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        write(raw, Path(folder))
        return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--gc", choices=("on", "off"), default="on", help="garbage collector, for both"
    )
    options = parser.parse_args()
    raw = make_day(options.messages)
    ways = {"six tables": write_six_tables, "one table": write_one_table}
    if options.gc == "off":
        gc.disable()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, write in ways.items():
            seconds[name].append(cpu_seconds(write, raw))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in seconds.items()
    }
    for name, (cpu, wall) in medians.items():
        print(
            f"{name}: {cpu:.2f} s CPU, {wall:.2f} s wall"
            f" (median of {options.rounds}, {options.messages:,} messages)"
        )
    speed = medians["one table"][0] / medians["six tables"][0]
    print(f"speed of six tables: {speed:.2f} x the simple loop (CPU)")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
