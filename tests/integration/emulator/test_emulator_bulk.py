"""The bulk inbox: all of it can be read, in few calls, cheaply."""

import time
from datetime import UTC, datetime

import requests

from convo_pipeline.emulator.bulk import BulkApi, BulkShape
from convo_pipeline.emulator.serve import EmulatorServer

FIELDS = "updated_time,participants,messages.limit(20){id,created_time,from,to,message}"


def test_every_message_of_the_bulk_inbox_is_read_by_nested_listing_and_edge() -> None:
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


def test_a_thousand_messages_cost_the_server_little() -> None:
    api = BulkApi(BulkShape(conversations=5_000))
    with EmulatorServer(api=api) as server:
        started = time.process_time()
        for page in range(20):
            query = {"fields": FIELDS, "limit": "50", "after": str(50 * page)}
            answer = requests.get(
                f"{server.base_url}/{api.shape.page_id}/conversations", params=query, timeout=10
            )
            assert len(answer.content) > 300_000
    assert time.process_time() - started < 2.0
