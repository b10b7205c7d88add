"""Figures of a service desk in pandas, from the raw JSON alone.

It reads `raw_message_ids` and `raw_message_details`. It shares no code with the package and none
with the oracle of `metric_worlds.py`. docs/metrics.md has the definitions.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from tests.support.desk_worlds import CLOCKS, OWN

Message = dict[str, Any]
DAY = timedelta(days=1)


def read_raw(root: Path, account: str) -> pd.DataFrame:
    """Return one row per message id from the raw files alone, in order."""
    frames = []
    for path in sorted(root.glob(f"raw_message_ids/account={account}/*/data.parquet")):
        ids = pd.read_parquet(path, partitioning=None)
        details = Path(str(path).replace("raw_message_ids", "raw_message_details"))
        contents = pd.read_parquet(details, partitioning=None)
        frames.append(ids.merge(contents[["conversation_id", "message_id", "payload"]]))
    rows = pd.concat(frames).sort_values(["conversation_id", "created_at", "message_id"])
    payloads = [json.loads(text) if isinstance(text, str) else None for text in rows["payload"]]
    senders = [each["from"]["id"] if each else None for each in payloads]
    rows["account"] = account
    rows["who"] = [
        "unread" if each is None else "us" if each == OWN else "customer" for each in senders
    ]
    rows["text"] = pd.Series([each["message"] if each else "" for each in payloads], rows.index)
    rows["content"] = [content_of(each) for each in payloads]
    rows["reactions"] = [
        [item["reaction"] for item in (each or {}).get("reactions", {}).get("data", [])]
        for each in payloads
    ]
    rows["picture_expires_at"] = [
        int(each["attachments"]["data"][0]["image_data"]["url"].split("oe=")[1], 16)
        if each and "attachments" in each
        else None
        for each in payloads
    ]
    rows["has_heart"] = [
        bool(each) and OWN in json.dumps(each.get("reactions", {})) and each["from"]["id"] != OWN
        for each in payloads
    ]
    rows["local"] = [
        moment.tz_convert(ZoneInfo(CLOCKS[account][0])) for moment in rows["created_at"]
    ]
    return rows.reset_index(drop=True)


def content_of(payload: Message | None) -> str:
    if payload is None:
        return "unavailable"
    if "attachments" in payload:
        return "image"
    return "text" if payload["message"] else "empty"


def threads(rows: pd.DataFrame) -> Iterator[list[Message]]:
    """Yield the messages of each conversation that were not unsent, with their kinds."""
    for _, found in rows[rows["deleted_at"].isna()].groupby("conversation_id"):
        thread: list[Message] = [dict(row) for row in found.to_dict("records")]
        judge_ours(thread)
        yield thread


def judge_ours(thread: list[Message]) -> None:
    """Set `kind` of each message of a conversation: customer, unread, person, robot or unsure."""
    for index, row in enumerate(thread):
        row["kind"], before = row["who"], thread[:index]
        if row["who"] != "us":
            continue

        def age(other: Message, row: Message = row) -> float:
            return float((row["created_at"] - other["created_at"]).total_seconds())

        others = [each for each in before if each["who"] != "us"]
        row["is_calm"] = not any(age(each) <= 5 for each in others)
        row["kind"] = "person"
        if row["is_calm"]:
            continue
        if any(each["who"] == "us" and each["is_calm"] and age(each) <= 3600 for each in before):
            continue
        row["kind"] = "unsure"
        if any(each["who"] == "unread" and age(each) <= 3605 for each in before):
            continue
        turn: list[Message] = []
        for each in before:
            is_apart = turn and each["created_at"] - turn[-1]["created_at"] >= DAY
            turn = [] if each["who"] == "us" else [each] if is_apart else [*turn, each]
        last = max(index for index, each in enumerate(before) if each["who"] != "us")
        tail = [each for each in before[last + 1 :] if each["who"] == "us"]
        if tail:  # the second part of an instant reply
            earlier = before[: last + 1]
            turn = [earlier[-1]]
            while len(earlier) > len(turn) and earlier[-len(turn) - 1]["who"] != "us":
                turn.insert(0, earlier[-len(turn) - 1])
        if turn and age(turn[0]) <= 5:
            row["kind"] = "robot"


def open_seconds(since: datetime, until: datetime, account: str) -> float:
    """Count the open seconds as they elapse."""
    zone, opens, closes = CLOCKS[account]
    day, total = since.astimezone(ZoneInfo(zone)).date(), 0.0
    while day <= until.astimezone(ZoneInfo(zone)).date():
        edges = [datetime.combine(day, time(hour), ZoneInfo(zone)) for hour in (opens, closes)]
        if day.isoweekday() <= 5:
            start, end = max(edges[0], since), min(edges[1], until)
            total += max(0.0, (end.astimezone(UTC) - start.astimezone(UTC)).total_seconds())
        day += DAY
    return total


def is_in_hours(message: Message) -> bool:
    _, opens, closes = CLOCKS[message["account"]]
    return message["local"].isoweekday() <= 5 and opens <= message["local"].hour < closes


def is_waiting(word: Message) -> bool:
    return word["kind"] == "customer" and not word["has_heart"]


def seconds_between(since: Message, until: Message) -> float:
    return float((until["created_at"] - since["created_at"]).total_seconds())


def split_sessions(thread: list[Message]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last index of each session, the last one excluded."""
    starts = [
        index
        for index, row in enumerate(thread)
        if not index or row["created_at"] - thread[index - 1]["created_at"] >= DAY
    ]
    yield from zip(starts, [*starts[1:], len(thread)], strict=True)


def turns_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the turns of an account: when each began, who answered it and after how long."""
    turns = []
    for thread in threads(rows):
        for first, end in split_sessions(thread):
            for index in range(first, end):
                if thread[index]["kind"] == "customer" and (
                    index == first or thread[index - 1]["kind"] != "customer"
                ):
                    turns.append(turn_at(thread, index, first, end))
    return turns


def turn_at(thread: list[Message], index: int, first: int, end: int) -> dict[str, Any]:
    asked, stop = thread[index], index
    while stop < end and thread[stop]["kind"] == "customer":
        stop += 1
    after = thread[index + 1 :]
    reply = next((each for each in after if each["kind"] not in ("customer", "robot")), None)
    ours = next((each for each in after if each["kind"] != "customer"), None)
    neighbours = thread[max(index - 1, first) : index] + thread[stop : min(stop + 1, end)]
    is_known = ours is not None and ours["kind"] != "unread"
    return {
        "account": asked["account"],
        "asked_at": asked["created_at"],
        "is_in_hours": is_in_hours(asked),
        "answer": "none" if reply is None else reply["kind"],
        "wait": seconds_between(asked, reply) if reply and reply["kind"] == "person" else None,
        "response_kind": ours["kind"] if ours and is_known else None,
        "response_wait": seconds_between(asked, ours) if ours and is_known else None,
        "touches_unread": any(each["kind"] == "unread" for each in neighbours),
    }


def sessions_of(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the sessions of an account in which the customer wrote."""
    return [
        session_at(thread, first, end)
        for thread in threads(rows)
        for first, end in split_sessions(thread)
        if any(each["kind"] == "customer" for each in thread[first:end])
    ]


def session_at(thread: list[Message], first: int, end: int) -> dict[str, Any]:
    """Return one session: its question, its state, and the response to the question.

    `state` is `nudge`, `unknown`, `acknowledged`, `answered` or `open`; only the last two are
    measured.
    """
    index = next(index for index in range(first, end) if thread[index]["kind"] == "customer")
    asked, own = thread[index], thread[first:end]
    words = [each for each in thread[:index] if each["kind"] != "robot"]
    if words and asked["created_at"].normalize() - words[-1]["created_at"] > timedelta(days=28):
        words = []
    limit = asked["created_at"].normalize() + timedelta(days=8)
    in_time = [each for each in thread[index + 1 :] if each["created_at"] < limit]
    reply = next((each for each in in_time if each["kind"] not in ("customer", "robot")), None)
    hearts = [each for each in [asked, *in_time] if each["kind"] == "customer"]
    state = "open" if reply is None else "answered"
    if words and is_waiting(words[-1]):
        state = "nudge"
    elif (
        any(each["kind"] == "unread" for each in thread[first:index])
        or (words and words[-1]["kind"] in ("unread", "unsure"))
        or (reply is not None and reply["kind"] != "person")
    ):
        state = "unknown"
    elif reply is None and any(each["has_heart"] for each in hearts):
        state = "acknowledged"
    is_answered = state == "answered" and reply is not None
    people = [each for each in own if each["kind"] == "person"]
    replies = [each for each in thread[index + 1 : end] if each["kind"] == "person"]
    customers = [each for each in own if each["kind"] == "customer"]
    has_last_word = bool(people) and own.index(people[-1]) > own.index(customers[-1])
    return {
        "account": asked["account"],
        "asked_at": asked["created_at"],
        "state": state,
        "wait": seconds_between(asked, reply) if is_answered and reply else None,
        "business": open_seconds(asked["created_at"], reply["created_at"], asked["account"])
        if is_answered and reply
        else None,
        "is_in_hours": is_in_hours(asked),
        "has_unread": any(each["kind"] == "unread" for each in own),
        "opener": own[0]["kind"],
        "turns": sum(
            each["kind"] == "customer" and (not at or own[at - 1]["kind"] != "customer")
            for at, each in enumerate(own)
        ),
        "is_one_touch": len(replies) == 1 and has_last_word,
        "hours_to_last_reply": seconds_between(asked, people[-1]) / 3600 if has_last_word else None,
    }


def waiting_of(rows: pd.DataFrame) -> list[list[Message]]:
    """Return the unanswered messages of each conversation whose customer waits."""
    return [found for thread in threads(rows) if (found := unanswered_of(thread))]


def unanswered_of(thread: list[Message]) -> list[Message]:
    unanswered: list[Message] = []
    for word in reversed([each for each in thread if each["kind"] != "robot"]):
        if not is_waiting(word):
            break
        unanswered.insert(0, word)
    return unanswered
