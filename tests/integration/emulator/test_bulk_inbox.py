"""The bulk inbox of the benchmarks is complete and cheap."""

import json
import time
from datetime import UTC, datetime

import requests

from benchmarks.bulk_inbox import BulkApi, BulkShape
from convo_pipeline.emulator.calls import Call
from convo_pipeline.emulator.serve import EmulatorServer

FIELDS = "updated_time,participants,messages.limit(20){id,created_time,from,to,message}"


def test_nested_listing_and_edge_return_every_message() -> None:
    shape = BulkShape(
        conversations=120, messages_each=30, days=3, until=datetime(2026, 2, 19, tzinfo=UTC)
    )
    found: set[tuple[str, str]] = set()
    with EmulatorServer(api=BulkApi(shape)) as server:
        url = f"{server.base_url}/v26.0"
        after = "0"
        while after:
            query = {"fields": FIELDS, "limit": "50", "after": after}
            page = requests.get(
                f"{url}/{shape.page_id}/conversations", params=query, timeout=10
            ).json()
            for row in page["data"]:
                rest = requests.get(
                    f"{url}/{row['id']}/messages",
                    params={"after": row["messages"]["paging"]["cursors"]["after"]},
                    timeout=10,
                ).json()
                found |= {
                    (row["id"], message["id"]) for message in row["messages"]["data"] + rest["data"]
                }
            after = page["paging"]["cursors"]["after"] if "next" in page["paging"] else ""
        assert server.log.kinds() == {"listing": 3, "edge": 120}
    assert found == {(conversation, message) for conversation, message, _ in shape.truth()}


def test_bulk_responses_cost_about_as_much_as_parsing_them() -> None:
    """The bulk inbox must not be the bottleneck of a benchmark."""
    api = BulkApi(BulkShape(conversations=5_000))
    calls = [
        Call(
            "GET",
            f"/{api.shape.page_id}/conversations",
            {"fields": FIELDS, "limit": "50", "after": str(50 * page)},
            {},
            "http://127.0.0.1",
        )
        for page in range(20)
    ]
    started = time.process_time()
    contents = [api.answer(call).content for call in calls]
    write_seconds = time.process_time() - started
    started = time.process_time()
    for content in contents:
        assert content is not None
        assert len(content) > 300_000
        json.loads(content)
    assert write_seconds < 5 * (time.process_time() - started)
