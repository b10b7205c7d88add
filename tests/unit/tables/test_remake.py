"""Payloads made again from derived tables read back to the same tables, whatever the lost ones were."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.schema import RAW_MESSAGE_DETAILS
from convo_pipeline.tables.merge import merge, redact
from convo_pipeline.tables.normalize import RawDay, normalize, sort_by_key
from convo_pipeline.tables.remake import (
    remake_conversations,
    remake_message_details,
    remake_message_ids,
)
from tests.support.raw_days import AT, conversation_row, day_of, detail_row, id_row, raw_day
from tests.unit.tables.test_normalize_hostile import MESSAGES, PARTICIPANTS, raw_days

DAY = AT.date()
ANSWER = ["fields", "payload"]


def remade(raw: RawDay, day: date = DAY) -> RawDay:
    """Return what the derived tables of a day tell of its raw ones."""
    derived = normalize(raw)
    own_ids = raw.conversations["own_id"].drop_null().to_pylist()
    return RawDay(
        raw.platform,
        raw.page_id,
        remake_conversations(derived, day, own_ids[0] if own_ids else None, None),
        remake_message_ids(derived, day, ()),
        remake_message_details(derived),
    )


def differences(raw: RawDay, details: pa.Table) -> list[tuple[str, Any, Any]]:
    """Return where the tables differ if the details are these: table and column, what was, what is."""
    was = normalize(raw)
    found = normalize(
        RawDay(raw.platform, raw.page_id, raw.conversations, raw.message_ids, details)
    )
    return [
        (f"{name}.{column}", was[name][column].to_pylist(), found[name][column].to_pylist())
        for name in was
        for column in was[name].column_names
        if not was[name][column].equals(found[name][column])
    ]


@pytest.mark.parametrize("platform", ["instagram", "messenger"])
def test_every_shape_of_a_payload_reads_back_to_the_same_tables(platform: str) -> None:
    raw = day_of(*MESSAGES, platform=platform)
    assert differences(raw, remade(raw).message_details) == []


def test_a_day_lost_whole_is_made_again_from_its_derived_tables_alone() -> None:
    ids = [id_row(f"m{number}") for number in range(len(MESSAGES))]
    details = [detail_row(f"m{number}", payload) for number, payload in enumerate(MESSAGES)]
    for platform in ("instagram", "messenger"):
        raw = raw_day(platform, ids, details, [conversation_row(platform, PARTICIPANTS)])
        assert normalize(remade(raw)) == normalize(raw)


def is_known_of_nothing(raw: RawDay) -> bool:
    """Say whether a message is neither in the list nor was asked, so that nothing but its empty detail row tells of it.

    An extract writes none: each message it asks or is told of is in the list.
    """
    key = RAW_MESSAGE_DETAILS.key
    listed = set(zip(*(raw.message_ids[name].to_pylist() for name in key), strict=True))
    return any(
        tuple(row[name] for name in key) not in listed
        and row["payload"] is None
        and row["detail_status"] == "pending"
        for row in raw.message_details.to_pylist()
    )


def hunt(examples: int, is_repeatable: bool = True) -> int:
    """Make so many hostile days again, the same ones every time or others; return how many messages they had."""
    counts: list[int] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=is_repeatable,
        suppress_health_check=list(HealthCheck),
    )
    @given(raw_days())
    def search(raw: RawDay) -> None:
        assume(not is_known_of_nothing(raw))
        assert differences(raw, remade(raw).message_details) == []
        counts.append(raw.message_details.num_rows)

    search()
    return sum(counts)


def test_hostile_payloads_read_back_to_the_same_tables() -> None:
    assert hunt(12) > 20


@pytest.mark.hunt
@pytest.mark.timeout(7200)
def test_no_payload_is_too_hostile_to_be_made_again(long_run: bool) -> None:
    hunt(3_000 if long_run else 120, is_repeatable=not long_run)


def test_an_answer_or_a_backup_outdoes_what_was_made_again_key_by_key() -> None:
    asked = ("attachments", "is_unsupported", "reactions", "shares")
    fields = [dump_json(dict.fromkeys((*asked, *message), 1)).decode() for message in MESSAGES]
    details = [detail_row(f"m{i}", message, fields=fields[i]) for i, message in enumerate(MESSAGES)]
    raw = raw_day("instagram", [id_row(f"m{i}") for i in range(len(MESSAGES))], details)
    lost, again = sort_by_key(raw.message_details), remade(raw).message_details
    assert merge(RAW_MESSAGE_DETAILS, lost, again) is lost
    assert merge(RAW_MESSAGE_DETAILS, again, lost).select(ANSWER).equals(lost.select(ANSWER))


def test_a_redacted_message_is_made_again_as_a_redacted_one() -> None:
    day = day_of(MESSAGES[0])
    deleted_at = AT + timedelta(days=1)
    us = (deleted_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    redacted = replace(day, message_details=redact(day.message_details, {("c1", "m0"): us}))
    (row,) = remade(redacted).message_details.to_pylist()
    assert (row["detail_status"], row["redacted_at"]) == ("gone", deleted_at)
    assert load_json(row["payload"]) == load_json(redacted.message_details["payload"][0].as_py())


def test_a_message_that_is_gone_but_kept_is_not_made_again_as_a_redacted_one() -> None:
    """What was held of it says that Meta shows nothing of it: that is content, and what it was asked for is counted."""
    (withheld,) = (message for message in MESSAGES if "privacy rules" in str(message))
    raw = raw_day(
        "messenger", [id_row("m0")], [detail_row("m0", withheld, detail_status="gone", gone_at=AT)]
    )
    (row,) = normalize(raw)["messages"].to_pylist()
    assert (row["content_type"], row["share_count"]) == ("unavailable", 0)
    assert differences(raw, remade(raw).message_details) == []
