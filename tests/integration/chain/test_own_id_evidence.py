"""Whose inbox it is: each kind of evidence about the own id, over HTTP into `messages`.

A direction must be right or null. In every inbox the account is 9 (or 8 as a second id), and other
numbers are customers.
"""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.support.case_runs import serve_case
from tests.support.case_worlds import REFUSED, instagram, me, message, people, refusal

IN, OUT = "inbound", "outbound"
APP_SCOPED = me({"id": "26000000000000001", "username": "user9"})
UNNAMED = me({"id": "26000000000000001"})
TOLD = me({"user_id": "9", "username": "user9"})


def pair(customer: str, *messages: dict[str, Any]) -> dict[str, Any]:
    return {"participants": people("9", customer), "messages": list(messages)}


def bare(row: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose people have no user names."""
    row = row | {"from": {"id": row["from"]["id"]}}
    to = [{"id": each["id"]} for each in row["to"]["data"]] if "to" in row else []
    return row | ({"to": {"data": to}} if to else {})


def meta_id(text: str) -> str:
    import base64

    encoded = base64.b64encode(text.encode()).decode()
    return encoded.replace("Z", "ZA").replace("=", "ZD").replace("+", "ZB").replace("/", "ZC")


OUTBOUND, INBOUND = message("a", "9", "1"), message("b", "2", "9")
TWO = (pair("1", OUTBOUND), pair("2", INBOUND))
BOTH_WAYS = {"a": OUT, "b": IN}
UNKNOWN = {"a": None, "b": None}
NOBODY_LISTED = tuple({"messages": each["messages"]} for each in TWO)
REAL_ID = meta_id("ig_dm:1:IGMessageThread:9:340282366841710300949110269838224261120")

KINDS: dict[str, tuple[dict[str, Any], dict[str, str | None]]] = {
    # an app-scoped id
    "app-scoped id, found by its user name": (instagram(*TWO, answers=[APP_SCOPED]), BOTH_WAYS),
    "app-scoped id without a name, inferred": (instagram(*TWO, answers=[UNNAMED]), BOTH_WAYS),
    "app-scoped id, conversations without participants": (
        instagram(*NOBODY_LISTED, answers=[UNNAMED]), BOTH_WAYS,
    ),
    "app-scoped id, one conversation, no name": (
        instagram({"messages": [bare(OUTBOUND)]}, answers=[UNNAMED]), {"a": None},
    ),
    "app-scoped id, one conversation, by name": (
        instagram(pair("1", OUTBOUND), answers=[APP_SCOPED]), {"a": OUT},
    ),
    "app-scoped id, only senders are given": (
        instagram({"messages": [bare(message("a", "9"))]}, answers=[UNNAMED]), {"a": None},
    ),
    "the user name is written in another way": (
        instagram(pair("1", OUTBOUND), answers=[me({"id": "77", "username": "@User9"})]),
        {"a": OUT},
    ),
    # an envelope
    "an answer that is no object": (instagram(*TWO, answers=[me(["9"])]), BOTH_WAYS),
    "the id is a number": (instagram(TWO[0], answers=[me({"user_id": 9})]), {"a": OUT}),
    "an error with status 200": (instagram(*TWO, answers=[me(refusal(10), 200)]), BOTH_WAYS),
    "envelope with a list": (instagram(*TWO, answers=[me({"data": [TOLD["body"]]})]), BOTH_WAYS),
    "envelope with an object": (instagram(*TWO, answers=[me({"data": TOLD["body"]})]), BOTH_WAYS),
    "envelope with two accounts": (
        instagram(*TWO, answers=[me({"data": [{"user_id": "1"}, {"user_id": "9"}]})]), BOTH_WAYS,
    ),
    "empty envelope": (instagram(TWO[0], answers=[me({"data": []})]), {"a": None}),
    # a refused field
    "user_id is refused": (
        instagram(
            TWO[0],
            answers=[
                me(refusal(100), 400, fields_has="user_id"), me({"id": "9", "username": "user9"}),
            ],
        ),
        {"a": OUT},
    ),
    "user_id is refused as a permission": (
        instagram(
            TWO[0],
            answers=[
                me(refusal(10), 403, fields_has="user_id"), me({"id": "9", "username": "user9"}),
            ],
        ),
        {"a": OUT},
    ),
    "only the name is given": (instagram(TWO[0], answers=[me({"username": "user9"})]), {"a": OUT}),
    "everything is refused": (instagram(*TWO, answers=[REFUSED]), BOTH_WAYS),
    # `me` is somebody else
    "me is a person who wrote once": (
        instagram(*TWO, pair("3", message("c", "3", "9")), answers=[me({"id": "1"})]),
        BOTH_WAYS | {"c": IN},
    ),
    "me is the person of one of two conversations, by name": (
        instagram(*TWO, answers=[me({"id": "77", "username": "user1"})]), UNKNOWN,
    ),
    "me is the person of one of three conversations, by name": (
        instagram(
            *TWO, pair("3", message("c", "3", "9")),
            answers=[me({"id": "77", "username": "user1"})],
        ),
        BOTH_WAYS | {"c": IN},
    ),
    "another person takes part in both conversations": (
        instagram(
            TWO[0], {"participants": people("1", "2"), "messages": [message("b", "1", "2")]},
            answers=[TOLD],
        ),
        UNKNOWN,
    ),
    "one of four conversations lacks the account": (
        instagram(
            *TWO, pair("3", message("c", "3", "9")),
            {"participants": people("1", "2"), "messages": [message("d", "1", "2")]},
            answers=[TOLD],
        ),
        BOTH_WAYS | {"c": IN, "d": None},
    ),
    "me is a person in no conversation": (
        instagram(TWO[0], answers=[me({"id": "77", "name": "Ada Admin"})]), {"a": None},
    ),
    # two ids of the account
    "one id in participants, another one in messages": (
        instagram(
            {
                "participants": people("9", "1"),
                "messages": [
                    message("a", "8", "1") | {"from": {"id": "8", "username": "user9"}},
                    message("b", "1", "8"),
                ],
            },
            answers=[TOLD],
        ),
        BOTH_WAYS,
    ),
    "a second id without a name": (
        instagram(
            {
                "participants": people("9", "1"),
                "messages": [bare(message("a", "8", "1")), bare(message("b", "1", "8"))],
            },
            answers=[TOLD],
        ),
        {"a": None, "b": None},
    ),
    "the told id is in participants only, messages agree on another one": (
        instagram(
            {"messages": [bare(message("a", "8", "1"))]},
            {"messages": [bare(message("b", "2", "8"))]},
            answers=[TOLD],
        ),
        BOTH_WAYS,
    ),
    # names change
    "a customer has the account's former name": (
        instagram(
            {
                "participants": {
                    "data": [{"id": "9", "username": "new"}, {"id": "1", "username": "old"}]
                },
                "messages": [
                    message("a", "9", "1") | {"from": {"id": "9", "username": "old"}},
                    message("b", "1", "9") | {"from": {"id": "1", "username": "old"}},
                ],
            },
            answers=[me({"user_id": "9", "username": "new"})],
        ),
        BOTH_WAYS,
    ),
    "the name was told before the conversations show it": (
        instagram(*TWO, answers=[me({"id": "77", "username": "renamed"})]), BOTH_WAYS,
    ),
    "two people have the account's name": (
        instagram(
            {
                "messages": [
                    message("a", "9", "1") | {"to": {"data": [{"id": "1", "username": "user9"}]}}
                ]
            },
            answers=[APP_SCOPED],
        ),
        {"a": None},
    ),
    # thin evidence
    "one conversation and no id": (instagram(TWO[0], answers=[REFUSED]), {"a": None}),
    "only outbound messages": (
        instagram(pair("1", OUTBOUND), pair("2", message("b", "9", "2")), answers=[REFUSED]),
        {"a": OUT, "b": OUT},
    ),
    "only inbound messages": (
        instagram(pair("1", message("a", "1", "9")), pair("2", INBOUND), answers=[REFUSED]),
        {"a": IN, "b": IN},
    ),
    "only inbound messages, and the id is told": (
        instagram(pair("1", message("a", "1", "9")), answers=[TOLD]), {"a": IN},
    ),
    "the same customer in the only two conversations": (
        instagram(pair("1", OUTBOUND), pair("1", message("b", "1", "9")), answers=[REFUSED]),
        UNKNOWN,
    ),
    "the same customer, and the id is told": (
        instagram(pair("1", OUTBOUND), pair("1", message("b", "1", "9")), answers=[TOLD]),
        BOTH_WAYS,
    ),
    "the same customer, and the name is told": (
        instagram(pair("1", OUTBOUND), pair("1", message("b", "1", "9")), answers=[APP_SCOPED]),
        BOTH_WAYS,
    ),
    # the id of the conversation names the account
    "the conversation's id holds the account": (
        instagram(TWO[0] | {"id": REAL_ID}, answers=[REFUSED]), {"a": OUT},
    ),
    "the conversation's id contradicts the told id": (
        instagram(TWO[0] | {"id": REAL_ID}, answers=[me({"user_id": "1"})]), {"a": OUT},
    ),
    # groups, and messages to oneself
    "a group": (
        instagram(
            {
                "participants": people("9", "1", "2"),
                "messages": [message("a", "9", "1", "2"), message("b", "1", "9", "2")],
            },
            answers=[TOLD],
        ),
        BOTH_WAYS,
    ),
    "two groups share a customer": (
        instagram(
            {"participants": people("9", "1", "2"), "messages": [message("a", "9", "1", "2")]},
            {"participants": people("9", "1", "3"), "messages": [message("b", "1", "9", "3")]},
            answers=[REFUSED],
        ),
        UNKNOWN,
    ),
    "a group whose list of people lacks the account": (
        instagram(
            *TWO,
            {"participants": people("1", "2", "3"), "messages": [message("c", "1", "2", "3")]},
            answers=[TOLD],
        ),
        BOTH_WAYS | {"c": None},
    ),
    "a note to oneself": (
        instagram(
            {"participants": people("9"), "messages": [message("a", "9", "9")]}, answers=[TOLD]
        ),
        {"a": OUT},
    ),
    "a note to oneself beside a customer": (
        instagram(
            {"participants": people("9", "9"), "messages": [message("a", "9", "9")]},
            pair("2", INBOUND),
            answers=[TOLD],
        ),
        BOTH_WAYS,
    ),
    # people are missing
    "conversations without participants": (instagram(*NOBODY_LISTED, answers=[TOLD]), BOTH_WAYS),
    "participants list the customer only": (
        instagram(
            {"participants": people("1"), "messages": [message("a", "9", "1")]},
            {"participants": people("2"), "messages": [message("b", "2")]},
            answers=[TOLD],
        ),
        BOTH_WAYS,
    ),
    "a sender is missing": (
        instagram(pair("1", message("a", None, "1")), pair("2", INBOUND), answers=[TOLD]),
        BOTH_WAYS,
    ),
    "sender and recipients are missing": (
        instagram(pair("1", message("a", None)), pair("2", INBOUND), answers=[TOLD]),
        {"a": None, "b": IN},
    ),
}  # fmt: skip


MODES = ("nightly", "capture", "full")


def check_directions(kind: str, modes: tuple[str, ...], folder: Path) -> None:
    world, right = KINDS[kind]
    with serve_case(world, folder) as run:
        assert run.extract().outcome == "complete"
        assert dict(run.sql("select message_id, direction from messages")) == right
        for mode in modes:
            run.extract(mode)
            assert dict(run.sql("select message_id, direction from messages")) == right


@pytest.mark.parametrize(("kind", "mode"), list(zip(KINDS, cycle(MODES), strict=False)))
def test_directions_are_right_or_null(kind: str, mode: str, tmp_path: Path) -> None:
    check_directions(kind, (mode,), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_directions_stay_right_or_null_in_runs_of_each_mode(kind: str, tmp_path: Path) -> None:
    check_directions(kind, MODES, tmp_path)


def test_a_customers_id_that_was_trusted_is_dropped_when_a_second_conversation_contradicts_it(
    tmp_path: Path,
) -> None:
    """The first run knows one conversation only, so it cannot see that the told id is wrong."""
    world = instagram(TWO[0], answers=[me({"user_id": "1"})])
    with serve_case(world, tmp_path) as run:
        run.extract()
        listed = {"id": "c1", "updated_time": run.api.world["conversations"][0]["updated_time"]}
        added = instagram(TWO[1])["conversations"][0] | listed
        for each in added["messages"]:
            each["created_time"] = listed["updated_time"]
            run.api.messages[each["id"]] = each
        run.api.conversations["c1"] = added
        run.extract("nightly")
        assert dict(run.sql("select message_id, direction from messages")) == UNKNOWN


def test_a_known_own_id_stays_although_one_conversation_lacks_it(tmp_path: Path) -> None:
    world = instagram(*TWO, pair("3", message("c", "3", "9")), answers=[TOLD])
    with serve_case(world, tmp_path) as run:
        run.extract()
        odd = {"participants": people("5", "6"), "messages": [message("d", "5", "6")]}
        run.api.conversations.clear()
        at = run.api.world["conversations"][0]["updated_time"]
        odd["messages"][0]["created_time"] = at
        run.api.conversations["c9"] = odd | {"id": "c9", "updated_time": at}
        run.extract("capture")
        right = BOTH_WAYS | {"c": IN, "d": None}
        assert dict(run.sql("select message_id, direction from messages")) == right
