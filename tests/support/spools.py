"""Write records into a spool as the JSON objects that are on disk."""

from typing import Any

from convo_pipeline.extract.spool import Spool, StateRecord, decode_record


def append_json(spool: Spool, value: dict[str, Any]) -> None:
    """Write one record and its states; keys of a page of messages that are left out are empty."""
    if value["kind"] == "edge":
        value = {"at_us": 0, "updated_us": None, "first_rank": 1, "fields": []} | value
    states = [decode_record(state) for state in value.get("states", ())]
    assert all(isinstance(state, StateRecord) for state in states)
    spool.append(decode_record(value), states)  # type: ignore[arg-type]
